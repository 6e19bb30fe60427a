//! MySQL, as MariaDB speaks it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::proxy;
use super::{configure, connect, data, definition, error, method, plain, server, store_credential, unique};
use crate::service::TestService;

/// A service with an instance `db` of a database of its own.
pub(crate) struct Rig {
    service: TestService,
    pub(crate) config: Value,
}

impl Rig {
    /// None where there is no MariaDB.
    pub(crate) async fn start(setup: &[&str], methods: &[Value]) -> Option<Self> {
        let url = server("INTEGRATION_TEST_MARIADB_URL")?;
        let service = TestService::start().await;
        let database = unique("t");
        let mut methods = methods.to_vec();
        let create = format!("create database {database}");
        methods.push(plain("createDatabase", &json!({"mode": "execute", "statement": create})));
        for (index, statement) in setup.iter().enumerate() {
            methods.push(plain(&format!("setup{index}"), &json!({"mode": "execute", "statement": statement})));
        }
        let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
        let config = json!({"host": host, "port": port, "database": "mysql"});
        let credential = json!({"username": url.username(), "password": url.password()});
        connect(&service, &definition("mysql", "basic", &methods), &config, Some(&credential)).await;
        data(&service.execute("db", "createDatabase", &json!({})).await);
        let config = json!({"host": host, "port": port, "database": database});
        configure(&service, &config).await;
        for index in 0..setup.len() {
            data(&service.execute("db", &format!("setup{index}"), &json!({})).await);
        }
        Some(Self { service, config })
    }

    async fn call(&self, method: &str, params: &Value) -> crate::client::Answer {
        self.service.execute("db", method, params).await
    }

    async fn reconfigure(&self, changes: &Value) {
        let mut config = self.config.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        configure(&self.service, &config).await;
    }

    async fn lead_to(&self, address: SocketAddr) {
        self.reconfigure(&json!({"port": address.port()})).await;
    }
}

/// How many calls the server works on in this database, besides this one.
fn busy() -> Value {
    let statement = "select count(*) from information_schema.processlist \
                     where db = database() and command in ('Query', 'Execute') and id <> connection_id()";
    plain("busy", &json!({"statement": statement, "result": "scalar"}))
}

#[tokio::test]
async fn values_come_back_without_loss() {
    let insert = json!({
        "mode": "execute",
        "statement": "insert into v (i, b, n, f, t, o, y, u, j, at, ts, d, c) \
                      values (:i, :b, :n, :f, :t, :o, :y, :u, :j, :at, :at, :d, :c)",
        "params": {
            "i": "int", "b": "bigint", "n": "numeric", "f": "float", "t": "text", "o": "bool", "y": "bytea",
            "u": "uuid", "j": "json", "at": "timestamp", "d": "date", "c": "time",
        },
    });
    let read = json!({"statement": "select * from v", "result": "first", "jsonColumns": ["j"]});
    let literals = json!({"result": "first", "statement": "select
        18446744073709551615 as largest, -9223372036854775808 as smallest, cast(1.10 as decimal(30,10)) as price,
        cast('-838:59:59' as time) as span, cast(null as char) as nothing, b'101' as bits,
        1.5e300 as large, year(now()) > 2000 as yes, '' as empty, x'00ff' as raw"});
    let setup = "create table v (i int, b bigint, n decimal(60,20), f double, t text character set utf8mb4, o bool, y blob, \
                 u uuid, j json, at datetime(6), ts timestamp(3) null, d date, c time, absent int, bit_field bit(10) default b'1000000001', \
                 state enum('on','off') default 'on', small float default 1.1)";
    let Some(rig) =
        Rig::start(&[setup], &[plain("insert", &insert), plain("read", &read), plain("literals", &literals)]).await
    else {
        return;
    };
    let params = r#"{"i": -7, "b": "9223372036854775807", "n": 12345678901234567890.12345678901234567890, "f": 0.1,
        "t": "it's \\ \"quoted\" ? :t 😀", "o": true, "y": "AAH/", "u": "0190A1B2-0000-7000-8000-0000000000ff",
        "j": {"n": 1.10, "s": "'"}, "at": "2030-01-31T10:00:00.5+02:00", "d": "2030-01-31", "c": "23:59:59"}"#;
    let request = crate::service::json_request("POST", "/execute/db/insert");
    let inserted = rig.service.send(request, &format!("{{\"params\": {params}}}")).await;
    assert_eq!(data(&inserted), json!({"affectedRows": 1}));
    let answer = rig.call("read", &json!({})).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("{\"n\": 1.10, "), "{}", answer.json());
    assert_eq!(
        data(&answer),
        json!({
            "i": -7, "b": "9223372036854775807", "n": "12345678901234567890.12345678901234567890", "f": 0.1,
            "t": "it's \\ \"quoted\" ? :t 😀", "o": 1, "y": "AAH/", "u": "0190a1b2-0000-7000-8000-0000000000ff",
            "j": {"n": 1.1, "s": "'"}, "at": "2030-01-31T08:00:00.5", "ts": "2030-01-31T08:00:00.5Z", "d": "2030-01-31",
            "c": "23:59:59", "absent": null, "bit_field": 513, "state": "on", "small": 1.1,
        })
    );
    let told = data(&rig.call("literals", &json!({})).await);
    for (name, expected) in [
        ("largest", json!("18446744073709551615")),
        ("smallest", json!("-9223372036854775808")),
        ("price", json!("1.1000000000")),
        ("span", json!("-838:59:59")),
        ("nothing", json!(null)),
        ("large", json!(1.5e300)),
        ("yes", json!(1)),
        ("empty", json!("")),
        ("raw", json!("AP8=")),
    ] {
        assert_eq!(told[name], expected, "{name}");
    }
}

#[tokio::test]
async fn no_value_becomes_part_of_a_statement() {
    let find = json!({
        "statement": "select count(*) as found from secrets where owner = :owner # :owner",
        "params": {"owner": "text"}, "result": "scalar",
    });
    let count = json!({"statement": "select count(*) from secrets", "result": "scalar"});
    let setup = ["create table secrets (owner varchar(100))", "insert into secrets values ('a')"];
    let Some(rig) = Rig::start(&setup, &[plain("find", &find), plain("count", &count)]).await else { return };
    assert_eq!(data(&rig.call("find", &json!({"owner": "a"})).await), 1);
    for attempt in
        ["' or '1'='1", "a'; drop table secrets; -- ", "a\\' or 1=1 -- ", "\" or \"\"=\"", "?", "*/ or 1 /*", "\\"]
    {
        assert_eq!(data(&rig.call("find", &json!({"owner": attempt})).await), 0, "{attempt}");
    }
    assert_eq!(data(&rig.call("count", &json!({})).await), 1);
}

#[tokio::test]
async fn changes_are_made_whole_or_not_at_all() {
    let insert = json!({
        "mode": "execute", "statement": "insert into items (id, name) values (:id, :name) returning id, name",
        "params": {"id": "int", "name": "text"}, "result": "rows",
    });
    let batch = json!({
        "mode": "batch", "items": "items", "statement": "insert into items (id, name) values (:id, :name)",
        "params": {"id": "int", "name": "text"},
    });
    let transfer = json!({
        "mode": "transaction", "isolation": "serializable",
        "statements": [
            {"statement": "insert into items (id, name) values (:id, 'first')"},
            {"statement": "select count(*) as n from items", "result": "scalar"},
            {"statement": "insert into items (id, name) values (:other, 'second')"},
        ],
        "params": {"id": "int", "other": "int"},
    });
    let strict = json!({
        "mode": "execute", "statement": "delete from items returning id", "result": "rows", "maxRows": 2, "onLimit": "fail",
    });
    let count = json!({"statement": "select count(*) from items", "result": "scalar"});
    let item_schema =
        json!({"items": {"type": "array", "items": {"type": "object", "properties": {"id": {}, "name": {}}}}});
    let methods = [
        plain("insert", &insert),
        method("batch", &batch, &item_schema),
        plain("transfer", &transfer),
        plain("strict", &strict),
        plain("count", &count),
    ];
    let setup = ["create table items (id int primary key, name text not null)"];
    let Some(rig) = Rig::start(&setup, &methods).await else { return };
    let inserted = data(&rig.call("insert", &json!({"id": 1, "name": "a"})).await);
    assert_eq!((&inserted["rows"], &inserted["affectedRows"]), (&json!([{"id": 1, "name": "a"}]), &json!(1)));
    let items = json!({"items": [{"id": 2, "name": "b"}, {"id": 3, "name": "c"}]});
    assert_eq!(data(&rig.call("batch", &items).await), json!({"affectedRows": 2, "items": 2}));
    let items = json!({"items": [{"id": 4, "name": "d"}, {"id": 2, "name": "b"}]});
    error(&rig.call("batch", &items).await, "CONFLICT");
    assert_eq!(
        data(&rig.call("transfer", &json!({"id": 4, "other": 5})).await),
        json!([{"affectedRows": 1}, 4, {"affectedRows": 1}])
    );
    error(&rig.call("transfer", &json!({"id": 6, "other": 5})).await, "CONFLICT");
    error(&rig.call("strict", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(data(&rig.call("count", &json!({})).await), 5);
}

#[tokio::test]
async fn the_database_keeps_read_only_operations_from_changing_anything() {
    let methods = [
        plain("insert", &json!({"statement": "insert into items values (2) returning id"})),
        plain("drop", &json!({"statement": "drop table items"})),
        plain("count", &json!({"statement": "select count(*) from items", "result": "scalar"})),
    ];
    let setup = ["create table items (id int)", "insert into items values (1)"];
    let Some(rig) = Rig::start(&setup, &methods).await else { return };
    for name in ["insert", "drop"] {
        let refused = error(&rig.call(name, &json!({})).await, "UPSTREAM_ERROR");
        assert_eq!(refused["details"]["sqlState"], "25006", "{refused}");
    }
    assert_eq!(data(&rig.call("count", &json!({})).await), 1);
}

#[tokio::test]
async fn answers_stay_within_their_limits() {
    let series = "select seq as n, repeat('x', :width) as text from seq_1_to_100000 where seq <= :count";
    let params = json!({"width": "int", "count": "int"});
    let of = |more: Value| {
        let mut operation = json!({"statement": series, "params": params});
        operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        operation
    };
    let methods = [
        plain("rows", &of(json!({"maxRows": 300}))),
        plain("bytes", &of(json!({"maxBytes": 2048}))),
        plain("strict", &of(json!({"maxRows": 300, "onLimit": "fail"}))),
        plain("first", &of(json!({"result": "first"}))),
        busy(),
    ];
    let Some(rig) = Rig::start(&[], &methods).await else { return };
    let limits = |told: &Value| (told["rows"].as_array().unwrap().len(), told["truncated"].as_bool().unwrap());
    for (name, width, count, expected) in [
        ("rows", 1, 300, (300, false)),
        ("rows", 1, 301, (300, true)),
        ("rows", 1, 100_000, (300, true)),
        ("bytes", 1000, 5, (2, true)),
        ("bytes", 100_000, 5, (0, true)),
        ("bytes", 1, 1, (1, false)),
    ] {
        assert_eq!(
            limits(&data(&rig.call(name, &json!({"width": width, "count": count})).await)),
            expected,
            "{name} {count}"
        );
    }
    error(&rig.call("strict", &json!({"width": 1, "count": 301})).await, "UPSTREAM_ERROR");
    assert_eq!(data(&rig.call("first", &json!({"width": 2, "count": 30_000})).await), json!({"n": 1, "text": "xx"}));
    assert_eq!(data(&rig.call("first", &json!({"width": 2, "count": 0})).await), Value::Null);
    while data(&rig.call("busy", &json!({})).await) != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn refusals_have_codes_and_show_no_values() {
    let insert = json!({
        "mode": "execute", "statement": "insert into items (id, name, parent) values (:id, :name, :parent)",
        "params": {"id": "int", "name": "text", "parent": "int"},
    });
    let mut mapped = insert.clone();
    mapped["errorMapping"] = json!({"23": "ALREADY_EXISTS"});
    let methods = [
        plain("insert", &insert),
        plain("mapped", &mapped),
        plain("missing", &json!({"statement": "select * from nowhere"})),
        plain("syntax", &json!({"statement": "selec 1"})),
    ];
    let setup =
        ["create table items (id int primary key, name varchar(20) not null check (name <> 'forbidden-value'), \
                  parent int, foreign key (parent) references items (id))"];
    let Some(rig) = Rig::start(&setup, &methods).await else { return };
    let item = |id: i32, name: &str, parent: Value| json!({"id": id, "name": name, "parent": parent});
    data(&rig.call("insert", &item(77_123, "a", Value::Null)).await);
    for (name, params, status, code, number) in [
        ("insert", item(77_123, "a", Value::Null), 409, "CONFLICT", 1062),
        ("insert", item(2, "a", json!(88_123)), 409, "CONFLICT", 1452),
        ("insert", item(2, "forbidden-value", Value::Null), 400, "VALIDATION_ERROR", 4025),
        ("insert", json!({"id": 2}), 400, "VALIDATION_ERROR", 1048),
        ("insert", item(2, "much-longer-than-the-column", Value::Null), 400, "VALIDATION_ERROR", 1406),
        ("mapped", item(77_123, "a", Value::Null), 409, "ALREADY_EXISTS", 1062),
        ("missing", json!({}), 502, "UPSTREAM_ERROR", 1146),
        ("syntax", json!({}), 502, "UPSTREAM_ERROR", 1064),
    ] {
        let answer = rig.call(name, &params).await;
        let refused = error(&answer, code);
        assert_eq!((answer.status, &refused["details"]["errorNumber"]), (status, &json!(number)), "{refused}");
        let told = refused.to_string();
        for value in ["77123", "88123", "forbidden-value", "much-longer"] {
            assert!(!told.contains(value), "{told}");
        }
    }
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_on_the_server_too() {
    let sleep = json!({"statement": "select sleep(600)", "statementTimeoutMs": 50});
    let mut patient = plain("patient", &json!({"statement": "select sleep(600)"}));
    patient["timeoutMs"] = json!(100);
    let mut write = plain("write", &json!({"mode": "execute", "statement": "insert into items select sleep(600)"}));
    write["timeoutMs"] = json!(100);
    let setup = ["create table items (id int)"];
    let Some(rig) = Rig::start(&setup, &[plain("sleep", &sleep), patient, write, busy()]).await else { return };
    error(&rig.call("sleep", &json!({})).await, "TIMEOUT");
    for (name, is_unknown) in [("patient", false), ("write", true)] {
        let refused = error(&rig.call(name, &json!({})).await, "TIMEOUT");
        assert_eq!(refused["details"]["outcome"] == "unknown", is_unknown, "{refused}");
        while data(&rig.call("busy", &json!({})).await) != 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let insert = json!({"mode": "execute", "statement": "insert into items values (connection_id()) returning id", "result": "scalar"});
    let Some(rig) = Rig::start(&["create table items (id int)"], &[plain("insert", &insert)]).await else { return };
    let first = data(&rig.call("insert", &json!({})).await);
    assert_eq!(data(&rig.call("insert", &json!({})).await), first, "the connection is kept");
    // Another service on the same server ends it.
    let admin = TestService::start().await;
    let url = server("INTEGRATION_TEST_MARIADB_URL").unwrap();
    let procedure = format!("create procedure {}.end_it() kill {first}", rig.config["database"].as_str().unwrap());
    let methods = [
        plain("create", &json!({"mode": "execute", "statement": procedure})),
        plain("call", &json!({"mode": "execute", "statement": "call end_it()"})),
    ];
    let credential = json!({"username": url.username(), "password": url.password()});
    connect(&admin, &definition("mysql", "basic", &methods), &rig.config, Some(&credential)).await;
    data(&admin.execute("db", "create", &json!({})).await);
    data(&admin.execute("db", "call", &json!({})).await);
    assert_ne!(data(&rig.call("insert", &json!({})).await), first);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_an_error_and_no_more() {
    let mut read = plain("read", &json!({"statement": "select 1"}));
    read["timeoutMs"] = json!(500);
    let Some(rig) = Rig::start(&[], &[read]).await else { return };
    for greeting in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 64],
        b"\x01\0\0\0\x0a".to_vec(),
        b"\xff\xff\xff\0\x0aendless".to_vec(),
        b"\x17\0\0\0\xff\x10\x04Too many connections".to_vec(),
    ] {
        rig.lead_to(proxy::greet(greeting).await).await;
        let answered = rig.call("read", &json!({})).await;
        let code = answered.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(["UPSTREAM_ERROR", "TIMEOUT"].contains(&code.as_str()), "{}", answered.json());
    }
}

#[tokio::test]
async fn servers_prove_who_they_are_and_ask_callers_for_it() {
    let read = plain("read", &json!({"statement": "select current_user()", "result": "scalar"}));
    let encrypted = json!({"statement": "show session status like 'Ssl_cipher'", "result": "first"});
    let Some(rig) = Rig::start(&[], &[read, plain("encrypted", &encrypted)]).await else { return };
    let folder = std::path::PathBuf::from(crate::oidc::program("INTEGRATION_TEST_MARIADB_CERTIFICATES").unwrap());
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    rig.reconfigure(&json!({"tls": {"mode": "verify-full"}})).await;
    let refused = error(&rig.call("read", &json!({})).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("TLS"), "{refused}");
    let trusting = |host: &str| json!({"host": host, "tls": {"mode": "verify-full", "caCertificate": file("ca.crt")}});
    // The certificate is for the address alone.
    let named = {
        let mut config = trusting("localhost");
        config["host"] = json!("localhost");
        config
    };
    rig.reconfigure(&named).await;
    error(&rig.call("read", &json!({})).await, "UPSTREAM_ERROR");
    rig.reconfigure(&trusting("127.0.0.1")).await;
    assert_eq!(data(&rig.call("read", &json!({})).await), "test@%");
    assert_ne!(data(&rig.call("encrypted", &json!({})).await)["Value"], "");

    let mut credential = json!({"username": "test_with_certificate", "password": "right"});
    store_credential(&rig.service, &credential).await;
    error(&rig.call("read", &json!({})).await, "AUTH_ERROR");
    credential["clientCertificate"] = json!({"certificate": file("client.crt"), "privateKey": file("client.key")});
    store_credential(&rig.service, &credential).await;
    rig.reconfigure(&json!({"database": "information_schema", "tls": trusting("127.0.0.1")["tls"]})).await;
    assert_eq!(data(&rig.call("read", &json!({})).await), "test_with_certificate@%");
}

#[tokio::test]
async fn arrays_are_refused_when_published() {
    let service = TestService::start().await;
    let operation = json!({"statement": "select :a", "params": {"a": "text[]"}});
    let refused = service
        .post("/api/v1/integration-definitions?publish=true", &definition("mysql", "none", &[plain("m", &operation)]))
        .await;
    assert_eq!(crate::client::pointers(&refused), ["/methods/0/operation/params/a"]);
}
