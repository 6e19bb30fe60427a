//! Methods made fit to be published: what does not compile is taken out and told, and the
//! whole stays within the size of a definition.

use integration_model::definition::{DefinitionSpec, MAX_METHODS, Method};
use serde_json::{Value, json};

use super::Source;
use super::operation::OperationNode;
use crate::adapter::Adapters;
use crate::import::FindingKind::{Simplified, Skipped};
use crate::import::schemas::take_out;
use crate::import::{ImportReport, MAX_DEFINITION_BYTES};
use crate::registry::check_method;

/// The most keywords of the schema of a result.
const RESULT_ROOM: usize = 2_000;
/// Smaller ones, tried in turn where the definition would be too large.
const SMALLER_ROOMS: [usize; 5] = [800, 400, 150, 50, 0];
/// How often what does not compile is taken out of a schema.
const MAX_REPAIRS: usize = 6;

/// Beyond this many bytes, further results are told roughly, and beyond the second further
/// operations left out: what is made is in memory before it is made smaller.
const ROUGH_FROM: usize = MAX_DEFINITION_BYTES + MAX_DEFINITION_BYTES / 2;
const STOP_FROM: usize = 3 * MAX_DEFINITION_BYTES;
const ROUGH_ROOM: usize = 50;

/// Why no further method fits a definition that has so many, of so many bytes.
pub(super) fn reason_to_stop(methods: usize, bytes: usize) -> Option<String> {
    if methods >= MAX_METHODS {
        return Some(format!("a definition has at most {MAX_METHODS} methods"));
    }
    (bytes >= STOP_FROM).then(too_large)
}

fn too_large() -> String {
    format!("the definition would be larger than {MAX_DEFINITION_BYTES} bytes")
}

/// Adds the method of an operation to a definition of so many bytes, and says how many it
/// has; none where it cannot be one.
pub(super) fn add_method<'a>(
    source: &Source<'a>,
    operation: &OperationNode<'a>,
    name: String,
    bytes: usize,
    spec: &mut DefinitionSpec,
    adapters: &Adapters,
    report: &mut ImportReport,
) -> Option<usize> {
    let title = operation.title();
    let room = if bytes >= ROUGH_FROM { ROUGH_ROOM } else { RESULT_ROOM };
    let (method, findings) = operation.method(source, name, room);
    spec.methods.push(method);
    if let Err(reason) = repair(spec, spec.methods.len() - 1, &title, adapters, report) {
        spec.methods.pop();
        report.find(Skipped, Some(&title), reason);
        return None;
    }
    findings.into_iter().for_each(|(kind, message)| report.find(kind, Some(&title), message));
    spec.methods.last().map(size)
}

fn size(method: &Method) -> usize {
    serde_json::to_vec(method).map_or(0, |text| text.len())
}

/// Takes out of a method's schemas what does not compile. The error says why there can be no
/// such method.
fn repair(
    spec: &mut DefinitionSpec,
    index: usize,
    title: &str,
    adapters: &Adapters,
    report: &mut ImportReport,
) -> Result<(), String> {
    for turn in 0..=MAX_REPAIRS {
        let problems = check_method(spec, index, adapters);
        if problems.is_empty() {
            return Ok(());
        }
        let prefix = format!("/methods/{index}");
        let within = |field: &str| {
            let prefix = format!("{prefix}/{field}");
            let mine = problems.iter().filter_map(|problem| {
                let pointer = problem.pointer.strip_prefix(&prefix)?;
                Some(integration_model::Problem::new(pointer, problem.message.clone()))
            });
            mine.collect::<Vec<_>>()
        };
        let of_params = within("paramSchema");
        let of_result = within("resultSchema");
        if of_params.is_empty() && of_result.is_empty() {
            return Err(problems.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        let is_last = turn + 1 >= MAX_REPAIRS;
        let method = &mut spec.methods[index];
        for (field, faults, schema) in [
            ("paramSchema", of_params, &mut method.param_schema),
            ("resultSchema", of_result, &mut method.result_schema),
        ] {
            if faults.is_empty() {
                continue;
            }
            match take_out(schema, &faults).filter(|_| !is_last) {
                Some(told) => told.into_iter().take(5).for_each(|message| {
                    report.find(Simplified, Some(title), format!("{field}{message}"));
                }),
                None => {
                    let why = faults.first().map(ToString::to_string).unwrap_or_default();
                    report.find(Simplified, Some(title), format!("{field} lets everything pass: {why}"));
                    *schema = bare(schema);
                }
            }
        }
    }
    Err("its schemas do not compile".to_owned())
}

/// A schema that asks for the same names and nothing of their values.
fn bare(schema: &Value) -> Value {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return json!({}) };
    let mut bare = json!({"type": "object"});
    bare["properties"] =
        properties.keys().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>().into();
    for keyword in ["required", "additionalProperties"] {
        if let Some(value) = schema.get(keyword).filter(|value| !value.is_object()) {
            bare[keyword] = value.clone();
        }
    }
    bare
}

/// Makes the schemas of the largest results smaller until the definition has a size that can be
/// worked with.
pub(super) fn shrink<'a>(
    source: &Source<'a>,
    operations: &[OperationNode<'a>],
    spec: &mut DefinitionSpec,
    adapters: &Adapters,
    report: &mut ImportReport,
) {
    let sizes = |value: &Value| value.to_string().len();
    let mut total: usize = spec.methods.iter().map(size).sum();
    for room in SMALLER_ROOMS {
        if total <= MAX_DEFINITION_BYTES {
            return;
        }
        let mut made_smaller = 0;
        for (index, operation) in operations.iter().enumerate() {
            let before = sizes(&spec.methods[index].result_schema);
            // A keyword takes some thirty bytes.
            if before <= room * 30 {
                continue;
            }
            let (method, _) = operation.method(source, String::new(), room);
            spec.methods[index].result_schema = method.result_schema;
            if repair(spec, index, &operation.title(), adapters, report).is_err() {
                spec.methods[index].result_schema = json!({});
            }
            total = (total + sizes(&spec.methods[index].result_schema)).saturating_sub(before);
            made_smaller += 1;
        }
        report.find(
            Simplified,
            None,
            format!("the definition would be too large: {made_smaller} resultSchemas have at most {room} keywords, what lies deeper lets everything pass"),
        );
    }
    // What is left are params: fewer methods, then.
    while total > MAX_DEFINITION_BYTES
        && let Some(method) = spec.methods.pop()
    {
        total = total.saturating_sub(size(&method));
        let title = operations.get(spec.methods.len()).map(OperationNode::title);
        report.find(Skipped, title.as_deref(), too_large());
    }
}
