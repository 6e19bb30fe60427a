//! Writing elements in the form that Exclusive XML Canonicalization gives them
//! (<https://www.w3.org/TR/xml-exc-c14n/>), so that what is written need not be rewritten to
//! be signed: no default namespaces, each namespace declared where it is first used, attributes
//! in order, no abbreviations.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{AttributeValue, Element, Name, Node, XML_NAMESPACE};

/// The prefixes of one document: one for each namespace, the same wherever it stands.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    known: HashMap<Arc<str>, String>,
    made: usize,
}

/// What the text is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Document,
    /// Only names of elements and attributes have their namespaces declared.
    Digest,
}

impl Prefixes {
    pub(crate) fn new(usual: &[(&str, &str)]) -> Self {
        let known = usual.iter().map(|(namespace, prefix)| (Arc::from(*namespace), (*prefix).to_owned())).collect();
        Self { known, made: 0 }
    }

    /// The element as a document of its own.
    pub(crate) fn write(&mut self, element: &Element) -> String {
        let mut out = String::with_capacity(1024);
        self.element(element, Purpose::Document, &mut Vec::new(), &mut out);
        out
    }

    /// The octets that a digest of the element is made of.
    pub(crate) fn canonical(&mut self, element: &Element) -> String {
        let mut out = String::with_capacity(1024);
        self.element(element, Purpose::Digest, &mut Vec::new(), &mut out);
        out
    }

    fn prefix(&mut self, namespace: &Arc<str>) -> String {
        if let Some(prefix) = self.known.get(namespace) {
            return prefix.clone();
        }
        self.made += 1;
        let prefix = format!("n{}", self.made);
        self.known.insert(Arc::clone(namespace), prefix.clone());
        prefix
    }

    fn qualified(&mut self, name: &Name) -> String {
        match &name.namespace {
            None => name.local.clone(),
            Some(namespace) if namespace.as_ref() == XML_NAMESPACE => format!("xml:{}", name.local),
            Some(namespace) => format!("{}:{}", self.prefix(namespace), name.local),
        }
    }

    /// `declared` holds the namespaces that elements around this one declare.
    fn element(&mut self, element: &Element, purpose: Purpose, declared: &mut Vec<Arc<str>>, out: &mut String) {
        let before = declared.len();
        let tag = self.qualified(&element.name);
        out.push('<');
        out.push_str(&tag);
        let used = std::iter::once(&element.name).chain(element.attributes.iter().map(|(name, _)| name));
        let in_values = element.attributes.iter().filter_map(|(_, value)| match value {
            AttributeValue::Name(name) if purpose == Purpose::Document => Some(name),
            _ => None,
        });
        let wanted: BTreeSet<_> = used.chain(in_values).filter_map(|name| name.namespace.clone()).collect();
        let new = wanted.into_iter().filter(|one| one.as_ref() != XML_NAMESPACE && !declared.contains(one));
        let mut new: Vec<_> = new.map(|namespace| (self.prefix(&namespace), namespace)).collect();
        new.sort();
        for (prefix, namespace) in new {
            push_attribute(&format!("xmlns:{prefix}"), &namespace, out);
            declared.push(namespace);
        }
        let mut attributes: Vec<_> = element.attributes.iter().collect();
        attributes.sort_by(|(one, _), (other, _)| {
            (one.namespace(), one.local.as_str()).cmp(&(other.namespace(), other.local.as_str()))
        });
        for (name, value) in attributes {
            let name = self.qualified(name);
            match value {
                AttributeValue::Text(text) => push_attribute(&name, text, out),
                AttributeValue::Name(value) => push_attribute(&name, &self.qualified(value), out),
            }
        }
        out.push('>');
        for node in &element.content {
            match node {
                Node::Text(text) => escape(text, Place::Text, out),
                Node::Element(child) => self.element(child, purpose, declared, out),
            }
        }
        out.push_str("</");
        out.push_str(&tag);
        out.push('>');
        declared.truncate(before);
    }
}

pub(super) fn push_attribute(name: &str, value: &str, out: &mut String) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    escape(value, Place::Attribute, out);
    out.push('"');
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Text,
    Attribute,
}

pub(super) fn escape(text: &str, place: Place, out: &mut String) {
    for c in text.chars() {
        match (c, place) {
            ('&', _) => out.push_str("&amp;"),
            ('<', _) => out.push_str("&lt;"),
            ('>', Place::Text) => out.push_str("&gt;"),
            ('"', Place::Attribute) => out.push_str("&quot;"),
            ('\t', Place::Attribute) => out.push_str("&#x9;"),
            ('\n', Place::Attribute) => out.push_str("&#xA;"),
            ('\r', _) => out.push_str("&#xD;"),
            (c, _) => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{XSI, read};
    use super::*;

    fn sample() -> Element {
        let mut typed = Element::new(Name::new("", "b")).with_text("a < b & c > d\r\"");
        typed.attributes.push((Name::new(XSI, "type"), AttributeValue::Name(Name::new("urn:9", "T"))));
        Element::new(Name::new("urn:1", "a"))
            .with_attribute(Name::new("", "z"), "1\n\"<")
            .with_attribute(Name::new("urn:2", "y"), "2")
            .with_attribute(Name::new("", "c"), "3")
            .with_attribute(Name::new(XML_NAMESPACE, "lang"), "en")
            .with_child(typed)
            .with_child(Element::new(Name::new("urn:2", "d")))
    }

    #[test]
    fn what_is_written_is_canonical() {
        let mut prefixes = Prefixes::new(&[(XSI, "xsi")]);
        assert_eq!(
            prefixes.canonical(&sample()),
            concat!(
                r#"<n1:a xmlns:n1="urn:1" xmlns:n2="urn:2" c="3" z="1&#xA;&quot;&lt;" xml:lang="en" n2:y="2">"#,
                r#"<b xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="n3:T">"#,
                r#"a &lt; b &amp; c &gt; d&#xD;"</b><n2:d></n2:d></n1:a>"#
            )
        );
        let document = prefixes.write(&sample());
        assert!(document.contains(r#"xmlns:n3="urn:9""#), "{document}");
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        let text = Prefixes::default().write(&sample());
        let again = read(&text).expect("a document");
        assert_eq!(again.child("", "b").expect("an element").text(), "a < b & c > d\r\"");
        assert_eq!(again.attribute("z"), Some("1\n\"<"));
        let typed = again.child("", "b").expect("an element");
        let name = typed.scope.resolve(typed.attribute_in(XSI, "type").expect("a type"));
        assert_eq!(name, Ok(Name::new("urn:9", "T")));
    }
}
