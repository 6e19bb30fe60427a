//! `rate_limits.yaml`: limits by tenant, user, instance and method, which win over those of
//! the definitions. Owns its shape; keeping to the limits is the engine's.

use std::collections::BTreeMap;

use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use integration_model::problem::push_pointer;
use integration_model::{InstanceId, Problem, TenantId};
use serde::Deserialize;

/// Limits that win over those of the definitions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitOverrides {
    #[serde(default)]
    pub tenants: TenantLimits,
    #[serde(default)]
    pub users: UserLimits,
    #[serde(default)]
    pub instances: BTreeMap<InstanceId, InstanceLimits>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantLimits {
    /// For each tenant that is not named.
    pub default: Option<RateLimits>,
    #[serde(default)]
    pub by_id: BTreeMap<TenantId, RateLimits>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserLimits {
    /// For each principal that is not named.
    pub default: Option<RateLimits>,
    /// By the principal's name.
    #[serde(default)]
    pub by_id: BTreeMap<String, RateLimits>,
}

/// Limits of one instance over all its methods, and of methods of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceLimits {
    requests_per_minute: Option<u32>,
    burst_limit: Option<u32>,
    #[serde(default)]
    algorithm: RateLimitAlgorithm,
    #[serde(default)]
    pub methods: BTreeMap<String, RateLimits>,
}

impl InstanceLimits {
    /// The limit over all methods, where one is given.
    pub fn limits(&self) -> Option<RateLimits> {
        let given = self.requests_per_minute.is_some() || self.algorithm == RateLimitAlgorithm::Adaptive;
        given.then_some(RateLimits {
            requests_per_minute: self.requests_per_minute,
            burst_limit: self.burst_limit,
            algorithm: self.algorithm,
        })
    }
}

impl RateLimitOverrides {
    /// The rules that types alone cannot keep: every breach, not the first.
    pub(crate) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.tenants.default.iter().flat_map(|limits| check(limits, "/tenants/default")));
        for (id, limits) in &self.tenants.by_id {
            problems.extend(check(limits, &push_pointer("/tenants/byId", id.as_str())));
        }
        problems.extend(self.users.default.iter().flat_map(|limits| check(limits, "/users/default")));
        for (id, limits) in &self.users.by_id {
            problems.extend(check(limits, &push_pointer("/users/byId", id)));
        }
        for (id, instance) in &self.instances {
            problems.extend(instance.check(&push_pointer("/instances", id.as_str())));
        }
        problems
    }
}

impl InstanceLimits {
    fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = match self.limits() {
            Some(limits) => check(&limits, pointer),
            None if self.burst_limit.is_some() => vec![Problem::new(pointer, "expected the key requestsPerMinute")],
            None => Vec::new(),
        };
        let methods = push_pointer(pointer, "methods");
        for (name, limits) in &self.methods {
            problems.extend(check(limits, &push_pointer(&methods, name)));
        }
        problems
    }
}

fn check(limits: &RateLimits, pointer: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, value) in [("requestsPerMinute", limits.requests_per_minute), ("burstLimit", limits.burst_limit)] {
        if value == Some(0) {
            problems.push(Problem::new(push_pointer(pointer, field), "expected 1 or more"));
        }
    }
    if limits.requests_per_minute.is_none() && limits.algorithm != RateLimitAlgorithm::Adaptive {
        problems.push(Problem::new(pointer, "expected the key requestsPerMinute"));
    }
    problems
}
