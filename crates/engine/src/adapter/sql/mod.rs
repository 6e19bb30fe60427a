//! The adapters of databases: statements that methods declare, with typed params.
//!
//! Owns: how an operation's statements are read and bound, transactions, limits of answers,
//! pools, what SQLSTATEs mean. Must not know: the service's own database, retries, caches.

mod config;
mod error;
mod mysql;
mod operation;
mod output;
mod pool;
mod postgresql;
mod server;
mod spec;
mod sqlite;
mod statement;
mod value;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use serde_json::{Map, Value};

use super::{Adapter, AdapterDescription, AdapterSettings, CallError, Connection, Operation};
use mysql::MySql;
use operation::SqlOperation;
use output::{Room, RowSet};
use postgresql::PostgreSql;
use spec::{Isolation, Limits, OPERATION_SCHEMA, Plan, Prepared};
use sqlite::Sqlite;
use statement::Dialect;
use value::SqlValue;

/// The adapters of all kinds of databases.
pub(super) fn adapters(settings: &AdapterSettings) -> [Arc<dyn Adapter>; 3] {
    [
        Arc::new(SqlAdapter::new(MySql::default())),
        Arc::new(SqlAdapter::new(PostgreSql::default())),
        Arc::new(SqlAdapter::new(Sqlite::new(settings.sqlite_folder.clone()))),
    ]
}

/// One kind of database.
trait Database: Send + Sync + 'static {
    /// What the definitions' `type` says.
    const TYPE: &'static str;

    fn describe(&self) -> DatabaseDescription;

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem>;

    /// Makes the statements of one call in one transaction, all or none.
    fn run<'a>(&'a self, connection: Connection<'a>, job: Job<'a>) -> BoxFuture<'a, Result<Done, CallError>>;

    /// Connects, and says what is there.
    fn test<'a>(&'a self, connection: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>>;
}

/// What a database says of itself.
struct DatabaseDescription {
    dialect: Dialect,
    text: &'static str,
    auth_types: &'static [AuthType],
    config_schema: Value,
}

/// The statements of one call.
struct Job<'a> {
    steps: Vec<Step<'a>>,
    read_only: bool,
    isolation: Option<Isolation>,
    statement_timeout: Option<Duration>,
    limits: Limits,
    json_columns: &'a [String],
}

struct Step<'a> {
    prepared: &'a Prepared,
    /// In the order of the statement's placeholders.
    values: Vec<SqlValue>,
}

/// What the statements of one call gave, in their order.
struct Done(Vec<RowSet>);

impl Job<'_> {
    fn room(&self) -> Room {
        Room::new(self.limits)
    }
}

/// Speaks to databases of one kind.
struct SqlAdapter<D>(Arc<D>);

impl<D: Database> SqlAdapter<D> {
    fn new(database: D) -> Self {
        Self(Arc::new(database))
    }
}

impl<D: Database> Adapter for SqlAdapter<D> {
    fn describe(&self) -> AdapterDescription {
        let database = self.0.describe();
        AdapterDescription {
            adapter_type: D::TYPE,
            version: "1.0.0",
            description: database.text,
            auth_types: database.auth_types,
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: database.config_schema,
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let plan = Plan::compile(method, self.0.describe().dialect)?;
        Ok(Arc::new(SqlOperation::new(plan, Arc::clone(&self.0))))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        self.0.check_config(config)
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        self.0.test(call)
    }
}
