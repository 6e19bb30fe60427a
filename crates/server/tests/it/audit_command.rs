//! `audit verify` and `audit export` beside a running service.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::keys::{command, run};
use crate::service::{TestService, definition};

async fn with_history() -> TestService {
    let service = TestService::start().await;
    service.instance_of(&definition("open", &json!({})), "open").await;
    for _ in 0..3 {
        service.execute("open", "call", &json!({})).await;
    }
    service
}

fn verify(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, &[&["audit", "verify"], arguments].concat()).output().unwrap()
}

fn head(folder: &Path) -> String {
    let said = run(&mut command(folder, &["audit", "verify"]));
    said.lines().find_map(|line| line.strip_prefix("head ")).expect("a head").to_owned()
}

async fn tamper(service: &TestService, statement: &'static str) {
    use sqlx::Connection as _;
    let url = format!("sqlite://{}", service.folder.path().join("data/integration.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let tables = "select name from sqlite_schema where name like 'audit_trail_p%' order by name limit 1";
    let table: String = sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap();
    let statement = statement.replace("audit", &table);
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_audit_has_a_head_that_later_checks_are_held_to() {
    let service = with_history().await;
    let folder = service.folder.path();
    let kept = head(folder);
    service.execute("open", "call", &json!({})).await;
    assert_ne!(head(folder), kept);
    assert!(verify(folder, &["--expect-head", &kept]).status.success());

    let other = format!("{}:{}", kept.split_once(':').unwrap().0, "0".repeat(64));
    let refused = verify(folder, &["--expect-head", &other]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("not whole") && said.contains("the expected head"), "{said}");
    assert_eq!(verify(folder, &["--expect-head", "7"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_is_named_with_its_time() {
    let service = with_history().await;
    tamper(&service, "update audit set principal = 'nobody' where sequence = 2").await;
    let refused = verify(service.folder.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let entry = &service.items("/api/v1/audit?principal=nobody").await[0];
    let time = entry["timestamp"].as_str().unwrap();
    assert!(said.contains(&format!("row 2 of {time}, changed: ")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_export_passes_the_filters() {
    let service = with_history().await;
    let export = |arguments: &[&str]| -> Vec<Value> {
        let text = run(&mut command(service.folder.path(), &[&["audit", "export"], arguments].concat()));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = export(&[]);
    let sequences: Vec<_> = all.iter().map(|entry| entry["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, (1..=i64::try_from(all.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(export(&["--action", "method.executed", "--instance", "open"]).len(), 3);
    assert_eq!(export(&["--action", "definition.created,definition.published"]).len(), 2);
    assert!(export(&["--principal", "nobody"]).is_empty());
    assert!(export(&["--until", "2020-01-01T00:00:00Z"]).is_empty());
    let refused = command(service.folder.path(), &["audit", "export", "--from", "yesterday"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
