//! Schemas out of foreign documents, made fit to be compiled. What does not fit is taken out,
//! never made stricter.

use integration_model::Problem;
use serde_json::{Map, Value};

/// Keywords that may let less pass where a part of them lets more.
const CONTRARY: [&str; 8] =
    ["not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties", "maxContains", "dependentSchemas"];
const SCHEMA_MAPS: [&str; 3] = ["properties", "patternProperties", "$defs"];
const SCHEMA_LISTS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const SCHEMAS: [&str; 4] = ["items", "additionalProperties", "propertyNames", "contains"];

/// Has a schema of which parts were taken out let pass all that it did before: where one of
/// two alternatives lets more pass, both may fit a value that one was meant for.
pub(crate) fn loosen(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    CONTRARY.iter().for_each(|keyword| drop(keywords.remove(*keyword)));
    if let Some(alternatives) = keywords.remove("oneOf") {
        match keywords.get_mut("anyOf") {
            None => drop(keywords.insert("anyOf".to_owned(), alternatives)),
            Some(_) => {
                let both = Value::Object(Map::from_iter([("anyOf".to_owned(), alternatives)]));
                match keywords.get_mut("allOf") {
                    Some(Value::Array(parts)) => parts.push(both),
                    _ => drop(keywords.insert("allOf".to_owned(), Value::Array(vec![both]))),
                }
            }
        }
    }
    for (keyword, value) in keywords.iter_mut() {
        match value {
            Value::Object(schemas) if SCHEMA_MAPS.contains(&keyword.as_str()) => schemas.values_mut().for_each(loosen),
            Value::Array(schemas) if SCHEMA_LISTS.contains(&keyword.as_str()) => schemas.iter_mut().for_each(loosen),
            value if SCHEMAS.contains(&keyword.as_str()) => loosen(value),
            _ => {}
        }
    }
}

/// Takes out what the problems point at, and loosens what is left. What was taken out is
/// told; none where the problems point at nothing that can be taken out.
pub(crate) fn take_out(schema: &mut Value, problems: &[Problem]) -> Option<Vec<String>> {
    let mut told = Vec::new();
    for problem in problems.iter().filter(|problem| !problem.pointer.is_empty()) {
        if remove(schema, &problem.pointer) {
            told.push(format!("{} was taken out: {}", problem.pointer, problem.message));
        }
    }
    if told.is_empty() {
        return None;
    }
    loosen(schema);
    Some(told)
}

/// Removes a keyword; what stands in the place of a schema lets everything pass instead.
fn remove(schema: &mut Value, pointer: &str) -> bool {
    let Some((parent, token)) = pointer.rsplit_once('/') else { return false };
    let token = token.replace("~1", "/").replace("~0", "~");
    let holds_schemas = parent.rsplit('/').next().is_some_and(|keyword| SCHEMA_MAPS.contains(&keyword));
    match schema.pointer_mut(parent) {
        Some(Value::Object(members)) if holds_schemas => members
            .get_mut(&token)
            .is_some_and(|place| std::mem::replace(place, Value::Bool(true)) != Value::Bool(true)),
        Some(Value::Object(members)) => members.remove(&token).is_some(),
        Some(Value::Array(items)) => {
            let place = token.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            place.is_some_and(|place| std::mem::replace(place, Value::Bool(true)) != Value::Bool(true))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_loosened_lets_no_less_pass() {
        let mut schema = json!({
            "oneOf": [{"type": "string"}, true], "not": {"type": "null"}, "anyOf": [{"not": {}}],
            "properties": {"oneOf": {"oneOf": [true]}, "not": {"type": "string"}}, "items": {"if": true, "else": false},
        });
        loosen(&mut schema);
        assert_eq!(
            schema,
            json!({
                "anyOf": [{}], "allOf": [{"anyOf": [{"type": "string"}, true]}],
                "properties": {"oneOf": {"anyOf": [true]}, "not": {"type": "string"}}, "items": {},
            })
        );
    }

    #[test]
    fn faults_are_taken_out_where_they_stand() {
        let mut schema = json!({"properties": {"a/b": {"pattern": "("}, "c": 1}, "allOf": [{"type": "x"}]});
        let problems = ["/properties/a~1b/pattern", "/properties/c", "/allOf/0", "", "/none"];
        let problems = problems.map(|pointer| Problem::new(pointer, "is wrong"));
        let told = take_out(&mut schema, &problems).expect("something was taken out");
        assert_eq!(told.len(), 3);
        assert_eq!(schema, json!({"properties": {"a/b": {}, "c": true}, "allOf": [true]}));
        assert_eq!(take_out(&mut schema, &[Problem::new("", "all of it")]), None);
    }
}
