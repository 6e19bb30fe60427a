//! WSDL 1.1 descriptions, with the XML Schemas that they import, as definitions of type `soap`.
//!
//! Owns: what each part of a description becomes, and what is said of parts that become nothing.
//! Must not know: where files come from, and where definitions go.

mod components;
mod content;
mod documents;
mod method;
mod particles;
mod services;
mod simple;
mod types;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use integration_model::DefinitionId;
use integration_model::definition::{AuthType, DefinitionSpec, MAX_DESCRIPTION, MAX_METHODS, MAX_NAME};
use semver::Version;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use documents::{read_files, references};

use self::components::Components;
use self::documents::Loader;
use self::services::{Port, Services, asserts};
use super::FindingKind::{Note, Skipped};
use super::openapi::naming::{UniqueNames, definition_id};
use super::{ImportError, ImportOptions, ImportReport, Imported, MAX_DEFINITION_BYTES};
use crate::adapter::Adapters;
use crate::xml::Element;

const WSDL: &str = "http://schemas.xmlsoap.org/wsdl/";
const SOAP: &str = "http://schemas.xmlsoap.org/wsdl/soap/";
const SOAP12: &str = "http://schemas.xmlsoap.org/wsdl/soap12/";
const SOAP_ENCODING: &str = "http://schemas.xmlsoap.org/soap/encoding/";

/// The longest that a translation may take.
const MAX_TIME: Duration = Duration::from_secs(60);
/// How many declarations are looked at for all operations together.
const MAX_WORK: usize = 20_000_000;

type Report = ImportReport;

/// Whether a document looks like a description of this kind.
pub fn is_description(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('<') && text.contains(WSDL)
}

/// Makes a definition of the description `name`, one of the `files` by their paths from one
/// folder. `progress` is told after each operation how many of how many are done.
pub fn translate(
    name: &str,
    files: &BTreeMap<String, String>,
    options: &ImportOptions,
    adapters: &Adapters,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Imported, ImportError> {
    let mut report = ImportReport::new("WSDL 1.1");
    let documents = Loader::load(name, files, &mut report)?;
    let components = Components::of(&documents);
    let services = Services::of(&documents.descriptions);
    let ports = services.ports();
    let chosen = choose(&ports, options.server.as_deref(), &mut report)?;
    let root = services.root().ok_or_else(|| ImportError::new("there is no description"))?;
    let mut spec = shell(root, &chosen, options, &mut report)?;
    let mut names = UniqueNames::default();
    let operations: Vec<_> = chosen.iter().flat_map(|port| services.operations(port.binding)).collect();
    report.operation_count += operations.len();
    let (mut size, mut work) = (0, 0);
    let deadline = Instant::now() + MAX_TIME;
    for (index, operation) in operations.iter().enumerate() {
        if Instant::now() >= deadline {
            let message =
                format!("the description takes more than {} s; expected fewer operations", MAX_TIME.as_secs());
            return Err(ImportError::new(message));
        }
        progress(index, operations.len());
        if spec.methods.len() >= MAX_METHODS || work >= MAX_WORK {
            report.find(Skipped, Some(operation.name), "there are more operations than a definition can have");
            continue;
        }
        let translated = method::translate(operation, names.take(method::name(operation.name)), &components, &mut work);
        let (method, findings) = match translated {
            Ok(translated) => translated,
            Err(reason) => {
                report.find(Skipped, Some(operation.name), reason);
                continue;
            }
        };
        let length = serde_json::to_vec(&method).map_or(usize::MAX, |text| text.len());
        if size + length > MAX_DEFINITION_BYTES {
            report.find(Skipped, Some(operation.name), "the definition would be too large; import fewer operations");
            continue;
        }
        spec.methods.push(method);
        match method::repair(&mut spec, adapters) {
            Ok(lost) => {
                let all = findings.into_iter().chain(lost);
                all.for_each(|(kind, message)| report.find(kind, Some(operation.name), message));
                size += length;
            }
            Err(reason) => {
                spec.methods.pop();
                report.find(Skipped, Some(operation.name), reason);
            }
        }
    }
    progress(operations.len(), operations.len());
    report.method_count = spec.methods.len();
    if spec.methods.is_empty() {
        let skipped = report.findings.iter().filter(|finding| finding.kind == Skipped).take(3);
        let why: Vec<_> = skipped.map(|finding| finding.message.clone()).collect();
        let message = format!("the description has no operation that can be a method; {}", why.join("; "));
        return Err(ImportError::new(message.trim_end_matches("; ")));
    }
    Ok(Imported { definition: spec, report })
}

/// The ports that become methods: those at one address, each port type once.
fn choose<'a>(ports: &[Port<'a>], server: Option<&str>, report: &mut Report) -> Result<Vec<Port<'a>>, ImportError> {
    let is_wanted = |port: &&Port<'_>| server.is_none_or(|server| [Some(server), None].contains(&port.address));
    let Some(first) = ports.iter().find(is_wanted).or(ports.first()) else {
        return Err(ImportError::new("the description has no SOAP binding"));
    };
    let mut seen = HashSet::new();
    let mut chosen = Vec::new();
    for port in std::iter::once(first).chain(ports) {
        // The same operations are often bound to both versions, each at an address.
        if !seen.insert(port.binding.port_type()) {
            continue;
        }
        let is_same = |port: &Port<'_>| (port.address, port.binding.soap) == (first.address, first.binding.soap);
        if is_same(port) {
            chosen.push(*port);
        } else {
            let address = port.address.unwrap_or("an address of its own");
            let message = format!(
                "the port {} of {} is at {address}: import it as a definition of its own, with that server",
                port.name, port.service
            );
            report.find(Note, None, message);
        }
    }
    Ok(chosen)
}

/// The definition without its methods.
fn shell(
    root: &Element,
    ports: &[Port<'_>],
    options: &ImportOptions,
    report: &mut Report,
) -> Result<DefinitionSpec, ImportError> {
    let service = ports.first().map(|port| port.service).unwrap_or_default();
    let title = if service.is_empty() { root.attribute("name").unwrap_or_default() } else { service };
    let id = match options.id.clone().or_else(|| definition_id(title)) {
        Some(id) => id,
        None => DefinitionId::parse("imported").map_err(|error| ImportError::new(error.to_string()))?,
    };
    let name = options.name.as_deref().unwrap_or(title);
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let documentation = root.child(WSDL, "documentation").map(Element::text).unwrap_or_default();

    let mut defaults = Map::new();
    let address = options.server.as_deref().or_else(|| ports.first().and_then(|port| port.address));
    match address.filter(|address| crate::config_fields::parse_endpoint(address).is_ok()) {
        Some(address) => drop(defaults.insert("baseUrl".to_owned(), address.into())),
        None => report.find(Note, None, "the description names no address: instances give their baseUrl"),
    }
    let version = if ports.first().is_some_and(|port| port.binding.soap == SOAP12) { "1.2" } else { "1.1" };
    defaults.insert("soapVersion".to_owned(), version.into());
    let mut auth_type = AuthType::None;
    if asserts(root, "UsernameToken") {
        auth_type = AuthType::Basic;
        let password = if asserts(root, "HashPassword") { "digest" } else { "text" };
        let mut security = json!({"usernameToken": {"password": password}});
        if asserts(root, "IncludeTimestamp") {
            security["timestamp"] = json!({});
        }
        defaults.insert("security".to_owned(), security);
        report.find(Note, None, "a policy asks for a UsernameToken: the credential is of type basic");
    } else if asserts(root, "HttpBasicAuthentication") || asserts(root, "BasicAuthentication") {
        auth_type = AuthType::Basic;
    } else {
        report.find(Note, None, "the description asks for no credential; set authType where the system wants one");
    }
    Ok(DefinitionSpec {
        name: if name.trim().is_empty() { id.to_string() } else { name },
        id,
        description: documentation.trim().chars().take(MAX_DESCRIPTION).collect(),
        version: options.version.clone().unwrap_or(Version::new(1, 0, 0)),
        adapter_type: "soap".to_owned(),
        adapter_version: None,
        api_key_auth: None,
        auth_type,
        config_schema: config_schema(),
        default_config: defaults,
        oauth2_config: None,
        custom_auth: None,
        labels: BTreeMap::new(),
        templates: BTreeMap::new(),
        rate_limits: None,
        test_method: None,
        methods: Vec::new(),
    })
}

fn config_schema() -> Value {
    json!({
        "type": "object",
        "required": ["baseUrl"],
        "properties": {
            "baseUrl": {"type": "string", "format": "uri"},
            "soapVersion": {"enum": ["1.1", "1.2"]},
            "security": {"type": "object"},
        },
    })
}
