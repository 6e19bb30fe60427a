//! The server through its public doors: configuration files, HTTP, the binary.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod binary;
mod chaos;
mod client;
mod config;
mod crash;
mod credentials;
mod definitions;
mod demo;
mod events;
mod execute;
mod hostile;
mod instances;
mod keys;
mod limits_reload;
mod openapi;
mod operations;
mod process;
mod races;
mod seed;
mod serve;
mod service;
mod tenants;
