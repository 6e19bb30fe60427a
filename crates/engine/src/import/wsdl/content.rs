//! What one complex type holds, while it is gathered: in both descriptions at once.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::simple::Simple;
use crate::adapter::soap::model::{AttributeSpec, ChildSpec, ElementSpec, TypeSpec};
use crate::xml::Name;

/// What a schema's element is in both descriptions.
pub(super) struct Described {
    pub(super) spec: ElementSpec,
    /// The schema of one value; that of an array is made of it.
    pub(super) schema: Value,
}

/// The content of one complex type while it is gathered.
#[derive(Default)]
pub(super) struct Content {
    pub(super) attributes: Vec<AttributeSpec>,
    pub(super) text: Option<Simple>,
    pub(super) children: Vec<ChildSpec>,
    /// The elements that there are already.
    pub(super) known: HashSet<Name>,
    pub(super) members: HashSet<String>,
    pub(super) properties: Map<String, Value>,
    pub(super) required: Vec<String>,
    pub(super) constraints: Vec<Value>,
    pub(super) any_attributes: bool,
    pub(super) is_open: bool,
}

/// In what a particle stands.
#[derive(Clone, Copy)]
pub(super) struct Around {
    pub(super) optional: bool,
    pub(super) many: bool,
    pub(super) steps: usize,
}

impl Content {
    pub(super) fn push(&mut self, described: Described, around: Around) {
        let Described { mut spec, schema } = described;
        let name = Name::new(spec.namespace.as_deref().unwrap_or_default(), &spec.name);
        if !self.known.insert(name.clone()) {
            // The same element at two places of the content: there may be several.
            return self.make_many(&name);
        }
        spec.many = around.many;
        spec.optional = around.optional;
        let member = std::iter::once(spec.name.clone())
            .chain((2_usize..).map(|number| format!("{}{number}", spec.name)))
            .find(|member| !self.members.contains(member))
            .unwrap_or_default();
        self.members.insert(member.clone());
        if member != spec.name {
            spec.member = Some(member.clone());
        }
        if !spec.optional && spec.value.is_none() {
            self.required.push(member.clone());
        }
        let schema = if spec.many { json!({"type": "array", "items": schema}) } else { schema };
        self.properties.insert(member, schema);
        self.children.push(ChildSpec::Element(spec));
    }

    fn make_many(&mut self, name: &Name) {
        for child in &mut self.children {
            let elements = match child {
                ChildSpec::Element(element) => std::slice::from_mut(element),
                ChildSpec::Repeat { repeat } => repeat.as_mut_slice(),
                ChildSpec::Any { .. } => continue,
            };
            let is_same =
                |element: &&mut ElementSpec| name.is(element.namespace.as_deref().unwrap_or_default(), &element.name);
            if let Some(element) = elements.iter_mut().find(is_same) {
                let member = element.member.as_ref().unwrap_or(&element.name);
                if !element.many
                    && let Some(schema) = self.properties.get_mut(member)
                {
                    let one = schema.take();
                    *schema = json!({"anyOf": [one, {"type": "array", "items": one}]});
                }
                element.many = true;
                return;
            }
        }
    }

    /// Takes whatever comes besides.
    pub(super) fn open(&mut self) {
        if !self.children.iter().any(|child| matches!(child, ChildSpec::Any { .. })) {
            self.children.push(ChildSpec::Any { any: true });
        }
        self.is_open = true;
    }

    pub(super) fn take_attributes(&mut self, whole: Self) {
        self.any_attributes |= whole.any_attributes;
        for attribute in whole.attributes {
            let member = format!("@{}", attribute.name);
            if self.members.insert(member.clone()) {
                if whole.required.contains(&member) {
                    self.required.push(member.clone());
                }
                let schema = whole.properties.get(&member).cloned().unwrap_or_default();
                self.properties.insert(member, schema);
                self.attributes.push(attribute);
            }
        }
    }

    pub(super) fn finish(mut self, usual: &str) -> (TypeSpec, Value) {
        let text = self.text.take();
        if let Some(text) = &text {
            self.properties.insert("#text".to_owned(), text.schema.clone());
        }
        let has_nothing_else = self.attributes.is_empty() && self.children.is_empty() && !self.any_attributes;
        let mut schema = json!({"type": "object", "properties": self.properties});
        if !self.required.is_empty() {
            schema["required"] = self.required.clone().into();
        }
        if !self.is_open && !self.any_attributes {
            schema["additionalProperties"] = false.into();
        }
        if !self.constraints.is_empty() {
            schema["allOf"] = self.constraints.into();
        }
        if let Some(text) = &text {
            if has_nothing_else {
                schema = text.schema.clone();
            } else if self.children.is_empty() && !self.required.iter().any(|name| name.starts_with('@')) {
                schema = json!({"anyOf": [text.schema, schema]});
            }
        }
        // Most children are in one namespace, which is then said once.
        let mut children = self.children;
        for element in children.iter_mut().flat_map(elements_of) {
            if element.namespace.as_deref() == Some(usual) {
                element.namespace = None;
            }
        }
        let spec = TypeSpec {
            namespace: Some(usual.to_owned()),
            attributes: self.attributes,
            text: text.map(|text| format!("xs:{}", text.built_in)),
            children,
            any_attributes: self.any_attributes,
            ..TypeSpec::default()
        };
        (spec, schema)
    }
}

fn elements_of(child: &mut ChildSpec) -> &mut [ElementSpec] {
    match child {
        ChildSpec::Element(element) => std::slice::from_mut(element),
        ChildSpec::Repeat { repeat } => repeat.as_mut_slice(),
        ChildSpec::Any { .. } => &mut [],
    }
}
