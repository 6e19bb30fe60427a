//! Instances of the systems that the environment describes: made once, changed with their
//! variables, at work against real servers through the binary, and never in somebody's way.

use serde_json::{Value, json};

use crate::binary::folder;
use crate::catalogue::stripe::Stripe;
use crate::email::Server as MailServer;
use crate::process::{Client, Process};
use crate::redis::Server as RedisServer;
use crate::service::TestService;
use crate::storage::Server as ObjectServer;

const INSTANCES: &str = "/api/v1/integration-instances";
const SECRET: &str = "a-secret-mark-77e1";

fn path(id: &str) -> String {
    format!("{INSTANCES}/{id}")
}

async fn call(client: &mut Client, path: &str, params: Value) -> Value {
    let answer = client.execute(path, &params, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert_eq!(answer.body["meta"].get("warnings"), None, "{path}: the result fits its schema: {}", answer.body);
    answer.body["data"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_describes_works_from_the_start() {
    let Some(redis) = RedisServer::start(&["--requirepass", SECRET]) else { return };
    let Some(database) = crate::databases::server("INTEGRATION_TEST_POSTGRES_URL") else { return };
    let (Some(stripe), Some(objects)) = (Stripe::start(), ObjectServer::start("s3")) else { return };
    let Some(mail) = MailServer::start(&json!({})) else { return };
    let environment = [
        ("REDIS_URL", format!("redis://:{SECRET}@{}/3", redis.address)),
        ("POSTGRESQL_URL", database.to_string()),
        ("STRIPE_SECRET_KEY", "sk_test_12345".to_owned()),
        ("STRIPE_PUBLISHABLE_KEY", "pk_test_12345".to_owned()),
        ("EMAIL_SERVICE_API_KEY", "right-secret".to_owned()),
        ("EMAIL_SERVICE_USERNAME", "sender".to_owned()),
        ("EMAIL_SERVICE_HOST", "127.0.0.1".to_owned()),
        ("EMAIL_SERVICE_PORT", mail.address.port().to_string()),
        ("EMAIL_SERVICE_FROM", "Shop <shop@here.example>".to_owned()),
        ("STORAGE_SERVICE_ACCESS_KEY", "S3RVER".to_owned()),
        ("STORAGE_SERVICE_SECRET_KEY", "S3RVER".to_owned()),
        ("STORAGE_SERVICE_BUCKET", "files".to_owned()),
        ("STORAGE_SERVICE_ENDPOINT", objects.url.clone()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let folder = folder(&[]);
    let process = Process::start_with(folder.path(), &environment);
    let mut client = Client::connect(process.address).await.unwrap();
    for id in ["redis", "postgresql", "stripe", "email", "storage"] {
        let instance = client.get(&path(id)).await.unwrap().body;
        assert_eq!((&instance["status"], &instance["integrationDefinitionId"]), (&json!("CONNECTED"), &json!(id)));
        assert!(!instance.to_string().contains(SECRET), "{instance}");
    }
    use_redis(&mut client).await;
    assert!(redis.ask(&format!("AUTH {SECRET}\r\nSELECT 3\r\nGET greeting")).await.contains("hello"));
    look_into_postgresql(&mut client).await;
    keep_objects(&mut client).await;

    let new = json!({"to": ["ann@here.example"], "subject": "Hi", "text": "Hello"});
    let sent = call(&mut client, "email/send", new).await;
    assert_eq!(sent["accepted"], json!(["ann@here.example"]), "{sent}");
    assert!(mail.last().to_string().contains("shop@here.example"));

    // Where Stripe is is the operator's to say, also over a start.
    let change = json!({"config": {"baseUrl": stripe.url}});
    assert_eq!(client.patch(&path("stripe"), &change).await.unwrap().status, 200);
    let customer = json!({"email": "ann@example.com"});
    let made = call(&mut client, "stripe/createCustomer", customer).await;
    process.kill();
    let process = Process::start_with(folder.path(), &environment);
    let mut client = Client::connect(process.address).await.unwrap();
    let found = call(&mut client, "stripe/getCustomer", json!({"customer": made["id"]})).await;
    assert_eq!(found["email"], "ann@example.com");
    let stripe = client.get(&path("stripe")).await.unwrap().body;
    assert_eq!(stripe["labels"]["publishableKey"], "pk_test_12345", "{stripe}");
}

async fn use_redis(client: &mut Client) {
    for (method, params, expected) in [
        ("set", json!({"key": "greeting", "value": "hello"}), json!("OK")),
        ("get", json!({"key": "greeting"}), json!("hello")),
        ("get", json!({"key": "nothing"}), Value::Null),
        ("exists", json!({"keys": ["greeting", "nothing"]}), json!(1)),
        ("increment", json!({"key": "visits"}), json!(1)),
        ("increment", json!({"key": "visits", "by": 4}), json!(5)),
        ("expire", json!({"key": "visits", "seconds": 600}), json!(1)),
        ("scanKeys", json!({"pattern": "greet*"}), json!({"cursor": "0", "keys": ["greeting"]})),
        ("scanKeys", json!({"pattern": "none*"}), json!({"cursor": "0", "keys": []})),
        ("setHash", json!({"key": "h", "fields": {"a": "1"}}), json!(1)),
        ("getHash", json!({"key": "h"}), json!({"a": "1"})),
        ("pushToList", json!({"key": "l", "values": ["x", "y"]}), json!(2)),
        ("getList", json!({"key": "l"}), json!(["x", "y"])),
        ("getList", json!({"key": "l", "first": -1, "last": -1}), json!(["y"])),
        ("popFromList", json!({"key": "l"}), json!("x")),
        ("addToSet", json!({"key": "s", "values": ["m"]}), json!(1)),
        ("getSet", json!({"key": "s"}), json!(["m"])),
        ("removeFromSet", json!({"key": "s", "values": ["m"]}), json!(1)),
        ("publish", json!({"channel": "c", "message": "m"}), json!(0)),
        ("delete", json!({"keys": ["h", "l"]}), json!(2)),
    ] {
        assert_eq!(call(client, &format!("redis/{method}"), params).await, expected, "{method}");
    }
    let ttl = call(client, "redis/getTtl", json!({"key": "visits"})).await;
    assert!((1..=600).contains(&ttl.as_i64().unwrap()), "{ttl}");
}

async fn look_into_postgresql(client: &mut Client) {
    let server = call(client, "postgresql/getServer", json!({})).await;
    assert_eq!((&server["database"], &server["user"]), (&json!("postgres"), &json!("postgres")));
    let names = |rows: &Value| -> Vec<String> {
        let rows = rows["rows"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let schemas = call(client, "postgresql/listSchemas", json!({})).await;
    assert!(names(&schemas).contains(&"public".to_owned()), "{schemas}");
    let catalog = json!({"schema": "pg_catalog"});
    let tables = call(client, "postgresql/listTables", catalog.clone()).await;
    let views = tables["rows"].as_array().unwrap().iter().filter(|row| row["kind"] == "view");
    assert!(names(&tables).contains(&"pg_class".to_owned()) && views.count() > 0);
    let table = json!({"schema": "pg_catalog", "table": "pg_class"});
    let columns = call(client, "postgresql/describeTable", table.clone()).await;
    let relname = columns["rows"].as_array().unwrap().iter().find(|row| row["name"] == "relname").unwrap();
    assert_eq!((&relname["type"], &relname["notNull"]), (&json!("name"), &json!(true)));
    let indexes = call(client, "postgresql/listIndexes", table).await;
    assert!(names(&indexes).contains(&"pg_class_oid_index".to_owned()), "{indexes}");
    let sizes = call(client, "postgresql/listTableSizes", json!({"schema": "pg_catalog", "limit": 3})).await;
    assert_eq!(sizes["rowCount"], 3);
    let none = call(client, "postgresql/describeTable", json!({"table": "no'such\" table"})).await;
    assert_eq!(none["rowCount"], 0);
}

async fn keep_objects(client: &mut Client) {
    let new = json!({"key": "a/b.txt", "content": "aGVsbG8=", "contentType": "text/plain"});
    assert_eq!(call(client, "storage/put", new).await["size"], 5);
    let by_key = json!({"key": "a/b.txt"});
    assert_eq!(call(client, "storage/get", by_key.clone()).await["content"], "aGVsbG8=");
    let part = json!({"key": "a/b.txt", "first": 0, "last": 1});
    assert_eq!(call(client, "storage/get", part).await["content"], "aGU=");
    assert_eq!(call(client, "storage/head", by_key.clone()).await["contentType"], "text/plain");
    let listed = call(client, "storage/list", json!({"prefix": "a/"})).await;
    assert_eq!(listed["items"][0]["key"], "a/b.txt", "{listed}");
    let folders = call(client, "storage/listFolder", json!({})).await;
    assert_eq!(folders["prefixes"], json!(["a/"]), "{folders}");
    call(client, "storage/copy", json!({"source": "a/b.txt", "key": "c"})).await;
    let link = call(client, "storage/linkToRead", by_key.clone()).await;
    assert!(link["url"].as_str().unwrap().contains("/files/a/b.txt?"), "{link}");
    call(client, "storage/delete", by_key).await;
}

#[tokio::test]
async fn variables_are_applied_once_and_again_when_they_change() {
    let url = |rest: &str| format!("redis://ann:{SECRET}@{rest}");
    let service = TestService::start_with(&[("REDIS_URL", &url("cache.example:7000/2?timeout=3"))]).await;
    let instance = service.get(&path("redis")).await.json();
    assert_eq!(
        (&instance["config"], &instance["status"], &instance["labels"]),
        (
            &json!({"host": "cache.example", "port": 7000, "database": 2, "tls": {"mode": "disable"}}),
            &json!("CONNECTED"),
            &json!({"registeredBy": "environment"})
        ),
        "{instance}"
    );
    assert!(!crate::credentials::holds(&service.stored_bytes(), SECRET), "the secret is sealed");

    let own = json!({"name": "Cache", "config": {"pool": {"maxConnections": 3}}, "labels": {"team": "x"}});
    let changed = service.with_body("PATCH", &path("redis"), &own).await.json();
    assert_eq!(changed["name"], "Cache", "{changed}");
    let service = service.restart(&[], &[("REDIS_URL", &url("cache.example:7000/2"))]).await.unwrap();
    let same = service.get(&path("redis")).await.json();
    assert_eq!(same["version"], changed["version"], "nothing is written anew: {same}");
    let credential = service.get(&format!("{}/credentials/status", path("redis"))).await.json();

    let changed = [("REDIS_URL", "rediss://ann:another-secret@cache2.example")];
    let service = service.restart(&[], &changed).await.unwrap();
    let instance = service.get(&path("redis")).await.json();
    assert_eq!(
        (&instance["config"], &instance["labels"]["team"], &instance["name"]),
        (
            &json!({"host": "cache2.example", "port": 6379, "database": 0, "tls": {"mode": "verify-full"}, "pool": {"maxConnections": 3}}),
            &json!("x"),
            &json!("Cache")
        )
    );
    let renewed = service.get(&format!("{}/credentials/status", path("redis"))).await.json();
    assert_ne!(renewed["updatedAt"], credential["updatedAt"]);

    // Without the variable the instance stays, the operator's to delete.
    let service = service.restart(&[], &[]).await.unwrap();
    assert_eq!(service.get(&path("redis")).await.status, 200);
}

#[tokio::test]
async fn what_an_operator_made_is_left_alone() {
    let service = TestService::start().await;
    let installed = service.post("/api/v1/catalogue/redis/install?publish=true", &json!({})).await;
    assert_eq!(installed.status, 201);
    let own =
        json!({"id": "redis", "integrationDefinitionId": "redis", "name": "Ours", "config": {"host": "ours.example"}});
    assert_eq!(service.post(INSTANCES, &own).await.status, 201);
    // A definition of the same id and number that sends elsewhere must not get the secret.
    let mut elsewhere = crate::service::definition("stripe", &json!({}));
    elsewhere["authType"] = json!("api_key");
    assert_eq!(service.post("/api/v1/integration-definitions?publish=true", &elsewhere).await.status, 201);

    let environment = [("REDIS_URL", "redis://theirs.example"), ("STRIPE_SECRET_KEY", "sk_test_1")];
    let service = service.restart(&[], &environment).await.unwrap();
    assert_eq!(service.get(&path("redis")).await.json()["config"], json!({"host": "ours.example"}));
    assert_eq!(service.get(&path("stripe")).await.status, 404);
}

#[tokio::test]
async fn another_client_of_auth0_is_another_version_of_its_definition() {
    let variables = |secret| {
        [("AUTH0_DOMAIN", "acme.eu.auth0.invalid"), ("AUTH0_CLIENT_ID", "client"), ("AUTH0_CLIENT_SECRET", secret)]
    };
    let pinned = async |service: &TestService| {
        let instance = service.get(&path("auth0")).await.json();
        assert_eq!(instance["config"]["domain"], "acme.eu.auth0.invalid", "{instance}");
        instance["definitionVersion"].as_str().unwrap().to_owned()
    };
    let service = TestService::start_with(&variables(SECRET)).await;
    assert_eq!(pinned(&service).await, "1.0.0");
    assert!(!crate::credentials::holds(&service.stored_bytes(), SECRET), "the secret is sealed");
    let service = service.restart(&[], &variables(SECRET)).await.unwrap();
    assert_eq!(pinned(&service).await, "1.0.0");
    let service = service.restart(&[], &variables("another")).await.unwrap();
    assert_eq!(pinned(&service).await, "1.0.1");
    let service = service.restart(&[], &variables(SECRET)).await.unwrap();
    assert_eq!(pinned(&service).await, "1.0.0", "the version with this client is there already");
}
