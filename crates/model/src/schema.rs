//! Schemas of values that no type of ours describes precisely enough.

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

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
