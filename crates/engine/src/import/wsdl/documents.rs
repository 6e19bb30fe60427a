//! The files of a description: the document itself, what it imports and includes, and all their
//! schemas. Must not know what the parts mean.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use url::Url;

use super::{Report, SOAP, SOAP12, WSDL};
use crate::import::openapi::{is_remote, join};
use crate::import::{FindingKind, ImportError, MAX_DOCUMENT_BYTES};
use crate::xml::{self, Element, Scope, XSD};

/// The most files that belong together.
const MAX_FILES: usize = 500;

/// What was read of all files.
pub(super) struct Documents {
    /// The roots of WSDL documents, the first one asked for before those it imports.
    pub(super) descriptions: Vec<Arc<Element>>,
    pub(super) schemas: Vec<Schema>,
}

/// A schema, with the namespace that what it declares is in.
pub(super) struct Schema {
    pub(super) root: Arc<Element>,
    pub(super) target: String,
}

impl Schema {
    /// Whether local elements, or attributes, are in the schema's namespace unless they say so.
    pub(super) fn qualifies(&self, what: &str) -> bool {
        self.root.attribute(what) == Some("qualified")
    }
}

/// Files by their paths from one folder.
pub(super) struct Loader<'a> {
    files: &'a BTreeMap<String, String>,
    report: &'a mut Report,
    seen: HashSet<(String, String)>,
    documents: Documents,
}

impl<'a> Loader<'a> {
    pub(super) fn load(
        name: &str,
        files: &'a BTreeMap<String, String>,
        report: &'a mut Report,
    ) -> Result<Documents, ImportError> {
        let documents = Documents { descriptions: Vec::new(), schemas: Vec::new() };
        let mut loader = Self { files, report, seen: HashSet::new(), documents };
        let total: usize = files.values().map(String::len).sum();
        if total > MAX_DOCUMENT_BYTES {
            return Err(ImportError::new(format!("expected files of at most {MAX_DOCUMENT_BYTES} bytes in all")));
        }
        let text = files.get(name).ok_or_else(|| ImportError::new(format!("there is no file {name:?}")))?;
        let root = parse(text).map_err(|fault| ImportError::new(format!("{name} is no XML: {fault}")))?;
        if !root.name.is(WSDL, "definitions") {
            let message = format!("expected the element definitions of WSDL 1.1, found {:?}", root.name.local);
            return Err(ImportError::new(message));
        }
        loader.seen.insert((name.to_owned(), String::new()));
        loader.description(name, Arc::new(root));
        Ok(loader.documents)
    }

    fn description(&mut self, name: &str, root: Arc<Element>) {
        self.documents.descriptions.push(Arc::clone(&root));
        for import in root.children().filter(|child| child.name.is(WSDL, "import")) {
            let Some(location) = import.attribute("location") else { continue };
            self.follow(name, location, import.attribute("namespace").unwrap_or_default());
        }
        for types in root.children().filter(|child| child.name.is(WSDL, "types")) {
            for schema in types.children().filter(|child| child.name.is(XSD, "schema")) {
                let target = schema.attribute("targetNamespace").unwrap_or_default().to_owned();
                self.schema(name, Arc::new(schema.clone()), target);
            }
        }
    }

    fn schema(&mut self, name: &str, root: Arc<Element>, target: String) {
        for child in root.children().filter(|child| child.name.namespace() == XSD) {
            let Some(location) = child.attribute("schemaLocation") else { continue };
            match child.name.local.as_str() {
                "import" => self.follow(name, location, ""),
                // What is included takes the namespace of the schema that includes it.
                "include" | "redefine" => self.follow(name, location, &target),
                _ => {}
            }
        }
        self.documents.schemas.push(Schema { root, target });
    }

    fn follow(&mut self, from: &str, location: &str, target: &str) {
        let Some(file) = self.find(from, location) else {
            let message = format!(
                "{location:?}, which {from} refers to, is not among the files; what it declares is taken as it comes"
            );
            self.report.find(FindingKind::Simplified, None, message);
            return;
        };
        if self.seen.len() >= MAX_FILES || !self.seen.insert((file.clone(), target.to_owned())) {
            return;
        }
        let text = self.files.get(&file).map(String::as_str).unwrap_or_default();
        let root = match parse(text) {
            Ok(root) => Arc::new(root),
            Err(fault) => {
                return self.report.find(FindingKind::Simplified, None, format!("{file} is no XML: {fault}"));
            }
        };
        if root.name.is(WSDL, "definitions") {
            self.description(&file, root);
        } else if root.name.is(XSD, "schema") {
            let target = root.attribute("targetNamespace").unwrap_or(target).to_owned();
            self.schema(&file, root, target);
        }
    }

    fn find(&self, from: &str, location: &str) -> Option<String> {
        place(from, location).filter(|name| self.files.contains_key(name))
    }
}

/// The path of the file at a location. Descriptions often name where they once lay on the web;
/// then the file of that name counts.
fn place(from: &str, location: &str) -> Option<String> {
    // Of a document that was fetched, so are those that it refers to.
    if is_remote(from) {
        let mut url = Url::parse(from).ok()?.join(location).ok()?;
        url.set_fragment(None);
        return Some(url.into());
    }
    if !is_remote(location) {
        return join(from, location);
    }
    let last = location.split(['?', '#']).next()?.rsplit('/').next()?;
    join(from, last)
}

/// The files of a body: a description alone, or JSON that names the one to begin with and holds
/// those beside it.
pub fn read_files(body: &[u8]) -> Result<(String, BTreeMap<String, String>), ImportError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Files {
        document: String,
        files: BTreeMap<String, String>,
    }
    let text = std::str::from_utf8(body).map_err(|error| ImportError::new(format!("expected UTF-8: {error}")))?;
    if !text.trim_start().starts_with('{') {
        let name = "description.wsdl".to_owned();
        return Ok((name.clone(), BTreeMap::from([(name, text.to_owned())])));
    }
    let Files { document, files } = serde_json::from_str(text)
        .map_err(|error| ImportError::new(format!("expected an object of document and files: {error}")))?;
    Ok((document, files))
}

/// Prefixes that authors use without declaring them.
const USUAL: [(&str, &str); 10] = [
    ("wsdl", WSDL),
    ("soap", SOAP),
    ("soap12", SOAP12),
    ("xsd", XSD),
    ("xs", XSD),
    ("s", XSD),
    ("wsu", "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"),
    ("wsp", "http://schemas.xmlsoap.org/ws/2004/09/policy"),
    ("xmime", "http://www.w3.org/2005/05/xmlmime"),
    ("mime", "http://schemas.xmlsoap.org/wsdl/mime/"),
];

fn parse(text: &str) -> Result<Element, String> {
    xml::read_description(text, &Scope::of(&USUAL))
}

/// The files that a document refers to, by their paths from the folder that `name` starts from.
pub fn references(name: &str, text: &str) -> Vec<String> {
    let Ok(root) = parse(text) else { return Vec::new() };
    let mut found = Vec::new();
    let mut open = vec![&root];
    while let Some(element) = open.pop() {
        let attribute = match element.name.namespace() {
            WSDL => "location",
            XSD => "schemaLocation",
            _ => continue,
        };
        if matches!(element.name.local.as_str(), "import" | "include" | "redefine") {
            found.extend(element.attribute(attribute).and_then(|location| place(name, location)));
        }
        if matches!(element.name.local.as_str(), "definitions" | "types" | "schema") {
            open.extend(element.children());
        }
    }
    found
}
