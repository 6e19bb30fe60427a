//! Reading a typed value out of JSON. Where an object is to be, an array is refused: derived
//! readers would take its items for the object's fields, in order.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Error, Value};

/// A value that a typed one is read out of.
pub struct Typed(pub Value);

impl<'de> Deserializer<'de> for Typed {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Typed));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(members) => {
                let mut members = MapDeserializer::new(members.into_iter().map(|(key, value)| (key, Self(value))));
                let value = visitor.visit_map(&mut members)?;
                members.end()?;
                Ok(value)
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &visitor));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // A reader of maps may take null for an empty one.
        if self.0.is_object() { self.deserialize_any(visitor) } else { self.0.deserialize_map(visitor) }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        // Text that is kept as it is.
        if name.starts_with("$serde_json::private") {
            return self.0.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Typed {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Limits {
        requests: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    struct Named(String);

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Limited(u32),
    }

    #[derive(Debug, Deserialize)]
    struct Whole {
        name: Named,
        kinds: Vec<Kind>,
        pair: (u8, f64),
        limits: BTreeMap<String, Limits>,
        raw: Box<RawValue>,
        rest: Value,
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let rest = json!({"a": [1, -2, 1.5, null, true, {"b": []}]});
        let value = json!({"name": "n", "kinds": ["plain", {"limited": 3}], "pair": [1, 2],
            "limits": {"a": {"requests": 5}, "b": {"requests": null}, "c": {}}, "raw": {"x": [1]}, "rest": rest});
        let whole = Whole::deserialize(Typed(value)).expect("fits");
        assert_eq!((whole.name.0.as_str(), whole.pair, whole.raw.get()), ("n", (1, 2.0), r#"{"x":[1]}"#));
        assert!(matches!(whole.kinds.as_slice(), [Kind::Plain, Kind::Limited(3)]));
        let requests: Vec<_> = whole.limits.values().map(|limits| limits.requests).collect();
        assert_eq!((requests, whole.rest), (vec![Some(5), None, None], rest));
    }

    #[test]
    fn an_array_is_no_object_wherever_it_stands() {
        for value in [json!([5]), json!([null])] {
            let error = Limits::deserialize(Typed(value.clone())).expect_err("an array");
            assert_eq!(error.to_string(), "invalid type: sequence, expected struct Limits");
            BTreeMap::<String, Limits>::deserialize(Typed(json!({"a": value}))).expect_err("an array");
        }
        for (value, message) in [
            (json!({"requests": "x"}), "invalid type: string \"x\", expected u32"),
            (json!({"requests": -1}), "invalid value: integer `-1`, expected u32"),
            (json!(5), "invalid type: integer `5`, expected struct Limits"),
        ] {
            assert_eq!(Limits::deserialize(Typed(value)).expect_err("does not fit").to_string(), message);
        }
        for value in [Value::Null, json!([])] {
            serde_json::Map::<String, Value>::deserialize(Typed(value)).expect_err("no object");
        }
        <(u8, u8)>::deserialize(Typed(json!([1, 2, 3]))).expect_err("an item too many");
    }
}
