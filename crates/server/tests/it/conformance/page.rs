//! The page of adapters: which checks are made of each, out of the snapshots of the reports.

use std::collections::BTreeMap;
use std::path::Path;

use integration_engine::adapter::Adapters;
use integration_engine::conformance::claims;

/// The columns of the table: the snapshots by their names, and what each is called.
const COLUMNS: [(&str, &str); 12] = [
    ("http", "http"),
    ("graphql", "graphql"),
    ("soap", "soap"),
    ("postgresql", "postgresql"),
    ("mysql", "mysql"),
    ("sqlite", "sqlite"),
    ("redis", "redis"),
    ("email", "email"),
    ("storage_s3", "storage (S3)"),
    ("storage_azure", "storage (Azure)"),
    ("storage_folder", "storage (folder)"),
    ("webhook", "webhook"),
];
const BEGIN: &str = "<!-- The table is made by a test. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// What came of each check, by its name.
fn report(name: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/conformance/snapshots");
    let text = std::fs::read_to_string(folder.join(format!("it__conformance__{name}.snap"))).unwrap();
    let (_, content) = text.split_once("\n---\n").unwrap();
    content
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(check, came)| (check.into(), came.into()))
        .collect()
}

fn table() -> String {
    let reports = COLUMNS.map(|(name, _)| report(name));
    let mut reasons: Vec<String> = Vec::new();
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut lines = row(std::iter::once("check").chain(COLUMNS.map(|(_, column)| column)).map(str::to_owned).collect());
    lines.push_str(&row(vec!["---".to_owned(); COLUMNS.len() + 1]));
    for (name, _) in claims() {
        let cells = reports.iter().map(|report| match report[name].as_str() {
            "passed" => "✓".to_owned(),
            reason => {
                let known = reasons.iter().position(|known| known == reason).unwrap_or_else(|| {
                    reasons.push(reason.to_owned());
                    reasons.len() - 1
                });
                format!("{}", known + 1)
            }
        });
        lines.push_str(&row(std::iter::once(name.to_owned()).chain(cells).collect()));
    }
    lines.push_str("\nA number says why a check is not made: ");
    let reasons = reasons.iter().enumerate().map(|(index, reason)| format!("({}) {reason}", index + 1));
    lines.push_str(&reasons.collect::<Vec<_>>().join("; "));
    lines.push_str(".\n\n");
    for (name, claim) in claims() {
        lines.push_str(&format!("- **{name}.** {claim}\n"));
    }
    lines
}

#[test]
fn the_page_of_adapters_is_that_of_the_reports() {
    for adapter_type in Adapters::built_in().types() {
        let is_checked = COLUMNS.iter().any(|(name, _)| name.split('_').next() == Some(adapter_type));
        assert!(is_checked, "the adapter {adapter_type} is not held to the conformance suite");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/adapters.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let made = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    #[expect(clippy::disallowed_methods, reason = "says, as for snapshots, that the page is to be written anew")]
    let update = std::env::var_os("INSTA_UPDATE");
    if update.is_some_and(|update| update == "always") {
        std::fs::write(&file, &made).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page == made, "docs/adapters.md is stale: run this test with INSTA_UPDATE=always");
}
