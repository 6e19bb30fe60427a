//! How a batch of records is written: by the log's own writer on SQLite, by one statement on
//! PostgreSQL, else statement by statement. Must not know who waits for it.
//!
//! The order of locks is instances, credentials, queue, executions, idempotency keys, events,
//! audit: a batch begins at the queue, and other transactions that touch several of them keep to it.

mod one_statement;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

pub(crate) use self::one_statement::{KnownEnds, OneStatement};
use super::ExecutionRecord;
use crate::audit::{row_id, rows_of};
use crate::batch::Rows;
use crate::database::{Database, Tx};
use crate::encoded::{Decoded, Encoded};
use crate::error::StoreError;
use crate::events::EventRow;
use crate::idempotency::IdempotencyClaim;
use crate::log_writer::Patience;
use crate::metrics::AUDIT_ROWS;
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
    if write_at_once(db, records, known).await? {
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

/// Commits a batch by the shortest way. False, with nothing written, where that does not take it.
async fn write_at_once(db: &Database, records: &[ExecutionRecord], known: &BTreeSet<Uuid>) -> Result<bool, StoreError> {
    match &db.pool {
        // What comes from the queue has to be looked for there.
        Pool::Sqlite { .. } if records.iter().any(|record| record.from_queue) => Ok(false),
        Pool::Sqlite { turn, .. } => {
            let encoded = Encoded::of(records)?;
            let answers: Vec<_> = answers_of(records).collect();
            let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
            Ok(db.write_log(&encoded, &answers, known, Patience::Full).unwrap_or_else(|error| {
                tracing::debug!(%error, "a batch is written statement by statement");
                false
            }))
        }
        Pool::Postgres(pool) if known.is_empty() => {
            let written = db.one_statement.lock().await.write(db, pool, records).await?;
            if written {
                metrics::counter!(AUDIT_ROWS).increment(rows_of(records, &BTreeSet::new()).count() as u64);
                db.uses.note_credentials(records);
                db.tell_of_events();
            }
            Ok(written)
        }
        Pool::Postgres(_) => Ok(false),
    }
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
        self.tell_of_events();
        Ok(true)
    }

    /// Tells who waits for events that some are committed.
    fn tell_of_events(&self) {
        self.events_committed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

pub(crate) fn answers_of<'r>(
    records: impl IntoIterator<Item = &'r ExecutionRecord>,
) -> impl Iterator<Item = (&'r IdempotencyClaim, &'r Bytes)> {
    records.into_iter().filter_map(|record| Some((record.idempotency.as_ref()?, record.answer.as_ref()?)))
}

fn events_of<'r>(records: impl IntoIterator<Item = &'r ExecutionRecord>) -> impl Iterator<Item = EventRow<'r>> {
    records.into_iter().flat_map(|record| {
        let execution = &record.execution;
        EventRow::of_instance(&execution.tenant_id, &execution.integration_instance_id, &record.events)
    })
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
    tx.store_answers(answers_of(kept())).await?;
    let events: Vec<EventRow<'_>> = events_of(kept()).collect();
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
    let rows = Rows::of_ids(tx.connection.backend(), queued.iter().copied());
    let text = format!("{}delete from execution_queue where id in {} returning id", rows.with(), rows.ids());
    let mut lost = queued;
    for row in rows.query(text).fetch_all(&mut tx.connection).await? {
        lost.remove(&row.uuid(0)?);
    }
    Ok(lost)
}
