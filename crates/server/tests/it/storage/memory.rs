//! Content that passes through takes the memory of two parts, whatever its size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::files;
use crate::process::{Client, KEY, Process, folder};

const MIB: u64 = 1024 * 1024;
/// Far more than the bound below.
const SIZE: u64 = 300 * MIB;
/// Two parts, what the network and the allocator hold, and the rest of the service.
const BOUND: u64 = 96 * MIB;

/// Content of this size, made as it is taken.
fn content(size: u64) -> Body {
    let piece = Bytes::from(vec![7; 256 * 1024]);
    let count = size / piece.len() as u64;
    Body::from_stream(stream::iter(0..count).map(move |_| Ok::<_, std::io::Error>(piece.clone())))
}

/// Takes what comes in parts, gives what is asked for, and keeps nothing.
async fn bottomless(request: Request, taken: Arc<AtomicU64>) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let verb = request.method().clone();
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let size = frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        if verb == "PUT" {
            taken.fetch_add(size, Ordering::Relaxed);
        }
    }
    let answer = Response::builder().header("etag", "\"e\"");
    match (verb.as_str(), query.as_str()) {
        ("GET", _) => answer.header("content-length", SIZE).body(content(SIZE)).unwrap(),
        ("POST", "uploads=") => answer
            .body("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>".into())
            .unwrap(),
        _ => answer.body(Body::empty()).unwrap(),
    }
}

#[tokio::test]
async fn content_of_any_size_takes_the_memory_of_two_parts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let router = Router::new().fallback(move |request| bottomless(request, Arc::clone(&counter)));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let folder = folder(&[]);
    let process = Process::start(folder.path());
    let mut client = Client::connect(process.address).await.unwrap();
    let mut definition = files("none");
    for method in definition["methods"].as_array_mut().unwrap() {
        method["timeoutMs"] = json!(600_000);
    }
    let config = json!({"provider": "s3", "bucket": "files", "endpoint": endpoint});
    let instance = json!({"id": "files", "integrationDefinitionId": "files", "name": "Files", "config": config});
    for (path, body) in
        [("/api/v1/integration-definitions?publish=true", &definition), ("/api/v1/integration-instances", &instance)]
    {
        assert_eq!(client.post(path, body).await.unwrap().status, 201);
    }
    let before = process.peak_memory();

    let request = |method: &str| {
        http::Request::post(format!("/execute/files/{method}")).header("host", "test").header("x-api-key", KEY)
    };
    let stream = TcpStream::connect(process.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let put =
        request("putBytes").header("content-type", "application/octet-stream").header("x-params", r#"{"key":"k"}"#);
    let answer = sender.send_request(put.body(content(SIZE)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: serde_json::Value = serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&answer["data"]["size"], taken.load(Ordering::Relaxed)), (&json!(SIZE), SIZE));

    sender.ready().await.unwrap();
    let get =
        request("getBytes").header("content-type", "application/json").header("accept", "application/octet-stream");
    let answer = sender.send_request(get.body(r#"{"params":{"key":"k"}}"#.into()).unwrap()).await.unwrap();
    let (mut body, mut got) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        got += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
    }
    assert_eq!(got, SIZE);

    let grown = process.peak_memory() - before;
    assert!(grown < BOUND, "{} MiB for content of {} MiB", grown / MIB, SIZE / MIB);
}
