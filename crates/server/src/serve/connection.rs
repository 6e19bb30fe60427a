//! One connection of a caller, from its TLS handshake to its end. Owns the bounds on what the
//! protocols may cost. Must not know any endpoint.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::Watcher;
use integration_model::ErrorCode;
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tower::ServiceExt as _;

use super::pace::{Windows, WriteTimeout};
use super::{Handlers, ServeOptions};
use crate::error::ApiError;
use crate::middleware::{Edge, Peer, RequestContext, boxed};
use crate::telemetry::metrics::{HTTP_CONNECTIONS, HTTP_CONNECTIONS_REJECTED, TLS_HANDSHAKE_FAILURES};
use crate::tls::ClientCertificate;

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const MAX_CONCURRENT_STREAMS: u32 = 250;
/// Streams that a caller opened and gave up before they were handled; more end the connection.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that were refused for a caller's fault; more end the connection.
const MAX_REFUSED_STREAMS: usize = 128;
/// What is kept of an answer for a stream whose caller takes it slowly.
const MAX_SEND_BUFFER: usize = 64 * 1024;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What the connections of one serving thread share.
pub(super) struct Worker {
    handlers: Handlers,
    edge: Edge,
    protocol: Builder<TokioExecutor>,
    options: ServeOptions,
}

impl Worker {
    pub(super) fn new(handlers: Handlers, options: ServeOptions) -> Self {
        let edge = Edge::new(options.body, options.browsers.clone());
        Self { handlers, edge, protocol: protocol(&options), options }
    }
}

fn protocol(options: &ServeOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_REFUSED_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// Says that there is no room. The answer is short enough for the socket's own buffer; where
/// it is not taken at once, closing says the same.
pub(super) fn turn_away(stream: &TcpStream, peer: SocketAddr, options: &ServeOptions) {
    counter!(HTTP_CONNECTIONS_REJECTED).increment(1);
    if options.tls.is_some() {
        // Closing says all that can be said without a handshake.
        return;
    }
    let error = ApiError::new(ErrorCode::Overloaded, "too many open connections; try again");
    let correlation_id = RequestContext::new(&HeaderMap::new(), peer).correlation_id;
    let body = serde_json::to_string(&error.document(&correlation_id)).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n\
         X-Correlation-Id: {correlation_id}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

/// Serves a new connection, after its TLS handshake where there is one.
pub(super) async fn admit(
    stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
    worker: Arc<Worker>,
    watcher: Watcher,
) {
    let _open = OpenConnection::new(permit);
    // Without it, small answers wait for more; a socket that refuses is slow, not broken.
    let _ = stream.set_nodelay(true);
    let stream = WriteTimeout::new(stream, worker.options.write_timeout);
    let Some(tls) = &worker.options.tls else {
        return serve_connection(stream, Peer::from(address), worker, watcher).await;
    };
    let handshake = Box::pin(tls.acceptor().accept(stream));
    let failure = match tokio::time::timeout(worker.options.header_timeout, handshake).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.and_then(ClientCertificate::read).map(Arc::new);
            let peer = Peer { address, certificate };
            return serve_connection(stream, peer, worker, watcher).await;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    counter!(TLS_HANDSHAKE_FAILURES).increment(1);
    tracing::debug!(peer = %address, error = failure, "a TLS handshake failed");
}

async fn serve_connection<S>(stream: S, peer: Peer, worker: Arc<Worker>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ServeOptions { header_timeout, write_timeout, .. } = worker.options;
    let (asked, windows) = (Arc::new(AtomicBool::new(false)), Arc::new(Windows::default()));
    let service = {
        let (worker, asked, windows, peer) = (worker.clone(), asked.clone(), windows.clone(), peer.clone());
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            handle(worker.clone(), request, peer.clone(), windows.clone())
        })
    };
    let mut connection = pin!(watcher.watch(worker.protocol.serve_connection(TokioIo::new(stream), service)));
    // The protocol's own timeout begins once it knows which protocol it speaks; a caller
    // that never says is closed here.
    let result = match tokio::time::timeout(header_timeout, connection.as_mut()).await {
        Ok(result) => result,
        Err(_) if asked.load(Ordering::Relaxed) => tokio::select! {
            result = connection => result,
            () = windows.stalled(write_timeout) => {
                tracing::debug!(peer = %peer.address, "a connection was closed: its caller takes nothing of an answer");
                return;
            }
        },
        Err(_) => return,
    };
    if let Err(error) = result {
        tracing::debug!(peer = %peer.address, error = %error, "a connection ended with an error");
    }
}

async fn handle(
    worker: Arc<Worker>,
    request: Request<Incoming>,
    peer: Peer,
    windows: Arc<Windows>,
) -> Result<Response, Infallible> {
    let handlers = &worker.handlers;
    let has_windows = request.version() == Version::HTTP_2;
    let dispatch = async |request: Request<Incoming>| match &handlers.fast_path {
        Some(fast_path) if fast_path.matches(&request) => fast_path.call(request).await,
        _ => match handlers.router.clone().oneshot(boxed(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    let response = worker.edge.around(request, peer, dispatch).await;
    Ok(if has_windows { response.map(|body| windows.watch(body)) } else { response })
}

/// Counts a connection while it is open.
struct OpenConnection(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl OpenConnection {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        gauge!(HTTP_CONNECTIONS).increment(1);
        Self(permit)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(HTTP_CONNECTIONS).decrement(1);
    }
}
