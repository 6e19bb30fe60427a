//! `POST /execute/…` without the router's layers: the same handler behind a shorter way,
//! because it is what nearly all requests are.

use std::pin::Pin;

use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{Method, Request};
use hyper::body::Incoming;
use integration_engine::execute::ExecuteRequest;
use integration_model::principal::Principal;
use percent_encoding::percent_decode_str;

use crate::access::check_execute;
use crate::api::content::is_content;
use crate::api::execute::{ExecuteQuery, IncomingCall, refuse, run};
use crate::error::ApiError;
use crate::extract::{BodyLimits, read_query};
use crate::middleware::RequestContext;
use crate::serve::FastPath;
use crate::state::AppState;

const PREFIX: &str = "/execute/";

/// Takes the calls of methods.
pub(crate) struct ExecutePath {
    state: AppState,
}

impl ExecutePath {
    pub(crate) fn new(state: AppState) -> Self {
        Self { state }
    }

    async fn execute(&self, request: Request<Incoming>) -> Response {
        let (parts, body) = request.into_parts();
        let Some(context) = parts.extensions.get::<RequestContext>() else {
            tracing::error!("a call came in without its context");
            return ApiError::internal().into_response();
        };
        let principal = match self.state.authenticator.authenticate(&parts.headers, context, false).await {
            Ok(principal) => principal,
            Err(error) => return error.into_response(),
        };
        match read(&principal, context, &parts, body).await {
            Ok(request) => run(&self.state, request, &parts.headers).await,
            Err(error) => refuse(error),
        }
    }
}

async fn read(
    principal: &Principal,
    context: &RequestContext,
    parts: &Parts,
    body: Incoming,
) -> Result<ExecuteRequest, ApiError> {
    let Some(limits) = parts.extensions.get::<BodyLimits>() else {
        tracing::error!("a call came in without its limits");
        return Err(ApiError::internal());
    };
    // `matches` has seen that there are two segments.
    let (instance, method) = segments(parts.uri.path()).unwrap_or_default();
    let (instance, method) = (decode(instance), decode(method));
    check_execute(principal, &instance, &method)?;
    let query = match parts.uri.query() {
        Some(_) => read_query(&parts.uri)?,
        None => ExecuteQuery::default(),
    };
    let call = IncomingCall { principal, context, instance, method, headers: &parts.headers };
    if is_content(&parts.headers) {
        return call.read_beside(&query, *limits, body);
    }
    let body = limits.read(body).await?;
    call.read(&query, &body)
}

impl FastPath for ExecutePath {
    fn matches(&self, request: &Request<Incoming>) -> bool {
        request.method() == Method::POST && segments(request.uri().path()).is_some()
    }

    fn call(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        Box::pin(self.execute(request))
    }
}

/// The instance and the method of `/execute/{integrationId}/{method}`; all else is the router's.
fn segments(path: &str) -> Option<(&str, &str)> {
    let (instance, method) = path.strip_prefix(PREFIX)?.split_once('/')?;
    (!instance.is_empty() && !method.is_empty() && !method.contains('/')).then_some((instance, method))
}

/// A segment that is no UTF-8 names nothing; the engine says so.
fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}
