//! The metrics of executions. Handles are looked up once per method and kept.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::policy::circuit_breaker::State;
use crate::prefetch;

/// How many pairs of integration and method get labels of their own; those that come
/// later share the label `other`, so that the number of series stays bounded.
const MAX_LABELLED_METHODS: usize = 5_000;

/// The label of everything past the bound.
const OTHER: &str = "other";

/// The metric handles of one method of one instance, or of all those that share a label.
pub(crate) struct MethodMetrics {
    integration: String,
    method: String,
    succeeded: Counter,
    duration: Histogram,
    upstream_duration: OnceLock<Histogram>,
    attempts: Counter,
    cache_hits: OnceLock<Counter>,
    cache_misses: OnceLock<Counter>,
    stale_answers: OnceLock<Counter>,
    breaker_state: Gauge,
}

impl MethodMetrics {
    pub(crate) fn of(integration: &str, method: &str) -> Arc<Self> {
        static OTHERS: OnceLock<Arc<MethodMetrics>> = OnceLock::new();
        let (integration, method) = bounded_labels(integration, method);
        if integration == OTHER && method == OTHER {
            return Arc::clone(OTHERS.get_or_init(|| Arc::new(Self::new(integration, method))));
        }
        Arc::new(Self::new(integration, method))
    }

    fn new(integration: String, method: String) -> Self {
        let labels = [("integration", integration.clone()), ("method", method.clone())];
        Self {
            succeeded: counter!("integration_executions_total", "integration" => integration.clone(), "method" => method.clone(), "status" => "SUCCESS", "code" => ""),
            duration: histogram!("integration_execution_duration_seconds", &labels),
            upstream_duration: OnceLock::new(),
            attempts: counter!("integration_upstream_attempts_total", &labels),
            cache_hits: OnceLock::new(),
            cache_misses: OnceLock::new(),
            stale_answers: OnceLock::new(),
            breaker_state: gauge!("integration_circuit_breaker_state", &labels),
            integration,
            method,
        }
    }

    pub(crate) fn prefetch(&self) {
        prefetch::words(self.upstream_duration.get().is_some());
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("integration", self.integration.clone()), ("method", self.method.clone())]
    }

    pub(crate) fn finished(&self, error_code: Option<&'static str>, duration: Duration, attempts: u32) {
        match error_code {
            None => self.succeeded.increment(1),
            Some(code) => counter!("integration_executions_total", "integration" => self.integration.clone(), "method" => self.method.clone(), "status" => "ERROR", "code" => code).increment(1),
        }
        self.duration.record(duration.as_secs_f64());
        if attempts > 0 {
            self.attempts.increment(u64::from(attempts));
        }
    }

    /// One attempt at the upstream: how long it took, and whether the upstream failed.
    pub(crate) fn attempted(&self, duration: Duration, upstream_failed: bool) {
        self.upstream_duration
            .get_or_init(|| histogram!("integration_upstream_duration_seconds", &self.labels()))
            .record(duration.as_secs_f64());
        if upstream_failed {
            counter!("integration_upstream_failures_total", &self.labels()).increment(1);
        }
    }

    pub(crate) fn cache_hit(&self) {
        self.cache_hits.get_or_init(|| counter!("integration_cache_hits_total", &self.labels())).increment(1);
    }

    pub(crate) fn cache_miss(&self) {
        self.cache_misses.get_or_init(|| counter!("integration_cache_misses_total", &self.labels())).increment(1);
    }

    pub(crate) fn stale_answer(&self) {
        self.stale_answers
            .get_or_init(|| counter!("integration_cache_stale_answers_total", &self.labels()))
            .increment(1);
    }

    pub(crate) fn rate_limited(&self, limit: &'static str) {
        counter!("integration_rate_limit_hits_total", "integration" => self.integration.clone(), "method" => self.method.clone(), "limit" => limit).increment(1);
    }

    /// What the upstream said that a call took of its limit.
    pub(crate) fn cost_taken(&self, cost: u32) {
        counter!("integration_upstream_cost_total", &self.labels()).increment(u64::from(cost));
    }

    pub(crate) fn auth_failed(&self) {
        counter!("integration_auth_failures_total", "integration" => self.integration.clone()).increment(1);
    }

    pub(crate) fn retried(&self) {
        counter!("integration_retries_total", &self.labels()).increment(1);
    }

    pub(crate) fn result_mismatched(&self) {
        counter!("integration_result_mismatches_total", &self.labels()).increment(1);
    }

    /// A breaker changed its state.
    pub(crate) fn breaker_moved(&self, to: State) {
        self.breaker_state.set(match to {
            State::Closed => 0.0,
            State::HalfOpen => 1.0,
            State::Open => 2.0,
        });
        counter!("integration_circuit_breaker_transitions_total", "integration" => self.integration.clone(), "method" => self.method.clone(), "to" => to.as_str()).increment(1);
    }
}

pub(crate) fn bounded_labels(integration: &str, method: &str) -> (String, String) {
    static SEEN: OnceLock<Mutex<HashSet<(String, String)>>> = OnceLock::new();
    let pair = (integration.to_owned(), method.to_owned());
    let mut seen = SEEN.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if seen.contains(&pair) || (seen.len() < MAX_LABELLED_METHODS && seen.insert(pair.clone())) {
        pair
    } else {
        (OTHER.to_owned(), OTHER.to_owned())
    }
}

/// The names and help texts of all metrics of the engine, for the exporter.
pub const DESCRIPTIONS: &[(&str, &str)] = &[
    ("integration_imports_total", "Documents of other formats that were to become definitions, by format and outcome."),
    (
        "integration_incompatible_definitions",
        "Definitions that may execute and that no adapter runs, at the last check.",
    ),
    ("integration_executions_total", "Executions that ended, by status and error code."),
    ("integration_execution_duration_seconds", "Time from a call's arrival to its end."),
    (
        "integration_streamed_bytes_total",
        "Bytes of content that passed through, from callers (`in`) and to them (`out`).",
    ),
    ("integration_upstream_attempts_total", "Requests made to external systems."),
    ("integration_upstream_duration_seconds", "Time of one request to an external system."),
    ("integration_upstream_failures_total", "Requests to external systems that failed by the system's fault."),
    ("integration_cache_hits_total", "Calls answered from the response cache."),
    ("integration_cache_misses_total", "Calls of cached methods that had to ask the external system."),
    (
        "integration_cache_stale_answers_total",
        "Calls answered with an outdated response because the external system failed.",
    ),
    ("integration_upstream_cost_total", "What external systems said that calls took of their limits."),
    ("integration_rate_limit_hits_total", "Calls refused because a limit was used up, by kind of limit."),
    ("integration_auth_failures_total", "Calls whose credential the external system refused."),
    ("integration_retries_total", "Attempts that repeated a failed one."),
    ("integration_result_mismatches_total", "Answers that did not fit the method's result schema."),
    ("integration_circuit_breaker_state", "State of the circuit breaker: 0 closed, 1 half-open, 2 open."),
    ("integration_circuit_breaker_transitions_total", "Changes of a circuit breaker's state, by the state it went to."),
    ("integration_dependency_requests_total", "Requests to the key service and the credential store, by outcome."),
    (
        "integration_dependency_circuit_breaker_state",
        "State of the circuit breaker before the key service or the credential store: 0 closed, 2 open.",
    ),
    (
        "integration_credentials_rotation_due",
        "Credentials older than credentials.rotationReminderDays, counted each minute.",
    ),
    (
        "integration_credentials_oldest_age_seconds",
        "Time since the credential that waits longest was stored or rotated.",
    ),
    ("integration_webhooks_received_total", "Deliveries of webhooks that were verified and became events."),
    ("integration_webhooks_duplicate_total", "Deliveries of webhooks that had been taken before."),
    ("integration_webhooks_refused_total", "Deliveries of webhooks that were not verified, by reason."),
    ("integration_database_connections", "Open connections to databases, by adapter."),
    (
        "integration_database_pool_exhausted_total",
        "Calls that found all connections of their instance in use for too long, by adapter.",
    ),
    ("integration_queue_depth", "Asynchronous executions that wait or run, as this process last counted."),
    ("integration_executions_in_flight", "Executions under way in this process."),
    ("integration_oauth_connections_total", "Connections by OAuth that ended, by grant and outcome."),
    ("integration_token_refreshes_total", "Exchanges of tokens that ended, by outcome."),
    ("integration_token_refreshes_in_flight", "Token refreshes under way in this process."),
    (
        "integration_token_refreshes_interrupted",
        "Token refreshes whose process went silent, so that their outcome is not known; over all processes.",
    ),
    ("integration_token_refresh_overdue_seconds", "How long the longest due token refresh has been due."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_past_the_bound_shares_its_handles() {
        let own: Vec<_> = (0..MAX_LABELLED_METHODS).map(|n| MethodMetrics::of(&format!("i{n}"), "m")).collect();
        let [one, other] = ["x", "y"].map(|integration| MethodMetrics::of(integration, "m"));
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!((one.integration.as_str(), one.method.as_str()), (OTHER, OTHER));
        // Those that had labels before keep them.
        let again = MethodMetrics::of("i0", "m");
        assert_eq!(again.integration, own[0].integration);
        assert_eq!(again.integration, "i0");
    }
}
