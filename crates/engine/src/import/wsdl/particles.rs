//! What complex types are made of: particles and attributes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::components::{Component, Kind};
use super::content::{Around, Content, Described};
use super::simple::Simple;
use super::types::{MAX_WORK, Types, nullable};
use crate::adapter::soap::model::{AttributeSpec, ChildSpec, ElementSpec};
use crate::xml::{Element, Name, XSD};

impl<'a> Types<'a> {
    /// Adds a particle, or an attribute.
    pub(super) fn add(&mut self, declared: Component<'a>, content: &mut Content, around: Around) {
        self.work += 1;
        if around.steps == 0 || self.work > MAX_WORK {
            self.lose(
                "its types are nested deeper, or hold more, than is looked at; the rest is taken as it comes"
                    .to_owned(),
            );
            return content.open();
        }
        let node = declared.node;
        let repeats = node.attribute("maxOccurs").is_some_and(|most| most != "0" && most != "1");
        let inner = Around {
            optional: around.optional || node.attribute("minOccurs") == Some("0"),
            many: around.many || repeats,
            steps: around.steps - 1,
        };
        if node.attribute("maxOccurs") == Some("0") {
            return;
        }
        match node.name.local.as_str() {
            "element" => self.element(declared, content, inner),
            "sequence" | "all" => self.sequence(declared, content, inner, repeats),
            "choice" => self.choice(declared, content, inner),
            "group" => {
                let name = node.attribute("ref").and_then(|name| declared.resolve(name));
                let Some(group) = name.and_then(|name| self.components.find(Kind::Group, &name)) else { return };
                for part in group.node.children().filter(|child| child.name.namespace() == XSD) {
                    self.add(group.at(part), content, inner);
                }
            }
            "any" => content.open(),
            "attribute" => self.attribute(declared, content),
            "attributeGroup" => {
                let name = node.attribute("ref").and_then(|name| declared.resolve(name));
                let Some(group) = name.and_then(|name| self.components.find(Kind::AttributeGroup, &name)) else {
                    return;
                };
                for part in group.node.children().filter(|child| child.name.namespace() == XSD) {
                    self.add(group.at(part), content, inner);
                }
            }
            "anyAttribute" => content.any_attributes = true,
            _ => {}
        }
    }

    fn sequence(&mut self, declared: Component<'a>, content: &mut Content, inner: Around, repeats: bool) {
        let before = content.children.len();
        for part in declared.node.children().filter(|child| child.name.namespace() == XSD) {
            self.add(declared.at(part), content, inner);
        }
        let added = content.children.get(before..).unwrap_or_default();
        let elements: Vec<_> = added
            .iter()
            .filter_map(|child| match child {
                ChildSpec::Element(element) => Some(element.clone()),
                _ => None,
            })
            .collect();
        // What repeats as a whole is written in turns.
        if repeats && elements.len() > 1 && elements.len() == added.len() {
            content.children.truncate(before);
            content.children.push(ChildSpec::Repeat { repeat: elements });
        }
    }

    fn choice(&mut self, declared: Component<'a>, content: &mut Content, inner: Around) {
        let mut alternatives = Vec::new();
        let mut is_plain = !inner.many;
        for part in
            declared.node.children().filter(|child| child.name.namespace() == XSD && child.name.local != "annotation")
        {
            let before: HashSet<_> = content.properties.keys().cloned().collect();
            self.add(declared.at(part), content, Around { optional: true, ..inner });
            let added = content.properties.keys().filter(|name| !before.contains(*name));
            let added: Vec<_> = added.map(|name| json!({"required": [name]})).collect();
            is_plain &= plain_elements(part) == Some(added.len());
            alternatives.push(json!({"anyOf": added}));
        }
        if is_plain && alternatives.len() > 1 {
            if inner.optional {
                alternatives.push(json!({"not": {"anyOf": alternatives.clone()}}));
            }
            content.constraints.push(json!({"oneOf": alternatives}));
        }
    }

    fn element(&mut self, declared: Component<'a>, content: &mut Content, around: Around) {
        let node = declared.node;
        let Some(reference) = node.attribute("ref") else {
            let local = node.attribute("name").unwrap_or_default().trim();
            let is_qualified = match node.attribute("form") {
                Some(form) => form == "qualified",
                None => declared.schema.qualifies("elementFormDefault"),
            };
            let namespace = if is_qualified { declared.schema.target.clone() } else { String::new() };
            let (of, schema) = self.type_use(declared, around.steps);
            let spec = ElementSpec {
                name: local.to_owned(),
                namespace: Some(namespace),
                of: Some(of),
                nillable: node.attribute("nillable") == Some("true"),
                value: node.attribute("fixed").filter(|_| !around.optional).map(Value::from),
                ..ElementSpec::default()
            };
            let schema = nullable(schema, spec.nillable);
            return content.push(Described { spec, schema }, around);
        };
        let Some(name) = declared.resolve(reference) else { return content.open() };
        let Some(head) = self.components.find(Kind::Element, &name) else {
            self.lose(format!("the element {:?} is not declared; it is taken as it comes", name.local));
            return content.open();
        };
        let substitutes = self.components.substitutes(&name);
        self.work += substitutes.len();
        let inner = Around { optional: around.optional || !substitutes.is_empty(), ..around };
        if head.node.attribute("abstract") != Some("true") {
            let described = self.global_element(head);
            content.push(described, inner);
        }
        for substitute in substitutes.iter().filter_map(|name| self.components.find(Kind::Element, name)) {
            let described = self.global_element(substitute);
            content.push(described, inner);
        }
    }

    fn attribute(&mut self, declared: Component<'a>, content: &mut Content) {
        let node = declared.node;
        if node.attribute("use") == Some("prohibited") {
            return;
        }
        let by_reference = node.attribute("ref").and_then(|name| declared.resolve(name));
        let (name, found) = match &by_reference {
            Some(name) => (name.clone(), self.components.find(Kind::Attribute, name).unwrap_or(declared)),
            None => {
                let is_qualified = match node.attribute("form") {
                    Some(form) => form == "qualified",
                    None => declared.schema.qualifies("attributeFormDefault"),
                };
                let target = if is_qualified { declared.schema.target.as_str() } else { "" };
                (Name::new(target, node.attribute("name").unwrap_or_default()), declared)
            }
        };
        let simple = match (found.node.child(XSD, "simpleType"), found.node.attribute("type")) {
            (Some(inline), _) => Simple::of(self.components, found.at(inline)),
            (None, Some(name)) => {
                found.resolve(name).and_then(|name| Simple::named(self.components, &name)).unwrap_or_else(Simple::text)
            }
            (None, None) => Simple::text(),
        };
        let fixed = node.attribute("fixed").or(found.node.attribute("fixed"));
        let is_required = node.attribute("use") == Some("required");
        let member = format!("@{}", name.local);
        if name.local.is_empty() || !content.members.insert(member.clone()) {
            return;
        }
        content.attributes.push(AttributeSpec {
            name: name.local.clone(),
            namespace: name.namespace.as_deref().map(str::to_owned),
            of: (simple.built_in != "string").then(|| format!("xs:{}", simple.built_in)),
            value: fixed.filter(|_| is_required).map(Value::from),
        });
        if is_required && fixed.is_none() {
            content.required.push(member.clone());
        }
        content.properties.insert(member, simple.schema);
    }
}

/// How many elements an alternative of a choice is, where it is nothing but elements, of which
/// some must be there: then it can be told from the others.
fn plain_elements(part: &Element) -> Option<usize> {
    let is_wanted = |node: &Element| node.attribute("minOccurs") != Some("0");
    let elements: Vec<_> = match part.name.local.as_str() {
        "element" => vec![part],
        "sequence" if is_wanted(part) => part.children().filter(|child| child.name.local != "annotation").collect(),
        _ => return None,
    };
    let all_are = elements.iter().all(|node| node.name.is(XSD, "element"));
    (all_are && elements.iter().any(|node| is_wanted(node))).then_some(elements.len())
}
