//! How an execution ended, in the documents' shape.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;
use integration_model::execution::{ExecutionError, Stage};
use integration_model::{ErrorCode, ExecutionId, Problem};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::adapter::{CallError, Effect};
use crate::data::Data;
use crate::policy::rate_limit::RateLimitSnapshot;

/// What the caller gets.
#[derive(Debug)]
pub struct Reply {
    /// None where everything went well.
    pub code: Option<ErrorCode>,
    /// The JSON text of the answer.
    pub body: Bytes,
    pub retry_after: Option<Duration>,
    pub limit: Option<LimitFacts>,
    /// The answer was given before, to a call with the same idempotency key.
    pub replayed: bool,
    pub execution_id: Option<ExecutionId>,
}

/// The limit that a call came closest to, for the `RateLimit` headers.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitFacts {
    pub scope: &'static str,
    pub snapshot: RateLimitSnapshot,
}

/// The result with its meta data.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<Success, Failure>,
    pub meta: Meta,
    pub limit: Option<LimitFacts>,
}

/// An answer.
#[derive(Debug)]
pub struct Success {
    pub data: Data,
    pub upstream_status: Option<u16>,
    /// Whether the external system left out a part, of which the warnings tell.
    pub is_partial: bool,
}

/// An execution's error, before it has its public form. Boxed, so that the results of the
/// stages stay small.
#[derive(Debug, Clone)]
pub struct Failure(Box<FailureFacts>);

/// What is known of an execution's error.
#[derive(Debug, Clone)]
pub struct FailureFacts {
    pub stage: Stage,
    pub code: ErrorCode,
    pub message: String,
    pub details: Map<String, Value>,
    pub retryable: bool,
    pub retry_after: Option<Duration>,
    /// What the external system may have done.
    pub effect: Effect,
    pub upstream_status: Option<u16>,
    /// Whether the circuit breaker counts it.
    pub upstream_failed: bool,
    /// The limit that was met.
    pub limit: Option<LimitFacts>,
}

/// `meta` of the answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Absent where the call never became an execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    pub duration_ms: u64,
    /// Requests made to the external system.
    pub attempts: u32,
    pub cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Pages joined by `paginate=all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    /// The cursor for `paginate=page&cursor=…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
    /// What the external system left out of its answer, and where the answer does not fit the
    /// result schema (mode `warn`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

impl Meta {
    pub(crate) fn new(execution_id: Option<ExecutionId>) -> Self {
        Self {
            execution_id,
            duration_ms: 0,
            attempts: 0,
            cached: false,
            cache_age_ms: None,
            stale: false,
            pages: None,
            next_page: None,
            warnings: Vec::new(),
        }
    }
}

impl Deref for Failure {
    type Target = FailureFacts;

    fn deref(&self) -> &FailureFacts {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut FailureFacts {
        &mut self.0
    }
}

impl Failure {
    pub fn new(stage: Stage, code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(FailureFacts {
            stage,
            code,
            message: message.into(),
            details: Map::new(),
            retryable: false,
            retry_after: None,
            effect: Effect::None,
            upstream_status: None,
            upstream_failed: false,
            limit: None,
        }))
    }

    pub(crate) fn overloaded() -> Self {
        Self::new(Stage::Resolve, ErrorCode::Overloaded, "too many executions are under way; try again in a second")
            .retry_after(Duration::from_secs(1))
    }

    pub(crate) fn validation(problems: Vec<Problem>) -> Self {
        Self::new(Stage::Validate, ErrorCode::Validation, "the params do not fit the method's paramSchema")
            .with_detail("errors", json!(problems))
    }

    /// The error of the last attempt, as the whole execution's error.
    pub(crate) fn from_call(error: CallError, stage: Stage) -> Self {
        let mut failure = Self::new(stage, error.code, error.message);
        for (name, value) in error.details {
            failure.details.insert(name.to_owned(), value);
        }
        if let Some(status) = error.upstream_status {
            failure.details.insert("upstreamStatus".to_owned(), status.into());
        }
        failure.retryable = error.retryable;
        failure.retry_after = error.limits.retry_after;
        failure.effect = error.effect;
        failure.upstream_status = error.upstream_status;
        failure.upstream_failed = error.upstream_failed;
        failure
    }

    #[must_use]
    pub(crate) fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The failure of a call that the external system has answered.
    #[must_use]
    pub(crate) fn answered(mut self, upstream_status: Option<u16>) -> Self {
        self.effect = Effect::Answered;
        self.upstream_status = upstream_status;
        self
    }

    #[must_use]
    pub(crate) fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    #[must_use]
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(after);
        self
    }

    /// Whether an outdated answer is better than this error: the external system is at
    /// fault, or kept from being asked.
    pub(crate) fn may_fall_back(&self) -> bool {
        matches!(self.code, ErrorCode::Upstream | ErrorCode::Timeout | ErrorCode::CircuitOpen)
            && (self.upstream_failed || matches!(self.code, ErrorCode::Timeout | ErrorCode::CircuitOpen))
    }

    /// The public form.
    pub(crate) fn to_error(&self) -> ExecutionError {
        let mut details = self.details.clone();
        details.insert("stage".to_owned(), self.stage.as_str().into());
        if self.effect == Effect::Unknown {
            details.insert("outcome".to_owned(), "unknown".into());
        }
        ExecutionError {
            code: self.code,
            message: self.message.clone(),
            details: Value::Object(details),
            retryable: self.retryable,
            retry_after: self.retry_after.map(seconds_up),
        }
    }
}

/// Whole seconds, rounded up: `Retry-After: 0` would invite a storm.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Outcome {
    /// A call that never became an execution: there is no row of it.
    pub fn refused(failure: Failure) -> Self {
        Self { limit: failure.limit.clone(), result: Err(failure), meta: Meta::new(None) }
    }

    /// The answer's JSON text: `data` is copied in as it is, not parsed again.
    fn to_json(&self) -> Bytes {
        let mut text = Vec::with_capacity(256 + self.result.as_ref().map_or(0, |success| success.data.text().len()));
        match &self.result {
            Ok(success) => {
                text.extend_from_slice(br#"{"status":"SUCCESS","data":"#);
                text.extend_from_slice(success.data.text());
            }
            Err(failure) => {
                text.extend_from_slice(br#"{"status":"ERROR","error":"#);
                write_json(&mut text, &failure.to_error());
            }
        }
        text.extend_from_slice(br#","meta":"#);
        write_json(&mut text, &self.meta);
        text.push(b'}');
        Bytes::from(text)
    }
}

fn write_json(text: &mut Vec<u8>, value: &impl Serialize) {
    // Writing plain data into memory does not fail.
    serde_json::to_writer(text, value).expect("the value serialises");
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        let body = outcome.to_json();
        let failure = outcome.result.as_ref().err();
        Self {
            code: failure.map(|failure| failure.code),
            retry_after: failure.and_then(|failure| failure.retry_after),
            execution_id: outcome.meta.execution_id,
            limit: outcome.limit,
            body,
            replayed: false,
        }
    }
}

impl Reply {
    /// The call waits in the queue.
    pub(crate) fn accepted(id: ExecutionId) -> Self {
        let body =
            json!({"status": "QUEUED", "meta": {"executionId": id}, "location": format!("/api/v1/executions/{id}")});
        Self {
            code: None,
            body: Bytes::from(body.to_string()),
            retry_after: None,
            limit: None,
            replayed: false,
            execution_id: Some(id),
        }
    }

    /// An answer that was stored with its idempotency key.
    pub(crate) fn stored(body: Bytes, execution_id: ExecutionId) -> Self {
        #[derive(serde::Deserialize)]
        struct Stored {
            error: Option<StoredError>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct StoredError {
            code: ErrorCode,
            retry_after: Option<u64>,
        }
        let error = serde_json::from_slice::<Stored>(&body).ok().and_then(|stored| stored.error);
        Self {
            code: error.as_ref().map(|error| error.code),
            retry_after: error.and_then(|error| error.retry_after).map(Duration::from_secs),
            body,
            limit: None,
            replayed: true,
            execution_id: Some(execution_id),
        }
    }
}
