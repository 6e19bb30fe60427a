//! What the service tells the world: the envelope and the payloads of its events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::definition::AuthType;
use crate::execution::ExecutionError;
use crate::instance::InstanceStatus;
use crate::{DefinitionId, ErrorCode, InstanceId, Timestamp};

/// The name of this service in every event's `metadata.source`.
pub const SOURCE: &str = "integration-service";

macro_rules! event_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal;)+) => {
        /// The types of events that the service publishes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl EventType {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
            }
        }
    };
}

impl utoipa::PartialSchema for EventType {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::schema::text_out_of("What an event tells.", Self::ALL.iter().map(|kind| kind.as_str()))
    }
}

impl utoipa::ToSchema for EventType {}

event_types! {
    /// A method was executed with success.
    MethodExecuted = "integration.method.executed";
    /// A method's execution failed.
    MethodFailed = "integration.method.failed";
    /// An instance was connected.
    Connected = "integration.connected";
    /// An external system refused an instance's credential.
    AuthFailed = "integration.auth.failed";
    /// An instance's status changed.
    InstanceStatus = "integration.instance.status";
    /// An instance was registered.
    Registered = "integration.registered";
    /// An instance's health was checked.
    HealthCheck = "integration.health_check";
    /// A call met a used-up limit.
    RateLimitExceeded = "integration.rate_limit_exceeded";
    /// A circuit breaker opened.
    CircuitBreakerOpened = "integration.circuit_breaker_opened";
    /// A circuit breaker closed again.
    CircuitBreakerClosed = "integration.circuit_breaker_closed";
    /// An external system delivered a webhook, and its signature was verified.
    WebhookReceived = "integration.webhook.received";
}

/// An event as it travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// UUIDv7; ids of one service's events ascend in the order of their commits.
    #[schema(value_type = String, format = Uuid)]
    pub id: uuid::Uuid,
    pub timestamp: Timestamp,
    #[schema(value_type = Object)]
    pub data: Value,
    pub metadata: EventMetadata,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventMetadata {
    pub correlation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    pub source: String,
}

/// The payloads that every execution makes; written without a tree in between.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodExecuted<'a> {
    integration_instance_id: &'a InstanceId,
    method_name: &'a str,
    status: &'a str,
    execution_time: u64,
    result_summary: ResultSummary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultSummary {
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    data_size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodFailed<'a> {
    integration_instance_id: &'a InstanceId,
    method_name: &'a str,
    error: FailedError<'a>,
    retryable: bool,
    execution_time: u64,
}

#[derive(Serialize)]
struct FailedError<'a> {
    code: ErrorCode,
    message: &'a str,
    details: &'a Value,
}

/// What an external system delivered: the payload of `integration.webhook.received`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookReceived<'a> {
    pub integration_instance_id: &'a InstanceId,
    pub integration_definition_id: &'a DefinitionId,
    /// How the delivery was verified: `standard`, `github`, `stripe`, `slack`, `hmac`.
    pub scheme: &'a str,
    /// The sender's own id of the delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<&'a str>,
    /// When the sender says that it sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// By names in lower case.
    pub headers: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    pub body: WebhookBody<'a>,
}

/// The body of a delivery, whole.
#[derive(Debug, Serialize)]
pub enum WebhookBody<'a> {
    /// JSON, as it came.
    #[serde(rename = "body")]
    Json(&'a RawValue),
    /// Anything else.
    #[serde(rename = "bodyBase64")]
    Base64(String),
}

/// An event before the store gives it its id and commits it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventDraft {
    pub event_type: EventType,
    /// The JSON text of `data`, made once.
    pub data: Box<RawValue>,
    pub correlation_id: String,
    pub task_id: Option<String>,
}

impl EventDraft {
    fn new(event_type: EventType, correlation_id: &str, data: impl Serialize) -> Self {
        // The payloads are made of texts and numbers.
        let data = to_raw_value(&data).expect("a payload serialises");
        Self { event_type, data, correlation_id: correlation_id.to_owned(), task_id: None }
    }

    #[must_use]
    pub fn with_task(mut self, task_id: Option<&str>) -> Self {
        self.task_id = task_id.map(str::to_owned);
        self
    }

    pub fn method_executed(
        correlation_id: &str,
        instance: &InstanceId,
        method: &str,
        duration_ms: u64,
        status_code: Option<u16>,
        data_size: u64,
    ) -> Self {
        let payload = MethodExecuted {
            integration_instance_id: instance,
            method_name: method,
            status: "SUCCESS",
            execution_time: duration_ms,
            result_summary: ResultSummary { status_code, data_size },
        };
        Self::new(EventType::MethodExecuted, correlation_id, payload)
    }

    pub fn method_failed(
        correlation_id: &str,
        instance: &InstanceId,
        method: &str,
        error: &ExecutionError,
        duration_ms: u64,
    ) -> Self {
        let payload = MethodFailed {
            integration_instance_id: instance,
            method_name: method,
            error: FailedError { code: error.code, message: &error.message, details: &error.details },
            retryable: error.retryable,
            execution_time: duration_ms,
        };
        Self::new(EventType::MethodFailed, correlation_id, payload)
    }

    pub fn connected(
        correlation_id: &str,
        instance: &InstanceId,
        definition: &DefinitionId,
        auth_type: AuthType,
        scope: Option<&str>,
        expires_at: Option<Timestamp>,
    ) -> Self {
        let mut details = serde_json::Map::new();
        if let Some(scope) = scope {
            details.insert("scope".to_owned(), scope.into());
        }
        if let Some(expires_at) = expires_at {
            details.insert("expiresAt".to_owned(), expires_at.to_string().into());
        }
        Self::new(
            EventType::Connected,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "integrationDefinitionId": definition,
                "authType": auth_type,
                "connectionDetails": details,
            }),
        )
    }

    pub fn auth_failed(
        correlation_id: &str,
        instance: &InstanceId,
        definition: &DefinitionId,
        auth_type: AuthType,
        message: &str,
        details: Value,
    ) -> Self {
        Self::new(
            EventType::AuthFailed,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "integrationDefinitionId": definition,
                "authType": auth_type,
                "error": {"code": "AUTH_ERROR", "message": message, "details": details},
            }),
        )
    }

    pub fn instance_status(
        correlation_id: &str,
        instance: &InstanceId,
        definition: &DefinitionId,
        previous: Option<InstanceStatus>,
        current: InstanceStatus,
        reason: &str,
    ) -> Self {
        Self::new(
            EventType::InstanceStatus,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "integrationDefinitionId": definition,
                "previousStatus": previous,
                "currentStatus": current,
                "statusChangeReason": reason,
            }),
        )
    }

    pub fn registered(correlation_id: &str, instance: &InstanceId, definition: &DefinitionId, version: &str) -> Self {
        Self::new(
            EventType::Registered,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "integrationDefinitionId": definition,
                "definitionVersion": version,
            }),
        )
    }

    pub fn health_check(
        correlation_id: &str,
        instance: &InstanceId,
        healthy: bool,
        message: &str,
        duration_ms: u64,
    ) -> Self {
        Self::new(
            EventType::HealthCheck,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "healthy": healthy,
                "message": message,
                "durationMs": duration_ms,
            }),
        )
    }

    pub fn rate_limit_exceeded(
        correlation_id: &str,
        instance: &InstanceId,
        method: &str,
        limit: &str,
        retry_after_ms: u64,
    ) -> Self {
        Self::new(
            EventType::RateLimitExceeded,
            correlation_id,
            json!({
                "integrationInstanceId": instance,
                "methodName": method,
                "limit": limit,
                "retryAfterMs": retry_after_ms,
            }),
        )
    }

    pub fn webhook_received(correlation_id: &str, received: &WebhookReceived<'_>) -> Self {
        Self::new(EventType::WebhookReceived, correlation_id, received)
    }

    /// `opened` says which way the breaker went.
    pub fn circuit_breaker(
        correlation_id: &str,
        instance: &InstanceId,
        method: &str,
        opened: bool,
        failures: u32,
        open_ms: u64,
    ) -> Self {
        let (event_type, data) = if opened {
            (
                EventType::CircuitBreakerOpened,
                json!({"integrationInstanceId": instance, "methodName": method, "failures": failures, "openMs": open_ms}),
            )
        } else {
            (EventType::CircuitBreakerClosed, json!({"integrationInstanceId": instance, "methodName": method}))
        };
        Self::new(event_type, correlation_id, data)
    }
}
