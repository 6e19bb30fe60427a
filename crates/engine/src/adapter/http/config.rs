//! What the adapter reads from an instance's config: once, and not at each call. A service may have a
//! hundred thousand instances, each with a URL of its own.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use integration_model::Problem;
use integration_model::problem::push_pointer;
use serde_json::{Map, Value};

use super::base_url::BaseUrl;
use super::headers::is_reserved_header;
use super::spec::CONFIG_SCHEMA;
use crate::http_client::is_credential_header;
use crate::network::TlsProfile;
use crate::prefetch;

/// The part of a config that every request depends on.
pub(in crate::adapter) struct HttpConfig {
    /// What is wrong with it, where it is no base URL.
    pub(super) base_url: Result<BaseUrl, String>,
    headers: Box<[(HeaderName, HeaderValue)]>,
    /// The longest that an attempt may take.
    pub(super) timeout: Option<Duration>,
    /// Whether it names certificate authorities.
    pub(super) has_authorities: bool,
}

impl HttpConfig {
    pub(in crate::adapter) fn read(config: &Map<String, Value>) -> Self {
        // What fails the check of the config is left out.
        let headers = constant_headers(config).filter(|(name, _)| !is_reserved_header(name));
        let headers = headers.filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            value.set_sensitive(is_credential_header(&name));
            Some((name, value))
        });
        Self {
            base_url: BaseUrl::of(config),
            headers: headers.collect(),
            timeout: config.get("timeoutMs").and_then(Value::as_u64).map(Duration::from_millis),
            has_authorities: authorities(config).is_some(),
        }
    }

    /// Adds the headers that the config names.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Reads ahead what a call reads of it.
    pub(in crate::adapter) fn prefetch(&self) {
        prefetch::words((self.timeout, self.has_authorities));
        if let Ok(base) = &self.base_url {
            base.prefetch();
        }
    }
}

/// What is wrong with a config; the problems point into it.
pub(in crate::adapter) fn check(config: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
    if config.get("baseUrl").is_some_and(Value::is_string)
        && let Err(message) = BaseUrl::of(config)
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

/// The certificate authorities that a config names, as PEM.
pub(super) fn authorities(config: &Map<String, Value>) -> Option<&str> {
    config.get("tls")?.get("caCertificate")?.as_str()
}

fn constant_headers(config: &Map<String, Value>) -> impl Iterator<Item = (&String, &str)> {
    let headers = config.get("headers").and_then(Value::as_object);
    headers.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?)))
}
