//! The audit: who did what to what, when, why, and how it went. Never a secret.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ExecutionId, InstanceId, TenantId, Timestamp};

macro_rules! texts {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal;)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::schema::text_out_of(concat!($($doc),+).trim(), Self::ALL.iter().map(|one| one.as_str()))
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

texts! {
    /// What was done.
    AuditAction {
        /// A credential was stored where there was none, or in the place of another.
        CredentialStored = "credential.stored";
        /// A credential was opened, for a call, a connection test or a dry run.
        CredentialUsed = "credential.used";
        /// The tokens of a credential were renewed.
        CredentialRefreshed = "credential.refreshed";
        /// A credential was exchanged for another, or read anew from where it is kept.
        CredentialRotated = "credential.rotated";
        /// A credential was deleted.
        CredentialDeleted = "credential.deleted";
        /// The external system refused a credential.
        CredentialRefused = "credential.refused";
        /// An API key was made.
        ApiKeyCreated = "api_key.created";
        /// An API key was revoked.
        ApiKeyRevoked = "api_key.revoked";
        /// A method was called, and no credential was opened for it.
        MethodExecuted = "method.executed";
        /// An execution that waited or ran was stopped.
        ExecutionCancelled = "execution.cancelled";
        /// A version of a definition was stored as a draft.
        DefinitionCreated = "definition.created";
        /// A draft was replaced.
        DefinitionUpdated = "definition.updated";
        /// A version came into use.
        DefinitionPublished = "definition.published";
        /// A version is to be left.
        DefinitionDeprecated = "definition.deprecated";
        /// A version went out of use.
        DefinitionArchived = "definition.archived";
        /// A draft was deleted.
        DefinitionDeleted = "definition.deleted";
        /// An instance was made.
        InstanceCreated = "instance.created";
        /// The name, config or labels of an instance were changed.
        InstanceUpdated = "instance.updated";
        /// An instance was brought into use.
        InstanceConnected = "instance.connected";
        /// An instance was taken out of use.
        InstanceDisconnected = "instance.disconnected";
        /// An instance was moved to another version of its definition.
        InstanceUpgraded = "instance.upgraded";
        /// The connection of an instance was tested.
        InstanceTested = "instance.tested";
        /// The service moved an instance to another status.
        InstanceStatusChanged = "instance.status_changed";
        /// An instance was deleted.
        InstanceDeleted = "instance.deleted";
        /// A connection by OAuth was begun.
        ConnectionBegun = "connection.begun";
        /// Cached answers were dropped.
        CacheCleared = "cache.cleared";
        /// A circuit breaker was closed by hand.
        CircuitBreakerReset = "circuit_breaker.reset";
        /// Data keys were wrapped anew under another master key.
        KeysRotated = "keys.rotated";
        /// A file of the configuration was read anew.
        ConfigurationReloaded = "configuration.reloaded";
        /// An event of another service was taken.
        EventTaken = "event.taken";
    }
}

texts! {
    /// What kind of thing something was done to.
    TargetType {
        /// A version of a definition; `details.version` says which.
        Definition = "definition";
        /// An instance, or what belongs to it.
        Instance = "instance";
        /// An execution.
        Execution = "execution";
        /// An event of another service.
        Event = "event";
        /// An API key, by its id.
        ApiKey = "api_key";
        /// The master keys.
        MasterKey = "master_key";
        /// A file of the configuration.
        Configuration = "configuration";
    }
}

/// What something was done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Target {
    #[serde(rename = "type")]
    pub kind: TargetType,
    pub id: String,
}

texts! {
    /// How it went.
    AuditOutcome {
        /// It was done.
        Success = "success";
        /// It failed.
        Failure = "failure";
        /// It began, and nobody saw how it ended.
        Unknown = "unknown";
    }
}

/// One line of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// UUIDv7.
    #[schema(value_type = String, format = Uuid)]
    pub id: uuid::Uuid,
    /// The place in the chain of entries: each is one more than the one before. None in entries
    /// from before there was a chain.
    #[schema(minimum = 1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// When the entry was written down; the time in the id says when the act began.
    pub timestamp: Timestamp,
    /// None where it concerns no tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Who did it: the name of a key, or `system`.
    pub principal: String,
    pub action: AuditAction,
    /// What it was done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The instance, where the target is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Tells one credential of an instance from the next.
    #[schema(value_type = Option<String>, format = Uuid)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<uuid::Uuid>,
    /// The execution that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    pub outcome: AuditOutcome,
    /// Why it was done: `execute getPet`, `connection test`, `dry run getPet`, …
    pub reason: String,
    pub correlation_id: String,
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// The keyed hash of the entry and the one before it, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// An entry on its way; the store adds its id and its time, and the instance where it is one
/// that something was done to.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditDraft {
    pub action: AuditAction,
    pub principal: String,
    pub outcome: AuditOutcome,
    pub reason: String,
    pub correlation_id: String,
    /// What it was done to, where that is no instance.
    pub target: Option<Target>,
    /// An object; never with a value that is secret.
    pub details: Option<Value>,
}

impl AuditDraft {
    /// Something that was done.
    pub fn done(action: AuditAction, principal: &str, reason: impl Into<String>, correlation_id: &str) -> Self {
        Self {
            action,
            principal: principal.to_owned(),
            outcome: AuditOutcome::Success,
            reason: reason.into(),
            correlation_id: correlation_id.to_owned(),
            target: None,
            details: None,
        }
    }

    /// The same, done to something that is no instance.
    #[must_use]
    pub fn to(self, kind: TargetType, id: impl Into<String>) -> Self {
        Self { target: Some(Target { kind, id: id.into() }), ..self }
    }

    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }
}
