//! Where an operation's body comes from.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::path::PathTemplate;
use super::spec::{ALL_PARAMS, OperationSpec};
use crate::params::Params;

#[derive(Debug)]
pub(super) enum BodySource {
    None,
    /// The same for every call.
    Constant(Bytes),
    Param(String),
    /// An object of all params but those that go elsewhere, and of constants.
    Rest {
        elsewhere: BTreeSet<String>,
        constants: Map<String, Value>,
    },
}

impl BodySource {
    pub(super) fn of(spec: &OperationSpec, path: &PathTemplate) -> Self {
        match (spec.body.as_deref(), &spec.constants.body) {
            (None, None) => Self::None,
            (None, Some(constant)) => Self::Constant(Bytes::from(constant.to_string())),
            (Some(ALL_PARAMS), constants) => Self::Rest {
                elsewhere: path
                    .params()
                    .chain(spec.bound_params().into_iter().map(|(_, name)| name))
                    .map(str::to_owned)
                    .collect(),
                constants: constants.as_ref().and_then(Value::as_object).cloned().unwrap_or_default(),
            },
            (Some(name), _) => Self::Param(name.to_owned()),
        }
    }

    /// The JSON text of the body, as the caller wrote it. None where there is no body.
    pub(super) fn json(&self, params: &Params) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Constant(text) => Some(text.clone()),
            Self::Param(name) => params.get(name).filter(|value| !value.is_null()).and_then(|_| params.json_text(name)),
            Self::Rest { elsewhere, constants } => {
                let object = params.as_object();
                let is_all = constants.is_empty() && !object.keys().any(|name| elsewhere.contains(name));
                if is_all { Some(params.text()) } else { Some(rest(params, elsewhere, constants)) }
            }
        }
    }

    /// The param that is the body.
    pub(super) fn param(&self) -> &str {
        match self {
            Self::Param(name) => name,
            _ => "",
        }
    }
}

fn rest(params: &Params, elsewhere: &BTreeSet<String>, constants: &Map<String, Value>) -> Bytes {
    let object = params.as_object();
    let given = object
        .keys()
        .filter(|name| !elsewhere.contains(*name))
        .filter_map(|name| params.json_text(name).map(|text| (name, text)));
    let added = constants
        .iter()
        .filter(|(name, _)| !object.contains_key(*name))
        .map(|(name, value)| (name, Bytes::from(value.to_string())));
    let mut text = Vec::with_capacity(256);
    for (name, value) in given.chain(added) {
        text.push(if text.is_empty() { b'{' } else { b',' });
        text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
        text.push(b':');
        text.extend_from_slice(&value);
    }
    if text.is_empty() {
        text.push(b'{');
    }
    text.push(b'}');
    Bytes::from(text)
}
