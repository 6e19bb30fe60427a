//! What an instance brings to a request: where it goes, whom it trusts, and how long it may take.

use std::sync::Arc;

use integration_model::ErrorCode;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::base_url::BaseUrl;
use super::config::authorities;
use crate::adapter::{CallError, Connection};
use crate::network::TlsProfile;

/// How many TLS profiles are kept ready.
const MAX_PROFILES: usize = 512;

/// TLS profiles of configs and credentials, kept so that they need not be made for each call.
pub(in crate::adapter) struct TlsProfiles(Cache<[u8; 32], Arc<TlsProfile>>);

impl TlsProfiles {
    pub(in crate::adapter) fn new() -> Self {
        Self(Cache::new(MAX_PROFILES))
    }

    /// The TLS profile of a connection that has one.
    pub(in crate::adapter) fn of(&self, connection: &Connection<'_>) -> Result<Option<Arc<TlsProfile>>, CallError> {
        let config = connection.config;
        let authorities = if config.http().has_authorities { authorities(config) } else { None };
        let identity = connection.credential.client_identity();
        if authorities.is_none() && identity.is_none() {
            return Ok(None);
        }
        let fingerprint = TlsProfile::fingerprint_of(authorities, identity.map(AsRef::as_ref));
        let profile =
            self.0.get_or_insert_with(&fingerprint, || TlsProfile::new(authorities, identity.cloned()).map(Arc::new));
        profile
            .map(Some)
            .map_err(|error| unusable(format!("the instance's config is not usable: /tls/caCertificate: {error}")))
    }
}

/// The base URL of a connection; an error where its config has none that can be used.
pub(super) fn base_url<'a>(connection: &Connection<'a>) -> Result<&'a BaseUrl, CallError> {
    let base = connection.config.http().base_url.as_ref();
    base.map_err(|message| unusable(format!("the instance's config is not usable: /baseUrl: {message}")))
}

fn unusable(message: String) -> CallError {
    CallError::not_sent(ErrorCode::InstanceNotReady, message)
}

/// The end of an attempt: the call's deadline, or earlier where the config says so.
pub(in crate::adapter) fn deadline(connection: &Connection<'_>) -> Instant {
    let limit = connection.config.http().timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    limit.map_or(connection.deadline, |limit| limit.min(connection.deadline))
}
