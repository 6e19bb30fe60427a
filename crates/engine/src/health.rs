//! What is known of the health of instances: the last test of each, and its breakers.

use integration_model::InstanceId;
use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::RateLimitAlgorithm;
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::principal::Principal;
use quick_cache::sync::Cache;
use serde::Serialize;
use serde_json::json;

use crate::execute::millis;
use crate::instances::TestReport;
use crate::policy::cache::CacheStatistics;
use crate::policy::circuit_breaker::{CircuitBreakerSnapshot, State};
use crate::policy::rate_limit::RateLimitSnapshot;
use crate::{Engine, EngineError};
use tokio::time::Instant;

/// How many instances' last tests are remembered.
const CAPACITY: usize = 10_000;

/// The last connection test of each instance.
pub(crate) struct HealthMemory(Cache<InstanceId, TestReport>);

impl Default for HealthMemory {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl HealthMemory {
    pub(crate) fn remember(&self, id: &InstanceId, report: &TestReport) {
        self.0.insert(id.clone(), report.clone());
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        self.0.remove(id);
    }
}

/// Whether an instance can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    Healthy,
    /// Some of its methods are kept back by a circuit breaker.
    Degraded,
    Unhealthy,
}

/// The answer of `GET /integrations/{id}/health`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    pub integration_id: InstanceId,
    pub status: HealthState,
    pub instance_status: InstanceStatus,
    pub message: String,
    /// Methods whose circuit breaker is not closed.
    pub open_circuit_breakers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_test: Option<TestReport>,
}

/// One method's circuit breaker.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MethodBreaker {
    pub method: String,
    pub state: BreakerState,
    /// Failures within the window; while open, those that opened it.
    pub failures: u32,
    /// Until probes are let through; only while open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Probes under way.
    pub half_open_in_flight: u32,
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl MethodBreaker {
    fn new(method: &str, snapshot: &CircuitBreakerSnapshot) -> Self {
        let state = match snapshot.state {
            State::Closed => BreakerState::Closed,
            State::Open => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        };
        Self {
            method: method.to_owned(),
            state,
            failures: snapshot.failures,
            retry_after_ms: snapshot.retry_after.map(millis),
            half_open_in_flight: snapshot.half_open_in_flight,
        }
    }
}

/// One limit in force.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedLimit {
    /// `instance`, or `method`.
    pub scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    pub algorithm: RateLimitAlgorithm,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_limit: Option<u32>,
    /// Calls that would be let through now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Until the limit is as fresh as if nobody had called.
    pub reset_after_ms: u64,
    /// Below `requestsPerMinute` where an adaptive limit slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_rate_per_minute: Option<f64>,
    /// For how long the upstream asked for no calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_for_ms: Option<u64>,
}

impl NamedLimit {
    fn new(scope: &'static str, method: Option<&str>, snapshot: &RateLimitSnapshot, now: Instant) -> Self {
        Self {
            scope,
            method: method.map(str::to_owned),
            algorithm: snapshot.algorithm,
            requests_per_minute: snapshot.limit,
            burst_limit: snapshot.burst,
            remaining: snapshot.remaining,
            reset_after_ms: millis(snapshot.reset_after),
            current_rate_per_minute: snapshot.current_rate_per_minute,
            paused_for_ms: snapshot.paused_until.map(|until| millis(until.saturating_duration_since(now))),
        }
    }
}

impl Engine {
    pub async fn health(&self, id: &str, principal: &Principal) -> Result<HealthReport, EngineError> {
        let instance = self.instance(id, principal).await?;
        let open = self.open_breakers(&instance.id);
        let last_test = self.health.0.get(&instance.id);
        let (status, message) = judge(&instance, &open, last_test.as_ref());
        Ok(HealthReport {
            integration_id: instance.id,
            status,
            instance_status: instance.status,
            message,
            open_circuit_breakers: open,
            last_test,
        })
    }

    fn open_breakers(&self, id: &InstanceId) -> Vec<String> {
        self.breakers_of(id)
            .into_iter()
            .filter(|breaker| breaker.state != BreakerState::Closed)
            .map(|breaker| breaker.method)
            .collect()
    }

    fn breakers_of(&self, id: &InstanceId) -> Vec<MethodBreaker> {
        let now = Instant::now();
        let Some(active) = self.registry.loaded(id) else { return Vec::new() };
        active.called_methods().map(|state| MethodBreaker::new(&state.name, &state.breaker.snapshot(now))).collect()
    }

    /// The circuit breakers of the methods that were called; a method without calls is closed.
    pub async fn circuit_breakers(&self, id: &str, principal: &Principal) -> Result<Vec<MethodBreaker>, EngineError> {
        let instance = self.instance(id, principal).await?;
        Ok(self.breakers_of(&instance.id))
    }

    /// Closes the breakers of one method, or of all.
    pub async fn reset_circuit_breakers(
        &self,
        id: &str,
        method: Option<&str>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Vec<MethodBreaker>, EngineError> {
        let instance = self.instance(id, principal).await?;
        if let Some(name) = method {
            let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
            definition.method_index(name).ok_or_else(|| EngineError::MethodNotFound(name.to_owned()))?;
        }
        let now = Instant::now();
        let mut events = Vec::new();
        if let Some(active) = self.registry.loaded(&instance.id) {
            for state in active.called_methods().filter(|state| method.is_none_or(|name| name == state.name)) {
                if state.breaker.reset(now).is_none() {
                    continue;
                }
                state.metrics.breaker_moved(State::Closed);
                let event = EventDraft::circuit_breaker(correlation_id, &instance.id, &state.name, false, 0, 0);
                events.push((instance.tenant_id.clone(), Some(instance.id.clone()), event));
            }
        }
        let count = events.len();
        if !events.is_empty() {
            self.store.append_events(events).await?;
        }
        let audit =
            AuditDraft::done(AuditAction::CircuitBreakerReset, &principal.name, "reset by a caller", correlation_id)
                .with_details(json!({"method": method, "closed": count}));
        self.store.append_audit(audit, Some(&instance.tenant_id), Some(&instance.id), None).await?;
        Ok(self.breakers_of(&instance.id))
    }

    /// The limits of an instance and of its methods, as far as they were called.
    pub async fn rate_limits(&self, id: &str, principal: &Principal) -> Result<Vec<NamedLimit>, EngineError> {
        let instance = self.instance(id, principal).await?;
        let now = Instant::now();
        let limits = self.limits.load();
        let loaded = self
            .registry
            .instance(instance.id.as_str(), &self.store, &self.adapters, &limits.rules)
            .await
            .ok()
            .flatten();
        let Some(active) = loaded else { return Ok(Vec::new()) };
        let mut named = Vec::new();
        if let Some(limiter) = &active.limiter {
            named.push(NamedLimit::new("instance", None, &limiter.snapshot(now), now));
        }
        for state in active.called_methods() {
            if let Some(limiter) = &state.limiter {
                named.push(NamedLimit::new("method", Some(&state.name), &limiter.snapshot(now), now));
            }
        }
        Ok(named)
    }

    pub async fn cache_statistics(&self, id: &str, principal: &Principal) -> Result<CacheStatistics, EngineError> {
        let instance = self.instance(id, principal).await?;
        Ok(self.cache.statistics(&instance.id))
    }

    /// Drops the cached answers of an instance.
    pub async fn clear_cache(
        &self,
        id: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<CacheStatistics, EngineError> {
        let instance = self.instance(id, principal).await?;
        let audit = AuditDraft::done(AuditAction::CacheCleared, &principal.name, "cleared by a caller", correlation_id);
        self.store.append_audit(audit, Some(&instance.tenant_id), Some(&instance.id), None).await?;
        self.cache.clear(&instance.id);
        Ok(self.cache.statistics(&instance.id))
    }
}

fn judge(instance: &Instance, open: &[String], last_test: Option<&TestReport>) -> (HealthState, String) {
    if instance.status != InstanceStatus::Connected {
        let message = format!("the instance is {}: {}", instance.status.as_str(), instance.status.remedy());
        return (HealthState::Unhealthy, message);
    }
    if let Some(test) = last_test
        && !test.healthy
    {
        return (HealthState::Unhealthy, format!("the last test failed: {}", test.message));
    }
    if open.is_empty() {
        (HealthState::Healthy, "connected".to_owned())
    } else {
        (HealthState::Degraded, format!("circuit breakers keep calls back: {}", open.join(", ")))
    }
}
