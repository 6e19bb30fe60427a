//! The params of a method: the arguments of its field as JSON Schema.

use serde_json::{Map, Value, json};

use super::model::{Argument, Field, Kind, Model};
use super::selection::schema_of;

/// The schema of a scalar. One that is not built in may be anything.
pub(super) fn scalar(name: &str) -> Value {
    match name {
        "Int" => json!({"type": "integer"}),
        "Float" => json!({"type": "number"}),
        "Boolean" => json!({"type": "boolean"}),
        "String" => json!({"type": "string"}),
        "ID" => json!({"type": ["string", "integer"]}),
        _ => json!({}),
    }
}

/// Params of the arguments of fields.
pub(super) struct ParamSchemas<'a> {
    model: &'a Model,
    /// The most types that one schema describes.
    room: usize,
    waiting: Vec<&'a str>,
    definitions: Map<String, Value>,
    /// Whether types were left open for there are too many.
    pub(super) is_cut: bool,
}

impl<'a> ParamSchemas<'a> {
    pub(super) fn new(model: &'a Model, room: usize) -> Self {
        Self { model, room, waiting: Vec::new(), definitions: Map::new(), is_cut: false }
    }

    /// The schema of a field's arguments; `given` is a param that callers need not give, for
    /// the definition does.
    pub(super) fn of_field(&mut self, field: &'a Field, given: Option<&str>) -> Value {
        let mut schema = self.object(&field.arguments, given);
        while let Some(name) = self.waiting.pop() {
            let Some(found) = self.model.types.get(name) else { continue };
            let described = match found.kind {
                Kind::Enum => json!({"enum": found.values}),
                _ => self.object(&found.inputs, None),
            };
            self.definitions.insert(name.to_owned(), described);
        }
        if !self.definitions.is_empty() {
            schema["$defs"] = Value::Object(std::mem::take(&mut self.definitions));
        }
        schema
    }

    fn object(&mut self, arguments: &'a [Argument], given: Option<&str>) -> Value {
        let mut properties = Map::new();
        for argument in arguments {
            let mut schema = schema_of(&argument.of, self.named(argument.of.name()));
            if !argument.description.is_empty() {
                schema["description"] = Value::from(argument.description.as_str());
            }
            properties.insert(argument.name.clone(), schema);
        }
        let required: Vec<_> = arguments
            .iter()
            .filter(|argument| argument.is_required() && given != Some(argument.name.as_str()))
            .map(|argument| argument.name.as_str())
            .collect();
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// The schema of a named type, described once and referred to.
    fn named(&mut self, name: &'a str) -> Value {
        match self.model.kind(name) {
            Kind::Input | Kind::Enum => {}
            _ => return scalar(name),
        }
        if !self.definitions.contains_key(name) {
            if self.definitions.len() >= self.room {
                self.is_cut = true;
                return json!({});
            }
            // Its place is taken, so that types that hold each other come to an end.
            self.definitions.insert(name.to_owned(), Value::Null);
            self.waiting.push(name);
        }
        json!({"$ref": format!("#/$defs/{name}")})
    }
}
