//! Group commit: the rows of all executions that end at about the same time are committed
//! together by one task, and each caller goes on after its own rows are committed.
//!
//! The order of locks in a batch is instances, credentials, queue, executions, idempotency keys,
//! events, audit;
//! other transactions that touch several of them keep to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use integration_model::event::EventDraft;
use integration_model::execution::Execution;
use integration_model::{InstanceId, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit::{CredentialUse, row_id, rows_of, use_counts};
use crate::batch::{Cells as _, Kind, Rows, cell, select_ids, with_rows};
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::events::EventRow;
use crate::idempotency::IdempotencyClaim;
use crate::lane::Lane;
use crate::log_writer::Patience;
use crate::sql::{Backend, Pool, Query};
use crate::store::Store;

/// The most records of one transaction.
const MAX_BATCH: usize = 512;
/// About how many bytes of records one transaction takes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many records wait before callers have to.
const MAX_WAITING: usize = 1024;
/// What a record weighs beside its texts.
const RECORD_OVERHEAD: usize = 1024;
/// After how many records that fail on their own, one after the other, a failed batch is given up.
const MAX_FAILURES_IN_A_ROW: usize = 3;

/// Everything that is committed when an execution ends.
#[derive(Debug, Clone)]
pub struct ExecutionRecord {
    pub execution: Arc<Execution>,
    /// JSON text, kept for a replay; not kept where longer than [`crate::MAX_KEPT_PARAMS`].
    pub params: Option<Bytes>,
    pub events: Vec<EventDraft>,
    /// The claim under which the execution ran; gets `answer`.
    pub idempotency: Option<IdempotencyClaim>,
    /// What later calls under the same claim are answered with.
    pub answer: Option<Bytes>,
    /// The uses of credentials that belong to the execution; each becomes a row of the audit.
    pub credential_uses: Vec<CredentialUse>,
    /// Whether the instance's `lastUsedAt` moves.
    pub touch_last_used: bool,
    /// Whether the execution was claimed from the queue: its row exists, and its place in
    /// the queue ends with it.
    pub from_queue: bool,
}

impl ExecutionRecord {
    fn weight(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        RECORD_OVERHEAD
            + RECORD_OVERHEAD * (self.events.len() + self.credential_uses.len())
            + length(&self.params)
            // Bytes travel as hexadecimal.
            + 2 * length(&self.answer)
            + self.execution.data.as_deref().map_or(0, |data| data.get().len())
    }
}

/// A record on its way, and whom to tell.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) record: ExecutionRecord,
    pub(crate) done: Done,
}

pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

/// The writer's thread and the ways to it.
#[derive(Debug)]
pub(crate) struct Journal {
    db: Arc<Database>,
    sender: mpsc::Sender<Pending>,
    /// Empty where everything goes by the writer's thread.
    lanes: Vec<Arc<Lane>>,
    is_closed: AtomicBool,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

impl Journal {
    /// Starts the writer in a runtime of its own: many calls wait for it, so that it shares
    /// its thread with nothing. With `lanes`, callers' threads commit to SQLite beside it.
    pub(crate) fn start(db: Arc<Database>, lanes: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let (end, ended) = watch::channel(false);
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let writer = run(receiver, Arc::clone(&db), stop.clone());
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            runtime.block_on(writer);
            // Nobody waits where the store was dropped without being closed.
            let _ = end.send(true);
        })?;
        let lanes = (0..lanes).map(|_| Arc::default()).collect();
        Ok(Self { db, sender, lanes, is_closed: AtomicBool::new(false), stop, ended })
    }

    async fn record(&self, record: ExecutionRecord) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let (done, committed) = oneshot::channel();
        let pending = Pending { record, done };
        if self.lanes.is_empty() {
            self.sender.send(pending).await.map_err(|_| StoreError::Closed)?;
        } else {
            Lane::of_thread(&self.lanes).join(pending, &self.db, &self.sender);
        }
        committed.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes nothing more, and waits until what was taken is committed.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        for lane in &self.lanes {
            lane.emptied().await;
        }
        self.stop.cancel();
        if self.ended.clone().wait_for(|ended| *ended).await.is_err() {
            tracing::error!("the journal's thread ended badly");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Store {
    /// Commits what an execution leaves behind: its row, its events, its answer. Returns
    /// after the commit. Fails with [`StoreError::Conflict`] where the execution came from
    /// the queue and has ended by another hand meanwhile; then nothing is written.
    pub async fn record(&self, record: ExecutionRecord) -> Result<(), StoreError> {
        let uses = record.credential_uses.clone();
        let recorded = self.journal().record(record).await;
        // Where another hand ended the execution, the uses are committed all the same.
        if matches!(recorded, Ok(()) | Err(StoreError::Conflict(_))) {
            uses.iter().for_each(CredentialUse::settle);
        }
        recorded
    }
}

async fn run(mut receiver: mpsc::Receiver<Pending>, db: Arc<Database>, stop: CancellationToken) {
    let mut waiting = VecDeque::new();
    let mut incoming = Vec::with_capacity(MAX_BATCH);
    loop {
        if waiting.is_empty() {
            let received = tokio::select! {
                received = receiver.recv_many(&mut incoming, MAX_BATCH) => received,
                () = stop.cancelled(), if !receiver.is_closed() => {
                    receiver.close();
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            waiting.extend(incoming.drain(..));
        }
        let (records, done) = take_batch(&mut waiting);
        commit(&db, &records, done).await;
    }
}

/// Takes as much as one transaction should hold.
pub(crate) fn take_batch(waiting: &mut VecDeque<Pending>) -> (Vec<ExecutionRecord>, Vec<Done>) {
    let mut bytes = 0;
    let mut records = Vec::with_capacity(waiting.len());
    let mut done = Vec::with_capacity(waiting.len());
    while let Some(pending) = waiting.pop_front() {
        bytes += pending.record.weight();
        records.push(pending.record);
        done.push(pending.done);
        if bytes >= MAX_BATCH_BYTES {
            break;
        }
    }
    (records, done)
}

/// Commits a batch and tells its callers. Where it fails, its records are tried one by one,
/// so that a bad one does not fail the others.
async fn commit(db: &Arc<Database>, records: &[ExecutionRecord], done: Vec<Done>) {
    let error = match write_batch(db, records, &BTreeSet::new()).await {
        Ok(outcomes) => {
            for (outcome, done) in outcomes.into_iter().zip(done) {
                answer(done, outcome);
            }
            return;
        }
        Err(error) => error,
    };
    tracing::warn!(%error, records = records.len(), "a batch of executions could not be committed; trying each alone");
    let mut failures = 0;
    for (record, done) in records.iter().zip(done) {
        if failures >= MAX_FAILURES_IN_A_ROW {
            answer(done, Err(StoreError::Database(sqlx::Error::Protocol("the database takes no records".to_owned()))));
            continue;
        }
        match write_again(db, record).await {
            Ok(outcomes) => {
                failures = 0;
                answer(done, outcomes.into_iter().next().unwrap_or(Ok(())));
            }
            Err(error) => {
                failures += 1;
                answer(done, Err(error));
            }
        }
    }
}

pub(crate) fn answer(done: Done, outcome: Result<(), StoreError>) {
    // A caller that went away needs no answer.
    let _ = done.send(outcome);
}

/// Commits a record of a batch that failed. Where the batch was committed all the same, and
/// only the answer got lost, what the audit has of it stays.
async fn write_again(db: &Arc<Database>, record: &ExecutionRecord) -> Result<Vec<Result<(), StoreError>>, StoreError> {
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
async fn write_batch(
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

/// Commits a batch on SQLite with its own writer. False, with nothing written, where that
/// one does not take it, or the database is another.
async fn write_at_once(db: &Database, records: &[ExecutionRecord], known: &BTreeSet<Uuid>) -> Result<bool, StoreError> {
    if !known.is_empty() {
        return Ok(false);
    }
    let Pool::Sqlite { turn, .. } = &db.pool else { return Ok(false) };
    let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
    db.write_log(records, Patience::Full)
}

impl Database {
    /// The caller has the turn to write.
    pub(crate) fn write_log(&self, records: &[ExecutionRecord], patience: Patience) -> Result<bool, StoreError> {
        let mut writer = self.log_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_mut() else { return Ok(false) };
        let written = writer.write(self, records, patience)?;
        if written {
            self.use_counts.add(use_counts(records));
            self.events_committed.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(written)
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
    if let Some(query) = touch_instances_query(tx.connection.backend(), records) {
        query.execute(&mut tx.connection).await?;
    }
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

/// Moves `last_used_at` of each instance once; no statement where none was used.
fn touch_instances_query(backend: Backend, records: &[ExecutionRecord]) -> Option<Query> {
    let used = latest_uses(records);
    if used.is_empty() {
        return None;
    }
    let mut rows = Rows::new();
    for (instance, at) in used {
        rows.push(|cells| {
            cells.text(instance.as_str());
            cells.int(at.as_micros());
        });
    }
    let id = cell(backend, 0, Kind::Text);
    let at = cell(backend, 1, Kind::Int);
    // Rows are locked in one order, so that the journals of two processes never deadlock.
    let (lock, locked) = match backend {
        Backend::Sqlite => ("", ""),
        Backend::Postgres => (
            ", locked as materialized (select id from instances where id in (select v->>0 from r) order by id \
             for no key update) ",
            ", locked where locked.id = instances.id and ",
        ),
    };
    let locked = if locked.is_empty() { " where " } else { locked };
    let text = format!(
        "{}{lock}update instances set last_used_at = {at} from r{locked}instances.id = {id} and \
         (last_used_at is null or last_used_at < {at})",
        with_rows(backend),
    );
    Some(rows.query(text))
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
