//! Schemas of a description as JSON Schema 2020-12: each whole in itself, the parts that it
//! refers to in its `$defs`. Parts that lie deeper than its size allows let everything pass.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use super::Dialect;
use super::documents::{Documents, Node, Place};
use super::naming::UniqueNames;
use crate::import::schemas::loosen;

/// How deep schemas stand within one another; deeper ones let everything pass.
const MAX_DEPTH: usize = 32;
/// The longest description of a part, in characters.
const MAX_DESCRIPTION: usize = 400;
/// So many bytes of a text count for a keyword.
const BYTES_OF_ONE: usize = 64;
/// Properties that are named though there is no room for what they are: callers may give them.
const MAX_BARE: usize = 200;

/// Which way the described values go: what is read-only is not asked of requests, and what
/// is write-only not expected of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Answer,
}

/// What a schema became.
pub(super) struct Translated {
    pub(super) schema: Value,
    /// What it says less than the document.
    pub(super) lost: Vec<String>,
}

/// Makes one schema.
pub(super) struct SchemaMaker<'a> {
    documents: &'a Documents,
    dialect: Dialect,
    direction: Direction,
    /// The keywords that may still be written.
    room: usize,
    is_cut: bool,
    names: UniqueNames,
    known: HashMap<Place, String>,
    waiting: VecDeque<(String, Node<'a>)>,
    lost: Vec<String>,
}

impl<'a> SchemaMaker<'a> {
    /// `room` is how many keywords the schema may hold.
    pub(super) fn new(documents: &'a Documents, dialect: Dialect, direction: Direction, room: usize) -> Self {
        Self {
            documents,
            dialect,
            direction,
            room,
            is_cut: false,
            names: UniqueNames::default(),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            lost: Vec::new(),
        }
    }

    pub(super) fn part(&mut self, node: Node<'a>) -> Value {
        self.convert(node, 0)
    }

    pub(super) fn lose(&mut self, message: String) {
        if self.lost.len() < 20 && !self.lost.contains(&message) {
            self.lost.push(message);
        }
    }

    /// The whole schema: `root` with what it refers to.
    pub(super) fn finish(mut self, mut root: Value) -> Translated {
        let mut definitions = Map::new();
        let mut left_out = 0_usize;
        while let Some((name, node)) = self.waiting.pop_front() {
            let schema = if self.room == 0 {
                left_out += 1;
                Value::Bool(true)
            } else {
                self.convert(node, 0)
            };
            definitions.insert(name, schema);
        }
        if let (Value::Object(members), false) = (&mut root, definitions.is_empty()) {
            members.insert("$defs".to_owned(), Value::Object(definitions));
        }
        if left_out > 0 || self.is_cut {
            loosen(&mut root);
            let parts = if left_out > 0 { format!(" ({left_out} parts)") } else { String::new() };
            self.lose(format!("is too large: what lies deeper{parts} lets everything pass"));
        }
        Translated { schema: root, lost: self.lost }
    }

    fn convert(&mut self, node: Node<'a>, depth: usize) -> Value {
        let Value::Object(_) = node.value else {
            return match node.value {
                Value::Bool(passes) => Value::Bool(*passes),
                _ => Value::Bool(true),
            };
        };
        if depth >= MAX_DEPTH || self.room == 0 {
            self.is_cut = true;
            return Value::Bool(true);
        }
        self.room = self.room.saturating_sub(1);
        let mut schema = Map::new();
        if let Some(reference) = node.text("$ref") {
            match self.refer(node, reference) {
                Ok(reference) => {
                    schema.insert("$ref".to_owned(), reference.into());
                }
                Err(message) => self.lose(message),
            }
            // Before 3.1, nothing beside a reference counts.
            if self.dialect != Dialect::V31 {
                return self.with_null(node, schema);
            }
        }
        for (name, member) in node.members() {
            if let Some(value) = self.keyword(node, name, member, depth) {
                self.room = self.room.saturating_sub(1);
                schema.insert(name.to_owned(), value);
            }
        }
        // Names that were left out would be refused where no others are let pass.
        let named = |keywords: &dyn Fn(&str) -> usize| -> usize {
            ["properties", "patternProperties"].map(keywords).iter().sum()
        };
        let before = named(&|name| node.members_of(name).count());
        let after = named(&|name| schema.get(name).and_then(Value::as_object).map_or(0, Map::len));
        if after < before {
            schema.remove("additionalProperties");
        }
        self.with_exclusive_bounds(node, &mut schema);
        self.with_null(node, schema)
    }

    /// A value as it is, where there is room for it.
    fn copied(&mut self, value: &Value) -> Option<Value> {
        match weight(value, self.room) {
            Some(weight) => {
                self.room -= weight;
                Some(value.clone())
            }
            None => {
                self.is_cut = true;
                None
            }
        }
    }

    /// The value of a keyword; none where it does not count, or cannot be carried over.
    fn keyword(&mut self, node: Node<'a>, name: &str, member: Node<'a>, depth: usize) -> Option<Value> {
        let value = member.value;
        match name {
            "type" => self.types(value),
            "title" => None,
            "description" if self.direction == Direction::Request => shortened(value.as_str()?, MAX_DESCRIPTION),
            "required" => self.required(node, value),
            "properties" | "patternProperties" | "dependentSchemas" => {
                let mut schemas = Map::new();
                for (name, schema) in member.members() {
                    if self.room == 0 && schemas.len() >= MAX_BARE {
                        self.is_cut = true;
                        break;
                    }
                    self.room = self.room.saturating_sub(name.len() / BYTES_OF_ONE);
                    schemas.insert(name.to_owned(), self.convert(schema, depth + 1));
                }
                Some(Value::Object(schemas))
            }
            "items" if value.is_array() => None,
            "items"
            | "additionalProperties"
            | "not"
            | "if"
            | "then"
            | "else"
            | "propertyNames"
            | "contains"
            | "unevaluatedItems"
            | "unevaluatedProperties"
                if value.is_object() || value.is_boolean() =>
            {
                Some(self.convert(member, depth + 1))
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                let items = value.as_array().filter(|items| !items.is_empty())?;
                Some(items.iter().map(|item| self.convert(member.at(item), depth + 1)).collect())
            }
            "enum" => value.as_array().filter(|values| !values.is_empty()).and_then(|_| self.copied(value)),
            "const" | "dependentRequired" if self.dialect == Dialect::V31 => self.copied(value),
            "default" if !value.is_object() && !value.is_array() => self.copied(value),
            // Written of relative ones as well, and formats are hints in OpenAPI.
            "format" if value == "uri" => Some("uri-reference".into()),
            "format" | "pattern" | "contentEncoding" | "contentMediaType" if value.is_string() => self.copied(value),
            "minimum" | "maximum" | "multipleOf" | "exclusiveMinimum" | "exclusiveMaximum" => {
                value.is_number().then(|| value.clone())
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minContains"
            | "maxContains" => value.is_u64().then(|| value.clone()),
            "uniqueItems" | "deprecated" => value.is_boolean().then(|| value.clone()),
            "$dynamicRef" | "$recursiveRef" => {
                self.lose(format!("uses {name}, which lets everything pass"));
                None
            }
            _ => None,
        }
    }

    fn types(&self, value: &Value) -> Option<Value> {
        const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "array", "object", "null"];
        match value {
            Value::String(name) if name == "file" => Some("string".into()),
            Value::String(name) => TYPES.contains(&name.as_str()).then(|| value.clone()),
            Value::Array(names) if !names.is_empty() => {
                names.iter().all(|name| name.as_str().is_some_and(|name| TYPES.contains(&name))).then(|| value.clone())
            }
            _ => None,
        }
    }

    fn required(&mut self, node: Node<'a>, value: &Value) -> Option<Value> {
        let other_way = match self.direction {
            Direction::Request => "readOnly",
            Direction::Answer => "writeOnly",
        };
        let goes_this_way = |name: &&str| {
            let property = node.get("properties").and_then(|properties| properties.get(name));
            let property = property.and_then(|property| self.documents.follow(property).ok());
            property.and_then(|property| property.flag(other_way)) != Some(true)
        };
        let mut names: Vec<&str> = value.as_array()?.iter().filter_map(Value::as_str).filter(goes_this_way).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() { None } else { self.copied(&names.into()) }
    }

    /// Before 3.1, `exclusiveMinimum: true` goes with `minimum`.
    fn with_exclusive_bounds(&self, node: Node<'a>, schema: &mut Map<String, Value>) {
        for (flag, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
            if node.flag(flag) == Some(true)
                && let Some(value) = schema.remove(bound)
            {
                schema.insert(flag.to_owned(), value);
            }
        }
    }

    /// `nullable` (3.0) and `x-nullable` (2.0) as alternatives that are null.
    fn with_null(&self, node: Node<'a>, mut schema: Map<String, Value>) -> Value {
        let is_nullable = node.flag("nullable") == Some(true) || node.flag("x-nullable") == Some(true);
        if !is_nullable || schema.is_empty() {
            return Value::Object(schema);
        }
        if ["$ref", "allOf", "anyOf", "oneOf", "not", "const"].iter().any(|keyword| schema.contains_key(*keyword)) {
            return json!({"anyOf": [schema, {"type": "null"}]});
        }
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
        match schema.get_mut("type") {
            Some(Value::Array(names)) if !names.iter().any(|name| name == "null") => names.push("null".into()),
            Some(name @ Value::String(_)) if *name != "null" => *name = json!([name.take(), "null"]),
            _ => {}
        }
        Value::Object(schema)
    }

    /// A reference to a part of `$defs`, which is made later.
    fn refer(&mut self, node: Node<'a>, reference: &str) -> Result<String, String> {
        let (target, place) = self.documents.resolve(node, reference)?;
        let name = match self.known.get(&place) {
            Some(name) => name.clone(),
            None => {
                let last = place.1.rsplit('/').next().unwrap_or_default();
                let clean: String = last
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
                    .take(100)
                    .collect();
                let name = self.names.take(if clean.is_empty() { "part".to_owned() } else { clean });
                self.known.insert(place, name.clone());
                self.waiting.push_back((name.clone(), target));
                name
            }
        };
        Ok(format!("#/$defs/{name}"))
    }
}

/// How many keywords a value counts for; none where that is more than `room`.
fn weight(value: &Value, room: usize) -> Option<usize> {
    let mut weight = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        weight += 1;
        match value {
            Value::String(text) => weight += text.len() / BYTES_OF_ONE,
            Value::Array(items) if items.len() <= room => open.extend(items),
            Value::Object(members) if members.len() <= room => {
                weight += members.keys().map(|name| name.len() / BYTES_OF_ONE).sum::<usize>();
                open.extend(members.values());
            }
            Value::Array(_) | Value::Object(_) => return None,
            _ => {}
        }
        if weight > room {
            return None;
        }
    }
    Some(weight)
}

/// The beginning of a text for people; none where it says nothing.
pub(super) fn shortened(text: &str, most: usize) -> Option<Value> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    Some(short.into())
}
