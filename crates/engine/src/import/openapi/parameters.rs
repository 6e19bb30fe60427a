//! Parameters as params of a method, bound to the places where they go.

use serde_json::{Map, Value, json};

use super::documents::Node;
use super::naming::{UniqueNames, variable_name};
use super::operation::Draft;
use super::schema::{SchemaMaker, shortened};
use super::{Dialect, Source};
use crate::import::FindingKind::{Note, Simplified};

/// The most parameters of one operation.
const MAX_PARAMETERS: usize = 500;
/// The longest name, in bytes.
const MAX_NAME: usize = 256;
/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 600;

/// Headers that OpenAPI does not describe as parameters, and those that are made for each
/// request.
const PASSED_OVER: [&str; 14] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that surely carry an idempotency key.
const IDEMPOTENCY_KEYS: [&str; 2] = ["idempotency-key", "x-idempotency-key"];

/// One parameter, references followed.
#[derive(Clone, Copy)]
pub(super) struct Parameter<'a> {
    pub(super) node: Node<'a>,
    pub(super) name: &'a str,
    pub(super) place: &'a str,
}

/// The parameters of an operation: its own, and those of its path that it does not replace.
pub(super) fn of_operation<'a>(
    source: &Source<'a>,
    item: Node<'a>,
    operation: Node<'a>,
    draft: &mut Draft,
) -> Vec<Parameter<'a>> {
    let mut parameters: Vec<Parameter<'a>> = Vec::new();
    for node in item.items_of("parameters").chain(operation.items_of("parameters")) {
        let node = match source.documents.follow(node) {
            Ok(node) => node,
            Err(message) => {
                draft.find(Simplified, format!("a parameter is left out: {message}"));
                continue;
            }
        };
        let (Some(name), Some(place)) = (node.text("name"), node.text("in")) else {
            draft.find(Simplified, "a parameter without name or place is left out");
            continue;
        };
        let parameter = Parameter { node, name, place };
        match parameters.iter().position(|known| known.name == name && known.place == place) {
            Some(index) => parameters[index] = parameter,
            None if parameters.len() >= MAX_PARAMETERS => {
                draft.find(Simplified, format!("parameters beyond {MAX_PARAMETERS} are left out"));
                break;
            }
            None => parameters.push(parameter),
        }
    }
    parameters
}

impl Parameter<'_> {
    fn is_required(&self) -> bool {
        self.place == "path" || self.node.flag("required") == Some(true)
    }
}

/// How a value of several parts is written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Style<'a> {
    name: &'a str,
    explode: bool,
}

fn style<'a>(dialect: Dialect, parameter: &Parameter<'a>, draft: &mut Draft) -> Style<'a> {
    let usual = if matches!(parameter.place, "query" | "cookie") { "form" } else { "simple" };
    if dialect == Dialect::V2 {
        let (name, explode) = match parameter.node.text("collectionFormat") {
            Some("multi") => ("form", true),
            Some("ssv") => ("spaceDelimited", false),
            Some("pipes") => ("pipeDelimited", false),
            Some("tsv") => {
                draft.find(Simplified, format!("the items of {:?} are separated by commas, not tabs", parameter.name));
                (usual, false)
            }
            _ => (usual, false),
        };
        return Style { name, explode };
    }
    let name = parameter.node.text("style").unwrap_or(usual);
    Style { name, explode: parameter.node.flag("explode").unwrap_or(name == "form") }
}

/// Binds the parameters of path, query, headers and cookies.
pub(super) fn bind<'a>(
    source: &Source<'a>,
    parameters: &[Parameter<'a>],
    schemas: &mut SchemaMaker<'a>,
    path: &str,
    draft: &mut Draft,
) {
    let mut template = Template { text: path.to_owned(), bound: Vec::new() };
    // Names in the path come first: they are what a caller is sure to give.
    let (in_path, elsewhere): (Vec<&Parameter<'a>>, Vec<&Parameter<'a>>) =
        parameters.iter().partition(|parameter| parameter.place == "path");
    for parameter in in_path {
        if !template.text.contains(&format!("{{{}}}", parameter.name)) {
            draft.find(Note, format!("the path does not have the parameter {:?}", parameter.name));
            continue;
        }
        let name = draft.name(variable_name(parameter.name), parameter.name);
        let style = style(source.dialect, parameter, draft);
        let operator = match style.name {
            "label" => ".",
            "matrix" => ";",
            // Said by some descriptions of values that hold slashes.
            _ if parameter.node.flag("x-multi-segment") == Some(true) => "+",
            _ => "",
        };
        let explode =
            if style.explode && source.is_composite(schema_of(source.dialect, parameter.node)) { "*" } else { "" };
        template.bind(parameter.name, &format!("{{{operator}{name}{explode}}}"));
        declare(source, parameter, &name, schemas, draft);
    }
    for wire_name in template.unbound() {
        let name = draft.name(variable_name(&wire_name), &wire_name);
        template.bind(&wire_name, &format!("{{{name}}}"));
        draft.find(Note, format!("the path's {wire_name:?} is not described; it is taken for a text"));
        draft.declare(&name, json!({"type": "string"}), true);
    }
    draft.operation.insert("path".to_owned(), template.text.into());
    let mut bindings = Bindings::default();
    for parameter in elsewhere {
        bindings.bind(source, parameter, schemas, draft);
    }
    for (field, map) in [("query", bindings.query), ("headers", bindings.headers), ("cookies", bindings.cookies)] {
        if !map.is_empty() {
            draft.operation.insert(field.to_owned(), Value::Object(map));
        }
    }
}

#[derive(Default)]
struct Bindings {
    query: Map<String, Value>,
    headers: Map<String, Value>,
    cookies: Map<String, Value>,
}

impl Bindings {
    fn bind<'a>(
        &mut self,
        source: &Source<'a>,
        parameter: &Parameter<'a>,
        schemas: &mut SchemaMaker<'a>,
        draft: &mut Draft,
    ) {
        let wire_name = parameter.name;
        let lower = wire_name.to_ascii_lowercase();
        match parameter.place {
            "query" | "header" | "cookie" => {}
            // Read with the body.
            "body" | "formData" => return,
            other => return draft.find(Simplified, format!("the parameter {wire_name:?} in {other:?} is left out")),
        }
        if wire_name.is_empty() || wire_name.len() > MAX_NAME {
            return draft.find(Simplified, format!("a parameter is left out: its name has not 1 to {MAX_NAME} bytes"));
        }
        if parameter.place != "query" && http::HeaderName::from_bytes(wire_name.as_bytes()).is_err() {
            return draft.find(
                Simplified,
                format!("the parameter {wire_name:?} is left out: it is no name of a {}", parameter.place),
            );
        }
        if parameter.place == "header" && PASSED_OVER.contains(&lower.as_str()) {
            return;
        }
        if parameter.place == "header" && IDEMPOTENCY_KEYS.contains(&lower.as_str()) {
            draft.operation.insert("idempotencyKeyHeader".to_owned(), wire_name.into());
            return draft.find(Note, format!("{wire_name} carries the idempotency key, the same on every attempt"));
        }
        let name = draft.name(wire_name.to_owned(), wire_name);
        let style = style(source.dialect, parameter, draft);
        let schema = schema_of(source.dialect, parameter.node);
        match parameter.place {
            "query" => {
                let (wire_name, binding) = query_binding(source, wire_name, &name, style, schema);
                self.query.insert(wire_name, binding);
            }
            "header" => {
                if style.explode && source.has_type(schema, "object") {
                    draft.find(Simplified, format!("the header {wire_name:?} is written as name,value pairs"));
                }
                self.headers.insert(wire_name.to_owned(), name.as_str().into());
            }
            _ => drop(self.cookies.insert(wire_name.to_owned(), name.as_str().into())),
        }
        declare(source, parameter, &name, schemas, draft);
    }
}

/// What stands in the query for a param, and how it is written there.
fn query_binding<'a>(
    source: &Source<'a>,
    wire_name: &str,
    name: &str,
    style: Style<'_>,
    schema: Option<Node<'a>>,
) -> (String, Value) {
    let plain = (wire_name.to_owned(), Value::from(name));
    match style {
        Style { name: "form", explode: true } => plain,
        // An array there has no form of its own; brackets are what systems take that say so.
        Style { name: "deepObject", .. } if source.has_type(schema, "array") => {
            (format!("{}[]", wire_name.trim_end_matches("[]")), name.into())
        }
        _ if !source.is_composite(schema) => plain,
        Style { name: style @ ("form" | "spaceDelimited" | "pipeDelimited"), explode } => {
            (wire_name.to_owned(), json!({"param": name, "style": style, "explode": explode}))
        }
        Style { name: "deepObject", .. } => (wire_name.to_owned(), json!({"param": name, "style": "deepObject"})),
        _ => plain,
    }
}

/// The schema of a parameter; in 2.0 the parameter itself says what it is.
pub(super) fn schema_of<'a>(dialect: Dialect, parameter: Node<'a>) -> Option<Node<'a>> {
    if dialect == Dialect::V2 { Some(parameter) } else { parameter.get("schema") }
}

fn declare<'a>(
    source: &Source<'a>,
    parameter: &Parameter<'a>,
    name: &str,
    schemas: &mut SchemaMaker<'a>,
    draft: &mut Draft,
) {
    let mut schema = match (schema_of(source.dialect, parameter.node), parameter.node.get("content")) {
        (Some(schema), _) => schemas.part(schema),
        (None, Some(_)) => {
            draft.find(Simplified, format!("{:?} is given as the text of its media type", parameter.name));
            json!({"type": "string"})
        }
        (None, None) => json!({}),
    };
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Value::Object(keywords) = &mut schema {
        if let Some(description) = parameter.node.text("description").and_then(|text| shortened(text, MAX_DESCRIPTION))
        {
            keywords.insert("description".to_owned(), description);
        }
        if parameter.node.flag("deprecated") == Some(true) {
            keywords.insert("deprecated".to_owned(), true.into());
        }
    }
    draft.declare(name, schema, parameter.is_required());
}

/// A path on its way to a URI template.
struct Template {
    text: String,
    /// Expressions that are written already.
    bound: Vec<String>,
}

impl Template {
    fn bind(&mut self, wire_name: &str, expression: &str) {
        self.text = self.text.replace(&format!("{{{wire_name}}}"), expression);
        self.bound.push(expression.to_owned());
    }

    /// The names in braces that stand for no param yet.
    fn unbound(&self) -> Vec<String> {
        let mut names = UniqueNames::default();
        let mut found = Vec::new();
        for piece in self.text.split('{').skip(1) {
            let Some((name, _)) = piece.split_once('}') else { continue };
            let is_bound = self.bound.iter().any(|expression| expression.trim_matches(['{', '}']) == name);
            if !is_bound && names.take(name.to_owned()) == name {
                found.push(name.to_owned());
            }
        }
        found
    }
}
