//! The `email` adapter: messages that methods describe, sent over SMTP.
//!
//! Owns: how params become a message, SMTP, what replies mean for each recipient. Must not
//! know: retries, other ways to send mail.

mod config;
mod message;
mod operation;
mod reply;
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
use config::{CONFIG_SCHEMA, EmailConfig};
use operation::EmailOperation;
use session::Session;
use spec::{OPERATION_SCHEMA, Plan};

const TYPE: &str = "email";

type EmailPools = Pools<Session>;

/// Sends mail.
pub struct EmailAdapter {
    pools: Arc<EmailPools>,
}

impl Default for EmailAdapter {
    fn default() -> Self {
        Self { pools: Arc::new(Pools::new(TYPE)) }
    }
}

impl Adapter for EmailAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: TYPE,
            version: "1.0.0",
            description: "Mail over SMTP: TLS and STARTTLS, text, HTML, attachments, what becomes of each recipient",
            auth_types: &[AuthType::Basic, AuthType::OAuth2, AuthType::Jwt, AuthType::None],
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        Ok(Arc::new(EmailOperation::new(Plan::compile(method)?, Arc::clone(&self.pools))))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        EmailConfig::check(config)
    }

    fn check_credential(&self, _: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        match credential.request_part() {
            Credential::Basic { username, password: _ } if username.contains('\0') => {
                Err(Problem::new("/data/username", "expected no NUL"))
            }
            Credential::ApiKey { .. } | Credential::Custom(_) | Credential::SigningSecrets(_) => {
                Err(Problem::new("/data", "expected a credential of type basic, oauth2 or jwt"))
            }
            _ => Ok(()),
        }
    }

    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move { test(&connection).await.map_err(|error| error.redacted(connection.credential)) })
    }
}

async fn test(connection: &Connection<'_>) -> Result<String, CallError> {
    let config = EmailConfig::read(connection)?;
    let mut session = Session::open(connection, &config).await?;
    let asking = async {
        let reply = session.command("NOOP", Progress::Harmless).await?;
        if reply.code != 250 {
            return Err(reply.refusal("NOOP"));
        }
        session.command("QUIT", Progress::Harmless).await
    };
    match timeout_at(connection.deadline, asking).await {
        Ok(answered) => answered.map(|_| "the mail server answered".to_owned()),
        Err(_) => Err(timed_out(Progress::Harmless, "waiting for the answer")),
    }
}
