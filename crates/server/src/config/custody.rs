//! The settings of who keeps secrets: the vault's keys, the key service, the credential
//! store. Owns their types and rules. Must not know how they are reached.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use integration_engine::dependency::is_key_name;
use integration_model::Problem;
use serde::Deserialize;
use url::{Host, Url};

use super::secret::Secret;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultConfig {
    pub(super) master_key: Option<Secret>,
    pub(super) master_key_file: Option<PathBuf>,
    transit: TransitConfig,
    pub fallback: FallbackConfig,
}

/// Where the master key comes from.
#[derive(Debug, Clone)]
pub enum MasterKeySource {
    /// Given as text, by the environment or a reference to it.
    Env(Secret),
    /// A file that somebody keeps.
    File(PathBuf),
    /// A file in the data folder, made at the first start.
    DataDirFile(PathBuf),
}

/// The key service; in use where it has an address.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransitConfig {
    address: Option<String>,
    pub mount: String,
    pub key: String,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    pub namespace: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub decrypt_only: bool,
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackConfig {
    pub fresh_ms: u64,
    pub max_age_ms: u64,
    pub max_entries: usize,
}

impl From<FallbackConfig> for integration_store::Fallback {
    fn from(config: FallbackConfig) -> Self {
        Self {
            fresh: Duration::from_millis(config.fresh_ms),
            max_age: Duration::from_millis(config.max_age_ms),
            max_entries: config.max_entries,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialStoreKind {
    Embedded,
    Http,
}

/// Where credentials are kept; the external store is in use where it has a URL.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialStoreConfig {
    pub kind: CredentialStoreKind,
    url: Option<String>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    client_certificate_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    pub timeout_ms: u64,
}

/// The token that a service asks for.
#[derive(Debug, Clone)]
pub enum TokenSetting {
    Given(Secret),
    File(PathBuf),
}

fn token_setting(token: Option<&Secret>, file: Option<&PathBuf>) -> Option<TokenSetting> {
    token.cloned().map(TokenSetting::Given).or_else(|| file.cloned().map(TokenSetting::File))
}

impl VaultConfig {
    /// The key service, where one is in use.
    pub fn transit(&self) -> Option<&TransitConfig> {
        Some(&self.transit).filter(|transit| transit.address.is_some())
    }

    /// The key service, where it wraps what is new.
    pub fn wrapping_transit(&self) -> Option<&TransitConfig> {
        self.transit().filter(|transit| !transit.decrypt_only)
    }

    /// Whether it says under which key new secrets are sealed.
    pub(super) fn names_a_key(&self) -> bool {
        self.master_key.is_some() || self.master_key_file.is_some() || self.wrapping_transit().is_some()
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.master_key.is_some() && self.master_key_file.is_some() {
            problems.push(Problem::new("/vault/masterKeyFile", "expected either a master key or its file, not both"));
        }
        let transit = &self.transit;
        if let Some(address) = &transit.address {
            problems.extend(check_url(address, "/vault/transit/address"));
        }
        if transit.token.is_some() && transit.token_file.is_some() {
            problems.push(Problem::new("/vault/transit/tokenFile", "expected either a token or its file, not both"));
        }
        if !is_key_name(&transit.key) {
            problems.push(Problem::new("/vault/transit/key", format!("expected {KEY_NAME_EXPECTED}")));
        }
        if !transit.mount.split('/').all(is_key_name) {
            let expected = "expected the path where the engine is mounted, without slashes at its ends: transit";
            problems.push(Problem::new("/vault/transit/mount", expected));
        }
        if self.fallback.max_age_ms < self.fallback.fresh_ms {
            problems.push(Problem::new("/vault/fallback/maxAgeMs", "expected no less than freshMs"));
        }
        problems
    }

    pub(super) fn ranges(&self) -> [(&'static str, u64, u64, u64); 4] {
        [
            ("/vault/transit/timeoutMs", self.transit.timeout_ms, 1, MAX_TRY_MS),
            ("/vault/fallback/freshMs", self.fallback.fresh_ms, 0, MAX_FALLBACK_MS),
            ("/vault/fallback/maxAgeMs", self.fallback.max_age_ms, 0, MAX_FALLBACK_MS),
            ("/vault/fallback/maxEntries", self.fallback.max_entries as u64, 1, 1_000_000),
        ]
    }
}

/// The longest time for one try of a call.
const MAX_TRY_MS: u64 = 60_000;
/// The longest time that what a service gave may be used: a week.
const MAX_FALLBACK_MS: u64 = 7 * 86_400_000;

const KEY_NAME_EXPECTED: &str = "letters, digits, '_', '-' and '.', with no '.' at its ends";

impl TransitConfig {
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    pub fn token(&self) -> Option<TokenSetting> {
        token_setting(self.token.as_ref(), self.token_file.as_ref())
    }
}

impl CredentialStoreConfig {
    /// The external store's URL, where it is in use.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    pub fn token(&self) -> Option<TokenSetting> {
        token_setting(self.token.as_ref(), self.token_file.as_ref())
    }

    /// The files of the certificate to show, and of its private key.
    pub fn client_certificate(&self) -> Option<(PathBuf, PathBuf)> {
        self.client_certificate_file.clone().zip(self.client_key_file.clone())
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match &self.url {
            Some(url) => problems.extend(check_url(url, "/credentialStore/url")),
            None if self.kind == CredentialStoreKind::Http => {
                problems.push(Problem::new("/credentialStore/url", "expected the URL of the credential store"));
            }
            None => {}
        }
        if self.token.is_some() && self.token_file.is_some() {
            problems.push(Problem::new("/credentialStore/tokenFile", "expected either a token or its file, not both"));
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            let missing = if self.client_key_file.is_none() { "clientKeyFile" } else { "clientCertificateFile" };
            let pointer = format!("/credentialStore/{missing}");
            problems.push(Problem::new(pointer, "expected a client certificate and its key, or neither"));
        }
        problems
    }

    pub(super) fn ranges(&self) -> [(&'static str, u64, u64, u64); 1] {
        [("/credentialStore/timeoutMs", self.timeout_ms, 1, MAX_TRY_MS)]
    }
}

/// Keys and tokens must not cross a network in the clear.
pub(super) fn check_url(text: &str, pointer: &str) -> Option<Problem> {
    let expected = "expected an https URL without user, query and fragment (http on loopback alone)";
    let fits = Url::parse(text).is_ok_and(|url| {
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        bare && url.fragment().is_none()
            && match url.scheme() {
                "https" => url.host().is_some(),
                "http" => match url.host() {
                    Some(Host::Domain(name)) => name == "localhost",
                    Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
                    Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
                    None => false,
                },
                _ => false,
            }
    });
    (!fits).then(|| Problem::new(pointer, expected))
}
