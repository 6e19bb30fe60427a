//! SQLite, in files of the test's own.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{configure, connect, data, definition, error, method, plain};
use crate::service::TestService;

/// A service with an instance `db` of a file below a folder that the operator named.
struct Rig {
    service: TestService,
    folder: TempDir,
}

impl Rig {
    async fn start(setup: &str, methods: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("shop")).unwrap();
        let file = folder.path().join("shop/pets.db");
        rusqlite::Connection::open(&file).unwrap().execute_batch(setup).unwrap();
        let settings = format!("adapters: {{sqlite: {{folder: {}}}}}", folder.path().display());
        let service = TestService::start_configured(&[("integration_service.yaml", &settings)], &[]).await;
        let config = json!({"file": "shop/pets.db", "access": "read_write"});
        connect(&service, &definition("sqlite", "none", methods), &config, None).await;
        Self { service, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shop/pets.db")
    }

    async fn call(&self, method: &str, params: &Value) -> crate::client::Answer {
        self.service.execute("db", method, params).await
    }
}

#[tokio::test]
async fn values_come_back_without_loss() {
    let echo = json!({
        "statement": "select :i as i, :b as b, :n as n, :f as f, :t as t, :o as o, :y as y, :j as j, :at as at, \
                      9007199254740993 as unsafe, 1e999 as infinite, null as no_value, '' as empty, :absent as absent",
        "params": {"i": "int", "b": "bigint", "n": "numeric", "f": "float", "t": "text", "o": "bool", "y": "bytea",
                   "j": "json", "at": "timestamp", "absent": "text"},
        "result": "first", "jsonColumns": ["j"],
    });
    let rig = Rig::start("", &[plain("echo", &echo)]).await;
    let params = r#"{"i": -7, "b": "9223372036854775807", "n": 12345678901234567890.10, "f": 0.1, "t": "it's ?1 :t é",
        "o": true, "y": "AAH/", "j": {"n": 1.10}, "at": "2030-01-31T10:00:00+02:00"}"#;
    let request = crate::service::json_request("POST", "/execute/db/echo");
    let answer = rig.service.send(request, &format!("{{\"params\": {params}}}")).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains(r#""j":{"n": 1.10}"#), "{text}");
    assert_eq!(
        data(&answer),
        json!({
            "i": -7, "b": "9223372036854775807", "n": "12345678901234567890.10", "f": 0.1, "t": "it's ?1 :t é", "o": 1,
            "y": "AAH/", "j": {"n": 1.1}, "at": "2030-01-31T08:00:00Z", "unsafe": "9007199254740993",
            "infinite": "Infinity", "no_value": null, "empty": "", "absent": null,
        })
    );
}

#[tokio::test]
async fn no_value_becomes_part_of_a_statement() {
    let find = json!({"statement": "select count(*) from secrets where owner = :owner -- :owner", "params": {"owner": "text"}, "result": "scalar"});
    let rig =
        Rig::start("create table secrets (owner text); insert into secrets values ('a')", &[plain("find", &find)])
            .await;
    assert_eq!(data(&rig.call("find", &json!({"owner": "a"})).await), 1);
    for attempt in ["' or '1'='1", "a'; drop table secrets; --", "\" or 1", "?1", "*/ or 1 /*"] {
        assert_eq!(data(&rig.call("find", &json!({"owner": attempt})).await), 0, "{attempt}");
    }
    assert_eq!(data(&rig.call("find", &json!({"owner": "a"})).await), 1);
}

#[tokio::test]
async fn changes_are_made_whole_or_not_at_all() {
    let insert = json!({
        "mode": "execute", "statement": "insert into items values (:id, :name) returning id", "result": "scalar",
        "params": {"id": "int", "name": "text"},
    });
    let batch = json!({
        "mode": "batch", "items": "items", "statement": "insert into items values (:id, :name)",
        "params": {"id": "int", "name": "text"},
    });
    let transfer = json!({
        "mode": "transaction", "params": {"id": "int", "other": "int"},
        "statements": [
            {"statement": "insert into items values (:id, 'first')"},
            {"statement": "select count(*) as n from items", "result": "scalar"},
            {"statement": "insert into items values (:other, 'second')"},
        ],
    });
    let update = json!({"mode": "execute", "statement": "update items set name = upper(name)"});
    let orphan = json!({"mode": "execute", "statement": "insert into children values (99)"});
    let item_schema =
        json!({"items": {"type": "array", "items": {"type": "object", "properties": {"id": {}, "name": {}}}}});
    let methods = [
        plain("insert", &insert),
        method("batch", &batch, &item_schema),
        plain("transfer", &transfer),
        plain("update", &update),
        plain("orphan", &orphan),
        plain("count", &json!({"statement": "select count(*) from items", "result": "scalar"})),
    ];
    let setup = "create table items (id integer primary key, name text not null check (length(name) < 10)); \
                 create table children (item references items)";
    let rig = Rig::start(setup, &methods).await;
    assert_eq!(data(&rig.call("insert", &json!({"id": 1, "name": "a"})).await), 1);
    let items = json!({"items": [{"id": 2, "name": "b"}, {"id": 3, "name": "c"}]});
    assert_eq!(data(&rig.call("batch", &items).await), json!({"affectedRows": 2, "items": 2}));
    let items = json!({"items": [{"id": 4, "name": "d"}, {"id": 2, "name": "b"}]});
    error(&rig.call("batch", &items).await, "CONFLICT");
    assert_eq!(
        data(&rig.call("transfer", &json!({"id": 4, "other": 5})).await),
        json!([{"affectedRows": 1}, 4, {"affectedRows": 1}])
    );
    error(&rig.call("transfer", &json!({"id": 6, "other": 5})).await, "CONFLICT");
    error(&rig.call("orphan", &json!({})).await, "CONFLICT");
    let refused =
        error(&rig.call("insert", &json!({"id": 9, "name": "a-long-secret-value"})).await, "VALIDATION_ERROR");
    assert!(!refused.to_string().contains("a-long-secret-value"), "{refused}");
    assert_eq!(data(&rig.call("update", &json!({})).await), json!({"affectedRows": 5}));
    assert_eq!(data(&rig.call("count", &json!({})).await), 5);
}

#[tokio::test]
async fn nothing_is_changed_but_where_config_and_operation_say_so() {
    let sneaky = json!({"statement": "insert into items values (2) returning id"});
    let insert = json!({"mode": "execute", "statement": "insert into items values (2)"});
    let missing = json!({"statement": "select * from nowhere"});
    let rig = Rig::start(
        "create table items (id int)",
        &[plain("sneaky", &sneaky), plain("insert", &insert), plain("missing", &missing)],
    )
    .await;
    let refused = error(&rig.call("sneaky", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["sqlState"], "25006");
    data(&rig.call("insert", &json!({})).await);
    // Read-only unless the config says otherwise.
    configure(&rig.service, &json!({"file": "shop/pets.db", "access": null})).await;
    let refused = error(&rig.call("insert", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["sqlState"], "25006");
    let refused = error(&rig.call("missing", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["databaseMessage"], "no such table: nowhere");
    let count: i64 = rusqlite::Connection::open(rig.path())
        .unwrap()
        .query_row("select count(*) from items", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn only_files_below_the_operators_folder_are_opened() {
    let methods = [plain("one", &json!({"statement": "select 1", "result": "scalar"}))];
    let rig = Rig::start("", &methods).await;
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.db");
    rusqlite::Connection::open(&secret).unwrap().execute_batch("create table t (a)").unwrap();
    std::os::unix::fs::symlink(&secret, rig.folder.path().join("link.db")).unwrap();
    std::os::unix::fs::symlink(outside.path(), rig.folder.path().join("linked")).unwrap();
    std::fs::write(
        rig.folder.path().join("text.db"),
        "this is no database, but it is long enough to be looked at".repeat(20),
    )
    .unwrap();
    assert_eq!(data(&rig.call("one", &json!({})).await), 1);
    for file in ["link.db", "linked/secret.db", "absent.db"] {
        configure(&rig.service, &json!({"file": file, "access": "read_write"})).await;
        error(&rig.call("one", &json!({})).await, "INSTANCE_NOT_READY");
        let tested = rig.service.post("/api/v1/integration-instances/db/test", &json!({})).await.json();
        assert_eq!(tested["healthy"], false, "{file} {tested}");
    }
    assert!(!rig.folder.path().join("absent.db").exists());
    configure(&rig.service, &json!({"file": "text.db"})).await;
    let tested = rig.service.post("/api/v1/integration-instances/db/test", &json!({})).await.json();
    assert_eq!((&tested["healthy"], &tested["code"]), (&json!(false), &json!("UPSTREAM_ERROR")), "{tested}");
    for file in ["../secret.db", "/etc/passwd", "shop/../../secret.db", "./shop/pets.db", ""] {
        let changed = rig
            .service
            .with_body("PATCH", "/api/v1/integration-instances/db", &json!({"config": {"file": file}}))
            .await;
        assert_eq!(changed.json()["status"], "CONFIG_ERROR", "{file}");
    }
    configure(&rig.service, &json!({"file": "shop/pets.db"})).await;
    let tested = rig.service.post("/api/v1/integration-instances/db/test", &json!({})).await.json();
    assert!(tested["message"].as_str().unwrap().starts_with("SQLite 3"), "{tested}");
}

#[tokio::test]
async fn without_a_folder_nothing_is_opened() {
    let service = TestService::start().await;
    let methods = [plain("one", &json!({"statement": "select 1"}))];
    connect(&service, &definition("sqlite", "none", &methods), &json!({"file": "integration.db"}), None).await;
    let refused = error(&service.execute("db", "one", &json!({})).await, "INSTANCE_NOT_READY");
    assert!(refused["message"].as_str().unwrap().contains("adapters.sqlite.folder"), "{refused}");
}

#[tokio::test]
async fn statements_reach_no_other_file() {
    let service = TestService::start().await;
    for statement in ["attach 'x.db' as x", "pragma writable_schema = 1", "vacuum into 'x.db'", "detach main"] {
        let operation = json!({"mode": "execute", "statement": statement});
        let refused = service
            .post(
                "/api/v1/integration-definitions?publish=true",
                &definition("sqlite", "none", &[plain("m", &operation)]),
            )
            .await;
        assert_eq!(crate::client::pointers(&refused), ["/methods/0/operation/statement"], "{statement}");
    }
    let load = json!({"mode": "execute", "statement": "select load_extension('x.so')"});
    let rig = Rig::start("", &[plain("load", &load)]).await;
    error(&rig.call("load", &json!({})).await, "UPSTREAM_ERROR");
}

#[tokio::test]
async fn answers_stay_within_their_limits_and_calls_within_their_time() {
    let series = "with recursive s(n) as (select 1 union all select n + 1 from s where n < :count) select n, printf('%.*c', :width, 'x') as text from s";
    let params = json!({"count": "bigint", "width": "int"});
    let of = |more: Value| {
        let mut operation = json!({"statement": series, "params": params});
        operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        operation
    };
    let forever =
        "insert into items with recursive s(n) as (select 1 union all select n + 1 from s) select sum(n) from s";
    let mut patient = plain("patient", &json!({"mode": "execute", "statement": forever}));
    patient["timeoutMs"] = json!(100);
    let methods = [
        plain("rows", &of(json!({"maxRows": 3}))),
        plain("strict", &of(json!({"maxRows": 3, "onLimit": "fail"}))),
        plain("bytes", &of(json!({"maxBytes": 2048}))),
        plain("first", &of(json!({"result": "first"}))),
        plain("forever", &json!({"mode": "execute", "statement": forever, "statementTimeoutMs": 50})),
        patient,
        plain("huge", &json!({"statement": "select hex(zeroblob(900000000)) as huge"})),
        plain("count", &json!({"statement": "select count(*) from items", "result": "scalar"})),
    ];
    let rig = Rig::start("create table items (n)", &methods).await;
    let limits = |told: &Value| (told["rows"].as_array().unwrap().len(), told["truncated"].as_bool().unwrap());
    let endless = i64::MAX.to_string();
    assert_eq!(limits(&data(&rig.call("rows", &json!({"count": 3, "width": 1})).await)), (3, false));
    assert_eq!(limits(&data(&rig.call("rows", &json!({"count": endless, "width": 1})).await)), (3, true));
    assert_eq!(limits(&data(&rig.call("bytes", &json!({"count": endless, "width": 900})).await)), (2, true));
    error(&rig.call("strict", &json!({"count": 4, "width": 1})).await, "UPSTREAM_ERROR");
    assert_eq!(data(&rig.call("first", &json!({"count": endless, "width": 1})).await), json!({"n": 1, "text": "x"}));
    error(&rig.call("huge", &json!({})).await, "VALIDATION_ERROR");
    for name in ["forever", "patient"] {
        let refused = error(&rig.call(name, &json!({})).await, "TIMEOUT");
        assert!(refused["details"].get("outcome").is_none(), "{refused}");
    }
    // What was stopped holds no lock.
    assert_eq!(data(&rig.call("count", &json!({})).await), 0);
}

#[tokio::test]
async fn a_file_that_another_process_has_locked_is_busy_and_no_more() {
    let insert = json!({"mode": "execute", "statement": "insert into items values (1)"});
    let rig = Rig::start("create table items (n)", &[plain("insert", &insert)]).await;
    let other = rusqlite::Connection::open(rig.path()).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let refused = error(&rig.call("insert", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!((&refused["details"]["sqlState"], &refused["retryable"]), (&json!("55P03"), &json!(true)), "{refused}");
    other.execute_batch("rollback").unwrap();
    data(&rig.call("insert", &json!({})).await);
}
