//! Storing, judging and deleting credentials. Nothing here gives a secret back.

use integration_model::Problem;
use integration_model::Timestamp;
use integration_model::credential::{CredentialState, CredentialStatus};
use integration_model::definition::AuthType;
use integration_model::event::EventDraft;
use integration_model::instance::{InstanceStatus, StatusTrigger};
use integration_model::principal::Principal;
use integration_store::CredentialMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::credential::Credential;
use crate::{Engine, EngineError};

/// A credential on its way into the vault. It has no printable form.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCredential {
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    /// By type: `basic {username, password}`, `api_key {key, headerOrParam, inHeader}`,
    /// `oauth2 {access_token, refresh_token, expires_at, token_type, scope}`,
    /// `jwt {token, expires_at}`, `custom {…}`.
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
        let instance = self.instance(id, principal).await?;
        let (facts, problems) = self.status_facts(&instance, true).await?;
        if new.auth_type != facts.auth_type {
            return Err(EngineError::invalid(
                "the credential is of another type than the definition wants",
                vec![Problem::new("/type", format!("expected {:?}", facts.auth_type.as_str()))],
            ));
        }
        if new.auth_type == AuthType::None {
            return Err(EngineError::conflict("the definition's authType is none: there is no credential to store"));
        }
        let custom_auth = self.custom_auth_of(&instance).await?;
        let (credential, known) =
            Credential::parse(new.auth_type, &new.data, custom_auth.as_ref(), self.store.clock().now())
                .map_err(|problems| EngineError::invalid("the credential is not valid", problems))?;
        let meta = CredentialMeta {
            auth_type: new.auth_type,
            expires_at: known.expires_at,
            scope: known.scope,
            refreshable: known.refreshable,
        };
        let (changed, mut events) = self.plan_move(
            instance,
            StatusTrigger::CredentialStored,
            facts,
            &problems,
            "credential stored",
            correlation_id,
        );
        for event in &mut events {
            if event.event_type == integration_model::event::EventType::Connected {
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
        let plaintext = credential.to_bytes();
        self.store.put_credential(&changed.tenant_id, &changed.id, &meta, &plaintext, Some(&changed), events).await?;
        self.registry.refresh_instance(&changed.id);
        // What was cached was answered to other rights.
        self.cache.clear(&changed.id);
        Ok(CredentialStored { status: "stored", auth_type: meta.auth_type, expires_at: meta.expires_at })
    }

    /// Whether the instance holds this very credential already, so that storing it would
    /// change nothing.
    pub async fn holds_credential(
        &self,
        id: &str,
        new: &NewCredential,
        principal: &Principal,
    ) -> Result<bool, EngineError> {
        let instance = self.instance(id, principal).await?;
        let Some(stored) = self.store.credential(&instance.id).await? else { return Ok(false) };
        let custom_auth = self.custom_auth_of(&instance).await?;
        let parsed = Credential::parse(new.auth_type, &new.data, custom_auth.as_ref(), self.store.clock().now());
        let Ok((credential, _)) = parsed else { return Ok(false) };
        Ok(*self.store.open_credential(&stored)? == *credential.to_bytes())
    }

    async fn custom_auth_of(
        &self,
        instance: &integration_model::instance::Instance,
    ) -> Result<Option<integration_model::definition::CustomAuth>, EngineError> {
        let version = crate::instances::parse_version(&instance.definition_version, "/definitionVersion")?;
        let definition = self.definition_version(&instance.integration_definition_id, &version).await?;
        Ok(definition.spec.custom_auth)
    }

    /// What may be known of an instance's credential.
    pub async fn credential_status(&self, id: &str, principal: &Principal) -> Result<CredentialStatus, EngineError> {
        let instance = self.instance(id, principal).await?;
        let Some(stored) = self.store.credential(&instance.id).await? else {
            return Ok(CredentialStatus {
                status: CredentialState::Missing,
                auth_type: None,
                expires_at: None,
                scope: None,
                refreshable: false,
                created_at: None,
                updated_at: None,
                key_id: None,
            });
        };
        let now = self.store.clock().now();
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
        })
    }

    /// Deletes an instance's credential; the instance is DISCONNECTED after it.
    pub async fn delete_credential(
        &self,
        id: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<InstanceStatus, EngineError> {
        let instance = self.instance(id, principal).await?;
        if self.store.credential(&instance.id).await?.is_none() {
            return Err(EngineError::NotFound("credential"));
        }
        let (facts, problems) = self.status_facts(&instance, false).await?;
        let (changed, events) = self.plan_move(
            instance,
            StatusTrigger::CredentialDeleted,
            facts,
            &problems,
            "credential deleted",
            correlation_id,
        );
        self.store.delete_credential(&changed.id, Some(&changed), events).await?;
        self.registry.refresh_instance(&changed.id);
        self.cache.clear(&changed.id);
        Ok(changed.status)
    }
}
