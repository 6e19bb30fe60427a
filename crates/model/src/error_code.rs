//! The stable codes of every error that a caller can see. Each has a page in `docs/errors/`.

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal;)+) => {
        /// A stable, documented code of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// One sentence on what the code means.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }.trim()
            }

            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
        }
    };
}

impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::schema::text_out_of("A stable, documented code of an error.", Self::ALL.iter().map(|code| code.as_str()))
    }
}

impl utoipa::ToSchema for ErrorCode {}

error_codes! {
    /// The input does not fit its schema; `errors` (or `details.errors`) lists every fault with its JSON Pointer.
    Validation = "VALIDATION_ERROR";
    /// The request's body is not readable as the JSON or YAML it claims to be.
    MalformedBody = "MALFORMED_BODY";
    /// No valid key came with the request.
    Unauthenticated = "UNAUTHENTICATED";
    /// There is no such webhook, or the delivery's signature does not hold.
    WebhookNotVerified = "WEBHOOK_NOT_VERIFIED";
    /// The caller is known but has no grant for this.
    Forbidden = "FORBIDDEN";
    /// There is no such instance for this caller.
    InstanceNotFound = "INSTANCE_NOT_FOUND";
    /// There is no such definition or version.
    DefinitionNotFound = "DEFINITION_NOT_FOUND";
    /// The instance's definition has no such method.
    MethodNotFound = "METHOD_NOT_FOUND";
    /// There is no such execution for this caller, or its retention has passed.
    ExecutionNotFound = "EXECUTION_NOT_FOUND";
    /// There is nothing at this path.
    NotFound = "NOT_FOUND";
    /// The path exists, but not with this verb.
    MethodNotAllowed = "METHOD_NOT_ALLOWED";
    /// The resource exists already.
    AlreadyExists = "ALREADY_EXISTS";
    /// Events of this type are not taken from other services.
    EventNotTaken = "EVENT_NOT_TAKEN";
    /// The resource's state does not allow this.
    Conflict = "CONFLICT";
    /// The resource changed since it was read: the `If-Match` does not hold.
    PreconditionFailed = "PRECONDITION_FAILED";
    /// The request's body has a content type that this endpoint does not read.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE";
    /// The instance is not CONNECTED; the message says what to do.
    InstanceNotReady = "INSTANCE_NOT_READY";
    /// The idempotency key was used before with another request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED";
    /// A call with the same idempotency key is still running.
    IdempotencyKeyInUse = "IDEMPOTENCY_KEY_IN_USE";
    /// A limit of calls is used up; `Retry-After` says when to come back.
    RateLimitExceeded = "RATE_LIMIT_EXCEEDED";
    /// The circuit breaker keeps calls from a failing upstream.
    CircuitOpen = "CIRCUIT_OPEN";
    /// The method's deadline passed, all attempts included.
    Timeout = "TIMEOUT";
    /// The upstream answered with an error, with nonsense, or not at all.
    Upstream = "UPSTREAM_ERROR";
    /// The upstream refused the credential, or none usable is stored.
    Auth = "AUTH_ERROR";
    /// The key service or the credential store does not answer, so that the credential cannot be had; try again.
    CredentialUnavailable = "CREDENTIAL_UNAVAILABLE";
    /// The target's address is not allowed by the egress rules.
    EgressDenied = "EGRESS_DENIED";
    /// A transform expression failed or went past its limits.
    Transform = "TRANSFORM_ERROR";
    /// The answer does not fit the method's result schema.
    ResultInvalid = "RESULT_INVALID";
    /// A body is larger than its limit.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE";
    /// The execution was cancelled by a caller.
    Cancelled = "CANCELLED";
    /// The service stopped while the call was under way, so that its outcome is not known.
    Interrupted = "INTERRUPTED";
    /// The service is at its limit of work; try again.
    Overloaded = "OVERLOADED";
    /// A fault of the service itself; the correlation id finds it in the log.
    Internal = "INTERNAL";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_names_it() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for code in ErrorCode::ALL {
            let page = pages.join(format!("{code}.md"));
            let text = std::fs::read_to_string(&page).unwrap_or_default();
            assert!(text.starts_with(&format!("# {code}\n")), "{} lacks its page {}", code, page.display());
        }
    }
}
