//! Schemas of values that no type of ours describes precisely enough.

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::label::{MAX_KEY, MAX_LABELS, MAX_VALUE};

/// A text out of these.
pub(crate) fn text_out_of(description: &str, values: impl Iterator<Item = &'static str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description)).enum_values(Some(values)).into()
}

/// A JSON Schema: an object, or one of the two that are booleans.
pub fn json_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type([Type::Object, Type::Boolean].into_iter().collect::<SchemaType>())
        .description(Some("A JSON Schema."))
        .into()
}

/// Labels, with the bounds of [`crate::label`].
pub fn labels() -> Schema {
    labels_of(Type::String.into())
}

/// A change of labels: null removes one.
pub fn label_changes() -> Schema {
    labels_of([Type::String, Type::Null].into_iter().collect())
}

fn labels_of(value: SchemaType) -> Schema {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_KEY))
        .pattern(Some(r"^[^=,\x00-\x1F\x7F-\x9F]+$"));
    let value =
        ObjectBuilder::new().schema_type(value).max_length(Some(MAX_VALUE)).pattern(Some(r"^[^\x00-\x1F\x7F-\x9F]*$"));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("What people file the resource under."))
        .property_names(Some(key))
        .additional_properties(Some(value))
        .max_properties(Some(MAX_LABELS))
        .into()
}

/// How a semantic version is described: as semver.org has it, the numbers short enough for
/// 64 bits.
#[derive(Debug, Clone, Copy)]
pub struct SemanticVersion;

impl PartialSchema for SemanticVersion {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A semantic version (semver.org)."))
            .pattern(Some(concat!(
                r"^(0|[1-9]\d{0,17})\.(0|[1-9]\d{0,17})\.(0|[1-9]\d{0,17})",
                r"(-(0|[1-9]\d{0,17}|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d{0,17}|\d*[A-Za-z-][0-9A-Za-z-]*))*)?",
                r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$",
            )))
            .max_length(Some(crate::definition::MAX_VERSION_LENGTH))
            .examples(["1.0.0"])
            .into()
    }
}

impl ToSchema for SemanticVersion {}
