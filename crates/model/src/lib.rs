//! The vocabulary of the Integration Service: pure types and the rules between them.
//!
//! Owns: definitions and their lifecycle, instances and their status machine, executions,
//! events, error codes, ids. Must not know: I/O, HTTP, SQL, secrets. Everything here is
//! deterministic and compiles for any target.

pub mod api_key;
pub mod audit;
pub mod compatibility;
pub mod credential;
pub mod definition;
pub mod error_code;
pub mod event;
pub mod execution;
pub mod id;
pub mod instance;
pub mod json;
pub mod label;
pub mod page;
pub mod principal;
pub mod problem;
pub mod schema;
pub mod timestamp;
pub mod typed;

pub use error_code::ErrorCode;
pub use id::{DefinitionId, ExecutionId, InstanceId, InvalidId, TenantId};
pub use problem::Problem;
pub use timestamp::Timestamp;
