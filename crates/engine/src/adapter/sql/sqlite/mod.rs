//! SQLite: files below one folder that the operator named, and nothing else.

mod config;
mod session;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::definition::AuthType;
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::config::fingerprint;
use super::error::timed_out;
use super::output::RowSet;
use super::pool::{Lease, Pools};
use super::{Database, DatabaseDescription, Dialect, Done, Job};
use crate::adapter::{CallError, Connection};
use config::{CONFIG_SCHEMA, SqliteConfig};
use session::{SqliteSession, Turn, Work};

/// Calls statements of SQLite.
pub(super) struct Sqlite {
    /// None where the operator named none: then nothing is opened.
    folder: Option<PathBuf>,
    pools: Pools<SqliteSession>,
}

impl Sqlite {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, pools: Pools::new(Self::TYPE) }
    }

    /// Does something on a session, on a thread that may wait, before the deadline.
    async fn with_session<T: Send + 'static>(
        &self,
        connection: &Connection<'_>,
        config: &SqliteConfig,
        limit: Instant,
        work: impl FnOnce(&mut SqliteSession, &Turn) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, CallError> {
        let place = config.place(self.folder.as_deref())?;
        let pool = self.pools.of(connection.instance, fingerprint(connection), config.pool);
        let lease = pool.acquire(connection.network().egress_policy(), limit).await?;
        let turn = Arc::new(Turn::default());
        let stop = StopOnDrop(Arc::clone(&turn));
        let (theirs, read_only) = (Arc::clone(&turn), config.is_read_only());
        // The lease goes along: the connection counts as long as it is at work, also where
        // nobody waits any longer.
        let working = tokio::task::spawn_blocking(move || {
            let mut lease: Lease<SqliteSession> = lease;
            let session = match lease.connection() {
                Some(session) => session,
                None => lease.opened(SqliteSession::open(&place.path()?, read_only)?),
            };
            theirs.begin(session.interrupt_handle());
            let result = work(session, &theirs);
            theirs.end();
            if session.is_settled() {
                lease.keep();
            }
            result
        });
        let outcome = timeout_at(limit, working).await;
        drop(stop);
        match outcome {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CallError::not_sent(ErrorCode::Internal, "the database call came to no end")),
            Err(_) => Err(timed_out(turn.progress(), "waiting for the answer")),
        }
    }
}

/// Ends what nobody waits for any longer.
struct StopOnDrop(Arc<Turn>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Database for Sqlite {
    const TYPE: &'static str = "sqlite";

    fn describe(&self) -> DatabaseDescription {
        DatabaseDescription {
            dialect: Dialect::Sqlite,
            text: "SQLite files below the operator's folder: declared statements with typed params, transactions",
            auth_types: &[AuthType::None],
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        SqliteConfig::check(config)
    }

    fn run<'a>(&'a self, connection: Connection<'a>, job: Job<'a>) -> BoxFuture<'a, Result<Done, CallError>> {
        Box::pin(async move {
            let config = SqliteConfig::read(&connection)?;
            let limit = connection.deadline.min(Instant::now() + config.statement_timeout(job.statement_timeout));
            let work = Work::of(job);
            let sets: Vec<RowSet> =
                self.with_session(&connection, &config, limit, move |session, turn| session.work(work, turn)).await?;
            Ok(Done(sets))
        })
    }

    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move {
            let config = SqliteConfig::read(&connection)?;
            self.with_session(&connection, &config, connection.deadline, |session, _| session.version()).await
        })
    }
}
