//! The `http` adapter: operations of REST-like systems.
//!
//! Owns: how an operation's JSON becomes requests, and answers become data: templates,
//! queries, encodings, pagination, what statuses mean. Must not know: connections and
//! redirects (the HTTP client's), retries, limits and breakers (policies').

pub(in crate::adapter) mod base_url;
mod body;
pub(in crate::adapter) mod config;
pub(in crate::adapter) mod connection;
pub(in crate::adapter) mod decode;
pub(in crate::adapter) mod encode;
pub(in crate::adapter) mod endpoint;
pub(in crate::adapter) mod errors;
pub(in crate::adapter) mod headers;
pub(in crate::adapter) mod json_text;
pub(in crate::adapter) mod limits;
mod multipart;
mod operation;
pub(in crate::adapter) mod pagination;
mod path;
pub(in crate::adapter) mod probe;
mod query;
pub(in crate::adapter) mod request;
pub(in crate::adapter) mod spec;
mod status;
mod table;
mod uri_template;
pub(in crate::adapter) mod values;
pub(in crate::adapter) mod xml;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use serde_json::{Map, Value};

use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use connection::TlsProfiles;
use endpoint::Proof;
pub(crate) use errors::from_http_error;
pub(crate) use headers::is_reserved_header;
pub(crate) use limits::retry_after;
use operation::HttpOperation;
use probe::{Probe, probe};
use spec::{CONFIG_SCHEMA, OPERATION_SCHEMA};

/// Speaks HTTP to REST-like systems.
pub struct HttpAdapter {
    profiles: Arc<TlsProfiles>,
}

impl Default for HttpAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpAdapter {
    pub fn new() -> Self {
        Self { profiles: Arc::new(TlsProfiles::new()) }
    }
}

impl Adapter for HttpAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: "http",
            version: "1.0.0",
            description: "REST and other systems over HTTP: any verb, templates, encodings, pagination",
            auth_types: AuthType::ALL,
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let operation = HttpOperation::compile(method, Arc::clone(&self.profiles))?;
        Ok(Arc::new(operation))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        config::check(config)
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(probe(&self.profiles, call, Probe { query: None, proof: Proof::Head }))
    }
}
