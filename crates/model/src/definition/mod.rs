//! What an external system can do: a type, an auth type, a config schema and methods.

mod auth;
mod method;
mod oauth;
mod policy;

pub use auth::{
    ApiKeyAuth, AuthType, CustomAuth, KEY_PREFIX, TokenCall, TokenCallConstants, TokenCallEncoding, TokenCallVerb,
    is_key_prefix,
};
pub use method::{Method, ResultValidation, is_valid_method_name};
pub use oauth::{
    AssertionClaims, ClientSecret, ExpiresInUnit, GrantType, OAuth2Config, RefreshStrategy, RefreshTokenConfig,
    SigningAlgorithm, TokenEndpointAuthMethod, TokenRequestFormat, TokenResponsePaths,
};
pub use policy::{CacheConfig, CircuitBreakerConfig, RateLimitAlgorithm, RateLimits, RetryConfig};

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::label::{check_labels, fits};
use crate::problem::push_pointer;
use crate::schema::SemanticVersion;
use crate::{DefinitionId, Problem, Timestamp};

/// Where a version of a definition stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DefinitionStatus {
    /// May still change; executes nothing.
    Draft,
    /// Immutable; new instances may pin it.
    Published,
    /// Executes for the instances that pin it; takes no new ones.
    Deprecated,
    /// Executes nothing.
    Archived,
}

impl DefinitionStatus {
    pub const ALL: &'static [Self] = &[Self::Draft, Self::Published, Self::Deprecated, Self::Archived];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "DRAFT",
            Self::Published => "PUBLISHED",
            Self::Deprecated => "DEPRECATED",
            Self::Archived => "ARCHIVED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == text)
    }

    /// Whether instances pinned to a version in this status may execute.
    pub const fn executes(self) -> bool {
        matches!(self, Self::Published | Self::Deprecated)
    }

    /// Whether the life of a version may go from `self` to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Draft | Self::Deprecated, Self::Published)
                | (Self::Published, Self::Deprecated)
                | (Self::Deprecated, Self::Archived)
        )
    }
}

/// A definition as its author writes it: the content of one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefinitionSpec {
    pub id: DefinitionId,
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1F\x7F-\x9F]*$", example = "Pet shop")]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 10000)]
    pub description: String,
    /// Semantic version.
    #[serde(deserialize_with = "read_version")]
    #[schema(value_type = SemanticVersion)]
    pub version: semver::Version,
    /// The adapter that speaks to the system: `http`, …
    #[serde(rename = "type")]
    #[schema(max_length = 128, pattern = r"^[^\x00-\x1F\x7F-\x9F]*$", example = "http")]
    pub adapter_type: String,
    /// The versions of the adapter that run it, as a semantic version range such as
    /// `>=1.2, <2`; any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_version_range")]
    #[schema(value_type = Option<String>, max_length = 256, example = ">=1.0, <2")]
    pub adapter_version: Option<semver::VersionReq>,
    pub auth_type: AuthType,
    /// JSON Schema (2020-12 unless it names another draft) of the instances' config.
    #[serde(default = "empty_object", deserialize_with = "json_schema")]
    #[schema(schema_with = crate::schema::json_schema, required = false)]
    pub config_schema: Value,
    /// Values that an instance's config falls back to.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub default_config: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2_config: Option<Box<OAuth2Config>>,
    /// With `authType: api_key`; `X-API-Key` carries the key unless this or the credential
    /// says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_auth: Option<ApiKeyAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_auth: Option<CustomAuth>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schema::labels, required = false)]
    pub labels: BTreeMap<String, String>,
    /// Expressions that methods share by `template:NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, String>,
    /// Limits of an instance over all its methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<RateLimits>,
    /// The method that a connection test executes, without params; the adapter's own
    /// check of reachability unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_method: Option<String>,
    #[schema(max_items = 5000)]
    pub methods: Vec<Method>,
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

/// Reads an object.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Map::deserialize(deserializer).map(Value::Object)
}

/// Reads what can be a JSON Schema: an object, or a boolean.
fn json_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    match Value::deserialize(deserializer)? {
        schema @ (Value::Object(_) | Value::Bool(_)) => Ok(schema),
        _ => Err(serde::de::Error::custom("expected a JSON Schema: an object, true or false")),
    }
}

fn read_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<semver::Version, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| serde::de::Error::custom(format_args!("expected a semantic version such as 1.2.0: {error}")))
}

fn read_version_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<semver::VersionReq>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse()).transpose().map_err(|error| {
        serde::de::Error::custom(format_args!("expected a range of semantic versions such as \">=1.0, <2\": {error}"))
    })
}

/// The type of definitions whose external system calls the service.
pub const WEBHOOK: &str = "webhook";

/// The type of definitions of object storage, whose requests are signed with what a custom
/// credential holds instead of carrying it.
pub const STORAGE: &str = "storage";

/// What the registry itself keeps of a version: see [`Definition`].
const READ_ONLY: [&str; 4] = ["status", "createdAt", "updatedAt", "publishedAt"];

/// The most methods that one definition may have.
pub const MAX_METHODS: usize = 5_000;
/// The longest name, in characters.
pub const MAX_NAME: usize = 200;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 10_000;
/// The longest version and the longest name of an adapter, in characters.
pub const MAX_VERSION_LENGTH: usize = 128;

impl DefinitionSpec {
    /// Reads a definition from JSON; the error says where the document does not fit. What
    /// the registry itself keeps of a version may come along, as in a document that was
    /// read, edited and sent back.
    pub fn from_json(document: Value) -> Result<Self, Problem> {
        crate::problem::from_object(document, &READ_ONLY)
    }

    /// The faults of size, which not even a DRAFT may have: what lists are made of stays small.
    pub fn check_size(&self) -> Vec<Problem> {
        let mut problems = check_labels(&self.labels);
        if !fits(&self.name, 0, MAX_NAME) {
            problems.push(Problem::new(
                "/name",
                format!("expected at most {MAX_NAME} characters, none of them control characters"),
            ));
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            problems.push(Problem::new("/description", format!("expected at most {MAX_DESCRIPTION} characters")));
        }
        if self.version.to_string().len() > MAX_VERSION_LENGTH {
            problems.push(Problem::new("/version", format!("expected at most {MAX_VERSION_LENGTH} characters")));
        }
        if !fits(&self.adapter_type, 0, MAX_VERSION_LENGTH) {
            problems.push(Problem::new("/type", format!("expected at most {MAX_VERSION_LENGTH} characters")));
        }
        if self.methods.len() > MAX_METHODS {
            problems.push(Problem::new("/methods", format!("expected at most {MAX_METHODS} methods")));
        }
        problems
    }

    /// Whether the external system calls the service, and not the service the system: then
    /// there is nothing to execute, and no request that a credential goes onto.
    pub fn is_inbound(&self) -> bool {
        self.adapter_type == WEBHOOK
    }

    /// The faults that can be seen without an adapter: all of them, not the first.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.check_size();
        if self.name.trim().is_empty() {
            problems.push(Problem::new("/name", "expected a name"));
        }
        match (self.is_inbound(), self.methods.is_empty()) {
            (false, true) => problems.push(Problem::new("/methods", "expected at least one method")),
            (true, false) => problems
                .push(Problem::new("/methods", "expected no methods: a webhook is called by the external system")),
            _ => {}
        }
        match (self.auth_type, &self.oauth2_config) {
            (_, None) => {}
            (AuthType::OAuth2, Some(config)) => problems.extend(config.check("/oauth2Config")),
            (_, Some(_)) => problems.push(Problem::new("/oauth2Config", "only authType oauth2 has an oauth2Config")),
        }
        match (self.auth_type, &self.api_key_auth) {
            (_, None) => {}
            (AuthType::ApiKey, Some(auth)) => problems.extend(auth.check("/apiKeyAuth")),
            (_, Some(_)) => problems.push(Problem::new("/apiKeyAuth", "only authType api_key has an apiKeyAuth")),
        }
        match (self.auth_type, &self.custom_auth) {
            (AuthType::Custom, Some(_)) if self.is_inbound() => {
                problems.push(Problem::new("/customAuth", "expected none: a webhook sends no requests"));
            }
            (AuthType::Custom, Some(_)) if self.adapter_type == STORAGE => {
                problems.push(Problem::new("/customAuth", "expected none: the requests are signed"));
            }
            (AuthType::Custom, None) if self.is_inbound() || self.adapter_type == STORAGE => {}
            (AuthType::Custom, None) => {
                problems.push(Problem::new(
                    "/customAuth",
                    "authType custom needs customAuth: which headers or query parameters carry which fields",
                ));
            }
            (AuthType::Custom, Some(custom)) => problems.extend(custom.check("/customAuth")),
            (_, Some(_)) => problems.push(Problem::new("/customAuth", "only authType custom has a customAuth")),
            (_, None) => {}
        }
        if let Some(limits) = &self.rate_limits {
            problems.extend(limits.check("/rateLimits"));
        }
        if let Some(name) = &self.test_method
            && !self.methods.iter().any(|method| &method.name == name)
        {
            problems.push(Problem::new("/testMethod", format!("there is no method named {name:?}")));
        }
        let mut names = HashSet::new();
        for (index, method) in self.methods.iter().enumerate() {
            let pointer = push_pointer("/methods", &index.to_string());
            if !names.insert(method.name.as_str()) {
                problems
                    .push(Problem::new(format!("{pointer}/name"), format!("a second method named {:?}", method.name)));
            }
            problems.extend(method.check(&pointer));
            for (field, transform) in
                [("requestTransform", &method.request_transform), ("responseTransform", &method.response_transform)]
            {
                if let Some(name) = transform.as_deref().and_then(|text| text.strip_prefix(TEMPLATE_PREFIX))
                    && !self.templates.contains_key(name)
                {
                    problems.push(Problem::new(
                        format!("{pointer}/{field}"),
                        format!("there is no template {name:?} in /templates"),
                    ));
                }
            }
        }
        problems
    }

    /// The expression behind a transform field: itself, or the template that it names.
    pub fn resolve_transform<'a>(&'a self, transform: &'a str) -> Option<&'a str> {
        match transform.strip_prefix(TEMPLATE_PREFIX) {
            Some(name) => self.templates.get(name).map(String::as_str),
            None => Some(transform),
        }
    }
}

/// Marks a transform that names a shared template instead of holding an expression.
pub const TEMPLATE_PREFIX: &str = "template:";

/// One version of a definition as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    #[serde(flatten)]
    pub spec: DefinitionSpec,
    pub status: DefinitionStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
}

/// One line of the registry's list: the newest version that the filters let through.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionSummary {
    pub id: DefinitionId,
    pub name: String,
    pub description: String,
    pub version: String,
    #[serde(rename = "type")]
    pub adapter_type: String,
    pub auth_type: AuthType,
    pub method_count: u32,
    pub labels: BTreeMap<String, String>,
    pub status: DefinitionStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_is_told_with_its_place() {
        let spec = DefinitionSpec::from_json(json!({
            "id": "x", "name": " ", "version": "1.0.0", "type": "http", "authType": "custom",
            "oauth2Config": {"clientId": "c"}, "testMethod": "ping", "rateLimits": {"requestsPerMinute": 0},
            "methods": [
                {"name": "a", "timeoutMs": 0, "responseTransform": "template:gone",
                 "retryConfig": {"maxRetries": 21, "backoffMultiplier": 0.5, "maxDelayMs": 1}},
                {"name": "a", "circuitBreaker": {"failureThreshold": 0, "windowMs": 1, "openMs": 1}},
                {"name": "1 b", "cache": {"ttlMs": 99_999_999_999_u64}}
            ]
        }))
        .expect("readable");
        let problems = spec.check();
        let mut pointers: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(
            pointers,
            [
                "/customAuth",
                "/methods/0/responseTransform",
                "/methods/0/retryConfig/backoffMultiplier",
                "/methods/0/retryConfig/maxDelayMs",
                "/methods/0/retryConfig/maxRetries",
                "/methods/0/timeoutMs",
                "/methods/1/circuitBreaker/failureThreshold",
                "/methods/1/name",
                "/methods/2/cache/ttlMs",
                "/methods/2/name",
                "/name",
                "/oauth2Config",
                "/rateLimits/requestsPerMinute",
                "/testMethod",
            ]
        );
    }

    #[test]
    fn a_webhook_has_no_methods_and_no_requests_to_bind_a_credential_to() {
        let document = |methods: Value| {
            json!({
                "id": "x", "name": "X", "version": "1.0.0", "type": "webhook", "authType": "custom", "methods": methods
            })
        };
        let spec = DefinitionSpec::from_json(document(json!([]))).expect("readable");
        assert!(spec.is_inbound());
        assert_eq!(spec.check(), []);
        let mut spec = DefinitionSpec::from_json(document(json!([{"name": "a"}]))).expect("readable");
        spec.custom_auth = Some(CustomAuth::default());
        let pointers: Vec<String> = spec.check().into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/methods", "/customAuth"]);
    }

    #[test]
    fn a_document_that_does_not_fit_says_where() {
        let document = json!({
            "id": "x", "name": "X", "version": "1.0.0", "type": "http", "authType": "none",
            "methods": [{"name": "a", "timeoutMs": "soon"}]
        });
        let problem = DefinitionSpec::from_json(document).expect_err("a text is no number");
        assert_eq!(problem.pointer, "/methods/0/timeoutMs");
    }
}
