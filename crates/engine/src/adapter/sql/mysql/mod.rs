//! MySQL and MariaDB.

mod errors;
mod values;

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, IsolationLevel, Opts, OptsBuilder, Row, SslOpts, Transaction, TxOpts};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout};

use super::config::ServerConfig;
use super::output::{Columns, More, Room, RowSet};
use super::server::{Canceller, DatabaseServer, Doubt, Failed, Session, tls_profile};
use super::spec::{Isolation, Shape};
use super::{Dialect, Job, Step};
use crate::adapter::server::failure::{Progress, malformed};
use crate::adapter::server::pool::Keep;
use crate::adapter::{CallError, Connection};
use errors::call_error;
use values::{bound, write_value};

const PORT: u16 = 3306;
/// The largest message of a server, whatever an operation's `maxBytes`.
const MAX_PACKET: usize = 72 << 20;
/// How long a connection takes leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many rows are read to the end and left out, so that the connection can be kept.
const SPARE_ROWS: usize = 256;

/// Calls statements of MySQL and MariaDB.
pub(super) type MySql = DatabaseServer<MySqlSession>;

/// One connection, with what the server was told.
pub(super) struct MySqlSession {
    connection: Closing,
    options: Opts,
    is_mariadb: bool,
    version: String,
    statement_timeout: Option<Duration>,
    read_only: Option<bool>,
    is_settled: bool,
}

/// A connection that is closed within a bounded time. By itself it would read what is left of its
/// answers first, and go on with a server that stopped midway for as long as there is one.
struct Closing(Option<Conn>);

impl Deref for Closing {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.0.as_ref().expect("the connection is there until it is dropped")
    }
}

impl DerefMut for Closing {
    fn deref_mut(&mut self) -> &mut Conn {
        self.0.as_mut().expect("the connection is there until it is dropped")
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(timeout(CLOSE_TIMEOUT, connection.disconnect()));
        }
    }
}

impl Keep for MySqlSession {
    fn is_usable(&self) -> bool {
        !self.connection.is_disconnected()
    }
}

impl Session for MySqlSession {
    const TYPE: &'static str = "mysql";
    const NAME: &'static str = "The server";
    const DESCRIPTION: &'static str =
        "MySQL and MariaDB: declared statements with typed params, transactions, limits of answers";
    const DIALECT: Dialect = Dialect::MySql;

    async fn open(connection: &Connection<'_>, config: &ServerConfig, deadline: Instant) -> Result<Self, CallError> {
        let options = options(connection, config, deadline).await?;
        let failed = |error| call_error(&error, Progress::Harmless);
        let mut connection = Closing(Some(Conn::new(options.clone()).await.map_err(failed)?));
        let version: Option<String> = connection.query_first("select version()").await.map_err(failed)?;
        let version = version.ok_or_else(|| malformed(Progress::Harmless, "it has no version"))?;
        Ok(Self {
            connection,
            options,
            is_mariadb: version.contains("MariaDB"),
            version,
            statement_timeout: None,
            read_only: None,
            is_settled: true,
        })
    }

    async fn work(&mut self, job: &Job<'_>, statement_timeout: Duration, doubt: &Doubt) -> Result<Vec<RowSet>, Failed> {
        self.is_settled = false;
        let not_begun = |error| Failed::NotBegun(call_error(&error, Progress::Harmless));
        self.prepare(job, statement_timeout).await.map_err(not_begun)?;
        let mut settings = TxOpts::new();
        settings.with_readonly(job.read_only).with_isolation_level(job.isolation.map(|isolation| match isolation {
            Isolation::ReadCommitted => IsolationLevel::ReadCommitted,
            Isolation::RepeatableRead => IsolationLevel::RepeatableRead,
            Isolation::Serializable => IsolationLevel::Serializable,
        }));
        let mut transaction = self.connection.start_transaction(settings).await.map_err(not_begun)?;
        // Not every table takes part in transactions, and some statements end them.
        if !job.read_only {
            doubt.begin();
        }
        let mut room = job.room();
        let mut sets = Vec::with_capacity(job.steps.len());
        for (index, step) in job.steps.iter().enumerate() {
            // The rest of the last rows need not be waited for: the connection is given up.
            let may_stop = job.read_only && index + 1 == job.steps.len();
            match make(&mut transaction, step, &mut room, job.json_columns, may_stop, doubt).await {
                Ok((set, is_read_to_the_end)) => {
                    sets.push(set);
                    if !is_read_to_the_end {
                        return Ok(sets);
                    }
                }
                Err(error) => {
                    self.is_settled = transaction.rollback().await.is_ok();
                    return Err(Failed::Begun(error));
                }
            }
        }
        transaction.commit().await.map_err(|error| Failed::Begun(call_error(&error, doubt.progress())))?;
        self.is_settled = true;
        Ok(sets)
    }

    fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn canceller(&self) -> Canceller {
        let (options, id) = (self.options.clone(), self.connection.id());
        Box::new(move |_| {
            Box::pin(async move {
                let Ok(connection) = Conn::new(options).await else { return };
                let _ = Closing(Some(connection)).query_drop(format!("kill query {id}")).await;
            })
        })
    }

    async fn version(&mut self) -> Result<String, CallError> {
        Ok(self.version.clone())
    }
}

impl MySqlSession {
    /// Tells the server what holds for the call, where it does not know it yet.
    async fn prepare(&mut self, job: &Job<'_>, statement_timeout: Duration) -> mysql_async::Result<()> {
        if self.statement_timeout != Some(statement_timeout) {
            let setting = if self.is_mariadb {
                format!("set session max_statement_time = {}", statement_timeout.as_secs_f64())
            } else {
                format!("set session max_execution_time = {}", statement_timeout.as_millis())
            };
            self.connection.query_drop(setting).await?;
            self.statement_timeout = Some(statement_timeout);
        }
        // Also for what goes on after a procedure has ended the transaction.
        if self.read_only != Some(job.read_only) {
            let mode = if job.read_only { "only" } else { "write" };
            self.connection.query_drop(format!("set session transaction read {mode}")).await?;
            self.read_only = Some(job.read_only);
        }
        Ok(())
    }
}

/// How the server is reached: at addresses that the egress policy lets through, and no others.
async fn options(connection: &Connection<'_>, config: &ServerConfig, deadline: Instant) -> Result<Opts, CallError> {
    let network = connection.network();
    let addresses = network.resolve(&config.host, deadline).await?;
    let login = config.login(connection.credential)?;
    let builder = OptsBuilder::default()
        .ip_or_hostname(config.host.clone())
        .resolved_ips(Some(addresses))
        .tcp_port(config.port.unwrap_or(PORT))
        .user(Some(login.user))
        .pass(login.password.as_ref().map(|password| password.expose_secret().to_owned()))
        .db_name(Some(config.database.clone()))
        // A server may say where its socket is: nothing is opened because it says so.
        .prefer_socket(false)
        .max_allowed_packet(Some(MAX_PACKET))
        .wait_timeout(Some(28_800))
        .client_found_rows(true)
        .init(vec!["set time_zone = '+00:00'".to_owned()])
        .ssl_opts(tls(connection, config)?);
    Ok(builder.into())
}

/// TLS with the same roots and certificates as everywhere.
fn tls(connection: &Connection<'_>, config: &ServerConfig) -> Result<Option<SslOpts>, CallError> {
    if tls_profile(connection, config)?.is_none() {
        return Ok(None);
    }
    let machine = connection.network().root_certificates();
    let own = config.ca_certificate().map(|pem| pem.as_bytes().to_vec());
    let roots = machine.iter().map(|certificate| certificate.to_vec()).chain(own).map(Into::into).collect();
    let identity = connection.credential.client_certificate().map(|client| {
        let (certificate, key) = client.pem();
        let key = key.expose_secret().as_bytes().to_vec();
        ClientIdentity::new(certificate.as_bytes().to_vec().into(), key.into())
    });
    Ok(Some(
        SslOpts::default()
            .with_disable_built_in_roots(!machine.is_empty())
            .with_root_certs(roots)
            .with_client_identity(identity),
    ))
}

/// Makes one statement and takes its rows. Says whether they were read to the end.
async fn make(
    transaction: &mut Transaction<'_>,
    step: &Step<'_>,
    room: &mut Room,
    json_columns: &[String],
    may_stop: bool,
    doubt: &Doubt,
) -> Result<(RowSet, bool), CallError> {
    let failed = |error| call_error(&error, doubt.progress());
    let values = step.prepared.types.iter().zip(&step.values).map(|(kind, value)| bound(*kind, value)).collect();
    let values =
        if step.values.is_empty() { mysql_async::Params::Empty } else { mysql_async::Params::Positional(values) };
    let mut result = transaction.exec_iter(step.prepared.statement.sql.as_str(), values).await.map_err(failed)?;
    let mut set = RowSet::new(step.prepared.shape);
    let columns = Columns::new(result.columns_ref().iter().map(|column| column.name_str().into_owned()))?;
    let mut is_full = step.prepared.shape == Shape::None;
    let mut spare = SPARE_ROWS;
    if !result.columns_ref().is_empty() {
        while let Some(row) = result.next().await.map_err(failed)? {
            set.affected += 1;
            if !is_full {
                is_full = push(&mut set, room, &columns, &row, json_columns)? == More::Full;
            } else if may_stop {
                spare -= 1;
                if spare == 0 {
                    return Ok((set, false));
                }
            }
        }
    }
    let affected = result.affected_rows();
    // Procedures give several results; the first one counts.
    result.drop_result().await.map_err(failed)?;
    set.affected = set.affected.max(affected);
    Ok((set, true))
}

fn push(
    set: &mut RowSet,
    room: &mut Room,
    columns: &Columns,
    row: &Row,
    json_columns: &[String],
) -> Result<More, CallError> {
    set.push(room, columns, |index, out| {
        let column = &row.columns_ref()[index];
        let Some(value) = row.as_ref(index) else { return Err(malformed(Progress::Harmless, "a row is too short")) };
        let is_json = json_columns.iter().any(|name| *name == column.name_str());
        if write_value(out, column, value, is_json) {
            Ok(())
        } else {
            let expected = if is_json { "JSON" } else { "of its type" };
            Err(malformed(Progress::Harmless, &format!("column {:?} is not {expected}", column.name_str())))
        }
    })
}
