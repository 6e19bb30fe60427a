//! What all grants share: finding an instance's client, and keeping what they bring.

use std::time::Duration;

use integration_model::InstanceId;
use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::{AuthType, GrantType};
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, StatusTrigger};
use integration_model::principal::Principal;
use metrics::counter;
use serde_json::json;
use tokio::time::Instant;

use super::{OAuthClient, TokenError, renews_itself};
use crate::credential::{Credential, OAuth2Token};
use crate::instances::config_problems;
use crate::instances::race::until_it_holds;
use crate::registry::merged_config;
use crate::{Engine, EngineError};

/// How long an instance's connection without a person may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Says where callers reach this service's OAuth callback. Once, when it is known.
    pub fn set_callback_url(&self, url: String) {
        // A second start in the same process is a second engine.
        let _ = self.oauth.callback_url.set(url);
    }

    pub(super) fn callback_url(&self) -> Result<&str, EngineError> {
        let missing = || EngineError::conflict("the service is still starting: try again");
        self.oauth.callback_url.get().map(String::as_str).ok_or_else(missing)
    }

    /// The OAuth client of an instance whose definition uses `grant`.
    pub(super) async fn oauth_client(&self, instance: &Instance, grant: GrantType) -> Result<OAuthClient, EngineError> {
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let spec = &definition.definition.spec;
        if spec.auth_type != AuthType::OAuth2 {
            return Err(EngineError::conflict(format!(
                "the definition's authType is {}; OAuth connects instances of oauth2 definitions",
                spec.auth_type.as_str()
            )));
        }
        let Some(config) = &spec.oauth2_config else {
            return Err(EngineError::conflict("the definition has no oauth2Config: store a token instead"));
        };
        if config.grant_type != grant {
            return Err(EngineError::conflict(format!(
                "the definition's grantType is {}: {}",
                config.grant_type.as_str(),
                how_to_connect(config.grant_type)
            )));
        }
        let problems = config_problems(&definition, &instance.config);
        if !problems.is_empty() {
            let message = "the instance's config does not fit the definition: change it first".to_owned();
            return Err(EngineError::Conflict { message, problems });
        }
        Ok(OAuthClient::resolve(self, &definition, &merged_config(&definition, &instance.config)).await?)
    }

    /// Connects an instance whose definition's grant needs no person: gets a token and keeps
    /// it. `None` where the grant is another one.
    pub(crate) async fn connect_by_grant(
        &self,
        instance: &Instance,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Option<Instance>, EngineError> {
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let Some(config) = definition.definition.spec.oauth2_config.as_ref().filter(|config| renews_itself(config))
        else {
            return Ok(None);
        };
        let client = self.oauth_client(instance, config.grant_type).await?;
        match client.obtain(self, Instant::now() + CONNECT_TIMEOUT).await {
            Ok(token) => {
                let reason = "the authorization server gave a token";
                self.store_token(&instance.id, config.grant_type, token, principal, reason, correlation_id).await?;
                self.instance(instance.id.as_str(), principal).await.map(Some)
            }
            Err(error) => {
                let error = EngineError::from(error);
                self.connection_failed(&instance.id, config.grant_type, &error.to_string(), correlation_id).await?;
                Err(error)
            }
        }
    }

    /// Keeps the token that a grant brought as the instance's credential.
    pub(super) async fn store_token(
        &self,
        id: &InstanceId,
        grant: GrantType,
        token: OAuth2Token,
        principal: &Principal,
        reason: &str,
        correlation_id: &str,
    ) -> Result<(), EngineError> {
        until_it_holds(None, || async {
            let instance = self.instance(id.as_str(), principal).await?;
            let credential = self.with_stored_certificate(&instance.id, Credential::OAuth2(token.clone())).await?;
            let meta = self.credential_meta(&instance, &credential).await?;
            let audit = AuditDraft::done(AuditAction::CredentialStored, &principal.name, reason, correlation_id);
            self.commit_credential(instance, &credential, &meta, reason, audit).await
        })
        .await?;
        count(grant, "connected");
        Ok(())
    }

    /// The credential with the client certificate of the stored one, which a token says
    /// nothing of.
    async fn with_stored_certificate(&self, id: &InstanceId, new: Credential) -> Result<Credential, EngineError> {
        let Some(stored) = self.store.credential(id).await? else { return Ok(new) };
        let Ok(bytes) = self.store.open_credential(&stored).await else { return Ok(new) };
        Ok(match Credential::from_bytes(&bytes) {
            Ok(Credential::WithCertificate { certificate, .. }) => {
                Credential::WithCertificate { certificate, credential: Box::new(new) }
            }
            _ => new,
        })
    }

    /// Notes that a connection failed. A credential that works is none the worse for it.
    pub(super) async fn connection_failed(
        &self,
        id: &InstanceId,
        grant: GrantType,
        message: &str,
        correlation_id: &str,
    ) -> Result<(), EngineError> {
        count(grant, "failed");
        until_it_holds(None, || async {
            let Some(instance) = self.store.instance(id).await? else { return Ok(()) };
            let stored = self.store.credential(id).await?.is_some();
            let (facts, problems) = self.status_facts(&instance, stored).await?;
            let event = EventDraft::auth_failed(
                correlation_id,
                id,
                &instance.integration_definition_id,
                facts.auth_type,
                message,
                json!({}),
            );
            let before = instance.status;
            let (changed, mut events) =
                self.plan_move(instance, StatusTrigger::ConnectionFailed, facts, &problems, message, correlation_id);
            events.push(event);
            if changed.status == before {
                let rows = events.into_iter().map(|event| (changed.tenant_id.clone(), Some(changed.id.clone()), event));
                return Ok(self.store.append_events(rows.collect()).await?);
            }
            self.write_instance(&changed, events, None).await.map(drop)
        })
        .await
    }
}

fn count(grant: GrantType, outcome: &'static str) {
    counter!("integration_oauth_connections_total", "grant" => grant.as_str(), "outcome" => outcome).increment(1);
}

/// What a caller does to connect an instance of this grant.
pub(super) const fn how_to_connect(grant: GrantType) -> &'static str {
    match grant {
        GrantType::AuthorizationCode => "connect it with POST …/oauth/authorize",
        GrantType::DeviceCode => "connect it with POST …/oauth/device",
        GrantType::ClientCredentials | GrantType::JwtBearer => "connect it with POST …/connect",
    }
}

impl From<TokenError> for EngineError {
    fn from(error: TokenError) -> Self {
        use integration_model::ErrorCode;
        let code = match &error {
            TokenError::Misconfigured { .. } => ErrorCode::Conflict,
            TokenError::Refused { .. } => ErrorCode::Auth,
            TokenError::NotSent { .. }
            | TokenError::Unanswered { .. }
            | TokenError::Unavailable { .. }
            | TokenError::Malformed { .. } => ErrorCode::Upstream,
        };
        Self::External { code, message: error.to_string() }
    }
}
