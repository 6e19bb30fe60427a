//! Values that fit a JSON Schema, always the same ones: what the schema names first, else the
//! plainest of its type.

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Value, json};

/// How deep optional members are given.
const OPTIONAL_DEPTH: usize = 3;
/// What is below is cut, in schemas that contain themselves.
const MAX_DEPTH: usize = 24;

/// Which of the values that fit is made.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    /// Where `$ref` starts from.
    pub(super) root: &'a Value,
    /// Whether optional members are given too.
    pub(super) whole: bool,
    /// Which alternative is taken of each `anyOf` and `oneOf`.
    pub(super) alternative: usize,
}

impl Values<'_> {
    pub(super) fn of(self, schema: &Value) -> Value {
        self.at(schema, 0)
    }

    fn at(self, schema: &Value, depth: usize) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        let mut schema = self.flat(schema, 0);
        let wants_null = |value: &Value| value.is_null();
        if let Some(value) = schema.remove("const") {
            return value;
        }
        if let Some(Value::Array(values)) = schema.get("enum") {
            let value = values.iter().find(|value| !wants_null(value)).or(values.first());
            return value.cloned().unwrap_or_default();
        }
        match kind(&schema) {
            "object" => self.object(&schema, depth),
            "array" => self.array(&schema, depth),
            "integer" => number(&schema, 1).map_or(json!(1), |value| json!(value.ceil() as i64)),
            "number" => number(&schema, 1).map_or(json!(1.5), |value| json!(value)),
            "boolean" => json!(true),
            "null" => Value::Null,
            _ => text(&schema).into(),
        }
    }

    /// The schema with all that it refers to and consists of as one.
    fn flat(self, schema: &Value, depth: usize) -> Map<String, Value> {
        let mut all = schema.as_object().cloned().unwrap_or_default();
        if depth > MAX_DEPTH {
            return all;
        }
        let mut parts = Vec::new();
        if let Some(Value::String(reference)) = all.remove("$ref") {
            let pointer = reference.strip_prefix('#').expect("a reference within the schema");
            parts.push(self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")).clone());
        }
        if let Some(Value::Array(every)) = all.remove("allOf") {
            parts.extend(every);
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(Value::Array(alternatives)) = all.remove(keyword) {
                parts.push(alternatives[self.alternative % alternatives.len()].clone());
            }
        }
        for part in parts {
            for (keyword, value) in self.flat(&part, depth + 1) {
                match (all.get_mut(&keyword), value) {
                    (Some(Value::Object(known)), Value::Object(more)) if keyword == "properties" => {
                        for (name, member) in more {
                            let both = known.remove(&name).map(|other| json!({"allOf": [other, member]}));
                            known.insert(name, both.unwrap_or(member));
                        }
                    }
                    (Some(Value::Array(known)), Value::Array(more)) if keyword == "required" => known.extend(more),
                    (Some(_), _) => {}
                    (None, value) => drop(all.insert(keyword, value)),
                }
            }
        }
        all
    }

    fn object(self, schema: &Map<String, Value>, depth: usize) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required: Vec<&str> = strings(schema.get("required"));
        let mut made = Map::new();
        for (name, member) in properties {
            if required.contains(&name.as_str()) || (self.whole && depth < OPTIONAL_DEPTH) {
                made.insert(name.clone(), self.at(member, depth + 1));
            }
        }
        let others = schema.get("additionalProperties").filter(|others| others.is_object()).cloned();
        let others = others.unwrap_or_else(|| json!({}));
        for name in required {
            if !made.contains_key(name) {
                made.insert(name.to_owned(), self.at(&others, depth + 1));
            }
        }
        // A form cannot say that there is an object with nothing in it.
        let usual = u64::from(depth > 0 && !properties.is_empty());
        let least = schema.get("minProperties").and_then(Value::as_u64).unwrap_or(usual);
        for (name, member) in properties {
            if (made.len() as u64) < least && !made.contains_key(name) {
                made.insert(name.clone(), self.at(member, depth + 1));
            }
        }
        while (made.len() as u64) < least {
            made.insert(format!("name{}", made.len()), self.at(&others, depth + 1));
        }
        made.into()
    }

    fn array(self, schema: &Map<String, Value>, depth: usize) -> Value {
        let first: Vec<Value> = schema.get("prefixItems").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut items: Vec<Value> = first.iter().map(|item| self.at(item, depth + 1)).collect();
        let item = schema.get("items").cloned().unwrap_or_else(|| json!({}));
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).max(1);
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        while (items.len() as u64) < least.min(most) {
            items.push(self.at(&item, depth + 1));
        }
        items.into()
    }
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The type of the values: as the schema has it, or as its keywords tell.
pub(super) fn kind(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => return kind,
        Some(Value::Array(kinds)) => {
            return kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null");
        }
        _ => {}
    }
    let has = |keywords: &[&str]| keywords.iter().any(|keyword| schema.contains_key(*keyword));
    if has(&["properties", "required", "additionalProperties", "minProperties"]) {
        "object"
    } else if has(&["items", "minItems", "prefixItems"]) {
        "array"
    } else if has(&["minimum", "maximum", "multipleOf"]) {
        "number"
    } else {
        "string"
    }
}

/// The least number that fits, from `usual` on; none where the schema bounds nothing.
fn number(schema: &Map<String, Value>, usual: i64) -> Option<f64> {
    let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    let step = bound("multipleOf").unwrap_or(1.0);
    let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|least| least + step));
    let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|most| most - step));
    if least.is_none() && most.is_none() && bound("multipleOf").is_none() {
        return None;
    }
    let wanted = least.unwrap_or(f64::MIN).max((usual as f64).min(most.unwrap_or(f64::MAX)));
    Some(if bound("multipleOf").is_some() { (wanted / step).ceil() * step } else { wanted })
}

fn text(schema: &Map<String, Value>) -> String {
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && let Some(text) = matching(pattern, schema)
    {
        return text;
    }
    let usual = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2024-02-29T12:30:00Z",
        Some("date") => "2024-02-29",
        Some("time") => "12:30:00Z",
        Some("duration") => "P1D",
        Some("uuid") => "7f1c4c3e-5b1e-4a52-9f0e-1c2d3e4f5a6b",
        Some("uri" | "url" | "uri-reference" | "iri") => "https://example.com/a",
        Some("email") => "somebody@example.com",
        Some("hostname") => "example.com",
        Some("ipv4") => "192.0.2.1",
        Some("ipv6") => "2001:db8::1",
        Some("byte") => "dGV4dA==",
        _ if schema.contains_key("contentEncoding") => "dGV4dA==",
        _ => "text",
    };
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0) as usize;
    let most = schema.get("maxLength").and_then(Value::as_u64).unwrap_or(u64::MAX) as usize;
    let padded = format!("{usual}{}", "x".repeat(least.saturating_sub(usual.len())));
    padded.chars().take(most).collect()
}

/// A text that a pattern finds, of the length that is wanted; none for patterns that look around.
fn matching(pattern: &str, schema: &Map<String, Value>) -> Option<String> {
    let parsed = regex_syntax::ParserBuilder::new().build().parse(pattern).ok()?;
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(1) as usize;
    let shortest = (0..64).map(|more| shortest(&parsed, more)).find(|text| text.chars().count() >= least)?;
    Some(shortest)
}

/// The shortest text of an expression, with `more` repetitions than each needs where it may have them.
fn shortest(expression: &Hir, more: u32) -> String {
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => String::new(),
        HirKind::Literal(literal) => String::from_utf8_lossy(&literal.0).into_owned(),
        HirKind::Class(Class::Unicode(class)) => {
            let has = |wanted: char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&wanted));
            let usual = ['a', '1', 'A'].into_iter().find(|wanted| has(*wanted));
            usual.or_else(|| class.ranges().first().map(|range| range.start())).into_iter().collect()
        }
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().first().map(|range| char::from(range.start())).into_iter().collect()
        }
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(u32::MAX).min(repetition.min + more);
            shortest(&repetition.sub, 0).repeat(times as usize)
        }
        HirKind::Capture(capture) => shortest(&capture.sub, more),
        HirKind::Concat(parts) => parts.iter().map(|part| shortest(part, more)).collect(),
        HirKind::Alternation(alternatives) => {
            alternatives.first().map(|first| shortest(first, more)).unwrap_or_default()
        }
    }
}
