//! The one place where requests are let in or refused, by the table. Must not know what a
//! route does.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use integration_engine::EngineError;
use integration_model::principal::Principal;
use integration_model::{DefinitionId, ErrorCode, ExecutionId};

use super::table::{Allowed, GrantScope, PathRules, Rule, rules};
use crate::api::act_for_tenant;
use crate::api::execute::refuse;
use crate::error::ApiError;
use crate::middleware::RequestContext;
use crate::state::AppState;
use crate::telemetry::metrics::HTTP_ACCESS_DENIED;

/// Lets a request through to its handler where the table allows it; the handler finds an
/// `Arc<Principal>` in the request's extensions. Strangers do not learn which paths exist.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let matched = parts.extensions.get::<MatchedPath>().cloned();
    let route = Route::find(matched.as_ref().map(MatchedPath::as_str), &parts.method);
    match route {
        Route::Open => {}
        Route::WrongVerb(rules) if rules.are_open() => return wrong_verb(rules),
        _ => match enter(&state, &route, &mut parts).await {
            Ok(principal) => drop(parts.extensions.insert(principal)),
            Err(response) => return response,
        },
    }
    next.run(Request::from_parts(parts, body)).await
}

/// What a request asks for, as far as the table knows.
enum Route<'a> {
    /// Nothing: the fallback says so.
    Nowhere,
    /// Anybody may.
    Open,
    Guarded(&'static Rule, &'a str),
    /// The path takes other verbs, which are these.
    WrongVerb(PathRules<'static>),
    /// There is something of which nobody said who may call it.
    Forgotten,
}

impl<'a> Route<'a> {
    fn find(matched: Option<&'a str>, verb: &Method) -> Self {
        let Some(path) = matched else { return Self::Nowhere };
        let Some(rules) = rules(path) else { return Self::Forgotten };
        match rules.of_verb(verb) {
            Some(rule) if rule.allowed == Allowed::Anyone => Self::Open,
            Some(rule) => Self::Guarded(rule, path),
            None => Self::WrongVerb(rules),
        }
    }
}

/// Who comes, if the table lets them in.
async fn enter(state: &AppState, route: &Route<'_>, parts: &mut Parts) -> Result<Arc<Principal>, Response> {
    let Some(context) = parts.extensions.get::<RequestContext>() else {
        tracing::error!("a request came in without its context");
        return Err(ApiError::internal().into_response());
    };
    let basic = matches!(route, Route::Guarded(rule, _) if rule.basic);
    let authenticated = state.authenticator.authenticate(&parts.headers, context, basic).await;
    let principal = authenticated.map_err(IntoResponse::into_response)?;
    match route {
        Route::Nowhere | Route::Open => Ok(principal),
        Route::Guarded(rule, path) => match admit(state, rule, &principal, path, parts).await {
            Ok(()) => Ok(principal),
            Err(error) if rule.grant.is_some_and(GrantScope::executes) => Err(refuse(error)),
            Err(error) => Err(error.into_response()),
        },
        Route::WrongVerb(rules) => Err(wrong_verb(*rules)),
        Route::Forgotten => {
            tracing::error!("a route is not in the table of who may call it");
            Err(ApiError::new(ErrorCode::Forbidden, "nobody may do this").into_response())
        }
    }
}

fn wrong_verb(rules: PathRules<'_>) -> Response {
    let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
    if let Ok(verbs) = HeaderValue::try_from(rules.verbs()) {
        response.headers_mut().insert(ALLOW, verbs);
    }
    response
}

async fn admit(
    state: &AppState,
    rule: &Rule,
    principal: &Arc<Principal>,
    path: &str,
    parts: &mut Parts,
) -> Result<(), ApiError> {
    let is_bound = rule.unbound && principal.tenant.is_some();
    let is_allowed = !is_bound
        && match (rule.allows(principal), rule.grant) {
            (true, _) => true,
            (false, Some(scope)) if !principal.grants.is_empty() => is_granted(state, scope, principal, parts).await?,
            (false, _) => false,
        };
    if is_allowed { Ok(()) } else { Err(denied(rule, principal, parts.method.as_str(), path)) }
}

/// The check of the calls that do not come through [`guard`].
pub(crate) fn check_execute(principal: &Principal, instance: &str, method: &str) -> Result<(), ApiError> {
    const PATH: &str = "/execute/{integrationId}/{method}";
    if principal.may_execute(instance, method) {
        return Ok(());
    }
    match Route::find(Some(PATH), &Method::POST) {
        Route::Guarded(rule, path) => Err(denied(rule, principal, "POST", path)),
        _ => Err(ApiError::internal()),
    }
}

fn denied(rule: &Rule, principal: &Principal, verb: &str, path: &str) -> ApiError {
    ::metrics::counter!(HTTP_ACCESS_DENIED).increment(1);
    let needs = rule.needs();
    tracing::info!(principal = %principal.name, http.method = verb, http.route = path, needs, "a caller was refused");
    ApiError::new(ErrorCode::Forbidden, format!("this needs {needs}"))
}

/// Whether the caller's grants cover what the path names. An error where there is no such thing
/// for this caller.
async fn is_granted(
    state: &AppState,
    scope: GrantScope,
    principal: &Principal,
    parts: &mut Parts,
) -> Result<bool, ApiError> {
    let Ok(params) = RawPathParams::from_request_parts(parts, &()).await else { return Ok(false) };
    let mut values = params.iter().map(|(_, value)| value);
    let first = values.next().unwrap_or_default();
    match scope {
        GrantScope::Method => Ok(principal.may_execute(first, values.next().unwrap_or_default())),
        GrantScope::Instance => Ok(principal.grants.iter().any(|grant| grant.is_of(first))),
        GrantScope::Definition => is_definition_granted(state, principal, first).await,
        GrantScope::Execution | GrantScope::Replay => {
            // An id that no execution can have is the handler's to answer.
            let Ok(id) = ExecutionId::parse(first) else { return Ok(true) };
            let principal = act_for_tenant(principal, &parts.headers)?;
            let execution = state.engine.execution(id, &principal).await?;
            let is_own = execution.principal == *principal.name
                && principal.may_execute(execution.integration_instance_id.as_str(), &execution.method_name);
            if is_own { Ok(true) } else { Err(EngineError::ExecutionNotFound(id.to_string()).into()) }
        }
    }
}

async fn is_definition_granted(state: &AppState, principal: &Principal, id: &str) -> Result<bool, ApiError> {
    let Ok(id) = DefinitionId::parse(id) else { return Ok(false) };
    for grant in &*principal.grants {
        if grant.instance == "*" {
            return Ok(true);
        }
        match state.engine.instance(&grant.instance, principal).await {
            Ok(instance) if instance.integration_definition_id == id => return Ok(true),
            Ok(_) | Err(EngineError::InstanceNotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        assert!(matches!(Route::find(Some("/forgotten"), &Method::GET), Route::Forgotten));
        assert!(matches!(Route::find(Some("/api/v1/adapters"), &Method::POST), Route::WrongVerb(_)));
        assert!(matches!(Route::find(Some("/api/v1/adapters"), &Method::HEAD), Route::Guarded(..)));
        assert!(matches!(Route::find(Some("/health"), &Method::GET), Route::Open));
        assert!(matches!(Route::find(Some("/health"), &Method::POST), Route::WrongVerb(_)));
        assert!(matches!(Route::find(None, &Method::GET), Route::Nowhere));
    }
}
