//! What failed attempts and answers mean, as facts for the caller.

use http::{HeaderMap, StatusCode};
use integration_model::ErrorCode;
use serde_json::Value;

use super::json_text;
use super::limits::limits;
use super::spec::{BodyCondition, ErrorRule};
use crate::adapter::{CallError, Effect};
use crate::credential::{Credential, NotUsable};
use crate::http_client::HttpError;

/// How much of an answer goes into an error.
const EXCERPT: usize = 2 * 1024;
/// How much of an answer is searched for secrets before it is cut to an excerpt: more than
/// the longest form of a secret beyond the excerpt's end.
const REDACTED_FROM: usize = 64 * 1024;
/// How much of the upstream's own message is passed on.
const MESSAGE: usize = 500;

/// An answer that is no success.
pub(in crate::adapter) struct Refusal<'a> {
    pub(in crate::adapter) status: StatusCode,
    pub(in crate::adapter) headers: &'a HeaderMap,
    pub(in crate::adapter) body: &'a [u8],
    pub(in crate::adapter) credential: &'a Credential,
}

impl Refusal<'_> {
    /// The error that the answer is; `rule` says more where the operation knows more.
    pub(in crate::adapter) fn into_error(self, rule: Option<&ErrorRule>) -> CallError {
        let status = self.status;
        let default_code = if status == StatusCode::UNAUTHORIZED { ErrorCode::Auth } else { ErrorCode::Upstream };
        let code = rule.map_or(default_code, |rule| rule.code);
        let mut message = format!("the upstream answered {}", describe(status));
        if let Some(said) = rule.and_then(|rule| self.said(rule)) {
            message.push_str(": ");
            message.push_str(&said);
        }
        let error = CallError {
            code,
            message,
            details: Default::default(),
            retryable: rule.and_then(|rule| rule.retryable).unwrap_or_else(|| is_retryable(status)),
            effect: effect(status),
            upstream_failed: status.is_server_error(),
            credential_refused: code == ErrorCode::Auth,
            upstream_status: Some(status.as_u16()),
            limits: limits(self.headers),
        };
        let error = error.with_detail("upstreamStatus", status.as_u16());
        if self.body.is_empty() {
            error
        } else {
            error.with_detail("excerpt", excerpt(self.body, EXCERPT, self.credential))
        }
    }

    /// What the upstream says at the place that the rule names.
    fn said(&self, rule: &ErrorRule) -> Option<String> {
        let text = json_text::text_of(json_text::locate(self.body, rule.message.as_deref()?)?)?;
        Some(excerpt(text.as_bytes(), MESSAGE, self.credential))
    }
}

/// Whether an error rule fits an answer.
pub(super) fn fits(rule: &ErrorRule, status: StatusCode, body: &[u8]) -> bool {
    rule.status.as_ref().is_none_or(|ranges| ranges.as_slice().iter().any(|range| range.contains(status)))
        && rule.when.as_ref().is_none_or(|condition| holds(condition, body))
}

fn holds(condition: &BodyCondition, body: &[u8]) -> bool {
    let value =
        json_text::locate(body, &condition.pointer).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    match (&condition.equals, value) {
        (Some(expected), Some(value)) => *expected == value,
        (None, Some(value)) => !matches!(value, Value::Null | Value::Bool(false)),
        (_, None) => false,
    }
}

fn describe(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

pub(in crate::adapter) fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// These statuses say that the request was not acted on.
fn effect(status: StatusCode) -> Effect {
    match status.as_u16() {
        401 | 408 | 425 | 429 => Effect::None,
        _ => Effect::Answered,
    }
}

/// The beginning of a text, without secrets.
pub(in crate::adapter) fn excerpt(body: &[u8], limit: usize, credential: &Credential) -> String {
    let window = &body[..body.len().min(REDACTED_FROM)];
    let mut text = credential.redact(&String::from_utf8_lossy(window));
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
    text
}

/// The error of an exchange that brought no whole answer.
pub(crate) fn from_http_error(error: &HttpError) -> CallError {
    let sent = if error.request_was_sent() { Effect::Unknown } else { Effect::None };
    let failure = |code, retryable, effect| CallError {
        retryable,
        effect,
        upstream_failed: true,
        ..CallError::not_sent(code, error.chain())
    };
    match error {
        HttpError::Network(error) => error.into(),
        HttpError::TimedOut { phase, .. } => {
            failure(ErrorCode::Timeout, true, sent).with_detail("phase", phase.to_string())
        }
        HttpError::ConnectionLost { .. } => failure(ErrorCode::Upstream, true, sent),
        HttpError::Malformed { .. } | HttpError::TooLarge { .. } => failure(ErrorCode::Upstream, false, sent),
        HttpError::Redirect { .. } => {
            CallError { upstream_failed: false, ..failure(ErrorCode::Upstream, false, Effect::Answered) }
        }
        HttpError::RedirectTarget { source } => {
            // The first request was answered; what the target's failure means for it is open.
            CallError { effect: Effect::Unknown, message: error.chain(), ..from_http_error(source) }
        }
        HttpError::InvalidUrl { .. } => CallError::not_sent(ErrorCode::Validation, error.to_string()),
    }
}

/// The error of an answer whose body cannot be read.
pub(in crate::adapter) fn undecodable(status: StatusCode, fault: &str) -> CallError {
    CallError {
        effect: Effect::Answered,
        upstream_failed: true,
        upstream_status: Some(status.as_u16()),
        ..CallError::not_sent(ErrorCode::Upstream, format!("the upstream's answer cannot be read: {fault}"))
    }
    .with_detail("upstreamStatus", status.as_u16())
}

impl From<NotUsable> for CallError {
    fn from(error: NotUsable) -> Self {
        Self::not_sent(ErrorCode::Auth, error.to_string())
    }
}
