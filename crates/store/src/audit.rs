//! The audit: its rows, and the use of credentials, which is put down before it happens.
//! Must not know what a credential is used for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use integration_model::audit::{AuditAction, AuditDraft, AuditEntry, AuditOutcome};
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};
use uuid::Uuid;

use crate::audit_spool::{SpoolEntry, SpoolLine, reason_text};
use crate::batch::{Cells, Column, Kind, Rows, cell, insert_rows, select_ids, with_rows};
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::events::days_between;
use crate::filter::Conditions;
use crate::journal::ExecutionRecord;
use crate::partitions::{Day, Log, Partition};
use crate::sql::{Backend, Row, to_json};
use crate::store::Store;

/// How many rows of a spool one transaction takes.
const RECOVERED_AT_ONCE: usize = 500;

/// Which entries a list gives.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant: Option<TenantId>,
    pub principal: Option<String>,
    /// All actions where empty.
    pub actions: Vec<AuditAction>,
    pub instance: Option<InstanceId>,
    /// The earliest time, inclusive.
    pub from: Option<Timestamp>,
    /// The latest time, exclusive.
    pub until: Option<Timestamp>,
}

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
    why: &'static str,
    spooled: Option<Arc<SpoolEntry>>,
}

impl CredentialUse {
    /// Which credential is used.
    pub fn credential(&self) -> Option<Uuid> {
        self.credential
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// The row of a use that belongs to no recorded execution.
    pub(crate) fn entry(&self, intended: IntendedUse<'_>, outcome: AuditOutcome) -> AuditEntry {
        AuditEntry {
            id: self.id,
            timestamp: self.at,
            tenant_id: intended.tenant.clone(),
            principal: intended.principal.to_owned(),
            action: AuditAction::CredentialUsed,
            instance_id: Some(intended.instance.clone()),
            credential_id: self.credential,
            execution_id: intended.execution,
            outcome,
            reason: reason_text(intended.why, intended.method),
            correlation_id: intended.correlation_id.to_owned(),
            details: None,
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

pub(crate) const COLUMNS: &[Column] = &[
    Column { name: "id", kind: Kind::Bytes },
    Column { name: "created_at", kind: Kind::Int },
    Column { name: "tenant_id", kind: Kind::Text },
    Column { name: "principal", kind: Kind::Text },
    Column { name: "action", kind: Kind::Text },
    Column { name: "instance_id", kind: Kind::Text },
    Column { name: "credential_id", kind: Kind::Bytes },
    Column { name: "execution_id", kind: Kind::Bytes },
    Column { name: "outcome", kind: Kind::Text },
    Column { name: "reason", kind: Kind::Text },
    Column { name: "correlation_id", kind: Kind::Text },
    Column { name: "details", kind: Kind::Text },
];

/// What a row says already stays: the same id is the same act.
pub(crate) const ON_CONFLICT: &str = "on conflict (id) do nothing";

/// The uses of credentials in these records, with the records.
pub(crate) fn uses_of(records: &[ExecutionRecord]) -> impl Iterator<Item = (&CredentialUse, &ExecutionRecord)> {
    records.iter().flat_map(|record| record.credential_uses.iter().map(move |used| (used, record)))
}

/// How often each credential was used, and when last; in the order of their ids.
pub(crate) fn use_counts(records: &[ExecutionRecord]) -> BTreeMap<Uuid, (i64, Timestamp)> {
    count(uses_of(records).filter_map(|(used, _)| Some((used.credential?, used.at))))
}

fn count(uses: impl Iterator<Item = (Uuid, Timestamp)>) -> BTreeMap<Uuid, (i64, Timestamp)> {
    let mut counts: BTreeMap<Uuid, (i64, Timestamp)> = BTreeMap::new();
    for (credential, at) in uses {
        let (count, latest) = counts.entry(credential).or_insert((0, at));
        *count += 1;
        *latest = at.max(*latest);
    }
    counts
}

/// In the order of [`COLUMNS`].
pub(crate) fn write_use(cells: &mut impl Cells, used: &CredentialUse, record: &ExecutionRecord) {
    let execution = &record.execution;
    let (outcome, code) = match &execution.error {
        None => (AuditOutcome::Success, None),
        Some(error) => (AuditOutcome::Failure, Some(error.code.as_str())),
    };
    // Codes need no escapes.
    let details = match code {
        None => format!(r#"{{"attempts":{}}}"#, execution.attempts),
        Some(code) => format!(r#"{{"attempts":{},"code":"{code}"}}"#, execution.attempts),
    };
    cells.bytes(used.id.as_bytes());
    cells.int(used.at.as_micros());
    cells.text(execution.tenant_id.as_str());
    cells.text(&execution.principal);
    cells.text(AuditAction::CredentialUsed.as_str());
    cells.text(execution.integration_instance_id.as_str());
    cells.opt_bytes(used.credential.as_ref().map(|id| id.as_bytes().as_slice()));
    cells.bytes(execution.id.0.as_bytes());
    cells.text(outcome.as_str());
    cells.text(&reason_text(used.why, &execution.method_name));
    cells.text(&execution.correlation_id);
    cells.text(&details);
}

fn write_entry(cells: &mut impl Cells, entry: &AuditEntry, details: Option<&str>) {
    cells.bytes(entry.id.as_bytes());
    cells.int(entry.timestamp.as_micros());
    cells.text(entry.tenant_id.as_str());
    cells.text(&entry.principal);
    cells.text(entry.action.as_str());
    cells.opt_text(entry.instance_id.as_ref().map(InstanceId::as_str));
    cells.opt_bytes(entry.credential_id.as_ref().map(|id| id.as_bytes().as_slice()));
    cells.opt_bytes(entry.execution_id.as_ref().map(|id| id.0.as_bytes().as_slice()));
    cells.text(entry.outcome.as_str());
    cells.text(&entry.reason);
    cells.text(&entry.correlation_id);
    cells.opt_text(details);
}

/// To whom something was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AuditTarget<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) instance: Option<&'a InstanceId>,
    pub(crate) credential: Option<Uuid>,
}

impl Database {
    /// A draft as an entry, with an id and the time of now.
    pub(crate) fn audit_entry(&self, draft: AuditDraft, target: AuditTarget<'_>) -> AuditEntry {
        AuditEntry {
            id: self.ids.next(),
            timestamp: self.clock.now(),
            tenant_id: target.tenant.clone(),
            principal: draft.principal,
            action: draft.action,
            instance_id: target.instance.cloned(),
            credential_id: target.credential,
            execution_id: None,
            outcome: draft.outcome,
            reason: draft.reason,
            correlation_id: draft.correlation_id,
            details: draft.details,
        }
    }
}

impl Tx {
    /// Appends entries; those that are there already stay. To be called before
    /// [`Tx::append_events`].
    pub(crate) async fn append_audit(&mut self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.insert_audit(entries).await.map(drop)
    }

    /// Appends one entry for a draft.
    pub(crate) async fn audit(&mut self, draft: AuditDraft, target: AuditTarget<'_>) -> Result<(), StoreError> {
        let entry = self.db.audit_entry(draft, target);
        self.append_audit(std::slice::from_ref(&entry)).await
    }

    /// Gives the ids of the entries that were not there yet.
    async fn insert_audit(&mut self, entries: &[AuditEntry]) -> Result<Vec<Uuid>, StoreError> {
        let mut partitions: BTreeMap<Partition, Rows> = BTreeMap::new();
        for entry in entries {
            let details = entry.details.as_ref().map(to_json).transpose()?;
            partitions
                .entry(Partition::of_id(Log::Audit, entry.id))
                .or_insert_with(Rows::new)
                .push(|cells| write_entry(cells, entry, details.as_deref()));
        }
        self.insert_audit_rows(partitions).await
    }

    async fn insert_audit_rows(&mut self, partitions: BTreeMap<Partition, Rows>) -> Result<Vec<Uuid>, StoreError> {
        let mut inserted = Vec::new();
        for (partition, rows) in partitions {
            self.ensure_partition(partition).await?;
            let on_conflict = format!("{ON_CONFLICT} returning id");
            let text = insert_rows(self.connection.backend(), &partition.table(), COLUMNS, &on_conflict);
            for row in rows.query(text).fetch_all(&mut self.connection).await? {
                inserted.push(row.uuid(0)?);
            }
        }
        Ok(inserted)
    }

    /// The rows of the credentials' uses in a batch of the journal.
    pub(crate) async fn append_uses(&mut self, records: &[ExecutionRecord]) -> Result<(), StoreError> {
        let mut partitions: BTreeMap<Partition, Rows> = BTreeMap::new();
        for (used, record) in uses_of(records) {
            let rows = partitions.entry(Partition::of_id(Log::Audit, used.id)).or_insert_with(Rows::new);
            rows.push(|cells| write_use(cells, used, record));
        }
        self.insert_audit_rows(partitions).await.map(drop)
    }

    /// Moves the counts of credentials that were used.
    pub(crate) async fn count_uses(&mut self, counts: BTreeMap<Uuid, (i64, Timestamp)>) -> Result<(), StoreError> {
        if counts.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::new();
        for (credential, (uses, at)) in counts {
            rows.push(|cells| {
                cells.bytes(credential.as_bytes());
                cells.int(uses);
                cells.int(at.as_micros());
            });
        }
        let query = rows.query(count_uses_text(self.connection.backend()));
        query.execute(&mut self.connection).await.map(drop)
    }
}

fn count_uses_text(backend: Backend) -> String {
    let id = cell(backend, 0, Kind::Bytes);
    let uses = cell(backend, 1, Kind::Int);
    let at = cell(backend, 2, Kind::Int);
    // Rows are locked in one order, so that the journals of two processes never deadlock.
    let (lock, from) = match backend {
        Backend::Sqlite => (String::new(), " where "),
        Backend::Postgres => (
            format!(
                ", locked as materialized (select secret_id from credentials where secret_id in (select {id} from r) \
                 order by instance_id for no key update) "
            ),
            ", locked where locked.secret_id = credentials.secret_id and ",
        ),
    };
    format!(
        "{}{lock}update credentials set use_count = use_count + {uses}, \
         last_used_at = case when last_used_at is null or last_used_at < {at} then {at} else last_used_at end \
         from r{from}credentials.secret_id = {id}",
        with_rows(backend),
    )
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
        let spooled = self.spool().map(|spool| spool.write(&line)).transpose().map_err(StoreError::AuditSpool)?;
        Ok(CredentialUse { id, at, credential: intended.credential, why: intended.why, spooled: spooled.map(Arc::new) })
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

    /// Appends an entry that reports no change of a row.
    pub async fn append_audit(
        &self,
        draft: AuditDraft,
        tenant: &TenantId,
        instance: Option<&InstanceId>,
        credential: Option<Uuid>,
    ) -> Result<(), StoreError> {
        let entry = self.db().audit_entry(draft, AuditTarget { tenant, instance, credential });
        self.db().write(move |tx| Box::pin(async move { tx.append_audit(std::slice::from_ref(&entry)).await })).await
    }

    /// Commits uses that are not in the audit yet, and counts them.
    async fn insert_uses(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.db().write(move |tx| Box::pin(async move { tx.insert_uses(entries).await })).await
    }

    /// Commits what processes that are gone put down in their spools and did not commit, and
    /// what this one gave up; gives how many uses that were. To be called now and then.
    pub async fn recover_audit(&self) -> Result<usize, StoreError> {
        let Some(spool) = self.spool() else { return Ok(0) };
        let read = {
            let spool = Arc::clone(spool);
            tokio::task::spawn_blocking(move || spool.take_left_over()).await.map_err(|_| StoreError::Closed)?
        };
        let mut left = read.map_err(StoreError::AuditSpool)?;
        let mut recovered = 0;
        while let Some(segment) = left.pop() {
            for entries in segment.entries.chunks(RECOVERED_AT_ONCE) {
                if let Err(error) = self.insert_uses(entries.to_vec()).await {
                    left.push(segment);
                    spool.put_back(left);
                    return Err(error);
                }
            }
            recovered += segment.entries.len();
            segment.delete();
        }
        Ok(recovered)
    }

    /// Up to `limit` entries, newest first, older than `cursor`.
    pub async fn list_audit(
        &self,
        filter: &AuditFilter,
        cursor: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let mut conditions = conditions(filter);
        let mut days = days_between(filter.from, filter.until);
        if let Some(id) = cursor {
            conditions.add("id < ?", [id.into()]);
            days = *days.start()..=(*days.end()).min(Day::of_id(id));
        }
        let query = |table: &str, wanted: i64| {
            let mut conditions = conditions.clone();
            let limit = conditions.placeholder(wanted);
            let clause = conditions.where_clause();
            let columns: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
            let columns = columns.join(", ");
            conditions.into_query(format!("select {columns} from {table}{clause} order by id desc limit {limit}"))
        };
        self.db().walk_partitions(Log::Audit, days, true, limit as usize, query, read_entry).await
    }
}

impl Tx {
    /// Credentials are locked before the audit is written. A use that turns out to be there
    /// already is not counted twice.
    pub(crate) async fn insert_uses(&mut self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        let known = self.known_audit(&entries).await?;
        let fresh: Vec<AuditEntry> = entries.into_iter().filter(|entry| !known.contains(&entry.id)).collect();
        let uses = fresh.iter().filter_map(|entry| Some((entry.credential_id?, entry.timestamp)));
        self.count_uses(count(uses)).await?;
        self.append_audit(&fresh).await
    }

    async fn known_audit(&mut self, entries: &[AuditEntry]) -> Result<BTreeSet<Uuid>, StoreError> {
        let mut days: BTreeMap<Partition, Vec<Uuid>> = BTreeMap::new();
        for entry in entries {
            days.entry(Partition::of_id(Log::Audit, entry.id)).or_default().push(entry.id);
        }
        let mut known = BTreeSet::new();
        let backend = self.connection.backend();
        for (partition, ids) in days {
            self.ensure_partition(partition).await?;
            let text = format!(
                "{}select id from {} where id in {}",
                with_rows(backend),
                partition.table(),
                select_ids(backend)
            );
            for row in Rows::of_ids(ids).query(text).fetch_all(&mut self.connection).await? {
                known.insert(row.uuid(0)?);
            }
        }
        Ok(known)
    }
}

fn conditions(filter: &AuditFilter) -> Conditions {
    let mut conditions = Conditions::default();
    if !filter.actions.is_empty() {
        let marks = vec!["?"; filter.actions.len()].join(", ");
        conditions.add(&format!("action in ({marks})"), filter.actions.iter().map(|action| action.as_str().into()));
    }
    conditions.add_if("tenant_id = ?", filter.tenant.as_ref().map(TenantId::as_str));
    conditions.add_if("principal = ?", filter.principal.as_deref());
    conditions.add_if("instance_id = ?", filter.instance.as_ref().map(InstanceId::as_str));
    conditions.add_if("created_at >= ?", filter.from);
    conditions.add_if("created_at < ?", filter.until);
    conditions
}

fn read_entry(row: &Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.uuid(0)?,
        timestamp: row.time(1)?,
        tenant_id: row.parsed(2, |text| TenantId::parse(text).ok())?,
        principal: row.text(3)?,
        action: row.parsed(4, AuditAction::parse)?,
        instance_id: row.opt_text(5)?.as_deref().and_then(|text| InstanceId::parse(text).ok()),
        credential_id: row.opt_uuid(6)?,
        execution_id: row.opt_uuid(7)?.map(ExecutionId),
        outcome: row.parsed(8, AuditOutcome::parse)?,
        reason: row.text(9)?,
        correlation_id: row.text(10)?,
        details: row.opt_json(11)?,
    })
}
