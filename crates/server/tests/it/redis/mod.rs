//! Redis through the public door: definitions, instances, calls, against real servers.

mod failures;
mod operations;

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Answer;
use crate::databases::method;
use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;

/// A running server of the test's own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    process: Program,
    _folder: TempDir,
}

impl Server {
    /// Starts one with these settings; none where there is no Redis.
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let port = free_port();
        Self::start_at(port, &[&["--port", &port.to_string()], settings].concat())
    }

    /// Starts one whose settings have it listen at a port.
    fn start_at(port: u16, settings: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program("INTEGRATION_TEST_REDIS_SERVER")?);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(folder.path());
        command.args(settings);
        let is_ready = |line: String| line.contains("Ready to accept connections").then_some(());
        let (process, ()) = Program::start(&mut command, is_ready);
        Some(Self { address: SocketAddr::from(([127, 0, 0, 1], port)), process, _folder: folder })
    }

    /// What the server itself says to commands, a line each.
    pub(crate) async fn ask(&self, commands: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{commands}\r\nQUIT\r\n").as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said.strip_suffix("+OK\r\n").unwrap_or(&said).to_owned()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A service with an instance `cache` of a server.
struct Rig {
    service: TestService,
    server: Server,
}

impl Rig {
    /// None where there is no Redis.
    async fn start(settings: &[&str], methods: &[Value]) -> Option<Self> {
        let server = Server::start(settings)?;
        let service = TestService::start().await;
        connect(&service, &definition("none", methods), &config(server.address), None).await;
        Some(Self { service, server })
    }

    async fn call(&self, method: &str, params: &Value) -> Answer {
        self.service.execute("cache", method, params).await
    }

    /// Leads the instance elsewhere, with other members of its config.
    async fn reconfigure(&self, address: SocketAddr, changes: &Value) {
        configure(&self.service, address, changes).await;
    }
}

fn config(address: SocketAddr) -> Value {
    json!({"host": "127.0.0.1", "port": address.port()})
}

async fn configure(service: &TestService, address: SocketAddr, changes: &Value) {
    let mut config = config(address);
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let changed = service.with_body("PATCH", "/api/v1/integration-instances/cache", &json!({"config": config})).await;
    assert_eq!(changed.json()["status"], "CONNECTED", "{}", changed.json());
}

fn definition(auth_type: &str, methods: &[Value]) -> Value {
    json!({
        "id": "cache", "name": "Cache", "version": "1.0.0", "type": "redis", "authType": auth_type,
        "configSchema": {"type": "object"}, "methods": methods,
    })
}

/// A method of one command, whose params are anything.
fn command(name: &str, arguments: Value) -> Value {
    open(name, &json!({"command": arguments}))
}

/// A method whose params `a`, `b`, `c` are anything.
fn open(name: &str, operation: &Value) -> Value {
    method(name, operation, &json!({"a": {}, "b": {}, "c": {}}))
}

/// Publishes a definition; the instance `cache` has the config and the credential.
async fn connect(service: &TestService, definition: &Value, config: &Value, credential: Option<&Value>) {
    let created = service.post("/api/v1/integration-definitions?publish=true", definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "cache", "integrationDefinitionId": "cache", "name": "cache", "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
    if let Some(credential) = credential {
        store_credential(service, credential).await;
    }
}

async fn store_credential(service: &TestService, credential: &Value) {
    let stored = service.post("/api/v1/integration-instances/cache/credentials", credential).await;
    assert!(stored.status < 300, "{}", stored.json());
}

fn basic(user: &str, password: &str) -> Value {
    json!({"type": "basic", "data": {"username": user, "password": password}})
}
