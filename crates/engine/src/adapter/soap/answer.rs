//! From elements to JSON text, as the model says; what it does not know is told by its names.

use std::collections::HashMap;
use std::sync::Arc;

use super::compose::{NAMESPACE_MEMBER, TEXT_MEMBER, TYPE_MEMBER};
use super::model::{Element as Described, Kind, Model, Type};
use super::scalar::{Scalar, push_string};
use crate::xml::{AttributeValue, Element, Name, Node, XSD, XSI};

/// Reads elements by a model.
pub(super) struct Reader<'a> {
    pub(super) model: &'a Model,
}

/// The members of an object, in the order in which they came, with those that are arrays.
#[derive(Default)]
struct Object {
    members: Vec<Member>,
    indices: HashMap<String, usize>,
}

struct Member {
    name: String,
    is_list: bool,
    values: Vec<String>,
}

impl Object {
    fn push(&mut self, name: &str, is_list: bool, value: String) {
        if let Some(index) = self.indices.get(name) {
            self.members[*index].values.push(value);
        } else {
            self.indices.insert(name.to_owned(), self.members.len());
            self.members.push(Member { name: name.to_owned(), is_list, values: vec![value] });
        }
    }

    fn push_text(&mut self, name: &str, text: &str) {
        let mut value = String::new();
        push_string(text, &mut value);
        self.push(name, false, value);
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (index, member) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_string(&member.name, out);
            out.push(':');
            match member.values.as_slice() {
                [one] if !member.is_list => out.push_str(one),
                values => {
                    out.push('[');
                    out.push_str(&values.join(","));
                    out.push(']');
                }
            }
        }
        out.push('}');
    }
}

impl Reader<'_> {
    /// The JSON text of an element.
    pub(super) fn read(&self, described: &Described, element: &Element, out: &mut String) {
        if is_nil(element) {
            return out.push_str("null");
        }
        match described.kind {
            Kind::Scalar(scalar) => scalar.read(&element.text(), out),
            Kind::Any => generic(element, None, out),
            Kind::Complex(index) => self.complex(index, element, out),
        }
    }

    fn complex(&self, index: usize, element: &Element, out: &mut String) {
        let mut object = Object::default();
        let actual = self.actual_type(index, element);
        let described = self.model.complex(actual);
        if actual != index {
            object.push_text(TYPE_MEMBER, &described.key);
        }
        for (name, value) in element.attributes.iter().filter(|(name, _)| name.namespace() != XSI) {
            let AttributeValue::Text(text) = value else { continue };
            let scalar = described.attributes.iter().find(|attribute| attribute.name == *name);
            let mut value = String::new();
            scalar.map_or(Scalar::Text, |attribute| attribute.scalar).read(text, &mut value);
            object.push(&format!("@{}", name.local), false, value);
        }
        let mut text = element.text();
        if element.children().next().is_some() || described.elements().next().is_some() {
            // Between elements, white space is layout.
            text = text.trim().to_owned();
        }
        if let Some(scalar) = described.text {
            if described.attributes.is_empty() && element.children().next().is_none() && object.members.is_empty() {
                return scalar.read(&text, out);
            }
            if !text.is_empty() || described.elements().next().is_none() {
                let mut value = String::new();
                scalar.read(&text, &mut value);
                object.push(TEXT_MEMBER, false, value);
            }
        } else if !text.trim().is_empty() {
            object.push_text(TEXT_MEMBER, &text);
        }
        for child in element.children() {
            self.child(described, child, element.name.namespace.as_ref(), &mut object);
        }
        object.write(out);
    }

    fn child(&self, described: &Type, child: &Element, parent: Option<&Arc<str>>, object: &mut Object) {
        let mut value = String::new();
        match known(described, child) {
            Some(known) => {
                self.read(known, child, &mut value);
                object.push(&known.member, known.many, value);
            }
            None => {
                generic(child, Some(parent), &mut value);
                object.push(&child.name.local, false, value);
            }
        }
    }

    /// The type that an element says it is of, where it may be.
    fn actual_type(&self, index: usize, element: &Element) -> usize {
        let Some(said) = element.attribute_in(XSI, "type") else { return index };
        let Ok(name) = element.scope.resolve(said) else { return index };
        self.model.find_derived(index, |candidate| candidate.schema_name.as_ref() == Some(&name)).unwrap_or(index)
    }
}

/// The description of a child: by its full name, or else by its local one, since many systems
/// get the namespaces of their answers wrong.
fn known<'a>(described: &'a Type, child: &Element) -> Option<&'a Described> {
    described
        .elements()
        .find(|element| element.name == child.name)
        .or_else(|| described.elements().find(|element| element.name.local == child.name.local))
}

fn is_nil(element: &Element) -> bool {
    element.attribute_in(XSI, "nil").is_some_and(|nil| matches!(nil.trim(), "true" | "1"))
}

/// The JSON text of an element that no model describes: text, or an object of its attributes and
/// children. `@xmlns` tells the namespace where it is not the one of the `parent`.
pub(super) fn generic(element: &Element, parent: Option<Option<&Arc<str>>>, out: &mut String) {
    if is_nil(element) {
        return out.push_str("null");
    }
    let mut object = Object::default();
    if parent.is_some_and(|parent| parent != element.name.namespace.as_ref()) {
        object.push_text(NAMESPACE_MEMBER, element.name.namespace());
    }
    for (name, value) in element.attributes.iter().filter(|(name, _)| name.namespace() != XSI) {
        if let AttributeValue::Text(text) = value {
            object.push_text(&format!("@{}", name.local), text);
        }
    }
    let has_children = element.children().next().is_some();
    let text = element.text();
    let text = if has_children { text.trim() } else { &text };
    let scalar = built_in_type(element).unwrap_or(Scalar::Text);
    if !has_children && object.members.is_empty() {
        return if text.is_empty() { out.push_str("null") } else { scalar.read(text, out) };
    }
    if !text.is_empty() {
        let mut value = String::new();
        scalar.read(text, &mut value);
        object.push(TEXT_MEMBER, false, value);
    }
    for node in &element.content {
        if let Node::Element(child) = node {
            let mut value = String::new();
            generic(child, Some(element.name.namespace.as_ref()), &mut value);
            object.push(&child.name.local, false, value);
        }
    }
    object.write(out);
}

/// The type of XML Schema that an element says it is of.
fn built_in_type(element: &Element) -> Option<Scalar> {
    let Name { namespace, local } = element.scope.resolve(element.attribute_in(XSI, "type")?).ok()?;
    if namespace.as_deref() == Some(XSD) { Scalar::built_in(&local) } else { None }
}
