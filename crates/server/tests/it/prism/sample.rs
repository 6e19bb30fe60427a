//! Which methods of a definition are executed, and the part of the description that they need.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::values::kind;

/// The most methods of a definition that are executed.
const SAMPLE: usize = 8;

/// The methods that show most of what a definition does in the fewest: each adds what those before it have not.
pub(super) fn sample(methods: &[Value]) -> Vec<&Value> {
    let features: Vec<BTreeSet<String>> = methods.iter().map(features).collect();
    let mut seen = BTreeSet::new();
    let mut chosen = BTreeSet::new();
    while chosen.len() < SAMPLE.min(methods.len()) {
        let adds = |index: &usize| (features[*index].difference(&seen).count(), usize::MAX - index);
        let best = (0..methods.len()).filter(|index| !chosen.contains(index)).max_by_key(adds).unwrap();
        seen.extend(features[best].iter().cloned());
        chosen.insert(best);
    }
    chosen.into_iter().map(|index| &methods[index]).collect()
}

/// What a method does on the wire, in words: its verb, where params go in which style and type, and how bodies are written.
fn features(method: &Value) -> BTreeSet<String> {
    let operation = &method["operation"];
    let params = &method["paramSchema"];
    let typed = |param: &str| {
        let mut schema = &params["properties"][param];
        while let Some(reference) = schema["$ref"].as_str() {
            schema = params.pointer(&reference[1..]).unwrap();
        }
        schema.as_object().map_or("any", kind)
    };
    let verb = operation["verb"].as_str().unwrap();
    let path = operation["path"].as_str().unwrap();
    let mut features = BTreeSet::from([verb.to_owned(), format!("{} path params", path.matches('{').count())]);
    for place in ["query", "headers", "cookies"] {
        for binding in operation[place].as_object().into_iter().flat_map(Map::values) {
            let param = binding.as_str().or(binding["param"].as_str()).unwrap();
            let style = json!({"style": binding["style"], "explode": binding["explode"]});
            features.insert(format!("{place} {style} {}", typed(param)));
        }
    }
    for name in ["encoding", "formArrays", "decoding", "idempotencyKeyHeader", "pagination", "constants"] {
        let value = &operation[name];
        let told = if value.is_string() { value.to_string() } else { value.is_object().to_string() };
        features.insert(format!("{name} {told}"));
    }
    if let Some(body) = operation["body"].as_str() {
        let required = params["required"].as_array().is_some_and(|names| names.iter().any(|name| *name == *body));
        features.insert(format!("{verb} with {} body, required: {required}", typed(body)));
    }
    features
}

/// The description with the paths of these methods and what they refer to, so that a large one is soon served.
pub(super) fn pruned(mut document: Value, methods: &[Value]) -> Value {
    cut_expansions(&mut document);
    let wanted: BTreeSet<String> =
        methods.iter().map(|method| unnamed(method["operation"]["path"].as_str().unwrap())).collect();
    let mut kept = document.clone();
    let paths = document["paths"].as_object().unwrap();
    // The importer puts what servers have in front of a path into it where they differ.
    let is_wanted = |path: &str| wanted.iter().any(|wanted| wanted.ends_with(&unnamed(path)));
    kept["paths"] =
        paths.iter().filter(|(path, _)| is_wanted(path)).map(|(path, item)| (path.clone(), item.clone())).collect();
    drop_empty_media_types(&mut kept["paths"]);
    let parts = ["components", "definitions", "parameters", "responses"];
    for part in parts {
        kept.as_object_mut().unwrap().remove(part);
    }
    if let Some(schemes) = document.pointer("/components/securitySchemes") {
        kept["components"] = json!({"securitySchemes": schemes});
    }
    let mut open = references(&kept);
    let mut followed = BTreeSet::new();
    while let Some(reference) = open.pop() {
        if !followed.insert(reference.clone()) {
            continue;
        }
        let names: Vec<String> =
            reference.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        let Some(found) = document.pointer(&reference) else { continue };
        if names.first().is_none_or(|first| !parts.contains(&first.as_str())) {
            continue;
        }
        open.extend(references(found));
        put(&mut kept, &names, found);
    }
    kept
}

/// What a field becomes for callers who ask to have it expanded leads from each of Stripe's objects to all
/// others. For the others it is an id, the first of its alternatives.
fn cut_expansions(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(cut_expansions),
        Value::Object(members) => {
            if members.remove("x-expansionResources").is_some()
                && let Some(Value::Array(alternatives)) = members.get_mut("anyOf")
            {
                alternatives.truncate(1);
            }
            members.values_mut().for_each(cut_expansions);
        }
        _ => {}
    }
}

/// An operation of 2.0 whose list of media types is empty takes and gives no content at all. Those of
/// DocuSign do, in the media types of the whole description.
fn drop_empty_media_types(paths: &mut Value) {
    for item in paths.as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
            for name in ["consumes", "produces"] {
                if operation.get(name) == Some(&json!([])) {
                    operation.remove(name);
                }
            }
        }
    }
}

/// Puts a value to a place in objects within objects.
fn put(whole: &mut Value, names: &[String], value: &Value) {
    let mut place = whole;
    for name in names {
        if place.is_null() {
            *place = json!({});
        }
        place = &mut place[name.as_str()];
    }
    *place = value.clone();
}

/// A path without the names of its params.
fn unnamed(path: &str) -> String {
    let (mut text, mut is_name) = (String::new(), false);
    for c in path.chars() {
        is_name = (is_name || c == '{') && c != '}';
        if !is_name {
            text.push(c);
        }
    }
    text
}

/// The places in the document that a value refers to.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
            own.map(str::to_owned).into_iter().chain(members.values().flat_map(references)).collect()
        }
        _ => Vec::new(),
    }
}
