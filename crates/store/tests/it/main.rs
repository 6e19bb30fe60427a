//! The store's contract: every test runs on SQLite, and on PostgreSQL where
//! `INTEGRATION_TEST_POSTGRES_URL` names a server (each test in a schema of its own).

mod api_keys;
mod audit;
mod audit_chain;
mod credentials;
mod definitions;
mod events;
mod external;
mod fixtures;
mod harness;
mod idempotency;
mod instances;
mod journal;
mod lifecycle;
mod log_index;
mod oauth;
mod one_statement;
mod partitions;
mod queue;
mod refresh;
mod secrets;
mod spool;
mod spool_table;
mod uses;
mod webhooks;
