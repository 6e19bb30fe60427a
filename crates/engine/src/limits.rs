//! Limits that operators set from outside: per tenant, per user, and over those that
//! definitions ask for. Reloaded without a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use integration_model::definition::RateLimits;
use integration_model::{InstanceId, TenantId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::policy::rate_limit::{KeyedRateLimiter, Refused};

/// The rules of `rate_limits.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitRules {
    pub tenants: KeyedRules,
    pub users: KeyedRules,
    /// By instance id; they take the place of what the definition says.
    pub instances: BTreeMap<String, InstanceRules>,
}

/// Limits of tenants or users: one for all, and exceptions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KeyedRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<RateLimits>,
    pub by_id: BTreeMap<String, RateLimits>,
}

/// Limits of one instance and of its methods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InstanceRules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimits>,
    pub methods: BTreeMap<String, RateLimits>,
}

impl LimitRules {
    pub fn instance_limits(&self, id: &InstanceId) -> Option<RateLimits> {
        self.instances.get(id.as_str())?.limits
    }

    pub fn method_limits(&self, id: &InstanceId, method: &str) -> Option<RateLimits> {
        self.instances.get(id.as_str())?.methods.get(method).copied()
    }
}

impl KeyedRules {
    fn limits_of(&self, key: &str) -> Option<&RateLimits> {
        self.by_id.get(key).or(self.default.as_ref())
    }
}

/// How many users or tenants are told apart at once.
const MAX_KEYS: usize = 100_000;

/// The rules in force with the state of the keyed limits.
pub(crate) struct ActiveLimits {
    pub rules: LimitRules,
    tenants: Arc<KeyedRateLimiter<String>>,
    users: Arc<KeyedRateLimiter<String>>,
}

impl ActiveLimits {
    pub(crate) fn new(rules: LimitRules) -> Self {
        Self {
            rules,
            tenants: Arc::new(KeyedRateLimiter::new(MAX_KEYS)),
            users: Arc::new(KeyedRateLimiter::new(MAX_KEYS)),
        }
    }

    /// Other rules over the same counts.
    pub(crate) fn with_rules(&self, rules: LimitRules) -> Self {
        Self { rules, tenants: Arc::clone(&self.tenants), users: Arc::clone(&self.users) }
    }

    pub(crate) fn acquire_tenant(&self, tenant: &TenantId, now: Instant) -> Result<(), Refused> {
        Self::acquire(&self.tenants, &self.rules.tenants, tenant.as_str(), now)
    }

    pub(crate) fn acquire_user(&self, user: &str, now: Instant) -> Result<(), Refused> {
        Self::acquire(&self.users, &self.rules.users, user, now)
    }

    pub(crate) fn refund_tenant(&self, tenant: &TenantId, now: Instant) {
        self.tenants.refund(tenant.as_str(), now);
    }

    pub(crate) fn refund_user(&self, user: &str, now: Instant) {
        self.users.refund(user, now);
    }

    fn acquire(limiter: &KeyedRateLimiter<String>, rules: &KeyedRules, key: &str, now: Instant) -> Result<(), Refused> {
        match rules.limits_of(key) {
            Some(limits) => limiter.try_acquire(key, limits, now, 1),
            None => Ok(()),
        }
    }
}
