//! The catalogue's endpoints and commands.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{CATALOGUE, SECRET, connect};
use crate::binary::{folder, run};
use crate::client::{assert_problem, pointers};
use crate::oauth::{form, requests};
use crate::service::{KEY, TestService, json_response};

fn path(id: &str) -> String {
    format!("{CATALOGUE}/{id}/install")
}

#[tokio::test]
async fn the_list_has_every_file_and_tells_what_is_installed() {
    let service = TestService::start().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../catalogue");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".yaml").to_owned())
        .collect();
    let listed = service.items(CATALOGUE).await;
    let ids: BTreeSet<String> = listed.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, files, "a file's name is its definition's id, and it is in the list of catalogue.rs");
    assert!(listed.iter().all(|entry| entry.get("installed").is_none()));
    for entry in &listed {
        let id = entry["id"].as_str().unwrap();
        let shown = service.get(&format!("{CATALOGUE}/{id}")).await.json();
        assert_eq!(shown["definition"]["adapterVersion"], ">=1.0, <2", "{id}");
        assert_eq!(shown["methodCount"], entry["methodCount"], "{id}");
    }
    service.post(&path("slack"), &json!({})).await;
    let listed = service.items(CATALOGUE).await;
    let installed: Vec<_> = listed.iter().filter(|entry| entry.get("installed").is_some()).collect();
    assert_eq!((installed.len(), &installed[0]["installed"]), (1, &json!("DRAFT")));
}

#[tokio::test]
async fn what_is_installed_stays_as_it_is() {
    let service = TestService::start().await;
    let draft = service.send(crate::client::post(&path("slack")), "").await;
    assert_eq!((draft.status, &draft.json()["status"]), (201, &json!("DRAFT")));
    assert_eq!(draft.header("location"), "/api/v1/integration-definitions/slack/versions/1.0.0");
    let published = service.post(&format!("{}?publish=true", path("slack")), &json!({})).await;
    assert_eq!((published.status, &published.json()["status"]), (200, &json!("PUBLISHED")));
    let again = service.post(&path("slack"), &json!({})).await;
    assert_eq!((again.status, &again.json()["publishedAt"]), (200, &published.json()["publishedAt"]));

    let mut own = service.get(&format!("{CATALOGUE}/stripe")).await.json()["definition"].clone();
    own["name"] = json!("Our Stripe");
    assert_eq!(service.post("/api/v1/integration-definitions", &own).await.status, 201);
    assert_problem(&service.post(&path("stripe"), &json!({})).await, 409, "ALREADY_EXISTS");
    let beside = service.post(&path("stripe"), &json!({"id": "stripe-eu"})).await;
    assert_eq!((beside.status, &beside.json()["id"]), (201, &json!("stripe-eu")));
    own["version"] = json!("0.9.0");
    own["id"] = json!("github");
    assert_eq!(service.post("/api/v1/integration-definitions", &own).await.status, 201);
    let version = service.post(&path("github"), &json!({})).await;
    assert_eq!((version.status, &version.json()["version"]), (201, &json!("2.0.0")));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let service = TestService::start().await;
    assert_problem(&service.get(&format!("{CATALOGUE}/nothing")).await, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.post(&path("nothing"), &json!({})).await, 404, "DEFINITION_NOT_FOUND");
    let client = service.post(&path("slack"), &json!({"clientId": "c", "clientSecret": SECRET})).await;
    assert_problem(&client, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&client), ["/clientId", "/clientSecret"]);
    assert!(!client.json().to_string().contains(SECRET));
    let unknown = service.post(&path("slack"), &json!({"clientID": "c"})).await;
    assert_problem(&unknown, 400, "VALIDATION_ERROR");
    let no_id = service.post(&path("slack"), &json!({"id": "a b"})).await;
    assert_eq!(pointers(&no_id), ["/id"]);

    let without_client = service.post(&format!("{}?publish=true", path("auth0")), &json!({})).await;
    assert_problem(&without_client, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&without_client), ["/oauth2Config/clientId"]);
    assert_problem(&service.get("/api/v1/integration-definitions/auth0").await, 404, "DEFINITION_NOT_FOUND");
    let with_client = json!({"clientId": "c", "clientSecret": SECRET});
    let installed = service.post(&format!("{}?publish=true", path("auth0")), &with_client).await;
    assert_eq!(installed.status, 201, "{}", installed.json());
    assert_eq!(installed.json()["oauth2Config"]["clientId"], "c");
    assert!(!installed.json().to_string().contains(SECRET));
    assert!(!crate::credentials::holds(&service.stored_bytes(), SECRET));
}

#[tokio::test]
async fn the_token_of_auth0_is_asked_for_with_the_tenant_s_own_audience() {
    let service = TestService::start().await;
    let mut definition = service.get(&format!("{CATALOGUE}/auth0")).await.json()["definition"].clone();
    definition["oauth2Config"]["clientId"] = json!("machine");
    definition["oauth2Config"]["clientSecret"] = json!(SECRET);
    definition["oauth2Config"]["tokenUrl"] = json!(format!("{}/oauth/token", service.upstream.url()));
    let config = json!({"domain": "acme.eu.auth0.com", "baseUrl": format!("{}/api/v2", service.upstream.url())});
    let created = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "mine", "integrationDefinitionId": "auth0", "name": "Auth0", "config": config});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);

    service.upstream.then(json_response(200, &json!({"access_token": "at-1", "expires_in": 86400})));
    let connected = service.post("/api/v1/integration-instances/mine/connect", &json!({})).await;
    assert_eq!((connected.status, &connected.json()["status"]), (200, &json!("CONNECTED")), "{}", connected.json());
    let asked = requests(&service, "/oauth/token");
    let form = form(&asked[0]);
    assert_eq!(form["audience"], "https://acme.eu.auth0.com/api/v2/");
    assert_eq!((form["grant_type"].as_str(), form["client_id"].as_str()), ("client_credentials", "machine"));

    service.upstream.then(json_response(200, &json!([{"user_id": "auth0|1"}])));
    let executed = service.execute("mine", "listUsersByEmail", &json!({"email": "ann@example.com"})).await;
    assert_eq!(executed.json()["data"][0]["user_id"], "auth0|1", "{}", executed.json());
    let received = service.upstream.received().pop().unwrap();
    assert_eq!(received.path_and_query, "/api/v2/users-by-email?email=ann%40example.com");
    assert_eq!(received.headers["authorization"], "Bearer at-1");
}

#[tokio::test]
async fn what_slack_refuses_with_200_is_an_error() {
    let service = TestService::start().await;
    connect(&service, "slack", &json!({"baseUrl": service.upstream.url()})).await;
    let post = json!({"channel": "C1", "text": "Hi"});
    let refused = async |error: &str| {
        service.upstream.then(json_response(200, &json!({"ok": false, "error": error})));
        let answer = service.execute("slack", "postMessage", &post).await;
        answer.json()["error"].clone()
    };
    for (error, code) in [
        ("channel_not_found", "NOT_FOUND"),
        ("not_in_channel", "FORBIDDEN"),
        ("is_archived", "CONFLICT"),
        ("msg_too_long", "VALIDATION_ERROR"),
    ] {
        let answered = refused(error).await;
        assert_eq!((&answered["code"], &answered["retryable"]), (&json!(code), &json!(false)), "{error}");
        assert!(answered["message"].as_str().unwrap().contains(error), "{answered}");
    }
    service.upstream.then(json_response(200, &json!({"ok": true, "channel": "C1", "ts": "1.2"})));
    let posted = service.execute("slack", "postMessage", &post).await.json();
    assert_eq!((&posted["status"], &posted["data"]["ts"]), (&json!("SUCCESS"), &json!("1.2")));
    assert_eq!(refused("token_revoked").await["code"], "AUTH_ERROR");
    let instance = service.get("/api/v1/integration-instances/slack").await.json();
    assert_eq!(instance["status"], "AUTH_ERROR");
}

#[tokio::test]
async fn pages_that_begin_after_the_last_item_are_joined() {
    let service = TestService::start().await;
    connect(&service, "stripe", &json!({"baseUrl": service.upstream.url()})).await;
    let page = |ids: &[&str], more: bool| {
        let items: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        json_response(200, &json!({"object": "list", "data": items, "has_more": more}))
    };
    service.upstream.then(page(&["cus_1", "cus_2"], true));
    service.upstream.then(page(&["cus_3"], false));
    let listed = service.post("/execute/stripe/listCustomers?paginate=all", &json!({"params": {}})).await.json();
    let ids: Vec<_> = listed["data"]["data"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, ["cus_1", "cus_2", "cus_3"], "{listed}");
    let asked: Vec<_> = service.upstream.received().into_iter().map(|request| request.path_and_query).collect();
    assert_eq!(asked, ["/v1/customers?limit=100", "/v1/customers?limit=100&starting_after=cus_2"]);
}

#[tokio::test]
async fn the_file_of_integrations_names_definitions_of_the_catalogue() {
    let integrations = "definitions:\n  - catalogue: stripe\n  - catalogue: auth0\n    id: auth0-eu\n    \
        clientId: c\n    clientSecret: ${AUTH0_SECRET}\ninstances:\n  - id: payments\n    \
        integrationDefinitionId: stripe\n    credential: {type: api_key, data: {key: sk_test_1}}\n";
    let files = [("integrations.yaml", integrations)];
    let environment = [("AUTH0_SECRET", SECRET)];
    let service = TestService::start_configured(&files, &environment).await;
    for id in ["stripe", "auth0-eu"] {
        let stored = service.get(&format!("/api/v1/integration-definitions/{id}")).await.json();
        assert_eq!(stored["status"], "PUBLISHED", "{stored}");
    }
    let payments = service.get("/api/v1/integration-instances/payments").await.json();
    assert_eq!(payments["status"], "CONNECTED", "{payments}");
    let service = service.restart(&files, &environment).await.unwrap();
    assert!(!crate::credentials::holds(&service.stored_bytes(), SECRET));

    let faulty = "definitions:\n  - catalogue: nothing\n  - catalogue: auth0\n  - {catalogue: slack, clientId: c}\n";
    let folder = folder(&[("integrations.yaml", faulty)]);
    let (code, out, _) = run(folder.path(), &["config", "check"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("integrations.yaml:2:5: /definitions/0/catalogue: the catalogue has no definition"), "{out}");
    assert!(out.contains("/definitions/1/oauth2Config/clientId: expected the client's id"), "{out}");
    assert!(out.contains("integrations.yaml:4:24: /definitions/2/clientId: expected none"), "{out}");
}

#[test]
fn the_setting_for_tokens_of_auth0_is_sound() {
    let page = include_str!("../../../../../docs/catalogue.md");
    let setting = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(setting.contains("https://acme.eu.auth0.com/.well-known/jwks.json"));
    let folder = folder(&[("integration_service.yaml", setting)]);
    let (code, out, error) = run(folder.path(), &["config", "check"]);
    assert_eq!(code, 0, "{out}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_and_adds_definitions() {
    let service = TestService::start().await;
    let folder = folder(&[("secret.txt", "a-secret-mark-1f9c\n")]);
    let (code, out, _) = run(folder.path(), &["catalogue", "list"]);
    assert!(code == 0 && out.lines().any(|line| line.starts_with("slack-webhook ")), "{out}");
    let (code, out, _) = run(folder.path(), &["catalogue", "show", "stripe"]);
    assert!(code == 0 && out.starts_with("# Stripe's core: https://docs.stripe.com/api\n"), "{out}");
    let (code, _, error) = run(folder.path(), &["catalogue", "show", "nothing"]);
    assert!(code == 1 && error.contains("`catalogue list` shows what it has"), "{error}");

    let url = format!("http://{}", service.address());
    let add = |arguments: &[&str]| {
        let arguments = [&["catalogue", "add", "--url", &url, "--key", KEY], arguments].concat();
        run(folder.path(), &arguments)
    };
    let (code, out, error) = add(&["slack", "slack-webhook", "--publish"]);
    let said = "slack 1.0.0: installed, PUBLISHED\nslack-webhook 1.0.0: installed, PUBLISHED\n";
    assert_eq!((code, out.as_str()), (0, said), "{error}");
    let (_, out, _) = add(&["slack"]);
    assert_eq!(out, "slack 1.0.0: there already, PUBLISHED\n");
    let (code, _, error) = add(&["auth0", "--publish"]);
    assert!(code == 1 && error.contains("/oauth2Config/clientId"), "{error}");
    let client = ["--client-id", "c", "--client-secret-file", "config/secret.txt"];
    let (code, out, error) = add(&[&["auth0", "--as", "auth0-eu", "--publish"], &client[..]].concat());
    assert_eq!((code, out.as_str()), (0, "auth0-eu 1.0.0: installed, PUBLISHED\n"), "{error}");
    let (code, _, error) = add(&[&["slack", "stripe"], &client[..]].concat());
    assert!(code == 1 && error.contains("are of one definition"), "{error}");
}
