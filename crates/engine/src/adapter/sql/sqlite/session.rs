//! One connection to a file, on a thread that may wait.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_model::ErrorCode;
use rusqlite::config::DbConfig;
use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Error, InterruptHandle, OpenFlags, Row, ToSql, TransactionBehavior};

use super::super::error::{Progress, bounded, malformed, refused};
use super::super::output::{Columns, More, Room, RowSet, write_float, write_integer, write_json, write_text};
use super::super::pool::Keep;
use super::super::spec::{Limits, Shape};
use super::super::value::SqlValue;
use super::super::{Job, Step};
use crate::adapter::{CallError, Effect};

/// How long another process may keep the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What a value may be longer than an operation's `maxBytes`.
const SLACK: usize = 1 << 20;

pub(super) struct SqliteSession {
    connection: Connection,
    is_settled: bool,
}

impl Keep for SqliteSession {
    fn is_usable(&self) -> bool {
        self.is_settled
    }
}

/// The statements of one call, without what they borrow.
pub(super) struct Work {
    steps: Vec<WorkStep>,
    read_only: bool,
    limits: Limits,
    json_columns: Vec<String>,
}

struct WorkStep {
    sql: String,
    values: Vec<SqlValue>,
    shape: Shape,
}

impl Work {
    pub(super) fn of(job: Job<'_>) -> Self {
        let step = |Step { prepared, values }: Step<'_>| WorkStep {
            sql: prepared.statement.sql.clone(),
            values,
            shape: prepared.shape,
        };
        Self {
            steps: job.steps.into_iter().map(step).collect(),
            read_only: job.read_only,
            limits: job.limits,
            json_columns: job.json_columns.to_vec(),
        }
    }
}

/// How far the work of one call is, for the one who waits for it: a statement is interrupted
/// only while it is this call's.
#[derive(Default)]
pub(super) struct Turn(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Working(InterruptHandle),
    Committing,
    Stopped,
    Done,
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, handle: InterruptHandle) {
        let mut state = self.state();
        if matches!(*state, State::Waiting) {
            *state = State::Working(handle);
        }
    }

    /// Whether the call is still wanted; from then on one that changes something is not
    /// interrupted.
    fn commits(&self, read_only: bool) -> bool {
        let mut state = self.state();
        let is_wanted = matches!(*state, State::Working(_));
        if is_wanted && !read_only {
            *state = State::Committing;
        }
        is_wanted
    }

    fn is_stopped(&self) -> bool {
        matches!(*self.state(), State::Stopped)
    }

    pub(super) fn end(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Committing) {
            *state = State::Done;
        }
    }

    /// Interrupts the call where it has not come to its commit.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        match &*state {
            State::Working(handle) => handle.interrupt(),
            State::Waiting => {}
            State::Committing | State::Stopped | State::Done => return,
        }
        *state = State::Stopped;
    }

    pub(super) fn progress(&self) -> Progress {
        match *self.state() {
            State::Committing => Progress::MayHaveChanged,
            State::Waiting | State::Working(_) | State::Stopped | State::Done => Progress::Harmless,
        }
    }
}

impl SqliteSession {
    /// Opens a file that exists, and follows no link on the way to it.
    pub(super) fn open(file: &Path, read_only: bool) -> Result<Self, CallError> {
        let access = if read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        let flags = access | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).map_err(|error| call_error(&error))?;
        let session = Self { connection, is_settled: true };
        session.restrict().map_err(|error| call_error(&error))?;
        Ok(session)
    }

    /// Statements reach nothing beside this file.
    fn restrict(&self) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.pragma_update(None, "foreign_keys", true)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    pub(super) fn interrupt_handle(&self) -> InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    pub(super) fn version(&mut self) -> Result<String, CallError> {
        // Reads the file's head, so that what is no database shows.
        let tables = self.connection.query_row("select count(*) from sqlite_schema", [], |row| row.get::<_, i64>(0));
        let tables = tables.map_err(|error| call_error(&error))?;
        Ok(format!("SQLite {} opened the file, which has {tables} tables and indexes", rusqlite::version()))
    }

    /// Makes all statements in one transaction.
    pub(super) fn work(&mut self, work: Work, turn: &Turn) -> Result<Vec<RowSet>, CallError> {
        self.is_settled = false;
        let result = self.transact(&work, turn);
        self.is_settled = self.connection.is_autocommit();
        result
    }

    fn transact(&mut self, work: &Work, turn: &Turn) -> Result<Vec<RowSet>, CallError> {
        let failed = |error: Error| call_error(&error);
        let longest = i32::try_from(work.limits.bytes.saturating_add(SLACK)).unwrap_or(i32::MAX);
        self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest).map_err(failed)?;
        self.connection.pragma_update(None, "query_only", work.read_only).map_err(failed)?;
        let kind = if work.read_only { TransactionBehavior::Deferred } else { TransactionBehavior::Immediate };
        let transaction = self.connection.transaction_with_behavior(kind).map_err(failed)?;
        let mut room = Room::new(work.limits);
        let mut sets = Vec::with_capacity(work.steps.len());
        for step in &work.steps {
            // What is dropped is rolled back.
            sets.push(make(&transaction, step, &mut room, &work.json_columns, turn)?);
        }
        if !turn.commits(work.read_only) {
            return Err(interrupted());
        }
        transaction.commit().map_err(failed)?;
        Ok(sets)
    }
}

/// A value as SQLite binds it.
struct Bound<'a>(&'a SqlValue);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            // There are no arrays here; publishing refuses them.
            SqlValue::Null | SqlValue::Array(_) => ToSqlOutput::Owned(Value::Null),
            SqlValue::Bool(value) => ToSqlOutput::Owned(Value::Integer((*value).into())),
            SqlValue::Int(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            SqlValue::Float(value) => ToSqlOutput::Owned(Value::Real(*value)),
            SqlValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            SqlValue::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// Makes one statement and takes its rows.
fn make(
    connection: &Connection,
    step: &WorkStep,
    room: &mut Room,
    json_columns: &[String],
    turn: &Turn,
) -> Result<RowSet, CallError> {
    let failed = |error: Error| call_error(&error);
    let mut statement = connection.prepare_cached(&step.sql).map_err(failed)?;
    let columns = Columns::new(statement.column_names().into_iter())?;
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let changes_before = connection.total_changes();
    let mut set = RowSet::new(step.shape);
    let mut is_full = step.shape == Shape::None;
    let is_readonly = statement.readonly();
    let mut rows = statement.query(rusqlite::params_from_iter(step.values.iter().map(Bound))).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        // An interrupt that came before the statement began stops nothing.
        if turn.is_stopped() {
            return Err(interrupted());
        }
        if !is_full {
            is_full = push(&mut set, room, &columns, &names, row, json_columns)? == More::Full;
        }
        // What changes something has to be done to its end.
        if is_full && is_readonly {
            break;
        }
    }
    drop(rows);
    set.affected = connection.total_changes().saturating_sub(changes_before);
    Ok(set)
}

fn push(
    set: &mut RowSet,
    room: &mut Room,
    columns: &Columns,
    names: &[String],
    row: &Row<'_>,
    json_columns: &[String],
) -> Result<More, CallError> {
    set.push(room, columns, |index, out| {
        let wrong = |what: &str| malformed(Progress::Harmless, &format!("column {:?} is not {what}", names[index]));
        match row.get_ref(index).map_err(|error| call_error(&error))? {
            ValueRef::Null => out.extend_from_slice(b"null"),
            ValueRef::Integer(value) => write_integer(out, value),
            ValueRef::Real(value) => write_float(out, value),
            ValueRef::Blob(bytes) => write_text(out, &STANDARD.encode(bytes)),
            ValueRef::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| wrong("text in UTF-8"))?;
                if !json_columns.contains(&names[index]) {
                    write_text(out, text);
                } else if !write_json(out, text) {
                    return Err(wrong("JSON"));
                }
            }
        }
        Ok(())
    })
}

fn interrupted() -> CallError {
    CallError {
        retryable: true,
        ..CallError::not_sent(ErrorCode::Timeout, "the statement took too long and was stopped")
    }
}

/// What an error of SQLite means; its own messages may hold values, other than those on
/// statements.
fn call_error(error: &Error) -> CallError {
    let Error::SqliteFailure(failure, message) = error else {
        let message = "the statement cannot be made: what it binds, or what it gives, is not what was declared";
        return CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) };
    };
    let not_opened = failure.extended_code & 0xff == ffi::SQLITE_CANTOPEN;
    if not_opened {
        let message = "the file cannot be opened: it is not there, or there is a link on the way to it";
        return CallError::not_sent(ErrorCode::InstanceNotReady, message);
    }
    let state = match failure.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => "23505",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
        code => match code & 0xff {
            ffi::SQLITE_CONSTRAINT => "23514",
            ffi::SQLITE_ERROR => "42000",
            ffi::SQLITE_READONLY => "25006",
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => "55P03",
            ffi::SQLITE_INTERRUPT => "57014",
            ffi::SQLITE_TOOBIG | ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE => "22000",
            ffi::SQLITE_FULL | ffi::SQLITE_NOMEM => "53100",
            ffi::SQLITE_AUTH | ffi::SQLITE_PERM => "42501",
            _ => "XX000",
        },
    };
    let refusal = refused(state).with_detail("errorNumber", failure.extended_code);
    match message {
        Some(text) if state == "42000" => refusal.with_detail("databaseMessage", bounded(text)),
        _ => refusal,
    }
}
