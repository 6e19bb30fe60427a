//! Simple types: which of XML Schema's own they come of, and their facets as JSON Schema.

use serde_json::{Map, Value, json};

use super::components::{Component, Components, Kind};
use crate::adapter::soap::LIST;
use crate::xml::{Name, XSD};

/// How far simple types are followed to what they come of.
const MAX_STEPS: usize = 32;
/// The most values of an enumeration that are carried over.
const MAX_VALUES: usize = 2_000;
const MAX_PATTERN: usize = 500;

/// A simple type: the name of the built-in one, and the values that it takes.
#[derive(Clone)]
pub(super) struct Simple {
    pub(super) built_in: String,
    pub(super) schema: Value,
}

impl Simple {
    pub(super) fn text() -> Self {
        Self::built_in("string")
    }

    /// One of XML Schema's own types.
    pub(super) fn built_in(name: &str) -> Self {
        let schema = match name {
            "boolean" => json!({"type": "boolean"}),
            "decimal" => json!({"type": "number"}),
            "float" | "double" => json!({"anyOf": [{"type": "number"}, {"enum": ["INF", "-INF", "NaN"]}]}),
            "byte" => range(-128, 127),
            "short" => range(-32_768, 32_767),
            "int" => range(i64::from(i32::MIN), i64::from(i32::MAX)),
            "unsignedByte" => range(0, 255),
            "unsignedShort" => range(0, 65_535),
            "unsignedInt" => range(0, i64::from(u32::MAX)),
            "nonNegativeInteger" | "unsignedLong" => json!({"type": "integer", "minimum": 0}),
            "positiveInteger" => json!({"type": "integer", "minimum": 1}),
            "nonPositiveInteger" => json!({"type": "integer", "maximum": 0}),
            "negativeInteger" => json!({"type": "integer", "maximum": -1}),
            "integer" | "long" => json!({"type": "integer"}),
            "base64Binary" => json!({"type": "string", "contentEncoding": "base64"}),
            "anySimpleType" => json!({"type": ["string", "number", "boolean"]}),
            _ => json!({"type": "string"}),
        };
        Self { built_in: name.to_owned(), schema }
    }

    /// The simple type that a declaration of one is.
    pub(super) fn of(components: &Components<'_>, declared: Component<'_>) -> Self {
        Self::within(components, declared, MAX_STEPS)
    }

    /// The simple type of a name; none where it is not simple.
    pub(super) fn named(components: &Components<'_>, name: &Name) -> Option<Self> {
        Self::named_within(components, name, MAX_STEPS)
    }

    fn named_within(components: &Components<'_>, name: &Name, steps: usize) -> Option<Self> {
        let is_encoding = name.namespace() == super::SOAP_ENCODING;
        if (name.namespace() == XSD || is_encoding) && crate::adapter::soap::is_built_in(&name.local) {
            return Some(Self::built_in(&name.local));
        }
        let declared = components.find(Kind::Type, name)?;
        let is_simple = declared.node.name.local == "simpleType" && steps > 0;
        is_simple.then(|| Self::within(components, declared, steps - 1))
    }

    fn within(components: &Components<'_>, declared: Component<'_>, steps: usize) -> Self {
        let part =
            declared.node.children().find(|child| child.name.namespace() == XSD && child.name.local != "annotation");
        let Some(part) = part.filter(|_| steps > 0) else { return Self::text() };
        // The type that this one is made of.
        let inner = |attribute: &str| {
            let named = part.attribute(attribute).and_then(|name| declared.at(part).resolve(name));
            match (named, part.child(XSD, "simpleType")) {
                (Some(name), _) => Self::named_within(components, &name, steps - 1).unwrap_or_else(Self::text),
                (None, Some(inline)) => Self::within(components, declared.at(inline), steps - 1),
                (None, None) => Self::text(),
            }
        };
        match part.name.local.as_str() {
            "restriction" => {
                let mut simple = inner("base");
                simple.restrict(declared.at(part));
                simple
            }
            "list" => {
                let Self { built_in, schema } = inner("itemType");
                Self {
                    built_in: format!("{}{LIST}", built_in.trim_end_matches(LIST)),
                    schema: json!({"type": "array", "items": schema}),
                }
            }
            // Whatever fits one of its members.
            "union" => Self::built_in("anySimpleType"),
            _ => Self::text(),
        }
    }

    /// Adds the facets of a restriction.
    pub(super) fn restrict(&mut self, restriction: Component<'_>) {
        let mut values = Vec::new();
        let mut patterns = Vec::new();
        let kind = self.schema["type"].as_str().unwrap_or_default().to_owned();
        let Some(schema) = self.schema.as_object_mut() else { return };
        for facet in restriction.node.children().filter(|child| child.name.namespace() == XSD) {
            let Some(value) = facet.attribute("value") else { continue };
            let number = || serde_json::from_str::<serde_json::Number>(value.trim()).ok();
            match (facet.name.local.as_str(), kind.as_str()) {
                ("enumeration", "string") => values.push(Value::from(value)),
                ("enumeration", "integer" | "number") => values.extend(number().map(Value::Number)),
                ("pattern", "string") => patterns.push(value),
                ("length", "string") => {
                    set(schema, "minLength", number());
                    set(schema, "maxLength", number());
                }
                (name @ ("minLength" | "maxLength"), "string") => set(schema, name, number()),
                ("minInclusive", "integer" | "number") => set(schema, "minimum", number()),
                ("maxInclusive", "integer" | "number") => set(schema, "maximum", number()),
                ("minExclusive", "integer" | "number") => set(schema, "exclusiveMinimum", number()),
                ("maxExclusive", "integer" | "number") => set(schema, "exclusiveMaximum", number()),
                _ => {}
            }
        }
        if (1..=MAX_VALUES).contains(&values.len()) {
            schema.insert("enum".to_owned(), Value::Array(values));
        }
        if let Some(pattern) = pattern(&patterns) {
            schema.insert("pattern".to_owned(), Value::from(pattern));
        }
    }
}

fn range(minimum: i64, maximum: i64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn set(schema: &mut Map<String, Value>, keyword: &str, value: Option<serde_json::Number>) {
    if let Some(value) = value {
        schema.insert(keyword.to_owned(), Value::Number(value));
    }
}

/// One pattern of those of a restriction, of which one has to fit the whole text; none where
/// they say what patterns of JSON Schema do not.
fn pattern(patterns: &[&str]) -> Option<String> {
    let is_common = |pattern: &&str| {
        pattern.len() <= MAX_PATTERN
            && !["\\i", "\\c", "\\I", "\\C", "\\p", "\\P", "-["].iter().any(|own| pattern.contains(own))
            && !pattern.contains(['^', '$'])
    };
    (!patterns.is_empty() && patterns.iter().all(is_common)).then(|| format!("^(?:{})$", patterns.join("|")))
}
