//! Simple values: from JSON to the forms of XML Schema and back, digit by digit.

use serde_json::value::RawValue;

use super::super::http::json_text::Json;

/// How a simple value is written. Types whose values are texts in JSON too are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    /// Text without the white space around it: dates, names, enumerations.
    Token,
    Boolean,
    Integer,
    Decimal,
    /// `float` and `double`: also `INF`, `-INF` and `NaN`, which are strings in JSON.
    Double,
    /// Several in one text with spaces between them; an array in JSON.
    List(&'static Scalar),
}

/// What follows the name of a type where there is a list of its values.
pub(crate) const LIST: &str = " list";

/// The longest number whose exponent is written out.
const MAX_DIGITS: usize = 400;

impl Scalar {
    /// The built-in type of XML Schema with this name, without its prefix, or a list of one.
    pub(crate) fn built_in(name: &str) -> Option<Self> {
        if let Some(item) = name.strip_suffix(LIST) {
            return Some(Self::List(match Self::built_in(item)? {
                Self::Text => &Self::Text,
                Self::Token => &Self::Token,
                Self::Boolean => &Self::Boolean,
                Self::Integer => &Self::Integer,
                Self::Decimal => &Self::Decimal,
                Self::Double => &Self::Double,
                Self::List(_) => return None,
            }));
        }
        Some(match name {
            "string" | "normalizedString" | "anySimpleType" => Self::Text,
            "boolean" => Self::Boolean,
            "decimal" => Self::Decimal,
            "float" | "double" => Self::Double,
            "integer" | "long" | "int" | "short" | "byte" | "nonNegativeInteger" | "positiveInteger"
            | "nonPositiveInteger" | "negativeInteger" | "unsignedLong" | "unsignedInt" | "unsignedShort"
            | "unsignedByte" => Self::Integer,
            "token" | "language" | "Name" | "NCName" | "NMTOKEN" | "NMTOKENS" | "ID" | "IDREF" | "IDREFS"
            | "ENTITY" | "ENTITIES" | "QName" | "NOTATION" | "anyURI" | "base64Binary" | "hexBinary" | "duration"
            | "dateTime" | "time" | "date" | "gYearMonth" | "gYear" | "gMonthDay" | "gDay" | "gMonth" => Self::Token,
            _ => return None,
        })
    }

    /// The lexical form of a JSON value; the message says what was expected.
    pub(super) fn write(self, value: &Json<'_>) -> Result<String, String> {
        if let (Self::List(item), Json::List(values)) = (self, value) {
            return write_list(*item, values);
        }
        let (text, is_string) = match value {
            Json::Text(text) => (text.as_str(), true),
            Json::Literal(text) => (*text, false),
            Json::Null => return Ok(String::new()),
            Json::List(_) | Json::Map(_) => return Err("expected a string, a number or a boolean".to_owned()),
        };
        if !crate::xml::is_carried(text) {
            return Err("expected no characters that XML cannot carry".to_owned());
        }
        let expected = |what: &str| Err(format!("expected {what}"));
        match self {
            Self::Text | Self::Token | Self::List(_) => Ok(text.to_owned()),
            Self::Boolean => match text {
                "true" | "false" => Ok(text.to_owned()),
                "1" | "0" if is_string => Ok(text.to_owned()),
                _ => expected("true or false"),
            },
            Self::Integer => match plain_number(text) {
                Some(number) if !number.contains('.') => Ok(number),
                _ => expected("an integer"),
            },
            Self::Decimal => plain_number(text).map_or_else(|| expected("a decimal number"), Ok),
            Self::Double if matches!(text, "INF" | "-INF" | "NaN") => Ok(text.to_owned()),
            Self::Double => match serde_json::from_str::<f64>(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(_) => plain_number(text).map_or_else(|| expected("a number, INF, -INF or NaN"), Ok),
            },
        }
    }

    /// The JSON text of a lexical form. What is not of the type stays a string.
    pub(super) fn read(self, text: &str, out: &mut String) {
        let token = text.trim();
        match self {
            Self::Text => push_string(text, out),
            Self::Token => push_string(token, out),
            Self::Boolean => match token {
                "true" | "1" => out.push_str("true"),
                "false" | "0" => out.push_str("false"),
                _ => push_string(token, out),
            },
            Self::Integer | Self::Decimal | Self::Double => match json_number(token) {
                Some(number) => out.push_str(&number),
                None => push_string(token, out),
            },
            Self::List(item) => {
                out.push('[');
                for (index, value) in text.split_ascii_whitespace().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.read(value, out);
                }
                out.push(']');
            }
        }
    }
}

fn write_list(item: Scalar, values: &[&RawValue]) -> Result<String, String> {
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        let text = item.write(&Json::view(value))?;
        if text.is_empty() || text.contains(char::is_whitespace) {
            return Err("expected items without white space: it stands between them".to_owned());
        }
        texts.push(text);
    }
    Ok(texts.join(" "))
}

pub(super) fn push_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// A number without exponent and without a fraction of zeros, as XML Schema's decimals are;
/// none where the text is no number, or would be longer than sensible.
fn plain_number(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit());
    if !is_number {
        return None;
    }
    // As it was written where nothing has to change.
    if exponent == 0 && fraction.bytes().any(|digit| digit != b'0') {
        return Some(format!("{sign}{}.{fraction}", if whole.is_empty() { "0" } else { whole }));
    }
    let all = format!("{whole}{fraction}");
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let limit = i64::try_from(MAX_DIGITS).ok()?;
    if all.len() > MAX_DIGITS || point.abs() > limit {
        return None;
    }
    let (whole, fraction) = match usize::try_from(point) {
        Ok(point) if point >= all.len() => (format!("{all}{}", "0".repeat(point - all.len())), String::new()),
        Ok(point) => (all[..point].to_owned(), all[point..].to_owned()),
        Err(_) => (String::new(), format!("{}{all}", "0".repeat(usize::try_from(-point).ok()?))),
    };
    let whole = if whole.is_empty() { "0" } else { &whole };
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// The text as a JSON number with all its digits.
fn json_number(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => digits.split_at(at),
        None => (digits, ""),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let number = if fraction.is_empty() {
        format!("{sign}{whole}{exponent}")
    } else {
        format!("{sign}{whole}.{fraction}{exponent}")
    };
    // What JSON does not take is no number, nor is what no reader could hold.
    serde_json::from_str::<f64>(&number).is_ok().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(scalar: Scalar, json: &str) -> Result<String, String> {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        scalar.write(&Json::view(&raw))
    }

    fn read(scalar: Scalar, text: &str) -> String {
        let mut out = String::new();
        scalar.read(text, &mut out);
        out
    }

    #[test]
    fn numbers_are_written_with_every_digit_and_no_exponent() {
        for (scalar, json, expected) in [
            (Scalar::Integer, "12345678901234567890123", "12345678901234567890123"),
            (Scalar::Integer, "1e3", "1000"),
            (Scalar::Integer, "-2.0", "-2"),
            (Scalar::Integer, "\"7\"", "7"),
            (Scalar::Decimal, "1.10", "1.10"),
            (Scalar::Decimal, "-1.5e-3", "-0.0015"),
            (Scalar::Decimal, "12.34e1", "123.4"),
            (Scalar::Decimal, "0", "0"),
            (Scalar::Double, "1e300", "1e300"),
            (Scalar::Double, "\"INF\"", "INF"),
            (Scalar::Boolean, "true", "true"),
            (Scalar::Boolean, "\"0\"", "0"),
            (Scalar::Text, "1.50", "1.50"),
            (Scalar::Text, "\" a \"", " a "),
            (Scalar::List(&Scalar::Integer), "[1, 2e1]", "1 20"),
            (Scalar::List(&Scalar::Integer), "[]", ""),
            (Scalar::List(&Scalar::Token), "\"a b\"", "a b"),
        ] {
            assert_eq!(write(scalar, json).as_deref(), Ok(expected), "{scalar:?} {json}");
        }
        for (scalar, json) in [
            (Scalar::Integer, "1.5"),
            (Scalar::Integer, "\"x\""),
            (Scalar::Integer, "\"\""),
            (Scalar::Integer, "1e999999999999"),
            (Scalar::Decimal, "\"1,5\""),
            (Scalar::Decimal, "true"),
            (Scalar::Double, "\"inf\""),
            (Scalar::Boolean, "1"),
            (Scalar::Text, "{}"),
            (Scalar::Text, "[1]"),
            (Scalar::List(&Scalar::Integer), "[1.5]"),
            (Scalar::List(&Scalar::Text), "[\"a b\"]"),
            (Scalar::List(&Scalar::Text), "[[\"a\"]]"),
            (Scalar::Text, "\"\\u0000\""),
        ] {
            assert!(write(scalar, json).is_err(), "{scalar:?} {json}");
        }
    }

    #[test]
    fn values_are_read_as_their_type_says_and_else_as_strings() {
        for (scalar, text, expected) in [
            (Scalar::Integer, " 007 ", "7"),
            (Scalar::Integer, "+5", "5"),
            (Scalar::Decimal, "-.50", "-0.50"),
            (Scalar::Decimal, "12345678901234567890.123", "12345678901234567890.123"),
            (Scalar::Double, "1.5E3", "1.5E3"),
            (Scalar::Double, "NaN", "\"NaN\""),
            (Scalar::Integer, "", "\"\""),
            (Scalar::Integer, "x", "\"x\""),
            (Scalar::Boolean, "1", "true"),
            (Scalar::Boolean, "yes", "\"yes\""),
            (Scalar::Text, " a\"b ", "\" a\\\"b \""),
            (Scalar::Token, " 2026-01-01 ", "\"2026-01-01\""),
            (Scalar::List(&Scalar::Integer), " 1\n 2 ", "[1,2]"),
            (Scalar::List(&Scalar::Token), "", "[]"),
        ] {
            assert_eq!(read(scalar, text), expected, "{scalar:?} {text}");
        }
    }
}
