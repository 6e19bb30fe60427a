//! A store of its own for each test, on each database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use integration_model::Timestamp;
use integration_store::{Clock, ExternalSecrets, MasterKeys, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::external::MemoryStore;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
const POSTGRES_URL: &str = "INTEGRATION_TEST_POSTGRES_URL";
const REQUIRE_SERVICES: &str = "INTEGRATION_TEST_REQUIRE_SERVICES";

pub(crate) struct Harness {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) keys: MasterKeys,
    pub(crate) url: String,
    /// Where credentials are kept, unless in the database.
    pub(crate) external: Option<Arc<MemoryStore>>,
    folder: TempDir,
    schema: Option<(String, String)>,
}

impl Harness {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        Self::open(url, folder, None).await
    }

    /// Nothing where no server is named, unless the environment requires one.
    #[expect(
        clippy::disallowed_methods,
        reason = "tests find the corpora and servers that they run against by the environment"
    )]
    pub(crate) async fn postgres() -> Option<Self> {
        let Ok(base) = std::env::var(POSTGRES_URL) else {
            let required = std::env::var(REQUIRE_SERVICES).is_ok_and(|value| value == "1");
            assert!(!required, "{REQUIRE_SERVICES}=1, but {POSTGRES_URL} names no PostgreSQL server to test with");
            return None;
        };
        let schema = format!("t_{}", integration_store::Ids::new(Clock::system()).next().simple());
        execute(&base, format!("create schema {schema}")).await;
        let separator = if base.contains('?') { '&' } else { '?' };
        let url = format!("{base}{separator}options[search_path]={schema}");
        let folder = tempfile::tempdir().expect("a folder");
        Some(Self::open(url, folder, Some((base, schema))).await)
    }

    async fn open(url: String, folder: TempDir, schema: Option<(String, String)>) -> Self {
        let clock = Clock::manual(Timestamp::parse("2026-03-10T12:00:00Z").expect("a time"));
        let key_file = folder.path().join("master-keys");
        MasterKeys::create_file(&key_file).expect("a key file");
        let keys = MasterKeys::from_file(&key_file).expect("keys");
        let store = Store::open(options(&url, &keys, &clock)).await.expect("the store opens");
        Self { store, clock, keys, url, external: None, folder, schema }
    }

    /// The same with its credentials in a store of their own.
    pub(crate) async fn with_external(mut self) -> Self {
        self.store.close().await;
        self.external = Some(Arc::default());
        self.store = self.second().await;
        self
    }

    /// Another process on the same database.
    pub(crate) async fn second(&self) -> Store {
        Store::open(self.options()).await.expect("a second store opens")
    }

    pub(crate) fn options(&self) -> StoreOptions {
        let secrets = self.external.clone().map(|store| ExternalSecrets { store, keeps_new: true });
        StoreOptions { secrets, ..options(&self.url, &self.keys, &self.clock) }
    }

    /// Where the master keys are.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("master-keys")
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.schema.is_some()
    }

    /// Runs a statement behind the store's back.
    pub(crate) async fn tamper(&self, statement: &str) {
        if self.schema.is_some() {
            execute(&self.url, statement.to_owned()).await;
        } else {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.expect("connected");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.expect(statement);
            connection.close().await.expect("closed");
        }
    }

    /// Has another process hold SQLite's lock until the answer is dropped, so that records
    /// wait; on PostgreSQL they wait anyway.
    pub(crate) async fn hold_writers(&self) -> Option<sqlx::SqliteConnection> {
        if self.schema.is_some() {
            return None;
        }
        let mut connection = sqlx::SqliteConnection::connect(&self.url).await.expect("connected");
        sqlx::raw_sql("begin immediate").execute(&mut connection).await.expect("the lock");
        Some(connection)
    }

    /// How long SQLite's write-ahead log is, in bytes.
    pub(crate) fn log_length(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("test.db-wal")).map_or(0, |file| file.len())
    }

    pub(crate) async fn finish(self) {
        self.store.close().await;
        if let Some((base, schema)) = self.schema {
            execute(&base, format!("drop schema {schema} cascade")).await;
        }
    }
}

fn options(url: &str, keys: &MasterKeys, clock: &Clock) -> StoreOptions {
    StoreOptions {
        journal_sync: integration_store::JournalSync::Normal,
        database_url: url.to_owned(),
        keys: keys.clone().into(),
        secrets: None,
        fallback: integration_store::Fallback::default(),
        clock: clock.clone(),
        execution_retention: 7 * DAY,
        event_retention: 3 * DAY,
        audit_retention: 30 * DAY,
        spool_folder: None,
        max_connections: 4,
    }
}

async fn execute(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.expect("the PostgreSQL server answers");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.expect("the statement runs");
    connection.close().await.expect("closed");
}

/// Makes a test for each database out of `async fn name(harness: &Harness)`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let harness = crate::harness::Harness::sqlite().await;
                super::$name(&harness).await;
                harness.finish().await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(harness) = crate::harness::Harness::postgres().await else { return };
                super::$name(&harness).await;
                harness.finish().await;
            })+
        }
    };
}

pub(crate) use on_both;

/// Makes a test for each database with credentials in a store of their own.
macro_rules! on_both_with_external {
    ($($name:ident),+ $(,)?) => {
        mod sqlite_with_external {
            $(#[tokio::test]
            async fn $name() {
                let harness = crate::harness::Harness::sqlite().await.with_external().await;
                super::$name(&harness).await;
                harness.finish().await;
            })+
        }

        mod postgres_with_external {
            $(#[tokio::test]
            async fn $name() {
                let Some(harness) = crate::harness::Harness::postgres().await else { return };
                let harness = harness.with_external().await;
                super::$name(&harness).await;
                harness.finish().await;
            })+
        }
    };
}

pub(crate) use on_both_with_external;
