//! The metrics recorder and the server's own metrics. Other crates record and describe
//! theirs; all are rendered together.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// Requests answered, by class of status.
pub(crate) const HTTP_REQUESTS: &str = "integration_http_requests_total";
/// Open connections of callers.
pub(crate) const HTTP_CONNECTIONS: &str = "integration_http_connections";
/// Connections turned away because too many were open.
pub(crate) const HTTP_CONNECTIONS_REJECTED: &str = "integration_http_connections_rejected_total";
/// Requests whose handler panicked.
pub(crate) const HTTP_PANICS: &str = "integration_http_panics_total";
/// Requests without a valid key.
pub(crate) const HTTP_AUTH_FAILURES: &str = "integration_http_auth_failures_total";
/// Requests without a valid key that were told to wait.
pub(crate) const HTTP_AUTH_LIMITED: &str = "integration_http_auth_limited_total";
/// When the certificate of the service stops being good, as a Unix time.
pub(crate) const TLS_CERTIFICATE_EXPIRY: &str = "integration_tls_certificate_expiry_timestamp_seconds";
/// TLS handshakes that failed, or took too long.
pub(crate) const TLS_HANDSHAKE_FAILURES: &str = "integration_tls_handshake_failures_total";
/// Readings of changed certificate files.
pub(crate) const TLS_RELOADS: &str = "integration_tls_reloads_total";
/// Requests of known callers who may not do what they ask for.
pub(crate) const HTTP_ACCESS_DENIED: &str = "integration_http_access_denied_total";
/// Tokens that were refused, by reason.
pub(crate) const JWT_REFUSED: &str = "integration_jwt_refused_total";
/// Fetches of the keys that issuers publish, by outcome.
pub(crate) const JWKS_FETCHES: &str = "integration_jwks_fetches_total";
/// Log lines dropped because the output was too slow.
pub(crate) const LOG_LINES_DROPPED: &str = "integration_log_lines_dropped_total";
const BUILD_INFO: &str = "integration_build_info";

/// Upper bounds of duration histograms, in seconds: half a millisecond to ten minutes.
const DURATION_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];

/// Upper bounds of size histograms, in bytes.
const SIZE_BUCKETS: &[f64] = &[256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 10_485_760.0];

/// How often samples are moved into their histograms, so that they do not pile up between
/// two scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The process's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes the process's recorder. Fails where one is installed already.
    pub fn install() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), SIZE_BUCKETS)?
            .install_recorder()?;
        describe();
        for name in [
            HTTP_CONNECTIONS_REJECTED,
            HTTP_PANICS,
            HTTP_AUTH_FAILURES,
            HTTP_AUTH_LIMITED,
            HTTP_ACCESS_DENIED,
            TLS_HANDSHAKE_FAILURES,
            LOG_LINES_DROPPED,
        ] {
            // A counter that is there from the beginning shows its first increase.
            counter!(name).increment(0);
        }
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle })
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps histograms small until `stop`; the task belongs to its caller.
    pub async fn run_upkeep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.handle.run_upkeep(),
            }
        }
    }
}

fn describe() {
    describe_counter!(HTTP_REQUESTS, "Requests answered, by class of status.");
    describe_gauge!(HTTP_CONNECTIONS, "Open connections of callers.");
    describe_counter!(HTTP_CONNECTIONS_REJECTED, "Connections turned away because too many were open.");
    describe_counter!(HTTP_PANICS, "Requests whose handler failed by a fault of the service.");
    describe_counter!(HTTP_AUTH_FAILURES, "Requests without a valid key.");
    describe_counter!(
        HTTP_AUTH_LIMITED,
        "Requests without a valid key that were told to wait, for too many came from their address."
    );
    describe_gauge!(TLS_CERTIFICATE_EXPIRY, "When the service's certificate stops being good, as a Unix time.");
    describe_counter!(TLS_HANDSHAKE_FAILURES, "TLS handshakes that failed or took too long.");
    describe_counter!(TLS_RELOADS, "Readings of changed certificate files, by outcome.");
    describe_counter!(HTTP_ACCESS_DENIED, "Requests of known callers who may not do what they ask for.");
    describe_counter!(JWT_REFUSED, "JSON Web Tokens that were refused, by reason.");
    describe_counter!(JWKS_FETCHES, "Fetches of the keys that issuers publish, by outcome.");
    describe_counter!(LOG_LINES_DROPPED, "Log lines dropped because the output was too slow.");
    for (name, text) in integration_engine::metrics::DESCRIPTIONS.iter().chain(integration_store::metrics::DESCRIPTIONS)
    {
        match *name {
            name if name.ends_with("_total") => describe_counter!(name, *text),
            name if name.ends_with("_seconds") => describe_histogram!(name, *text),
            name => describe_gauge!(name, *text),
        }
    }
    describe_gauge!(BUILD_INFO, "Always 1; its label tells the version.");
}
