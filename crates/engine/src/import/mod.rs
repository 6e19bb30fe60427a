//! Descriptions of other formats as definitions.
//!
//! Owns: what an import is asked for, and its report of what could not be carried over. A
//! folder for each format holds the translation, which must not know files, connections and
//! the store; `run` is what a running service does around it.

pub mod graphql;
pub mod openapi;
mod run;
mod schemas;
pub mod wsdl;

use integration_model::definition::DefinitionSpec;
use integration_model::{DefinitionId, Problem};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use run::{Fetched, ImportSource, Input, References, Translate, TranslateAll};

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 32 * 1024 * 1024;

/// The most findings that are told one by one.
const MAX_FINDINGS: usize = 2_000;
/// The longest message of a finding, in characters.
const MAX_MESSAGE: usize = 500;
/// The largest definition that comes of an import, as JSON text: what can be read, changed
/// and sent back within the usual limit of a request.
pub const MAX_DEFINITION_BYTES: usize = 8 * 1024 * 1024;

/// What the caller wants otherwise than the document has it.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Made of the title unless given.
    pub id: Option<DefinitionId>,
    /// The title unless given.
    pub name: Option<String>,
    /// The document's own version, made semantic, unless given.
    pub version: Option<Version>,
    /// The address of the system; the document's first one unless given.
    pub server: Option<String>,
    /// The client of an OAuth 2 system.
    pub client_id: Option<String>,
}

/// A definition, and what became of the document.
#[derive(Debug, Clone)]
pub struct Imported {
    pub definition: DefinitionSpec,
    pub report: ImportReport,
}

/// What an import carried over, and what not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// The format and its version, such as `OpenAPI 3.0.3`.
    pub format: String,
    /// The operations that the document describes.
    pub operation_count: usize,
    /// The methods that were made of them.
    pub method_count: usize,
    /// Operations without a method.
    pub skipped_count: usize,
    /// What could not be carried over, in the order of the document.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are told.
    pub further_findings: usize,
}

/// One thing that is otherwise than in the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub kind: FindingKind,
    /// The operation as the document names it, such as `GET /pets/{petId}`; none where the
    /// whole document is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    pub message: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The operation has no method.
    Skipped,
    /// The method asks or tells less than the document does.
    Simplified,
    /// Something to know, or to do before publishing.
    Note,
}

impl FindingKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Simplified => "simplified",
            Self::Note => "note",
        }
    }
}

impl ImportReport {
    pub fn new(format: impl Into<String>) -> Self {
        Self {
            format: format.into(),
            operation_count: 0,
            method_count: 0,
            skipped_count: 0,
            findings: Vec::new(),
            further_findings: 0,
        }
    }

    /// Adds a finding about `operation`, or about the whole document; the same one once.
    pub fn find(&mut self, kind: FindingKind, operation: Option<&str>, message: impl Into<String>) {
        if kind == FindingKind::Skipped {
            self.skipped_count += 1;
        }
        if self.findings.len() >= MAX_FINDINGS {
            self.further_findings += 1;
            return;
        }
        let finding = Finding { kind, operation: operation.map(printable), message: printable(&message.into()) };
        // What is found again is found about the same operation.
        let about_same = self.findings.iter().rev().take_while(|other| other.operation == finding.operation);
        if kind == FindingKind::Skipped || !about_same.into_iter().any(|other| *other == finding) {
            self.findings.push(finding);
        }
    }
}

/// Text of a stranger's document, on one line and of bounded length.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() && text.chars().nth(MAX_MESSAGE).is_some() {
        line.push('…');
    }
    line
}

/// Why a document is no definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImportError {
    pub message: String,
    /// Where the fault lies, as far as it is in the document.
    pub problems: Vec<Problem>,
}

impl ImportError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), problems: Vec::new() }
    }
}

/// Reads a document, JSON or YAML.
pub fn read_document(text: &[u8]) -> Result<Value, ImportError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(ImportError::new(format!("expected a document of at most {MAX_DOCUMENT_BYTES} bytes")));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let as_json = integration_model::json::from_slice(text);
    match as_json {
        Ok(value) => Ok(value),
        // A flow mapping of YAML begins like an object, and is none.
        Err(error) if text.trim_ascii_start().starts_with(b"{") => {
            read_yaml(text).map_err(|_| ImportError::new(format!("expected JSON: {error}")))
        }
        Err(_) => read_yaml(text),
    }
}

fn read_yaml(text: &[u8]) -> Result<Value, ImportError> {
    let text = std::str::from_utf8(text).map_err(|error| ImportError::new(format!("expected UTF-8: {error}")))?;
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ImportError::new(format!("expected JSON or YAML: {}", error.without_snippet())))
}
