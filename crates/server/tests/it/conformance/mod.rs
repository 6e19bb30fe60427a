//! The conformance suite over all adapters of the service, each with its real counterpart. What
//! it found of each is a snapshot, and all of them together a page for readers.

mod command;
mod databases;
mod page;
mod servers;
mod systems;

use integration_engine::adapter::{AdapterSettings, Adapters};
use integration_engine::conformance::{Report, Sample, Verdict, check};
use integration_engine::network::EgressPolicy;
use serde_json::Value;

/// Holds an adapter to the suite, and what was checked to what was checked before.
async fn conforms(name: &str, sample: Value) {
    conforms_with(name, &AdapterSettings::default(), sample).await;
}

async fn conforms_with(name: &str, settings: &AdapterSettings, sample: Value) {
    let report = report(settings, sample).await;
    assert!(report.is_passed(), "{name}\n{report}");
    insta::assert_snapshot!(name, outline(&report));
}

async fn report(settings: &AdapterSettings, sample: Value) -> Report {
    let sample = Sample::from_json(sample).map_err(|problem| problem.to_string()).unwrap();
    let adapter = Adapters::with(settings).get(&sample.definition.adapter_type).unwrap().clone();
    check(adapter, sample, EgressPolicy::parse(["127.0.0.0/8"]).unwrap()).await.unwrap()
}

/// A line for each check.
fn outline(report: &Report) -> String {
    let line = |checked: &integration_engine::conformance::Checked| match &checked.verdict {
        Verdict::Skipped(why) => format!("{}: {why}", checked.name),
        verdict => format!("{}: {}", checked.name, verdict.as_str()),
    };
    report.checks.iter().map(line).collect::<Vec<_>>().join("\n")
}
