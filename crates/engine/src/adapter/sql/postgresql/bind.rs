//! Params on their way to PostgreSQL: in its text format, under declared types.

use std::error::Error;
use std::fmt;
use std::fmt::Write as _;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::super::value::{ParamType, Scalar, SqlValue};

/// A value that PostgreSQL reads by the type that was declared for it. Debug output hides it:
/// the library logs what it binds.
pub(super) struct Bound<'a>(pub(super) &'a SqlValue);

impl fmt::Debug for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bound(redacted)")
    }
}

impl ToSql for Bound<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match text_of(self.0) {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(kind, out)
    }
}

/// A value as PostgreSQL reads it; NULL has no text.
fn text_of(value: &SqlValue) -> Option<String> {
    Some(match value {
        SqlValue::Null => return None,
        SqlValue::Bool(value) => value.to_string(),
        SqlValue::Int(value) => value.to_string(),
        SqlValue::Float(value) => value.to_string(),
        SqlValue::Text(text) => text.clone(),
        SqlValue::Bytes(bytes) => {
            let mut text = String::with_capacity(2 + 2 * bytes.len());
            text.push_str("\\x");
            for byte in bytes {
                // A String takes everything.
                let _ = write!(text, "{byte:02x}");
            }
            text
        }
        SqlValue::Array(items) => array(items),
    })
}

/// An array literal: every item but NULL is quoted, so that none is read as anything else.
fn array(items: &[SqlValue]) -> String {
    let mut text = String::from("{");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match text_of(item) {
            None => text.push_str("NULL"),
            Some(item) => {
                text.push('"');
                for c in item.chars() {
                    if matches!(c, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    text
}

/// PostgreSQL's own type of a param.
pub(super) fn type_of(kind: ParamType) -> Type {
    let (scalar, array) = match kind.scalar {
        Scalar::Text => (Type::TEXT, Type::TEXT_ARRAY),
        Scalar::Int => (Type::INT4, Type::INT4_ARRAY),
        Scalar::Bigint => (Type::INT8, Type::INT8_ARRAY),
        Scalar::Float => (Type::FLOAT8, Type::FLOAT8_ARRAY),
        Scalar::Numeric => (Type::NUMERIC, Type::NUMERIC_ARRAY),
        Scalar::Bool => (Type::BOOL, Type::BOOL_ARRAY),
        Scalar::Bytea => (Type::BYTEA, Type::BYTEA_ARRAY),
        Scalar::Uuid => (Type::UUID, Type::UUID_ARRAY),
        Scalar::Json => (Type::JSONB, Type::JSONB_ARRAY),
        Scalar::Timestamp => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        Scalar::Date => (Type::DATE, Type::DATE_ARRAY),
        Scalar::Time => (Type::TIME, Type::TIME_ARRAY),
    };
    if kind.is_array { array } else { scalar }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_arrays_are_read_as_they_are() {
        let text = |text: &str| SqlValue::Text(text.to_owned());
        let items = [text("a\"},{\\"), text("NULL"), SqlValue::Null, text(""), SqlValue::Bytes(vec![0, 255])];
        assert_eq!(array(&items), r#"{"a\"},{\\","NULL",NULL,"","\\x00ff"}"#);
    }

    #[test]
    fn values_are_not_shown_where_the_library_logs() {
        assert_eq!(format!("{:?}", Bound(&SqlValue::Text("secret".to_owned()))), "Bound(redacted)");
    }
}
