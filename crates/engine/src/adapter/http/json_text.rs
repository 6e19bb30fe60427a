//! Looking into JSON text without rebuilding it, so that what is passed on stays as it was
//! written: numbers keep every digit, members keep their order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One level of a JSON text.
pub(in crate::adapter) enum Json<'a> {
    Null,
    /// A string, unescaped.
    Text(String),
    /// A number, `true` or `false`, as it was written.
    Literal(&'a str),
    List(Vec<&'a RawValue>),
    /// The members in the order of the text.
    Map(Vec<(String, &'a RawValue)>),
}

impl<'a> Json<'a> {
    pub(in crate::adapter) fn view(raw: &'a RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            // A raw value is JSON; what cannot be read again (a lone surrogate) is left as
            // it was written.
            Some(b'"') => serde_json::from_str(text).map_or(Self::Literal(text), Self::Text),
            Some(b'[') => serde_json::from_str(text).map_or(Self::Literal(text), Self::List),
            Some(b'{') => {
                serde_json::from_str::<Members<'a>>(text).map_or(Self::Literal(text), |members| Self::Map(members.0))
            }
            Some(b'n') => Self::Null,
            _ => Self::Literal(text),
        }
    }

    /// The text of a scalar; the JSON text of anything else. `None` for null.
    pub(in crate::adapter) fn into_text(self, raw: &RawValue) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text),
            Self::Literal(text) => Some(text.to_owned()),
            Self::List(_) | Self::Map(_) => Some(raw.get().to_owned()),
        }
    }
}

/// The text of a value, as [`Json::into_text`] gives it.
pub(in crate::adapter) fn text_of(raw: &RawValue) -> Option<String> {
    Json::view(raw).into_text(raw)
}

pub(in crate::adapter) fn parse(text: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}

/// The part of a JSON text that a JSON Pointer (RFC 6901) leads to.
pub(in crate::adapter) fn locate<'a>(text: &'a [u8], pointer: &str) -> Option<&'a RawValue> {
    let mut at = parse(text)?;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match Json::view(at) {
            // The last of several members of one name counts, as everywhere.
            Json::Map(members) => members.into_iter().rev().find(|(name, _)| *name == token)?.1,
            Json::List(items) => items.get(token.parse::<usize>().ok()?).copied()?,
            _ => return None,
        };
    }
    Some(at)
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_to_the_original_text() {
        let text = br#"{"a": {"b/c": [1, 2.50, {"~": 12345678901234567890}]}, "a2": null}"#;
        let at = |pointer| locate(text, pointer).map(RawValue::get);
        assert_eq!(at("/a/b~1c/1"), Some("2.50"));
        assert_eq!(at("/a/b~1c/2/~0"), Some("12345678901234567890"));
        assert_eq!(at("/a2"), Some("null"));
        assert_eq!(at("/a/x"), None);
        assert_eq!(at("/a/b~1c/9"), None);
        assert_eq!(at("").map(str::len), Some(text.len()));
    }
}
