//! The `webhook` adapter: what external systems deliver, and how it is verified.
//!
//! Owns: signature schemes, timestamps, what tells deliveries apart, what is kept of one.
//! Must not know: where deliveries come in, what becomes of their events.

mod config;
mod delivery;
mod verify;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::definition::{AuthType, DefinitionSpec, Method, WEBHOOK};
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use crate::credential::Credential;
use config::CONFIG_SCHEMA;
pub use config::{DEFAULT_MAX_BODY, Webhook};
pub(crate) use delivery::Content;
pub(crate) use verify::{Claim, Refusal};

/// Takes what external systems deliver.
pub struct WebhookAdapter;

impl Adapter for WebhookAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: WEBHOOK,
            version: "1.0.0",
            description: "Deliveries of external systems, verified: Standard Webhooks, GitHub, Stripe, Slack, HMAC",
            auth_types: &[AuthType::Custom],
            operation_schema: json!({"not": {}}),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, _: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        Err(vec![Problem::new("", "a webhook has no operations: the external system calls the service")])
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        Webhook::from_config(config).err().unwrap_or_default()
    }

    fn check_credential(&self, config: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        let Credential::SigningSecrets(secrets) = credential.request_part() else {
            return Err(Problem::new("/data/secrets", "expected an array of the secrets that verify deliveries"));
        };
        // Without a config nobody knows the scheme; the instance waits for one.
        match Webhook::from_config(config) {
            Ok(webhook) => webhook.check_secrets(secrets),
            Err(_) => Ok(()),
        }
    }

    fn webhook(&self, config: &Map<String, Value>) -> Option<Webhook> {
        Webhook::from_config(config).ok()
    }

    /// Nothing is asked of the external system: it is the one that calls.
    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(async move {
            let webhook = Webhook::from_config(call.config).map_err(|problems| {
                let first = problems.first().map_or_else(String::new, |problem| format!(": {problem}"));
                CallError::not_sent(ErrorCode::InstanceNotReady, format!("the config does not fit{first}"))
            })?;
            let refused = |problem: Problem| CallError {
                credential_refused: true,
                ..CallError::not_sent(ErrorCode::Auth, format!("the credential does not fit: {problem}"))
            };
            let Credential::SigningSecrets(secrets) = call.credential.request_part() else {
                return Err(refused(Problem::new("/data/secrets", "expected an array of secrets")));
            };
            webhook.check_secrets(secrets).map_err(refused)?;
            Ok(format!("deliveries are verified by the scheme {}, with {} secrets", webhook.scheme(), secrets.len()))
        })
    }
}
