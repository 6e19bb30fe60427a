//! The params of a call: parsed once for looking, kept as they came for passing on.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use integration_model::Problem;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// An object of named params. Where the text they came in is known, it is kept, so that a
/// body or a number passes on exactly as it was written.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Params {
    /// Read when somebody first looks, where it is known that the text can be.
    value: Arc<OnceLock<Value>>,
    raw: Option<Arc<RawObject>>,
}

#[derive(Debug)]
struct RawObject {
    text: Bytes,
    /// Where each member's value stands in the text; looked for when first asked.
    members: OnceLock<HashMap<String, Range<usize>>>,
}

impl RawObject {
    fn member(&self, name: &str) -> Option<Bytes> {
        let members = self.members.get_or_init(|| {
            let start = self.text.as_ptr() as usize;
            // The text was read as an object before.
            let members: HashMap<String, &RawValue> = serde_json::from_slice(&self.text).unwrap_or_default();
            let place = |raw: &RawValue| {
                let offset = raw.get().as_ptr() as usize - start;
                offset..offset + raw.get().len()
            };
            members.into_iter().map(|(name, raw)| (name, place(raw))).collect()
        });
        members.get(name).map(|range| self.text.slice(range.clone()))
    }
}

impl Params {
    pub fn empty() -> Self {
        Self::from_object(Map::new())
    }

    /// Reads the text of a JSON object.
    pub fn from_json(text: Bytes) -> Result<Self, Problem> {
        let value = read(&text)?;
        Ok(Self { value: Arc::new(value.into()), ..Self::known(text) })
    }

    /// Takes a text that [`Params::from_json`] took before.
    pub(crate) fn known(text: Bytes) -> Self {
        let raw = RawObject { text, members: OnceLock::new() };
        Self { value: Arc::default(), raw: Some(Arc::new(raw)) }
    }

    /// Takes the object that a transform made.
    pub fn from_object(object: Map<String, Value>) -> Self {
        Self { value: Arc::new(Value::Object(object).into()), raw: None }
    }

    /// All params as one JSON object.
    pub fn as_value(&self) -> &Value {
        self.value.get_or_init(|| {
            let text = self.raw.as_ref().map(|raw| &raw.text).expect("params are a text or a value");
            read(text).expect("the text was read before")
        })
    }

    pub fn as_object(&self) -> &Map<String, Value> {
        // All constructors make an object.
        self.as_value().as_object().expect("params are an object")
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_value().get(name)
    }

    /// The JSON text of one param: as the caller wrote it where that is known.
    pub fn json_text(&self, name: &str) -> Option<Bytes> {
        if let Some(raw) = &self.raw {
            return raw.member(name);
        }
        self.get(name).map(|value| Bytes::from(value.to_string()))
    }

    /// The JSON text of all params.
    pub fn text(&self) -> Bytes {
        match &self.raw {
            Some(raw) => raw.text.clone(),
            None => Bytes::from(self.as_value().to_string()),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_read(&self) -> bool {
        self.value.get().is_some()
    }
}

fn read(text: &[u8]) -> Result<Value, Problem> {
    let value = integration_model::json::from_slice(text)
        .map_err(|error| Problem::new("/params", format!("not JSON that is taken here: {error}")))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(Problem::new("/params", "expected an object of named params")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_text_is_read_when_somebody_looks() {
        let params = Params::known(Bytes::from_static(br#"{"n": 1.10, "s": "x"}"#));
        assert_eq!((params.text().len(), params.is_read()), (21, false));
        assert_eq!(params.get("s"), Some(&Value::from("x")));
        assert!(params.is_read() && params.clone().is_read());
        assert_eq!(params.json_text("n").as_deref(), Some(&b"1.10"[..]));
    }

    #[test]
    fn numbers_pass_as_they_were_written() {
        let params = Params::from_json(Bytes::from_static(br#"{"n": 12345678901234567890123, "price": 1.10}"#));
        let params = params.expect("an object");
        assert_eq!(params.json_text("n").as_deref(), Some(&b"12345678901234567890123"[..]));
        assert_eq!(params.json_text("price").as_deref(), Some(&b"1.10"[..]));
    }

    #[test]
    fn only_an_object_is_taken() {
        for text in ["[]", "1", "null", "{", "", "{\"a\":1}x"] {
            let problem = Params::from_json(Bytes::copy_from_slice(text.as_bytes())).expect_err(text);
            assert_eq!(problem.pointer, "/params");
        }
    }
}
