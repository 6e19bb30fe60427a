//! OpenAPI 2.0, 3.0 and 3.1 documents as definitions of type `http`: every operation a method.
//!
//! Owns: what each part of a document becomes, and what is said of parts that become nothing.
//! Must not know: where documents come from, and where definitions go.

mod body;
mod documents;
mod fit;
mod media;
pub(in crate::import) mod naming;
mod operation;
mod pagination;
mod parameters;
mod responses;
mod schema;
mod security;
mod servers;

use std::time::Duration;

use integration_model::definition::{
    AuthType, DefinitionSpec, MAX_DESCRIPTION, MAX_METHODS, MAX_NAME, RateLimitAlgorithm, RateLimits, WEBHOOK,
};
use integration_model::{DefinitionId, Problem};
use semver::Version;
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

pub use documents::{Documents, file_references, is_remote, join};

use self::documents::Node;
use self::naming::UniqueNames;
use self::operation::OperationNode;
use self::responses::Responses;
use super::FindingKind::{Note, Skipped};
use super::{ImportError, ImportOptions, ImportReport, Imported};
use crate::adapter::Adapters;

/// The longest that a translation may take.
const MAX_TIME: Duration = Duration::from_secs(120);
/// The most parts of a schema that are looked at to find out what it is.
const MAX_LOOKED_AT: usize = 500;
/// The most operations that are read.
const MAX_OPERATIONS: usize = 2 * MAX_METHODS;
const VERBS: [(&str, &str); 7] = [
    ("get", "GET"),
    ("put", "PUT"),
    ("post", "POST"),
    ("delete", "DELETE"),
    ("options", "OPTIONS"),
    ("head", "HEAD"),
    ("patch", "PATCH"),
];

/// Which version of OpenAPI a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V30,
    V31,
}

/// What is translated.
struct Source<'a> {
    documents: &'a Documents,
    dialect: Dialect,
}

/// Whether a document says that it is an OpenAPI description.
pub fn is_description(document: &Value) -> bool {
    document.get("openapi").is_some() || document.get("swagger").is_some()
}

/// Makes a definition of a description. `origin` is the URL that it came from; `progress` is
/// told after each operation how many of how many are done. Takes long where the document is
/// large.
pub fn translate(
    documents: &Documents,
    options: &ImportOptions,
    origin: Option<&Url>,
    adapters: &Adapters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Imported, ImportError> {
    let (dialect, format) = dialect(documents.root())?;
    let source = Source { documents, dialect };
    let mut report = ImportReport::new(format);
    let operations = source.operations(&mut report);
    let mut spec = source.shell(&operations, options, origin, &mut report)?;
    let usual = source.usual_server(&operations, options);
    let deadline = Instant::now() + MAX_TIME;
    let mut names = UniqueNames::default();
    let mut made = Vec::new();
    let mut bytes = 0;
    report.operation_count = operations.len() + report.skipped_count;
    for (index, operation) in operations.iter().enumerate() {
        if Instant::now() >= deadline {
            return Err(ImportError::new(format!(
                "the document takes more than {} s; expected fewer operations, or simpler schemas",
                MAX_TIME.as_secs()
            )));
        }
        progress(index, operations.len());
        let title = operation.title();
        let reason = source.reason_to_skip(operation, usual).or_else(|| fit::reason_to_stop(made.len(), bytes));
        if let Some(reason) = reason {
            report.find(Skipped, Some(&title), reason);
            continue;
        }
        let name = names.take(naming::method_name(operation.node.text("operationId"), operation.verb, operation.path));
        if let Some(more) = fit::add_method(&source, operation, name, bytes, &mut spec, adapters, &mut report) {
            made.push(*operation);
            bytes += more;
        }
    }
    progress(operations.len(), operations.len());
    fit::shrink(&source, &made, &mut spec, adapters, &mut report);
    report.method_count = spec.methods.len();
    if spec.methods.is_empty() && operations.is_empty() && documents.root().get("webhooks").is_some() {
        make_inbound(&mut spec, &mut report);
        return Ok(Imported { definition: spec, report });
    }
    if spec.methods.is_empty() {
        return Err(ImportError {
            message: "the document describes no operation that can be a method".to_owned(),
            problems: report
                .findings
                .iter()
                .filter(|finding| finding.kind == Skipped)
                .take(50)
                .map(|finding| {
                    Problem::new(
                        "/paths",
                        format!("{}: {}", finding.operation.as_deref().unwrap_or_default(), finding.message),
                    )
                })
                .collect(),
        });
    }
    Ok(Imported { definition: spec, report })
}

/// A document of nothing but webhooks describes what the external system delivers.
fn make_inbound(spec: &mut DefinitionSpec, report: &mut ImportReport) {
    spec.adapter_type = WEBHOOK.to_owned();
    spec.auth_type = AuthType::Custom;
    spec.oauth2_config = None;
    spec.custom_auth = None;
    spec.rate_limits = None;
    spec.default_config.clear();
    spec.config_schema =
        json!({"type": "object", "required": ["scheme"], "properties": {"scheme": {"type": "string"}}});
    report.findings.clear();
    report.find(Note, None, "the document describes webhooks alone: the definition has the type webhook. Its scheme, how deliveries are signed, comes from the config of instances");
}

/// The dialect of a document, and its name.
fn dialect(root: Node<'_>) -> Result<(Dialect, String), ImportError> {
    let version = |name: &str| match root.value.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    if let Some(version) = version("swagger") {
        return match version.as_str() {
            "2.0" | "2" => Ok((Dialect::V2, "OpenAPI 2.0".to_owned())),
            other => Err(fault("/swagger", format!("expected version 2.0, found {other:?}"))),
        };
    }
    let Some(version) = version("openapi") else {
        return Err(fault(
            "",
            "expected an OpenAPI document: an object with openapi (3.0, 3.1) or swagger (2.0)".to_owned(),
        ));
    };
    let dialect = match version.split('.').take(2).collect::<Vec<_>>().as_slice() {
        ["3", "0"] => Dialect::V30,
        ["3", "1"] => Dialect::V31,
        _ => return Err(fault("/openapi", format!("expected version 3.0 or 3.1, found {version:?}"))),
    };
    Ok((dialect, format!("OpenAPI {version}")))
}

fn fault(pointer: &str, message: String) -> ImportError {
    ImportError { message: message.clone(), problems: vec![Problem::new(pointer, message)] }
}

impl<'a> Source<'a> {
    /// All operations, in the order of the document.
    fn operations(&self, report: &mut ImportReport) -> Vec<OperationNode<'a>> {
        let mut operations = Vec::new();
        let root = self.documents.root();
        for (path, item) in root.members_of("paths").filter(|(path, _)| !path.starts_with("x-")) {
            let item = match self.documents.follow(item) {
                Ok(item) => item,
                Err(message) => {
                    report.find(Skipped, Some(path), message);
                    continue;
                }
            };
            for (member, verb) in VERBS {
                let Some(node) = item.get(member).filter(|node| node.value.is_object()) else { continue };
                let operation = OperationNode { path, verb, item, node };
                if operations.len() < MAX_OPERATIONS {
                    operations.push(operation);
                } else {
                    report.find(Skipped, Some(&operation.title()), format!("more than {MAX_OPERATIONS} operations"));
                }
            }
            if item.get("trace").is_some() {
                report.find(Skipped, Some(&format!("TRACE {path}")), "the adapter does not send TRACE");
            }
        }
        let webhooks = root.members_of("webhooks").count();
        if webhooks > 0 {
            report.find(
                Note,
                None,
                format!("{webhooks} webhooks are left out: take them by a definition of type webhook"),
            );
        }
        operations
    }

    /// The definition without its methods.
    fn shell(
        &self,
        operations: &[OperationNode<'a>],
        options: &ImportOptions,
        origin: Option<&Url>,
        report: &mut ImportReport,
    ) -> Result<DefinitionSpec, ImportError> {
        let info = self.documents.root().get("info").unwrap_or(self.documents.root());
        let title = info.text("title").unwrap_or_default();
        let name: String =
            options.name.as_deref().unwrap_or(title).chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        let id = match options.id.clone().or_else(|| naming::definition_id(title)) {
            Some(id) => id,
            None => DefinitionId::parse("imported").map_err(|error| ImportError::new(error.to_string()))?,
        };
        let server = options.server.as_deref().or_else(|| self.usual_server(operations, options));
        let config = servers::Config::of(self, server, origin);
        config.lost.into_iter().for_each(|message| report.find(Note, None, message));
        let base = config.defaults.get("baseUrl").and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
        let access = security::Access::of(self, operations, base.as_ref().or(origin), options.client_id.as_deref());
        access.findings.into_iter().for_each(|(kind, message)| report.find(kind, None, message));
        let limited = operations
            .iter()
            .any(|operation| Responses::of(self, operation.node, &mut operation::Draft::default()).tell_of_limits());
        Ok(DefinitionSpec {
            name: if name.trim().is_empty() { id.to_string() } else { name },
            id,
            description: info.text("description").unwrap_or_default().chars().take(MAX_DESCRIPTION).collect(),
            version: self.version(info, options, report),
            adapter_type: "http".to_owned(),
            adapter_version: None,
            api_key_auth: None,
            auth_type: access.auth_type.unwrap_or(AuthType::None),
            config_schema: config.schema,
            default_config: config.defaults,
            oauth2_config: access.oauth2,
            custom_auth: access.custom,
            labels: Default::default(),
            templates: Default::default(),
            // What the system says of its limits is obeyed.
            rate_limits: limited
                .then(|| RateLimits { algorithm: RateLimitAlgorithm::Adaptive, ..RateLimits::default() }),
            test_method: None,
            methods: Vec::new(),
        })
    }

    fn version(&self, info: Node<'_>, options: &ImportOptions, report: &mut ImportReport) -> Version {
        if let Some(version) = &options.version {
            return version.clone();
        }
        let text = match info.value.get("version") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let version = naming::semantic_version(&text).unwrap_or(Version::new(1, 0, 0));
        if version.to_string() != text {
            report.find(Note, None, format!("the document's version {text:?} is {version} here"));
        }
        version
    }

    /// The server whose operations become methods, as the document has it; none is the
    /// document's own. A wanted one that it does not know takes the place of the usual one.
    fn usual_server<'b>(&self, operations: &[OperationNode<'a>], options: &'b ImportOptions) -> Option<&'b str>
    where
        'a: 'b,
    {
        let urls = || operations.iter().map(|operation| servers::url_of(operation.node, operation.item));
        let is_known = |wanted: &&str| {
            urls().any(|url| url == Some(*wanted))
                || servers::of_document(self).iter().any(|server| server.text("url") == Some(*wanted))
        };
        options.server.as_deref().filter(is_known).or_else(|| servers::usual(urls()))
    }

    fn reason_to_skip(&self, operation: &OperationNode<'a>, usual: Option<&str>) -> Option<String> {
        let of_document = servers::of_document(self);
        let is_of_document =
            |url: Option<&str>| url.is_none() || of_document.iter().any(|server| server.text("url") == url);
        let own = servers::url_of(operation.node, operation.item);
        let same = own == usual || (is_of_document(own) && is_of_document(usual));
        match own {
            Some(url) if !same => {
                Some(format!("it is at another server: import it as a definition of its own, with server={url}"))
            }
            None if !same => {
                Some("it is at the server of the document, most others are not: import it with that server".to_owned())
            }
            _ => None,
        }
    }

    /// Whether a schema lets values of this type pass, as far as it says so.
    fn has_type(&self, schema: Option<Node<'a>>, name: &str) -> bool {
        let mut open: Vec<Node<'a>> = schema.into_iter().collect();
        let mut looked_at = 0;
        while let Some(schema) = open.pop() {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return false;
            }
            let Ok(schema) = self.documents.follow(schema) else { continue };
            let is_it = match (schema.value.get("type"), name) {
                (Some(Value::String(own)), _) => Some(own == name),
                (Some(Value::Array(names)), _) => Some(names.iter().any(|own| own == name)),
                (_, "object") => schema.get("properties").map(|_| true),
                (_, "array") => schema.get("items").map(|_| true),
                _ => None,
            };
            match is_it {
                Some(true) => return true,
                Some(false) => {}
                None => {
                    let parts = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|keyword| schema.items_of(keyword));
                    open.extend(parts.take(MAX_LOOKED_AT));
                }
            }
        }
        false
    }

    /// Whether values may have parts.
    fn is_composite(&self, schema: Option<Node<'a>>) -> bool {
        self.has_type(schema, "array") || self.has_type(schema, "object")
    }

    /// The properties of an object, those of its `allOf` among them.
    fn properties(&self, schema: Node<'a>) -> Vec<(&'a str, Node<'a>)> {
        let mut found = Vec::new();
        let mut open = vec![schema];
        let mut looked_at = 0;
        while let Some(schema) = open.pop().filter(|_| looked_at < MAX_LOOKED_AT) {
            looked_at += 1;
            let Ok(schema) = self.documents.follow(schema) else { continue };
            found.extend(schema.members_of("properties").take(MAX_LOOKED_AT));
            open.extend(schema.items_of("allOf").take(MAX_LOOKED_AT));
        }
        found
    }
}
