//! The `redis` adapter: commands that methods declare, with params as their arguments.
//!
//! Owns: which commands may be declared, how params become arguments, RESP, what replies and
//! errors mean. Must not know: retries, caches, the service's own use of Redis.

mod commands;
mod config;
mod errors;
mod json;
mod operation;
mod resp;
mod session;
mod spec;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use serde_json::{Map, Value};
use tokio::time::timeout_at;

use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use crate::adapter::server::failure::{Progress, timed_out};
use crate::adapter::server::pool::Pools;
use crate::credential::Credential;
use config::{CONFIG_SCHEMA, Login, RedisConfig};
use operation::RedisOperation;
use resp::{Reply, encode};
use session::Session;
use spec::{OPERATION_SCHEMA, Plan};

const TYPE: &str = "redis";
/// The most bytes of an answer to PING.
const MAX_PONG: usize = 1 << 10;

type RedisPools = Pools<Session>;

/// Calls commands of Redis, and of what speaks as it does.
pub struct RedisAdapter {
    pools: Arc<RedisPools>,
}

impl Default for RedisAdapter {
    fn default() -> Self {
        Self { pools: Arc::new(Pools::new(TYPE)) }
    }
}

impl Adapter for RedisAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: TYPE,
            version: "1.0.0",
            description: "Redis: declared commands, pipelines and transactions, TLS and ACL users",
            auth_types: &[AuthType::Basic, AuthType::ApiKey, AuthType::None],
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        Ok(Arc::new(RedisOperation::new(Plan::compile(method)?, Arc::clone(&self.pools))))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        RedisConfig::check(config)
    }

    fn check_credential(&self, _: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        Login::of(credential).map(|_| ())
    }

    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move { test(&connection).await.map_err(|error| error.redacted(connection.credential)) })
    }
}

async fn test(connection: &Connection<'_>) -> Result<String, CallError> {
    let config = RedisConfig::read(connection)?;
    let mut session = Session::open(connection, &config).await?;
    let mut ping = Vec::new();
    encode(&["PING"], &mut ping);
    let asking = session.exchange(&ping, 1, MAX_PONG, Progress::Harmless);
    let replies = match timeout_at(connection.deadline, asking).await {
        Ok(replies) => replies.map_err(|failure| failure.error)?,
        Err(_) => return Err(timed_out(Progress::Harmless, "waiting for the answer")),
    };
    if let Some(Reply::Error(refusal)) = replies.first() {
        return Err(errors::refused(refusal));
    }
    Ok(match &session.version {
        Some(version) => format!("Redis {version} answered"),
        None => "Redis answered".to_owned(),
    })
}
