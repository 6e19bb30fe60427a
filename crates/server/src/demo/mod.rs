//! The demo: a sandbox to call, and a tour through everything that a call brings about.
//!
//! The tour goes through the service's public HTTP API alone and checks every answer that it
//! shows. Must not know: the engine, the store, how the service is started.

mod narration;
mod tour;
mod upstream;

pub(crate) use tour::Tour;
pub(crate) use upstream::Sandbox;
