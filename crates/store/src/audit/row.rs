//! The audit's rows: their columns, how each kind of act is written, how they are read. Must
//! not know how rows are chained and committed.

use std::borrow::Cow;

use integration_model::audit::{AuditAction, AuditEntry, AuditOutcome, Target, TargetType};
use integration_model::execution::Execution;
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};
use uuid::Uuid;

use super::CredentialUse;
use crate::batch::{Cells, Column, Kind, names};
use crate::error::StoreError;
use crate::spool::reason_text;
use crate::sql::Row;

/// What a row says, then its place in the chain; in the order of PostgreSQL's type `audit_row`.
pub(crate) const COLUMNS: &[Column] = &[
    Column { name: "id", kind: Kind::Bytes },
    Column { name: "created_at", kind: Kind::Int },
    Column { name: "tenant_id", kind: Kind::Text },
    Column { name: "principal", kind: Kind::Text },
    Column { name: "action", kind: Kind::Text },
    Column { name: "target_type", kind: Kind::Text },
    Column { name: "target_id", kind: Kind::Text },
    Column { name: "credential_id", kind: Kind::Bytes },
    Column { name: "execution_id", kind: Kind::Bytes },
    Column { name: "outcome", kind: Kind::Text },
    Column { name: "reason", kind: Kind::Text },
    Column { name: "correlation_id", kind: Kind::Text },
    Column { name: "details", kind: Kind::Text },
    Column { name: "sequence", kind: Kind::Int },
    Column { name: "hash", kind: Kind::Bytes },
];
/// How many of [`COLUMNS`] the hash is made of; the place of `sequence`.
pub(super) const HASHED: usize = 13;

/// The names of [`COLUMNS`].
pub(super) fn column_names() -> String {
    names(COLUMNS)
}

/// What an execution did: the use of a credential, or that it went without.
#[derive(Debug)]
pub(crate) struct ExecutionAct<'a> {
    pub(crate) id: Uuid,
    pub(crate) tenant: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) action: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) credential: Option<Uuid>,
    /// When it began.
    pub(crate) at: Timestamp,
    pub(crate) execution: Uuid,
    pub(crate) outcome: &'a str,
    pub(crate) reason: Cow<'a, str>,
    pub(crate) correlation: &'a str,
    pub(crate) details: Cow<'a, str>,
}

impl<'a> ExecutionAct<'a> {
    pub(crate) fn of(used: Option<&'a CredentialUse>, execution: &'a Execution) -> Self {
        let (outcome, code) = match &execution.error {
            None => (AuditOutcome::Success, None),
            Some(error) => (AuditOutcome::Failure, Some(error.code.as_str())),
        };
        let cached = if execution.cached { r#","cached":true"# } else { "" };
        // Codes need no escapes.
        let details = match code {
            None => format!(r#"{{"attempts":{}{cached}}}"#, execution.attempts),
            Some(code) => format!(r#"{{"attempts":{}{cached},"code":"{code}"}}"#, execution.attempts),
        };
        let (action, why) = match used {
            Some(used) => (AuditAction::CredentialUsed, used.why()),
            None => (AuditAction::MethodExecuted, "execute"),
        };
        Self {
            id: super::row_id(used, execution),
            tenant: execution.tenant_id.as_str(),
            principal: &execution.principal,
            action: action.as_str(),
            instance: execution.integration_instance_id.as_str(),
            credential: used.and_then(CredentialUse::credential),
            at: used.map_or(execution.created_at, CredentialUse::at),
            execution: execution.id.0,
            outcome: outcome.as_str(),
            reason: Cow::Owned(reason_text(why, &execution.method_name)),
            correlation: &execution.correlation_id,
            details: Cow::Owned(details),
        }
    }

    /// The cells of its row, but for its place in the chain.
    pub(crate) fn write(&self, cells: &mut impl Cells, now: Timestamp) {
        cells.bytes(self.id.as_bytes());
        cells.int(now.as_micros());
        cells.text(self.tenant);
        cells.text(self.principal);
        cells.text(self.action);
        cells.text(TargetType::Instance.as_str());
        cells.text(self.instance);
        cells.opt_bytes(self.credential.as_ref().map(|id| id.as_bytes().as_slice()));
        cells.bytes(self.execution.as_bytes());
        cells.text(self.outcome);
        cells.text(&self.reason);
        cells.text(self.correlation);
        cells.text(&self.details);
    }
}

/// Writes an entry; `details` are its own as text.
pub(super) fn write_entry(cells: &mut impl Cells, entry: &AuditEntry, details: Option<&str>, now: Timestamp) {
    let target = match (&entry.target, &entry.instance_id) {
        (Some(target), _) => Some((target.kind, target.id.as_str())),
        (None, instance) => instance.as_ref().map(|instance| (TargetType::Instance, instance.as_str())),
    };
    cells.bytes(entry.id.as_bytes());
    cells.int(now.as_micros());
    cells.opt_text(entry.tenant_id.as_ref().map(TenantId::as_str));
    cells.text(&entry.principal);
    cells.text(entry.action.as_str());
    cells.opt_text(target.map(|(kind, _)| kind.as_str()));
    cells.opt_text(target.map(|(_, id)| id));
    cells.opt_bytes(entry.credential_id.as_ref().map(|id| id.as_bytes().as_slice()));
    cells.opt_bytes(entry.execution_id.as_ref().map(|id| id.0.as_bytes().as_slice()));
    cells.text(entry.outcome.as_str());
    cells.text(&entry.reason);
    cells.text(&entry.correlation_id);
    cells.opt_text(details);
}

/// Writes what a stored row says, whatever it is.
pub(super) fn write_stored(cells: &mut impl Cells, row: &Row) -> Result<(), StoreError> {
    for (index, column) in COLUMNS.iter().enumerate().take(HASHED) {
        match column.kind {
            Kind::Text => cells.opt_text(row.opt_text(index)?.as_deref()),
            Kind::Int => cells.opt_int(row.opt_int(index)?),
            Kind::Bytes => cells.opt_bytes(row.opt_bytes(index)?.as_deref()),
        }
    }
    Ok(())
}

/// Reads [`COLUMNS`].
pub(super) fn read_entry(row: &Row) -> Result<AuditEntry, StoreError> {
    let target = match (row.opt_text(5)?, row.opt_text(6)?) {
        (Some(kind), Some(id)) => TargetType::parse(&kind).map(|kind| Target { kind, id }),
        _ => None,
    };
    let instance_id = target
        .as_ref()
        .filter(|target| target.kind == TargetType::Instance)
        .and_then(|target| InstanceId::parse(&target.id).ok());
    Ok(AuditEntry {
        id: row.uuid(0)?,
        timestamp: row.time(1)?,
        tenant_id: row.opt_text(2)?.as_deref().and_then(|text| TenantId::parse(text).ok()),
        principal: row.text(3)?,
        action: row.parsed(4, AuditAction::parse)?,
        target,
        instance_id,
        credential_id: row.opt_uuid(7)?,
        execution_id: row.opt_uuid(8)?.map(ExecutionId),
        outcome: row.parsed(9, AuditOutcome::parse)?,
        reason: row.text(10)?,
        correlation_id: row.text(11)?,
        details: row.opt_json(12)?,
        sequence: Some(row.int(HASHED)?),
        hash: Some(super::chain::hexadecimal(&row.bytes(HASHED + 1)?)),
    })
}
