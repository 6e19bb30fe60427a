//! Configuration documents as trees that know where each value came from. Owns reading
//! YAML, layering one document over another, and finding the origin of a pointer. Must not
//! know what a setting means.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use integration_model::problem::push_pointer;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Location, Spanned};

use super::fault::{Fault, Origin};

/// The largest configuration file that is read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) content: Content,
    /// Whether the text was put in from the environment, so that it may stand for a number
    /// or a boolean.
    pub(crate) substituted: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_origin: Origin,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(origin: Origin, content: Content) -> Self {
        Self { origin, content, substituted: false }
    }

    /// Text from outside the files, which may stand for a number or a boolean.
    pub(crate) fn text(origin: Origin, text: &str) -> Self {
        Self { origin, content: Content::Scalar(Value::String(text.to_owned())), substituted: true }
    }

    pub(crate) fn empty_mapping(origin: Origin) -> Self {
        Self::new(origin, Content::Mapping(Vec::new()))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// What the value is, for error messages; never the value itself.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "null",
            Content::Scalar(Value::Bool(_)) => "a boolean",
            Content::Scalar(Value::Number(_)) => "a number",
            Content::Scalar(_) => "a string",
            Content::Sequence(_) => "an array",
            Content::Mapping(_) => "an object",
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Mapping(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect())
            }
        }
    }

    /// The node that a JSON Pointer names.
    pub(crate) fn at(&self, pointer: &str) -> Option<&Node> {
        tokens(pointer).try_fold(self, |node, token| node.child(&token))
    }

    fn child(&self, token: &str) -> Option<&Node> {
        match &self.content {
            Content::Mapping(_) => self.get(token),
            Content::Sequence(items) => items.get(token.parse::<usize>().ok()?),
            Content::Scalar(_) => None,
        }
    }

    /// Where the value of a JSON Pointer stands (its key, in a mapping); where there is
    /// none, where the nearest one around it stands.
    pub(crate) fn origin_of(&self, pointer: &str) -> Origin {
        let mut node = self;
        let mut origin = &self.origin;
        for token in tokens(pointer) {
            let Some(child) = node.child(&token) else { break };
            origin = node.entry(&token).map_or(&child.origin, |entry| &entry.key_origin);
            node = child;
        }
        origin.clone()
    }

    /// This document with `over` laid on it: mappings are merged, all else is replaced. A
    /// null says nothing, so that a key with all its lines commented out keeps its default.
    pub(crate) fn overlaid(self, over: Node) -> Node {
        match (self.content, over.content) {
            (base, Content::Scalar(Value::Null)) => Node { content: base, ..self },
            (Content::Mapping(mut base), Content::Mapping(entries)) => {
                for entry in entries {
                    match base.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => {
                            let below = std::mem::replace(&mut known.value, Node::empty_mapping(Origin::Default));
                            if !entry.value.is_null() {
                                known.key_origin = entry.key_origin;
                            }
                            known.value = below.overlaid(entry.value);
                        }
                        None => base.push(entry),
                    }
                }
                Node { content: Content::Mapping(base), origin: over.origin, substituted: false }
            }
            (_, content) => Node { content, ..over },
        }
    }

    /// Sets the value that a pointer of plain keys names, making the mappings on its way.
    pub(crate) fn set(&mut self, pointer: &str, value: Node) {
        let origin = value.origin.clone();
        let layer = tokens(pointer).collect::<Vec<_>>().into_iter().rev().fold(value, |inner, key| {
            let entry = Entry { key, key_origin: origin.clone(), value: inner };
            Node::new(origin.clone(), Content::Mapping(vec![entry]))
        });
        let below = std::mem::replace(self, Node::empty_mapping(Origin::Default));
        *self = below.overlaid(layer);
    }

    /// A document whose values are known, but not their places.
    pub(crate) fn unplaced(value: Value, origin: &Origin) -> Self {
        let content = match value {
            Value::Array(items) => {
                Content::Sequence(items.into_iter().map(|item| Self::unplaced(item, origin)).collect())
            }
            Value::Object(map) => Content::Mapping(Self::unplaced_entries(map, origin)),
            scalar => Content::Scalar(scalar),
        };
        Self::new(origin.clone(), content)
    }

    fn unplaced_entries(map: Map<String, Value>, origin: &Origin) -> Vec<Entry> {
        map.into_iter()
            .map(|(key, value)| Entry { key, key_origin: origin.clone(), value: Self::unplaced(value, origin) })
            .collect()
    }
}

fn tokens(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
}

/// The pointer to an entry of a node.
pub(crate) fn child_pointer(pointer: &str, token: impl ToString) -> String {
    push_pointer(pointer, &token.to_string())
}

/// Reads a file; `None` where there is none.
pub(crate) fn read_file(path: &Path) -> Result<Option<Node>, Fault> {
    let name: Arc<str> = path.display().to_string().into();
    let unreadable = |error: &dyn fmt::Display| Fault::new(Origin::file(&name), "", format!("cannot be read: {error}"));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
            return Err(unreadable(&format_args!("expected at most {MAX_FILE_BYTES} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        parse_json(&name, &text).map(Some)
    } else {
        parse_yaml(&name, &text).map(Some)
    }
}

/// Reads JSON. YAML's reader gives the places where it agrees; it takes a little less than
/// JSON allows.
fn parse_json(name: &Arc<str>, text: &str) -> Result<Node, Fault> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let origin =
            Origin::File { file: name.clone(), line: error.line() as u64, column: error.column().max(1) as u64 };
        Fault::new(origin, "", format!("expected JSON: {error}"))
    })?;
    Ok(parse_yaml(name, text).unwrap_or_else(|_| Node::unplaced(value, &Origin::file(name))))
}

/// How all YAML is read: `yes` and `no` are texts, as YAML 1.2 has it, and what is wrong is
/// told without the text around it, which may hold a secret.
pub(crate) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false, strict_booleans: true }
}

/// Reads YAML; an empty document is an empty mapping.
pub(crate) fn parse_yaml(name: &Arc<str>, text: &str) -> Result<Node, Fault> {
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, yaml_options()) {
        Ok(document) => {
            let node = document.value.placed(name, document.referenced);
            Ok(if node.is_null() { Node::empty_mapping(Origin::file(name)) } else { node })
        }
        Err(error) => {
            let error = error.without_snippet();
            let origin = error.location().map_or_else(|| Origin::file(name), |location| place(name, location));
            Err(Fault::new(origin, "", format!("expected YAML: {error}")))
        }
    }
}

fn place(file: &Arc<str>, location: Location) -> Origin {
    Origin::File { file: file.clone(), line: location.line().max(1), column: location.column().max(1) }
}

/// YAML as its reader gives it, before the file's name is known to each value.
#[derive(Debug)]
enum Raw {
    Scalar(Value),
    Sequence(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl Raw {
    fn placed(self, file: &Arc<str>, location: Location) -> Node {
        let content = match self {
            Self::Scalar(value) => Content::Scalar(value),
            Self::Sequence(items) => {
                Content::Sequence(items.into_iter().map(|item| item.value.placed(file, item.referenced)).collect())
            }
            Self::Mapping(entries) => Content::Mapping(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        key: key.value,
                        key_origin: place(file, key.referenced),
                        value: value.value.placed(file, value.referenced),
                    })
                    .collect(),
            ),
        };
        Node::new(place(file, location), content)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Raw, E> {
        serde_json::Number::from_f64(value)
            .map(|number| Raw::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("expected a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element()? {
            sequence.push(item);
        }
        Ok(Raw::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Raw::Mapping(mapping))
    }
}
