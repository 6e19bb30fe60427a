//! Envelopes of SOAP 1.1 and 1.2: what goes around a request, what an answer holds.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::xml::{Element, Name, Node, Prefixes, XSI};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SoapVersion {
    V11,
    V12,
}

impl SoapVersion {
    pub(super) const ALL: [Self; 2] = [Self::V11, Self::V12];

    pub(super) fn of(config: &Map<String, Value>) -> Self {
        match config.get("soapVersion") {
            Some(Value::String(version)) if version == "1.2" => Self::V12,
            Some(Value::Number(version)) if version.as_f64() == Some(1.2) => Self::V12,
            _ => Self::V11,
        }
    }

    pub(super) const fn namespace(self) -> &'static str {
        match self {
            Self::V11 => "http://schemas.xmlsoap.org/soap/envelope/",
            Self::V12 => "http://www.w3.org/2003/05/soap-envelope",
        }
    }

    pub(super) fn name(self, local: &str) -> Name {
        Name::new(self.namespace(), local)
    }

    /// What `mustUnderstand` says where it holds.
    pub(super) const fn truth(self) -> &'static str {
        match self {
            Self::V11 => "1",
            Self::V12 => "true",
        }
    }

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::V11 => "text/xml",
            Self::V12 => "application/soap+xml",
        }
    }

    /// The header that says what is asked for; 1.2 says it in the content type.
    pub(super) fn action(self, action: &str) -> BTreeMap<String, String> {
        let header = (self == Self::V11).then(|| ("SOAPAction".to_owned(), format!("\"{action}\"")));
        header.into_iter().collect()
    }

    pub(super) fn content_type(self, action: &str) -> String {
        let action = match self {
            Self::V12 if !action.is_empty() => format!("; action=\"{action}\""),
            _ => String::new(),
        };
        format!("{}; charset=utf-8{action}", self.media_type())
    }
}

/// A message before it is written.
pub(super) struct Envelope {
    pub(super) version: SoapVersion,
    pub(super) headers: Vec<Node>,
    pub(super) body: Element,
}

impl Envelope {
    pub(super) fn write(self, prefixes: &mut Prefixes) -> String {
        let mut envelope = Element::new(self.version.name("Envelope"));
        if !self.headers.is_empty() {
            let mut header = Element::new(self.version.name("Header"));
            header.content = self.headers;
            envelope = envelope.with_child(header);
        }
        let document = prefixes.write(&envelope.with_child(self.body));
        format!(r#"<?xml version="1.0" encoding="UTF-8"?>{document}"#)
    }
}

/// The prefixes that people know.
pub(super) fn prefixes(version: SoapVersion) -> Prefixes {
    use super::security::{DS, WSSE, WSU};
    Prefixes::new(&[(version.namespace(), "soap"), (XSI, "xsi"), (WSSE, "wsse"), (WSU, "wsu"), (DS, "ds")])
}

/// What a body holds.
pub(super) enum Content<'a> {
    /// Its first element; a body may be empty.
    Body(Option<&'a Element>),
    Fault(&'a Element),
}

/// The body of an envelope of either version, whichever was asked in.
pub(super) fn body(root: &Element) -> Result<&Element, String> {
    let version = SoapVersion::ALL.into_iter().find(|version| root.name == version.name("Envelope"));
    let version = version.ok_or_else(|| format!("expected a SOAP envelope, not {:?}", root.name.local))?;
    root.child(version.namespace(), "Body").ok_or_else(|| "the envelope has no body".to_owned())
}

/// Looks into a body; its fault is in its own namespace.
pub(super) fn content(body: &Element) -> Content<'_> {
    match body.children().next() {
        Some(fault) if fault.name.is(body.name.namespace(), "Fault") => Content::Fault(fault),
        first => Content::Body(first),
    }
}
