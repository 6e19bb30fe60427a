//! PostgreSQL, MariaDB, SQLite.

use integration_engine::adapter::AdapterSettings;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{conforms, conforms_with};
use crate::databases::{definition, mysql, plain, postgresql, unique};

/// What is asked of every kind of database; `label` makes a text of the param `n`.
fn sample(kind: &str, auth_type: &str, label: &str) -> Value {
    let row = json!({"statement": format!("select {label} as label"), "params": {"n": "int"}, "result": "first"});
    let add = json!({"mode": "execute", "statement": "insert into notes values (:note)", "params": {"note": "text"}});
    let count = json!({"statement": "select count(*) as notes from notes", "result": "scalar"});
    let all = json!({"statement": "select body from pages", "maxBytes": 1024, "onLimit": "fail"});
    let methods = [plain("row", &row), plain("add", &add), plain("count", &count), plain("all", &all)];
    json!({
        "definition": definition(kind, auth_type, &methods),
        "calls": [
            {"method": "row", "params": {"n": 7}, "data": {"label": "row 7"}},
            {"method": "row", "params": {"n": 8}, "data": {"label": "row 8"}},
        ],
        "write": {"method": "add", "params": {"note": "note {n}"}, "witness": {"method": "count"}},
        "invalidParams": [{"params": {"n": "seven"}, "pointer": "/params/n"}, {"params": {"n": [1]}, "pointer": "/params/n"}],
        "tooLarge": {"method": "all", "params": {}},
    })
}

const SETUP: [&str; 3] = [
    "create table notes (note varchar(100))",
    "create table pages (body text)",
    "insert into pages select repeat('x', 2000)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql() {
    let setup = format!("{}; grant all on all tables in schema public to public", SETUP.join("; "));
    let nothing = plain("nothing", &json!({"statement": "select 1"}));
    let Some(mut rig) = postgresql::Rig::start(&setup, &[nothing]).await else { return };
    rig.admin.execute(postgresql::ROLE_WITH_PASSWORD).await.unwrap();
    let shut_out = unique("shut_out");
    let role = format!("create role {shut_out} login connection limit 0");
    rig.admin.execute(AssertSqlSafe(role)).await.unwrap();

    let mut sample = sample("postgresql", "basic", "'row ' || (:n)::int4");
    sample["config"] = rig.config.clone();
    sample["config"].as_object_mut().unwrap().remove("user");
    let credential =
        |user: &str, password: &str| json!({"type": "basic", "data": {"username": user, "password": password}});
    sample["credential"] = credential("test_with_password", "right");
    sample["refusedCredential"] = json!({"credential": credential("test_with_password", "wrong-secret")});
    sample["limited"] =
        json!({"credential": credential(&shut_out, "any-secret"), "code": "UPSTREAM_ERROR", "retryable": true});
    conforms("postgresql", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql() {
    let (user, hurried) = (unique("user"), unique("hurried"));
    let make = |user: &str, more: &str| {
        [
            format!("create user {user}@'%' identified by 'the-right-secret' {more}"),
            format!("grant all on *.* to {user}@'%'"),
        ]
    };
    let users = [make(&user, ""), make(&hurried, "with max_queries_per_hour 5")].concat();
    let setup: Vec<&str> = SETUP.into_iter().chain(users.iter().map(String::as_str)).collect();
    let Some(rig) = mysql::Rig::start(&setup, &[]).await else { return };

    let mut sample = sample("mysql", "basic", "concat('row ', :n)");
    sample["config"] = rig.config.clone();
    let credential =
        |user: &str, password: &str| json!({"type": "basic", "data": {"username": user, "password": password}});
    sample["credential"] = credential(&user, "the-right-secret");
    sample["refusedCredential"] = json!({"credential": credential(&user, "the-wrong-secret")});
    sample["limited"] = json!({
        "credential": credential(&hurried, "the-right-secret"), "withinCalls": 10,
        "code": "UPSTREAM_ERROR", "retryable": true,
    });
    conforms("mysql", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let setup = "create table notes (note text); create table pages (body text); \
                 insert into pages values (hex(zeroblob(1000)))";
    rusqlite::Connection::open(folder.path().join("notes.db")).unwrap().execute_batch(setup).unwrap();
    let mut sample = sample("sqlite", "none", "'row ' || :n");
    sample["config"] = json!({"file": "notes.db", "access": "read_write"});
    let settings = AdapterSettings { sqlite_folder: Some(folder.path().to_owned()), ..AdapterSettings::default() };
    conforms_with("sqlite", &settings, sample).await;
}
