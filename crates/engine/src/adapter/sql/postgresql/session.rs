//! One connection to PostgreSQL: how it is made, bounded, cancelled and closed.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::ClientConfig;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Statement};
use tokio_rustls::client::TlsStream as RustlsStream;

use super::super::config::ServerConfig;
use super::super::error::Progress;
use super::super::pool::Keep;
use super::super::server::{Canceller, tls_config};
use super::errors::call_error;
use crate::adapter::{CallError, Connection};
use crate::network::{Network, NetworkError, NetworkStream};

const PORT: u16 = 5432;
/// What a server may send beside rows: what it says at the beginning, notices, types.
const SLACK: i64 = 16 << 20;
/// How long a connection has to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection, with what is prepared on it.
pub(in crate::adapter::sql) struct PostgreSqlSession {
    pub(super) client: Client,
    pub(super) statements: HashMap<String, Statement>,
    /// What the server was told.
    pub(super) statement_timeout: Option<Duration>,
    /// Whether no transaction is open, so that another call can use it.
    pub(super) is_settled: bool,
    pub(super) budget: Arc<Budget>,
    door: Door,
    /// Dropped with the session, which ends the connection's task.
    _alive: oneshot::Sender<()>,
}

impl Keep for PostgreSqlSession {
    fn is_usable(&self) -> bool {
        !self.client.is_closed()
    }
}

/// How the server is reached, also to cancel.
#[derive(Clone)]
struct Door {
    network: Arc<Network>,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl PostgreSqlSession {
    pub(super) async fn connect(
        connection: &Connection<'_>,
        config: &ServerConfig,
        deadline: Instant,
    ) -> Result<Self, CallError> {
        let login = config.login(connection.credential)?;
        let door = Door {
            network: Arc::clone(connection.network()),
            host: config.host.clone(),
            port: config.port.unwrap_or(PORT),
            tls: tls_config(connection, config)?,
        };
        let mut settings = Config::new();
        settings.user(&login.user).dbname(&config.database).application_name("integration-service");
        settings.ssl_mode(if door.tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &login.password {
            settings.password(password.expose_secret());
        }
        let stream = door.network.connect(&door.host, door.port, None, deadline).await?;
        let budget = Arc::new(Budget(AtomicI64::new(SLACK)));
        let stream = Bounded { stream, budget: Arc::clone(&budget) };
        let connected = settings.connect_raw(stream, door.handshake(deadline)).await;
        let (client, connection) = connected.map_err(|error| connect_error(&error, &budget))?;
        let (alive, gone) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                _ = gone => {}
            }
            let _ = timeout(CLOSE_TIMEOUT, connection).await;
        });
        let session = Self {
            client,
            statements: HashMap::new(),
            statement_timeout: None,
            is_settled: true,
            budget,
            door,
            _alive: alive,
        };
        // Times are told in UTC, and nobody reads notices.
        let setting = session.client.batch_execute("set time zone 'UTC'; set client_min_messages = error").await;
        setting.map_err(|error| session.budget.error(&error, Progress::Harmless))?;
        Ok(session)
    }

    /// Has the server stop what it does for this session.
    pub(super) fn cancel(&self) -> Canceller {
        let (token, door) = (self.client.cancel_token(), self.door.clone());
        Box::new(move |deadline| {
            Box::pin(async move {
                let Ok(stream) = door.network.connect(&door.host, door.port, None, deadline).await else { return };
                let stream = Bounded { stream, budget: Arc::new(Budget(AtomicI64::new(SLACK))) };
                let _ = token.cancel_query_raw(stream, door.handshake(deadline)).await;
            })
        })
    }
}

/// A failure to connect: of TLS, of the login, or of what the server says.
fn connect_error(error: &tokio_postgres::Error, budget: &Budget) -> CallError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(network) = cause.downcast_ref::<NetworkError>() {
            return network.into();
        }
        source = cause.source();
    }
    budget.error(error, Progress::Harmless)
}

/// How many bytes may still come.
pub(super) struct Budget(AtomicI64);

impl Budget {
    /// Lets the server send this much for a call, and what it needs besides.
    pub(super) fn allow(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        self.0.store(bytes.saturating_mul(2).saturating_add(SLACK), Ordering::Relaxed);
    }

    /// What an error of the library means, also where it is this budget's doing.
    pub(super) fn error(&self, error: &tokio_postgres::Error, progress: Progress) -> CallError {
        call_error(error, progress, self.is_spent())
    }

    fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) < 0
    }
}

/// A connection that brings no more than its budget: one message of the server may claim a
/// length of gigabytes.
pub(super) struct Bounded {
    stream: NetworkStream,
    budget: Arc<Budget>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.budget.is_spent() {
            return Poll::Ready(Err(io::Error::other("the server sent more than was allowed")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = i64::try_from(buf.filled().len() - before).unwrap_or(i64::MAX);
        self.budget.0.fetch_sub(read, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Door {
    fn handshake(&self, deadline: Instant) -> Handshake {
        Handshake { door: self.clone(), deadline }
    }
}

/// The way from PostgreSQL's own start to TLS.
struct Handshake {
    door: Door,
    deadline: Instant,
}

impl TlsConnect<Bounded> for Handshake {
    type Stream = Tls;
    type Error = NetworkError;
    type Future = BoxFuture<'static, Result<Tls, NetworkError>>;

    fn connect(self, stream: Bounded) -> Self::Future {
        let Self { door, deadline } = self;
        Box::pin(async move {
            // It is asked for TLS only where there is a configuration for it.
            let config = door.tls.ok_or(NetworkError::TimedOut)?;
            door.network.start_tls(&door.host, stream, config, deadline).await.map(|stream| Tls(Box::new(stream)))
        })
    }
}

/// TLS as the library asks for it.
pub(super) struct Tls(Box<RustlsStream<Bounded>>);

impl TlsStream for Tls {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
