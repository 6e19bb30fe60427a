//! From params to elements of which the model says nothing, or leaves open what they hold.

use std::sync::Arc;

use integration_model::problem::push_pointer;
use serde_json::value::RawValue;

use super::super::http::json_text::{self, Json};
use super::super::http::values::invalid_value;
use super::compose::{
    Composer, Members, NAMESPACE_MEMBER, NIL_MEMBER, Place, TEXT_MEMBER, TYPE_MEMBER, is_unknown_element, nil,
    push_nil, push_text,
};
use super::model::Type;
use super::scalar::Scalar;
use crate::adapter::CallError;
use crate::xml::{AttributeValue, Element, MAX_DEPTH, Name, Node, XSI, is_local_name};

impl Composer<'_> {
    /// Writes members that the model does not know.
    pub(super) fn unknown(
        &self,
        described: &Type,
        members: &Members<'_>,
        element: &mut Element,
        place: &Place<'_>,
    ) -> Result<(), CallError> {
        for (member, raw) in members.iter().filter(|(member, _)| is_unknown_element(described, member)) {
            self.generic_child(member, raw, described.namespace.as_ref(), element, place)?;
        }
        Ok(())
    }

    pub(super) fn generic_child(
        &self,
        member: &str,
        raw: &RawValue,
        namespace: Option<&Arc<str>>,
        parent: &mut Element,
        place: &Place<'_>,
    ) -> Result<(), CallError> {
        let pointer = push_pointer(place.pointer, member);
        let inner = Place { pointer: &pointer, depth: place.depth + 1 };
        if inner.depth >= MAX_DEPTH {
            return inner.refuse(format!("expected at most {MAX_DEPTH} levels"));
        }
        if !is_local_name(member) {
            return inner.refuse("expected an XML name without a prefix");
        }
        let items = match Json::view(raw) {
            Json::List(items) => items,
            _ => vec![raw],
        };
        for raw in items {
            let mut child = Element::new(Name { namespace: namespace.cloned(), local: member.to_owned() });
            self.generic(Json::view(raw), &mut child, &inner)?;
            parent.content.push(Node::Element(child));
        }
        Ok(())
    }

    /// Writes an element that the model says nothing of.
    pub(super) fn generic(&self, json: Json<'_>, element: &mut Element, place: &Place<'_>) -> Result<(), CallError> {
        let members = match json {
            Json::Null => {
                element.attributes.extend(self.as_given.then(nil));
                return Ok(());
            }
            Json::List(_) => return place.refuse("expected an object, a string, a number, a boolean or null"),
            Json::Map(members) => Members::new(members),
            scalar => return push_text(Scalar::Text, &scalar, element, place),
        };
        if let Some(raw) = members.get(NAMESPACE_MEMBER) {
            let namespace = json_text::text_of(raw).unwrap_or_default();
            if !crate::xml::is_carried(&namespace) {
                return place.refuse("expected a namespace without characters that XML cannot carry");
            }
            element.name = Name::new(&namespace, &element.name.local);
        }
        let namespace = element.name.namespace.clone();
        push_nil(&members, element);
        for (member, raw) in members.iter() {
            match member.as_str() {
                NAMESPACE_MEMBER => {}
                TYPE_MEMBER => push_built_in_type(raw, element, place)?,
                NIL_MEMBER => {}
                TEXT_MEMBER => push_text(Scalar::Text, &Json::view(raw), element, place)?,
                attribute if attribute.starts_with('@') => {
                    push_generic_attribute(&attribute[1..], raw, element, place)?
                }
                child => self.generic_child(child, raw, namespace.as_ref(), element, place)?,
            }
        }
        Ok(())
    }
}

/// The type of a value that the model leaves open: one of XML Schema's own, as `xs:int`.
fn push_built_in_type(raw: &RawValue, element: &mut Element, place: &Place<'_>) -> Result<(), CallError> {
    let text = json_text::text_of(raw).unwrap_or_default();
    match text.strip_prefix("xs:").filter(|name| Scalar::built_in(name).is_some()) {
        Some(name) => {
            let name = AttributeValue::Name(Name::new(crate::xml::XSD, name));
            element.attributes.retain(|(attribute, _)| !attribute.is(XSI, "type"));
            element.attributes.push((Name::new(XSI, "type"), name));
            Ok(())
        }
        None => Err(invalid_value(push_pointer(place.pointer, TYPE_MEMBER), "expected a type such as xs:int")),
    }
}

pub(super) fn push_generic_attribute(
    name: &str,
    raw: &RawValue,
    element: &mut Element,
    place: &Place<'_>,
) -> Result<(), CallError> {
    let at = || push_pointer(place.pointer, &format!("@{name}"));
    if !is_local_name(name) || name == "xmlns" {
        return Err(invalid_value(at(), "expected '@' and an XML name without a prefix"));
    }
    let json = Json::view(raw);
    if matches!(json, Json::Null) {
        return Ok(());
    }
    let text = Scalar::Text.write(&json).map_err(|message| invalid_value(at(), message))?;
    // Members of one name twice must not become two attributes of one name.
    if element.attribute(name).is_none() {
        element.attributes.push((Name::new("", name), AttributeValue::Text(text)));
    }
    Ok(())
}
