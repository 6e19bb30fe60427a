//! The registry of definitions.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use integration_engine::definitions::ValidationReport;
use integration_engine::{Engine, EngineError};
use integration_model::compatibility::CompatibilityReport;
use integration_model::definition::{
    AuthType, Definition, DefinitionSpec, DefinitionStatus, DefinitionSummary, Method,
};
use integration_model::page::Pagination;
use integration_model::schema::SemanticVersion;
use integration_model::{DefinitionId, ErrorCode};
use integration_store::DefinitionFilter;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use super::{Caller, Page, page_request, parse_labels, parse_query, parse_sort, query_fault, unfit, worded};
use crate::config::yaml_options;
use crate::error::ApiError;
use crate::extract::{Json, Path, Query, RawBody};
use crate::state::AppState;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The adapter's type.
    #[serde(rename = "type")]
    pub adapter_type: Option<String>,
    /// The status of a version: `DRAFT`, `PUBLISHED`, `DEPRECATED`, `ARCHIVED`.
    #[param(inline, schema_with = crate::openapi::definition_status)]
    pub status: Option<String>,
    #[param(inline, schema_with = crate::openapi::auth_type)]
    pub auth_type: Option<String>,
    /// A part of the id, name or description.
    pub q: Option<String>,
    /// `key=value`, several separated by commas.
    #[param(pattern = "^([^=,]+=[^,]*(,[^=,]+=[^,]*)*)?$")]
    pub label: Option<String>,
    #[param(minimum = 1, maximum = 1000000)]
    pub page: Option<u32>,
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `name`, `id`, `createdAt` or `updatedAt`; with `-` before it, reversed.
    #[param(pattern = "^-?(name|id|createdAt|updatedAt)$")]
    pub sort: Option<String>,
}

/// List definitions: of each, the newest version that the filters let through.
///
/// Filters combine; a label filter matches definitions that carry all of its pairs. Without
/// `sort`, by name.
#[utoipa::path(get, path = "/api/v1/integration-definitions", tag = "definitions", operation_id = "listDefinitions",
    params(ListQuery), responses((status = 200, body = Page<DefinitionSummary>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<DefinitionSummary>>, ApiError> {
    let request = page_request(query.page, query.limit)?;
    let filter = DefinitionFilter {
        adapter_type: query.adapter_type,
        status: parse_query(
            "status",
            query.status.as_deref(),
            "DRAFT, PUBLISHED, DEPRECATED or ARCHIVED",
            DefinitionStatus::parse,
        )?,
        auth_type: parse_query(
            "authType",
            query.auth_type.as_deref(),
            "none, basic, api_key, oauth2, jwt or custom",
            AuthType::parse,
        )?,
        q: query.q,
        labels: parse_labels(query.label.as_deref())?,
    };
    let sort = parse_sort(query.sort.as_deref())?;
    let (items, total) = state.engine.store().list_definitions(&filter, request, sort).await?;
    Ok(Json(Page { items, pagination: Pagination::new(request, total) }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CreateQuery {
    /// Publish at once; nothing is stored where the checks refuse it.
    #[serde(default)]
    pub publish: bool,
}

/// Store a new definition as a DRAFT. JSON or YAML.
///
/// The first version of a new definition. With `publish=true` it is checked as publishing
/// would, and nothing is stored where it does not fit. More versions go to `/versions`.
#[utoipa::path(post, path = "/api/v1/integration-definitions", tag = "definitions", operation_id = "createDefinition",
    params(CreateQuery),
    request_body(content((DefinitionSpec = "application/json"), (DefinitionSpec = "application/yaml"))),
    responses((status = 201, body = Definition, headers(("Location" = String, description = "Where the version is"))), (status = 409)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let spec = read_definition(&headers, &body)?;
    create_draft(&state, caller, None, spec, query.publish).await
}

pub(super) async fn create_draft(
    state: &AppState,
    caller: Caller,
    id: Option<DefinitionId>,
    spec: DefinitionSpec,
    publish: bool,
) -> Result<Response, ApiError> {
    let definition = store_draft(state, caller, id, spec, publish).await?;
    let location = location_of(&definition);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(definition)).into_response())
}

/// Where a version can be read.
pub(super) fn location_of(definition: &Definition) -> String {
    format!("/api/v1/integration-definitions/{}/versions/{}", definition.spec.id, definition.spec.version)
}

/// Stores a version of a definition, of the one with this id or of a new one, and publishes it
/// where that is wanted. It runs in a task of its own, so that a draft to be published is not
/// left behind where the caller goes away midway.
pub(super) async fn store_draft(
    state: &AppState,
    caller: Caller,
    id: Option<DefinitionId>,
    spec: DefinitionSpec,
    publish: bool,
) -> Result<Definition, ApiError> {
    let engine = state.engine.clone();
    let created = tokio::spawn(async move {
        let draft = match id {
            Some(id) => engine.create_version(&id, spec, &caller.principal, caller.correlation_id()).await?,
            None => engine.create_definition(spec, &caller.principal, caller.correlation_id()).await?,
        };
        if publish { publish_or_delete(&engine, draft, &caller).await } else { Ok(draft) }
    });
    let stored = created.await.map_err(|error| {
        tracing::error!(error = %error, "the storing of a definition broke off");
        ApiError::internal()
    })?;
    Ok(stored?)
}

/// All or nothing: the draft was made for this alone.
async fn publish_or_delete(engine: &Engine, draft: Definition, caller: &Caller) -> Result<Definition, EngineError> {
    let (id, version) = (&draft.spec.id, &draft.spec.version);
    let by = (&caller.principal, caller.correlation_id());
    let published = engine.publish_definition(id, version, by.0, by.1).await;
    if published.is_err()
        && let Err(error) = engine.delete_draft(id, version, by.0, by.1).await
    {
        tracing::error!(definition = %id, version = %version, error = %error, "a draft that was not fit to be published stays");
    }
    published
}

/// Check a definition as publishing would, without storing it. JSON or YAML.
///
/// Answers 200 with `valid: false` and every problem where the definition does not fit; nothing
/// is stored.
#[utoipa::path(post, path = "/api/v1/integration-definitions/validate", tag = "definitions", operation_id = "validateDefinition",
    request_body(content((DefinitionSpec = "application/json"), (DefinitionSpec = "application/yaml"))),
    responses((status = 200, body = ValidationReport)))]
pub(crate) async fn validate(
    State(state): State<AppState>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Json<ValidationReport>, ApiError> {
    let document = read_document(&headers, &body)?;
    Ok(Json(match DefinitionSpec::from_json(document) {
        Ok(spec) => state.engine.validate_definition(spec).await,
        Err(problem) => ValidationReport { valid: false, problems: vec![worded(problem)], method_count: 0 },
    }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct VersionQuery {
    /// The newest PUBLISHED version unless given.
    #[param(value_type = Option<SemanticVersion>)]
    pub version: Option<String>,
}

/// Read a definition.
///
/// Without `version`: the newest PUBLISHED version, else the newest DEPRECATED one, else the
/// newest there is.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}", tag = "definitions", operation_id = "getDefinition",
    params(("id" = DefinitionId, Path), VersionQuery), responses((status = 200, body = Definition)))]
pub(crate) async fn get(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<Definition>, ApiError> {
    Ok(Json(find(&state, &id, query.version.as_deref()).await?))
}

async fn find(state: &AppState, id: &str, version: Option<&str>) -> Result<Definition, ApiError> {
    let id = definition_id(id)?;
    Ok(match version {
        Some(version) => state.engine.definition_version(&id, &query_version("version", version)?).await?,
        None => state.engine.current_definition(&id).await?,
    })
}

/// An id that no definition can have names none.
fn definition_id(text: &str) -> Result<DefinitionId, ApiError> {
    DefinitionId::parse(text)
        .map_err(|_| ApiError::new(ErrorCode::DefinitionNotFound, format!("there is no definition {text:?}")))
}

fn path_version(id: &DefinitionId, text: &str) -> Result<Version, ApiError> {
    Version::parse(text).map_err(|_| {
        ApiError::new(ErrorCode::DefinitionNotFound, format!("there is no definition {id} in version {text:?}"))
    })
}

fn query_version(name: &str, text: &str) -> Result<Version, ApiError> {
    Version::parse(text)
        .map_err(|error| query_fault(name, format!("expected a semantic version such as 1.2.0: {error}")))
}

/// A definition's methods.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MethodList {
    pub definition_id: DefinitionId,
    pub version: String,
    pub items: Vec<Method>,
}

/// List the methods of a definition.
///
/// Each with its schemas, its operation and its policies.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}/methods", tag = "definitions", operation_id = "listMethods",
    params(("id" = DefinitionId, Path), VersionQuery), responses((status = 200, body = MethodList)))]
pub(crate) async fn methods(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<MethodList>, ApiError> {
    let spec = find(&state, &id, query.version.as_deref()).await?.spec;
    Ok(Json(MethodList { definition_id: spec.id, version: spec.version.to_string(), items: spec.methods }))
}

/// The JSON Schemas of a definition: of its config and of each method.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DefinitionSchemas {
    pub definition_id: DefinitionId,
    pub version: String,
    #[schema(schema_with = integration_model::schema::json_schema)]
    pub config_schema: Value,
    pub methods: BTreeMap<String, MethodSchemas>,
}

/// The JSON Schemas of a method.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MethodSchemas {
    pub description: String,
    #[schema(schema_with = integration_model::schema::json_schema)]
    pub param_schema: Value,
    #[schema(schema_with = integration_model::schema::json_schema)]
    pub result_schema: Value,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SchemaQuery {
    /// The newest PUBLISHED version unless given.
    #[param(value_type = Option<SemanticVersion>)]
    pub version: Option<String>,
    /// Only this method.
    pub method: Option<String>,
}

/// Read the JSON Schemas of a definition.
///
/// The schema of the config and, by name, those of each method's params and result; with
/// `method`, of that method only.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}/schema", tag = "definitions", operation_id = "getDefinitionSchema",
    params(("id" = DefinitionId, Path), SchemaQuery), responses((status = 200, body = DefinitionSchemas)))]
pub(crate) async fn schema(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<SchemaQuery>,
) -> Result<Json<DefinitionSchemas>, ApiError> {
    read_schemas(&state, &id, &query).await
}

/// Read the JSON Schemas of a definition, for services that render forms.
///
/// The same as `/api/v1/integration-definitions/{id}/schema`, under the shorter path.
#[utoipa::path(get, path = "/definitions/{id}/schema", tag = "definitions", operation_id = "getFormSchema",
    params(("id" = DefinitionId, Path), SchemaQuery), responses((status = 200, body = DefinitionSchemas)))]
pub(crate) async fn form_schema(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<SchemaQuery>,
) -> Result<Json<DefinitionSchemas>, ApiError> {
    read_schemas(&state, &id, &query).await
}

async fn read_schemas(state: &AppState, id: &str, query: &SchemaQuery) -> Result<Json<DefinitionSchemas>, ApiError> {
    let spec = find(state, id, query.version.as_deref()).await?.spec;
    let wanted = |method: &Method| query.method.as_ref().is_none_or(|name| *name == method.name);
    let methods: BTreeMap<_, _> = spec
        .methods
        .into_iter()
        .filter(wanted)
        .map(|method| {
            let schemas = MethodSchemas {
                description: method.description,
                param_schema: method.param_schema,
                result_schema: method.result_schema,
            };
            (method.name, schemas)
        })
        .collect();
    if let (Some(name), true) = (&query.method, methods.is_empty()) {
        return Err(ApiError::new(ErrorCode::MethodNotFound, format!("definition {} has no method {name:?}", spec.id)));
    }
    Ok(Json(DefinitionSchemas {
        definition_id: spec.id,
        version: spec.version.to_string(),
        config_schema: spec.config_schema,
        methods,
    }))
}

/// All versions of a definition.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct VersionList {
    /// The newest first.
    pub items: Vec<DefinitionSummary>,
}

/// List the versions of a definition.
///
/// All versions, whatever their status, the newest first.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}/versions", tag = "definitions", operation_id = "listVersions",
    params(("id" = DefinitionId, Path)), responses((status = 200, body = VersionList)))]
pub(crate) async fn versions(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<VersionList>, ApiError> {
    let items = state.engine.definition_versions(&definition_id(&id)?).await?;
    Ok(Json(VersionList { items }))
}

/// Store another version as a DRAFT. JSON or YAML.
///
/// The body's `id` must be that of the path, and its `version` a new one.
#[utoipa::path(post, path = "/api/v1/integration-definitions/{id}/versions", tag = "definitions", operation_id = "createVersion",
    params(("id" = DefinitionId, Path), CreateQuery),
    request_body(content((DefinitionSpec = "application/json"), (DefinitionSpec = "application/yaml"))),
    responses((status = 201, body = Definition, headers(("Location" = String, description = "Where the version is"))), (status = 409)))]
pub(crate) async fn create_version(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let id = definition_id(&id)?;
    let spec = read_definition(&headers, &body)?;
    create_draft(&state, caller, Some(id), spec, query.publish).await
}

/// Read one version.
///
/// One version of a definition, whatever its status.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}/versions/{version}", tag = "definitions", operation_id = "getVersion",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)), responses((status = 200, body = Definition)))]
pub(crate) async fn get_version(
    State(state): State<AppState>,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Definition>, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    Ok(Json(state.engine.definition_version(&id, &version).await?))
}

/// Replace a DRAFT. JSON or YAML.
///
/// The body's `id` and `version` must be those of the path. A PUBLISHED version is immutable:
/// store another one.
#[utoipa::path(put, path = "/api/v1/integration-definitions/{id}/versions/{version}", tag = "definitions", operation_id = "updateDraft",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)),
    request_body(content((DefinitionSpec = "application/json"), (DefinitionSpec = "application/yaml"))),
    responses((status = 200, body = Definition), (status = 409, description = "The version is no DRAFT")))]
pub(crate) async fn update_version(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, version)): Path<(String, String)>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Json<Definition>, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    let spec = read_definition(&headers, &body)?;
    Ok(Json(state.engine.update_draft(&id, &version, spec, &caller.principal, caller.correlation_id()).await?))
}

/// Delete a DRAFT.
///
/// Only a DRAFT can be deleted: instances may be pinned to any other version.
#[utoipa::path(delete, path = "/api/v1/integration-definitions/{id}/versions/{version}", tag = "definitions", operation_id = "deleteDraft",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)),
    responses((status = 204), (status = 409, description = "The version is no DRAFT")))]
pub(crate) async fn delete_version(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, version)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    state.engine.delete_draft(&id, &version, &caller.principal, caller.correlation_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Publish a version: after all checks it is immutable.
///
/// Every schema and transform must compile, every operation fit its adapter, and the version
/// number be honest: what breaks callers needs a new major version. A DEPRECATED version comes
/// back into use.
#[utoipa::path(post, path = "/api/v1/integration-definitions/{id}/versions/{version}/publish", tag = "definitions", operation_id = "publishVersion",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)),
    responses((status = 200, body = Definition), (status = 409, description = "The version number hides breaking changes, or the version's status does not allow it")))]
pub(crate) async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Definition>, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    Ok(Json(state.engine.publish_definition(&id, &version, &caller.principal, caller.correlation_id()).await?))
}

/// Deprecate a version: it executes, but takes no new instances.
///
/// Instances that are pinned to it go on executing.
#[utoipa::path(post, path = "/api/v1/integration-definitions/{id}/versions/{version}/deprecate", tag = "definitions", operation_id = "deprecateVersion",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)),
    responses((status = 200, body = Definition), (status = 409)))]
pub(crate) async fn deprecate(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Definition>, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    Ok(Json(state.engine.deprecate_definition(&id, &version, &caller.principal, caller.correlation_id()).await?))
}

/// Archive a DEPRECATED version: it executes nothing.
///
/// Instances that are pinned to it stop executing until they are upgraded.
#[utoipa::path(post, path = "/api/v1/integration-definitions/{id}/versions/{version}/archive", tag = "definitions", operation_id = "archiveVersion",
    params(("id" = DefinitionId, Path), ("version" = SemanticVersion, Path)),
    responses((status = 200, body = Definition), (status = 409)))]
pub(crate) async fn archive(
    State(state): State<AppState>,
    caller: Caller,
    Path((id, version)): Path<(String, String)>,
) -> Result<Json<Definition>, ApiError> {
    let id = definition_id(&id)?;
    let version = path_version(&id, &version)?;
    Ok(Json(state.engine.archive_definition(&id, &version, &caller.principal, caller.correlation_id()).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CompareQuery {
    /// The version that callers know.
    #[param(value_type = SemanticVersion)]
    pub from: String,
    /// The version that is to take its place.
    #[param(value_type = SemanticVersion)]
    pub to: String,
}

/// Compare two versions: what changed, and what it means for callers.
///
/// Lists each change with its place, and says which version number it asks for.
#[utoipa::path(get, path = "/api/v1/integration-definitions/{id}/compare", tag = "definitions", operation_id = "compareVersions",
    params(("id" = DefinitionId, Path), CompareQuery), responses((status = 200, body = CompatibilityReport)))]
pub(crate) async fn compare(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<CompareQuery>,
) -> Result<Json<CompatibilityReport>, ApiError> {
    let id = definition_id(&id)?;
    let from = query_version("from", &query.from)?;
    let to = query_version("to", &query.to)?;
    Ok(Json(state.engine.compare_versions(&id, &from, &to).await?))
}

fn read_definition(headers: &HeaderMap, body: &[u8]) -> Result<DefinitionSpec, ApiError> {
    DefinitionSpec::from_json(read_document(headers, body)?).map_err(unfit)
}

/// The document behind a body of JSON or YAML.
fn read_document(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => crate::extract::parse_json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => parse_yaml(body),
        _ => Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            "expected Content-Type: application/json or application/yaml",
        )),
    }
}

fn parse_yaml(body: &[u8]) -> Result<Value, ApiError> {
    let malformed = |message: String| ApiError::new(ErrorCode::MalformedBody, message);
    let text = std::str::from_utf8(body).map_err(|error| malformed(format!("expected UTF-8: {error}")))?;
    serde_saphyr::from_str_with_options(text, yaml_options())
        .map_err(|error| malformed(format!("expected YAML: {}", error.without_snippet())))
}
