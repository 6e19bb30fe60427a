//! `definitions …`: checks files here, and imports, publishes and lists on a running
//! service.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use integration_engine::adapter::{AdapterSettings, Adapters};
use integration_engine::registry::check_definition;
use serde_json::Value;

use super::client::{Answer, Client, ServiceArguments, encode_segment};
use super::terminal::{complain, say};
use crate::config::{Environment, read_definition, read_document};

#[derive(Debug, Subcommand)]
pub(super) enum DefinitionsCommand {
    /// Check definition files (JSON or YAML) without a running service.
    Validate {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Send a definition file, or all in a folder, to a running service as drafts.
    Import(ImportArguments),
    /// Publish a version.
    Publish(PublishArguments),
    /// List the definitions.
    List(ServiceArguments),
}

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// A definition (JSON or YAML), or a folder of them.
    path: PathBuf,
    #[command(flatten)]
    service: ServiceArguments,
}

#[derive(Debug, Args)]
pub(super) struct PublishArguments {
    id: String,
    version: String,
    #[command(flatten)]
    service: ServiceArguments,
}

const DEFINITIONS: &str = "/api/v1/integration-definitions";

pub(super) fn run(command: DefinitionsCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        DefinitionsCommand::Validate { files } => validate(&files),
        DefinitionsCommand::Import(arguments) => import(&arguments, environment),
        DefinitionsCommand::Publish(arguments) => publish(&arguments, environment),
        DefinitionsCommand::List(arguments) => list(&arguments, environment),
    }
}

/// Checks each file as publishing would.
fn validate(files: &[PathBuf]) -> anyhow::Result<()> {
    let adapters = Adapters::built_in(&AdapterSettings::default());
    let mut faulty = 0;
    for file in files {
        let shown = file.display();
        let problems = match read_definition(file) {
            Ok(spec) => {
                let problems = check_definition(&spec, &adapters);
                if problems.is_empty() {
                    say(&format!("{shown}: {} {} is sound, {} methods", spec.id, spec.version, spec.methods.len()));
                    continue;
                }
                problems.iter().map(|problem| format!("{shown}: {problem}")).collect()
            }
            Err(errors) => vec![errors.to_string()],
        };
        faulty += 1;
        problems.iter().for_each(|problem| say(problem));
    }
    if faulty > 0 {
        bail!("{faulty} of {} files are faulty", files.len());
    }
    Ok(())
}

fn import(arguments: &ImportArguments, environment: &Environment) -> anyhow::Result<()> {
    let client = Client::new(&arguments.service, environment)?;
    let files = definition_files(&arguments.path)?;
    let mut failed = 0;
    for file in &files {
        match import_file(&client, file) {
            Ok(outcome) => say(&format!("{}: {outcome}", file.display())),
            Err(error) => {
                failed += 1;
                complain(&format!("{}: {error:#}", file.display()));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} definitions were not imported", files.len());
    }
    Ok(())
}

/// Makes the definition, or a version of one that is there.
fn import_file(client: &Client, file: &Path) -> anyhow::Result<String> {
    let document = read_document(file)?;
    let name = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    let (id, version) = (name("id"), name("version"));
    let mut answer = client.send(Method::POST, DEFINITIONS, Some(&document))?;
    if answer.status == StatusCode::CONFLICT {
        let path = format!("{DEFINITIONS}/{}/versions", encode_segment(&id));
        answer = client.send(Method::POST, &path, Some(&document))?;
    }
    expect_success(&answer)?;
    Ok(format!("{id} {version} imported as a draft"))
}

/// The file itself, or the definitions in a folder, in the order of their names.
fn definition_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = || format!("cannot read the folder {}", path.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if file.is_file() && matches!(extension, Some("json" | "yaml" | "yml")) {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("there is no .json, .yaml or .yml file in {}", path.display());
    }
    files.sort();
    Ok(files)
}

fn publish(arguments: &PublishArguments, environment: &Environment) -> anyhow::Result<()> {
    let client = Client::new(&arguments.service, environment)?;
    let (id, version) = (encode_segment(&arguments.id), encode_segment(&arguments.version));
    let answer = client.send(Method::POST, &format!("{DEFINITIONS}/{id}/versions/{version}/publish"), None)?;
    expect_success(&answer)?;
    say(&format!("{} {} is published", arguments.id, arguments.version));
    Ok(())
}

fn list(arguments: &ServiceArguments, environment: &Environment) -> anyhow::Result<()> {
    let client = Client::new(arguments, environment)?;
    let mut page = 1_u64;
    loop {
        let answer = client.send(Method::GET, &format!("{DEFINITIONS}?limit=200&page={page}"), None)?;
        expect_success(&answer)?;
        let document = answer.json()?;
        for item in document.get("items").and_then(Value::as_array).into_iter().flatten() {
            let field = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            say(&format!("{}\t{}\t{}\t{}", field("id"), field("version"), field("status"), field("name")));
        }
        let pages = document.pointer("/pagination/pages").and_then(Value::as_u64).unwrap_or(1);
        if page >= pages {
            return Ok(());
        }
        page += 1;
    }
}

fn expect_success(answer: &Answer) -> anyhow::Result<()> {
    if answer.status.is_success() {
        return Ok(());
    }
    bail!("{}", answer.explain());
}
