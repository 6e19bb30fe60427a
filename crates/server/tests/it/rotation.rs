//! Rotation: a new secret takes the old one's place only where the external system takes it.

use serde_json::{Value, json};

use crate::service::{TestService, definition, json_response};

/// An instance whose upstream takes the keys that `accepted` names.
async fn with_key(service: &TestService, id: &str, accepted: &'static [&'static str]) {
    let mut document = definition(id, &json!({}));
    document["authType"] = json!("api_key");
    document["testMethod"] = json!("call");
    service.instance_of(&document, id).await;
    service.upstream.always(move |request| {
        let key = request.headers.get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
        let taken = key.as_deref().is_some_and(|key| accepted.contains(&key));
        json_response(if taken { 200 } else { 401 }, &json!({}))
    });
    let stored = service.post(&format!("{}/credentials", instance(id)), &credential("first-key")).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

fn instance(id: &str) -> String {
    format!("/api/v1/integration-instances/{id}")
}

fn credential(key: &str) -> Value {
    json!({"type": "api_key", "data": {"key": key}})
}

fn last_key(service: &TestService) -> String {
    service.upstream.received().pop().unwrap().headers["x-api-key"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_new_credential_that_is_taken_replaces_the_old_one() {
    let service = TestService::start().await;
    with_key(&service, "pets", &["first-key", "second-key"]).await;
    service.execute("pets", "call", &json!({})).await;
    let rotated = service.post(&format!("{}/credentials/rotate", instance("pets")), &credential("second-key")).await;
    assert_eq!(rotated.status, 200, "{}", rotated.json());
    let report = rotated.json();
    assert_eq!((&report["stored"], &report["test"]["healthy"]), (&json!(true), &json!(true)), "{report}");
    assert_eq!(report["test"]["instanceStatus"], "CONNECTED");

    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
    assert_eq!(last_key(&service), "second-key");
    let status = service.get(&format!("{}/credentials/status", instance("pets"))).await.json();
    assert_eq!(status["useCount"], 1, "the count is the new credential's: {status}");
    let audit = service.items("/api/v1/audit?action=credential.rotated").await;
    assert_eq!((audit.len(), &audit[0]["outcome"]), (1, &json!("success")));
}

#[tokio::test]
async fn a_new_credential_that_is_refused_leaves_the_old_one_in_force() {
    let service = TestService::start().await;
    with_key(&service, "pets", &["first-key"]).await;
    let refused = service.post(&format!("{}/credentials/rotate", instance("pets")), &credential("wrong-key")).await;
    let body = refused.json();
    assert_eq!((refused.status, &body["code"]), (502, &json!("AUTH_ERROR")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("the one before stays in force"), "{body}");
    assert_eq!(service.get(&instance("pets")).await.json()["status"], "CONNECTED");
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
    assert_eq!(last_key(&service), "first-key");
    let audit = service.items("/api/v1/audit?action=credential.rotated").await;
    assert_eq!((audit.len(), &audit[0]["outcome"]), (1, &json!("failure")));
}

#[tokio::test]
async fn a_rotation_mends_an_instance_whose_credential_was_refused() {
    let service = TestService::start().await;
    with_key(&service, "pets", &["second-key"]).await;
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 502);
    assert_eq!(service.get(&instance("pets")).await.json()["status"], "AUTH_ERROR");
    let rotated = service.post(&format!("{}/credentials/rotate", instance("pets")), &credential("second-key")).await;
    assert_eq!(rotated.json()["test"]["instanceStatus"], "CONNECTED", "{}", rotated.json());
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
}

#[tokio::test]
async fn without_a_body_the_stored_credential_is_read_and_tested_anew() {
    let service = TestService::start().await;
    with_key(&service, "pets", &["first-key"]).await;
    let path = format!("{}/credentials/rotate", instance("pets"));
    let bare = || http::Request::post(path.as_str()).header("host", "test");
    let reread = service.send(bare(), "").await;
    assert_eq!((reread.status, &reread.json()["stored"]), (200, &json!(false)), "{}", reread.json());
    assert_eq!(reread.json()["test"]["healthy"], true);
    let null = service.post(&path, &Value::Null).await;
    assert_eq!((null.status, &null.json()["stored"]), (200, &json!(false)), "{}", null.json());

    let malformed = service.send(bare().header("content-type", "application/json"), "[1]").await;
    assert_eq!(malformed.status, 400);
    let untyped = service.send(bare(), &credential("x").to_string()).await;
    assert_eq!(untyped.status, 415);
    let of_another_type = service.post(&path, &json!({"type": "basic", "data": {}})).await;
    assert_eq!((of_another_type.status, &of_another_type.json()["errors"][0]["pointer"]), (400, &json!("/type")));
    service.delete(&format!("{}/credentials", instance("pets"))).await;
    assert_eq!(service.send(bare(), "").await.status, 404);
    assert_eq!(service.post(&path, &credential("first-key")).await.status, 404);
}

fn rotated_event(id: &str, data: &Value) -> Value {
    json!({
        "type": "system.credential.rotated", "id": id, "timestamp": "2026-01-31T10:30:00Z", "data": data,
        "metadata": {"correlationId": "from-others", "source": "credential-service"},
    })
}

#[tokio::test]
async fn an_event_of_a_rotation_has_its_instances_tested_once() {
    let service = TestService::start().await;
    with_key(&service, "pets", &["first-key"]).await;
    let id = "0198c0de-0000-7000-8000-00000000aaaa";
    let event = rotated_event(id, &json!({"integrationInstanceIds": ["pets", "unknown"]}));
    let taken = service.post("/api/v1/events", &event).await;
    let body = taken.json();
    assert_eq!((taken.status, &body["duplicate"]), (200, &json!(false)), "{body}");
    assert_eq!(body["instances"][0]["test"]["healthy"], true, "{body}");
    assert!(body["instances"][1]["error"].as_str().unwrap().contains("unknown"), "{body}");
    let calls = service.upstream.received().len();
    let again = service.post("/api/v1/events", &event).await.json();
    assert_eq!((&again["duplicate"], &again["instances"]), (&json!(true), &json!([])));
    assert_eq!(service.upstream.received().len(), calls, "the second one does nothing");
    let audit = service.items("/api/v1/audit?action=credential.rotated").await;
    assert_eq!(audit.len(), 1);
    assert_eq!(
        (&audit[0]["correlationId"], &audit[0]["reason"]),
        (&json!("from-others"), &json!("rotated, says credential-service"))
    );

    // Another tenant's caller does not reach the instance.
    let other = rotated_event("0198c0de-0000-7000-8000-00000000bbbb", &json!({"integrationInstanceId": "pets"}));
    let body = service.send_as("acme", "POST", "/api/v1/events", &other).await.json();
    assert!(body["instances"][0]["error"].as_str().unwrap().contains("no instance"), "{body}");
}

#[tokio::test]
async fn events_that_are_not_taken_are_refused_with_those_that_are() {
    let service = TestService::start().await;
    let mut event = rotated_event("0198c0de-0000-7000-8000-00000000aaaa", &json!({"integrationInstanceId": "pets"}));
    event["type"] = json!("agent.executed");
    let refused = service.post("/api/v1/events", &event).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("EVENT_NOT_TAKEN")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("system.credential.rotated"));
    let id = "0198c0de-0000-7000-8000-00000000cccc";
    for (data, expected) in [
        (json!({}), "expected integrationInstanceId"),
        (json!({"integrationInstanceId": ""}), "no instance's id"),
        (
            json!({"integrationInstanceIds": vec!["a"; 3_000].iter().enumerate().map(|(n, a)| format!("{a}{n}")).collect::<Vec<_>>()}),
            "expected integrationInstanceId",
        ),
        (json!([]), ""),
    ] {
        let refused = service.post("/api/v1/events", &rotated_event(id, &data)).await;
        let detail = refused.json()["errors"][0].to_string();
        assert_eq!(refused.status, 400, "{detail}");
        assert!(detail.contains("/data") && detail.contains(expected), "{detail}");
    }
    let mut without_source = rotated_event(id, &json!({"integrationInstanceId": "pets"}));
    without_source["metadata"]["source"] = json!("");
    let refused = service.post("/api/v1/events", &without_source).await;
    assert_eq!(refused.json()["errors"][0]["pointer"], "/metadata/source");
}

#[tokio::test]
async fn ages_of_credentials_are_in_the_metrics() {
    let service = TestService::start().await;
    for name in ["integration_credentials_rotation_due 0", "integration_credentials_oldest_age_seconds 0"] {
        // They are counted in the background, the first time at the start.
        for attempt in 0.. {
            let answer = service.get("/status/metrics").await;
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            if text.contains(name) {
                break;
            }
            assert!(attempt < 1_000, "{name} in {text}");
        }
    }
}
