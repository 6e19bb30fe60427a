//! Reading JSON text of strangers: each key once in an object, and a bounded number of
//! values. Where a key comes twice, readers differ in which one they take, so that what was
//! checked here is not what another system acts on.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// The most values in one text: a small one takes many times its length in memory.
pub const MAX_VALUES: usize = 1_000_000;

/// How much of a key an error shows, in characters.
const SHOWN_KEY: usize = 64;

/// Reads a whole text.
pub fn from_slice(text: &[u8]) -> Result<Value, serde_json::Error> {
    let left = Cell::new(MAX_VALUES);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { left: &left }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Reads one value and all within it.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(D::Error::custom(format_args!("more than {MAX_VALUES} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            match object.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(value);
                }
                Entry::Occupied(place) => {
                    let key: String = place.key().chars().take(SHOWN_KEY).collect();
                    return Err(A::Error::custom(format_args!("the key {key:?} comes twice in one object")));
                }
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let text =
            br#" {"a": [1, -2, 1.5, 18446744073709551615, 1e300, "\u00e9\n", null, true, {}, []], "": {"a": {}}} "#;
        let plain: Value = serde_json::from_slice(text).expect("JSON");
        assert_eq!(from_slice(text).expect("JSON"), plain);
        let marker = br#"{"$serde_json::private::RawValue": "1"}"#;
        assert!(from_slice(marker).expect("JSON").is_object());
    }

    #[test]
    fn a_key_twice_is_refused_wherever_it_stands() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            let error = from_slice(text.as_bytes()).expect_err("a key twice");
            assert!(error.to_string().contains(r#"the key "a" comes twice"#), "{error}");
        }
        assert!(from_slice(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn depth_number_of_values_and_rest_are_bounded() {
        let many = format!("[{}1]", "1,".repeat(MAX_VALUES));
        for text in [&*many, &"[".repeat(100_000), r#"{"a":"#, "", "1 2", "1e999", r#""\ud800""#] {
            assert!(from_slice(text.as_bytes()).is_err());
        }
    }
}
