//! Between JSON values and the engine's, weighed on the way.

use jsonata_core::value::{JArray, JMap, JValue};
use serde_json::{Map, Number, Value};

use super::TransformError;

/// What any value weighs besides its text.
pub(super) const VALUE_WEIGHT: usize = 16;
/// How deep input and output may nest; what JSON parsers usually take.
const MAX_DEPTH: usize = 128;
/// Up to here, all whole numbers are exact in an IEEE 754 double.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Makes the engine's value of an input.
pub(super) fn from_json(value: &Value, limit: usize) -> Result<JValue, TransformError> {
    Scale { left: limit, full: TransformError::InputTooLarge { limit }, what: "input" }.from_json(value, 0)
}

/// Makes JSON of a result. Functions and what JSON has no number for become `null`.
pub(super) fn to_json(value: &JValue, limit: usize) -> Result<Value, TransformError> {
    Scale { left: limit, full: TransformError::OutputTooLarge { limit }, what: "result" }.to_json(value, 0)
}

struct Scale {
    left: usize,
    full: TransformError,
    what: &'static str,
}

impl Scale {
    fn weigh(&mut self, text: usize, depth: usize) -> Result<(), TransformError> {
        if depth > MAX_DEPTH {
            return Err(TransformError::TooDeep { what: self.what, limit: MAX_DEPTH });
        }
        self.left = self.left.checked_sub(text + VALUE_WEIGHT).ok_or_else(|| self.full.clone())?;
        Ok(())
    }

    #[expect(clippy::wrong_self_convention, reason = "the scale converts; it is not made from JSON")]
    fn from_json(&mut self, value: &Value, depth: usize) -> Result<JValue, TransformError> {
        self.weigh(value.as_str().map_or(0, str::len), depth)?;
        Ok(match value {
            Value::Null => JValue::Null,
            Value::Bool(flag) => JValue::Bool(*flag),
            Value::Number(number) => JValue::Number(number.as_f64().unwrap_or(0.0)),
            Value::String(text) => JValue::string(text.as_str()),
            Value::Array(items) => {
                let is_flat = !items.iter().any(Value::is_array);
                let items: Result<Vec<_>, _> = items.iter().map(|item| self.from_json(item, depth + 1)).collect();
                JValue::Array(JArray::new_flat(items?, is_flat))
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, member)| {
                    self.weigh(name.len(), depth)?;
                    Ok((name.clone(), self.from_json(member, depth + 1)?))
                });
                JValue::object(members.collect::<Result<JMap, _>>()?.into_inner())
            }
        })
    }

    #[expect(clippy::wrong_self_convention, reason = "the scale converts; it is not what is converted")]
    fn to_json(&mut self, value: &JValue, depth: usize) -> Result<Value, TransformError> {
        self.weigh(value.as_str().map_or(0, str::len), depth)?;
        Ok(match value {
            JValue::Bool(flag) => Value::Bool(*flag),
            JValue::Number(number) => number_to_json(*number),
            JValue::String(text) => Value::String(text.to_string()),
            JValue::Array(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| self.to_json(item, depth + 1)).collect();
                Value::Array(items?)
            }
            JValue::Object(members) => {
                let mut object = Map::with_capacity(members.len());
                for (name, member) in members.iter() {
                    self.weigh(name.len(), depth)?;
                    object.insert(name.clone(), self.to_json(member, depth + 1)?);
                }
                Value::Object(object)
            }
            JValue::Null | JValue::Undefined | JValue::Lambda(_) | JValue::Builtin { .. } | JValue::Regex { .. } => {
                Value::Null
            }
        })
    }
}

fn number_to_json(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() <= LARGEST_EXACT {
        // Exact: the number is whole and fits.
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
