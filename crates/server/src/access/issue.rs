//! Making and revoking API keys: who may give what to whom. Nobody gives more than they have.

use integration_model::api_key::{ApiKey, NewApiKey};
use integration_model::audit::{AuditAction, AuditDraft, TargetType};
use integration_model::page::PageRequest;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, TenantId};
use integration_store::Store;
use serde_json::json;

use super::keys::{generate_key, hash, shown_of};
use crate::config::Secret;
use crate::error::ApiError;

/// Makes a key; gives what is known of it, and the key itself, which nobody gives again.
pub(crate) async fn create_api_key(
    store: &Store,
    new: NewApiKey,
    principal: &Principal,
    correlation_id: &str,
) -> Result<(ApiKey, Secret), ApiError> {
    let now = store.clock().now();
    let problems = new.check(now);
    if !problems.is_empty() {
        return Err(ApiError::invalid(problems));
    }
    let key = generate_key().map_err(|error| {
        tracing::error!(error = %error, "an API key could not be made");
        ApiError::internal()
    })?;
    let known = ApiKey {
        id: store.ids().next().to_string(),
        name: new.name,
        prefix: shown_of(&key),
        roles: new.roles.into_iter().collect(),
        grants: new.grants,
        tenant_id: tenant_for(principal, new.tenant_id)?,
        created_at: now,
        created_by: principal.name.to_string(),
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    let audit = AuditDraft::done(AuditAction::ApiKeyCreated, &principal.name, "made by a caller", correlation_id)
        .to(TargetType::ApiKey, known.id.as_str())
        .with_details(details(&known));
    store.insert_api_key(&known, hash(key.expose()), audit).await?;
    tracing::info!(api_key.id = %known.id, api_key.prefix = %known.prefix, principal = %principal.name, "an API key was made");
    Ok((known, key))
}

/// The tenant of a new key: whoever is bound to one gives keys for no other, and none for all.
fn tenant_for(principal: &Principal, wanted: Option<TenantId>) -> Result<Option<TenantId>, ApiError> {
    match (&principal.tenant, wanted) {
        (Some(own), Some(wanted)) if *own != wanted => {
            Err(ApiError::new(ErrorCode::Forbidden, format!("this caller may not make keys for tenant {wanted}")))
        }
        (Some(own), _) => Ok(Some(own.clone())),
        (None, wanted) => Ok(wanted),
    }
}

fn details(key: &ApiKey) -> serde_json::Value {
    json!({
        "apiKeyId": key.id, "prefix": key.prefix, "name": key.name, "roles": key.roles, "grants": key.grants,
        "tenantId": key.tenant_id, "expiresAt": key.expires_at,
    })
}

/// A page of the keys that the caller may know of; with their count.
pub(crate) async fn list_api_keys(
    store: &Store,
    principal: &Principal,
    page: PageRequest,
) -> Result<(Vec<ApiKey>, u64), ApiError> {
    Ok(store.list_api_keys(principal.tenant.as_ref(), page).await?)
}

/// A key, if the caller may know of it.
pub(crate) async fn read_api_key(store: &Store, id: &str, principal: &Principal) -> Result<ApiKey, ApiError> {
    store
        .api_key(id)
        .await?
        .filter(|key| principal.tenant.is_none() || principal.tenant == key.tenant_id)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no API key {id:?}")))
}

/// Revokes a key that the caller may know of; one that is revoked already stays so.
pub(crate) async fn revoke_api_key(
    store: &Store,
    id: &str,
    principal: &Principal,
    correlation_id: &str,
) -> Result<ApiKey, ApiError> {
    let key = read_api_key(store, id, principal).await?;
    let audit = AuditDraft::done(AuditAction::ApiKeyRevoked, &principal.name, "revoked by a caller", correlation_id)
        .to(TargetType::ApiKey, key.id.as_str())
        .with_details(details(&key));
    store.revoke_api_key(&key.id, audit).await?;
    tracing::info!(api_key.id = %key.id, api_key.prefix = %key.prefix, principal = %principal.name, "an API key was revoked");
    Ok(key)
}
