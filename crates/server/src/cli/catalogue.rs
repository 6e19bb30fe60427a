//! `catalogue …`: shows the definitions inside this binary, and installs them on a running
//! service, which takes them from its own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::client::{Client, ServiceArguments, encode_segment};
use super::terminal::say;
use crate::catalogue::{entries, find};
use crate::config::Environment;

#[derive(Debug, Subcommand)]
pub(super) enum CatalogueCommand {
    /// List the definitions that come with this binary.
    List,
    /// Print a definition.
    Show { id: String },
    /// Install definitions on a running service, as drafts.
    Add(Box<AddArguments>),
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// The ids of definitions, or `all`.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Publish them, so that instances can be made.
    #[arg(long)]
    publish: bool,
    /// Another id for the one definition.
    #[arg(long = "as", value_name = "ID")]
    own_id: Option<String>,
    /// The id of the OAuth client of the one definition.
    #[arg(long)]
    client_id: Option<String>,
    /// A file that holds the client's secret; `-` for standard input.
    #[arg(long, value_name = "FILE", requires = "client_id")]
    client_secret_file: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArguments,
}

pub(super) fn run(command: CatalogueCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        CatalogueCommand::List => list(),
        CatalogueCommand::Show { id } => show(&id)?,
        CatalogueCommand::Add(arguments) => add(&arguments, environment)?,
    }
    Ok(())
}

fn list() {
    let width = entries().iter().map(|entry| entry.spec.id.as_str().len()).max().unwrap_or_default();
    for entry in entries() {
        let spec = &entry.spec;
        let methods = match spec.methods.len() {
            0 => "webhook".to_owned(),
            count => format!("{count} methods"),
        };
        say(&format!("{:width$}  {}  {methods:>10}  {}", spec.id.as_str(), spec.version, spec.description));
    }
}

fn show(id: &str) -> anyhow::Result<()> {
    let Some(entry) = find(id) else { bail!("{}", unknown(id)) };
    say(entry.text.trim_end());
    Ok(())
}

fn unknown(id: &str) -> String {
    format!("the catalogue has no definition {id:?}; `catalogue list` shows what it has")
}

fn add(arguments: &AddArguments, environment: &Environment) -> anyhow::Result<()> {
    let ids: Vec<&str> = match arguments.ids.as_slice() {
        [one] if one == "all" => entries().iter().map(|entry| entry.spec.id.as_str()).collect(),
        ids => ids.iter().map(String::as_str).collect(),
    };
    let body = installation(arguments)?;
    if !body.is_empty() && ids.len() != 1 {
        bail!("--as, --client-id and --client-secret-file are of one definition: name only that");
    }
    let client = Client::new(&arguments.service, environment)?;
    let body = Value::Object(body);
    for id in ids {
        let path = format!("/api/v1/catalogue/{}/install?publish={}", encode_segment(id), arguments.publish);
        let answer = client.send(Method::POST, &path, Some(&body))?;
        if !answer.status.is_success() {
            bail!("{id}: {}", answer.explain());
        }
        let document = answer.json()?;
        let field = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let how = if answer.status == StatusCode::CREATED { "installed" } else { "there already" };
        say(&format!("{} {}: {how}, {}", field("id"), field("version"), field("status")));
    }
    Ok(())
}

/// What the service is told besides the definition's id.
fn installation(arguments: &AddArguments) -> anyhow::Result<Map<String, Value>> {
    let secret = arguments.client_secret_file.as_deref().map(read_secret).transpose()?;
    let fields =
        [("id", arguments.own_id.clone()), ("clientId", arguments.client_id.clone()), ("clientSecret", secret)];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    Ok(given.collect())
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read the secret from standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
