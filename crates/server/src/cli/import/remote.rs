//! `definitions import URL`: a running service fetches what is there, under its egress rules.

use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use http::Method;
use integration_engine::import::ImportReport;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{ImportArguments, NOT_STORED, Row};
use crate::cli::client::Client;
use crate::cli::definitions::{DEFINITIONS, expect_success};
use crate::config::Environment;

/// What is at a URL.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Openapi,
    /// An endpoint that allows introspection.
    Graphql,
    Wsdl,
}

impl Format {
    fn of(url: &str) -> Self {
        let url = url.to_ascii_lowercase();
        if url.ends_with("wsdl") {
            Self::Wsdl
        } else if url.trim_end_matches('/').ends_with("graphql") {
            Self::Graphql
        } else {
            Self::Openapi
        }
    }
}

pub(super) fn url_of(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"))
}

pub(super) fn import(
    url: &str,
    arguments: &ImportArguments,
    client: &Client,
    environment: &Environment,
) -> anyhow::Result<(Row, ImportReport)> {
    let format = arguments.format.unwrap_or_else(|| Format::of(url));
    let (name, body) = match format {
        Format::Graphql => ("graphql", json!({"endpoint": url, "headers": headers(&arguments.header, environment)?})),
        Format::Openapi => ("openapi", json!({ "url": url })),
        Format::Wsdl => ("wsdl", json!({ "url": url })),
    };
    anyhow::ensure!(
        arguments.header.is_empty() || matches!(format, Format::Graphql),
        "--header is for GraphQL endpoints: other documents are fetched without a credential"
    );
    let path = format!("/api/v1/imports/{name}?{}", query(arguments));
    let answer = client.send(Method::POST, &path, Some(&body))?;
    expect_success(&answer)?;
    let answer = answer.json()?;
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let report = answer.get("report").cloned().unwrap_or_default();
    let report: ImportReport = serde_json::from_value(report).context("the service told no report")?;
    let (id, version) = (text("/definitionId"), text("/version"));
    let auth_type = match text("/definition/authType") {
        of_dry_run if !of_dry_run.is_empty() => of_dry_run,
        _ => {
            let stored = client.send(Method::GET, &format!("{DEFINITIONS}/{id}/versions/{version}"), None)?.json()?;
            stored.get("authType").and_then(Value::as_str).unwrap_or_default().to_owned()
        }
    };
    let status = Some(text("/status")).filter(|status| !status.is_empty());
    let row = [
        url.to_owned(),
        id,
        version,
        status.unwrap_or_else(|| NOT_STORED.to_owned()),
        auth_type,
        report.method_count.to_string(),
        report.skipped_count.to_string(),
        (report.findings.len() + report.further_findings).to_string(),
    ];
    Ok((row, report))
}

fn query(arguments: &ImportArguments) -> String {
    let options = arguments.description.options();
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [
        ("dryRun", arguments.dry_run.then(|| "true".to_owned())),
        ("publish", arguments.publish.then(|| "true".to_owned())),
        ("id", options.id.map(|id| id.to_string())),
        ("name", options.name),
        ("version", options.version.map(|version| version.to_string())),
        ("server", options.server),
        ("clientId", options.client_id),
    ] {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    query.finish()
}

/// Headers by name, their values out of the environment.
fn headers(given: &[String], environment: &Environment) -> anyhow::Result<Map<String, Value>> {
    let header = |text: &String| {
        let (name, variable) = text.split_once('=').context("expected --header NAME=VARIABLE")?;
        let value = environment.get(variable).with_context(|| format!("the variable {variable} is not set"))?;
        Ok((name.to_owned(), value.into()))
    };
    given.iter().map(header).collect()
}
