//! What may be known of a credential without knowing the secret.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::definition::{AuthType, RefreshStrategy};

/// Whether a stored credential can be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialState {
    /// None is stored.
    Missing,
    Valid,
    /// Its expiry lies in the past.
    Expired,
    /// The external system refused it.
    Refused,
}

/// The answer of `GET …/credentials/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    pub status: CredentialState,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub auth_type: Option<AuthType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whether the credential can be renewed without a person.
    pub refreshable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Which master key wraps the credential's data key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// How it is renewed; absent where it cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshStatus>,
    /// For how many calls, connection tests and dry runs it was used since it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// Whole days since it was stored or rotated; renewed tokens do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_days: Option<u64>,
    /// Whether it is older than `credentials.rotationReminderDays`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_due: Option<bool>,
    /// The secrets of a webhook that are in force now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<LiveSecret>>,
}

/// One of several secrets that are in force together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveSecret {
    /// Until when it verifies deliveries; without, until another takes its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What is known of the renewal of a credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshStatus {
    pub strategy: RefreshStrategy,
    /// When it is renewed next, without a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh_at: Option<Timestamp>,
    /// Since when an exchange is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way_since: Option<Timestamp>,
    /// Whether the process that made the exchange went silent, so that its outcome is not known.
    pub interrupted: bool,
    /// Failures since it was last renewed.
    pub failures: u32,
    /// Before when it is not tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<RefreshError>,
}

/// Why a credential could not be renewed. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshError {
    pub kind: RefreshErrorKind,
    pub message: String,
    /// The token endpoint's own word, such as `invalid_grant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The HTTP status of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub at: Timestamp,
    /// When an earlier exchange got no usable answer: the external system may have renewed
    /// the grant then, and the service could not learn of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_at: Option<Timestamp>,
}

/// In what way a renewal failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshErrorKind {
    /// Nothing reached the token endpoint.
    NotSent,
    /// The exchange was sent, and no complete answer came.
    Unanswered,
    /// The token endpoint could not say: a fault of its own, or too many requests.
    Unavailable,
    /// The token endpoint refused for good.
    Refused,
    /// The answer held no usable token.
    Malformed,
    /// The exchange could not be made as the definition has it.
    Misconfigured,
    /// The process that made the exchange went silent; whether the external system answered
    /// it is not known.
    Interrupted,
}

impl RefreshErrorKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Unanswered => "unanswered",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Misconfigured => "misconfigured",
            Self::Interrupted => "interrupted",
        }
    }
}
