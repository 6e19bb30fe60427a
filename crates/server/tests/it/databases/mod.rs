//! Databases through the public door: definitions, instances, calls, against real servers.

pub(crate) mod mysql;
pub(crate) mod postgresql;
pub(crate) mod proxy;
mod sqlite;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use crate::client::Answer;
use crate::service::TestService;

/// A server that the environment names; none, unless the environment requires one.
pub(crate) fn server(variable: &str) -> Option<url::Url> {
    crate::oidc::program(variable).map(|url| url.parse().unwrap())
}

/// A schema for processes of the service, on the PostgreSQL server of the tests.
pub(crate) struct OwnSchema {
    base: url::Url,
    name: String,
    master_key: String,
}

impl OwnSchema {
    /// Nothing where no server is named, unless the environment requires one.
    pub(crate) async fn create() -> Option<Self> {
        let base = server("INTEGRATION_TEST_POSTGRES_URL")?;
        let name = format!("s_{}", integration_store::Ids::new(integration_store::Clock::system()).next().simple());
        execute(&base, format!("create schema {name}")).await;
        let master_key = integration_store::MasterKeys::generate_line("k1").unwrap().to_string();
        Some(Self { base, name, master_key })
    }

    /// What a process needs to keep its data there.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut url = self.base.clone();
        url.query_pairs_mut().append_pair("options[search_path]", &self.name);
        vec![
            ("INTEGRATION_SERVICE_DATABASE_URL".to_owned(), url.to_string()),
            ("INTEGRATION_SERVICE_MASTER_KEY".to_owned(), self.master_key.clone()),
        ]
    }

    /// Nobody uses it any more.
    pub(crate) async fn drop(self) {
        execute(&self.base, format!("drop schema {} cascade", self.name)).await;
    }
}

async fn execute(url: &url::Url, statement: String) {
    use sqlx::{Connection as _, Executor as _};
    let mut connection = sqlx::PgConnection::connect(url.as_str()).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}

/// A name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One method, its params as JSON Schemas by name.
pub(crate) fn method(name: &str, operation: &Value, params: &Value) -> Value {
    json!({
        "name": name,
        "paramSchema": {"type": "object", "additionalProperties": false, "properties": params},
        "operation": operation,
    })
}

/// A method whose params are named and typed by its operation alone; anything fits them.
pub(crate) fn plain(name: &str, operation: &Value) -> Value {
    let names = operation["params"].as_object().cloned().unwrap_or_default();
    let open: Map<String, Value> = names.into_iter().map(|(name, _)| (name, json!({}))).collect();
    method(name, operation, &Value::Object(open))
}

pub(crate) fn definition(kind: &str, auth_type: &str, methods: &[Value]) -> Value {
    json!({
        "id": "db", "name": "Database", "version": "1.0.0", "type": kind, "authType": auth_type,
        "configSchema": {"type": "object"}, "methods": methods,
    })
}

/// Publishes a definition; the instance `db` has the config and the credential.
async fn connect(service: &TestService, definition: &Value, config: &Value, credential: Option<&Value>) {
    let created = service.post("/api/v1/integration-definitions?publish=true", definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "db", "integrationDefinitionId": "db", "name": "db", "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
    if let Some(credential) = credential {
        store_credential(service, credential).await;
    }
}

async fn store_credential(service: &TestService, data: &Value) {
    let body = json!({"type": "basic", "data": data});
    let stored = service.post("/api/v1/integration-instances/db/credentials", &body).await;
    assert!(stored.status < 300, "{}", stored.json());
}

async fn configure(service: &TestService, config: &Value) {
    let changed = service.with_body("PATCH", "/api/v1/integration-instances/db", &json!({"config": config})).await;
    assert_eq!(changed.json()["status"], "CONNECTED", "{}", changed.json());
}

/// The data of a call that succeeds.
#[track_caller]
pub(crate) fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["data"].clone()
}

/// The error of a call that fails with this code.
#[track_caller]
pub(crate) fn error(answer: &Answer, code: &str) -> Value {
    let body = answer.json();
    assert_eq!(body["error"]["code"], code, "{body}");
    body["error"].clone()
}

#[tokio::test]
async fn the_examples_can_be_published() {
    let service = TestService::start().await;
    for (text, id) in [
        (include_str!("../../../../../examples/postgresql.yaml"), "shop-postgresql"),
        (include_str!("../../../../../examples/mysql.yaml"), "stock-mysql"),
        (include_str!("../../../../../examples/sqlite.yaml"), "prices-sqlite"),
    ] {
        let request = http::Request::post("/api/v1/integration-definitions?publish=true")
            .header("host", "test")
            .header("content-type", "application/yaml");
        let created = service.send(request, text).await;
        assert_eq!((created.status, &created.json()["id"]), (201, &json!(id)), "{}", created.json());
    }
}

#[tokio::test]
async fn databases_describe_themselves() {
    let service = TestService::start().await;
    let adapters = service.get("/api/v1/adapters").await.json();
    for kind in ["postgresql", "mysql", "sqlite"] {
        let items = adapters.as_array().or_else(|| adapters["items"].as_array()).unwrap();
        let adapter = items.iter().find(|adapter| adapter["type"] == kind).unwrap();
        assert_eq!(adapter["version"], "1.0.0");
        assert!(adapter["operationSchema"]["properties"]["statement"].is_object(), "{adapter}");
        assert!(adapter["configSchema"]["required"].is_array(), "{adapter}");
    }
}
