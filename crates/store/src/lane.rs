//! Group commit in the threads that serve callers, for SQLite: what the tasks of a thread
//! have to record is committed by that thread itself, all of it at once, as soon as no other
//! task of it is ready. The way to another thread and back would cost a lone caller more
//! than the commit, and a wake-up of each caller where there are many.
//!
//! What would make the thread wait goes on to the journal's thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::database::Database;
use crate::journal::{Pending, answer, take_batch};
use crate::log_writer::Patience;
use crate::sql::Pool;

/// The records of one thread. Threads beyond the number of lanes share them.
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

    /// Adds a record, and has the lane committed after whatever the thread has ready now.
    pub(crate) fn join(self: &Arc<Self>, pending: Pending, db: &Arc<Database>, to_thread: &mpsc::Sender<Pending>) {
        let mut state = self.state();
        state.waiting.push_back(pending);
        if !std::mem::replace(&mut state.has_committer, true) {
            let committer = Committer { lane: Arc::clone(self), to_thread: to_thread.clone() };
            tokio::spawn(committer.run(Arc::clone(db)));
        }
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

/// Commits what waits in a lane. Where it is dropped before it is done, with the runtime
/// that it runs in, the journal's thread gets the rest.
struct Committer {
    lane: Arc<Lane>,
    to_thread: mpsc::Sender<Pending>,
}

impl Committer {
    async fn run(self, db: Arc<Database>) {
        let Pool::Sqlite { turn, .. } = &db.pool else { return };
        while !self.lane.state().waiting.is_empty() {
            // Nobody closes it.
            let turn = turn.acquire().await;
            let (records, done) = take_batch(&mut self.lane.state().waiting);
            match db.write_log(&records, Patience::None) {
                Ok(true) => {
                    drop(turn);
                    done.into_iter().for_each(|done| answer(done, Ok(())));
                    continue;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the journal's thread commits what a caller's could not"),
            }
            drop(turn);
            for (record, done) in records.into_iter().zip(done) {
                // A journal that has ended lets the caller's answer go with the record.
                let _ = self.to_thread.send(Pending { record, done }).await;
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.has_committer = false;
        for pending in state.waiting.drain(..) {
            let _ = self.to_thread.try_send(pending);
        }
        drop(state);
        self.lane.emptied.notify_waiters();
    }
}
