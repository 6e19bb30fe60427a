//! Group commit in the threads that serve callers: what tasks have to record is gathered until no
//! other task of the thread is ready. It goes into the spool with one write, which costs far less
//! than a commit, and the journal's thread commits it with what others put there. On SQLite each
//! thread has a lane, and itself commits what may not go by the spool: the way to another thread,
//! and a wake-up of each caller, would cost more. What would make the thread wait goes on to the
//! journal's thread.
//!
//! On PostgreSQL all threads share a lane, since who waits for the database waits best with many;
//! what may not go by the spool goes on to the journal's thread.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use crate::audit::CredentialUse;
use crate::encoded::Encoded;
use crate::journal::{Batch, LogBatch, Pending, Queue, answers_of};
use crate::log_writer::Patience;
use crate::sql::Pool;

/// Records on their way. Threads beyond the number of lanes share them.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    state: Mutex<State>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// No longer than callers are many: each waits for its own.
    waiting: VecDeque<Pending>,
    has_committer: bool,
}

impl Lane {
    /// The lane of the thread that runs.
    pub(crate) fn of_thread(lanes: &[Arc<Self>]) -> &Arc<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        &lanes[THREAD.with(|thread| *thread) % lanes.len()]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, and has the lane emptied after whatever the thread has ready now.
    pub(crate) fn join(self: &Arc<Self>, pending: Pending, queue: &Arc<Queue>) {
        let mut state = self.state();
        state.waiting.push_back(pending);
        if !std::mem::replace(&mut state.has_committer, true) {
            let committer = Committer { lane: Arc::clone(self), queue: Arc::clone(queue) };
            tokio::spawn(committer.run());
        }
    }

    /// Has records wait again, before those that came meanwhile.
    fn put_back(&self, mut records: VecDeque<Pending>) {
        let mut state = self.state();
        records.append(&mut state.waiting);
        state.waiting = records;
    }

    /// Waits until nothing is on its way.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if !self.state().has_committer {
                return;
            }
            emptied.await;
        }
    }
}

/// Empties a lane. Where it is dropped before it is done, with the runtime that it runs in, the
/// journal's thread gets the rest.
struct Committer {
    lane: Arc<Lane>,
    queue: Arc<Queue>,
}

impl Committer {
    async fn run(self) {
        loop {
            let mut waiting = std::mem::take(&mut self.lane.state().waiting);
            if waiting.is_empty() {
                return;
            }
            self.queue.put_down(&mut waiting).await;
            match &self.queue.db().pool {
                Pool::Sqlite { .. } if waiting.is_empty() => {}
                Pool::Sqlite { turn, .. } => {
                    self.lane.put_back(waiting);
                    self.commit(turn).await;
                }
                Pool::Postgres(_) => waiting.into_iter().for_each(|pending| self.queue.send(pending)),
            }
        }
    }

    fn take_batch(&self) -> Batch {
        let mut state = self.lane.state();
        let mut batch = Batch::default();
        while !batch.is_full()
            && let Some(pending) = state.waiting.pop_front()
        {
            batch.push(pending);
        }
        batch
    }

    async fn commit(&self, turn: &Semaphore) {
        let db = self.queue.db();
        // Nobody closes it.
        let turn = turn.acquire().await;
        let Batch { records, done, .. } = self.take_batch();
        // What comes from the queue has to be looked for there.
        let written = if self.queue.is_behind() || records.iter().any(|record| record.from_queue) {
            Ok(false)
        } else {
            Encoded::of(&records).and_then(|encoded| {
                let answers: Vec<_> = answers_of(&records).collect();
                let batch = LogBatch { records: &encoded, answers: &answers, known: &BTreeSet::new(), settled: None };
                db.write_log_here(batch, Patience::None)
            })
        };
        drop(turn);
        match written {
            Ok(true) => {
                self.queue.leave(&records);
                records.iter().flat_map(|record| &record.credential_uses).for_each(CredentialUse::settle);
                // A caller that went away needs no answer.
                done.into_iter().for_each(|done| drop(done.send(Ok(()))));
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the journal's thread commits what a caller's could not"),
        }
        for (record, done) in records.into_iter().zip(done) {
            self.queue.send(Pending { record, done });
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.has_committer = false;
        for pending in state.waiting.drain(..) {
            self.queue.send(pending);
        }
        drop(state);
        self.lane.emptied.notify_waiters();
    }
}
