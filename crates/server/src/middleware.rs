//! What surrounds every request: its context (correlation id, trace), bounds, panics, the
//! headers of every answer. Must not know any endpoint.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use integration_model::Problem;
use integration_store::{Clock, Ids};
use metrics::{Counter, counter};
use uuid::Uuid;

use crate::browsers::BrowserRules;
use crate::error::{ApiError, complete};
use crate::extract::BodyLimits;
use crate::telemetry::metrics::{HTTP_PANICS, HTTP_REQUESTS};
use crate::tls::ClientCertificate;

/// The header of the correlation id.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// The header of W3C trace contexts.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// In seconds: what has no room now may have some then.
const SOON: HeaderValue = HeaderValue::from_static("1");

const MAX_CORRELATION_ID_LENGTH: usize = 128;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// As TLS verified it.
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, certificate: None }
    }
}

/// What is known of a request from its beginning; in its extensions.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// As the caller gave it, or made here.
    pub correlation_id: Arc<str>,
    pub traceparent: Option<Traceparent>,
    pub peer: SocketAddr,
    /// What the caller showed in the TLS handshake.
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl RequestContext {
    pub fn new(headers: &HeaderMap, peer: SocketAddr) -> Self {
        let given = headers.get(CORRELATION_ID).and_then(|value| value.to_str().ok());
        let correlation_id = match given {
            Some(id) if is_correlation_id(id) => Arc::from(id),
            _ => new_correlation_id(),
        };
        let traceparent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(Traceparent::parse);
        Self { correlation_id, traceparent, peer, certificate: None }
    }
}

fn new_correlation_id() -> Arc<str> {
    thread_local! {
        static IDS: Ids = Ids::new(Clock::system());
    }
    let id = IDS.with(Ids::next);
    Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

fn is_correlation_id(text: &str) -> bool {
    (1..=MAX_CORRELATION_ID_LENGTH).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// A W3C trace context as a caller sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traceparent(Arc<str>);

impl Traceparent {
    /// Reads `VERSION-TRACEID-PARENTID-FLAGS`; what later versions append is left out.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (version, trace, parent, flags) = (text.get(..2)?, text.get(3..35)?, text.get(36..52)?, text.get(53..55)?);
        let dashes = [2, 35, 52].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        let ends = text.len() == 55 || (version != "00" && text.as_bytes().get(55) == Some(&b'-'));
        let sane = dashes
            && ends
            && version != "ff"
            && [version, trace, parent, flags].iter().all(|part| is_lower_hex(part))
            && [trace, parent].iter().all(|part| part.bytes().any(|byte| byte != b'0'));
        sane.then(|| Self(Arc::from(format!("00-{trace}-{parent}-{flags}"))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Surrounds the handling of requests. One for each serving thread.
#[derive(Debug)]
pub struct Edge {
    limits: BodyLimits,
    browsers: BrowserRules,
    /// Kept, as looking them up costs more than counting: index 1 to 5 by class of status.
    requests: [Counter; 6],
}

impl Edge {
    pub fn new(limits: BodyLimits, browsers: BrowserRules) -> Self {
        let class = |name: &'static str| counter!(HTTP_REQUESTS, "class" => name);
        let requests = [class("other"), class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")];
        Self { limits, browsers, requests }
    }

    /// Gives the request its context and limits, runs `handle` on it, and completes the
    /// answer; a panic inside becomes an answer too.
    pub async fn around<B, F, H>(&self, mut request: Request<B>, peer: Peer, handle: H) -> Response
    where
        H: FnOnce(Request<B>) -> F,
        F: Future<Output = Response>,
    {
        let Peer { address, certificate } = peer;
        let context = RequestContext { certificate, ..RequestContext::new(request.headers(), address) };
        let origin = self.browsers.origin_of(request.headers());
        request.extensions_mut().insert(context.clone());
        request.extensions_mut().insert(self.limits);
        if !names_its_host(&request) {
            let error = ApiError::invalid(vec![Problem::new("/headers/host", "expected exactly one Host (RFC 9112)")]);
            return self.complete(error.into_response(), &context, origin);
        }
        if let Some(response) = self.browsers.answer_first(&request, origin.as_ref()) {
            return self.complete(response, &context, origin);
        }
        // A handler owns what it works on; what it shares is guarded by locks that are
        // never held over code that may panic.
        let response = match AssertUnwindSafe(async { handle(request).await }).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => panicked(&*panic, &context),
        };
        self.complete(response, &context, origin)
    }

    fn complete(&self, response: Response, context: &RequestContext, origin: Option<HeaderValue>) -> Response {
        let mut response = complete(response, &context.correlation_id);
        if let Ok(value) = HeaderValue::from_str(&context.correlation_id) {
            response.headers_mut().insert(CORRELATION_ID, value);
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE && !response.headers().contains_key(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, SOON);
        }
        self.browsers.finish(response.headers_mut(), origin);
        let class = usize::from(response.status().as_u16() / 100);
        self.requests.get(class).unwrap_or(&self.requests[0]).increment(1);
        response
    }
}

/// Whether a request is as RFC 9112 wants those of HTTP/1.1: proxies that take another of two
/// hosts than this service would tell callers apart wrongly.
fn names_its_host<B>(request: &Request<B>) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(HOST).iter().count() == 1
}

fn panicked(panic: &(dyn Any + Send), context: &RequestContext) -> Response {
    counter!(HTTP_PANICS).increment(1);
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    tracing::error!(correlationId = %context.correlation_id, panic = message, "a handler panicked");
    ApiError::internal().into_response()
}

/// The body of a request as the router takes it.
pub(crate) fn boxed<B>(request: Request<B>) -> Request<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    request.map(Body::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_contexts_are_taken_when_they_are_whole() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = Traceparent::parse(good).expect("a trace context");
        assert_eq!(parsed.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parsed.as_str(), good);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes";
        assert_eq!(Traceparent::parse(later).expect("a later version").as_str(), good);
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }
}
