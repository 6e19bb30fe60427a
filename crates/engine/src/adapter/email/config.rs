//! What the adapter reads from an instance's config.

use std::sync::{Arc, LazyLock};

use integration_model::{ErrorCode, Problem};
use lettre::message::Mailbox;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::message::mailbox;
use crate::adapter::own_schema::OwnSchema;
use crate::adapter::server::config::{PoolConfig, is_loopback, unusable};
use crate::adapter::{CallError, Connection};
use crate::credential::Credential;
use crate::network::TlsProfile;

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EmailConfig {
    pub(super) host: String,
    port: Option<u16>,
    #[serde(default)]
    tls: TlsSettings,
    user: Option<String>,
    from: Option<String>,
    #[serde(default = "default_helo_name")]
    pub(super) helo_name: String,
    #[serde(default)]
    pub(super) pool: PoolConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlsSettings {
    mode: Option<TlsMode>,
    ca_certificate: Option<String>,
}

/// When a connection begins to speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TlsMode {
    Implicit,
    StartTls,
    Disable,
}

fn default_helo_name() -> String {
    "[127.0.0.1]".to_owned()
}

/// How a connection proves who calls.
pub(super) enum Login<'a> {
    Password { user: &'a str, password: &'a SecretString },
    Token { user: &'a str, token: &'a SecretString },
}

impl EmailConfig {
    /// All faults of a config.
    pub(super) fn check(config: &Map<String, Value>) -> Vec<Problem> {
        let problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if !problems.is_empty() {
            return problems;
        }
        match Self::parse(config) {
            Err(problem) => vec![problem],
            Ok(config) => {
                let from = config.sender().err();
                from.into_iter().chain(config.profile(&Credential::None).err()).collect()
            }
        }
    }

    fn parse(config: &Map<String, Value>) -> Result<Self, Problem> {
        integration_model::problem::from_value(Value::Object(config.clone()))
    }

    pub(super) fn read(connection: &Connection<'_>) -> Result<Self, CallError> {
        Self::parse(connection.config).map_err(|problem| unusable(&problem))
    }

    pub(super) fn tls_mode(&self) -> TlsMode {
        self.tls.mode.unwrap_or(match self.port {
            Some(465) => TlsMode::Implicit,
            _ if is_loopback(&self.host) => TlsMode::Disable,
            _ => TlsMode::StartTls,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls_mode() {
            TlsMode::Implicit => 465,
            TlsMode::StartTls => 587,
            TlsMode::Disable => 25,
        })
    }

    pub(super) fn profile(&self, credential: &Credential) -> Result<Arc<TlsProfile>, Problem> {
        let identity = credential.client_identity().cloned();
        TlsProfile::new(self.tls.ca_certificate.as_deref(), identity)
            .map(Arc::new)
            .map_err(|error| Problem::new("/tls/caCertificate", error.to_string()))
    }

    /// The sender of messages that name none.
    pub(super) fn sender(&self) -> Result<Option<Mailbox>, Problem> {
        let from = self.from.as_deref().map(mailbox).transpose();
        from.map_err(|expected| Problem::new("/from", expected))
    }

    pub(super) fn login<'a>(&'a self, credential: &'a Credential) -> Result<Option<Login<'a>>, CallError> {
        let token = match credential.request_part() {
            Credential::None => return Ok(None),
            Credential::Basic { username, password } => {
                return Ok(Some(Login::Password { user: username, password }));
            }
            Credential::OAuth2(token) => &token.access_token,
            Credential::Jwt { token, .. } => token,
            _ => {
                let message = "the credential cannot be used: expected basic, oauth2 or jwt";
                return Err(CallError::not_sent(ErrorCode::Auth, message));
            }
        };
        match &self.user {
            Some(user) => Ok(Some(Login::Token { user, token })),
            None => Err(unusable(&Problem::new("/user", "expected the mailbox that the token is for"))),
        }
    }
}
