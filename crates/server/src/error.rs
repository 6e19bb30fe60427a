//! Errors on the wire: `application/problem+json` (RFC 9457). Owns the one mapping from
//! error codes to HTTP statuses. Must not know where an error came from.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use integration_model::{ErrorCode, Problem};
use serde::Serialize;

/// An error that a caller sees.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    pub code: ErrorCode,
    /// What happened and what to do, in a sentence; never a secret, nothing internal.
    pub detail: String,
    /// For invalid input: every fault with its place.
    pub errors: Vec<Problem>,
    /// When another try can help.
    pub retry_after: Option<Duration>,
    /// How the caller may authenticate, where that is what is missing.
    challenge: Option<&'static str>,
}

/// The HTTP status of a code, everywhere.
pub const fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Validation | ErrorCode::MalformedBody => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated | ErrorCode::WebhookNotVerified => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::InstanceNotFound
        | ErrorCode::DefinitionNotFound
        | ErrorCode::MethodNotFound
        | ErrorCode::ExecutionNotFound
        | ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::AlreadyExists
        | ErrorCode::Conflict
        | ErrorCode::InstanceNotReady
        | ErrorCode::IdempotencyKeyInUse
        | ErrorCode::Cancelled => StatusCode::CONFLICT,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::IdempotencyKeyReused | ErrorCode::EventNotTaken => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Transform | ErrorCode::Interrupted | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Upstream | ErrorCode::Auth | ErrorCode::EgressDenied | ErrorCode::ResultInvalid => {
            StatusCode::BAD_GATEWAY
        }
        ErrorCode::CircuitOpen | ErrorCode::CredentialUnavailable | ErrorCode::Overloaded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl ApiError {
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after: None, challenge: None }
    }

    /// Input that does not fit, with every fault.
    pub fn invalid(errors: Vec<Problem>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.to_string(),
            many => format!("{} faults in the input", many.len()),
        };
        Self { errors, ..Self::new(ErrorCode::Validation, detail) }
    }

    /// A fault of the service itself. The caller learns nothing but the correlation id; the
    /// cause belongs in the log.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "a fault of the service; its log tells more under the correlation id")
    }

    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    #[must_use]
    pub(crate) fn with_challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    pub fn status(&self) -> StatusCode {
        http_status(self.code)
    }

    /// The document of this error.
    pub(crate) fn document<'a>(&'a self, correlation_id: &'a str) -> ProblemDocument<'a> {
        let status = self.status();
        ProblemDocument {
            problem_type: format!("/docs/errors/{}", self.code),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &self.detail,
            code: self.code,
            correlation_id,
            errors: &self.errors,
        }
    }
}

/// The body of every error answer (RFC 9457).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDocument<'a> {
    /// A page about the code.
    #[serde(rename = "type")]
    problem_type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: ErrorCode,
    correlation_id: &'a str,
    /// For invalid input: every fault with its place.
    #[serde(skip_serializing_if = "<[Problem]>::is_empty")]
    errors: &'a [Problem],
}

/// The body of every error answer (RFC 9457), as it is described to callers.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what ProblemDocument writes")]
pub struct ProblemBody {
    /// A page about the code.
    #[schema(rename = "type")]
    problem_type: String,
    title: String,
    status: u16,
    detail: String,
    code: ErrorCode,
    correlation_id: String,
    /// For invalid input: every fault with its place.
    errors: Option<Vec<Problem>>,
}

/// Headers and status at once; the body is written where the correlation id is known, by
/// [`complete`].
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(retry_after) = self.retry_after {
            // Whole seconds, rounded up: a caller that comes back too early is refused again.
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_millis().div_ceil(1_000) as u64));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of an error answer. A bare 405 gets one too; its `Allow` stays.
pub(crate) fn complete(mut response: Response, correlation_id: &str) -> Response {
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if response.status() == StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(&response),
        None => return response,
    };
    let body = serde_json::to_vec(&error.document(correlation_id)).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
    response
}

fn method_not_allowed(response: &Response) -> ApiError {
    let detail = match response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()) {
        Some(allowed) => format!("this path takes {}", allowed.replace(',', ", ")),
        None => "this path does not take this verb".to_owned(),
    };
    ApiError::new(ErrorCode::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_error_status_and_retry_after_is_rounded_up() {
        for code in ErrorCode::ALL {
            let status = http_status(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
        }
        let error = ApiError::new(ErrorCode::RateLimitExceeded, "").with_retry_after(Duration::from_millis(1_001));
        assert_eq!(error.into_response().headers()[RETRY_AFTER], "2");
    }
}
