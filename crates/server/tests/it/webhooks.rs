//! Webhooks through the front door: verified, taken once, told on as events.

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Builder;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::client::{Answer, assert_problem, pointers, post, send};
use crate::service::{TestService, json_request};

const SECRET: &str = "a-secret-of-the-hook";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tag(secret: &[u8], signed: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), signed).as_ref().to_vec()
}

/// A published webhook definition and an instance `hook` of it with these secrets.
async fn hook(service: &TestService, config: &Value, secrets: &Value) {
    let definition = json!({
        "id": "hooks", "name": "Hooks", "version": "1.0.0", "type": "webhook", "authType": "custom",
        "defaultConfig": config, "methods": []
    });
    let created = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "hook", "integrationDefinitionId": "hooks", "name": "Hook"});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.json()["status"], "PENDING_AUTHENTICATION", "{}", created.json());
    store_secrets(service, secrets).await;
}

async fn store_secrets(service: &TestService, secrets: &Value) {
    let credential = json!({"type": "custom", "data": {"secrets": secrets}});
    let stored = service.post("/api/v1/integration-instances/hook/credentials", &credential).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

/// Sends as a stranger does: without a key.
async fn deliver(service: &TestService, request: Builder, body: &str) -> Answer {
    send(service.address(), request.header("content-type", "application/json"), body).await
}

fn github(id: &str, secret: &str, body: &str) -> Builder {
    post("/webhooks/hook")
        .header("x-hub-signature-256", format!("sha256={}", hex(&tag(secret.as_bytes(), body.as_bytes()))))
        .header("x-github-delivery", id)
        .header("x-github-event", "ping")
}

async fn events(service: &TestService) -> Vec<Value> {
    service.items("/api/v1/events?type=integration.webhook.received").await
}

fn now(service: &TestService) -> i64 {
    service.app.engine().store().clock().now().as_secs()
}

async fn metric(service: &TestService, name: &str) -> f64 {
    let answer = service.get("/status/metrics").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0.0)
}

#[tokio::test]
async fn a_verified_delivery_is_an_event_and_its_repetition_is_none() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github", "headers": ["X-Custom"]}), &json!([SECRET])).await;
    let body = r#"{"zen": "Keep it logically awesome.", "hook_id": 9007199254740993}"#;
    let request = || github("d-1", SECRET, body).header("x-custom", "c").header("authorization", "Bearer no");
    let taken = deliver(&service, request(), body).await;
    assert_eq!((taken.status, taken.json()), (200, json!({"status": "RECEIVED", "duplicate": false})));
    let again = deliver(&service, request(), body).await;
    assert_eq!((again.status, again.json()), (200, json!({"status": "RECEIVED", "duplicate": true})));

    let events = events(&service).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(event["metadata"]["correlationId"], taken.header("x-correlation-id"));
    assert_eq!(
        event["data"],
        json!({
            "integrationInstanceId": "hook", "integrationDefinitionId": "hooks", "scheme": "github",
            "deliveryId": "d-1", "body": {"zen": "Keep it logically awesome.", "hook_id": 9_007_199_254_740_993_i64},
            "headers": {"content-type": "application/json", "x-github-event": "ping", "x-custom": "c"},
        })
    );
    let uses = service.items("/api/v1/audit?instance=hook&action=credential.used").await;
    let shown: Vec<_> = uses.iter().map(|entry| (&entry["reason"], &entry["outcome"], &entry["principal"])).collect();
    let used = (&json!("webhook delivery"), &json!("success"), &json!("webhook"));
    assert_eq!(shown, [used, used]);
    let status = service.get("/api/v1/integration-instances/hook/credentials/status").await.json();
    assert_eq!((&status["useCount"], &status["secrets"]), (&json!(2), &json!([{}])), "{status}");
    assert!(service.get("/api/v1/integration-instances/hook").await.json()["lastUsedAt"].is_string());
}

#[tokio::test]
async fn who_does_not_hold_the_secret_learns_nothing() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    service.instance_of(&crate::service::definition("pets", &json!({})), "pets").await;
    let body = "{}";
    let signature = || format!("sha256={}", hex(&tag(SECRET.as_bytes(), body.as_bytes())));
    let to = |path: &str| post(path).header("x-hub-signature-256", signature()).header("x-github-delivery", "1");
    let mut answers = Vec::new();
    for (what, request) in [
        ("a wrong secret", github("1", "another", body)),
        ("no signature", post("/webhooks/hook")),
        ("an unknown webhook", to("/webhooks/nothing")),
        ("no webhook at all", to("/webhooks/pets")),
        ("no id", to("/webhooks/-%2F..")),
        ("a key in the place of a signature", post("/webhooks/hook").header("x-api-key", crate::service::KEY)),
    ] {
        let answer = deliver(&service, request, body).await;
        assert_problem(&answer, 401, "WEBHOOK_NOT_VERIFIED");
        answers.push((what, answer.json()["detail"].clone(), answer.header("www-authenticate").to_owned()));
    }
    let changed = deliver(&service, github("1", SECRET, body), "{ }").await;
    assert_problem(&changed, 401, "WEBHOOK_NOT_VERIFIED");
    for path in ["/api/v1/integration-instances/hook/disconnect", "/api/v1/integration-instances/hook/connect"] {
        // Whether it takes deliveries is told to those who hold the secret.
        let answer = deliver(&service, github("1", "another", body), body).await;
        answers.push((path, answer.json()["detail"].clone(), answer.header("www-authenticate").to_owned()));
        assert_eq!(service.post(path, &json!({})).await.status, 200);
    }
    let told: std::collections::BTreeSet<_> =
        answers.iter().map(|(_, detail, header)| (detail.to_string(), header)).collect();
    assert_eq!(told.len(), 1, "{answers:?}");
    assert!(events(&service).await.is_empty());
    let failed = service.items("/api/v1/audit?instance=hook&action=credential.used").await;
    assert!(failed.iter().all(|entry| entry["outcome"] == "failure"), "{failed:?}");
    assert_eq!(failed.len(), 4, "what has no signature uses no secret");
}

#[tokio::test]
async fn who_holds_the_secret_is_told_why_a_delivery_is_not_taken() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github", "maxBodyBytes": 40}), &json!([SECRET])).await;
    service.post("/api/v1/integration-instances/hook/disconnect", &json!({})).await;
    assert_problem(&deliver(&service, github("1", SECRET, "{}"), "{}").await, 409, "INSTANCE_NOT_READY");
    service.post("/api/v1/integration-instances/hook/connect", &json!({})).await;
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.json()["duplicate"], false);
    let large = format!("{:50}", "{}");
    assert_problem(&deliver(&service, github("2", SECRET, &large), &large).await, 413, "PAYLOAD_TOO_LARGE");

    let deleted = service.delete("/api/v1/integration-instances/hook/credentials").await;
    assert_eq!(deleted.status, 204);
    assert_problem(&deliver(&service, github("3", SECRET, "{}"), "{}").await, 401, "WEBHOOK_NOT_VERIFIED");
    // One that was taken before it was torn down is known when it is back.
    store_secrets(&service, &json!([SECRET])).await;
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.json()["duplicate"], true);
}

#[tokio::test]
async fn verified_deliveries_have_the_limit_of_their_instance() {
    let limits = "instances:\n  hook: {requestsPerMinute: 60, burstLimit: 1}\n";
    let service = TestService::start_configured(&[("rate_limits.yaml", limits)], &[]).await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    for _ in 0..5 {
        // Strangers take nothing of it.
        assert_eq!(deliver(&service, github("1", "another", "{}"), "{}").await.status, 401);
    }
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.status, 200);
    let refused = deliver(&service, github("2", SECRET, "{}"), "{}").await;
    assert_problem(&refused, 429, "RATE_LIMIT_EXCEEDED");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(events(&service).await.len(), 1);
}

#[tokio::test]
async fn one_delivery_that_comes_many_times_at_once_is_taken_once() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    let sent = (0..20).map(|_| deliver(&service, github("same", SECRET, "{}"), "{}"));
    let answers = futures_util::future::join_all(sent).await;
    let fresh = answers.iter().filter(|answer| answer.json()["duplicate"] == false).count();
    assert_eq!((fresh, events(&service).await.len()), (1, 1));
}

#[tokio::test]
async fn a_delivery_is_known_after_a_restart() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.json()["duplicate"], false);
    let service = service.restart(&[], &[]).await.unwrap();
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.json()["duplicate"], true);
    assert_eq!(deliver(&service, github("2", SECRET, "{}"), "{}").await.json()["duplicate"], false);
}

#[tokio::test]
async fn content_tells_deliveries_apart_where_their_ids_are_not_signed() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github", "deduplicateBy": "content"}), &json!([SECRET])).await;
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.json()["duplicate"], false);
    assert_eq!(deliver(&service, github("2", SECRET, "{}"), "{}").await.json()["duplicate"], true);
    assert_eq!(deliver(&service, github("1", SECRET, "[]"), "[]").await.json()["duplicate"], false);
}

#[tokio::test]
async fn standard_webhooks_are_taken_within_their_tolerance() {
    let service = TestService::start().await;
    let secret = format!("whsec_{}", STANDARD.encode(SECRET));
    hook(&service, &json!({"scheme": "standard"}), &json!([secret])).await;
    let body = r#"{"type":"invoice.paid"}"#;
    let request = |at: i64| {
        let signature = STANDARD.encode(tag(SECRET.as_bytes(), format!("msg_1.{at}.{body}").as_bytes()));
        post("/webhooks/hook")
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", at.to_string())
            .header("webhook-signature", format!("v1,AAAA v1,{signature}"))
    };
    let now = now(&service);
    for stale in [now - 400, now + 400] {
        assert_problem(&deliver(&service, request(stale), body).await, 401, "WEBHOOK_NOT_VERIFIED");
    }
    assert_eq!(deliver(&service, request(now - 200), body).await.json()["duplicate"], false);
    // A retry carries a time of its own.
    assert_eq!(deliver(&service, request(now), body).await.json()["duplicate"], true);
    let event = &events(&service).await[0]["data"];
    assert_eq!((&event["deliveryId"], &event["scheme"]), (&json!("msg_1"), &json!("standard")));
    assert!(event["sentAt"].as_str().unwrap().ends_with(".000Z"));
}

#[tokio::test]
async fn stripe_s_retries_are_known_by_the_event_s_id() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "stripe"}), &json!([SECRET])).await;
    let body = r#"{"id":"evt_1","object":"event"}"#;
    let request = |at: i64| {
        let signature = hex(&tag(SECRET.as_bytes(), format!("{at}.{body}").as_bytes()));
        post("/webhooks/hook").header("stripe-signature", format!("t={at},v1={signature}"))
    };
    let now = now(&service);
    assert_eq!(deliver(&service, request(now - 60), body).await.json()["duplicate"], false);
    assert_eq!(deliver(&service, request(now), body).await.json()["duplicate"], true);
    assert_eq!(events(&service).await[0]["data"]["deliveryId"], "evt_1");
}

#[tokio::test]
async fn slack_gets_its_challenge_back_and_only_with_a_signature() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "slack"}), &json!([SECRET])).await;
    let now = now(&service);
    let request = |secret: &str, body: &str| {
        let signature = hex(&tag(secret.as_bytes(), format!("v0:{now}:{body}").as_bytes()));
        post("/webhooks/hook")
            .header("x-slack-request-timestamp", now.to_string())
            .header("x-slack-signature", format!("v0={signature}"))
    };
    let body = r#"{"type":"url_verification","token":"t","challenge":"3eZbrw1aB"}"#;
    let answer = deliver(&service, request(SECRET, body), body).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"3eZbrw1aB"[..]));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    let forged = deliver(&service, request("another", body), body).await;
    assert_problem(&forged, 401, "WEBHOOK_NOT_VERIFIED");
    assert!(events(&service).await.is_empty());

    // A command is a form, which stays as it is.
    let form = "token=t&command=%2Fweather";
    let command = request(SECRET, form).header("content-type", "application/x-www-form-urlencoded");
    let answer = send(service.address(), command, form).await;
    assert_eq!(answer.json()["status"], "RECEIVED");
    assert_eq!(events(&service).await[0]["data"]["bodyBase64"], STANDARD.encode(form));
}

#[tokio::test]
async fn a_body_that_others_could_not_read_back_is_kept_in_base64() {
    let service = TestService::start().await;
    let config = json!({"scheme": "hmac", "hmac": {"signatureHeader": "X-Sig", "challengePointer": "/handshake/echo"}});
    hook(&service, &config, &json!([SECRET])).await;
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let bodies = [&*deep, r#"{"a":1,"a":2}"#, r#""\ud800""#, "1e999", "", "no json", "\u{0}"];
    for body in bodies {
        let request = post("/webhooks/hook").header("x-sig", hex(&tag(SECRET.as_bytes(), body.as_bytes())));
        assert_eq!(deliver(&service, request, body).await.json()["duplicate"], false, "{body:?}");
    }
    let events = events(&service).await;
    let kept: Vec<Value> = events.iter().rev().map(|event| event["data"]["bodyBase64"].clone()).collect();
    assert_eq!(kept, bodies.map(|body| json!(STANDARD.encode(body))));
    let body = r#"{"handshake":{"echo":"who's there"}}"#;
    let request = post("/webhooks/hook").header("x-sig", hex(&tag(SECRET.as_bytes(), body.as_bytes())));
    assert_eq!(&deliver(&service, request, body).await.body[..], b"who's there");
}

#[tokio::test]
async fn a_large_delivery_arrives_whole() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!(["one", "two", SECRET])).await;
    let body = json!({"text": "x".repeat(1_000_000)}).to_string();
    assert_eq!(deliver(&service, github("1", SECRET, &body), &body).await.status, 200);
    assert_eq!(events(&service).await[0]["data"]["body"]["text"].as_str().unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn a_page_of_large_events_is_short_and_leads_on() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    let body = json!("x".repeat(1_000_000)).to_string();
    for id in 0..14 {
        let id = id.to_string();
        assert_eq!(deliver(&service, github(&id, SECRET, &body), &body).await.status, 200);
    }
    let path = "/api/v1/events?type=integration.webhook.received&limit=200";
    let first = service.get(path).await.json();
    let read = first["items"].as_array().unwrap().len();
    assert!((8..14).contains(&read), "{read}");
    let next = first["nextCursor"].as_str().unwrap();
    let rest = service.get(&format!("{path}&cursor={next}")).await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["nextCursor"]), (14 - read, &Value::Null));
    let ids = |page: &Value| {
        let items = page["items"].as_array().unwrap().clone();
        items.into_iter().map(|event| event["data"]["deliveryId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected: Vec<String> = (0..14).rev().map(|id: i32| id.to_string()).collect();
    assert_eq!([ids(&first), ids(&rest)].concat(), expected);
}

fn rotate(secrets: &Value, overlap: &Value) -> Value {
    json!({"data": {"secrets": secrets}, "overlapSeconds": overlap})
}

#[tokio::test]
async fn a_secret_stays_in_force_beside_the_one_that_replaces_it() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!(["old"])).await;
    let path = "/api/v1/integration-instances/hook/credentials";
    let rotated = service.post(&format!("{path}/rotate"), &rotate(&json!(["new"]), &json!(3_600))).await;
    assert_eq!(rotated.status, 200, "{}", rotated.json());
    assert_eq!(rotated.json()["test"]["healthy"], true, "{}", rotated.json());
    for (id, secret) in [("1", "old"), ("2", "new")] {
        assert_eq!(deliver(&service, github(id, secret, "{}"), "{}").await.status, 200, "{secret}");
    }
    let status = service.get(&format!("{path}/status")).await;
    let secrets = status.json()["secrets"].clone();
    assert_eq!(secrets[0], json!({}));
    let until = secrets[1]["expiresAt"].as_str().unwrap();
    assert!(until > &*service.app.engine().store().clock().now().to_string(), "{until}");
    assert!(!String::from_utf8_lossy(&status.body).contains("old"));

    // Without an overlap, the others end at once.
    let rotated = service.post(&format!("{path}/rotate"), &json!({"data": {"secrets": ["newest"]}})).await;
    assert_eq!(rotated.status, 200, "{}", rotated.json());
    for (id, secret, status) in [("3", "old", 401), ("4", "new", 401), ("5", "newest", 200)] {
        assert_eq!(deliver(&service, github(id, secret, "{}"), "{}").await.status, status, "{secret}");
    }
}

#[tokio::test]
async fn a_secret_ends_when_it_is_told() {
    let service = TestService::start().await;
    let ended = json!({"secret": "ended", "expiresAt": "2020-01-01T00:00:00Z"});
    hook(&service, &json!({"scheme": "github"}), &json!([ended, SECRET])).await;
    assert_eq!(deliver(&service, github("1", "ended", "{}"), "{}").await.status, 401);
    assert_eq!(deliver(&service, github("2", SECRET, "{}"), "{}").await.status, 200);
    let path = "/api/v1/integration-instances/hook/credentials/status";
    assert_eq!(service.get(path).await.json()["secrets"], json!([{}]));
    store_secrets(&service, &json!([ended])).await;
    assert_eq!(deliver(&service, github("3", "ended", "{}"), "{}").await.status, 401);
    assert_eq!(service.get(path).await.json()["status"], "expired");
}

#[tokio::test]
async fn credentials_and_configs_that_do_not_fit_are_refused_with_their_place() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "standard"}), &json!(["c2VjcmV0"])).await;
    let path = "/api/v1/integration-instances/hook/credentials";
    let nine = vec!["c2VjcmV0"; 9];
    for (data, pointer) in [
        (json!({"secrets": []}), "/data/secrets"),
        (json!({"secrets": nine}), "/data/secrets"),
        (json!({"secrets": ["c2VjcmV0", ""]}), "/data/secrets/1"),
        (json!({"secrets": [{"secret": "c2VjcmV0", "expiresAt": "soon"}]}), "/data/secrets/0"),
        (json!({"secrets": [{"secret": "c2VjcmV0", "until": 1}]}), "/data/secrets/0"),
        (json!({"secrets": ["no base64!"]}), "/data/secrets/0"),
        (json!({"secrets": ["c2VjcmV0"], "other": "x"}), "/data/other"),
        (json!({"secret": "c2VjcmV0"}), "/data/secrets"),
    ] {
        let refused = service.post(path, &json!({"type": "custom", "data": data})).await;
        assert_eq!((refused.status, pointers(&refused)), (400, vec![pointer.to_owned()]), "{data}");
        assert!(!String::from_utf8_lossy(&refused.body).contains("no base64!"));
    }
    for (body, pointer) in [
        (rotate(&json!(["bmV3"]), &json!(0)), "/overlapSeconds"),
        (rotate(&json!(["bmV3"]), &json!(2_592_001)), "/overlapSeconds"),
        (rotate(&json!(["YQ==", "Yg==", "Yw==", "ZA==", "ZQ==", "Zg==", "Zw==", "aA=="]), &json!(60)), "/data/secrets"),
    ] {
        let refused = service.post(&format!("{path}/rotate"), &body).await;
        assert_eq!((refused.status, pointers(&refused)), (400, vec![pointer.to_owned()]), "{body}");
    }
    let changed =
        service.with_body("PATCH", "/api/v1/integration-instances/hook", &json!({"config": {"scheme": "x"}})).await;
    assert_eq!(changed.json()["status"], "CONFIG_ERROR", "{}", changed.json());
    assert_eq!(deliver(&service, github("1", "x", "{}"), "{}").await.status, 401);

    // Secrets that verify are of no use where requests are sent.
    let mut pets = crate::service::definition("pets", &json!({}));
    pets["authType"] = json!("custom");
    pets["customAuth"] = json!({"headers": {"X-Key": "key"}});
    service.instance_of(&pets, "pets").await;
    let credential = json!({"type": "custom", "data": {"secrets": ["a"]}});
    let refused = service.post("/api/v1/integration-instances/pets/credentials", &credential).await;
    assert_eq!((refused.status, pointers(&refused)), (400, vec!["/data/secrets".to_owned()]));
    let credential = json!({"type": "custom", "data": {"key": "a"}});
    service.post("/api/v1/integration-instances/pets/credentials", &credential).await;
    let overlap = json!({"data": {"key": "b"}, "overlapSeconds": 60});
    let refused = service.post("/api/v1/integration-instances/pets/credentials/rotate", &overlap).await;
    assert_eq!((refused.status, pointers(&refused)), (400, vec!["/overlapSeconds".to_owned()]));
}

#[tokio::test]
async fn a_webhook_is_tested_and_executes_nothing() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!(["MzI=", "not for the standard"])).await;
    let tested = service.post("/api/v1/integration-instances/hook/test", &json!({})).await.json();
    assert_eq!(tested["healthy"], true, "{tested}");
    let changed = json!({"config": {"scheme": "standard"}});
    service.with_body("PATCH", "/api/v1/integration-instances/hook", &changed).await;
    let tested = service.post("/api/v1/integration-instances/hook/test", &json!({})).await.json();
    assert_eq!((&tested["healthy"], &tested["instanceStatus"]), (&json!(false), &json!("AUTH_ERROR")), "{tested}");
    assert!(tested["message"].as_str().unwrap().contains("/data/secrets/1"), "{tested}");
    let executed = service.execute("hook", "anything", &json!({})).await;
    assert_eq!((executed.status, &executed.json()["error"]["code"]), (404, &json!("METHOD_NOT_FOUND")));

    let mut definition = json!({
        "id": "bad", "name": "Bad", "version": "1.0.0", "type": "webhook", "authType": "none",
        "methods": [{"name": "a", "operation": {"verb": "GET", "path": "/"}}]
    });
    let report = service.post("/api/v1/integration-definitions/validate", &definition).await.json();
    let places: Vec<&Value> = report["problems"].as_array().unwrap().iter().map(|one| &one["pointer"]).collect();
    assert!(places.contains(&&json!("/methods")) && places.contains(&&json!("/authType")), "{report}");
    definition["methods"] = json!([]);
    definition["authType"] = json!("custom");
    let report = service.post("/api/v1/integration-definitions/validate", &definition).await.json();
    assert_eq!(report["valid"], true, "{report}");
}

#[tokio::test]
async fn refusals_are_counted_all_and_audited_within_a_bound() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    let refused = r#"integration_webhooks_refused_total{integration="hook",reason="signature"}"#;
    let unknown = r#"integration_webhooks_refused_total{integration="",reason="unknown"}"#;
    let (before, unknown_before) = (metric(&service, refused).await, metric(&service, unknown).await);
    for _ in 0..200 {
        assert_eq!(deliver(&service, github("1", "another", "{}"), "{}").await.status, 401);
    }
    deliver(&service, post("/webhooks/someone-elses-id"), "{}").await;
    assert_eq!(metric(&service, refused).await - before, 200.0);
    assert_eq!(metric(&service, unknown).await - unknown_before, 1.0);
    let uses = service.items("/api/v1/audit?instance=hook&action=credential.used&limit=200").await;
    // Sixty at once, and some that came back meanwhile.
    assert!((60..180).contains(&uses.len()), "{}", uses.len());
    // The sender is not kept out by strangers.
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.status, 200);
}

/// A delivery whose commit is held up is asked for again, and counted once.
#[tokio::test]
async fn a_sender_does_not_wait_for_a_database_that_does_not_answer() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    let file = service.folder.path().join("data/integration.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    let held_up = deliver(&service, github("1", SECRET, "{}"), "{}").await;
    assert_problem(&held_up, 503, "OVERLOADED");
    assert_eq!(held_up.header("retry-after"), "1");
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    assert_eq!(deliver(&service, github("1", SECRET, "{}"), "{}").await.status, 200);
    assert_eq!(events(&service).await.len(), 1);
}

#[tokio::test]
async fn the_example_is_fit_to_be_published() {
    let service = TestService::start().await;
    for text in
        [include_str!("../../../../catalogue/github-webhook.yaml"), include_str!("../../../../examples/webhook.yaml")]
    {
        let request = post("/api/v1/integration-definitions?publish=true").header("content-type", "application/yaml");
        let created = service.send(request, text).await;
        assert_eq!(created.status, 201, "{}", created.json());
        let id = created.json()["id"].clone();
        let instance = json!({"id": id, "integrationDefinitionId": id, "name": "Example"});
        let created = service.post("/api/v1/integration-instances", &instance).await;
        assert_eq!(created.json()["status"], "PENDING_AUTHENTICATION", "{}", created.json());
    }
}

#[tokio::test]
async fn tenants_do_not_see_each_other_s_deliveries() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    deliver(&service, github("1", SECRET, "{}").header("x-tenant-id", "acme"), "{}").await;
    let of = |tenant: &'static str| {
        service.send_as(tenant, "GET", "/api/v1/events?type=integration.webhook.received", &Value::Null)
    };
    assert_eq!(of("acme").await.json()["items"], json!([]));
    assert_eq!(of("default").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn other_verbs_are_refused_and_tell_nothing() {
    let service = TestService::start().await;
    hook(&service, &json!({"scheme": "github"}), &json!([SECRET])).await;
    for path in ["/webhooks/hook", "/webhooks/nothing"] {
        let answer = send(service.address(), crate::client::get(path), "").await;
        assert_problem(&answer, 405, "METHOD_NOT_ALLOWED");
        assert_eq!(send(service.address(), json_request("PUT", path), "{}").await.status, 405);
    }
}
