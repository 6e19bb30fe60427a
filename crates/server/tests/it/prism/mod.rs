//! Public descriptions, from the import to the wire: of each a sample of methods is executed
//! against Prism, which answers from the description and refuses what does not fit it.

mod sample;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt as _;
use integration_engine::import::read_document;
use integration_engine::schema::Schema;
use serde_json::{Value, json};

use crate::client::{Answer, post};
use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;
use values::Values;

/// Descriptions without anything to execute.
const NOT_SERVED: &[(&str, &str)] = &[(
    "oai-webhook-example-31.json",
    "it describes webhooks alone, which others call: its definition takes deliveries",
)];

/// What is seen otherwise than a success that fits the `resultSchema`, and why.
const DEPARTURES: &[(&str, &[&str], &str, &str)] = &[
    (
        "box.json",
        &["put_files_id", "put_files_id with all", "get_folders_id_items", "get_folders_id_items with all"],
        "the answer does not fit",
        "the description's own example leaves out `accessed`, which it requires",
    ),
    (
        "slack.json",
        &["chat_scheduledMessages_list", "chat_scheduledMessages_list with all"],
        "the answer does not fit",
        "the description's own example has a number as `id`, which it says is a string",
    ),
    (
        "stripe-core-pruned.json",
        &[
            "GetPaymentIntents",
            "GetPaymentIntents with all",
            "PostPaymentIntents with all",
            "GetPaymentIntentsIntent",
            "GetPaymentIntentsIntent with all",
        ],
        "the answer does not fit",
        "Prism ends examples of what contains itself in {}, whatever is required",
    ),
    (
        "stripe-core-pruned.json",
        &["PostCustomers with all"],
        "UPSTREAM_ERROR 415",
        "Prism reads no list of objects in a form: tax_id_data[0][type]",
    ),
    (
        "stripe-core-pruned.json",
        &["PostPaymentIntents"],
        "UPSTREAM_ERROR 422",
        "Prism takes an object of a form that is not there as one without members",
    ),
];

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
#[expect(clippy::disallowed_methods, reason = "tests find the corpora that they run against by the environment")]
async fn what_is_made_of_public_descriptions_executes_as_they_say() {
    let Ok(folder) = std::env::var("INTEGRATION_SPECS") else {
        eprintln!("skipped: INTEGRATION_SPECS names no folder of public descriptions");
        return;
    };
    let Some(modules) = program("INTEGRATION_TEST_NODE_MODULES") else { return };
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|file| file.extension().is_none_or(|extension| extension != "md")).collect();
    files.sort();
    let service = TestService::start().await;
    // Two at a time: while one starts its server, the other imports.
    let seen: Vec<Seen> =
        futures_util::stream::iter(&files).map(|file| check(&service, &modules, file)).buffered(2).concat().await;
    let is_there = |document: &str| files.iter().any(|file| file.ends_with(document));
    let of_files = DEPARTURES.iter().filter(|(document, ..)| is_there(document));
    let departures = of_files.flat_map(|(document, methods, what, _)| {
        methods.iter().map(move |method| format!("{document} {method}: {what}"))
    });
    let expected: BTreeSet<String> = departures.collect();
    let found: BTreeSet<_> = seen.iter().filter(|seen| !seen.is_fine()).map(Seen::told).collect();
    for seen in seen.iter().filter(|seen| !seen.is_fine()) {
        eprintln!("{}\n  {}\n  {}", seen.told(), seen.params, seen.evidence());
    }
    assert_eq!(found.symmetric_difference(&expected).collect::<Vec<_>>(), [] as [&String; 0]);
}

/// What came of one execution.
struct Seen {
    document: String,
    method: String,
    /// `fits`, or what else.
    what: String,
    params: Value,
    answer: Value,
}

impl Seen {
    fn is_fine(&self) -> bool {
        self.what == "fits"
    }

    /// What the answer says of it.
    fn evidence(&self) -> &Value {
        self.answer["meta"].get("warnings").unwrap_or(&self.answer["error"])
    }

    fn told(&self) -> String {
        format!("{} {}: {}", self.document, self.method, self.what)
    }
}

async fn check(service: &TestService, modules: &str, file: &Path) -> Vec<Seen> {
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let id: String = file.file_stem().unwrap().to_str().unwrap().replace('.', "-");
    let text = std::fs::read_to_string(file).unwrap();
    let content_type = if name.ends_with(".json") { "application/json" } else { "application/yaml" };
    let request = post(&format!("/api/v1/imports/openapi?dryRun=true&clientId=client&id={id}"));
    let imported = service.send(request.header("content-type", content_type), &text).await;
    assert_eq!(imported.status, 200, "{name}: {}", imported.json());
    let Value::Object(mut imported) = imported.json() else { panic!("{name}: no report") };
    let (mut definition, report) = (imported.remove("definition").unwrap(), imported.remove("report").unwrap());
    let methods = definition["methods"].as_array().unwrap();
    if let Some((_, reason)) = NOT_SERVED.iter().find(|(document, _)| *document == name) {
        assert!(methods.is_empty(), "{name} has {} methods: {reason}", methods.len());
        return Vec::new();
    }
    assert!(!methods.is_empty(), "{name} has no methods");
    let chosen: Vec<Value> = sample::sample(methods).into_iter().cloned().collect();
    // Checking all methods of the largest takes minutes where code is not optimised.
    definition["methods"] = json!(chosen);
    let published = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
    assert_eq!(published.status, 201, "{name}: {}", published.json());
    let document = sample::pruned(read_document(text.as_bytes()).unwrap(), &chosen);
    drop(text);
    let prism = tokio::task::spawn_blocking({
        let modules = modules.to_owned();
        move || Prism::start(&modules, &document)
    })
    .await
    .unwrap();
    let created = connect(service, &id, &definition, &report, &prism.url).await;
    assert_eq!(created.status, 201, "{name}: {}", created.json());
    let mut seen = Vec::new();
    for method in &chosen {
        for whole in [false, true] {
            let params = params(method, whole).unwrap_or_else(|| panic!("{name} {}: no params fit", method["name"]));
            let method_name = method["name"].as_str().unwrap();
            let answer = service.execute(&id, method_name, &params).await.json();
            let told = if whole { format!("{method_name} with all") } else { method_name.to_owned() };
            seen.push(Seen { document: name.clone(), method: told, what: what(method, &answer), params, answer });
        }
    }
    seen
}

/// What came of it, in a word or two: `fits`, or why not.
fn what(method: &Value, answer: &Value) -> String {
    if answer["status"] == "SUCCESS" {
        let is_fit = answer["meta"].get("warnings").is_none() || fits_but_for_patterns(method, &answer["data"]);
        return if is_fit { "fits" } else { "the answer does not fit" }.to_owned();
    }
    let error = &answer["error"];
    let excerpt: Option<Value> = error["details"]["excerpt"].as_str().and_then(|text| serde_json::from_str(text).ok());
    let kind = excerpt.as_ref().and_then(|problem| problem["type"].as_str()).and_then(|text| text.split('#').nth(1));
    let status = &error["details"]["upstreamStatus"];
    format!("{} {status}", kind.or(error["code"].as_str()).unwrap())
}

/// Prism makes up texts without a look at their `pattern`.
fn fits_but_for_patterns(method: &Value, data: &Value) -> bool {
    fn without_patterns(schema: &mut Value) {
        match schema {
            Value::Object(keywords) => {
                // A property may be called so too.
                if keywords.get("pattern").is_some_and(Value::is_string) {
                    keywords.remove("pattern");
                }
                keywords.values_mut().for_each(without_patterns);
            }
            Value::Array(items) => items.iter_mut().for_each(without_patterns),
            _ => {}
        }
    }
    let mut schema = method["resultSchema"].clone();
    without_patterns(&mut schema);
    Schema::compile(&schema).unwrap().validate(data).is_ok()
}

/// Params that fit the method's own schema: with the fewest members, or with many.
fn params(method: &Value, whole: bool) -> Option<Value> {
    let root = &method["paramSchema"];
    let schema = Schema::compile(root).unwrap();
    let made = (0..6).map(|alternative| Values { root, whole, alternative }.of(root));
    made.into_iter().find(|params| schema.validate(params).is_ok())
}

/// Makes an instance `id` of the definition at this address, with a credential of its auth type.
async fn connect(service: &TestService, id: &str, definition: &Value, report: &Value, url: &str) -> Answer {
    let mut config = definition["defaultConfig"].as_object().cloned().unwrap_or_default();
    config.insert("baseUrl".to_owned(), url.into());
    let instance = json!({"id": id, "integrationDefinitionId": id, "name": id, "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    if created.status != 201 || definition["authType"] == "none" {
        return created;
    }
    service.post(&format!("/api/v1/integration-instances/{id}/credentials"), &credential(definition, report)).await
}

/// As the report of the import tells that credentials look, with a secret in them.
fn credential(definition: &Value, report: &Value) -> Value {
    if definition["authType"] == "oauth2" {
        return json!({"type": "oauth2", "data": {"access_token": "secret", "expires_in": 3600}});
    }
    let findings = report["findings"].as_array().unwrap().iter().filter_map(|finding| finding["message"].as_str());
    let example =
        findings.filter_map(|text| text.strip_prefix("credentials of instances are stored as ")).next().unwrap();
    serde_json::from_str(&example.replace('…', "secret")).unwrap()
}

/// A running Prism; it ends with this value.
struct Prism {
    url: String,
    _process: Program,
    _folder: tempfile::TempDir,
}

impl Prism {
    fn start(modules: &str, document: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openapi.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(Path::new(modules).join("node_modules/.bin/prism"));
        command.args(["mock", "--host", "127.0.0.1", "--port", "0", "--multiprocess", "false"]).arg(&file);
        let listening = |line: String| line.split_once("Prism is listening on ").map(|(_, url)| url.trim().to_owned());
        let (process, url) = Program::start(&mut command, listening);
        Self { url, _process: process, _folder: folder }
    }
}
