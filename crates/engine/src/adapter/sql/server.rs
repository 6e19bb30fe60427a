//! Databases that are servers: what they have in common, whatever they speak. Calls lease a
//! session, work on it in one transaction, and give it back where it is as it was.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::AuthType;
use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::config::{CONFIG_SCHEMA, ServerConfig, fingerprint, unusable};
use super::error::{Progress, bounded, timed_out};
use super::output::RowSet;
use super::pool::{Keep, Lease, Pools};
use super::{Database, DatabaseDescription, Dialect, Done, Job};
use crate::adapter::{CallError, Connection};
use crate::network::TlsProfile;

/// How long telling a server to cancel may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection to a server.
pub(super) trait Session: Keep + Sync + Sized {
    const TYPE: &'static str;
    /// The server's name for people.
    const NAME: &'static str;
    const DESCRIPTION: &'static str;
    const DIALECT: Dialect;

    /// Connects before `deadline`.
    fn open(
        connection: &Connection<'_>,
        config: &ServerConfig,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self, CallError>> + Send;

    /// Makes all statements in one transaction; says through `doubt` from when on nobody knows
    /// whether something was changed until the answer is there.
    fn work(
        &mut self,
        job: &Job<'_>,
        statement_timeout: Duration,
        doubt: &Doubt,
    ) -> impl Future<Output = Result<Vec<RowSet>, Failed>> + Send;

    /// Whether no transaction is open, so that another call can use it.
    fn is_settled(&self) -> bool;

    /// What has the server stop what it does for this session.
    fn canceller(&self) -> Canceller;

    /// Asks the server something that changes nothing.
    fn version(&mut self) -> impl Future<Output = Result<String, CallError>> + Send;
}

/// Why a call failed, and whether it had begun.
pub(super) enum Failed {
    NotBegun(CallError),
    Begun(CallError),
}

/// Whether what was sent may have been done without an answer that says so.
#[derive(Default)]
pub(super) struct Doubt(AtomicBool);

impl Doubt {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> Progress {
        if self.0.load(Ordering::Relaxed) { Progress::MayHaveChanged } else { Progress::Harmless }
    }
}

pub(super) type Canceller = Box<dyn FnOnce(Instant) -> BoxFuture<'static, ()> + Send>;

/// Has the server stop a call that nobody waits for any longer, unless it is disarmed.
struct CancelOnDrop(Option<Canceller>);

impl CancelOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let (Some(cancel), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            let deadline = Instant::now() + CANCEL_TIMEOUT;
            // Where it fails, the statement's own timeout ends it.
            runtime.spawn(timeout_at(deadline, cancel(deadline)));
        }
    }
}

/// Calls statements of servers that are reached by sessions of one kind.
pub(super) struct DatabaseServer<S: Session> {
    pools: Pools<S>,
    session: PhantomData<S>,
}

impl<S: Session> Default for DatabaseServer<S> {
    fn default() -> Self {
        Self { pools: Pools::new(S::TYPE), session: PhantomData }
    }
}

impl<S: Session> DatabaseServer<S> {
    async fn run_on(
        &self,
        lease: &mut Lease<S>,
        connection: &Connection<'_>,
        config: &ServerConfig,
        job: &Job<'_>,
    ) -> Result<Vec<RowSet>, CallError> {
        let statement_timeout = config.statement_timeout(job.statement_timeout);
        loop {
            let was_kept = lease.connection().is_some();
            let session = match lease.connection() {
                Some(session) => session,
                None => lease.opened(open(connection, config).await?),
            };
            let doubt = Doubt::default();
            let cancel = CancelOnDrop(Some(session.canceller()));
            let Ok(worked) = timeout_at(connection.deadline, session.work(job, statement_timeout, &doubt)).await else {
                return Err(timed_out(doubt.progress(), "waiting for the answer"));
            };
            // A session that is left in the middle is closed; the server need not go on.
            if session.is_settled() || !session.is_usable() {
                cancel.disarm();
            }
            match worked {
                Ok(sets) => return Ok(sets),
                // The server closed a connection that was kept: nothing has happened yet.
                Err(Failed::NotBegun(_)) if was_kept => lease.discard(),
                Err(Failed::NotBegun(error) | Failed::Begun(error)) => return Err(error),
            }
        }
    }
}

async fn open<S: Session>(connection: &Connection<'_>, config: &ServerConfig) -> Result<S, CallError> {
    let deadline = connection.deadline.min(Instant::now() + connection.network().connect_timeout());
    let opening = timeout_at(deadline, S::open(connection, config, deadline));
    opening.await.unwrap_or_else(|_| Err(timed_out(Progress::Harmless, "connecting")))
}

/// The TLS profile of a connection that has one.
pub(super) fn tls_profile(
    connection: &Connection<'_>,
    config: &ServerConfig,
) -> Result<Option<Arc<TlsProfile>>, CallError> {
    config.tls_profile(connection.credential).map_err(|problem| unusable(&problem))
}

/// The same as a configuration.
pub(super) fn tls_config(
    connection: &Connection<'_>,
    config: &ServerConfig,
) -> Result<Option<Arc<ClientConfig>>, CallError> {
    tls_profile(connection, config)?
        .map(|profile| connection.network().tls_config(Some(&profile), &[]))
        .transpose()
        .map_err(|error| unusable(&Problem::new("/tls", error.to_string())))
}

impl<S: Session> Database for DatabaseServer<S> {
    const TYPE: &'static str = S::TYPE;

    fn describe(&self) -> DatabaseDescription {
        DatabaseDescription {
            dialect: S::DIALECT,
            text: S::DESCRIPTION,
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
            let pool = self.pools.of(connection.instance, fingerprint(&connection), config.pool);
            let mut lease = pool.acquire(connection.network().egress_policy(), connection.deadline).await?;
            let result = self.run_on(&mut lease, &connection, &config, &job).await;
            if lease.connection().is_some_and(|session| session.is_settled()) {
                lease.keep();
            }
            result.map(Done)
        })
    }

    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move {
            let config = ServerConfig::read(&connection)?;
            let mut session: S = open(&connection, &config).await?;
            let asked = timeout_at(connection.deadline, session.version()).await;
            let version = asked.unwrap_or_else(|_| Err(timed_out(Progress::Harmless, "waiting for the answer")))?;
            Ok(format!("{} {} answered", S::NAME, bounded(&version)))
        })
    }
}
