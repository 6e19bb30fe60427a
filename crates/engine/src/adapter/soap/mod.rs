//! The `soap` adapter: operations of SOAP 1.1 and 1.2 systems, document and RPC literal.
//!
//! Owns: how params become envelopes and envelopes data, by a model of their XML; faults;
//! WS-Security. Must not know: WSDL (the import's), connections (the HTTP client's), retries,
//! limits and breakers (policies').

mod answer;
mod compose;
mod compose_open;
mod envelope;
mod fault;
mod header;
pub(crate) mod model;
mod operation;
mod scalar;
mod security;
pub(crate) mod spec;

use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use serde_json::{Map, Value};

use super::http::config;
use super::http::connection::TlsProfiles;
use super::http::probe::{Probe, probe};
use super::http::spec::CONFIG_SCHEMA as HTTP_CONFIG_SCHEMA;
use super::own_schema::OwnSchema;
use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use crate::credential::Credential;
use operation::SoapOperation;
use security::{Security, Verifier};
use spec::OPERATION_SCHEMA;

static CONFIG_SCHEMA: LazyLock<OwnSchema> = LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

/// Speaks SOAP.
pub struct SoapAdapter {
    profiles: Arc<TlsProfiles>,
}

impl Default for SoapAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl SoapAdapter {
    pub fn new() -> Self {
        Self { profiles: Arc::new(TlsProfiles::new()) }
    }
}

pub(crate) use scalar::LIST;

/// Whether XML Schema has a simple type of this name.
pub(crate) fn is_built_in(name: &str) -> bool {
    scalar::Scalar::built_in(name).is_some()
}

/// What the `http` adapter reads from a config, and what SOAP adds.
fn config_schema() -> Value {
    let mut schema = HTTP_CONFIG_SCHEMA.document.clone();
    schema["title"] = "What the soap adapter reads from an instance's config".into();
    if let (Some(all), Some(own)) =
        (schema["properties"].as_object_mut(), CONFIG_SCHEMA.document["properties"].as_object())
    {
        all.extend(own.clone());
    }
    schema
}

impl Adapter for SoapAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: "soap",
            version: "1.0.0",
            description: "SOAP 1.1 and 1.2, document and RPC literal, faults, WS-Security",
            auth_types: AuthType::ALL,
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: config_schema(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        Ok(Arc::new(SoapOperation::compile(method, Arc::clone(&self.profiles))?))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = config::check(config);
        let own = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        let verifier = if own.is_empty() { Verifier::of(config).err() } else { None };
        problems.extend(own);
        problems.extend(verifier.map(|fault| Problem::new("/security/response/certificates", fault)));
        problems
    }

    fn check_credential(&self, config: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        match (credential.request_part(), Security::of(config)) {
            (Credential::SigningSecrets(_), _) => Err(Problem::new(
                "/data/secrets",
                "expected a string, a number or a boolean: only webhooks have a list of secrets",
            )),
            (_, Some(security)) => security.check(credential),
            (_, None) => Ok(()),
        }
    }

    /// Asks for the system's description, as `?wsdl` of its URL mostly gives it. A credential
    /// that goes into messages is not tried: without knowing an operation, nothing harmless
    /// could be asked with it.
    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(probe(&self.profiles, call, Probe { query: Some(("wsdl", "")), proof: Security::proof(call.config) }))
    }
}
