//! What handlers share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::access::AccessKeys;
use crate::telemetry::Metrics;

/// What handlers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    pub access: AccessKeys,
    pub readiness: Readiness,
    pub metrics: Metrics,
}

/// Whether the service can do its work, and what is missing. Those who own a dependency
/// report on it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<RwLock<Dependencies>>);

/// By name; what is missing says why.
type Dependencies = BTreeMap<&'static str, Result<(), String>>;

/// The state of the service itself, among its dependencies.
const SERVICE: &str = "service";

impl Readiness {
    /// Notes how a dependency stands now.
    pub fn report(&self, dependency: &'static str, state: Result<(), String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(dependency, state);
    }

    /// From now on the service is not ready, so that balancers send nobody here.
    pub fn stop(&self) {
        self.report(SERVICE, Err("stopping".to_owned()));
    }

    /// How each dependency stood when it was last reported on.
    pub fn dependencies(&self) -> Dependencies {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
