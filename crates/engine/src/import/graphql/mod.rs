//! GraphQL schemas as definitions of type `graphql`: every field of the query and mutation types
//! a method.
//!
//! Owns: what a method asks for, what its params are, how it is paged. Must not know: where
//! documents come from, and where definitions go.

mod introspection;
mod model;
mod params;
mod sdl;
mod selection;

use std::time::Duration;

use integration_model::DefinitionId;
use integration_model::definition::{AuthType, DefinitionSpec, MAX_METHODS, MAX_NAME, Method};
use semver::Version;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use self::introspection::QUERY as INTROSPECTION_QUERY;
use self::model::{Argument, Field, Model};
use self::params::ParamSchemas;
use self::selection::{Selector, connection_items};
use super::FindingKind::{Note, Simplified, Skipped};
use super::openapi::naming::UniqueNames;
use super::{ImportError, ImportOptions, ImportReport, Imported, MAX_DEFINITION_BYTES, read_document};
use crate::adapter::Adapters;
use crate::registry::check_method;

/// The longest that a translation may take.
const MAX_TIME: Duration = Duration::from_secs(60);
/// How many items a page of a connection has.
const PAGE_SIZE: u32 = 20;
/// The most types that a method's params describe, in turn where the definition would be too
/// large.
const ROOMS: [usize; 4] = [200, 30, 5, 0];

/// The most bytes of a definition's methods; the rest of it takes little.
const MAX_METHODS_BYTES: usize = MAX_DEFINITION_BYTES - 64 * 1024;

/// Whether a document is the answer to an introspection query.
pub fn is_introspection(document: &Value) -> bool {
    introspection::schema_of(document).is_some()
}

/// Makes a definition of a schema: of the answer to an introspection query, or of the schema
/// definition language. Takes long where it is large.
pub fn translate(text: &[u8], options: &ImportOptions, adapters: &Adapters) -> Result<Imported, ImportError> {
    let (model, format) = read(text)?;
    let deadline = Instant::now() + MAX_TIME;
    let mut report = ImportReport::new(format);
    let mut spec = shell(&model, options, &mut report)?;
    for room in ROOMS {
        let mut of_room = report.clone();
        if let Some(drafts) = drafts(&model, room, deadline, &mut of_room)? {
            report = of_room;
            add_methods(drafts, &mut spec, adapters, deadline, &mut report)?;
            break;
        }
    }
    for field in model.subscription.as_deref().map_or(&[][..], |name| model.fields(name)) {
        report.operation_count += 1;
        report.find(Skipped, Some(&format!("subscription {}", field.name)), "a subscription has no single answer");
    }
    if spec.methods.is_empty() {
        return Err(ImportError::new("the schema has no query and no mutation that can be a method"));
    }
    Ok(Imported { definition: spec, report })
}

fn read(text: &[u8]) -> Result<(Model, &'static str), ImportError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // An SDL document may begin with a brace of nothing but a query, which is refused there.
    if text.trim_ascii_start().starts_with(b"{") {
        let document = read_document(text)?;
        let schema = introspection::schema_of(&document).ok_or_else(|| {
            ImportError::new(match document.get("errors") {
                Some(_) => "the endpoint answers with errors, not with its schema: it may not allow introspection",
                None => "expected the answer to an introspection query: an object with __schema",
            })
        })?;
        return Ok((introspection::read(schema)?, "GraphQL introspection"));
    }
    let text = std::str::from_utf8(text).map_err(|error| ImportError::new(format!("expected UTF-8: {error}")))?;
    Ok((sdl::read(text)?, "GraphQL SDL"))
}

/// A method that was made of a field.
struct Draft {
    /// The field, as findings name it.
    title: String,
    method: Method,
    /// What of the field is not in it.
    simplified: Vec<String>,
}

/// The methods of all fields, their params describing at most so many types. What finds no place
/// is told where there are no smaller params to try, else there are none.
fn drafts(
    model: &Model,
    room: usize,
    deadline: Instant,
    report: &mut ImportReport,
) -> Result<Option<Vec<Draft>>, ImportError> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut names = UniqueNames::default();
    let mut size = 0;
    for (root, is_query) in [(&model.query, true), (&model.mutation, false)] {
        for field in root.as_deref().map_or(&[][..], |name| model.fields(name)) {
            if Instant::now() >= deadline {
                return Err(too_slow());
            }
            let title = format!("{} {}", if is_query { "query" } else { "mutation" }, field.name);
            report.operation_count += 1;
            if drafts.len() >= MAX_METHODS {
                report.find(Skipped, Some(&title), format!("a definition has at most {MAX_METHODS} methods"));
                continue;
            }
            if size > MAX_METHODS_BYTES {
                report.find(Skipped, Some(&title), "the definition would be too large");
                continue;
            }
            let (method, simplified) = method(model, field, is_query, names.take(field.name.clone()), room)?;
            size += serde_json::to_vec(&method).map_or(0, |text| text.len());
            if size <= MAX_METHODS_BYTES {
                drafts.push(Draft { title, method, simplified });
            } else if Some(&room) == ROOMS.last() {
                report.find(Skipped, Some(&title), "the definition would be too large");
            } else {
                return Ok(None);
            }
        }
    }
    Ok(Some(drafts))
}

/// Puts the methods that can be published into the definition.
fn add_methods(
    drafts: Vec<Draft>,
    spec: &mut DefinitionSpec,
    adapters: &Adapters,
    deadline: Instant,
    report: &mut ImportReport,
) -> Result<(), ImportError> {
    for Draft { title, method, simplified } in drafts {
        if Instant::now() >= deadline {
            return Err(too_slow());
        }
        spec.methods.push(method);
        let problems = check_method(spec, spec.methods.len() - 1, adapters);
        if problems.is_empty() {
            simplified.into_iter().for_each(|message| report.find(Simplified, Some(&title), message));
        } else {
            spec.methods.pop();
            let reasons: Vec<_> = problems.iter().take(3).map(ToString::to_string).collect();
            report.find(Skipped, Some(&title), reasons.join("; "));
        }
    }
    report.method_count = spec.methods.len();
    Ok(())
}

fn too_slow() -> ImportError {
    ImportError::new(format!("the schema takes more than {} s; expected a smaller one", MAX_TIME.as_secs()))
}

/// The definition without its methods.
fn shell(model: &Model, options: &ImportOptions, report: &mut ImportReport) -> Result<DefinitionSpec, ImportError> {
    let id = match &options.id {
        Some(id) => id.clone(),
        None => DefinitionId::parse("graphql").map_err(|error| ImportError::new(error.to_string()))?,
    };
    if options.id.is_none() {
        report.find(Note, None, "a schema has no title: the definition's id is graphql unless another is asked for");
    }
    report.find(Note, None, "a schema does not say how its callers prove who they are: set authType in the draft");
    let mut default_config = Map::new();
    match &options.server {
        Some(server) => drop(default_config.insert("baseUrl".to_owned(), Value::from(server.as_str()))),
        None => report.find(Note, None, "a schema does not say where its endpoint is: instances need baseUrl"),
    }
    let name: String = options.name.as_deref().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    Ok(DefinitionSpec {
        name: if name.trim().is_empty() { id.to_string() } else { name.chars().take(MAX_NAME).collect() },
        id,
        description: model.description.clone(),
        version: options.version.clone().unwrap_or(Version::new(1, 0, 0)),
        adapter_type: "graphql".to_owned(),
        adapter_version: None,
        api_key_auth: None,
        auth_type: AuthType::None,
        config_schema: json!({
            "type": "object",
            "required": ["baseUrl"],
            "properties": {"baseUrl": {"type": "string", "format": "uri"}},
        }),
        default_config,
        oauth2_config: None,
        custom_auth: None,
        labels: Default::default(),
        templates: Default::default(),
        rate_limits: None,
        test_method: None,
        methods: Vec::new(),
    })
}

/// The method of one field, and what of the field is not in it.
fn method(
    model: &Model,
    field: &Field,
    is_query: bool,
    name: String,
    room: usize,
) -> Result<(Method, Vec<String>), ImportError> {
    let is_paged = is_query && field.argument("after").is_some() && connection_items(model, field.of.name()).is_some();
    let has_size = is_paged && field.argument("first").is_some();
    let mut selector = Selector::new(model);
    let (selection, result_schema) = selector.of_type(&field.of);
    let mut params = ParamSchemas::new(model, room);
    let param_schema = params.of_field(field, has_size.then_some("first"));
    let mut operation = json!({
        "query": document(field, is_query, &selection),
        "dataPath": format!("/{}", field.name),
    });
    if is_paged {
        operation["pagination"] = json!({"connection": format!("/{}", field.name)});
    }
    if has_size {
        operation["pagination"]["pageSize"] = json!(PAGE_SIZE);
    }
    let document = json!({
        "name": name,
        "description": field.description,
        "paramSchema": param_schema,
        "resultSchema": result_schema,
        "operation": operation,
        "idempotent": is_query,
        "deprecated": field.deprecated,
    });
    let method = integration_model::problem::from_value(document)
        .map_err(|problem| ImportError { message: "a field makes no method".to_owned(), problems: vec![problem] })?;
    let mut simplified = Vec::new();
    if selector.is_cut {
        simplified.push("it asks for the first fields only: there are too many".to_owned());
    }
    if params.is_cut {
        simplified.push(format!("its params describe {room} types, others let everything pass"));
    }
    Ok((method, simplified))
}

fn document(field: &Field, is_query: bool, selection: &str) -> String {
    let list = |part: fn(&Argument) -> String| {
        let parts: Vec<_> = field.arguments.iter().map(part).collect();
        if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) }
    };
    let variables = list(|argument| format!("${}: {}", argument.name, variable_type(argument)));
    let arguments = list(|argument| format!("{0}: ${0}", argument.name));
    let kind = if is_query { "query" } else { "mutation" };
    format!("{kind} {0}{variables} {{ {0}{arguments}{selection} }}", field.name)
}

/// The type of an argument's variable. An argument with a default may be left out, and a
/// variable with a nullable type too.
fn variable_type(argument: &Argument) -> String {
    let of = argument.of.to_string();
    if argument.has_default { of.trim_end_matches('!').to_owned() } else { of }
}
