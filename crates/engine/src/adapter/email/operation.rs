//! One operation, compiled: from a call to a message, from replies to what became of it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::ErrorCode;
use lettre::Address;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::EmailPools;
use super::config::EmailConfig;
use super::message::Letter;
use super::reply::Reply;
use super::session::Session;
use super::spec::Plan;
use crate::adapter::server::config::{fingerprint, unusable};
use crate::adapter::server::failure::{Progress, timed_out};
use crate::adapter::{Answer, Call, CallError, Connection, Effect, Operation, UpstreamLimits};
use crate::data::Data;

pub(super) struct EmailOperation {
    plan: Plan,
    pools: Arc<EmailPools>,
}

/// A message that is ready to go.
struct Mail {
    from: Address,
    recipients: Vec<Address>,
    message_id: String,
    text: Vec<u8>,
}

/// Why a message is not on its way.
struct Failed {
    error: CallError,
    /// Whether the connection ended before the server took the sender.
    was_closed: bool,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self { error, was_closed: false }
    }
}

impl EmailOperation {
    pub(super) fn new(plan: Plan, pools: Arc<EmailPools>) -> Self {
        Self { plan, pools }
    }

    fn letter(&self, call: &Call<'_>, config: &EmailConfig) -> Result<Letter, CallError> {
        let sender = config.sender().map_err(|problem| unusable(&problem))?;
        // One caller's key may be another's too.
        let key = format!("{}/{}", call.connection.instance, call.idempotency_key);
        self.plan.letter(call.params, sender, &key)
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let config = EmailConfig::read(&call.connection)?;
        let letter = self.letter(&call, &config)?;
        let mail = Mail {
            from: letter.from.email.clone(),
            recipients: letter.recipients().into_iter().cloned().collect(),
            message_id: letter.message_id.clone(),
            text: letter.write(self.plan.max_message_bytes)?,
        };
        let data = self.send(&call.connection, &config, &mail).await?;
        Ok(Answer {
            data: Data::from_value(data),
            upstream_status: None,
            next_page: None,
            limits: UpstreamLimits::default(),
            warnings: Vec::new(),
        })
    }

    async fn send(&self, connection: &Connection<'_>, config: &EmailConfig, mail: &Mail) -> Result<Value, CallError> {
        let pool = self.pools.of(connection.instance, fingerprint(connection), config.pool);
        let mut lease = pool.acquire(connection.network().egress_policy(), connection.deadline).await?;
        loop {
            let was_kept = lease.connection().is_some();
            let session = match lease.connection() {
                Some(session) => session,
                None => lease.opened(Session::open(connection, config).await?),
            };
            let mut progress = Progress::Harmless;
            let result = match timeout_at(connection.deadline, deliver(session, mail, &mut progress)).await {
                Ok(result) => result,
                Err(_) => return Err(timed_out(progress, "waiting for the answer")),
            };
            let is_settled = session.is_settled;
            match result {
                // Servers end connections that were long unused, or that have sent enough.
                Err(Failed { was_closed: true, .. }) if was_kept => lease.discard(),
                result => {
                    if is_settled {
                        lease.keep();
                    }
                    return result.map_err(|Failed { error, .. }| error);
                }
            }
        }
    }
}

/// Sends a message; what became of it for each recipient.
async fn deliver(session: &mut Session, mail: &Mail, progress: &mut Progress) -> Result<Value, Failed> {
    let harmless = Progress::Harmless;
    let line = mail_from(session, mail)?;
    session.is_settled = false;
    let reply = session.command(&line, harmless).await.map_err(|error| Failed { error, was_closed: true })?;
    if reply.code != 250 {
        let refusal = reply.refusal("the sender");
        return Err(Failed { error: refusal, was_closed: reply.code == 421 });
    }
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for recipient in &mail.recipients {
        let reply = session.command(&format!("RCPT TO:<{recipient}>"), harmless).await?;
        match reply.code {
            250..=252 => accepted.push(recipient.to_string()),
            421 => return Err(Failed::from(reply.refusal("the connection"))),
            _ => rejected.push((recipient, reply)),
        }
    }
    let told = |rejected: &[(&Address, Reply)]| -> Vec<Value> {
        rejected.iter().map(|(address, reply)| rejection(address, reply)).collect()
    };
    if accepted.is_empty() {
        session.is_settled = session.command("RSET", harmless).await.is_ok_and(|reply| reply.code == 250);
        return Err(Failed::from(all_rejected(&rejected).with_detail("rejected", told(&rejected))));
    }
    let reply = session.command("DATA", harmless).await?;
    if reply.code != 354 {
        return Err(Failed::from(reply.refusal("the message")));
    }
    session.content(&mail.text).await?;
    *progress = Progress::MayHaveChanged;
    let reply = session.end().await?;
    session.is_settled = reply.code != 421;
    if !reply.is_positive() {
        return Err(Failed::from(reply.refusal("the message")));
    }
    Ok(json!({
        "messageId": mail.message_id, "accepted": accepted, "rejected": told(&rejected), "response": reply.as_json(),
    }))
}

/// The first command, with what the server has to know before.
fn mail_from(session: &Session, mail: &Mail) -> Result<String, CallError> {
    let mut line = format!("MAIL FROM:<{}>", mail.from);
    if let Some(limit) = session.extension("SIZE") {
        let size = mail.text.len();
        if limit.parse::<usize>().is_ok_and(|limit| limit > 0 && size > limit) {
            let message = format!("the message has {size} bytes, and the mail server takes {limit}");
            return Err(CallError::not_sent(ErrorCode::PayloadTooLarge, message));
        }
        line.push_str(&format!(" SIZE={size}"));
    }
    let needs = |what: &str| {
        let message = format!("the mail server does not offer {what}, which this message needs");
        CallError::not_sent(ErrorCode::Upstream, message)
    };
    if !mail.text.is_ascii() {
        session.extension("8BITMIME").ok_or_else(|| needs("8BITMIME"))?;
        line.push_str(" BODY=8BITMIME");
    }
    let mut addresses = std::iter::once(&mail.from).chain(&mail.recipients);
    if addresses.any(|address| !address.to_string().is_ascii()) {
        session.extension("SMTPUTF8").ok_or_else(|| needs("SMTPUTF8"))?;
        line.push_str(" SMTPUTF8");
    }
    Ok(line)
}

fn rejection(address: &Address, reply: &Reply) -> Value {
    let mut told = reply.as_json();
    told["address"] = json!(address.to_string());
    told["retriable"] = json!(reply.is_transient());
    told
}

/// Nobody gets the message. Another try helps where it may help everybody.
fn all_rejected(rejected: &[(&Address, Reply)]) -> CallError {
    let is_transient = rejected.iter().all(|(_, reply)| reply.is_transient());
    if let [(_, reply), ..] = rejected
        && reply.code == 530
    {
        return reply.refusal("the recipients");
    }
    let message = "the mail server rejected all recipients";
    CallError {
        retryable: is_transient,
        upstream_failed: is_transient,
        effect: Effect::None,
        ..CallError::not_sent(ErrorCode::Upstream, message)
    }
}

impl Operation for EmailOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move { self.run(call).await.map_err(|error| error.redacted(call.connection.credential)) })
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let config = EmailConfig::read(&call.connection)?;
        let letter = self.letter(&call, &config)?;
        let mut preview = letter.preview();
        let bytes = letter.write(self.plan.max_message_bytes)?.len();
        preview["messageBytes"] = json!(bytes);
        preview["type"] = json!(super::TYPE);
        preview["host"] = json!(config.host);
        preview["port"] = json!(config.port());
        let redacted = call.connection.credential.redact(&preview.to_string());
        Ok(serde_json::from_str(&redacted).unwrap_or(Value::String(redacted)))
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        Ok(pages.into_iter().next().unwrap_or_else(Data::null))
    }
}
