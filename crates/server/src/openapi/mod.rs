//! The service's own description (OpenAPI 3.1), made from the handlers, and what all of
//! them have in common: security, errors, tags. Must not know what an endpoint does.

mod schemas;

use std::fmt::Write as _;

use http::Method;
use integration_model::principal::Role;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, PathItem, Ref, RefOr, Required,
    Response, ResponseBuilder, ServerBuilder,
};

use crate::access::table::{Allowed, Rule, rules};

pub(crate) use schemas::anything;
pub(crate) use schemas::{
    auth_type, definition_status, error, execution_status, instance_status, paginate, queued, success,
};

const DESCRIPTION: &str = "Calls any external system: definitions of what a system can do, instances of it \
with encrypted credentials, and executions with validation, limits, circuit breakers, retries, transforms, \
caches, a log and events.\n\nEvery answer carries `X-Correlation-Id`: the request's own, or one made for it. \
Errors are `application/problem+json` (RFC 9457) with a stable `code`; `/execute` answers in a shape of its own. \
What an answer does not have is absent from it, never null.";

const TAGS: &[(&str, &str)] = &[
    ("execute", "Calling methods of external systems."),
    ("definitions", "The registry: what external systems can do, in versions."),
    ("catalogue", "Definitions that come with the service."),
    ("adapters", "What the service can speak to."),
    ("instances", "Configured connections to external systems."),
    ("credentials", "Secrets of instances: written, judged, deleted, never read back."),
    ("executions", "The log of calls."),
    ("events", "What happened, as history and as a stream."),
    ("webhooks", "Where external systems deliver: verified, and told on as events."),
    ("audit", "Who did what to what, when, why, and how it went."),
    ("operations", "Health, limits, caches and circuit breakers of integrations."),
    ("access", "API keys: who else may call, and what."),
    ("health", "The service itself."),
];

/// The tags whose endpoints see what one tenant owns.
const TENANT_TAGS: &[&str] =
    &["adapters", "instances", "credentials", "executions", "events", "audit", "operations", "access"];

const PROBLEM: &str = "application/problem+json";

/// The errors that many endpoints share: status, name, meaning.
const SHARED_ERRORS: &[(&str, &str, &str)] = &[
    ("400", "BadRequest", "The request does not fit; `errors` says where."),
    ("401", "Unauthenticated", "No valid key came with the request."),
    ("403", "Forbidden", "The caller lacks the role or the grant that this needs, or may not act for this tenant."),
    ("404", "NotFound", "There is no such resource for this caller."),
    ("412", "PreconditionFailed", "The resource changed since it was read: the `If-Match` does not hold."),
    ("413", "PayloadTooLarge", "The body is larger than the service takes."),
    ("415", "UnsupportedMediaType", "The body is of a content type that is not read here."),
    ("default", "Error", "Any other error."),
];

/// What parameters of these names mean wherever they do not say it themselves.
const PARAMETERS: &[(&str, &str)] = &[
    ("id", "The resource's id."),
    ("version", "A semantic version."),
    ("page", "Which page of the list, from 1."),
    ("limit", "The most items of one answer."),
    ("method", "The name of a method."),
    ("status", "Only those in this status."),
    ("paginate", "`all` joins the pages of a paginated answer, `page` gives one with the cursor of the next."),
    ("authType", "Only those that need this kind of credential."),
    ("integrationDefinitionId", "Only those of this definition."),
    ("correlationId", "Only those with this correlation id."),
    ("from", "The version that callers know."),
    ("to", "The version that is to take its place."),
];

/// Completes what the handlers' annotations gave.
pub fn complete(mut api: OpenApi) -> OpenApi {
    api.info = InfoBuilder::new()
        .title("Integration Service")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    api.servers = Some(vec![ServerBuilder::new().url("/").build()]);
    api.tags =
        Some(TAGS.iter().map(|(name, text)| TagBuilder::new().name(*name).description(Some(*text)).build()).collect());
    for (path, item) in &mut api.paths.paths {
        for (verb, operation) in operations(item) {
            complete_operation(path, &verb, operation);
        }
    }
    schemas::tidy(&mut api);
    add_shared(api.components.get_or_insert_default());
    api
}

/// What operations refer to by name.
fn add_shared(components: &mut Components) {
    let bearer = "An API key, or a JSON Web Token of an issuer that the settings list.";
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(bearer)).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    components.add_security_scheme("basic", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    let certificate = "The certificate of a service that the settings list: alone where they give it roles or grants, else \
                       beside one of the others.";
    let certificate =
        SecurityScheme::MutualTls { description: Some(certificate.to_owned()), deprecated: None, extensions: None };
    components.add_security_scheme("mutualTLS", certificate);
    for (_, name, meaning) in SHARED_ERRORS {
        let response = ResponseBuilder::new().description(*meaning).content(PROBLEM, problem()).build();
        components.responses.insert((*name).to_owned(), response.into());
    }
    components.parameters.insert("TenantId".to_owned(), RefOr::T(tenant_parameter()));
}

fn tenant_parameter() -> Parameter {
    ParameterBuilder::new()
        .name("X-Tenant-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The tenant to act for, where the caller may act for several."))
        .schema(Some(Ref::from_schema_name("TenantId")))
        .build()
}

fn problem() -> Content {
    ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::PATCH, &mut item.patch),
    ]
    .into_iter()
    .filter_map(|(verb, operation)| Some((verb, operation.as_mut()?)))
}

fn complete_operation(path: &str, verb: &Method, operation: &mut Operation) {
    complete_parameters(operation);
    if let Some(rule) = rules(path).and_then(|rules| rules.of_verb(verb)) {
        complete_access(rule, operation);
    }
    let takes_tenant = has_tag(operation, TENANT_TAGS) || path.starts_with("/execute/");
    if takes_tenant {
        let shared = Ref::new("#/components/parameters/TenantId");
        operation.parameters.get_or_insert_default().push(RefOr::Ref(shared));
    }
    if operation.parameters.as_ref().is_some_and(|list| !list.is_empty()) || operation.request_body.is_some() {
        share_error(operation, "400");
    }
    // Webhooks are known by their signature alone, and their bodies may be of any kind.
    let is_webhook = has_tag(operation, &["webhooks"]);
    if path.contains('{') && !is_webhook {
        share_error(operation, "404");
    }
    if parameters(operation).any(|parameter| parameter.name == "If-Match") {
        share_error(operation, "412");
    }
    if operation.request_body.is_some() && !is_webhook {
        for status in ["413", "415"] {
            share_error(operation, status);
        }
    }
    share_error(operation, "default");
    // What answers in a shape of its own answers as all others before it comes to that.
    let has_own_shape = path.starts_with("/execute/") || path.ends_with("/replay");
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            complete_response(status, response, has_own_shape);
        }
    }
}

/// What the table says of an operation: how callers make themselves known, and what they need.
fn complete_access(rule: &Rule, operation: &mut Operation) {
    if rule.allowed == Allowed::Anyone {
        operation.security = Some(vec![SecurityRequirement::default()]);
        return;
    }
    let schemes = ["bearer", "apiKey", "mutualTLS"].into_iter().chain(rule.basic.then_some("basic"));
    operation.security = Some(schemes.map(|name| SecurityRequirement::new(name, Vec::<String>::new())).collect());
    share_error(operation, "401");
    if let Allowed::Roles(roles) = rule.allowed {
        let names: Vec<_> = roles.iter().map(Role::as_str).collect();
        let extensions = ExtensionsBuilder::new().add("x-required-roles", names).build();
        operation.extensions.get_or_insert_default().merge(extensions);
        let description = operation.description.get_or_insert_default();
        let _ = write!(description, "\n\nNeeds {}.", rule.needs());
        share_error(operation, "403");
    }
}

fn has_tag(operation: &Operation, tags: &[&str]) -> bool {
    operation.tags.iter().flatten().any(|tag| tags.contains(&tag.as_str()))
}

fn parameters(operation: &mut Operation) -> impl Iterator<Item = &mut Parameter> {
    operation.parameters.iter_mut().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    })
}

fn complete_parameters(operation: &mut Operation) {
    for parameter in parameters(operation) {
        if parameter.description.as_ref().is_none_or(String::is_empty) {
            let known = PARAMETERS.iter().find(|(name, _)| *name == parameter.name);
            parameter.description = known.map(|(_, text)| (*text).to_owned());
        }
        // A header or query parameter is there or not; it cannot be null.
        if let Some(schema) = &mut parameter.schema {
            schemas::forbid_null(schema);
        }
    }
}

/// Adds an error that the operation does not describe itself.
fn share_error(operation: &mut Operation, status: &str) {
    let shared = SHARED_ERRORS.iter().find(|(known, ..)| *known == status);
    if let Some((_, name, _)) = shared {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::Ref(Ref::from_response_name(*name)));
    }
}

/// Errors are problems, and every answer has its words.
fn complete_response(status: &str, response: &mut Response, has_own_shape: bool) {
    let is_error = !status.starts_with(['1', '2', '3']);
    if is_error && (response.content.is_empty() || has_own_shape) {
        response.content.insert(PROBLEM.to_owned(), RefOr::T(problem()));
    }
    if response.description.is_empty() {
        let usual = match status {
            "201" => "It was made.",
            "204" => "It was done; there is nothing to tell.",
            "409" => "The resource's state does not allow it, or it exists already.",
            "503" => "It is not well; the body says why.",
            _ => "The answer.",
        };
        usual.clone_into(&mut response.description);
    }
}

/// A text out of these.
fn one_of(values: &[&str]) -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(values.iter().copied())).into()
}
