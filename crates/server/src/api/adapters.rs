//! The adapters: what the service can speak to.

use axum::extract::State;
use integration_engine::adapter::AdapterDescription;
use serde::Serialize;

use crate::extract::Json;
use crate::state::AppState;

/// The adapters of this service.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AdapterList {
    pub items: Vec<AdapterDescription>,
}

/// List the adapters with their schemas.
///
/// With the schemas of what each reads: a method's `operation` and an instance's `config`.
#[utoipa::path(get, path = "/api/v1/adapters", tag = "definitions", operation_id = "listAdapters", responses((status = 200, body = AdapterList)))]
pub(crate) async fn list(State(state): State<AppState>) -> Json<AdapterList> {
    Json(AdapterList { items: state.engine.adapters().iter().map(|adapter| adapter.describe()).collect() })
}
