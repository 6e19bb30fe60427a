//! XML to JSON and back.
//!
//! A document is an object with one member, its root element. An element with attributes
//! or child elements is an object: attributes are members named `@name`, child elements
//! members by their names, repeated ones arrays, and text the member `#text`. An element
//! with nothing but text is a string, an empty one null. Names keep their prefixes;
//! namespace declarations are attributes. The order of children of different names, comments
//! and processing instructions are lost. Document types are refused, so that no entities
//! can be declared.

use bytes::Bytes;
use quick_xml::escape::escape;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::encode::MAX_DEPTH;
use super::json_text::Json;
use crate::xml::{MAX_NODES, Step, Walk, is_carried};

/// Reads a document.
pub(in crate::adapter) fn decode(text: &str) -> Result<Value, String> {
    let mut walk = Walk::new(text, MAX_NODES);
    let mut open: Vec<Element> = Vec::new();
    let mut document = Map::new();
    while let Some(step) = walk.next()? {
        match step {
            Step::Open(tag) => {
                let members = tag.attributes.into_iter().map(|(name, value)| (format!("@{name}"), Value::from(value)));
                let members = members.collect();
                open.push(Element { name: tag.name, members, text: String::new(), has_children: false });
            }
            Step::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&text);
                }
            }
            Step::Close { .. } => {
                let Some((name, value)) = open.pop().map(Element::into_value) else { continue };
                match open.last_mut() {
                    Some(parent) => parent.adopt(name, value),
                    None => drop(document.insert(name, value)),
                }
            }
        }
    }
    Ok(Value::Object(document))
}

/// An element whose end has not come.
struct Element {
    name: String,
    members: Map<String, Value>,
    text: String,
    has_children: bool,
}

impl Element {
    fn adopt(&mut self, name: String, value: Value) {
        self.has_children = true;
        match self.members.get_mut(&name) {
            None => drop(self.members.insert(name, value)),
            Some(Value::Array(items)) => items.push(value),
            Some(first) => {
                let first_value = first.take();
                *first = Value::Array(vec![first_value, value]);
            }
        }
    }

    fn into_value(self) -> (String, Value) {
        let Self { name, mut members, text, has_children } = self;
        // Between elements, white space is layout.
        let text = if has_children { text.trim().to_owned() } else { text };
        let value = match (members.is_empty(), text.is_empty()) {
            (true, true) => Value::Null,
            (true, false) => Value::String(text),
            (false, true) => Value::Object(members),
            (false, false) => {
                members.insert("#text".to_owned(), Value::String(text));
                Value::Object(members)
            }
        };
        (name, value)
    }
}

/// Writes a document: the reverse of [`decode`].
pub(super) fn encode(raw: &RawValue) -> Result<Bytes, String> {
    let Json::Map(members) = Json::view(raw) else { return Err(ONE_ROOT.to_owned()) };
    let [(name, value)] = members.as_slice() else { return Err(ONE_ROOT.to_owned()) };
    if matches!(Json::view(value), Json::List(_)) {
        return Err(ONE_ROOT.to_owned());
    }
    let mut out = String::with_capacity(raw.get().len() * 2);
    out.push_str(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
    write_element(name, value, MAX_DEPTH, &mut out)?;
    Ok(Bytes::from(out))
}

const ONE_ROOT: &str = "expected an object with one member, the root element";

fn write_element(name: &str, raw: &RawValue, depth: usize, out: &mut String) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("expected at most {MAX_DEPTH} levels"));
    }
    check_name(name)?;
    match Json::view(raw) {
        Json::List(items) => return items.into_iter().try_for_each(|item| write_element(name, item, depth - 1, out)),
        Json::Null => out.push_str(&format!("<{name}/>")),
        Json::Text(text) => {
            let text = checked(&text)?;
            out.push_str(&format!("<{name}>{}</{name}>", escape(text)));
        }
        Json::Literal(text) => out.push_str(&format!("<{name}>{text}</{name}>")),
        Json::Map(members) => {
            let (attributes, content): (Vec<_>, Vec<_>) =
                members.into_iter().partition(|(member, _)| member.starts_with('@'));
            out.push('<');
            out.push_str(name);
            for (attribute, value) in attributes {
                write_attribute(&attribute[1..], value, out)?;
            }
            out.push('>');
            for (member, value) in content {
                match member.as_str() {
                    "#text" => out.push_str(&escape(checked(&scalar(value, "#text")?)?)),
                    child => write_element(child, value, depth - 1, out)?,
                }
            }
            out.push_str(&format!("</{name}>"));
        }
    }
    Ok(())
}

fn write_attribute(name: &str, raw: &RawValue, out: &mut String) -> Result<(), String> {
    check_name(name)?;
    if matches!(Json::view(raw), Json::Null) {
        return Ok(());
    }
    let value = scalar(raw, name)?;
    out.push_str(&format!(" {name}=\"{}\"", escape(checked(&value)?)));
    Ok(())
}

fn scalar(raw: &RawValue, name: &str) -> Result<String, String> {
    match Json::view(raw) {
        Json::Null => Ok(String::new()),
        Json::Text(text) => Ok(text),
        Json::Literal(text) => Ok(text.to_owned()),
        Json::List(_) | Json::Map(_) => Err(format!("{name}: expected a string, a number or a boolean")),
    }
}

fn checked(text: &str) -> Result<&str, String> {
    if is_carried(text) { Ok(text) } else { Err("expected no characters that XML cannot carry".to_owned()) }
}

fn check_name(name: &str) -> Result<(), String> {
    let starts = |c: char| c.is_alphabetic() || c == '_';
    let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let fits = name.starts_with(starts) && name.chars().all(goes_on) && !name.ends_with(':');
    if fits { Ok(()) } else { Err(format!("{name:?} is no XML name")) }
}
