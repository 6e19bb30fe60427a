//! The services that this one depends on, reached over HTTP: the key service and the
//! credential store.
//!
//! Owns: one bounded call with retry and circuit breaker, and the token that goes with it.
//! Must not know: what the store does with what they give. Their addresses are the
//! operator's word: the one host of each is allowed whatever its address, and no other.

mod credential_store;
mod token;
mod transit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use integration_model::definition::CircuitBreakerConfig;
use integration_store::ServiceError;
use metrics::{counter, gauge};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use credential_store::HttpCredentialStore;
pub use token::TokenSource;
pub use transit::{TransitKeyService, TransitSettings, is_key_name};

use crate::http_client::{HttpClient, HttpClientSettings, OutboundRequest, RedirectMode, RedirectPolicy};
use crate::network::{ClientIdentity, EgressPolicy, TlsProfile};
use crate::policy::circuit_breaker::{CircuitBreaker, State, Transition};
use token::Token;

/// The most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// The most characters of an answer that go into an error.
const MAX_EXCERPT: usize = 200;
/// The most bytes of a file with certificates or a key.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// How a dependency is reached.
#[derive(Debug, Clone)]
pub struct DependencySettings {
    /// `http` or `https`, perhaps with a path that goes before those of the service.
    pub address: Uri,
    pub token: Option<TokenSource>,
    /// Authorities to trust besides the usual ones, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show, and its private key, in PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Of one try.
    pub timeout: Duration,
    /// How many pools of connections there are: one for each thread that sends.
    pub shards: usize,
}

/// A dependency cannot be set up as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDependency {
    #[error("{0}")]
    Setting(String),
    #[error("{} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {expected}", path.display())]
    Content { path: PathBuf, expected: String },
    #[error("outbound TLS cannot be set up")]
    Tls(#[from] crate::network::TlsUnavailable),
}

/// How often failed tries are repeated and when calls are kept back, by kind of interface.
struct Resilience {
    max_retries: u32,
    /// Before the first repetition; doubled before each further one.
    initial_delay: Duration,
    circuit_breaker: CircuitBreakerConfig,
}

/// How long calls are kept from a service that failed, before one of them tries again.
const OPEN_MS: u64 = 5_000;

/// Of internal service calls: 200 ms ×2, 3 retries, 5 failures in 20 s.
const SERVICE_CALLS: Resilience = Resilience {
    max_retries: 3,
    initial_delay: Duration::from_millis(200),
    circuit_breaker: CircuitBreakerConfig {
        failure_threshold: 5,
        window_ms: 20_000,
        open_ms: OPEN_MS,
        half_open_max_calls: 1,
    },
};

/// Of the credential store: 100 ms ×2, 5 retries, 3 failures in 10 s.
const CREDENTIAL_STORE: Resilience = Resilience {
    max_retries: 5,
    initial_delay: Duration::from_millis(100),
    circuit_breaker: CircuitBreakerConfig {
        failure_threshold: 3,
        window_ms: 10_000,
        open_ms: OPEN_MS,
        half_open_max_calls: 1,
    },
};

/// Calls one dependency.
struct DependencyClient {
    /// `key_service`, as metrics name it.
    name: &'static str,
    address: String,
    host: String,
    token: Option<Token>,
    /// The header that carries the token, and what stands before it.
    token_header: (HeaderName, &'static str),
    headers: HeaderMap,
    profile: Option<Arc<TlsProfile>>,
    timeout: Duration,
    resilience: Resilience,
    breaker: CircuitBreaker,
    http: HttpClient,
}

/// One request to a dependency.
struct Request {
    method: Method,
    /// Percent-encoded, from its first `/` on.
    path: String,
    /// JSON; wiped after use, for it may hold keys.
    body: Option<Zeroizing<Vec<u8>>>,
    headers: HeaderMap,
    /// Whether a failed try is repeated. Every request here may be made twice.
    retried: bool,
}

/// A definite answer: no redirect, and no status that says to come back later.
struct Answer {
    status: StatusCode,
    body: Bytes,
    /// What an answer that is no success says, for an error.
    excerpt: String,
}

impl Request {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None, headers: HeaderMap::new(), retried: true }
    }

    fn json(self, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("plain data becomes JSON");
        Self { body: Some(Zeroizing::new(body)), ..self }
    }
}

impl Answer {
    /// The body as a `T`, which what answers wrongly may not be: `what` says what was wanted.
    fn json<T: DeserializeOwned>(&self, what: &str) -> Result<T, ServiceError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| ServiceError::Unavailable(format!("the answer ({}) is not {what}", self.status)))
    }
}

impl DependencyClient {
    fn new(
        name: &'static str,
        settings: DependencySettings,
        token_header: (HeaderName, &'static str),
        resilience: Resilience,
    ) -> Result<Self, InvalidDependency> {
        let invalid = |expected: &str| InvalidDependency::Setting(expected.to_owned());
        let address = &settings.address;
        let host = address.host().ok_or_else(|| invalid("expected a URL with a host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let policy = EgressPolicy::parse([host.as_str()]).map_err(|_| invalid("expected a host name or an address"))?;
        let http = HttpClient::new(
            HttpClientSettings {
                connect_timeout: settings.timeout,
                shards: settings.shards,
                max_idle_per_host: 8,
                max_response_bytes: MAX_ANSWER_BYTES,
                ..HttpClientSettings::default()
            },
            policy,
        )?;
        let breaker = CircuitBreaker::new(&resilience.circuit_breaker, Instant::now());
        Ok(Self {
            name,
            address: address.to_string().trim_end_matches('/').to_owned(),
            host,
            token: settings.token.map(Token::new),
            token_header,
            headers: HeaderMap::new(),
            profile: tls_profile(settings.ca_file.as_ref(), settings.client_certificate.as_ref())?,
            timeout: settings.timeout,
            resilience,
            breaker,
            http,
        })
    }

    /// Makes a call: tries until one gets a definite answer, or until trying on makes no
    /// sense. While the breaker is open, none is made.
    async fn call(&self, request: &Request) -> Result<Answer, ServiceError> {
        let ticket = self.breaker.acquire(Instant::now()).map_err(|_| {
            self.count("kept_back");
            ServiceError::Unavailable(format!("{} failed too often a moment ago, and is left alone", self.host))
        })?;
        let result = self.try_until_answered(request).await;
        let transition = match &result {
            Err(error) if error.is_unavailable() => ticket.failure(Instant::now()),
            // It lives, if only to refuse.
            _ => ticket.success(Instant::now()),
        };
        match transition {
            Some(Transition::Opened { failures }) => {
                self.show_breaker(State::Open);
                tracing::warn!(dependency = self.name, failures, "calls are kept from a dependency that fails");
            }
            Some(Transition::Closed) => self.show_breaker(State::Closed),
            _ => {}
        }
        result
    }

    async fn try_until_answered(&self, request: &Request) -> Result<Answer, ServiceError> {
        let mut delay = self.resilience.initial_delay;
        let mut retries_left = if request.retried { self.resilience.max_retries } else { 0 };
        loop {
            let result = self.attempt(request).await;
            self.count(if result.as_ref().is_err_and(ServiceError::is_unavailable) {
                "unavailable"
            } else {
                "answered"
            });
            match result {
                Err(error) if error.is_unavailable() && retries_left > 0 => {
                    tracing::debug!(dependency = self.name, error = %error, "a dependency failed; it is tried again");
                }
                result => return result,
            }
            tokio::time::sleep(delay).await;
            retries_left -= 1;
            delay *= 2;
        }
    }

    async fn attempt(&self, request: &Request) -> Result<Answer, ServiceError> {
        let token = match &self.token {
            Some(token) => Some(token.read().await?),
            None => None,
        };
        let refused = |what: String| ServiceError::Refused(what);
        let url = format!("{}{}", self.address, request.path);
        let url = url.parse().map_err(|_| refused("the address and the path make no URL".to_owned()))?;
        let mut headers = self.headers.clone();
        headers.extend(request.headers.clone());
        if let Some(token) = &token {
            let (name, scheme) = &self.token_header;
            let text = Zeroizing::new(format!("{scheme}{}", token.expose()));
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| refused("the token holds what cannot go into a header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        if request.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let outbound = OutboundRequest {
            method: request.method.clone(),
            url,
            headers,
            body: request.body.clone().map(Bytes::from_owner).unwrap_or_default(),
            profile: self.profile.clone(),
            redirects: RedirectPolicy { mode: RedirectMode::None, max_hops: 0 },
            max_response_bytes: MAX_ANSWER_BYTES,
            repeatable: true,
            fresh_connection: false,
        };
        let response = self
            .http
            .send(outbound, Instant::now() + self.timeout)
            .await
            .map_err(|error| ServiceError::Unavailable(format!("{}: {}", self.host, error.chain())))?;
        let (status, body) = (response.status, response.body);
        if status.is_redirection() {
            return Err(refused(format!(
                "{} answered with a redirect ({status}), which is not followed: expected an address that answers itself",
                self.host
            )));
        }
        let excerpt = if status.is_success() { String::new() } else { excerpt(&body, token.as_ref()) };
        if comes_back_later(status) {
            return Err(ServiceError::Unavailable(format!("{} answered {status}{excerpt}", self.host)));
        }
        Ok(Answer { status, body, excerpt })
    }

    /// A definite answer that is no success, as an error.
    fn refusal(&self, answer: &Answer) -> ServiceError {
        ServiceError::Refused(format!("{} answered {}{}", self.host, answer.status, answer.excerpt))
    }

    fn count(&self, outcome: &'static str) {
        counter!("integration_dependency_requests_total", "dependency" => self.name, "outcome" => outcome).increment(1);
    }

    fn show_breaker(&self, state: State) {
        let value = if state == State::Closed { 0.0 } else { 2.0 };
        gauge!("integration_dependency_circuit_breaker_state", "dependency" => self.name).set(value);
    }
}

/// What an answer says, in one bounded line, the token taken out.
fn excerpt(body: &[u8], token: Option<&token::Secret>) -> String {
    let mut text = errors_in(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    if let Some(token) = token.filter(|token| !token.expose().is_empty()) {
        text = text.replace(token.expose(), crate::credential::REDACTED);
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_EXCERPT).collect();
    if line.trim().is_empty() { String::new() } else { format!(": {}", line.trim()) }
}

/// A fault of the service's own, or one of its words for a node that does not serve now:
/// 412 (not caught up yet), 472 and 473 (standby) are those of transit services.
fn comes_back_later(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status.as_u16(), 408 | 412 | 425 | 429 | 472 | 473)
}

/// The texts of `{"errors": ["…"]}`.
fn errors_in(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    serde_json::from_slice::<Errors>(body).ok().map(|body| body.errors.join("; "))
}

fn tls_profile(
    ca_file: Option<&PathBuf>,
    client_certificate: Option<&(PathBuf, PathBuf)>,
) -> Result<Option<Arc<TlsProfile>>, InvalidDependency> {
    if ca_file.is_none() && client_certificate.is_none() {
        return Ok(None);
    }
    let identity = match client_certificate {
        None => None,
        Some((certificate, key)) => {
            let identity = ClientIdentity::from_pem(&read_pem(certificate)?, &read_pem(key)?).map_err(|error| {
                let path = if error.field() == "certificate" { certificate } else { key };
                InvalidDependency::Content { path: path.clone(), expected: error.to_string() }
            })?;
            Some(Arc::new(identity))
        }
    };
    let authorities = ca_file.map(read_pem).transpose()?;
    let profile = TlsProfile::new(authorities.as_ref().map(|pem| pem.as_str()), identity).map_err(|error| {
        InvalidDependency::Content { path: ca_file.cloned().unwrap_or_default(), expected: error.to_string() }
    })?;
    Ok(Some(Arc::new(profile)))
}

fn read_pem(path: &PathBuf) -> Result<Zeroizing<String>, InvalidDependency> {
    use std::io::Read as _;
    let file_error = |source| InvalidDependency::File { path: path.clone(), source };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(file_error)?;
    file.take(MAX_PEM_BYTES).read_to_string(&mut text).map_err(file_error)?;
    Ok(text)
}
