//! The headers of an operation's requests: those of every request, and those of one call.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};

use super::config::HttpConfig;
use super::values::{ParamValue, invalid_param};
use crate::adapter::{Call, CallError};
use crate::http_client::is_credential_header;
use crate::prefetch;

/// What the service calls itself.
const USER_AGENT: &str = concat!("integration-service/", env!("CARGO_PKG_VERSION"));
const ACCEPT_ENCODING: &str = "gzip, br";

/// Headers that the client makes itself, or that belong to one connection.
const RESERVED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-connection",
    "proxy-authorization",
];

pub(crate) fn is_reserved_header(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// The headers of an operation as its author writes them, by name.
#[derive(Debug, Clone, Copy)]
pub(in crate::adapter) struct HeaderSpec<'a> {
    pub(in crate::adapter) accept: Option<&'a str>,
    /// What is accepted unless it says otherwise.
    pub(in crate::adapter) usual_accept: &'static str,
    /// The params that they carry.
    pub(in crate::adapter) params: &'a BTreeMap<String, String>,
    /// Their values.
    pub(in crate::adapter) constants: &'a BTreeMap<String, String>,
    /// The one that carries the idempotency key.
    pub(in crate::adapter) idempotency_key: Option<&'a str>,
}

impl HeaderSpec<'_> {
    /// What is wrong with them; the problems point into an operation.
    pub(in crate::adapter) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (pointer, names) in [("/headers", self.params.keys()), ("/constants/headers", self.constants.keys())] {
            for name in names.filter(|name| is_reserved_header(name)) {
                let message = "expected no header that belongs to the connection: it is made for each request";
                problems.push(Problem::new(push_pointer(pointer, name), message));
            }
        }
        for (name, value) in self.constants {
            if HeaderValue::from_bytes(value.as_bytes()).is_err() {
                let message = "expected no line breaks or other control characters";
                problems.push(Problem::new(push_pointer("/constants/headers", name), message));
            }
        }
        if self.idempotency_key.is_some_and(is_reserved_header) {
            problems.push(Problem::new("/idempotencyKeyHeader", "expected no header that belongs to the connection"));
        }
        if self.accept.is_some_and(|accept| HeaderValue::from_str(accept).is_err()) {
            problems.push(Problem::new("/accept", "expected media types"));
        }
        problems
    }
}

/// The headers of an operation, ready for its requests.
pub(in crate::adapter) struct RequestHeaders {
    constants: HeaderMap,
    params: Vec<(HeaderName, String)>,
    idempotency_key: Option<HeaderName>,
}

impl RequestHeaders {
    /// What fails [`HeaderSpec::check`] is left out.
    pub(in crate::adapter) fn new(spec: HeaderSpec<'_>) -> Self {
        let mut constants = HeaderMap::with_capacity(16);
        constants.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        constants.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPT_ENCODING));
        // Static, as nearly all have it: all threads would count the users of another at each request.
        constants.insert(header::ACCEPT, HeaderValue::from_static(spec.usual_accept));
        let given = spec.constants.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in spec.accept.map(|accept| ("accept", accept)).into_iter().chain(given) {
            if let (Some(name), Ok(mut value)) = (header_name(name), HeaderValue::from_bytes(value.as_bytes())) {
                value.set_sensitive(is_credential_header(&name));
                constants.insert(name, value);
            }
        }
        let params = spec.params.iter().filter_map(|(name, param)| Some((header_name(name)?, param.clone()))).collect();
        Self { constants, params, idempotency_key: spec.idempotency_key.and_then(header_name) }
    }

    /// Reads ahead what a call reads of them.
    pub(super) fn prefetch(&self) {
        prefetch::words((self.constants.iter().next().map(|(_, value)| value.len()), self.params.len()));
        prefetch::words(self.idempotency_key.is_some());
    }

    pub(in crate::adapter) fn carry_idempotency_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Those of every request of an instance.
    pub(super) fn of_instance(&self, config: &HttpConfig) -> HeaderMap {
        let mut headers = self.constants.clone();
        config.add_headers(&mut headers);
        headers
    }

    /// Adds those of one call.
    pub(super) fn add_of_call(&self, call: &Call<'_>, headers: &mut HeaderMap) -> Result<(), CallError> {
        for (name, param) in &self.params {
            let Some(value) = ParamValue::read(call.params, param) else { continue };
            let mut value = HeaderValue::from_bytes(value.into_joined().as_bytes()).map_err(|_| {
                invalid_param(param, "expected no line breaks or other control characters: it goes into a header")
            })?;
            value.set_sensitive(is_credential_header(name));
            headers.insert(name.clone(), value);
        }
        if let Some(value) = call.traceparent.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(HeaderName::from_static("traceparent"), value);
        }
        if let Some(name) = &self.idempotency_key {
            let value = HeaderValue::from_str(call.idempotency_key).map_err(|_| {
                CallError::not_sent(ErrorCode::Validation, "expected an idempotency key that a header can carry")
            })?;
            headers.insert(name.clone(), value);
        }
        Ok(())
    }
}

fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}
