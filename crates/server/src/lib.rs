//! The Integration Service as a process: configuration, telemetry, HTTP, the command line.
//!
//! Owns what lies between the world and the engine. Must not know: SQL, the protocols of
//! external systems.

pub mod access;
mod api;
pub mod cli;
pub mod config;
pub mod error;
pub mod extract;
pub mod middleware;
pub mod router;
pub mod serve;
pub mod state;
pub mod telemetry;
mod wording;
