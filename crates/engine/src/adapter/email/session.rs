//! One connection to a mail server: how it is made, and one command after the other.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use integration_model::{ErrorCode, Problem};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::config::{EmailConfig, Login, TlsMode};
use super::reply::{MAX_LINE, Reply, ReplyReader};
use crate::adapter::server::config::unusable;
use crate::adapter::server::failure::{Progress, lost, malformed, timed_out};
use crate::adapter::server::pool::Keep;
use crate::adapter::{CallError, Connection};
use crate::network::NetworkStream;

pub(super) struct Session {
    stream: NetworkStream,
    buffer: BytesMut,
    /// What the server offers, in upper case: `AUTH PLAIN LOGIN`.
    extensions: Vec<String>,
    /// Whether no message is on its way, so that another can begin.
    pub(super) is_settled: bool,
}

impl Keep for Session {
    fn is_usable(&self) -> bool {
        self.is_settled && self.buffer.is_empty() && self.stream.is_quiet()
    }
}

impl Session {
    pub(super) async fn open(connection: &Connection<'_>, config: &EmailConfig) -> Result<Self, CallError> {
        let network = connection.network();
        let login = config.login(connection.credential)?;
        let profile = config.profile(connection.credential).map_err(|problem| unusable(&problem))?;
        let tls = network
            .tls_config(Some(&profile), &[])
            .map_err(|error| unusable(&Problem::new("/tls", error.to_string())))?;
        let mode = config.tls_mode();
        let deadline = connection.deadline.min(Instant::now() + network.connect_timeout());
        let at_once = (mode == TlsMode::Implicit).then(|| tls.clone());
        let stream = network.connect(&config.host, config.port(), at_once, deadline).await?;
        let mut session = Self { stream, buffer: BytesMut::new(), extensions: Vec::new(), is_settled: true };
        let introducing = async {
            let greeting = session.reply(Progress::Harmless).await?;
            if greeting.code != 220 {
                return Err(greeting.refusal("the connection"));
            }
            session.hello(config).await?;
            if mode == TlsMode::StartTls {
                session.offers_tls()?;
                let ready = session.command("STARTTLS", Progress::Harmless).await?;
                if ready.code != 220 {
                    return Err(ready.refusal("STARTTLS"));
                }
                // What came before TLS does not count as said within it.
                let NetworkStream::Plain(tcp) = session.stream else { return Err(lost(Progress::Harmless)) };
                if !session.buffer.is_empty() {
                    return Err(malformed(Progress::Harmless, "it said something between STARTTLS and TLS"));
                }
                let secured = network.start_tls(&config.host, tcp, tls, deadline).await?;
                session.stream = NetworkStream::Tls(Box::new(secured));
                session.hello(config).await?;
            }
            if let Some(login) = &login {
                session.log_in(login).await?;
            }
            Ok(session)
        };
        timeout_at(deadline, introducing).await.unwrap_or_else(|_| Err(timed_out(Progress::Harmless, "connecting")))
    }

    async fn hello(&mut self, config: &EmailConfig) -> Result<(), CallError> {
        let hello = self.command(&format!("EHLO {}", config.helo_name), Progress::Harmless).await?;
        if hello.code != 250 {
            return Err(hello.refusal("the greeting"));
        }
        self.extensions = hello.lines.iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    fn offers_tls(&self) -> Result<(), CallError> {
        if self.extension("STARTTLS").is_some() {
            return Ok(());
        }
        let message =
            "the mail server does not offer STARTTLS, and no mail is sent without TLS unless tls.mode says so";
        Err(CallError { upstream_failed: true, ..CallError::not_sent(ErrorCode::Upstream, message) })
    }

    /// What stands behind the name of an extension that the server offers.
    pub(super) fn extension(&self, name: &str) -> Option<&str> {
        // Older servers write AUTH=PLAIN.
        self.extensions.iter().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix([' ', '=']) }
        })
    }

    async fn log_in(&mut self, login: &Login<'_>) -> Result<(), CallError> {
        let offered = self.extension("AUTH").unwrap_or_default();
        let offers = |name: &str| offered.split(' ').any(|mechanism| mechanism == name);
        let harmless = Progress::Harmless;
        let reply = match login {
            Login::Password { user, password } if offers("PLAIN") => {
                let text = Zeroizing::new(format!("\0{user}\0{}", password.expose_secret()));
                self.secret_command("AUTH PLAIN ", &text).await?
            }
            Login::Password { user, password } if offers("LOGIN") => {
                let asked = self.command("AUTH LOGIN", harmless).await?;
                if asked.code != 334 {
                    return Err(asked.refusal("the login"));
                }
                let asked = self.secret_command("", user).await?;
                if asked.code != 334 {
                    return Err(asked.refusal("the login"));
                }
                self.secret_command("", password.expose_secret()).await?
            }
            Login::Token { user, token } if offers("XOAUTH2") => {
                let text = Zeroizing::new(format!("user={user}\u{1}auth=Bearer {}\u{1}\u{1}", token.expose_secret()));
                match self.secret_command("AUTH XOAUTH2 ", &text).await? {
                    // It tells what is wrong, and refuses after an empty answer.
                    fault if fault.code == 334 => self.command("", harmless).await?,
                    reply => reply,
                }
            }
            _ => {
                let message = "the mail server offers no way to log in with this credential: \
                               AUTH PLAIN or LOGIN with a password, XOAUTH2 with a token";
                return Err(CallError::not_sent(ErrorCode::Upstream, message));
            }
        };
        if reply.code == 235 { Ok(()) } else { Err(reply.refusal("the login")) }
    }

    /// Sends a command and reads its reply. `progress` says what a failure on the way means.
    pub(super) async fn command(&mut self, line: &str, progress: Progress) -> Result<Reply, CallError> {
        self.send(format!("{line}\r\n").as_bytes()).await.map_err(|_| lost(progress))?;
        self.reply(progress).await
    }

    /// Sends a secret in base64 after a command.
    async fn secret_command(&mut self, command: &str, secret: &str) -> Result<Reply, CallError> {
        let encoded = Zeroizing::new(STANDARD.encode(secret));
        let line = Zeroizing::new(format!("{command}{}\r\n", *encoded));
        self.send(line.as_bytes()).await.map_err(|_| lost(Progress::Harmless))?;
        self.reply(Progress::Harmless).await
    }

    /// Sends a message up to its end, not the end itself.
    pub(super) async fn content(&mut self, message: &[u8]) -> Result<(), CallError> {
        self.send(&stuffed(message)).await.map_err(|_| lost(Progress::Harmless))
    }

    /// Ends a message: from here on, the server may have taken it.
    pub(super) async fn end(&mut self) -> Result<Reply, CallError> {
        self.command(".", Progress::MayHaveChanged).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn reply(&mut self, progress: Progress) -> Result<Reply, CallError> {
        let mut reader = ReplyReader::default();
        loop {
            let line = self.line(progress).await?;
            let reply = reader.take(&line).map_err(|_| malformed(progress, "it is not SMTP"))?;
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
    }

    /// A line without its end.
    async fn line(&mut self, progress: Progress) -> Result<BytesMut, CallError> {
        loop {
            if let Some(end) = self.buffer.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.ends_with(b"\r") {
                    line.truncate(end - 1);
                }
                return Ok(line);
            }
            if self.buffer.len() >= MAX_LINE {
                return Err(malformed(progress, "a line of it has no end"));
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(lost(progress)),
            }
        }
    }
}

/// A message as DATA carries it: lines end in CRLF, and a dot at the beginning of one is
/// written twice.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let lines = message.strip_suffix(b"\n").unwrap_or(message);
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b".") {
            out.push(b'.');
        }
        // A line break of half is none.
        out.extend(line.iter().filter(|byte| **byte != b'\r'));
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_end_before_its_end() {
        for (message, expected) in [
            ("a\r\n.\r\nb", "a\r\n..\r\nb\r\n"),
            ("a\n.\nb\n", "a\r\n..\r\nb\r\n"),
            ("a\r.\r\nb\r", "a.\r\nb\r\n"),
            (".", "..\r\n"),
            ("a\r\n\r\n", "a\r\n\r\n"),
        ] {
            assert_eq!(String::from_utf8(stuffed(message.as_bytes())).expect("text"), expected, "{message:?}");
        }
    }
}
