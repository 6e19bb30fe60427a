//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use integration_model::definition::Method;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::decode::Decoding;
use super::encode::{Encoding, FormArrays};
use super::headers::HeaderSpec;
use super::pagination::PaginationSpec;
use super::query::QueryBinding;
use super::status::StatusRange;
use crate::adapter::own_schema::OwnSchema;
use crate::http_client::{RedirectMode, RedirectPolicy};

/// A body of this name is made of all params that are not bound elsewhere.
pub(super) const ALL_PARAMS: &str = "*";

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));
pub(in crate::adapter) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OperationSpec {
    pub(super) verb: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) query: BTreeMap<String, QueryBinding>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) cookies: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    #[serde(default)]
    pub(super) encoding: Encoding,
    #[serde(default)]
    pub(super) form_arrays: FormArrays,
    #[serde(default)]
    pub(super) decoding: Decoding,
    #[serde(default)]
    pub(super) constants: Constants,
    #[serde(default = "default_success")]
    pub(super) success_statuses: Vec<StatusRange>,
    #[serde(default)]
    pub(super) error_mapping: Vec<ErrorRule>,
    pub(super) pagination: Option<PaginationSpec>,
    #[serde(default)]
    pub(super) redirects: Redirects,
    pub(super) idempotency_key_header: Option<String>,
    #[serde(default = "default_max_response")]
    pub(super) max_response_bytes: usize,
    pub(super) accept: Option<String>,
}

fn default_success() -> Vec<StatusRange> {
    vec![StatusRange::SUCCESS]
}

const fn default_max_response() -> usize {
    10 * 1024 * 1024
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Constants {
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) query: BTreeMap<String, Value>,
    pub(super) body: Option<Value>,
}

/// What an answer of some statuses, or with some value in its body, means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapter) struct ErrorRule {
    pub(super) status: Option<OneOrMany<StatusRange>>,
    pub(super) when: Option<BodyCondition>,
    pub(super) code: ErrorCode,
    pub(super) retryable: Option<bool>,
    /// Where the body says what went wrong.
    pub(super) message: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapter) struct BodyCondition {
    pub(super) pointer: String,
    pub(super) equals: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(in crate::adapter) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Redirects {
    Mode(Mode),
    Policy(ModeWithHops),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    None,
    SameOrigin,
    Follow,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ModeWithHops {
    policy: Mode,
    max_hops: Option<u8>,
}

impl Default for Redirects {
    fn default() -> Self {
        Self::Mode(Mode::SameOrigin)
    }
}

impl Redirects {
    pub(super) fn policy(self) -> RedirectPolicy {
        let (mode, max_hops) = match self {
            Self::Mode(mode) => (mode, None),
            Self::Policy(ModeWithHops { policy, max_hops }) => (policy, max_hops),
        };
        let mode = match mode {
            Mode::None => RedirectMode::None,
            Mode::SameOrigin => RedirectMode::SameOrigin,
            Mode::Follow => RedirectMode::Follow,
        };
        RedirectPolicy { mode, max_hops: max_hops.unwrap_or(RedirectPolicy::default().max_hops) }
    }
}

impl OperationSpec {
    /// Reads an operation; all that is wrong with its shape at once.
    pub(super) fn read(operation: &Value) -> Result<Self, Vec<Problem>> {
        let problems = OPERATION_SCHEMA.check(operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        integration_model::problem::from_value(operation.clone()).map_err(|problem| vec![problem])
    }

    /// What is wrong between the parts of an operation.
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = self.header_spec().check();
        match (self.body.as_deref(), &self.constants.body) {
            (Some(ALL_PARAMS), Some(Value::Object(_))) | (_, None) | (None, Some(_)) => {}
            (Some(ALL_PARAMS), Some(_)) => {
                problems.push(Problem::new(
                    "/constants/body",
                    "expected an object, whose members join those of body \"*\"",
                ));
            }
            (Some(_), Some(_)) => {
                problems.push(Problem::new("/constants/body", "expected none where a param is the body"));
            }
        }
        if let Some(pagination) = &self.pagination {
            problems.extend(pagination.check());
        }
        problems
    }

    pub(super) fn header_spec(&self) -> HeaderSpec<'_> {
        HeaderSpec {
            accept: self.accept.as_deref(),
            usual_accept: self.decoding.accept(),
            params: &self.headers,
            constants: &self.constants.headers,
            idempotency_key: self.idempotency_key_header.as_deref(),
        }
    }

    /// The params that the query, headers and cookies take, with where they are named.
    pub(super) fn bound_params(&self) -> Vec<(String, &str)> {
        let query = self.query.iter().map(|(name, binding)| (push_pointer("/query", name), binding.param()));
        let headers = self.headers.iter().map(|(name, param)| (push_pointer("/headers", name), param.as_str()));
        let cookies = self.cookies.iter().map(|(name, param)| (push_pointer("/cookies", name), param.as_str()));
        query.chain(headers).chain(cookies).collect()
    }
}

/// The params that callers of a method can give, where its schema lists all of them.
pub(in crate::adapter) fn declared_params(method: &Method) -> Option<&Map<String, Value>> {
    const OPENERS: [&str; 8] =
        ["patternProperties", "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if", "dependentSchemas"];
    let schema = method.param_schema.as_object()?;
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false))
        && !OPENERS.iter().any(|keyword| schema.contains_key(*keyword));
    // A transform makes params of its own.
    (is_closed && method.request_transform.is_none()).then(|| schema.get("properties")?.as_object()).flatten()
}
