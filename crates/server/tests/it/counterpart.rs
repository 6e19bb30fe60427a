//! Real services on loopback that the service depends on, and that fail on cue: a key
//! service that speaks the transit API, and a credential store. Each runs in a thread of
//! its own, so that tests may wait for processes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::service::json_response;

/// What a counterpart does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// 503, as a sealed or overloaded service answers.
    Unavailable,
    /// Never answers.
    Hangs,
    /// 200 with a page that is no answer.
    Garbage,
    /// 200 with the right shape and the wrong content.
    WrongContent,
}

/// A request that reached a counterpart.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

type Work = dyn Fn(&Seen, bool) -> Response + Send + Sync;

#[derive(Clone)]
struct Served {
    seen: Arc<Mutex<Vec<Seen>>>,
    fault: Arc<Mutex<Option<Fault>>>,
    work: Arc<Work>,
}

/// A counterpart that serves until it is dropped.
struct Server {
    address: SocketAddr,
    served: Served,
    stop: CancellationToken,
}

impl Server {
    /// `work` answers; it is told whether it is to give wrong content.
    fn start(work: impl Fn(&Seen, bool) -> Response + Send + Sync + 'static) -> Self {
        let served = Served { seen: Arc::default(), fault: Arc::default(), work: Arc::new(work) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(served.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = stopped.cancelled() => {}
                    served = std::future::IntoFuture::into_future(axum::serve(listener, router)) => served.unwrap(),
                }
            });
        });
        Self { address, served, stop }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn set_fault(&self, fault: Option<Fault>) {
        *self.served.fault.lock().unwrap() = fault;
    }

    /// The requests since it was last asked.
    fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.served.seen.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(State(served): State<Served>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let seen = Seen {
        verb: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    };
    served.seen.lock().unwrap().push(seen.clone());
    let fault = *served.fault.lock().unwrap();
    match fault {
        Some(Fault::Unavailable) => json_response(503, &json!({"errors": ["Vault is sealed"]})),
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Garbage) => Response::new(Body::from("<html>Welcome to the captive portal</html>")),
        fault => (served.work)(&seen, fault == Some(Fault::WrongContent)),
    }
}

/// A key service with the transit API of HashiCorp Vault and OpenBao: real AES-256-GCM,
/// versions of keys, derivation by context, batches, and its documented errors.
pub(crate) struct Transit {
    server: Server,
    state: Arc<Mutex<TransitState>>,
}

struct TransitState {
    token: String,
    keys: HashMap<String, TransitKey>,
    /// What the token may not do, as a part of the path.
    forbidden: Option<&'static str>,
}

#[derive(Default)]
struct TransitKey {
    versions: Vec<[u8; 32]>,
    derived: bool,
    min_decryption_version: usize,
}

pub(crate) const TRANSIT_TOKEN: &str = "hvs.a-token-of-the-key-service";

impl Transit {
    pub(crate) fn start() -> Self {
        let mut state = TransitState { token: TRANSIT_TOKEN.to_owned(), keys: HashMap::new(), forbidden: None };
        state.create("integration-service", false);
        let state = Arc::new(Mutex::new(state));
        let answering = Arc::clone(&state);
        let server = Server::start(move |seen, wrong| {
            let mut state = answering.lock().unwrap();
            match state.answer(seen, wrong) {
                Ok((200, data)) => json_response(200, &json!({"request_id": "x", "lease_id": "", "data": data})),
                Ok((status, _)) => Response::builder().status(status).body(Body::empty()).unwrap(),
                Err((status, errors)) => json_response(status, &json!({"errors": errors})),
            }
        });
        Self { server, state }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The environment of a service that uses it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("INTEGRATION_SERVICE_TRANSIT_ADDRESS".to_owned(), self.url()),
            ("INTEGRATION_SERVICE_TRANSIT_TOKEN".to_owned(), TRANSIT_TOKEN.to_owned()),
        ]
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.server.set_fault(fault);
    }

    /// `VERB operation` of the requests since it was last asked: `POST decrypt`.
    pub(crate) fn take_operations(&self) -> Vec<String> {
        let seen = self.server.take_seen();
        seen.iter().map(|seen| format!("{} {}", seen.verb, seen.path.split('/').nth(3).unwrap_or_default())).collect()
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        self.server.take_seen()
    }

    pub(crate) fn set_token(&self, token: &str) {
        self.state.lock().unwrap().token = token.to_owned();
    }

    pub(crate) fn forbid(&self, path: &'static str) {
        self.state.lock().unwrap().forbidden = Some(path);
    }

    pub(crate) fn create_key(&self, name: &str, derived: bool) {
        self.state.lock().unwrap().create(name, derived);
    }

    /// As an operator retires old versions.
    pub(crate) fn set_min_decryption_version(&self, name: &str, version: usize) {
        self.state.lock().unwrap().keys.get_mut(name).unwrap().min_decryption_version = version;
    }

    pub(crate) fn latest_version(&self, name: &str) -> usize {
        self.state.lock().unwrap().keys[name].versions.len()
    }
}

type TransitAnswer = Result<(u16, Value), (u16, Vec<String>)>;

fn bad(error: &str) -> (u16, Vec<String>) {
    (400, vec![error.to_owned()])
}

impl TransitState {
    fn create(&mut self, name: &str, derived: bool) {
        let mut key = TransitKey { derived, ..TransitKey::default() };
        key.rotate();
        self.keys.insert(name.to_owned(), key);
    }

    fn answer(&mut self, seen: &Seen, wrong: bool) -> TransitAnswer {
        let denied = || (403, vec!["1 error occurred:\n\t* permission denied\n\n".to_owned()]);
        if seen.headers.get("x-vault-token").is_none_or(|token| *token != *self.token)
            || self.forbidden.is_some_and(|part| seen.path.contains(part))
        {
            return Err(denied());
        }
        let Some(path) = seen.path.strip_prefix("/v1/transit/") else {
            return Err((404, vec![format!("no handler for route {:?}. route entry not found.", &seen.path[4..])]));
        };
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or(Value::Null);
        match (seen.verb.as_str(), path.split('/').collect::<Vec<_>>().as_slice()) {
            ("GET", ["keys", name]) => {
                let key = self.keys.get(*name).ok_or((404, Vec::new()))?;
                let facts = json!({
                    "name": name, "type": "aes256-gcm96", "derived": key.derived, "latest_version": key.versions.len(),
                    "min_decryption_version": key.min_decryption_version.max(1), "supports_encryption": true,
                });
                Ok((200, facts))
            }
            ("POST", ["keys", name, "rotate"]) => {
                self.keys.get_mut(*name).ok_or_else(|| bad("no existing key named that could be found"))?.rotate();
                Ok((204, Value::Null))
            }
            ("POST", [operation @ ("encrypt" | "decrypt" | "rewrap"), name]) => {
                let key = self.keys.get(*name).ok_or_else(|| bad("encryption key not found"))?;
                let Some(batch) = body["batch_input"].as_array() else {
                    let mut data = key.run(operation, &body).map_err(|error| bad(&error))?;
                    if wrong && let Some(plaintext) = data.get_mut("plaintext") {
                        *plaintext = json!(STANDARD.encode([7; 64]));
                    }
                    return Ok((200, data));
                };
                let run = |item| key.run(operation, item).unwrap_or_else(|error| json!({ "error": error }));
                Ok((200, json!({ "batch_results": batch.iter().map(run).collect::<Vec<_>>() })))
            }
            _ => Err((404, Vec::new())),
        }
    }
}

impl TransitKey {
    fn rotate(&mut self) {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).unwrap();
        self.versions.push(key);
    }

    fn run(&self, operation: &str, input: &Value) -> Result<Value, String> {
        let decode =
            |field: &str| STANDARD.decode(input[field].as_str().unwrap_or_default()).map_err(|e| e.to_string());
        let context = decode("context")?;
        if self.derived && context.is_empty() {
            return Err("missing 'context' for key derivation; the key was created using a derived key".to_owned());
        }
        match operation {
            "encrypt" => {
                // Plaintext has to be base64, and is kept as it came.
                decode("plaintext")?;
                Ok(self.encrypt(input["plaintext"].as_str().ok_or("missing plaintext to encrypt")?, &context))
            }
            "decrypt" => Ok(json!({"plaintext": self.decrypt(input, &context)?})),
            _ => Ok(self.encrypt(&self.decrypt(input, &context)?, &context)),
        }
    }

    fn cipher(&self, version: usize, context: &[u8]) -> Result<LessSafeKey, String> {
        let key = version
            .checked_sub(1)
            .and_then(|index| self.versions.get(index))
            .ok_or("invalid ciphertext: no such version")?;
        let mut bytes = *key;
        if self.derived {
            let secret = Salt::new(HKDF_SHA256, &[]).extract(key);
            secret.expand(&[context], HKDF_SHA256).unwrap().fill(&mut bytes).unwrap();
        }
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).unwrap()))
    }

    fn encrypt(&self, plaintext: &str, context: &[u8]) -> Value {
        let version = self.versions.len();
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).unwrap();
        let mut sealed = STANDARD.decode(plaintext).unwrap();
        let key = self.cipher(version, context).unwrap();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).unwrap();
        let ciphertext = format!("vault:v{version}:{}", STANDARD.encode([nonce.as_slice(), &sealed].concat()));
        json!({"ciphertext": ciphertext, "key_version": version})
    }

    fn decrypt(&self, input: &Value, context: &[u8]) -> Result<String, String> {
        let invalid = || "invalid ciphertext: no prefix".to_owned();
        let text = input["ciphertext"].as_str().ok_or("missing ciphertext to decrypt")?;
        let (version, encoded) =
            text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':')).ok_or_else(invalid)?;
        let version: usize = version.parse().map_err(|_| invalid())?;
        if version < self.min_decryption_version {
            return Err("ciphertext or signature version is disallowed by policy (too old)".to_owned());
        }
        let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(invalid)?;
        let mut sealed = sealed.to_vec();
        let plaintext = self
            .cipher(version, context)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed)
            .map_err(|_| "cipher: message authentication failed".to_owned())?;
        Ok(STANDARD.encode(plaintext))
    }
}

/// A credential store: `POST /credentials`, `GET` and `DELETE /credentials/{id}`.
pub(crate) struct CredentialStore {
    server: Server,
    kept: Arc<Mutex<HashMap<String, Value>>>,
}

pub(crate) const STORE_TOKEN: &str = "a-token-of-the-credential-store";

impl CredentialStore {
    pub(crate) fn start() -> Self {
        let kept: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
        let answering = Arc::clone(&kept);
        let server = Server::start(move |seen, wrong| {
            if seen.headers.get("authorization").is_none_or(|value| *value != *format!("Bearer {STORE_TOKEN}")) {
                return json_response(401, &json!({"message": "no valid token"}));
            }
            let mut kept = answering.lock().unwrap();
            let id = seen.path.strip_prefix("/base/credentials/");
            match (seen.verb.as_str(), id) {
                ("POST", None) if seen.path == "/base/credentials" => {
                    let mut document: Value = serde_json::from_slice(&seen.body).unwrap();
                    let id = document["id"].as_str().unwrap().to_owned();
                    if wrong {
                        document["ciphertext"] = json!("bm90IHRoaXM=");
                    }
                    if kept.insert(id.clone(), document).is_some() {
                        return json_response(409, &json!({"message": "there is one already"}));
                    }
                    json_response(201, &json!({ "id": id }))
                }
                ("GET", Some(id)) => match kept.get(id) {
                    Some(document) if wrong => {
                        let mut document = document.clone();
                        document["ciphertext"] = json!("bm90IHRoaXM=");
                        json_response(200, &document)
                    }
                    Some(document) => json_response(200, document),
                    None => json_response(404, &json!({"message": "there is none"})),
                },
                ("DELETE", Some(id)) => {
                    let status = if kept.remove(id).is_some() { 204 } else { 404 };
                    Response::builder().status(status).body(Body::empty()).unwrap()
                }
                _ => json_response(405, &json!({})),
            }
        });
        Self { server, kept }
    }

    /// The environment of a service that uses it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("INTEGRATION_SERVICE_CREDENTIAL_STORE".to_owned(), "http".to_owned()),
            ("INTEGRATION_SERVICE_CREDENTIAL_STORE_URL".to_owned(), format!("{}/base", self.server.url())),
            ("INTEGRATION_SERVICE_CREDENTIAL_STORE_TOKEN".to_owned(), STORE_TOKEN.to_owned()),
        ]
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.server.set_fault(fault);
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        self.server.take_seen()
    }

    pub(crate) fn count(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    /// All that it keeps, as one text.
    pub(crate) fn kept_text(&self) -> String {
        self.kept.lock().unwrap().values().map(Value::to_string).collect()
    }

    /// Loses everything.
    pub(crate) fn clear(&self) {
        self.kept.lock().unwrap().clear();
    }
}
