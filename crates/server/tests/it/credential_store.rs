//! The external credential store: what goes there, and what happens while it fails. Its
//! other tests are those of credentials, which run on it as on the database.

use std::path::Path;

use serde_json::{Value, json};

use crate::counterpart::{CredentialStore, Fault, STORE_TOKEN};
use crate::keys::{command, run};
use crate::service::{Keeper, TestService, borrowed, definition, json_response};

const MARK: &str = "S3cretMark-of-the-store";

async fn add_definition(service: &TestService) {
    service
        .upstream
        .always(|received| json_response(200, &json!({"key": received.headers["x-key"].to_str().unwrap()})));
    let mut definition = definition("keyed", &json!({}));
    definition["authType"] = json!("api_key");
    let created = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

async fn add_instance(service: &TestService, id: &str) {
    let config = json!({"baseUrl": service.upstream.url()});
    let instance = json!({"id": id, "integrationDefinitionId": "keyed", "name": id, "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

async fn store(service: &TestService, id: &str, key: &str) {
    let data = json!({"key": key, "headerOrParam": "X-Key", "inHeader": true});
    let path = format!("/api/v1/integration-instances/{id}/credentials");
    let stored = service.post(&path, &json!({"type": "api_key", "data": data})).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

/// Executes; gives the key that reached the upstream, or the error.
async fn key_of(service: &TestService, id: &str) -> Result<String, Value> {
    let answer = service.execute(id, "call", &json!({})).await;
    let body = answer.json();
    match body["data"]["key"].as_str() {
        Some(key) => Ok(key.to_owned()),
        None => Err(json!({"status": answer.status, "error": body["error"]})),
    }
}

/// Has the instance read from the database at its next call.
async fn touch(service: &TestService, id: &str) {
    let path = format!("/api/v1/integration-instances/{id}");
    let touched = service.with_body("PATCH", &path, &json!({"labels": {"touched": "again"}})).await;
    assert_eq!(touched.status, 200, "{}", touched.json());
}

fn store_of(service: &TestService) -> &CredentialStore {
    service.credential_store.as_ref().unwrap()
}

async fn restart(service: TestService, further: &[(&str, &str)]) -> Result<TestService, String> {
    let environment = store_of(&service).environment();
    let mut environment = borrowed(&environment);
    environment.extend(further);
    service.restart(&[], &environment).await
}

fn move_credentials(folder: &Path, environment: &[(String, String)]) -> String {
    run(command(folder, &["credentials", "move"]).envs(environment.iter().cloned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_lies_sealed_in_the_store_and_goes_with_its_row() {
    let service = TestService::start_on(Keeper::External).await;
    add_definition(&service).await;
    for id in ["a", "b"] {
        add_instance(&service, id).await;
        store(&service, id, MARK).await;
    }
    let external = store_of(&service);
    assert_eq!(external.count(), 2);
    let sent = external.take_seen();
    let posted: Vec<_> = sent.iter().filter(|seen| seen.verb == "POST").collect();
    for seen in &posted {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!((&body["type"], &body["tenantId"]), (&json!("api_key"), &json!("default")));
        assert_eq!(seen.headers["idempotency-key"].to_str().unwrap(), body["id"].as_str().unwrap());
    }
    assert_eq!(posted.len(), 2);
    assert!(!crate::credentials::holds(external.kept_text().as_bytes(), MARK));
    assert!(!crate::credentials::holds(&service.stored_bytes(), STORE_TOKEN));
    assert_eq!(key_of(&service, "a").await.unwrap(), MARK);

    // What no row refers to does not stay behind.
    store(&service, "a", "another").await;
    assert_eq!(external.count(), 2);
    assert_eq!(key_of(&service, "a").await.unwrap(), "another");
    let deleted = service.delete("/api/v1/integration-instances/a/credentials").await;
    assert_eq!((deleted.status, external.count()), (204, 1));
    let deleted = service.delete("/api/v1/integration-instances/b").await;
    assert_eq!((deleted.status, external.count()), (204, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_asks_the_store_once_and_a_restart_once_more() {
    let service = TestService::start_on(Keeper::External).await;
    add_definition(&service).await;
    add_instance(&service, "a").await;
    store(&service, "a", "key").await;
    let service = restart(service, &[]).await.unwrap();
    store_of(&service).take_seen();
    for _ in 0..3 {
        assert_eq!(key_of(&service, "a").await.unwrap(), "key");
        touch(&service, "a").await;
    }
    let seen = store_of(&service).take_seen();
    assert_eq!(seen.iter().map(|seen| seen.verb.as_str()).collect::<Vec<_>>(), ["GET"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_calls_go_on_with_what_they_had() {
    let service = TestService::start_on(Keeper::External).await;
    add_definition(&service).await;
    for id in ["had", "new"] {
        add_instance(&service, id).await;
        store(&service, id, id).await;
    }
    // Nothing stays fresh: each use asks, and falls back.
    let files = [("integration_service.yaml", "vault: { fallback: { freshMs: 0 } }")];
    let environment = store_of(&service).environment();
    let service = service.restart(&files, &borrowed(&environment)).await.unwrap();
    assert_eq!(key_of(&service, "had").await.unwrap(), "had");
    for fault in [Fault::Unavailable, Fault::Garbage, Fault::WrongContent, Fault::Hangs] {
        store_of(&service).set_fault(Some(fault));
        for _ in 0..3 {
            assert_eq!(key_of(&service, "had").await.unwrap(), "had", "{fault:?}");
        }
        touch(&service, "had").await;
        assert_eq!(key_of(&service, "had").await.unwrap(), "had", "{fault:?}, read anew");
    }
    let health = service.get("/status/health").await;
    assert_eq!(health.status, 200);
    assert!(
        health.json()["checks"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "credential_store", "status": "degraded"}))
    );
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("integration_credential_store_fallbacks_total"), "{metrics}");

    // What this process never had cannot be had; the caller learns that it may come back.
    store_of(&service).set_fault(Some(Fault::WrongContent));
    let error = key_of(&service, "new").await.unwrap_err();
    assert_eq!((&error["status"], &error["error"]["code"]), (&json!(503), &json!("CREDENTIAL_UNAVAILABLE")), "{error}");
    assert_eq!(
        (&error["error"]["retryable"], &error["error"]["details"]["stage"]),
        (&json!(true), &json!("credential"))
    );
    store_of(&service).set_fault(None);
    assert_eq!(key_of(&service, "new").await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_does_not_take_stays_in_the_database_and_moves_later() {
    let service = TestService::start_on(Keeper::External).await;
    add_definition(&service).await;
    add_instance(&service, "a").await;
    store(&service, "a", "first").await;
    for fault in [Fault::Garbage, Fault::Unavailable] {
        let key = format!("under {fault:?}");
        store_of(&service).set_fault(Some(fault));
        store(&service, "a", &key).await;
        assert_eq!(key_of(&service, "a").await.unwrap(), key);
        store_of(&service).set_fault(None);
        let environment = store_of(&service).environment();
        let said = move_credentials(service.folder.path(), &environment);
        assert!(said.contains("1 credentials were moved into the credential store"), "{said}");
        touch(&service, "a").await;
        assert_eq!(key_of(&service, "a").await.unwrap(), key);
    }
    let service = restart(service, &[]).await.unwrap();
    assert_eq!(key_of(&service, "a").await.unwrap(), "under Unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_move_into_the_store_and_back_beside_a_running_service() {
    let (service, store_server) = (TestService::start().await, CredentialStore::start());
    add_definition(&service).await;
    for id in ["a", "b", "c"] {
        add_instance(&service, id).await;
        store(&service, id, id).await;
    }
    let refused = command(service.folder.path(), &["credentials", "move"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("credentialStore.url is not set"));
    let outward = store_server.environment();
    let service = service.restart(&[], &borrowed(&outward)).await.unwrap();
    let said = move_credentials(service.folder.path(), &outward);
    // The service itself may have moved some already.
    assert!(said.contains("were moved into the credential store"), "{said}");
    assert_eq!(store_server.count(), 3);
    for id in ["a", "b", "c"] {
        touch(&service, id).await;
        assert_eq!(key_of(&service, id).await.unwrap(), id);
    }
    let mut inward = outward.clone();
    inward[0].1 = "embedded".to_owned();
    let said = move_credentials(service.folder.path(), &inward);
    assert!(said.contains("3 credentials were moved into the database"), "{said}");
    assert_eq!(store_server.count(), 0);
    // The running service still looks in the store, and then in the row.
    for id in ["a", "b", "c"] {
        assert_eq!(key_of(&service, id).await.unwrap(), id);
    }
    let service = service.restart(&[], &[]).await.unwrap();
    for id in ["a", "b", "c"] {
        assert_eq!(key_of(&service, id).await.unwrap(), id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_lost_or_does_not_give_is_said_so() {
    let service = TestService::start_on(Keeper::External).await;
    add_definition(&service).await;
    add_instance(&service, "a").await;
    store(&service, "a", "key").await;
    let service =
        restart(service, &[("INTEGRATION_SERVICE_CREDENTIAL_STORE_TOKEN", "wrong-token-of-mine")]).await.unwrap();
    let error = key_of(&service, "a").await.unwrap_err();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["retryable"]),
        (&json!("CREDENTIAL_UNAVAILABLE"), &json!(false))
    );
    let text = error.to_string();
    assert!(text.contains("401 Unauthorized") && text.contains("no valid token"), "{text}");
    assert!(!text.contains("wrong-token-of-mine"), "{text}");
    store_of(&service).clear();
    let service = restart(service, &[]).await.unwrap();
    let error = key_of(&service, "a").await.unwrap_err();
    assert_eq!(error["error"]["retryable"], json!(false));
    assert!(error["error"]["message"].as_str().unwrap().contains("has no credential"), "{error}");
    store(&service, "a", "new").await;
    assert_eq!(key_of(&service, "a").await.unwrap(), "new");
}
