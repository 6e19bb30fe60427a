//! Services, ports, bindings and messages of a description. Must not know schemas.

use std::collections::HashMap;
use std::sync::Arc;

use integration_model::definition::MAX_METHODS;

use super::{SOAP, SOAP12, WSDL};
use crate::adapter::soap::spec::Style;
use crate::xml::{Element, Name, XSD};

/// The most parts of a message, and blocks of a header, that are looked at.
const MAX_PARTS: usize = 500;
const MAX_HEADERS: usize = 32;

/// The parts of all WSDL documents.
pub(super) struct Services<'a> {
    roots: &'a [Arc<Element>],
    /// Declarations by what they are and what they are called, with their documents.
    declared: HashMap<(&'a str, &'a str), Vec<(&'a Element, &'a Element)>>,
}

/// A port of a SOAP binding.
#[derive(Clone, Copy)]
pub(super) struct Port<'a> {
    pub(super) service: &'a str,
    pub(super) name: &'a str,
    pub(super) address: Option<&'a str>,
    pub(super) binding: Binding<'a>,
}

#[derive(Clone, Copy)]
pub(super) struct Binding<'a> {
    node: &'a Element,
    root: &'a Element,
    /// The namespace of the SOAP extensions, which tells the version.
    pub(super) soap: &'static str,
}

/// An operation of a binding, with what its port type says of it.
pub(super) struct BoundOperation<'a> {
    pub(super) name: &'a str,
    pub(super) description: String,
    pub(super) soap_action: &'a str,
    pub(super) style: Style,
    pub(super) input: Option<Message<'a>>,
    /// None where nothing is answered.
    pub(super) output: Option<Message<'a>>,
    pub(super) is_encoded: bool,
}

/// A message as a binding lays it out.
pub(super) struct Message<'a> {
    /// What the body of RPC is in.
    pub(super) namespace: String,
    pub(super) body: Vec<Part<'a>>,
    pub(super) headers: Vec<Part<'a>>,
}

#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    pub(super) element: Option<Name>,
    pub(super) type_name: Option<Name>,
}

impl<'a> Services<'a> {
    pub(super) fn of(roots: &'a [Arc<Element>]) -> Self {
        let mut declared: HashMap<_, Vec<_>> = HashMap::new();
        for root in roots {
            for node in root.children().filter(|child| child.name.namespace() == WSDL) {
                let name = node.attribute("name").unwrap_or_default();
                declared.entry((node.name.local.as_str(), name)).or_default().push((node, root.as_ref()));
            }
        }
        Self { roots, declared }
    }

    pub(super) fn root(&self) -> Option<&'a Element> {
        self.roots.first().map(AsRef::as_ref)
    }

    /// The declaration that a reference means, with the document that it stands in.
    fn find(&self, kind: &str, from: &Element, reference: &str) -> Option<(&'a Element, &'a Element)> {
        let name = from.scope.resolve(reference).ok()?;
        let all = self.declared.get(&(kind, name.local.as_str()))?;
        let is_meant = |(_, root): &&(&Element, &Element)| root.attribute("targetNamespace") == Some(name.namespace());
        // Some references forget their prefix.
        all.iter().find(is_meant).or(all.first()).copied()
    }

    /// All SOAP ports; where a description has none, its SOAP bindings stand for them.
    pub(super) fn ports(&self) -> Vec<Port<'a>> {
        let mut ports = Vec::new();
        for root in self.roots {
            for service in root.children().filter(|child| child.name.is(WSDL, "service")) {
                for port in service.children().filter(|child| child.name.is(WSDL, "port")) {
                    let found = port.attribute("binding").and_then(|binding| self.find("binding", port, binding));
                    let Some(binding) = found.and_then(|(node, root)| Binding::of(node, root)) else { continue };
                    let address = [SOAP, SOAP12].iter().find_map(|soap| port.child(soap, "address"));
                    ports.push(Port {
                        service: service.attribute("name").unwrap_or_default(),
                        name: port.attribute("name").unwrap_or_default(),
                        address: address.and_then(|address| address.attribute("location")),
                        binding,
                    });
                }
            }
        }
        if ports.is_empty() {
            for root in self.roots {
                for node in root.children().filter(|child| child.name.is(WSDL, "binding")) {
                    let name = node.attribute("name").unwrap_or_default();
                    let port = |binding| Port { service: name, name, address: None, binding };
                    ports.extend(Binding::of(node, root).map(port));
                }
            }
        }
        ports
    }

    /// The operations of a binding, in its order.
    pub(super) fn operations(&self, binding: Binding<'a>) -> Vec<BoundOperation<'a>> {
        let port_type = binding.port_type().and_then(|name| self.find("portType", binding.node, name));
        let usual_style = binding.node.child(binding.soap, "binding").and_then(|node| node.attribute("style"));
        let mut operations = Vec::new();
        let bound = binding.node.children().filter(|child| child.name.is(WSDL, "operation"));
        for node in bound.take(MAX_METHODS + 1) {
            let Some(name) = node.attribute("name") else { continue };
            let soap = node.child(binding.soap, "operation");
            let style = soap.and_then(|soap| soap.attribute("style")).or(usual_style);
            let declared = port_type.and_then(|(port_type, _)| overload(port_type, node, name));
            let message = |direction: &str| {
                let declared = declared?.child(WSDL, direction)?;
                self.message(binding, node.child(WSDL, direction), declared)
            };
            let documentation = declared.and_then(|declared| declared.child(WSDL, "documentation"));
            operations.push(BoundOperation {
                name,
                description: documentation.map(|text| text.text().trim().to_owned()).unwrap_or_default(),
                soap_action: soap.and_then(|soap| soap.attribute("soapAction")).unwrap_or_default(),
                style: if style == Some("rpc") { Style::Rpc } else { Style::Document },
                input: message("input"),
                output: message("output"),
                is_encoded: ["input", "output"].iter().any(|direction| {
                    let body = node.child(WSDL, direction).and_then(|one| one.child(binding.soap, "body"));
                    body.is_some_and(|body| body.attribute("use") == Some("encoded"))
                }),
            });
        }
        operations
    }

    fn message(&self, binding: Binding<'a>, bound: Option<&'a Element>, declared: &'a Element) -> Option<Message<'a>> {
        let (message, _) = self.find("message", declared, declared.attribute("message")?)?;
        let body = bound.and_then(|bound| bound.child(binding.soap, "body"));
        let target = || binding.root.attribute("targetNamespace").unwrap_or_default();
        let namespace = body.and_then(|body| body.attribute("namespace")).unwrap_or_else(target).to_owned();
        let mut headers: Vec<(&Element, &str)> = Vec::new();
        let bound_headers = bound.into_iter().flat_map(Element::children);
        for header in bound_headers.filter(|child| child.name.is(binding.soap, "header")).take(MAX_HEADERS) {
            let found = header.attribute("message").and_then(|name| self.find("message", header, name));
            headers.extend(found.zip(header.attribute("part")).map(|((message, _), part)| (message, part)));
        }
        let wanted = body.and_then(|body| body.attribute("parts"));
        let is_header = |part: &Part<'_>| headers.iter().any(|(one, name)| *one == message && *name == part.name);
        let is_body = |part: &Part<'_>| match wanted {
            Some(names) => names.split_whitespace().any(|name| name == part.name),
            None => !is_header(part),
        };
        Some(Message {
            namespace,
            body: parts(message).filter(is_body).collect(),
            headers: headers
                .iter()
                .filter_map(|(message, name)| parts(message).find(|part| part.name == *name))
                .collect(),
        })
    }
}

fn parts(message: &Element) -> impl Iterator<Item = Part<'_>> {
    let name_of = |part: &Element, attribute: &str| {
        let text = part.attribute(attribute)?;
        part.scope.resolve(text).ok()
    };
    message.children().filter(|child| child.name.is(WSDL, "part")).take(MAX_PARTS).map(move |part| Part {
        name: part.attribute("name").unwrap_or_default(),
        element: name_of(part, "element"),
        type_name: name_of(part, "type"),
    })
}

/// The operation of a port type; of several of one name, the one whose input is named alike.
fn overload<'a>(port_type: &'a Element, bound: &Element, name: &str) -> Option<&'a Element> {
    let same = || {
        port_type.children().filter(|child| child.name.is(WSDL, "operation") && child.attribute("name") == Some(name))
    };
    let input = |node: &Element| node.child(WSDL, "input").and_then(|input| input.attribute("name")).map(str::to_owned);
    same().find(|declared| input(declared) == input(bound)).or_else(|| same().next())
}

impl<'a> Binding<'a> {
    fn of(node: &'a Element, root: &'a Element) -> Option<Self> {
        let soap = [SOAP, SOAP12].into_iter().find(|soap| node.child(soap, "binding").is_some())?;
        Some(Self { node, root, soap })
    }

    pub(super) fn port_type(&self) -> Option<&'a str> {
        self.node.attribute("type")
    }
}

/// Whether a document asks, anywhere in its policies, for an assertion of this name.
pub(super) fn asserts(root: &Element, local: &str) -> bool {
    let mut open = vec![(root, false)];
    while let Some((element, in_policy)) = open.pop() {
        if in_policy && element.name.local == local {
            return true;
        }
        if element.name.namespace() == XSD {
            continue;
        }
        let is_policy = in_policy || element.name.local == "Policy";
        open.extend(element.children().map(|child| (child, is_policy)));
    }
    false
}
