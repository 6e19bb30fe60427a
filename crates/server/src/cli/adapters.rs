//! `adapters …`: shows the adapters inside this binary, and holds one, with a definition for it,
//! to the conformance suite.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use integration_engine::adapter::{AdapterSettings, Adapters};
use integration_engine::conformance::{Checked, Report, Sample, Verdict, check};
use integration_engine::network::EgressPolicy;
use integration_model::Problem;
use serde_json::Value;

use super::ConfigArguments;
use super::terminal::{say, table};
use crate::config::{Environment, read_document, read_with_references};

#[derive(Debug, Subcommand)]
pub(super) enum AdaptersCommand {
    /// List the adapters of this binary.
    List,
    /// Check an adapter, and a definition for it, against a real system: that calls work, and
    /// that everything that goes wrong is told as what it is.
    Check(CheckArguments),
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Describes the system and sample calls of it (YAML or JSON).
    file: PathBuf,
    /// Tell of each check what it holds the adapter to.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(command: &AdaptersCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        AdaptersCommand::List => {
            list();
            Ok(())
        }
        AdaptersCommand::Check(arguments) => run_check(arguments, environment),
    }
}

fn list() {
    let rows: Vec<[String; 3]> = Adapters::built_in()
        .iter()
        .map(|adapter| adapter.describe())
        .map(|described| [described.adapter_type, described.version, described.description].map(str::to_owned))
        .collect();
    say(&table(["TYPE", "VERSION", "WHAT IT SPEAKS"], &rows));
}

fn run_check(arguments: &CheckArguments, environment: &Environment) -> anyhow::Result<()> {
    let config = arguments.config.load(environment)?.config;
    let sample = read_sample(&arguments.file, environment)?;
    let settings = AdapterSettings {
        sqlite_folder: config.adapters.sqlite.folder.clone(),
        storage_folder: config.adapters.storage.folder.clone(),
    };
    let adapters = Adapters::with(&settings);
    let wanted = &sample.definition.adapter_type;
    let adapter = adapters.get(wanted).ok_or_else(|| {
        anyhow!("there is no adapter {wanted:?}; known: {}", adapters.types().collect::<Vec<_>>().join(", "))
    })?;
    let allowed = config.http.egress_allow.iter().map(String::as_str);
    let egress = EgressPolicy::parse(allowed).map_err(|faults| {
        anyhow!("http.egressAllow: {}", faults.first().map(ToString::to_string).unwrap_or_default())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start a runtime")?;
    let report = runtime.block_on(check(Arc::clone(adapter), sample, egress))?;
    say(&shown(&report, arguments.explain));
    let failed = report.failures().count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", report.checks.len());
    }
    Ok(())
}

/// Reads a sample; a definition that is a text is the path of a file beside this one.
fn read_sample(file: &Path, environment: &Environment) -> anyhow::Result<Sample> {
    let sample = read_with_references(file, environment, |mut document| {
        if let Some(path) = document.get("definition").and_then(Value::as_str) {
            let path = file.parent().unwrap_or(Path::new("")).join(path);
            let definition = read_document(&path).map_err(|fault| Problem::new("/definition", fault.to_string()))?;
            document["definition"] = definition;
        }
        Sample::from_json(document)
    })?;
    Ok(sample)
}

/// A table of the checks, and how many came out how.
fn shown(report: &Report, explain: bool) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for Checked { name, claim, verdict } in &report.checks {
        let claim = explain.then(|| (*claim).to_owned());
        let mut details = claim.into_iter().chain(verdict.details().iter().cloned());
        rows.push([(*name).to_owned(), verdict.as_str().to_owned(), details.next().unwrap_or_default()]);
        rows.extend(details.map(|detail| [String::new(), String::new(), detail]));
    }
    let count = |counted: fn(&Verdict) -> bool| report.checks.iter().filter(|check| counted(&check.verdict)).count();
    format!(
        "{}\n\n{}: {} passed, {} failed, {} skipped",
        table(["CHECK", "RESULT", ""], &rows),
        report.adapter_type,
        count(|verdict| *verdict == Verdict::Passed),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped(_))),
    )
}
