//! How the journal writes to SQLite: a connection of its own and prepared statements, run in
//! the thread that asks, so that a commit costs no way to another thread and back.
//!
//! PostgreSQL, and what a batch needs to look up first, go by the journal's transactions.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, ToSql};
use uuid::Uuid;

use crate::audit::chain::{ANCHOR, AuditHead, NEWEST_ROW};
use crate::audit::{Chain, rows_of};
use crate::batch::{Cells, insert_row};
use crate::database::Database;
use crate::error::StoreError;
use crate::journal::{ExecutionRecord, answers_of, events_of, latest_uses};
use crate::log_index::NextChunk;
use crate::metrics::AUDIT_ROWS;
use crate::partitions::{Day, Log, Partition};
use crate::sql::{JournalSync, without_nul};
use crate::use_counts::Counts;
use crate::{audit, events, executions, idempotency};

/// Statements that stay prepared: a few for each of the days that are written at once.
const PREPARED: usize = 32;

const COUNT_USES: &str = "update credentials set use_count = use_count + ?2, \
     last_used_at = max(coalesce(last_used_at, 0), ?3) where secret_id = ?1";

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

    /// Commits a batch. False, with nothing written, where it needs to look at what is
    /// there: executions from the queue, a partition that is not there yet.
    pub(crate) fn write(
        &mut self,
        db: &Database,
        records: &[ExecutionRecord],
        patience: Patience,
    ) -> Result<bool, StoreError> {
        if records.iter().any(|record| record.from_queue) {
            return Ok(false);
        }
        let written = self.transaction(patience, |writer| writer.insert(db, records))?;
        if written {
            metrics::counter!(AUDIT_ROWS).increment(rows_of(records, &BTreeSet::new()).count() as u64);
        }
        Ok(written)
    }

    /// Moves the counts of credentials that were used.
    pub(crate) fn count_uses(&mut self, counts: &Counts) -> Result<(), StoreError> {
        let count = |writer: &Self| {
            for (credential, (uses, at)) in counts {
                let mut statement = writer.connection.prepare_cached(COUNT_USES)?;
                statement.execute((credential.as_bytes().as_slice(), uses, at.as_micros()))?;
            }
            Ok(true)
        };
        self.transaction(Patience::Full, count).map(drop)
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

    fn insert(&self, db: &Database, records: &[ExecutionRecord]) -> Result<bool, StoreError> {
        for (instance, at) in latest_uses(records) {
            self.connection
                .prepare_cached(
                    "update instances set last_used_at = ?2 where id = ?1 and (last_used_at is null or last_used_at < ?2)",
                )?
                .execute((instance.as_str(), at.as_micros()))?;
        }
        let mut table = Table::new(Log::Executions, executions::COLUMNS, "on conflict (id) do nothing");
        for record in records {
            let id = record.execution.id.0;
            if !table.turn_to(db, id) {
                return Ok(false);
            }
            let mut row = Row::of(self.connection.prepare_cached(&table.insert)?);
            executions::write_cells(&mut row, &record.execution, record.params.as_ref())?;
            row.run()?;
        }
        for (claim, answer) in answers_of(records) {
            let mut row = Row::of(self.connection.prepare_cached(idempotency::STORE_ANSWER)?);
            idempotency::write_answer(&mut row, claim, answer);
            row.run()?;
        }
        if !self.append_audit(db, records)? {
            return Ok(false);
        }
        let mut last = self.newest_event(db)?;
        let now = db.clock.now();
        let mut table = Table::new(Log::Events, events::COLUMNS, "");
        for event in events_of(records) {
            last = db.ids.next_after(last);
            if !table.turn_to(db, last) {
                return Ok(false);
            }
            let mut row = Row::of(self.connection.prepare_cached(&table.insert)?);
            event.write_cells(&mut row, last, now);
            row.run()?;
        }
        Ok(true)
    }

    /// The id that events go on after.
    fn newest_event(&self, db: &Database) -> Result<Uuid, StoreError> {
        let newest = self.connection.prepare_cached(&db.newest_event())?.query_row([], |row| row.get(0));
        let newest: Vec<u8> = newest?;
        Uuid::from_slice(&newest).map_err(|error| StoreError::corrupt("the newest event", error))
    }

    fn append_audit(&self, db: &Database, records: &[ExecutionRecord]) -> Result<bool, StoreError> {
        let now = db.clock.now();
        let partition = Partition { log: Log::Audit, day: db.audit_chain.day_of_next(Day::of(now)) };
        if !db.partitions.contains(partition) {
            return Ok(false);
        }
        let mut chain = Chain::new(db.audit_chain.key()?, self.audit_head(db, partition.day)?);
        let insert = insert_row(&partition.table(), audit::row::COLUMNS, "");
        for (used, execution) in rows_of(records, &BTreeSet::new()) {
            let mut row = Row::of(self.connection.prepare_cached(&insert)?);
            chain.append(&mut row, |cells| audit::row::write_execution(cells, used, execution, now));
            row.run()?;
        }
        Ok(true)
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

/// The partition that rows go to; most of a batch go to one.
struct Table {
    log: Log,
    columns: &'static [crate::batch::Column],
    on_conflict: &'static str,
    partition: Option<Partition>,
    insert: String,
}

impl Table {
    fn new(log: Log, columns: &'static [crate::batch::Column], on_conflict: &'static str) -> Self {
        Self { log, columns, on_conflict, partition: None, insert: String::new() }
    }

    /// Goes to the partition of a row; false where it is not known to exist.
    fn turn_to(&mut self, db: &Database, id: Uuid) -> bool {
        let partition = Partition::of_id(self.log, id);
        if self.partition != Some(partition) {
            if !db.partitions.contains(partition) {
                return false;
            }
            self.insert = insert_row(&partition.table(), self.columns, self.on_conflict);
            self.partition = Some(partition);
        }
        true
    }
}

/// One row of a prepared statement.
struct Row<'c> {
    statement: CachedStatement<'c>,
    bound: usize,
    result: rusqlite::Result<()>,
}

impl<'c> Row<'c> {
    fn of(statement: CachedStatement<'c>) -> Self {
        Self { statement, bound: 0, result: Ok(()) }
    }

    fn bind(&mut self, value: impl ToSql) {
        self.bound += 1;
        if self.result.is_ok() {
            self.result = self.statement.raw_bind_parameter(self.bound, value);
        }
    }

    fn run(mut self) -> rusqlite::Result<()> {
        self.result?;
        self.statement.raw_execute()?;
        Ok(())
    }
}

impl Cells for Row<'_> {
    fn text(&mut self, text: &str) {
        self.bind(&*without_nul(text));
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
