//! How the instances of each adapter fare, and which definitions no adapter here runs. Must
//! not know what an adapter does.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use integration_model::DefinitionId;
use integration_model::instance::InstanceStatus;
use integration_model::principal::Principal;
use serde::Serialize;
use tokio::time::Instant;

use crate::health::HealthState;
use crate::policy::circuit_breaker::State;
use crate::registry::find_adapter;
use crate::{Engine, EngineError};

/// The most definitions without an adapter that are told of.
const MAX_INCOMPATIBLE: usize = 100;
/// The most definitions that are looked at for it.
const MAX_CHECKED: u32 = 10_000;

/// How the instances of one adapter fare.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterHealth {
    /// `healthy` where nothing is wrong with any instance, `unhealthy` where something is wrong
    /// with all that are in use, `degraded` between them.
    pub status: HealthState,
    /// How many instances of the caller there are, by status.
    pub instances: BTreeMap<&'static str, u64>,
    /// Connected instances with a circuit breaker that is not closed, in this process.
    pub instances_with_open_circuit_breaker: u64,
}

/// A version that may execute, and that no adapter of this service runs.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncompatibleDefinition {
    pub definition_id: DefinitionId,
    pub version: String,
    #[serde(rename = "type")]
    pub adapter_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_version: Option<String>,
    /// What is missing.
    pub message: String,
}

/// What the last check found.
#[derive(Default)]
pub(crate) struct Incompatible(ArcSwap<Vec<IncompatibleDefinition>>);

impl Engine {
    /// The health of each adapter, by type, as far as the caller may see its instances.
    pub async fn adapter_health(
        &self,
        principal: &Principal,
    ) -> Result<BTreeMap<&'static str, AdapterHealth>, EngineError> {
        let counts = self.store.count_instances_by_type(principal.tenant.as_ref()).await?;
        let mut open = self.instances_with_open_breakers(principal);
        let health = self.adapters.types().map(|adapter_type| {
            let of_type = counts.iter().filter(|(other, _, _)| other == adapter_type);
            let instances: BTreeMap<InstanceStatus, u64> =
                of_type.map(|(_, status, count)| (*status, *count)).collect();
            (adapter_type, AdapterHealth::new(&instances, open.remove(adapter_type).unwrap_or_default()))
        });
        Ok(health.collect())
    }

    fn instances_with_open_breakers(&self, principal: &Principal) -> BTreeMap<String, u64> {
        let now = Instant::now();
        let mut by_type = BTreeMap::new();
        for active in self.registry.all_loaded() {
            let is_open = active.instance.status == InstanceStatus::Connected
                && principal.may_see(&active.instance.tenant_id)
                && active.called_methods().any(|method| method.breaker.snapshot(now).state != State::Closed);
            if is_open {
                *by_type.entry(active.definition.definition.spec.adapter_type.clone()).or_default() += 1;
            }
        }
        by_type
    }

    /// Finds the definitions that may execute and have no adapter here that runs them.
    pub async fn check_adapters(&self) -> Result<Arc<Vec<IncompatibleDefinition>>, EngineError> {
        let types: Vec<_> = self.adapters.types().collect();
        let mut incompatible = Vec::new();
        for demand in self.store.adapter_demands(&types, MAX_CHECKED).await? {
            let range = demand.adapter_version.as_deref().and_then(|range| range.parse().ok());
            let Err(problem) = find_adapter(&demand.adapter_type, range.as_ref(), &self.adapters) else { continue };
            incompatible.push(IncompatibleDefinition {
                definition_id: demand.definition_id,
                version: demand.version,
                adapter_type: demand.adapter_type,
                adapter_version: demand.adapter_version,
                message: problem.message,
            });
            if incompatible.len() == MAX_INCOMPATIBLE {
                break;
            }
        }
        metrics::gauge!("integration_incompatible_definitions").set(incompatible.len() as f64);
        let incompatible = Arc::new(incompatible);
        self.incompatible.0.store(Arc::clone(&incompatible));
        Ok(incompatible)
    }

    /// Whether the last check found an adapter for every definition.
    pub fn adapters_run_all(&self) -> bool {
        self.incompatible.0.load().is_empty()
    }
}

impl AdapterHealth {
    fn new(instances: &BTreeMap<InstanceStatus, u64>, open: u64) -> Self {
        use InstanceStatus::{AuthError, ConfigError, Connected};
        let count = |status| instances.get(&status).copied().unwrap_or_default();
        let failing = count(AuthError) + count(ConfigError) + open;
        let well = count(Connected).saturating_sub(open);
        let status = match (failing, well) {
            (0, _) => HealthState::Healthy,
            (_, 0) => HealthState::Unhealthy,
            _ => HealthState::Degraded,
        };
        Self {
            status,
            instances: instances.iter().map(|(status, count)| (status.as_str(), *count)).collect(),
            instances_with_open_circuit_breaker: open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_as_well_as_its_instances_in_use() {
        use InstanceStatus::{AuthError, ConfigError, Connected, Disconnected, PendingConfiguration};
        for (instances, open, expected) in [
            (&[][..], 0, HealthState::Healthy),
            (&[(Disconnected, 3), (PendingConfiguration, 1)], 0, HealthState::Healthy),
            (&[(Connected, 2)], 0, HealthState::Healthy),
            (&[(Connected, 2)], 1, HealthState::Degraded),
            (&[(Connected, 2)], 2, HealthState::Unhealthy),
            (&[(Connected, 1), (AuthError, 1)], 0, HealthState::Degraded),
            (&[(AuthError, 1), (Disconnected, 1)], 0, HealthState::Unhealthy),
            (&[(ConfigError, 1)], 0, HealthState::Unhealthy),
        ] {
            let health = AdapterHealth::new(&instances.iter().copied().collect(), open);
            assert_eq!(health.status, expected, "{instances:?}, {open} open");
        }
    }
}
