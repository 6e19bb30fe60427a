//! Moves what SQLite's write-ahead log holds into the database file, in a thread of its own:
//! a checkpoint waits for the disk, and nobody who commits shall wait with it.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::database::BUSY_TIMEOUT;
use crate::error::StoreError;

/// How often the write-ahead log is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// From how many bytes on the log is moved.
const MOVED_FROM: u64 = 16 << 20;
/// How far it may grow while callers keep adding to it. From there on they wait until the
/// rest is moved, so that the log begins anew.
const BOUND: u64 = 64 << 20;

/// Of how many bytes it makes little to wait for.
const LITTLE: u64 = 2 << 20;
/// How often in a row what callers added during a checkpoint is moved too.
const MOST_PASSES: usize = 4;
/// SQLite's default, in bytes; nothing sets another.
const PAGE_SIZE: u64 = 4096;

/// The thread; it ends soon after this is dropped.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpoints {
    /// `turn` is the turn to write of [`crate::sql::Pool::Sqlite`].
    pub(crate) fn start(path: &Path, turn: Arc<Semaphore>) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let database = File::open(path).map_err(|error| {
            StoreError::Config(format!("the database file {} cannot be opened: {error}", path.display()))
        })?;
        let work = Work { connection, database: ManuallyDrop::new(database), turn, runtime: Handle::current() };
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = work.keep_log_short() {
                        tracing::warn!(%error, "SQLite's write-ahead log could not be moved into the database; trying again");
                    }
                }
            })
            .map_err(|error| StoreError::Config(format!("the checkpoints' thread cannot be started: {error}")))?;
        Ok(Self { stop, thread })
    }

    /// Waits until a checkpoint under way is done.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoints' thread ended badly");
        }
    }
}

/// How many bytes the write-ahead log holds, and how many of them are not in the database
/// file yet.
struct LogLength {
    whole: u64,
    pending: u64,
}

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// Only looks.
    Noop,
    /// Goes on beside readers and writers, and leaves what they add meanwhile.
    Passive,
    /// Keeps writers waiting and leaves nothing: the next one begins the log anew.
    Restart,
}

fn checkpoint(connection: &Connection, mode: Mode) -> rusqlite::Result<LogLength> {
    let statement = match mode {
        Mode::Noop => "pragma wal_checkpoint(noop)",
        Mode::Passive => "pragma wal_checkpoint(passive)",
        // The file keeps its length: to cut it and to grow it again costs more than all else.
        Mode::Restart => "pragma wal_checkpoint(restart)",
    };
    // The answer: whether it was kept from its end, pages in the log, pages moved of them.
    connection.prepare_cached(statement)?.query_row([], |row| {
        let bytes = |column| row.get(column).map(|pages: i64| u64::try_from(pages).unwrap_or(0) * PAGE_SIZE);
        let (whole, moved) = (bytes(1)?, bytes(2)?);
        Ok(LogLength { whole, pending: whole.saturating_sub(moved) })
    })
}

struct Work {
    connection: Connection,
    /// Never closed: to close any descriptor of a file takes all locks of the process on it,
    /// and SQLite's are of that kind.
    database: ManuallyDrop<File>,
    turn: Arc<Semaphore>,
    runtime: Handle,
}

impl Work {
    fn keep_log_short(&self) -> rusqlite::Result<()> {
        let mut length = self.log_length()?;
        if length.pending < MOVED_FROM {
            return Ok(());
        }
        for _ in 0..MOST_PASSES {
            checkpoint(&self.connection, Mode::Passive)?;
            // With what callers have added meanwhile.
            length = self.log_length()?;
            if length.whole < BOUND || length.pending < LITTLE {
                break;
            }
        }
        if length.whole < BOUND {
            return Ok(());
        }
        // What the passes have written goes to the disk now, or the last one, for which
        // callers wait, waits for all of it.
        if let Err(error) = self.database.sync_data() {
            tracing::warn!(%error, "the database file could not be synced ahead of a checkpoint");
        }
        checkpoint(&self.connection, Mode::Passive)?;
        let _turn = self.runtime.block_on(self.turn.acquire());
        checkpoint(&self.connection, Mode::Restart)?;
        Ok(())
    }

    fn log_length(&self) -> rusqlite::Result<LogLength> {
        checkpoint(&self.connection, Mode::Noop)
    }
}
