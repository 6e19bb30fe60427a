//! Credentials of instances: written and judged, never read back.

use axum::extract::State;
use http::StatusCode;
use integration_engine::credentials::{CredentialStored, NewCredential};
use integration_engine::oauth::refresh::{RefreshReply, RefreshRequest};
use integration_engine::rotation::{Rotation, RotationReport};
use integration_model::InstanceId;
use integration_model::credential::CredentialStatus;

use super::Caller;
use crate::error::ApiError;
use crate::extract::{Json, OptionalJson, Path};
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

/// Renew an instance's token now.
///
/// By its refresh token, or by a grant that needs no person; whatever the definition's refresh
/// strategy is. The old token serves until the new one is stored. Where an earlier exchange was
/// interrupted and its outcome is not known, the refresh token is presented again only with
/// `retryInterrupted`.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/credentials/refresh", tag = "credentials", operation_id = "refreshCredential",
    params(("id" = InstanceId, Path)), request_body = Option<RefreshRequest>,
    responses(
        (status = 200, body = CredentialStatus, description = "It was renewed."),
        (status = 202, body = CredentialStatus, description = "It is still being renewed; the status tells how it ends."),
        (status = 409, description = "There is nothing to renew, or an earlier exchange was interrupted."),
        (status = 502, description = "The external system refused, or could not renew it now.")))]
pub(crate) async fn refresh(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<RefreshRequest>,
) -> Result<(StatusCode, Json<CredentialStatus>), ApiError> {
    let reply = state.engine.refresh_credential(&id, request, &caller.principal, caller.correlation_id()).await?;
    Ok(match reply {
        RefreshReply::Renewed(status) => (StatusCode::OK, Json(status)),
        RefreshReply::UnderWay(status) => (StatusCode::ACCEPTED, Json(status)),
    })
}

/// Exchange an instance's credential for another, or have it read anew.
///
/// With a credential: it is tested first, and takes the place of the one before unless the
/// external system refuses it. The secrets of a webhook may overlap: with `overlapSeconds`,
/// those before stay in force for as long. Without a body: what is kept of the stored one in memory is
/// dropped, as after it changed elsewhere, and it is read and tested anew.
#[utoipa::path(post, path = "/api/v1/integration-instances/{id}/credentials/rotate", tag = "credentials", operation_id = "rotateCredential",
    params(("id" = InstanceId, Path)), request_body = Option<Rotation>,
    responses((status = 200, body = RotationReport),
        (status = 502, description = "The external system refused the new credential; the one before stays in force")))]
pub(crate) async fn rotate(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    OptionalJson(new): OptionalJson<Option<Rotation>>,
) -> Result<Json<RotationReport>, ApiError> {
    let report = state.engine.rotate_credential(&id, new, &caller.principal, caller.correlation_id()).await?;
    Ok(Json(report))
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
