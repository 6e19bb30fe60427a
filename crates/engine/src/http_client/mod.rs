//! The one way out: every outbound HTTP request goes through [`HttpClient`].
//!
//! Owns: pools of connections, redirects, decompression, limits and deadlines. Connections
//! themselves are made by [`Network`]. Must not know: definitions, credentials, what a
//! request means.

mod body;
mod connector;
mod decompress;
mod error;
mod exchange;
mod pool;
mod redirect;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use tokio::time::{Instant, timeout_at};

pub use error::{HttpError, Phase, RedirectRefusal};
pub use redirect::{RedirectMode, RedirectPolicy, is_credential_header};

use crate::network::{EgressPolicy, Network, Resolve, SystemResolver, TlsProfile, TlsUnavailable};
use exchange::Exchange;
use pool::Pools;
use redirect::Target;

/// Everything but the characters that URLs never need to encode (RFC 3986, `unreserved`).
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What one client is made of.
#[derive(Debug, Clone)]
pub struct HttpClientSettings {
    /// The longest time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How many unused connections to one host each thread keeps.
    pub max_idle_per_host: usize,
    /// How many pools there are: one for each thread that sends.
    pub shards: usize,
    /// The most bytes of any answer's body, whatever its request asks for.
    pub max_response_bytes: usize,
}

impl Default for HttpClientSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            max_idle_per_host: 256,
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            max_response_bytes: 256 << 20,
        }
    }
}

/// A request to an upstream.
#[derive(Debug, Clone)]
pub struct OutboundRequest {
    pub method: Method,
    /// Absolute, `http` or `https`, without user information.
    pub url: Uri,
    /// Without `Host` and `Content-Length`, which are made. Values that carry credentials
    /// are marked sensitive, and stay behind where a redirect leaves the origin.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// TLS that differs from the default.
    pub profile: Option<Arc<TlsProfile>>,
    pub redirects: RedirectPolicy,
    /// The most bytes of the answer's body, on the wire and decompressed.
    pub max_response_bytes: usize,
    /// Whether the upstream may meet the request twice. Such a request is sent again, once,
    /// where a kept connection turns out to be closed.
    pub repeatable: bool,
    /// Goes on a connection of its own: a kept one may be closed by the upstream just then,
    /// and nobody could tell whether the request was met.
    pub fresh_connection: bool,
}

/// The whole answer of an upstream, decompressed.
#[derive(Debug, Clone)]
pub struct InboundResponse {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where the answer came from, redirects followed.
    pub url: Uri,
}

/// An answer whose body is still to come, as it is on the wire.
#[derive(Debug)]
pub struct OpenResponse {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub url: Uri,
    body: Incoming,
}

impl OpenResponse {
    /// The next piece of the body; none at its end.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, HttpError> {
        let late = HttpError::TimedOut { sent: true, phase: Phase::Body };
        timeout_at(deadline, body::next_data(&mut self.body)).await.map_err(|_| late)?
    }

    /// The whole answer, its body of at most `limit` bytes.
    pub async fn read(self, limit: usize, deadline: Instant) -> Result<InboundResponse, HttpError> {
        let Self { status, version, headers, url, body } = self;
        let late = HttpError::TimedOut { sent: true, phase: Phase::Body };
        let body = timeout_at(deadline, body::read_body(body, limit)).await.map_err(|_| late)??;
        Ok(InboundResponse { status, version, headers, body, url })
    }
}

/// Sends HTTP requests.
pub struct HttpClient {
    settings: HttpClientSettings,
    network: Arc<Network>,
    pools: ArcSwap<Pools>,
}

impl HttpClient {
    pub fn new(settings: HttpClientSettings, policy: EgressPolicy) -> Result<Self, TlsUnavailable> {
        Self::with_resolver(settings, policy, Arc::new(SystemResolver))
    }

    /// A client that finds addresses in its own way.
    pub fn with_resolver(
        settings: HttpClientSettings,
        policy: EgressPolicy,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, TlsUnavailable> {
        let network = Arc::new(Network::new(policy, resolver, settings.connect_timeout));
        let pools = ArcSwap::from_pointee(Pools::new(&settings, &network, network.egress_policy())?);
        Ok(Self { settings, network, pools })
    }

    /// The way out below HTTP: the same egress policy, addresses and TLS.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    pub fn egress_policy(&self) -> Arc<EgressPolicy> {
        self.network.egress_policy()
    }

    /// Puts another egress policy in force. Kept connections are given up; exchanges under
    /// way end as they began.
    pub fn set_egress_policy(&self, policy: EgressPolicy) -> Result<(), TlsUnavailable> {
        let policy = Arc::new(policy);
        self.pools.store(Arc::new(Pools::new(&self.settings, &self.network, Arc::clone(&policy))?));
        self.network.set_egress_policy(policy);
        Ok(())
    }

    /// Sends a request, follows redirects as its policy says, and reads the whole answer,
    /// all before `deadline`.
    pub async fn send(&self, request: OutboundRequest, deadline: Instant) -> Result<InboundResponse, HttpError> {
        let OutboundRequest {
            method,
            url,
            headers,
            body,
            profile,
            redirects,
            max_response_bytes,
            repeatable,
            fresh_connection,
        } = request;
        check_url(&url)?;
        let max_response_bytes = max_response_bytes.min(self.settings.max_response_bytes);
        let mut profile = profile.as_deref();
        let mut target = Target { method, url, headers, body, left_origin: false };
        let mut hops = 0;
        loop {
            let lane = self.lane(profile)?;
            let Target { method, url, headers, body, .. } = &target;
            let exchange = Exchange { method, url, headers, body, repeatable, fresh_connection, max_response_bytes };
            let received = exchange.run(&lane, deadline).await.map_err(|error| after_redirects(hops, error))?;
            if !target.redirect(redirects, hops, received.status, &received.headers)? {
                let exchange::Received { status, version, headers, body } = received;
                return Ok(InboundResponse { status, version, headers, body, url: target.url });
            }
            if target.left_origin {
                profile = None;
            }
            hops += 1;
        }
    }

    /// Sends a request and gives the head of its answer, whatever it says; the body comes as
    /// it is asked for. No redirect is followed, and nothing is decompressed.
    pub async fn open(&self, request: OutboundRequest, deadline: Instant) -> Result<OpenResponse, HttpError> {
        check_url(&request.url)?;
        let exchange = Exchange {
            method: &request.method,
            url: &request.url,
            headers: &request.headers,
            body: &request.body,
            repeatable: request.repeatable,
            fresh_connection: request.fresh_connection,
            max_response_bytes: request.max_response_bytes,
        };
        let lane = self.lane(request.profile.as_deref())?;
        let (head, body) = exchange.open(&lane, deadline).await?.into_parts();
        let http::response::Parts { status, version, headers, .. } = head;
        Ok(OpenResponse { status, version, headers, url: request.url, body })
    }

    fn lane(&self, profile: Option<&TlsProfile>) -> Result<Arc<pool::Lane>, HttpError> {
        let pools = self.pools.load();
        match profile {
            None => Ok(Arc::clone(pools.lane())),
            Some(profile) => pools.special_lane(profile, &self.settings, &self.network),
        }
    }
}

/// An error of a redirect's target, which says that the request itself was sent.
fn after_redirects(hops: u8, error: HttpError) -> HttpError {
    if hops == 0 { error } else { HttpError::RedirectTarget { source: Box::new(error) } }
}

fn check_url(url: &Uri) -> Result<(), HttpError> {
    let invalid = |reason: &str| Err(HttpError::InvalidUrl { reason: reason.to_owned() });
    if url.scheme() != Some(&Scheme::HTTP) && url.scheme() != Some(&Scheme::HTTPS) {
        return invalid("expected http or https");
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => invalid("expected no user information"),
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => invalid("expected a host"),
    }
}
