//! Limits that operators set from outside: per tenant, per user, and over those that
//! definitions ask for. Reloaded without a restart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use integration_model::problem::push_pointer;
use integration_model::{InstanceId, Problem, TenantId};
use serde::Deserialize;
use tokio::time::Instant;

use crate::policy::rate_limit::{KeyedRateLimiter, Permit, RateLimiter, Refused};

/// The rules of `rate_limits.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitRules {
    #[serde(default)]
    pub tenants: KeyedRules,
    /// By the principal's name.
    #[serde(default)]
    pub users: KeyedRules,
    /// They take the place of what the definition says.
    #[serde(default)]
    pub instances: BTreeMap<InstanceId, InstanceRules>,
}

/// Limits of tenants or users.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyedRules {
    /// For each that is not named.
    pub default: Option<RateLimits>,
    #[serde(default)]
    pub by_id: BTreeMap<String, RateLimits>,
}

/// Limits of one instance over all its methods, and of methods of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceRules {
    requests_per_minute: Option<u32>,
    burst_limit: Option<u32>,
    #[serde(default)]
    algorithm: RateLimitAlgorithm,
    #[serde(default)]
    pub methods: BTreeMap<String, RateLimits>,
}

impl LimitRules {
    pub fn instance_limits(&self, id: &InstanceId) -> Option<RateLimits> {
        self.instances.get(id)?.limits()
    }

    pub fn method_limits(&self, id: &InstanceId, method: &str) -> Option<RateLimits> {
        self.instances.get(id)?.methods.get(method).copied()
    }

    /// The rules that types alone cannot keep: every breach, not the first.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.tenants.check("/tenants");
        problems.extend(self.users.check("/users"));
        for (id, instance) in &self.instances {
            problems.extend(instance.check(&push_pointer("/instances", id.as_str())));
        }
        problems
    }
}

impl KeyedRules {
    fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.default.iter().flat_map(|limits| limits.check(&push_pointer(pointer, "default"))));
        let by_id = push_pointer(pointer, "byId");
        for (id, limits) in &self.by_id {
            problems.extend(limits.check(&push_pointer(&by_id, id)));
        }
        problems
    }
}

impl InstanceRules {
    /// The limit over all methods, where one is given.
    fn limits(&self) -> Option<RateLimits> {
        let given = self.requests_per_minute.is_some() || self.algorithm == RateLimitAlgorithm::Adaptive;
        given.then_some(RateLimits {
            requests_per_minute: self.requests_per_minute,
            burst_limit: self.burst_limit,
            algorithm: self.algorithm,
        })
    }

    fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = match self.limits() {
            Some(limits) => limits.check(pointer),
            None if self.burst_limit.is_some() => vec![Problem::new(pointer, "expected requestsPerMinute")],
            None => Vec::new(),
        };
        let methods = push_pointer(pointer, "methods");
        for (name, limits) in &self.methods {
            problems.extend(limits.check(&push_pointer(&methods, name)));
        }
        problems
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
