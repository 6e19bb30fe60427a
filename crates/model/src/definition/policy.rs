//! The policies of a method: data, not code.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Problem};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitAlgorithm {
    /// Refills steadily; lets bursts of `burstLimit` through.
    #[default]
    TokenBucket,
    /// Counts in windows of one minute.
    FixedWindow,
    /// A token bucket that slows down where the upstream's headers or refusals say so.
    Adaptive,
}

/// How often a method, or an instance over all its methods, may be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// The most calls at once; `requestsPerMinute / 60` rounded up unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_limit: Option<u32>,
    #[serde(default)]
    pub algorithm: RateLimitAlgorithm,
}

impl RateLimits {
    /// What is wrong with the numbers; `pointer` is where they stand.
    pub fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.requests_per_minute == Some(0) {
            problems.push(Problem::new(format!("{pointer}/requestsPerMinute"), "expected 1 or more"));
        }
        if self.burst_limit == Some(0) {
            problems.push(Problem::new(format!("{pointer}/burstLimit"), "expected 1 or more"));
        }
        if self.requests_per_minute.is_none() && self.algorithm != RateLimitAlgorithm::Adaptive {
            problems.push(Problem::new(pointer, "expected requestsPerMinute"));
        }
        problems
    }
}

/// When and how often a failed attempt is repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryConfig {
    pub max_retries: u32,
    #[serde(default = "default_multiplier")]
    pub backoff_multiplier: f64,
    #[serde(default = "default_initial_delay")]
    pub initial_delay_ms: u64,
    #[serde(default = "default_max_delay")]
    pub max_delay_ms: u64,
    /// Codes after which another attempt is made; all retryable ones unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable_errors: Option<Vec<ErrorCode>>,
}

const fn default_multiplier() -> f64 {
    2.0
}

const fn default_initial_delay() -> u64 {
    100
}

const fn default_max_delay() -> u64 {
    10_000
}

impl RetryConfig {
    /// What is wrong with the numbers; `pointer` is where they stand.
    pub fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.max_retries > 20 {
            problems.push(Problem::new(format!("{pointer}/maxRetries"), "expected 0 to 20"));
        }
        if !(1.0..=100.0).contains(&self.backoff_multiplier) {
            problems.push(Problem::new(format!("{pointer}/backoffMultiplier"), "expected 1 to 100"));
        }
        if self.max_delay_ms < self.initial_delay_ms {
            problems.push(Problem::new(format!("{pointer}/maxDelayMs"), "expected no less than initialDelayMs"));
        }
        problems
    }

    /// The delay before retry number `retry` (from 0), before jitter.
    pub fn delay(&self, retry: u32) -> Duration {
        let factor = self.backoff_multiplier.powi(i32::try_from(retry).unwrap_or(i32::MAX));
        let seconds = (Duration::from_millis(self.initial_delay_ms).as_secs_f64() * factor)
            .min(Duration::from_millis(self.max_delay_ms).as_secs_f64());
        Duration::from_secs_f64(seconds)
    }
}

/// When calls are kept from a failing upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreakerConfig {
    /// Failures within the window that open the breaker.
    pub failure_threshold: u32,
    pub window_ms: u64,
    /// How long the breaker stays open before it lets probes through.
    pub open_ms: u64,
    /// Probes at once while half-open.
    #[serde(default = "one")]
    pub half_open_max_calls: u32,
}

const fn one() -> u32 {
    1
}

impl Default for CircuitBreakerConfig {
    /// The documents' setting for calls to services: 5 failures in 20 s.
    fn default() -> Self {
        Self { failure_threshold: 5, window_ms: 20_000, open_ms: 10_000, half_open_max_calls: 1 }
    }
}

impl CircuitBreakerConfig {
    /// What is wrong with the numbers; `pointer` is where they stand.
    pub fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (field, value) in [
            ("failureThreshold", u64::from(self.failure_threshold)),
            ("windowMs", self.window_ms),
            ("openMs", self.open_ms),
            ("halfOpenMaxCalls", u64::from(self.half_open_max_calls)),
        ] {
            if value == 0 || value > 86_400_000 {
                problems.push(Problem::new(format!("{pointer}/{field}"), "expected 1 to 86400000"));
            }
        }
        problems
    }
}

/// How long answers may be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheConfig {
    /// Fresh for this long.
    pub ttl_ms: u64,
    /// After that, still given where the upstream fails, with its age said.
    #[serde(default)]
    pub stale_ttl_ms: u64,
    /// The params that tell answers apart; all of them unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vary: Vec<String>,
}

impl CacheConfig {
    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        const MAX: u64 = 30 * 86_400_000;
        let mut problems = Vec::new();
        for (field, value) in [("ttlMs", self.ttl_ms), ("staleTtlMs", self.stale_ttl_ms)] {
            if value > MAX {
                problems.push(Problem::new(format!("{pointer}/{field}"), format!("expected at most {MAX}")));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_their_limit_whatever_the_settings() {
        let retry = RetryConfig {
            max_retries: 3,
            backoff_multiplier: 2.0,
            initial_delay_ms: 100,
            max_delay_ms: 350,
            retryable_errors: None,
        };
        let delays: Vec<u128> = (0..4).map(|number| retry.delay(number).as_millis()).collect();
        assert_eq!(delays, [100, 200, 350, 350]);
        let extreme =
            RetryConfig { backoff_multiplier: 100.0, initial_delay_ms: 0, max_delay_ms: u64::MAX, ..retry.clone() };
        assert_eq!(extreme.delay(20), Duration::ZERO);
        assert_eq!(retry.delay(u32::MAX).as_millis(), 350);
    }
}
