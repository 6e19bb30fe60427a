//! `call INSTANCE METHOD`: executes a method on a running service.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::client::{Client, ServiceArguments, encode_segment};
use super::content;
use super::terminal::say;
use crate::config::{Environment, read_document};

#[derive(Debug, Args)]
pub(super) struct CallArguments {
    /// The instance's id.
    instance: String,
    /// The method's name.
    method: String,
    /// The params: JSON, @FILE (JSON or YAML), or - for standard input.
    #[arg(long, default_value = "{}", allow_hyphen_values = true)]
    params: String,
    /// Return at once with the execution's id.
    #[arg(long = "async", conflicts_with = "dry_run")]
    asynchronous: bool,
    /// Show the request that would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Send this file as the method's content, of any size; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["asynchronous", "dry_run"])]
    content: Option<PathBuf>,
    /// Write the method's content to this file, of any size; - is standard output.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["asynchronous", "dry_run", "content"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArguments,
}

pub(super) fn run(arguments: CallArguments, environment: &Environment) -> anyhow::Result<()> {
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    if arguments.params == "-" && arguments.content.as_ref().is_some_and(is_stdin) {
        bail!("the params and the content cannot both come from standard input");
    }
    let params = read_params(&arguments.params)?;
    let mut path = format!("/execute/{}/{}", encode_segment(&arguments.instance), encode_segment(&arguments.method));
    if arguments.dry_run {
        path.push_str("?dryRun=true");
    }
    let mut client = Client::new(&arguments.service, environment)?;
    if arguments.asynchronous {
        client.set_header(HeaderName::from_static("prefer"), HeaderValue::from_static("respond-async"));
    }
    let answer = match (&arguments.content, &arguments.output) {
        (Some(content), _) => content::send(&client, &path, &params, content)?,
        (None, Some(output)) => content::take(&client, &path, &json!({ "params": params }), output)?,
        (None, None) => client.send(Method::POST, &path, Some(&json!({ "params": params })))?,
    };
    // Content that went to standard output stands there alone.
    if !answer.text().is_empty() {
        say(&answer.pretty());
    }
    if !answer.status.is_success() {
        bail!("the call failed: HTTP {}", answer.status.as_u16());
    }
    Ok(())
}

fn read_params(argument: &str) -> anyhow::Result<Value> {
    if let Some(file) = argument.strip_prefix('@') {
        return Ok(read_document(file.as_ref())?);
    }
    let text = if argument == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the params from standard input")?;
        text
    } else {
        argument.to_owned()
    };
    serde_json::from_str(&text).context("expected --params to be JSON")
}
