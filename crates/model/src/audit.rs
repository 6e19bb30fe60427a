//! The audit: who did what to which secret, when, why, and how it went. Never the secret.

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
    }
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
    pub timestamp: Timestamp,
    pub tenant_id: TenantId,
    /// Who did it: the name of a key, or `system`.
    pub principal: String,
    pub action: AuditAction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Tells one credential of an instance from the next.
    #[schema(value_type = Option<String>, format = Uuid)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<uuid::Uuid>,
    /// The execution for which a credential was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<ExecutionId>,
    pub outcome: AuditOutcome,
    /// Why it was done: `execute getPet`, `connection test`, `dry run getPet`, …
    pub reason: String,
    pub correlation_id: String,
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// An entry on its way; the store adds what it was done to, its id and its time.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditDraft {
    pub action: AuditAction,
    pub principal: String,
    pub outcome: AuditOutcome,
    pub reason: String,
    pub correlation_id: String,
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
            details: None,
        }
    }
}
