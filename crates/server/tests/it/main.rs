//! The server through its public doors: configuration files, HTTP, the binary.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod audit;
mod binary;
mod chaos;
mod client;
mod config;
mod counterpart;
mod crash;
mod credential_store;
mod credentials;
mod definitions;
mod demo;
mod egress;
mod events;
mod execute;
mod grants;
mod hostile;
mod instances;
mod key_service;
mod keys;
mod limits_reload;
mod oauth;
mod oidc;
mod openapi;
mod operations;
mod process;
mod races;
mod redaction;
mod rotation;
mod seed;
mod serve;
mod service;
mod tenants;
mod webhooks;
