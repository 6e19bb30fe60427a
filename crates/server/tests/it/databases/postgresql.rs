//! PostgreSQL.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::proxy;
use super::{configure, connect, data, definition, error, method, plain, server, store_credential, unique};
use crate::pki::Authority;
use crate::service::TestService;

/// A service with an instance `db` of a database of its own, and a way into it.
pub(crate) struct Rig {
    service: TestService,
    pub(crate) admin: PgConnection,
    address: SocketAddr,
    pub(crate) config: Value,
}

impl Rig {
    /// None where there is no PostgreSQL. The database is as `setup` makes it.
    pub(crate) async fn start(setup: &str, methods: &[Value]) -> Option<Self> {
        Self::start_with(setup, methods, &[]).await
    }

    async fn start_with(setup: &str, methods: &[Value], environment: &[(&str, &str)]) -> Option<Self> {
        let mut url = server("INTEGRATION_TEST_POSTGRES_URL")?;
        let database = unique("t");
        let mut admin = PgConnection::connect(url.as_str()).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {database}"))).await.unwrap();
        url.set_path(&database);
        let mut admin = PgConnection::connect(url.as_str()).await.unwrap();
        admin.execute(AssertSqlSafe(setup.to_owned())).await.unwrap();
        let service = TestService::start_with(environment).await;
        let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
        let config = json!({"host": host, "port": port, "database": database, "user": url.username()});
        connect(&service, &definition("postgresql", "none", methods), &config, None).await;
        let address = format!("{host}:{port}").parse().unwrap();
        Some(Self { service, admin, address, config })
    }

    async fn call(&self, method: &str, params: &Value) -> crate::client::Answer {
        self.service.execute("db", method, params).await
    }

    /// Changes members of the instance's config.
    async fn reconfigure(&self, changes: &Value) {
        let mut config = self.config.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        configure(&self.service, &config).await;
    }

    /// Leads the instance to another server.
    async fn lead_to(&self, address: SocketAddr) {
        self.reconfigure(&json!({"port": address.port()})).await;
    }

    async fn count(&mut self, sql: &str) -> i64 {
        self.admin.fetch_one(AssertSqlSafe(sql.to_owned())).await.unwrap().get(0)
    }

    /// Waits until the query counts this.
    async fn until(&mut self, sql: &str, count: i64) {
        while self.count(sql).await != count {
            tokio::task::yield_now().await;
        }
    }
}

/// Makes the role whose password is asked for. Roles are of the whole server: tests of other
/// runs may have made it.
pub(crate) const ROLE_WITH_PASSWORD: &str = "do $$ begin create role test_with_password login password 'right'; \
                                             exception when duplicate_object or unique_violation then null; end $$";

/// The calls that the server works on for the service.
const ACTIVE: &str = "select count(*) from pg_stat_activity where datname = current_database() \
                      and application_name = 'integration-service' and state = 'active'";

#[tokio::test]
async fn values_come_back_without_loss() {
    let echo = json!({
        "statement": "select :i::int4 as i, :b as b, :n as n, :f as f, :t as t, :o as o, :y as y, :u as u, :j as j, \
                      :at as at, :d as d, :c as c, :texts as texts, :numbers as numbers, :absent as absent",
        "params": {
            "i": "int", "b": "bigint", "n": "numeric", "f": "float", "t": "text", "o": "bool", "y": "bytea",
            "u": "uuid", "j": "json", "at": "timestamp", "d": "date", "c": "time", "texts": "text[]",
            "numbers": "numeric[]", "absent": "text",
        },
        "result": "first",
    });
    let literals = json!({"result": "first", "statement": "select
        9007199254740992 as safe, 9007199254740993 as unsafe, -9223372036854775808 as smallest,
        0.00000000000000000000123 as small, 12345678901234567890.10 as price, 10000::numeric as round,
        -0.5 as half, 'NaN'::numeric as nan, 'infinity'::float8 as infinite, 1.1::float4 as float4, '1e300'::float8 as large,
        '{\"a\": 1.10, \"b\": 12345678901234567890}'::json as json, '{\"a\": 1.10}'::jsonb as jsonb,
        timestamp '2030-01-31 10:00:00.123456' as local, timestamptz '2030-01-31 10:00:00+02' as zoned,
        timestamptz 'infinity' as never, date '0001-01-01' as early, time '23:59:59.5' as clock,
        interval '1 year 2 months 3 days -4 hours 30.5 seconds' as span, interval '0' as no_span,
        '{{1,2},{3,null}}'::int[] as matrix, '{}'::int[] as empty, array['a,b', null, '\"'] as texts,
        inet '10.1.2.3' as inet, cidr '10.0.0.0/8' as cidr, 'on'::state as state, row(1, 'x')::pair as pair,
        7::small as domain, 'x'::char(3) as padded, null::int as nothing, ''::bytea as no_bytes"});
    let unknown = json!({"statement": "select point(1, 2) as p"});
    let twice = json!({"statement": "select 1 as a, 2 as a"});
    let methods =
        [plain("echo", &echo), plain("literals", &literals), plain("unknown", &unknown), plain("twice", &twice)];
    let setup = "create type state as enum ('on', 'off'); create type pair as (n int, t text); \
                 create domain small as int check (value < 10)";
    let Some(rig) = Rig::start(setup, &methods).await else { return };
    let params = r#"{"i": -7, "b": "9223372036854775807", "n": 12345678901234567890.12345678901234567890, "f": 0.1,
        "t": "it's \\ \"quoted\" $1 :t é", "o": true, "y": "AAH/", "u": "0190A1B2-0000-7000-8000-0000000000ff",
        "j": {"n": 1.10, "s": "'"}, "at": "2030-01-31T10:00:00.5+02:00", "d": "2030-01-31", "c": "23:59:59",
        "texts": ["a,b", null, "{\"", "", "null"], "numbers": [1.10, null]}"#;
    let body = format!("{{\"params\": {params}}}");
    let request = crate::service::json_request("POST", "/execute/db/echo");
    let echoed = data(&rig.service.send(request, &body).await);
    assert_eq!(
        echoed,
        json!({
            "i": -7, "b": "9223372036854775807", "n": "12345678901234567890.12345678901234567890", "f": 0.1,
            "t": "it's \\ \"quoted\" $1 :t é", "o": true, "y": "AAH/", "u": "0190a1b2-0000-7000-8000-0000000000ff",
            "j": {"n": 1.10, "s": "'"}, "at": "2030-01-31T08:00:00.5Z", "d": "2030-01-31", "c": "23:59:59",
            "texts": ["a,b", null, "{\"", "", "null"], "numbers": ["1.10", null], "absent": null,
        })
    );
    let answer = rig.call("literals", &json!({})).await;
    assert!(String::from_utf8_lossy(&answer.body).contains(r#""json":{"a": 1.10, "b": 12345678901234567890}"#));
    let told = data(&answer);
    for (name, expected) in [
        ("safe", json!(9_007_199_254_740_992_i64)),
        ("unsafe", json!("9007199254740993")),
        ("smallest", json!("-9223372036854775808")),
        ("small", json!("0.00000000000000000000123")),
        ("price", json!("12345678901234567890.10")),
        ("round", json!("10000")),
        ("half", json!("-0.5")),
        ("nan", json!("NaN")),
        ("infinite", json!("Infinity")),
        ("float4", json!(1.1)),
        ("large", json!(1e300)),
        ("jsonb", json!({"a": 1.1})),
        ("local", json!("2030-01-31T10:00:00.123456")),
        ("zoned", json!("2030-01-31T08:00:00Z")),
        ("never", json!("infinity")),
        ("early", json!("0001-01-01")),
        ("clock", json!("23:59:59.5")),
        ("span", json!("P1Y2M3DT-3H-59M-29.5S")),
        ("no_span", json!("PT0S")),
        ("matrix", json!([[1, 2], [3, null]])),
        ("empty", json!([])),
        ("texts", json!(["a,b", null, "\""])),
        ("inet", json!("10.1.2.3")),
        ("cidr", json!("10.0.0.0/8")),
        ("state", json!("on")),
        ("pair", json!({"n": 1, "t": "x"})),
        ("domain", json!(7)),
        ("padded", json!("x  ")),
        ("nothing", json!(null)),
        ("no_bytes", json!("")),
    ] {
        assert_eq!(told[name], expected, "{name}");
    }
    let refused = error(&rig.call("unknown", &json!({})).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("cast it to text"), "{refused}");
    let refused = error(&rig.call("twice", &json!({})).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("two columns"), "{refused}");
}

#[tokio::test]
async fn no_value_becomes_part_of_a_statement() {
    let find = json!({
        "statement": "select count(*) as found from secrets where owner = :owner -- :owner",
        "params": {"owner": "text"}, "result": "scalar",
    });
    let any = json!({
        "statement": "select count(*) from secrets where owner = any(:owners)",
        "params": {"owners": "text[]"}, "result": "scalar",
    });
    let number = json!({"statement": "select :n + 1", "params": {"n": "numeric"}, "result": "scalar"});
    let methods = [plain("find", &find), plain("any", &any), plain("number", &number)];
    let Some(mut rig) =
        Rig::start("create table secrets (owner text); insert into secrets values ('a')", &methods).await
    else {
        return;
    };
    assert_eq!(data(&rig.call("find", &json!({"owner": "a"})).await), 1);
    for attempt in [
        "' or '1'='1",
        "a'; drop table secrets; --",
        "a\\'; drop table secrets; --",
        "$1",
        "\"; drop table secrets",
        "{a}",
        "a',a",
        "*/ or true /*",
    ] {
        assert_eq!(data(&rig.call("find", &json!({"owner": attempt})).await), 0, "{attempt}");
        assert_eq!(data(&rig.call("any", &json!({"owners": [attempt, "}{\"", "\\"]})).await), 0, "{attempt}");
        let refused = rig.call("number", &json!({"n": attempt})).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("VALIDATION_ERROR")), "{attempt}");
        assert!(!refused.json()["error"]["message"].as_str().unwrap().contains(attempt));
    }
    assert_eq!(rig.count("select count(*) from secrets").await, 1);
}

#[tokio::test]
async fn changes_are_made_whole_or_not_at_all() {
    let insert = json!({
        "mode": "execute", "statement": "insert into items (id, name) values (:id, :name)",
        "params": {"id": "int", "name": "text"},
    });
    let returning = json!({
        "mode": "execute", "statement": "update items set name = upper(name) returning id, name",
        "result": "rows", "maxRows": 2,
    });
    let strict = json!({
        "mode": "execute", "statement": "delete from items returning id",
        "result": "rows", "maxRows": 2, "onLimit": "fail",
    });
    let batch = json!({
        "mode": "batch", "items": "items", "statement": "insert into items (id, name) values (:id, :name)",
        "params": {"id": "int", "name": "text"}, "maxItems": 3,
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
    let item_schema =
        json!({"items": {"type": "array", "items": {"type": "object", "properties": {"id": {}, "name": {}}}}});
    let methods = [
        plain("insert", &insert),
        plain("returning", &returning),
        plain("strict", &strict),
        method("batch", &batch, &item_schema),
        plain("transfer", &transfer),
    ];
    let setup = "create table items (id int primary key, name text not null)";
    let Some(mut rig) = Rig::start(setup, &methods).await else { return };
    let count = "select count(*) from items";

    assert_eq!(data(&rig.call("insert", &json!({"id": 1, "name": "a"})).await), json!({"affectedRows": 1}));
    let items = json!({"items": [{"id": 2, "name": "b"}, {"id": 3, "name": "c"}]});
    assert_eq!(data(&rig.call("batch", &items).await), json!({"affectedRows": 2, "items": 2}));
    assert_eq!(data(&rig.call("batch", &json!({"items": []})).await), json!({"affectedRows": 0, "items": 0}));
    // The second item is there already: neither is kept.
    let items = json!({"items": [{"id": 4, "name": "d"}, {"id": 2, "name": "b"}]});
    error(&rig.call("batch", &items).await, "CONFLICT");
    let refused = error(&rig.call("batch", &json!({"items": [{"id": 4}, {"id": "x"}]})).await, "VALIDATION_ERROR");
    assert_eq!(refused["details"]["errors"][0]["pointer"], "/params/items/1/id");
    let many = json!({"items": [{}, {}, {}, {}]});
    error(&rig.call("batch", &many).await, "VALIDATION_ERROR");
    assert_eq!(rig.count(count).await, 3);

    assert_eq!(
        data(&rig.call("transfer", &json!({"id": 4, "other": 5})).await),
        json!([{"affectedRows": 1}, 4, {"affectedRows": 1}])
    );
    error(&rig.call("transfer", &json!({"id": 6, "other": 5})).await, "CONFLICT");
    assert_eq!(rig.count(count).await, 5);

    // What is cut from the answer is done all the same.
    let told = data(&rig.call("returning", &json!({})).await);
    assert_eq!((&told["rowCount"], &told["truncated"], &told["affectedRows"]), (&json!(2), &json!(true), &json!(5)));
    assert_eq!(rig.count("select count(*) from items where name = upper(name)").await, 5);
    // Where cutting is an error, it is not done.
    error(&rig.call("strict", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(rig.count(count).await, 5);
}

#[tokio::test]
async fn the_database_keeps_read_only_operations_from_changing_anything() {
    let methods = [
        plain("cte", &json!({"statement": "with gone as (delete from items returning 1) select * from gone"})),
        plain("function", &json!({"statement": "select wipe()"})),
        plain("loosened", &json!({"statement": "select set_config('transaction_read_only', 'off', true), wipe()"})),
        plain(
            "escape",
            &json!({"mode": "transaction", "readOnly": true, "statements": [
                {"statement": "select set_config('transaction_read_only', 'off', false)"},
                {"statement": "delete from items"},
            ]}),
        ),
        plain("count", &json!({"statement": "select count(*) from items", "result": "scalar"})),
    ];
    let setup = "create table items (id int); insert into items values (1); \
                 create function wipe() returns void language sql as 'delete from items'";
    let Some(rig) = Rig::start(setup, &methods).await else { return };
    for name in ["cte", "function", "loosened", "escape"] {
        let refused = error(&rig.call(name, &json!({})).await, "UPSTREAM_ERROR");
        assert_eq!(refused["retryable"], false);
        assert!(refused["details"].get("outcome").is_none(), "{refused}");
    }
    assert_eq!(data(&rig.call("count", &json!({})).await), 1);
}

#[tokio::test]
async fn answers_stay_within_their_limits() {
    let series = "select n, repeat('x', :width) as text from generate_series(1, :count) n";
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
        plain("scalar", &of(json!({"result": "scalar", "maxBytes": 1024}))),
        plain("all", &of(json!({"maxRows": 100_000}))),
    ];
    let Some(mut rig) = Rig::start("", &methods).await else { return };
    let limits = |told: &Value| (told["rows"].as_array().unwrap().len(), told["truncated"].as_bool().unwrap());
    let rows = data(&rig.call("rows", &json!({"width": 1, "count": 300})).await);
    assert_eq!((limits(&rows), &rows["rowCount"]), ((300, false), &json!(300)));
    assert!(rows.get("affectedRows").is_none());
    let rows = data(&rig.call("rows", &json!({"width": 1, "count": 200_000})).await);
    assert_eq!((limits(&rows), &rows["rows"][299]), ((300, true), &json!({"n": 300, "text": "x"})));
    let rows = data(&rig.call("bytes", &json!({"width": 1000, "count": 5})).await);
    assert_eq!(limits(&rows), (2, true));
    // One row that is larger than all of it.
    let rows = data(&rig.call("bytes", &json!({"width": 100_000, "count": 5})).await);
    assert_eq!(limits(&rows), (0, true));
    let all = data(&rig.call("all", &json!({"width": 1, "count": 20_000})).await);
    assert_eq!((limits(&all), &all["rows"][19_999]["n"]), ((20_000, false), &json!(20_000)));
    let refused = error(&rig.call("strict", &json!({"width": 1, "count": 301})).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("maxRows"), "{refused}");
    let first = data(&rig.call("first", &json!({"width": 2, "count": 3})).await);
    assert_eq!(first, json!({"n": 1, "text": "xx"}));
    assert_eq!(data(&rig.call("first", &json!({"width": 2, "count": 0})).await), Value::Null);
    assert_eq!(data(&rig.call("scalar", &json!({"width": 2, "count": 3})).await), 1);
    // A single value of 100 MB stops on its way.
    let refused = error(&rig.call("bytes", &json!({"width": 100_000_000, "count": 1})).await, "UPSTREAM_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("larger"), "{refused}");
    assert_eq!(limits(&data(&rig.call("bytes", &json!({"width": 1, "count": 1})).await)), (1, false));
    rig.until(ACTIVE, 0).await;
}

#[tokio::test]
async fn refusals_have_codes_and_names_and_show_no_values() {
    let insert = json!({
        "mode": "execute", "statement": "insert into items (id, name, parent) values (:id, :name, :parent)",
        "params": {"id": "int", "name": "text", "parent": "int"},
    });
    let mut mapped = insert.clone();
    mapped["errorMapping"] = json!({"23505": "ALREADY_EXISTS", "23": "NOT_FOUND"});
    let methods = [
        plain("insert", &insert),
        plain("mapped", &mapped),
        plain("cast", &json!({"statement": "select :t::int", "params": {"t": "text"}})),
        plain("missing", &json!({"statement": "select * from nowhere"})),
        plain("syntax", &json!({"statement": "selec 1"})),
    ];
    let setup = "create table items (id int primary key, name text not null check (name <> 'forbidden-value'), \
                 parent int references items)";
    let Some(rig) = Rig::start(setup, &methods).await else { return };
    let item = |id: i32, name: &str, parent: Value| json!({"id": id, "name": name, "parent": parent});
    data(&rig.call("insert", &item(77_123, "a", Value::Null)).await);
    for (name, params, status, code, state) in [
        ("insert", item(77_123, "a", Value::Null), 409, "CONFLICT", "23505"),
        ("insert", item(2, "a", json!(88_123)), 409, "CONFLICT", "23503"),
        ("insert", item(2, "forbidden-value", Value::Null), 400, "VALIDATION_ERROR", "23514"),
        ("insert", json!({"id": 2}), 400, "VALIDATION_ERROR", "23502"),
        ("cast", json!({"t": "secret-value"}), 400, "VALIDATION_ERROR", "22P02"),
        ("mapped", item(77_123, "a", Value::Null), 409, "ALREADY_EXISTS", "23505"),
        ("mapped", item(2, "a", json!(88_123)), 404, "NOT_FOUND", "23503"),
        ("missing", json!({}), 502, "UPSTREAM_ERROR", "42P01"),
        ("syntax", json!({}), 502, "UPSTREAM_ERROR", "42601"),
    ] {
        let answer = rig.call(name, &params).await;
        let refused = error(&answer, code);
        assert_eq!((answer.status, &refused["details"]["sqlState"]), (status, &json!(state)), "{refused}");
        assert_eq!(refused["retryable"], false);
        let told = refused.to_string();
        for value in ["77123", "88123", "forbidden-value", "secret-value"] {
            assert!(!told.contains(value), "{told}");
        }
    }
    let refused = error(&rig.call("insert", &item(77_123, "a", Value::Null)).await, "CONFLICT");
    assert_eq!(
        (&refused["details"]["constraint"], &refused["details"]["table"]),
        (&json!("items_pkey"), &json!("items"))
    );
    let refused = error(&rig.call("missing", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(refused["details"]["databaseMessage"], "relation \"nowhere\" does not exist");
    // None of it is a fault of the database.
    let health = rig.service.get("/integrations/db/health").await.json();
    assert_eq!(health["openCircuitBreakers"], json!([]));
}

#[tokio::test]
async fn a_refused_password_is_an_auth_error_until_another_comes() {
    let Some(url) = server("INTEGRATION_TEST_POSTGRES_URL") else { return };
    let mut admin = PgConnection::connect(url.as_str()).await.unwrap();
    admin.execute(ROLE_WITH_PASSWORD).await.unwrap();
    let service = TestService::start().await;
    let who = json!({"statement": "select current_user::text", "result": "scalar"});
    let config = json!({"host": "127.0.0.1", "port": url.port().unwrap(), "database": "postgres"});
    let definition = definition("postgresql", "basic", &[plain("who", &who)]);
    let wrong = json!({"username": "test_with_password", "password": "wrong-secret"});
    connect(&service, &definition, &config, Some(&wrong)).await;
    let answer = service.execute("db", "who", &json!({})).await;
    let refused = error(&answer, "AUTH_ERROR");
    assert_eq!(refused["details"]["sqlState"], "28P01", "{refused}");
    assert!(!refused.to_string().contains("wrong-secret"));
    let instance = service.get("/api/v1/integration-instances/db").await.json();
    assert_eq!(instance["status"], "AUTH_ERROR");
    store_credential(&service, &json!({"username": "test_with_password", "password": "right"})).await;
    let tested = service.post("/api/v1/integration-instances/db/test", &json!({})).await.json();
    assert_eq!(tested["healthy"], true, "{tested}");
    assert!(tested["message"].as_str().unwrap().starts_with("PostgreSQL 1"), "{tested}");
    assert_eq!(data(&service.execute("db", "who", &json!({})).await), "test_with_password");
}

#[tokio::test]
async fn connections_of_an_old_credential_are_closed() {
    let Some(url) = server("INTEGRATION_TEST_POSTGRES_URL") else { return };
    let mut admin = PgConnection::connect(url.as_str()).await.unwrap();
    let (first, second, database) = (unique("first"), unique("second"), unique("t"));
    for statement in [
        format!("create role {first} login"),
        format!("create role {second} login"),
        format!("create database {database}"),
    ] {
        admin.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let service = TestService::start().await;
    let who = plain("who", &json!({"statement": "select current_user::text", "result": "scalar"}));
    let config = json!({"host": "127.0.0.1", "port": url.port().unwrap(), "database": database});
    let credential = |user: &str| json!({"username": user, "password": "any"});
    connect(&service, &definition("postgresql", "basic", &[who]), &config, Some(&credential(&first))).await;
    let open = |user: &str| format!("select count(*) from pg_stat_activity where usename = '{user}'");
    assert_eq!(data(&service.execute("db", "who", &json!({})).await), json!(first));
    assert_eq!(data(&service.execute("db", "who", &json!({})).await), json!(first));
    let count: i64 = admin.fetch_one(AssertSqlSafe(open(&first))).await.unwrap().get(0);
    assert_eq!(count, 1, "the connection is kept for the next call");
    store_credential(&service, &credential(&second)).await;
    assert_eq!(data(&service.execute("db", "who", &json!({})).await), json!(second));
    while admin.fetch_one(AssertSqlSafe(open(&first))).await.unwrap().get::<i64, _>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_on_the_server_too() {
    let sleep = json!({"statement": "select pg_sleep(600)::text", "statementTimeoutMs": 50});
    let mut patient = plain("patient", &json!({"statement": "select pg_sleep(600)::text"}));
    patient["timeoutMs"] = json!(100);
    let mut write =
        plain("write", &json!({"mode": "execute", "statement": "insert into items select 1 from pg_sleep(600)"}));
    write["timeoutMs"] = json!(100);
    let methods = [plain("sleep", &sleep), patient, write];
    let Some(mut rig) = Rig::start("create table items (id int)", &methods).await else { return };
    let refused = error(&rig.call("sleep", &json!({})).await, "TIMEOUT");
    assert_eq!(refused["details"]["sqlState"], "57014");
    for name in ["patient", "write"] {
        let refused = error(&rig.call(name, &json!({})).await, "TIMEOUT");
        // It was not committed, so that it was not done.
        assert!(refused["details"].get("outcome").is_none(), "{refused}");
        rig.until(ACTIVE, 0).await;
    }
    assert_eq!(rig.count("select count(*) from items").await, 0);
}

#[tokio::test]
async fn calls_beyond_the_pool_wait_for_a_bounded_time() {
    let lock = json!({"statement": "select pg_advisory_xact_lock(7)::text"});
    let quick = json!({"statement": "select 1", "result": "scalar"});
    let Some(mut rig) = Rig::start("", &[plain("lock", &lock), plain("quick", &quick)]).await else { return };
    rig.reconfigure(&json!({"pool": {"maxConnections": 1, "acquireTimeoutMs": 20}})).await;
    rig.admin.execute("select pg_advisory_lock(7)").await.unwrap();
    let Rig { service, admin, .. } = &mut rig;
    let none = json!({});
    let holding = service.execute("db", "lock", &none);
    let meanwhile = async {
        while admin.fetch_one(ACTIVE).await.unwrap().get::<i64, _>(0) == 0 {
            tokio::task::yield_now().await;
        }
        let answer = service.execute("db", "quick", &json!({})).await;
        admin.execute("select pg_advisory_unlock(7)").await.unwrap();
        answer
    };
    let (held, refused) = tokio::join!(holding, meanwhile);
    assert_eq!(refused.status, 503, "{}", refused.json());
    assert_eq!(error(&refused, "OVERLOADED")["retryable"], true);
    let metrics = rig.service.get("/status/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for name in ["integration_database_connections", "integration_database_pool_exhausted_total"] {
        assert!(metrics.contains(&format!("{name}{{adapter=\"postgresql\"}}")), "{metrics}");
    }
    data(&held);
    assert_eq!(data(&rig.call("quick", &json!({})).await), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let insert = json!({"mode": "execute", "statement": "insert into items values (1)"});
    let Some(mut rig) = Rig::start("create table items (id int)", &[plain("insert", &insert)]).await else { return };
    for round in 1..=3 {
        data(&rig.call("insert", &json!({})).await);
        assert_eq!(rig.count("select count(*) from items").await, round);
        rig.admin
            .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'integration-service' and datname = current_database()")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_midway_tells_what_may_have_happened() {
    let insert =
        json!({"mode": "execute", "statement": "insert into items values (:id) /* marked */", "params": {"id": "int"}});
    let read = json!({"statement": "select 1 /* marked */"});
    let Some(mut rig) =
        Rig::start("create table items (id int)", &[plain("insert", &insert), plain("read", &read)]).await
    else {
        return;
    };
    // Cut before the commit: nothing was done. Cut at the commit: nobody knows.
    for (trigger, name, is_unknown) in [
        (&b"marked"[..], "read", false),
        (b"marked", "insert", false),
        (b"COMMIT", "insert", true),
        (b"COMMIT", "read", false),
    ] {
        rig.lead_to(proxy::cut_at(rig.address, trigger).await).await;
        let params = if name == "insert" { json!({"id": 1}) } else { json!({}) };
        let refused = error(&rig.call(name, &params).await, "UPSTREAM_ERROR");
        assert_eq!(refused["details"]["outcome"] == "unknown", is_unknown, "{name} {refused}");
        assert_eq!(refused["retryable"], !is_unknown, "{name} {refused}");
    }
    assert_eq!(rig.count("select count(*) from items").await, 0);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_an_error_and_no_more() {
    let mut read = plain("read", &json!({"statement": "select 1"}));
    read["timeoutMs"] = json!(500);
    let Some(rig) = Rig::start("", &[read]).await else { return };
    let mut endless = b"R\0\0\0\x08\0\0\0\0".to_vec();
    // A row of two gigabytes, which never ends.
    endless.extend_from_slice(b"D\x7f\xff\xff\xff");
    endless.resize(1 << 20, 0);
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![b'R', 0, 0, 0, 0],
        b"E\0\0\0\x0bSFATAL\0\0".to_vec(),
        endless,
    ] {
        rig.lead_to(proxy::babble(answer.clone()).await).await;
        let answered = rig.call("read", &json!({})).await;
        let code = answered.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(["UPSTREAM_ERROR", "TIMEOUT"].contains(&code.as_str()), "{}", answered.json());
    }
}

#[tokio::test]
async fn servers_prove_who_they_are_and_ask_callers_for_it() {
    let Some(mut rig) = Rig::start("", &[plain("read", &json!({"statement": "select 1", "result": "scalar"}))]).await
    else {
        return;
    };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (address, sessions) = proxy::tls(rig.address, &authority.issue("127.0.0.1"), None).await;
    let trusting = |authority: &Authority| json!({"port": address.port(), "tls": {"mode": "verify-full", "caCertificate": authority.pem}});
    for config in [json!({"port": address.port(), "tls": {"mode": "verify-full"}}), trusting(&stranger)] {
        rig.reconfigure(&config).await;
        let refused = error(&rig.call("read", &json!({})).await, "UPSTREAM_ERROR");
        assert!(refused["message"].as_str().unwrap().contains("TLS"), "{refused}");
        assert_eq!(refused["retryable"], false);
    }
    assert_eq!(sessions.load(Ordering::SeqCst), 0);
    rig.reconfigure(&trusting(&authority)).await;
    assert_eq!(data(&rig.call("read", &json!({})).await), 1);
    assert_eq!(sessions.load(Ordering::SeqCst), 1);

    // The certificate of another host.
    let (elsewhere, _) = proxy::tls(rig.address, &authority.issue("db.example"), None).await;
    let mut config = trusting(&authority);
    config["port"] = json!(elsewhere.port());
    rig.reconfigure(&config).await;
    error(&rig.call("read", &json!({})).await, "UPSTREAM_ERROR");

    // A server without TLS is not spoken to without.
    rig.reconfigure(&json!({"tls": {"mode": "verify-full", "caCertificate": authority.pem}})).await;
    error(&rig.call("read", &json!({})).await, "UPSTREAM_ERROR");
    assert_eq!(rig.count(ACTIVE).await, 0);
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let Some(url) = server("INTEGRATION_TEST_POSTGRES_URL") else { return };
    let authority = Authority::new();
    let upstream = format!("127.0.0.1:{}", url.port().unwrap()).parse().unwrap();
    let (address, sessions) = proxy::tls(upstream, &authority.issue("127.0.0.1"), Some(&authority)).await;
    let service = TestService::start().await;
    let config = json!({
        "host": "127.0.0.1", "port": address.port(), "database": "postgres",
        "tls": {"mode": "verify-full", "caCertificate": authority.pem},
    });
    let methods = [plain("read", &json!({"statement": "select 1", "result": "scalar"}))];
    let mut credential = json!({"username": "postgres", "password": "any"});
    connect(&service, &definition("postgresql", "basic", &methods), &config, Some(&credential)).await;
    error(&service.execute("db", "read", &json!({})).await, "UPSTREAM_ERROR");
    let identity = authority.issue("client.example");
    credential["clientCertificate"] = json!({"certificate": identity.certificate, "privateKey": identity.key});
    store_credential(&service, &credential).await;
    assert_eq!(data(&service.execute("db", "read", &json!({})).await), 1);
    assert_eq!(sessions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dry_run_shows_the_statement_and_its_params_and_no_secret() {
    let find = json!({"statement": "select * from t where a = :a and b = :b", "params": {"a": "text", "b": "bytea"}});
    let service = TestService::start().await;
    let config = json!({"host": "db.example", "database": "app"});
    let credential = json!({"username": "u", "password": "a-very-secret-password"});
    connect(&service, &definition("postgresql", "basic", &[plain("find", &find)]), &config, Some(&credential)).await;
    let body = json!({"params": {"a": "a-very-secret-password", "b": "AAE="}});
    let answer = service.post("/execute/db/find?dryRun=true", &body).await;
    let shown = data(&answer);
    assert_eq!(shown["statements"][0]["statement"], "select * from t where a = $1  and b = $2 ");
    assert_eq!(shown["statements"][0]["params"]["b"], "(2 bytes)");
    assert_eq!(shown["readOnly"], true);
    assert!(!shown.to_string().contains("a-very-secret-password"), "{shown}");
}

#[tokio::test]
async fn operations_that_cannot_work_are_refused_when_published() {
    let service = TestService::start().await;
    for (operation, pointer) in [
        (json!({"statement": "select :a"}), "/methods/0/operation/statement"),
        (json!({"statement": "select :a", "params": {"a": "text"}}), "/methods/0/operation/params/a"),
        (json!({"statement": "select 1", "params": {"known": "text"}}), "/methods/0/operation/params/known"),
        (json!({"statement": "select :known", "params": {"known": "varchar"}}), "/methods/0/operation/params/known"),
        (json!({"statement": "select 1; select 2"}), "/methods/0/operation/statement"),
        (json!({"statement": "commit"}), "/methods/0/operation/statement"),
        (json!({"statement": "select '"}), "/methods/0/operation/statement"),
        (
            json!({"mode": "transaction", "statements": [{"statement": "select 1"}, {"statement": "$"}]}),
            "/methods/0/operation/statements/1/statement",
        ),
        (json!({"mode": "transaction", "statement": "select 1"}), "/methods/0/operation/statement"),
        (json!({"mode": "batch", "statement": "select 1"}), "/methods/0/operation/items"),
        (json!({"mode": "query", "readOnly": false, "statement": "select 1"}), "/methods/0/operation/readOnly"),
        (
            json!({"statement": "select 1", "errorMapping": {"23505": "NO_SUCH_CODE"}}),
            "/methods/0/operation/errorMapping/23505",
        ),
        (json!({}), "/methods/0/operation/statement"),
        (json!({"statement": "select 1", "sql": "x"}), "/methods/0/operation"),
    ] {
        let methods = [method("m", &operation, &json!({"known": {}}))];
        let refused = service
            .post("/api/v1/integration-definitions?publish=true", &definition("postgresql", "none", &methods))
            .await;
        assert_eq!(refused.status, 400, "{operation}: {}", refused.json());
        let pointers = crate::client::pointers(&refused);
        assert!(pointers.iter().any(|at| at == pointer), "{operation}: {pointers:?}");
    }
    for (config, pointer) in [
        (json!({"database": "d"}), ""),
        (json!({"host": "h", "database": "d", "tls": {"mode": "prefer"}}), "/tls/mode"),
        (json!({"host": "h", "database": "d", "tls": {"caCertificate": "x"}}), "/tls/caCertificate"),
        (json!({"host": "h/x", "database": "d"}), "/host"),
        (json!({"host": "h", "database": "d", "pool": {"maxConnections": 0}}), "/pool/maxConnections"),
    ] {
        let id = unique("bad");
        let mut definition = definition("postgresql", "none", &[plain("m", &json!({"statement": "select 1"}))]);
        definition["id"] = json!(id);
        assert_eq!(service.post("/api/v1/integration-definitions?publish=true", &definition).await.status, 201);
        let instance = json!({"id": id, "integrationDefinitionId": id, "name": "x", "config": config});
        let created = service.post("/api/v1/integration-instances", &instance).await.json();
        assert_eq!(created["status"], "PENDING_CONFIGURATION", "{pointer} {created}");
        assert!(created["error"]["message"].as_str().unwrap_or_default().contains(pointer), "{pointer} {created}");
    }
}
