//! What can go wrong in the store. Must not know HTTP: callers decide what to tell whom.

use crate::vault::VaultError;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no such row")]
    NotFound,
    #[error("{what} exists already")]
    AlreadyExists { what: String },
    /// The row changed since it was read.
    #[error("the row changed meanwhile: its version is {current}")]
    VersionConflict { current: i64 },
    /// The row's state does not allow the change; says why.
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// SQLite failed where the log is written.
    #[error("the database failed")]
    Log(#[from] rusqlite::Error),
    /// A stored row cannot be read back.
    #[error("the stored {what} cannot be read")]
    Corrupt {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The settings do not fit the database; says what was expected.
    #[error("{0}")]
    Config(String),
    /// What has to outlive the process cannot be put down, so that it must not happen.
    #[error("the spool cannot be written or read")]
    Spool(#[source] std::io::Error),
    #[error("the store is closed")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolClosed => Self::Closed,
            other => Self::Database(other),
        }
    }
}

impl StoreError {
    /// Whether a key service or a credential store is away, so that the same may succeed
    /// later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_unavailable())
    }

    /// Whether a key service or a credential store failed or refused.
    pub fn is_of_service(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_of_service())
    }

    /// The message with that of its source: `a: b`.
    pub fn chain(&self) -> String {
        match (self, std::error::Error::source(self)) {
            (Self::Vault(error), _) => error.chain(),
            (_, Some(source)) => format!("{self}: {source}"),
            (_, None) => self.to_string(),
        }
    }

    pub(crate) fn corrupt(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { what: what.into(), source: source.into() }
    }

    /// Tells a second row with the same key from other failures.
    pub(crate) fn or_exists(self, what: impl FnOnce() -> String) -> Self {
        match &self {
            Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Self::AlreadyExists { what: what() }
            }
            _ => self,
        }
    }

    /// Tells a row that refers to a missing one from other failures.
    pub(crate) fn or_missing(self) -> Self {
        if self.is_missing_reference() { Self::NotFound } else { self }
    }

    pub(crate) fn is_missing_reference(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_foreign_key_violation())
    }

    /// Whether a statement met a table that is not there (a partition dropped meanwhile).
    pub(crate) fn is_missing_table(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
    }
}
