//! What the adapters of database servers read from an instance's config.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use integration_model::{ErrorCode, Problem};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::own_schema::OwnSchema;
use crate::adapter::{CallError, Connection};
use crate::credential::Credential;
use crate::network::TlsProfile;

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("server.config.schema.json")));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerConfig {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) database: String,
    user: Option<String>,
    #[serde(default)]
    tls: TlsConfig,
    #[serde(default)]
    pub(super) pool: PoolConfig,
    #[serde(default = "default_statement_timeout")]
    statement_timeout_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlsConfig {
    mode: Option<TlsMode>,
    ca_certificate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TlsMode {
    VerifyFull,
    Disable,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PoolConfig {
    pub(super) max_connections: usize,
    idle_timeout_ms: u64,
    acquire_timeout_ms: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { max_connections: 10, idle_timeout_ms: 60_000, acquire_timeout_ms: 5_000 }
    }
}

impl PoolConfig {
    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(super) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }
}

const fn default_statement_timeout() -> u64 {
    30_000
}

/// How a connection introduces itself.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Option<SecretString>,
}

impl ServerConfig {
    /// All faults of a config.
    pub(super) fn check(config: &Map<String, Value>) -> Vec<Problem> {
        let problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if !problems.is_empty() {
            return problems;
        }
        match Self::parse(config) {
            Ok(config) => config.tls_profile(&Credential::None).err().into_iter().collect(),
            Err(problem) => vec![problem],
        }
    }

    fn parse(config: &Map<String, Value>) -> Result<Self, Problem> {
        integration_model::problem::from_value(Value::Object(config.clone()))
    }

    pub(super) fn read(connection: &Connection<'_>) -> Result<Self, CallError> {
        Self::parse(connection.config).map_err(|problem| unusable(&problem))
    }

    /// The TLS to speak; none where it is switched off.
    pub(super) fn tls_profile(&self, credential: &Credential) -> Result<Option<Arc<TlsProfile>>, Problem> {
        let mode = self.tls.mode.unwrap_or(if self.is_loopback() { TlsMode::Disable } else { TlsMode::VerifyFull });
        if mode == TlsMode::Disable {
            return Ok(None);
        }
        let identity = credential.client_identity().cloned();
        TlsProfile::new(self.tls.ca_certificate.as_deref(), identity)
            .map(|profile| Some(Arc::new(profile)))
            .map_err(|error| Problem::new("/tls/caCertificate", error.to_string()))
    }

    pub(super) fn ca_certificate(&self) -> Option<&str> {
        self.tls.ca_certificate.as_deref()
    }

    fn is_loopback(&self) -> bool {
        let host = self.host.as_str();
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn login(&self, credential: &Credential) -> Result<Login, CallError> {
        match credential.request_part() {
            Credential::Basic { username, password } => {
                Ok(Login { user: username.clone(), password: Some(password.clone()) })
            }
            _ => match &self.user {
                Some(user) => Ok(Login { user: user.clone(), password: None }),
                None => Err(unusable(&Problem::new("/user", "expected a user: the credential names none"))),
            },
        }
    }

    pub(super) fn statement_timeout(&self, of_operation: Option<Duration>) -> Duration {
        of_operation.unwrap_or(Duration::from_millis(self.statement_timeout_ms))
    }
}

pub(super) fn unusable(problem: &Problem) -> CallError {
    CallError::not_sent(ErrorCode::InstanceNotReady, format!("the instance's config is not usable: {problem}"))
}

/// Tells configs and credentials apart; says nothing about the secret.
pub(super) fn fingerprint(connection: &Connection<'_>) -> [u8; 32] {
    let mut text = zeroize::Zeroizing::new(serde_json::to_vec(connection.config).unwrap_or_default());
    text.push(0);
    if let Credential::Basic { username, password } = connection.credential.request_part() {
        text.extend_from_slice(username.as_bytes());
        text.push(0);
        text.extend_from_slice(password.expose_secret().as_bytes());
    }
    text.push(0);
    if let Some(identity) = connection.credential.client_identity() {
        text.extend_from_slice(identity.fingerprint());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, &text).as_ref());
    bytes
}
