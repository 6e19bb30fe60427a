//! From a document to a typed value, with all faults of the document and not the first
//! alone: each faulty value is noted, replaced by its default or taken out, and the rest is
//! read again. Must not know what a setting means.

use std::collections::HashSet;

use integration_model::Problem;
use integration_model::problem::from_value;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{Node, child_pointer};
use super::fault::Fault;
use crate::wording::{explain, missing_field};

/// After so many faults of one document the rest is not looked at.
const MAX_FAULTS: usize = 100;

/// Reads `node` as a `T`; notes every fault, with its pointer prefixed by `prefix`.
/// `defaults` stand in for faulty values, so that what lies beside them is still read.
pub(crate) fn decode<T: DeserializeOwned>(
    node: &Node,
    prefix: &str,
    defaults: &Value,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let mut document = Decoding { node, value: node.to_value(), removed: HashSet::new(), faults: Vec::new() };
    let mut decoded = None;
    while document.faults.len() < MAX_FAULTS {
        match from_value::<T>(document.value.clone()) {
            Ok(value) => {
                decoded = Some(value);
                break;
            }
            Err(problem) if document.reinterpret(&problem) => {}
            Err(problem) => {
                if !document.note(problem, defaults) {
                    break;
                }
            }
        }
    }
    let clean = document.faults.is_empty();
    faults.extend(document.faults.into_iter().map(|fault| Fault { path: format!("{prefix}{}", fault.path), ..fault }));
    decoded.filter(|_| clean)
}

struct Decoding<'a> {
    node: &'a Node,
    value: Value,
    removed: HashSet<String>,
    faults: Vec<Fault>,
}

impl Decoding<'_> {
    /// Takes text from the environment as the number or boolean that it spells.
    fn reinterpret(&mut self, problem: &Problem) -> bool {
        if !problem.message.starts_with("invalid type: string")
            || !self.node.at(&problem.pointer).is_some_and(|node| node.substituted)
        {
            return false;
        }
        let Some(slot) = self.value.pointer_mut(&problem.pointer) else { return false };
        let spelled = slot.as_str().and_then(|text| serde_json::from_str::<Value>(text.trim()).ok());
        match spelled.filter(|value| value.is_number() || value.is_boolean()) {
            Some(value) => {
                *slot = value;
                true
            }
            None => false,
        }
    }

    /// Notes a fault and takes it out of the way; false where reading on would find nothing
    /// more of worth.
    fn note(&mut self, problem: Problem, defaults: &Value) -> bool {
        if let Some(field) = missing_field(&problem.message)
            && self.removed.contains(&child_pointer(&problem.pointer, field))
        {
            return false;
        }
        let message = explain(&problem.message);
        self.faults.push(Fault::new(self.node.origin_of(&problem.pointer), &*problem.pointer, message));
        self.take_out(&problem.pointer, defaults)
    }

    /// Removes the value, or the list around it: the places of a list's other items must not
    /// move.
    fn take_out(&mut self, pointer: &str, defaults: &Value) -> bool {
        let Some((parent, _)) = pointer.rsplit_once('/') else { return false };
        match self.value.pointer_mut(parent) {
            Some(Value::Object(map)) => {
                let key = last_token(pointer);
                let known = defaults.pointer(pointer).filter(|default| map.get(&key) != Some(*default));
                let changed = match known {
                    Some(default) => map.insert(key, default.clone()).is_some(),
                    None => map.remove(&key).is_some(),
                };
                self.removed.insert(pointer.to_owned());
                changed
            }
            Some(Value::Array(_)) => self.take_out(parent, defaults),
            _ => false,
        }
    }
}

fn last_token(pointer: &str) -> String {
    let token = pointer.rsplit('/').next().unwrap_or_default();
    token.replace("~1", "/").replace("~0", "~")
}
