//! Adapters: the code that speaks one protocol. Chosen by a definition's `type`.
//!
//! Adding one: a file here for the code, a line in [`Adapters::with`], an example
//! definition, a test file.

mod config;
pub mod email;
pub mod graphql;
pub mod http;
mod own_schema;
pub mod redis;
mod server;
pub mod soap;
mod sql;
mod storage;
mod template;
pub mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use integration_model::definition::{AuthType, CustomAuth, DefinitionSpec, Method};
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

pub use self::config::Config;
use crate::credential::Credential;
use crate::data::Data;
use crate::http_client::HttpClient;
use crate::network::{Network, NetworkError};
use crate::params::Params;
use crate::stream::ContentStream;

/// What an adapter says of itself.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterDescription {
    #[serde(rename = "type")]
    pub adapter_type: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    pub auth_types: &'static [AuthType],
    /// JSON Schema of a method's `operation`.
    #[schema(value_type = Object)]
    pub operation_schema: Value,
    /// JSON Schema of what the adapter itself reads from an instance's config.
    #[schema(value_type = Object)]
    pub config_schema: Value,
}

impl AdapterDescription {
    /// Whether the adapter's version lies in a range that a definition asks for.
    pub fn satisfies(&self, range: &semver::VersionReq) -> bool {
        semver::Version::parse(self.version).is_ok_and(|version| range.matches(&version))
    }

    /// The versions for which definitions may have been written that this one runs: those of
    /// its major version, up to itself.
    pub fn compatible_with(&self) -> String {
        let major = self.version.split('.').next().unwrap_or_default();
        format!(">={major}.0.0, <={}", self.version)
    }
}

/// Speaks one protocol.
pub trait Adapter: Send + Sync {
    fn describe(&self) -> AdapterDescription;

    /// Reads and checks a method's `operation`; the problems point into the operation
    /// (`/path`, `/query/fields`), all of them at once.
    fn compile(&self, definition: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>>;

    /// What is wrong with an instance's config as far as the adapter reads it.
    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem>;

    /// Whether the adapter can do something with a credential of this kind. The problem points
    /// into the credential (`/data`) and shows no value.
    fn check_credential(&self, _config: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        match credential.request_part() {
            Credential::SigningSecrets(_) => Err(Problem::new(
                "/data/secrets",
                "expected a string, a number or a boolean: only webhooks have a list of secrets",
            )),
            _ => Ok(()),
        }
    }

    /// How deliveries of the external system are verified; none where it is only called, or
    /// where the config does not say.
    fn webhook(&self, _: &Map<String, Value>) -> Option<webhook::Webhook> {
        None
    }

    /// Finds out whether the external system can be reached and takes the credential,
    /// without changing anything there.
    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>>;
}

/// One compiled operation of a method.
pub trait Operation: Send + Sync {
    /// Makes one attempt: sends the request once, reads the answer.
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>>;

    /// The same with content that passes through. Operations without any make nothing of it.
    fn call_with_stream<'a>(
        &'a self,
        call: Call<'a>,
        _: &'a ContentStream,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        self.call(call)
    }

    /// Reads ahead what a call reads of it.
    fn prefetch(&self) {}

    /// Whether a call may bring its content beside the params.
    fn takes_content(&self) -> bool {
        false
    }

    /// The request that [`Operation::call`] would send, secrets redacted; sends nothing.
    fn preview(&self, call: Call<'_>) -> Result<Value, CallError>;

    /// Whether answers come in pages.
    fn is_paginated(&self) -> bool {
        false
    }

    /// Joins the data of several pages into one answer's data.
    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError>;

    /// How much of a rate limit a call takes.
    fn cost(&self) -> Cost {
        Cost::Fixed(1)
    }

    /// Whether the operation names an idempotency header, so that the upstream tells
    /// repeated attempts apart.
    fn sends_idempotency_key(&self) -> bool {
        false
    }
}

/// The way to an external system: what an instance brings to each call.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// Whose connections may be kept.
    pub instance: &'a InstanceId,
    pub config: &'a Config,
    pub credential: &'a Credential,
    /// Where the fields of a custom credential go.
    pub custom_auth: Option<&'a CustomAuth>,
    pub http: &'a HttpClient,
    pub deadline: Instant,
    /// What the service's clock says, for requests that carry a time.
    pub now: Timestamp,
}

impl<'a> Connection<'a> {
    /// The way out for what is no HTTP.
    pub fn network(&self) -> &'a Arc<Network> {
        self.http.network()
    }
}

/// One attempt at an operation.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub connection: Connection<'a>,
    pub params: &'a Params,
    /// Goes with every attempt where the operation names a header for it.
    pub idempotency_key: &'a str,
    /// W3C trace context to pass on.
    pub traceparent: Option<&'a str>,
    /// Where to go on reading a paginated answer; the first page without.
    pub page: Option<&'a PageCursor>,
}

/// Where the next page of a paginated answer begins; opaque outside its adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCursor(pub String);

/// What came back from an attempt that succeeded.
#[derive(Debug)]
pub struct Answer {
    pub data: Data,
    pub upstream_status: Option<u16>,
    /// The next page, where there is one.
    pub next_page: Option<PageCursor>,
    pub limits: UpstreamLimits,
    /// What is missing from the data although the upstream answered; they point into `data`.
    pub warnings: Vec<Problem>,
}

/// How much of a rate limit a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    Fixed(u32),
    /// What the last answers said that they took ([`UpstreamLimits::cost`]); 1 before the first.
    Learned,
}

/// What the upstream said of its own limits (`RateLimit-*`, `X-RateLimit-*`, `Retry-After`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamLimits {
    pub remaining: Option<u64>,
    pub reset_after: Option<Duration>,
    pub retry_after: Option<Duration>,
    /// What the call took of them, where calls differ.
    pub cost: Option<u32>,
}

/// Whether the external system may have acted on a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request surely did not reach it, or it said that it did nothing.
    None,
    /// It answered; what it did is in its answer.
    Answered,
    /// The request was sent and no complete answer came.
    Unknown,
}

/// Why an attempt failed: facts; whether to try again is decided in one place (`policy::retry`).
#[derive(Debug, Clone)]
pub struct CallError {
    pub code: ErrorCode,
    /// What happened, in a sentence, without secrets.
    pub message: String,
    /// More facts: `upstreamStatus`, `excerpt`, `address`, … without secrets.
    pub details: BTreeMap<&'static str, Value>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    pub effect: Effect,
    /// Whether the fault is the upstream's, so that the circuit breaker counts it.
    pub upstream_failed: bool,
    /// Whether the upstream refused the credential (401, or 403 where mapped so).
    pub credential_refused: bool,
    pub upstream_status: Option<u16>,
    pub limits: UpstreamLimits,
}

impl CallError {
    /// An error before anything was sent, which trying again does not mend.
    pub fn not_sent(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: BTreeMap::new(),
            retryable: false,
            effect: Effect::None,
            upstream_failed: false,
            credential_refused: false,
            upstream_status: None,
            limits: UpstreamLimits::default(),
        }
    }

    #[must_use]
    pub fn with_detail(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.insert(name, value.into());
        self
    }
}

impl CallError {
    /// Takes the credential's secrets out of what the external system said: some repeat what
    /// they were told.
    #[must_use]
    pub fn redacted(mut self, credential: &Credential) -> Self {
        for value in self.details.values_mut() {
            let redacted = credential.redact(&value.to_string());
            *value = serde_json::from_str(&redacted).unwrap_or(Value::String(redacted));
        }
        self
    }
}

impl From<NetworkError> for CallError {
    fn from(error: NetworkError) -> Self {
        (&error).into()
    }
}

impl From<&NetworkError> for CallError {
    fn from(error: &NetworkError) -> Self {
        let failure = |code, retryable| Self {
            retryable,
            upstream_failed: true,
            ..Self::not_sent(code, crate::network::chain(error))
        };
        match error {
            NetworkError::EgressDenied { host, address } => Self::not_sent(ErrorCode::EgressDenied, error.to_string())
                .with_detail("host", host.as_str())
                .with_detail("address", address.to_string()),
            NetworkError::TimedOut => failure(ErrorCode::Timeout, true).with_detail("phase", "connecting"),
            NetworkError::Resolve { .. } | NetworkError::Connect { .. } => failure(ErrorCode::Upstream, true),
            // A certificate does not become valid by asking again.
            NetworkError::Tls { .. } => failure(ErrorCode::Upstream, false),
        }
    }
}

/// What the operator says to adapters.
#[derive(Debug, Clone, Default)]
pub struct AdapterSettings {
    /// The folder that SQLite files are in; without one, none is opened.
    pub sqlite_folder: Option<PathBuf>,
    /// The folder that instances of storage may keep objects in; without one, none is kept.
    pub storage_folder: Option<PathBuf>,
}

/// The adapters that this service has, by type; cheap to clone.
#[derive(Clone)]
pub struct Adapters {
    by_type: BTreeMap<&'static str, Arc<dyn Adapter>>,
}

impl Adapters {
    /// Those that need no word of the operator do all they can; the others say what they lack.
    pub fn built_in() -> Self {
        Self::with(&AdapterSettings::default())
    }

    pub fn with(settings: &AdapterSettings) -> Self {
        let adapters: [Arc<dyn Adapter>; 7] = [
            Arc::new(email::EmailAdapter::default()),
            Arc::new(http::HttpAdapter::new()),
            Arc::new(graphql::GraphqlAdapter::new()),
            Arc::new(redis::RedisAdapter::default()),
            Arc::new(soap::SoapAdapter::new()),
            Arc::new(storage::StorageAdapter::new(settings.storage_folder.clone())),
            Arc::new(webhook::WebhookAdapter),
        ];
        adapters.into_iter().chain(sql::adapters(settings)).collect()
    }

    pub fn get(&self, adapter_type: &str) -> Option<&Arc<dyn Adapter>> {
        self.by_type.get(adapter_type)
    }

    pub fn types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.by_type.keys().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Adapter>> + '_ {
        self.by_type.values()
    }
}

/// These adapters and no others.
impl FromIterator<Arc<dyn Adapter>> for Adapters {
    fn from_iter<T: IntoIterator<Item = Arc<dyn Adapter>>>(adapters: T) -> Self {
        let by_type = adapters.into_iter().map(|adapter| (adapter.describe().adapter_type, adapter));
        Self { by_type: by_type.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_compatible_with_its_major_version_up_to_itself() {
        for adapter in Adapters::built_in().iter() {
            let description = adapter.describe();
            let version = semver::Version::parse(description.version).expect("a semantic version");
            let range = semver::VersionReq::parse(&description.compatible_with()).expect("a range");
            assert!(range.matches(&version) && description.satisfies(&range), "{}", description.adapter_type);
            let (newer, older) = (
                semver::Version { minor: version.minor + 1, ..version.clone() },
                semver::Version::new(version.major, 0, 0),
            );
            assert!(!range.matches(&newer) && range.matches(&older), "{}", description.adapter_type);
        }
    }
}
