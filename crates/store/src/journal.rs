//! Group commit: what executions leave behind is committed by many at once.
//!
//! With `journalSync: normal`, the record of an execution that only adds rows is put down in the
//! spool first (a file beside SQLite, a table of the process's own in PostgreSQL), which outlives
//! the process as a commit does, and its caller goes on; whoever reads the log has it committed
//! before ([`Database::log_settled`]). Callers of all others wait for the commit: by their own
//! thread ([`crate::lane`]), or by the journal's.

mod write;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use integration_model::event::EventDraft;
use integration_model::execution::Execution;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::write::{KnownEnds, LogBatch, OneStatement, Written, answers_of, write_encoded};
use self::write::{write_again, write_batch};
use crate::audit::CredentialUse;
use crate::database::Database;
use crate::encoded::Encoded;
use crate::error::StoreError;
use crate::idempotency::IdempotencyClaim;
use crate::lane::Lane;
use crate::metrics::SPOOLED_RECORDS;
use crate::recovery::recover_records;
use crate::spool::{Spool, SpoolEntry};
use crate::spool_table::{TableEntry, TableSpool};
use crate::store::Store;

/// The most records of one transaction.
const MAX_BATCH: usize = 512;
/// About how many bytes of records one transaction takes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many bytes of records are on their way before callers have to wait for a place.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// What one permit of a place stands for.
const PERMIT_BYTES: usize = 1024;
/// How long records that nobody waits for are gathered: the more rows a transaction has, the
/// fewer pages it writes for each.
const GATHERED_FOR: Duration = Duration::from_millis(10);
/// How long where they come so fast that they fill transactions.
const MANY_GATHERED_FOR: Duration = Duration::from_millis(50);
/// How many come within [`GATHERED_FOR`] then.
const MANY: usize = 64;
/// What a record weighs beside its texts.
const RECORD_OVERHEAD: usize = 1024;
/// After how many records that fail on their own, one after the other, a failed batch is given up.
pub(crate) const MAX_FAILURES_IN_A_ROW: usize = 3;

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

    /// Whether it only adds rows: what it changes besides has to be seen by others at once.
    fn may_be_spooled(&self) -> bool {
        !self.from_queue && self.idempotency.is_none()
    }

    /// Of a place on the way; at most all of them.
    fn permits(&self) -> u32 {
        u32::try_from(self.weight().div_ceil(PERMIT_BYTES).min(MAX_WAITING_BYTES / PERMIT_BYTES)).unwrap_or(u32::MAX)
    }
}

/// A record on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) record: ExecutionRecord,
    /// The caller, who waits for the commit; one that went away needs no answer.
    pub(crate) done: oneshot::Sender<Result<(), StoreError>>,
}

/// Records that nobody waits for.
#[derive(Debug)]
struct Spooled {
    records: Encoded,
    /// Where they are until they are committed.
    entry: Kept,
    /// Of their places on the way.
    permits: usize,
}

/// Where the records of a process are put down.
#[derive(Debug)]
pub(crate) enum RecordSpool {
    File(Arc<Spool>),
    Table(TableSpool),
}

/// Where records are put down.
#[derive(Debug)]
enum Kept {
    File(SpoolEntry),
    Table(TableEntry),
}

impl RecordSpool {
    async fn write(&self, db: &Database, records: &Encoded) -> Result<Kept, StoreError> {
        match self {
            Self::File(spool) => spool.write_records(records).map(Kept::File).map_err(StoreError::Spool),
            Self::Table(spool) => spool.write(db, records).await.map(Kept::Table),
        }
    }
}

impl Kept {
    /// The logs have the records.
    fn settle(&self) {
        match self {
            Self::File(entry) => entry.settle(),
            Self::Table(entry) => entry.settle(),
        }
    }

    fn in_table(&self) -> Option<&TableEntry> {
        if let Self::Table(entry) = self { Some(entry) } else { None }
    }
}

#[derive(Debug)]
enum Message {
    Record(Box<Pending>),
    Spooled(Spooled),
    /// To be told when all that came before is committed or given up.
    Settle(oneshot::Sender<()>),
}

/// The ways to the writer's thread.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Arc<Queue>,
    /// Empty where everything goes by the writer's thread.
    lanes: Vec<Arc<Lane>>,
    is_closed: AtomicBool,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

/// What is on its way to the writer's thread.
#[derive(Debug)]
pub(crate) struct Queue {
    db: Arc<Database>,
    sender: mpsc::UnboundedSender<Message>,
    /// Where it takes records.
    spool: Option<RecordSpool>,
    /// Bounds what is on its way.
    places: Semaphore,
    /// Somebody waits for a commit.
    urge: Notify,
    /// Spooled records that are not committed yet.
    spooled: AtomicUsize,
    /// The last batch failed: callers wait for commits again, and hear of it.
    falters: AtomicBool,
}

impl Queue {
    pub(crate) fn db(&self) -> &Arc<Database> {
        &self.db
    }

    /// Where the writer has ended, the caller hears of it by the end of its channel.
    pub(crate) fn send(&self, pending: Pending) {
        if self.sender.send(Message::Record(Box::new(pending))).is_ok() {
            self.urge.notify_one();
        }
    }

    /// Waits until what was recorded before is committed.
    pub(crate) async fn settled(&self) {
        if self.spooled.load(Ordering::Acquire) == 0 {
            return;
        }
        let (done, settled) = oneshot::channel();
        if self.sender.send(Message::Settle(done)).is_ok() {
            self.urge.notify_one();
            // A writer that has ended has nothing left.
            let _ = settled.await;
        }
    }

    /// Whether records that were taken before are not committed yet. What comes after must not
    /// overtake them: a caller's second call tells its event after the first one's.
    pub(crate) fn is_behind(&self) -> bool {
        self.spooled.load(Ordering::Acquire) > 0
    }

    /// Puts records into the spool and answers their callers; leaves those that have to wait for
    /// their commit.
    pub(crate) async fn put_down(&self, waiting: &mut VecDeque<Pending>) {
        let Some(spool) = &self.spool else { return };
        if self.falters.load(Ordering::Relaxed) {
            return;
        }
        let mut records = Encoded::default();
        let (taken, left): (VecDeque<Pending>, VecDeque<Pending>) = waiting
            .drain(..)
            .partition(|pending| pending.record.may_be_spooled() && records.push_for_spool(&pending.record));
        *waiting = left;
        if taken.is_empty() {
            return;
        }
        let mut taken = Taken { pending: taken, queue: self };
        let entry = match spool.write(&self.db, &records).await {
            Ok(entry) => entry,
            Err(error) => {
                tracing::debug!(%error, "records that the spool does not take wait for their commit");
                return;
            }
        };
        let taken = std::mem::take(&mut taken.pending);
        self.spooled.fetch_add(records.len(), Ordering::AcqRel);
        let permits = taken.iter().map(|pending| pending.record.permits() as usize).sum();
        // A writer that has ended leaves them to the next process.
        let _ = self.sender.send(Message::Spooled(Spooled { records, entry, permits }));
        for Pending { record, done } in taken {
            // The record tells of them from now on.
            record.credential_uses.iter().for_each(CredentialUse::settle);
            let _ = done.send(Ok(()));
        }
    }

    /// Takes places for a record. Where there are none, what has them is not left to gather.
    async fn enter(&self, permits: u32) -> Result<(), StoreError> {
        let place = match self.places.try_acquire_many(permits) {
            Ok(place) => place,
            Err(_) => {
                self.urge.notify_one();
                self.places.acquire_many(permits).await.map_err(|_| StoreError::Closed)?
            }
        };
        place.forget();
        Ok(())
    }

    /// Gives the places of records back.
    pub(crate) fn leave(&self, records: &[ExecutionRecord]) {
        self.places.add_permits(records.iter().map(|record| record.permits() as usize).sum());
    }
}

/// Records on their way to the spool: where it does not take them, they wait for their commit.
struct Taken<'q> {
    pending: VecDeque<Pending>,
    queue: &'q Queue,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pending.drain(..).for_each(|pending| self.queue.send(pending));
    }
}

impl Journal {
    /// Starts the writer in a runtime of its own: many calls wait for it, so that it shares
    /// its thread with nothing. With `lanes`, callers' threads write beside it; with `spool`, callers
    /// go on before the commit.
    pub(crate) fn start(db: Arc<Database>, lanes: usize, spool: Option<RecordSpool>) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        let stop = CancellationToken::new();
        let queue = Arc::new(Queue {
            db,
            sender,
            spool,
            places: Semaphore::new(MAX_WAITING_BYTES / PERMIT_BYTES),
            urge: Notify::new(),
            spooled: AtomicUsize::new(0),
            falters: AtomicBool::new(false),
        });
        let _ = queue.db.on_its_way.set(Arc::downgrade(&queue));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let writer = Writer { receiver, queue: Arc::clone(&queue), stop: stop.clone(), waiting: VecDeque::new() };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            runtime.block_on(writer.run());
            // Nobody waits where the store was dropped without being closed.
            let _ = end.send(true);
        })?;
        let lanes = (0..lanes).map(|_| Arc::default()).collect();
        Ok(Self { queue, lanes, is_closed: AtomicBool::new(false), stop, ended })
    }

    async fn record(&self, record: ExecutionRecord) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        self.queue.enter(record.permits()).await?;
        let (done, committed) = oneshot::channel();
        let pending = Pending { record, done };
        if self.lanes.is_empty() {
            self.queue.send(pending);
        } else {
            Lane::of_thread(&self.lanes).join(pending, &self.queue);
        }
        committed.await.map_err(|_| StoreError::Closed)?
    }

    /// Ends what is over of the spool in PostgreSQL. To be called now and then.
    pub(crate) async fn tend_spool(&self) {
        if let Some(RecordSpool::Table(spool)) = &self.queue.spool {
            spool.tend(&self.queue.db).await;
        }
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
        if let Some(RecordSpool::Table(spool)) = &self.queue.spool {
            spool.close().await;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Store {
    /// Puts down for good what an execution leaves behind: its row, its events, its answer. When
    /// this returns, it outlives the process and whoever reads the log finds it. Fails with
    /// [`StoreError::Conflict`] where the execution came from the queue and has ended by another
    /// hand meanwhile; then nothing is written.
    pub async fn record(&self, record: ExecutionRecord) -> Result<(), StoreError> {
        let execution = Arc::clone(&record.execution);
        let recorded = self.journal().record(record).await;
        if matches!(recorded, Ok(()) | Err(StoreError::Conflict(_))) {
            self.db().uses.note_execution(&execution);
        }
        recorded
    }
}

/// The thread that commits.
struct Writer {
    receiver: mpsc::UnboundedReceiver<Message>,
    queue: Arc<Queue>,
    stop: CancellationToken,
    waiting: VecDeque<Message>,
}

impl Writer {
    async fn run(mut self) {
        let mut incoming = Vec::with_capacity(MAX_BATCH);
        loop {
            if self.waiting.is_empty() {
                let received = tokio::select! {
                    received = self.receiver.recv_many(&mut incoming, MAX_BATCH) => received,
                    () = self.stop.cancelled(), if !self.receiver.is_closed() => {
                        self.receiver.close();
                        continue;
                    }
                };
                if received == 0 {
                    return;
                }
                self.waiting.extend(incoming.drain(..));
                self.gather().await;
            }
            self.commit_next().await;
            metrics::gauge!(SPOOLED_RECORDS).set(self.queue.spooled.load(Ordering::Relaxed) as f64);
        }
    }

    /// Lets records come together where nobody waits. The receiver is left alone meanwhile, so
    /// that those who send need not wake this thread.
    async fn gather(&mut self) {
        if self.waiting.iter().all(|message| matches!(message, Message::Spooled(_))) {
            tokio::select! {
                () = self.gather_spooled() => {}
                () = self.queue.urge.notified() => {}
                () = self.stop.cancelled() => {}
            }
        }
        while let Ok(message) = self.receiver.try_recv() {
            self.waiting.push_back(message);
        }
    }

    async fn gather_spooled(&self) {
        tokio::time::sleep(GATHERED_FOR).await;
        if self.queue.spooled.load(Ordering::Relaxed) >= MANY {
            tokio::time::sleep(MANY_GATHERED_FOR - GATHERED_FOR).await;
        }
    }

    /// Commits what comes next: records of one kind, as many as one transaction takes. Tells those
    /// for whom all is settled.
    async fn commit_next(&mut self) {
        match self.waiting.pop_front() {
            Some(Message::Record(first)) => {
                let mut batch = Batch::default();
                batch.push(*first);
                while !batch.is_full()
                    && let Some(Message::Record(next)) =
                        self.waiting.pop_front_if(|next| matches!(next, Message::Record(_)))
                {
                    batch.push(*next);
                }
                self.commit(batch).await;
            }
            Some(Message::Spooled(Spooled { mut records, entry, mut permits })) => {
                let mut entries = vec![entry];
                while records.len() < MAX_BATCH
                    && let Some(Message::Spooled(next)) =
                        self.waiting.pop_front_if(|next| matches!(next, Message::Spooled(_)))
                {
                    records.append(&next.records);
                    entries.push(next.entry);
                    permits += next.permits;
                }
                self.commit_spooled(records, entries, permits).await;
            }
            // Who went away needs no answer.
            Some(Message::Settle(done)) => drop(done.send(())),
            None => {}
        }
    }

    /// Commits records of the spool. What cannot be committed stays there, and is tried again later.
    async fn commit_spooled(&self, records: Encoded, entries: Vec<Kept>, permits: usize) {
        let db = &self.queue.db;
        let count = records.len();
        let last = entries.last().and_then(Kept::in_table);
        let settled = last.and_then(TableEntry::settled);
        let batch = LogBatch { records: &records, answers: &[], known: &BTreeSet::new(), settled };
        let mut committed = write_encoded(db, batch, &db.one_statement).await;
        self.queue.falters.store(committed.is_err(), Ordering::Relaxed);
        if let Err(error) = &committed {
            tracing::warn!(%error, records = count, "a batch of executions could not be committed; trying each alone");
            committed = match recover_records(db, records).await {
                Ok((_, 0)) => match settled {
                    Some(settled) => db.note_settled(settled).await,
                    None => Ok(()),
                },
                Ok((_, refused)) => Err(StoreError::Conflict(format!("{refused} records are not taken"))),
                Err(error) => Err(error),
            };
        }
        match committed {
            Ok(()) => {
                entries.iter().for_each(Kept::settle);
                if let Some(last) = last {
                    last.empty_full(db).await;
                }
            }
            Err(error) => tracing::error!(%error, "executions wait in the spool, since they could not be committed"),
        }
        drop(entries);
        self.queue.spooled.fetch_sub(count, Ordering::AcqRel);
        self.queue.places.add_permits(permits);
    }

    /// Commits a batch and tells its callers. Where it fails, its records are tried one by one,
    /// so that a bad one does not fail the others.
    async fn commit(&self, Batch { records, done, .. }: Batch) {
        let db = &self.queue.db;
        let error = match write_batch(db, &records, &BTreeSet::new()).await {
            Ok(outcomes) => {
                self.queue.falters.store(false, Ordering::Relaxed);
                for ((outcome, record), done) in outcomes.into_iter().zip(&records).zip(done) {
                    self.end(record, done, outcome);
                }
                return;
            }
            Err(error) => error,
        };
        self.queue.falters.store(true, Ordering::Relaxed);
        tracing::warn!(%error, records = records.len(), "a batch of executions could not be committed; trying each alone");
        let mut failures = 0;
        for (record, done) in records.iter().zip(done) {
            let outcome = if failures < MAX_FAILURES_IN_A_ROW {
                let outcomes = write_again(db, record).await;
                failures = if outcomes.is_ok() { 0 } else { failures + 1 };
                outcomes.and_then(|outcomes| outcomes.into_iter().next().unwrap_or(Ok(())))
            } else {
                Err(StoreError::Database(sqlx::Error::Protocol("the database takes no records".to_owned())))
            };
            self.end(record, done, outcome);
        }
    }

    fn end(
        &self,
        record: &ExecutionRecord,
        done: oneshot::Sender<Result<(), StoreError>>,
        outcome: Result<(), StoreError>,
    ) {
        // Where another hand ended the execution, the uses are committed all the same.
        if matches!(outcome, Ok(()) | Err(StoreError::Conflict(_))) {
            record.credential_uses.iter().for_each(CredentialUse::settle);
        }
        // A caller that went away needs no answer.
        let _ = done.send(outcome);
        self.queue.leave(std::slice::from_ref(record));
    }
}

/// What one transaction holds.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<ExecutionRecord>,
    pub(crate) done: Vec<oneshot::Sender<Result<(), StoreError>>>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.bytes += pending.record.weight();
        self.records.push(pending.record);
        self.done.push(pending.done);
    }
}
