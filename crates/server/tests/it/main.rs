//! The server through its public doors: configuration files, HTTP, the binary.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod binary;
mod chaos;
mod client;
mod config;
mod crash;
mod demo;
mod execute;
mod keys;
mod openapi;
mod process;
mod serve;
mod service;
