//! Calls whose content is no JSON: bytes that come as the request's body, or go out as the
//! answer's, and pass through piece by piece. Must not know what becomes of them.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use integration_engine::Engine;
use integration_engine::execute::{ExecuteRequest, Paginate, Reply};
use integration_engine::stream::{BrokenContent, ContentHead, ContentStream, Delivery, Download, Upload};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::execute::{answer, broken_off};
use super::header_fault;
use crate::error::ApiError;
use crate::extract::{BodyLimits, DISCARD_TIMEOUT};

/// The params of a call whose body is content.
const PARAMS: HeaderName = HeaderName::from_static("x-params");
/// What is known of the content that an answer is.
const DATA: HeaderName = HeaderName::from_static("x-data");

const CONTENT: &str = "application/octet-stream";
/// The largest header that tells of content; what is larger goes without its metadata.
const MAX_DATA: usize = 8 * 1024;
/// How much of content that nobody takes any more is read.
const MAX_DISCARDED: u64 = 32 * 1024 * 1024;

/// Whether the body is content.
pub(crate) fn is_content(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| names_content(value.as_bytes()))
}

/// Whether the caller wants content in place of JSON, in a call that can be answered so.
pub(crate) fn wants_content(request: &ExecuteRequest, headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|value| value.as_bytes().split(|byte| *byte == b',').any(names_content))
        && request.stream.is_none()
        && !request.dry_run
        && request.idempotency_key.is_none()
        && request.paginate == Paginate::Off
}

fn names_content(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(CONTENT.as_bytes())
}

/// The JSON text of the params beside content; `{}` where there are none.
pub(crate) fn read_params(headers: &HeaderMap) -> Result<Bytes, ApiError> {
    let mut values = headers.get_all(&PARAMS).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(Bytes::from_static(b"{}")),
        (Some(value), None) => match serde_json::from_slice::<serde::de::IgnoredAny>(value.as_bytes()) {
            Ok(_) => Ok(Bytes::copy_from_slice(value.as_bytes())),
            Err(error) => Err(header_fault(&PARAMS, format!("expected the params as a JSON object: {error}"))),
        },
        _ => Err(header_fault(&PARAMS, "expected it once")),
    }
}

/// A body as the content of a call, within the limits. What goes on after a limit was met can
/// still be read, to be dropped.
pub(crate) fn upload<B>(body: B, limits: BodyLimits) -> ContentStream
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    let length = body.size_hint().exact();
    let most = limits.max_stream_bytes;
    let pieces = stream::unfold(Some((body, most)), move |state| async move {
        let (mut body, left) = state?;
        loop {
            let frame = match tokio::time::timeout(limits.timeout, body.frame()).await {
                Ok(frame) => frame?,
                Err(_) => return Some((Err(BrokenContent::Stalled(limits.timeout)), None)),
            };
            let Ok(frame) = frame else { return Some((Err(BrokenContent::Incomplete), None)) };
            // Trailers say nothing here.
            let Ok(piece) = frame.into_data() else { continue };
            return match left.checked_sub(piece.len() as u64) {
                Some(left) => Some((Ok(piece), Some((body, left)))),
                None => Some((Err(BrokenContent::TooLarge(most)), Some((body, u64::MAX)))),
            };
        }
    });
    let known = length.is_some_and(|length| length > most).then_some(Err(BrokenContent::TooLarge(most)));
    ContentStream::Upload(Arc::new(Upload::new(length, stream::iter(known).chain(pieces).boxed())))
}

/// Runs a call that brings content. What a failed call left of it is read and dropped, within
/// bounds: a caller that is still sending when the connection closes may never see the answer.
pub(crate) async fn take(engine: Arc<Engine>, request: ExecuteRequest, upload: Arc<Upload>) -> Response {
    let reply = match tokio::spawn(async move { engine.execute(request).await }).await {
        Ok(reply) => reply,
        Err(error) => return broken_off(&error),
    };
    if reply.code.is_some() {
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, upload.discard(MAX_DISCARDED)).await;
    }
    answer(reply)
}

/// Runs a call whose caller wants content. Where it comes to none, the answer is JSON.
pub(crate) async fn download(engine: Arc<Engine>, mut request: ExecuteRequest) -> Response {
    let (download, Delivery { head, pieces }) = Download::new();
    request.stream = Some(ContentStream::Download(Arc::new(download)));
    let call = tokio::spawn(async move { engine.execute(request).await });
    match head.await {
        // Nothing but the answer's head could say that an empty one did not go well.
        Ok(head) if head.length == Some(0) => match call.await {
            Ok(reply) if reply.code.is_none() => content(head, Body::empty()),
            Ok(reply) => answer(reply),
            Err(error) => broken_off(&error),
        },
        Ok(head) => content(head, body(pieces, call)),
        Err(_) => match call.await {
            Ok(reply) => answer(reply),
            Err(error) => broken_off(&error),
        },
    }
}

fn content(head: ContentHead, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
    headers.extend(head.length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
    headers.extend(describe(head.facts).map(|facts| (DATA, facts)));
    response
}

/// The facts as a header can carry them: in ASCII.
fn describe(mut facts: Map<String, Value>) -> Option<HeaderValue> {
    let write = |facts: &Map<String, Value>| {
        let mut text = String::new();
        for character in serde_json::to_string(facts).unwrap_or_default().chars() {
            match character {
                ' '..='~' => text.push(character),
                other => text.extend(other.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            }
        }
        text
    };
    let mut text = write(&facts);
    if text.len() > MAX_DATA {
        facts.remove("metadata");
        text = write(&facts);
    }
    HeaderValue::try_from(text).ok()
}

/// The pieces as they come. The last one is held back until the call is recorded, so that an
/// answer is complete only where its execution is; a call that failed breaks the answer off.
fn body(pieces: mpsc::Receiver<Bytes>, call: JoinHandle<Reply>) -> Body {
    let state = (pieces, None, Some(call));
    Body::from_stream(stream::unfold(state, |(mut pieces, mut held, mut call)| async move {
        loop {
            if let Some(piece) = pieces.recv().await {
                if let Some(before) = held.replace(piece) {
                    return Some((Ok(before), (pieces, held, call)));
                }
                continue;
            }
            return match call.take()?.await {
                Ok(reply) if reply.code.is_none() => held.take().map(|last| (Ok(last), (pieces, None, None))),
                _ => Some((Err(io::Error::other("the call failed")), (pieces, None, None))),
            };
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_are_written_in_ascii() {
        let facts = json!({"key": "a ü/😀\u{7f}", "metadata": {"a": "b"}});
        let header = describe(facts.as_object().expect("an object").clone()).expect("a header");
        let text = header.to_str().expect("ASCII");
        assert_eq!(text, r#"{"key":"a \u00fc/\ud83d\ude00\u007f","metadata":{"a":"b"}}"#);
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), facts);
        let large = json!({"key": "k", "metadata": {"a": "x".repeat(MAX_DATA)}});
        assert_eq!(describe(large.as_object().expect("an object").clone()).expect("a header"), r#"{"key":"k"}"#);
    }

    #[test]
    fn content_is_told_by_its_media_type() {
        let headers = |text: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]);
        assert!(is_content(&headers("Application/Octet-Stream; x=y")));
        assert!(!is_content(&headers("application/json")) && !is_content(&HeaderMap::new()));
    }
}
