//! Mail through the public door: definitions, instances, calls, against a real mail server.

mod failures;
mod messages;

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Answer;
use crate::databases::method;
use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;

/// A running mail server of the test's own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    mail: TempDir,
    _process: Program,
}

impl Server {
    /// Starts one with these settings; none where it is not installed.
    pub(crate) fn start(settings: &Value) -> Option<Self> {
        let mail = tempfile::tempdir().unwrap();
        let mut all = json!({"modules": program("INTEGRATION_TEST_NODE_MODULES")?, "folder": mail.path()});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let mut command = Command::new("node");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/email/server.mjs");
        command.arg(script).env("SETTINGS", all.to_string());
        let (process, said) = Program::start(&mut command, |line| serde_json::from_str::<Value>(&line).ok());
        let port = said["port"].as_u64().unwrap().try_into().unwrap();
        Some(Self { address: SocketAddr::from(([127, 0, 0, 1], port)), mail, _process: process })
    }

    /// The messages that it took, in their order.
    fn mail(&self) -> Vec<Value> {
        let mut files: Vec<_> = std::fs::read_dir(self.mail.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
    }

    pub(crate) fn last(&self) -> Value {
        self.mail().pop().expect("a message")
    }
}

/// A service with an instance `mail` of a server.
struct Rig {
    service: TestService,
    server: Server,
}

impl Rig {
    /// None where there is no mail server.
    async fn start(settings: &Value, methods: &[Value]) -> Option<Self> {
        let server = Server::start(settings)?;
        let service = TestService::start().await;
        connect(&service, &definition("none", methods), &config(server.address), None).await;
        Some(Self { service, server })
    }

    async fn call(&self, method: &str, params: &Value) -> Answer {
        self.service.execute("mail", method, params).await
    }
}

fn config(address: SocketAddr) -> Value {
    json!({"host": "127.0.0.1", "port": address.port()})
}

async fn configure(service: &TestService, address: SocketAddr, changes: &Value) -> Value {
    let mut config = config(address);
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let changed = service.with_body("PATCH", "/api/v1/integration-instances/mail", &json!({"config": config})).await;
    assert_eq!(changed.status, 200, "{}", changed.json());
    changed.json()
}

fn definition(auth_type: &str, methods: &[Value]) -> Value {
    json!({
        "id": "mail", "name": "Mail", "version": "1.0.0", "type": "email", "authType": auth_type,
        "configSchema": {"type": "object"}, "methods": methods,
    })
}

/// A method whose params are anything.
fn send(name: &str, operation: &Value) -> Value {
    method(name, operation, &json!({"to": {}, "cc": {}, "a": {}, "b": {}, "files": {}}))
}

/// A message to the param `to`, with `a` as its subject.
fn note() -> Value {
    let operation =
        json!({"from": "Sender <sender@here.example>", "to": {"param": "to"}, "subject": "{a}", "text": "Hello"});
    send("note", &operation)
}

/// Publishes a definition; the instance `mail` has the config and the credential.
async fn connect(service: &TestService, definition: &Value, config: &Value, credential: Option<&Value>) {
    let created = service.post("/api/v1/integration-definitions?publish=true", definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "mail", "integrationDefinitionId": "mail", "name": "mail", "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
    if let Some(credential) = credential {
        store_credential(service, credential).await;
    }
}

async fn store_credential(service: &TestService, credential: &Value) {
    let stored = service.post("/api/v1/integration-instances/mail/credentials", credential).await;
    assert!(stored.status < 300, "{}", stored.json());
}

async fn test(service: &TestService) -> Value {
    service.post("/api/v1/integration-instances/mail/test", &json!({})).await.json()
}

fn basic(user: &str, password: &str) -> Value {
    json!({"type": "basic", "data": {"username": user, "password": password}})
}
