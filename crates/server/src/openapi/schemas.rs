//! Schemas that are written by hand, and what holds for all that are made from types:
//! a type is described once, numbers have their true bounds, and answers have no nulls.

use std::collections::{BTreeMap, BTreeSet};

use utoipa::openapi::schema::{
    AdditionalProperties, ArrayItems, Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, OpenApi, Ref, RefOr};

use super::{one_of, operations};

type Schemas = BTreeMap<String, RefOr<Schema>>;

const NAMED: &str = "#/components/schemas/";

/// Any JSON value.
pub(crate) fn anything() -> Schema {
    Schema::Object(ObjectBuilder::new().schema_type(SchemaType::AnyValue).build())
}

pub(crate) fn definition_status() -> Schema {
    one_of(&["DRAFT", "PUBLISHED", "DEPRECATED", "ARCHIVED"])
}

pub(crate) fn auth_type() -> Schema {
    one_of(&["none", "basic", "api_key", "oauth2", "jwt", "custom"])
}

pub(crate) fn instance_status() -> Schema {
    one_of(&[
        "PENDING_CONFIGURATION",
        "PENDING_AUTHENTICATION",
        "CONNECTED",
        "DISCONNECTED",
        "AUTH_ERROR",
        "CONFIG_ERROR",
    ])
}

pub(crate) fn execution_status() -> Schema {
    one_of(&["QUEUED", "RUNNING", "SUCCESS", "ERROR"])
}

pub(crate) fn paginate() -> Schema {
    one_of(&["all", "page"])
}

pub(crate) fn success() -> Schema {
    one_of(&["SUCCESS"])
}

pub(crate) fn error() -> Schema {
    one_of(&["ERROR"])
}

pub(crate) fn queued() -> Schema {
    one_of(&["QUEUED"])
}

/// Puts references in the place of copies, and takes the nulls out of what only answers hold.
pub(super) fn tidy(api: &mut OpenApi) {
    let requested = schemas_of_requests(api);
    let Some(components) = &mut api.components else { return };
    let named = components.schemas.clone();
    for (name, schema) in &mut components.schemas {
        merge_parts(schema, &named);
        walk(schema, &mut bound_unsigned);
        if let RefOr::T(Schema::Object(object)) = &mut *schema {
            object.properties.values_mut().for_each(|member| refer(member, &named));
        }
        if !requested.contains(name) {
            walk(schema, &mut forbid_null);
        }
    }
}

/// A list of a type is described with a copy of the type's schema: the name says the same.
fn refer(schema: &mut RefOr<Schema>, named: &Schemas) {
    let RefOr::T(Schema::Array(array)) = schema else { return };
    let ArrayItems::RefOrSchema(items) = &mut array.items else { return };
    if matches!(**items, RefOr::T(_))
        && let Some((name, _)) = named.iter().find(|(_, schema)| *schema == &**items)
    {
        **items = RefOr::Ref(Ref::from_schema_name(name));
    }
}

/// A type that holds all of another is written as both at once, which a closed schema does
/// not admit: one schema with the members of the two says what is meant.
fn merge_parts(schema: &mut RefOr<Schema>, named: &Schemas) {
    let RefOr::T(Schema::AllOf(parts)) = schema else { return };
    let mut whole = Object::new();
    whole.description.clone_from(&parts.description);
    for part in &parts.items {
        let part = match part {
            RefOr::Ref(reference) => reference.ref_location.strip_prefix(NAMED).and_then(|name| named.get(name)),
            RefOr::T(_) => Some(part),
        };
        let Some(RefOr::T(Schema::Object(part))) = part else { return };
        whole.properties.extend(part.properties.clone());
        whole.required.extend(part.required.iter().cloned());
    }
    *schema = RefOr::T(Schema::Object(whole));
}

/// Unsigned numbers of 32 bits do not fit the format of signed ones.
fn bound_unsigned(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && object.format == Some(SchemaFormat::KnownFormat(KnownFormat::Int32))
        && object.minimum.is_some()
    {
        object.format = Some(SchemaFormat::KnownFormat(KnownFormat::Int64));
        object.maximum.get_or_insert(utoipa::Number::from(u32::MAX));
    }
}

/// The names of the schemas that request bodies are made of.
fn schemas_of_requests(api: &mut OpenApi) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<RefOr<Schema>> = Vec::new();
    for (_, operation) in api.paths.paths.values_mut().flat_map(operations) {
        if let Some(RefOr::T(body)) = &operation.request_body {
            open.extend(body.content.values().filter_map(|content| match content {
                RefOr::T(content) => content.schema.clone(),
                RefOr::Ref(_) => None,
            }));
        }
    }
    let schemas = api.components.as_ref().map(|components| &components.schemas);
    while let Some(mut schema) = open.pop() {
        walk(&mut schema, &mut |schema| {
            if let RefOr::Ref(reference) = schema
                && let Some(name) = reference.ref_location.strip_prefix(NAMED)
                && found.insert(name.to_owned())
            {
                open.extend(schemas.and_then(|schemas| schemas.get(name)).cloned());
            }
        });
    }
    found
}

/// Shows a schema and all schemas within it.
fn walk(schema: &mut RefOr<Schema>, see: &mut impl FnMut(&mut RefOr<Schema>)) {
    see(schema);
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            object.properties.values_mut().for_each(|member| walk(member, see));
            if let Some(AdditionalProperties::RefOr(member)) = object.additional_properties.as_deref_mut() {
                walk(member, see);
            }
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                walk(items, see);
            }
        }
        Schema::OneOf(choice) => choice.items.iter_mut().for_each(|item| walk(item, see)),
        Schema::AnyOf(choice) => choice.items.iter_mut().for_each(|item| walk(item, see)),
        Schema::AllOf(parts) => parts.items.iter_mut().for_each(|item| walk(item, see)),
        _ => {}
    }
}

/// Takes `null` out of what a schema admits.
pub(super) fn forbid_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => forbid_null_type(&mut object.schema_type),
        RefOr::T(Schema::Array(array)) => forbid_null_type(&mut array.schema_type),
        RefOr::T(Schema::OneOf(choice)) => {
            choice.items.retain(|item| !is_null(item));
            if let [_] = choice.items.as_slice()
                && let Some(only) = choice.items.pop()
            {
                *schema = only;
            }
        }
        _ => {}
    }
}

fn forbid_null_type(schema_type: &mut SchemaType) {
    if let SchemaType::Array(types) = schema_type {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = types.as_slice() {
            *schema_type = SchemaType::Type(only.clone());
        }
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::schema::OneOfBuilder;

    use super::*;

    fn text_or_null() -> Schema {
        ObjectBuilder::new().schema_type([Type::String, Type::Null].into_iter().collect::<SchemaType>()).into()
    }

    #[test]
    fn a_schema_without_null_is_as_plain_as_it_can_be() {
        let mut schema = RefOr::T(text_or_null());
        forbid_null(&mut schema);
        assert!(schema == RefOr::T(ObjectBuilder::new().schema_type(Type::String).into()));
        let named = RefOr::Ref(Ref::from_schema_name("Other"));
        let null = ObjectBuilder::new().schema_type(Type::Null).build();
        let mut schema = RefOr::T(Schema::OneOf(OneOfBuilder::new().item(named.clone()).item(null).build()));
        forbid_null(&mut schema);
        assert!(schema == named);
    }
}
