//! The log of executions: list, read, cancel, replay.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use integration_engine::execute::ExecuteRequest;
use integration_model::execution::{Execution, ExecutionStatus};
use integration_model::{ErrorCode, ExecutionId, InstanceId};
use integration_store::ExecutionFilter;
use serde::Deserialize;

use super::{Caller, Stretch, parse_query, parse_time, query_fault, stretch_limit};
use crate::error::ApiError;
use crate::extract::{Json, Path, Query};
use crate::state::AppState;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    pub method: Option<String>,
    #[param(inline, schema_with = crate::openapi::execution_status)]
    pub status: Option<String>,
    pub correlation_id: Option<String>,
    /// RFC 3339; the earliest start.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// RFC 3339; starts before this.
    #[param(format = DateTime)]
    pub until: Option<String>,
    /// `nextCursor` of the page before.
    #[param(format = Uuid)]
    pub cursor: Option<String>,
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InstanceQuery {
    /// The instance's id.
    #[param(value_type = Option<InstanceId>)]
    pub instance: Option<String>,
}

/// List executions, the newest first.
///
/// Filters combine. `nextCursor` leads on to older ones.
#[utoipa::path(get, path = "/api/v1/executions", tag = "executions", operation_id = "listExecutions",
    params(InstanceQuery, ListQuery), responses((status = 200, body = Stretch<Execution>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(InstanceQuery { instance }): Query<InstanceQuery>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Stretch<Execution>>, ApiError> {
    let instance =
        parse_query("instance", instance.as_deref(), "an instance's id", |text| InstanceId::parse(text).ok())?;
    list_executions(&state, &caller, instance, query).await
}

/// List the executions of an instance, the newest first.
///
/// The same as `/api/v1/executions` for one instance.
#[utoipa::path(get, path = "/api/v1/integration-instances/{id}/executions", tag = "executions", operation_id = "listInstanceExecutions",
    params(("id" = InstanceId, Path), ListQuery), responses((status = 200, body = Stretch<Execution>)))]
pub(crate) async fn list_of_instance(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Stretch<Execution>>, ApiError> {
    let instance = state.engine.instance(&id, &caller.principal).await?;
    list_executions(&state, &caller, Some(instance.id), query).await
}

async fn list_executions(
    state: &AppState,
    caller: &Caller,
    instance: Option<InstanceId>,
    query: ListQuery,
) -> Result<Json<Stretch<Execution>>, ApiError> {
    let limit = stretch_limit(query.limit)?;
    let filter = ExecutionFilter {
        tenant: caller.principal.tenant.clone(),
        instance,
        method: query.method,
        status: parse_query(
            "status",
            query.status.as_deref(),
            "QUEUED, RUNNING, SUCCESS or ERROR",
            ExecutionStatus::parse,
        )?,
        created_from: parse_time("from", query.from.as_deref())?,
        created_until: parse_time("until", query.until.as_deref())?,
        correlation_id: query.correlation_id,
    };
    let cursor = query
        .cursor
        .as_deref()
        .map(|text| ExecutionId::parse(text).map_err(|_| query_fault("cursor", "expected the nextCursor of a page")))
        .transpose()?;
    let items = state.engine.store().list_executions(&filter, cursor, limit).await?;
    let full = items.len() >= limit as usize;
    let next_cursor = items.last().filter(|_| full).map(|execution| execution.id.to_string());
    Ok(Json(Stretch { items, next_cursor }))
}

/// Read an execution; an asynchronous one comes with its answer.
///
/// The params are not told; the answer is, where the execution was asynchronous.
#[utoipa::path(get, path = "/api/v1/executions/{id}", tag = "executions", operation_id = "getExecution",
    params(("id" = ExecutionId, Path)), responses((status = 200, body = Execution)))]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Execution>, ApiError> {
    Ok(Json(state.engine.execution(execution_id(&id)?, &caller.principal).await?))
}

/// Cancel an asynchronous execution.
///
/// One that waits never runs; one that runs is stopped, and what it did upstream may be
/// unknown.
#[utoipa::path(post, path = "/api/v1/executions/{id}/cancel", tag = "executions", operation_id = "cancelExecution",
    params(("id" = ExecutionId, Path)), responses((status = 200, body = Execution), (status = 409, description = "The execution has ended, or runs elsewhere")))]
pub(crate) async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Execution>, ApiError> {
    let id = execution_id(&id)?;
    Ok(Json(state.engine.cancel_execution(id, &caller.principal, caller.correlation_id()).await?))
}

/// Execute again what an execution did, with the params it had.
///
/// A new execution with an id of its own, whose `replayOf` names this one. Only executions
/// whose params were kept can be repeated.
#[utoipa::path(post, path = "/api/v1/executions/{id}/replay", tag = "executions", operation_id = "replayExecution",
    params(("id" = ExecutionId, Path), ("Prefer" = Option<String>, Header, description = "respond-async")),
    responses(super::execute::ExecuteResponses))]
pub(crate) async fn replay(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match replay_request(&state, &caller, &id).await {
        Ok(request) => super::execute::run(&state, request, &headers).await,
        Err(error) => super::execute::refuse(error),
    }
}

async fn replay_request(state: &AppState, caller: &Caller, id: &str) -> Result<ExecuteRequest, ApiError> {
    let correlation_id = caller.correlation_id().to_owned();
    Ok(state.engine.replay_request(execution_id(id)?, &caller.principal, correlation_id).await?)
}

/// An id that no execution can have names none.
fn execution_id(text: &str) -> Result<ExecutionId, ApiError> {
    ExecutionId::parse(text)
        .map_err(|_| ApiError::new(ErrorCode::ExecutionNotFound, format!("there is no execution {text:?}")))
}
