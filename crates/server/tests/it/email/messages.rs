//! What methods send, as another program reads it.

use serde_json::{Value, json};

use super::{Rig, basic, connect, definition, note, send};
use crate::databases::{data, error, unique};
use crate::service::TestService;

#[tokio::test]
async fn a_message_arrives_as_it_was_meant() {
    let operation = json!({
        "from": "Müller & Co <shop@bücher.example>",
        "to": {"param": "to"},
        "cc": "Copy <copy@x.example>",
        "bcc": ["hidden@x.example", "{b}"],
        "replyTo": "replies@x.example",
        "subject": "Your order {a} ✓",
        "text": "Dear {a},\n.\n..dots\n\nFrom here\r\nso far\r{{end}}",
        "html": "<p title=\"{a}\">Dear {a} <img src=\"cid:logo@x\"></p>",
        "headers": {"X-Order": "{a}", "List-Unsubscribe": "<https://x.example/u>", "X-Absent": "{cc}"},
        "attachments": {"param": "files"},
    });
    let Some(rig) = Rig::start(&json!({}), &[send("order", &operation)]).await else { return };
    let params = json!({
        "to": ["ann@x.example", {"address": "bob@x.example", "name": "Bob \"the\" Great, Jr."}, "ann@x.example"],
        "a": "<b>7 & 8</b>",
        "files": [
            {"filename": "Rechnung Ä.pdf", "contentType": "application/pdf", "content": "AAECAw=="},
            {"filename": "logo.png", "contentType": "image/png", "content": "iVBORw==", "contentId": "logo@x"},
        ],
    });
    let sent = data(&rig.call("order", &params).await);
    assert_eq!(sent["accepted"], json!(["ann@x.example", "bob@x.example", "copy@x.example", "hidden@x.example"]));
    assert_eq!((&sent["rejected"], &sent["response"]["code"]), (&json!([]), &json!(250)));
    let mail = rig.server.last();
    assert_eq!(mail["envelope"]["from"], "shop@bücher.example");
    assert_eq!(mail["envelope"]["to"], sent["accepted"]);
    assert_eq!(mail["messageId"], sent["messageId"]);
    assert_eq!(mail["subject"], "Your order <b>7 & 8</b> ✓");
    assert_eq!(mail["from"][0]["name"], "Müller & Co");
    assert_eq!(mail["to"][1], json!({"address": "bob@x.example", "name": "Bob \"the\" Great, Jr."}));
    assert_eq!((&mail["cc"][0]["name"], &mail["replyTo"][0]["address"]), (&json!("Copy"), &json!("replies@x.example")));
    let text = mail["text"].as_str().unwrap();
    assert_eq!(text.trim_end(), "Dear <b>7 & 8</b>,\n.\n..dots\n\nFrom here\nso far\n{end}");
    let html = mail["html"].as_str().unwrap();
    assert!(html.contains("title=\"&lt;b&gt;7 &amp; 8&lt;/b&gt;\"") && html.contains("Dear &lt;b&gt;7"), "{html}");
    let raw = mail["raw"].as_str().unwrap();
    assert!(!raw.contains("hidden@") && !raw.contains("X-Absent"), "{raw}");
    assert!(raw.is_ascii() && raw.contains("shop@xn--bcher-kva.example"), "{raw}");
    let headers = mail["headers"].to_string();
    assert!(headers.contains("X-Order: <b>7 & 8</b>") && headers.contains("List-Unsubscribe: <https://x.example/u>"));
    let file = |name: &str| {
        let files = mail["attachments"].as_array().unwrap();
        files.iter().find(|file| file["filename"] == name).cloned().unwrap_or_else(|| panic!("{name}: {files:?}"))
    };
    assert_eq!(
        (&file("Rechnung Ä.pdf")["content"], &file("Rechnung Ä.pdf")["contentType"]),
        (&json!("AAECAw=="), &json!("application/pdf"))
    );
    assert_eq!((&file("logo.png")["related"], &file("logo.png")["cid"]), (&json!(true), &json!("logo@x")));
}

#[tokio::test]
async fn parts_that_have_no_param_are_left_out() {
    let operation = json!({
        "from": "{b}", "to": "{to}", "cc": {"param": "cc"}, "subject": "Hi", "text": "{a}", "html": "{files}",
        "attachments": [{"filename": "a-{to}.txt", "content": "{cc}", "contentType": "text/plain"}],
    });
    let Some(rig) = Rig::start(&json!({}), &[send("some", &operation)]).await else { return };
    let refused = error(&rig.call("some", &json!({"to": "a@x.example", "a": "x"})).await, "VALIDATION_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("sender"), "{refused}");
    super::configure(&rig.service, rig.server.address, &json!({"from": "Config <config@here.example>"})).await;
    data(&rig.call("some", &json!({"to": "a@x.example", "a": "only text"})).await);
    let mail = rig.server.last();
    assert_eq!(
        (&mail["text"], &mail["html"], &mail["attachments"]),
        (&json!("only text\n"), &json!(false), &json!([]))
    );
    assert_eq!(
        (&mail["from"][0]["name"], &mail["envelope"]["from"]),
        (&json!("Config"), &json!("config@here.example"))
    );
    data(&rig.call("some", &json!({"to": "a@x.example", "files": "<b>whole</b>", "b": "b@x.example"})).await);
    let mail = rig.server.last();
    assert_eq!((&mail["html"], &mail["envelope"]["from"]), (&json!("<b>whole</b>\n"), &json!("b@x.example")));
    error(&rig.call("some", &json!({"to": "a@x.example"})).await, "VALIDATION_ERROR");
    error(&rig.call("some", &json!({"a": "x", "b": "b@x.example"})).await, "VALIDATION_ERROR");
}

#[tokio::test]
async fn no_param_adds_a_header_or_a_recipient() {
    let operation = json!({
        "from": "{b}", "to": {"param": "to"}, "subject": "{a}", "text": "Hello", "headers": {"X-Tag": "tag {a}"},
        "attachments": {"param": "files"},
    });
    let Some(rig) = Rig::start(&json!({}), &[send("mail", &operation)]).await else { return };
    let file = |name: &str, kind: &str, id: &str| json!([{"filename": name, "contentType": kind, "contentId": id, "content": ""}]);
    for change in [
        json!({"a": "x\r\nBcc: evil@x.example"}),
        json!({"a": "x\nBcc: evil@x.example"}),
        json!({"a": "x\rBcc: evil@x.example"}),
        json!({"a": "x\u{2028}y"}),
        json!({"a": "x".repeat(999)}),
        json!({"b": "b@x.example\r\nRCPT TO:<evil@x.example>"}),
        json!({"b": "b@x.example> SIZE=1"}),
        json!({"b": "x@x.example, evil@x.example"}),
        json!({"to": "a@x.example, evil@x.example"}),
        json!({"to": "a@x.example\nCc: evil@x.example"}),
        json!({"to": [{"address": "a@x.example", "name": "A\r\nBcc: evil@x.example"}]}),
        json!({"to": [{"address": "Evil <a@x.example>", "name": "A"}]}),
        json!({"to": "no address"}),
        json!({"to": 7}),
        json!({"to": []}),
        json!({"to": (0..101).map(|n| format!("a{n}@x.example")).collect::<Vec<_>>()}),
        json!({"files": file("a\r\nX: y", "text/plain", "x")}),
        json!({"files": file("../a", "text/plain", "x")}),
        json!({"files": file("a", "text/plain\r\nX: y", "x")}),
        json!({"files": file("a", "multipart/mixed; boundary=x", "x")}),
        json!({"files": file("a", "text/plain", "x>\r\nX: y")}),
        json!({"files": [{"filename": "a", "content": "no base64"}]}),
        json!({"files": vec![json!({"filename": "a", "content": ""}); 21]}),
        json!({"files": "x"}),
    ] {
        let mut params = json!({"to": "a@x.example", "a": "x", "b": "b@x.example"});
        params.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        error(&rig.call("mail", &params).await, "VALIDATION_ERROR");
    }
    assert!(rig.server.mail().is_empty());
    // What only looks like it stays what it is.
    data(&rig.call("mail", &json!({"to": "a@x.example", "a": "x: =?utf-8?q?=0ABcc:?=", "b": "b@x.example"})).await);
    let mail = rig.server.last();
    assert_eq!(mail["envelope"]["to"], json!(["a@x.example"]));
    assert!(!mail["headers"].to_string().contains("\"Bcc:"), "{mail}");
}

#[tokio::test]
async fn the_same_key_gives_the_same_message_id_to_each_attempt() {
    let mut method = note();
    method["idempotent"] = json!(true);
    method["retryConfig"] = json!({"maxRetries": 2, "initialDelayMs": 1});
    let Some(rig) = Rig::start(&json!({}), &[method]).await else { return };
    let body = json!({"params": {"to": "a@x.example", "a": "x"}}).to_string();
    let mut ids = Vec::new();
    for key in ["one", "two", "one"] {
        let request = crate::service::json_request("POST", "/execute/mail/note").header("idempotency-key", key);
        ids.push(data(&rig.service.send(request, &body).await)["messageId"].clone());
    }
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(rig.server.mail().len(), 2, "a known key gives its answer again");
    let refused = error(&rig.call("note", &json!({"to": "full@x.example", "a": "x"})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["attempts"], 3, "{refused}");
}

#[tokio::test]
async fn a_dry_run_shows_the_message_and_no_secret() {
    let service = TestService::start().await;
    let config = json!({"host": "mail.example", "from": "sender@here.example"});
    let operation = json!({"to": {"param": "to"}, "subject": "{a}", "text": "{b}", "attachments": {"param": "files"}});
    let credential = basic("sender", "a-very-secret-password");
    connect(&service, &definition("basic", &[send("mail", &operation)]), &config, Some(&credential)).await;
    let params = json!({
        "to": {"address": "a@x.example", "name": "Ann"}, "a": "a-very-secret-password", "b": "Hello",
        "files": [{"filename": "a.txt", "content": "AAEC"}],
    });
    let shown = data(&service.post("/execute/mail/mail?dryRun=true", &json!({"params": params})).await);
    assert_eq!(
        (&shown["host"], &shown["port"], &shown["subject"]),
        (&json!("mail.example"), &json!(587), &json!("[redacted]"))
    );
    assert_eq!((&shown["to"], &shown["textBytes"]), (&json!(["Ann <a@x.example>"]), &json!(5)));
    assert_eq!(shown["attachments"], json!([{"filename": "a.txt", "bytes": 3, "contentId": null}]));
    assert!(shown["messageBytes"].as_u64().unwrap() > 300);
}

#[tokio::test]
async fn operations_that_cannot_work_are_refused_when_published() {
    let service = TestService::start().await;
    let with = |changes: Value| {
        let mut operation = json!({"to": "a@x.example", "subject": "x", "text": "x"});
        operation.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        operation
    };
    for (operation, pointer) in [
        (json!({"to": "a@x.example", "subject": "x"}), ""),
        (json!({"to": "a@x.example", "text": "x"}), ""),
        (json!({"subject": "x", "text": "x"}), ""),
        (with(json!({"subject": "{unknown}"})), "/subject"),
        (with(json!({"text": "{"})), "/text"),
        (with(json!({"to": ["a@x.example", "{unknown}"]})), "/to/1"),
        (with(json!({"cc": {"param": "unknown"}})), "/cc"),
        (with(json!({"headers": {"Bcc": "x"}})), "/headers/Bcc"),
        (with(json!({"headers": {"content-type": "x"}})), "/headers/content-type"),
        (with(json!({"headers": {"X Y": "x"}})), "/headers"),
        (with(json!({"attachments": [{"filename": "{unknown}", "content": "{a}"}]})), "/attachments/0/filename"),
        (with(json!({"maxMessageBytes": 1})), "/maxMessageBytes"),
        (with(json!({"priority": 1})), ""),
    ] {
        let refused = service
            .post("/api/v1/integration-definitions?publish=true", &definition("none", &[send("m", &operation)]))
            .await;
        assert_eq!(refused.status, 400, "{operation}: {}", refused.json());
        let pointers = crate::client::pointers(&refused);
        assert!(pointers.contains(&format!("/methods/0/operation{pointer}")), "{operation}: {pointers:?}");
    }
    for (config, pointer) in [
        (json!({}), ""),
        (json!({"host": "a b"}), "/host"),
        (json!({"host": "h", "tls": {"mode": "opportunistic"}}), "/tls/mode"),
        (json!({"host": "h", "tls": {"caCertificate": "x"}}), "/tls/caCertificate"),
        (json!({"host": "h", "from": "no address"}), "/from"),
        (json!({"host": "h", "heloName": "a b"}), "/heloName"),
    ] {
        let id = unique("bad");
        let mut definition = definition("none", &[note()]);
        definition["id"] = json!(id);
        assert_eq!(service.post("/api/v1/integration-definitions?publish=true", &definition).await.status, 201);
        let instance = json!({"id": id, "integrationDefinitionId": id, "name": "x", "config": config});
        let created = service.post("/api/v1/integration-instances", &instance).await.json();
        assert_eq!(created["status"], "PENDING_CONFIGURATION", "{pointer} {created}");
        assert!(created["error"].to_string().contains(pointer), "{pointer} {created}");
    }
}

#[tokio::test]
async fn the_example_works() {
    let Some(server) = super::Server::start(&json!({"login": true})) else { return };
    let service = TestService::start().await;
    let request = http::Request::post("/api/v1/integration-definitions?publish=true")
        .header("host", "test")
        .header("content-type", "application/yaml");
    let created = service.send(request, include_str!("../../../../../examples/email.yaml")).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let mut config = super::config(server.address);
    config["from"] = json!("Shop <shop@here.example>");
    let instance = json!({"id": "mail", "integrationDefinitionId": "shop-email", "name": "mail", "config": config});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    super::store_credential(&service, &basic("sender", "right-secret")).await;
    data(&service.execute("mail", "sendReceipt", &json!({"to": "ann@x.example", "order": "7", "pdf": "AAEC"})).await);
    let mail = server.last();
    assert_eq!(
        (&mail["subject"], &mail["attachments"][0]["filename"]),
        (&json!("Receipt for order 7"), &json!("receipt-7.pdf"))
    );
    let note = json!({"to": [{"address": "bob@x.example", "name": "Bob"}], "subject": "Hi", "text": "Hello"});
    data(&service.execute("mail", "sendNote", &note).await);
    assert_eq!(server.last()["to"][0]["name"], "Bob");
}

#[tokio::test]
async fn the_adapter_describes_itself() {
    let service = TestService::start().await;
    let adapters = service.get("/api/v1/adapters").await.json();
    let adapter = adapters["items"].as_array().unwrap().iter().find(|adapter| adapter["type"] == "email").unwrap();
    assert_eq!(adapter["authTypes"], json!(["basic", "oauth2", "jwt", "none"]));
    assert!(adapter["operationSchema"]["properties"]["attachments"].is_object(), "{adapter}");
    assert!(adapter["configSchema"]["properties"]["heloName"].is_object(), "{adapter}");
}
