//! Connections for HTTP: where a URI leads, and what has happened on each.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tower::Service;

use super::error::HttpError;
use crate::network::{EgressPolicy, Network, NetworkStream};

/// Connects to the host of a URI, within the egress policy.
#[derive(Clone)]
pub(super) struct Connector(Arc<Parts>);

struct Parts {
    network: Arc<Network>,
    policy: Arc<EgressPolicy>,
    tls: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(network: Arc<Network>, policy: Arc<EgressPolicy>, tls: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Parts { network, policy, tls }))
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
        let deadline = Instant::now() + self.network.connect_timeout();
        let authority = uri.host().unwrap_or_default();
        let host = authority.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(authority);
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = secure.then(|| Arc::clone(&self.tls));
        let stream = self.network.connect_within(&self.policy, host, port, tls, deadline).await?;
        Ok(UpstreamStream { stream, history: ConnectionHistory::default() })
    }
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

/// A connection to an upstream.
pub(super) struct UpstreamStream {
    stream: NetworkStream,
    history: ConnectionHistory,
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.history.clone());
        if self.stream.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.history.0.answering.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.history.0.answering.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.history.0.answering.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
