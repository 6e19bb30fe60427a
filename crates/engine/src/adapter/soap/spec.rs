//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::{ElementSpec, TypeSpec};
use crate::adapter::own_schema::OwnSchema;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Style {
    #[default]
    Document,
    Rpc,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OperationSpec {
    #[serde(default)]
    pub(crate) soap_action: String,
    #[serde(default)]
    pub(crate) style: Style,
    #[serde(default)]
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<ElementSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<ElementSpec>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) one_way: bool,
    /// Whether params are written as they are given, known to the model or not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) as_given: bool,
    /// Whether all elements are in the namespace of the request's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) one_namespace: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<HeaderSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) types: BTreeMap<String, TypeSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) error_mapping: Vec<FaultRule>,
    #[serde(default = "default_max_response", skip_serializing_if = "is_default_max_response")]
    pub(crate) max_response_bytes: usize,
}

const fn default_max_response() -> usize {
    10 * 1024 * 1024
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_default_max_response(bytes: &usize) -> bool {
    *bytes == default_max_response()
}

/// A block of the header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeaderSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) element: Option<ElementSpec>,
    /// What stands in the header, as XML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) xml: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) param: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) must_understand: bool,
}

/// What some fault means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    pub(crate) code: ErrorCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retryable: Option<bool>,
}

impl OperationSpec {
    pub(crate) const fn default_max_response() -> usize {
        default_max_response()
    }

    /// Reads an operation; all that is wrong with its shape at once.
    pub(super) fn read(method: &Method) -> Result<Self, Vec<Problem>> {
        let problems = OPERATION_SCHEMA.check(&method.operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        let spec: Self =
            integration_model::problem::from_value(Value::clone(&method.operation)).map_err(|problem| vec![problem])?;
        let problems = spec.check();
        if problems.is_empty() { Ok(spec) } else { Err(problems) }
    }

    /// The namespace that all elements are in, where they are in one.
    pub(super) fn only_namespace(&self) -> Option<&str> {
        let own = self.request.as_ref().and_then(|request| request.namespace.as_deref());
        self.one_namespace.then(|| own.unwrap_or(&self.namespace))
    }

    /// What is wrong between the parts of an operation.
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.soap_action.chars().any(|c| c.is_control() || matches!(c, '"' | '\\') || !c.is_ascii()) {
            problems
                .push(Problem::new("/soapAction", "expected ASCII without quotes, backslashes and control characters"));
        }
        if self.request.as_ref().is_some_and(|request| request.many) {
            problems.push(Problem::new("/request/many", "expected one element in the body"));
        }
        for (index, header) in self.headers.iter().enumerate() {
            let fits = match (&header.element, &header.xml) {
                (Some(element), None) => header.param.is_some() != element.value.is_some(),
                (None, Some(_)) => header.param.is_none() && !header.must_understand,
                _ => false,
            };
            if !fits {
                let message = "expected an element with either a param or a constant value, or xml alone";
                problems.push(Problem::new(format!("/headers/{index}"), message));
            }
        }
        problems
    }
}
