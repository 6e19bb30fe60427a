//! The audit: who did what to what, and why.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::CONTENT_TYPE;
use integration_model::audit::{AuditAction, AuditEntry, TargetType};
use integration_model::{DefinitionId, InstanceId, TenantId};
use integration_store::{AuditCursor, AuditFilter, AuditOrder, Store, StoreError};
use serde::Deserialize;

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
    /// The definition's id.
    #[param(value_type = Option<DefinitionId>)]
    pub definition: Option<String>,
    /// RFC 3339; the earliest.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// RFC 3339; before this.
    #[param(format = DateTime)]
    pub until: Option<String>,
    /// `nextCursor` of the page before.
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
        let instance =
            parse_query("instance", self.instance.as_deref(), "an instance's id", |text| InstanceId::parse(text).ok())?;
        let definition = parse_query("definition", self.definition.as_deref(), "a definition's id", |text| {
            DefinitionId::parse(text).ok()
        })?;
        let target = match (instance, definition) {
            (Some(_), Some(_)) => return Err(query_fault("definition", "expected either an instance or a definition")),
            (Some(instance), None) => Some((TargetType::Instance, instance.to_string())),
            (None, definition) => definition.map(|id| (TargetType::Definition, id.to_string())),
        };
        Ok(AuditFilter {
            tenant,
            principal: self.principal.clone(),
            actions,
            target,
            from: parse_time("from", self.from.as_deref())?,
            until: parse_time("until", self.until.as_deref())?,
        })
    }
}

/// List the audit, the newest entries first.
///
/// Each management action, each execution and each use of a credential has an entry. Filters
/// combine. A page looks at a bounded number of entries, so that it may hold few of them, or
/// none, where few pass the filters; `nextCursor` leads on to older ones.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", operation_id = "listAudit",
    params(AuditQuery), responses((status = 200, body = Stretch<AuditEntry>, example = json!({
        "items": [{
            "id": "0198c0de-0000-7000-8000-00000000aaaa", "sequence": 1042, "timestamp": "2026-01-31T10:30:00.000Z",
            "tenantId": "default", "principal": "api-key:admin", "action": "credential.used",
            "target": {"type": "instance", "id": "pets"},
            "instanceId": "pets", "credentialId": "0198c0de-0000-7000-8000-00000000bbbb",
            "executionId": "0198c0de-0000-7000-8000-00000000cccc", "outcome": "success",
            "reason": "execute getPet", "correlationId": "c-1", "details": {"attempts": 1},
            "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        }]
    }))))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Stretch<AuditEntry>>, ApiError> {
    let limit = stretch_limit(query.limit)?;
    let cursor = parse_query("cursor", query.cursor.as_deref(), "the nextCursor of a page", |text| text.parse().ok())?;
    let filter = query.filter(&caller)?;
    let page = state.engine.store().list_audit(&filter, AuditOrder::NewestFirst, cursor, limit).await?;
    Ok(Json(Stretch { items: page.entries, next_cursor: page.next.map(|cursor| cursor.to_string()) }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
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
    /// The definition's id.
    #[param(value_type = Option<DefinitionId>)]
    pub definition: Option<String>,
    /// RFC 3339; the earliest.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// RFC 3339; before this. Now unless given.
    #[param(format = DateTime)]
    pub until: Option<String>,
}

/// Export the audit as newline-delimited JSON, the oldest entries first.
///
/// One entry a line, as `GET /api/v1/audit` gives them. The answer is sent as it is read, and
/// breaks off where the database fails: it is whole where it ends by itself.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "audit", operation_id = "exportAudit",
    params(ExportQuery), responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn export(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ApiError> {
    let ExportQuery { tenant, principal, action, instance, definition, from, until } = query;
    let query = AuditQuery { tenant, principal, action, instance, definition, from, until, cursor: None, limit: None };
    let filter = query.filter(&caller)?;
    let lines = export_lines(state.engine.store().clone(), filter);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// How many entries are in memory at once.
const EXPORTED_AT_ONCE: u32 = 500;

/// The lines of an export, some at a time; empty pieces where many entries do not pass.
pub(crate) fn export_lines(
    store: Store,
    mut filter: AuditFilter,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    // It ends although entries go on coming.
    filter.until.get_or_insert(store.clock().now());
    let begin = Some((store, filter, None::<AuditCursor>));
    stream::try_unfold(begin, |state| async move {
        let Some((store, filter, cursor)) = state else { return Ok(None) };
        let page = store.list_audit(&filter, AuditOrder::OldestFirst, cursor, EXPORTED_AT_ONCE).await?;
        let mut lines = Vec::new();
        for entry in &page.entries {
            serde_json::to_writer(&mut lines, entry).map_err(|error| StoreError::Config(error.to_string()))?;
            lines.push(b'\n');
        }
        let rest = page.next.map(|cursor| (store, filter, Some(cursor)));
        Ok(Some((Bytes::from(lines), rest)))
    })
}
