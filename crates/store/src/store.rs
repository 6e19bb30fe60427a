//! Opening and closing: connections, schema, keys, the journal's task. What the store does
//! with them is in the modules of its tables.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::AuditChain;
use crate::checkpoints::Checkpoints;
use crate::clock::{Clock, Ids};
use crate::database::{Database, connect};
use crate::error::StoreError;
use crate::journal::{Journal, RecordSpool};
use crate::key_service::Keyring;
use crate::log_index::IndexedDays;
use crate::log_writer::LogWriter;
use crate::migrations::migrate;
use crate::partitions::{Partitions, Retention};
use crate::secrets::ExternalSecrets;
use crate::service::Fallback;
use crate::spool::Spool;
use crate::spool_table::TableSpool;
use crate::sql::{JournalSync, Pool, Query};
use crate::uses::Uses;
use crate::vault::{Sealed, Vault};

/// For how many threads that serve callers there are lanes of their own.
const LANES: usize = 64;

/// What the store is opened with.
#[derive(Clone)]
pub struct StoreOptions {
    /// `sqlite://path`, `sqlite::memory:` or `postgres://…`.
    pub database_url: String,
    pub keys: Keyring,
    /// Where credentials are kept instead of the database.
    pub secrets: Option<ExternalSecrets>,
    /// While the key service or the store of secrets does not answer.
    pub fallback: Fallback,
    pub clock: Clock,
    /// How long executions are kept; whole UTC days.
    pub execution_retention: Duration,
    /// How long events are kept; whole UTC days.
    pub event_retention: Duration,
    /// How long the audit is kept; whole UTC days.
    pub audit_retention: Duration,
    /// Where the spool is, in which what has to outlive the process is put down before it is
    /// committed; with none, as beside a database in memory, all waits for commits.
    pub spool_folder: Option<PathBuf>,
    /// Of PostgreSQL, or of readers of SQLite, which always has one writer.
    pub max_connections: u32,
    /// What executions leave behind is made sure of in this way before their callers go on.
    pub journal_sync: JournalSync,
}

/// The database and the keys behind everything that is kept. Clones share one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("worker", &self.inner.db.worker).finish_non_exhaustive()
    }
}

struct Inner {
    db: Arc<Database>,
    vault: Vault,
    journal: Journal,
    spool: Option<Arc<Spool>>,
    /// Of SQLite, until closing.
    checkpoints: Mutex<Option<Checkpoints>>,
}

impl Store {
    /// Connects, brings the schema up to date, makes sure that the master keys are those of
    /// this database, and starts the journal.
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let pool = connect(&options.database_url, options.max_connections).await?;
        migrate_pool(&pool, &options.clock).await?;
        let ids = Ids::new(options.clock.clone());
        let db = Arc::new(Database {
            pool,
            log_writer: Mutex::default(),
            one_statement: tokio::sync::Mutex::default(),
            known_ends: Mutex::default(),
            audit_chain: AuditChain::default(),
            clock: options.clock,
            worker: ids.next().to_string(),
            ids,
            partitions: Partitions::default(),
            retention: Retention {
                executions: options.execution_retention,
                events: options.event_retention,
                audit: options.audit_retention,
            },
            uses: Uses::default(),
            indexed_days: IndexedDays::default(),
            events_committed: watch::Sender::new(0),
            overdue: Mutex::default(),
            on_its_way: OnceLock::new(),
        });
        let vault = Vault::new(options.keys, options.secrets, options.fallback, db.clock.clone());
        check_keys(&db, &vault).await?;
        db.create_current_partitions().await?;
        db.open_audit_chain(&vault).await?;
        let spool = options.spool_folder.map(|folder| Arc::new(Spool::new(folder, &db.worker)));
        let (mut checkpoints, mut lanes, mut spool_of_records) = (None, 0, None);
        if let (Pool::Postgres(pool), JournalSync::Normal, Some(_)) = (&db.pool, options.journal_sync, &spool) {
            (lanes, spool_of_records) = (1, Some(RecordSpool::Table(TableSpool::new(pool.clone()))));
        }
        if let Pool::Sqlite { turn, file: Some(file), .. } = &db.pool {
            let writer = LogWriter::open(file, options.journal_sync)?;
            db.log_writer.lock().unwrap_or_else(PoisonError::into_inner).replace(writer);
            checkpoints = Some(Checkpoints::start(file, Arc::clone(turn))?);
            // A commit that waits for the disk would keep a thread from its other callers, and is
            // surer than the spool.
            if options.journal_sync == JournalSync::Normal {
                (lanes, spool_of_records) = (LANES, spool.clone().map(RecordSpool::File));
            }
        }
        let journal = Journal::start(Arc::clone(&db), lanes, spool_of_records)
            .map_err(|error| StoreError::Config(format!("the journal's thread cannot be started: {error}")))?;
        let store = Self { inner: Arc::new(Inner { db, vault, journal, spool, checkpoints: Mutex::new(checkpoints) }) };
        let recovered = store.recover_spool().await?;
        if recovered > 0 {
            tracing::warn!(
                lines = recovered,
                "another process ended before it committed its log; what it put down is committed"
            );
        }
        Ok(store)
    }

    /// Brings the schema of a database up to date; gives the names of the steps applied.
    pub async fn migrate(database_url: &str) -> Result<Vec<String>, StoreError> {
        let pool = connect(database_url, 1).await?;
        let applied = migrate_pool(&pool, &Clock::system()).await;
        pool.close().await;
        applied
    }

    /// Writes what the journal still holds, then closes the connections. Calls after this
    /// give [`StoreError::Closed`].
    pub async fn close(&self) {
        self.inner.journal.close().await;
        if let Err(error) = self.write_last_uses().await {
            tracing::warn!(%error, "the last uses are in the log, not in what credentials and instances tell of them");
        }
        if let Err(error) = self.keep_audit_head().await
            && !matches!(error, StoreError::Closed)
        {
            tracing::warn!(%error, "where the audit ends could not be put down");
        }
        if let Some(spool) = &self.inner.spool {
            spool.close();
        }
        let checkpoints = self.inner.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(checkpoints) = checkpoints {
            let stopped = tokio::task::spawn_blocking(|| checkpoints.stop()).await;
            if stopped.is_err() {
                tracing::error!("the checkpoints could not be stopped");
            }
        }
        self.inner.db.log_writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.inner.db.one_statement.lock().await.disconnect();
        self.inner.db.pool.close().await;
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Query::new("select name from event_head").fetch_one(self.pool()).await?;
        Ok(())
    }

    pub fn clock(&self) -> &Clock {
        &self.inner.db.clock
    }

    pub fn ids(&self) -> &Ids {
        &self.inner.db.ids
    }

    pub fn vault(&self) -> &Vault {
        &self.inner.vault
    }

    /// Drops the log tables whose retention has passed and makes those of today and
    /// tomorrow; gives the names of the dropped. To be called now and then.
    pub async fn drop_expired_partitions(&self) -> Result<Vec<String>, StoreError> {
        self.db().create_current_partitions().await?;
        self.db().drop_expired_partitions().await
    }

    pub(crate) fn db(&self) -> &Arc<Database> {
        &self.inner.db
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.db.pool
    }

    pub(crate) fn spool(&self) -> Option<&Arc<Spool>> {
        self.inner.spool.as_ref()
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.inner.journal
    }
}

/// In a task of its own: a transaction must not be cancelled midway.
async fn migrate_pool(pool: &Pool, clock: &Clock) -> Result<Vec<String>, StoreError> {
    let pool = pool.clone();
    let now = clock.now();
    let task = tokio::spawn(async move {
        let mut connection = pool.begin().await?;
        let applied = migrate(&mut connection, now).await?;
        connection.commit().await?;
        Ok(applied)
    });
    task.await.map_err(|_| StoreError::Closed)?
}

const CANARY: &[u8] = b"integration-service";
const CANARY_OWNER: &[&[u8]] = &[b"canary"];

/// Opens a row that every database has; seals it in a new one.
async fn check_keys(db: &Arc<Database>, vault: &Vault) -> Result<(), StoreError> {
    let stored = match canary(&db.pool).await? {
        Some(stored) => stored,
        None => {
            let new = vault.seal(db.ids.next(), CANARY_OWNER, CANARY).await?;
            insert_canary(db, new).await?;
            // Another process may have been faster.
            canary(&db.pool).await?.ok_or(StoreError::NotFound)?
        }
    };
    vault.open(&stored, CANARY_OWNER).await?;
    Ok(())
}

async fn canary(pool: &Pool) -> Result<Option<Sealed>, StoreError> {
    let row =
        Query::new("select secret_id, key_id, wrapped_key, sealed from vault_canary").fetch_optional(pool).await?;
    row.map(|row| Ok(Sealed::from_row(row.uuid(0)?, row.text(1)?, row.bytes(2)?, row.bytes(3)?))).transpose()
}

async fn insert_canary(db: &Arc<Database>, new: Sealed) -> Result<(), StoreError> {
    db.write(move |tx| {
        Box::pin(async move {
            Query::new(
                "insert into vault_canary (name, secret_id, key_id, wrapped_key, sealed)
                 values ('canary', $1, $2, $3, $4) on conflict (name) do nothing",
            )
            .bind(new.secret_id)
            .bind(new.key_id)
            .bind(new.wrapped_key)
            .bind(new.sealed)
            .execute(&mut tx.connection)
            .await
            .map(drop)
        })
    })
    .await
}
