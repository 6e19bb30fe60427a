//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use integration_model::Problem;
use integration_model::definition::Method;
use integration_model::problem::push_pointer;
use serde::Deserialize;

use super::key::KeyTemplate;
use crate::adapter::http::spec::declared_params;
use crate::adapter::own_schema::OwnSchema;
use crate::adapter::template::Template;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Put,
    Get,
    List,
    Head,
    Delete,
    Copy,
    Presign,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::Copy => "copy",
            Self::Presign => "presign",
        }
    }

    /// Fields that it needs, and those that it may have.
    const fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Put => {
                (&["key"], &["content", "encoding", "contentType", "metadata", "ifMatch", "ifNoneMatch", "partBytes"])
            }
            Self::Get => (&["key"], &["decoding", "range", "ifMatch", "ifNoneMatch", "maxResponseBytes"]),
            Self::List => (&[], &["prefix", "delimiter", "pageSize"]),
            Self::Head => (&["key"], &["ifMatch", "ifNoneMatch"]),
            Self::Delete => (&["key"], &["ifMatch"]),
            Self::Copy => (&["key", "source"], &[]),
            Self::Presign => (&["key"], &["method", "expiresInSeconds", "contentType"]),
        }
    }

    /// Whether it leaves everything as it is.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Head | Self::Presign)
    }
}

/// How a param or an answer holds content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ContentForm {
    #[default]
    Base64,
    Text,
    Json,
}

/// What a presigned URL is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum PresignedVerb {
    #[default]
    Get,
    Put,
    Head,
    Delete,
}

impl PresignedVerb {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Head => "HEAD",
            Self::Delete => "DELETE",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    action: Action,
    key: Option<String>,
    content: Option<String>,
    #[serde(default)]
    encoding: ContentForm,
    content_type: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    #[serde(default = "default_part")]
    part_bytes: usize,
    #[serde(default)]
    decoding: ContentForm,
    range: Option<WrittenRange>,
    #[serde(default = "default_max_response")]
    max_response_bytes: usize,
    prefix: Option<String>,
    delimiter: Option<String>,
    #[serde(default = "default_page")]
    page_size: usize,
    source: Option<String>,
    #[serde(default)]
    method: PresignedVerb,
    #[serde(default = "default_expiry")]
    expires_in_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRange {
    first: String,
    last: Option<String>,
}

const fn default_part() -> usize {
    8 * 1024 * 1024
}

const fn default_max_response() -> usize {
    10 * 1024 * 1024
}

const fn default_page() -> usize {
    1000
}

const fn default_expiry() -> u64 {
    900
}

/// An operation, its texts parsed.
#[derive(Debug)]
pub(super) struct OperationSpec {
    pub(super) action: Action,
    /// An empty one where the action has none.
    pub(super) key: KeyTemplate,
    pub(super) source: KeyTemplate,
    /// The param that is the content, where it does not come beside the params alone.
    pub(super) content: Option<String>,
    pub(super) encoding: ContentForm,
    pub(super) content_type: Option<Template>,
    pub(super) metadata: Vec<(String, Template)>,
    pub(super) if_match: Option<Template>,
    pub(super) if_none_match: Option<Template>,
    pub(super) part_bytes: usize,
    pub(super) decoding: ContentForm,
    pub(super) range: Option<(Template, Option<Template>)>,
    pub(super) max_response_bytes: usize,
    pub(super) prefix: Template,
    pub(super) delimiter: Option<String>,
    pub(super) page_size: usize,
    pub(super) method: PresignedVerb,
    pub(super) expires_in: Duration,
}

impl OperationSpec {
    /// Reads a method's operation; all that is wrong with it at once.
    pub(super) fn read(method: &Method) -> Result<Self, Vec<Problem>> {
        let operation = &method.operation;
        let problems = OPERATION_SCHEMA.check(operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        let written: Written =
            integration_model::problem::from_value(operation.clone()).map_err(|problem| vec![problem])?;
        let mut reader = Reader::default();
        let action = written.action;
        let (needed, optional) = action.fields();
        for name in needed.iter().filter(|name| operation.get(**name).is_none()) {
            reader.problems.push(Problem::new("", format!("{} needs {name}", action.name())));
        }
        for name in operation.as_object().into_iter().flat_map(|fields| fields.keys()) {
            if name != "action" && !needed.contains(&name.as_str()) && !optional.contains(&name.as_str()) {
                let message = format!("{} does not have it", action.name());
                reader.problems.push(Problem::new(push_pointer("", name), message));
            }
        }
        if let Some(content) = &written.content {
            reader.params.push(("/content".to_owned(), content.clone()));
        }
        let is_conditional = written.if_match.is_some() || written.if_none_match.is_some();
        if method.idempotent && is_conditional && !action.is_read() {
            let message = "expected none where the method is idempotent: repeated, it would meet what it did itself";
            let pointer = if written.if_match.is_some() { "/ifMatch" } else { "/ifNoneMatch" };
            reader.problems.push(Problem::new(pointer, message));
        }
        if action == Action::Put && written.if_none_match.as_deref().is_some_and(|text| text != "*") {
            reader
                .problems
                .push(Problem::new("/ifNoneMatch", "put takes '*' alone: only where there is no object yet"));
        }
        if action == Action::Presign && written.content_type.is_some() && written.method != PresignedVerb::Put {
            reader.problems.push(Problem::new("/contentType", "only a presigned PUT has one"));
        }
        let spec = Self {
            action,
            key: reader.key("/key", written.key.as_deref()),
            source: reader.key("/source", written.source.as_deref()),
            content: written.content,
            encoding: written.encoding,
            content_type: reader.template("/contentType", written.content_type.as_deref()),
            metadata: written
                .metadata
                .iter()
                .filter_map(|(name, text)| {
                    let template = reader.template(&push_pointer("/metadata", name), Some(text))?;
                    Some((name.clone(), template))
                })
                .collect(),
            if_match: reader.template("/ifMatch", written.if_match.as_deref()),
            if_none_match: reader.template("/ifNoneMatch", written.if_none_match.as_deref()),
            part_bytes: written.part_bytes,
            decoding: written.decoding,
            range: written.range.and_then(|range| {
                let first = reader.template("/range/first", Some(&range.first))?;
                Some((first, reader.template("/range/last", range.last.as_deref())))
            }),
            max_response_bytes: written.max_response_bytes,
            prefix: reader
                .template("/prefix", written.prefix.as_deref())
                .unwrap_or_else(|| Template::of_text(String::new())),
            delimiter: written.delimiter,
            page_size: written.page_size,
            method: written.method,
            expires_in: Duration::from_secs(written.expires_in_seconds),
        };
        if let Some(declared) = declared_params(method) {
            for (pointer, name) in reader.params.iter().filter(|(_, name)| !declared.contains_key(name)) {
                let message = format!("the method's paramSchema has no param {name:?}");
                reader.problems.push(Problem::new(pointer.clone(), message));
            }
        }
        if reader.problems.is_empty() { Ok(spec) } else { Err(reader.problems) }
    }
}

/// Parses texts and keeps what is wrong with them, and which params they take where.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    params: Vec<(String, String)>,
}

impl Reader {
    fn template(&mut self, pointer: &str, text: Option<&str>) -> Option<Template> {
        match Template::parse(text?) {
            Ok(template) => {
                self.params.extend(template.params().map(|name| (pointer.to_owned(), name.to_owned())));
                Some(template)
            }
            Err(message) => {
                self.problems.push(Problem::new(pointer, message));
                None
            }
        }
    }

    fn key(&mut self, pointer: &str, text: Option<&str>) -> KeyTemplate {
        let Some(text) = text else { return KeyTemplate::none() };
        match KeyTemplate::parse(text) {
            Ok(key) => {
                self.params.extend(key.params().map(|name| (pointer.to_owned(), name.to_owned())));
                key
            }
            Err(message) => {
                self.problems.push(Problem::new(pointer, message));
                KeyTemplate::none()
            }
        }
    }
}
