//! One connection to a server: how it is made, what is sent and read.

use bytes::BytesMut;
use integration_model::{ErrorCode, Problem};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::config::{Login, RedisConfig};
use super::errors::{refused, unreadable};
use super::resp::{Decoder, Refusal, Reply, Unreadable, encode};
use crate::adapter::server::config::unusable;
use crate::adapter::server::failure::{Progress, bounded, lost, timed_out};
use crate::adapter::server::pool::Keep;
use crate::adapter::{CallError, Connection};
use crate::network::NetworkStream;

/// What a server may say of itself.
const MAX_GREETING: usize = 64 << 10;
const READ_SIZE: usize = 16 << 10;

pub(super) struct Session {
    stream: NetworkStream,
    buffer: BytesMut,
    decoder: Decoder,
    /// Whether each command that was sent has its answer, so that another call can use it.
    is_settled: bool,
    /// What the server says it is.
    pub(super) version: Option<String>,
}

impl Keep for Session {
    fn is_usable(&self) -> bool {
        // A server that closes, or says what nobody asked for, has made the stream readable.
        self.is_settled && self.buffer.is_empty() && self.stream.is_quiet()
    }
}

/// Why there are no replies.
pub(super) struct Failure {
    pub(super) error: CallError,
    /// Whether the server closed the connection before it answered anything.
    pub(super) was_closed: bool,
}

impl Session {
    pub(super) async fn open(connection: &Connection<'_>, config: &RedisConfig) -> Result<Self, CallError> {
        let network = connection.network();
        let profile = config.tls.profile(&config.host, connection.credential).map_err(|problem| unusable(&problem))?;
        let tls = profile
            .map(|profile| network.tls_config(Some(&profile), &[]))
            .transpose()
            .map_err(|error| unusable(&Problem::new("/tls", error.to_string())))?;
        let login = Login::of(connection.credential).map_err(|problem| {
            CallError::not_sent(ErrorCode::Auth, format!("the credential cannot be used: {}", problem.message))
        })?;
        let deadline = connection.deadline.min(Instant::now() + network.connect_timeout());
        let stream = network.connect(&config.host, config.port, tls, deadline).await?;
        let mut session =
            Self { stream, buffer: BytesMut::new(), decoder: Decoder::default(), is_settled: true, version: None };
        let introducing = session.introduce(config, login.as_ref());
        match timeout_at(deadline, introducing).await {
            Ok(introduced) => introduced.map(|()| session),
            Err(_) => Err(timed_out(Progress::Harmless, "connecting")),
        }
    }

    /// Says who calls, and where to.
    async fn introduce(&mut self, config: &RedisConfig, login: Option<&Login<'_>>) -> Result<(), CallError> {
        // Large enough to stay where it is: a buffer that grows leaves its old one behind.
        let mut text = Zeroizing::new(Vec::with_capacity(READ_SIZE));
        let mut sent = 0;
        let mut send = |arguments: &[&str]| {
            encode(arguments, &mut text);
            sent += 1;
        };
        let password = login.map(|login| (login.user, login.password.expose_secret()));
        match (config.protocol, password) {
            (2, None) => {}
            // Servers before Redis 6 know no users.
            (2, Some(("default", password))) => send(&["AUTH", password]),
            (2, Some((user, password))) => send(&["AUTH", user, password]),
            (_, None) => send(&["HELLO", "3"]),
            (_, Some((user, password))) => send(&["HELLO", "3", "AUTH", user, password]),
        }
        let has_greeting = config.protocol != 2 || password.is_some();
        if config.database != 0 {
            send(&["SELECT", &config.database.to_string()]);
        }
        let replies = self.exchange(&text, sent, MAX_GREETING, Progress::Harmless).await;
        for (index, reply) in replies.map_err(|failure| failure.error)?.into_iter().enumerate() {
            match reply {
                Reply::Error(refusal) if index == 0 && has_greeting => return Err(greeting_refused(&refusal, login)),
                Reply::Error(refusal) => return Err(refused(&refusal)),
                Reply::Map(items) => self.version = version(&items),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends commands and reads as many replies. `progress` says what a failure on the way means.
    pub(super) async fn exchange(
        &mut self,
        commands: &[u8],
        count: usize,
        max_bytes: usize,
        progress: Progress,
    ) -> Result<Vec<Reply>, Failure> {
        let failure = |error| Failure { error, was_closed: false };
        self.is_settled = false;
        let mut replies = Vec::new();
        let mut received = 0_usize;
        // A server may answer the first of many commands before it takes the last: both ways
        // go on side by side.
        let mut unsent = commands;
        while replies.len() < count {
            match self.decoder.decode(&mut self.buffer, max_bytes) {
                Ok(Some(reply)) => {
                    replies.push(reply);
                    continue;
                }
                Ok(None) => {}
                Err(fault) => return Err(failure(unreadable(fault, progress))),
            }
            if received > max_bytes {
                return Err(failure(unreadable(Unreadable::TooLarge, progress)));
            }
            let step = self.step(unsent).await;
            match step {
                Ok(Step::Sent(bytes)) => unsent = &unsent[bytes..],
                Ok(Step::Received(bytes @ 1..)) => received += bytes,
                Ok(Step::Received(0)) | Err(_) => {
                    return Err(Failure { error: lost(progress), was_closed: received == 0 });
                }
            }
        }
        self.is_settled = unsent.is_empty() && self.decoder.is_between_replies();
        Ok(replies)
    }

    /// Sends some, or receives some.
    async fn step(&mut self, unsent: &[u8]) -> std::io::Result<Step> {
        self.buffer.reserve(READ_SIZE);
        if unsent.is_empty() {
            self.stream.flush().await?;
            return Ok(Step::Received(self.stream.read_buf(&mut self.buffer).await?));
        }
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        tokio::select! {
            biased;
            sent = writer.write(unsent) => match sent? {
                0 => Err(std::io::ErrorKind::WriteZero.into()),
                bytes => Ok(Step::Sent(bytes)),
            },
            received = reader.read_buf(&mut self.buffer) => Ok(Step::Received(received?)),
        }
    }
}

enum Step {
    Sent(usize),
    Received(usize),
}

/// Why a connection was not let in.
fn greeting_refused(refusal: &Refusal, login: Option<&Login<'_>>) -> CallError {
    if refusal.code == "NOPROTO" || refusal.message.starts_with("unknown command") {
        let message = "the server does not speak RESP 3: set protocol to 2 in the instance's config";
        return CallError { effect: crate::adapter::Effect::None, ..CallError::not_sent(ErrorCode::Upstream, message) };
    }
    // Servers without users refuse a password in words of their own.
    let is_about_login = login.is_some() && refusal.code == "ERR";
    let code = if is_about_login { "WRONGPASS".to_owned() } else { refusal.code.clone() };
    refused(&Refusal { code, message: refusal.message.clone() })
}

fn version(items: &[Reply]) -> Option<String> {
    let text = |reply: &Reply| match reply {
        Reply::Bulk(bytes) | Reply::Simple(bytes) => Some(bounded(&String::from_utf8_lossy(bytes))),
        _ => None,
    };
    items.chunks_exact(2).find(|pair| text(&pair[0]).as_deref() == Some("version")).and_then(|pair| text(&pair[1]))
}
