//! How a batch of records is written: by the log's own writer on SQLite, by one statement on
//! PostgreSQL, else statement by statement. Must not know who waits for it.
//!
//! The order of locks in a batch is instances, credentials, queue, executions, idempotency keys,
//! events, audit; other transactions that touch several of them keep to it.

mod one_statement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use integration_model::{InstanceId, Timestamp};
use uuid::Uuid;

pub(crate) use self::one_statement::{KnownEnds, OneStatement};
use super::ExecutionRecord;
use crate::audit::{row_id, rows_of, use_counts};
use crate::batch::{Cells as _, Kind, Rows};
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::events::EventRow;
use crate::idempotency::IdempotencyClaim;
use crate::log_writer::Patience;
use crate::metrics::AUDIT_ROWS;
use crate::sql::{Backend, Pool};

/// Commits a record of a batch that failed. Where the batch was committed all the same, and
/// only the answer got lost, what the audit has of it stays.
pub(crate) async fn write_again(
    db: &Arc<Database>,
    record: &ExecutionRecord,
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let record = std::slice::from_ref(record);
    let ids: BTreeSet<Uuid> =
        rows_of(record, &BTreeSet::new()).map(|(used, execution)| row_id(used, execution)).collect();
    let known = match record.first() {
        Some(first) => db.known_audit(&ids, first.execution.created_at).await?,
        None => BTreeSet::new(),
    };
    write_batch(db, record, &known).await
}

/// Commits records in one transaction; gives the outcome of each, in their order. The audit
/// has rows of the `known` ids already.
pub(crate) async fn write_batch(
    db: &Arc<Database>,
    records: &[ExecutionRecord],
    known: &BTreeSet<Uuid>,
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    if known.is_empty() && write_at_once(db, records).await? {
        return Ok(records.iter().map(|_| Ok(())).collect());
    }
    let mut tx = db.begin().await?;
    let lost = match write_records(&mut tx, records, known).await {
        Ok(lost) => lost,
        Err(error) => {
            if let Err(rollback) = tx.connection.rollback().await {
                tracing::warn!(error = %rollback, "a batch could not be rolled back");
            }
            return Err(error);
        }
    };
    tx.commit().await?;
    db.use_counts.add(use_counts(records));
    let outcome = |record: &ExecutionRecord| {
        if lost.contains(&record.execution.id.0) {
            Err(StoreError::Conflict("the execution has ended by another hand".to_owned()))
        } else {
            Ok(())
        }
    };
    Ok(records.iter().map(outcome).collect())
}

/// Commits a batch by the shortest way. False, with nothing written, where that does not take it.
async fn write_at_once(db: &Database, records: &[ExecutionRecord]) -> Result<bool, StoreError> {
    match &db.pool {
        Pool::Sqlite { turn, .. } => {
            let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
            Ok(db.write_log(records, Patience::Full).unwrap_or_else(|error| {
                tracing::debug!(%error, "a batch is written statement by statement");
                false
            }))
        }
        Pool::Postgres(pool) => {
            let written = db.one_statement.lock().await.write(db, pool, records).await?;
            if written {
                metrics::counter!(AUDIT_ROWS).increment(rows_of(records, &BTreeSet::new()).count() as u64);
                db.count_batch(records);
            }
            Ok(written)
        }
    }
}

impl Database {
    /// The caller has the turn to write.
    pub(crate) fn write_log(&self, records: &[ExecutionRecord], patience: Patience) -> Result<bool, StoreError> {
        let mut writer = self.log_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_mut() else { return Ok(false) };
        let written = writer.write(self, records, patience)?;
        if written {
            self.count_batch(records);
        }
        Ok(written)
    }

    /// Counts what a committed batch used, and tells who waits for its events.
    fn count_batch(&self, records: &[ExecutionRecord]) {
        self.use_counts.add(use_counts(records));
        self.events_committed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

pub(crate) fn answers_of(records: &[ExecutionRecord]) -> impl Iterator<Item = (&IdempotencyClaim, &Bytes)> {
    records.iter().filter_map(|record| Some((record.idempotency.as_ref()?, record.answer.as_ref()?)))
}

pub(crate) fn events_of(records: &[ExecutionRecord]) -> impl Iterator<Item = EventRow<'_>> {
    records.iter().flat_map(|record| {
        let execution = &record.execution;
        EventRow::of_instance(&execution.tenant_id, &execution.integration_instance_id, &record.events)
    })
}

/// The instances that were used, each with the last time.
pub(crate) fn latest_uses(records: &[ExecutionRecord]) -> BTreeMap<&InstanceId, Timestamp> {
    let mut used: BTreeMap<&InstanceId, Timestamp> = BTreeMap::new();
    for record in records.iter().filter(|record| record.touch_last_used) {
        let execution = &record.execution;
        let at = execution.finished_at.unwrap_or(execution.created_at);
        used.entry(&execution.integration_instance_id).and_modify(|latest| *latest = at.max(*latest)).or_insert(at);
    }
    used
}

/// Gives the ids of the executions that had lost their place in the queue.
async fn write_records(
    tx: &mut Tx,
    records: &[ExecutionRecord],
    known: &BTreeSet<Uuid>,
) -> Result<BTreeSet<Uuid>, StoreError> {
    touch_instances(tx, records).await?;
    let lost = leave_queue(tx, records).await?;
    let kept = || records.iter().filter(|record| !lost.contains(&record.execution.id.0));
    tx.write_executions(kept().map(|record| (&*record.execution, record.params.as_ref()))).await?;
    let answers = kept().filter_map(|record| Some((record.idempotency.as_ref()?, record.answer.as_ref()?)));
    tx.store_answers(answers).await?;
    let events: Vec<EventRow<'_>> = kept()
        .flat_map(|record| {
            let execution = &record.execution;
            EventRow::of_instance(&execution.tenant_id, &execution.integration_instance_id, &record.events)
        })
        .collect();
    tx.append_events(&events).await?;
    // A credential was used also where another hand ended the execution.
    tx.append_executions(records, &lost, known).await?;
    Ok(lost)
}

/// The instances that were used, each with the last time, as rows.
fn uses_rows(backend: Backend, records: &[ExecutionRecord]) -> Rows {
    let mut rows = Rows::new(backend, [Kind::Text, Kind::Int]);
    for (instance, at) in latest_uses(records) {
        rows.push(|cells| {
            cells.text(instance.as_str());
            cells.int(at.as_micros());
        });
    }
    rows
}

/// Moves `last_used_at` of each instance once.
async fn touch_instances(tx: &mut Tx, records: &[ExecutionRecord]) -> Result<(), StoreError> {
    let backend = tx.connection.backend();
    let rows = uses_rows(backend, records);
    if rows.is_empty() {
        return Ok(());
    }
    let [id, at] = [rows.cell(0), rows.cell(1)];
    // Rows are locked in one order, so that the journals of two processes never deadlock.
    let (lock, locked) = match backend {
        Backend::Sqlite => (String::new(), " where "),
        Backend::Postgres => (
            format!(
                ", locked as materialized (select id from instances where id in {} order by id for no key update) ",
                rows.ids()
            ),
            ", locked where locked.id = instances.id and ",
        ),
    };
    let text = format!(
        "{}{lock}update instances set last_used_at = {at} from r{locked}instances.id = {id} and \
         (last_used_at is null or last_used_at < {at})",
        rows.with(),
    );
    rows.query(text).execute(&mut tx.connection).await.map(drop)
}

/// Takes ended executions out of the queue; gives those that were not in it any more.
async fn leave_queue(tx: &mut Tx, records: &[ExecutionRecord]) -> Result<BTreeSet<Uuid>, StoreError> {
    let queued: BTreeSet<Uuid> =
        records.iter().filter(|record| record.from_queue).map(|record| record.execution.id.0).collect();
    if queued.is_empty() {
        return Ok(queued);
    }
    let rows = Rows::of_ids(tx.connection.backend(), queued.iter().copied());
    let text = format!("{}delete from execution_queue where id in {} returning id", rows.with(), rows.ids());
    let mut lost = queued;
    for row in rows.query(text).fetch_all(&mut tx.connection).await? {
        lost.remove(&row.uuid(0)?);
    }
    Ok(lost)
}
