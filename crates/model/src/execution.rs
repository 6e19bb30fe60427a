//! One call of a method: its stages, its state, its log row.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;

use crate::{DefinitionId, ErrorCode, ExecutionId, InstanceId, TenantId, Timestamp};

/// The stages of an execution, in their order: one vocabulary for code, errors, spans,
/// metrics and docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Resolve,
    Authorize,
    Validate,
    Idempotency,
    CacheLookup,
    RateLimit,
    CircuitBreaker,
    RequestTransform,
    Credential,
    Call,
    ResponseTransform,
    ResultValidation,
    CacheFill,
    Record,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Authorize => "authorize",
            Self::Validate => "validate",
            Self::Idempotency => "idempotency",
            Self::CacheLookup => "cache_lookup",
            Self::RateLimit => "rate_limit",
            Self::CircuitBreaker => "circuit_breaker",
            Self::RequestTransform => "request_transform",
            Self::Credential => "credential",
            Self::Call => "call",
            Self::ResponseTransform => "response_transform",
            Self::ResultValidation => "result_validation",
            Self::CacheFill => "cache_fill",
            Self::Record => "record",
        }
    }
}

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExecutionStatus {
    /// Accepted, waiting for its turn (asynchronous calls only).
    Queued,
    /// Under way (asynchronous calls only; a synchronous call is logged when it ends).
    Running,
    Success,
    Error,
}

impl ExecutionStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Success => "SUCCESS",
            Self::Error => "ERROR",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Success, Self::Error].into_iter().find(|s| s.as_str() == text)
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Error)
    }
}

/// How a call was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionMode {
    Sync,
    Async,
}

impl ExecutionMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// The error of an execution, in the shape the documents give it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionError {
    pub code: ErrorCode,
    /// What happened and what to do, in a sentence.
    pub message: String,
    /// Facts by code: `stage` always; `errors`, `upstreamStatus`, `excerpt`, `outcome`, … where they apply.
    #[schema(value_type = Object)]
    pub details: Value,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// Seconds after which another try can help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// The log row of one execution, as callers see it: without params, and with the answer only
/// where the call was asynchronous.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    pub id: ExecutionId,
    pub tenant_id: TenantId,
    pub integration_instance_id: InstanceId,
    pub integration_definition_id: DefinitionId,
    #[schema(value_type = String)]
    pub definition_version: SmolStr,
    pub method_name: String,
    pub status: ExecutionStatus,
    pub mode: ExecutionMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ExecutionError>,
    /// How often the upstream was called.
    pub attempts: u32,
    pub cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// Bytes of `data` in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_size: Option<u64>,
    pub created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    pub principal: String,
    pub correlation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Which execution this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<ExecutionId>,
    /// The answer of an asynchronous execution that ended SUCCESS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    pub data: Option<Box<serde_json::value::RawValue>>,
}
