//! The catalogue beside its vendors' own descriptions, where `INTEGRATION_SPECS` names a folder
//! of them: each path, verb and parameter is there.

use std::collections::{BTreeMap, BTreeSet};

use integration_engine::import::read_document;
use integration_service::catalogue::find;
use serde_json::Value;

const DOCUMENTS: &[(&str, &str)] = &[
    ("asana", "asana.yaml"),
    ("github", "github.json"),
    ("sendgrid", "sendgrid-mail-v3.json"),
    ("slack", "slack.json"),
    ("stripe", "stripe-2023-09.yaml"),
    ("twilio", "twilio-api-v2010.json"),
    ("twilio-verify", "twilio-verify-v2.json"),
];

#[test]
fn vendors_describe_every_method_of_theirs() {
    #[expect(clippy::disallowed_methods, reason = "tests find larger public documents by the environment")]
    let Ok(folder) = std::env::var("INTEGRATION_SPECS") else { return };
    for (id, file) in DOCUMENTS {
        let document = read_document(&std::fs::read(format!("{folder}/{file}")).unwrap()).unwrap();
        let operations = operations(&document);
        let spec = &find(id).unwrap().spec;
        let base = path_of(spec.default_config["baseUrl"].as_str().unwrap());
        for method in &spec.methods {
            let operation = &method.operation;
            let path = format!("{base}{}", operation["path"].as_str().unwrap());
            let key = (operation["verb"].as_str().unwrap().to_owned(), without_names(&path));
            let known = operations.get(&key).unwrap_or_else(|| panic!("{id}/{}: {key:?} is not there", method.name));
            for name in wire_names(operation, &method.param_schema) {
                assert!(known.contains(&name), "{id}/{}: {name:?} is no parameter", method.name);
            }
        }
    }
}

/// The parameters of each operation, by verb and path.
fn operations(document: &Value) -> BTreeMap<(String, String), BTreeSet<String>> {
    let server = document["servers"][0]["url"].as_str().map(path_of);
    let base = document["basePath"].as_str().or(server).unwrap_or_default().trim_end_matches('/');
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for verb in ["get", "post", "put", "patch", "delete"] {
            let operation = &item[verb];
            if operation.is_null() {
                continue;
            }
            let mut names = BTreeSet::new();
            let parameters = [&item["parameters"], &operation["parameters"]].into_iter().filter_map(Value::as_array);
            for parameter in parameters.flatten().map(|parameter| resolved(document, parameter)) {
                names.insert(parameter["name"].as_str().unwrap().to_owned());
            }
            let content = resolved(document, &operation["requestBody"])["content"].as_object();
            for media_type in content.into_iter().flat_map(|content| content.values()) {
                collect_properties(document, &media_type["schema"], &mut names);
            }
            operations.insert((verb.to_uppercase(), without_names(&format!("{base}{path}"))), names);
        }
    }
    operations
}

fn collect_properties(document: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    let schema = resolved(document, schema);
    names.extend(schema["properties"].as_object().into_iter().flat_map(|members| members.keys().cloned()));
    for part in ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten() {
        collect_properties(document, part, names);
    }
}

fn resolved<'a>(document: &'a Value, mut node: &'a Value) -> &'a Value {
    while let Some(reference) = node["$ref"].as_str() {
        node = document.pointer(reference.trim_start_matches('#')).unwrap();
    }
    node
}

/// How the operation names what it sends in query, headers and body.
fn wire_names(operation: &Value, param_schema: &Value) -> BTreeSet<String> {
    let mut wire = BTreeSet::new();
    let mut bound = BTreeSet::new();
    for place in ["query", "headers"] {
        for (name, param) in operation[place].as_object().into_iter().flatten() {
            wire.insert(name.clone());
            bound.insert(param.as_str().or(param["param"].as_str()).unwrap().to_owned());
        }
    }
    for field in ["param", "pageSizeParam"] {
        wire.extend(operation["pagination"][field].as_str().map(str::to_owned));
    }
    let path = operation["path"].as_str().unwrap();
    let in_path = |name: &str| path.contains(&format!("{{{name}}}")) || path.contains(&format!("{{+{name}}}"));
    let params = param_schema["properties"].as_object().into_iter().flat_map(|members| members.keys());
    wire.extend(params.filter(|name| !bound.contains(*name) && !in_path(name)).cloned());
    wire
}

/// What follows scheme and host.
fn path_of(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, rest)| rest);
    after.find('/').map_or("", |at| &after[at..])
}

/// A path template without the names of its parameters.
fn without_names(path: &str) -> String {
    path.split('{')
        .enumerate()
        .map(|(index, part)| match (index, part.split_once('}')) {
            (0, _) | (_, None) => part.to_owned(),
            (_, Some((_, rest))) => format!("{{}}{rest}"),
        })
        .collect()
}
