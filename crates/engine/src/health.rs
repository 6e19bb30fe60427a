//! What is known of the health of instances: the last test of each, and its breakers.

use integration_model::InstanceId;
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::principal::Principal;
use quick_cache::sync::Cache;
use serde::Serialize;

use crate::instances::TestReport;
use crate::policy::cache::CacheStatistics;
use crate::policy::circuit_breaker::{BreakerSnapshot, BreakerState};
use crate::policy::rate_limit::LimitSnapshot;
use crate::{Engine, EngineError};

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
    #[serde(flatten)]
    pub breaker: BreakerSnapshot,
}

/// One limit in force.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedLimit {
    /// `instance`, or `method`.
    pub scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(flatten)]
    pub limit: LimitSnapshot,
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
            .filter(|breaker| breaker.breaker.state != BreakerState::Closed)
            .map(|breaker| breaker.method)
            .collect()
    }

    fn breakers_of(&self, id: &InstanceId) -> Vec<MethodBreaker> {
        let now = self.store.clock().instant();
        let Some(active) = self.registry.loaded(id) else { return Vec::new() };
        active
            .called_methods()
            .map(|state| MethodBreaker { method: state.name.clone(), breaker: state.breaker.snapshot(now) })
            .collect()
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
        let now = self.store.clock().instant();
        let mut events = Vec::new();
        if let Some(active) = self.registry.loaded(&instance.id) {
            for state in active.called_methods().filter(|state| method.is_none_or(|name| name == state.name)) {
                if state.breaker.snapshot(now).state != BreakerState::Closed {
                    state.metrics.breaker_moved(0);
                    events.push((
                        instance.tenant_id.clone(),
                        Some(instance.id.clone()),
                        integration_model::event::EventDraft::circuit_breaker(
                            correlation_id,
                            &instance.id,
                            &state.name,
                            false,
                            0,
                            0,
                        ),
                    ));
                }
                state.breaker.reset();
            }
        }
        if !events.is_empty() {
            self.store.append_events(events).await?;
        }
        Ok(self.breakers_of(&instance.id))
    }

    /// The limits of an instance and of its methods, as far as they were called.
    pub async fn rate_limits(&self, id: &str, principal: &Principal) -> Result<Vec<NamedLimit>, EngineError> {
        let instance = self.instance(id, principal).await?;
        let now = self.store.clock().instant();
        let limits = self.limits.load();
        let loaded =
            self.registry.instance(instance.id.as_str(), &self.store, &self.adapters, &limits.rules).await.ok().flatten();
        let Some(active) = loaded else { return Ok(Vec::new()) };
        let mut named = Vec::new();
        if let Some(limiter) = &active.limiter {
            named.push(NamedLimit { scope: "instance", method: None, limit: limiter.snapshot(now) });
        }
        for state in active.called_methods() {
            if let Some(limiter) = &state.limiter {
                named.push(NamedLimit { scope: "method", method: Some(state.name.clone()), limit: limiter.snapshot(now) });
            }
        }
        Ok(named)
    }

    pub async fn cache_statistics(&self, id: &str, principal: &Principal) -> Result<CacheStatistics, EngineError> {
        let instance = self.instance(id, principal).await?;
        Ok(self.cache.statistics(instance.id.as_str()))
    }

    /// Drops the cached answers of an instance.
    pub async fn clear_cache(&self, id: &str, principal: &Principal) -> Result<CacheStatistics, EngineError> {
        let instance = self.instance(id, principal).await?;
        self.cache.clear(instance.id.as_str());
        Ok(self.cache.statistics(instance.id.as_str()))
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
