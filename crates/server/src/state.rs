//! What every handler can reach.

use std::sync::Arc;

use integration_engine::Engine;
use tokio_util::sync::CancellationToken;

use crate::access::Authenticator;
use crate::telemetry::metrics::Metrics;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub engine: Arc<Engine>,
    pub authenticator: Authenticator,
    pub metrics: Metrics,
    /// Cancelled when the service begins to stop: streams end, readiness says so.
    pub stopping: CancellationToken,
    /// The service's own description, as it is served.
    pub openapi: Arc<str>,
}
