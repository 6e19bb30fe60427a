//! Content that passes through: put and got at sizes that no body may have, kept nowhere, and
//! what becomes of it where a caller or a system breaks off.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http::request::Builder;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::signatures::service;
use super::verifying::Cue;
use super::{call, data, failure, folder, gcs, instance, text};
use crate::client::Answer;
use crate::oauth::wait_for;
use crate::service::{KEY, TestService};

const MIB: usize = 1024 * 1024;
/// More than a request's body may be.
const LARGE: usize = 13 * MIB + 7;

fn content(size: usize) -> Bytes {
    (0..size).map(|at| (at / 251 % 256) as u8).collect()
}

/// The same in pieces, of which nobody is told how many come.
fn pieces(content: &Bytes) -> Body {
    let starts = (0..content.len()).step_by(100_000);
    let content = content.clone();
    let pieces: Vec<_> =
        starts.map(|at| Ok::<_, io::Error>(content.slice(at..content.len().min(at + 100_000)))).collect();
    Body::from_stream(stream::iter(pieces))
}

fn request(method: &str) -> Builder {
    Request::post(format!("/execute/files/{method}")).header("host", "test").header("x-api-key", KEY)
}

fn put(method: &str, params: &Value) -> Builder {
    request(method).header("content-type", "application/octet-stream").header("x-params", params.to_string())
}

fn get(method: &str) -> Builder {
    request(method).header("content-type", "application/json").header("accept", "application/octet-stream")
}

/// Sends a request; the answer's body is still to come.
async fn open(service: &TestService, request: Request<Body>) -> hyper::Result<http::Response<Incoming>> {
    let stream = TcpStream::connect(service.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// The whole answer, unless it breaks off.
async fn send(service: &TestService, request: Request<Body>) -> hyper::Result<Answer> {
    let (parts, body) = open(service, request).await?.into_parts();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await?.to_bytes() })
}

async fn put_all(service: &TestService, key: &str, body: Body) -> Value {
    let sent = send(service, put("putBytes", &json!({ "key": key })).body(body).unwrap()).await.unwrap();
    assert_eq!(sent.status, 200, "{key}: {}", text(&sent));
    sent.json()["data"].clone()
}

async fn get_all(service: &TestService, params: Value) -> hyper::Result<Answer> {
    let method = if params.get("first").is_some() { "get" } else { "getBytes" };
    send(service, get(method).body(json!({ "params": params }).to_string().into()).unwrap()).await
}

/// What has to hold of every provider.
async fn passes_through(service: &TestService) {
    let content = content(LARGE);
    for body in [pieces(&content), Body::from(content.clone())] {
        let put = put_all(service, "a ü/large", body).await;
        assert_eq!((&put["key"], &put["size"]), (&json!("a ü/large"), &json!(LARGE)));
        let got = get_all(service, json!({"key": "a ü/large"})).await.unwrap();
        assert_eq!((got.status, got.header("content-type")), (200, "application/octet-stream"));
        assert_eq!(got.header("content-length"), LARGE.to_string());
        assert!(got.body == content, "the content came back as it was");
        let facts: Value = serde_json::from_str(got.header("x-data")).unwrap();
        assert_eq!((&facts["key"], &facts["size"]), (&put["key"], &json!(LARGE)));
        assert_eq!(facts.get("content"), None);
    }
    // Larger than the method's own bound of answers, and a part of it.
    let part = get_all(service, json!({"key": "a ü/large", "first": 5_000_000, "last": 10_000_000})).await.unwrap();
    assert!(part.body == content.slice(5_000_000..=10_000_000), "{} bytes came", part.body.len());
    // One part, and none.
    for size in [10, 0] {
        let put = put_all(service, &format!("of {size} bytes"), pieces(&content.slice(..size))).await;
        assert_eq!(put["size"], size);
        let got = get_all(service, json!({"key": format!("of {size} bytes")})).await.unwrap();
        assert!(got.body == content.slice(..size) && got.status == 200);
    }
    // Nothing takes the place of something.
    let put = put_all(service, "of 10 bytes", Body::empty()).await;
    assert_eq!(put["size"], 0);
    assert_eq!(data(service, "head", json!({"key": "of 10 bytes"})).await["size"], 0);
    // What is not there is told as ever.
    let missing = get_all(service, json!({"key": "missing"})).await.unwrap();
    assert_eq!((missing.status, &missing.json()["error"]["details"]["upstreamStatus"]), (502, &json!(404)));
}

/// The one execution with a correlation id, once it is there.
async fn execution(service: &TestService, id: &str) -> Value {
    let path = format!("/api/v1/executions?correlationId={id}");
    wait_for(async || service.get(&path).await.json()["items"][0]["finishedAt"].is_string()).await;
    service.get(&path).await.json()["items"][0].clone()
}

#[tokio::test]
async fn content_of_any_size_goes_to_s3_in_signed_parts() {
    let (service, server) = service().await;
    passes_through(&service).await;
    assert_eq!(server.unfinished(), Vec::<String>::new());
    let put = put("putBytes", &json!({"key": "k"})).header("x-correlation-id", "passed");
    assert_eq!(send(&service, put.body(pieces(&content(6 * MIB))).unwrap()).await.unwrap().status, 200);
    let row = execution(&service, "passed").await;
    assert_eq!((&row["status"], &row["attempts"]), (&json!("SUCCESS"), &json!(1)), "{row}");
    let metrics = text(&service.get("/status/metrics").await);
    assert!(metrics.contains("integration_streamed_bytes_total{direction=\"in\"}"), "{metrics}");
}

#[tokio::test]
async fn content_of_any_size_goes_to_google_in_parts() {
    let (service, _server) = gcs::service_on_server().await;
    passes_through(&service).await;
    super::life_of_objects(&service).await;
}

#[tokio::test]
async fn content_of_any_size_goes_to_azure_in_blocks() {
    let Some((service, _server)) = super::azure::service().await else { return };
    passes_through(&service).await;
}

#[tokio::test]
async fn content_of_any_size_goes_into_a_folder() {
    let (service, folder) = folder::service().await;
    passes_through(&service).await;
    // Conditions are those of any put.
    let new = || put("putNewBytes", &json!({"key": "of 10 bytes"})).body(Body::from("x")).unwrap();
    assert_eq!(send(&service, new()).await.unwrap().json()["error"]["details"]["upstreamStatus"], 412);
    // What breaks off leaves nothing.
    let broken = stream::iter([Ok(content(MIB)), Err(io::Error::other("the caller breaks off"))]);
    let put = put("putBytes", &json!({"key": "dir/broken"})).header("x-correlation-id", "broken");
    send(&service, put.body(Body::from_stream(broken)).unwrap()).await.map(|_| ()).unwrap_err();
    assert_eq!(execution(&service, "broken").await["error"]["code"], "MALFORMED_BODY");
    assert_eq!(std::fs::read_dir(folder.path().join("files/app/dir")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_caller_breaks_off_is_given_up() {
    let (service, server) = service().await;
    // A part that is still under way then ends before the upload does: taken later, it would stay.
    server.cue(Cue::TakeLate("partNumber=2"));
    let broken = stream::iter([Ok(content(11 * MIB)), Err(io::Error::other("the caller breaks off"))]);
    let put = put("putBytes", &json!({"key": "broken"})).header("x-correlation-id", "broken");
    send(&service, put.body(Body::from_stream(broken)).unwrap()).await.map(|_| ()).unwrap_err();
    let row = execution(&service, "broken").await;
    assert_eq!((&row["error"]["code"], &row["error"]["details"]["outcome"]), (&json!("MALFORMED_BODY"), &Value::Null));
    let seen = server.take_seen();
    let [.., part, end] = seen.as_slice() else { panic!("{seen:?}") };
    assert!(part.contains("partNumber=2") && end.starts_with("DELETE /files/app/broken?uploadId="), "{seen:?}");
    assert_eq!(server.unfinished(), Vec::<String>::new());
    assert_eq!(failure(&service, "head", json!({"key": "broken"})).await["details"]["upstreamStatus"], 404);
}

#[tokio::test]
async fn a_connection_that_is_lost_in_the_midst_of_parts_leaves_nothing() {
    let (service, server) = service().await;
    // A part is sent again on another connection; here that is lost, too.
    server.cue(Cue::CloseAt("partNumber=2", 2));
    let sent = put("putBytes", &json!({"key": "lost"})).body(pieces(&content(LARGE))).unwrap();
    let error = send(&service, sent).await.unwrap().json()["error"].clone();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("UPSTREAM_ERROR"), &json!(true)), "{error}");
    // The content is gone, so that the method's retries cannot be made.
    assert_eq!((&error["details"]["retry"], &error["details"]["attempts"]), (&json!("content_gone"), &json!(1)));
    assert_eq!(error["details"]["outcome"], Value::Null, "nothing took effect");
    assert!(server.take_seen().last().unwrap().starts_with("DELETE /files/app/lost?uploadId="));
    assert_eq!(server.unfinished(), Vec::<String>::new());
    // Before that, they are made.
    server.cue(Cue::CloseAt("POST /files/app/lost?uploads=", 1));
    put_all(&service, "lost", pieces(&content(LARGE))).await;
    server.cue(Cue::CloseAt("PUT /files/app/whole", 1));
    assert_eq!(put_all(&service, "whole", pieces(&content(100))).await["size"], 100);
}

#[tokio::test]
async fn content_that_a_system_breaks_off_is_not_complete() {
    let (service, server) = service().await;
    put_all(&service, "k", pieces(&content(LARGE))).await;
    for (cue, code) in [(Cue::BreakOff, "UPSTREAM_ERROR"), (Cue::Stall, "TIMEOUT")] {
        let mut config = server.config();
        config["timeoutMs"] = json!(1_000);
        let changed =
            service.with_body("PATCH", "/api/v1/integration-instances/files", &json!({ "config": config })).await;
        assert_eq!(changed.status, 200, "{}", text(&changed));
        server.cue(cue);
        let body = json!({"params": {"key": "k"}}).to_string();
        let got = get("getBytes").header("x-correlation-id", code).body(body.into()).unwrap();
        assert!(send(&service, got).await.is_err(), "{code}: the answer breaks off, too");
        let row = execution(&service, code).await;
        assert_eq!((&row["status"], &row["error"]["code"]), (&json!("ERROR"), &json!(code)), "{row}");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_download() {
    let (service, _server) = service().await;
    put_all(&service, "k", pieces(&content(40 * MIB))).await;
    let body = json!({"params": {"key": "k"}}).to_string();
    let got = get("getBytes").header("x-correlation-id", "left").body(body.into()).unwrap();
    let mut response = open(&service, got).await.unwrap();
    response.frame().await.unwrap().unwrap();
    drop(response);
    let row = execution(&service, "left").await;
    assert_eq!(row["error"]["code"], "CANCELLED", "{row}");
}

#[tokio::test]
async fn content_is_taken_where_it_makes_sense_alone() {
    let (service, server) = service().await;
    let refused = async |request: Builder, body: &'static str| {
        let answer = send(&service, request.body(Body::from(body)).unwrap()).await.unwrap();
        (answer.status, answer.json()["error"].clone())
    };
    let params = json!({"key": "k"});
    let (status, error) = refused(put("getBytes", &params), "x").await;
    assert_eq!((status, &error["code"]), (415, &json!("UNSUPPORTED_MEDIA_TYPE")), "{error}");
    for (name, value) in [("prefer", "respond-async"), ("idempotency-key", "key")] {
        let (status, error) = refused(put("putBytes", &params).header(name, value), "x").await;
        assert_eq!(
            (status, &error["details"]["errors"][0]["pointer"]),
            (400, &json!(format!("/headers/{name}"))),
            "{error}"
        );
    }
    for text in ["{", "[]", "7"] {
        let request = request("putBytes").header("content-type", "application/octet-stream").header("x-params", text);
        assert_eq!(refused(request, "x").await.0, 400, "{text}");
    }
    let (status, error) = refused(put("putBytes", &json!({"key": "k", "content": "eA=="})), "x").await;
    assert_eq!((status, &error["code"]), (400, &json!("VALIDATION_ERROR")), "{error}");
    let error = failure(&service, "putBytes", json!({"key": "k"})).await;
    assert!(error["message"].as_str().unwrap().contains("application/octet-stream"), "{error}");
    assert_eq!(server.take_seen(), Vec::<String>::new());

    // JSON where there is no content to give.
    put_all(&service, "k", Body::from("content")).await;
    let etag = data(&service, "head", json!({"key": "k"})).await["etag"].clone();
    let known = json!({"params": {"key": "k", "known": etag}}).to_string();
    let answer = send(&service, get("get").body(known.into()).unwrap()).await.unwrap();
    assert_eq!(answer.json()["data"]["notModified"], true);
    let listed = send(&service, get("list").body(r#"{"params": {"prefix": ""}}"#.into()).unwrap()).await.unwrap();
    assert_eq!(listed.json()["data"]["items"][0]["key"], "k");
    let shown = Request::post("/execute/files/getBytes?dryRun=true").header("accept", "application/octet-stream");
    let shown = service
        .send(shown.header("host", "test").header("content-type", "application/json"), r#"{"params": {"key": "k"}}"#);
    assert_eq!(shown.await.json()["data"]["method"], "GET");
    assert_eq!(call(&service, "getBytes", params).await.json()["data"]["content"], "Y29udGVudA==");
}

#[tokio::test]
async fn content_is_bounded_by_the_operator() {
    let settings = "server:\n  maxStreamBytes: 1000000\n";
    let service = TestService::start_configured(&[("integration_service.yaml", settings)], &[]).await;
    let config = json!({"provider": "s3", "bucket": "files", "endpoint": service.upstream.url()});
    instance(&service, "custom", config, Some(json!({"accessKeyId": "A", "secretAccessKey": "B"}))).await;
    // The size of one is known beforehand, that of the other is not.
    let unknown = stream::iter([Ok::<_, io::Error>(content(1_000_001))]).chain(stream::pending());
    for body in [Body::from(content(1_000_001)), Body::from_stream(unknown)] {
        let sent = send(&service, put("putBytes", &json!({"key": "k"})).body(body).unwrap()).await.unwrap();
        assert_eq!((sent.status, &sent.json()["error"]["code"]), (413, &json!("PAYLOAD_TOO_LARGE")), "{}", text(&sent));
    }
    assert!(service.upstream.received().is_empty());
}

#[tokio::test]
async fn wrong_keys_take_no_content() {
    let (service, server) = service().await;
    super::store(&service, json!({"accessKeyId": super::verifying::ID, "secretAccessKey": "wrong-secret"})).await;
    for size in [10, LARGE] {
        let sent = put("putBytes", &json!({"key": "k"})).body(pieces(&content(size))).unwrap();
        let answer = send(&service, sent).await.unwrap();
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "AUTH_ERROR", "{error}");
        super::store(&service, json!({"accessKeyId": super::verifying::ID, "secretAccessKey": "wrong-secret"})).await;
    }
    let answer = get_all(&service, json!({"key": "k"})).await.unwrap();
    assert_eq!(answer.json()["error"]["code"], "AUTH_ERROR");
    assert_eq!(server.unfinished(), Vec::<String>::new());
}

#[tokio::test]
async fn the_command_line_sends_and_takes_content() {
    let (service, _folder) = folder::service().await;
    let url = format!("http://{}", service.address());
    let files = tempfile::tempdir().unwrap();
    let content = content(LARGE);
    std::fs::write(files.path().join("sent"), &content).unwrap();
    let call = async |arguments: &[&str]| {
        let arguments: Vec<String> = [&["call", "files"], arguments, &["--url", &url, "--key", KEY]]
            .concat()
            .iter()
            .map(|&s| s.into())
            .collect();
        let folder = files.path().to_owned();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            crate::binary::run(&folder, &arguments)
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let key = r#"{"key": "ü"}"#;
    let (code, out, error) = call(&["putBytes", "--params", key, "--content", "sent"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert!(out.contains("\"status\": \"SUCCESS\""), "{out}");
    let (code, out, error) = call(&["getBytes", "--params", key, "--output", "taken"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert!(out.contains("\"key\": \"ü\""), "{out}");
    assert!(std::fs::read(files.path().join("taken")).unwrap() == content, "the content came as it was");
    let (code, out, _) = call(&["getBytes", "--params", r#"{"key": "missing"}"#, "--output", "none"]).await;
    assert_eq!(code, 1);
    assert!(out.contains("UPSTREAM_ERROR"), "{out}");
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 2, "nothing but the two files is there");
}
