//! The one place where requests are let in or refused, by the table. Must not know what a
//! route does.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use integration_engine::EngineError;
use integration_model::principal::Principal;
use integration_model::{DefinitionId, ErrorCode, ExecutionId};

use super::table::{GrantScope, PathRules, Rule, rules};
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
    let path_rules = matched.as_ref().and_then(|path| rules(path.as_str()));
    let rule = path_rules.and_then(|rules| rules.of_verb(&parts.method));
    if path_rules.is_some_and(PathRules::is_open) {
        return match rule {
            Some(_) => next.run(Request::from_parts(parts, body)).await,
            None => wrong_verb(path_rules),
        };
    }
    let Some(context) = parts.extensions.get::<RequestContext>() else {
        tracing::error!("a request came in without its context");
        return ApiError::internal().into_response();
    };
    let basic = rule.is_some_and(|rule| rule.basic);
    let principal = match state.authenticator.authenticate(&parts.headers, context, basic).await {
        Ok(principal) => principal,
        Err(error) => return error.into_response(),
    };
    match (&matched, rule) {
        // The fallback says that there is nothing.
        (None, _) => {}
        (Some(path), Some(rule)) => {
            if let Err(error) = admit(&state, rule, &principal, path.as_str(), &mut parts).await {
                let is_call = rule.grant.is_some_and(GrantScope::executes);
                return if is_call { refuse(error) } else { error.into_response() };
            }
        }
        (Some(_), None) => return wrong_verb(path_rules),
    }
    parts.extensions.insert(principal);
    next.run(Request::from_parts(parts, body)).await
}

/// The path takes other verbs; a path of which nobody said who may call it takes none.
fn wrong_verb(rules: Option<PathRules<'_>>) -> Response {
    let Some(rules) = rules else {
        tracing::error!("a route is not in the table of who may call it");
        return ApiError::new(ErrorCode::Forbidden, "nobody may do this").into_response();
    };
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
    let verb = http::Method::POST;
    match rules(PATH).and_then(|rules| rules.of_verb(&verb)) {
        Some(rule) => Err(denied(rule, principal, verb.as_str(), PATH)),
        None => Err(ApiError::internal()),
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
