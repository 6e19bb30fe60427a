//! The open database: its connections, and transactions that a caller's going away does
//! not tear. Must not know any table but through the modules that own them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::audit::{AuditChain, AuditHead, AuditedAct};
use crate::changes::Changed;
use crate::clock::{Clock, Ids};
use crate::error::StoreError;
use crate::journal::{KnownEnds, OneStatement, Queue};
use crate::log_index::IndexedDays;
use crate::log_writer::LogWriter;
use crate::metrics::AUDIT_ROWS;
use crate::partitions::{Partition, Partitions, Retention};
use crate::sql::{Connection, Pool};
use crate::uses::Uses;

/// How long a statement waits for another process that holds SQLite's lock.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// After what idleness PostgreSQL ends a transaction that lost its process.
const IDLE_IN_TRANSACTION: &str = "60s";

/// For how long after its use a connection to PostgreSQL is used again without a look whether it
/// still is one: that takes a way there and back.
pub(crate) const UNCHECKED: Duration = Duration::from_secs(1);

/// Everything that a transaction needs, shared by the store and its journal.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    pub(crate) ids: Ids,
    pub(crate) partitions: Partitions,
    pub(crate) retention: Retention,
    /// None where the log goes by transactions, and after closing.
    pub(crate) log_writer: Mutex<Option<LogWriter>>,
    /// How the journal writes to PostgreSQL.
    pub(crate) one_statement: tokio::sync::Mutex<OneStatement>,
    pub(crate) known_ends: Mutex<KnownEnds>,
    pub(crate) audit_chain: AuditChain,
    /// Names this process among those that share the database.
    pub(crate) worker: String,
    pub(crate) uses: Uses,
    pub(crate) indexed_days: IndexedDays,
    /// Moves after each commit with events.
    pub(crate) events_committed: watch::Sender<u64>,
    /// Up to where sessions of other processes were waited for in vain.
    pub(crate) overdue: Mutex<HashMap<Uuid, i64>>,
    /// What is on its way to the log, once the journal runs.
    pub(crate) on_its_way: OnceLock<Weak<Queue>>,
}

/// A transaction that writes.
#[derive(Debug)]
pub(crate) struct Tx {
    pub(crate) connection: Connection,
    pub(crate) db: Arc<Database>,
    pub(crate) created: Vec<Partition>,
    pub(crate) has_events: bool,
    /// What other processes have to notice.
    pub(crate) changed: Vec<Changed>,
    /// What the audit is told of when the transaction ends.
    pub(crate) audited: Vec<AuditedAct>,
    pub(crate) audited_rows: u64,
    pub(crate) newest_event: Option<Moved<Uuid>>,
    pub(crate) audit_end: Option<Moved<AuditHead>>,
}

/// The end of a log: where a transaction found it, and where it leaves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved<T> {
    pub(crate) found: T,
    pub(crate) left: T,
}

impl<T> Moved<T> {
    /// Where the same transaction moved it before.
    pub(crate) fn after(before: Option<Self>, found: T, left: T) -> Self {
        Self { found: before.map_or(found, |before| before.found), left }
    }
}

impl Tx {
    /// What a transaction does last: the locks that it takes here are taken by all in this
    /// order, after those of their own rows.
    async fn finish(&mut self) -> Result<(), StoreError> {
        self.number_changes().await?;
        self.write_audit().await
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.connection.commit().await?;
        self.db.known_ends().learn(self.newest_event, self.audit_end);
        self.db.partitions.remember(&self.created);
        if self.audited_rows > 0 {
            metrics::counter!(AUDIT_ROWS).increment(self.audited_rows);
        }
        if self.has_events {
            self.db.events_committed.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }
}

/// The work of a transaction.
pub(crate) type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

impl Database {
    pub(crate) fn known_ends(&self) -> MutexGuard<'_, KnownEnds> {
        self.known_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transaction. Only from a task that nobody cancels.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<Tx, StoreError> {
        let connection = self.pool.begin().await?;
        Ok(Tx {
            connection,
            db: Arc::clone(self),
            created: Vec::new(),
            has_events: false,
            changed: Vec::new(),
            audited: Vec::new(),
            audited_rows: 0,
            newest_event: None,
            audit_end: None,
        })
    }

    /// Waits until the logs hold all that was recorded before, by any process: for those who read
    /// them.
    pub(crate) async fn log_settled(self: &Arc<Self>) -> Result<(), StoreError> {
        self.own_log_settled().await;
        self.others_settled().await
    }

    /// Waits until the logs hold all that this process recorded before: for those whose own rows
    /// shall not overtake it.
    pub(crate) async fn own_log_settled(&self) {
        if let Some(queue) = self.on_its_way.get().and_then(Weak::upgrade) {
            queue.settled().await;
        }
    }

    /// Runs `work` in a transaction in a task of its own, which goes on to its commit or
    /// rollback also where the caller goes away.
    pub(crate) async fn write<T, W>(self: &Arc<Self>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        let db = Arc::clone(self);
        let task = tokio::spawn(async move {
            db.own_log_settled().await;
            let mut tx = db.begin().await?;
            let mut result = work(&mut tx).await;
            if result.is_ok()
                && let Err(error) = tx.finish().await
            {
                result = Err(error);
            }
            match result {
                Ok(value) => {
                    tx.commit().await?;
                    Ok(value)
                }
                Err(error) => {
                    if let Err(rollback) = tx.connection.rollback().await {
                        tracing::warn!(error = %rollback, "a transaction could not be rolled back");
                    }
                    Err(error)
                }
            }
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => Err(StoreError::Closed),
            },
        }
    }
}

/// Opens a connection to PostgreSQL beside the pool, for batches: one plan of a statement serves
/// them at any length. The server notices within half a minute where the process's machine is gone.
pub(crate) async fn connect_alone(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options = (*pool.connect_options()).clone().options([
        ("plan_cache_mode", "force_generic_plan"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "4"),
    ]);
    PgConnection::connect_with(&options).await
}

/// Opens the connections that `url` names: `sqlite://path`, `sqlite::memory:` or `postgres://…`.
pub(crate) async fn connect(url: &str, max_connections: u32) -> Result<Pool, StoreError> {
    if url.starts_with("sqlite:") {
        connect_sqlite(url, max_connections).await
    } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        connect_postgres(url, max_connections).await
    } else {
        // The URL itself may hold a password.
        Err(StoreError::Config("the database URL begins with neither sqlite:// nor postgres://".to_owned()))
    }
}

async fn connect_sqlite(url: &str, max_connections: u32) -> Result<Pool, StoreError> {
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|_| StoreError::Config("the database URL is no SQLite URL such as sqlite://path/to/file".to_owned()))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        // Checkpoints have a thread of their own.
        .pragma("wal_autocheckpoint", "0")
        .disable_statement_logging();
    // An in-memory database lives as long as its connections.
    let pool = || SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None).test_before_acquire(false);
    let turn = Arc::new(Semaphore::new(1));
    let write = pool().max_connections(1).connect_with(options.clone()).await?;
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Ok(Pool::Sqlite { read: write.clone(), write, turn, file: None });
    }
    let file = Some(options.get_filename().to_owned());
    let read_options = options.pragma("query_only", "on");
    let read = pool().max_connections(max_connections.max(1)).connect_with(read_options).await?;
    Ok(Pool::Sqlite { read, write, turn, file })
}

async fn connect_postgres(url: &str, max_connections: u32) -> Result<Pool, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| {
            StoreError::Config("the database URL is no PostgreSQL URL such as postgres://user@host/name".to_owned())
        })?
        .application_name("integration-service")
        .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)])
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(max_connections.max(2))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < UNCHECKED || connection.ping().await.is_ok()) })
        })
        .connect_with(options)
        .await?;
    Ok(Pool::Postgres(pool))
}
