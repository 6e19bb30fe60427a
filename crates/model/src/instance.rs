//! One configured connection of a tenant to an external system, and its status machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::definition::AuthType;
use crate::{DefinitionId, InstanceId, TenantId, Timestamp};

/// Whether an instance can execute, and if not, what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceStatus {
    /// The config does not fit the schema yet.
    PendingConfiguration,
    /// The config fits; a credential is missing.
    PendingAuthentication,
    Connected,
    /// Taken out of use by a person, or its credentials were deleted.
    Disconnected,
    /// The external system refused the credential.
    AuthError,
    /// The config fitted once and no longer does.
    ConfigError,
}

impl InstanceStatus {
    pub const ALL: &'static [Self] = &[
        Self::PendingConfiguration,
        Self::PendingAuthentication,
        Self::Connected,
        Self::Disconnected,
        Self::AuthError,
        Self::ConfigError,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PendingConfiguration => "PENDING_CONFIGURATION",
            Self::PendingAuthentication => "PENDING_AUTHENTICATION",
            Self::Connected => "CONNECTED",
            Self::Disconnected => "DISCONNECTED",
            Self::AuthError => "AUTH_ERROR",
            Self::ConfigError => "CONFIG_ERROR",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == text)
    }

    /// What a person does to bring an instance in this status back to CONNECTED.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::PendingConfiguration | Self::ConfigError => {
                "send a config that fits the definition's configSchema (PATCH the instance)"
            }
            Self::PendingAuthentication => {
                "store a credential (POST …/credentials), or with oauth2 connect it (POST …/oauth/authorize, \
                 …/oauth/device or …/connect, as its grantType is)"
            }
            Self::Connected => "nothing",
            Self::Disconnected => "connect it again (POST …/connect)",
            Self::AuthError => "store a new credential (POST …/credentials), then test it (POST …/test)",
        }
    }
}

/// What can happen to an instance, as far as its status is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusTrigger {
    /// The config was written, or the pinned version changed; says whether it fits now.
    ConfigChecked { valid: bool },
    /// A credential was stored.
    CredentialStored,
    /// The credential was deleted.
    CredentialDeleted,
    /// The external system refused the credential.
    CredentialRefused,
    /// The external system took the credential after it had refused it.
    CredentialAccepted,
    /// A grant that was to bring a credential failed.
    ConnectionFailed,
    /// A person asked to connect.
    Connect,
    /// A person asked to disconnect.
    Disconnect,
}

/// The facts that the status machine decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusFacts {
    pub config_valid: bool,
    pub credential_stored: bool,
    pub auth_type: AuthType,
}

impl StatusFacts {
    /// The status of an instance that nobody holds back.
    pub fn natural_status(self) -> InstanceStatus {
        if !self.config_valid {
            InstanceStatus::PendingConfiguration
        } else if self.auth_type != AuthType::None && !self.credential_stored {
            InstanceStatus::PendingAuthentication
        } else {
            InstanceStatus::Connected
        }
    }
}

/// The status after `trigger`; `facts` describe the instance after it.
pub fn next_status(current: InstanceStatus, trigger: StatusTrigger, facts: StatusFacts) -> InstanceStatus {
    use InstanceStatus::{
        AuthError, ConfigError, Connected, Disconnected, PendingAuthentication, PendingConfiguration,
    };
    match trigger {
        StatusTrigger::Disconnect | StatusTrigger::CredentialDeleted => Disconnected,
        StatusTrigger::CredentialRefused => match current {
            Connected | AuthError => AuthError,
            other => other,
        },
        // Where a credential is stored, a failed attempt at another one takes nothing from it.
        StatusTrigger::ConnectionFailed => match current {
            PendingAuthentication => AuthError,
            other => other,
        },
        StatusTrigger::CredentialAccepted => match current {
            AuthError => facts.natural_status(),
            other => other,
        },
        StatusTrigger::ConfigChecked { valid: false } => match current {
            PendingConfiguration => PendingConfiguration,
            Disconnected => Disconnected,
            _ => ConfigError,
        },
        StatusTrigger::ConfigChecked { valid: true } => match current {
            // A new config says nothing about a refused credential or a person's word.
            AuthError | Disconnected => current,
            _ => facts.natural_status(),
        },
        // A config that once fitted and no longer does stays an error, not a beginning.
        StatusTrigger::Connect | StatusTrigger::CredentialStored => match (facts.natural_status(), current) {
            (PendingConfiguration, ConfigError) => ConfigError,
            (natural, _) => natural,
        },
    }
}

/// Why an instance is not CONNECTED.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstanceError {
    pub message: String,
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
}

/// A configured connection to an external system.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub id: InstanceId,
    pub integration_definition_id: DefinitionId,
    /// The version of the definition that the instance is pinned to.
    #[schema(value_type = String)]
    pub definition_version: SmolStr,
    pub tenant_id: TenantId,
    pub name: String,
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
    pub labels: BTreeMap<String, String>,
    pub status: InstanceStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<InstanceError>,
    /// Counts the changes; the `ETag` of the instance.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When a method was last called, as far as the process that answers knows: others tell some
    /// minutes late at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: StatusFacts = StatusFacts { config_valid: true, credential_stored: true, auth_type: AuthType::ApiKey };

    #[test]
    fn a_new_instance_waits_for_config_then_credential() {
        let facts = StatusFacts { config_valid: false, credential_stored: false, auth_type: AuthType::ApiKey };
        assert_eq!(facts.natural_status(), InstanceStatus::PendingConfiguration);
        let facts = StatusFacts { config_valid: true, ..facts };
        let status =
            next_status(InstanceStatus::PendingConfiguration, StatusTrigger::ConfigChecked { valid: true }, facts);
        assert_eq!(status, InstanceStatus::PendingAuthentication);
        assert_eq!(next_status(status, StatusTrigger::CredentialStored, READY), InstanceStatus::Connected);
        let open = StatusFacts { auth_type: AuthType::None, ..facts };
        assert_eq!(open.natural_status(), InstanceStatus::Connected);
    }

    #[test]
    fn a_refused_credential_stays_refused_until_another_comes() {
        let status = next_status(InstanceStatus::Connected, StatusTrigger::CredentialRefused, READY);
        assert_eq!(status, InstanceStatus::AuthError);
        assert_eq!(next_status(status, StatusTrigger::ConfigChecked { valid: true }, READY), InstanceStatus::AuthError);
        assert_eq!(next_status(status, StatusTrigger::CredentialStored, READY), InstanceStatus::Connected);
        assert_eq!(next_status(status, StatusTrigger::CredentialAccepted, READY), InstanceStatus::Connected);
    }

    #[test]
    fn a_person_s_disconnect_holds_until_a_person_connects() {
        let status = next_status(InstanceStatus::Connected, StatusTrigger::Disconnect, READY);
        assert_eq!(
            next_status(status, StatusTrigger::ConfigChecked { valid: true }, READY),
            InstanceStatus::Disconnected
        );
        assert_eq!(next_status(status, StatusTrigger::CredentialRefused, READY), InstanceStatus::Disconnected);
        assert_eq!(next_status(status, StatusTrigger::Connect, READY), InstanceStatus::Connected);
    }

    #[test]
    fn a_config_that_stops_fitting_is_an_error() {
        let facts = StatusFacts { config_valid: false, ..READY };
        let status = next_status(InstanceStatus::Connected, StatusTrigger::ConfigChecked { valid: false }, facts);
        assert_eq!(status, InstanceStatus::ConfigError);
        assert_eq!(next_status(status, StatusTrigger::CredentialStored, facts), InstanceStatus::ConfigError);
        assert_eq!(next_status(status, StatusTrigger::ConfigChecked { valid: true }, READY), InstanceStatus::Connected);
    }
}
