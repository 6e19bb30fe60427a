//! What the errors of an answer mean, as facts for the caller.

use std::collections::BTreeMap;

use http::StatusCode;
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::answer::{GraphqlAnswer, UpstreamError};
use super::spec::ErrorRule;
use crate::adapter::http::errors::{excerpt, is_retryable};
use crate::adapter::{CallError, Effect, UpstreamLimits};
use crate::credential::Credential;

/// How much of each of the upstream's messages is passed on.
const MESSAGE: usize = 500;
/// How much of each step of an error's path is.
const STEP: usize = 128;

/// What the error codes of the upstream mean: the author's rules before the usual ones.
pub(super) struct ErrorRules(pub(super) BTreeMap<String, ErrorRule>);

/// What one error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meaning {
    code: ErrorCode,
    retryable: bool,
    /// The credential is of no use for anything, not only for this field.
    credential_refused: bool,
    upstream_failed: bool,
    /// The upstream says that it did not do what was asked.
    refused: bool,
}

impl Meaning {
    fn of_code(code: ErrorCode) -> Self {
        let refused = matches!(code, ErrorCode::Auth | ErrorCode::RateLimitExceeded);
        Self {
            code,
            retryable: matches!(code, ErrorCode::RateLimitExceeded | ErrorCode::Timeout),
            credential_refused: code == ErrorCode::Auth,
            upstream_failed: false,
            refused,
        }
    }

    /// The codes that servers agree on: Apollo's, and what other servers took over.
    fn usual(code: &str) -> Option<Self> {
        let failed = Self { retryable: true, upstream_failed: true, ..Self::of_code(ErrorCode::Upstream) };
        Some(match code {
            "UNAUTHENTICATED" | "UNAUTHORIZED" => Self::of_code(ErrorCode::Auth),
            "FORBIDDEN" | "PERMISSION_DENIED" | "ACCESS_DENIED" => {
                Self { credential_refused: false, ..Self::of_code(ErrorCode::Auth) }
            }
            "THROTTLED" | "RATE_LIMITED" | "RATE_LIMIT" | "RATE_LIMIT_EXCEEDED" | "TOO_MANY_REQUESTS" => {
                Self::of_code(ErrorCode::RateLimitExceeded)
            }
            "BAD_USER_INPUT" => Self::of_code(ErrorCode::Validation),
            "NOT_FOUND" => Self::of_code(ErrorCode::NotFound),
            "INTERNAL_SERVER_ERROR" | "INTERNAL" | "SERVICE_UNAVAILABLE" | "UNAVAILABLE" => failed,
            _ => return None,
        })
    }

    fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => ErrorCode::Auth,
            StatusCode::TOO_MANY_REQUESTS => ErrorCode::RateLimitExceeded,
            _ => ErrorCode::Upstream,
        };
        Self { retryable: is_retryable(status), upstream_failed: status.is_server_error(), ..Self::of_code(code) }
    }
}

impl ErrorRules {
    /// What an error means, and how sure that is: 0 where the author says so.
    fn meaning(&self, error: &UpstreamError, status: StatusCode) -> (u8, Meaning) {
        let code = error.code.as_deref();
        if let Some(rule) = code.and_then(|code| self.0.get(code)) {
            let meaning = Meaning::of_code(rule.code);
            let retryable = rule.retryable.unwrap_or(meaning.retryable || is_retryable(status));
            return (0, Meaning { retryable, upstream_failed: status.is_server_error(), ..meaning });
        }
        match code.and_then(Meaning::usual) {
            Some(meaning) => (1, meaning),
            None => (2, Meaning::of_status(status)),
        }
    }
}

/// An answer with errors, which is no result.
pub(super) struct Refusal<'a> {
    pub(super) status: StatusCode,
    pub(super) answer: &'a GraphqlAnswer,
    pub(super) limits: UpstreamLimits,
    pub(super) credential: &'a Credential,
    /// Whether the upstream may meet the same operation twice without harm.
    pub(super) repeatable: bool,
    /// Whether the operation asks for one field, so that its failure is the whole operation's.
    pub(super) has_one_field: bool,
}

impl Refusal<'_> {
    pub(super) fn into_error(self, rules: &ErrorRules) -> CallError {
        let status = self.status;
        let errors = &self.answer.errors;
        // The error that says the most stands for all.
        let first = errors.iter().map(|error| (rules.meaning(error, status), error)).min_by_key(|((rank, _), _)| *rank);
        let (meaning, message) = match first {
            Some(((_, meaning), error)) => (meaning, told(error, self.credential)),
            None => (Meaning::of_status(status), String::new()),
        };
        // Of several fields of a mutation, some may have taken effect before one was refused.
        let did_nothing =
            self.answer.data.is_none() || (self.has_one_field && errors.iter().all(|error| error.path.len() <= 1));
        let repeatable = self.repeatable || did_nothing;
        // A refusal says by its code or status that nothing was done; here it does not hold.
        let is_refusal = meaning.refused || status == StatusCode::TOO_MANY_REQUESTS;
        let error = CallError {
            retryable: meaning.retryable && (repeatable || !is_refusal),
            effect: if meaning.refused && did_nothing { Effect::None } else { Effect::Answered },
            upstream_failed: meaning.upstream_failed,
            credential_refused: meaning.credential_refused && repeatable,
            upstream_status: Some(status.as_u16()),
            limits: self.limits,
            ..CallError::not_sent(meaning.code, format!("the upstream answered with an error: {message}"))
        };
        let shown: Vec<_> = errors.iter().map(|error| shown(error, self.credential)).collect();
        let error = error.with_detail("upstreamStatus", status.as_u16()).with_detail("upstreamErrors", shown);
        if self.answer.error_count > errors.len() {
            error.with_detail("upstreamErrorCount", self.answer.error_count)
        } else {
            error
        }
    }
}

/// The errors of an answer that is a result in spite of them, as warnings; `data_path` is the
/// part of the data that is the result.
pub(super) fn warnings(answer: &GraphqlAnswer, data_path: &str, credential: &Credential) -> Vec<Problem> {
    let warning = |error: &UpstreamError| {
        let path: String = path_of(error, credential)
            .iter()
            .fold(String::new(), |pointer, step| integration_model::problem::push_pointer(&pointer, step));
        let below = path.strip_prefix(data_path).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        Problem::new(format!("/data{}", below.unwrap_or_default()), told(error, credential))
    };
    answer.errors.iter().map(warning).collect()
}

fn path_of(error: &UpstreamError, credential: &Credential) -> Vec<String> {
    error.path.iter().map(|step| excerpt(step.as_bytes(), STEP, credential)).collect()
}

/// An error in a sentence, without secrets.
fn told(error: &UpstreamError, credential: &Credential) -> String {
    let mut text = excerpt(error.message.as_bytes(), MESSAGE, credential);
    if text.is_empty() {
        text.push_str("it does not say which");
    }
    match &error.code {
        Some(code) => format!("{text} ({})", credential.redact(code)),
        None => text,
    }
}

fn shown(error: &UpstreamError, credential: &Credential) -> Value {
    let mut members = Map::new();
    members.insert("message".to_owned(), json!(excerpt(error.message.as_bytes(), MESSAGE, credential)));
    if let Some(code) = &error.code {
        members.insert("code".to_owned(), json!(credential.redact(code)));
    }
    if !error.path.is_empty() {
        members.insert("path".to_owned(), json!(path_of(error, credential)));
    }
    Value::Object(members)
}
