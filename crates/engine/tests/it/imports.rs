//! Descriptions of other formats as definitions: what becomes of them, and of real ones.

use std::path::Path;

use integration_engine::adapter::Adapters;
use integration_engine::import::openapi::{Documents, translate};
use integration_engine::import::{FindingKind, ImportOptions, Imported, MAX_DEFINITION_BYTES, read_document};
use integration_engine::registry::check_definition;

fn import_file(path: &Path) -> Imported {
    let document = read_document(&std::fs::read(path).expect("a file")).expect("a document");
    let options = ImportOptions { client_id: Some("client".to_owned()), ..ImportOptions::default() };
    translate(&Documents::single(document), &options, None, &Adapters::built_in(), &mut |_, _| {})
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Larger public documents, where `INTEGRATION_SPECS` names a folder of them.
#[test]
fn public_documents_become_definitions_that_can_be_published() {
    let Ok(folder) = std::env::var("INTEGRATION_SPECS") else {
        eprintln!("INTEGRATION_SPECS names no folder: public documents are passed over");
        return;
    };
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !matches!(extension, "json" | "yaml" | "yml") || file.to_string_lossy().contains("webhook-example") {
            continue;
        }
        let started = std::time::Instant::now();
        let Imported { definition, report } = import_file(&file);
        let translated = started.elapsed();
        let size = serde_json::to_vec(&definition).expect("JSON").len();
        println!(
            "{:30} {:8} {:5} ops {:5} methods {:3} skipped {:5} findings {:>9} bytes {:?} {:?} {:?} {}",
            file.file_name().unwrap().to_string_lossy(),
            report.format,
            report.operation_count,
            report.method_count,
            report.skipped_count,
            report.findings.len() + report.further_findings,
            size,
            translated,
            definition.auth_type,
            definition.default_config,
            definition.methods.iter().filter(|m| m.operation.get("pagination").is_some()).count()
        );
        if std::env::var("SHOW").is_ok() {
            for f in report.findings.iter().filter(|f| f.kind != FindingKind::Note || f.operation.is_none()).take(60) {
                println!("   {:?} {:?} {}", f.kind, f.operation, f.message);
            }
        }
        assert!(size <= MAX_DEFINITION_BYTES);
        assert_eq!(check_definition(&definition, &Adapters::built_in()), []);
        assert_eq!(report.method_count + report.skipped_count, report.operation_count, "{}", file.display());
    }
}
