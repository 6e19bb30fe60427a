//! What the adapters have in common that speak to servers without HTTP.
//!
//! Owns: kept connections, the parts of a config that all of them have, how talking to a
//! server fails, values as JSON text. Must not know: what the servers speak.

pub(in crate::adapter) mod config;
pub(in crate::adapter) mod failure;
pub(in crate::adapter) mod json;
pub(in crate::adapter) mod pool;
