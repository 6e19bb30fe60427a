//! Elements and types of schemas as the model of the `soap` adapter, and as JSON Schema: both
//! in one walk, so that they agree.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::components::{Component, Components, Kind};
use super::content::{Around, Content, Described};
use super::simple::Simple;
use crate::adapter::soap::model::{ANY, ChildSpec, ElementSpec, SchemaName, TypeSpec, TypeUse};
use crate::http_client::UNRESERVED;
use crate::xml::{Element, Name, XSD};

/// How deep groups, bases and types in place are followed.
const MAX_STEPS: usize = 40;
/// From this many types of one operation on, those that only derive from others are left out.
const MAX_TYPES: usize = 150;
/// The most declarations that one operation needs: groups within groups can be many.
pub(super) const MAX_WORK: usize = 200_000;
/// The most that is told of one operation.
const MAX_LOST: usize = 50;
/// The most types of one operation.
const MAX_ALL_TYPES: usize = 1_500;

/// Translates what one operation needs.
pub(super) struct Types<'a> {
    pub(super) components: &'a Components<'a>,
    pub(super) types: BTreeMap<String, TypeSpec>,
    /// The schemas of the types, by the same keys.
    pub(super) schemas: Map<String, Value>,
    keys: HashMap<(Kind, Name), String>,
    waiting: VecDeque<(Kind, Name, String)>,
    /// What was left out.
    pub(super) lost: Vec<String>,
    /// How many declarations were looked at.
    pub(super) work: usize,
}

impl<'a> Types<'a> {
    pub(super) fn new(components: &'a Components<'a>) -> Self {
        Self {
            components,
            types: BTreeMap::new(),
            schemas: Map::new(),
            keys: HashMap::new(),
            waiting: VecDeque::new(),
            lost: Vec::new(),
            work: 0,
        }
    }

    /// A global element.
    pub(super) fn global(&mut self, name: &Name) -> Option<Described> {
        let declared = self.components.find(Kind::Element, name)?;
        let described = self.global_element(declared);
        self.finish();
        Some(described)
    }

    /// A part of a message that names a type.
    pub(super) fn part(&mut self, part: &str, type_name: &Name) -> Described {
        let (of, schema) = self.named(type_name, MAX_STEPS);
        self.finish();
        let spec = ElementSpec {
            name: part.to_owned(),
            namespace: Some(String::new()),
            of: Some(of),
            ..ElementSpec::default()
        };
        Described { spec, schema }
    }

    /// Translates the types that were named on the way.
    fn finish(&mut self) {
        while let Some((kind, name, key)) = self.waiting.pop_front() {
            let (spec, schema) = match self.components.find(kind, &name) {
                Some(declared) if kind == Kind::Type => self.type_of(declared, &name, &key),
                Some(declared) => match declared.node.child(XSD, "complexType") {
                    Some(inline) => self.complex(declared.at(inline), MAX_STEPS),
                    None => (open_type(), json!({})),
                },
                None => (open_type(), json!({})),
            };
            self.types.insert(key.clone(), spec);
            self.schemas.insert(key, schema);
        }
    }

    /// The key of a type that is translated when its turn comes.
    fn key(&mut self, kind: Kind, name: &Name) -> Option<String> {
        let place = (kind, name.clone());
        if let Some(key) = self.keys.get(&place) {
            return Some(key.clone());
        }
        if self.keys.len() >= MAX_ALL_TYPES {
            self.lose(format!(
                "there are more than {MAX_ALL_TYPES} types; from there on values are taken as they come"
            ));
            return None;
        }
        let taken: HashSet<_> = self.keys.values().collect();
        let key = std::iter::once(name.local.clone())
            .chain((2_usize..).map(|number| format!("{}{number}", name.local)))
            .find(|key| !taken.contains(key))?;
        self.keys.insert(place, key.clone());
        self.waiting.push_back((kind, name.clone(), key.clone()));
        Some(key)
    }

    pub(super) fn lose(&mut self, message: String) {
        if self.lost.len() < MAX_LOST && !self.lost.contains(&message) {
            self.lost.push(message);
        }
    }

    /// A complex type of a name, and those that may stand in its place.
    fn type_of(&mut self, declared: Component<'a>, name: &Name, key: &str) -> (TypeSpec, Value) {
        let (mut spec, mut schema) = self.complex(declared, MAX_STEPS);
        let own_name = declared.node.attribute("name").unwrap_or(&name.local).to_owned();
        let is_abstract = declared.node.attribute("abstract") == Some("true");
        let derived = self.components.derived(name);
        self.work += derived.len();
        let has_base = declared.node.child(XSD, "complexContent").is_some();
        if derived.is_empty() && !is_abstract && !has_base {
            return (spec, schema);
        }
        spec.schema_name = Some(SchemaName { namespace: declared.schema.target.clone(), name: own_name });
        spec.is_abstract = is_abstract;
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("@xsi:type".to_owned(), json!({"const": key}));
        }
        for name in &derived {
            if self.keys.len() >= MAX_TYPES && !self.keys.contains_key(&(Kind::Type, name.clone())) {
                self.lose(format!("there are many types; some that derive from {key} are left out"));
                break;
            }
            spec.derived.extend(self.key(Kind::Type, name));
        }
        if !spec.derived.is_empty() {
            let demanding = |key: &String| json!({"$ref": reference(key), "required": ["@xsi:type"]});
            let own = if is_abstract { None } else { Some(json!({"$ref": reference(key)})) };
            let choices: Vec<_> = own.into_iter().chain(spec.derived.iter().map(demanding)).collect();
            self.schemas.insert(any_of_key(key), json!({"anyOf": choices}));
        } else if is_abstract {
            self.schemas.insert(any_of_key(key), json!({}));
        }
        (spec, schema)
    }

    /// The use of a type by its name.
    fn named(&mut self, name: &Name, steps: usize) -> (TypeUse, Value) {
        let any = || (TypeUse::Named(ANY.to_owned()), json!({}));
        if let Some(Simple { built_in, schema }) = Simple::named(self.components, name) {
            return (TypeUse::Named(format!("xs:{built_in}")), schema);
        }
        let found = self.components.find(Kind::Type, name);
        if name.namespace() == XSD || steps == 0 {
            return any();
        }
        let Some(found) = found else {
            // Some schemas name an element where they mean its type.
            if let Some(element) = self.components.find(Kind::Element, name) {
                return self.type_use(element, steps - 1);
            }
            self.lose(format!("the type {:?} is not declared; values of it are taken as they come", name.local));
            return any();
        };
        let Some(key) = self.key(Kind::Type, name) else { return any() };
        let is_abstract = found.node.attribute("abstract") == Some("true");
        let has_choices = is_abstract || self.components.has_derived(name);
        let schema_key = if has_choices { any_of_key(&key) } else { key.clone() };
        (TypeUse::Named(key), json!({"$ref": reference(&schema_key)}))
    }

    pub(super) fn global_element(&mut self, declared: Component<'a>) -> Described {
        let local = declared.node.attribute("name").unwrap_or_default();
        let name = Name::new(&declared.schema.target, local);
        // What contains itself by reference must not be written in place of itself.
        let in_place = declared.node.child(XSD, "complexType").is_some();
        let (of, schema) = match in_place.then(|| self.key(Kind::Element, &name)).flatten() {
            Some(key) => {
                let schema = json!({"$ref": reference(&key)});
                (TypeUse::Named(key), schema)
            }
            None => self.type_use(declared, MAX_STEPS),
        };
        let spec = ElementSpec {
            name: local.to_owned(),
            namespace: Some(declared.schema.target.clone()),
            of: Some(of),
            nillable: declared.node.attribute("nillable") == Some("true"),
            ..ElementSpec::default()
        };
        Described { schema: nullable(schema, spec.nillable), spec }
    }

    /// The type that an element's declaration gives it.
    pub(super) fn type_use(&mut self, declared: Component<'a>, steps: usize) -> (TypeUse, Value) {
        if steps == 0 {
            return (TypeUse::Named(ANY.to_owned()), json!({}));
        }
        if let Some(inline) = declared.node.child(XSD, "complexType") {
            let (spec, schema) = self.complex(declared.at(inline), steps - 1);
            return (TypeUse::Inline(Box::new(spec)), schema);
        }
        if let Some(inline) = declared.node.child(XSD, "simpleType") {
            let simple = Simple::of(self.components, declared.at(inline));
            return (TypeUse::Named(format!("xs:{}", simple.built_in)), simple.schema);
        }
        let named = declared.node.attribute("type").and_then(|name| declared.resolve(name));
        if let Some(name) = named {
            return self.named(&name, steps - 1);
        }
        // A member of a substitution group is of the type of its head.
        let head = declared.node.attribute("substitutionGroup").and_then(|name| declared.resolve(name));
        match head.and_then(|head| self.components.find(Kind::Element, &head)) {
            Some(head) => self.type_use(head, steps - 1),
            None => (TypeUse::Named(ANY.to_owned()), json!({})),
        }
    }

    fn complex(&mut self, declared: Component<'a>, steps: usize) -> (TypeSpec, Value) {
        let mut content = Content::default();
        self.gather(declared, &mut content, steps);
        let is_qualified = declared.schema.qualifies("elementFormDefault");
        content.finish(if is_qualified { &declared.schema.target } else { "" })
    }

    /// Adds what a complex type holds, what it comes of first.
    fn gather(&mut self, declared: Component<'a>, content: &mut Content, steps: usize) {
        if steps == 0 {
            content.is_open = true;
            return;
        }
        if declared.node.attribute("mixed") == Some("true") {
            content.text.get_or_insert_with(Simple::text);
        }
        for part in declared.node.children().filter(|child| child.name.namespace() == XSD) {
            match part.name.local.as_str() {
                "simpleContent" => self.derive(declared.at(part), content, true, steps - 1),
                "complexContent" => {
                    if part.attribute("mixed") == Some("true") {
                        content.text.get_or_insert_with(Simple::text);
                    }
                    self.derive(declared.at(part), content, false, steps - 1);
                }
                _ => self.add(declared.at(part), content, Around { optional: false, many: false, steps: steps - 1 }),
            }
        }
    }

    fn derive(&mut self, declared: Component<'a>, content: &mut Content, is_simple: bool, steps: usize) {
        let how = declared.node.children().find(|part| matches!(part.name.local.as_str(), "extension" | "restriction"));
        let Some(part) = how.filter(|_| steps > 0) else { return };
        let is_extension = part.name.local == "extension";
        let derivation = declared.at(part);
        let base = part.attribute("base").and_then(|base| derivation.resolve(base));
        if let Some(base) = base {
            if let Some(simple) = Simple::named(self.components, &base) {
                content.text = Some(simple);
            } else if base.namespace() == super::SOAP_ENCODING {
                content.is_open = true;
                content.children.push(ChildSpec::Any { any: true });
                content.any_attributes = true;
            } else if base.namespace() != XSD {
                match self.components.find(Kind::Type, &base) {
                    Some(found) if is_extension || is_simple => self.gather(found, content, steps - 1),
                    // A restriction repeats what stays of the elements, not of the attributes.
                    Some(found) => {
                        let mut whole = Content::default();
                        self.gather(found, &mut whole, steps - 1);
                        content.take_attributes(whole);
                    }
                    None => {
                        self.lose(format!(
                            "the type {:?} is not declared; what it holds is taken as it comes",
                            base.local
                        ));
                        content.open();
                    }
                }
            }
        }
        if is_simple && let Some(text) = &mut content.text {
            text.restrict(derivation);
        }
        if base_is_array(part) {
            return;
        }
        for child in part.children().filter(|child| child.name.namespace() == XSD) {
            self.add(derivation.at(child), content, Around { optional: false, many: false, steps });
        }
    }
}

/// Arrays of SOAP's encoding say in attributes what they hold.
fn base_is_array(derivation: &Element) -> bool {
    derivation
        .attribute("base")
        .and_then(|base| derivation.scope.resolve(base).ok())
        .is_some_and(|base| base.namespace() == super::SOAP_ENCODING)
}

fn open_type() -> TypeSpec {
    TypeSpec { children: vec![ChildSpec::Any { any: true }], any_attributes: true, ..TypeSpec::default() }
}

pub(super) fn nullable(schema: Value, nillable: bool) -> Value {
    if nillable { json!({"anyOf": [schema, {"type": "null"}]}) } else { schema }
}

/// A reference to the schema of a type, as a URL has it.
fn reference(key: &str) -> String {
    let token = key.replace('~', "~0").replace('/', "~1");
    format!("#/$defs/{}", utf8_percent_encode(&token, UNRESERVED))
}

/// The key that a reference leads to.
pub(super) fn key_of(reference: &str) -> Option<String> {
    let token = percent_decode_str(reference.strip_prefix("#/$defs/")?).decode_utf8().ok()?;
    Some(token.replace("~1", "/").replace("~0", "~"))
}

/// The schema of a type or of those that may stand in its place; no type is called so.
fn any_of_key(key: &str) -> String {
    format!("any {key}")
}
