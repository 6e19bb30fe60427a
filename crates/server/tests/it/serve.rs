//! Serving: access, errors, bounds, shutdown, all over real connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get as on_get, post as on_post};
use base64::Engine as _;
use hyper::body::Incoming;
use integration_service::browsers::BrowserRules;
use integration_service::extract::{BodyLimits, Json, Path, Query};
use integration_service::middleware::RequestContext;
use integration_service::serve::{FastPath, Handlers, ServeError, ServeOptions, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::client::{get, post, send, send_http2};
use crate::service::{KEY, TestService};

pub(crate) fn options() -> ServeOptions {
    ServeOptions {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        browsers: BrowserRules::default(),
        workers: 2,
        max_connections: 100,
        header_timeout: Duration::from_secs(10),
        body: BodyLimits { max_bytes: 1024, max_stream_bytes: 1024, timeout: Duration::from_secs(10) },
        write_timeout: Duration::from_secs(10),
        shutdown_timeout: Duration::from_secs(10),
    }
}

fn start(options: ServeOptions, router: Router) -> Server {
    Server::start(options, move |_| Handlers { router: router.clone(), fast_path: None }).unwrap()
}

#[tokio::test]
async fn health_is_open() {
    let service = TestService::start().await;
    for path in ["/health", "/health/ready", "/health/live"] {
        assert_eq!(send(service.address(), get(path), "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn nothing_else_answers_without_a_key() {
    let server = TestService::start().await;
    for path in ["/status/metrics", "/status/health", "/no/such/path", "/"] {
        let answer = send(server.address(), get(path), "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.json()["code"], "UNAUTHENTICATED");
        assert!(!answer.header("www-authenticate").is_empty());
    }
    let wrong = send(server.address(), get("/status/health").header("x-api-key", "wrong"), "").await;
    assert_eq!(wrong.status, 401);
}

#[tokio::test]
async fn a_key_opens_by_bearer_header_and_password() {
    let server = TestService::start().await;
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{KEY}")));
    for request in [
        get("/status/metrics").header("authorization", format!("Bearer {KEY}")),
        get("/status/metrics").header("x-api-key", KEY),
        get("/status/metrics").header("authorization", &basic),
    ] {
        assert_eq!(send(server.address(), request, "").await.status, 200);
    }
    let elsewhere = send(server.address(), get("/elsewhere").header("authorization", &basic), "").await;
    assert_eq!(elsewhere.status, 401, "a password opens only what browsers look at");
}

#[tokio::test]
async fn metrics_are_described_and_count_requests() {
    let server = TestService::start().await;
    send(server.address(), get("/health"), "").await;
    let answer = send(server.address(), get("/status/metrics").header("x-api-key", KEY), "").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("# HELP integration_http_requests_total "), "{text}");
    assert!(text.contains("integration_http_requests_total{class=\"2xx\"}"), "{text}");
}

#[tokio::test]
async fn unknown_paths_and_verbs_are_problems_with_their_facts() {
    let server = TestService::start().await;
    let missing = send(server.address(), get("/no/such/path").header("x-api-key", KEY), "").await;
    assert_eq!((missing.status, missing.json()["code"].as_str()), (404, Some("NOT_FOUND")));
    assert_eq!(missing.json()["type"], "/docs/errors/NOT_FOUND");
    for path in ["/health", "/status/health"] {
        let verb = send(server.address(), post(path).header("x-api-key", KEY), "").await;
        assert_eq!((verb.status, verb.header("allow")), (405, "GET,HEAD"), "{path}");
        assert_eq!(verb.json()["code"], "METHOD_NOT_ALLOWED");
        assert_eq!(verb.json()["correlationId"], verb.header("x-correlation-id"));
    }
}

#[tokio::test]
async fn correlation_ids_are_taken_when_sane_and_made_otherwise() {
    let server = TestService::start().await;
    let taken = send(server.address(), get("/health").header("x-correlation-id", "task-1.a_B"), "").await;
    assert_eq!(taken.header("x-correlation-id"), "task-1.a_B");
    let long = "x".repeat(129);
    for bad in ["", "a b", "a\"b", &long] {
        let made = send(server.address(), get("/none").header("x-correlation-id", bad), "").await;
        assert_eq!(made.header("x-correlation-id").len(), 36, "{bad:?}");
        assert_eq!(made.json()["correlationId"], made.header("x-correlation-id"));
        assert_eq!((made.header("x-content-type-options"), made.header("cache-control")), ("nosniff", "no-store"));
    }
}

#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Pet {
    name: String,
    age: u8,
}

#[derive(serde::Deserialize)]
struct Paging {
    limit: Option<u8>,
}

fn pets() -> Router {
    Router::new()
        .route("/pets", on_post(async |Json(pet): Json<Pet>| Json(pet)))
        .route("/pets/{age}", on_get(async |Path(age): Path<u8>| age.to_string()))
        .route("/pets", on_get(async |Query(paging): Query<Paging>| paging.limit.unwrap_or(20).to_string()))
        .route("/busy", on_get(async || http::StatusCode::SERVICE_UNAVAILABLE))
        .route("/panic", on_get(async || -> &'static str { panic!("on purpose") }))
}

#[tokio::test]
async fn bad_input_is_a_problem_that_says_where() {
    let server = start(options(), pets());
    let json = || post("/pets").header("content-type", "application/json; charset=utf-8");
    let good = send(server.address(), json(), r#"{"name":"Rex","age":3}"#).await;
    assert_eq!((good.status, good.json()["age"].as_u64()), (200, Some(3)));
    let large = format!(r#"{{"name":"{}","age":3}}"#, "x".repeat(2_000));
    let cases = [
        (json(), r#"{"name":"Rex","age":300}"#, 400, "VALIDATION_ERROR", Some("/age")),
        (json(), r#"{"name":"Rex","agee":3}"#, 400, "VALIDATION_ERROR", Some("/agee")),
        (json(), r#"{"name":"Rex"}"#, 400, "VALIDATION_ERROR", Some("")),
        (json(), r#"{"name":"#, 400, "MALFORMED_BODY", None),
        (json(), "", 400, "MALFORMED_BODY", None),
        (post("/pets"), "{}", 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (json(), &large, 413, "PAYLOAD_TOO_LARGE", None),
        (json().header("transfer-encoding", "chunked"), &large, 413, "PAYLOAD_TOO_LARGE", None),
        (get("/pets/old"), "", 400, "VALIDATION_ERROR", Some("/path")),
        (get("/pets?limit=300"), "", 400, "VALIDATION_ERROR", Some("/query/limit")),
    ];
    for (request, body, status, code, pointer) in cases {
        let answer = send(server.address(), request, body).await;
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{body} {problem}");
        assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{body} {problem}");
    }
}

#[tokio::test]
async fn a_panic_is_one_answer_and_the_service_goes_on() {
    let server = start(options(), pets());
    for _ in 0..3 {
        let answer = send(server.address(), get("/panic"), "").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (500, Some("INTERNAL")));
        assert!(!String::from_utf8_lossy(&answer.body).contains("on purpose"));
    }
    assert_eq!(send(server.address(), get("/pets"), "").await.status, 200);
}

#[tokio::test]
async fn whoever_is_sent_away_is_told_when_to_come_back() {
    let server = start(options(), pets());
    let answer = send(server.address(), get("/busy"), "").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
}

#[tokio::test]
async fn both_protocols_and_all_workers_answer_on_one_port() {
    let server = start(ServeOptions { workers: 4, ..options() }, pets());
    for _ in 0..20 {
        assert_eq!(send(server.address(), get("/pets/7"), "").await.body, "7");
    }
    let answer = send_http2(server.address(), "/pets/7").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"7"[..]));
}

struct Shortcut;

impl FastPath for Shortcut {
    fn matches(&self, request: &http::Request<Incoming>) -> bool {
        request.uri().path().starts_with("/pets/")
    }

    fn call(&self, request: http::Request<Incoming>) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        let context = request.extensions().get::<RequestContext>().cloned();
        Box::pin(async move { format!("shortcut {}", context.unwrap().correlation_id).into_response() })
    }
}

#[tokio::test]
async fn the_fast_path_goes_before_the_router_with_the_same_context() {
    let handlers = move |_| Handlers { router: pets(), fast_path: Some(Arc::new(Shortcut) as Arc<dyn FastPath>) };
    let server = Server::start(options(), handlers).unwrap();
    let answer = send(server.address(), get("/pets/7").header("x-correlation-id", "c1"), "").await;
    assert_eq!((&answer.body[..], answer.header("x-correlation-id")), (&b"shortcut c1"[..], "c1"));
    assert_eq!(send(server.address(), get("/pets"), "").await.body, "20");
}

#[tokio::test]
async fn a_port_in_use_is_refused_even_by_another_server_of_ours() {
    let server = start(options(), pets());
    let again = Server::start(ServeOptions { address: server.address(), ..options() }, |_| Handlers {
        router: Router::new(),
        fast_path: None,
    });
    assert!(matches!(again, Err(ServeError::Listen { address, .. }) if address == server.address()));
}

#[tokio::test]
async fn callers_that_say_nothing_or_half_a_request_are_closed() {
    let server = start(ServeOptions { header_timeout: Duration::from_millis(100), ..options() }, pets());
    for text in ["", "P", "GET /pets HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // A reset closes as well as an orderly end.
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert_eq!(send(server.address(), get("/pets"), "").await.status, 200);
}

#[tokio::test]
async fn connections_past_the_limit_are_told_so() {
    let server = start(ServeOptions { max_connections: 1, ..options() }, pets());
    let mut first = TcpStream::connect(server.address()).await.unwrap();
    first.write_all(b"GET /pets HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start_of_answer = [0; 15];
    first.read_exact(&mut start_of_answer).await.unwrap();
    assert_eq!(&start_of_answer, b"HTTP/1.1 200 OK");
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 1"), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "OVERLOADED");
}

#[tokio::test]
async fn hostile_heads_are_refused_and_the_service_goes_on() {
    let server = start(options(), pets());
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    for text in [huge.as_str(), many.as_str(), "\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2") && !answer.starts_with(b"HTTP/1.1 5"), "{text:.40}");
    }
    assert_eq!(send(server.address(), get("/pets"), "").await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_running_requests_finish_and_takes_no_more() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, leave) = (entered.clone(), leave.clone());
        async move || {
            entered.notify_one();
            leave.notified().await;
            "finished"
        }
    };
    let server = start(options(), Router::new().route("/slow", on_get(handler)));
    let address = server.address();
    let running = tokio::spawn(async move { send(address, get("/slow"), "").await });
    entered.notified().await;
    server.stop();
    let stopped = tokio::spawn(server.stopped());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    leave.notify_one();
    assert_eq!(running.await.unwrap().body, "finished");
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let entered = Arc::new(Notify::new());
    let handler = {
        let entered = entered.clone();
        async move || {
            entered.notify_one();
            std::future::pending::<&'static str>().await
        }
    };
    let options = ServeOptions { shutdown_timeout: Duration::from_millis(50), ..options() };
    let server = start(options, Router::new().route("/never", on_get(handler)));
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    entered.notified().await;
    server.stop();
    server.stopped().await;
}
