//! Reading a document. Document types are refused, so that no entities can be declared.

use std::sync::Arc;

use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::{AttributeValue, Element, MAX_DEPTH, Name, Node, XML_NAMESPACE};

/// The most elements and attributes that are read from an answer.
const MAX_NODES: usize = 200_000;
/// The same of a document that describes a whole system.
const MAX_DESCRIPTION_NODES: usize = 1_000_000;
const MAX_ATTRIBUTES: usize = 256;

/// The namespaces that are declared at a place of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope(Option<Arc<Level>>);

#[derive(Debug, PartialEq, Eq)]
struct Level {
    /// Prefix, empty for the default, and namespace, empty for none.
    declared: Vec<(String, Arc<str>)>,
    parent: Scope,
}

impl Scope {
    fn namespace(&self, prefix: &str) -> Option<Arc<str>> {
        let mut scope = self;
        while let Some(level) = &scope.0 {
            if let Some((_, namespace)) = level.declared.iter().find(|(declared, _)| declared == prefix) {
                return Some(Arc::clone(namespace));
            }
            scope = &level.parent;
        }
        (prefix == "xml").then(|| Arc::from(XML_NAMESPACE))
    }

    /// The name that a value such as `tns:Order` stands for.
    pub(crate) fn resolve(&self, text: &str) -> Result<Name, String> {
        let text = text.trim();
        let (prefix, local) = text.split_once(':').unwrap_or(("", text));
        let namespace = match self.namespace(prefix) {
            Some(namespace) => Some(namespace).filter(|namespace| !namespace.is_empty()),
            None if prefix.is_empty() => None,
            None => return Err(format!("the prefix {prefix:?} is not declared")),
        };
        Ok(Name { namespace, local: local.to_owned() })
    }

    /// The scope of a document whose authors forgot to declare some prefixes.
    pub(crate) fn of(usual: &[(&str, &str)]) -> Self {
        let declared = usual.iter().map(|(prefix, namespace)| ((*prefix).to_owned(), Arc::from(*namespace)));
        Self::default().with(declared.collect())
    }

    fn with(&self, declared: Vec<(String, Arc<str>)>) -> Self {
        if declared.is_empty() { self.clone() } else { Self(Some(Arc::new(Level { declared, parent: self.clone() }))) }
    }
}

/// Reads a document: its root element.
pub(crate) fn read(text: &str) -> Result<Element, String> {
    Document { max_nodes: MAX_NODES, ..Document::default() }.read(text)
}

/// Reads a description of a system, around which namespaces are declared.
pub(crate) fn read_description(text: &str, scope: Scope) -> Result<Element, String> {
    Document { scope, max_nodes: MAX_DESCRIPTION_NODES, ..Document::default() }.read(text)
}

impl Document {
    fn read(mut self, text: &str) -> Result<Element, String> {
        let mut reader = Reader::from_str(text);
        loop {
            let event = reader.read_event().map_err(|error| format!("at byte {}: {error}", reader.error_position()))?;
            match event {
                Event::Start(tag) => self.open(&tag)?,
                Event::Empty(tag) => {
                    self.open(&tag)?;
                    self.close()?;
                }
                Event::End(_) => self.close()?,
                Event::Text(text) => self.push_text(&text.xml10_content())?,
                Event::CData(text) => self.push_text(&text.xml10_content())?,
                Event::GeneralRef(reference) => self.push_text(&resolve_reference(&reference)?)?,
                Event::DocType(_) => return Err("document types are not read".to_owned()),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => return self.finish(),
            }
        }
    }
}

/// What a reference such as `&amp;` or `&#10;` stands for.
pub(crate) fn resolve_reference(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    let name = reference.xml10_content();
    resolve_xml_entity(&name).map(str::to_owned).ok_or_else(|| format!("the entity {name:?} is not declared"))
}

#[derive(Default)]
struct Document {
    scope: Scope,
    max_nodes: usize,
    open: Vec<Element>,
    root: Option<Element>,
    nodes: usize,
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
        let mut declared = Vec::new();
        let mut plain = Vec::new();
        for (index, attribute) in tag.attributes().enumerate() {
            if index >= MAX_ATTRIBUTES {
                return Err(format!("expected at most {MAX_ATTRIBUTES} attributes of an element"));
            }
            self.count()?;
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            let name: &str = attribute.key.as_ref();
            match name.strip_prefix("xmlns") {
                Some("") => declared.push((String::new(), Arc::from(value))),
                Some(rest) if rest.starts_with(':') => declared.push((rest[1..].to_owned(), Arc::from(value))),
                _ => plain.push((name.to_owned(), value.into_owned())),
            }
        }
        let scope = self.open.last().map_or(&self.scope, |parent| &parent.scope).with(declared);
        let tag_name = tag.name();
        let name: &str = tag_name.as_ref();
        let mut attributes = Vec::with_capacity(plain.len());
        for (name, value) in plain {
            // Attributes without a prefix are in no namespace.
            let name = if name.contains(':') { scope.resolve(&name)? } else { Name { namespace: None, local: name } };
            attributes.push((name, AttributeValue::Text(value)));
        }
        self.open.push(Element { name: scope.resolve(name)?, attributes, content: Vec::new(), scope });
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > self.max_nodes {
            Err(format!("expected at most {} elements and attributes", self.max_nodes))
        } else {
            Ok(())
        }
    }

    fn push_text(&mut self, text: &str) -> Result<(), String> {
        let Some(element) = self.open.last_mut() else {
            // A byte order mark is no text.
            let is_layout = text.trim_matches('\u{feff}').trim().is_empty();
            return if is_layout { Ok(()) } else { Err("text outside the root element".to_owned()) };
        };
        match element.content.last_mut() {
            Some(Node::Text(before)) => before.push_str(text),
            _ => element.content.push(Node::Text(text.to_owned())),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(element) = self.open.pop() else { return Err("an end tag without its start".to_owned()) };
        match self.open.last_mut() {
            Some(parent) => parent.content.push(Node::Element(element)),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn finish(self) -> Result<Element, String> {
        if let Some(element) = self.open.last() {
            return Err(format!("the element {:?} does not end", element.name.local));
        }
        self.root.ok_or_else(|| "no root element".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_where_they_stand() {
        let root = read(concat!(
            r#"<a xmlns="urn:1" xmlns:p="urn:2" p:x="1" y="2"><p:b xmlns:p="urn:3" t="p:T"/>"#,
            r#"<c xmlns="">x<![CDATA[<y>]]>&amp;&#65;</c></a>"#
        ))
        .expect("a document");
        assert!(root.name.is("urn:1", "a"));
        assert_eq!((root.attribute_in("urn:2", "x"), root.attribute("y")), (Some("1"), Some("2")));
        let b = root.child("urn:3", "b").expect("an element");
        assert_eq!(b.scope.resolve(b.attribute("t").expect("an attribute")), Ok(Name::new("urn:3", "T")));
        assert_eq!(root.child("", "c").expect("an element").text(), "x<y>&A");
    }

    #[test]
    fn what_is_no_plain_document_is_refused() {
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<p:a/>",
            "<a p:x='1'/>",
            "<a>&x;</a>",
            "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
            "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let deep = |depth| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(read(&deep(MAX_DEPTH)).is_ok());
        assert!(read(&deep(MAX_DEPTH + 1)).is_err());
        assert!(read(&format!("<a>{}</a>", "<b/>".repeat(MAX_NODES))).is_err());
    }
}
