//! XML as trees of elements with resolved namespaces.
//!
//! Owns: the one walk through documents within bounds, reading them as trees, writing trees and
//! parts of documents in canonical form. Must not know: JSON, schemas, what the elements mean.

mod canonical;
mod read;
mod walk;
mod write;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use canonical::canonical;
pub(crate) use read::{Scope, read, read_description};
pub(crate) use walk::{MAX_NODES, Step, Walk};
pub(crate) use write::Prefixes;

/// How deep elements may be nested.
pub(crate) const MAX_DEPTH: usize = 64;

/// The namespace of `xml:lang` and the like.
pub(crate) const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
/// The namespace of XML Schema and its types.
pub(crate) const XSD: &str = "http://www.w3.org/2001/XMLSchema";
/// The namespace of `xsi:type` and `xsi:nil`.
pub(crate) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A name with the namespace that it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) local: String,
}

impl Name {
    pub(crate) fn new(namespace: &str, local: &str) -> Self {
        let namespace = (!namespace.is_empty()).then(|| Arc::from(namespace));
        Self { namespace, local: local.to_owned() }
    }

    pub(crate) fn is(&self, namespace: &str, local: &str) -> bool {
        self.local == local && self.namespace() == namespace
    }

    /// The namespace; empty where there is none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Element(Element),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    /// A name in the value, as in `xsi:type`; only what is written has it.
    Name(Name),
}

/// One element and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: Name,
    /// Without declarations of namespaces.
    pub(crate) attributes: Vec<(Name, AttributeValue)>,
    pub(crate) content: Vec<Node>,
    /// What the prefixes in values stand for.
    pub(crate) scope: Scope,
    /// Where it stands in the text that it was read from; empty where it was not read.
    pub(crate) source: Range<usize>,
}

impl Element {
    pub(crate) fn new(name: Name) -> Self {
        Self { name, attributes: Vec::new(), content: Vec::new(), scope: Scope::default(), source: 0..0 }
    }

    pub(crate) fn with_attribute(mut self, name: Name, value: impl Into<String>) -> Self {
        self.attributes.push((name, AttributeValue::Text(value.into())));
        self
    }

    pub(crate) fn with_text(mut self, text: impl Into<String>) -> Self {
        self.content.push(Node::Text(text.into()));
        self
    }

    pub(crate) fn with_child(mut self, child: Self) -> Self {
        self.content.push(Node::Element(child));
        self
    }

    /// The value of an attribute without a namespace.
    pub(crate) fn attribute(&self, local: &str) -> Option<&str> {
        self.attribute_in("", local)
    }

    pub(crate) fn attribute_in(&self, namespace: &str, local: &str) -> Option<&str> {
        self.attributes.iter().find_map(|(name, value)| match value {
            AttributeValue::Text(text) if name.is(namespace, local) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Self> {
        self.content.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    pub(crate) fn child(&self, namespace: &str, local: &str) -> Option<&Self> {
        self.children().find(|child| child.name.is(namespace, local))
    }

    /// The text directly within the element.
    pub(crate) fn text(&self) -> String {
        self.content
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }
}

/// Whether XML 1.0 can carry the text: most control characters it cannot, not even escaped.
pub(crate) fn is_carried(text: &str) -> bool {
    let fits =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().all(fits)
}

/// Whether the text is a name without a prefix (`NCName`).
pub(crate) fn is_local_name(text: &str) -> bool {
    let starts = |c: char| c.is_alphabetic() || c == '_';
    let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.starts_with(starts) && text.chars().all(goes_on)
}
