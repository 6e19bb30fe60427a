//! Making connections: resolve, check every address, connect to a checked one, speak TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::egress::EgressPolicy;
use super::error::{HttpError, Phase};

/// The most addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

/// Finds the addresses of a host.
pub trait Resolve: Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system.
#[derive(Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// Connects to the host of a URI, within the egress policy.
#[derive(Clone)]
pub(super) struct Connector(Arc<Parts>);

struct Parts {
    resolver: Arc<dyn Resolve>,
    policy: Arc<EgressPolicy>,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(
        resolver: Arc<dyn Resolve>,
        policy: Arc<EgressPolicy>,
        tls: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Self {
        Self(Arc::new(Parts { resolver, policy, tls, timeout }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<Self::Response, HttpError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Parts {
    async fn connect(&self, uri: &Uri) -> Result<UpstreamStream, HttpError> {
        let deadline = Instant::now() + self.timeout;
        let authority = uri.host().unwrap_or_default();
        let host = authority.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(authority);
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let timed_out = |_| HttpError::TimedOut { sent: false, phase: Phase::Connect };

        let addresses = timeout_at(deadline, self.allowed_addresses(host)).await.map_err(timed_out)??;
        let tcp = timeout_at(deadline, connect_any(host, port, &addresses)).await.map_err(timed_out)??;
        // A request is one write; waiting to fill packets only adds latency.
        let _ = tcp.set_nodelay(true);
        let transport = if secure {
            let handshake = self.handshake(host, tcp);
            Transport::Tls(Box::new(timeout_at(deadline, handshake).await.map_err(timed_out)??))
        } else {
            Transport::Plain(tcp)
        };
        Ok(UpstreamStream { transport, history: ConnectionHistory::default() })
    }

    /// The addresses of a host that the policy lets through; an error where it lets none.
    async fn allowed_addresses(&self, host: &str) -> Result<Vec<IpAddr>, HttpError> {
        let unresolved = |source| HttpError::Resolve { host: host.to_owned(), source: Arc::new(source) };
        let mut addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(host).await.map_err(unresolved)?,
        };
        addresses.truncate(MAX_ADDRESSES);
        let Some(first) = addresses.first().copied() else {
            return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no addresses")));
        };
        addresses.retain(|address| self.policy.allows(host, *address));
        if addresses.is_empty() {
            return Err(HttpError::EgressDenied { host: host.to_owned(), address: first });
        }
        Ok(addresses)
    }

    async fn handshake(&self, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, HttpError> {
        let failed = |source| HttpError::Tls { host: host.to_owned(), source: Arc::new(source) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.map_err(failed)
    }
}

async fn connect_any(host: &str, port: u16, addresses: &[IpAddr]) -> Result<TcpStream, HttpError> {
    let mut failure = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failure = Some(HttpError::Connect { host: host.to_owned(), address, source: Arc::new(source) });
            }
        }
    }
    Err(failure.unwrap_or_else(|| HttpError::InvalidUrl { reason: "its host has no address".to_owned() }))
}

/// What has happened on a connection: tells a connection that the upstream closed while it
/// was idle from one that failed during an exchange.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionHistory(Arc<History>);

#[derive(Debug, Default)]
struct History {
    /// An exchange on this connection was answered.
    served: AtomicBool,
    /// Bytes came in since the last ones went out.
    answering: AtomicBool,
}

impl ConnectionHistory {
    pub(super) fn mark_served(&self) {
        self.0.served.store(true, Ordering::Relaxed);
    }

    /// Whether the connection had served before and brought nothing for the last request.
    pub(super) fn was_stale(&self) -> bool {
        self.0.served.load(Ordering::Relaxed) && !self.0.answering.load(Ordering::Relaxed)
    }
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection to an upstream.
pub(super) struct UpstreamStream {
    transport: Transport,
    history: ConnectionHistory,
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.history.clone());
        match &self.transport {
            Transport::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.history.0.answering.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.history.0.answering.store(false, Ordering::Relaxed);
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.history.0.answering.store(false, Ordering::Relaxed);
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
