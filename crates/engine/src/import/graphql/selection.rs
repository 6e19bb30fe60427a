//! What a method asks for: the scalars of a type and of what is nearest to it, with the JSON
//! Schema of the answer.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::model::{Field, Kind, Model, TypeRef};
use super::params::scalar;

/// How many levels of objects are asked for below the first.
const MAX_DEPTH: usize = 1;
/// The most fields that a method asks for.
const MAX_FIELDS: usize = 150;

/// A selection set in braces, and the schema of what it brings.
pub(super) struct Selection {
    pub(super) text: String,
    pub(super) schema: Value,
}

/// A connection among the types: what its items are under.
pub(super) fn connection_items<'a>(model: &'a Model, of: &str) -> Option<&'a Field> {
    let page_info = model.field(of, "pageInfo")?.of.name();
    ["hasNextPage", "endCursor"].iter().all(|name| model.field(page_info, name).is_some()).then_some(())?;
    model.field(of, "nodes").or_else(|| model.field(of, "edges"))
}

pub(super) struct Selector<'a> {
    model: &'a Model,
    fields_left: usize,
    /// Whether fields were left out for there are too many.
    pub(super) is_cut: bool,
}

impl<'a> Selector<'a> {
    pub(super) fn new(model: &'a Model) -> Self {
        Self { model, fields_left: MAX_FIELDS, is_cut: false }
    }

    /// What to ask a field of this type for, a selection set with a space before it or nothing
    /// where it is a scalar; and the schema of what it brings.
    pub(super) fn of_type(&mut self, of: &TypeRef) -> (String, Value) {
        self.of_item(of, MAX_DEPTH)
    }

    fn of_item(&mut self, of: &TypeRef, depth: usize) -> (String, Value) {
        match self.select(of.name(), depth) {
            Some(Selection { text, schema }) => (format!(" {text}"), schema_of(of, schema)),
            None => (String::new(), schema_of(of, self.leaf(of.name()))),
        }
    }

    fn leaf(&self, name: &str) -> Value {
        match self.model.types.get(name) {
            Some(found) if found.kind == Kind::Enum => json!({"type": "string"}),
            _ => scalar(name),
        }
    }

    fn select(&mut self, name: &str, depth: usize) -> Option<Selection> {
        let (texts, properties) = match self.model.kind(name) {
            Kind::Scalar | Kind::Enum | Kind::Input => return None,
            Kind::Union => self.members(name),
            Kind::Object if connection_items(self.model, name).is_some() => self.connection(name, depth),
            Kind::Object => self.fields(name, depth),
            Kind::Interface => {
                let (mut texts, mut properties) = self.fields(name, depth);
                texts.insert(0, "__typename".to_owned());
                properties.insert("__typename".to_owned(), json!({"type": "string"}));
                (texts, properties)
            }
        };
        if texts.is_empty() {
            let schema = json!({"type": "object", "properties": {"__typename": {"type": "string"}}});
            return Some(Selection { text: "{ __typename }".to_owned(), schema });
        }
        let schema = json!({"type": "object", "properties": properties});
        Some(Selection { text: format!("{{ {} }}", texts.join(" ")), schema })
    }

    /// The fields that need no arguments: scalars, and down to `depth` objects.
    fn fields(&mut self, name: &str, depth: usize) -> (Vec<String>, Map<String, Value>) {
        let model = self.model;
        let (mut texts, mut properties) = (Vec::new(), Map::new());
        for field in model.fields(name).iter().filter(|field| !field.deprecated && field.needs_no_argument()) {
            let of = field.of.name();
            let is_leaf = matches!(model.kind(of), Kind::Scalar | Kind::Enum);
            // A connection within an object multiplies what the answer costs.
            if !is_leaf && (depth == 0 || connection_items(model, of).is_some()) {
                continue;
            }
            let Some(left) = self.fields_left.checked_sub(1) else {
                self.is_cut = true;
                break;
            };
            self.fields_left = left;
            let (text, schema) = self.of_item(&field.of, depth.saturating_sub(1));
            texts.push(format!("{}{text}", field.name));
            properties.insert(field.name.clone(), schema);
        }
        (texts, properties)
    }

    /// The items of a connection, and where the next page begins.
    fn connection(&mut self, name: &str, depth: usize) -> (Vec<String>, Map<String, Value>) {
        let model = self.model;
        let (mut texts, mut properties) = (Vec::new(), Map::new());
        if let Some(items) = connection_items(model, name) {
            let node = if items.name == "edges" { model.field(items.of.name(), "node") } else { None };
            let (text, schema) = match node {
                Some(node) => {
                    let (text, schema) = self.of_item(&node.of, depth);
                    let edge = json!({"type": "object", "properties": {"node": schema}});
                    (format!(" {{ node{text} }}"), schema_of(&items.of, edge))
                }
                None => self.of_item(&items.of, depth),
            };
            texts.push(format!("{}{text}", items.name));
            properties.insert(items.name.clone(), schema);
        }
        texts.push("pageInfo { hasNextPage endCursor }".to_owned());
        let page_info = json!({"hasNextPage": {"type": "boolean"}, "endCursor": {"type": ["string", "null"]}});
        properties.insert("pageInfo".to_owned(), json!({"type": "object", "properties": page_info}));
        if model.field(name, "totalCount").is_some_and(Field::needs_no_argument) {
            texts.push("totalCount".to_owned());
        }
        (texts, properties)
    }

    /// The scalars of each member of a union. Fields of one name and several types cannot be
    /// asked for together: the first one's is.
    fn members(&mut self, name: &str) -> (Vec<String>, Map<String, Value>) {
        let model = self.model;
        let mut texts = vec!["__typename".to_owned()];
        let mut types: HashMap<&str, String> = HashMap::new();
        for member in model.types.get(name).map_or(&[][..], |union| &union.members) {
            let mut names = Vec::new();
            for field in model.fields(member).iter().filter(|field| !field.deprecated && field.needs_no_argument()) {
                let of = field.of.to_string();
                let is_leaf = matches!(model.kind(field.of.name()), Kind::Scalar | Kind::Enum);
                if !is_leaf || *types.entry(field.name.as_str()).or_insert_with(|| of.clone()) != of {
                    continue;
                }
                let Some(left) = self.fields_left.checked_sub(1) else {
                    self.is_cut = true;
                    break;
                };
                self.fields_left = left;
                names.push(field.name.as_str());
            }
            if !names.is_empty() {
                texts.push(format!("... on {member} {{ {} }}", names.join(" ")));
            }
        }
        (texts, Map::from_iter([("__typename".to_owned(), json!({"type": "string"}))]))
    }
}

/// The schema of a type, its lists and nulls around that of what they hold.
pub(super) fn schema_of(of: &TypeRef, inner: Value) -> Value {
    match of {
        TypeRef::NonNull(of) => without_null(of, inner),
        of => nullable(without_null(of, inner)),
    }
}

fn without_null(of: &TypeRef, inner: Value) -> Value {
    match of {
        TypeRef::List(item) => json!({"type": "array", "items": schema_of(item, inner)}),
        TypeRef::NonNull(of) => without_null(of, inner),
        TypeRef::Named(_) => inner,
    }
}

fn nullable(mut schema: Value) -> Value {
    let null = || Value::from("null");
    if schema.as_object().is_some_and(Map::is_empty) {
        return schema;
    }
    match schema.get_mut("type") {
        Some(Value::Array(names)) if names.contains(&null()) => schema,
        Some(Value::Array(names)) => {
            names.push(null());
            schema
        }
        Some(name) => {
            *name = Value::Array(vec![name.take(), null()]);
            schema
        }
        None => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}
