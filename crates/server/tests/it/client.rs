//! A bare HTTP client: what goes over the wire, nothing kinder.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn read(response: Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::get(path).header("host", "test")
}

pub(crate) fn post(path: &str) -> http::request::Builder {
    Request::post(path).header("host", "test")
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(address: SocketAddr, request: http::request::Builder, body: &str) -> Answer {
    send_over(TcpStream::connect(address).await.unwrap(), request, body).await.unwrap()
}

/// Sends one request on this connection.
pub(crate) async fn send_over<S>(stream: S, request: http::request::Builder, body: &str) -> hyper::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let answer = Answer::read(sender.send_request(request).await?).await;
    driver.abort();
    Ok(answer)
}

/// Sends one request and reads no more than the head of its answer.
pub(crate) async fn head_of(address: SocketAddr, request: http::request::Builder, body: &str) -> http::response::Parts {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (head, _) = sender.send_request(request).await.unwrap().into_parts();
    driver.abort();
    head
}

/// The same by HTTP/2 with prior knowledge.
pub(crate) async fn send_http2(address: SocketAddr, path: &str) -> Answer {
    send_http2_over(TcpStream::connect(address).await.unwrap(), &format!("http://{address}{path}")).await
}

/// The same on this connection.
pub(crate) async fn send_http2_over<S>(stream: S, url: &str) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get(url).body(Full::<Bytes>::default()).unwrap();
    let answer = Answer::read(sender.send_request(request).await.unwrap()).await;
    driver.abort();
    answer
}

/// Holds an answer to the shape of every error: its status, its code, and what belongs to both.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) {
    let body = answer.json();
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(body["status"], status);
    assert_eq!(body["type"], format!("/docs/errors/{code}"));
    assert_eq!(body["correlationId"], answer.header("x-correlation-id"));
}

/// The places of an error's faults, sorted.
pub(crate) fn pointers(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no errors in {body}"));
    let mut pointers: Vec<String> = errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect();
    pointers.sort();
    pointers
}
