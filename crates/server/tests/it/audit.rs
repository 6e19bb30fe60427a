//! The audit over HTTP: every use and change of a credential, before it happens; every
//! management action and execution; the export.

use serde_json::{Value, json};

use crate::service::{TestService, definition, json_response};

async fn with_key(service: &TestService, id: &str) {
    let mut document = definition(id, &json!({}));
    document["authType"] = json!("api_key");
    service.instance_of(&document, id).await;
    let path = format!("/api/v1/integration-instances/{id}/credentials");
    let stored = service.post(&path, &json!({"type": "api_key", "data": {"key": "k-1234567"}})).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

const OF_CREDENTIALS: &str = "action=credential.stored,credential.used,credential.refused,credential.deleted";

/// The audit of an instance's credential, the oldest first: action, outcome and reason.
async fn audit_of(service: &TestService, id: &str) -> Vec<(String, String, String)> {
    list(service, &format!("instance={id}&limit=200&{OF_CREDENTIALS}")).await
}

async fn list(service: &TestService, query: &str) -> Vec<(String, String, String)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let mut entries = service.items(&format!("/api/v1/audit?{query}")).await;
    entries.reverse();
    entries.iter().map(|entry| (text(entry, "action"), text(entry, "outcome"), text(entry, "reason"))).collect()
}

fn entry(action: &str, outcome: &str, reason: &str) -> (String, String, String) {
    (action.to_owned(), outcome.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn each_use_and_change_of_a_credential_is_in_the_audit() {
    let service = TestService::start().await;
    with_key(&service, "pets").await;
    let executed = service.execute("pets", "call", &json!({})).await;
    assert_eq!(executed.status, 200, "{}", executed.json());
    let previewed = service.post("/execute/pets/call?dryRun=true", &json!({"params": {}})).await;
    assert_eq!(previewed.status, 200, "{}", previewed.json());
    service.upstream.then(json_response(200, &json!({})));
    let tested = service.post("/api/v1/integration-instances/pets/test", &json!({})).await;
    assert_eq!(tested.status, 200, "{}", tested.json());
    service.upstream.then(json_response(401, &json!({})));
    let refused = service.execute("pets", "call", &json!({})).await;
    assert_eq!(refused.status, 502, "{}", refused.json());
    assert_eq!(service.delete("/api/v1/integration-instances/pets/credentials").await.status, 204);

    assert_eq!(
        audit_of(&service, "pets").await,
        [
            entry("credential.stored", "success", "stored by a caller"),
            entry("credential.used", "success", "execute call"),
            entry("credential.used", "success", "dry run call"),
            entry("credential.used", "success", "connection test"),
            // Its id is the one of the use, which was put down before the refusal came.
            entry("credential.used", "failure", "execute call"),
            entry("credential.refused", "success", "refused by the external system"),
            entry("credential.deleted", "success", "credential deleted"),
        ]
    );
    let used = &service.items("/api/v1/audit?action=credential.used&instance=pets").await[3];
    assert_eq!(used["principal"], "api-key:admin");
    assert_eq!(used["tenantId"], "default");
    assert_eq!(used["executionId"], executed.json()["meta"]["executionId"]);
    assert_eq!(used["correlationId"], executed.headers["x-correlation-id"].to_str().unwrap());
    assert_eq!(used["details"], json!({"attempts": 1}));
}

#[tokio::test]
async fn the_status_counts_uses() {
    let service = TestService::start().await;
    with_key(&service, "pets").await;
    for _ in 0..3 {
        service.execute("pets", "call", &json!({})).await;
    }
    let status = service.get("/api/v1/integration-instances/pets/credentials/status").await.json();
    assert_eq!(status["useCount"], 3, "{status}");
    assert!(status["lastUsedAt"].is_string());
    assert_eq!((&status["ageDays"], &status["rotationDue"]), (&json!(0), &json!(false)));
}

#[tokio::test]
async fn what_uses_no_credential_is_an_execution_in_the_audit() {
    let service = TestService::start().await;
    service.instance_of(&definition("open", &json!({})), "open").await;
    service.execute("open", "call", &json!({})).await;
    assert!(audit_of(&service, "open").await.is_empty());
    let refused = service.post("/execute/open/call", &json!({"params": 7})).await;
    assert_eq!(refused.status, 400);
    let of_open = "instance=open&action=method.executed";
    let executed = list(&service, of_open).await;
    assert_eq!(executed[0], entry("method.executed", "success", "execute call"));

    let mut cached = definition("cached", &json!({"cache": {"ttlMs": 60_000}, "idempotent": true}));
    cached["authType"] = json!("api_key");
    service.instance_of(&cached, "cached").await;
    let path = "/api/v1/integration-instances/cached/credentials";
    service.post(path, &json!({"type": "api_key", "data": {"key": "k-1234567"}})).await;
    for _ in 0..3 {
        service.execute("cached", "call", &json!({})).await;
    }
    let uses = service.items("/api/v1/audit?instance=cached&action=credential.used").await;
    assert_eq!(uses.len(), 1, "the cache answered the others");
    let cached = service.items("/api/v1/audit?instance=cached&action=method.executed").await;
    assert_eq!(cached.len(), 2);
    assert_eq!(cached[0]["details"], json!({"attempts": 0, "cached": true}));
    assert!(cached[0]["executionId"].is_string() && cached[0]["correlationId"].is_string());
}

#[tokio::test]
async fn every_management_action_is_in_the_audit() {
    let service = TestService::start().await;
    let document = definition("pets", &json!({}));
    service.instance_of(&document, "pets").await;
    let path = "/api/v1/integration-instances/pets";
    let mut next = document.clone();
    next["version"] = json!("1.1.0");
    let versions = "/api/v1/integration-definitions/pets/versions";
    assert_eq!(service.post(versions, &next).await.status, 201);
    assert_eq!(service.with_body("PUT", &format!("{versions}/1.1.0"), &next).await.status, 200);
    let mut draft = document.clone();
    draft["version"] = json!("1.2.0");
    assert_eq!(service.post(versions, &draft).await.status, 201);
    assert_eq!(service.delete(&format!("{versions}/1.2.0")).await.status, 204);
    assert_eq!(service.post(&format!("{versions}/1.1.0/publish"), &json!({})).await.status, 200);
    assert_eq!(service.post(&format!("{path}/upgrade"), &json!({})).await.status, 200);
    assert_eq!(service.post(&format!("{versions}/1.0.0/deprecate"), &json!({})).await.status, 200);
    assert_eq!(service.post(&format!("{versions}/1.0.0/archive"), &json!({})).await.status, 200);
    assert_eq!(service.with_body("PATCH", path, &json!({"name": "Other"})).await.status, 200);
    assert_eq!(service.post(&format!("{path}/disconnect"), &json!({})).await.status, 200);
    assert_eq!(service.post(&format!("{path}/connect"), &json!({})).await.status, 200);
    service.upstream.then(json_response(200, &json!({})));
    assert_eq!(service.post(&format!("{path}/test"), &json!({})).await.status, 200);
    assert_eq!(service.post("/integrations/pets/cache/clear", &json!({})).await.status, 200);
    assert_eq!(service.post("/integrations/pets/circuit-breaker/reset", &json!({})).await.status, 200);
    assert_eq!(service.delete(path).await.status, 204);

    let actions = async |query: &str| -> Vec<String> {
        list(&service, query).await.into_iter().map(|(action, _, _)| action).collect()
    };
    assert_eq!(
        actions("definition=pets&limit=200").await,
        [
            "definition.created",
            "definition.published",
            "definition.created",
            "definition.updated",
            "definition.created",
            "definition.deleted",
            "definition.published",
            "definition.deprecated",
            "definition.archived",
        ]
    );
    assert_eq!(
        actions("instance=pets&limit=200").await,
        [
            "instance.created",
            "instance.upgraded",
            "instance.updated",
            "instance.disconnected",
            "instance.status_changed",
            "instance.connected",
            "instance.status_changed",
            "instance.tested",
            "cache.cleared",
            "circuit_breaker.reset",
            "instance.deleted",
        ]
    );
    let moved = &service.items("/api/v1/audit?action=instance.status_changed").await[1];
    assert_eq!(moved["details"], json!({"from": "CONNECTED", "to": "DISCONNECTED"}));
    assert_eq!(moved["principal"], "api-key:admin");
    let upgraded = &service.items("/api/v1/audit?action=instance.upgraded").await[0];
    assert_eq!(upgraded["details"], json!({"from": "1.0.0", "to": "1.1.0"}));
    assert_eq!(upgraded["target"], json!({"type": "instance", "id": "pets"}));
    let archived = &service.items("/api/v1/audit?action=definition.archived").await[0];
    assert_eq!(archived["target"], json!({"type": "definition", "id": "pets"}));
    assert_eq!(archived["details"], json!({"version": "1.0.0"}));
    assert!(archived.get("tenantId").is_none() && archived["correlationId"].is_string());
    // Of definitions, which belong to nobody, those who act for one tenant see nothing.
    let of_tenant = service.send_as("default", "GET", "/api/v1/audit?limit=200", &json!({})).await.json();
    let entries = of_tenant["items"].as_array().unwrap();
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry["tenantId"] == "default"));
}

#[tokio::test]
async fn the_export_gives_each_entry_once_and_the_oldest_first() {
    let service = TestService::start().await;
    service.instance_of(&definition("open", &json!({})), "open").await;
    for _ in 0..3 {
        service.execute("open", "call", &json!({})).await;
    }
    let exported = service.get("/api/v1/audit/export").await;
    assert_eq!(exported.status, 200);
    assert_eq!(exported.headers["content-type"], "application/x-ndjson");
    let text = |answer: &crate::client::Answer| String::from_utf8(answer.body.to_vec()).unwrap();
    let lines = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let entries = lines(&text(&exported));
    let sequences: Vec<_> = entries.iter().map(|entry| entry["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, (1..=i64::try_from(entries.len()).unwrap()).collect::<Vec<_>>());
    let executed = service.get("/api/v1/audit/export?action=method.executed&principal=api-key:admin").await;
    assert_eq!(lines(&text(&executed)).len(), 3);
    assert!(service.get("/api/v1/audit/export?principal=nobody").await.body.is_empty());
    let of_others = service.send_as("other", "GET", "/api/v1/audit/export", &json!({})).await;
    assert!(of_others.body.is_empty());
    let refused = service.get("/api/v1/audit/export?from=yesterday").await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (400, &json!("/query/from")));
}

#[tokio::test]
async fn a_use_that_cannot_be_put_down_does_not_happen() {
    let service = TestService::start().await;
    with_key(&service, "pets").await;
    // A file where the folder of the spool would be.
    std::fs::write(service.folder.path().join("data/audit"), b"").unwrap();
    let refused = service.execute("pets", "call", &json!({})).await;
    let body = refused.json();
    assert_eq!((refused.status, &body["error"]["code"]), (500, &json!("INTERNAL")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("audit"), "{body}");
    assert!(service.upstream.received().is_empty(), "nothing was sent");
    std::fs::remove_file(service.folder.path().join("data/audit")).unwrap();
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
}

#[tokio::test]
async fn the_list_is_filtered_and_goes_on_by_cursor() {
    let service = TestService::start().await;
    with_key(&service, "pets").await;
    for _ in 0..4 {
        service.execute("pets", "call", &json!({})).await;
    }
    let first = service.get(&format!("/api/v1/audit?limit=3&{OF_CREDENTIALS}")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = service.get(&format!("/api/v1/audit?limit=3&cursor={cursor}&{OF_CREDENTIALS}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert!(rest.get("nextCursor").is_none());

    assert_eq!(service.items("/api/v1/audit?action=credential.stored").await.len(), 1);
    assert_eq!(service.items("/api/v1/audit?principal=nobody").await.len(), 0);
    assert_eq!(service.items("/api/v1/audit?tenant=other").await.len(), 0);
    assert_eq!(service.items("/api/v1/audit?until=2020-01-01T00:00:00Z").await.len(), 0);
    let of_others = service.send_as("other", "GET", "/api/v1/audit", &json!({})).await;
    assert_eq!(of_others.json()["items"], json!([]));
    for (query, pointer) in [
        ("action=credential.read", "/query/action"),
        ("instance=%20", "/query/instance"),
        ("limit=201", "/query/limit"),
        ("cursor=x", "/query/cursor"),
        ("from=yesterday", "/query/from"),
    ] {
        let refused = service.get(&format!("/api/v1/audit?{query}")).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (400, &json!(pointer)));
    }
    let other_tenant = service.send_as("acme", "GET", "/api/v1/audit?tenant=other", &json!({})).await;
    assert_eq!(other_tenant.status, 400);
}
