//! Opening and closing: connections, schema, keys, the journal's task. What the store does
//! with them is in the modules of its tables.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Ids};
use crate::database::{Database, connect};
use crate::error::StoreError;
use crate::journal::Journal;
use crate::master_keys::MasterKeys;
use crate::migrations::migrate;
use crate::partitions::{Partitions, Retention};
use crate::sql::{JournalSync, Pool, Query};
use crate::vault::{Sealed, Vault};

/// What the store is opened with.
#[derive(Clone)]
pub struct StoreOptions {
    /// `sqlite://path`, `sqlite::memory:` or `postgres://…`.
    pub database_url: String,
    pub keys: MasterKeys,
    pub clock: Clock,
    /// How long executions are kept; whole UTC days.
    pub execution_retention: Duration,
    /// How long events are kept; whole UTC days.
    pub event_retention: Duration,
    /// Of PostgreSQL, or of readers of SQLite, which always has one writer.
    pub max_connections: u32,
    /// How surely executions and their events outlive a loss of power, on SQLite.
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
            journal_sync: options.journal_sync,
            clock: options.clock,
            worker: ids.next().to_string(),
            ids,
            partitions: Partitions::default(),
            retention: Retention { executions: options.execution_retention, events: options.event_retention },
            events_committed: watch::Sender::new(0),
        });
        let vault = Vault::new(options.keys);
        check_keys(&db, &vault).await?;
        db.create_current_partitions().await?;
        let journal = Journal::start(Arc::clone(&db))
            .map_err(|error| StoreError::Config(format!("the journal's thread cannot be started: {error}")))?;
        Ok(Self { inner: Arc::new(Inner { db, vault, journal }) })
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

/// Seals a row in a new database; opens it in one that has it.
async fn check_keys(db: &Arc<Database>, vault: &Vault) -> Result<(), StoreError> {
    let new = vault.seal(db.ids.next(), CANARY_OWNER, CANARY)?;
    let stored = db
        .write(move |tx| {
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
                .await?;
                let row = Query::new("select secret_id, key_id, wrapped_key, sealed from vault_canary")
                    .fetch_one(&mut tx.connection)
                    .await?;
                Ok(Sealed::from_row(row.uuid(0)?, row.text(1)?, row.bytes(2)?, row.bytes(3)?))
            })
        })
        .await?;
    vault.open(&stored, CANARY_OWNER)?;
    Ok(())
}
