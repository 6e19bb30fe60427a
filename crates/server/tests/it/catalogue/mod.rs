//! The definitions that come with the service: listed, shown, installed, and each of their
//! methods as the request that it makes.

mod installing;
mod requests;
mod sample;
pub(crate) mod stripe;
mod vendors;

use serde_json::{Value, json};

use crate::service::TestService;

pub(crate) const CATALOGUE: &str = "/api/v1/catalogue";
const SECRET: &str = "a-secret-mark-1f9c";

/// What each definition's config has to say besides its defaults.
fn config(id: &str) -> Value {
    match id {
        "auth0" => json!({"domain": "acme.eu.auth0.com"}),
        "twilio" => json!({"accountSid": format!("AC{}", "0".repeat(32))}),
        "jira" => json!({"site": "acme"}),
        "zendesk" => json!({"subdomain": "acme"}),
        "shopify" => json!({"shop": "acme"}),
        "salesforce" => json!({"domain": "acme.my.salesforce.com"}),
        "postgresql" => json!({"host": "db.example", "database": "shop"}),
        "redis" => json!({"host": "cache.example"}),
        "email" => json!({"host": "mail.example", "from": "shop@example.com"}),
        "storage" => json!({"provider": "s3", "bucket": "documents"}),
        "mailgun" => json!({"domain": "mg.example.com"}),
        _ => json!({}),
    }
}

/// A credential as the definition's own comment describes it.
fn credential(definition: &Value) -> Value {
    let data = match definition["authType"].as_str().unwrap() {
        "basic" => json!({"username": "ann", "password": SECRET}),
        "api_key" => json!({"key": SECRET}),
        "oauth2" => json!({"access_token": SECRET}),
        "custom" if definition["type"] == "webhook" => json!({"secrets": [SECRET]}),
        "custom" if definition["type"] == "storage" => json!({"accessKeyId": "AKID", "secretAccessKey": SECRET}),
        "custom" => {
            let fields = definition["customAuth"]["headers"].as_object().unwrap().values();
            fields.map(|field| (field.as_str().unwrap().to_owned(), json!(SECRET))).collect()
        }
        other => panic!("no credential of type {other}"),
    };
    json!({"type": definition["authType"], "data": data})
}

/// Installs a definition and publishes it; one of an OAuth system gets a client.
async fn install(service: &TestService, id: &str) -> Value {
    let entry = service.get(&format!("{CATALOGUE}/{id}")).await.json();
    let has_client = entry["definition"].get("oauth2Config").is_some();
    let body = if has_client { json!({"clientId": "client", "clientSecret": SECRET}) } else { json!({}) };
    let installed = service.post(&format!("{CATALOGUE}/{id}/install?publish=true"), &body).await;
    assert_eq!(installed.status, 201, "{id}: {}", installed.json());
    installed.json()
}

/// Installs a definition with a connected instance of it under the same id.
async fn connect(service: &TestService, id: &str, config: &Value) -> Value {
    let definition = install(service, id).await;
    let instance = json!({"id": id, "integrationDefinitionId": id, "name": id, "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{id}: {}", created.json());
    let path = format!("/api/v1/integration-instances/{id}/credentials");
    let stored = service.post(&path, &credential(&definition)).await;
    assert_eq!(stored.status, 201, "{id}: {}", stored.json());
    let instance = service.get(&format!("/api/v1/integration-instances/{id}")).await.json();
    assert_eq!(instance["status"], "CONNECTED", "{id}: {instance}");
    definition
}
