//! Identifiers. Callers may choose ids of definitions and instances; all others are UUIDv7.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

/// The longest id that is accepted, in bytes.
pub const MAX_ID_LENGTH: usize = 64;

/// The text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 64 characters out of A-Z, a-z, 0-9, '_', '.' and '-', the first a letter or digit")]
pub struct InvalidId;

/// Whether `text` fits `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
pub fn is_valid_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_ID_LENGTH
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// A short one lies where the id lies, so that calls of many instances have no other place to
        /// read it from; a longer one, as a UUID is, is shared by all its copies.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(SmolStr);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if is_valid_id(text) { Ok(Self(SmolStr::new(text))) } else { Err(InvalidId) }
            }

            pub fn from_uuid(uuid: uuid::Uuid) -> Self {
                Self(SmolStr::new(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some("^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

text_id!(
    /// Names a definition over all its versions.
    DefinitionId
);
text_id!(
    /// Names an instance.
    InstanceId
);
text_id!(
    /// Names a tenant: the owner of instances, limits and grants.
    TenantId
);

impl TenantId {
    /// The tenant of everything that names none.
    pub fn default_tenant() -> Self {
        Self(SmolStr::new_static("default"))
    }
}

/// Names one execution: a UUIDv7, whose time says in which partition its row lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Uuid)]
pub struct ExecutionId(pub uuid::Uuid);

impl ExecutionId {
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self).map_err(|_| InvalidId)
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_plain() {
        for good in ["a", "int_def_123", "A.b-c", &"x".repeat(64)] {
            assert!(DefinitionId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "_a", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(DefinitionId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_of_any_length_are_found_by_their_text() {
        let texts: Vec<String> = (1..=MAX_ID_LENGTH).map(|length| "x".repeat(length)).collect();
        let ids = texts.iter().map(|text| (InstanceId::parse(text).unwrap(), text.len()));
        let lengths: std::collections::HashMap<InstanceId, usize> = ids.collect();
        for text in &texts {
            assert_eq!(lengths.get(text.as_str()), Some(&text.len()));
            assert_eq!(serde_json::to_value(InstanceId::parse(text).unwrap()).unwrap(), *text);
        }
    }
}
