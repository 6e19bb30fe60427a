//! Requests as another SOAP client builds them from the same descriptions and the same values:
//! the import of each description, and what the adapter then sends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use integration_engine::adapter::soap::SoapAdapter;
use integration_engine::adapter::{Adapter as _, Adapters, Call, Connection};
use integration_engine::credential::Credential;
use integration_engine::http_client::HttpClient;
use integration_engine::import::{ImportOptions, Imported, wsdl};
use integration_engine::params::Params;
use integration_model::Timestamp;
use integration_model::definition::AuthType;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http_client::loopback_client;
use crate::upstream::{Upstream, reply};

const SUITE: &str = "soap-samples/test";

/// Where the expected request is not what its description says, and why.
const OTHERWISE: &[(&str, &str)] = &[];

fn suite(folder: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "tells where the public suites are")]
    let suites = std::env::var_os("INTEGRATION_SUITES");
    let Some(suites) = suites else {
        #[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
        {
            eprintln!("skipped: INTEGRATION_SUITES does not name the folder of the public suites");
        }
        return None;
    };
    Some(Path::new(&suites).join(SUITE).join(folder))
}

/// All files beneath a folder, by their paths from it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let name = path.strip_prefix(folder).expect("beneath").to_string_lossy().replace('\\', "/");
                found.insert(name, text);
            }
        }
    }
    found
}

fn import(files: &BTreeMap<String, String>, name: &str) -> Result<Imported, String> {
    wsdl::translate(name, files, &ImportOptions::default(), &Adapters::built_in(), &mut |_, _| {})
        .map_err(|error| error.message)
}

/// The other client's way to write values, in ours.
fn ours(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(ours).collect(),
        Value::String(text) => {
            let text = text.strip_prefix("<![CDATA[").and_then(|rest| rest.strip_suffix("]]>")).unwrap_or(text);
            Value::from(text)
        }
        Value::Object(members) => {
            let mut own = Map::new();
            for (name, value) in members {
                match name.as_str() {
                    "attributes" => {
                        for (name, value) in value.as_object().expect("attributes") {
                            match name.as_str() {
                                "xsi_type" => drop(own.insert("@xsi:type".to_owned(), value["type"].clone())),
                                name => drop(own.insert(format!("@{name}"), value.clone())),
                            }
                        }
                    }
                    "$value" => drop(own.insert("#text".to_owned(), ours(value))),
                    "$xml" => own.extend(inner(value.as_str().expect("XML"))),
                    // Prefixes say nothing that the description does not.
                    name => drop(own.insert(name.rsplit(':').next().expect("a name").to_owned(), ours(value))),
                }
            }
            Value::Object(own)
        }
        other => other.clone(),
    }
}

/// XML in a value, by its names.
fn inner(xml: &str) -> Map<String, Value> {
    let tree = tree(&format!("<x xmlns:tns='urn:x'>{xml}</x>"));
    let mut members = Map::new();
    for child in &tree.children {
        members.insert(child.name.rsplit('}').next().expect("a name").to_owned(), generic(child));
    }
    members
}

fn generic(tree: &Tree) -> Value {
    let mut members: Map<_, _> =
        tree.attributes.iter().map(|(name, value)| (format!("@{name}"), Value::from(value.as_str()))).collect();
    for child in &tree.children {
        members.insert(child.name.rsplit('}').next().expect("a name").to_owned(), generic(child));
    }
    Value::Object(members)
}

/// An element in a form that tells what it means, not how it is written.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Tree>,
}

fn tree(text: &str) -> Tree {
    let mut reader = NsReader::from_str(text);
    let root = Tree { name: String::new(), attributes: Vec::new(), text: String::new(), children: Vec::new() };
    let mut open = vec![root];
    let expanded = |resolved: ResolveResult<'_>, local: &str| match resolved {
        ResolveResult::Bound(namespace) => format!("{{{}}}{local}", namespace.as_ref()),
        ResolveResult::Unbound => local.to_owned(),
        ResolveResult::Unknown(prefix) => format!("{{unknown {prefix:?}}}{local}"),
    };
    loop {
        match reader.read_event().expect("XML") {
            event @ (Event::Start(_) | Event::Empty(_)) => {
                let is_empty = matches!(event, Event::Empty(_));
                let (Event::Start(tag) | Event::Empty(tag)) = event else { unreachable!() };
                let (resolved, local) = reader.resolver().resolve_element(tag.name());
                let name = expanded(resolved, local.as_ref());
                let mut attributes = Vec::new();
                for attribute in tag.attributes() {
                    let attribute = attribute.expect("an attribute");
                    if attribute.key.as_namespace_binding().is_some() {
                        continue;
                    }
                    let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
                    let name = expanded(resolved, local.as_ref());
                    let mut value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).expect("a value").into_owned();
                    if name.ends_with("XMLSchema-instance}type") {
                        let (resolved, local) = reader.resolver().resolve_element(quick_xml::name::QName(&value));
                        value = expanded(resolved, local.as_ref());
                    }
                    // Names that parts of the message are referred to by are free.
                    if name.ends_with("utility-1.0.xsd}Id") {
                        value = "id".to_owned();
                    }
                    attributes.push((name, value));
                }
                attributes.sort();
                let node = Tree { name, attributes, text: String::new(), children: Vec::new() };
                if is_empty {
                    open.last_mut().expect("a parent").children.push(node);
                } else {
                    open.push(node);
                }
            }
            Event::End(_) => {
                let mut node = open.pop().expect("an element");
                if node.text.trim().is_empty() {
                    node.text.clear();
                }
                open.last_mut().expect("a parent").children.push(node);
            }
            Event::Text(text) => open.last_mut().expect("an element").text.push_str(&text.xml10_content()),
            Event::CData(text) => open.last_mut().expect("an element").text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content();
                let text = quick_xml::escape::unescape(&format!("&{name};")).expect("an entity").into_owned();
                open.last_mut().expect("an element").text.push_str(&text);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    open.remove(0).children.remove(0)
}

/// What the other client's option says of security.
fn security(files: &BTreeMap<String, String>) -> Option<(Value, Credential)> {
    let options: Value = serde_json::from_str(files.get("security.json")?).expect("JSON");
    let flag = |name: &str| options["options"][name].as_bool().unwrap_or(true);
    let data = json!({"username": options["username"], "password": options["password"]});
    let mut security = json!({
        "mustUnderstand": false, "usernameToken": {"password": "text", "created": flag("hasTokenCreated")},
    });
    if flag("hasTimeStamp") {
        security["timestamp"] = json!({"ttlSeconds": 600});
    }
    let (credential, _) = Credential::parse(AuthType::Basic, &data, None, Timestamp::EPOCH).expect("a credential");
    Some((security, credential))
}

async fn sent(folder: &Path, http: &HttpClient, upstream: &Upstream) -> Result<String, String> {
    let files = files(folder);
    let imported = import(&files, "soap.wsdl")?;
    let sample = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let method_name = sample.split("__").next().expect("a name");
    let methods = &imported.definition.methods;
    let method = methods.iter().find(|method| method.name == method_name).ok_or("no such method")?;
    let adapter = SoapAdapter::new();
    let operation = adapter.compile(&imported.definition, method).map_err(|problems| format!("{problems:?}"))?;
    let given: Value = serde_json::from_str(&files["request.json"]).expect("JSON");
    let params = ours(&given).as_object().cloned().unwrap_or_default();
    let mut config = imported.definition.default_config.clone();
    config.insert("baseUrl".to_owned(), upstream.url("/").into());
    let mut credential = Credential::None;
    if let Some((security, basic)) = security(&files) {
        config.insert("security".to_owned(), security);
        credential = basic;
    }
    let connection = Connection {
        config: &config,
        credential: &credential,
        custom_auth: None,
        http,
        deadline: Instant::now() + Duration::from_secs(10),
        now: Timestamp::parse("2014-10-12T01:02:03Z").expect("a time"),
    };
    let params = Params::from_object(params);
    let call = Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None };
    let before = upstream.seen().len();
    let outcome = operation.call(call).await;
    match upstream.seen().get(before) {
        Some(seen) => Ok(seen.body_text().to_owned()),
        None => Err(outcome.expect_err("nothing was sent").message),
    }
}

#[tokio::test]
async fn requests_are_built_as_others_build_them() {
    let Some(folder) = suite("request-response-samples") else { return };
    let upstream = Upstream::start(|_| reply(202, &[], "")).await;
    let http = loopback_client();
    let mut folders: Vec<_> = fs::read_dir(folder).expect("the suite").map(|entry| entry.expect("an entry").path()).collect();
    folders.retain(|folder| folder.join("request.xml").is_file());
    folders.sort();
    assert!(folders.len() > 60, "{} samples", folders.len());
    let unequal = Mutex::new(Vec::new());
    for folder in &folders {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let expected = fs::read_to_string(folder.join("request.xml")).expect("the expected request");
        match sent(folder, &http, &upstream).await {
            Ok(text) if tree(&text) == tree(&expected) => {}
            Ok(text) => unequal.lock().expect("no panic").push((name, format!("\n  sent     {text}\n  expected {expected}"))),
            Err(reason) => unequal.lock().expect("no panic").push((name, reason)),
        }
    }
    let unequal = unequal.into_inner().expect("no panic");
    let names: Vec<_> = unequal.iter().map(|(name, _)| name.as_str()).collect();
    let known: Vec<_> = OTHERWISE.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "{} of {} differ: {unequal:#?}", unequal.len(), folders.len());
    assert!(unequal.len() * 20 <= folders.len(), "95 of 100 are equal");
}
