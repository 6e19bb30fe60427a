//! One operation, compiled: from a call to a request, from an answer to data.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Method as Verb, StatusCode};
use integration_model::Problem;
use integration_model::definition::{Method, ResultValidation};
use serde_json::Value;

use super::body::BodySource;
use super::connection::{TlsProfiles, deadline};
use super::decode::Decoding;
use super::encode::{Encoding, FormArrays};
use super::errors::{Refusal, fits, from_http_error, undecodable};
use super::headers::RequestHeaders;
use super::limits::limits;
use super::pagination::{PageAnswer, PageRequest, PaginationSpec};
use super::path::PathTemplate;
use super::query::{QueryBinding, QueryString};
use super::request::{Request, shown_request};
use super::spec::{ErrorRule, OperationSpec, declared_params};
use super::status::StatusRange;
use crate::adapter::{Answer, Call, CallError, Operation};
use crate::credential::Credential;
use crate::data::Data;
use crate::http_client::{InboundResponse, OutboundRequest, RedirectPolicy};
use crate::prefetch;

pub(super) struct HttpOperation {
    pub(super) verb: Verb,
    pub(super) path: PathTemplate,
    pub(super) query: Vec<(String, QueryBinding)>,
    pub(super) headers: RequestHeaders,
    pub(super) cookies: Vec<(String, String)>,
    pub(super) body: BodySource,
    pub(super) encoding: Encoding,
    pub(super) form_arrays: FormArrays,
    /// The constant query, encoded, and the names in it.
    pub(super) constant_query: String,
    pub(super) constant_query_names: Vec<String>,
    pub(super) profiles: Arc<TlsProfiles>,
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
    pub(super) fn compile(method: &Method, profiles: Arc<TlsProfiles>) -> Result<Self, Vec<Problem>> {
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
        let headers = RequestHeaders::new(spec.header_spec());
        let repeatable = method.idempotent || verb.is_safe() || headers.carry_idempotency_key();
        let mut constant_query = String::new();
        let mut pairs = QueryString::after(&mut constant_query);
        for (name, value) in &spec.constants.query {
            pairs.push(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
        }
        Ok(Self {
            body: BodySource::of(&spec, &path),
            verb,
            path,
            headers,
            cookies: spec.cookies.into_iter().collect(),
            query: spec.query.into_iter().collect(),
            encoding: spec.encoding,
            form_arrays: spec.form_arrays,
            constant_query: constant_query.trim_start_matches('?').to_owned(),
            constant_query_names: spec.constants.query.into_keys().collect(),
            profiles,
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
            profile: self.profiles.of(connection)?,
            redirects: self.redirects,
            max_response_bytes: self.max_response_bytes,
            repeatable: self.repeatable,
            fresh_connection: false,
        };
        let response =
            connection.http.send(request, deadline(connection)).await.map_err(|error| from_http_error(&error))?;
        // Other calls came meanwhile.
        self.prefetch();
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
        Ok(Answer {
            data,
            upstream_status: Some(status.as_u16()),
            next_page,
            limits: limits(&headers),
            warnings: Vec::new(),
        })
    }
}

impl Operation for HttpOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
    }

    fn prefetch(&self) {
        prefetch::words((
            self.verb.is_safe(),
            self.query.len(),
            self.cookies.len(),
            self.pagination.is_some(),
            self.rules.len(),
        ));
        prefetch::words((self.value_wanted, self.success.first().map(|range| range.contains(StatusCode::OK))));
        prefetch::words(Arc::strong_count(&self.profiles));
        prefetch::text(&self.constant_query);
        self.headers.prefetch();
        self.path.prefetch();
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let page = self.page_request(&call)?;
        let request = self.build(&call, &page, Some(crate::credential::REDACTED))?;
        Ok(shown_request(&self.verb, &request, call.connection.credential))
    }

    fn is_paginated(&self) -> bool {
        self.pagination.is_some()
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        match (&self.pagination, pages.first()) {
            (Some(pagination), Some(first)) => pagination.join(&pages, first),
            (_, first) => Ok(first.cloned().unwrap_or_else(Data::null)),
        }
    }

    fn sends_idempotency_key(&self) -> bool {
        self.headers.carry_idempotency_key()
    }
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
