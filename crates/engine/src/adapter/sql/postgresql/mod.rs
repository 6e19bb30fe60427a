//! PostgreSQL.

mod bind;
mod decode;
mod errors;
mod session;

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Row, Statement, Transaction};

use super::config::ServerConfig;
use super::error::Progress;
use super::output::{Columns, More, Room, RowSet};
use super::server::{Canceller, DatabaseServer, Doubt, Failed, Session};
use super::spec::{Isolation, Shape};
use super::{Dialect, Job, Step};
use crate::adapter::{CallError, Connection};
use bind::{Bound, type_of};
use decode::{Raw, write_value};
pub(super) use session::PostgreSqlSession;

/// The most statements that one connection keeps prepared.
const MAX_STATEMENTS: usize = 256;
/// How many rows are asked for first: until then nobody knows how large they are.
const FIRST_ROWS: usize = 64;
const MAX_ROWS_AT_ONCE: usize = 4_096;

/// Calls statements of PostgreSQL.
pub(super) type PostgreSql = DatabaseServer<PostgreSqlSession>;

impl Session for PostgreSqlSession {
    const TYPE: &'static str = "postgresql";
    const NAME: &'static str = "PostgreSQL";
    const DESCRIPTION: &'static str =
        "PostgreSQL: declared statements with typed params, transactions, limits of answers";
    const DIALECT: Dialect = Dialect::PostgreSql;

    async fn open(connection: &Connection<'_>, config: &ServerConfig, deadline: Instant) -> Result<Self, CallError> {
        Self::connect(connection, config, deadline).await
    }

    async fn work(&mut self, job: &Job<'_>, statement_timeout: Duration, doubt: &Doubt) -> Result<Vec<RowSet>, Failed> {
        work(self, job, statement_timeout, doubt).await
    }

    fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn canceller(&self) -> Canceller {
        self.cancel()
    }

    async fn version(&mut self) -> Result<String, CallError> {
        let failed = |error| self.budget.error(&error, Progress::Harmless);
        let row = self.client.query_one("select current_setting('server_version')", &[]).await.map_err(failed)?;
        row.try_get(0).map_err(failed)
    }
}

/// Makes all statements in one transaction.
async fn work(
    session: &mut PostgreSqlSession,
    job: &Job<'_>,
    statement_timeout: Duration,
    doubt: &Doubt,
) -> Result<Vec<RowSet>, Failed> {
    session.is_settled = false;
    let PostgreSqlSession { client, statements, budget, is_settled, .. } = session;
    budget.allow(job.limits.bytes);
    let not_begun = |error: tokio_postgres::Error| Failed::NotBegun(budget.error(&error, Progress::Harmless));
    if session.statement_timeout != Some(statement_timeout) {
        let setting = format!("set statement_timeout = {}", statement_timeout.as_millis());
        client.batch_execute(&setting).await.map_err(not_begun)?;
        session.statement_timeout = Some(statement_timeout);
    }
    let mut builder = client.build_transaction().read_only(job.read_only);
    if let Some(isolation) = job.isolation {
        builder = builder.isolation_level(match isolation {
            Isolation::ReadCommitted => IsolationLevel::ReadCommitted,
            Isolation::RepeatableRead => IsolationLevel::RepeatableRead,
            Isolation::Serializable => IsolationLevel::Serializable,
        });
    }
    let transaction = builder.start().await.map_err(not_begun)?;
    let begun = |error: tokio_postgres::Error| budget.error(&error, doubt.progress());
    let mut room = job.room();
    let mut sets = Vec::with_capacity(job.steps.len());
    for step in &job.steps {
        let made = async {
            let statement = prepared(&transaction, statements, step).await.map_err(begun)?;
            make(&transaction, &statement, step, &mut room, job, &begun).await
        };
        match made.await {
            Ok(set) => sets.push(set),
            Err(error) => {
                // A statement that no longer fits is not asked for again.
                statements.clear();
                *is_settled = transaction.rollback().await.is_ok();
                return Err(Failed::Begun(error));
            }
        }
    }
    // What is not committed is taken back.
    if !job.read_only {
        doubt.begin();
    }
    transaction.commit().await.map_err(|error| Failed::Begun(begun(error)))?;
    *is_settled = true;
    Ok(sets)
}

/// The statement as the server keeps it.
async fn prepared(
    transaction: &Transaction<'_>,
    statements: &mut std::collections::HashMap<String, Statement>,
    step: &Step<'_>,
) -> Result<Statement, tokio_postgres::Error> {
    let types: Vec<_> = step.prepared.types.iter().copied().map(type_of).collect();
    let sql = &step.prepared.statement.sql;
    let key = format!("{types:?} {sql}");
    if let Some(statement) = statements.get(&key) {
        return Ok(statement.clone());
    }
    let statement = transaction.prepare_typed(sql, &types).await?;
    if statements.len() >= MAX_STATEMENTS {
        statements.clear();
    }
    statements.insert(key, statement.clone());
    Ok(statement)
}

/// Makes one statement and takes its rows, as many at once as there is room for.
async fn make(
    transaction: &Transaction<'_>,
    statement: &Statement,
    step: &Step<'_>,
    room: &mut Room,
    job: &Job<'_>,
    failed: &impl Fn(tokio_postgres::Error) -> CallError,
) -> Result<RowSet, CallError> {
    let values: Vec<_> = step.values.iter().map(Bound).collect();
    let mut set = RowSet::new(step.prepared.shape);
    if statement.columns().is_empty() || step.prepared.shape == Shape::None {
        set.affected = transaction.execute_raw(statement, values).await.map_err(failed)?;
        return Ok(set);
    }
    let columns = Columns::new(statement.columns().iter().map(tokio_postgres::Column::name))?;
    let portal = transaction.bind_raw(statement, values).await.map_err(failed)?;
    let wanted = set.rows_asked_for(room);
    let mut at_once = FIRST_ROWS.min(wanted);
    let mut is_full = false;
    loop {
        let asked = i32::try_from(at_once).unwrap_or(i32::MAX);
        let mut rows = pin!(transaction.query_portal_raw(&portal, asked).await.map_err(failed)?);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            set.affected += 1;
            if !is_full {
                is_full = push(&mut set, room, &columns, &row, job.json_columns)? == More::Full;
            }
        }
        // The server counts the rows of its last portion alone; each row is one that it changed.
        if rows.rows_affected().is_some() {
            return Ok(set);
        }
        // What changes something has to be done to its end.
        if is_full && job.read_only {
            return Ok(set);
        }
        at_once = if is_full { MAX_ROWS_AT_ONCE } else { set.rows_that_fit(room).clamp(1, MAX_ROWS_AT_ONCE) };
    }
}

fn push(
    set: &mut RowSet,
    room: &mut Room,
    columns: &Columns,
    row: &Row,
    json_columns: &[String],
) -> Result<More, CallError> {
    set.push(room, columns, |index, out| {
        let column = &row.columns()[index];
        let undecodable = |fault| errors::undecodable(column.name(), &fault, Progress::Harmless);
        match row.try_get::<_, Option<Raw<'_>>>(index) {
            Ok(Some(Raw(raw)))
                if *column.type_() == Type::TEXT && json_columns.iter().any(|it| it == column.name()) =>
            {
                write_value(out, &Type::JSON, raw).map_err(undecodable)
            }
            Ok(Some(Raw(raw))) => write_value(out, column.type_(), raw).map_err(undecodable),
            Ok(None) => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            Err(_) => Err(undecodable(decode::Undecodable::Bytes)),
        }
    })
}
