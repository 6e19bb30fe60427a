//! The pages of the error codes, in the binary.

use integration_model::ErrorCode;

/// The page of a code, as Markdown.
pub(crate) const fn text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Validation => include_str!("../../../docs/errors/VALIDATION_ERROR.md"),
        ErrorCode::MalformedBody => include_str!("../../../docs/errors/MALFORMED_BODY.md"),
        ErrorCode::Unauthenticated => include_str!("../../../docs/errors/UNAUTHENTICATED.md"),
        ErrorCode::WebhookNotVerified => include_str!("../../../docs/errors/WEBHOOK_NOT_VERIFIED.md"),
        ErrorCode::Forbidden => include_str!("../../../docs/errors/FORBIDDEN.md"),
        ErrorCode::InstanceNotFound => include_str!("../../../docs/errors/INSTANCE_NOT_FOUND.md"),
        ErrorCode::DefinitionNotFound => include_str!("../../../docs/errors/DEFINITION_NOT_FOUND.md"),
        ErrorCode::MethodNotFound => include_str!("../../../docs/errors/METHOD_NOT_FOUND.md"),
        ErrorCode::ExecutionNotFound => include_str!("../../../docs/errors/EXECUTION_NOT_FOUND.md"),
        ErrorCode::NotFound => include_str!("../../../docs/errors/NOT_FOUND.md"),
        ErrorCode::MethodNotAllowed => include_str!("../../../docs/errors/METHOD_NOT_ALLOWED.md"),
        ErrorCode::AlreadyExists => include_str!("../../../docs/errors/ALREADY_EXISTS.md"),
        ErrorCode::Conflict => include_str!("../../../docs/errors/CONFLICT.md"),
        ErrorCode::PreconditionFailed => include_str!("../../../docs/errors/PRECONDITION_FAILED.md"),
        ErrorCode::UnsupportedMediaType => include_str!("../../../docs/errors/UNSUPPORTED_MEDIA_TYPE.md"),
        ErrorCode::InstanceNotReady => include_str!("../../../docs/errors/INSTANCE_NOT_READY.md"),
        ErrorCode::EventNotTaken => include_str!("../../../docs/errors/EVENT_NOT_TAKEN.md"),
        ErrorCode::IdempotencyKeyReused => include_str!("../../../docs/errors/IDEMPOTENCY_KEY_REUSED.md"),
        ErrorCode::IdempotencyKeyInUse => include_str!("../../../docs/errors/IDEMPOTENCY_KEY_IN_USE.md"),
        ErrorCode::RateLimitExceeded => include_str!("../../../docs/errors/RATE_LIMIT_EXCEEDED.md"),
        ErrorCode::CircuitOpen => include_str!("../../../docs/errors/CIRCUIT_OPEN.md"),
        ErrorCode::Timeout => include_str!("../../../docs/errors/TIMEOUT.md"),
        ErrorCode::Upstream => include_str!("../../../docs/errors/UPSTREAM_ERROR.md"),
        ErrorCode::Auth => include_str!("../../../docs/errors/AUTH_ERROR.md"),
        ErrorCode::CredentialUnavailable => include_str!("../../../docs/errors/CREDENTIAL_UNAVAILABLE.md"),
        ErrorCode::EgressDenied => include_str!("../../../docs/errors/EGRESS_DENIED.md"),
        ErrorCode::Transform => include_str!("../../../docs/errors/TRANSFORM_ERROR.md"),
        ErrorCode::ResultInvalid => include_str!("../../../docs/errors/RESULT_INVALID.md"),
        ErrorCode::PayloadTooLarge => include_str!("../../../docs/errors/PAYLOAD_TOO_LARGE.md"),
        ErrorCode::Cancelled => include_str!("../../../docs/errors/CANCELLED.md"),
        ErrorCode::Interrupted => include_str!("../../../docs/errors/INTERRUPTED.md"),
        ErrorCode::Overloaded => include_str!("../../../docs/errors/OVERLOADED.md"),
        ErrorCode::Internal => include_str!("../../../docs/errors/INTERNAL.md"),
    }
}
