//! Limits that operators set from outside: per tenant, per user, and over those that
//! definitions ask for. Reloaded without a restart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use integration_model::definition::RateLimits;
use integration_model::{InstanceId, TenantId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::policy::rate_limit::{KeyedRateLimiter, Permit, RateLimiter, Refused};

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

/// How many users or tenants are told apart at once.
const MAX_KEYS: usize = 100_000;

/// The rules in force with the state of the keyed limits.
pub(crate) struct ActiveLimits {
    pub(crate) rules: LimitRules,
    tenants: KeyedLimits,
    users: KeyedLimits,
}

/// Keyed limits with their exceptions.
struct KeyedLimits {
    default: Option<Arc<KeyedRateLimiter<String>>>,
    by_id: HashMap<String, Arc<RateLimiter>>,
}

/// What a call took from a keyed limit, to be given back where a later stage refuses.
#[derive(Clone, Copy)]
pub(crate) struct KeyedPermit(Option<Permit>);

impl ActiveLimits {
    pub(crate) fn new(rules: LimitRules, now: Instant) -> Self {
        let tenants = KeyedLimits::new(&rules.tenants, None, now);
        let users = KeyedLimits::new(&rules.users, None, now);
        Self { rules, tenants, users }
    }

    /// Other rules; what was used up of limits that stay is still used up.
    pub(crate) fn with_rules(&self, rules: LimitRules, now: Instant) -> Self {
        let tenants = KeyedLimits::new(&rules.tenants, Some(&self.tenants), now);
        let users = KeyedLimits::new(&rules.users, Some(&self.users), now);
        Self { rules, tenants, users }
    }

    pub(crate) fn acquire_tenant(&self, tenant: &TenantId, now: Instant) -> Result<KeyedPermit, Refused> {
        self.tenants.acquire(tenant.as_str(), now)
    }

    pub(crate) fn acquire_user(&self, user: &str, now: Instant) -> Result<KeyedPermit, Refused> {
        self.users.acquire(user, now)
    }

    pub(crate) fn refund_tenant(&self, tenant: &TenantId, now: Instant, permit: KeyedPermit) {
        self.tenants.refund(tenant.as_str(), now, permit);
    }

    pub(crate) fn refund_user(&self, user: &str, now: Instant, permit: KeyedPermit) {
        self.users.refund(user, now, permit);
    }
}

impl KeyedLimits {
    fn new(rules: &KeyedRules, before: Option<&Self>, now: Instant) -> Self {
        let default = rules.default.map(|limits| match before.and_then(|before| before.default.clone()) {
            Some(limiter) => {
                limiter.reconfigure(now, &limits);
                limiter
            }
            None => Arc::new(KeyedRateLimiter::new(&limits, MAX_KEYS)),
        });
        let by_id = rules
            .by_id
            .iter()
            .map(|(id, limits)| match before.and_then(|before| before.by_id.get(id)) {
                Some(limiter) => {
                    limiter.reconfigure(now, limits);
                    (id.clone(), Arc::clone(limiter))
                }
                None => (id.clone(), Arc::new(RateLimiter::new(limits, now))),
            })
            .collect();
        Self { default, by_id }
    }

    fn acquire(&self, key: &str, now: Instant) -> Result<KeyedPermit, Refused> {
        let permit = match (self.by_id.get(key), &self.default) {
            (Some(limiter), _) => Some(limiter.try_acquire(now, 1)?),
            (None, Some(limiter)) => Some(limiter.try_acquire(key, now, 1)?),
            (None, None) => None,
        };
        Ok(KeyedPermit(permit))
    }

    fn refund(&self, key: &str, now: Instant, permit: KeyedPermit) {
        let Some(permit) = permit.0 else { return };
        match (self.by_id.get(key), &self.default) {
            (Some(limiter), _) => limiter.refund(now, permit),
            (None, Some(limiter)) => limiter.refund(key, now, permit),
            (None, None) => {}
        }
    }
}
