//! The server through its public doors: configuration files, HTTP, the binary.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod binary;
mod client;
mod config;
mod demo;
mod execute;
mod keys;
mod openapi;
mod serve;
mod service;
