//! Instances: configured connections to external systems.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use integration_engine::instances::{
    ChangeMode, InstanceChange, NewInstance, TestReport, UpgradeReport, UpgradeRequest,
};
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::page::Pagination;
use integration_model::{DefinitionId, InstanceId};
use integration_store::InstanceFilter;
use serde::Deserialize;
use serde_json::Value;

use super::{Caller, IfMatch, Page, etag, if_match, page_request, parse_labels, parse_query, parse_sort, unfit};
use crate::error::ApiError;
use crate::extract::{Json, Path, Query};
use crate::state::AppState;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    #[param(inline, schema_with = crate::openapi::instance_status)]
    pub status: Option<String>,
    #[param(value_type = Option<DefinitionId>)]
    pub integration_definition_id: Option<String>,
    /// A part of the id or name.
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

/// List instances.
///
/// Filters combine; a label filter matches instances that carry all of its pairs. Only
/// instances that the caller may see.
#[utoipa::path(get, path = "/api/v1/integration-instances", tag = "instances", operation_id = "listInstances",
    params(ListQuery), responses((status = 200, body = Page<Instance>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Instance>>, ApiError> {
    list_instances(&state, &caller, query).await
}

pub(super) async fn list_instances(
    state: &AppState,
    caller: &Caller,
    query: ListQuery,
) -> Result<Json<Page<Instance>>, ApiError> {
    let request = page_request(query.page, query.limit)?;
    let filter = InstanceFilter {
        tenant: caller.principal.tenant.clone(),
        definition: parse_query(
            "integrationDefinitionId",
            query.integration_definition_id.as_deref(),
            "a definition's id",
            |text| DefinitionId::parse(text).ok(),
        )?,
        status: parse_query("status", query.status.as_deref(), "the status of an instance", InstanceStatus::parse)?,
        labels: parse_labels(query.label.as_deref())?,
        q: query.q,
    };
    let sort = parse_sort(query.sort.as_deref())?;
    let (items, total) = state.engine.store().list_instances(&filter, request, sort).await?;
    Ok(Json(Page { items, pagination: Pagination::new(request, total) }))
}

/// Create an instance.
///
/// A config that does not fit the definition's `configSchema` is no error: the instance then
/// waits in PENDING_CONFIGURATION, and its `error` says why.
#[utoipa::path(post, path = "/api/v1/integration-instances", tag = "instances", operation_id = "createInstance",
    request_body = NewInstance,
    responses((status = 201, body = Instance, headers(("ETag" = String, description = "The instance's version"), ("Location" = String, description = "Where the instance is"))), (status = 404, description = "There is no such definition, or no version of it that takes instances."), (status = 409)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewInstance>,
) -> Result<Response, ApiError> {
    create_instance(&state, &caller, new).await
}

pub(super) async fn create_instance(state: &AppState, caller: &Caller, new: NewInstance) -> Result<Response, ApiError> {
    let instance = state.engine.create_instance(new, &caller.principal, caller.correlation_id()).await?;
    let location = format!("/api/v1/integration-instances/{}", instance.id);
    Ok((StatusCode::CREATED, etag(instance.version), [(LOCATION, location)], Json(instance)).into_response())
}

fn with_etag(instance: Instance) -> Response {
    (etag(instance.version), Json(instance)).into_response()
}

/// Read an instance.
///
/// With its status and, where it is not well, why.
#[utoipa::path(get, path = "/api/v1/integration-instances/{id}", tag = "instances", operation_id = "getInstance",
    params(("id" = InstanceId, Path)),
    responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    read_instance(&state, &caller, &id).await
}

pub(super) async fn read_instance(state: &AppState, caller: &Caller, id: &str) -> Result<Response, ApiError> {
    Ok(with_etag(state.engine.instance(id, &caller.principal).await?))
}

/// Replace what an instance is given: name, config, labels. Absent fields stay.
///
/// Fields that are absent stay; those that are given replace what was there. With `If-Match`,
/// only where nobody changed the instance in between.
#[utoipa::path(put, path = "/api/v1/integration-instances/{id}", tag = "instances", operation_id = "replaceInstance",
    params(("id" = InstanceId, Path), IfMatch), request_body = InstanceChange,
    responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn replace(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<Value>,
) -> Result<Response, ApiError> {
    change_instance(&state, &caller, &id, &headers, change, ChangeMode::Replace).await
}

/// Merge a change into an instance (RFC 7396).
///
/// A null removes a config key or a label. With `If-Match`, only where nobody changed the
/// instance in between.
#[utoipa::path(patch, path = "/api/v1/integration-instances/{id}", tag = "instances", operation_id = "patchInstance",
    params(("id" = InstanceId, Path), IfMatch),
    request_body(content((InstanceChange = "application/json"), (InstanceChange = "application/merge-patch+json"))),
    responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn patch(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<Value>,
) -> Result<Response, ApiError> {
    change_instance(&state, &caller, &id, &headers, change, ChangeMode::Merge).await
}

pub(super) async fn change_instance(
    state: &AppState,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
    change: Value,
    mode: ChangeMode,
) -> Result<Response, ApiError> {
    let expected = if_match(headers)?;
    let change = InstanceChange::from_json(change).map_err(unfit)?;
    let instance =
        state.engine.change_instance(id, expected, change, mode, &caller.principal, caller.correlation_id()).await?;
    Ok(with_etag(instance))
}

/// Delete an instance with its credential, cached answers and waiting executions.
///
/// Its executions stay in the log for as long as logs are kept.
#[utoipa::path(delete, path = "/api/v1/integration-instances/{id}", tag = "instances", operation_id = "deleteInstance",
    params(("id" = InstanceId, Path), IfMatch),
    responses((status = 204)))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    remove_instance(&state, &caller, &id, &headers).await
}

pub(super) async fn remove_instance(
    state: &AppState,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
) -> Result<StatusCode, ApiError> {
    let expected = if_match(headers)?;
    state.engine.delete_instance(id, expected, &caller.principal, caller.correlation_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Bring an instance back into use.
///
/// After a disconnect or an authentication error; the status that follows depends on the config
/// and the credential.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/connect", tag = "instances", operation_id = "connectInstance",
    params(("id" = InstanceId, Path), IfMatch), responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn connect(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let expected = if_match(&headers)?;
    let instance = state.engine.connect_instance(&id, expected, &caller.principal, caller.correlation_id()).await?;
    Ok(with_etag(instance))
}

/// Take an instance out of use; its credential stays.
///
/// Calls are refused with INSTANCE_NOT_READY until it is connected again.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/disconnect", tag = "instances", operation_id = "disconnectInstance",
    params(("id" = InstanceId, Path), IfMatch), responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn disconnect(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let expected = if_match(&headers)?;
    let instance = state.engine.disconnect_instance(&id, expected, &caller.principal, caller.correlation_id()).await?;
    Ok(with_etag(instance))
}

/// Test the connection: whether the external system answers and takes the credential.
///
/// Executes the definition's `testMethod`, else asks whether the system can be reached; whether
/// the system took the credential moves the instance's status.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/test", tag = "instances", operation_id = "testInstance",
    params(("id" = InstanceId, Path)), responses((status = 200, body = TestReport)))]
pub(crate) async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TestReport>, ApiError> {
    run_test(&state, &caller, &id).await
}

pub(super) async fn run_test(state: &AppState, caller: &Caller, id: &str) -> Result<Json<TestReport>, ApiError> {
    Ok(Json(state.engine.test_instance(id, &caller.principal, caller.correlation_id()).await?))
}

/// Pin an instance to another version of its definition, with a compatibility report.
///
/// With `dryRun`, only reports. Breaking changes need `acceptBreaking`.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/upgrade", tag = "instances", operation_id = "upgradeInstance",
    params(("id" = InstanceId, Path), IfMatch), request_body = UpgradeRequest,
    responses((status = 200, body = UpgradeReport), (status = 409, description = "The version breaks callers or the config, and acceptBreaking was not sent")))]
pub(crate) async fn upgrade(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(request): Json<UpgradeRequest>,
) -> Result<Json<UpgradeReport>, ApiError> {
    let expected = if_match(&headers)?;
    let report =
        state.engine.upgrade_instance(&id, expected, request, &caller.principal, caller.correlation_id()).await?;
    Ok(Json(report))
}
