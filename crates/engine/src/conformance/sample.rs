//! The system that an adapter is checked with, as data.

use integration_model::definition::{AuthType, DefinitionSpec};
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A real system, calls of it that work, and calls of it that fail. It may hold secrets, and has
/// no printable form.
///
/// The calls are made many times and at once, so that all but `write` may change nothing.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sample {
    /// A definition whose methods the calls name.
    pub definition: DefinitionSpec,
    /// The config of the instance, as far as the definition's `defaultConfig` does not say it.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// None where the system asks for none.
    #[serde(default)]
    pub credential: Option<SampleCredential>,
    /// Where the config says how to reach the system. Unless given: `/baseUrl` or `/endpoint`
    /// where there is such a member, or else `/host` and `/port`.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// Calls that only read, at best two with different data.
    #[serde(default)]
    pub calls: Vec<SampleCall>,
    /// A call that changes something.
    #[serde(default)]
    pub write: Option<SampleWrite>,
    /// Params of the first call that do not fit.
    #[serde(default)]
    pub invalid_params: Vec<InvalidParams>,
    /// Credentials that cannot be used, which is seen without asking the system.
    #[serde(default)]
    pub invalid_credentials: Vec<SampleCredential>,
    /// A credential that the system refuses in the first call.
    #[serde(default)]
    pub refused_credential: Option<FailingCall>,
    /// A call that meets a limit of the system. RATE_LIMIT_EXCEEDED unless it says otherwise.
    #[serde(default)]
    pub limited: Option<FailingCall>,
    /// A call whose answer is larger than its method allows. UPSTREAM_ERROR unless it says
    /// otherwise.
    #[serde(default)]
    pub too_large: Option<FailingCall>,
    /// The deadline of calls that are to be answered, in milliseconds.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    /// The deadline of calls that are not, in milliseconds.
    #[serde(default = "default_patience")]
    pub patience_ms: u64,
}

const fn default_timeout() -> u64 {
    10_000
}

const fn default_patience() -> u64 {
    500
}

/// A credential, as authors send it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleCredential {
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    pub data: Value,
}

/// Where a config says how to reach the system: a URL, or a host and a port. JSON Pointers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Endpoint {
    Url(String),
    HostAndPort {
        host: String,
        port: String,
    },
    /// Nothing is connected to.
    None,
}

/// A call that works.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SampleCall {
    pub method: String,
    #[serde(default)]
    pub params: Map<String, Value>,
    /// What the answer's data has to hold: objects may have more members than are told here.
    #[serde(default)]
    pub data: Option<Value>,
}

/// A call that changes something. `{n}` in its params stands for a number that is another one
/// each time.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SampleWrite {
    pub method: String,
    #[serde(default)]
    pub params: Map<String, Value>,
    /// A call whose data is another one after each write.
    #[serde(default)]
    pub witness: Option<SampleCall>,
}

/// Params that do not fit.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvalidParams {
    pub params: Map<String, Value>,
    /// Where the fault is: `/params/name`.
    pub pointer: String,
}

/// A call that fails, as far as it differs from the sample's first.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailingCall {
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub params: Option<Map<String, Value>>,
    /// Members of the config that take the place of the sample's.
    #[serde(default)]
    pub config: Map<String, Value>,
    #[serde(default)]
    pub credential: Option<SampleCredential>,
    /// How often it is made before it fails, at most.
    #[serde(default = "once")]
    pub within_calls: u32,
    #[serde(default)]
    pub code: Option<ErrorCode>,
    #[serde(default)]
    pub retryable: Option<bool>,
}

const fn once() -> u32 {
    1
}

impl Sample {
    /// Reads a sample from JSON; the error says where the document does not fit.
    pub fn from_json(document: Value) -> Result<Self, Problem> {
        integration_model::problem::from_object(document, &[])
    }
}

impl SampleWrite {
    /// The call with this number.
    pub(super) fn numbered(&self, number: u64) -> SampleCall {
        let params = self.params.iter().map(|(name, value)| (name.clone(), with_number(value, number)));
        SampleCall { method: self.method.clone(), params: params.collect(), data: None }
    }
}

fn with_number(value: &Value, number: u64) -> Value {
    match value {
        Value::String(text) => text.replace("{n}", &number.to_string()).into(),
        Value::Array(items) => items.iter().map(|item| with_number(item, number)).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), with_number(value, number))).collect()
        }
        other => other.clone(),
    }
}

/// Whether data holds all that is expected of it.
pub(super) fn holds(data: &Value, expected: &Value) -> bool {
    match (data, expected) {
        (Value::Object(data), Value::Object(expected)) => {
            expected.iter().all(|(name, expected)| data.get(name).is_some_and(|value| holds(value, expected)))
        }
        (Value::Array(data), Value::Array(expected)) => {
            data.len() == expected.len() && data.iter().zip(expected).all(|(item, expected)| holds(item, expected))
        }
        _ => data == expected,
    }
}
