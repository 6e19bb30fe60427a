//! Where external systems deliver webhooks.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use integration_engine::webhooks::{WebhookAnswer, WebhookError};
use integration_model::{ErrorCode, InstanceId};
use serde::Serialize;

use crate::error::ApiError;
use crate::extract::{BodyLimits, Json, Path};
use crate::middleware::RequestContext;
use crate::state::AppState;

/// That a delivery was taken.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryTaken {
    /// `RECEIVED`.
    pub status: &'static str,
    /// Whether it was taken before; then nothing was done now.
    pub duplicate: bool,
}

/// Deliver a webhook.
///
/// Needs no key: the signature is the proof. The raw body is verified by the scheme of the
/// instance before anything reads it; then the delivery becomes an event
/// (`integration.webhook.received`), which is committed when the answer goes out. A delivery
/// that comes again is answered the same, and makes no second event. Where a sender asks for a
/// challenge, as Slack does, the answer is the challenge.
#[utoipa::path(post, path = "/webhooks/{integrationId}", tag = "webhooks", operation_id = "deliverWebhook", security(()),
    params(("integrationId" = InstanceId, Path)),
    request_body(content = String, content_type = "*/*", description = "What the external system sends, as it signed it."),
    responses((status = 200, description = "It was taken, now or before.", content((DeliveryTaken = "application/json"), (String = "text/plain"))),
        (status = 401, description = "There is no such webhook, or the signature does not hold: the two are answered alike."),
        (status = 409, description = "The instance is not CONNECTED."),
        (status = 413, description = "The body is larger than the instance takes."),
        (status = 429, description = "The limit of the instance is used up."),
        (status = 503, description = "It could not be taken in time: it is to be sent again.")))]
pub(crate) async fn deliver(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    Extension(limits): Extension<BodyLimits>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let target = state.engine.webhook(&id).await?;
    let body = BodyLimits { max_bytes: target.max_body_bytes(), ..limits }.read(body).await?;
    let answer = state.engine.receive_webhook(target, &parts.headers, body, &context.correlation_id).await?;
    Ok(match answer {
        WebhookAnswer::Received { duplicate } => Json(DeliveryTaken { status: "RECEIVED", duplicate }).into_response(),
        WebhookAnswer::Challenge(text) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
    })
}

impl From<WebhookError> for ApiError {
    fn from(error: WebhookError) -> Self {
        let (code, retry_after) = match &error {
            WebhookError::NotVerified => (ErrorCode::WebhookNotVerified, None),
            WebhookError::NotReady => (ErrorCode::InstanceNotReady, None),
            WebhookError::RateLimited { retry_after } => (ErrorCode::RateLimitExceeded, Some(*retry_after)),
            WebhookError::Overloaded => (ErrorCode::Overloaded, Some(SOON)),
            WebhookError::Unavailable(ErrorCode::CredentialUnavailable) => {
                (ErrorCode::CredentialUnavailable, Some(SOON))
            }
            WebhookError::Unavailable(_) => (ErrorCode::Internal, None),
            WebhookError::Store(source) => {
                super::log_store_error(source);
                return Self::internal();
            }
        };
        let api = Self::new(code, error.to_string());
        match (retry_after, &error) {
            (Some(after), _) => api.with_retry_after(after),
            (None, WebhookError::NotVerified) => api.with_challenge(SIGNATURE_CHALLENGE),
            (None, _) => api,
        }
    }
}

/// When a sender may try again.
const SOON: std::time::Duration = std::time::Duration::from_secs(1);
/// A 401 says how to authenticate (RFC 9110, section 11.6.1).
const SIGNATURE_CHALLENGE: &str = "Signature realm=\"Integration Service\"";
