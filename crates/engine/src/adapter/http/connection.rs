//! What the adapter reads from an instance's config.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::base_url::{BaseUrl, BaseUrls};
use super::headers::is_reserved_header;
use super::spec::CONFIG_SCHEMA;
use crate::adapter::{CallError, Connection};
use crate::http_client::is_credential_header;
use crate::network::TlsProfile;

/// How many TLS profiles are kept ready.
const MAX_PROFILES: usize = 512;

/// What follows from configs, kept so that it need not be made for each call.
pub(in crate::adapter) struct Connections {
    base_urls: BaseUrls,
    profiles: Cache<[u8; 32], Arc<TlsProfile>>,
}

impl Connections {
    pub(in crate::adapter) fn new() -> Self {
        Self { base_urls: BaseUrls::new(), profiles: Cache::new(MAX_PROFILES) }
    }

    pub(in crate::adapter) fn check(&self, config: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if config.get("baseUrl").is_some_and(Value::is_string)
            && let Err(message) = self.base_urls.of(config)
        {
            problems.push(Problem::new("/baseUrl", message));
        }
        for (name, value) in constant_headers(config) {
            let at = push_pointer("/headers", name);
            if is_reserved_header(name) {
                problems.push(Problem::new(at, "expected no header that belongs to the connection"));
            } else if HeaderValue::from_bytes(value.as_bytes()).is_err() {
                problems.push(Problem::new(at, "expected no line breaks or other control characters"));
            }
        }
        if let Err(error) = TlsProfile::new(authorities(config), None) {
            problems.push(Problem::new("/tls/caCertificate", error.to_string()));
        }
        problems
    }

    pub(super) fn base_url(&self, connection: &Connection<'_>) -> Result<Arc<BaseUrl>, CallError> {
        self.base_urls
            .of(connection.config)
            .map_err(|message| unusable(format!("the instance's config is not usable: /baseUrl: {message}")))
    }

    /// The TLS profile of a connection that has one.
    pub(in crate::adapter) fn profile(
        &self,
        connection: &Connection<'_>,
    ) -> Result<Option<Arc<TlsProfile>>, CallError> {
        let authorities = authorities(connection.config);
        let identity = connection.credential.client_identity();
        if authorities.is_none() && identity.is_none() {
            return Ok(None);
        }
        let fingerprint = TlsProfile::fingerprint_of(authorities, identity.map(AsRef::as_ref));
        let profile = self
            .profiles
            .get_or_insert_with(&fingerprint, || TlsProfile::new(authorities, identity.cloned()).map(Arc::new));
        profile
            .map(Some)
            .map_err(|error| unusable(format!("the instance's config is not usable: /tls/caCertificate: {error}")))
    }
}

fn unusable(message: String) -> CallError {
    CallError::not_sent(ErrorCode::InstanceNotReady, message)
}

fn authorities(config: &Map<String, Value>) -> Option<&str> {
    config.get("tls")?.get("caCertificate")?.as_str()
}

fn constant_headers(config: &Map<String, Value>) -> impl Iterator<Item = (&String, &str)> {
    let headers = config.get("headers").and_then(Value::as_object);
    headers.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?)))
}

/// Adds the headers that the config names. Those that fail the check of the config are
/// left out.
pub(in crate::adapter) fn add_constant_headers(config: &Map<String, Value>, headers: &mut HeaderMap) {
    for (name, value) in constant_headers(config).filter(|(name, _)| !is_reserved_header(name)) {
        let parsed = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()));
        if let (Ok(name), Ok(mut value)) = parsed {
            value.set_sensitive(is_credential_header(&name));
            headers.insert(name, value);
        }
    }
}

/// The end of an attempt: the call's deadline, or earlier where the config says so.
pub(in crate::adapter) fn deadline(connection: &Connection<'_>) -> Instant {
    match connection.config.get("timeoutMs").and_then(Value::as_u64) {
        Some(millis) => {
            let limit = Instant::now().checked_add(Duration::from_millis(millis));
            limit.map_or(connection.deadline, |limit| limit.min(connection.deadline))
        }
        None => connection.deadline,
    }
}
