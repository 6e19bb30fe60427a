//! One operation as a method.

use integration_model::definition::Method;
use serde_json::{Map, Value, json};

use super::documents::Node;
use super::naming::UniqueNames;
use super::responses::Responses;
use super::schema::{Direction, SchemaMaker, Translated};
use super::{Source, body, pagination, parameters};
use crate::import::FindingKind::{self, Simplified};

/// The most keywords of what a method asks for. Beyond, values are not looked at.
const PARAM_ROOM: usize = 6_000;
/// The longest description of a method, in characters.
const MAX_DESCRIPTION: usize = 1_500;

/// An operation of the document.
#[derive(Clone, Copy)]
pub(super) struct OperationNode<'a> {
    pub(super) path: &'a str,
    pub(super) verb: &'static str,
    /// What the operations of the path have in common.
    pub(super) item: Node<'a>,
    pub(super) node: Node<'a>,
}

/// A method in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) operation: Map<String, Value>,
    names: UniqueNames,
    properties: Map<String, Value>,
    required: Vec<String>,
    pub(super) findings: Vec<(FindingKind, String)>,
}

impl Draft {
    pub(super) fn find(&mut self, kind: FindingKind, message: impl Into<String>) {
        self.findings.push((kind, message.into()));
    }

    /// A name for a param; told where it is not the one on the wire.
    pub(super) fn name(&mut self, wanted: String, wire_name: &str) -> String {
        let name = self.names.take(wanted);
        if name != wire_name && name != "body" {
            self.find(FindingKind::Note, format!("{wire_name:?} is the param {name:?}"));
        }
        name
    }

    pub(super) fn declare(&mut self, name: &str, schema: Value, is_required: bool) {
        self.properties.insert(name.to_owned(), schema);
        if is_required {
            self.required.push(name.to_owned());
        }
    }

    pub(super) fn constant_header(&mut self, name: &str, value: &str) {
        let constants = self.operation.entry("constants").or_insert_with(|| json!({"headers": {}}));
        constants["headers"][name] = value.into();
    }

    fn param_schema(&mut self) -> Value {
        let mut schema = json!({"type": "object", "additionalProperties": false});
        if !self.required.is_empty() {
            schema["required"] = std::mem::take(&mut self.required).into();
        }
        if !self.properties.is_empty() {
            schema["properties"] = Value::Object(std::mem::take(&mut self.properties));
        }
        schema
    }
}

impl<'a> OperationNode<'a> {
    /// The operation as the document names it.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.verb, self.path)
    }

    /// The method of this operation, with what it says less than the document.
    pub(super) fn method(
        &self,
        source: &Source<'a>,
        name: String,
        result_room: usize,
    ) -> (Method, Vec<(FindingKind, String)>) {
        let mut draft = Draft::default();
        draft.operation.insert("verb".to_owned(), self.verb.into());
        let mut schemas = SchemaMaker::new(source.documents, source.dialect, Direction::Request, PARAM_ROOM);
        let found = parameters::of_operation(source, self.item, self.node, &mut draft);
        // A fragment tells operations of one path apart, and is never sent.
        let path = self.path.split('#').next().unwrap_or_default();
        let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
        parameters::bind(source, &found, &mut schemas, &path, &mut draft);
        body::bind(source, self.node, &found, &mut schemas, &mut draft);
        let responses = Responses::of(source, self.node, &mut draft);
        responses.bind(self.verb, &mut draft);
        responses.bind_accept(source, &mut draft);
        if self.verb == "GET"
            && let Some(pagination) = pagination::recognise(source, &found, &responses)
        {
            draft.operation.insert("pagination".to_owned(), pagination);
        }
        if self.node.get("callbacks").is_some() {
            draft.find(Simplified, "its callbacks are left out: take them by a definition of type webhook");
        }
        let param_schema = draft.param_schema();
        let Translated { schema: param_schema, lost } = schemas.finish(param_schema);
        lost.into_iter().for_each(|message| draft.find(Simplified, format!("paramSchema {message}")));
        let Translated { schema: result_schema, lost } = responses.result_schema(source, self.verb, result_room);
        lost.into_iter().for_each(|message| draft.find(Simplified, format!("resultSchema {message}")));
        let method = Method {
            name,
            description: self.description(),
            param_schema,
            result_schema,
            result_validation: Default::default(),
            operation: Value::Object(draft.operation),
            request_transform: None,
            response_transform: None,
            rate_limits: None,
            timeout_ms: None,
            retry_config: None,
            circuit_breaker: None,
            cache: None,
            // RFC 9110, section 9.2.2.
            idempotent: matches!(self.verb, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE"),
            deprecated: self.node.flag("deprecated") == Some(true),
        };
        (method, draft.findings)
    }

    fn description(&self) -> String {
        let text = |name| self.node.text(name).map(str::trim).unwrap_or_default();
        let (summary, description) = (text("summary"), text("description"));
        let whole = match (summary.is_empty(), description.is_empty() || description == summary) {
            (true, _) => description.to_owned(),
            (false, true) => summary.to_owned(),
            (false, false) => format!("{summary}\n\n{description}"),
        };
        if whole.chars().nth(MAX_DESCRIPTION).is_some() {
            return whole.chars().take(MAX_DESCRIPTION).chain(['…']).collect();
        }
        whole
    }
}
