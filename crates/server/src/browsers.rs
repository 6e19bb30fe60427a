//! What protects people's browsers and is protected from them: security headers, the origins
//! whose scripts may call (CORS), and refusal of what another site makes a browser send
//! (CSRF). Must not know any endpoint.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use integration_model::{ErrorCode, Problem};
use url::Url;

use crate::config::ServerConfig;
use crate::error::ApiError;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Nothing but the service's own files, never in a frame.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'",
);
/// Of what is no page: a browser that shows it all the same loads and runs nothing.
const DATA_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
/// A year.
const TRANSPORT_POLICY: HeaderValue = HeaderValue::from_static("max-age=31536000");

const TAKEN_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const TAKEN_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, Prefer, Traceparent, X-API-Key, \
     X-Correlation-Id, X-Params, X-Task-Id, X-Tenant-Id",
);
const SHOWN_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Correlation-Id, X-Data",
);
/// Seconds for which a browser need not ask again.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("600");

/// How browsers are treated.
#[derive(Debug, Clone, Default)]
pub struct BrowserRules {
    /// Whether people reach the service by TLS alone.
    pub https: bool,
    /// The origins whose scripts may call.
    pub origins: Arc<[HeaderValue]>,
}

impl BrowserRules {
    pub fn from_config(config: &ServerConfig) -> Self {
        let origins = config.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let public_https = config.public_url.as_deref().is_some_and(|url| url.starts_with("https:"));
        Self { https: config.tls.is_on() || public_https, origins: origins.collect() }
    }

    /// The origin of a request, where its scripts may call.
    pub(crate) fn origin_of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.origins.iter().find(|listed| *listed == origin).cloned()
    }

    /// The answer to a request that never comes to a handler: what a browser asks ahead for a
    /// listed origin, and what another site made it send.
    pub(crate) fn answer_first<B>(&self, request: &Request<B>, listed: Option<&HeaderValue>) -> Option<Response> {
        let headers = request.headers();
        if listed.is_some() {
            let asks = request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
            return asks.then(preflight);
        }
        (changes_state(request.method()) && !brings_a_token(headers) && comes_from_another_site(request)).then(|| {
            let detail = "another site made the browser send this; send a token to call from elsewhere";
            ApiError::new(ErrorCode::Forbidden, detail).into_response()
        })
    }

    /// Completes the headers of an answer.
    pub(crate) fn finish(&self, headers: &mut HeaderMap, listed: Option<HeaderValue>) {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(RESOURCE_POLICY, SAME_ORIGIN);
        if self.https {
            headers.insert(STRICT_TRANSPORT_SECURITY, TRANSPORT_POLICY);
        }
        if !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        let is_page = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        if is_page {
            headers.insert(OPENER_POLICY, SAME_ORIGIN);
        }
        if !headers.contains_key(CONTENT_SECURITY_POLICY) {
            headers.insert(CONTENT_SECURITY_POLICY, if is_page { PAGE_POLICY } else { DATA_POLICY });
        }
        if !self.origins.is_empty() {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = listed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN_HEADERS);
        }
    }
}

/// No word on credentials: scripts bring a token, and the browser's own password stays home.
fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, TAKEN_METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, TAKEN_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn changes_state(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether the request carries what no browser adds by itself, as it does passwords and
/// client certificates.
fn brings_a_token(headers: &HeaderMap) -> bool {
    let scheme = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().get(..7));
    headers.contains_key(API_KEY) || scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

fn comes_from_another_site<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = own.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let theirs = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    match (own, theirs) {
        (Some(own), Some(theirs)) => !own.eq_ignore_ascii_case(theirs),
        _ => true,
    }
}

/// Whether each text is an origin as browsers write it.
pub(crate) fn check_origins(origins: &[String]) -> Vec<Problem> {
    let is_origin = |text: &str| {
        Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text)
    };
    let faulty = origins.iter().enumerate().filter(|(_, origin)| !is_origin(origin));
    faulty
        .map(|(index, _)| {
            Problem::new(format!("/server/corsOrigins/{index}"), "expected an origin: https://app.example.com")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_alone() {
        for good in ["https://app.example.com", "http://localhost:5173"] {
            assert!(check_origins(&[good.to_owned()]).is_empty(), "{good}");
        }
        for bad in ["*", "null", "app.example.com", "https://a/", "https://a/x", "https://A", "https://u@a", "file:///"]
        {
            assert_eq!(check_origins(&[bad.to_owned()]).len(), 1, "{bad}");
        }
    }
}
