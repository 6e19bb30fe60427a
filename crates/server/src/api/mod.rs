//! The endpoints, a file for each resource. Each handler reads the request, calls one
//! function of the engine or the store, and writes the answer; nothing else happens here.

pub(crate) mod adapters;
pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod catalogue;
pub(crate) mod content;
pub(crate) mod credentials;
pub(crate) mod definitions;
pub(crate) mod events;
pub(crate) mod execute;
pub(crate) mod executions;
pub(crate) mod imports;
pub(crate) mod instances;
pub(crate) mod oauth;
pub(crate) mod operations;
pub(crate) mod status;
pub(crate) mod webhooks;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header::{ETAG, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use integration_engine::EngineError;
use integration_model::label::MAX_LABELS;
use integration_model::page::{MAX_LIMIT, PageRequest, Pagination};
use integration_model::principal::Principal;
use integration_model::{ErrorCode, Problem, TenantId, Timestamp};
use integration_store::{Sort, SortField, StoreError};
use serde::Serialize;

use crate::error::ApiError;
use crate::middleware::RequestContext;
use crate::wording::explain;

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    pub pagination: Pagination,
}

/// One stretch of a long history; `nextCursor` leads on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stretch<T> {
    pub items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Who calls, with what is known of the request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub principal: Principal,
    pub context: RequestContext,
}

impl Caller {
    pub(crate) fn correlation_id(&self) -> &str {
        &self.context.correlation_id
    }
}

/// Names the tenant that a caller of all tenants acts for.
pub(crate) const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let (Some(principal), Some(context)) =
            (parts.extensions.get::<Arc<Principal>>(), parts.extensions.get::<RequestContext>())
        else {
            tracing::error!("a handler asks for its caller on a path without one");
            return Err(ApiError::internal());
        };
        let principal = act_for_tenant(principal, &parts.headers)?;
        Ok(Self { principal, context: context.clone() })
    }
}

/// The caller, bound to the tenant it names where it may act for several.
pub(crate) fn act_for_tenant(principal: &Principal, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let mut principal = principal.clone();
    if let Some(tenant) = header_text(headers, &TENANT_ID)? {
        let tenant = TenantId::parse(tenant).map_err(|error| header_fault(&TENANT_ID, error.to_string()))?;
        match &principal.tenant {
            Some(own) if *own != tenant => {
                return Err(ApiError::new(
                    ErrorCode::Forbidden,
                    format!("this caller may not act for tenant {tenant}"),
                ));
            }
            _ => principal.tenant = Some(tenant),
        }
    }
    Ok(principal)
}

/// A header's text, where it is there.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    headers.get(name).map(|value| value.to_str().map_err(|_| header_fault(name, "expected visible ASCII"))).transpose()
}

pub(crate) fn header_fault(name: &HeaderName, message: impl Into<String>) -> ApiError {
    ApiError::invalid(vec![Problem::new(format!("/headers/{name}"), message)])
}

/// A document that does not fit, in words for people.
pub(crate) fn unfit(problem: Problem) -> ApiError {
    ApiError::invalid(vec![worded(problem)])
}

pub(crate) fn worded(problem: Problem) -> Problem {
    Problem::new(problem.pointer, explain(&problem.message))
}

/// The last page number that a list takes; deeper readers use filters or cursors.
const MAX_PAGE: u32 = 1_000_000;

pub(crate) fn page_request(page: Option<u32>, limit: Option<u32>) -> Result<PageRequest, ApiError> {
    let request = PageRequest { page: page.unwrap_or(1), limit: limit.unwrap_or(20) };
    let mut problems = Vec::new();
    if !(1..=MAX_PAGE).contains(&request.page) {
        problems.push(Problem::new("/query/page", format!("expected 1 to {MAX_PAGE}")));
    }
    if !(1..=MAX_LIMIT).contains(&request.limit) {
        problems.push(Problem::new("/query/limit", format!("expected 1 to {MAX_LIMIT}")));
    }
    if problems.is_empty() { Ok(request) } else { Err(ApiError::invalid(problems)) }
}

/// `limit` of a list with a cursor.
pub(crate) fn stretch_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    page_request(None, Some(limit.unwrap_or(50))).map(|request| request.limit)
}

/// `name`, `-updatedAt`, …
pub(crate) fn parse_sort(text: Option<&str>) -> Result<Sort, ApiError> {
    let Some(text) = text else { return Ok(Sort::default()) };
    let (descending, name) = match text.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, text),
    };
    let field = match name {
        "name" => SortField::Name,
        "id" => SortField::Id,
        "createdAt" => SortField::CreatedAt,
        "updatedAt" => SortField::UpdatedAt,
        _ => {
            return Err(query_fault(
                "sort",
                "expected name, id, createdAt or updatedAt, with a '-' before it to reverse",
            ));
        }
    };
    Ok(Sort { field, descending })
}

pub(crate) fn query_fault(name: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(vec![Problem::new(format!("/query/{name}"), message)])
}

/// Reads an optional text with `read`; the error names the parameter.
pub(crate) fn parse_query<T>(
    name: &str,
    text: Option<&str>,
    expected: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    match text {
        None => Ok(None),
        Some(text) => read(text).map(Some).ok_or_else(|| query_fault(name, format!("expected {expected}"))),
    }
}

pub(crate) fn parse_time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    parse_query(name, text, "an RFC 3339 time such as 2026-01-31T10:30:00Z", |text| Timestamp::parse(text).ok())
}

/// Names out of `all`, several separated by commas; `what` is what they name.
pub(crate) fn parse_names<T: Copy>(
    name: &str,
    text: Option<&str>,
    what: &str,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, ApiError> {
    let names = text.unwrap_or_default().split(',').filter(|one| !one.is_empty());
    names
        .map(|one| {
            all.iter().copied().find(|known| as_str(*known) == one).ok_or_else(|| {
                let known: Vec<_> = all.iter().map(|known| as_str(*known)).collect();
                query_fault(name, format!("there is no {what} {one:?}: expected {}", known.join(", ")))
            })
        })
        .collect()
}

/// `key=value`, several separated by commas.
pub(crate) fn parse_labels(text: Option<&str>) -> Result<Vec<(String, String)>, ApiError> {
    let pairs: Vec<&str> = text.unwrap_or_default().split(',').filter(|pair| !pair.is_empty()).collect();
    if pairs.len() > MAX_LABELS {
        return Err(query_fault("label", format!("expected at most {MAX_LABELS} labels")));
    }
    pairs
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(query_fault("label", "expected key=value, several separated by commas")),
        })
        .collect()
}

/// The header of a change that must not undo another's.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what if_match reads")]
pub(crate) struct IfMatch {
    /// The ETag that the caller last saw: where it is not the current one, nothing changes.
    /// `*` stands for any.
    #[param(rename = "If-Match", pattern = r#"^("[0-9]{1,18}"|\*)$"#, example = "\"3\"")]
    if_match: Option<String>,
}

/// The version that `If-Match` names; none where there is no such header, or `*`.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(text) = header_text(headers, &IF_MATCH)?.map(str::trim) else { return Ok(None) };
    if text == "*" {
        return Ok(None);
    }
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or_else(|| header_fault(&IF_MATCH, "expected the ETag of the instance, such as \"3\""))
}

pub(crate) fn etag(version: i64) -> [(HeaderName, HeaderValue); 1] {
    // Digits between quotes are a valid header value.
    let value = HeaderValue::from_str(&format!("\"{version}\"")).expect("a quoted number");
    [(ETAG, value)]
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        if let EngineError::Store(source) = &error {
            log_store_error(source);
            return Self::internal();
        }
        let mut api = Self::new(error.code(), error.to_string());
        api.errors = error.problems().to_vec();
        if let EngineError::NotRenewed { retry_after, .. } = error {
            api.retry_after = retry_after;
        }
        api
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        EngineError::from(error).into()
    }
}

fn log_store_error(error: &StoreError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(error = %error, cause, "the store failed");
}
