//! One callable operation of a definition.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::policy::{CacheConfig, CircuitBreakerConfig, RateLimits, RetryConfig};
use crate::Problem;

/// What happens where an answer does not fit `resultSchema`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResultValidation {
    /// The answer is not looked at.
    Off,
    /// The answer goes out; the mismatch is logged, counted and told in `meta.warnings`.
    #[default]
    Warn,
    /// The call ends with RESULT_INVALID.
    Enforce,
}

/// One operation that callers may execute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Method {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// JSON Schema of `params`.
    #[serde(default = "super::empty_object", deserialize_with = "super::json_schema")]
    #[schema(schema_with = crate::schema::json_schema, required = false)]
    pub param_schema: Value,
    /// JSON Schema of `data` in the answer.
    #[serde(default = "super::empty_object", deserialize_with = "super::json_schema")]
    #[schema(schema_with = crate::schema::json_schema, required = false)]
    pub result_schema: Value,
    #[serde(default)]
    pub result_validation: ResultValidation,
    /// How the adapter makes the call; its schema is the adapter's.
    #[serde(default = "super::empty_object", deserialize_with = "super::object")]
    #[schema(value_type = Object)]
    pub operation: Value,
    /// JSONata from params to the params that the operation binds, or `template:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_transform: Option<String>,
    /// JSONata from the decoded answer to `data`, or `template:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_transform: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<RateLimits>,
    /// The deadline over all attempts, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_config: Option<RetryConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheConfig>,
    /// Whether the upstream may meet the same call twice without harm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deprecated: bool,
}

/// The longest deadline that a method may ask for: ten minutes.
pub(super) const MAX_TIMEOUT_MS: u64 = 600_000;

/// Whether `name` can stand in a path segment: `[A-Za-z_][A-Za-z0-9_.-]{0,127}`.
pub fn is_valid_method_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 128
        && (bytes[0].is_ascii_alphabetic() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl Method {
    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !is_valid_method_name(&self.name) {
            problems.push(Problem::new(
                format!("{pointer}/name"),
                "expected 1 to 128 characters out of A-Z, a-z, 0-9, '_', '.' and '-', the first a letter or '_'",
            ));
        }
        if let Some(timeout) = self.timeout_ms
            && !(1..=MAX_TIMEOUT_MS).contains(&timeout)
        {
            problems.push(Problem::new(format!("{pointer}/timeoutMs"), format!("expected 1 to {MAX_TIMEOUT_MS}")));
        }
        if let Some(limits) = &self.rate_limits {
            problems.extend(limits.check(&format!("{pointer}/rateLimits")));
        }
        if let Some(retry) = &self.retry_config {
            problems.extend(retry.check(&format!("{pointer}/retryConfig")));
        }
        if let Some(breaker) = &self.circuit_breaker {
            problems.extend(breaker.check(&format!("{pointer}/circuitBreaker")));
        }
        if let Some(cache) = &self.cache {
            problems.extend(cache.check(&format!("{pointer}/cache")));
        }
        problems
    }
}
