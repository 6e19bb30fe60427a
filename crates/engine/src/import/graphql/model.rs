//! A GraphQL schema, as far as methods are made of it, wherever it was read from.

use std::collections::BTreeMap;
use std::fmt;

use integration_model::definition::MAX_DESCRIPTION;

/// How deep lists and non-nulls may wrap a type.
pub(super) const MAX_WRAPS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) description: String,
    /// The names of the types of the three kinds of operations.
    pub(super) query: Option<String>,
    pub(super) mutation: Option<String>,
    pub(super) subscription: Option<String>,
    pub(super) types: BTreeMap<String, TypeDefinition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    Object,
    Interface,
    Union,
    Enum,
    Input,
}

/// A type of any kind; what its kind does not have is empty.
#[derive(Debug)]
pub(super) struct TypeDefinition {
    pub(super) kind: Kind,
    pub(super) fields: Vec<Field>,
    pub(super) inputs: Vec<Argument>,
    /// The values of an enum.
    pub(super) values: Vec<String>,
    /// The types of a union.
    pub(super) members: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) arguments: Vec<Argument>,
    pub(super) of: TypeRef,
    pub(super) deprecated: bool,
}

/// An argument of a field, or a field of an input type.
#[derive(Debug)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) of: TypeRef,
    pub(super) has_default: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TypeRef {
    Named(String),
    List(Box<TypeRef>),
    NonNull(Box<TypeRef>),
}

impl Model {
    /// The kind of a type; one that the schema does not describe is a scalar, as the built-in
    /// ones are.
    pub(super) fn kind(&self, name: &str) -> Kind {
        self.types.get(name).map_or(Kind::Scalar, |found| found.kind)
    }

    /// The fields of an object or interface.
    pub(super) fn fields(&self, name: &str) -> &[Field] {
        self.types.get(name).map_or(&[], |found| &found.fields)
    }

    pub(super) fn field(&self, of: &str, name: &str) -> Option<&Field> {
        self.fields(of).iter().find(|field| field.name == name)
    }

    /// Adds a type, or to one that is there already.
    pub(super) fn add(&mut self, name: String, more: TypeDefinition) {
        match self.types.get_mut(&name) {
            None => drop(self.types.insert(name, more)),
            Some(known) => {
                known.fields.extend(more.fields);
                known.inputs.extend(more.inputs);
                known.values.extend(more.values);
                known.members.extend(more.members);
            }
        }
    }
}

impl Field {
    /// Whether it can be asked for without a word on its arguments.
    pub(super) fn needs_no_argument(&self) -> bool {
        !self.arguments.iter().any(Argument::is_required)
    }

    pub(super) fn argument(&self, name: &str) -> Option<&Argument> {
        self.arguments.iter().find(|argument| argument.name == name)
    }
}

impl Argument {
    pub(super) fn is_required(&self) -> bool {
        matches!(self.of, TypeRef::NonNull(_)) && !self.has_default
    }
}

impl TypeRef {
    /// The type that lists and non-nulls wrap.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::List(inner) | Self::NonNull(inner) => inner.name(),
        }
    }
}

impl fmt::Display for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::List(inner) => write!(f, "[{inner}]"),
            Self::NonNull(inner) => write!(f, "{inner}!"),
        }
    }
}

/// Whether text is a name of GraphQL that no server keeps for itself.
pub(super) fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes.len() <= 120
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && !text.starts_with("__")
}

/// A description of bounded length.
pub(super) fn bounded(text: &str) -> String {
    text.trim().chars().take(MAX_DESCRIPTION).collect()
}
