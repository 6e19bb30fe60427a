//! An upstream that breaks HTTP in every way: each ends in a precise error within the
//! deadline, none in a hang or a panic.

use std::time::Duration;

use integration_engine::adapter::{Answer, CallError, Effect};
use integration_model::ErrorCode;
use serde_json::json;
use tokio::time::Instant;

use crate::http_adapter::Harness;
use crate::upstream::{RawUpstream, Script};

const JSON_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

async fn call(script: Script) -> Result<Answer, CallError> {
    let upstream = RawUpstream::start(script).await;
    let harness = Harness::new(&format!("http://{}", upstream.address));
    let operation = harness.operation(json!({"verb": "POST", "path": "/x", "maxResponseBytes": 100_000}));
    let deadline = Instant::now() + Duration::from_millis(300);
    // The deadline is the adapter's to keep; this one only keeps a broken test from hanging.
    tokio::time::timeout(Duration::from_secs(10), harness.call_before(&*operation, json!({}), deadline))
        .await
        .expect("an end within the deadline")
}

async fn fail(script: Script) -> CallError {
    call(script).await.expect_err("a broken answer")
}

fn sent(headers: &str, body: &[u8]) -> Script {
    let mut bytes = format!("{JSON_HEAD}{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    Script::Send(bytes)
}

fn held(headers: &str, body: &[u8]) -> Script {
    match sent(headers, body) {
        Script::Send(bytes) => Script::SendAndHold(bytes),
        other => other,
    }
}

#[track_caller]
fn assert_error(error: &CallError, code: ErrorCode, effect: Effect, part: &str) {
    assert_eq!((error.code, error.effect), (code, effect), "{error:?}");
    assert!(error.message.contains(part), "{part:?} in {:?}", error.message);
    assert!(error.upstream_failed, "{error:?}");
}

#[tokio::test]
async fn lost_connections_leave_the_outcome_open() {
    for script in [
        sent("content-length: 100\r\n", br#"{"a":1}"#),
        sent("transfer-encoding: chunked\r\n", b"5\r\n{\"a\""),
        Script::Send(Vec::new()),
        Script::Send(b"HTTP/1.1 200".to_vec()),
        Script::Reset,
    ] {
        let error = fail(script).await;
        assert_error(&error, ErrorCode::Upstream, Effect::Unknown, "connection was lost");
        assert!(error.retryable);
    }
}

#[tokio::test]
async fn answers_that_are_no_http_are_named_so() {
    for script in [
        sent("transfer-encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
        sent("transfer-encoding: chunked\r\n", b"ffffffffffffffffff\r\n"),
        sent("content-length: 7\r\ncontent-length: 3\r\n", br#"{"a":1}"#),
        sent("content-length: -1\r\n", b""),
        sent("content-length: 5x\r\n", b""),
        sent("x y: 1\r\n", b""),
        sent("x: a\0b\r\n", b""),
        Script::Send(b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec()),
        Script::Send(br#"{"a":1}"#.to_vec()),
        Script::Send(b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
        Script::Send(b"HTTP/1.1 99999 OK\r\n\r\n".to_vec()),
    ] {
        assert_error(&fail(script).await, ErrorCode::Upstream, Effect::Unknown, "breaks HTTP");
    }
}

#[tokio::test]
async fn header_floods_are_cut_off() {
    let flood: String = (0..20_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let huge = format!("x-a: {}\r\n", "a".repeat(2_000_000));
    for headers in [flood, huge] {
        let error = fail(sent(&headers, b"{}")).await;
        assert_error(
            &error,
            ErrorCode::Upstream,
            Effect::Unknown,
            "header section, or the length that it states, is too large",
        );
    }
    let boast = fail(held("content-length: 18446744073709551614\r\n", b"{")).await;
    assert_error(&boast, ErrorCode::Upstream, Effect::Unknown, "the length that it states");
    let endless = Script::Repeat(JSON_HEAD.as_bytes().to_vec(), b"x-more: and more\r\n".to_vec());
    assert_error(
        &fail(endless).await,
        ErrorCode::Upstream,
        Effect::Unknown,
        "header section, or the length that it states, is too large",
    );
}

#[tokio::test]
async fn stalls_end_at_the_deadline() {
    for (script, phase) in [
        (Script::SendAndHold(Vec::new()), "waiting for the answer"),
        (Script::SendAndHold(b"HTTP/1.1 200 OK\r\n".to_vec()), "waiting for the answer"),
        (held("content-length: 10\r\n", br#"{"a""#), "reading the answer's body"),
        (held("transfer-encoding: chunked\r\n", b"1\r\n{\r\n"), "reading the answer's body"),
    ] {
        let error = fail(script).await;
        assert_error(&error, ErrorCode::Timeout, Effect::Unknown, phase);
        assert_eq!(error.details["phase"], phase);
        assert!(error.retryable);
    }
    // Interim answers do not count as the answer.
    let interim = Script::Repeat(Vec::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec());
    let error = fail(interim).await;
    assert!(matches!(error.code, ErrorCode::Timeout | ErrorCode::Upstream), "{error:?}");
}

#[tokio::test]
async fn endless_and_oversized_bodies_stop_at_the_limit() {
    let chunk: Vec<u8> = b"400\r\n".iter().chain(&[b'1'; 1024]).chain(b"\r\n").copied().collect();
    let endless = format!("{JSON_HEAD}transfer-encoding: chunked\r\n\r\n").into_bytes();
    let until_close = format!("{JSON_HEAD}\r\n").into_bytes();
    for script in [
        Script::Repeat(endless, chunk),
        Script::Repeat(until_close, vec![b' '; 4096]),
        held("content-length: 52428800\r\n", b"{"),
    ] {
        assert_error(&fail(script).await, ErrorCode::Upstream, Effect::Unknown, "larger than 100000 bytes");
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_claim_are_named_so() {
    for (headers, body) in [
        ("content-length: 13\r\n", &b"<html></html>"[..]),
        ("content-length: 9\r\n", b"{\"a\":\"\xff\xfe\""),
        ("content-length: 3\r\n", br#"{"a":1}"#),
        ("", br#"{"a":"#),
    ] {
        assert_error(&fail(sent(headers, body)).await, ErrorCode::Upstream, Effect::Answered, "cannot be read");
    }
    let gzip = sent("content-encoding: gzip\r\ncontent-length: 5\r\n", b"\x1f\x8bxxx");
    assert_error(&fail(gzip).await, ErrorCode::Upstream, Effect::Unknown, "not valid gzip");
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let redirect = b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    let error = fail(Script::Send(redirect)).await;
    assert_eq!((error.code, error.effect), (ErrorCode::Upstream, Effect::Answered));
    assert!(error.message.contains("more than 5 redirects"), "{}", error.message);
}

#[tokio::test]
async fn a_body_where_there_is_none_is_passed_over() {
    let bytes = b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    let answer = call(Script::Send(bytes)).await.expect("an answer");
    assert_eq!(answer.data.text().as_ref(), b"null");
    // HTTP/1.0 and bodies that end with the connection are old, not broken.
    let old = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n[1]".to_vec();
    assert_eq!(call(Script::Send(old)).await.expect("an answer").data.text().as_ref(), b"[1]");
}
