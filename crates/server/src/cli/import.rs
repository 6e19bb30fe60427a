//! `definitions import`: definitions and descriptions of other formats from files. They are
//! translated here, so that a dry run needs no service; what is made goes to a running one.

mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http::{Method, StatusCode};
use integration_engine::adapter::Adapters;
use integration_engine::import::graphql::{self, is_introspection};
use integration_engine::import::openapi::{Documents, file_references, is_description, join, translate};
use integration_engine::import::{
    FindingKind, ImportOptions, ImportReport, Imported, MAX_DOCUMENT_BYTES, read_document, wsdl,
};
use integration_engine::registry::check_definition;
use integration_model::DefinitionId;
use semver::Version;
use serde_json::Value;

use super::client::{Client, ServiceArguments, encode_segment};
use super::definitions::{DEFINITIONS, expect_success};
use super::terminal::{Progress, complain, say, table};
use crate::config::{Environment, read_definition};

/// The most files that one description may consist of, and what they may hold together.
const MAX_FILES: usize = 5_000;
const MAX_TOTAL_BYTES: usize = 2 * MAX_DOCUMENT_BYTES;
/// How many findings of one document are told without being asked for.
const FINDINGS_TOLD: usize = 10;

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// A definition, or an OpenAPI description (2.0, 3.0, 3.1), in JSON or YAML; a GraphQL schema
    /// (.graphql, .graphqls, .gql) or the JSON answer to an introspection query; a WSDL 1.1
    /// description; or a folder of them. Or the URL of one, or of a GraphQL endpoint, which a
    /// running service fetches by its egress rules.
    path: PathBuf,
    /// What is at a URL [default: wsdl and graphql where it ends so, else openapi].
    #[arg(long, value_enum)]
    format: Option<remote::Format>,
    /// A header that a GraphQL endpoint wants to see, as NAME=VARIABLE: its value is that of the
    /// environment variable, as other users of the machine can see arguments.
    #[arg(long, value_name = "NAME=VARIABLE")]
    header: Vec<String>,
    /// Store nothing: say what would become of each file. Needs no running service.
    #[arg(long)]
    dry_run: bool,
    /// Publish what is imported; nothing is stored of what is not fit to be published.
    #[arg(long)]
    publish: bool,
    /// Tell all findings, not the first ones.
    #[arg(long)]
    findings: bool,
    #[command(flatten)]
    description: DescriptionArguments,
    #[command(flatten)]
    service: ServiceArguments,
}

/// What a definition is to have otherwise than its description has it.
#[derive(Debug, Args)]
struct DescriptionArguments {
    /// The id of the definition [default: made of the description's title].
    #[arg(long)]
    id: Option<DefinitionId>,
    /// The definition's name [default: the description's title].
    #[arg(long)]
    name: Option<String>,
    /// The definition's version [default: made of the description's].
    #[arg(long, value_name = "VERSION")]
    definition_version: Option<Version>,
    /// Where the system is [default: the server of most operations].
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The id of the OAuth 2 client.
    #[arg(long)]
    client_id: Option<String>,
}

impl DescriptionArguments {
    fn options(&self) -> ImportOptions {
        ImportOptions {
            id: self.id.clone(),
            name: self.name.clone(),
            version: self.definition_version.clone(),
            server: self.server.clone(),
            client_id: self.client_id.clone(),
        }
    }

    const fn is_given(&self) -> bool {
        self.id.is_some() || self.definition_version.is_some() || self.name.is_some() || self.server.is_some()
    }
}

pub(super) fn run(arguments: &ImportArguments, environment: &Environment) -> anyhow::Result<()> {
    if let Some(url) = remote::url_of(&arguments.path) {
        let client = Client::new(&arguments.service, environment)?;
        let (row, report) = remote::import(url, arguments, &client, environment)?;
        say(&table(COLUMNS, &[row]));
        tell_findings(&arguments.path, &report, arguments.findings);
        return Ok(());
    }
    if arguments.format.is_some() || !arguments.header.is_empty() {
        bail!("--format and --header are for URLs");
    }
    let files = definition_files(&arguments.path)?;
    if files.len() > 1 && arguments.description.is_given() {
        bail!("--id, --name, --definition-version and --server are for one file, not for {}", files.len());
    }
    let client = if arguments.dry_run { None } else { Some(Client::new(&arguments.service, environment)?) };
    let import = Import { arguments, client, adapters: Adapters::built_in() };
    let mut rows = Vec::new();
    let mut parts = BTreeSet::new();
    let mut failed = 0;
    let mut told = Vec::new();
    // Descriptions first: the files that they consist of are no definitions.
    let (descriptions, others): (Vec<&PathBuf>, Vec<&PathBuf>) = files.iter().partition(|file| holds_description(file));
    for file in descriptions {
        match import.description(file, &mut parts) {
            Ok((row, report)) => {
                rows.push(row);
                told.push((file, report));
            }
            Err(error) => {
                failed += 1;
                complain(&format!("{}: {error:#}", file.display()));
            }
        }
    }
    for file in others {
        if fs::canonicalize(file).is_ok_and(|path| parts.contains(&path)) {
            continue;
        }
        match import.definition(file) {
            Ok(row) => rows.push(row),
            Err(error) => {
                failed += 1;
                complain(&format!("{}: {error:#}", file.display()));
            }
        }
    }
    if !rows.is_empty() {
        say(&table(COLUMNS, &rows));
    }
    for (file, report) in &told {
        tell_findings(file, report, arguments.findings);
    }
    if failed > 0 {
        bail!("{failed} of {} files were not imported", files.len());
    }
    Ok(())
}

type Row = [String; 8];
const COLUMNS: [&str; 8] = ["FILE", "DEFINITION", "VERSION", "STATUS", "AUTH", "METHODS", "SKIPPED", "FINDINGS"];

struct Import<'a> {
    arguments: &'a ImportArguments,
    /// None where nothing is stored.
    client: Option<Client>,
    adapters: Adapters,
}

impl Import<'_> {
    /// Imports a description; `parts` learns the files that belong to it.
    fn description(&self, file: &Path, parts: &mut BTreeSet<PathBuf>) -> anyhow::Result<(Row, ImportReport)> {
        let options = self.arguments.description.options();
        let imported = if is_graphql(file) {
            graphql::translate(&read(file)?, &options, &self.adapters)
        } else if is_wsdl(file) {
            let (name, files) = load_wsdl(file)?;
            let mut progress = Progress::new(&file.display().to_string());
            wsdl::translate(&name, &files, &options, &self.adapters, &mut |done, all| progress.show(done, all))
        } else {
            let documents = load(file, parts)?;
            let mut progress = Progress::new(&file.display().to_string());
            translate(&documents, &options, None, &self.adapters, &mut |done, all| progress.show(done, all))
        };
        let Imported { definition, report } = imported.map_err(|error| {
            let places: String = error.problems.iter().map(|problem| format!("\n  {problem}")).collect();
            anyhow!("{error}{places}")
        })?;
        let document = serde_json::to_value(&definition).context("cannot write the definition")?;
        let status = self.store(&document)?;
        let row = [
            file.display().to_string(),
            definition.id.to_string(),
            definition.version.to_string(),
            status,
            definition.auth_type.as_str().to_owned(),
            report.method_count.to_string(),
            report.skipped_count.to_string(),
            (report.findings.len() + report.further_findings).to_string(),
        ];
        Ok((row, report))
    }

    /// Imports a definition that is one already.
    fn definition(&self, file: &Path) -> anyhow::Result<Row> {
        let document = crate::config::read_document(file)?;
        let status = if self.client.is_some() {
            self.store(&document)?
        } else {
            let problems = check_definition(&read_definition(file)?, &self.adapters);
            if !problems.is_empty() {
                bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "));
            }
            NOT_STORED.to_owned()
        };
        let name = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
        let methods = document.get("methods").and_then(Value::as_array).map_or(0, Vec::len);
        let nothing = String::new;
        let (id, version, auth_type) = (name("id"), name("version"), name("authType"));
        Ok([file.display().to_string(), id, version, status, auth_type, methods.to_string(), nothing(), nothing()])
    }

    /// Makes the definition, or a version of one that is there; what it is then.
    fn store(&self, document: &Value) -> anyhow::Result<String> {
        let Some(client) = &self.client else { return Ok(NOT_STORED.to_owned()) };
        let publish = if self.arguments.publish { "?publish=true" } else { "" };
        let mut answer = client.send(Method::POST, &format!("{DEFINITIONS}{publish}"), Some(document))?;
        if answer.status == StatusCode::CONFLICT {
            let id = encode_segment(document.get("id").and_then(Value::as_str).unwrap_or_default());
            answer = client.send(Method::POST, &format!("{DEFINITIONS}/{id}/versions{publish}"), Some(document))?;
        }
        expect_success(&answer)?;
        Ok(answer.json()?.get("status").and_then(Value::as_str).unwrap_or("?").to_owned())
    }
}

const NOT_STORED: &str = "not stored";

fn tell_findings(file: &Path, report: &ImportReport, all: bool) {
    let matters = |kind: FindingKind| all || kind != FindingKind::Note;
    // Notes about the whole document say what is left to do.
    let mut findings: Vec<_> =
        report.findings.iter().filter(|finding| matters(finding.kind) || finding.operation.is_none()).collect();
    findings.sort_by_key(|finding| (finding.operation.is_some(), finding.kind));
    let most = if all { findings.len() } else { FINDINGS_TOLD };
    if findings.is_empty() {
        return;
    }
    say(&format!("\n{} ({})", file.display(), report.format));
    for finding in findings.iter().take(most) {
        let operation = finding.operation.as_deref().map(|operation| format!("{operation}: ")).unwrap_or_default();
        say(&format!("  {:10} {operation}{}", finding.kind.as_str(), finding.message));
    }
    let further = report.findings.len() + report.further_findings - findings.len().min(most);
    if further > 0 {
        let how = if all { "" } else { "; --findings tells them" };
        say(&format!("  and {further} more{how}"));
    }
}

/// Whether a file is a description, as far as it can be read.
fn holds_description(file: &Path) -> bool {
    is_graphql(file) || is_wsdl(file) || document_of(file).is_some_and(|document| is_description(&document))
}

fn document_of(file: &Path) -> Option<Value> {
    read(file).ok().and_then(|text| read_document(&text).ok())
}

const SCHEMA_EXTENSIONS: [&str; 3] = ["graphql", "graphqls", "gql"];

/// Whether a file is a GraphQL schema: by its name, or as the answer to an introspection query.
fn is_graphql(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    SCHEMA_EXTENSIONS.contains(&extension)
        || (extension == "json" && document_of(file).is_some_and(|document| is_introspection(&document)))
}

/// Whether a file is a WSDL description, by its content.
fn is_wsdl(file: &Path) -> bool {
    read_text(file).is_ok_and(|text| wsdl::is_description(&text))
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    String::from_utf8(read(file)?).with_context(|| format!("{} is not UTF-8", file.display()))
}

/// Reads a WSDL description and the files beside and below it that it imports and includes.
fn load_wsdl(file: &Path) -> anyhow::Result<(String, BTreeMap<String, String>)> {
    let folder = folder_of(file)?;
    let name = name_of(file)?.to_owned();
    let mut files = BTreeMap::new();
    let mut total = 0;
    let mut open = vec![name.clone()];
    while let Some(path) = open.pop() {
        if files.contains_key(&path) {
            continue;
        }
        // What cannot be read is told where it is referred to.
        let Ok(found) = fs::canonicalize(folder.join(&path)) else { continue };
        if !found.starts_with(&folder) || !found.is_file() {
            continue;
        }
        let text = read_text(&found)?;
        total += text.len();
        if total > MAX_TOTAL_BYTES || files.len() >= MAX_FILES {
            bail!("it consists of more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes");
        }
        open.extend(wsdl::references(&path, &text));
        files.insert(path, text);
    }
    Ok((name, files))
}

fn folder_of(file: &Path) -> anyhow::Result<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(folder).with_context(|| format!("cannot read the folder {}", folder.display()))
}

fn name_of(file: &Path) -> anyhow::Result<&str> {
    file.file_name().and_then(|name| name.to_str()).context("expected a file name in UTF-8")
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    if size > MAX_DOCUMENT_BYTES as u64 {
        bail!("expected at most {MAX_DOCUMENT_BYTES} bytes");
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Reads a description and the files beside and below it that it refers to.
fn load(file: &Path, parts: &mut BTreeSet<PathBuf>) -> anyhow::Result<Documents> {
    let folder = folder_of(file)?;
    let name = name_of(file)?;
    let text = read(file)?;
    let mut total = text.len();
    let root = read_document(&text)?;
    let mut others: BTreeMap<String, Value> = BTreeMap::new();
    let mut open: Vec<String> = file_references(&root).into_iter().filter_map(|path| join(name, path)).collect();
    while let Some(path) = open.pop() {
        if path == name || others.contains_key(&path) {
            continue;
        }
        // What cannot be read is told where it is referred to.
        let Ok(found) = fs::canonicalize(folder.join(&path)) else { continue };
        if !found.starts_with(&folder) || !found.is_file() {
            continue;
        }
        let text = read(&found)?;
        total += text.len();
        if total > MAX_TOTAL_BYTES || others.len() >= MAX_FILES {
            bail!("it consists of more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes");
        }
        let document = read_document(&text).with_context(|| path.clone())?;
        open.extend(file_references(&document).into_iter().filter_map(|other| join(&path, other)));
        parts.insert(found);
        others.insert(path, document);
    }
    Ok(Documents::with_files(name, root, others))
}

/// The file itself, or the definitions in a folder, in the order of their names.
fn definition_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = || format!("cannot read the folder {}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        let is_taken = |name| matches!(name, "json" | "yaml" | "yml" | "wsdl") || SCHEMA_EXTENSIONS.contains(&name);
        if file.is_file() && extension.is_some_and(is_taken) {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("there is no .json, .yaml, .yml, .graphql or .wsdl file in {}", path.display());
    }
    files.sort();
    Ok(files)
}
