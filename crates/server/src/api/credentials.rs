//! Credentials of instances: written and judged, never read back.

use axum::extract::State;
use http::StatusCode;
use integration_engine::credentials::{CredentialStored, NewCredential};
use integration_model::InstanceId;
use integration_model::credential::CredentialStatus;

use super::Caller;
use crate::error::ApiError;
use crate::extract::{Json, Path};
use crate::state::AppState;

/// Store an instance's credential, in place of the one before.
///
/// It is encrypted before it is stored and never given back. The fields of `data` depend on
/// `type`, which must be the definition's `authType`.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/credentials", tag = "credentials", operation_id = "storeCredential",
    params(("id" = InstanceId, Path)), request_body = NewCredential,
    responses((status = 201, body = CredentialStored), (status = 409)))]
pub(crate) async fn store(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewCredential>,
) -> Result<(StatusCode, Json<CredentialStored>), ApiError> {
    let stored = state.engine.store_credential(&id, new, &caller.principal, caller.correlation_id()).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

/// Tell whether an instance's credential can be used, without telling it.
///
/// Says whether one is stored, until when it holds, and whether it can be renewed.
#[utoipa::path(get, path = "/api/v1/integration-instances/{id}/credentials/status", tag = "credentials", operation_id = "getCredentialStatus",
    params(("id" = InstanceId, Path)), responses((status = 200, body = CredentialStatus)))]
pub(crate) async fn status(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CredentialStatus>, ApiError> {
    Ok(Json(state.engine.credential_status(&id, &caller.principal).await?))
}

/// Delete an instance's credential; the instance is DISCONNECTED after it.
///
/// The encrypted data and its data key are gone for good.
#[utoipa::path(delete, path = "/api/v1/integration-instances/{id}/credentials", tag = "credentials", operation_id = "deleteCredential",
    params(("id" = InstanceId, Path)), responses((status = 204)))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.engine.delete_credential(&id, &caller.principal, caller.correlation_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}
