//! `definitions …`: checks files here, and publishes and lists on a running service.
//! `import` is a module of its own.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use integration_engine::adapter::Adapters;
use integration_engine::registry::check_definition;
use serde_json::Value;

use super::client::{Answer, Client, ServiceArguments, encode_segment};
use super::import;
use super::terminal::say;
use crate::config::{Environment, read_definition};

#[derive(Debug, Subcommand)]
pub(super) enum DefinitionsCommand {
    /// Check definition files (JSON or YAML) without a running service.
    Validate {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Send definitions, and definitions made of OpenAPI and WSDL descriptions and GraphQL schemas,
    /// to a running service as drafts.
    Import(import::ImportArguments),
    /// Publish a version.
    Publish(PublishArguments),
    /// List the definitions.
    List(ServiceArguments),
}

#[derive(Debug, Args)]
pub(super) struct PublishArguments {
    id: String,
    version: String,
    #[command(flatten)]
    service: ServiceArguments,
}

pub(super) const DEFINITIONS: &str = "/api/v1/integration-definitions";

pub(super) fn run(command: DefinitionsCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        DefinitionsCommand::Validate { files } => validate(&files),
        DefinitionsCommand::Import(arguments) => import::run(&arguments, environment),
        DefinitionsCommand::Publish(arguments) => publish(&arguments, environment),
        DefinitionsCommand::List(arguments) => list(&arguments, environment),
    }
}

/// Checks each file as publishing would.
fn validate(files: &[PathBuf]) -> anyhow::Result<()> {
    let adapters = Adapters::built_in();
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

pub(super) fn expect_success(answer: &Answer) -> anyhow::Result<()> {
    if answer.status.is_success() {
        return Ok(());
    }
    bail!("{}", answer.explain());
}
