//! What `integrations.yaml` registers at start, and at the next start.

use serde_json::{Value, json};

use crate::service::TestService;

const PETS: &str = "
id: pets
name: Pets
version: 1.0.0
type: http
authType: api_key
configSchema: {type: object, required: [baseUrl], properties: {baseUrl: {type: string}}}
methods:
  - name: call
    operation: {verb: GET, path: /thing}
";

const INTEGRATIONS: &str = r#"
definitions:
  - file: pets.yaml
instances:
  - id: pets-of-ann
    integrationDefinitionId: pets
    name: Pets of Ann
    tenantId: ann
    labels: {team: x}
    config: {baseUrl: "UPSTREAM"}
    credential:
      type: api_key
      data: {key: "${PETS_KEY}", headerOrParam: X-Pets, inHeader: true}
"#;

const INSTANCE: &str = "/api/v1/integration-instances/pets-of-ann";

async fn count_events(service: &TestService) -> usize {
    service.items("/api/v1/events?limit=200&instance=pets-of-ann").await.len()
}

#[tokio::test]
async fn the_file_is_registered_once_and_what_changes_in_it_is_applied() {
    let service = TestService::start_configured(
        &[("pets.yaml", PETS), ("integrations.yaml", INTEGRATIONS)],
        &[("PETS_KEY", "one")],
    )
    .await;
    let instance = service.get(INSTANCE).await.json();
    assert_eq!(
        (&instance["status"], &instance["tenantId"], &instance["name"], &instance["labels"]),
        (&json!("CONNECTED"), &json!("ann"), &json!("Pets of Ann"), &json!({"team": "x"})),
        "{instance}"
    );
    assert_eq!(service.get("/api/v1/integration-definitions/pets").await.json()["status"], "PUBLISHED");
    assert_eq!(service.execute("pets-of-ann", "call", &json!({})).await.status, 200);
    assert_eq!(service.upstream.received()[0].headers["x-pets"], "one");
    assert!(!crate::credentials::holds(&service.stored_bytes(), "X-Pets"), "the credential is sealed");
    let events = count_events(&service).await;

    let service = service.restart(&[], &[("PETS_KEY", "one")]).await.unwrap();
    let same = service.get(INSTANCE).await.json();
    assert_eq!((&same["version"], &same["updatedAt"]), (&instance["version"], &instance["updatedAt"]));
    assert_eq!(count_events(&service).await, events, "nothing happened");

    let changed =
        INTEGRATIONS.replace("team: x", "team: y").replace("{baseUrl: \"UPSTREAM\"}", "{baseUrl: \"UPSTREAM/v2\"}");
    let service = service.restart(&[("integrations.yaml", &changed)], &[("PETS_KEY", "two")]).await.unwrap();
    let instance = service.get(INSTANCE).await.json();
    assert_eq!(instance["labels"], json!({"team": "y"}));
    assert_eq!(service.execute("pets-of-ann", "call", &json!({})).await.status, 200);
    let received = service.upstream.received().pop().unwrap();
    assert_eq!(
        (received.path_and_query.as_str(), &received.headers["x-pets"]),
        ("/v2/thing", &http::HeaderValue::from_static("two"))
    );
}

#[tokio::test]
async fn another_version_in_the_file_upgrades_the_instance() {
    let service = TestService::start_configured(
        &[("pets.yaml", PETS), ("integrations.yaml", INTEGRATIONS)],
        &[("PETS_KEY", "one")],
    )
    .await;
    let pets2 = PETS.replace("1.0.0", "1.1.0");
    let pinned = INTEGRATIONS
        .replace("  - file: pets.yaml", "  - file: pets.yaml\n  - file: pets2.yaml")
        .replace("    tenantId: ann", "    tenantId: ann\n    definitionVersion: 1.1.0");
    let service = service
        .restart(&[("pets2.yaml", &pets2), ("integrations.yaml", &pinned)], &[("PETS_KEY", "one")])
        .await
        .unwrap();
    assert_eq!(service.get(INSTANCE).await.json()["definitionVersion"], "1.1.0");
}

#[tokio::test]
async fn a_draft_follows_the_file_and_a_published_version_does_not() {
    let service = TestService::start_configured(&[("pets.yaml", PETS)], &[]).await;
    let draft: Value =
        json!({"id": "pets", "name": "Draft", "version": "1.0.0", "type": "http", "authType": "none", "methods": []});
    service.post("/api/v1/integration-definitions", &draft).await;
    let only_definitions = "definitions: [{file: pets.yaml}]";
    let service = service.restart(&[("integrations.yaml", only_definitions)], &[]).await.unwrap();
    let definition = service.get("/api/v1/integration-definitions/pets").await.json();
    assert_eq!((&definition["name"], &definition["status"]), (&json!("Pets"), &json!("PUBLISHED")));
    let renamed = PETS.replace("name: Pets", "name: Other");
    let service = service.restart(&[("pets.yaml", &renamed)], &[]).await.unwrap();
    assert_eq!(service.get("/api/v1/integration-definitions/pets").await.json()["name"], "Pets");
}

#[tokio::test]
async fn a_file_that_cannot_be_followed_stops_the_start_with_the_reason() {
    let broken = PETS.replace("path: /thing", "path: \"/thing/{\"");
    let service = TestService::start_configured(&[], &[]).await;
    let files = [("pets.yaml", broken.as_str()), ("integrations.yaml", "definitions: [{file: pets.yaml}]")];
    let reason = service.restart(&files, &[]).await.err().unwrap();
    assert!(reason.contains("definition pets 1.0.0") && reason.contains("/methods/0/operation/path"), "{reason}");

    let service = TestService::start_configured(
        &[("pets.yaml", PETS), ("integrations.yaml", INTEGRATIONS)],
        &[("PETS_KEY", "one")],
    )
    .await;
    let moved = INTEGRATIONS.replace("tenantId: ann", "tenantId: bob");
    let reason = service.restart(&[("integrations.yaml", &moved)], &[("PETS_KEY", "one")]).await.err().unwrap();
    assert!(reason.contains("pets-of-ann") && reason.contains("tenant ann"), "{reason}");
}

#[tokio::test]
async fn what_came_of_a_token_in_the_file_is_not_undone_by_the_next_start() {
    let definition = "
id: crm
name: CRM
version: 1.0.0
type: http
authType: oauth2
oauth2Config: {clientId: client, tokenUrl: UPSTREAM/token}
methods:
  - name: call
    operation: {verb: GET, path: /thing}
";
    let integrations = "
definitions: [{file: crm.yaml}]
instances:
  - id: crm
    integrationDefinitionId: crm
    config: {baseUrl: UPSTREAM}
    credential: {type: oauth2, data: {access_token: at-0, refresh_token: '${CRM_TOKEN}', expires_in: 3600}}
";
    let files = [("crm.yaml", definition), ("integrations.yaml", integrations)];
    let service = TestService::start_configured(&files, &[("CRM_TOKEN", "rt-0")]).await;
    let refresh = "/api/v1/integration-instances/crm/credentials/refresh";
    let token = |number: u32| {
        let token = json!({"access_token": format!("at-{number}"), "refresh_token": format!("rt-{number}")});
        crate::service::json_response(200, &token)
    };
    let presented =
        |service: &TestService| String::from_utf8(service.upstream.received().pop().unwrap().body.to_vec()).unwrap();
    service.upstream.then(token(1));
    assert_eq!(service.post(refresh, &json!({})).await.status, 200);
    assert!(presented(&service).contains("refresh_token=rt-0"));

    let service = service.restart(&[], &[("CRM_TOKEN", "rt-0")]).await.unwrap();
    service.upstream.then(token(2));
    assert_eq!(service.post(refresh, &json!({})).await.status, 200);
    assert!(presented(&service).contains("refresh_token=rt-1"), "{}", presented(&service));

    // Another token in the file is its operator's word.
    let service = service.restart(&[], &[("CRM_TOKEN", "rt-new")]).await.unwrap();
    service.upstream.then(token(3));
    assert_eq!(service.post(refresh, &json!({})).await.status, 200);
    assert!(presented(&service).contains("refresh_token=rt-new"));
}
