//! Whether the service itself is well.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use crate::error::ApiError;
use crate::extract::Json;
use crate::state::AppState;

/// That the service is up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// `ok`, or `unavailable`.
    pub status: &'static str,
    pub version: &'static str,
}

/// What the service depends on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    /// `ok`, or `unavailable`.
    pub status: &'static str,
    pub checks: Vec<Check>,
}

/// One thing that the service depends on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Check {
    pub name: &'static str,
    /// `ok`, `unavailable`, `stopping`, or `degraded`: the service goes on without it for a
    /// while. `adapters` is told only where some definitions have none that runs them.
    pub status: &'static str,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Tell that the service is up.
///
/// Answers as long as the process serves; asks nothing of what it depends on.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "getHealth", responses((status = 200, body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: VERSION })
}

/// Tell that the process lives.
///
/// For supervisors that restart what does not answer.
#[utoipa::path(get, path = "/health/live", tag = "health", operation_id = "getLiveness", responses((status = 200, body = Health)))]
pub(crate) async fn live() -> Json<Health> {
    health().await
}

/// Tell whether the service can take calls, and what is missing where it cannot.
///
/// For load balancers: 503 while the database does not answer or the service is stopping.
#[utoipa::path(get, path = "/health/ready", tag = "health", operation_id = "getReadiness",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    readiness(&state).await
}

/// Tell the health of the service and of what it depends on.
///
/// The same checks as `/health/ready`, behind a key.
#[utoipa::path(get, path = "/status/health", tag = "health", operation_id = "getStatusHealth",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(crate) async fn status_health(State(state): State<AppState>) -> Response {
    readiness(&state).await
}

async fn readiness(state: &AppState) -> Response {
    let database = match state.engine.store().ping().await {
        Ok(()) => "ok",
        Err(error) => {
            tracing::warn!(error = %error, "the database does not answer");
            "unavailable"
        }
    };
    let serving = if state.stopping.is_cancelled() { "stopping" } else { "ok" };
    let vault = state.engine.store().vault();
    let services =
        [("key_service", vault.key_service_answers()), ("credential_store", vault.credential_store_answers())];
    let mut checks = vec![Check { name: "database", status: database }, Check { name: "serving", status: serving }];
    checks.extend(
        services
            .into_iter()
            .filter_map(|(name, answers)| Some(Check { name, status: if answers? { "ok" } else { "degraded" } })),
    );
    if !state.engine.adapters_run_all() {
        checks.push(Check { name: "adapters", status: "degraded" });
    }
    let ok = checks.iter().all(|check| matches!(check.status, "ok" | "degraded"));
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { status: if ok { "ok" } else { "unavailable" }, checks })).into_response()
}

/// All metrics in Prometheus' text format.
///
/// For a Prometheus scraper; the names begin with `integration_`.
#[utoipa::path(get, path = "/status/metrics", tag = "health", operation_id = "getMetrics",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    // Thousands of methods make a text for which the callers of this thread should not wait.
    let rendering = tokio::task::spawn_blocking(move || state.metrics.render());
    let text = rendering.await.map_err(|error| {
        tracing::error!(%error, "the metrics could not be rendered");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
