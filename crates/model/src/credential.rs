//! What may be known of a credential without knowing the secret.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::definition::AuthType;

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
}
