//! MySQL's values, to and from JSON, without loss.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql_async::consts::ColumnType;
use mysql_async::{Column, Value};

use super::super::output::{write_float, write_integer, write_json, write_text};
use super::super::value::{MAX_SAFE_INTEGER, ParamType, Scalar, SqlValue};

/// The character set of bytes that are no text.
const BINARY: u16 = 63;

/// A param as the library binds it.
pub(super) fn bound(kind: ParamType, value: &SqlValue) -> Value {
    match value {
        // There are no arrays here; publishing refuses them.
        SqlValue::Null | SqlValue::Array(_) => Value::NULL,
        SqlValue::Bool(value) => Value::Int((*value).into()),
        SqlValue::Int(value) => Value::Int(*value),
        SqlValue::Float(value) => Value::Double(*value),
        SqlValue::Bytes(bytes) => Value::Bytes(bytes.clone()),
        SqlValue::Text(text) if kind.scalar == Scalar::Timestamp => utc(text),
        SqlValue::Text(text) => Value::Bytes(text.clone().into_bytes()),
    }
}

/// A time without a zone, which is UTC for the session.
fn utc(text: &str) -> Value {
    let Ok(at) = text.parse::<jiff::Timestamp>() else { return Value::NULL };
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let small = |value: i8| u8::try_from(value).unwrap_or_default();
    Value::Date(
        u16::try_from(at.year()).unwrap_or_default(),
        small(at.month()),
        small(at.day()),
        small(at.hour()),
        small(at.minute()),
        small(at.second()),
        u32::try_from(at.subsec_nanosecond() / 1_000).unwrap_or_default(),
    )
}

/// Appends a value's JSON; false where it is not what its column says.
pub(super) fn write_value(out: &mut Vec<u8>, column: &Column, value: &Value, is_json: bool) -> bool {
    match value {
        Value::NULL => out.extend_from_slice(b"null"),
        Value::Int(value) => write_integer(out, *value),
        Value::UInt(value) => write_unsigned(out, *value),
        // The shortest digits that are the same number, not those of a wider one.
        Value::Float(value) if value.is_finite() => {
            let _ = serde_json::to_writer(out, value);
        }
        Value::Float(value) => write_float(out, (*value).into()),
        Value::Double(value) => write_float(out, *value),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            let mut text = format!("{year:04}-{month:02}-{day:02}");
            let kind = column.column_type();
            if kind != ColumnType::MYSQL_TYPE_DATE && kind != ColumnType::MYSQL_TYPE_NEWDATE {
                text.push_str(&format!("T{hour:02}:{minute:02}:{second:02}{}", fraction(*micros)));
            }
            if matches!(kind, ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2) {
                text.push('Z');
            }
            write_text(out, &text);
        }
        Value::Time(is_negative, days, hours, minutes, seconds, micros) => {
            let sign = if *is_negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            write_text(out, &format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{}", fraction(*micros)));
        }
        Value::Bytes(bytes) => return write_bytes(out, column, bytes, is_json),
    }
    true
}

fn write_bytes(out: &mut Vec<u8>, column: &Column, bytes: &[u8], is_json: bool) -> bool {
    let kind = column.column_type();
    if kind == ColumnType::MYSQL_TYPE_BIT {
        return match bytes.len() {
            0..=8 => {
                write_unsigned(out, bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
                true
            }
            _ => false,
        };
    }
    let may_be_binary = matches!(
        kind,
        ColumnType::MYSQL_TYPE_STRING
            | ColumnType::MYSQL_TYPE_VAR_STRING
            | ColumnType::MYSQL_TYPE_VARCHAR
            | ColumnType::MYSQL_TYPE_BLOB
            | ColumnType::MYSQL_TYPE_TINY_BLOB
            | ColumnType::MYSQL_TYPE_MEDIUM_BLOB
            | ColumnType::MYSQL_TYPE_LONG_BLOB
            | ColumnType::MYSQL_TYPE_GEOMETRY
    );
    if may_be_binary && column.character_set() == BINARY {
        write_text(out, &STANDARD.encode(bytes));
        return true;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    if is_json || kind == ColumnType::MYSQL_TYPE_JSON {
        return write_json(out, text);
    }
    write_text(out, text);
    true
}

fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    if value <= MAX_SAFE_INTEGER {
        out.extend_from_slice(value.to_string().as_bytes());
    } else {
        write_text(out, &value.to_string());
    }
}

fn fraction(micros: u32) -> String {
    if micros == 0 { String::new() } else { format!(".{}", format!("{micros:06}").trim_end_matches('0')) }
}
