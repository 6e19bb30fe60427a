//! Serving callers: listeners, accept loops, bounds on connections, graceful shutdown. One
//! single-threaded runtime for each worker, each with a listener of its own on the shared
//! port, so that a call stays on one core. Must not know any endpoint.

mod connection;
mod pace;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::browsers::BrowserRules;
use crate::config::ServerConfig;
use crate::extract::BodyLimits;
use crate::tls::Tls;
use connection::Worker;

/// Connections that the system holds while the workers are busy.
const BACKLOG: i32 = 1024;
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How callers are served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// None speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    pub browsers: BrowserRules,
    pub workers: usize,
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub body: BodyLimits,
    /// How long a caller may take nothing of its answer.
    pub write_timeout: Duration,
    /// How long running requests may take to finish at shutdown.
    pub shutdown_timeout: Duration,
}

impl ServeOptions {
    /// The settings' own; `None` where their host is no address, which a checked
    /// configuration rules out.
    pub fn from_config(config: &ServerConfig, tls: Option<Arc<Tls>>) -> Option<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Some(Self {
            address: config.address()?,
            browsers: BrowserRules::from_config(config),
            tls,
            workers: if config.workers == 0 { cores() } else { config.workers },
            max_connections: config.max_connections,
            header_timeout: config.request_header_timeout(),
            body: BodyLimits {
                max_bytes: config.max_request_bytes,
                max_stream_bytes: config.max_stream_bytes,
                timeout: config.request_body_timeout(),
            },
            write_timeout: config.response_write_timeout(),
            shutdown_timeout: config.shutdown_timeout(),
        })
    }
}

/// A handler that goes before the router, for requests so frequent that the router's layers
/// would be felt. The request carries its context and limits as any other.
pub trait FastPath: Send + Sync {
    /// Whether the request is this handler's.
    fn matches(&self, request: &Request<Incoming>) -> bool;

    fn call(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Response> + Send + '_>>;
}

/// What handles the requests of one worker.
#[derive(Clone)]
pub struct Handlers {
    pub router: Router,
    pub fast_path: Option<Arc<dyn FastPath>>,
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}; --port takes another port")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start a serving thread")]
    Thread(#[source] io::Error),
}

/// A running server. It stops when [`Server::stop`] is called, or when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens, and serves with what `handlers` makes for each worker, in its runtime.
    pub fn start(
        options: ServeOptions,
        handlers: impl Fn(usize) -> Handlers + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let listeners = listen(options.address, options.workers.max(1))
            .map_err(|source| ServeError::Listen { address: options.address, source })?;
        let address = listeners
            .first()
            .map_or(Ok(options.address), Socket::local_address)
            .map_err(|source| ServeError::Listen { address: options.address, source })?;
        let stop = CancellationToken::new();
        let mut server = Self { address, stop: stop.clone(), workers: Vec::new() };
        let handlers = Arc::new(handlers);
        let permits = Arc::new(Semaphore::new(options.max_connections));
        for (index, socket) in listeners.into_iter().enumerate() {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
            let (handlers, permits, stop) = (handlers.clone(), permits.clone(), stop.clone());
            let options = options.clone();
            let thread = std::thread::Builder::new()
                .name(format!("serve-{index}"))
                .spawn(move || run_worker(&runtime, socket, options, permits, stop, || handlers(index)))
                .map_err(ServeError::Thread)?;
            server.workers.push(thread);
        }
        Ok(server)
    }

    /// The address that callers reach; its port is the one that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting; what runs may finish within the options' time.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until every worker has ended.
    pub async fn stopped(mut self) {
        let workers = std::mem::take(&mut self.workers);
        let joined =
            tokio::task::spawn_blocking(move || workers.into_iter().filter_map(|worker| worker.join().err()).count());
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "serving threads ended by a panic"),
            Err(error) => tracing::error!(error = %error, "the serving threads could not be waited for"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

trait LocalAddress {
    fn local_address(&self) -> io::Result<SocketAddr>;
}

impl LocalAddress for Socket {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the socket has no internet address"))
    }
}

/// Sockets that share one port; the system spreads connections over them.
fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    if address.port() != 0 {
        // Sharing a port would succeed beside another process that shares it too, and the
        // two would take each other's calls: only a socket that shares nothing tells.
        open(address)?.bind(&SockAddr::from(address))?;
    }
    let first = bind_shared(address)?;
    let address = first.local_address()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_shared(address)?);
    }
    sockets.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
    Ok(sockets)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that linger must not keep the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bind_shared(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn run_worker(
    runtime: &Runtime,
    socket: Socket,
    options: ServeOptions,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    handlers: impl FnOnce() -> Handlers,
) {
    runtime.block_on(async move {
        let listener = match TcpListener::from_std(socket.into()) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(error = %error, "a serving thread cannot use its listener");
                return;
            }
        };
        let worker = Arc::new(Worker::new(handlers(), options.clone()));
        let graceful = GracefulShutdown::new();
        accept_until(&stop, listener, &options, permits, &worker, &graceful).await;
        let open = graceful.count();
        if tokio::time::timeout(options.shutdown_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!(connections = open, "requests were cut off: they did not finish in time for the shutdown");
        }
    });
}

async fn accept_until(
    stop: &CancellationToken,
    listener: TcpListener,
    options: &ServeOptions,
    permits: Arc<Semaphore>,
    worker: &Arc<Worker>,
    graceful: &GracefulShutdown,
) {
    let admit = |stream: TcpStream, peer: SocketAddr| match permits.clone().try_acquire_owned() {
        Ok(permit) => {
            let watcher = graceful.watcher();
            tokio::spawn(connection::admit(stream, peer, permit, worker.clone(), watcher));
        }
        Err(_) => connection::turn_away(&stream, peer, options),
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Those that the system has taken in already have been promised an answer.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        admit(stream, peer);
    }
}
