//! Executing a method: the main door.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use integration_engine::execute::{ExecuteRequest, Failure, LimitFacts, Outcome, Paginate, Reply};
use integration_engine::stream::ContentStream;
use integration_model::execution::{ExecutionError, ExecutionMode, Stage};
use integration_model::principal::Principal;
use integration_model::{ErrorCode, InstanceId, Problem};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{act_for_tenant, content, header_fault, header_text, query_fault};
use crate::error::{ApiError, http_status};
use crate::extract::{BodyLimits, Path, Query};
use crate::middleware::RequestContext;
use crate::state::AppState;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const MAX_KEY: usize = 255;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ExecuteQuery {
    /// Give the request that would be sent, secrets redacted; send nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// `all` joins the pages of a paginated answer, `page` gives one with the cursor of the next.
    #[param(inline, schema_with = crate::openapi::paginate)]
    pub paginate: Option<String>,
    /// `meta.nextPage` of the page before.
    pub cursor: Option<String>,
}

/// The body of a call.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecuteBody<'a> {
    /// What the method's `paramSchema` asks for.
    #[schema(value_type = Object)]
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// The answer to a call that went well.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the JSON that the engine writes")]
pub(crate) struct ExecuteSuccess {
    #[schema(inline, schema_with = crate::openapi::success)]
    status: String,
    /// What the external system answered, as the method's `resultSchema` describes it.
    #[schema(schema_with = crate::openapi::anything)]
    data: serde_json::Value,
    meta: ExecuteMeta,
}

/// The answer to a call that failed.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the JSON that the engine writes")]
pub(crate) struct ExecuteFailure {
    #[schema(inline, schema_with = crate::openapi::error)]
    status: String,
    error: ExecutionError,
    meta: ExecuteMeta,
}

/// What is known of a call besides its answer.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the JSON that the engine writes")]
pub(crate) struct ExecuteMeta {
    /// Absent where the call never became an execution.
    execution_id: Option<integration_model::ExecutionId>,
    duration_ms: u64,
    /// Requests made to the external system.
    attempts: u32,
    cached: bool,
    /// How old a cached answer is.
    cache_age_ms: Option<u64>,
    /// The answer is outdated: the external system failed.
    stale: Option<bool>,
    /// Pages joined by `paginate=all`.
    pages: Option<u32>,
    /// The cursor of the next page.
    next_page: Option<String>,
    /// What the external system left out of its answer, and where it does not fit the result schema.
    warnings: Option<Vec<Problem>>,
}

/// The answer to a call that waits in the queue.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the JSON that the engine writes")]
pub(crate) struct ExecuteQueued {
    #[schema(inline, schema_with = crate::openapi::queued)]
    status: String,
    meta: QueuedMeta,
    /// Where the execution can be read.
    location: String,
}

/// The id of a queued execution.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the JSON that the engine writes")]
pub(crate) struct QueuedMeta {
    execution_id: integration_model::ExecutionId,
}

/// All that a call can be answered with.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum ExecuteResponses {
    /// The answer. To a caller that accepts `application/octet-stream`, the content of an object.
    #[response(status = 200, headers(
        ("X-Data" = String, description = "Of content: what `data` would say besides it"),
        ("Idempotency-Replayed" = String, description = "`true` where the answer was given before, to a call with the same key"),
        ("RateLimit-Policy" = String, description = "The limit that the call came closest to"),
        ("RateLimit" = String, description = "What is left of that limit")))]
    Success(ExecuteSuccess),
    /// Queued; `Location` says where the execution can be read.
    #[response(status = 202, headers(("Location" = String, description = "Where the execution can be read"), ("Preference-Applied" = String, description = "respond-async")))]
    Queued(ExecuteQueued),
    /// VALIDATION_ERROR, MALFORMED_BODY
    #[response(status = 400)]
    Invalid(ExecuteFailure),
    /// UNAUTHENTICATED
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(crate::error::ProblemBody),
    /// FORBIDDEN
    #[response(status = 403)]
    Forbidden(ExecuteFailure),
    /// INSTANCE_NOT_FOUND, METHOD_NOT_FOUND
    #[response(status = 404)]
    NotFound(ExecuteFailure),
    /// INSTANCE_NOT_READY, IDEMPOTENCY_KEY_IN_USE, CANCELLED
    #[response(status = 409)]
    Conflict(ExecuteFailure),
    /// PAYLOAD_TOO_LARGE
    #[response(status = 413)]
    TooLarge(ExecuteFailure),
    /// UNSUPPORTED_MEDIA_TYPE
    #[response(status = 415)]
    UnsupportedMediaType(ExecuteFailure),
    /// IDEMPOTENCY_KEY_REUSED
    #[response(status = 422)]
    KeyReused(ExecuteFailure),
    /// RATE_LIMIT_EXCEEDED
    #[response(status = 429, headers(("Retry-After" = u64, description = "Seconds after which to come back")))]
    Limited(ExecuteFailure),
    /// TRANSFORM_ERROR, INTERRUPTED, INTERNAL
    #[response(status = 500)]
    Failed(ExecuteFailure),
    /// UPSTREAM_ERROR, AUTH_ERROR, EGRESS_DENIED, RESULT_INVALID
    #[response(status = 502)]
    Upstream(ExecuteFailure),
    /// CIRCUIT_OPEN, OVERLOADED
    #[response(status = 503, headers(("Retry-After" = u64, description = "Seconds after which to come back")))]
    Unavailable(ExecuteFailure),
    /// TIMEOUT
    #[response(status = 504)]
    TimedOut(ExecuteFailure),
}

/// Execute a method of an instance.
///
/// The params are checked against the method's `paramSchema`; limits, circuit breaker, retries,
/// cache and transforms are those of the method. Answered after the execution's log row and
/// event are where they outlive the service's end.
///
/// Content of objects passes through at any size. A method that puts takes it as a body of
/// `application/octet-stream`, with the params in `X-Params`. A method that gets gives it as such
/// a body where `Accept` names that type, with what is known of it in `X-Data`; an answer that
/// breaks off is not complete.
#[utoipa::path(post, path = "/execute/{integrationId}/{method}", tag = "execute", operation_id = "execute",
    params(("integrationId" = InstanceId, Path, description = "The instance"), ("method" = String, Path), ExecuteQuery,
        ("Prefer" = Option<String>, Header, description = "respond-async: queue the call and answer 202", example = "respond-async"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body give the same answer for 24 h", min_length = 1, max_length = 255),
        ("X-Task-Id" = Option<String>, Header, description = "Goes into the events' metadata", min_length = 1, max_length = 255),
        ("X-Params" = Option<String>, Header, description = "The params as JSON, where the body is content"),
        ("Accept" = Option<String>, Header, description = "application/octet-stream: content in place of JSON, from methods that get it")),
    request_body(content((ExecuteBody = "application/json"), (String = "application/octet-stream"))),
    responses(ExecuteResponses))]
pub(crate) async fn execute(
    State(state): State<AppState>,
    axum::Extension(principal): axum::Extension<Arc<Principal>>,
    axum::Extension(context): axum::Extension<RequestContext>,
    path: Result<Path<(String, String)>, ApiError>,
    query: Result<Query<ExecuteQuery>, ApiError>,
    axum::Extension(limits): axum::Extension<BodyLimits>,
    request: Request,
) -> Response {
    let (Parts { headers, .. }, body) = request.into_parts();
    let request = async || {
        let Path((instance, method)) = path?;
        let call = IncomingCall { principal: &principal, context: &context, instance, method, headers: &headers };
        if content::is_content(&headers) {
            return call.read_beside(&query?.0, limits, body);
        }
        call.read(&query?.0, &limits.read(body).await?)
    };
    match request().await {
        Ok(request) => run(&state, request, &headers).await,
        Err(error) => refuse(error),
    }
}

/// An error from before the engine, in the shape of this endpoint.
pub(crate) fn refuse(error: ApiError) -> Response {
    let stage = if error.code == ErrorCode::Forbidden { Stage::Authorize } else { Stage::Validate };
    let mut failure = Failure::new(stage, error.code, error.detail);
    failure.retry_after = error.retry_after;
    if !error.errors.is_empty() {
        failure.details.insert("errors".to_owned(), serde_json::json!(error.errors));
    }
    answer(Reply::from(Outcome::refused(failure)))
}

/// A call as it came in.
pub(crate) struct IncomingCall<'a> {
    pub principal: &'a Principal,
    pub context: &'a RequestContext,
    pub instance: String,
    pub method: String,
    pub headers: &'a HeaderMap,
}

impl IncomingCall<'_> {
    /// The engine's request.
    pub(crate) fn read(self, query: &ExecuteQuery, body: &Bytes) -> Result<ExecuteRequest, ApiError> {
        let params = read_params(self.headers, body)?;
        self.with_params(query, params)
    }

    /// The engine's request where the body is content beside the params.
    pub(crate) fn read_beside<B>(
        self,
        query: &ExecuteQuery,
        limits: BodyLimits,
        body: B,
    ) -> Result<ExecuteRequest, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        if wants_async(self.headers)? {
            return Err(header_fault(&PREFER, "content that comes as the body is not kept for later: call without"));
        }
        if self.headers.contains_key(&IDEMPOTENCY_KEY) {
            return Err(header_fault(&IDEMPOTENCY_KEY, "content that comes as the body is not compared: call without"));
        }
        let (params, stream) = (content::read_params(self.headers)?, content::upload(body, limits));
        Ok(ExecuteRequest { stream: Some(stream), ..self.with_params(query, params)? })
    }

    fn with_params(self, query: &ExecuteQuery, params: Bytes) -> Result<ExecuteRequest, ApiError> {
        let principal = act_for_tenant(self.principal, self.headers)?;
        let idempotency_key = short_header(self.headers, &IDEMPOTENCY_KEY)?;
        Ok(ExecuteRequest {
            tenant: principal.tenant.clone(),
            principal,
            instance: self.instance,
            method: self.method,
            params,
            mode: if wants_async(self.headers)? { ExecutionMode::Async } else { ExecutionMode::Sync },
            correlation_id: self.context.correlation_id.to_string(),
            traceparent: self.context.traceparent.as_ref().map(|parent| parent.as_str().to_owned()),
            task_id: short_header(self.headers, &TASK_ID)?,
            idempotency_key,
            paginate: read_paginate(query)?,
            dry_run: query.dry_run,
            execution_id: None,
            replay_of: None,
            stream: None,
        })
    }
}

fn short_header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    match header_text(headers, name)? {
        Some(text) if text.is_empty() || text.len() > MAX_KEY => {
            Err(header_fault(name, format!("expected 1 to {MAX_KEY} characters")))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

fn wants_async(headers: &HeaderMap) -> Result<bool, ApiError> {
    let prefer = header_text(headers, &PREFER)?.unwrap_or_default();
    Ok(prefer.split(',').any(|preference| preference.trim().eq_ignore_ascii_case("respond-async")))
}

/// The text of `params`; `{}` where there is no body.
fn read_params(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, ApiError> {
    const NONE: Bytes = Bytes::from_static(b"{}");
    if body.is_empty() {
        return Ok(NONE);
    }
    if !crate::extract::is_json(headers) {
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "expected Content-Type: application/json"));
    }
    if body.trim_ascii_start().starts_with(b"[") {
        // A derived reader would take the items of an array for the fields in their order.
        return Err(ApiError::invalid(vec![Problem::new("", "expected {\"params\": {…}}, found an array")]));
    }
    match serde_json::from_slice::<ExecuteBody<'_>>(body) {
        Ok(ExecuteBody { params: Some(params) }) => Ok(body.slice_ref(params.get().as_bytes())),
        Ok(ExecuteBody { params: None }) => Ok(NONE),
        Err(error) if error.is_data() => {
            Err(ApiError::invalid(vec![Problem::new("", format!("expected {{\"params\": {{…}}}}: {error}"))]))
        }
        Err(error) => Err(ApiError::new(ErrorCode::MalformedBody, format!("expected JSON: {error}"))),
    }
}

fn read_paginate(query: &ExecuteQuery) -> Result<Paginate, ApiError> {
    match (query.paginate.as_deref(), &query.cursor) {
        (None, None) => Ok(Paginate::Off),
        (Some("all"), None) => Ok(Paginate::All),
        (Some("page"), cursor) => Ok(Paginate::Page(cursor.clone())),
        (_, Some(_)) => Err(query_fault("cursor", "a cursor goes with paginate=page")),
        _ => Err(query_fault("paginate", "expected all or page")),
    }
}

/// Runs or queues the call. It runs in a task of its own: where the caller goes away
/// midway, the call still ends with its row in the log.
pub(crate) async fn run(state: &AppState, mut request: ExecuteRequest, headers: &HeaderMap) -> Response {
    match wants_async(headers) {
        Ok(true) => request.mode = ExecutionMode::Async,
        Ok(false) => {}
        Err(error) => return refuse(error),
    }
    let engine = state.engine.clone();
    if request.mode == ExecutionMode::Async && !request.dry_run {
        let task = tokio::spawn(async move { engine.enqueue(request).await });
        return match task.await {
            Ok(Ok(reply)) => accepted(reply),
            Ok(Err(reply)) => answer(reply),
            Err(error) => broken_off(&error),
        };
    }
    request.mode = ExecutionMode::Sync;
    if let Some(ContentStream::Upload(upload)) = &request.stream {
        let upload = Arc::clone(upload);
        return content::take(engine, request, upload).await;
    }
    if content::wants_content(&request, headers) {
        return content::download(engine, request).await;
    }
    match tokio::spawn(async move { engine.execute(request).await }).await {
        Ok(reply) => answer(reply),
        Err(error) => broken_off(&error),
    }
}

pub(crate) fn broken_off(error: &tokio::task::JoinError) -> Response {
    tracing::error!(error = %error, "an execution broke off");
    refuse(ApiError::internal())
}

/// The documents' own shape with its HTTP status and headers.
pub(crate) fn answer(reply: Reply) -> Response {
    let status = reply.code.map_or(StatusCode::OK, http_status);
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = reply.retry_after {
        let seconds = after.as_millis().div_ceil(1_000).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    if reply.replayed {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some(limit) = &reply.limit {
        add_limit_headers(headers, limit);
    }
    response
}

fn accepted(reply: Reply) -> Response {
    let location = reply.execution_id.map(|id| format!("/api/v1/executions/{id}"));
    let mut response = answer(reply);
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(LOCATION, location);
    }
    response
}

/// `RateLimit` and `RateLimit-Policy` as the IETF draft has them.
fn add_limit_headers(headers: &mut HeaderMap, facts: &LimitFacts) {
    let (scope, limit) = (facts.scope, &facts.snapshot);
    let reset = limit.reset_after.as_millis().div_ceil(1_000);
    if let (Some(quota), Some(remaining)) = (limit.limit, limit.remaining) {
        let policy = HeaderValue::try_from(format!("\"{scope}\";q={quota};w=60"));
        let current = HeaderValue::try_from(format!("\"{scope}\";r={remaining};t={reset}"));
        if let (Ok(policy), Ok(current)) = (policy, current) {
            headers.insert(RATE_LIMIT_POLICY, policy);
            headers.insert(RATE_LIMIT, current);
        }
    }
}
