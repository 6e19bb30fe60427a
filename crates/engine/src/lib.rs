//! Runs methods of external systems.
//!
//! Owns: the stages of an execution (`execute`), compiled definitions and instances
//! (`registry`), policies, transforms, credentials in use, adapters and the one outbound
//! HTTP client. Must not know: axum, the command line, SQL.

pub mod adapter;
pub mod credential;
pub mod data;
pub mod http_client;
pub mod params;
pub mod policy;
pub mod schema;
pub mod transform;
