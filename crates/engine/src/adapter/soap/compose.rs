//! From params to elements, as the model says.

use std::collections::HashMap;

use integration_model::problem::push_pointer;
use serde_json::value::RawValue;

use super::super::http::json_text::{self, Json};
use super::super::http::values::invalid_value;
use super::compose_open::push_generic_attribute;
use super::model::{Attribute, Child, Element as Described, Kind, Model, Type};
use super::scalar::Scalar;
use crate::adapter::CallError;
use crate::xml::{AttributeValue, Element, MAX_DEPTH, Name, Node, XSI};

/// The member that names a derived type.
pub(super) const TYPE_MEMBER: &str = "@xsi:type";
pub(super) const NIL_MEMBER: &str = "@xsi:nil";
pub(super) const TEXT_MEMBER: &str = "#text";
/// The member that gives the namespace of what the model does not know.
pub(super) const NAMESPACE_MEMBER: &str = "@xmlns";

/// The members of an object, in their order and by their names.
pub(super) struct Members<'a> {
    list: Vec<(String, &'a RawValue)>,
    /// The last of several members of one name counts, as everywhere.
    last: HashMap<String, &'a RawValue>,
}

impl<'a> Members<'a> {
    pub(super) fn new(list: Vec<(String, &'a RawValue)>) -> Self {
        let last = list.iter().map(|(name, raw)| (name.clone(), *raw)).collect();
        Self { list, last }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.last.get(name).copied()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, (String, &'a RawValue)> {
        self.list.iter()
    }
}

/// Writes elements out of params.
pub(super) struct Composer<'a> {
    pub(super) model: &'a Model,
    /// Whether what is given is written as it is given, known to the model or not.
    pub(super) as_given: bool,
}

/// Where a value stands, for what is said of it.
pub(super) struct Place<'a> {
    pub(super) pointer: &'a str,
    pub(super) depth: usize,
}

impl Place<'_> {
    pub(super) fn refuse<T>(&self, message: impl Into<String>) -> Result<T, CallError> {
        Err(invalid_value(self.pointer.to_owned(), message))
    }
}

impl Composer<'_> {
    /// The elements that a JSON text is: one, or as many as it has items.
    pub(super) fn elements(&self, described: &Described, json: &[u8], pointer: &str) -> Result<Vec<Node>, CallError> {
        let Some(raw) = json_text::parse(json) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        self.all(described, raw, &Place { pointer, depth: 0 }, &mut out)?;
        Ok(out)
    }

    fn all(
        &self,
        described: &Described,
        raw: &RawValue,
        place: &Place<'_>,
        out: &mut Vec<Node>,
    ) -> Result<(), CallError> {
        match Json::view(raw) {
            Json::List(items) if described.many || self.as_given => {
                for (index, item) in items.into_iter().enumerate() {
                    let pointer = push_pointer(place.pointer, &index.to_string());
                    out.extend(self.one(described, item, &Place { pointer: &pointer, depth: place.depth })?);
                }
                Ok(())
            }
            _ => {
                out.extend(self.one(described, raw, place)?);
                Ok(())
            }
        }
    }

    fn one(&self, described: &Described, raw: &RawValue, place: &Place<'_>) -> Result<Option<Node>, CallError> {
        if place.depth >= MAX_DEPTH {
            return place.refuse(format!("expected at most {MAX_DEPTH} levels"));
        }
        let json = Json::view(raw);
        let mut element = Element::new(described.name.clone());
        match (described.kind, json) {
            (_, Json::Null) if described.optional && !described.nillable && !self.as_given => return Ok(None),
            (_, Json::Null) => element.attributes.push(nil()),
            (Kind::Scalar(_), json) if self.as_given => self.generic(json, &mut element, place)?,
            (Kind::Scalar(scalar), json) => push_text(scalar, &only_text(json, place)?, &mut element, place)?,
            (Kind::Any, json) => self.generic(json, &mut element, place)?,
            (Kind::Complex(index), json) => self.complex(index, json, &mut element, place)?,
        }
        Ok(Some(Node::Element(element)))
    }

    fn complex(&self, index: usize, json: Json<'_>, element: &mut Element, place: &Place<'_>) -> Result<(), CallError> {
        let members = match json {
            Json::Map(members) => Members::new(members),
            json if self.as_given => return self.generic(json, element, place),
            // A value with attributes none of which is given is its text alone.
            json => match self.model.complex(index).text {
                Some(scalar) => return push_text(scalar, &json, element, place),
                None => return place.refuse("expected an object"),
            },
        };
        let described = match members.get(TYPE_MEMBER) {
            None => self.model.complex(index),
            Some(raw) => self.derived(index, raw, element, place)?,
        };
        if described.is_abstract {
            let choices = self.model.complex(index).derived.iter().map(|index| self.model.complex(*index));
            let choices: Vec<_> = choices.filter(|one| !one.is_abstract).map(|one| one.key.as_str()).collect();
            return place.refuse(format!("expected {TYPE_MEMBER} to name one of {}", choices.join(", ")));
        }
        push_nil(&members, element);
        for attribute in &described.attributes {
            push_attribute(attribute, &members, element, place)?;
        }
        if described.any_attributes || self.as_given {
            for (member, raw) in members.iter().filter(|(member, _)| is_unknown_attribute(described, member)) {
                push_generic_attribute(&member[1..], raw, element, place)?;
            }
        }
        if let (Some(scalar), Some(raw)) = (described.text, members.get(TEXT_MEMBER)) {
            push_text(scalar, &Json::view(raw), element, place)?;
        }
        if self.as_given {
            return self.in_given_order(described, &members, element, place);
        }
        for child in &described.children {
            match child {
                Child::Element(child) => self.child(child, &members, place, &mut element.content)?,
                Child::Repeat(group) => self.group(group, &members, place, &mut element.content)?,
                Child::Any => self.unknown(described, &members, element, place)?,
            }
        }
        check_unknown(described, &members, place)
    }

    fn derived(
        &self,
        index: usize,
        raw: &RawValue,
        element: &mut Element,
        place: &Place<'_>,
    ) -> Result<&Type, CallError> {
        let key = json_text::text_of(raw).unwrap_or_default();
        let pointer = push_pointer(place.pointer, TYPE_MEMBER);
        let refused = || invalid_value(pointer.clone(), format!("{key:?} is no type that can stand here"));
        let found = self.model.find_derived(index, |candidate| candidate.key == key).ok_or_else(refused)?;
        let described = self.model.complex(found);
        let name = described.schema_name.clone().ok_or_else(refused)?;
        element.attributes.push((Name::new(XSI, "type"), AttributeValue::Name(name)));
        Ok(described)
    }

    fn child(
        &self,
        child: &Described,
        members: &Members<'_>,
        place: &Place<'_>,
        out: &mut Vec<Node>,
    ) -> Result<(), CallError> {
        let pointer = push_pointer(place.pointer, &child.member);
        let inner = Place { pointer: &pointer, depth: place.depth + 1 };
        match (members.get(&child.member), &child.value) {
            (Some(raw), _) => self.all(child, raw, &inner, out),
            (None, None) => Ok(()),
            (None, Some(value)) => {
                let raw = serde_json::value::to_raw_value(value);
                let raw = raw.map_err(|_| invalid_value(pointer.clone(), "the constant is no JSON"))?;
                self.all(child, &raw, &inner, out)
            }
        }
    }

    /// Writes members as they come, those that the model does not know like those that it does.
    fn in_given_order(
        &self,
        described: &Type,
        members: &Members<'_>,
        element: &mut Element,
        place: &Place<'_>,
    ) -> Result<(), CallError> {
        for (member, raw) in members.iter().filter(|(member, _)| !member.starts_with(['@', '#'])) {
            match described.elements().find(|child| child.member == *member) {
                Some(child) => {
                    let pointer = push_pointer(place.pointer, member);
                    let inner = Place { pointer: &pointer, depth: place.depth + 1 };
                    self.all(child, raw, &inner, &mut element.content)?;
                }
                None => self.generic_child(member, raw, described.namespace.as_ref(), element, place)?,
            }
        }
        let is_given = |child: &&Described| members.get(&child.member).is_some();
        for child in described.elements().filter(|child| !is_given(child)) {
            self.child(child, members, place, &mut element.content)?;
        }
        Ok(())
    }

    /// The first of each element of a group, then the second of each.
    fn group(
        &self,
        group: &[Described],
        members: &Members<'_>,
        place: &Place<'_>,
        out: &mut Vec<Node>,
    ) -> Result<(), CallError> {
        let mut columns = Vec::with_capacity(group.len());
        for child in group {
            let mut nodes = Vec::new();
            self.child(child, members, place, &mut nodes)?;
            columns.push(nodes.into_iter());
        }
        loop {
            let before = out.len();
            out.extend(columns.iter_mut().filter_map(Iterator::next));
            if out.len() == before {
                return Ok(());
            }
        }
    }
}

/// The text of a value that has nothing else. It may be the member of an object: params always
/// are one.
fn only_text<'a>(json: Json<'a>, place: &Place<'_>) -> Result<Json<'a>, CallError> {
    let Json::Map(members) = json else { return Ok(json) };
    match members.as_slice() {
        [(member, raw)] if member == TEXT_MEMBER => Ok(Json::view(raw)),
        _ => place.refuse("expected a string, a number or a boolean"),
    }
}

pub(super) fn nil() -> (Name, AttributeValue) {
    (Name::new(XSI, "nil"), AttributeValue::Text("true".to_owned()))
}

pub(super) fn push_nil(members: &Members<'_>, element: &mut Element) {
    if members.get(NIL_MEMBER).is_some_and(|raw| matches!(raw.get(), "true" | "\"true\"")) {
        element.attributes.push(nil());
    }
}

pub(super) fn push_text(
    scalar: Scalar,
    json: &Json<'_>,
    element: &mut Element,
    place: &Place<'_>,
) -> Result<(), CallError> {
    match scalar.write(json) {
        Ok(text) if text.is_empty() => Ok(()),
        Ok(text) => {
            element.content.push(Node::Text(text));
            Ok(())
        }
        Err(message) => place.refuse(message),
    }
}

fn push_attribute(
    attribute: &Attribute,
    members: &Members<'_>,
    element: &mut Element,
    place: &Place<'_>,
) -> Result<(), CallError> {
    let constant = attribute.value.as_ref().and_then(|value| serde_json::value::to_raw_value(value).ok());
    let Some(raw) = members.get(&attribute.member).or(constant.as_deref()) else { return Ok(()) };
    let json = Json::view(raw);
    if matches!(json, Json::Null) {
        return Ok(());
    }
    let text = attribute
        .scalar
        .write(&json)
        .map_err(|message| invalid_value(push_pointer(place.pointer, &attribute.member), message))?;
    element.attributes.push((attribute.name.clone(), AttributeValue::Text(text)));
    Ok(())
}

pub(super) fn is_unknown_element(described: &Type, member: &str) -> bool {
    !member.starts_with(['@', '#']) && !described.members.contains(member)
}

fn is_unknown_attribute(described: &Type, member: &str) -> bool {
    member.starts_with('@')
        && member != TYPE_MEMBER
        && member != NIL_MEMBER
        && !described.attributes.iter().any(|attribute| attribute.member == member)
}

/// Refuses members that would be left out silently.
fn check_unknown(described: &Type, members: &Members<'_>, place: &Place<'_>) -> Result<(), CallError> {
    for (member, raw) in members.iter() {
        let is_known = match member.as_str() {
            TYPE_MEMBER | NIL_MEMBER => true,
            TEXT_MEMBER => described.text.is_some(),
            name if name.starts_with('@') => described.any_attributes || !is_unknown_attribute(described, name),
            name => described.takes_any || !is_unknown_element(described, name),
        };
        if !is_known && raw.get() != "null" {
            return Err(invalid_value(push_pointer(place.pointer, member), "the operation knows no such member"));
        }
    }
    Ok(())
}
