//! The `graphql` adapter: queries and mutations that methods declare.
//!
//! Owns: documents and their check, variables, what an answer's errors and costs mean,
//! connections and their pages. Must not know: how HTTP requests are made and sent (the `http`
//! adapter's pieces and the HTTP client), retries, limits and breakers (policies').

mod answer;
mod cost;
mod document;
mod errors;
mod operation;
mod spec;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::http::config;
use super::http::connection::TlsProfiles;
use super::http::spec::CONFIG_SCHEMA;
use super::{Adapter, AdapterDescription, Call, CallError, Connection, Operation};
use crate::params::Params;
use operation::GraphqlOperation;
use spec::OPERATION_SCHEMA;

/// What a connection test asks for: every schema has it, and it changes nothing.
const TEST_QUERY: &str = "{ __typename }";

/// Speaks GraphQL over HTTP.
pub struct GraphqlAdapter {
    profiles: Arc<TlsProfiles>,
}

impl Default for GraphqlAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl GraphqlAdapter {
    pub fn new() -> Self {
        Self { profiles: Arc::new(TlsProfiles::new()) }
    }

    async fn ask(&self, connection: Connection<'_>) -> Result<String, CallError> {
        let method =
            integration_model::problem::from_value(json!({"name": "test", "operation": {"query": TEST_QUERY}}))
                .map_err(|problem: Problem| CallError::not_sent(ErrorCode::Internal, problem.to_string()))?;
        let operation = GraphqlOperation::compile(&method, Arc::clone(&self.profiles))
            .map_err(|_| CallError::not_sent(ErrorCode::Internal, "the test query does not compile"))?;
        let params = Params::empty();
        let call = Call { connection, params: &params, idempotency_key: "", traceparent: None, page: None };
        match operation.call(call).await {
            Ok(_) => Ok(format!("{TEST_QUERY} was answered")),
            // Nothing asks for less than the test does: who may not see this may see nothing.
            Err(error)
                if error.code == ErrorCode::Auth || error.upstream_status == Some(StatusCode::FORBIDDEN.as_u16()) =>
            {
                Err(CallError { code: ErrorCode::Auth, credential_refused: true, ..error })
            }
            Err(error) => Err(error),
        }
    }
}

impl Adapter for GraphqlAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: "graphql",
            version: "1.0.0",
            description: "GraphQL over HTTP: queries and mutations, errors, cost, connections in pages",
            auth_types: AuthType::ALL,
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let operation = GraphqlOperation::compile(method, Arc::clone(&self.profiles))?;
        Ok(Arc::new(operation))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        config::check(config)
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(self.ask(call))
    }
}
