//! The definitions that come with the service.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use integration_engine::EngineError;
use integration_model::definition::{AuthType, Definition, DefinitionSpec, DefinitionStatus};
use integration_model::{DefinitionId, ErrorCode};
use serde::Serialize;
use std::collections::BTreeMap;

use super::Caller;
use super::definitions::{CreateQuery, create_draft};
use crate::catalogue::{Entry, Installation, entries, find};
use crate::error::ApiError;
use crate::extract::{Json, OptionalJson, Path, Query};
use crate::seed::without_client_secret;
use crate::state::AppState;

/// What comes with the service.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CatalogueList {
    pub items: Vec<CatalogueEntry>,
}

/// A definition of the catalogue, in short.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CatalogueEntry {
    pub id: DefinitionId,
    pub name: String,
    pub description: String,
    pub version: String,
    #[serde(rename = "type")]
    pub adapter_type: String,
    pub auth_type: AuthType,
    pub method_count: usize,
    pub labels: BTreeMap<String, String>,
    /// The status of this version in the registry, where it is installed under its own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed: Option<DefinitionStatus>,
}

/// A definition of the catalogue, whole.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CatalogueDefinition {
    #[serde(flatten)]
    pub entry: CatalogueEntry,
    pub definition: DefinitionSpec,
}

/// List the definitions that come with the service.
///
/// Each with its status in the registry, where it is installed.
#[utoipa::path(get, path = "/api/v1/catalogue", tag = "catalogue", operation_id = "listCatalogue",
    responses((status = 200, body = CatalogueList)))]
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<CatalogueList>, ApiError> {
    let mut items = Vec::with_capacity(entries().len());
    for entry in entries() {
        items.push(in_short(&state, entry).await?);
    }
    Ok(Json(CatalogueList { items }))
}

/// Read a definition that comes with the service.
///
/// As it would be installed.
#[utoipa::path(get, path = "/api/v1/catalogue/{id}", tag = "catalogue", operation_id = "getCatalogueEntry",
    params(("id" = DefinitionId, Path)), responses((status = 200, body = CatalogueDefinition)))]
pub(crate) async fn get(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<CatalogueDefinition>, ApiError> {
    let entry = named(&id)?;
    let definition = entry.spec.clone();
    Ok(Json(CatalogueDefinition { entry: in_short(&state, entry).await?, definition }))
}

/// Install a definition that comes with the service.
///
/// As a DRAFT, or with `publish=true` ready for instances. Where the same content is installed
/// already, nothing is stored again; a DRAFT of it is published where that is asked for. A
/// definition with an `oauth2Config` is published only with the id of a client.
#[utoipa::path(post, path = "/api/v1/catalogue/{id}/install", tag = "catalogue", operation_id = "installCatalogueEntry",
    params(("id" = DefinitionId, Path), CreateQuery), request_body = Option<Installation>,
    responses(
        (status = 200, body = Definition, description = "It was installed before."),
        (status = 201, body = Definition, headers(("Location" = String, description = "Where the version is"))),
        (status = 409, description = "The registry has this version with another content.")))]
pub(crate) async fn install(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<CreateQuery>,
    OptionalJson(installation): OptionalJson<Installation>,
) -> Result<Response, ApiError> {
    let spec = installation.apply(named(&id)?).map_err(|problems| {
        ApiError::from(EngineError::invalid("the installation does not fit the definition", problems))
    })?;
    let engine = &state.engine;
    let Some(stored) = engine.store().definition(&spec.id, &spec.version).await? else {
        let known = !engine.store().definition_versions(&spec.id).await?.is_empty();
        let id = known.then(|| spec.id.clone());
        return create_draft(&state, caller, id, spec, query.publish).await;
    };
    let (id, version) = (spec.id.clone(), spec.version.clone());
    if stored.spec != without_client_secret(spec) {
        return Err(ApiError::new(
            ErrorCode::AlreadyExists,
            format!(
                "definition {id} {version} is there with another content; delete it where it is a DRAFT, or give the body an id of its own"
            ),
        ));
    }
    let is_draft = stored.status == DefinitionStatus::Draft;
    let definition = if is_draft && query.publish {
        engine.publish_definition(&id, &version, &caller.principal, caller.correlation_id()).await?
    } else {
        stored
    };
    Ok(Json(definition).into_response())
}

fn named(id: &str) -> Result<&'static Entry, ApiError> {
    find(id).ok_or_else(|| {
        ApiError::new(
            ErrorCode::DefinitionNotFound,
            format!("the catalogue has no definition {id:?}; GET /api/v1/catalogue lists what it has"),
        )
    })
}

async fn in_short(state: &AppState, entry: &Entry) -> Result<CatalogueEntry, ApiError> {
    let spec = &entry.spec;
    let version = spec.version.to_string();
    let stored = state.engine.store().definition_versions(&spec.id).await?;
    Ok(CatalogueEntry {
        id: spec.id.clone(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        adapter_type: spec.adapter_type.clone(),
        auth_type: spec.auth_type,
        method_count: spec.methods.len(),
        labels: spec.labels.clone(),
        installed: stored.into_iter().find(|stored| stored.version == version).map(|stored| stored.status),
        version,
    })
}
