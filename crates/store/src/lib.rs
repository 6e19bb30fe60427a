//! The only SQL and the only keys of the Integration Service.
//!
//! Owns: the schema and its migrations, every statement, the log's partitions, the group
//! commit of executions and events, and the vault that seals secrets under master keys.
//! Must not know: HTTP, adapters, what a definition's methods do.
//!
//! One text of each statement serves SQLite and PostgreSQL. Every write runs in a task of
//! its own, so that a caller that goes away does not tear a transaction.

mod api_keys;
mod array;
mod audit;
mod batch;
mod changes;
mod checkpoints;
mod clock;
mod consumed_events;
mod credentials;
mod database;
mod definitions;
mod encoded;
mod error;
mod events;
mod executions;
mod filter;
mod idempotency;
mod instances;
mod journal;
mod key_service;
mod lane;
mod log_index;
mod log_walk;
mod log_writer;
mod master_keys;
pub mod metrics;
mod migrations;
mod oauth_clients;
mod oauth_requests;
mod partitions;
mod queue;
mod recovery;
mod refresh;
mod relocation;
mod rewrap;
mod secrets;
mod service;
mod settings;
mod spool;
mod spool_record;
mod spool_table;
mod sql;
mod store;
mod uses;
mod vault;
mod webhooks;

pub use audit::{
    AuditCursor, AuditFault, AuditFilter, AuditHead, AuditOrder, AuditPage, AuditReport, CredentialUse, FaultKind,
    IntendedUse, InvalidHead,
};
pub use changes::Changed;
pub use clock::{Clock, Ids};
pub use credentials::{CredentialAges, CredentialMeta, StoredCredential};
pub use definitions::{AdapterDemand, DefinitionFilter};
pub use error::StoreError;
pub use events::{EventCursor, EventFilter, EventStretch};
pub use executions::{ExecutionFilter, MAX_KEPT_PARAMS};
pub use filter::{DefinitionSort, InstanceSort, MAX_SEARCH_LENGTH, Sort, SortField};
pub use idempotency::{IdempotencyClaim, IdempotencyState};
pub use instances::InstanceFilter;
pub use journal::ExecutionRecord;
pub use key_service::{KeyService, Keyring, WrappedKey};
pub use log_index::LOG_CHUNK_ROWS;
pub use master_keys::MasterKeys;
pub use oauth_requests::{NewOAuthRequest, OAuthRequest};
pub use queue::QueuedExecution;
pub use refresh::{BegunRefresh, DueRefresh, RefreshFailure, RefreshState, RenewedCredential};
pub use rewrap::RewrapReport;
pub use secrets::{ExternalSecrets, MAX_SECRET_ID_LENGTH, SealedSecret, SecretOwner, SecretStore};
pub use service::{Fallback, ServiceError, ServiceFuture};
pub use sql::JournalSync;
pub use store::{Store, StoreOptions};
pub use vault::{NewDataKey, Sealed, Vault, VaultError};
pub use webhooks::{Delivery, DeliveryKey};
