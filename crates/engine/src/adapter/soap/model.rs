//! The model of XML content: one description by which requests are written and answers read.
//!
//! Owns: the shape in which an operation's author, or the import of a WSDL, describes elements
//! and types; the check and compilation of it. Must not know: envelopes, HTTP.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use integration_model::Problem;
use integration_model::problem::push_pointer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scalar::Scalar;
use crate::xml::{Name, is_local_name};

/// What goes before the names of XML Schema's own types.
const BUILT_IN: &str = "xs:";
/// The type of which anything may be.
pub(crate) const ANY: &str = "xs:anyType";

/// An element, as an operation describes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ElementSpec {
    pub(crate) name: String,
    /// Empty for none; that of the enclosing type unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// The member of the JSON object that is the element; its name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<TypeUse>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) optional: bool,
    /// An array in JSON.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) many: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) nillable: bool,
    /// What is written where the params have nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
}

/// The type of an element: by its name, or in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum TypeUse {
    Named(String),
    Inline(Box<TypeSpec>),
}

/// What an element with attributes or child elements holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TypeSpec {
    /// The namespace of the child elements; the operation's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attributes: Vec<AttributeSpec>,
    /// The simple type of the text, where there is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// In the order of the schema.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) children: Vec<ChildSpec>,
    /// Whether other attributes are taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) any_attributes: bool,
    /// The name that `xsi:type` gives the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schema_name: Option<SchemaName>,
    /// Whether only types derived from it can stand there.
    #[serde(default, rename = "abstract", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_abstract: bool,
    /// The types that may stand in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) derived: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaName {
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AttributeSpec {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ChildSpec {
    /// A group that repeats as a whole: the first of each, then the second of each.
    Repeat {
        repeat: Vec<ElementSpec>,
    },
    /// Elements that the model does not know.
    Any {
        any: bool,
    },
    Element(ElementSpec),
}

/// The compiled model of one operation.
#[derive(Debug, Default)]
pub(super) struct Model {
    types: Vec<Type>,
}

#[derive(Debug)]
pub(super) struct Element {
    pub(super) name: Name,
    pub(super) member: String,
    pub(super) kind: Kind,
    pub(super) optional: bool,
    pub(super) many: bool,
    pub(super) nillable: bool,
    pub(super) value: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(Scalar),
    /// The index of a type of the model.
    Complex(usize),
    Any,
}

#[derive(Debug, Default)]
pub(super) struct Type {
    /// How the params call it.
    pub(super) key: String,
    pub(super) schema_name: Option<Name>,
    /// The namespace of elements that the type does not know.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) text: Option<Scalar>,
    pub(super) children: Vec<Child>,
    pub(super) any_attributes: bool,
    pub(super) takes_any: bool,
    /// The members that elements are.
    pub(super) members: HashSet<String>,
    pub(super) is_abstract: bool,
    pub(super) derived: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) name: Name,
    /// With the `@` before it.
    pub(super) member: String,
    pub(super) scalar: Scalar,
    pub(super) value: Option<Value>,
}

#[derive(Debug)]
pub(super) enum Child {
    Element(Element),
    Repeat(Vec<Element>),
    Any,
}

impl Model {
    pub(super) fn complex(&self, index: usize) -> &Type {
        &self.types[index]
    }

    /// The type itself, or one derived from it, for which `fits` holds.
    pub(super) fn find_derived(&self, index: usize, fits: impl Fn(&Type) -> bool) -> Option<usize> {
        std::iter::once(index)
            .chain(self.types[index].derived.iter().copied())
            .find(|candidate| fits(&self.types[*candidate]))
    }
}

impl Type {
    /// All elements that the type describes.
    pub(super) fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().flat_map(|child| match child {
            Child::Element(element) => std::slice::from_ref(element),
            Child::Repeat(elements) => elements.as_slice(),
            Child::Any => &[],
        })
    }
}

/// Compiles the elements of one operation, collecting all that is wrong with them.
pub(super) struct Compiler<'a> {
    named: &'a BTreeMap<String, TypeSpec>,
    /// The operation's namespace, and one text for each namespace.
    default_namespace: &'a str,
    /// The namespace of all elements within others, whatever is said of them.
    only_namespace: Option<&'a str>,
    namespaces: HashMap<String, Arc<str>>,
    indices: HashMap<&'a str, usize>,
    types: Vec<Type>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        named: &'a BTreeMap<String, TypeSpec>,
        default_namespace: &'a str,
        only_namespace: Option<&'a str>,
    ) -> Self {
        let indices: HashMap<_, _> = named.keys().enumerate().map(|(index, key)| (key.as_str(), index)).collect();
        let mut compiler = Self {
            named,
            default_namespace,
            only_namespace,
            namespaces: HashMap::new(),
            indices,
            types: named.keys().map(|_| Type::default()).collect(),
            problems: Vec::new(),
        };
        for (index, (key, spec)) in compiler.named.iter().enumerate() {
            let built = compiler.complex(spec, key, &push_pointer("/types", key));
            compiler.types[index] = built;
        }
        compiler
    }

    pub(super) fn finish(self) -> Result<Model, Vec<Problem>> {
        if self.problems.is_empty() { Ok(Model { types: self.types }) } else { Err(self.problems) }
    }

    fn problem(&mut self, pointer: String, message: impl Into<String>) {
        self.problems.push(Problem::new(pointer, message));
    }

    fn name(&mut self, namespace: &str, local: &str, pointer: &str) -> Name {
        if !is_local_name(local) {
            self.problem(format!("{pointer}/name"), "expected an XML name without a prefix");
        }
        if !crate::xml::is_carried(namespace) {
            self.problem(format!("{pointer}/namespace"), "expected no characters that XML cannot carry");
        }
        let namespace = (!namespace.is_empty()).then(|| {
            let kept = self.namespaces.entry(namespace.to_owned()).or_insert_with(|| Arc::from(namespace));
            Arc::clone(kept)
        });
        Name { namespace, local: local.to_owned() }
    }

    /// Compiles an element that stands in `namespace`.
    pub(super) fn element(&mut self, spec: &'a ElementSpec, namespace: Option<&str>, pointer: &str) -> Element {
        let namespace = spec.namespace.as_deref().or(namespace).unwrap_or(self.default_namespace);
        let name = self.name(namespace, &spec.name, pointer);
        let at = format!("{pointer}/type");
        let kind = match &spec.of {
            None => Kind::Scalar(Scalar::Text),
            Some(TypeUse::Inline(inline)) => {
                let built = self.complex(inline, "", &at);
                self.types.push(built);
                Kind::Complex(self.types.len() - 1)
            }
            Some(TypeUse::Named(key)) if key == ANY => Kind::Any,
            Some(TypeUse::Named(key)) => match self.indices.get(key.as_str()) {
                Some(index) => Kind::Complex(*index),
                None => Kind::Scalar(self.scalar(key, at)),
            },
        };
        let member = spec.member.clone().unwrap_or_else(|| spec.name.clone());
        if member.starts_with(['@', '#']) {
            self.problem(format!("{pointer}/member"), "expected a name that begins with neither '@' nor '#'");
        }
        let ElementSpec { optional, many, nillable, ref value, .. } = *spec;
        Element { name, member, kind, optional, many, nillable, value: value.clone() }
    }

    /// Compiles an element of a type.
    fn child(&mut self, spec: &'a ElementSpec, namespace: Option<&str>, pointer: &str) -> Element {
        let mut element = self.element(spec, namespace, pointer);
        if let Some(only) = self.only_namespace {
            element.name = self.name(only, &spec.name, pointer);
        }
        element
    }

    fn scalar(&mut self, name: &str, pointer: String) -> Scalar {
        let scalar = name.strip_prefix(BUILT_IN).and_then(Scalar::built_in);
        scalar.unwrap_or_else(|| {
            self.problem(
                pointer,
                format!("expected a type of \"types\", or one of XML Schema such as xs:int; {name:?} is neither"),
            );
            Scalar::Text
        })
    }

    fn complex(&mut self, spec: &'a TypeSpec, key: &str, pointer: &str) -> Type {
        let namespace = spec.namespace.as_deref();
        let mut built = Type {
            key: key.to_owned(),
            any_attributes: spec.any_attributes,
            is_abstract: spec.is_abstract,
            ..Type::default()
        };
        let usual = self.only_namespace.or(namespace).unwrap_or(self.default_namespace);
        built.namespace = self.name(usual, "any", pointer).namespace;
        if let Some(SchemaName { namespace, name }) = &spec.schema_name {
            built.schema_name = Some(self.name(namespace, name, &format!("{pointer}/schemaName")));
        }
        built.text = spec.text.as_deref().map(|name| self.scalar(name, format!("{pointer}/text")));
        for (index, attribute) in spec.attributes.iter().enumerate() {
            let at = format!("{pointer}/attributes/{index}");
            let name = self.name(attribute.namespace.as_deref().unwrap_or_default(), &attribute.name, &at);
            let scalar = attribute.of.as_deref().map_or(Scalar::Text, |name| self.scalar(name, format!("{at}/type")));
            built.attributes.push(Attribute {
                member: format!("@{}", attribute.name),
                name,
                scalar,
                value: attribute.value.clone(),
            });
        }
        for (index, child) in spec.children.iter().enumerate() {
            let at = format!("{pointer}/children/{index}");
            built.children.push(match child {
                ChildSpec::Element(element) => Child::Element(self.child(element, namespace, &at)),
                ChildSpec::Repeat { repeat } => {
                    let compile = |(index, element)| self.child(element, namespace, &format!("{at}/repeat/{index}"));
                    Child::Repeat(repeat.iter().enumerate().map(compile).collect())
                }
                ChildSpec::Any { .. } => {
                    built.takes_any = true;
                    Child::Any
                }
            });
        }
        for (index, derived) in spec.derived.iter().enumerate() {
            match self.indices.get(derived.as_str()) {
                Some(found) => built.derived.push(*found),
                None => self.problem(format!("{pointer}/derived/{index}"), "expected a type of \"types\""),
            }
        }
        self.check_members(&built, pointer);
        built.members = built.elements().map(|element| element.member.clone()).collect();
        built
    }

    /// Two elements of one member could not be told apart.
    fn check_members(&mut self, built: &Type, pointer: &str) {
        let mut seen = HashSet::new();
        let members = built.elements().map(|element| element.member.as_str());
        for member in members.chain(built.attributes.iter().map(|attribute| attribute.member.as_str())) {
            if !seen.insert(member) {
                let message = format!("two are the member {member:?}: expected \"member\" to tell them apart");
                self.problems.push(Problem::new(pointer, message));
            }
        }
    }
}
