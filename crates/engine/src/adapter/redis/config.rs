//! What the adapter reads from an instance's config, and how a connection introduces itself.

use std::sync::LazyLock;

use integration_model::Problem;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::own_schema::OwnSchema;
use crate::adapter::server::config::{PoolConfig, TlsConfig, unusable};
use crate::adapter::{CallError, Connection};
use crate::credential::Credential;

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedisConfig {
    pub(super) host: String,
    #[serde(default = "default_port")]
    pub(super) port: u16,
    #[serde(default)]
    pub(super) database: u32,
    #[serde(default = "default_protocol")]
    pub(super) protocol: u8,
    #[serde(default)]
    pub(super) tls: TlsConfig,
    #[serde(default)]
    pub(super) pool: PoolConfig,
    #[serde(default)]
    allow_commands: Vec<String>,
}

const fn default_port() -> u16 {
    6379
}

const fn default_protocol() -> u8 {
    3
}

impl RedisConfig {
    /// All faults of a config.
    pub(super) fn check(config: &Map<String, Value>) -> Vec<Problem> {
        let problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if !problems.is_empty() {
            return problems;
        }
        match Self::parse(config) {
            Ok(config) => config.tls.profile(&config.host, &Credential::None).err().into_iter().collect(),
            Err(problem) => vec![problem],
        }
    }

    fn parse(config: &Map<String, Value>) -> Result<Self, Problem> {
        integration_model::problem::from_value(Value::Object(config.clone()))
    }

    pub(super) fn read(connection: &Connection<'_>) -> Result<Self, CallError> {
        Self::parse(connection.config).map_err(|problem| unusable(&problem))
    }

    /// Whether methods may use a restricted command here.
    pub(super) fn allows(&self, name: &str) -> bool {
        self.allow_commands.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// Who calls, where a credential says.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a SecretString,
}

impl<'a> Login<'a> {
    /// None where the server asks for no password. A credential that cannot be used here is a
    /// problem.
    pub(super) fn of(credential: &'a Credential) -> Result<Option<Self>, Problem> {
        match credential.request_part() {
            Credential::None => Ok(None),
            Credential::Basic { username, password } => Ok(Some(Self { user: username, password })),
            // The user of servers that ask for a password alone.
            Credential::ApiKey { key, .. } => Ok(Some(Self { user: "default", password: key })),
            _ => Err(Problem::new("/data", "expected a password: a credential of type basic or api_key")),
        }
    }
}
