//! Giving tokens back (RFC 7009): when an instance is disconnected for good, its tokens are
//! not to live on at the authorization server.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use integration_model::instance::Instance;
use integration_model::principal::Principal;
use integration_model::{InstanceId, TenantId};
use integration_store::IntendedUse;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::token_endpoint::Form;
use super::{OAuthClient, TokenError};
use crate::Engine;
use crate::credential::{Credential, OAuth2Token};
use crate::http_client::InboundResponse;
use crate::registry::{CompiledDefinition, merged_config};

/// How long a revocation may hold up who disconnects.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(5);

/// The tokens of an instance with all that is needed to give them back, taken before they
/// are deleted.
pub(crate) struct Revocation {
    instance: InstanceId,
    tenant: TenantId,
    credential: Uuid,
    definition: Arc<CompiledDefinition>,
    config: Map<String, Value>,
    token: OAuth2Token,
}

impl Engine {
    /// The tokens that an instance could give back; none where there are none, or where its
    /// definition knows no place for them.
    pub(crate) async fn revocation_of(&self, instance: &Instance) -> Option<Revocation> {
        let compiled = self.compiled(&instance.integration_definition_id, &instance.definition_version).await;
        let definition = compiled.ok()?;
        let config = definition.definition.spec.oauth2_config.as_ref()?;
        if config.revocation_url.is_none() && config.discovery_url.is_none() {
            return None;
        }
        let stored = self.store.credential(&instance.id).await.ok()??;
        let bytes = self.store.open_credential(&stored).await.ok()?;
        match Credential::from_bytes(&bytes).ok()?.request_part() {
            Credential::OAuth2(token) => Some(Revocation {
                instance: instance.id.clone(),
                tenant: instance.tenant_id.clone(),
                credential: stored.id,
                config: merged_config(&definition, &instance.config),
                token: token.clone(),
                definition,
            }),
            _ => None,
        }
    }

    /// Gives tokens back, as well as it goes: what was deleted stays deleted, and the log says
    /// what became of the tokens.
    pub(crate) async fn revoke(&self, revocation: Revocation, principal: &Principal, correlation_id: &str) {
        let deadline = Instant::now() + REVOCATION_TIMEOUT;
        let instance = &revocation.instance;
        let intended = IntendedUse {
            tenant: &revocation.tenant,
            principal: &principal.name,
            instance,
            credential: Some(revocation.credential),
            execution: None,
            correlation_id,
            why: "revocation",
            method: "",
        };
        let used = match self.store.begin_use(intended) {
            Ok(used) => used,
            Err(error) => {
                tracing::error!(instance.id = %instance, %error, "the tokens are not revoked: their use could not be put down");
                return;
            }
        };
        let revoked = tokio::time::timeout_at(deadline, self.try_revoke(&revocation, deadline)).await;
        self.finish_use(Some(used), intended, matches!(revoked, Ok(Ok(_)))).await;
        match revoked {
            Ok(Ok(true)) => tracing::info!(instance.id = %instance, "the authorization server revoked the tokens"),
            // The metadata name no place for it.
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::warn!(instance.id = %instance, error = %error, "the tokens could not be revoked; they end when they expire");
            }
            Err(_) => {
                tracing::warn!(instance.id = %instance, "the tokens could not be revoked in time; they end when they expire");
            }
        }
    }

    async fn try_revoke(&self, revocation: &Revocation, deadline: Instant) -> Result<bool, TokenError> {
        let client = OAuthClient::resolve(self, &revocation.definition, &revocation.config).await?;
        let Some(url) = &client.endpoints.revocation else { return Ok(false) };
        let OAuth2Token { access_token, refresh_token, .. } = &revocation.token;
        // A server that knows one of them as the other's grant ends both with the first.
        if let Some(refresh_token) = refresh_token {
            client.revoke(self, url, refresh_token, "refresh_token", deadline).await?;
        }
        client.revoke(self, url, access_token, "access_token", deadline).await?;
        Ok(true)
    }
}

impl OAuthClient {
    async fn revoke(
        &self,
        engine: &Engine,
        url: &Uri,
        token: &SecretString,
        hint: &str,
        deadline: Instant,
    ) -> Result<(), TokenError> {
        let form = || {
            let mut form = Form::default();
            form.push_secret("token", token);
            form.set("token_type_hint", hint);
            form
        };
        let read = |response: &InboundResponse, sent: &[&str]| {
            // A token that the server does not know is a success too, and has no body.
            if response.status.is_success() { Ok(()) } else { self.reader.document(response, sent).map(drop) }
        };
        self.ask(engine, url, form, read, deadline).await
    }
}
