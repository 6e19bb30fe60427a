//! The adapters: what the service can speak to, and how its instances fare.

use std::sync::Arc;

use axum::extract::State;
use integration_engine::adapter::AdapterDescription;
use integration_engine::adapter_health::{AdapterHealth, IncompatibleDefinition};
use serde::Serialize;

use super::Caller;
use crate::error::ApiError;
use crate::extract::Json;
use crate::state::AppState;

/// The adapters of this service.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AdapterList {
    pub items: Vec<AdapterItem>,
    /// Versions that may execute, and that none of the adapters runs; at most 100.
    #[schema(value_type = Vec<IncompatibleDefinition>)]
    pub incompatible: Arc<Vec<IncompatibleDefinition>>,
}

/// One adapter.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AdapterItem {
    #[serde(flatten)]
    pub description: AdapterDescription,
    /// The versions of the adapter for which a definition may have been written that it runs.
    #[schema(example = ">=1.0.0, <=1.2.0")]
    pub compatible_with: String,
    pub health: AdapterHealth,
}

/// List the adapters with their schemas and their health.
///
/// The schemas are those of what each reads: a method's `operation` and an instance's `config`.
/// The health is that of the instances that the caller may see.
#[utoipa::path(get, path = "/api/v1/adapters", tag = "adapters", operation_id = "listAdapters", responses((status = 200, body = AdapterList)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<AdapterList>, ApiError> {
    let engine = &state.engine;
    let health = engine.adapter_health(&caller.principal).await?;
    let items = health.into_iter().filter_map(|(adapter_type, health)| {
        let description = engine.adapters().get(adapter_type)?.describe();
        Some(AdapterItem { compatible_with: description.compatible_with(), description, health })
    });
    Ok(Json(AdapterList { items: items.collect(), incompatible: engine.check_adapters().await? }))
}
