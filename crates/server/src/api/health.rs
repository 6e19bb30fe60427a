//! `/health…` (open to all) and `/status/health` (the same, for callers with a key).

use std::collections::BTreeMap;

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;

use crate::extract::Json;
use crate::state::AppState;

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthStatus {
    Ok,
    Unavailable,
}

/// The service's health.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    status: HealthStatus,
    version: &'static str,
    /// What the service depends on, by name.
    dependencies: BTreeMap<&'static str, DependencyHealth>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DependencyHealth {
    status: HealthStatus,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Whether the process answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Liveness {
    status: HealthStatus,
}

/// Whether the process answers; says nothing of its dependencies.
pub(crate) async fn get_live() -> Json<Liveness> {
    Json(Liveness { status: HealthStatus::Ok })
}

/// Whether the service can do its work: 200, or 503 with what is missing.
pub(crate) async fn get_ready(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let dependencies: BTreeMap<_, _> = state
        .readiness
        .dependencies()
        .into_iter()
        .map(|(name, state)| match state {
            Ok(()) => (name, DependencyHealth { status: HealthStatus::Ok, detail: None }),
            Err(detail) => (name, DependencyHealth { status: HealthStatus::Unavailable, detail: Some(detail) }),
        })
        .collect();
    let ready = dependencies.values().all(|dependency| dependency.status == HealthStatus::Ok);
    let (code, status) = match ready {
        true => (StatusCode::OK, HealthStatus::Ok),
        false => (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Unavailable),
    };
    (code, Json(Health { status, version: env!("CARGO_PKG_VERSION"), dependencies }))
}
