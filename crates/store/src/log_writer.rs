//! How the journal writes to SQLite: a connection of its own and prepared statements, run in
//! the thread that asks, so that a commit costs no way to another thread and back.
//!
//! PostgreSQL, and what a batch needs to look up first, go by the journal's transactions.

use std::path::Path;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, ToSql};
use uuid::Uuid;

use crate::audit::Chain;
use crate::audit::chain::{ANCHOR, AuditHead, NEWEST_ROW};
use crate::batch::{Cells, insert_row};
use crate::database::Database;
use crate::encoded::Decoded;
use crate::error::StoreError;
use crate::journal::{LogBatch, Written};
use crate::log_index::NextChunk;
use crate::partitions::{Day, Log, Partition};
use crate::sql::JournalSync;
use crate::uses::{self, UseBatch};
use crate::{audit, events, executions, idempotency};

/// Statements that stay prepared: a few for each of the days that are written at once.
const PREPARED: usize = 32;

/// Writes batches of the log. One of them writes at a time: whoever uses it has the turn of
/// [`crate::sql::Pool::Sqlite`].
#[derive(Debug)]
pub(crate) struct LogWriter {
    connection: Connection,
    patience: Patience,
}

/// What to do where another process holds the database's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Fail at once: the thread has others to serve.
    None,
    /// Wait as long as other writers do.
    Full,
}

impl LogWriter {
    pub(crate) fn open(path: &Path, sync: JournalSync) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        let synchronous = match sync {
            JournalSync::Full => "full",
            JournalSync::Normal => "normal",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let mut writer = Self { connection, patience: Patience::Full };
        writer.set_patience(Patience::None)?;
        Ok(writer)
    }

    fn set_patience(&mut self, patience: Patience) -> Result<(), StoreError> {
        if self.patience != patience {
            self.connection.busy_timeout(match patience {
                Patience::None => Duration::ZERO,
                Patience::Full => crate::database::BUSY_TIMEOUT,
            })?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Commits a batch. None, with nothing written, where a partition is not there yet.
    pub(crate) fn write(
        &mut self,
        db: &Database,
        batch: LogBatch<'_>,
        patience: Patience,
    ) -> Result<Option<Written>, StoreError> {
        let mut written = Written::default();
        let whole = self.transaction(patience, |writer| {
            for (claim, answer) in batch.answers {
                let mut statement = writer.connection.prepare_cached(idempotency::STORE_ANSWER)?;
                let mut row = Row::of(&mut statement);
                idempotency::write_answer(&mut row, claim, answer);
                row.run()?;
            }
            writer.append(db, batch, &mut written)
        })?;
        Ok(whole.then_some(written))
    }

    /// Commits uses of instances and credentials.
    pub(crate) fn write_uses(&mut self, batch: &UseBatch) -> Result<(), StoreError> {
        let write = |writer: &Self| {
            for (instance, used) in &batch.instances {
                let mut statement = writer.connection.prepare_cached(uses::TOUCH_INSTANCE)?;
                statement.execute((instance.as_str(), used.latest.as_micros()))?;
            }
            for (credential, used) in &batch.credentials {
                let mut statement = writer.connection.prepare_cached(uses::COUNT_USES)?;
                statement.execute((credential.as_bytes().as_slice(), used.count, used.latest.as_micros()))?;
            }
            Ok(true)
        };
        self.transaction(Patience::Full, write).map(drop)
    }

    /// Makes a chunk of the index by instance; false where there are too few rows for it.
    pub(crate) fn make_chunk(&mut self, next: &NextChunk) -> Result<bool, StoreError> {
        self.transaction(Patience::Full, |writer| {
            if writer.connection.execute(&next.close, [])? == 0 {
                return Ok(false);
            }
            writer.connection.execute(&next.fill, [])?;
            Ok(true)
        })
    }

    /// Commits what `write` does where it gives true; else nothing of it is there.
    fn transaction(
        &mut self,
        patience: Patience,
        write: impl FnOnce(&Self) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        self.set_patience(patience)?;
        self.connection.prepare_cached("begin immediate")?.execute([])?;
        let written = write(self).and_then(|whole| {
            if whole {
                self.connection.prepare_cached("commit")?.execute([])?;
            }
            Ok(whole)
        });
        // An error may have ended the transaction already.
        if !matches!(written, Ok(true)) && !self.connection.is_autocommit() {
            self.connection.execute_batch("rollback")?;
        }
        written
    }

    /// Adds the rows of all records to the three logs.
    fn append(&self, db: &Database, batch: LogBatch<'_>, written: &mut Written) -> Result<bool, StoreError> {
        let now = db.clock.now();
        let of_acts = Partition { log: Log::Audit, day: db.audit_chain.day_of_next(Day::of(now)) };
        let mut executions = Table::new(&self.connection, executions::COLUMNS, "on conflict (id) do nothing");
        let mut events = Table::new(&self.connection, events::COLUMNS, "");
        let mut acts = Table::new(&self.connection, audit::row::COLUMNS, "");
        if !acts.turn_to(db, of_acts)? {
            return Ok(false);
        }
        let mut chain = Chain::new(db.audit_chain.key()?, self.audit_head(db, of_acts.day)?);
        let mut last = self.newest_event(db)?;
        let mut whole = true;
        for record in batch.records.iter() {
            let record = Decoded::read(record)?;
            if !executions.turn_to(db, Partition::of_id(Log::Executions, record.id))? {
                return Ok(false);
            }
            executions.insert(|row| record.write_execution(row))?;
            record.each(
                |event| {
                    last = db.ids.next_after(last);
                    whole &= events.turn_to(db, Partition::of_id(Log::Events, last))?;
                    if whole { events.insert(|row| event.write(row, last, now)) } else { Ok(()) }
                },
                |act| {
                    if batch.known.contains(&act.id) {
                        return Ok(());
                    }
                    written.note(&act);
                    acts.insert(|row| chain.append(row, |cells| act.write(cells, now)))
                },
            )?;
        }
        Ok(whole)
    }

    /// The id that events go on after.
    fn newest_event(&self, db: &Database) -> Result<Uuid, StoreError> {
        let newest = self.connection.prepare_cached(&db.newest_event())?.query_row([], |row| row.get(0));
        let newest: Vec<u8> = newest?;
        Uuid::from_slice(&newest).map_err(|error| StoreError::corrupt("the newest event", error))
    }

    /// The newest row of the audit.
    fn audit_head(&self, db: &Database, newest: Day) -> Result<AuditHead, StoreError> {
        let read = |text: &str| {
            self.connection
                .prepare_cached(text)?
                .query_row([], |row| Ok(AuditHead { sequence: row.get(0)?, hash: row.get(1)? }))
                .optional()
        };
        let mut day = newest;
        while let Some(partition) = db.partitions.newest(Log::Audit, day) {
            if let Some(head) = read(&format!("select sequence, hash from {} {NEWEST_ROW}", partition.table()))? {
                return Ok(head);
            }
            day = partition.day.before();
        }
        read(ANCHOR)?.ok_or(StoreError::NotFound)
    }
}

/// The partition that rows go to, and the statement that puts them there; most of a batch go to one.
struct Table<'c> {
    connection: &'c Connection,
    columns: &'static [crate::batch::Column],
    on_conflict: &'static str,
    turned_to: Option<(Partition, CachedStatement<'c>)>,
}

impl<'c> Table<'c> {
    fn new(connection: &'c Connection, columns: &'static [crate::batch::Column], on_conflict: &'static str) -> Self {
        Self { connection, columns, on_conflict, turned_to: None }
    }

    /// Goes to a partition; false where it is not known to exist.
    fn turn_to(&mut self, db: &Database, partition: Partition) -> Result<bool, StoreError> {
        if self.turned_to.as_ref().is_some_and(|(turned_to, _)| *turned_to == partition) {
            return Ok(true);
        }
        if !db.partitions.contains(partition) {
            return Ok(false);
        }
        let insert = insert_row(&partition.table(), self.columns, self.on_conflict);
        self.turned_to = Some((partition, self.connection.prepare_cached(&insert)?));
        Ok(true)
    }

    fn insert(&mut self, fill: impl FnOnce(&mut Row<'_, 'c>)) -> Result<(), StoreError> {
        let Some((_, statement)) = &mut self.turned_to else { return Err(StoreError::Closed) };
        let mut row = Row::of(statement);
        fill(&mut row);
        Ok(row.run()?)
    }
}

/// One row of a prepared statement.
struct Row<'s, 'c> {
    statement: &'s mut CachedStatement<'c>,
    bound: usize,
    result: rusqlite::Result<()>,
}

impl<'s, 'c> Row<'s, 'c> {
    fn of(statement: &'s mut CachedStatement<'c>) -> Self {
        Self { statement, bound: 0, result: Ok(()) }
    }

    fn bind(&mut self, value: impl ToSql) {
        self.bound += 1;
        if self.result.is_ok() {
            self.result = self.statement.raw_bind_parameter(self.bound, value);
        }
    }

    fn run(self) -> rusqlite::Result<()> {
        self.result?;
        self.statement.raw_execute()?;
        Ok(())
    }
}

impl Cells for Row<'_, '_> {
    fn text(&mut self, text: &str) {
        // There is no NUL in it: encoded texts have none, and no claim has, which comes from a header.
        self.bind(text);
    }

    fn opt_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.bind(rusqlite::types::Null),
        }
    }

    fn opt_int(&mut self, number: Option<i64>) {
        self.bind(number);
    }

    fn opt_bytes(&mut self, bytes: Option<&[u8]>) {
        self.bind(bytes);
    }
}
