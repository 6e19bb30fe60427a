//! Operations as methods.

use std::collections::BTreeSet;

use integration_model::Problem;
use integration_model::definition::{DefinitionSpec, Method, ResultValidation, is_valid_method_name};
use serde_json::{Map, Value, json};

use super::components::Components;
use super::content::Described;
use super::services::{BoundOperation, Message, Part};
use super::types::{Types, key_of};
use crate::adapter::Adapters;
use crate::adapter::soap::model::{ChildSpec, ElementSpec, TypeSpec, TypeUse};
use crate::adapter::soap::spec::{HeaderSpec, OperationSpec, Style};
use crate::import::FindingKind;
use crate::import::FindingKind::Simplified;
use crate::import::schemas::take_out;
use crate::registry::check_method;

/// How often what does not compile is taken out of a schema.
const MAX_REPAIRS: usize = 4;
const MAX_METHOD_NAME: usize = 120;
const MAX_DESCRIPTION: usize = 2_000;

type Findings = Vec<(FindingKind, String)>;

/// An operation's name as a method may have it.
pub(super) fn name(operation: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    let mut name: String = operation.chars().take(MAX_METHOD_NAME).map(kept).collect();
    if !is_valid_method_name(&name) {
        name.insert(0, '_');
    }
    name
}

/// Makes the method of an operation; the error says why there is none.
pub(super) fn translate(
    operation: &BoundOperation<'_>,
    name: String,
    components: &Components<'_>,
    work: &mut usize,
) -> Result<(Method, Findings), String> {
    let Some(input) = &operation.input else { return Err("its input message is not declared".to_owned()) };
    let mut types = Types::new(components);
    let mut findings = Vec::new();
    if operation.is_encoded {
        let message = "it is declared with SOAP encoding; it is written and read literally";
        findings.push((Simplified, message.to_owned()));
    }
    let request = content(operation, input, operation.name, &mut types, &mut findings)?;
    let response = match &operation.output {
        Some(output) => {
            let wrapper = format!("{}Response", operation.name);
            content(operation, output, &wrapper, &mut types, &mut findings).unwrap_or_else(|reason| {
                findings.push((Simplified, format!("its answer is told as it comes: {reason}")));
                None
            })
        }
        None => None,
    };
    let mut params = match &request {
        Some(described) => object(&described.schema, &types.schemas),
        None => json!({"type": "object", "additionalProperties": false}),
    };
    let mut headers = Vec::new();
    for part in &input.headers {
        headers.extend(header(part, &mut types, &mut params));
    }
    *work += types.work;
    findings.extend(types.lost.iter().map(|message| (Simplified, message.clone())));
    let mut result = response.as_ref().map_or_else(|| json!({}), |described| described.schema.clone());
    complete(&mut params, &types.schemas);
    complete(&mut result, &types.schemas);
    // Systems answer more than they describe.
    open(&mut result);
    let spec = OperationSpec {
        soap_action: operation.soap_action.to_owned(),
        style: operation.style,
        request: request.map(|described| described.spec),
        response: response.map(|described| described.spec),
        one_way: operation.output.is_none(),
        headers,
        types: types.types,
        max_response_bytes: OperationSpec::default_max_response(),
        ..OperationSpec::default()
    };
    let document = serde_json::to_value(&spec).map_err(|error| error.to_string())?;
    let method = Method {
        name,
        description: operation.description.chars().take(MAX_DESCRIPTION).collect(),
        param_schema: params,
        result_schema: result,
        result_validation: ResultValidation::default(),
        operation: document,
        request_transform: None,
        response_transform: None,
        rate_limits: None,
        timeout_ms: None,
        retry_config: None,
        circuit_breaker: None,
        cache: None,
        idempotent: false,
        deprecated: false,
    };
    Ok((method, findings))
}

/// The element in the body of a message; none where the body is empty.
fn content(
    operation: &BoundOperation<'_>,
    message: &Message<'_>,
    wrapper: &str,
    types: &mut Types<'_>,
    findings: &mut Findings,
) -> Result<Option<Described>, String> {
    if operation.style == Style::Rpc {
        return Ok(Some(wrapped(message, wrapper, types)));
    }
    let Some(part) = message.body.first() else { return Ok(None) };
    if message.body.len() > 1 {
        let message = format!("its body has several parts, of which {:?} alone is written and read", part.name);
        findings.push((Simplified, message));
    }
    one(part, types).map(Some)
}

fn one(part: &Part<'_>, types: &mut Types<'_>) -> Result<Described, String> {
    match (&part.element, &part.type_name) {
        (Some(element), _) => {
            types.global(element).ok_or_else(|| format!("the element {:?} is not declared", element.local))
        }
        (None, Some(name)) => Ok(types.part(part.name, name)),
        (None, None) => Err(format!("the part {:?} names neither an element nor a type", part.name)),
    }
}

/// The body of RPC: an element named like the operation, around the parts.
fn wrapped(message: &Message<'_>, wrapper: &str, types: &mut Types<'_>) -> Described {
    let mut children = Vec::new();
    let mut properties = Map::new();
    let mut required = Vec::new();
    for part in &message.body {
        let Ok(Described { mut spec, schema }) = one(part, types) else { continue };
        if properties.contains_key(&spec.name) {
            continue;
        }
        properties.insert(spec.name.clone(), schema);
        // What an encoded call leaves out is null there.
        spec.optional = spec.nillable;
        if !spec.nillable {
            required.push(Value::from(spec.name.clone()));
        }
        children.push(ChildSpec::Element(spec));
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
    let inline = TypeSpec { namespace: Some(String::new()), children, ..TypeSpec::default() };
    let spec = ElementSpec {
        name: wrapper.to_owned(),
        namespace: Some(message.namespace.clone()),
        of: Some(TypeUse::Inline(Box::new(inline))),
        ..ElementSpec::default()
    };
    Described { spec, schema }
}

/// A header block, whose param joins those of the body.
fn header(part: &Part<'_>, types: &mut Types<'_>, params: &mut Value) -> Option<HeaderSpec> {
    let Described { spec, schema } = one(part, types).ok()?;
    let properties = params.as_object_mut()?.entry("properties").or_insert_with(|| json!({})).as_object_mut()?;
    let mut param = spec.name.clone();
    while properties.contains_key(&param) {
        param.push_str("Header");
    }
    properties.insert(param.clone(), schema);
    Some(HeaderSpec { element: Some(spec), xml: None, param: Some(param), must_understand: false })
}

/// The schema of params: an object, in place, since callers and checks look into it.
fn object(schema: &Value, all: &Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    for _ in 0..4 {
        let referred = schema["$ref"].as_str().and_then(key_of).and_then(|key| all.get(&key));
        let nullable = || {
            let choices = schema["anyOf"].as_array()?;
            let is_null = |choice: &Value| choice["type"] == "null";
            (choices.len() == 2 && choices.iter().any(is_null)).then(|| choices.iter().find(|one| !is_null(one)))?
        };
        schema = match (referred, nullable()) {
            (Some(referred), _) => referred.clone(),
            (None, Some(value)) => value.clone(),
            (None, None) => break,
        };
    }
    let takes_object = schema["type"] == "object" || schema.get("anyOf").is_some() || schema == json!({});
    if takes_object {
        return schema;
    }
    // The element is a text.
    json!({"type": "object", "required": ["#text"], "properties": {"#text": schema}, "additionalProperties": false})
}

/// Lets objects have members that their schema does not name.
fn open(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("additionalProperties") == Some(&Value::Bool(false)) {
                members.remove("additionalProperties");
            }
            members.values_mut().for_each(open);
        }
        Value::Array(items) => items.iter_mut().for_each(open),
        _ => {}
    }
}

/// Adds the schemas that a schema refers to.
fn complete(schema: &mut Value, all: &Map<String, Value>) {
    let mut needed = BTreeSet::new();
    let mut waiting = referred(schema);
    while let Some(key) = waiting.pop() {
        if let Some(found) = all.get(&key)
            && needed.insert(key)
        {
            waiting.extend(referred(found));
        }
    }
    if needed.is_empty() {
        return;
    }
    if let Some(object) = schema.as_object_mut() {
        let definitions = needed.into_iter().filter_map(|key| all.get(&key).cloned().map(|schema| (key, schema)));
        object.insert("$defs".to_owned(), Value::Object(definitions.collect()));
    }
}

fn referred(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).and_then(key_of));
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}

/// Takes out of the last method's schemas what does not compile. The error says why there can be
/// no such method.
pub(super) fn repair(spec: &mut DefinitionSpec, adapters: &Adapters) -> Result<Findings, String> {
    let index = spec.methods.len().saturating_sub(1);
    let mut findings = Vec::new();
    for turn in 0..=MAX_REPAIRS {
        let problems = check_method(spec, index, adapters);
        if problems.is_empty() {
            return Ok(findings);
        }
        let within = |field: &str| -> Vec<Problem> {
            let prefix = format!("/methods/{index}/{field}");
            let own =
                |problem: &Problem| Some(Problem::new(problem.pointer.strip_prefix(&prefix)?, problem.message.clone()));
            problems.iter().filter_map(own).collect()
        };
        let (of_params, of_result) = (within("paramSchema"), within("resultSchema"));
        if of_params.is_empty() && of_result.is_empty() {
            return Err(problems.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        let Some(method) = spec.methods.get_mut(index) else { break };
        for (field, faults, schema) in [
            ("paramSchema", of_params, &mut method.param_schema),
            ("resultSchema", of_result, &mut method.result_schema),
        ] {
            if faults.is_empty() {
                continue;
            }
            match take_out(schema, &faults).filter(|_| turn + 1 < MAX_REPAIRS) {
                Some(told) => {
                    findings.extend(told.into_iter().take(5).map(|told| (Simplified, format!("{field}{told}"))))
                }
                None => {
                    let why = faults.first().map(ToString::to_string).unwrap_or_default();
                    findings.push((Simplified, format!("{field} lets everything pass: {why}")));
                    *schema = json!({});
                }
            }
        }
    }
    Err("its schemas do not compile".to_owned())
}
