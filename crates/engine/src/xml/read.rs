//! Reading a document into a tree whose names have their namespaces.

use std::sync::Arc;

use super::walk::{MAX_NODES, Step, Tag, Walk};
use super::{AttributeValue, Element, Name, Node, XML_NAMESPACE};

/// The most elements and attributes of a document that describes a whole system.
const MAX_DESCRIPTION_NODES: usize = 1_000_000;

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
    /// The namespace that a prefix stands for; empty where the default is none.
    pub(super) fn namespace(&self, prefix: &str) -> Option<Arc<str>> {
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
    read_tree(text, &Scope::default(), MAX_NODES)
}

/// Reads a description of a system, around which namespaces are declared.
pub(crate) fn read_description(text: &str, scope: &Scope) -> Result<Element, String> {
    read_tree(text, scope, MAX_DESCRIPTION_NODES)
}

fn read_tree(text: &str, around: &Scope, max_nodes: usize) -> Result<Element, String> {
    let mut walk = Walk::new(text, max_nodes);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    while let Some(step) = walk.next()? {
        match step {
            Step::Open(tag) => {
                let scope = open.last().map_or(around, |parent| &parent.scope);
                open.push(element(tag, scope)?);
            }
            Step::Text(text) => {
                let Some(element) = open.last_mut() else { continue };
                match element.content.last_mut() {
                    Some(Node::Text(before)) => before.push_str(&text),
                    _ => element.content.push(Node::Text(text)),
                }
            }
            Step::Close { end } => {
                let Some(mut element) = open.pop() else { continue };
                element.source.end = end;
                match open.last_mut() {
                    Some(parent) => parent.content.push(Node::Element(element)),
                    None => root = Some(element),
                }
            }
        }
    }
    root.ok_or_else(|| "no root element".to_owned())
}

/// The element that a tag begins, in the scope around it.
fn element(tag: Tag, around: &Scope) -> Result<Element, String> {
    let mut declared = Vec::new();
    let mut plain = Vec::new();
    for (name, value) in tag.attributes {
        match declared_prefix(&name) {
            Some(prefix) => declared.push((prefix.to_owned(), Arc::from(value))),
            None => plain.push((name, value)),
        }
    }
    let scope = around.with(declared);
    let mut attributes = Vec::with_capacity(plain.len());
    for (name, value) in plain {
        // Attributes without a prefix are in no namespace.
        let name = if name.contains(':') { scope.resolve(&name)? } else { Name { namespace: None, local: name } };
        attributes.push((name, AttributeValue::Text(value)));
    }
    let name = scope.resolve(&tag.name)?;
    Ok(Element { name, attributes, content: Vec::new(), scope, source: tag.start..tag.start })
}

/// The prefix that an attribute declares, empty for the default; none where it declares nothing.
pub(super) fn declared_prefix(attribute: &str) -> Option<&str> {
    let rest = attribute.strip_prefix("xmlns")?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(':') }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_DEPTH;
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
