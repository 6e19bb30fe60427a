//! The `http` adapter: operations of REST-like systems.
//!
//! Owns: how an operation's JSON becomes requests, and answers become data: templates,
//! queries, encodings, pagination, what statuses mean. Must not know: connections and
//! redirects (the HTTP client's), retries, limits and breakers (policies').

mod base_url;
mod body;
pub(in crate::adapter) mod connection;
pub(in crate::adapter) mod decode;
mod encode;
pub(in crate::adapter) mod endpoint;
pub(in crate::adapter) mod errors;
pub(in crate::adapter) mod headers;
pub(in crate::adapter) mod json_text;
pub(in crate::adapter) mod limits;
mod multipart;
mod operation;
pub(in crate::adapter) mod pagination;
mod path;
mod query;
mod request;
pub(in crate::adapter) mod spec;
mod status;
mod table;
mod uri_template;
pub(in crate::adapter) mod values;
mod xml;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method as Verb, StatusCode};
use integration_model::definition::{AuthType, DefinitionSpec, Method};
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value};

use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use crate::http_client::{OutboundRequest, RedirectPolicy};
use connection::{Connections, deadline};
use errors::Refusal;
pub(crate) use errors::from_http_error;
use headers::{HeaderSpec, RequestHeaders};
pub(crate) use limits::retry_after;
use operation::HttpOperation;
use spec::{CONFIG_SCHEMA, OPERATION_SCHEMA};

/// How much of the answer to a connection test is read.
const MAX_TEST_ANSWER: usize = 1024 * 1024;

/// Speaks HTTP to REST-like systems.
pub struct HttpAdapter {
    connections: Arc<Connections>,
}

impl Default for HttpAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpAdapter {
    pub fn new() -> Self {
        Self { connections: Arc::new(Connections::new()) }
    }

    /// Asks for the base URL: anything but a refusal of the credential or a fault of the
    /// server shows that the system is there.
    async fn probe(&self, connection: Connection<'_>) -> Result<String, CallError> {
        let base = self.connections.base_url(&connection)?;
        let none = BTreeMap::new();
        let spec = HeaderSpec { accept: "*/*", params: &none, constants: &none, idempotency_key: None };
        let mut headers = RequestHeaders::new(spec).of_instance(connection.config);
        let mut secrets = Vec::new();
        connection.credential.apply(connection.custom_auth, &mut headers, &mut secrets)?;
        let url = endpoint::url(&base, &base.prefix, &secrets)?;
        let request = OutboundRequest {
            method: Verb::GET,
            url,
            headers,
            body: Bytes::new(),
            profile: self.connections.profile(&connection)?,
            redirects: RedirectPolicy::default(),
            max_response_bytes: MAX_TEST_ANSWER,
            repeatable: true,
            fresh_connection: false,
        };
        let response =
            connection.http.send(request, deadline(&connection)).await.map_err(|error| from_http_error(&error))?;
        let status = response.status;
        let refusal =
            Refusal { status, headers: &response.headers, body: &response.body, credential: connection.credential };
        match status {
            StatusCode::UNAUTHORIZED => Err(refusal.into_error(None)),
            StatusCode::FORBIDDEN => {
                let error = refusal.into_error(None);
                Err(CallError { code: ErrorCode::Auth, credential_refused: true, ..error })
            }
            status if status.is_server_error() => Err(refusal.into_error(None)),
            status => Ok(format!("{} answered {}", base.authority, status.as_u16())),
        }
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
        let operation = HttpOperation::compile(method, Arc::clone(&self.connections))?;
        Ok(Arc::new(operation))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        self.connections.check(config)
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(self.probe(call))
    }
}
