//! A whole service in the test's own process: real router, real embedded store, real
//! connections, and an upstream that the test steers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Builder;
use http_body_util::BodyExt as _;
use integration_service::app::{App, AppParts};
use integration_service::config::{Config, Environment, Flags, Loaded, Secret};
use integration_service::telemetry::execution_log::ExecutionLog;
use integration_service::telemetry::{LogWriter, Metrics};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Answer, send};
use crate::counterpart::CredentialStore;

pub(crate) const KEY: &str = "a-key-that-only-tests-know";

/// A running service with a data folder of its own.
pub(crate) struct TestService {
    pub(crate) app: App,
    pub(crate) upstream: Upstream,
    pub(crate) folder: TempDir,
    /// Where its credentials are, unless in its database.
    pub(crate) credential_store: Option<CredentialStore>,
}

/// Where a service under test keeps its credentials.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Keeper {
    Embedded,
    External,
}

/// Makes a test for each place where credentials may be kept out of `async fn name(keeper:
/// Keeper)`.
macro_rules! on_both_keepers {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::service::Keeper::Embedded).await;
            })+
        }

        mod external {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::service::Keeper::External).await;
            })+
        }
    };
}

pub(crate) use on_both_keepers;

impl TestService {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with its credentials kept there.
    pub(crate) async fn start_on(keeper: Keeper) -> Self {
        match keeper {
            Keeper::Embedded => Self::start().await,
            Keeper::External => {
                let store = CredentialStore::start();
                let environment = store.environment();
                let service = Self::start_with(&borrowed(&environment)).await;
                Self { credential_store: Some(store), ..service }
            }
        }
    }

    /// Starts with further environment variables.
    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_configured(&[], environment).await
    }

    /// Starts with files in its configuration folder too. `UPSTREAM` in their texts stands for
    /// the URL of the upstream.
    pub(crate) async fn start_configured(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
        let app = start_app(&folder, &upstream, files, environment).await.unwrap();
        Self { app, upstream, folder, credential_store: None }
    }

    /// Stops, and starts anew on the same data with these files and variables; the error is
    /// why it does not start.
    pub(crate) async fn restart(self, files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Self, String> {
        let Self { app, upstream, folder, credential_store } = self;
        app.stop().await;
        match start_app(&folder, &upstream, files, environment).await {
            Ok(app) => Ok(Self { app, upstream, folder, credential_store }),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// All that lies in the data folder, the database and its log among it.
    pub(crate) fn stored_bytes(&self) -> Vec<u8> {
        bytes_below(&self.folder.path().join("data"))
    }

    /// Sends for one tenant.
    pub(crate) async fn send_as(&self, tenant: &str, verb: &str, path: &str, body: &Value) -> Answer {
        let request = json_request(verb, path).header("x-tenant-id", tenant);
        self.send(request, &body.to_string()).await
    }

    /// The items of a list.
    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        answer.json()["items"].as_array().unwrap().clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Sends with the admin key.
    pub(crate) async fn send(&self, request: Builder, body: &str) -> Answer {
        send(self.address(), request.header("x-api-key", KEY), body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(crate::client::get(path), "").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(http::Request::delete(path).header("host", "test"), "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.with_body("POST", path, body).await
    }

    pub(crate) async fn with_body(&self, verb: &str, path: &str, body: &Value) -> Answer {
        self.send(json_request(verb, path), &body.to_string()).await
    }

    /// Publishes a definition and makes an instance `id` of it whose upstream is the test's.
    pub(crate) async fn instance_of(&self, definition: &Value, id: &str) {
        let created = self.post("/api/v1/integration-definitions?publish=true", definition).await;
        assert_eq!(created.status, 201, "{}", created.json());
        let instance = json!({
            "id": id,
            "integrationDefinitionId": definition["id"],
            "name": id,
            "config": {"baseUrl": self.upstream.url()},
        });
        let created = self.post("/api/v1/integration-instances", &instance).await;
        assert_eq!(created.status, 201, "{}", created.json());
    }

    pub(crate) async fn execute(&self, instance: &str, method: &str, params: &Value) -> Answer {
        self.post(&format!("/execute/{instance}/{method}"), &json!({ "params": params })).await
    }
}

/// What all files in a folder, and in those below it, hold.
pub(crate) fn bytes_below(folder: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else if let Ok(content) = std::fs::read(&path) {
            // A file may go while the folder is read.
            bytes.extend(content);
        }
    }
    bytes
}

/// Variables as most functions take them.
pub(crate) fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// A request that carries JSON.
pub(crate) fn json_request(verb: &str, path: &str) -> Builder {
    http::Request::builder().method(verb).uri(path).header("host", "test").header("content-type", "application/json")
}

async fn start_app(
    folder: &TempDir,
    upstream: &Upstream,
    files: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> anyhow::Result<App> {
    let config = folder.path().join("config");
    std::fs::create_dir_all(&config).unwrap();
    for (name, text) in files {
        std::fs::write(config.join(name), text.replace("UPSTREAM", &upstream.url())).unwrap();
    }
    App::start(parts(load(folder.path(), environment))).await
}

fn load(folder: &std::path::Path, environment: &[(&str, &str)]) -> Loaded {
    let mut variables = vec![
        ("INTEGRATION_SERVICE_EGRESS_ALLOW".to_owned(), "127.0.0.0/8".to_owned()),
        ("INTEGRATION_SERVICE_PORT".to_owned(), "0".to_owned()),
    ];
    variables.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let flags =
        Flags { config_dir: Some(folder.join("config")), data_dir: Some(folder.join("data")), ..Flags::default() };
    Config::load(&flags, &Environment::from_iter(variables)).unwrap()
}

fn parts(loaded: Loaded) -> AppParts {
    let (writer, _) = LogWriter::start(std::io::sink()).unwrap();
    AppParts {
        execution_log: ExecutionLog::new(&loaded.config.log, writer),
        config: loaded.config,
        integrations: loaded.integrations,
        rate_limits: loaded.rate_limits,
        admin_key: Secret::new(KEY),
        metrics: metrics(),
        new_limits: None,
    }
}

/// The process's recorder: there is one, whatever number of services a test starts.
pub(crate) fn metrics() -> Metrics {
    static METRICS: std::sync::OnceLock<Metrics> = std::sync::OnceLock::new();
    METRICS.get_or_init(|| Metrics::install().unwrap()).clone()
}

/// A request as the upstream got it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) verb: String,
    pub(crate) path_and_query: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

type Handler = dyn Fn(&Received) -> Response + Send + Sync;

#[derive(Clone, Default)]
struct Script {
    received: Arc<Mutex<Vec<Received>>>,
    /// Answers given once, in their order, before `usual`.
    next: Arc<Mutex<VecDeque<Response>>>,
    usual: Arc<Mutex<Option<Arc<Handler>>>>,
}

/// An HTTP server that records what it gets and answers what the test says; `{}` unless told.
pub(crate) struct Upstream {
    address: SocketAddr,
    script: Script,
    server: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let script = Script::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(script.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, script, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next request with this, once.
    pub(crate) fn then(&self, response: Response) {
        self.script.next.lock().unwrap().push_back(response);
    }

    /// Answers every other request with what `handler` makes.
    pub(crate) fn always(&self, handler: impl Fn(&Received) -> Response + Send + Sync + 'static) {
        *self.script.usual.lock().unwrap() = Some(Arc::new(handler));
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.script.received.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Some tests cut requests off.
    let Ok(body) = body.collect().await else { return json_response(400, &json!({})) };
    let received = Received {
        verb: parts.method.to_string(),
        path_and_query: parts.uri.to_string(),
        headers: parts.headers,
        body: body.to_bytes(),
    };
    script.received.lock().unwrap().push(received.clone());
    let next = script.next.lock().unwrap().pop_front();
    let usual = script.usual.lock().unwrap().clone();
    match (next, usual) {
        (Some(response), _) => response,
        (None, Some(handler)) => handler(&received),
        (None, None) => json_response(200, &json!({})),
    }
}

/// A JSON answer of the upstream.
pub(crate) fn json_response(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

/// A definition of one method `call` with these fields over the usual ones.
pub(crate) fn definition(id: &str, method: &Value) -> Value {
    let mut base = json!({
        "name": "call",
        "paramSchema": {"type": "object"},
        "operation": {"verb": "GET", "path": "/thing"},
    });
    for (name, value) in method.as_object().unwrap() {
        base[name] = value.clone();
    }
    json!({
        "id": id, "name": id, "version": "1.0.0", "type": "http", "authType": "none",
        "configSchema": {"type": "object", "required": ["baseUrl"], "properties": {"baseUrl": {"type": "string"}}},
        "methods": [base],
    })
}
