//! The Integration Service as a process: configuration, telemetry, HTTP, the command line.
//!
//! Owns what lies between the world and the engine. Must not know: SQL, the protocols of
//! external systems.

pub mod access;
mod api;
pub mod app;
pub mod browsers;
pub mod catalogue;
pub mod cli;
pub mod config;
mod custody;
mod demo;
pub mod error;
mod error_pages;
pub mod extract;
mod fast_path;
pub mod middleware;
pub mod openapi;
mod pages;
pub mod router;
mod seed;
pub mod serve;
pub mod state;
pub mod telemetry;
pub mod tls;
mod wording;
