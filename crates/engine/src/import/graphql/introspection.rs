//! Reading the answer to an introspection query.

use serde_json::Value;

use super::model::{Argument, Field, Kind, MAX_WRAPS, Model, TypeDefinition, TypeRef, bounded, is_name};
use crate::import::ImportError;

/// What an endpoint is asked for: what [`read`] reads, as all versions of the specification have it.
pub const QUERY: &str = "query IntrospectionQuery { __schema { queryType { name } mutationType { name } \
    subscriptionType { name } types { kind name description \
    fields(includeDeprecated: true) { name description isDeprecated args { ...Input } type { ...Type } } \
    inputFields { ...Input } enumValues(includeDeprecated: true) { name } possibleTypes { name } } } } \
    fragment Input on __InputValue { name description defaultValue type { ...Type } } \
    fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name \
    ofType { kind name ofType { kind name ofType { kind name } } } } } } } }";

/// The schema in a document: the whole answer, its data, or what is in it.
pub(super) fn schema_of(document: &Value) -> Option<&Value> {
    ["/data/__schema", "/__schema"]
        .iter()
        .find_map(|pointer| document.pointer(pointer))
        .filter(|found| found.is_object())
}

pub(super) fn read(schema: &Value) -> Result<Model, ImportError> {
    let root = |name: &str| schema.get(name)?.get("name")?.as_str().map(str::to_owned);
    let mut model = Model {
        description: text(schema, "description"),
        query: root("queryType"),
        mutation: root("mutationType"),
        subscription: root("subscriptionType"),
        ..Model::default()
    };
    if schema.get("types").and_then(Value::as_array).is_none() {
        return Err(ImportError::new("expected types in the introspection's __schema"));
    }
    for found in items(schema, "types") {
        let Some(kind) = kind(found) else { continue };
        let Some(name) = name(found) else { continue };
        let members = items(found, "possibleTypes").filter(|_| kind == Kind::Union).filter_map(self::name).collect();
        model.add(
            name,
            TypeDefinition {
                kind,
                fields: items(found, "fields").filter_map(field).collect(),
                inputs: items(found, "inputFields").filter_map(argument).collect(),
                values: items(found, "enumValues").filter_map(self::name).collect(),
                members,
            },
        );
    }
    Ok(model)
}

fn kind(found: &Value) -> Option<Kind> {
    Some(match found.get("kind")?.as_str()? {
        "SCALAR" => Kind::Scalar,
        "OBJECT" => Kind::Object,
        "INTERFACE" => Kind::Interface,
        "UNION" => Kind::Union,
        "ENUM" => Kind::Enum,
        "INPUT_OBJECT" => Kind::Input,
        _ => return None,
    })
}

fn field(found: &Value) -> Option<Field> {
    Some(Field {
        name: name(found)?,
        description: text(found, "description"),
        arguments: items(found, "args").filter_map(argument).collect(),
        of: type_ref(found.get("type")?, MAX_WRAPS)?,
        deprecated: found.get("isDeprecated") == Some(&Value::Bool(true)),
    })
}

fn argument(found: &Value) -> Option<Argument> {
    Some(Argument {
        name: name(found)?,
        description: text(found, "description"),
        of: type_ref(found.get("type")?, MAX_WRAPS)?,
        has_default: found.get("defaultValue").is_some_and(|value| !value.is_null()),
    })
}

fn type_ref(found: &Value, depth: usize) -> Option<TypeRef> {
    let inner = || type_ref(found.get("ofType")?, depth.checked_sub(1)?).map(Box::new);
    match found.get("kind")?.as_str()? {
        "NON_NULL" => inner().map(TypeRef::NonNull),
        "LIST" => inner().map(TypeRef::List),
        _ => name(found).map(TypeRef::Named),
    }
}

fn items<'a>(found: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    found.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn name(found: &Value) -> Option<String> {
    found.get("name")?.as_str().filter(|name| is_name(name)).map(str::to_owned)
}

fn text(found: &Value, member: &str) -> String {
    found.get(member).and_then(Value::as_str).map(bounded).unwrap_or_default()
}
