//! Which path leads where. Everything but `/health…` wants a key, unknown paths included,
//! so that nobody without one learns what there is.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use integration_model::ErrorCode;

use crate::access::require_key;
use crate::api::{health, metrics};
use crate::error::ApiError;
use crate::state::AppState;

/// All endpoints.
pub fn router(state: AppState) -> Router {
    let open = Router::new()
        .route("/health", get(health::get_ready))
        .route("/health/ready", get(health::get_ready))
        .route("/health/live", get(health::get_live));
    let guarded = Router::new()
        .route("/status/health", get(health::get_ready))
        .route("/status/metrics", get(metrics::get_metrics))
        .fallback(not_found)
        .layer(from_fn_with_state(state.access.clone(), require_key));
    open.merge(guarded).with_state(state)
}

async fn not_found() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is nothing at this path; /openapi.json lists what there is")
}
