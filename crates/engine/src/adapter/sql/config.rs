//! What the adapters of database servers read from an instance's config.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use integration_model::Problem;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::own_schema::OwnSchema;
use crate::adapter::server::config::{PoolConfig, TlsConfig, unusable};
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
        self.tls.profile(&self.host, credential)
    }

    pub(super) fn ca_certificate(&self) -> Option<&str> {
        self.tls.ca_certificate()
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
