//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use integration_model::definition::Method;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::document::Document;
use crate::adapter::http::headers::HeaderSpec;
use crate::adapter::http::pagination::PaginationSpec;
use crate::adapter::http::spec::declared_params;
use crate::adapter::own_schema::OwnSchema;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

/// What the requests say they take: GraphQL's own media type, and what came before it.
const ACCEPT: &str = "application/graphql-response+json, application/json;q=0.9";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OperationSpec {
    pub(super) query: String,
    pub(super) operation_name: Option<String>,
    #[serde(default)]
    pub(super) variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) constants: Constants,
    #[serde(default)]
    pub(super) data_path: String,
    #[serde(default)]
    pub(super) errors: BTreeMap<String, ErrorRule>,
    #[serde(default)]
    pub(super) partial_data: PartialData,
    pub(super) pagination: Option<ConnectionSpec>,
    pub(super) cost: Option<CostSpec>,
    pub(super) idempotency_key_header: Option<String>,
    #[serde(default = "default_max_response")]
    pub(super) max_response_bytes: usize,
}

const fn default_max_response() -> usize {
    10 * 1024 * 1024
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Constants {
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) variables: Map<String, Value>,
}

/// What an error code of the external system means.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(from = "ErrorRuleForm")]
pub(super) struct ErrorRule {
    pub(super) code: ErrorCode,
    pub(super) retryable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorRuleForm {
    Code(ErrorCode),
    Rule { code: ErrorCode, retryable: Option<bool> },
}

impl From<ErrorRuleForm> for ErrorRule {
    fn from(form: ErrorRuleForm) -> Self {
        match form {
            ErrorRuleForm::Code(code) => Self { code, retryable: None },
            ErrorRuleForm::Rule { code, retryable } => Self { code, retryable },
        }
    }
}

/// What an answer with data and errors is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PartialData {
    #[default]
    Error,
    /// A result, the errors told as warnings.
    Allow,
}

/// How the pages of a connection follow each other.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConnectionSpec {
    connection: String,
    items: Option<String>,
    #[serde(default = "default_after")]
    pub(super) after: String,
    #[serde(default = "default_first")]
    pub(super) first: String,
    page_size: Option<u64>,
    #[serde(default = "default_max_pages")]
    max_pages: u32,
}

fn default_after() -> String {
    "after".to_owned()
}

fn default_first() -> String {
    "first".to_owned()
}

const fn default_max_pages() -> u32 {
    100
}

/// Where a call's cost is known from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum CostSpec {
    Declared(u32),
    Pointer(String),
}

impl OperationSpec {
    /// Reads an operation and its document; all that is wrong at once.
    pub(super) fn read(method: &Method) -> Result<(Self, Document), Vec<Problem>> {
        let problems = OPERATION_SCHEMA.check(&method.operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        let spec: Self =
            integration_model::problem::from_value(method.operation.clone()).map_err(|problem| vec![problem])?;
        let mut problems = spec.header_spec().check();
        match Document::read(&spec.query, spec.operation_name.as_deref()) {
            Ok(document) => {
                problems.extend(spec.check_against(&document, method));
                if problems.is_empty() { Ok((spec, document)) } else { Err(problems) }
            }
            Err(faults) => {
                problems.extend(faults);
                Err(problems)
            }
        }
    }

    pub(super) fn header_spec(&self) -> HeaderSpec<'_> {
        HeaderSpec {
            accept: None,
            usual_accept: ACCEPT,
            params: &self.headers,
            constants: &self.constants.headers,
            idempotency_key: self.idempotency_key_header.as_deref(),
        }
    }

    /// What does not go together: the operation, its document, the method's params.
    fn check_against(&self, document: &Document, method: &Method) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_declared = |name: &str| document.variables.iter().any(|variable| variable.name == name);
        let named = self.variables.keys().map(|name| ("/variables", name));
        for (pointer, name) in named.chain(self.constants.variables.keys().map(|name| ("/constants/variables", name))) {
            if !is_declared(name) {
                let message = format!("the operation declares no variable ${name}");
                problems.push(Problem::new(push_pointer(pointer, name), message));
            }
        }
        for name in self.constants.variables.keys().filter(|name| self.variables.contains_key(*name)) {
            let message = "expected none for a variable that is a param";
            problems.push(Problem::new(push_pointer("/constants/variables", name), message));
        }
        if let Some(declared) = declared_params(method) {
            problems.extend(self.undeclared_params(document, declared));
        }
        if !document.selects(&self.data_path) {
            problems.push(Problem::new("/dataPath", "the query asks for nothing there"));
        }
        if let Some(pagination) = &self.pagination {
            problems.extend(pagination.check(document, &self.data_path));
            if !is_declared(&pagination.after) {
                let message = format!("the operation declares no variable ${}", pagination.after);
                problems.push(Problem::new("/pagination/after", message));
            }
            if pagination.page_size.is_some() && !is_declared(&pagination.first) {
                let message = format!("the operation declares no variable ${} to carry it", pagination.first);
                problems.push(Problem::new("/pagination/pageSize", message));
            }
        }
        problems
    }

    /// Params that the operation takes and that no caller can give.
    fn undeclared_params(&self, document: &Document, declared: &Map<String, Value>) -> Vec<Problem> {
        let variables = self.variables.iter().map(|(name, param)| (push_pointer("/variables", name), param.as_str()));
        let headers = self.headers.iter().map(|(name, param)| (push_pointer("/headers", name), param.as_str()));
        let by_pages = |name: &String| {
            let pagination = self.pagination.as_ref();
            pagination.is_some_and(|pages| pages.page_size.is_some() && pages.first == *name)
        };
        let by_name = document
            .variables
            .iter()
            .filter(|variable| variable.is_required)
            .map(|variable| &variable.name)
            .filter(|name| !self.variables.contains_key(*name) && !self.constants.variables.contains_key(*name))
            .filter(|name| !by_pages(name))
            .map(|name| ("/query".to_owned(), name.as_str()));
        variables
            .chain(headers)
            .chain(by_name)
            .filter(|(_, param)| !declared.contains_key(*param))
            .map(|(pointer, param)| Problem::new(pointer, format!("the method's paramSchema has no param {param:?}")))
            .collect()
    }
}

impl ConnectionSpec {
    /// Where the items are.
    fn items_path(&self, document: &Document) -> String {
        let name = self
            .items
            .as_deref()
            .unwrap_or_else(|| if document.selects(&format!("{}/nodes", self.connection)) { "nodes" } else { "edges" });
        format!("{}/{name}", self.connection)
    }

    fn check(&self, document: &Document, data_path: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !document.selects(&self.connection) {
            problems.push(Problem::new("/pagination/connection", "the query asks for nothing there"));
            return problems;
        }
        for field in ["hasNextPage", "endCursor"] {
            if !document.selects(&format!("{}/pageInfo/{field}", self.connection)) {
                let message = format!("the query does not ask for pageInfo {{ {field} }} there");
                problems.push(Problem::new("/pagination/connection", message));
            }
        }
        let items = self.items_path(document);
        if !document.selects(&items) {
            problems.push(Problem::new("/pagination/items", format!("the query asks for nothing at {items}")));
        } else if below(&items, data_path).is_none() {
            let message = format!("expected a place that holds the items, which are at {items}");
            problems.push(Problem::new("/dataPath", message));
        }
        problems
    }

    /// The pagination, its items found in the part of the data that is the result.
    pub(super) fn pagination(&self, document: &Document, data_path: &str) -> PaginationSpec {
        let page_size = self.page_size.map(|size| (self.first.clone(), size));
        let items = self.items_path(document);
        let items = below(&items, data_path).unwrap_or_default().to_owned();
        PaginationSpec::of_connection(&self.connection, &self.after, page_size, items, self.max_pages)
    }
}

/// What is left of a pointer below another one.
fn below<'a>(pointer: &'a str, other: &str) -> Option<&'a str> {
    pointer.strip_prefix(other).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
