//! A bare HTTP proxy: what hyper with one runtime per core can do when nothing is looked at.
//! The benchmark's reference for the service's own work (`bench/run`).
//!
//! `passthrough LISTEN UPSTREAM`, both as `address:port`.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context as _;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

type Upstream = Client<HttpConnector, Incoming>;
type Body = Either<Incoming, Empty<Bytes>>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("expected two arguments: LISTEN UPSTREAM");
    let listen: SocketAddr = next()?.parse().context("LISTEN is no address")?;
    let upstream: Authority = next()?.parse().context("UPSTREAM is no address")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers: Vec<_> = (0..cores)
        .map(|_| {
            let upstream = upstream.clone();
            std::thread::spawn(move || serve(listen, &upstream))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(())
}

/// Serves on a socket of its own: the system spreads connections over the workers.
fn serve(listen: SocketAddr, upstream: &Authority) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into()).with_context(|| format!("cannot listen on {listen}"))?;
    socket.listen(1024)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(socket.into())?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (client, upstream) = (client.clone(), upstream.clone());
            let service = service_fn(move |request| forward(client.clone(), upstream.clone(), request));
            // A connection that breaks concerns its client alone.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn forward(
    client: Upstream,
    upstream: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Ok(host) = HeaderValue::from_str(upstream.as_str()) {
        request.headers_mut().insert(header::HOST, host);
    }
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(upstream);
    let Ok(uri) = http::Uri::from_parts(parts) else { return Ok(failed(StatusCode::BAD_REQUEST)) };
    *request.uri_mut() = uri;
    Ok(match client.request(request).await {
        Ok(response) => response.map(Either::Left),
        Err(_) => failed(StatusCode::BAD_GATEWAY),
    })
}

fn failed(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = status;
    response
}
