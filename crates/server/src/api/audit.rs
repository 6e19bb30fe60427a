//! The audit: who used, stored, rotated or deleted which credential, and why.

use axum::extract::State;
use integration_model::audit::{AuditAction, AuditEntry};
use integration_model::{InstanceId, TenantId};
use integration_store::AuditFilter;
use serde::Deserialize;
use uuid::Uuid;

use super::{Caller, Stretch, parse_names, parse_query, parse_time, query_fault, stretch_limit};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::state::AppState;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// The tenant's id; callers who are bound to one tenant see that one's entries only.
    #[param(value_type = Option<TenantId>)]
    pub tenant: Option<String>,
    /// Who did it.
    #[param(example = "api-key:admin")]
    pub principal: Option<String>,
    /// An action, several separated by commas.
    #[param(value_type = Option<Vec<AuditAction>>, style = Form, explode = false)]
    pub action: Option<String>,
    /// The instance's id.
    #[param(value_type = Option<InstanceId>)]
    pub instance: Option<String>,
    /// RFC 3339; the earliest.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// RFC 3339; before this.
    #[param(format = DateTime)]
    pub until: Option<String>,
    /// `nextCursor` of the page before.
    #[param(format = Uuid)]
    pub cursor: Option<String>,
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

impl AuditQuery {
    fn filter(&self, caller: &Caller) -> Result<AuditFilter, ApiError> {
        let asked = parse_query("tenant", self.tenant.as_deref(), "a tenant's id", |text| TenantId::parse(text).ok())?;
        let tenant = match (&caller.principal.tenant, asked) {
            (Some(own), Some(asked)) if *own != asked => {
                return Err(query_fault("tenant", format!("expected {own}: this caller acts for no other tenant")));
            }
            (Some(own), _) => Some(own.clone()),
            (None, asked) => asked,
        };
        let actions = parse_names("action", self.action.as_deref(), "action", AuditAction::ALL, AuditAction::as_str)?;
        Ok(AuditFilter {
            tenant,
            principal: self.principal.clone(),
            actions,
            instance: parse_query("instance", self.instance.as_deref(), "an instance's id", |text| {
                InstanceId::parse(text).ok()
            })?,
            from: parse_time("from", self.from.as_deref())?,
            until: parse_time("until", self.until.as_deref())?,
        })
    }
}

/// List the audit, the newest entries first.
///
/// Each use, storing, rotation, refusal and deletion of a credential has an entry, which is
/// written before the secret is used. Filters combine. `nextCursor` leads on to older ones.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", operation_id = "listAudit",
    params(AuditQuery), responses((status = 200, body = Stretch<AuditEntry>, example = json!({
        "items": [{
            "id": "0198c0de-0000-7000-8000-00000000aaaa", "timestamp": "2026-01-31T10:30:00.000Z",
            "tenantId": "default", "principal": "api-key:admin", "action": "credential.used",
            "instanceId": "pets", "credentialId": "0198c0de-0000-7000-8000-00000000bbbb",
            "executionId": "0198c0de-0000-7000-8000-00000000cccc", "outcome": "success",
            "reason": "execute getPet", "correlationId": "c-1", "details": {"attempts": 1}
        }]
    }))))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Stretch<AuditEntry>>, ApiError> {
    let limit = stretch_limit(query.limit)?;
    let cursor = match &query.cursor {
        Some(text) => {
            Some(text.parse::<Uuid>().map_err(|_| query_fault("cursor", "expected the nextCursor of a page"))?)
        }
        None => None,
    };
    let filter = query.filter(&caller)?;
    let items = state.engine.store().list_audit(&filter, cursor, limit).await?;
    let full = items.len() >= limit as usize;
    let next_cursor = items.last().filter(|_| full).map(|entry| entry.id.to_string());
    Ok(Json(Stretch { items, next_cursor }))
}
