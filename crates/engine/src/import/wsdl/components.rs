//! What schemas declare, found by its name.

use std::collections::{HashMap, HashSet};

use super::documents::{Documents, Schema};
use crate::xml::{Element, Name, XSD};

/// The most types that are taken to come of one, and elements to stand for one.
const MAX_DERIVED: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Element,
    Type,
    Attribute,
    Group,
    AttributeGroup,
}

/// A declaration, with the schema that it stands in.
#[derive(Clone, Copy)]
pub(super) struct Component<'a> {
    pub(super) node: &'a Element,
    pub(super) schema: &'a Schema,
}

/// All global declarations of all schemas.
pub(super) struct Components<'a> {
    by_name: HashMap<(Kind, Name), Component<'a>>,
    /// Types by those that they extend or restrict.
    derived: HashMap<Name, Vec<Name>>,
    /// Elements by the heads that they can stand for.
    substitutes: HashMap<Name, Vec<Name>>,
}

impl<'a> Components<'a> {
    pub(super) fn of(documents: &'a Documents) -> Self {
        let mut all = Self { by_name: HashMap::new(), derived: HashMap::new(), substitutes: HashMap::new() };
        for schema in &documents.schemas {
            let declarations = schema.root.children().filter(|child| child.name.namespace() == XSD);
            // What is redefined counts, not what it stands for.
            let redefined = schema.root.children().filter(|child| child.name.is(XSD, "redefine"));
            for node in redefined.flat_map(Element::children).chain(declarations) {
                all.add(Component { node, schema });
            }
        }
        all
    }

    fn add(&mut self, component: Component<'a>) {
        let Component { node, schema } = component;
        let kind = match node.name.local.as_str() {
            "element" => Kind::Element,
            "complexType" | "simpleType" => Kind::Type,
            "attribute" => Kind::Attribute,
            "group" => Kind::Group,
            "attributeGroup" => Kind::AttributeGroup,
            _ => return,
        };
        let Some(local) = node.attribute("name") else { return };
        let name = Name::new(&schema.target, local);
        let key = (kind, name.clone());
        if self.by_name.contains_key(&key) {
            return;
        }
        self.by_name.insert(key, component);
        let refers = |text: Option<&str>| text.and_then(|text| component.resolve(text));
        if kind == Kind::Element
            && let Some(head) = refers(node.attribute("substitutionGroup"))
        {
            self.substitutes.entry(head).or_default().push(name.clone());
        }
        let base = node.child(XSD, "complexContent").and_then(|content| {
            content.children().find(|child| matches!(child.name.local.as_str(), "extension" | "restriction"))
        });
        if let Some(base) = base.and_then(|node| component.at(node).resolve(node.attribute("base")?)) {
            self.derived.entry(base).or_default().push(name);
        }
    }

    pub(super) fn find(&self, kind: Kind, name: &Name) -> Option<Component<'a>> {
        let at = |name: Name| self.by_name.get(&(kind, name)).copied();
        // Some schemas leave out the namespace that those who import them name.
        at(name.clone()).or_else(|| at(Name::new("", &name.local)))
    }

    pub(super) fn has_derived(&self, name: &Name) -> bool {
        self.derived.contains_key(name)
    }

    /// All types that come of one, directly or by others.
    pub(super) fn derived(&self, name: &Name) -> Vec<Name> {
        closure(&self.derived, name)
    }

    pub(super) fn substitutes(&self, name: &Name) -> Vec<Name> {
        closure(&self.substitutes, name)
    }
}

fn closure(edges: &HashMap<Name, Vec<Name>>, name: &Name) -> Vec<Name> {
    let mut seen = HashSet::from([name]);
    let mut found = Vec::new();
    let mut open = vec![name];
    while let Some(next) = open.pop() {
        for other in edges.get(next).into_iter().flatten() {
            if found.len() < MAX_DERIVED && seen.insert(other) {
                found.push(other.clone());
                open.push(other);
            }
        }
    }
    found
}

impl<'a> Component<'a> {
    /// A part of the same declaration.
    pub(super) fn at(self, node: &'a Element) -> Self {
        Self { node, schema: self.schema }
    }

    /// The name that a reference in the declaration means.
    pub(super) fn resolve(self, text: &str) -> Option<Name> {
        let name = self.node.scope.resolve(text).ok()?;
        // A schema without a namespace of its own was taken into that of another.
        let own = self.schema.root.attribute("targetNamespace");
        let is_chameleon = name.namespace.is_none() && own.is_none();
        Some(if is_chameleon { Name::new(&self.schema.target, &name.local) } else { name })
    }
}
