//! The answer of an external system: parsed only where somebody looks.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

/// JSON data: the text as the upstream wrote it, or a value made here; the other form is
/// made when asked for, once.
#[derive(Debug, Clone)]
pub struct Data {
    text: OnceLock<Bytes>,
    value: OnceLock<Value>,
    /// Set where the text was seen to be JSON.
    checked: OnceLock<()>,
}

/// The text is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not JSON: {0}")]
pub struct InvalidData(String);

impl Data {
    /// Takes text that claims to be JSON; [`Data::check`] or [`Data::value`] find out.
    pub fn from_text(text: Bytes) -> Self {
        Self { text: OnceLock::from(text), value: OnceLock::new(), checked: OnceLock::new() }
    }

    pub fn from_value(value: Value) -> Self {
        Self { text: OnceLock::new(), value: OnceLock::from(value), checked: OnceLock::new() }
    }

    pub fn null() -> Self {
        Self { text: OnceLock::from(Bytes::from_static(b"null")), ..Self::from_value(Value::Null) }
    }

    /// Makes sure that the text is JSON, without building anything from it.
    pub fn check(&self) -> Result<(), InvalidData> {
        if self.value.get().is_some() || self.checked.get().is_some() {
            return Ok(());
        }
        let Some(text) = self.text.get() else { return Ok(()) };
        let text = std::str::from_utf8(text).map_err(|error| InvalidData(error.to_string()))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| InvalidData(error.to_string()))?;
        self.checked.get_or_init(|| ());
        Ok(())
    }

    /// The parsed value.
    pub fn value(&self) -> Result<&Value, InvalidData> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let text = self.text.get().map(Bytes::as_ref).unwrap_or(b"null");
        let value = serde_json::from_slice(text).map_err(|error| InvalidData(error.to_string()))?;
        Ok(self.value.get_or_init(|| value))
    }

    /// The JSON text; the upstream's own where it was not made here.
    pub fn text(&self) -> &Bytes {
        self.text.get_or_init(|| {
            let value = self.value.get().unwrap_or(&Value::Null);
            Bytes::from(value.to_string())
        })
    }
}
