//! API keys: who else may call.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use integration_model::Timestamp;
use integration_model::api_key::{ApiKey, NewApiKey};
use integration_model::page::Pagination;
use serde::{Deserialize, Serialize};

use super::{Caller, Page, page_request};
use crate::access::{create_api_key, list_api_keys, read_api_key, revoke_api_key};
use crate::error::ApiError;
use crate::extract::{Json, Path, Query};
use crate::state::AppState;

/// A key that was made just now.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CreatedApiKey {
    /// The key that callers send. Nobody gives it again.
    #[schema(example = "isk_3Fh0…")]
    key: String,
    #[serde(flatten)]
    known: ApiKey,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    #[param(minimum = 1, maximum = 1000000)]
    pub page: Option<u32>,
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

/// Make an API key. The answer has the key, this once.
///
/// The key may do what its `roles` and `grants` say, in its tenant, until it expires or is
/// revoked. Who is bound to a tenant makes keys for that tenant alone.
#[utoipa::path(post, path = "/api/v1/api-keys", tag = "access", operation_id = "createApiKey",
    request_body(content = NewApiKey, example = json!({
        "name": "invoices workflow", "grants": [{"instance": "crm", "methods": ["getCustomer"]}],
        "tenantId": "acme", "expiresAt": "2027-01-31T00:00:00Z"
    })),
    responses((status = 201, body = CreatedApiKey, headers(("Location" = String, description = "Where what is known of the key is"))), (status = 409, description = "Too many keys are valid.")))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewApiKey>,
) -> Result<Response, ApiError> {
    let store = state.engine.store();
    let (known, key) = create_api_key(store, new, &caller.principal, caller.correlation_id()).await?;
    state.authenticator.read_keys(store).await?;
    let location = format!("/api/v1/api-keys/{}", known.id);
    let created = CreatedApiKey { key: key.expose().to_owned(), known };
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(created)).into_response())
}

/// List API keys, the newest first.
///
/// Revoked and expired ones too; the keys themselves are not told. The first admin key is none
/// of them.
#[utoipa::path(get, path = "/api/v1/api-keys", tag = "access", operation_id = "listApiKeys",
    params(ListQuery), responses((status = 200, body = Page<ApiKey>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<ApiKey>>, ApiError> {
    let request = page_request(query.page, query.limit)?;
    let (mut items, total) = list_api_keys(state.engine.store(), &caller.principal, request).await?;
    for key in &mut items {
        key.last_used_at = last_used(&state, key);
    }
    Ok(Json(Page { items, pagination: Pagination::new(request, total) }))
}

/// Uses are stored once a minute; this process knows its own.
fn last_used(state: &AppState, key: &ApiKey) -> Option<Timestamp> {
    key.last_used_at.max(state.authenticator.last_used(&key.id))
}

/// Read what is known of an API key.
///
/// The key itself is not told.
#[utoipa::path(get, path = "/api/v1/api-keys/{id}", tag = "access", operation_id = "getApiKey",
    params(("id" = String, Path)), responses((status = 200, body = ApiKey)))]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ApiKey>, ApiError> {
    let mut key = read_api_key(state.engine.store(), &id, &caller.principal).await?;
    key.last_used_at = last_used(&state, &key);
    Ok(Json(key))
}

/// Revoke an API key.
///
/// It is refused from now on, by other processes within a second. What is known of it stays.
#[utoipa::path(delete, path = "/api/v1/api-keys/{id}", tag = "access", operation_id = "revokeApiKey",
    params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let store = state.engine.store();
    revoke_api_key(store, &id, &caller.principal, caller.correlation_id()).await?;
    state.authenticator.read_keys(store).await?;
    Ok(StatusCode::NO_CONTENT)
}
