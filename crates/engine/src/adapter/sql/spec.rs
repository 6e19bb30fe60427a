//! An operation as its author writes it, and the check that it can be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use integration_model::definition::Method;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::Value;

use super::statement::{Dialect, Statement};
use super::value::ParamType;
use crate::adapter::own_schema::OwnSchema;

pub(super) static OPERATION_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("operation.schema.json")));

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    #[default]
    Query,
    Execute,
    Batch,
    Transaction,
}

/// What a statement's rows become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shape {
    Rows,
    First,
    Scalar,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnLimit {
    #[default]
    Truncate,
    Fail,
}

/// How much an answer may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Whether more is an error, and not left out.
    pub(super) fail: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OperationSpec {
    #[serde(default)]
    mode: Mode,
    statement: Option<String>,
    #[serde(default)]
    statements: Vec<StatementSpec>,
    items: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, ParamType>,
    read_only: Option<bool>,
    isolation: Option<Isolation>,
    result: Option<Shape>,
    #[serde(default = "default_rows")]
    max_rows: usize,
    #[serde(default = "default_bytes")]
    max_bytes: usize,
    #[serde(default)]
    on_limit: OnLimit,
    #[serde(default = "default_items")]
    max_items: usize,
    statement_timeout_ms: Option<u64>,
    #[serde(default)]
    json_columns: Vec<String>,
    #[serde(default)]
    error_mapping: BTreeMap<String, ErrorCode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementSpec {
    statement: String,
    result: Option<Shape>,
}

const fn default_rows() -> usize {
    1_000
}

const fn default_bytes() -> usize {
    4 << 20
}

const fn default_items() -> usize {
    1_000
}

/// One statement with the types of what it binds.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) statement: Statement,
    /// In the order of the statement's placeholders.
    pub(super) types: Vec<ParamType>,
    pub(super) shape: Shape,
}

/// An operation, checked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) mode: Mode,
    /// One, or those of a transaction.
    pub(super) statements: Vec<Prepared>,
    /// The param that a batch goes through.
    pub(super) items: String,
    pub(super) max_items: usize,
    pub(super) read_only: bool,
    pub(super) isolation: Option<Isolation>,
    pub(super) limits: Limits,
    pub(super) statement_timeout: Option<Duration>,
    pub(super) json_columns: Vec<String>,
    pub(super) error_mapping: BTreeMap<String, ErrorCode>,
}

impl Plan {
    /// Reads a method's operation; all that is wrong with it at once.
    pub(super) fn compile(method: &Method, dialect: Dialect) -> Result<Self, Vec<Problem>> {
        let problems = OPERATION_SCHEMA.check(&method.operation);
        if !problems.is_empty() {
            return Err(problems);
        }
        let spec: OperationSpec =
            integration_model::problem::from_value(method.operation.clone()).map_err(|problem| vec![problem])?;
        let mut problems = spec.check_parts();
        let statements = spec.prepare(dialect, &mut problems);
        problems.extend(spec.check_params(method, &statements, dialect));
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            mode: spec.mode,
            statements,
            items: spec.items.unwrap_or_default(),
            max_items: spec.max_items,
            read_only: spec.read_only.unwrap_or(spec.mode == Mode::Query),
            isolation: spec.isolation,
            limits: Limits { rows: spec.max_rows, bytes: spec.max_bytes, fail: spec.on_limit == OnLimit::Fail },
            statement_timeout: spec.statement_timeout_ms.map(Duration::from_millis),
            json_columns: spec.json_columns,
            error_mapping: spec.error_mapping,
        })
    }
}

impl OperationSpec {
    fn check_parts(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, pointer: &str, message: &str| {
            if !holds {
                problems.push(Problem::new(pointer, message));
            }
        };
        let several = self.mode == Mode::Transaction;
        check(
            self.statement.is_some() != several,
            "/statement",
            "expected a statement, or with mode transaction, statements",
        );
        check(self.statements.is_empty() != several, "/statements", "expected with mode transaction, and there alone");
        check(
            self.items.is_some() == (self.mode == Mode::Batch),
            "/items",
            "expected with mode batch, and there alone",
        );
        check(!several || self.result.is_none(), "/result", "expected at each of the statements of a transaction");
        check(
            self.mode != Mode::Batch || matches!(self.result, None | Some(Shape::None)),
            "/result",
            "expected none: a batch answers how many rows it changed",
        );
        check(
            self.mode != Mode::Query || self.read_only != Some(false),
            "/readOnly",
            "expected mode execute, transaction or batch for what changes something",
        );
        problems
    }

    fn prepare(&self, dialect: Dialect, problems: &mut Vec<Problem>) -> Vec<Prepared> {
        let usual = if self.mode == Mode::Query { Shape::Rows } else { Shape::None };
        let one = self.statement.iter().map(|text| ("/statement".to_owned(), text, self.result));
        let several = self.statements.iter().enumerate().map(|(index, statement)| {
            (format!("/statements/{index}/statement"), &statement.statement, statement.result)
        });
        let mut prepared = Vec::new();
        for (pointer, text, shape) in one.chain(several) {
            match Statement::parse(text, dialect) {
                Err(message) => problems.push(Problem::new(pointer, message)),
                Ok(statement) => {
                    let mut types = Vec::with_capacity(statement.binds.len());
                    for name in &statement.binds {
                        match self.params.get(name) {
                            Some(kind) => types.push(*kind),
                            None => problems.push(Problem::new(
                                pointer.clone(),
                                format!("expected the type of :{name} in the operation's params"),
                            )),
                        }
                    }
                    prepared.push(Prepared { statement, types, shape: shape.unwrap_or(usual) });
                }
            }
        }
        prepared
    }

    /// Every param is bound by a statement, and every bound one is a param of the method.
    fn check_params(&self, method: &Method, statements: &[Prepared], dialect: Dialect) -> Vec<Problem> {
        let bound: BTreeSet<&str> =
            statements.iter().flat_map(|prepared| prepared.statement.binds.iter().map(String::as_str)).collect();
        let mut problems = Vec::new();
        for (name, kind) in &self.params {
            let pointer = push_pointer("/params", name);
            if !bound.contains(name.as_str()) {
                problems.push(Problem::new(pointer, "expected a statement that binds it"));
            } else if kind.is_array && dialect != Dialect::PostgreSql {
                problems.push(Problem::new(pointer, "expected no array: this database has none; json can hold one"));
            }
        }
        // A transform makes params of its own.
        if method.request_transform.is_some() {
            return problems;
        }
        let declared = method.param_schema.get("properties");
        let items = self.items.as_deref();
        let (fields, place) = match items {
            Some(items) => {
                let schema = declared.and_then(|declared| declared.get(items));
                if schema.is_none() {
                    let message = format!("the method's paramSchema has no param {items:?}");
                    problems.push(Problem::new("/items", message));
                }
                (
                    schema.and_then(|schema| schema.get("items")?.get("properties")),
                    "the items of the method's paramSchema",
                )
            }
            None => (declared, "the method's paramSchema"),
        };
        for name in bound {
            if fields.and_then(|fields| fields.get(name)).is_none_or(|schema| *schema == Value::Bool(false)) {
                let message = format!("{place} has no param {name:?}");
                problems.push(Problem::new(push_pointer("/params", name), message));
            }
        }
        problems
    }
}
