//! PostgreSQL.

mod bind;
mod decode;
mod errors;
mod session;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::AuthType;
use serde_json::{Map, Value};
use tokio::time::timeout_at;
use tokio_postgres::{IsolationLevel, Row, Statement, Transaction};

use super::config::{CONFIG_SCHEMA, ServerConfig, fingerprint};
use super::error::{Progress, timed_out};
use super::output::{Columns, More, Room, RowSet};
use super::pool::{Lease, Pools};
use super::spec::{Isolation, Shape};
use super::{Database, DatabaseDescription, Dialect, Done, Job, Step};
use crate::adapter::{CallError, Connection};
use bind::{Bound, type_of};
use decode::{Raw, write_value};
use session::Session;

/// The most statements that one connection keeps prepared.
const MAX_STATEMENTS: usize = 256;
/// How many rows are asked for first: until then nobody knows how large they are.
const FIRST_ROWS: usize = 64;
const MAX_ROWS_AT_ONCE: usize = 4_096;

/// Calls statements of PostgreSQL.
pub struct PostgreSql {
    pools: Pools<Session>,
}

impl Default for PostgreSql {
    fn default() -> Self {
        Self { pools: Pools::new(Self::TYPE) }
    }
}

impl Database for PostgreSql {
    const TYPE: &'static str = "postgresql";

    fn describe(&self) -> DatabaseDescription {
        DatabaseDescription {
            dialect: Dialect::PostgreSql,
            text: "PostgreSQL: declared statements with typed params, transactions, limits of answers",
            auth_types: &[AuthType::Basic, AuthType::None, AuthType::Custom],
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        ServerConfig::check(config)
    }

    fn run<'a>(&'a self, connection: Connection<'a>, job: Job<'a>) -> BoxFuture<'a, Result<Done, CallError>> {
        Box::pin(async move {
            let config = ServerConfig::read(&connection)?;
            let mut lease = self.lease(&connection, &config).await?;
            let result = self.run_on(&mut lease, &connection, &config, &job).await;
            if lease.connection().is_some_and(|session| session.is_settled) {
                lease.keep();
            }
            result.map(Done)
        })
    }

    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move {
            let config = ServerConfig::read(&connection)?;
            let session = Session::open(&connection, &config).await?;
            let asking = session.client.query_one("select current_setting('server_version')", &[]);
            let row = match timeout_at(connection.deadline, asking).await {
                Ok(answer) => answer.map_err(|error| session.budget.error(&error, Progress::Harmless))?,
                Err(_) => return Err(timed_out(Progress::Harmless, "waiting for the answer")),
            };
            let version: String = row.try_get(0).map_err(|error| session.budget.error(&error, Progress::Harmless))?;
            Ok(format!("PostgreSQL {} answered", super::error::bounded(&version)))
        })
    }
}

/// Why a call failed, and whether it had begun.
enum Failed {
    NotBegun(CallError),
    Begun(CallError),
}

impl PostgreSql {
    async fn lease(&self, connection: &Connection<'_>, config: &ServerConfig) -> Result<Lease<Session>, CallError> {
        let pool = self.pools.of(connection.instance, fingerprint(connection), config.pool);
        pool.acquire(connection.network().egress_policy(), connection.deadline).await
    }

    async fn run_on(
        &self,
        lease: &mut Lease<Session>,
        connection: &Connection<'_>,
        config: &ServerConfig,
        job: &Job<'_>,
    ) -> Result<Vec<RowSet>, CallError> {
        let statement_timeout = config.statement_timeout(job.statement_timeout);
        loop {
            let was_kept = lease.connection().is_some();
            let session = match lease.connection() {
                Some(session) => session,
                None => lease.opened(Session::open(connection, config).await?),
            };
            let committing = AtomicBool::new(false);
            let cancel = session.cancel_on_drop();
            let working = timeout_at(connection.deadline, work(session, job, statement_timeout, &committing)).await;
            let Ok(worked) = working else {
                drop(cancel);
                return Err(timed_out(progress(&committing), "waiting for the answer"));
            };
            cancel.disarm();
            match worked {
                Ok(sets) => return Ok(sets),
                // The server closed a connection that was kept: nothing has happened yet.
                Err(Failed::NotBegun(_)) if was_kept => lease.discard(),
                Err(Failed::NotBegun(error) | Failed::Begun(error)) => return Err(error),
            }
        }
    }
}

/// What is not committed is taken back.
fn progress(committing: &AtomicBool) -> Progress {
    if committing.load(Ordering::Relaxed) { Progress::MayHaveChanged } else { Progress::Harmless }
}

/// Makes all statements in one transaction.
async fn work(
    session: &mut Session,
    job: &Job<'_>,
    statement_timeout: Duration,
    committing: &AtomicBool,
) -> Result<Vec<RowSet>, Failed> {
    session.is_settled = false;
    let Session { client, statements, budget, is_settled, .. } = session;
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
    let begun = |error: tokio_postgres::Error| budget.error(&error, progress(committing));
    let mut room = job.room();
    let mut sets = Vec::with_capacity(job.steps.len());
    for step in &job.steps {
        let made = async {
            let statement = prepared(&transaction, statements, step).await.map_err(begun)?;
            make(&transaction, &statement, step, &mut room, job.read_only, &begun).await
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
    committing.store(!job.read_only, Ordering::Relaxed);
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
    read_only: bool,
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
                is_full = push(&mut set, room, &columns, &row)? == More::Full;
            }
        }
        // The server counts the rows of its last portion alone; each row is one that it changed.
        if rows.rows_affected().is_some() {
            return Ok(set);
        }
        // What changes something has to be done to its end.
        if is_full && read_only {
            return Ok(set);
        }
        at_once = if is_full { MAX_ROWS_AT_ONCE } else { set.rows_that_fit(room).clamp(1, MAX_ROWS_AT_ONCE) };
    }
}

fn push(set: &mut RowSet, room: &mut Room, columns: &Columns, row: &Row) -> Result<More, CallError> {
    set.push(room, columns, |index, out| {
        let column = &row.columns()[index];
        let undecodable = |fault| errors::undecodable(column.name(), &fault, Progress::Harmless);
        match row.try_get::<_, Option<Raw<'_>>>(index) {
            Ok(Some(Raw(raw))) => write_value(out, column.type_(), raw).map_err(undecodable),
            Ok(None) => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            Err(_) => Err(undecodable(decode::Undecodable::Bytes)),
        }
    })
}
