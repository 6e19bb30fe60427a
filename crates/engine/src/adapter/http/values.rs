//! Params in the forms in which URLs, headers and forms carry them.

use std::borrow::Cow;

use serde_json::Value;

use super::json_text::{self, Json};
use crate::adapter::CallError;
use crate::params::Params;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};

/// A param that has a value: one text, several, or named ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapter) enum ParamValue<'a> {
    Text(Cow<'a, str>),
    List(Vec<String>),
    Map(Vec<(String, String)>),
}

impl<'a> ParamValue<'a> {
    /// Reads a param. Null, an empty list and an empty object are no values, nor are nulls
    /// within lists and objects. Numbers are as they were written; structures within
    /// structures are JSON text.
    pub(in crate::adapter) fn read(params: &'a Params, name: &str) -> Option<Self> {
        match params.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(Self::Text(Cow::Borrowed(text))),
            Value::Bool(true) => Some(Self::Text(Cow::Borrowed("true"))),
            Value::Bool(false) => Some(Self::Text(Cow::Borrowed("false"))),
            Value::Number(_) => {
                let text = params.json_text(name)?;
                Some(Self::Text(Cow::Owned(String::from_utf8_lossy(&text).into_owned())))
            }
            Value::Array(_) | Value::Object(_) => Self::from_json(&params.json_text(name)?),
        }
    }

    fn from_json(text: &[u8]) -> Option<Self> {
        let raw = json_text::parse(text)?;
        match Json::view(raw) {
            Json::List(items) => {
                let items: Vec<_> = items.into_iter().filter_map(json_text::text_of).collect();
                (!items.is_empty()).then_some(Self::List(items))
            }
            Json::Map(members) => {
                let members: Vec<_> = members
                    .into_iter()
                    .filter_map(|(name, raw)| json_text::text_of(raw).map(|text| (name, text)))
                    .collect();
                (!members.is_empty()).then_some(Self::Map(members))
            }
            scalar => scalar.into_text(raw).map(|text| Self::Text(Cow::Owned(text))),
        }
    }

    /// One text: lists joined by commas, objects as `name,value` pairs.
    pub(in crate::adapter) fn into_joined(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text,
            Self::List(items) => Cow::Owned(items.join(",")),
            Self::Map(members) => {
                let pairs: Vec<_> = members.into_iter().flat_map(|(name, value)| [name, value]).collect();
                Cow::Owned(pairs.join(","))
            }
        }
    }
}

/// The error of a param that an operation cannot use.
pub(super) fn invalid_param(name: &str, message: impl Into<String>) -> CallError {
    invalid_value(push_pointer("/params", name), message)
}

/// The error of a value within the params that an operation cannot use.
pub(in crate::adapter) fn invalid_value(pointer: String, message: impl Into<String>) -> CallError {
    let problem = Problem::new(pointer, message);
    CallError::not_sent(ErrorCode::Validation, problem.to_string()).with_detail("errors", serde_json::json!([problem]))
}
