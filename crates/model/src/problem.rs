//! One thing wrong with an input: where, and what was expected.

use serde::{Deserialize, Serialize};

use crate::typed::Typed;

/// A finding about an input document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// JSON Pointer (RFC 6901) to the faulty value; empty for the whole document.
    pub pointer: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Problem {
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

/// Appends one reference token to a JSON Pointer, escaped as RFC 6901 asks.
pub fn push_pointer(pointer: &str, token: &str) -> String {
    format!("{pointer}/{}", token.replace('~', "~0").replace('/', "~1"))
}

/// Turns a deserialization path into a JSON Pointer.
pub fn pointer_from_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer = push_pointer(&pointer, &index.to_string()),
            Segment::Map { key } => pointer = push_pointer(&pointer, key),
            Segment::Enum { variant } => pointer = push_pointer(&pointer, variant),
            Segment::Unknown => {}
        }
    }
    pointer
}

/// Reads a typed value out of a JSON object, without its `read_only` members: what the
/// service itself keeps comes back with a document that was read, edited and sent again.
pub fn from_object<T: serde::de::DeserializeOwned>(
    document: serde_json::Value,
    read_only: &[&str],
) -> Result<T, Problem> {
    let serde_json::Value::Object(mut members) = document else {
        return Err(Problem::new("", "expected an object"));
    };
    read_only.iter().for_each(|name| drop(members.remove(*name)));
    from_value(serde_json::Value::Object(members))
}

/// Reads a typed value out of JSON; the error says where the document does not fit.
pub fn from_value<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Typed(value))
        .map_err(|error| Problem::new(pointer_from_path(error.path()), error.inner().to_string()))
}
