//! What can go wrong in the management of definitions, instances and credentials.

use std::time::Duration;

use integration_model::{ErrorCode, Problem};
use integration_store::StoreError;

/// A management action that did not happen, and why. Knows no HTTP.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{message}")]
    Invalid { message: String, problems: Vec<Problem> },
    #[error("there is no definition {0}")]
    DefinitionNotFound(String),
    #[error("there is no instance {0}")]
    InstanceNotFound(String),
    #[error("there is no method {0:?}")]
    MethodNotFound(String),
    #[error("there is no execution {0}")]
    ExecutionNotFound(String),
    #[error("there is no {0} yet")]
    NotFound(&'static str),
    #[error("{0} exists already")]
    AlreadyExists(String),
    #[error("{message}")]
    Conflict { message: String, problems: Vec<Problem> },
    #[error("the instance is at version {current}: read it again, then repeat the change with its new ETag")]
    PreconditionFailed { current: i64 },
    #[error("the caller may not act for tenant {0}")]
    Forbidden(String),
    /// A token could not be had from the external system.
    #[error("{message}")]
    NotRenewed { code: ErrorCode, message: String, retry_after: Option<Duration> },
    /// An external system refused or failed; says what it said, without secrets.
    #[error("{message}")]
    External { code: ErrorCode, message: String },
    #[error("the credential cannot be had or kept at present: {0}")]
    CredentialUnavailable(String),
    /// The external system refused a new credential, or it could not be tested at all.
    #[error("the new credential was not stored, the one before stays in force: {message}")]
    CredentialRefused { code: ErrorCode, message: String },
    #[error("no events of type {0:?} are taken: expected {known}", known = crate::rotation::CONSUMED_EVENTS.join(", "))]
    EventNotTaken(String),
    #[error("the store failed")]
    Store(#[source] StoreError),
}

impl EngineError {
    pub fn invalid(message: impl Into<String>, problems: Vec<Problem>) -> Self {
        Self::Invalid { message: message.into(), problems }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into(), problems: Vec::new() }
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::Validation,
            Self::DefinitionNotFound(_) => ErrorCode::DefinitionNotFound,
            Self::InstanceNotFound(_) => ErrorCode::InstanceNotFound,
            Self::MethodNotFound(_) => ErrorCode::MethodNotFound,
            Self::ExecutionNotFound(_) => ErrorCode::ExecutionNotFound,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::AlreadyExists(_) => ErrorCode::AlreadyExists,
            Self::Conflict { .. } => ErrorCode::Conflict,
            Self::PreconditionFailed { .. } => ErrorCode::PreconditionFailed,
            Self::Forbidden(_) => ErrorCode::Forbidden,
            Self::NotRenewed { code, .. } => *code,
            Self::External { code, .. } => *code,
            Self::CredentialUnavailable(_) => ErrorCode::CredentialUnavailable,
            Self::CredentialRefused { code, .. } => *code,
            Self::EventNotTaken(_) => ErrorCode::EventNotTaken,
            Self::Store(_) => ErrorCode::Internal,
        }
    }

    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } | Self::Conflict { problems, .. } => problems,
            _ => &[],
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::AlreadyExists { what } => Self::AlreadyExists(what),
            StoreError::VersionConflict { current } => Self::PreconditionFailed { current },
            StoreError::Conflict(message) => Self::conflict(message),
            unavailable if unavailable.is_of_service() => Self::CredentialUnavailable(unavailable.chain()),
            other => Self::Store(other),
        }
    }
}
