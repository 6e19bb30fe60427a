//! What goes wrong: rejections, refused credentials, broken servers, time.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Rig, Server, basic, config, configure, connect, definition, note, send, store_credential, test};
use crate::databases::{data, error, proxy};
use crate::pki::Authority;
use crate::service::TestService;

fn to(recipients: &[&str]) -> Value {
    json!({"to": recipients, "a": "x"})
}

/// A method that fails often, and whose breaker stays closed.
fn patient(mut method: Value) -> Value {
    method["circuitBreaker"] = json!({"failureThreshold": 1000, "windowMs": 1000, "openMs": 1000});
    method
}

#[tokio::test]
async fn what_becomes_of_each_recipient_is_told() {
    let Some(rig) = Rig::start(&json!({}), &[patient(note())]).await else { return };
    let mixed = to(&["a@x.example", "gone@x.example", "full@x.example", "b@x.example"]);
    let sent = data(&rig.call("note", &mixed).await);
    assert_eq!(sent["accepted"], json!(["a@x.example", "b@x.example"]));
    assert_eq!(
        sent["rejected"],
        json!([
            {"address": "gone@x.example", "code": 550, "enhancedStatus": "5.1.1", "message": "No such user", "retriable": false},
            {"address": "full@x.example", "code": 452, "enhancedStatus": "4.2.2", "message": "Mailbox full", "retriable": true},
        ])
    );
    for (recipients, retryable) in [
        (&["gone@x.example"][..], false),
        (&["full@x.example", "full2@x.example"], true),
        (&["full@x.example", "gone@x.example"], false),
    ] {
        let refused = error(&rig.call("note", &to(recipients)).await, "UPSTREAM_ERROR");
        assert_eq!(refused["retryable"], retryable, "{refused}");
        assert_eq!(refused["details"]["rejected"].as_array().unwrap().len(), recipients.len());
        assert_eq!(refused["details"]["outcome"], Value::Null);
    }
    // The connection is used again after all that.
    data(&rig.call("note", &to(&["a@x.example"])).await);
    assert_eq!(rig.server.last()["connections"], 1);
    assert_eq!(rig.server.mail().len(), 2);
}

#[tokio::test]
async fn a_message_that_the_server_refuses_is_sent_to_nobody() {
    let nobody = json!({"from": "nobody@here.example", "to": {"param": "to"}, "subject": "x", "text": "x"});
    let Some(rig) = Rig::start(&json!({"size": 20_000}), &[patient(note()), patient(send("nobody", &nobody))]).await
    else {
        return;
    };
    for (subject, status, retryable) in [("spam", 554, false), ("busy", 451, true)] {
        let refused = error(&rig.call("note", &json!({"to": "a@x.example", "a": subject})).await, "UPSTREAM_ERROR");
        assert_eq!(
            (&refused["details"]["smtpStatus"], &refused["retryable"]),
            (&json!(status), &json!(retryable)),
            "{refused}"
        );
        assert_eq!(refused["details"]["outcome"], Value::Null, "{refused}");
    }
    let refused = error(&rig.call("nobody", &to(&["a@x.example"])).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["enhancedStatus"], "5.7.1", "{refused}");
    assert!(rig.server.mail().is_empty());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_sent() {
    let file = json!({"to": {"param": "to"}, "from": "a@x.example", "subject": "x", "text": "x", "attachments": {"param": "files"}});
    let mut small = file.clone();
    small["maxMessageBytes"] = json!(2_000);
    let Some(rig) = Rig::start(&json!({"size": 20_000}), &[send("file", &file), send("small", &small)]).await else {
        return;
    };
    let params =
        |bytes: usize| json!({"to": "a@x.example", "files": [{"filename": "a", "content": "AAAA".repeat(bytes / 3)}]});
    for (name, fits, too_large) in [("small", 300, 3_000), ("file", 3_000, 30_000)] {
        data(&rig.call(name, &params(fits)).await);
        error(&rig.call(name, &params(too_large)).await, "PAYLOAD_TOO_LARGE");
    }
    assert_eq!(rig.server.mail().len(), 2);
}

#[tokio::test]
async fn a_refused_credential_is_told_as_such() {
    for mechanisms in [json!(["PLAIN"]), json!(["LOGIN"])] {
        let Some(server) = Server::start(&json!({"login": true, "mechanisms": mechanisms})) else { return };
        let service = TestService::start().await;
        let wrong = basic("sender", "wrong-secret");
        connect(&service, &definition("basic", &[patient(note())]), &config(server.address), Some(&wrong)).await;
        assert_eq!(test(&service).await["healthy"], false);
        store_credential(&service, &wrong).await;
        let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "AUTH_ERROR");
        assert_eq!(
            (&refused["details"]["smtpStatus"], &refused["retryable"]),
            (&json!(535), &json!(false)),
            "{refused}"
        );
        assert!(!refused.to_string().contains("wrong-secret"), "{refused}");
        let instance = service.get("/api/v1/integration-instances/mail").await.json();
        assert_eq!(instance["status"], "AUTH_ERROR");
        store_credential(&service, &basic("busy", "right-secret")).await;
        let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "UPSTREAM_ERROR");
        assert_eq!(
            (&refused["details"]["smtpStatus"], &refused["retryable"]),
            (&json!(454), &json!(true)),
            "{refused}"
        );
        store_credential(&service, &basic("sender", "right-secret")).await;
        let tested = test(&service).await;
        assert_eq!(tested["healthy"], true, "{tested}");
        data(&service.execute("mail", "note", &to(&["a@x.example"])).await);
        assert_eq!(server.last()["user"], mechanisms[0]);
    }
    // A server that asks for a credential, and an instance that has none.
    let Some(rig) = Rig::start(&json!({"login": true}), &[note()]).await else { return };
    let refused = error(&rig.call("note", &to(&["a@x.example"])).await, "AUTH_ERROR");
    assert_eq!(refused["details"]["smtpStatus"], 530, "{refused}");
}

#[tokio::test]
async fn a_token_logs_in() {
    let Some(server) = Server::start(&json!({"login": true, "mechanisms": ["XOAUTH2"]})) else { return };
    let service = TestService::start().await;
    let token = |text: &str| json!({"type": "jwt", "data": {"token": text}});
    let mut with_user = config(server.address);
    with_user["user"] = json!("sender");
    connect(&service, &definition("jwt", &[patient(note())]), &with_user, Some(&token("wrong-token"))).await;
    let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "AUTH_ERROR");
    assert!(!refused.to_string().contains("wrong-token"), "{refused}");
    store_credential(&service, &token("right-secret")).await;
    data(&service.execute("mail", "note", &to(&["a@x.example"])).await);
    assert_eq!(server.last()["user"], "XOAUTH2");
    configure(&service, server.address, &json!({"user": null})).await;
    let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "INSTANCE_NOT_READY");
    assert!(refused["message"].as_str().unwrap().contains("/user"), "{refused}");
}

#[tokio::test]
async fn no_mail_goes_without_the_tls_that_is_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let identity = authority.issue("127.0.0.1");
    let settings = |secure: bool, starttls: bool| json!({"secure": secure, "starttls": starttls, "login": true, "key": identity.key, "certificate": identity.certificate});
    let Some(with_starttls) = Server::start(&settings(false, true)) else { return };
    let Some(implicit) = Server::start(&settings(true, false)) else { return };
    let Some(plain) = Server::start(&settings(false, false)) else { return };
    let service = TestService::start().await;
    let definition = definition("basic", &[patient(note())]);
    connect(&service, &definition, &config(plain.address), Some(&basic("sender", "right-secret"))).await;
    for (server, mode, authority, works) in [
        (&with_starttls, "starttls", &authority, true),
        (&with_starttls, "starttls", &stranger, false),
        (&implicit, "implicit", &authority, true),
        (&implicit, "implicit", &stranger, false),
        (&plain, "starttls", &authority, false),
        (&plain, "implicit", &authority, false),
        (&plain, "disable", &authority, true),
    ] {
        configure(&service, server.address, &json!({"tls": {"mode": mode, "caCertificate": authority.pem}})).await;
        let answer = service.execute("mail", "note", &to(&["a@x.example"])).await.json();
        assert_eq!(answer["status"] == "SUCCESS", works, "{mode} {answer}");
        if works {
            assert_eq!(server.last()["secure"], mode != "disable");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_before_tls_does_not_count_within_it() {
    let service = TestService::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut caller, _) = listener.accept().await.unwrap();
        let all = b"220 a\r\n250-a\r\n250 STARTTLS\r\n220 go\r\n250 injected\r\n";
        caller.write_all(all).await.unwrap();
        let _ = caller.read_to_end(&mut Vec::new()).await;
    });
    let nowhere = ([127, 0, 0, 1], 1).into();
    connect(&service, &definition("none", &[patient(note())]), &config(nowhere), None).await;
    configure(&service, address, &json!({"tls": {"mode": "starttls"}})).await;
    let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("between STARTTLS and TLS"), "{refused}");
}

#[tokio::test]
async fn a_connection_that_is_lost_midway_tells_what_may_have_happened() {
    let Some(rig) = Rig::start(&json!({}), &[patient(note())]).await else { return };
    for (trigger, is_unknown) in [
        (&b"EHLO"[..], false),
        (b"MAIL FROM", false),
        (b"RCPT TO", false),
        (b"DATA\r\n", false),
        (b"Hello\r\n.\r\n", true),
    ] {
        let address = proxy::cut_at(rig.server.address, trigger).await;
        configure(&rig.service, address, &json!({})).await;
        let refused = error(&rig.call("note", &to(&["a@x.example"])).await, "UPSTREAM_ERROR");
        assert_eq!(refused["details"]["outcome"] == "unknown", is_unknown, "{trigger:?} {refused}");
        assert_eq!(refused["retryable"], !is_unknown, "{refused}");
    }
    assert!(rig.server.mail().is_empty());
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_an_error_and_no_more() {
    let service = TestService::start().await;
    let mut method = patient(note());
    method["timeoutMs"] = json!(500);
    let nowhere = ([127, 0, 0, 1], 1).into();
    connect(&service, &definition("none", &[method]), &config(nowhere), None).await;
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"-ERR unknown command\r\n".to_vec(),
        b"220-".repeat(100_000),
        b"220-more\r\n".repeat(10_000),
        vec![b'2'; 1 << 20],
        vec![0xff; 64],
        b"220 ok\r\n221-x\r\n250 y\r\n".to_vec(),
    ] {
        configure(&service, proxy::greet(answer).await, &json!({})).await;
        let refused = service.execute("mail", "note", &to(&["a@x.example"])).await.json();
        let code = refused["error"]["code"].as_str().unwrap_or_default();
        assert!(["UPSTREAM_ERROR", "TIMEOUT"].contains(&code), "{refused}");
        assert_eq!(refused["error"]["details"]["outcome"], Value::Null, "{refused}");
    }
    configure(&service, nowhere, &json!({})).await;
    let refused = error(&service.execute("mail", "note", &to(&["a@x.example"])).await, "UPSTREAM_ERROR");
    assert_eq!(refused["retryable"], true);
}
