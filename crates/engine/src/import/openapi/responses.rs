//! The answers of an operation: what success is, and the schema of its result.

use serde_json::{Value, json};

use super::documents::Node;
use super::media::{MediaKind, MediaType};
use super::operation::Draft;
use super::schema::{Direction, SchemaMaker, Translated};
use super::{Dialect, Source};
use crate::import::FindingKind::Simplified;

/// Headers that tell of a limit.
const LIMIT_HEADERS: [&str; 7] = [
    "ratelimit",
    "ratelimit-remaining",
    "ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-limit",
    "x-rate-limit-remaining",
    "retry-after",
];
const MAX_ALTERNATIVES: usize = 4;

/// What an operation may answer.
pub(super) struct Responses<'a> {
    /// Status and answer, references followed.
    all: Vec<(&'a str, Node<'a>)>,
    /// What the answers of 2.0 are written in.
    produces: Vec<MediaType<'a>>,
}

impl<'a> Responses<'a> {
    pub(super) fn of(source: &Source<'a>, operation: Node<'a>, draft: &mut Draft) -> Self {
        let mut all = Vec::new();
        for (status, node) in operation.members_of("responses") {
            match source.documents.follow(node) {
                Ok(node) => all.push((status, node)),
                Err(message) => draft.find(Simplified, format!("the answer {status} is left out: {message}")),
            }
        }
        all.sort_by_key(|(status, _)| *status);
        let produces = operation.get("produces").or_else(|| source.documents.root().get("produces"));
        let produces = produces.and_then(|names| names.value.as_array()).into_iter().flatten();
        Self { all, produces: produces.filter_map(Value::as_str).map(MediaType::parse).collect() }
    }

    /// The answers that are success; the default one where there is no other.
    fn successes(&self) -> impl Iterator<Item = Node<'a>> {
        let has_status = self.all.iter().any(|(status, _)| status.starts_with('2'));
        let redirects = self.all.iter().any(|(status, _)| status.starts_with('3'));
        let fits = move |status: &str| status.starts_with('2') || (status == "default" && !has_status && !redirects);
        self.all.iter().filter(move |(status, _)| fits(status)).map(|(_, node)| *node)
    }

    /// What an answer holds: media types with their schemas.
    fn content(&self, source: &Source<'a>, answer: Node<'a>) -> Vec<(MediaType<'a>, Option<Node<'a>>)> {
        if source.dialect != Dialect::V2 {
            let content = answer.members_of("content");
            return content.map(|(name, node)| (MediaType::parse(name), node.get("schema"))).collect();
        }
        let Some(schema) = answer.get("schema") else { return Vec::new() };
        if self.produces.is_empty() {
            return vec![(MediaType::parse("application/json"), Some(schema))];
        }
        self.produces.iter().map(|media_type| (*media_type, Some(schema))).collect()
    }

    /// The schema of the first success that is JSON.
    pub(super) fn first_json(&self, source: &Source<'a>) -> Option<(Node<'a>, Node<'a>)> {
        self.successes().find_map(|answer| Some((answer, self.json_schema(source, answer)?)))
    }

    fn json_schema(&self, source: &Source<'a>, answer: Node<'a>) -> Option<Node<'a>> {
        self.content(source, answer).into_iter().find(|(media_type, _)| media_type.kind == MediaKind::Json)?.1
    }

    /// Sets what the operation asks for and how it takes redirects.
    pub(super) fn bind(&self, verb: &str, draft: &mut Draft) {
        let has_success = self.all.iter().any(|(status, _)| status.starts_with('2') || *status == "default");
        let redirects = |status: &str| matches!(status, "301" | "302" | "303" | "307" | "308");
        if verb == "GET" && !has_success && self.all.iter().any(|(status, _)| redirects(status)) {
            // Downloads lie on other hosts; the credential stays behind.
            draft.operation.insert("redirects".to_owned(), "follow".into());
        }
    }

    /// The `Accept` header, where the usual one would ask for something else than is offered.
    pub(super) fn bind_accept(&self, source: &Source<'a>, draft: &mut Draft) {
        let offered: Vec<MediaType<'a>> = self
            .successes()
            .flat_map(|answer| self.content(source, answer))
            .map(|(media_type, _)| media_type)
            .filter(|media_type| !media_type.name.contains('*') && http::HeaderValue::from_str(media_type.name).is_ok())
            .collect();
        if offered.is_empty() || offered.iter().any(|other| other.name.starts_with("application/json")) {
            return;
        }
        let mut names: Vec<&str> = Vec::new();
        for media_type in offered {
            if !names.contains(&media_type.name) && names.len() < MAX_ALTERNATIVES && media_type.name.len() <= 200 {
                names.push(media_type.name);
            }
        }
        if !names.is_empty() {
            draft.operation.insert("accept".to_owned(), names.join(", ").into());
        }
    }

    /// Whether the answers tell of a limit.
    pub(super) fn tell_of_limits(&self) -> bool {
        let tells = |node: &Node<'a>| {
            node.members_of("headers").any(|(name, _)| LIMIT_HEADERS.contains(&name.to_ascii_lowercase().as_str()))
        };
        self.all.iter().any(|(status, node)| *status == "429" || tells(node))
    }

    /// The schema of the result: of the success that is JSON, or of all of them.
    pub(super) fn result_schema(&self, source: &Source<'a>, verb: &str, room: usize) -> Translated {
        let anything = Translated { schema: json!({}), lost: Vec::new() };
        let mut described = Vec::new();
        let mut is_empty_too = false;
        for answer in self.successes() {
            match self.json_schema(source, answer) {
                Some(schema) => described.push(schema),
                // A text or a file fits no schema of JSON.
                None if !self.content(source, answer).is_empty() => return anything,
                None => is_empty_too = true,
            }
        }
        described.dedup_by(|one, other| one.value == other.value);
        if described.is_empty() || described.len() > MAX_ALTERNATIVES || verb == "HEAD" || room == 0 {
            return anything;
        }
        let mut schemas = SchemaMaker::new(source.documents, source.dialect, Direction::Answer, room);
        let mut parts: Vec<Value> = described.into_iter().map(|schema| schemas.part(schema)).collect();
        if is_empty_too {
            parts.push(json!({"type": "null"}));
        }
        let root = match parts.len() {
            1 => parts.remove(0),
            _ => json!({"anyOf": parts}),
        };
        schemas.finish(if root == Value::Bool(true) { json!({}) } else { root })
    }
}
