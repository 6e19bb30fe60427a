//! Callers that are slow on purpose: each is let go, and others are answered meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get as on_get, post as on_post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_service::extract::{BodyLimits, RawBody};
use integration_service::serve::{Handlers, ServeOptions, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::client::{get, send};
use crate::serve::options;

const SHORT: Duration = Duration::from_millis(100);
/// Where something never happens, the test fails instead of waiting for ever.
const LONG: Duration = Duration::from_secs(60);

/// Tells when it is dropped.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A service whose answers say when they are given up, and the notice of that.
fn start(options: ServeOptions) -> (Server, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let answer = |piece: Bytes, count: usize| {
        let gone = gone.clone();
        async move || {
            let guard = Guard(gone);
            let pieces = futures_util::stream::repeat(piece).take(count);
            Body::from_stream(pieces.map(move |piece| {
                let _held = &guard;
                Ok::<_, std::io::Error>(piece)
            }))
        }
    };
    let router = Router::new()
        .route("/health", on_get(async || "well"))
        .route("/large", on_get(answer(Bytes::from(vec![b'x'; 1 << 20]), 64)))
        .route("/small", on_get(answer(Bytes::from_static(b"hello"), 1)))
        .route("/", on_post(async |RawBody(body)| body.len().to_string()));
    let server = Server::start(options, move |_| Handlers { router: router.clone(), fast_path: None }).unwrap();
    (server, gone)
}

async fn is_well(address: SocketAddr) {
    assert_eq!(send(address, get("/health"), "").await.body, "well");
}

async fn given_up(gone: &Notify) {
    tokio::time::timeout(LONG, gone.notified()).await.expect("the service gives the answer up");
}

#[tokio::test]
async fn slow_heads_do_not_keep_others_waiting() {
    let (server, _) = start(options());
    let mut slow = Vec::new();
    for _ in 0..90 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: ").await.unwrap();
        slow.push(stream);
    }
    is_well(server.address()).await;
}

#[tokio::test]
async fn a_slow_body_is_refused() {
    let body = BodyLimits { max_bytes: 1024, max_stream_bytes: 1024, timeout: SHORT };
    let (server, _) = start(ServeOptions { body, ..options() });
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n1").await.unwrap();
    is_well(server.address()).await;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let (server, gone) = start(ServeOptions { write_timeout: SHORT, ..options() });
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    given_up(&gone).await;
    is_well(server.address()).await;
}

/// Asks by HTTP/2 with windows of this size, and reads no body.
async fn ask_by_http2(address: SocketAddr, path: &str, window: u32) -> http::Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{address}{path}")).body(Full::<Bytes>::default()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn an_http2_stream_whose_window_stays_shut_is_given_up() {
    let (server, gone) = start(ServeOptions { write_timeout: SHORT, header_timeout: SHORT, ..options() });
    for (path, window) in [("/large", 100_000), ("/large", 1), ("/large", 0), ("/small", 1), ("/small", 0)] {
        let answer = ask_by_http2(server.address(), path, window).await;
        given_up(&gone).await;
        assert_eq!(answer.status(), 200, "{path} {window}");
        is_well(server.address()).await;
    }
}

#[tokio::test]
async fn an_http2_answer_that_is_read_comes_whole() {
    let (server, _) = start(ServeOptions { write_timeout: LONG, header_timeout: SHORT, ..options() });
    let answer = ask_by_http2(server.address(), "/small", 65_535).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let mut body = ask_by_http2(server.address(), "/large", 65_535).await.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, 64 << 20);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let (server, _) = start(options());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..1_000_u32 {
        let id = (2 * number + 1).to_be_bytes();
        // HEADERS with END_STREAM and END_HEADERS: GET, http, /, and an authority; then RST_STREAM.
        bytes.extend([0, 0, 6, 1, 5]);
        bytes.extend(id);
        bytes.extend([0x82, 0x86, 0x84, 0x41, 0x01, b'x']);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(id);
        bytes.extend([0, 0, 0, 8]);
    }
    // It may be closed before all is written.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    // GOAWAY, with the code ENHANCE_YOUR_CALM at its end.
    let mut frames = Vec::new();
    while let [a, b, c, kind, ..] = answer[..] {
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        frames.push((kind, answer[9..end].to_vec()));
        answer.drain(..end);
    }
    assert!(frames.iter().any(|(kind, text)| *kind == 7 && text[4..8] == [0, 0, 0, 11]), "{frames:?}");
    is_well(server.address()).await;
}
