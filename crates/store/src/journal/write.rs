//! How a batch of records is written: by the log's own writer on SQLite, else statement by
//! statement. Must not know who waits for it.
//!
//! The order of locks is instances, credentials, queue, executions, idempotency keys, events,
//! audit: a batch begins at the queue, and other transactions that touch several of them keep to it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use super::ExecutionRecord;
use crate::audit::{row_id, rows_of};
use crate::batch::{Rows, select_ids, with_rows};
use crate::database::{Database, Tx};
use crate::encoded::{Decoded, Encoded};
use crate::error::StoreError;
use crate::events::EventRow;
use crate::idempotency::IdempotencyClaim;
use crate::log_writer::Patience;
use crate::partitions::{Day, Log, Partition};
use crate::sql::Pool;

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
    match write_at_once(db, records, known).await {
        Ok(true) => return Ok(records.iter().map(|_| Ok(())).collect()),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "a batch is written statement by statement"),
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
    db.uses.note_credentials(records);
    let outcome = |record: &ExecutionRecord| {
        if lost.contains(&record.execution.id.0) {
            Err(StoreError::Conflict("the execution has ended by another hand".to_owned()))
        } else {
            Ok(())
        }
    };
    Ok(records.iter().map(outcome).collect())
}

/// Commits a batch on SQLite with its own writer. False, with nothing written, where that
/// one does not take it, or the database is another.
async fn write_at_once(
    db: &Arc<Database>,
    records: &[ExecutionRecord],
    known: &BTreeSet<Uuid>,
) -> Result<bool, StoreError> {
    let Pool::Sqlite { turn, .. } = &db.pool else { return Ok(false) };
    // What comes from the queue has to be looked for there.
    if records.iter().any(|record| record.from_queue) {
        return Ok(false);
    }
    let encoded = Encoded::of(records)?;
    let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
    db.write_log(&encoded, &answers_of(records), known, Patience::Full)
}

/// Commits what is only known as bytes.
pub(crate) async fn write_encoded(
    db: &Arc<Database>,
    records: &Encoded,
    known: &BTreeSet<Uuid>,
) -> Result<(), StoreError> {
    if write_encoded_at_once(db, records, known).await? {
        return Ok(());
    }
    let mut days = BTreeSet::new();
    for record in records.iter() {
        days.insert(Day::of_id(Decoded::read(record)?.id));
    }
    let today = Day::of(db.clock.now());
    let executions = days.into_iter().map(|day| Partition { log: Log::Executions, day });
    let others = [Log::Events, Log::Audit].map(|log| Partition { log, day: today });
    let missing: Vec<Partition> = executions.chain(others).collect();
    let mut tx = db.begin().await?;
    for partition in missing {
        tx.ensure_partition(partition).await?;
    }
    tx.commit().await?;
    match write_encoded_at_once(db, records, known).await? {
        true => Ok(()),
        false => Err(StoreError::Closed),
    }
}

async fn write_encoded_at_once(db: &Database, records: &Encoded, known: &BTreeSet<Uuid>) -> Result<bool, StoreError> {
    let Pool::Sqlite { turn, .. } = &db.pool else {
        return Err(StoreError::Config("what a spool holds of executions belongs to a SQLite database".to_owned()));
    };
    let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
    db.write_log(records, &[], known, Patience::Full)
}

impl Database {
    /// Commits records with SQLite's own writer. False, with nothing written, where a partition
    /// is missing, or the writer. The caller has the turn to write.
    pub(crate) fn write_log(
        &self,
        records: &Encoded,
        answers: &[(&IdempotencyClaim, &Bytes)],
        known: &BTreeSet<Uuid>,
        patience: Patience,
    ) -> Result<bool, StoreError> {
        let mut writer = self.log_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_mut() else { return Ok(false) };
        let Some(uses) = writer.write(self, records, answers, known, patience)? else { return Ok(false) };
        self.uses.add_credentials(&uses);
        self.events_committed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(true)
    }
}

/// The answers that belong to records.
pub(crate) fn answers_of(records: &[ExecutionRecord]) -> Vec<(&IdempotencyClaim, &Bytes)> {
    records.iter().filter_map(|record| Some((record.idempotency.as_ref()?, record.answer.as_ref()?))).collect()
}

/// Gives the ids of the executions that had lost their place in the queue.
async fn write_records(
    tx: &mut Tx,
    records: &[ExecutionRecord],
    known: &BTreeSet<Uuid>,
) -> Result<BTreeSet<Uuid>, StoreError> {
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

/// Takes ended executions out of the queue; gives those that were not in it any more.
async fn leave_queue(tx: &mut Tx, records: &[ExecutionRecord]) -> Result<BTreeSet<Uuid>, StoreError> {
    let queued: BTreeSet<Uuid> =
        records.iter().filter(|record| record.from_queue).map(|record| record.execution.id.0).collect();
    if queued.is_empty() {
        return Ok(queued);
    }
    let backend = tx.connection.backend();
    let text =
        format!("{}delete from execution_queue where id in {} returning id", with_rows(backend), select_ids(backend));
    let mut lost = queued.clone();
    for row in Rows::of_ids(queued).query(text).fetch_all(&mut tx.connection).await? {
        lost.remove(&row.uuid(0)?);
    }
    Ok(lost)
}
