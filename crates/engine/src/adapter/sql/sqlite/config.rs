//! What the adapter reads from an instance's config, and where its file may be.

use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::config::{PoolConfig, unusable};
use crate::adapter::own_schema::OwnSchema;
use crate::adapter::{CallError, Connection};

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("../sqlite.config.schema.json")));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SqliteConfig {
    file: PathBuf,
    #[serde(default)]
    access: Access,
    #[serde(default)]
    pub(super) pool: PoolConfig,
    #[serde(default = "default_timeout")]
    statement_timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Access {
    #[default]
    ReadOnly,
    ReadWrite,
}

/// Where a file is.
pub(super) struct Place {
    folder: PathBuf,
    file: PathBuf,
}

impl Place {
    /// The file's path. Links in the folder's own path are the operator's; SQLite is told to
    /// follow none below it. Waits for the disk.
    pub(super) fn path(&self) -> Result<PathBuf, CallError> {
        match self.folder.canonicalize() {
            Ok(folder) => Ok(folder.join(&self.file)),
            Err(_) => {
                let message = "the folder of adapters.sqlite.folder cannot be read";
                Err(CallError::not_sent(ErrorCode::InstanceNotReady, message))
            }
        }
    }
}

const fn default_timeout() -> u64 {
    30_000
}

impl SqliteConfig {
    /// All faults of a config.
    pub(super) fn check(config: &Map<String, Value>) -> Vec<Problem> {
        let problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if !problems.is_empty() {
            return problems;
        }
        Self::parse(config).and_then(|config| config.check_file()).err().into_iter().collect()
    }

    fn parse(config: &Map<String, Value>) -> Result<Self, Problem> {
        integration_model::problem::from_value(Value::Object(config.clone()))
    }

    pub(super) fn read(connection: &Connection<'_>) -> Result<Self, CallError> {
        let config = Self::parse(connection.config).map_err(|problem| unusable(&problem))?;
        config.check_file().map_err(|problem| unusable(&problem))?;
        Ok(config)
    }

    /// Only names, one below the other: no way up, and none from the root.
    fn check_file(&self) -> Result<(), Problem> {
        if self.file.components().all(|part| matches!(part, Component::Normal(_))) {
            return Ok(());
        }
        Err(Problem::new("/file", "expected a path below the folder: not absolute, without . and .."))
    }

    pub(super) fn place(&self, folder: Option<&Path>) -> Result<Place, CallError> {
        let message = "no folder is set for SQLite files: the operator names it in adapters.sqlite.folder";
        let folder = folder.ok_or_else(|| CallError::not_sent(ErrorCode::InstanceNotReady, message))?;
        Ok(Place { folder: folder.to_owned(), file: self.file.clone() })
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    pub(super) fn statement_timeout(&self, of_operation: Option<Duration>) -> Duration {
        of_operation.unwrap_or(Duration::from_millis(self.statement_timeout_ms))
    }
}
