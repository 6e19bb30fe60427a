//! The one way to run a statement: the same text with `$1` placeholders on SQLite and
//! PostgreSQL, typed arguments, rows with typed getters.
//!
//! Must not know any table.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use integration_model::Timestamp;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::array::{Array, RowArray};
use crate::error::StoreError;

/// Which SQL is spoken, where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// The connections to the database.
#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Sqlite {
        read: SqlitePool,
        /// Has one connection.
        write: SqlitePool,
        /// Has one place, for whoever writes: writers of this process wait for each other
        /// here, in their order, and not at the file's lock.
        turn: Arc<Semaphore>,
        /// None where the database is in memory.
        file: Option<PathBuf>,
    },
    Postgres(PgPool),
}

impl Pool {
    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::Sqlite { .. } => Backend::Sqlite,
            Self::Postgres(_) => Backend::Postgres,
        }
    }

    /// Begins a transaction that writes. Not safe to cancel midway: only from a task of its own.
    pub(crate) async fn begin(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite { write, turn, .. } => {
                let turn = Arc::clone(turn).acquire_owned().await.map_err(|_| StoreError::Closed)?;
                Connection::Sqlite { transaction: write.begin_with("begin immediate").await?, _turn: turn }
            }
            Self::Postgres(pool) => Connection::Postgres(pool.begin().await?),
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { read, write, .. } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// The connection of an open transaction.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite { transaction: sqlx::Transaction<'static, Sqlite>, _turn: OwnedSemaphorePermit },
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Connection {
    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::Sqlite { .. } => Backend::Sqlite,
            Self::Postgres(_) => Backend::Postgres,
        }
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { transaction, _turn } => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }

    pub(crate) async fn rollback(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { transaction, _turn } => transaction.rollback().await?,
            Self::Postgres(transaction) => transaction.rollback().await?,
        }
        Ok(())
    }

    /// Runs a script of several statements without arguments.
    pub(crate) async fn run_script(&mut self, script: String) -> Result<(), StoreError> {
        let script = sqlx::raw_sql(AssertSqlSafe(script));
        match self {
            Self::Sqlite { transaction, .. } => {
                script.execute(&mut **transaction).await?;
            }
            Self::Postgres(transaction) => {
                script.execute(&mut **transaction).await?;
            }
        }
        Ok(())
    }
}

/// Where a statement runs: any connection for reading, or an open transaction.
pub(crate) enum On<'a> {
    Pool(&'a Pool),
    Connection(&'a mut Connection),
}

impl<'a> From<&'a Pool> for On<'a> {
    fn from(pool: &'a Pool) -> Self {
        Self::Pool(pool)
    }
}

impl<'a> From<&'a mut Connection> for On<'a> {
    fn from(connection: &'a mut Connection) -> Self {
        Self::Connection(connection)
    }
}

/// One argument of a statement. NULL has a type too: PostgreSQL asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Arg {
    Text(Option<String>),
    Int(Option<i64>),
    Bytes(Option<Vec<u8>>),
    Array(Array),
    Rows(RowArray),
}

fn has_nul(text: &str) -> bool {
    // Each text that is written passes here, and the same of a text is far slower.
    text.as_bytes().contains(&0)
}

/// Text without NUL, which PostgreSQL cannot hold: both databases keep U+FFFD for it.
pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if has_nul(text) { Cow::Owned(text.replace('\0', "\u{FFFD}")) } else { Cow::Borrowed(text) }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(Some(without_nul(text).into_owned()))
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self::Text(Some(if has_nul(&text) { without_nul(&text).into_owned() } else { text }))
    }
}

impl From<Option<&str>> for Arg {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Text(None), Self::from)
    }
}

impl From<Option<String>> for Arg {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Text(None), Self::from)
    }
}

impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<Option<i64>> for Arg {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Arg {
    fn from(number: u32) -> Self {
        Self::Int(Some(i64::from(number)))
    }
}

impl From<bool> for Arg {
    fn from(flag: bool) -> Self {
        Self::Int(Some(i64::from(flag)))
    }
}

impl From<Timestamp> for Arg {
    fn from(time: Timestamp) -> Self {
        Self::Int(Some(time.as_micros()))
    }
}

impl From<Option<Timestamp>> for Arg {
    fn from(time: Option<Timestamp>) -> Self {
        Self::Int(time.map(Timestamp::as_micros))
    }
}

impl From<Vec<u8>> for Arg {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl From<&[u8]> for Arg {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Some(bytes.to_vec()))
    }
}

impl From<Option<Vec<u8>>> for Arg {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Uuid> for Arg {
    fn from(id: Uuid) -> Self {
        Self::Bytes(Some(id.as_bytes().to_vec()))
    }
}

/// A statement with its arguments.
#[derive(Debug)]
pub(crate) struct Query {
    text: Cow<'static, str>,
    args: Vec<Arg>,
}

impl Query {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), args: Vec::new() }
    }

    /// A statement put together from texts of this crate; values only ever go by `bind`.
    pub(crate) fn built(text: String, args: Vec<Arg>) -> Self {
        Self { text: Cow::Owned(text), args }
    }

    #[must_use]
    pub(crate) fn bind(mut self, arg: impl Into<Arg>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Runs the statement; gives the number of rows that it changed.
    pub(crate) async fn execute(self, connection: &mut Connection) -> Result<u64, StoreError> {
        Ok(match connection {
            Connection::Sqlite { transaction, .. } => {
                self.for_sqlite().execute(&mut **transaction).await?.rows_affected()
            }
            Connection::Postgres(transaction) => self.for_postgres().execute(&mut **transaction).await?.rows_affected(),
        })
    }

    pub(crate) async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>, StoreError> {
        let rows = match on.into() {
            On::Pool(Pool::Sqlite { read, .. }) => sqlite_rows(self.for_sqlite().fetch_all(read).await?),
            On::Pool(Pool::Postgres(pool)) => postgres_rows(self.for_postgres().fetch_all(pool).await?),
            On::Connection(Connection::Sqlite { transaction, .. }) => {
                sqlite_rows(self.for_sqlite().fetch_all(&mut **transaction).await?)
            }
            On::Connection(Connection::Postgres(transaction)) => {
                postgres_rows(self.for_postgres().fetch_all(&mut **transaction).await?)
            }
        };
        Ok(rows)
    }

    pub(crate) async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    /// Runs a statement that always gives a row.
    pub(crate) async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<Row, StoreError> {
        self.fetch_optional(on).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
    }

    fn for_sqlite(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        self.args.into_iter().fold(sqlx::query(AssertSqlSafe(self.text)), |query, arg| match arg {
            Arg::Text(text) => query.bind(text),
            Arg::Int(number) => query.bind(number),
            Arg::Bytes(bytes) => query.bind(bytes),
            // It has none: its rows go as JSON.
            Arg::Array(_) | Arg::Rows(_) => query.bind(None::<Vec<u8>>),
        })
    }

    pub(crate) fn for_postgres(self) -> sqlx::query::Query<'static, Postgres, PgArguments> {
        self.args.into_iter().fold(sqlx::query(AssertSqlSafe(self.text)), |query, arg| match arg {
            Arg::Text(text) => query.bind(text),
            Arg::Int(number) => query.bind(number),
            Arg::Bytes(bytes) => query.bind(bytes),
            Arg::Array(array) => query.bind(array),
            Arg::Rows(rows) => query.bind(rows),
        })
    }
}

/// How surely what the journal commits to SQLite outlives the machine; on PostgreSQL, whether it is
/// in the logs or in the process's spool before the caller goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JournalSync {
    /// A commit outlives the process at once, and a loss of power as soon as the system
    /// has written it out: the last moments of the log may go with the power, nothing else.
    #[default]
    Normal,
    /// A commit outlives a loss of power: it waits for the disk.
    Full,
}

/// One row of an answer; columns are read by their place in the statement.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

fn sqlite_rows(rows: Vec<SqliteRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Sqlite).collect()
}

fn postgres_rows(rows: Vec<PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}

impl Row {
    pub(crate) fn opt_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn text(&self, column: usize) -> Result<String, StoreError> {
        self.opt_text(column)?.ok_or_else(|| unexpected_null(column))
    }

    pub(crate) fn opt_int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64, StoreError> {
        self.opt_int(column)?.ok_or_else(|| unexpected_null(column))
    }

    /// A number that cannot be negative.
    pub(crate) fn count(&self, column: usize) -> Result<u64, StoreError> {
        u64::try_from(self.int(column)?).map_err(|error| StoreError::corrupt(format!("column {column}"), error))
    }

    pub(crate) fn flag(&self, column: usize) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    pub(crate) fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError> {
        self.opt_bytes(column)?.ok_or_else(|| unexpected_null(column))
    }

    pub(crate) fn opt_uuid(&self, column: usize) -> Result<Option<Uuid>, StoreError> {
        self.opt_bytes(column)?
            .map(|bytes| {
                Uuid::from_slice(&bytes).map_err(|error| StoreError::corrupt(format!("column {column}"), error))
            })
            .transpose()
    }

    pub(crate) fn uuid(&self, column: usize) -> Result<Uuid, StoreError> {
        self.opt_uuid(column)?.ok_or_else(|| unexpected_null(column))
    }

    pub(crate) fn time(&self, column: usize) -> Result<Timestamp, StoreError> {
        self.int(column).map(Timestamp::from_micros)
    }

    pub(crate) fn opt_time(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.opt_int(column)?.map(Timestamp::from_micros))
    }

    /// A text that `parse` takes for one of a closed set, or for an id.
    pub(crate) fn parsed<T>(&self, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
        let text = self.text(column)?;
        parse(&text).ok_or_else(|| StoreError::corrupt(format!("column {column}"), format!("unknown value {text:?}")))
    }

    /// A JSON text.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?)
            .map_err(|error| StoreError::corrupt(format!("JSON of column {column}"), error))
    }

    pub(crate) fn opt_json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| StoreError::corrupt(format!("JSON of column {column}"), error))
    }
}

fn unexpected_null(column: usize) -> StoreError {
    StoreError::corrupt(format!("column {column}"), "it is null")
}

/// The text of a JSON column whose value comes from outside. It may come from a format that
/// nests deeper than JSON is read back here, and a row must never become unreadable.
pub(crate) fn to_readable_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    let text = to_json(value)?;
    serde_json::from_str::<serde_json::Value>(&text)
        .map_err(|error| StoreError::Conflict(format!("the document cannot be kept: {error}")))?;
    Ok(text)
}

/// The text of a JSON column.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Config(format!("cannot be written as JSON: {error}")))
}
