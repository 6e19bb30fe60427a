//! Params that fit the schemas of the catalogue, as small as may be.

use serde_json::{Map, Value, json};

/// A value that fits a schema, as far as the catalogue's schemas go.
pub(super) fn value(schema: &Value) -> Value {
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let (None, Some(first)) = (schema.get("type"), schema["anyOf"].get(0)) {
        return value(first);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => object(schema),
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(1).max(1);
            (0..count).map(|_| schema.get("items").map_or(json!("x"), value)).collect()
        }
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        _ => json!(text(schema)),
    }
}

/// What an object requires, by itself and by the first of its alternatives.
fn object(schema: &Value) -> Value {
    let alternatives = schema["allOf"].as_array().into_iter().flatten().chain([schema]);
    let required = alternatives.flat_map(|one| [&one["required"], &one["anyOf"][0]["required"]]);
    let names = required.flat_map(|names| names.as_array().into_iter().flatten());
    let mut members: Map<String, Value> = names
        .map(|name| {
            let name = name.as_str().unwrap();
            (name.to_owned(), schema["properties"].get(name).map_or(json!("x"), value))
        })
        .collect();
    if members.is_empty() && schema["minProperties"].as_u64() > Some(0) {
        members.insert("x".to_owned(), schema.get("additionalProperties").map_or(json!("x"), value));
    }
    Value::Object(members)
}

fn text(schema: &Value) -> String {
    if schema["contentEncoding"] == "base64" {
        return "c2FtcGxl".to_owned();
    }
    match (schema["format"].as_str(), schema["pattern"].as_str()) {
        (Some("uri"), _) => "https://example.com/hook".to_owned(),
        (Some("email"), _) => "ann@example.com".to_owned(),
        (Some("date-time"), _) => "2026-01-31T10:00:00Z".to_owned(),
        (Some("date"), _) => "2026-01-31".to_owned(),
        (_, Some("^[A-Za-z]{3}$")) => "usd".to_owned(),
        (_, Some("^[0-9]+\\.[0-9]+$")) => "1700000000.000100".to_owned(),
        // The ids of Twilio's resources.
        (_, Some(pattern)) if pattern.ends_with("{32}$") => {
            let prefix = pattern[1..3].chars().all(|c| c.is_ascii_uppercase()).then_some(&pattern[1..3]);
            format!("{}{}", prefix.unwrap_or("SM"), "0".repeat(32))
        }
        _ => "sample".to_owned(),
    }
}
