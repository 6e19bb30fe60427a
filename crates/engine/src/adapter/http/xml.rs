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
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::encode::MAX_DEPTH;
use super::json_text::Json;
use crate::xml::{is_carried, resolve_reference};

/// The most elements and attributes that are read from one document.
const MAX_NODES: usize = 200_000;
const MAX_ATTRIBUTES: usize = 256;

/// Reads a document.
pub(super) fn decode(text: &str) -> Result<Value, String> {
    let mut reader = Reader::from_str(text);
    let mut document = Document::default();
    loop {
        let event = reader.read_event().map_err(|error| format!("at byte {}: {error}", reader.error_position()))?;
        match event {
            Event::Start(tag) => document.open(&tag)?,
            Event::Empty(tag) => {
                document.open(&tag)?;
                document.close()?;
            }
            Event::End(_) => document.close()?,
            Event::Text(text) => document.push_text(&text.xml10_content())?,
            Event::CData(text) => document.push_text(&text.xml10_content())?,
            Event::GeneralRef(reference) => document.push_text(&resolve_reference(&reference)?)?,
            Event::DocType(_) => return Err("document types are not read".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return document.finish(),
        }
    }
}

#[derive(Default)]
struct Document {
    open: Vec<Element>,
    root: Option<(String, Value)>,
    nodes: usize,
}

struct Element {
    name: String,
    members: Map<String, Value>,
    text: String,
    has_children: bool,
}

impl Document {
    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        if self.open.is_empty() && self.root.is_some() {
            return Err("a second root element".to_owned());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} levels"));
        }
        self.count()?;
        let mut members = Map::new();
        for (index, attribute) in tag.attributes().enumerate() {
            if index >= MAX_ATTRIBUTES {
                return Err(format!("expected at most {MAX_ATTRIBUTES} attributes of an element"));
            }
            self.count()?;
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            members.insert(format!("@{}", attribute.key.as_ref()), Value::from(value));
        }
        let name = tag.name().as_ref().to_owned();
        self.open.push(Element { name, members, text: String::new(), has_children: false });
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            Err(format!("expected at most {MAX_NODES} elements and attributes"))
        } else {
            Ok(())
        }
    }

    fn push_text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            // A byte order mark is no text.
            None if text.trim_matches('\u{feff}').trim().is_empty() => {}
            None => return Err("text outside the root element".to_owned()),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(element) = self.open.pop() else { return Err("an end tag without its start".to_owned()) };
        let (name, value) = element.into_value();
        match self.open.last_mut() {
            Some(parent) => parent.adopt(name, value),
            None => self.root = Some((name, value)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Value, String> {
        if let Some(element) = self.open.last() {
            return Err(format!("the element {:?} does not end", element.name));
        }
        let (name, value) = self.root.ok_or("no root element")?;
        Ok(Value::Object(Map::from_iter([(name, value)])))
    }
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
