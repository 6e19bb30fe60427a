//! Request bodies as the param `body`, and how it is written.

use serde_json::{Map, Value, json};

use super::documents::Node;
use super::media::{MediaKind, MediaType};
use super::operation::Draft;
use super::parameters::Parameter;
use super::schema::{SchemaMaker, shortened};
use super::{Dialect, Source};
use crate::import::FindingKind::{Note, Simplified};

const MAX_DESCRIPTION: usize = 600;

/// Binds the body of an operation, if it has one.
pub(super) fn bind<'a>(
    source: &Source<'a>,
    operation: Node<'a>,
    parameters: &[Parameter<'a>],
    schemas: &mut SchemaMaker<'a>,
    draft: &mut Draft,
) {
    if source.dialect == Dialect::V2 {
        return bind_parameters(source, operation, parameters, schemas, draft);
    }
    let Some(body) = operation.get("requestBody") else { return };
    let body = match source.documents.follow(body) {
        Ok(body) => body,
        Err(message) => return draft.find(Simplified, format!("the request body is left out: {message}")),
    };
    let offered: Vec<(MediaType<'a>, Node<'a>)> =
        body.members_of("content").map(|(name, node)| (MediaType::parse(name), node)).collect();
    let Some((media_type, content)) = offered.iter().min_by_key(|(media_type, _)| media_type.rank()).copied() else {
        return;
    };
    tell_of_others(media_type, offered.iter().map(|(other, _)| *other), draft);
    let is_required = body.flag("required") == Some(true);
    let schema = content.get("schema");
    if media_type.kind == MediaKind::Form {
        bind_arrays(source, content, draft);
    }
    let converted = match (media_type.kind, schema) {
        (MediaKind::Multipart, Some(schema)) => parts(source, schema, schemas),
        (MediaKind::Binary, _) => binary(),
        (_, Some(schema)) => schemas.part(schema),
        (_, None) => json!({}),
    };
    declare(media_type, converted, body.text("description"), is_required, draft);
}

/// 2.0: a parameter is the body, or some are its fields.
fn bind_parameters<'a>(
    source: &Source<'a>,
    operation: Node<'a>,
    parameters: &[Parameter<'a>],
    schemas: &mut SchemaMaker<'a>,
    draft: &mut Draft,
) {
    let consumes = |node: Node<'a>| {
        let names = node.get("consumes")?.value.as_array()?;
        Some(names.iter().filter_map(Value::as_str).map(MediaType::parse).collect::<Vec<_>>())
    };
    let offered = consumes(operation).or_else(|| consumes(source.documents.root())).unwrap_or_default();
    let fields: Vec<_> = parameters.iter().filter(|parameter| parameter.place == "formData").collect();
    if !fields.is_empty() {
        let has_file = fields.iter().any(|field| field.node.text("type") == Some("file"));
        let is_multipart = has_file
            || (offered.iter().any(|other| other.kind == MediaKind::Multipart)
                && !offered.iter().any(|other| other.kind == MediaKind::Form));
        let media_type =
            MediaType::parse(if is_multipart { "multipart/form-data" } else { "application/x-www-form-urlencoded" });
        let mut properties = Map::new();
        for field in &fields {
            let schema =
                if field.node.text("type") == Some("file") { file(field.node) } else { schemas.part(field.node) };
            properties.insert(field.name.to_owned(), schema);
        }
        let required: Vec<&str> =
            fields.iter().filter(|field| field.node.flag("required") == Some(true)).map(|field| field.name).collect();
        let is_required = !required.is_empty();
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if is_required {
            schema["required"] = required.into();
        }
        return declare(media_type, schema, None, is_required, draft);
    }
    let Some(body) = parameters.iter().find(|parameter| parameter.place == "body") else { return };
    let media_type =
        offered.iter().copied().min_by_key(MediaType::rank).unwrap_or(MediaType::parse("application/json"));
    tell_of_others(media_type, offered.iter().copied(), draft);
    let schema = match (media_type.kind, body.node.get("schema")) {
        (MediaKind::Binary, _) => binary(),
        (_, Some(schema)) => schemas.part(schema),
        (_, None) => json!({}),
    };
    declare(media_type, schema, body.node.text("description"), body.node.flag("required") == Some(true), draft);
}

fn declare(media_type: MediaType<'_>, schema: Value, description: Option<&str>, is_required: bool, draft: &mut Draft) {
    let mut schema = if schema == Value::Bool(true) { json!({}) } else { schema };
    if let (Value::Object(keywords), Some(text)) =
        (&mut schema, description.and_then(|text| shortened(text, MAX_DESCRIPTION)))
    {
        keywords.entry("description").or_insert(text);
    }
    let name = draft.name("body".to_owned(), "the request body");
    draft.operation.insert("body".to_owned(), name.as_str().into());
    if media_type.kind != MediaKind::Json {
        draft.operation.insert("encoding".to_owned(), media_type.kind.encoding().into());
    }
    if media_type.kind == MediaKind::Xml {
        draft
            .find(Simplified, "the XML body is written by the rules of the encoding xml, not by those of the document");
    }
    if let Some(content_type) = media_type.content_type() {
        draft.constant_header("Content-Type", content_type);
    }
    draft.declare(&name, schema, is_required);
}

fn tell_of_others<'a>(chosen: MediaType<'a>, offered: impl Iterator<Item = MediaType<'a>>, draft: &mut Draft) {
    let others: Vec<_> = offered.map(|other| other.name).filter(|name| *name != chosen.name).take(5).collect();
    if !others.is_empty() {
        draft.find(Note, format!("the body is sent as {}; {} is taken too", chosen.name, others.join(", ")));
    }
}

/// How the form names the items of its arrays: with indices where the style is deepObject, which
/// has no form for arrays of its own. Other styles are told of.
fn bind_arrays<'a>(source: &Source<'a>, content: Node<'a>, draft: &mut Draft) {
    let mut joined = Vec::new();
    for (name, encoding) in content.members_of("encoding") {
        let schema = content.get("schema").and_then(|schema| source.documents.follow(schema).ok());
        let property = schema.and_then(|schema| schema.get("properties")).and_then(|properties| properties.get(name));
        match encoding.text("style") {
            Some("deepObject") => drop(draft.operation.insert("formArrays".to_owned(), "indices".into())),
            None | Some("form") if encoding.flag("explode") != Some(false) => {}
            _ if source.has_type(property, "array") => joined.push(name),
            _ => {}
        }
    }
    if !joined.is_empty() {
        joined.truncate(10);
        draft.find(Simplified, format!("arrays in the form body are not joined: {}", joined.join(", ")));
    }
}

/// The parts of a multipart body: texts, JSON, and files.
fn parts<'a>(source: &Source<'a>, schema: Node<'a>, schemas: &mut SchemaMaker<'a>) -> Value {
    let Ok(resolved) = source.documents.follow(schema) else { return schemas.part(schema) };
    if resolved.get("properties").is_none() {
        return schemas.part(schema);
    }
    let mut properties = Map::new();
    for (name, property) in resolved.members_of("properties") {
        let target = source.documents.follow(property).unwrap_or(property);
        let items = target.get("items").map(|items| source.documents.follow(items).unwrap_or(items));
        let converted = match items {
            _ if is_file(target) => file(target),
            Some(items) if is_file(items) => json!({"type": "array", "items": file(items)}),
            _ => schemas.part(property),
        };
        properties.insert(name.to_owned(), converted);
    }
    let mut whole = json!({"type": "object", "properties": properties});
    let required: Vec<&str> = resolved.items_of("required").filter_map(|name| name.value.as_str()).collect();
    if !required.is_empty() {
        whole["required"] = required.into();
    }
    whole
}

fn is_file(schema: Node<'_>) -> bool {
    matches!(schema.text("format"), Some("binary" | "base64" | "byte"))
        || schema.text("contentMediaType").is_some_and(|name| name == "application/octet-stream")
        || schema.text("type") == Some("file")
}

/// A file as the encoding `multipart` takes it.
fn file(node: Node<'_>) -> Value {
    let mut schema = json!({
        "type": "object", "required": ["content"], "additionalProperties": false,
        "properties": {
            "content": {"type": "string", "contentEncoding": "base64"},
            "filename": {"type": "string"},
            "contentType": {"type": "string"},
        },
    });
    if let Some(description) = node.text("description").and_then(|text| shortened(text, MAX_DESCRIPTION)) {
        schema["description"] = description;
    }
    schema
}

fn binary() -> Value {
    json!({"type": "string", "contentEncoding": "base64"})
}
