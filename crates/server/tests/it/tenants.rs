//! The walls between tenants.

use serde_json::{Value, json};

use crate::client::{Answer, assert_problem};
use crate::instances::{path, with_pets};

const INSTANCES: &str = "/api/v1/integration-instances";

#[tokio::test]
async fn another_tenant_s_instance_is_nowhere() {
    let service = with_pets("none").await;
    let config = json!({"baseUrl": service.upstream.url()});
    let new = json!({"id": "mine", "integrationDefinitionId": "pets", "name": "x", "config": config});
    let created = service.send_as("ann", "POST", INSTANCES, &new).await;
    assert_eq!((created.status, &created.json()["tenantId"]), (201, &json!("ann")));
    let executed = service.send_as("ann", "POST", "/execute/mine/call", &json!({"params": {}})).await;
    assert_eq!(executed.status, 200, "{}", executed.json());
    let execution = executed.json()["meta"]["executionId"].as_str().unwrap().to_owned();

    let credential = json!({"type": "none", "data": {}});
    for (verb, path, code) in [
        ("GET", path("mine"), "INSTANCE_NOT_FOUND"),
        ("PUT", path("mine"), "INSTANCE_NOT_FOUND"),
        ("PATCH", path("mine"), "INSTANCE_NOT_FOUND"),
        ("DELETE", path("mine"), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/connect", path("mine")), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/disconnect", path("mine")), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/test", path("mine")), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/upgrade", path("mine")), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/oauth/authorize", path("mine")), "INSTANCE_NOT_FOUND"),
        ("POST", format!("{}/oauth/device", path("mine")), "INSTANCE_NOT_FOUND"),
        ("GET", format!("{}/executions", path("mine")), "INSTANCE_NOT_FOUND"),
        ("GET", format!("{}/credentials/status", path("mine")), "INSTANCE_NOT_FOUND"),
        ("DELETE", format!("{}/credentials", path("mine")), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine".to_owned(), "INSTANCE_NOT_FOUND"),
        ("PUT", "/integrations/mine".to_owned(), "INSTANCE_NOT_FOUND"),
        ("DELETE", "/integrations/mine".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine/health".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine/status".to_owned(), "INSTANCE_NOT_FOUND"),
        ("POST", "/integrations/mine/test".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine/rate-limit".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine/cache".to_owned(), "INSTANCE_NOT_FOUND"),
        ("POST", "/integrations/mine/cache/clear".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", "/integrations/mine/circuit-breaker".to_owned(), "INSTANCE_NOT_FOUND"),
        ("POST", "/integrations/mine/circuit-breaker/reset".to_owned(), "INSTANCE_NOT_FOUND"),
        ("GET", format!("/api/v1/executions/{execution}"), "EXECUTION_NOT_FOUND"),
        ("POST", format!("/api/v1/executions/{execution}/cancel"), "EXECUTION_NOT_FOUND"),
    ] {
        let there = service.send_as("bob", verb, &path, &json!({})).await;
        assert_problem(&there, 404, code);
        let nowhere = service.send_as("bob", verb, &path.replace("mine", "none"), &json!({})).await;
        let same = |answer: &Answer| answer.json()["detail"].as_str().unwrap().replace("mine", "none");
        assert_eq!(same(&there), same(&nowhere), "{verb} {path}: the answer tells nothing");
    }
    let stored = service.send_as("bob", "POST", &format!("{}/credentials", path("mine")), &credential).await;
    assert_problem(&stored, 404, "INSTANCE_NOT_FOUND");
    for (path, code) in [
        ("/execute/mine/call".to_owned(), "INSTANCE_NOT_FOUND"),
        (format!("/api/v1/executions/{execution}/replay"), "EXECUTION_NOT_FOUND"),
    ] {
        let executed = service.send_as("bob", "POST", &path, &json!({"params": {}})).await;
        assert_eq!((executed.status, &executed.json()["error"]["code"]), (404, &json!(code)), "{}", executed.json());
    }
    for list in [INSTANCES, "/integrations", "/api/v1/executions", "/api/v1/events", "/api/v1/executions?instance=mine"]
    {
        assert_eq!(service.send_as("bob", "GET", list, &Value::Null).await.json()["items"], json!([]), "{list}");
        assert_ne!(service.send_as("ann", "GET", list, &Value::Null).await.json()["items"], json!([]), "{list}");
    }
    assert_eq!(service.get(&path("mine")).await.status, 200, "the admin key acts for all tenants");
    let mut elsewhere = new.clone();
    (elsewhere["id"], elsewhere["tenantId"]) = (json!("other"), json!("ann"));
    assert_problem(&service.send_as("bob", "POST", INSTANCES, &elsewhere).await, 403, "FORBIDDEN");
    assert_problem(&service.send_as("a b", "GET", INSTANCES, &Value::Null).await, 400, "VALIDATION_ERROR");
}
