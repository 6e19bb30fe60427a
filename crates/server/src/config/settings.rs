//! The service's settings, as `defaults.yaml` documents them. Owns their types and the
//! rules between them. Must not know where a value came from.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use integration_engine::network::EgressPolicy;
use integration_engine::oauth::ReturnUrls;
use integration_model::Problem;
use integration_model::definition::{CircuitBreakerConfig, RetryConfig};
use serde::{Deserialize, Deserializer};

use super::access::AccessConfig;
use super::custody::{CredentialStoreConfig, MasterKeySource, VaultConfig};
use super::secret::Secret;
use super::tls::TlsConfig;
use crate::browsers::check_origins;
use crate::tls::Tls;

/// The settings of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub log: LogConfig,
    /// Where the embedded database, the master key and the admin key live.
    pub data_dir: PathBuf,
    pub event_bus: String,
    pub coordination: String,
    pub database: DatabaseConfig,
    pub vault: VaultConfig,
    pub credential_store: CredentialStoreConfig,
    pub credentials: CredentialsConfig,
    pub access: AccessConfig,
    pub oauth: OAuthConfig,
    pub http: HttpConfig,
    pub adapters: AdaptersConfig,
    pub execution: ExecutionConfig,
    pub cache: CacheConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerConfig {
    /// An IP address or `localhost`.
    pub host: String,
    pub port: u16,
    pub tls: TlsConfig,
    pub tls_terminated_by_proxy: bool,
    /// Where people and authorization servers reach the service; none is its own address.
    pub public_url: Option<String>,
    /// The origins whose scripts may call.
    pub cors_origins: Vec<String>,
    pub max_request_bytes: usize,
    pub max_stream_bytes: u64,
    pub max_connections: usize,
    pub request_header_timeout_ms: u64,
    pub request_body_timeout_ms: u64,
    pub response_write_timeout_ms: u64,
    pub shutdown_timeout_ms: u64,
    /// 0 is one for each core.
    pub workers: usize,
}

impl ServerConfig {
    pub fn request_header_timeout(&self) -> Duration {
        Duration::from_millis(self.request_header_timeout_ms)
    }

    pub fn request_body_timeout(&self) -> Duration {
        Duration::from_millis(self.request_body_timeout_ms)
    }

    /// How long a caller may take nothing of its answer.
    pub fn response_write_timeout(&self) -> Duration {
        Duration::from_millis(self.response_write_timeout_ms)
    }

    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }

    /// The address to listen on; `None` where the host is neither an address nor `localhost`.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        parse_host(&self.host).map(|address| (address, self.port).into())
    }

    /// Where people reach the service, which listens on `address`; without a slash at its end.
    pub fn public_url(&self, address: std::net::SocketAddr) -> String {
        let given = self.public_url.as_deref().and_then(|text| public_url(text).ok());
        given.unwrap_or_else(|| format!("{}://{address}", self.scheme()))
    }

    /// `https` where the service itself ends TLS.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_on() { "https" } else { "http" }
    }

    fn is_loopback(&self) -> bool {
        parse_host(&self.host).is_some_and(|address| address.is_loopback())
    }
}

fn parse_host(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// The least grave lines that are logged; read in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.to_ascii_lowercase().as_str() {
            "error" | "critical" | "fatal" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(serde::de::Error::custom("expected error, warn, info, debug or trace")),
        }
    }
}

/// How log lines look; read in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl<'de> Deserialize<'de> for LogFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(serde::de::Error::custom("expected json or text")),
        }
    }
}

/// How the log is made sure of before an answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalSyncSetting {
    Normal,
    Full,
}

impl From<JournalSyncSetting> for integration_store::JournalSync {
    fn from(setting: JournalSyncSetting) -> Self {
        match setting {
            JournalSyncSetting::Normal => Self::Normal,
            JournalSyncSetting::Full => Self::Full,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseConfig {
    /// A PostgreSQL URL may hold a password.
    url: Option<Secret>,
    pub max_connections: u32,
    pub journal_sync: JournalSyncSetting,
    pub execution_retention_days: u32,
    pub event_retention_days: u32,
    pub audit_retention_days: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsConfig {
    pub rotation_reminder_days: u32,
}

/// Connections that people make.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuthConfig {
    /// Where people may be sent after a connection.
    pub return_urls: Vec<String>,
}

impl OAuthConfig {
    /// The list, of which [`Config::check`] has found that it is one.
    pub fn return_urls(&self) -> ReturnUrls {
        ReturnUrls::parse(self.return_urls.iter().map(String::as_str)).unwrap_or_default()
    }
}

/// Calls to external systems.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpConfig {
    pub connect_timeout_ms: u64,
    pub max_response_bytes: usize,
    pub pool_idle_timeout_ms: u64,
    pub max_idle_per_host: usize,
    /// CIDRs, addresses and host names beyond the public internet that may be called.
    pub egress_allow: Vec<String>,
}

/// What adapters may reach of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptersConfig {
    pub sqlite: SqliteAdapterConfig,
    pub storage: StorageAdapterConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqliteAdapterConfig {
    /// The folder of the files that instances may open; none opens no file.
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageAdapterConfig {
    /// The folder that instances may keep objects in; none keeps none.
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecutionConfig {
    pub default_timeout_ms: u64,
    pub max_timeout_ms: u64,
    pub max_concurrent: usize,
    pub async_workers: usize,
    pub lease_ms: u64,
    /// For methods that bring none; none repeats nothing.
    pub retry: Option<RetryConfig>,
    /// For methods that bring none.
    pub circuit_breaker: CircuitBreakerConfig,
    pub max_pages: u32,
    pub keep_params: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheConfig {
    pub max_bytes: u64,
}

/// The longest duration that a setting may name: a day.
const MAX_DURATION_MS: u64 = 86_400_000;

/// The longest deadline that a definition may name.
const MAX_TIMEOUT_MS: u64 = 600_000;

const MIN_ADMIN_KEY_LENGTH: usize = 20;

impl Config {
    /// The database: as given, or the embedded one in the data folder.
    pub fn database_url(&self) -> Secret {
        match &self.database.url {
            Some(url) => url.clone(),
            None => Secret::new(format!("sqlite://{}", self.data_dir.join("integration.db").display())),
        }
    }

    fn uses_postgres(&self) -> bool {
        self.database.url.as_ref().is_some_and(|url| is_postgres(url.expose()))
    }

    pub fn master_key_source(&self) -> MasterKeySource {
        match (&self.vault.master_key, &self.vault.master_key_file) {
            (Some(key), _) => MasterKeySource::Env(key.clone()),
            (None, Some(file)) => MasterKeySource::File(file.clone()),
            (None, None) => MasterKeySource::DataDirFile(self.data_dir.join("master.key")),
        }
    }

    /// Where the store's spool is; nowhere beside a database in memory, which does not outlive
    /// the process either. Named by what it held first, so that an upgrade finds what was left.
    pub fn spool_folder(&self) -> Option<PathBuf> {
        let is_in_memory = self
            .database
            .url
            .as_ref()
            .is_some_and(|url| url.expose().contains(":memory:") || url.expose().contains("mode=memory"));
        (!is_in_memory).then(|| self.data_dir.join("audit"))
    }

    /// The file of the admin key that is made where none is given.
    pub fn admin_key_file(&self) -> PathBuf {
        self.data_dir.join("admin.key")
    }

    /// The rules that types alone cannot keep: every breach, not the first.
    pub(crate) fn check(&self) -> Vec<Problem> {
        let mut problems = self.check_server();
        problems.extend(self.access.check(self.server.tls.takes_client_certificates()));
        problems.extend(check_origins(&self.server.cors_origins));
        problems.extend(self.check_parts());
        problems.extend(self.check_ranges());
        problems.extend(self.execution.circuit_breaker.check("/execution/circuitBreaker"));
        problems.extend(self.execution.retry.iter().flat_map(|retry| retry.check("/execution/retry")));
        for (index, entry) in self.http.egress_allow.iter().enumerate() {
            if EgressPolicy::parse([entry.as_str()]).is_err() {
                problems.push(Problem::new(
                    format!("/http/egressAllow/{index}"),
                    "expected a CIDR (10.0.0.0/8), an address, or a host name (*.example.com for all below one)",
                ));
            }
        }
        for (index, entry) in self.oauth.return_urls.iter().enumerate() {
            if let Err(fault) = ReturnUrls::parse([entry.as_str()]) {
                problems.push(Problem::new(format!("/oauth/returnUrls/{index}"), fault.to_string()));
            }
        }
        problems
    }

    fn check_server(&self) -> Vec<Problem> {
        if let Some(Err(problem)) = self.server.public_url.as_deref().map(public_url) {
            return vec![problem];
        }
        if self.server.address().is_none() {
            return vec![Problem::new("/server/host", "expected an IP address or localhost")];
        }
        let tls = &self.server.tls;
        if !self.server.is_loopback() && !tls.is_on() && !self.server.tls_terminated_by_proxy {
            return vec![Problem::new(
                "/server/host",
                "expected a loopback address: keys and data would cross the network unencrypted. Give the service a \
                 certificate (server.tls), or put a proxy that ends TLS in front of it and say so with \
                 server.tlsTerminatedByProxy: true",
            )];
        }
        let problems = tls.check();
        if !problems.is_empty() || !tls.is_on() {
            return problems;
        }
        Tls::load(tls).err().unwrap_or_default()
    }

    fn check_parts(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.event_bus != "embedded" {
            problems.push(Problem::new("/eventBus", "not supported by this version: expected embedded"));
        }
        if self.coordination != "local" {
            problems.push(Problem::new("/coordination", "not supported by this version: expected local"));
        }
        if let Some(url) = &self.database.url
            && !is_postgres(url.expose())
            && !url.expose().starts_with("sqlite:")
        {
            problems
                .push(Problem::new("/database/url", "expected sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME"));
        }
        problems.extend(self.vault.check());
        problems.extend(self.credential_store.check());
        if self.uses_postgres() && !self.vault.names_a_key() {
            problems.push(Problem::new(
                "/database/url",
                "PostgreSQL needs a master key that all replicas share: set INTEGRATION_SERVICE_MASTER_KEY or \
                 INTEGRATION_SERVICE_MASTER_KEY_FILE (`keys generate` makes one), or a key service \
                 (INTEGRATION_SERVICE_TRANSIT_ADDRESS)",
            ));
        }
        if let Some(key) = &self.access.admin_key
            && !is_admin_key(key.expose())
        {
            problems.push(Problem::new(
                "/access/adminKey",
                format!("expected {MIN_ADMIN_KEY_LENGTH} to 512 visible ASCII characters (`keys generate --admin` makes one)"),
            ));
        }
        problems
    }

    fn check_ranges(&self) -> Vec<Problem> {
        let (server, execution) = (&self.server, &self.execution);
        let ranges: &[(&str, u64, u64, u64)] = &[
            ("/server/maxRequestBytes", server.max_request_bytes as u64, 1024, 1 << 30),
            ("/server/maxStreamBytes", server.max_stream_bytes, 1024, 1 << 43),
            ("/server/maxConnections", server.max_connections as u64, 1, 1_000_000),
            ("/server/requestHeaderTimeoutMs", server.request_header_timeout_ms, 1, MAX_DURATION_MS),
            ("/server/requestBodyTimeoutMs", server.request_body_timeout_ms, 1, MAX_DURATION_MS),
            ("/server/responseWriteTimeoutMs", server.response_write_timeout_ms, 1, MAX_DURATION_MS),
            ("/server/shutdownTimeoutMs", server.shutdown_timeout_ms, 0, MAX_DURATION_MS),
            ("/server/workers", server.workers as u64, 0, 1024),
            ("/database/maxConnections", self.database.max_connections.into(), 1, 10_000),
            ("/database/executionRetentionDays", self.database.execution_retention_days.into(), 1, 36_500),
            ("/database/eventRetentionDays", self.database.event_retention_days.into(), 1, 36_500),
            ("/database/auditRetentionDays", self.database.audit_retention_days.into(), 1, 36_500),
            ("/credentials/rotationReminderDays", self.credentials.rotation_reminder_days.into(), 1, 36_500),
            ("/access/failedAttemptsPerMinute", self.access.failed_attempts_per_minute.into(), 1, 1_000_000),
            ("/http/connectTimeoutMs", self.http.connect_timeout_ms, 1, MAX_TIMEOUT_MS),
            ("/http/maxResponseBytes", self.http.max_response_bytes as u64, 1024, 1 << 30),
            ("/http/poolIdleTimeoutMs", self.http.pool_idle_timeout_ms, 0, MAX_DURATION_MS),
            ("/http/maxIdlePerHost", self.http.max_idle_per_host as u64, 0, 100_000),
            ("/execution/maxTimeoutMs", execution.max_timeout_ms, 1, MAX_TIMEOUT_MS),
            ("/execution/defaultTimeoutMs", execution.default_timeout_ms, 1, execution.max_timeout_ms),
            ("/execution/maxConcurrent", execution.max_concurrent as u64, 1, 1_000_000),
            ("/execution/asyncWorkers", execution.async_workers as u64, 1, 10_000),
            ("/execution/leaseMs", execution.lease_ms, 1_000, MAX_TIMEOUT_MS),
            ("/execution/maxPages", execution.max_pages.into(), 1, 100_000),
            ("/cache/maxBytes", self.cache.max_bytes, 0, 1 << 40),
        ];
        ranges
            .iter()
            .copied()
            .chain(self.vault.ranges())
            .chain(self.credential_store.ranges())
            .filter(|(_, value, least, most)| !(least..=most).contains(&value))
            .map(|(pointer, _, least, most)| Problem::new(pointer, format!("expected {least} to {most}")))
            .collect()
    }
}

/// Reads the service's public URL; gives it without a slash at its end.
fn public_url(text: &str) -> Result<String, Problem> {
    let expected = "expected an http or https URL without user information, query and fragment";
    let url = url::Url::parse(text).map_err(|_| Problem::new("/server/publicUrl", expected))?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && matches!(url.scheme(), "http" | "https");
    if !is_plain {
        return Err(Problem::new("/server/publicUrl", expected));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Whether `key` can travel in a header and is too long to be tried out.
pub(crate) fn is_admin_key(key: &str) -> bool {
    (MIN_ADMIN_KEY_LENGTH..=512).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}
