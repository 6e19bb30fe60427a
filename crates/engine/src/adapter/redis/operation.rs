//! One operation, compiled: from a call to commands, from replies to data.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use integration_model::ErrorCode;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::RedisPools;
use super::config::RedisConfig;
use super::errors::{ends_connection, refused, unreadable};
use super::json::write;
use super::resp::{Refusal, Reply, Unreadable, encode};
use super::session::{Failure, Session};
use super::spec::Plan;
use crate::adapter::server::config::fingerprint;
use crate::adapter::server::failure::{Progress, answered, timed_out};
use crate::adapter::{Answer, Call, CallError, Connection, Effect, Operation, UpstreamLimits};
use crate::data::Data;
use crate::params::Params;

pub(super) struct RedisOperation {
    plan: Plan,
    pools: Arc<RedisPools>,
}

/// Commands as they are sent, and how many replies they have.
struct Request {
    text: Vec<u8>,
    replies: usize,
}

impl RedisOperation {
    pub(super) fn new(plan: Plan, pools: Arc<RedisPools>) -> Self {
        Self { plan, pools }
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let config = RedisConfig::read(&call.connection)?;
        self.check_allowed(&config)?;
        let request = self.request(call.params)?;
        let replies = self.send(&call.connection, &config, &request).await?;
        let replies = if self.plan.is_transaction { self.of_transaction(replies)? } else { replies };
        let data = Data::from_text(Bytes::from(self.answer(&replies)?));
        Ok(Answer {
            data,
            upstream_status: None,
            next_page: None,
            limits: UpstreamLimits::default(),
            warnings: Vec::new(),
        })
    }

    fn check_allowed(&self, config: &RedisConfig) -> Result<(), CallError> {
        match self.plan.restricted().find(|name| !config.allows(name)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("{name} is restricted: the instance's config has to allow it by allowCommands");
                Err(CallError::not_sent(ErrorCode::Forbidden, message))
            }
        }
    }

    fn request(&self, params: &Params) -> Result<Request, CallError> {
        let commands = self.plan.render(params)?;
        let mut text = Vec::new();
        let mut replies = commands.len();
        if self.plan.is_transaction {
            encode(&["MULTI"], &mut text);
        }
        commands.iter().for_each(|command| encode(command, &mut text));
        if self.plan.is_transaction {
            encode(&["EXEC"], &mut text);
            replies += 2;
        }
        Ok(Request { text, replies })
    }

    fn progress(&self) -> Progress {
        if self.plan.is_read_only() { Progress::Harmless } else { Progress::MayHaveChanged }
    }

    async fn send(
        &self,
        connection: &Connection<'_>,
        config: &RedisConfig,
        request: &Request,
    ) -> Result<Vec<Reply>, CallError> {
        let pool = self.pools.of(connection.instance, fingerprint(connection), config.pool);
        let mut lease = pool.acquire(connection.network().egress_policy(), connection.deadline).await?;
        loop {
            let was_kept = lease.connection().is_some();
            let session = match lease.connection() {
                Some(session) => session,
                None => lease.opened(Session::open(connection, config).await?),
            };
            let exchange = session.exchange(&request.text, request.replies, self.plan.max_reply_bytes, self.progress());
            let replies = match timeout_at(connection.deadline, exchange).await {
                Err(_) => return Err(timed_out(self.progress(), "waiting for the answer")),
                Ok(Ok(replies)) => replies,
                // The server had closed a connection that was kept, and reading twice does no harm.
                Ok(Err(Failure { was_closed: true, .. })) if was_kept && self.plan.is_read_only() => {
                    lease.discard();
                    continue;
                }
                Ok(Err(failure)) => return Err(failure.error),
            };
            let is_over = |reply: &Reply| matches!(reply, Reply::Error(refusal) if ends_connection(refusal));
            if !replies.iter().any(is_over) {
                lease.keep();
            }
            return Ok(replies);
        }
    }

    /// The replies to the commands between MULTI and EXEC.
    fn of_transaction(&self, mut replies: Vec<Reply>) -> Result<Vec<Reply>, CallError> {
        match replies.pop() {
            Some(Reply::Array(results)) if results.len() + 1 == replies.len() => Ok(results),
            Some(Reply::Error(discarded)) => {
                let queued = replies.iter().skip(1).enumerate();
                let mut refusals = queued.filter_map(|(index, reply)| Some((index, refusal(reply)?)));
                // EXEC says only that there was an error before.
                let error = match refusals.next() {
                    Some((index, refusal)) => self.refused(refusal).with_detail("command", index),
                    None => self.refused(&discarded),
                };
                Err(CallError { effect: Effect::None, ..error })
            }
            _ => Err(unreadable(Unreadable::Malformed, self.progress())),
        }
    }

    fn answer(&self, replies: &[Reply]) -> Result<Vec<u8>, CallError> {
        let mut refusals = replies.iter().enumerate().filter_map(|(index, reply)| Some((index, refusal(reply)?)));
        if let Some((index, first)) = refusals.next() {
            let error = self.refused(first);
            if !self.plan.is_pipeline {
                return Err(error);
            }
            let failed = 1 + refusals.count();
            let error = error.with_detail("command", index).with_detail("failedCommands", failed);
            // What the others did stays done.
            let nothing_done = failed == replies.len() || self.plan.is_read_only();
            return Err(if nothing_done { error } else { CallError { effect: Effect::Answered, ..error } });
        }
        let mut out = Vec::new();
        let encoding = self.plan.result_encoding;
        let written = match replies {
            [reply] if !self.plan.is_pipeline => write(&mut out, reply, encoding),
            _ => {
                out.push(b'[');
                let written = replies.iter().enumerate().try_for_each(|(index, reply)| {
                    if index > 0 {
                        out.push(b',');
                    }
                    write(&mut out, reply, encoding)
                });
                out.push(b']');
                written
            }
        };
        written.map(|()| out).map_err(|unfit| answered(unfit.to_string()))
    }

    /// A server's error, as the operation wants it called.
    fn refused(&self, refusal: &Refusal) -> CallError {
        let mut error = refused(refusal);
        if let Some(code) = self.plan.error_mapping.get(&refusal.code) {
            error.code = *code;
        }
        error
    }
}

/// An error in a reply, or in what it holds: the reply of a script may hold some.
fn refusal(reply: &Reply) -> Option<&Refusal> {
    match reply {
        Reply::Error(refusal) => Some(refusal),
        Reply::Array(items) | Reply::Map(items) => items.iter().find_map(refusal),
        _ => None,
    }
}

impl Operation for RedisOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move { self.run(call).await.map_err(|error| error.redacted(call.connection.credential)) })
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let config = RedisConfig::read(&call.connection)?;
        self.check_allowed(&config)?;
        let shown = |argument: &Vec<u8>| match std::str::from_utf8(argument) {
            Ok(text) => Value::from(text),
            Err(_) => json!({"base64": STANDARD.encode(argument)}),
        };
        let commands: Vec<Vec<Value>> =
            self.plan.render(call.params)?.iter().map(|command| command.iter().map(shown).collect()).collect();
        let preview = json!({
            "type": super::TYPE,
            "host": config.host,
            "port": config.port,
            "database": config.database,
            "transaction": self.plan.is_transaction,
            "commands": commands,
        });
        let redacted = call.connection.credential.redact(&preview.to_string());
        Ok(serde_json::from_str(&redacted).unwrap_or(Value::String(redacted)))
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        Ok(pages.into_iter().next().unwrap_or_else(Data::null))
    }
}
