//! Storing, judging and deleting credentials. Nothing here gives a secret back.

use std::time::Duration;

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::credential::{CredentialState, CredentialStatus, LiveSecret};
use integration_model::definition::AuthType;
use integration_model::event::{EventDraft, EventType};
use integration_model::instance::{Instance, InstanceStatus, StatusTrigger};
use integration_model::principal::Principal;
use integration_model::{Problem, Timestamp};
use integration_store::CredentialMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::credential::{AuthWants, Credential, CredentialFacts};
use crate::instances::instance_error;
use crate::instances::race::until_it_holds;
use crate::oauth::refresh::RefreshPolicy;
use crate::registry::merged_config;
use crate::{Engine, EngineError};

const DAY: Duration = Duration::from_secs(86_400);

/// A credential on its way into the vault. It has no printable form.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCredential {
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    /// By type: `basic {username, password}`, `api_key {key, headerOrParam, inHeader}`,
    /// `oauth2 {access_token, refresh_token, expires_at, token_type, scope}`,
    /// `jwt {token, expires_at}`, `custom {…}`; of a webhook `custom {secrets: […]}`, each a
    /// text or an object of `secret` and `expiresAt`.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// That a credential was stored.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStored {
    pub status: &'static str,
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl Engine {
    /// Encrypts and stores an instance's credential, in place of the one before.
    pub async fn store_credential(
        &self,
        id: &str,
        new: NewCredential,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<CredentialStored, EngineError> {
        let audit =
            AuditDraft::done(AuditAction::CredentialStored, &principal.name, "stored by a caller", correlation_id);
        until_it_holds(None, || self.try_store_credential(id, &new, None, principal, audit.clone())).await
    }

    /// With `overlap`, the secrets before stay in force for as long beside the new ones.
    pub(crate) async fn try_store_credential(
        &self,
        id: &str,
        new: &NewCredential,
        overlap: Option<Duration>,
        principal: &Principal,
        audit: AuditDraft,
    ) -> Result<CredentialStored, EngineError> {
        let instance = self.instance(id, principal).await?;
        let (facts, _) = self.status_facts(&instance, true).await?;
        let (credential, _) = self.parse_credential(&instance, new, facts.auth_type).await?;
        let credential = match overlap {
            Some(overlap) => self.overlapping(&instance, credential, overlap, &audit).await?,
            None => credential,
        };
        let meta = self.credential_meta(&instance, &credential).await?;
        self.commit_credential(instance, &credential, &meta, "credential stored", audit).await?;
        Ok(CredentialStored { status: "stored", auth_type: meta.auth_type, expires_at: meta.expires_at })
    }

    /// Puts a credential in the place of the one before, and moves the instance.
    pub(crate) async fn commit_credential(
        &self,
        instance: Instance,
        credential: &Credential,
        meta: &CredentialMeta,
        reason: &str,
        audit: AuditDraft,
    ) -> Result<(), EngineError> {
        let correlation_id = &audit.correlation_id.clone();
        let (facts, problems) = self.status_facts(&instance, true).await?;
        let trigger = StatusTrigger::CredentialStored;
        let (changed, mut events) = self.plan_move(instance, trigger, facts, &problems, reason, correlation_id);
        for event in &mut events {
            if event.event_type == EventType::Connected {
                *event = EventDraft::connected(
                    correlation_id,
                    &changed.id,
                    &changed.integration_definition_id,
                    meta.auth_type,
                    meta.scope.as_deref(),
                    meta.expires_at,
                );
            }
        }
        self.store
            .put_credential(
                (&changed.tenant_id, &changed.id),
                meta,
                &credential.to_bytes(),
                Some(&changed),
                events,
                audit,
            )
            .await
            .map_err(|error| instance_error(&changed.id, error))?;
        self.instance_changed(&changed.id);
        // What was cached was answered to other rights.
        self.cache.clear(&changed.id);
        Ok(())
    }

    /// What may be known of an instance's credential without its secret.
    pub(crate) async fn credential_meta(
        &self,
        instance: &Instance,
        credential: &Credential,
    ) -> Result<CredentialMeta, EngineError> {
        let known = credential.facts();
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        Ok(match RefreshPolicy::of(&definition.definition.spec) {
            Some(policy) => policy.meta(&known, None, self.store.clock().now()),
            None => CredentialMeta {
                auth_type: credential.auth_type(),
                expires_at: known.expires_at,
                scope: known.scope,
                refreshable: known.refreshable,
                next_refresh_at: None,
                secrets_until: known.secrets_until,
            },
        })
    }

    /// Reads what a caller gave as the credential of an instance.
    pub(crate) async fn parse_credential(
        &self,
        instance: &Instance,
        new: &NewCredential,
        wanted: AuthType,
    ) -> Result<(Credential, CredentialFacts), EngineError> {
        if new.auth_type != wanted {
            return Err(EngineError::invalid(
                "the credential is of another type than the definition wants",
                vec![Problem::new("/type", format!("expected {:?}", wanted.as_str()))],
            ));
        }
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let wants = AuthWants::of(&definition.definition.spec);
        let (credential, known) = Credential::parse(new.auth_type, &new.data, wants, self.store.clock().now())
            .map_err(|problems| EngineError::invalid("the credential is not valid", problems))?;
        definition
            .adapter
            .check_credential(&merged_config(&definition, &instance.config), &credential)
            .map_err(|problem| EngineError::invalid("the credential is not valid", vec![problem]))?;
        if new.auth_type == AuthType::None && credential.client_identity().is_none() {
            return Err(EngineError::conflict(
                "the definition's authType is none: there is no credential to store but a clientCertificate",
            ));
        }
        Ok((credential, known))
    }

    /// Whether the instance holds this very credential already, or one that came of it by
    /// renewal, so that storing it would change nothing, or undo the renewal.
    pub async fn holds_credential(
        &self,
        id: &str,
        new: &NewCredential,
        principal: &Principal,
    ) -> Result<bool, EngineError> {
        let instance = self.instance(id, principal).await?;
        let Some(stored) = self.store.credential(&instance.id).await? else { return Ok(false) };
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let wants = AuthWants::of(&definition.definition.spec);
        let parsed = Credential::parse(new.auth_type, &new.data, wants, self.store.clock().now());
        let Ok((credential, _)) = parsed else { return Ok(false) };
        Ok(credential.is_origin_of(&self.store.open_credential(&stored).await?))
    }

    /// What may be known of an instance's credential.
    pub async fn credential_status(&self, id: &str, principal: &Principal) -> Result<CredentialStatus, EngineError> {
        let instance = self.instance(id, principal).await?;
        let Some(stored) = self.store.credential_with_uses(&instance.id).await? else {
            return Ok(CredentialStatus {
                status: CredentialState::Missing,
                auth_type: None,
                secrets: None,
                expires_at: None,
                scope: None,
                refreshable: false,
                created_at: None,
                updated_at: None,
                key_id: None,
                refresh: None,
                use_count: None,
                last_used_at: None,
                age_days: None,
                rotation_due: None,
            });
        };
        let now = self.store.clock().now();
        let age = now.since(stored.rotated_at);
        let status = if stored.refused_at.is_some() {
            CredentialState::Refused
        } else if stored.meta.expires_at.is_some_and(|at| at <= now) {
            CredentialState::Expired
        } else {
            CredentialState::Valid
        };
        Ok(CredentialStatus {
            status,
            auth_type: Some(stored.meta.auth_type),
            expires_at: stored.meta.expires_at,
            scope: stored.meta.scope.clone(),
            refreshable: stored.meta.refreshable,
            created_at: Some(stored.created_at),
            updated_at: Some(stored.updated_at),
            key_id: Some(stored.key_id.clone()),
            refresh: self.refresh_status(&instance, &stored).await?,
            use_count: Some(stored.use_count),
            last_used_at: stored.last_used_at,
            age_days: Some(age.as_secs() / DAY.as_secs()),
            rotation_due: Some(age >= self.settings.rotation_reminder),
            secrets: live_secrets(&stored.meta.secrets_until, now),
        })
    }

    /// Deletes an instance's credential; the instance is DISCONNECTED after it. Tokens are given
    /// back to the authorization server, as well as it goes.
    pub async fn delete_credential(
        &self,
        id: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<InstanceStatus, EngineError> {
        self.delete_credential_at(id, None, "credential deleted", principal, correlation_id).await
    }

    pub(crate) async fn delete_credential_at(
        &self,
        id: &str,
        expected: Option<i64>,
        reason: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<InstanceStatus, EngineError> {
        let revocation = self.revocation_of(&self.instance(id, principal).await?).await;
        let delete = || self.try_delete_credential(id, expected, reason, principal, correlation_id);
        let status = until_it_holds(expected, delete).await?;
        if let Some(revocation) = revocation {
            self.revoke(revocation, principal, correlation_id).await;
        }
        Ok(status)
    }

    async fn try_delete_credential(
        &self,
        id: &str,
        expected: Option<i64>,
        reason: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<InstanceStatus, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        if self.store.credential(&instance.id).await?.is_none() {
            return Err(EngineError::NotFound("credential"));
        }
        let (facts, problems) = self.status_facts(&instance, false).await?;
        let trigger = StatusTrigger::CredentialDeleted;
        let (changed, events) = self.plan_move(instance, trigger, facts, &problems, reason, correlation_id);
        let audit = AuditDraft::done(AuditAction::CredentialDeleted, &principal.name, reason, correlation_id);
        self.store
            .delete_credential(&changed.id, Some(&changed), events, audit)
            .await
            .map_err(|error| instance_error(&changed.id, error))?;
        self.instance_changed(&changed.id);
        self.cache.clear(&changed.id);
        Ok(changed.status)
    }
}

/// Those of several secrets that are in force; none where the credential is one secret.
fn live_secrets(until: &[Option<Timestamp>], now: Timestamp) -> Option<Vec<LiveSecret>> {
    let live = until.iter().filter(|at| at.is_none_or(|at| now < at));
    (!until.is_empty()).then(|| live.map(|at| LiveSecret { expires_at: *at }).collect())
}
