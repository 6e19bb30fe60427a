//! What the adapters of servers read from an instance's config alike.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use integration_model::{ErrorCode, Problem};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::adapter::{CallError, Connection};
use crate::credential::Credential;
use crate::network::TlsProfile;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::adapter) struct TlsConfig {
    mode: Option<TlsMode>,
    ca_certificate: Option<String>,
}

impl TlsConfig {
    pub(in crate::adapter) fn ca_certificate(&self) -> Option<&str> {
        self.ca_certificate.as_deref()
    }

    /// The TLS to speak with a host; none where it is switched off.
    pub(in crate::adapter) fn profile(
        &self,
        host: &str,
        credential: &Credential,
    ) -> Result<Option<Arc<TlsProfile>>, Problem> {
        let mode = self.mode.unwrap_or(if is_loopback(host) { TlsMode::Disable } else { TlsMode::VerifyFull });
        if mode == TlsMode::Disable {
            return Ok(None);
        }
        let identity = credential.client_identity().cloned();
        TlsProfile::new(self.ca_certificate.as_deref(), identity)
            .map(|profile| Some(Arc::new(profile)))
            .map_err(|error| Problem::new("/tls/caCertificate", error.to_string()))
    }
}

pub(in crate::adapter) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TlsMode {
    VerifyFull,
    Disable,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::adapter) struct PoolConfig {
    pub(in crate::adapter) max_connections: usize,
    idle_timeout_ms: u64,
    acquire_timeout_ms: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { max_connections: 10, idle_timeout_ms: 60_000, acquire_timeout_ms: 5_000 }
    }
}

impl PoolConfig {
    pub(in crate::adapter) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(in crate::adapter) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }
}

pub(in crate::adapter) fn unusable(problem: &Problem) -> CallError {
    CallError::not_sent(ErrorCode::InstanceNotReady, format!("the instance's config is not usable: {problem}"))
}

/// Tells configs and credentials apart; says nothing about the secret.
pub(in crate::adapter) fn fingerprint(connection: &Connection<'_>) -> [u8; 32] {
    let mut text = zeroize::Zeroizing::new(serde_json::to_vec(&**connection.config).unwrap_or_default());
    text.push(0);
    let mut put = |part: &str| {
        text.extend_from_slice(part.as_bytes());
        text.push(0);
    };
    match connection.credential.request_part() {
        Credential::Basic { username, password } => {
            put(username);
            put(password.expose_secret());
        }
        Credential::ApiKey { key, .. } => put(key.expose_secret()),
        Credential::OAuth2(token) => put(token.access_token.expose_secret()),
        Credential::Jwt { token, .. } => put(token.expose_secret()),
        Credential::Custom(fields) => fields.iter().for_each(|(name, secret)| {
            put(name);
            put(secret.expose_secret());
        }),
        _ => {}
    }
    text.push(0);
    if let Some(identity) = connection.credential.client_identity() {
        text.extend_from_slice(identity.fingerprint());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, &text).as_ref());
    bytes
}
