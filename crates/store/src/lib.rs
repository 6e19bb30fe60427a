//! The only SQL and the only keys of the Integration Service.
//!
//! Owns: the schema and its migrations, every statement, the log's partitions, the group
//! commit of executions and events, and the vault that seals secrets under master keys.
//! Must not know: HTTP, adapters, what a definition's methods do.
//!
//! One text of each statement serves SQLite and PostgreSQL. Every write runs in a task of
//! its own, so that a caller that goes away does not tear a transaction.

mod api_keys;
mod batch;
mod clock;
mod credentials;
mod database;
mod definitions;
mod error;
mod events;
mod executions;
mod filter;
mod idempotency;
mod instances;
mod journal;
mod master_keys;
mod migrations;
mod partitions;
mod queue;
mod rewrap;
mod settings;
mod sql;
mod store;
mod vault;

pub use api_keys::ApiKey;
pub use clock::{Clock, Ids};
pub use credentials::{CredentialMeta, StoredCredential};
pub use definitions::DefinitionFilter;
pub use error::StoreError;
pub use events::{EventCursor, EventFilter};
pub use executions::{ExecutionFilter, MAX_KEPT_PARAMS};
pub use filter::{DefinitionSort, InstanceSort, MAX_SEARCH_LENGTH, Sort, SortField};
pub use idempotency::{IdempotencyClaim, IdempotencyState};
pub use instances::InstanceFilter;
pub use journal::ExecutionRecord;
pub use master_keys::MasterKeys;
pub use queue::QueuedExecution;
pub use rewrap::RewrapReport;
pub use sql::JournalSync;
pub use store::{Store, StoreOptions};
pub use vault::{Sealed, Vault, VaultError};
