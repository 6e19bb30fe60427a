//! How a batch of records is written: by the log's own writer on SQLite, by one statement on
//! PostgreSQL, else statement by statement. Must not know who waits for it.
//!
//! The order of locks is instances, credentials, queue, executions, idempotency keys, events,
//! audit: a batch begins at the queue, and other transactions that touch several of them keep to it.

mod one_statement;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex;
use uuid::Uuid;

pub(crate) use self::one_statement::{KnownEnds, OneStatement};
use super::ExecutionRecord;
use crate::audit::row::ExecutionAct;
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
use crate::spool_table::Settled;
use crate::sql::{Backend, Pool};
use crate::uses::{Counts, Use};

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
    // What comes from the queue has to be looked for there, and what is in PostgreSQL's log already
    // has to be passed over.
    let may_be_there = db.pool.backend() == Backend::Postgres && !known.is_empty();
    if may_be_there || records.iter().any(|record| record.from_queue) {
        return Ok(false);
    }
    let encoded = Encoded::of(records)?;
    let answers: Vec<_> = answers_of(records).collect();
    let batch = LogBatch { records: &encoded, answers: &answers, known, settled: None };
    let written = db.write_log(batch, &db.one_statement).await;
    Ok(match (&db.pool, written) {
        (Pool::Sqlite { .. }, Err(error)) => {
            tracing::debug!(%error, "a batch is written statement by statement");
            false
        }
        (_, written) => written?,
    })
}

/// What is committed together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBatch<'a> {
    pub(crate) records: &'a Encoded,
    /// That belong to the records.
    pub(crate) answers: &'a [(&'a IdempotencyClaim, &'a Bytes)],
    /// The acts that the audit has already.
    pub(crate) known: &'a BTreeSet<Uuid>,
    /// Up to where PostgreSQL's spool is not needed any more.
    pub(crate) settled: Option<Settled>,
}

/// What a batch has put down.
#[derive(Debug, Default)]
pub(crate) struct Written {
    acts: u64,
    uses: Counts,
}

impl Written {
    pub(crate) fn note(&mut self, act: &ExecutionAct<'_>) {
        self.acts += 1;
        if let Some(credential) = act.credential {
            let used = Use::once(act.at);
            self.uses.entry(credential).and_modify(|uses| uses.add(used)).or_insert(used);
        }
    }
}

/// Commits what is only known as bytes.
pub(crate) async fn write_encoded(
    db: &Arc<Database>,
    batch: LogBatch<'_>,
    by: &Mutex<OneStatement>,
) -> Result<(), StoreError> {
    if db.write_log(batch, by).await? {
        return Ok(());
    }
    // Other processes make them too.
    db.partitions.reload(&db.pool).await?;
    let mut days = BTreeSet::new();
    for record in batch.records.iter() {
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
    match db.write_log(batch, by).await? {
        true => Ok(()),
        false => {
            let error = "the logs have no table for a record, or take no connection";
            Err(StoreError::Database(sqlx::Error::Protocol(error.to_owned())))
        }
    }
}

impl Database {
    /// Commits records with what is made for that: SQLite's own writer, or one statement. False,
    /// with nothing written, where a partition is missing, or that way does not take them.
    async fn write_log(&self, batch: LogBatch<'_>, by: &Mutex<OneStatement>) -> Result<bool, StoreError> {
        match &self.pool {
            Pool::Sqlite { turn, .. } => {
                let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
                self.write_log_here(batch, Patience::Full)
            }
            Pool::Postgres(pool) => {
                let written = by.lock().await.write(self, pool, batch).await?;
                Ok(self.note_written(written))
            }
        }
    }

    /// Commits records with SQLite's own writer, in this thread, which has the turn to write.
    pub(crate) fn write_log_here(&self, batch: LogBatch<'_>, patience: Patience) -> Result<bool, StoreError> {
        let mut writer = self.log_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_mut() else { return Ok(false) };
        let written = writer.write(self, batch, patience)?;
        Ok(self.note_written(written))
    }

    fn note_written(&self, written: Option<Written>) -> bool {
        let Some(written) = written else { return false };
        metrics::counter!(AUDIT_ROWS).increment(written.acts);
        self.uses.add_credentials(&written.uses);
        // Tells who waits for events that some are committed.
        self.events_committed.send_modify(|count| *count = count.wrapping_add(1));
        true
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
