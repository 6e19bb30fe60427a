//! One operation, compiled: from a call to a request, from an answer to data.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem};
use serde_json::Value;

use super::answer::GraphqlAnswer;
use super::cost::{cost, upstream_limits};
use super::errors::{ErrorRules, Refusal, warnings};
use super::spec::{CostSpec, OperationSpec, PartialData};
use crate::adapter::http::connection::TlsProfiles;
use crate::adapter::http::decode::beside_the_runtime;
use crate::adapter::http::endpoint::Endpoint;
use crate::adapter::http::errors::{self, undecodable};
use crate::adapter::http::headers::RequestHeaders;
use crate::adapter::http::pagination::{PageAnswer, PageRequest, PaginationSpec};
use crate::adapter::http::values::ParamValue;
use crate::adapter::{Answer, Call, CallError, Cost, Operation};
use crate::credential::Credential;
use crate::data::Data;
use crate::http_client::InboundResponse;

pub(super) struct GraphqlOperation {
    endpoint: Endpoint,
    /// The body's text up to the first variable.
    head: String,
    variables: Vec<(String, Source)>,
    pagination: Option<Pages>,
    data_path: String,
    rules: ErrorRules,
    partial_data: PartialData,
    cost: Option<CostSpec>,
    has_one_field: bool,
}

/// Where a variable's value comes from.
enum Source {
    Param(String),
    /// JSON text.
    Constant(String),
}

struct Pages {
    spec: PaginationSpec,
    /// The variable that carries the cursor.
    after: String,
}

impl GraphqlOperation {
    /// Compiles a method's operation; all that is wrong with it at once.
    pub(super) fn compile(method: &Method, profiles: Arc<TlsProfiles>) -> Result<Self, Vec<Problem>> {
        let (spec, document) = OperationSpec::read(method)?;
        let headers = RequestHeaders::new(spec.header_spec());
        let source = |name: &String| match spec.constants.variables.get(name) {
            Some(constant) => Source::Constant(constant.to_string()),
            None => Source::Param(spec.variables.get(name).unwrap_or(name).clone()),
        };
        let pagination = spec.pagination.as_ref().map(|pagination| Pages {
            spec: pagination.pagination(&document, &spec.data_path),
            after: pagination.after.clone(),
        });
        Ok(Self {
            head: head(&spec.query, document.operation_name.as_deref()),
            variables: document
                .variables
                .iter()
                .map(|variable| (variable.name.clone(), source(&variable.name)))
                .collect(),
            has_one_field: document.has_one_field,
            endpoint: Endpoint {
                profiles,
                repeatable: method.idempotent || document.is_query || headers.carry_idempotency_key(),
                headers,
                content_type: HeaderValue::from_static("application/json"),
                max_response_bytes: spec.max_response_bytes,
            },
            pagination,
            data_path: spec.data_path,
            rules: ErrorRules(spec.errors),
            partial_data: spec.partial_data,
            cost: spec.cost,
        })
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let page = self.page_request(&call)?;
        let response = self.endpoint.post(&call, self.body(&call, &page)).await?;
        self.read_answer(response, &page, call.connection.credential).await
    }

    /// What pagination adds to the variables of this call.
    fn page_request(&self, call: &Call<'_>) -> Result<PageRequest, CallError> {
        let Some(Pages { spec, .. }) = &self.pagination else { return Ok(PageRequest::default()) };
        spec.request(call.page, |wanted| {
            let (_, source) = self.variables.iter().find(|(name, _)| name == wanted)?;
            match source {
                Source::Constant(text) => Some(text.clone()),
                Source::Param(param) => {
                    ParamValue::read(call.params, param).map(|value| value.into_joined().into_owned())
                }
            }
        })
    }

    /// The request's JSON. Values go out as the caller wrote them; what is missing is left
    /// out, so that the document's defaults hold.
    fn body(&self, call: &Call<'_>, page: &PageRequest) -> Bytes {
        let mut text = self.head.clone().into_bytes();
        let mut separator: &[u8] = b"";
        for (name, source) in &self.variables {
            let value = match page.pairs.iter().find(|(paged, _)| paged == name) {
                Some((_, value)) if self.is_cursor(name) => Some(Bytes::from(Value::from(value.as_str()).to_string())),
                Some((_, size)) => Some(Bytes::from(size.clone())),
                None => match source {
                    Source::Constant(constant) => Some(Bytes::from(constant.clone())),
                    Source::Param(param) => call.params.json_text(param),
                },
            };
            let Some(value) = value else { continue };
            text.extend_from_slice(separator);
            text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
            text.push(b':');
            text.extend_from_slice(&value);
            separator = b",";
        }
        text.extend_from_slice(b"}}");
        Bytes::from(text)
    }

    fn is_cursor(&self, variable: &str) -> bool {
        self.pagination.as_ref().is_some_and(|pages| pages.after == variable)
    }

    async fn read_answer(
        &self,
        response: InboundResponse,
        page: &PageRequest,
        credential: &Credential,
    ) -> Result<Answer, CallError> {
        let InboundResponse { status, headers, body, url, .. } = response;
        let text = body.clone();
        let read = beside_the_runtime(body.len(), move || GraphqlAnswer::read(text)).await;
        let answer = match read {
            Ok(answer) if status.is_success() || !answer.errors.is_empty() => answer,
            Err(fault) if status.is_success() => return Err(undecodable(status, &fault)),
            _ => return Err(errors::Refusal { status, headers: &headers, body: &body, credential }.into_error(None)),
        };
        let is_partial = !answer.errors.is_empty();
        if is_partial && !(self.partial_data == PartialData::Allow && answer.has_result(&self.data_path)) {
            let limits = |refused| upstream_limits(self.cost.as_ref(), &headers, &answer, refused);
            let refusal = Refusal {
                status,
                answer: &answer,
                limits: limits(false),
                credential,
                repeatable: self.endpoint.repeatable,
                has_one_field: self.has_one_field,
            };
            let error = refusal.into_error(&self.rules);
            return Err(CallError { limits: limits(error.code == ErrorCode::RateLimitExceeded), ..error });
        }
        let next_page = match (&self.pagination, &answer.data) {
            (Some(Pages { spec, .. }), Some(data)) => {
                let data = Data::from_text(data.clone());
                spec.next(page, &PageAnswer { url: &url, headers: &headers, data: &data })?
            }
            _ => None,
        };
        Ok(Answer {
            data: answer.result(&self.data_path),
            upstream_status: Some(status.as_u16()),
            next_page,
            limits: upstream_limits(self.cost.as_ref(), &headers, &answer, false),
            warnings: warnings(&answer, &self.data_path, credential),
        })
    }
}

impl Operation for GraphqlOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let page = self.page_request(&call)?;
        self.endpoint.preview(&call, self.body(&call, &page))
    }

    fn is_paginated(&self) -> bool {
        self.pagination.is_some()
    }

    /// The last page tells of the whole's end, so that the others' items go into it.
    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        match (&self.pagination, pages.last()) {
            (Some(Pages { spec, .. }), Some(last)) => spec.join(&pages, last),
            (_, last) => Ok(last.cloned().unwrap_or_else(Data::null)),
        }
    }

    fn sends_idempotency_key(&self) -> bool {
        self.endpoint.headers.carry_idempotency_key()
    }

    fn cost(&self) -> Cost {
        cost(self.cost.as_ref())
    }
}

fn head(query: &str, operation_name: Option<&str>) -> String {
    let name = operation_name.map(|name| format!(",\"operationName\":{}", Value::from(name))).unwrap_or_default();
    format!("{{\"query\":{}{name},\"variables\":{{", Value::from(query))
}
