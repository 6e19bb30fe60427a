//! Connecting instances by OAuth 2: a person's way to the authorization server and back.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use integration_engine::oauth::{
    AuthorizationResponse, AuthorizationStarted, AuthorizeRequest, ConnectionOutcome, DeviceAuthorization,
    DeviceRequest,
};
use integration_model::{InstanceId, Problem};
use serde::Serialize;
use url::{Url, form_urlencoded};

use super::Caller;
use crate::error::{ApiError, ProblemBody};
use crate::extract::{Json, Path};
use crate::middleware::RequestContext;
use crate::pages::connection;
use crate::state::AppState;

/// Where authorization servers send people back to.
pub(crate) const CALLBACK_PATH: &str = "/api/v1/oauth/callback";

/// Begin a person's connection: the URL where the person agrees.
///
/// Open `authorizationUrl` in the person's browser. The authorization server sends the person
/// back to the callback, where the connection ends. The `state` is good once, and for ten
/// minutes. PKCE (S256) is always used.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/oauth/authorize", tag = "credentials", operation_id = "beginAuthorization",
    params(("id" = InstanceId, Path)), request_body = AuthorizeRequest,
    responses((status = 200, body = AuthorizationStarted), (status = 409, description = "The definition has no authorization code grant, or not all that it needs."), (status = 502, description = "The authorization server's metadata cannot be read.")))]
pub(crate) async fn authorize(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(request): Json<AuthorizeRequest>,
) -> Result<Json<AuthorizationStarted>, ApiError> {
    Ok(Json(state.engine.begin_authorization(&id, request, &caller.principal, caller.correlation_id()).await?))
}

/// Begin a connection by the device code grant: the code that a person enters elsewhere.
///
/// Show `userCode` and `verificationUri` to the person. The service asks the authorization
/// server until the person has agreed; the instance is CONNECTED then.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/oauth/device", tag = "credentials", operation_id = "beginDeviceAuthorization",
    params(("id" = InstanceId, Path)), request_body = DeviceRequest,
    responses((status = 200, body = DeviceAuthorization), (status = 409, description = "The definition has no device code grant, or not all that it needs."), (status = 502, description = "The authorization server refused, or cannot be reached.")))]
pub(crate) async fn device(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(request): Json<DeviceRequest>,
) -> Result<Json<DeviceAuthorization>, ApiError> {
    Ok(Json(state.engine.begin_device_authorization(&id, request, &caller.principal, caller.correlation_id()).await?))
}

/// That a connection was made.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionMade {
    /// `SUCCESS`.
    pub status: &'static str,
    pub integration_instance_id: InstanceId,
}

/// What a person's browser brings from the authorization server (RFC 6749, RFC 9207).
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what the callback reads")]
pub(crate) struct CallbackQuery {
    /// As `POST …/oauth/authorize` gave it.
    #[param(max_length = 4096)]
    state: String,
    /// What is exchanged for tokens.
    #[param(max_length = 4096)]
    code: Option<String>,
    /// Who answers.
    #[param(max_length = 4096)]
    iss: Option<String>,
    /// Why there is no code.
    #[param(max_length = 4096)]
    error: Option<String>,
    #[param(max_length = 4096)]
    error_description: Option<String>,
}

/// End a person's connection: where the authorization server sends the person back to.
///
/// Needs no key: the `state` is the proof. Answers with a page for the person, with a redirect
/// to the `returnUrl` of the connection where it has one, or with JSON where `Accept` asks for
/// that.
#[utoipa::path(get, path = "/api/v1/oauth/callback", tag = "credentials", operation_id = "finishAuthorization",
    params(CallbackQuery),
    responses((status = 200, description = "The instance is connected.", content((ConnectionMade = "application/json"), (String = "text/html"))),
        (status = 303, description = "To the connection's `returnUrl`, with `status` (`connected` or `failed`), `integrationInstanceId` and where it failed `error`."),
        (status = 400, description = "No connection waits for this answer, or the answer is not the server's.", content((ProblemBody = "application/problem+json"), (String = "text/html"))),
        (status = 409, description = "The instance was changed meanwhile.", content((ProblemBody = "application/problem+json"), (String = "text/html"))),
        (status = 502, description = "The authorization server refused, or cannot be reached.", content((ProblemBody = "application/problem+json"), (String = "text/html"))),
        (status = "default", description = "Any other error.", content((ProblemBody = "application/problem+json"), (String = "text/html")))))]
pub(crate) async fn callback(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    // Programs that look at links before people open them must not use the state up.
    if method != Method::GET {
        return StatusCode::NO_CONTENT.into_response();
    }
    let correlation_id = &context.correlation_id;
    let outcome = match read_response(query.as_deref().unwrap_or_default()) {
        Ok(response) => state.engine.finish_authorization(response, correlation_id).await,
        Err(error) => return answer_to_person(&headers, None, Err(error), correlation_id),
    };
    let ConnectionOutcome { instance_id, return_url, result } = outcome;
    let result = result.map_err(ApiError::from);
    match return_url.filter(|_| !wants_json(&headers)) {
        Some(return_url) => redirect(&return_url, instance_id.as_ref(), &result),
        None => answer_to_person(&headers, instance_id, result, correlation_id),
    }
}

/// Each parameter may come once (RFC 6749 3.1): of two, another program than this one may have
/// looked at the other.
fn read_response(query: &str) -> Result<AuthorizationResponse, ApiError> {
    let mut response = AuthorizationResponse::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let slot = match &*name {
            "state" => &mut response.state,
            "code" => &mut response.code,
            "iss" => &mut response.iss,
            "error" => &mut response.error,
            "error_description" => &mut response.error_description,
            _ => continue,
        };
        if slot.is_some() {
            return Err(ApiError::invalid(vec![Problem::new(format!("/query/{name}"), "expected it once")]));
        }
        *slot = Some(value.into_owned());
    }
    Ok(response)
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

fn answer_to_person(
    headers: &HeaderMap,
    instance_id: Option<InstanceId>,
    result: Result<(), ApiError>,
    correlation_id: &str,
) -> Response {
    if !wants_json(headers) {
        return connection::page(instance_id.as_ref(), &result, correlation_id);
    }
    match (result, instance_id) {
        (Err(error), _) => error.into_response(),
        (Ok(()), Some(integration_instance_id)) => {
            Json(ConnectionMade { status: "SUCCESS", integration_instance_id }).into_response()
        }
        (Ok(()), None) => ApiError::internal().into_response(),
    }
}

fn redirect(return_url: &str, instance_id: Option<&InstanceId>, result: &Result<(), ApiError>) -> Response {
    let Ok(mut url) = Url::parse(return_url) else { return ApiError::internal().into_response() };
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("status", if result.is_ok() { "connected" } else { "failed" });
        if let Some(id) = instance_id {
            query.append_pair("integrationInstanceId", id.as_str());
        }
        if let Err(error) = result {
            query.append_pair("error", error.code.as_str());
        }
    }
    let headers = [(LOCATION, url.to_string()), (http::header::REFERRER_POLICY, "no-referrer".to_owned())];
    (StatusCode::SEE_OTHER, headers).into_response()
}
