//! The service's own description (OpenAPI 3.1), made from the handlers, and what all of
//! them have in common: security, errors, tags.

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApi, PathItem, Ref, RefOr, ResponseBuilder, ServerBuilder};
use utoipa::openapi::{LicenseBuilder, tag::TagBuilder};

const DESCRIPTION: &str = "Calls any external system: definitions of what a system can do, instances of it \
with encrypted credentials, and executions with validation, limits, circuit breakers, retries, transforms, \
caches, a log and events.\n\nEvery answer carries `X-Correlation-Id`. Errors are `application/problem+json` \
(RFC 9457) with a stable `code`; `/execute` answers in a shape of its own.";

const TAGS: &[(&str, &str)] = &[
    ("execute", "Calling methods of external systems."),
    ("definitions", "The registry: what external systems can do, in versions."),
    ("instances", "Configured connections to external systems."),
    ("credentials", "Secrets of instances: written, judged, deleted, never read back."),
    ("executions", "The log of calls."),
    ("events", "What happened, as history and as a stream."),
    ("operations", "Health, limits, caches and circuit breakers of integrations."),
    ("health", "The service itself."),
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
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    components.add_security_scheme("basic", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item) {
            complete_operation(path, operation);
        }
    }
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
        .into_iter()
        .filter_map(Option::as_mut)
}

fn complete_operation(path: &str, operation: &mut Operation) {
    // The doc comment's first sentence is the summary; the rest, where there is any, stays.
    if operation.security.is_none() {
        let mut schemes = vec!["bearer", "apiKey"];
        if path.starts_with("/status/") {
            schemes.push("basic");
        }
        operation.security =
            Some(schemes.into_iter().map(|name| SecurityRequirement::new(name, Vec::<String>::new())).collect());
        add_problem(operation, "401", "No valid key came with the request");
    }
    if operation.parameters.as_ref().is_some_and(|list| !list.is_empty()) || operation.request_body.is_some() {
        add_problem(operation, "400", "The request does not fit; `errors` says where");
    }
    if operation.request_body.is_some() {
        add_problem(operation, "413", "The body is larger than the service takes");
        add_problem(operation, "415", "The body is of a content type that is not read here");
    }
    add_problem(operation, "default", "Any other error");
}

fn add_problem(operation: &mut Operation, status: &str, description: &str) {
    if operation.responses.responses.contains_key(status) {
        return;
    }
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    let response = ResponseBuilder::new().description(description).content("application/problem+json", content).build();
    operation.responses.responses.insert(status.to_owned(), RefOr::T(response));
}

fn one_of(values: &[&str]) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.iter().copied())).into()
}

/// Any JSON value.
pub fn anything() -> Schema {
    Schema::Object(ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue).build())
}

pub fn definition_status() -> Schema {
    one_of(&["DRAFT", "PUBLISHED", "DEPRECATED", "ARCHIVED"])
}

pub fn auth_type() -> Schema {
    one_of(&["none", "basic", "api_key", "oauth2", "jwt", "custom"])
}

pub fn instance_status() -> Schema {
    one_of(&[
        "PENDING_CONFIGURATION",
        "PENDING_AUTHENTICATION",
        "CONNECTED",
        "DISCONNECTED",
        "AUTH_ERROR",
        "CONFIG_ERROR",
    ])
}

pub fn execution_status() -> Schema {
    one_of(&["QUEUED", "RUNNING", "SUCCESS", "ERROR"])
}

pub fn paginate() -> Schema {
    one_of(&["all", "page"])
}

pub fn success() -> Schema {
    one_of(&["SUCCESS"])
}

pub fn error() -> Schema {
    one_of(&["ERROR"])
}

pub fn queued() -> Schema {
    one_of(&["QUEUED"])
}
