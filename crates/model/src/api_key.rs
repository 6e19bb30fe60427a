//! API keys: what is known of one, and what a caller gives to have one made. Never the key.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::is_valid_id;
use crate::principal::{Grant, Principal, Role};
use crate::{Problem, TenantId, Timestamp};

/// The most grants of one key.
pub const MAX_GRANTS: usize = 100;

const MAX_NAME: usize = 100;
const MAX_METHOD_NAME: usize = 128;
/// The most names of methods in one grant.
const MAX_METHODS: usize = 100;

/// What is known of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// UUIDv7.
    pub id: String,
    pub name: String,
    /// The key's first characters, to tell it by; its caller is named `api-key:PREFIX`.
    pub prefix: String,
    pub roles: Vec<Role>,
    pub grants: Vec<Grant>,
    /// The tenant to which it is bound; none may act for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Who comes with this key.
    pub fn principal(&self) -> Principal {
        Principal {
            name: format!("api-key:{}", self.prefix).into(),
            tenant: self.tenant_id.clone(),
            roles: self.roles.iter().copied().collect(),
            grants: self.grants.iter().cloned().collect(),
        }
    }
}

/// What a caller gives to make an API key.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewApiKey {
    /// For people, to know what the key is for.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    #[serde(default)]
    pub roles: BTreeSet<Role>,
    /// Calls of methods, for keys without the role for all.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub grants: Vec<Grant>,
    /// The caller's tenant unless given; a caller without one makes a key that may act for all.
    #[serde(default, alias = "tenant")]
    pub tenant_id: Option<TenantId>,
    /// Never, unless given.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl NewApiKey {
    /// Every fault of the request.
    pub fn check(&self, now: Timestamp) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, pointer: &str, expected: &str| {
            if !holds {
                problems.push(Problem::new(pointer, format!("expected {expected}")));
            }
        };
        let is_name = (1..=MAX_NAME).contains(&self.name.chars().count()) && !self.name.contains(char::is_control);
        expect(is_name && !self.name.trim().is_empty(), "/name", "1 to 100 characters");
        expect(!(self.roles.is_empty() && self.grants.is_empty()), "/roles", "a role, or a grant in grants");
        expect(self.grants.len() <= MAX_GRANTS, "/grants", "at most 100 grants");
        expect(self.expires_at.is_none_or(|at| at > now), "/expiresAt", "a time that is yet to come");
        for (index, grant) in self.grants.iter().enumerate().take(MAX_GRANTS) {
            let is_instance = grant.instance == "*" || is_valid_id(&grant.instance);
            expect(is_instance, &format!("/grants/{index}/instance"), "an instance's id, or * for all");
            let is_method = |name: &String| {
                (1..=MAX_METHOD_NAME).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '*')
            };
            let pointer = format!("/grants/{index}/methods");
            expect(grant.methods.len() <= MAX_METHODS, &pointer, "at most 100 names of methods");
            for (place, method) in grant.methods.iter().enumerate().take(MAX_METHODS) {
                let expected = "the name of a method: 1 to 128 bytes, without *; no names are all methods";
                expect(is_method(method), &format!("{pointer}/{place}"), expected);
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_something_to_somebody() {
        let now = Timestamp::from_micros(1);
        let faults = |text: &str| -> Vec<String> {
            let new: NewApiKey = serde_json::from_str(text).expect("a request");
            new.check(now).into_iter().map(|problem| problem.pointer).collect()
        };
        assert!(faults(r#"{"name": "n", "roles": ["monitor"]}"#).is_empty());
        assert!(faults(r#"{"name": "n", "grants": [{"instance": "*", "methods": ["getPet"]}]}"#).is_empty());
        assert_eq!(faults(r#"{"name": " "}"#), ["/name", "/roles"]);
        assert_eq!(
            faults(
                r#"{"name": "n", "expiresAt": "1970-01-01T00:00:00Z", "grants": [{"instance": "a b", "methods": ["*"]}]}"#
            ),
            ["/expiresAt", "/grants/0/instance", "/grants/0/methods/0"]
        );
    }
}
