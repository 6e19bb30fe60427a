//! The operations face: instances by their short name, their health, limits, caches and
//! circuit breakers.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use integration_engine::health::{HealthReport, MethodBreaker, NamedLimit};
use integration_engine::instances::{ChangeMode, InstanceChange, NewInstance, TestReport};
use integration_engine::policy::cache::CacheStatistics;
use integration_model::credential::CredentialStatus;
use integration_model::instance::{Instance, InstanceError, InstanceStatus};
use integration_model::{InstanceId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::instances::{self, ListQuery};
use super::{Caller, IfMatch, Page};
use crate::error::ApiError;
use crate::extract::{Json, Path, Query};
use crate::state::AppState;

/// List integrations (instances).
///
/// The same as `/api/v1/integration-instances`.
#[utoipa::path(get, path = "/integrations", tag = "operations", operation_id = "listIntegrations",
    params(ListQuery), responses((status = 200, body = Page<Instance>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Instance>>, ApiError> {
    instances::list_instances(&state, &caller, query).await
}

/// Register an integration (create an instance).
///
/// The same as `POST /api/v1/integration-instances`.
#[utoipa::path(post, path = "/integrations", tag = "operations", operation_id = "registerIntegration",
    request_body = NewInstance, responses((status = 201, body = Instance, headers(("ETag" = String, description = "The instance's version"), ("Location" = String, description = "Where the instance is"))), (status = 404, description = "There is no such definition, or no version of it that takes instances."), (status = 409)))]
pub(crate) async fn register(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewInstance>,
) -> Result<Response, ApiError> {
    instances::create_instance(&state, &caller, new).await
}

/// Read an integration.
///
/// The same as `/api/v1/integration-instances/{id}`.
#[utoipa::path(get, path = "/integrations/{id}", tag = "operations", operation_id = "getIntegration",
    params(("id" = InstanceId, Path)), responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    instances::read_instance(&state, &caller, &id).await
}

/// Update an integration.
///
/// The same as `PUT /api/v1/integration-instances/{id}`.
#[utoipa::path(put, path = "/integrations/{id}", tag = "operations", operation_id = "updateIntegration",
    params(("id" = InstanceId, Path), IfMatch), request_body = InstanceChange,
    responses((status = 200, body = Instance, headers(("ETag" = String, description = "The instance's version")))))]
pub(crate) async fn update(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<Value>,
) -> Result<Response, ApiError> {
    instances::change_instance(&state, &caller, &id, &headers, change, ChangeMode::Replace).await
}

/// Deregister an integration.
///
/// The same as `DELETE /api/v1/integration-instances/{id}`.
#[utoipa::path(delete, path = "/integrations/{id}", tag = "operations", operation_id = "deregisterIntegration",
    params(("id" = InstanceId, Path), IfMatch), responses((status = 204)))]
pub(crate) async fn deregister(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    instances::remove_instance(&state, &caller, &id, &headers).await
}

/// Tell whether an integration can be counted on, from what is known; asks nobody.
///
/// Judged from the instance's status, its circuit breakers and its last test.
#[utoipa::path(get, path = "/integrations/{id}/health", tag = "operations", operation_id = "getIntegrationHealth",
    params(("id" = InstanceId, Path)), responses((status = 200, body = HealthReport)))]
pub(crate) async fn health(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<HealthReport>, ApiError> {
    Ok(Json(state.engine.health(&id, &caller.principal).await?))
}

/// The status of an integration.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusReport {
    pub integration_id: InstanceId,
    pub status: InstanceStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<InstanceError>,
    /// What to do where the status is not CONNECTED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
    pub definition_version: String,
    pub credential: CredentialStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected_at: Option<Timestamp>,
}

/// Tell the status of an integration.
///
/// With the credential's state, and what to do where the status is not CONNECTED.
#[utoipa::path(get, path = "/integrations/{id}/status", tag = "operations", operation_id = "getIntegrationStatus",
    params(("id" = InstanceId, Path)), responses((status = 200, body = StatusReport)))]
pub(crate) async fn status(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<StatusReport>, ApiError> {
    let instance = state.engine.instance(&id, &caller.principal).await?;
    let credential = state.engine.credential_status(&id, &caller.principal).await?;
    Ok(Json(StatusReport {
        remedy: (instance.status != InstanceStatus::Connected).then(|| instance.status.remedy()),
        integration_id: instance.id,
        status: instance.status,
        error: instance.error,
        definition_version: instance.definition_version.to_string(),
        credential,
        last_used_at: instance.last_used_at,
        last_connected_at: instance.last_connected_at,
    }))
}

/// Test an integration's connection.
///
/// The same as `POST /api/v1/integration-instances/{id}/test`.
#[utoipa::path(post, path = "/integrations/{id}/test", tag = "operations", operation_id = "testIntegration",
    params(("id" = InstanceId, Path)), responses((status = 200, body = TestReport)))]
pub(crate) async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TestReport>, ApiError> {
    instances::run_test(&state, &caller, &id).await
}

/// The limits in force.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateLimitReport {
    pub integration_id: InstanceId,
    /// Of the instance, and of each method that was called and has one.
    pub limits: Vec<NamedLimit>,
}

/// Tell the limits of an integration and what is left of them.
///
/// Of the instance and of each method that was called and has a limit.
#[utoipa::path(get, path = "/integrations/{id}/rate-limit", tag = "operations", operation_id = "getRateLimit",
    params(("id" = InstanceId, Path)), responses((status = 200, body = RateLimitReport)))]
pub(crate) async fn rate_limit(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<RateLimitReport>, ApiError> {
    let integration_id = state.engine.instance(&id, &caller.principal).await?.id;
    let limits = state.engine.rate_limits(&id, &caller.principal).await?;
    Ok(Json(RateLimitReport { integration_id, limits }))
}

/// Tell how an integration's cache is used.
///
/// Entries, bytes, hits and misses in this process.
#[utoipa::path(get, path = "/integrations/{id}/cache", tag = "operations", operation_id = "getCache",
    params(("id" = InstanceId, Path)), responses((status = 200, body = CacheStatistics)))]
pub(crate) async fn cache(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CacheStatistics>, ApiError> {
    Ok(Json(state.engine.cache_statistics(&id, &caller.principal).await?))
}

/// Drop an integration's cached answers.
///
/// The next calls ask the external system again.
#[utoipa::path(post, path = "/integrations/{id}/cache/clear", tag = "operations", operation_id = "clearCache",
    params(("id" = InstanceId, Path)), responses((status = 200, body = CacheStatistics)))]
pub(crate) async fn clear_cache(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CacheStatistics>, ApiError> {
    Ok(Json(state.engine.clear_cache(&id, &caller.principal, caller.correlation_id()).await?))
}

/// The circuit breakers of an integration.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerReport {
    pub integration_id: InstanceId,
    /// Of each method that was called; a method without calls is closed.
    pub methods: Vec<MethodBreaker>,
}

/// Tell the states of an integration's circuit breakers.
///
/// Of each method that was called in this process.
#[utoipa::path(get, path = "/integrations/{id}/circuit-breaker", tag = "operations", operation_id = "getCircuitBreaker",
    params(("id" = InstanceId, Path)), responses((status = 200, body = BreakerReport)))]
pub(crate) async fn circuit_breaker(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<BreakerReport>, ApiError> {
    let integration_id = state.engine.instance(&id, &caller.principal).await?.id;
    let methods = state.engine.circuit_breakers(&id, &caller.principal).await?;
    Ok(Json(BreakerReport { integration_id, methods }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResetQuery {
    /// Only this method's; all unless given.
    pub method: Option<String>,
}

/// Close an integration's circuit breakers.
///
/// The next calls go through, and failures are counted from zero.
#[utoipa::path(post, path = "/integrations/{id}/circuit-breaker/reset", tag = "operations", operation_id = "resetCircuitBreaker",
    params(("id" = InstanceId, Path), ResetQuery), responses((status = 200, body = BreakerReport)))]
pub(crate) async fn reset_circuit_breaker(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ResetQuery>,
) -> Result<Json<BreakerReport>, ApiError> {
    let integration_id = state.engine.instance(&id, &caller.principal).await?.id;
    let methods = state
        .engine
        .reset_circuit_breakers(&id, query.method.as_deref(), &caller.principal, caller.correlation_id())
        .await?;
    Ok(Json(BreakerReport { integration_id, methods }))
}
