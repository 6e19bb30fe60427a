//! One operation, compiled: from a call to a request, from an answer to data.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, header};
use integration_model::Problem;
use integration_model::definition::{Method, ResultValidation};
use serde_json::{Value, json};

use super::body::BodySource;
use super::connection::{Connections, deadline};
use super::decode::Decoding;
use super::encode::{Encoding, FormArrays};
use super::errors::{Refusal, fits, from_http_error, undecodable};
use super::limits::limits;
use super::pagination::{PageAnswer, PageRequest, PaginationSpec};
use super::path::PathTemplate;
use super::query::{QueryBinding, QueryString};
use super::request::Request;
use super::spec::{ErrorRule, OperationSpec, declared_params};
use super::status::StatusRange;
use crate::adapter::{Answer, Call, CallError, Operation};
use crate::credential::Credential;
use crate::data::Data;
use crate::http_client::{InboundResponse, OutboundRequest, RedirectPolicy, is_credential_header};

/// What the service calls itself.
pub(super) const USER_AGENT: &str = concat!("integration-service/", env!("CARGO_PKG_VERSION"));
pub(super) const ACCEPT_ENCODING: &str = "gzip, br";

pub(super) struct HttpOperation {
    pub(super) verb: Verb,
    pub(super) path: PathTemplate,
    pub(super) query: Vec<(String, QueryBinding)>,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) cookies: Vec<(String, String)>,
    pub(super) body: BodySource,
    pub(super) encoding: Encoding,
    pub(super) form_arrays: FormArrays,
    /// The headers of every request.
    pub(super) constant_headers: HeaderMap,
    /// The constant query, encoded, and the names in it.
    pub(super) constant_query: String,
    pub(super) constant_query_names: Vec<String>,
    pub(super) idempotency_key_header: Option<HeaderName>,
    pub(super) connections: Arc<Connections>,
    pub(super) pagination: Option<PaginationSpec>,
    decoding: Decoding,
    success: Vec<StatusRange>,
    rules: Vec<ErrorRule>,
    redirects: RedirectPolicy,
    max_response_bytes: usize,
    repeatable: bool,
    /// Whether somebody looks at the answer's value, so that it has to be parsed.
    value_wanted: bool,
}

/// Whether a transform or the result schema looks at the method's answers.
fn is_value_wanted(method: &Method) -> bool {
    let schema_is_open = method.result_schema == Value::Bool(true)
        || method.result_schema.as_object().is_some_and(serde_json::Map::is_empty);
    method.response_transform.is_some() || (method.result_validation != ResultValidation::Off && !schema_is_open)
}

impl HttpOperation {
    /// Compiles a method's operation; all that is wrong with it at once.
    pub(super) fn compile(method: &Method, connections: Arc<Connections>) -> Result<Self, Vec<Problem>> {
        let spec = OperationSpec::read(&method.operation)?;
        let mut problems = spec.check();
        let path = PathTemplate::parse(&spec.path)
            .map_err(|message| problems.push(Problem::new("/path", message)))
            .unwrap_or_default();
        problems.extend(undeclared_params(&spec, &path, method));
        if !problems.is_empty() {
            return Err(problems);
        }
        let verb = Verb::from_bytes(spec.verb.as_bytes()).map_err(|_| vec![Problem::new("/verb", "no HTTP verb")])?;
        let idempotency_key_header = spec.idempotency_key_header.as_deref().and_then(header_name);
        let repeatable = method.idempotent || verb.is_safe() || idempotency_key_header.is_some();
        let mut constant_query = String::new();
        let mut pairs = QueryString::after(&mut constant_query);
        for (name, value) in &spec.constants.query {
            pairs.push(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
        }
        let constant_headers = constant_headers(&spec);
        Ok(Self {
            body: BodySource::of(&spec, &path),
            verb,
            path,
            headers: spec
                .headers
                .iter()
                .filter_map(|(name, param)| Some((header_name(name)?, param.clone())))
                .collect(),
            cookies: spec.cookies.into_iter().collect(),
            query: spec.query.into_iter().collect(),
            encoding: spec.encoding,
            form_arrays: spec.form_arrays,
            constant_headers,
            constant_query: constant_query.trim_start_matches('?').to_owned(),
            constant_query_names: spec.constants.query.into_keys().collect(),
            idempotency_key_header,
            connections,
            pagination: spec.pagination,
            decoding: spec.decoding,
            success: spec.success_statuses,
            rules: spec.error_mapping,
            redirects: spec.redirects.policy(),
            max_response_bytes: spec.max_response_bytes,
            repeatable,
            value_wanted: is_value_wanted(method),
        })
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let connection = &call.connection;
        let page = self.page_request(&call)?;
        let Request { url, headers, body } = self.build(&call, &page, None)?;
        let request = OutboundRequest {
            method: self.verb.clone(),
            url,
            headers,
            body,
            profile: self.connections.profile(connection)?,
            redirects: self.redirects,
            max_response_bytes: self.max_response_bytes,
            repeatable: self.repeatable,
            fresh_connection: false,
        };
        let response =
            connection.http.send(request, deadline(connection)).await.map_err(|error| from_http_error(&error))?;
        self.read_answer(response, &page, connection.credential).await
    }

    async fn read_answer(
        &self,
        response: InboundResponse,
        page: &PageRequest,
        credential: &Credential,
    ) -> Result<Answer, CallError> {
        let InboundResponse { status, headers, body, url, .. } = response;
        let rule = self.rules.iter().find(|rule| fits(rule, status, &body));
        if rule.is_some() || !self.success.iter().any(|range| range.contains(status)) {
            return Err(Refusal { status, headers: &headers, body: &body, credential }.into_error(rule));
        }
        let data = self
            .decoding
            .decode(&headers, body, self.value_wanted)
            .await
            .map_err(|fault| undecodable(status, &fault))?;
        let next_page = match &self.pagination {
            Some(pagination) => pagination.next(page, &PageAnswer { url: &url, headers: &headers, data: &data })?,
            None => None,
        };
        Ok(Answer { data, upstream_status: Some(status.as_u16()), next_page, limits: limits(&headers) })
    }
}

impl Operation for HttpOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let page = self.page_request(&call)?;
        let Request { url, headers, body } = self.build(&call, &page, Some(crate::credential::REDACTED))?;
        let credential = call.connection.credential;
        let shown: serde_json::Map<_, _> = headers
            .iter()
            .map(|(name, value)| {
                let text = if value.is_sensitive() {
                    crate::credential::REDACTED.to_owned()
                } else {
                    credential.redact(&String::from_utf8_lossy(value.as_bytes()))
                };
                (name.as_str().to_owned(), Value::from(text))
            })
            .collect();
        Ok(json!({
            "method": self.verb.as_str(),
            "url": credential.redact(&url.to_string()),
            "headers": shown,
            "body": shown_body(&body, credential),
        }))
    }

    fn is_paginated(&self) -> bool {
        self.pagination.is_some()
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        match &self.pagination {
            Some(pagination) => pagination.join(&pages),
            None => Ok(pages.into_iter().next().unwrap_or_else(Data::null)),
        }
    }

    fn sends_idempotency_key(&self) -> bool {
        self.idempotency_key_header.is_some()
    }
}

/// A body as a person reads it: JSON as JSON, other text as a string, bytes by their count.
fn shown_body(body: &Bytes, credential: &Credential) -> Value {
    match std::str::from_utf8(body) {
        Ok("") => Value::Null,
        Ok(text) => {
            let text = credential.redact(text);
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        Err(_) => Value::String(format!("({} bytes that are no text)", body.len())),
    }
}

fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}

/// The headers that do not depend on the call.
fn constant_headers(spec: &OperationSpec) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPT_ENCODING));
    let accept = spec.accept.as_deref().unwrap_or(spec.decoding.accept());
    let constants = spec.constants.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in std::iter::once(("accept", accept)).chain(constants) {
        if let (Some(name), Ok(mut value)) = (header_name(name), HeaderValue::from_bytes(value.as_bytes())) {
            value.set_sensitive(is_credential_header(&name));
            headers.insert(name, value);
        }
    }
    headers
}

/// Params that the operation takes and that no caller can give.
fn undeclared_params(spec: &OperationSpec, path: &PathTemplate, method: &Method) -> Vec<Problem> {
    let Some(declared) = declared_params(method) else { return Vec::new() };
    let in_path = path.params().map(|name| ("/path".to_owned(), name));
    let body = spec.body.as_deref().filter(|name| *name != super::spec::ALL_PARAMS);
    let in_body = body.map(|name| ("/body".to_owned(), name));
    in_path
        .chain(spec.bound_params())
        .chain(in_body)
        .filter(|(_, name)| !declared.contains_key(*name))
        .map(|(pointer, name)| Problem::new(pointer, format!("the method's paramSchema has no param {name:?}")))
        .collect()
}
