//! Values of params on their way to a database: typed by the operation, checked, never text
//! of a statement.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::Value;

use crate::adapter::CallError;
use crate::params::Params;

/// The longest number that is taken as a numeric.
const MAX_NUMERIC: usize = 1_000;
/// The integers that JSON numbers carry safely.
pub(super) const MAX_SAFE_INTEGER: u64 = 1 << 53;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Text,
    Int,
    Bigint,
    Float,
    Numeric,
    Bool,
    Bytea,
    Uuid,
    Json,
    Timestamp,
    Date,
    Time,
}

/// The type of a param: a scalar, or an array of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ParamType {
    pub(super) scalar: Scalar,
    pub(super) is_array: bool,
}

impl TryFrom<String> for ParamType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, is_array) = match text.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (text.as_str(), false),
        };
        let scalar = match name {
            "text" => Scalar::Text,
            "int" => Scalar::Int,
            "bigint" => Scalar::Bigint,
            "float" => Scalar::Float,
            "numeric" => Scalar::Numeric,
            "bool" => Scalar::Bool,
            "bytea" => Scalar::Bytea,
            "uuid" => Scalar::Uuid,
            "json" => Scalar::Json,
            "timestamp" => Scalar::Timestamp,
            "date" => Scalar::Date,
            "time" => Scalar::Time,
            _ => return Err(format!("{text:?} is no type of a param")),
        };
        Ok(Self { scalar, is_array })
    }
}

/// A value to bind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SqlValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, and all that is written as text: numeric, uuid, json, timestamp, date, time.
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<SqlValue>),
}

impl ParamType {
    /// Reads a param; one that is absent is NULL.
    pub(super) fn read(self, params: &Params, name: &str) -> Result<SqlValue, CallError> {
        let Some(value) = params.get(name) else { return Ok(SqlValue::Null) };
        // Only the text knows all digits.
        let text = match self.scalar {
            Scalar::Numeric | Scalar::Json | Scalar::Bigint => params.json_text(name),
            _ => None,
        };
        let raw = text.as_deref().and_then(|text| std::str::from_utf8(text).ok());
        self.convert(value, raw).map_err(|expected| invalid_param(&push_pointer("/params", name), &expected))
    }

    /// Converts a JSON value; `raw` is its text where known. The error says what was expected.
    pub(super) fn convert(self, value: &Value, raw: Option<&str>) -> Result<SqlValue, String> {
        if !self.is_array {
            return self.scalar.convert(value, raw);
        }
        match value {
            Value::Null => Ok(SqlValue::Null),
            Value::Array(items) => {
                let texts: Option<Vec<&serde_json::value::RawValue>> =
                    raw.and_then(|text| serde_json::from_str(text).ok());
                let item = |(index, item): (usize, &Value)| {
                    let raw = texts.as_ref().and_then(|texts| texts.get(index)).map(|text| text.get());
                    self.scalar.convert(item, raw).map_err(|expected| format!("item {index}: {expected}"))
                };
                items.iter().enumerate().map(item).collect::<Result<_, _>>().map(SqlValue::Array)
            }
            _ => Err("expected an array".to_owned()),
        }
    }
}

impl Scalar {
    fn convert(self, value: &Value, raw: Option<&str>) -> Result<SqlValue, String> {
        if value.is_null() && self != Self::Json {
            return Ok(SqlValue::Null);
        }
        let wrong = || format!("expected {}", self.expected());
        let text = || value.as_str().ok_or_else(wrong);
        match self {
            Self::Text => match value {
                Value::String(text) if text.contains('\0') => Err("expected text without NUL characters".to_owned()),
                Value::String(text) => Ok(SqlValue::Text(text.clone())),
                _ => Err(wrong()),
            },
            Self::Int => {
                let number = value.as_i64().filter(|number| i32::try_from(*number).is_ok());
                number.map(SqlValue::Int).ok_or_else(wrong)
            }
            Self::Bigint => {
                let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
                number.map(SqlValue::Int).ok_or_else(wrong)
            }
            Self::Float => value.as_f64().map(SqlValue::Float).ok_or_else(wrong),
            Self::Numeric => {
                let written = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => raw.map_or_else(|| number.to_string(), str::to_owned),
                    _ => return Err(wrong()),
                };
                if is_numeric(&written) { Ok(SqlValue::Text(written)) } else { Err(wrong()) }
            }
            Self::Bool => value.as_bool().map(SqlValue::Bool).ok_or_else(wrong),
            Self::Bytea => STANDARD.decode(text()?).map(SqlValue::Bytes).map_err(|_| wrong()),
            Self::Uuid => {
                let id = uuid::Uuid::try_parse(text()?).map_err(|_| wrong())?;
                Ok(SqlValue::Text(id.hyphenated().to_string()))
            }
            Self::Json => Ok(SqlValue::Text(raw.map_or_else(|| value.to_string(), str::to_owned))),
            Self::Timestamp => {
                let at: jiff::Timestamp = text()?.parse().map_err(|_| wrong())?;
                Ok(SqlValue::Text(at.to_string()))
            }
            Self::Date => {
                let date: jiff::civil::Date = text()?.parse().map_err(|_| wrong())?;
                Ok(SqlValue::Text(date.to_string()))
            }
            Self::Time => {
                let time: jiff::civil::Time = text()?.parse().map_err(|_| wrong())?;
                Ok(SqlValue::Text(time.to_string()))
            }
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Int => "an integer of 32 bits",
            Self::Bigint => "an integer of 64 bits, or a string of its digits",
            Self::Float => "a number",
            Self::Numeric => "a number, or a string of its digits",
            Self::Bool => "true or false",
            Self::Bytea => "a string in base64",
            Self::Uuid => "a UUID",
            Self::Json => "JSON",
            Self::Timestamp => "a timestamp as in RFC 3339",
            Self::Date => "a date such as 2030-01-31",
            Self::Time => "a time such as 23:59:59",
        }
    }
}

fn is_numeric(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|text| {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        digits(unsigned) && unsigned.len() <= 4
    });
    text.len() <= MAX_NUMERIC && digits(whole) && fraction.is_none_or(digits) && exponent_fits
}

/// The error of a param that cannot be bound. It shows no value.
pub(super) fn invalid_param(pointer: &str, expected: &str) -> CallError {
    let problem = Problem::new(pointer, expected);
    CallError::not_sent(ErrorCode::Validation, problem.to_string()).with_detail("errors", serde_json::json!([problem]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(kind: &str, json: &str) -> Result<SqlValue, CallError> {
        let params = Params::from_json(Bytes::from(format!("{{\"p\": {json}}}"))).expect("params");
        ParamType::try_from(kind.to_owned()).expect("a type").read(&params, "p")
    }

    fn text(text: &str) -> SqlValue {
        SqlValue::Text(text.to_owned())
    }

    #[test]
    fn values_keep_every_digit() {
        assert_eq!(read("numeric", "12345678901234567890.10").unwrap(), text("12345678901234567890.10"));
        assert_eq!(read("numeric", "\"-1e-20\"").unwrap(), text("-1e-20"));
        assert_eq!(read("bigint", "\"9223372036854775807\"").unwrap(), SqlValue::Int(i64::MAX));
        assert_eq!(read("json", "{\"n\": 1.10}").unwrap(), text("{\"n\": 1.10}"));
        assert_eq!(read("json", "null").unwrap(), text("null"));
        assert_eq!(read("bytea", "\"AAH/\"").unwrap(), SqlValue::Bytes(vec![0, 1, 255]));
        assert_eq!(read("numeric[]", "[1.10, null]").unwrap(), SqlValue::Array(vec![text("1.10"), SqlValue::Null]));
        assert_eq!(read("timestamp", "\"2030-01-31T10:00:00+02:00\"").unwrap(), text("2030-01-31T08:00:00Z"));
    }

    #[test]
    fn what_does_not_fit_its_type_is_refused_without_being_shown() {
        for (kind, json) in [
            ("int", "2147483648"),
            ("int", "\"1\""),
            ("bigint", "9223372036854775808"),
            ("numeric", "\"1; drop table t\""),
            ("numeric", "\"NaN\""),
            ("numeric", "\"1e99999\""),
            ("uuid", "\"secret\""),
            ("timestamp", "\"now\""),
            ("date", "\"infinity\""),
            ("time", "\"secret\""),
            ("bool", "\"true\""),
            ("bytea", "\"secret!\""),
            ("text", "\"a\\u0000b\""),
            ("text", "7"),
            ("int[]", "[1, \"secret\"]"),
            ("int[]", "1"),
        ] {
            let error = read(kind, json).expect_err(json);
            assert_eq!(error.code, ErrorCode::Validation, "{kind} {json}");
            assert!(error.message.contains("/params/p") && !error.message.contains("secret"), "{}", error.message);
        }
    }
}
