//! The audit: what is done, put down with the change that it tells of; and the use of
//! credentials, which is put down before it happens. Must not know what a credential is used for.

mod before_chain;
pub(crate) mod chain;
mod list;
pub(crate) mod row;
mod verify;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use integration_model::audit::{AuditAction, AuditDraft, AuditEntry, AuditOutcome};
use integration_model::event::EventType;
use integration_model::execution::Execution;
use integration_model::principal::Principal;
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

pub(crate) use self::chain::{AuditChain, Chain};
pub use self::chain::{AuditHead, InvalidHead};
pub use self::list::{AuditCursor, AuditFilter, AuditOrder, AuditPage};
pub use self::verify::{AuditFault, AuditReport, FaultKind};
use crate::batch::Rows;
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::events::EventRow;
use crate::journal::ExecutionRecord;
use crate::metrics::AUDIT_HEAD;
use crate::partitions::Day;
use crate::spool::{SpoolEntry, SpoolLine, reason_text};
use crate::sql::{Backend, Query, to_json};
use crate::store::Store;
use crate::uses::{Counts, Use};

/// A use of a credential that is about to happen.
#[derive(Debug, Clone, Copy)]
pub struct IntendedUse<'a> {
    pub tenant: &'a TenantId,
    pub principal: &'a str,
    pub instance: &'a InstanceId,
    /// None where it is not stored yet.
    pub credential: Option<Uuid>,
    pub execution: Option<ExecutionId>,
    pub correlation_id: &'a str,
    /// `execute`, `dry run`, …
    pub why: &'static str,
    /// May be empty.
    pub method: &'a str,
}

/// A use of a credential that is written down. Its row is committed with its execution's, or
/// by [`Store::finish_use`]; where neither comes, it becomes a row of unknown outcome.
#[derive(Debug, Clone)]
pub struct CredentialUse {
    id: Uuid,
    at: Timestamp,
    credential: Option<Uuid>,
    why: Cow<'static, str>,
    spooled: Option<Arc<SpoolEntry>>,
}

impl CredentialUse {
    /// Which credential is used.
    pub fn credential(&self) -> Option<Uuid> {
        self.credential
    }

    /// As another process put it down.
    pub(crate) fn recovered(id: Uuid, at: Timestamp, credential: Option<Uuid>, why: String) -> Self {
        Self { id, at, credential, why: Cow::Owned(why), spooled: None }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// The row of a use that belongs to no recorded execution.
    pub(crate) fn entry(&self, intended: IntendedUse<'_>, outcome: AuditOutcome) -> AuditEntry {
        AuditEntry {
            id: self.id,
            sequence: None,
            timestamp: self.at,
            tenant_id: Some(intended.tenant.clone()),
            principal: intended.principal.to_owned(),
            action: AuditAction::CredentialUsed,
            target: None,
            instance_id: Some(intended.instance.clone()),
            credential_id: self.credential,
            execution_id: intended.execution,
            outcome,
            reason: reason_text(intended.why, intended.method),
            correlation_id: intended.correlation_id.to_owned(),
            details: None,
            hash: None,
        }
    }

    /// Leaves the use without a row: others of its kind tell of it.
    pub fn discard(self) {
        self.settle();
    }

    pub(crate) fn settle(&self) {
        if let Some(entry) = &self.spooled {
            entry.settle();
        }
    }
}

/// What is put down of these executions: each use of a credential, and those that used none;
/// of the `lost`, which another hand ended, the uses alone.
pub(crate) fn rows_of<'a>(
    records: &'a [ExecutionRecord],
    lost: &'a BTreeSet<Uuid>,
) -> impl Iterator<Item = (Option<&'a CredentialUse>, &'a Execution)> {
    records.iter().flat_map(|record| {
        let uses = record.credential_uses.iter().map(Some);
        let without = record.credential_uses.is_empty() && !lost.contains(&record.execution.id.0);
        uses.chain(without.then_some(None)).map(|used| (used, &*record.execution))
    })
}

/// The uses of credentials in these records, with the records.
pub(crate) fn uses_of(records: &[ExecutionRecord]) -> impl Iterator<Item = (&CredentialUse, &ExecutionRecord)> {
    records.iter().flat_map(|record| record.credential_uses.iter().map(move |used| (used, record)))
}

/// An act that a transaction puts down at its end.
#[derive(Debug)]
pub(crate) enum AuditedAct {
    Entry(Box<AuditEntry>),
    /// An execution that ended otherwise than by the journal.
    Execution(Box<Execution>),
}

/// What an event says of a move of an instance's status.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusMove {
    previous_status: Option<String>,
    current_status: String,
    status_change_reason: String,
}

/// To whom something was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AuditTarget<'a> {
    /// None where it concerns all tenants.
    pub(crate) tenant: Option<&'a TenantId>,
    pub(crate) instance: Option<&'a InstanceId>,
    pub(crate) credential: Option<Uuid>,
}

impl<'a> AuditTarget<'a> {
    pub(crate) fn of_instance(tenant: &'a TenantId, instance: &'a InstanceId) -> Self {
        Self { tenant: Some(tenant), instance: Some(instance), credential: None }
    }
}

impl Database {
    /// A draft as an entry, with an id and the time of now.
    pub(crate) fn audit_entry(&self, draft: AuditDraft, target: AuditTarget<'_>) -> AuditEntry {
        AuditEntry {
            id: self.ids.next(),
            sequence: None,
            timestamp: self.clock.now(),
            tenant_id: target.tenant.cloned(),
            principal: draft.principal,
            action: draft.action,
            target: draft.target,
            instance_id: target.instance.cloned(),
            credential_id: target.credential,
            execution_id: None,
            outcome: draft.outcome,
            reason: draft.reason,
            correlation_id: draft.correlation_id,
            details: draft.details,
            hash: None,
        }
    }
}

impl Tx {
    /// Has an act put down at the end of the transaction.
    pub(crate) fn audit(&mut self, draft: AuditDraft, target: AuditTarget<'_>) {
        let entry = self.db.audit_entry(draft, target);
        self.audited.push(AuditedAct::Entry(Box::new(entry)));
    }

    /// Has a move of an instance's status put down, as what was done to it by whom the
    /// transaction already tells of; else by the service.
    pub(crate) fn audit_status(&mut self, event: &EventRow<'_>) {
        let Some(instance) = event.instance.filter(|_| event.draft.event_type == EventType::InstanceStatus) else {
            return;
        };
        let cause = self.audited.iter().rev().find_map(|act| match act {
            AuditedAct::Entry(entry) if entry.instance_id.as_ref() == Some(instance) => Some(entry),
            _ => None,
        });
        if cause
            .is_some_and(|cause| matches!(cause.action, AuditAction::InstanceCreated | AuditAction::InstanceDeleted))
        {
            return;
        }
        let Ok(moved) = serde_json::from_str::<StatusMove>(event.draft.data.get()) else { return };
        let principal = cause.map_or_else(|| Principal::system().name.to_string(), |cause| cause.principal.clone());
        let reason = moved.status_change_reason;
        let draft =
            AuditDraft::done(AuditAction::InstanceStatusChanged, &principal, reason, &event.draft.correlation_id)
                .with_details(json!({"from": moved.previous_status, "to": moved.current_status}));
        self.audit(draft, AuditTarget::of_instance(event.tenant, instance));
    }

    /// Has the end of an execution put down.
    pub(crate) fn audit_execution(&mut self, ended: &Execution) {
        self.audited.push(AuditedAct::Execution(Box::new(ended.clone())));
    }

    /// Appends what was noted. Takes the last lock of the transaction.
    pub(crate) async fn write_audit(&mut self) -> Result<(), StoreError> {
        let acts = std::mem::take(&mut self.audited);
        if acts.is_empty() {
            return Ok(());
        }
        let now = self.db.clock.now();
        self.append_to_chain(|chain, rows| {
            for act in &acts {
                match act {
                    AuditedAct::Entry(entry) => push_entry(chain, rows, entry, now)?,
                    AuditedAct::Execution(execution) => push_execution(chain, rows, None, execution, now),
                }
            }
            Ok(())
        })
        .await
    }

    /// Appends what is put down of a batch of the journal. Takes the last lock of the
    /// transaction.
    pub(crate) async fn append_executions(
        &mut self,
        records: &[ExecutionRecord],
        lost: &BTreeSet<Uuid>,
        known: &BTreeSet<Uuid>,
    ) -> Result<(), StoreError> {
        let now = self.db.clock.now();
        self.append_to_chain(|chain, rows| {
            for (used, execution) in rows_of(records, lost) {
                if !known.contains(&row_id(used, execution)) {
                    push_execution(chain, rows, used, execution, now);
                }
            }
            Ok(())
        })
        .await
    }
}

/// The id of what is put down of an execution.
pub(crate) fn row_id(used: Option<&CredentialUse>, execution: &Execution) -> Uuid {
    used.map_or(execution.id.0, CredentialUse::id)
}

/// Adds the row of an execution to the chain and to `rows`.
pub(crate) fn push_execution(
    chain: &mut Chain<'_>,
    rows: &mut Rows,
    used: Option<&CredentialUse>,
    execution: &Execution,
    now: Timestamp,
) {
    rows.push(|cells| chain.append(cells, |cells| row::ExecutionAct::of(used, execution).write(cells, now)));
}

fn push_entry(chain: &mut Chain<'_>, rows: &mut Rows, entry: &AuditEntry, now: Timestamp) -> Result<(), StoreError> {
    let details = entry.details.as_ref().map(to_json).transpose()?;
    rows.push(|cells| chain.append(cells, |cells| row::write_entry(cells, entry, details.as_deref(), now)));
    Ok(())
}

impl Store {
    /// Puts down that a credential is about to be used. When this returns, the use leaves a
    /// row in the audit whatever happens to the process.
    pub fn begin_use(&self, intended: IntendedUse<'_>) -> Result<CredentialUse, StoreError> {
        let id = self.ids().next();
        let at = self.clock().now();
        let line = SpoolLine {
            id,
            at,
            tenant: intended.tenant.as_str(),
            principal: intended.principal,
            instance: intended.instance.as_str(),
            credential: intended.credential,
            execution: intended.execution.map(|execution| execution.0),
            correlation: intended.correlation_id,
            reason: intended.why,
            method: intended.method,
        };
        let spooled = self.spool().map(|spool| spool.write(&line)).transpose().map_err(StoreError::Spool)?;
        Ok(CredentialUse {
            id,
            at,
            credential: intended.credential,
            why: Cow::Borrowed(intended.why),
            spooled: spooled.map(Arc::new),
        })
    }

    /// Commits the row of a use that belongs to no recorded execution.
    pub async fn finish_use(
        &self,
        used: CredentialUse,
        intended: IntendedUse<'_>,
        outcome: AuditOutcome,
    ) -> Result<(), StoreError> {
        self.insert_uses(vec![used.entry(intended, outcome)]).await?;
        used.settle();
        Ok(())
    }

    /// Puts down an act that changes no row.
    pub async fn append_audit(
        &self,
        draft: AuditDraft,
        tenant: Option<&TenantId>,
        instance: Option<&InstanceId>,
        credential: Option<Uuid>,
    ) -> Result<(), StoreError> {
        let entry = self.db().audit_entry(draft, AuditTarget { tenant, instance, credential });
        self.db()
            .write(move |tx| {
                tx.audited.push(AuditedAct::Entry(Box::new(entry)));
                Box::pin(async { Ok(()) })
            })
            .await
    }

    /// Commits uses that are not in the audit yet, and counts them.
    pub(crate) async fn insert_uses(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.db().write(move |tx| Box::pin(async move { tx.insert_uses(entries).await })).await
    }

    /// The newest row of the audit. Puts down where that is, so that it shows where newer rows
    /// are removed; to be called now and then.
    pub async fn keep_audit_head(&self) -> Result<AuditHead, StoreError> {
        self.db().own_log_settled().await;
        let head = self
            .db()
            .write(|tx| {
                Box::pin(async move {
                    let kept = Query::new("select head_sequence, head_hash from audit_chain where name = 'audit'");
                    let kept = AuditHead::from_row(&kept.fetch_one(&mut tx.connection).await?, 0)?;
                    if tx.connection.backend() == Backend::Postgres {
                        return Ok(kept);
                    }
                    let newest = tx.newest_audit_row(Day::MAX).await?;
                    // Where that row is gone or is another, what was put down stays, and tells.
                    if newest.sequence > kept.sequence && tx.has_audit_row(kept).await? {
                        Query::new("update audit_chain set head_sequence = $1, head_hash = $2 where name = 'audit'")
                            .bind(newest.sequence)
                            .bind(newest.hash.to_vec())
                            .execute(&mut tx.connection)
                            .await?;
                    }
                    Ok(newest)
                })
            })
            .await?;
        metrics::gauge!(AUDIT_HEAD).set(head.sequence as f64);
        Ok(head)
    }
}

impl Tx {
    /// Counts the uses of credentials and puts them into the audit.
    pub(crate) async fn insert_uses(&mut self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        let mut counts = Counts::new();
        for (credential, at) in entries.iter().filter_map(|entry| Some((entry.credential_id?, entry.timestamp))) {
            counts.entry(credential).and_modify(|uses| uses.add(Use::once(at))).or_insert(Use::once(at));
        }
        self.count_uses(counts).await?;
        self.audited.extend(entries.into_iter().map(|entry| AuditedAct::Entry(Box::new(entry))));
        Ok(())
    }
}
