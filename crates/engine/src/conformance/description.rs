//! What an adapter says of itself, and how it judges what it is given, before anything is sent.

use integration_model::definition::AuthType;
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::counterpart::Behaviour;
use super::report::{Findings, Skip};
use super::sample::{SampleCall, SampleCredential};
use super::subject::{Subject, shortened, shows_secret, told};
use crate::adapter::Effect;
use crate::credential::Credential;
use crate::params::Params;
use crate::registry::check_definition;
use crate::schema::Schema;

/// A member that no adapter knows.
const UNKNOWN: &str = "conformanceUnknown";

pub(super) async fn describes_itself(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let described = subject.adapter.describe();
    let is_type = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = described.adapter_type;
    findings.unless(!name.is_empty() && name.chars().all(is_type), || {
        format!("the type {name:?}: expected a-z, 0-9 and '-'")
    });
    findings.unless(semver::Version::parse(described.version).is_ok(), || {
        format!("the version {:?}: expected a semantic version", described.version)
    });
    findings.unless(!described.description.trim().is_empty(), || "the description is empty".to_owned());
    findings.unless(!described.auth_types.is_empty(), || "it names no auth type".to_owned());
    for (index, auth_type) in described.auth_types.iter().enumerate() {
        findings.unless(!described.auth_types[..index].contains(auth_type), || {
            format!("it names the auth type {} twice", auth_type.as_str())
        });
    }
    let schemas = [("operationSchema", &described.operation_schema), ("configSchema", &described.config_schema)];
    for (name, schema) in schemas {
        match Schema::compile(schema) {
            Err(problems) => findings.add(format!("{name} is no JSON Schema: {}", first(&problems))),
            Ok(_) => check_defaults(name, schema, schema, "", findings),
        }
    }
    findings.unless(json!(subject.adapter.describe()) == json!(described), || {
        "it describes itself in another way each time".to_owned()
    });
    Ok(())
}

/// Every `default` fits the schema that it stands in.
fn check_defaults(name: &str, root: &Value, schema: &Value, pointer: &str, findings: &mut Findings) {
    match schema {
        Value::Object(members) => {
            if let Some(default) = members.get("default")
                && !members.contains_key("properties")
            {
                let mut alone = members.clone();
                for definitions in ["$defs", "definitions"] {
                    if let Some(shared) = root.get(definitions) {
                        alone.insert(definitions.to_owned(), shared.clone());
                    }
                }
                let fits = Schema::compile(&Value::Object(alone)).is_ok_and(|schema| schema.validate(default).is_ok());
                findings.unless(fits, || format!("{name}{pointer}/default does not fit its own schema"));
            }
            for (member, value) in members.iter().filter(|(member, _)| !matches!(member.as_str(), "default" | "enum")) {
                check_defaults(name, root, value, &push_pointer(pointer, member), findings);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_defaults(name, root, item, &format!("{pointer}/{index}"), findings);
            }
        }
        _ => {}
    }
}

pub(super) async fn compiles(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    for problem in check_definition(&subject.sample.definition, &subject.adapters) {
        findings.add(problem.to_string());
    }
    let calls = subject.sample.calls.iter().map(|call| &call.method);
    for method in calls.chain(subject.sample.write.iter().map(|write| &write.method)) {
        if let Err(error) = subject.method(method) {
            findings.add(error.message);
        }
    }
    Ok(())
}

pub(super) async fn refuses_operations(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let definition = &subject.sample.definition;
    if definition.methods.is_empty() {
        return Err(Skip::new("it executes nothing"));
    }
    let schema = subject.adapter.describe().operation_schema;
    let Ok(schema) = Schema::compile(&schema) else { return Ok(()) };
    for method in &definition.methods {
        let Value::Object(operation) = &method.operation else { continue };
        let compile = |operation: Map<String, Value>| {
            let changed = integration_model::definition::Method { operation: operation.into(), ..method.clone() };
            subject.adapter.compile(definition, &changed).err().unwrap_or_default()
        };
        if let Err(problems) = schema.validate(&method.operation) {
            findings.add(format!(
                "the operation of {} works and does not fit operationSchema: {}",
                method.name,
                first(&problems)
            ));
        }
        let mut extended = operation.clone();
        extended.insert(UNKNOWN.to_owned(), json!(1));
        let at = format!("/{UNKNOWN}");
        judged(
            &format!("{}: an unknown member of the operation", method.name),
            &compile(extended),
            &["", &at],
            findings,
        );
        for (member, changed) in wrongly_typed(operation, &schema) {
            let at = push_pointer("", &member);
            judged(&format!("{}: a wrong type at {at}", method.name), &compile(changed), &[&at], findings);
        }
    }
    Ok(())
}

pub(super) async fn refuses_configs(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let description = subject.adapter.describe();
    let problems = subject.adapter.check_config(&subject.config);
    findings.unless(problems.is_empty(), || format!("the sample's config is refused: {}", first(&problems)));
    let Ok(schema) = Schema::compile(&description.config_schema) else { return Ok(()) };
    if let Err(problems) = schema.validate(&Value::Object(subject.config.clone())) {
        findings.add(format!("the sample's config does not fit configSchema: {}", first(&problems)));
    }
    let properties = description.config_schema.get("properties").and_then(Value::as_object);
    let mut all = subject.config.clone();
    for member in properties.into_iter().flat_map(Map::keys) {
        all.entry(member.clone()).or_insert(Value::Null);
    }
    for (member, mut changed) in wrongly_typed(&all, &schema) {
        changed.retain(|name, _| *name == member || subject.config.contains_key(name));
        let at = push_pointer("", &member);
        let problems = subject.adapter.check_config(&changed);
        judged(&format!("a wrong type at {at}"), &problems, &[&at], findings);
    }
    let required = description.config_schema.get("required").and_then(Value::as_array);
    for member in required.into_iter().flatten().filter_map(Value::as_str) {
        let mut changed = subject.config.clone();
        changed.remove(member);
        let problems = subject.adapter.check_config(&changed);
        judged(&format!("a config without {member}"), &problems, &["", &push_pointer("", member)], findings);
    }
    Ok(())
}

/// The members of a document one by one, each with a value that the schema does not take.
fn wrongly_typed(document: &Map<String, Value>, schema: &Schema) -> Vec<(String, Map<String, Value>)> {
    let wrong = [json!({"\u{1}": {}}), json!([[[]]]), json!(true), json!(-7.5), json!("\u{1}"), Value::Null];
    let mut found = Vec::new();
    for member in document.keys() {
        let changed = wrong.iter().map(|value| {
            let mut changed = document.clone();
            changed.retain(|name, value| name == member || !value.is_null());
            changed.insert(member.clone(), value.clone());
            changed
        });
        let refused = |changed: &Map<String, Value>| schema.validate(&Value::Object(changed.clone())).is_err();
        found.extend(changed.into_iter().find(refused).map(|changed| (member.clone(), changed)));
    }
    found
}

/// Notes what is wrong with the problems of something that has to be refused, at one of the
/// places or below the last.
fn judged(what: &str, problems: &[Problem], places: &[&str], findings: &mut Findings) {
    let fits = |problem: &Problem| {
        places.iter().any(|place| problem.pointer == *place)
            || places.last().is_some_and(|place| problem.pointer.starts_with(&format!("{place}/")))
    };
    let place = places.last().copied().unwrap_or_default();
    match problems {
        [] => findings.add(format!("{what} is taken")),
        problems if !problems.iter().any(fits) => {
            findings.add(format!("{what} is refused at {:?}, expected {place:?}", problems[0].pointer));
        }
        problems => findings.unless(problems.iter().all(|problem| !problem.message.trim().is_empty()), || {
            format!("{what} is refused without a message")
        }),
    }
}

pub(super) async fn judges_credentials(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let (adapter, config) = (&subject.adapter, &subject.config);
    if let Err(problem) = adapter.check_credential(config, &subject.credential) {
        findings.add(format!("the sample's credential is refused: {problem}"));
    }
    let judge = |credential: &SampleCredential| -> Result<(), Vec<Problem>> {
        let (wants, now) = (crate::credential::AuthWants::of(&subject.sample.definition), subject.now());
        let (parsed, _) = Credential::parse(credential.auth_type, &credential.data, wants, now)?;
        adapter.check_credential(config, &parsed).map_err(|problem| vec![problem])
    };
    let mut unfit: Vec<SampleCredential> = subject.sample.invalid_credentials.clone();
    if adapter.webhook(config).is_none() {
        let secrets = json!({"secrets": [{"secret": "whsec_conformance-signing-secret"}]});
        unfit.push(SampleCredential { auth_type: AuthType::Custom, data: secrets });
    }
    for (index, credential) in unfit.iter().enumerate() {
        let what = format!("the unfit credential {index} of type {}", credential.auth_type.as_str());
        let problems = judge(credential).err().unwrap_or_default();
        judged(&what, &problems, &["/data"], findings);
        for text in texts_in(&credential.data).iter().filter(|text| text.len() >= 8) {
            let shown = problems.iter().any(|problem| problem.message.contains(text.as_str()));
            findings.unless(!shown, || format!("{what} is refused with its own text"));
        }
    }
    Ok(())
}

fn texts_in(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(texts_in).collect(),
        Value::Object(members) => members.values().flat_map(texts_in).collect(),
        _ => Vec::new(),
    }
}

pub(super) async fn refuses_params(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    if subject.sample.invalid_params.is_empty() {
        return Err(Skip::new("the sample has no invalidParams"));
    }
    // Whatever makes connections makes them to this.
    let watched = subject.counterpart(Behaviour::Closing).await.ok();
    for invalid in &subject.sample.invalid_params {
        let way = match &watched {
            Some(watched) => subject.led_to(watched.address)?,
            None => subject.direct(),
        };
        let call = SampleCall { params: invalid.params.clone(), ..call.clone() };
        let at = &invalid.pointer;
        let error = match subject.call(&way, &call).await {
            Ok(data) => {
                findings.add(format!("params that do not fit at {at} are taken, and give {}", shortened(&data)));
                continue;
            }
            Err(error) => error,
        };
        let is_sound = error.code == ErrorCode::Validation && error.effect == Effect::None && !error.retryable;
        findings.unless(is_sound, || {
            format!(
                "params that do not fit at {at} end in {}, expected VALIDATION_ERROR, not retryable, effect: None",
                told(&error)
            )
        });
        let told_at = error.details.get("errors").and_then(Value::as_array).into_iter().flatten();
        let pointers: Vec<&str> = told_at.filter_map(|problem| problem.get("pointer")?.as_str()).collect();
        let is_told = pointers.iter().any(|pointer| pointer == at || pointer.starts_with(&format!("{at}/")));
        findings.unless(is_told, || format!("params that do not fit at {at} are told at {pointers:?}"));
    }
    let connections = watched.map_or(0, |watched| watched.counts().accepted);
    findings.unless(connections == 0, || format!("{connections} connections were made before the params were checked"));
    Ok(())
}

/// What callers may send in the place of a param, where no schema keeps them from it.
fn hostile_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!("a\r\nb: c\r\n\r\n"),
        json!("../../{}'\"`;--<a>&%00\\"),
        json!("\u{202e}\u{feff}é\u{1f600}"),
        json!("x".repeat(100_000)),
        json!([]),
        json!({}),
        json!([null, {"a": [1]}]),
        json!({"": null, "\r\n": 1, "__proto__": {}}),
        deep,
    ]
}

pub(super) async fn bears_hostile_params(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let write = subject.sample.write.as_ref().map(|write| write.numbered(subject.number()));
    for call in subject.calls()?.iter().chain(&write) {
        let Ok(method) = subject.method(&call.method) else { continue };
        let way = subject.direct();
        let usual = Value::Object(call.params.clone());
        let bound = method.request_transform.as_ref().and_then(|transform| transform.apply(&usual).ok());
        let Value::Object(params) = bound.unwrap_or(usual) else { continue };
        let mut tries = vec![Map::new()];
        for name in params.keys() {
            let mut without = params.clone();
            without.remove(name);
            tries.push(without);
            tries.extend(hostile_values().into_iter().map(|value| {
                let mut changed = params.clone();
                changed.insert(name.clone(), value);
                changed
            }));
        }
        for params in tries {
            let shown = subject.preview_of(&way, &method, &Params::from_object(params));
            let Err(error) = shown else { continue };
            findings.unless(error.effect == Effect::None && !error.retryable, || {
                format!(
                    "{}: a request that cannot be made ends in {}, expected effect: None, not retryable",
                    call.method,
                    told(&error)
                )
            });
        }
    }
    Ok(())
}

pub(super) async fn shows_dry_runs(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let write = subject.sample.write.as_ref().map(|write| write.numbered(subject.number()));
    let watched = subject.counterpart(Behaviour::Closing).await.ok();
    for call in subject.calls()?.iter().chain(&write) {
        let way = match &watched {
            Some(watched) => subject.led_to(watched.address)?,
            None => subject.direct(),
        };
        match subject.preview(&way, call) {
            Err(error) => findings.add(format!("{}: a dry run ends in {}", call.method, told(&error))),
            Ok(shown) => {
                findings.unless(shown.is_object(), || format!("{}: a dry run shows no object", call.method));
                findings.unless(!shows_secret(way.credential, &shown.to_string()), || {
                    format!("{}: a dry run shows a secret of the credential", call.method)
                });
            }
        }
    }
    let connections = watched.map_or(0, |watched| watched.counts().accepted);
    findings.unless(connections == 0, || format!("dry runs made {connections} connections"));
    Ok(())
}

fn first(problems: &[Problem]) -> String {
    problems.first().map(ToString::to_string).unwrap_or_default()
}
