//! Requests as another SOAP client builds them from the same descriptions and the same values:
//! the import of each description, and what the adapter then sends.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_engine::adapter::soap::SoapAdapter;
use integration_engine::adapter::{Adapter as _, Adapters, Call, Connection};
use integration_engine::credential::{AuthWants, Credential};
use integration_engine::http_client::HttpClient;
use integration_engine::import::{ImportOptions, Imported, wsdl};
use integration_engine::params::Params;
use integration_model::Timestamp;
use integration_model::definition::AuthType;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http_client::loopback_client;
use crate::upstream::{Upstream, reply};

const SUITE: &str = "soap-samples/test";

/// Descriptions that are broken on purpose, or parts of others: no binding, elements and messages
/// that nothing declares, schemas of a draft.
const REFUSED: &[&str] = &[
    "attachments.wsdl",
    "binding-exception.wsdl",
    "binding_document.wsdl",
    "connection/econnrefused.wsdl",
    "cross_schema.wsdl",
    "extended_element.wsdl",
    "fixedPath/netsuite.wsdl",
    "recursive/file.wsdl",
    "schemas_without_targetnamespace.wsdl",
    "strict/CyberSourceTransaction_1.26_3.wsdl",
    "strict/npe.wsdl",
    "strict/stockquote-url.wsdl",
    "strict/stockquote.wsdl",
    "tnsImportConflict/bar.wsdl",
    "wsdlImport/overridden.wsdl",
    "wsdlImport/sub.wsdl",
    "wsdl_with_attributes.wsdl",
];

type Edit = fn(&mut Value);

/// Where the expected request contradicts its own description: how, and what an author who knows
/// that would change in the imported operation.
const CONTRADICTING: &[(&str, &str, Edit)] = &[
    (
        "Login__unsupported_response_name_returned_and_local_xs_schema_missed",
        "the namespace of an RPC body is that of soap:body (WSDL 1.1, 3.5), which here ends in types-ewsServerIntf-IewsServer; \
         expected is the targetNamespace of the document",
        |operation| operation["request"]["namespace"] = "urn:webservice-electrasoft-ru".into(),
    ),
    (
        "fooOp__should_return_back_good_response_object",
        "the message names Request1 in http://example.com/bar/xsd, whose schemas are qualified; expected is \
         Request1, and all in it, in no namespace",
        |operation| {
            operation["request"]["namespace"] = "".into();
            operation["oneNamespace"] = true.into();
        },
    ),
    (
        "getAvailability__should_not_fail_without_children",
        "soap:body and the document's targetNamespace both say http://foo.bar/partner/; expected is the \
         targetNamespace of the document that it imports",
        |operation| operation["request"]["namespace"] = "http://foo.bar/doIt/".into(),
    ),
];

/// Where the values themselves do not fit the description, in what.
const NOT_FITTING: &[(&str, &str)] = &[
    ("Dummy__should_add_prefix_for_unqualified_global_elements", "an attribute of a simple type"),
    ("Dummy__should_escape_xml", "null for what is not nillable"),
    ("Dummy__should_handle_attributes_in_request", "an attribute of a simple type"),
    ("Dummy__should_ignore_custom_defined_namespaces", "an unknown element"),
    ("Dummy__should_ignore_defined_namespaces", "an unknown element"),
    ("Dummy__should_use_defined_value_key", "an unknown element"),
    ("Dummy__should_use_defined_xml_key", "elements in a simple type"),
    ("Dummy__should_use_defined_xml_key_in_first_level_for_rpc", "an unknown part"),
    ("Message__Messages_suffixed_with_Request_Response", "an unknown part"),
    ("Message__overriding_namespace_prefix", "an unknown part"),
    ("UpdateProfile__correct_namespaces_for_elements_with_base_ignorednamespaces", "elements in another order"),
    ("administrate__Complex_json_object_namespace_issue", "an empty text for a boolean"),
    ("getAvailability__should_not_fail_without_children", "an unknown part"),
    ("getMessage__does_not_use_schema_xmlns", "an unknown element"),
    ("getMessage__force_use_schema_xmlns", "an unknown element"),
    ("get__complex_extension_with_explicit_namespace", "an unknown attribute"),
    ("update__complex_extension_with_array_attributes", "an element in place of an attribute"),
];

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

/// JSON with its members in the order of the text.
enum Ordered {
    Scalar(Value),
    List(Vec<Ordered>),
    Map(Vec<(String, Ordered)>),
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let read = match text.as_bytes().first() {
            Some(b'[') => serde_json::from_str(text).map(Self::List),
            Some(b'{') => {
                let mut members = serde_json::Deserializer::from_str(text);
                members.deserialize_map(Members).map(Self::Map)
            }
            _ => serde_json::from_str(text).map(Self::Scalar),
        };
        read.map_err(serde::de::Error::custom)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Ordered)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        std::iter::from_fn(|| map.next_entry().transpose()).collect()
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The other client's way to write values, in ours, as JSON text. `prefixes` are those that its
/// names may have.
fn ours(value: &Ordered, prefixes: &Scope) -> String {
    match value {
        Ordered::List(items) => {
            let items: Vec<_> = items.iter().map(|item| ours(item, prefixes)).collect();
            format!("[{}]", items.join(","))
        }
        Ordered::Scalar(Value::String(text)) => {
            let text = text.strip_prefix("<![CDATA[").and_then(|rest| rest.strip_suffix("]]>")).unwrap_or(text);
            quoted(text)
        }
        Ordered::Scalar(other) => other.to_string(),
        Ordered::Map(members) => {
            let members: Vec<_> = members.iter().flat_map(|(name, value)| member(name, value, prefixes)).collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn member(name: &str, value: &Ordered, prefixes: &Scope) -> Vec<String> {
    match (name, value) {
        ("attributes", Ordered::Map(attributes)) => attributes
            .iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("xsi_type", Ordered::Map(parts)) => {
                    let (_, name) = parts.iter().find(|(name, _)| name == "type").expect("a type");
                    format!("\"@xsi:type\":{}", ours(name, prefixes))
                }
                (name, value) => format!("{}:{}", quoted(&format!("@{name}")), ours(value, prefixes)),
            })
            .collect(),
        ("$value", value) => vec![format!("\"#text\":{}", ours(value, prefixes))],
        ("$xml", Ordered::Scalar(Value::String(xml))) => {
            let declared: String =
                prefixes.iter().map(|(prefix, namespace)| format!(" xmlns:{prefix}='{namespace}'")).collect();
            tree(&format!("<x{declared}>{xml}</x>")).children.iter().map(|child| generic(child, "")).collect()
        }
        (name, value) => {
            // A prefix says something where the description knows another namespace.
            let (prefix, local) = name.split_once(':').unwrap_or(("", name));
            let other = prefixes.get(prefix).filter(|_| prefix == "s1");
            match other {
                Some(namespace) => {
                    let namespace = quoted(namespace);
                    vec![format!("{}:{{\"@xmlns\":{namespace},\"#text\":{}}}", quoted(local), ours(value, prefixes))]
                }
                None => vec![format!("{}:{}", quoted(local), ours(value, prefixes))],
            }
        }
    }
}

/// XML in a value, by its names; within nothing, names without a prefix are those of the place.
fn generic(tree: &Tree, parent: &str) -> String {
    let (namespace, local) = tree.name.trim_start_matches('{').rsplit_once('}').unwrap_or(("", &tree.name));
    let own = (namespace != parent).then(|| format!("\"@xmlns\":{}", quoted(namespace)));
    let attributes =
        tree.attributes.iter().map(|(name, value)| format!("{}:{}", quoted(&format!("@{name}")), quoted(value)));
    let children = tree.children.iter().map(|child| generic(child, namespace));
    let parts: Vec<_> = own.into_iter().chain(attributes).chain(children).collect();
    format!("{}:{{{}}}", quoted(local), parts.join(","))
}

/// The prefixes that a description declares at its root.
type Scope = BTreeMap<String, String>;

fn prefixes(wsdl: &str) -> Scope {
    let mut reader = NsReader::from_str(wsdl);
    loop {
        match reader.read_event().expect("XML") {
            Event::Start(tag) => {
                let declared = tag.attributes().flatten().filter_map(|attribute| {
                    let name: &str = attribute.key.as_ref();
                    Some((name.strip_prefix("xmlns:")?.to_owned(), attribute.value.into_owned()))
                });
                return declared.collect();
            }
            Event::Eof => return Scope::new(),
            _ => {}
        }
    }
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
                    let mut value =
                        attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).expect("a value").into_owned();
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
    let (credential, _) =
        Credential::parse(AuthType::Basic, &data, AuthWants::default(), Timestamp::EPOCH).expect("a credential");
    Some((security, credential))
}

/// What a sample's options and headers ask for, as the operation says it.
fn ask(operation: &mut Value, files: &BTreeMap<String, String>) {
    let options: Value =
        files.get("wsdl_options.json").map(|text| serde_json::from_str(text).expect("JSON")).unwrap_or_default();
    if options["ignoreBaseNameSpaces"] == true {
        operation["oneNamespace"] = true.into();
    }
    if let Some(text) = files.get("header.json") {
        let headers: BTreeMap<String, String> = serde_json::from_str(text).expect("headers");
        operation["headers"] = headers.values().map(|xml| json!({"xml": xml})).collect();
    }
}

/// How an operation departs from the imported one.
#[derive(Default)]
struct Departure {
    as_given: bool,
    edit: Option<Edit>,
}

async fn sent(folder: &Path, departure: &Departure, http: &HttpClient, upstream: &Upstream) -> Result<String, String> {
    let files = files(folder);
    let imported = import(&files, "soap.wsdl")?;
    let sample = name_of(folder);
    let method_name = sample.split("__").next().expect("a name");
    let methods = &imported.definition.methods;
    let mut method = methods.iter().find(|method| method.name == method_name).ok_or("no such method")?.clone();
    ask(&mut method.operation, &files);
    method.operation["asGiven"] = departure.as_given.into();
    if let Some(edit) = departure.edit {
        edit(&mut method.operation);
    }
    let adapter = SoapAdapter::new();
    let operation = adapter.compile(&imported.definition, &method).map_err(|problems| format!("{problems:?}"))?;
    let given: Ordered = serde_json::from_str(&files["request.json"]).expect("JSON");
    let params = match ours(&given, &prefixes(&files["soap.wsdl"])) {
        text if text.starts_with('{') => text,
        _ => "{}".to_owned(),
    };
    let params = Params::from_json(params.into()).expect("params");
    let mut config = imported.definition.default_config.clone();
    config.insert("baseUrl".to_owned(), upstream.url("/").into());
    // The other client speaks no other.
    config.insert("soapVersion".to_owned(), "1.1".into());
    let mut credential = Credential::None;
    if let Some((security, basic)) = security(&files) {
        config.insert("security".to_owned(), security);
        credential = basic;
    }
    let instance = "sample".parse().expect("an id");
    let connection = Connection {
        instance: &instance,
        config: &config.into(),
        credential: &credential,
        custom_auth: None,
        http,
        deadline: Instant::now() + Duration::from_secs(10),
        now: Timestamp::parse("2014-10-12T01:02:03Z").expect("a time"),
    };
    let call = Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None };
    let before = upstream.seen().len();
    let outcome = operation.call(call).await;
    match upstream.seen().get(before) {
        Some(seen) => Ok(seen.body_text().to_owned()),
        None => Err(outcome.expect_err("nothing was sent").message),
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The folders of all samples.
fn samples() -> Option<Vec<PathBuf>> {
    let folder = suite("request-response-samples")?;
    let mut folders: Vec<_> =
        fs::read_dir(folder).expect("the suite").map(|entry| entry.expect("an entry").path()).collect();
    folders.retain(|folder| folder.join("request.xml").is_file());
    folders.sort();
    assert!(folders.len() > 60, "{} samples", folders.len());
    Some(folders)
}

/// The samples that are not built as expected, with what was built.
async fn unequal(folders: &[PathBuf], departure: Departure) -> Vec<(String, String)> {
    let upstream = Upstream::start(|_| reply(202, &[], "")).await;
    let http = loopback_client();
    let mut unequal = Vec::new();
    for folder in folders {
        let expected = fs::read_to_string(folder.join("request.xml")).expect("the expected request");
        match sent(folder, &departure, &http, &upstream).await {
            Ok(text) if tree(&text) == tree(&expected) => {}
            Ok(text) => unequal.push((name_of(folder), format!("\n  sent     {text}\n  expected {expected}"))),
            Err(reason) => unequal.push((name_of(folder), reason)),
        }
    }
    unequal
}

/// The other client writes what it is given, whether the description knows it or not.
#[tokio::test]
async fn requests_are_built_as_others_build_them() {
    let Some(folders) = samples() else { return };
    let unequal = unequal(&folders, Departure { as_given: true, edit: None }).await;
    let names: Vec<_> = unequal.iter().map(|(name, _)| name.as_str()).collect();
    let known: Vec<_> = CONTRADICTING.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, known, "{} of {} differ: {unequal:#?}", unequal.len(), folders.len());
    assert!(unequal.len() * 20 <= folders.len(), "95 of 100 are equal");
}

#[tokio::test]
async fn what_contradicts_its_description_is_built_after_an_edit() {
    let Some(folders) = samples() else { return };
    for (name, how, edit) in CONTRADICTING {
        let folder = folders.iter().find(|folder| name_of(folder) == *name).expect("a sample");
        let departure = Departure { as_given: true, edit: Some(*edit) };
        let unequal = unequal(std::slice::from_ref(folder), departure).await;
        assert_eq!(unequal, [], "{how}");
    }
}

#[tokio::test]
async fn what_does_not_fit_its_description_is_refused_unless_it_is_sent_as_given() {
    let Some(folders) = samples() else { return };
    let unequal = unequal(&folders, Departure::default()).await;
    let is_contradicting = |name: &str| CONTRADICTING.iter().any(|(other, ..)| *other == name);
    let is_known = |name: &str| NOT_FITTING.iter().any(|(other, _)| *other == name);
    let names: Vec<_> = unequal.iter().map(|(name, _)| name.as_str()).collect();
    let known: Vec<_> = folders.iter().map(|folder| name_of(folder)).collect();
    let known: Vec<_> =
        known.iter().map(String::as_str).filter(|name| is_known(name) || is_contradicting(name)).collect();
    assert_eq!(names, known, "{unequal:#?}");
}

#[test]
fn descriptions_are_imported_or_refused_with_a_reason() {
    let Some(folder) = suite("wsdl") else { return };
    let all = files(&folder);
    let mut refused = BTreeMap::new();
    let mut methods = 0;
    for name in all.keys().filter(|name| name.ends_with(".wsdl")) {
        match import(&all, name) {
            Ok(imported) => {
                let report = &imported.report;
                assert_eq!(report.operation_count, report.method_count + report.skipped_count, "{name}: {report:?}");
                assert_eq!(imported.definition.check(), [], "{name}");
                methods += report.method_count;
            }
            Err(message) => drop(refused.insert(name.as_str(), message)),
        }
    }
    assert_eq!(refused.keys().copied().collect::<Vec<_>>(), REFUSED, "{refused:#?}");
    assert!(methods > 80, "{methods} methods");
}
