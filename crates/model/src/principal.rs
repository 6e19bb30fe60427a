//! Who calls, and what that caller may do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::TenantId;

/// What a caller may do in its tenant, or in all where it is bound to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Definitions.
    Developer,
    /// Instances, and resets of their breakers and caches.
    Operator,
    /// Credentials.
    CredentialManager,
    /// Calls of all methods of all instances.
    Executor,
    /// The audit and the log.
    Auditor,
    /// Health, status and metrics.
    Monitor,
}

impl Role {
    pub const ALL: &'static [Self] = &[
        Self::Admin,
        Self::Developer,
        Self::Operator,
        Self::CredentialManager,
        Self::Executor,
        Self::Auditor,
        Self::Monitor,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Operator => "operator",
            Self::CredentialManager => "credential_manager",
            Self::Executor => "executor",
            Self::Auditor => "auditor",
            Self::Monitor => "monitor",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text)
    }
}

/// A set of roles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    pub const fn of(roles: &[Role]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < roles.len() {
            bits |= 1 << roles[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    pub const fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// Whether the two sets share a role.
    pub const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| self.contains(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | 1 << role as u8))
    }
}

/// Calls of an instance's methods, for a caller without the role for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// An instance's id, or `*` for all of the tenant's.
    #[schema(pattern = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63}|\*)$")]
    pub instance: String,
    /// Names of methods; none are all of the instance's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub methods: Vec<String>,
}

impl Grant {
    pub fn is_of(&self, instance: &str) -> bool {
        self.instance == "*" || self.instance == instance
    }

    pub fn covers(&self, instance: &str, method: &str) -> bool {
        self.is_of(instance) && (self.methods.is_empty() || self.methods.iter().any(|one| one == method))
    }
}

/// The authenticated caller of one request; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// A stable name for logs and audit, never a secret: `api-key:isk_AbCd`.
    pub name: Arc<str>,
    /// The tenant to which the caller is bound; none may act for all.
    pub tenant: Option<TenantId>,
    pub roles: Roles,
    pub grants: Arc<[Grant]>,
}

impl Principal {
    /// The service itself: background work, start-up registration, the demo.
    pub fn system() -> Self {
        Self { name: "system".into(), tenant: None, roles: Roles::of(&[Role::Admin]), grants: Arc::new([]) }
    }

    /// Whoever asked for work that is done later, and was let in then: by name, and with no
    /// rights to ask for more.
    pub fn recorded(name: &str, tenant: Option<TenantId>) -> Self {
        Self { name: name.into(), tenant, roles: Roles::NONE, grants: Arc::new([]) }
    }

    /// Whether this caller may see what belongs to `owner`.
    pub fn may_see(&self, owner: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant == owner)
    }

    /// Whether this caller may call the method: by role for all, or by a grant.
    pub fn may_execute(&self, instance: &str, method: &str) -> bool {
        self.roles.any_of(Roles::of(&[Role::Admin, Role::Executor]))
            || self.grants.iter().any(|grant| grant.covers(instance, method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_known_by_their_names() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(*role));
            assert_eq!(serde_json::to_value(role).expect("a role"), role.as_str());
        }
        let roles: Roles = [Role::Auditor, Role::Monitor].into_iter().collect();
        assert_eq!(roles.iter().collect::<Vec<_>>(), [Role::Auditor, Role::Monitor]);
        assert!(!roles.any_of(Roles::of(&[Role::Admin])));
    }

    #[test]
    fn what_is_not_granted_is_not_allowed() {
        let mut principal = Principal::recorded("x", None);
        assert!(!principal.may_execute("crm", "getPet"));
        principal.grants = Arc::new([
            Grant { instance: "crm".to_owned(), methods: vec!["getPet".to_owned()] },
            Grant { instance: "shop".to_owned(), methods: Vec::new() },
        ]);
        assert!(principal.may_execute("crm", "getPet"));
        assert!(!principal.may_execute("crm", "deletePet"));
        assert!(principal.may_execute("shop", "anything"));
        assert!(!principal.may_execute("mail", "getPet"));
    }
}
