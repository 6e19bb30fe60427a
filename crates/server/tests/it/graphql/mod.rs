//! The graphql adapter through the public door: against a real GraphQL server, and against one
//! that says what a test wants.

use std::process::Command;

use axum::response::Response;
use serde_json::{Value, json};

use crate::client::{Answer, pointers};
use crate::oidc::program;
use crate::process::Program;
use crate::service::{TestService, json_response};

/// A running GraphQL server; it ends with this value.
pub(crate) struct Shop {
    pub(crate) url: String,
    _process: Program,
}

impl Shop {
    /// Starts one that answers until `budget` is used up; nothing where it is not installed.
    pub(crate) fn start(budget: u32) -> Option<Self> {
        let modules = program("INTEGRATION_TEST_NODE_MODULES")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/graphql/server.mjs");
        let mut command = Command::new("node");
        command.arg(script).env("SETTINGS", json!({"modules": modules, "budget": budget}).to_string());
        let (process, said) = Program::start(&mut command, |line| serde_json::from_str::<Value>(&line).ok());
        Some(Self { url: said["url"].as_str().unwrap().to_owned(), _process: process })
    }
}

/// A definition of the shop.
fn shop() -> Value {
    let method = |name: &str, operation: Value, idempotent: bool| {
        json!({
            "name": name, "operation": operation, "idempotent": idempotent, "timeoutMs": 20_000,
            "retryConfig": {"maxRetries": 1, "initialDelayMs": 1},
        })
    };
    json!({
        "id": "shop", "name": "Shop", "version": "1.0.0", "type": "graphql", "authType": "oauth2",
        "methods": [
            method("getItem", json!({"query": "query Item($id: ID!) { item(id: $id) { id title } }", "dataPath": "/item"}), true),
            method("listItems", json!({
                "query": "query Items($first: Int, $after: String) { items(first: $first, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }",
                "dataPath": "/items/nodes", "pagination": {"connection": "/items", "pageSize": 20},
            }), true),
            method("createItem", json!({
                "query": "mutation Create($input: NewItem!) { createItem(input: $input) { id title price } }",
                "variables": {"input": "item"}, "dataPath": "/createItem",
            }), false),
            method("getSecret", json!({"query": "{ secret }"}), true),
            method("getBroken", json!({"query": "query B($id: ID!) { item(id: $id) { id broken(why: \"a test\") } }", "dataPath": "/item"}), true),
            method("getWhatIsThere", json!({
                "query": "query B($id: ID!) { item(id: $id) { id broken(why: \"a test\") } }", "dataPath": "/item", "partialData": "allow",
            }), true),
            method("getUnknown", json!({"query": "{ unknown }"}), true),
        ],
    })
}

/// A service with an instance `shop` of a real shop.
async fn service_with_shop(budget: u32, token: &str) -> Option<(TestService, Shop)> {
    let shop_server = Shop::start(budget)?;
    let service = TestService::start().await;
    let created = service.post("/api/v1/integration-definitions?publish=true", &shop()).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "shop", "integrationDefinitionId": "shop", "name": "Shop", "config": {"baseUrl": shop_server.url}});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    store_token(&service, token).await;
    Some((service, shop_server))
}

async fn store_token(service: &TestService, token: &str) {
    let credential = json!({"type": "oauth2", "data": {"access_token": token}});
    let stored = service.post("/api/v1/integration-instances/shop/credentials", &credential).await;
    assert!(stored.status < 300, "{}", stored.json());
}

async fn call(service: &TestService, method: &str, params: Value) -> Answer {
    service.execute("shop", method, &params).await
}

/// Status, code and message of a call that failed.
async fn failure(service: &TestService, method: &str, params: Value) -> (u16, String, Value) {
    let answer = call(service, method, params).await;
    let error = answer.json()["error"].clone();
    (answer.status, error["code"].as_str().unwrap_or_default().to_owned(), error)
}

#[tokio::test]
async fn a_real_server_is_asked_and_changed() {
    let Some((service, _shop)) = service_with_shop(1_000, "good").await else { return };
    let tested = service.post("/api/v1/integration-instances/shop/test", &json!({})).await;
    assert_eq!((tested.status, &tested.json()["healthy"]), (200, &json!(true)), "{}", tested.json());

    let answer = call(&service, "getItem", json!({"id": 7})).await.json();
    assert_eq!(answer["data"], json!({"id": "7", "title": "Item 7"}), "{answer}");
    assert_eq!(call(&service, "getSecret", json!({})).await.json()["data"], json!({"secret": "the secret"}));
    assert_eq!(call(&service, "getItem", json!({"id": "none"})).await.json()["data"], Value::Null);
    let created = call(&service, "createItem", json!({"item": {"title": "New", "price": 1.5}})).await.json();
    assert_eq!(created["data"], json!({"id": "58", "title": "New", "price": 1.5}), "{created}");

    let all = service.post("/execute/shop/listItems?paginate=all", &json!({"params": {}})).await.json();
    let ids: Vec<String> =
        all["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (1..=58).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(all["meta"]["pages"], 3);
    let page = service.post("/execute/shop/listItems?paginate=page", &json!({"params": {"first": 50}})).await.json();
    let cursor = page["meta"]["nextPage"].as_str().unwrap();
    let query = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect::<String>();
    let path = format!("/execute/shop/listItems?paginate=page&cursor={query}");
    let rest = service.post(&path, &json!({"params": {"first": 50}})).await.json();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["meta"]["nextPage"]), (8, &Value::Null));

    let shown =
        service.post("/execute/shop/createItem?dryRun=true", &json!({"params": {"item": {"title": "T"}}})).await.json();
    assert_eq!(shown["data"]["body"]["variables"], json!({"input": {"title": "T"}}), "{shown}");
    assert_eq!(shown["data"]["headers"]["authorization"], "[redacted]");
}

#[tokio::test]
async fn a_real_servers_errors_say_what_they_mean() {
    let Some((service, _shop)) = service_with_shop(1_000, "good").await else { return };
    let (status, code, error) = failure(&service, "listItems", json!({"first": 51})).await;
    assert_eq!((status, code.as_str()), (400, "VALIDATION_ERROR"), "{error}");
    assert_eq!(error["message"], "the upstream answered with an error: first must be at most 50 (BAD_USER_INPUT)");
    let (status, code, error) = failure(&service, "getUnknown", json!({})).await;
    assert_eq!((status, code.as_str(), &error["retryable"]), (502, "UPSTREAM_ERROR", &json!(false)), "{error}");
    let (status, code, error) = failure(&service, "getBroken", json!({"id": 1})).await;
    assert_eq!((status, code.as_str()), (502, "UPSTREAM_ERROR"), "{error}");
    assert_eq!(error["details"]["upstreamErrors"][0]["path"], json!(["item", "broken"]));
    let partial = call(&service, "getWhatIsThere", json!({"id": 1})).await.json();
    assert_eq!(partial["data"], json!({"id": "1", "broken": null}), "{partial}");
    assert_eq!(
        partial["meta"]["warnings"],
        json!([{"pointer": "/data/broken", "message": "the warehouse is down (DOWNSTREAM)"}])
    );
}

#[tokio::test]
async fn a_real_servers_refusal_of_a_token_is_told_until_another_comes() {
    let Some((service, _shop)) = service_with_shop(1_000, "a-bad-token").await else { return };
    let (status, code, error) = failure(&service, "getSecret", json!({})).await;
    assert_eq!((status, code.as_str()), (502, "AUTH_ERROR"), "{error}");
    assert!(!error.to_string().contains("a-bad-token"), "what the server repeats of it is taken out: {error}");
    let instance = service.get("/api/v1/integration-instances/shop").await.json();
    assert_eq!(instance["status"], "AUTH_ERROR");
    store_token(&service, "good").await;
    assert_eq!(call(&service, "getSecret", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_real_servers_limit_is_told_with_the_time_to_come_back() {
    let Some((service, _shop)) = service_with_shop(15, "good").await else { return };
    assert_eq!(call(&service, "getItem", json!({"id": 1})).await.status, 200);
    let answer = call(&service, "createItem", json!({"item": {"title": "T"}})).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (429, &json!("RATE_LIMIT_EXCEEDED")),
        "{}",
        answer.json()
    );
    assert_eq!(answer.header("retry-after"), "50", "5 are left of 10, and one comes each ten seconds");
    assert_eq!(answer.json()["error"]["details"]["retry"], "deadline_too_near");
}

#[tokio::test]
async fn a_real_servers_schema_becomes_a_definition_that_executes() {
    let Some(shop_server) = Shop::start(1_000) else { return };
    let service = TestService::start().await;
    let create = async |path: &str, body: Value| {
        let answer = service.post(path, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()
    };
    // The server tells its schema to whoever asks for it, as a method too.
    let fields = "name description isDeprecated args { name type { ...T } defaultValue } type { ...T }";
    let query = format!(
        "{{ __schema {{ queryType {{ name }} mutationType {{ name }} types {{ kind name fields(includeDeprecated: true) {{ {fields} }} \
         inputFields {{ name type {{ ...T }} defaultValue }} enumValues {{ name }} possibleTypes {{ name }} }} }} }} \
         fragment T on __Type {{ kind name ofType {{ kind name ofType {{ kind name ofType {{ kind name }} }} }} }}"
    );
    let asking = json!({
        "id": "asking", "name": "Asking", "version": "1.0.0", "type": "graphql", "authType": "none",
        "methods": [{"name": "introspect", "operation": {"query": query}}],
    });
    let instance =
        |id: &str| json!({"id": id, "integrationDefinitionId": id, "name": id, "config": {"baseUrl": shop_server.url}});
    create("/api/v1/integration-definitions?publish=true", asking).await;
    create("/api/v1/integration-instances", instance("asking")).await;
    let schema = service.execute("asking", "introspect", &json!({})).await.json()["data"].clone();

    let imported = create("/api/v1/imports/graphql?id=imported&publish=true", schema).await;
    assert_eq!(
        (&imported["status"], &imported["report"]["methodCount"]),
        (&json!("PUBLISHED"), &json!(4)),
        "{imported}"
    );
    create("/api/v1/integration-instances", instance("imported")).await;
    let item = service.execute("imported", "item", &json!({"id": "3"})).await.json();
    assert_eq!(item["data"], json!({"id": "3", "title": "Item 3", "price": null}), "{item}");
    assert_eq!(item["meta"]["warnings"], Value::Null, "the answer fits the schema that was made of its type");
    let all = service.post("/execute/imported/items?paginate=all", &json!({"params": {}})).await.json();
    assert_eq!((all["data"]["nodes"].as_array().map(Vec::len), &all["meta"]["pages"]), (Some(57), &json!(3)), "{all}");
    let created = service.execute("imported", "createItem", &json!({"input": {"title": "New"}})).await.json();
    assert_eq!(created["data"]["id"], "58", "{created}");
    let created = service.execute("imported", "createItem", &json!({"input": {"title": 5}})).await;
    assert_eq!((created.status, &created.json()["error"]["code"]), (400, &json!("VALIDATION_ERROR")));
}

#[tokio::test]
async fn a_schema_is_imported_as_text_and_by_its_url() {
    let service = TestService::start().await;
    let schema = "type Query { item(id: ID!): Item } type Item { id: ID! title: String }";
    let send = |path: &'static str, media_type: &'static str, body: String| {
        let request = crate::client::post(path).header("content-type", media_type);
        let service = &service;
        async move { service.send(request, &body).await }
    };
    let dry = send(
        "/api/v1/imports/graphql?dryRun=true&server=https://api.example/graphql",
        "application/graphql",
        schema.to_owned(),
    )
    .await;
    let document = dry.json();
    assert_eq!(
        (dry.status, &document["definition"]["defaultConfig"]["baseUrl"]),
        (200, &json!("https://api.example/graphql"))
    );
    assert_eq!(
        document["definition"]["methods"][0]["operation"]["query"],
        "query item($id: ID!) { item(id: $id) { id title } }"
    );
    assert!(service.items("/api/v1/integration-definitions").await.is_empty(), "nothing is stored");

    service.upstream.always(|_| Response::new(schema.into()));
    let reference = json!({"url": format!("{}/schema.graphql", service.upstream.url())}).to_string();
    let fetched = send("/api/v1/imports/graphql?id=by-url", "application/json", reference).await;
    assert_eq!((fetched.status, &fetched.json()["status"]), (201, &json!("DRAFT")), "{}", fetched.json());
    let wrong = send("/api/v1/imports/graphql", "application/graphql", "type Query {".to_owned()).await;
    assert_eq!(wrong.status, 400, "{}", wrong.json());
    let wrong = send("/api/v1/imports/graphql", "application/xml", schema.to_owned()).await;
    assert_eq!(wrong.status, 415, "{}", wrong.json());
}

#[test]
fn a_command_translates_schemas_without_a_service() {
    let introspection = r#"{"data": {"__schema": {"queryType": {"name": "Q"}, "types": [
        {"kind": "OBJECT", "name": "Q", "fields": [{"name": "a", "args": [], "type": {"kind": "SCALAR", "name": "Int"}}]}]}}}"#;
    let folder = crate::binary::folder(&[
        ("shop.graphql", "type Query { item: Int } type Subscription { tick: Int }"),
        ("answer.json", introspection),
    ]);
    let (code, out, error) = crate::binary::run(folder.path(), &["definitions", "import", "--dry-run", "config"]);
    assert_eq!(code, 0, "{error}");
    let rows: Vec<_> = out.lines().filter(|line| line.contains("graphql")).collect();
    assert!(
        rows.iter().any(|row| row.contains("answer.json")) && rows.iter().any(|row| row.contains("shop.graphql")),
        "{out}"
    );
    std::fs::write(folder.path().join("config/wrong.gql"), "type Query {").unwrap();
    let (code, _, error) =
        crate::binary::run(folder.path(), &["definitions", "import", "--dry-run", "config/wrong.gql"]);
    assert_eq!(code, 1);
    assert!(error.contains("expected a GraphQL schema") && error.contains("line 1"), "{error}");
}

/// A definition of one method `call` on a scripted upstream.
fn scripted(method: &Value) -> Value {
    let mut call =
        json!({"name": "call", "operation": {"query": "query Q($n: Int) { item(n: $n) }"}, "idempotent": true});
    for (name, value) in method.as_object().unwrap() {
        call[name] = value.clone();
    }
    json!({"id": "thing", "name": "Thing", "version": "1.0.0", "type": "graphql", "authType": "none", "methods": [call]})
}

#[tokio::test]
async fn a_call_takes_its_cost_from_the_limits() {
    let service = TestService::start().await;
    let limits = json!({"requestsPerMinute": 6, "burstLimit": 100});
    let operation = json!({"query": "{ item }", "cost": {"declared": 40}});
    service.instance_of(&scripted(&json!({"rateLimits": limits, "operation": operation})), "it").await;
    service.upstream.always(|_| json_response(200, &json!({"data": {"item": 1}})));
    for expected in [200, 200, 429] {
        let answer = service.execute("it", "call", &json!({})).await;
        assert_eq!(answer.status, expected, "{}", answer.json());
    }
    assert_eq!(service.upstream.received().len(), 2);
}

#[tokio::test]
async fn a_cost_is_learnt_from_answers() {
    let service = TestService::start().await;
    let limits = json!({"requestsPerMinute": 60, "burstLimit": 200});
    service.instance_of(&scripted(&json!({"rateLimits": limits})), "it").await;
    let costing = |cost: i64| {
        json_response(200, &json!({"data": {"item": 1}, "extensions": {"cost": {"actualQueryCost": cost}}}))
    };
    for (cost, status) in [(55, 200), (4_000_000_000, 200), (1, 200), (1, 200), (1, 429)] {
        if status == 200 {
            service.upstream.then(costing(cost));
        }
        // 1 of 200, then 55, then no more than a minute's worth, whatever the upstream says.
        let answer = service.execute("it", "call", &json!({})).await;
        assert_eq!(answer.status, status, "{}", answer.json());
    }
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    let counted = metrics.lines().find(|line| line.starts_with("integration_upstream_cost_total{"));
    assert!(counted.is_some(), "{metrics}");
}

#[tokio::test]
async fn what_an_upstream_left_out_is_told_and_not_kept() {
    let service = TestService::start().await;
    let operation = json!({"query": "query Q($n: Int) { item(n: $n) other }", "partialData": "allow"});
    service.instance_of(&scripted(&json!({"operation": operation, "cache": {"ttlMs": 60_000}})), "it").await;
    service.upstream.then(json_response(
        200,
        &json!({"data": {"item": 1, "other": null}, "errors": [{"message": "away", "path": ["other"]}]}),
    ));
    service.upstream.always(|_| json_response(200, &json!({"data": {"item": 1, "other": 2}})));
    let partial = service.execute("it", "call", &json!({"n": 1})).await.json();
    assert_eq!(partial["meta"]["warnings"], json!([{"pointer": "/data/other", "message": "away"}]));
    let whole = service.execute("it", "call", &json!({"n": 1})).await.json();
    assert_eq!((&whole["data"]["other"], &whole["meta"]["cached"]), (&json!(2), &json!(false)));
    let kept = service.execute("it", "call", &json!({"n": 1})).await.json();
    assert_eq!((&kept["data"]["other"], &kept["meta"]["cached"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn a_document_that_cannot_be_executed_is_not_published() {
    let service = TestService::start().await;
    for (operation, pointer) in [
        (json!({"query": "query Q($id: ID!) { item }"}), "/methods/0/operation/query"),
        (json!({"query": "{ item"}), "/methods/0/operation/query"),
        (json!({"query": "subscription { item }"}), "/methods/0/operation/query"),
        (json!({"query": "{ item }", "dataPath": "/other"}), "/methods/0/operation/dataPath"),
    ] {
        let document = scripted(&json!({"operation": operation}));
        let refused = service.post("/api/v1/integration-definitions?publish=true", &document).await;
        assert_eq!((refused.status, pointers(&refused)), (400, vec![pointer.to_owned()]), "{operation}");
    }
    let adapters = service.items("/api/v1/adapters").await;
    assert!(adapters.iter().any(|adapter| adapter["type"] == "graphql"));
}

#[tokio::test]
async fn the_example_publishes() {
    let service = TestService::start().await;
    let example = include_str!("../../../../../examples/github-graphql.yaml");
    let request =
        crate::client::post("/api/v1/integration-definitions?publish=true").header("content-type", "application/yaml");
    let created = service.send(request, example).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_asked_for_its_schema() {
    let Some(shop) = Shop::start(1_000) else { return };
    let service = TestService::start().await;
    let path = "/api/v1/imports/graphql?id=asked&publish=true";
    let imported = service.post(path, &json!({"endpoint": shop.url})).await;
    assert_eq!(imported.status, 201, "{}", imported.json());
    assert_eq!(imported.json()["report"]["format"], "GraphQL introspection");
    // The endpoint is the baseUrl, so that an instance needs no config.
    let instance = json!({"id": "asked", "integrationDefinitionId": "asked", "name": "Asked"});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    let listed = service.post("/execute/asked/items?dryRun=true", &json!({"params": {"first": 2}})).await.json();
    assert!(listed.to_string().contains(&shop.url), "{listed}");
}

#[tokio::test]
async fn an_endpoint_is_asked_with_its_headers_under_the_egress_rules() {
    let service = TestService::start().await;
    let import = async |body: Value| service.post("/api/v1/imports/graphql?dryRun=true", &body).await;
    let endpoint = format!("{}/graphql", service.upstream.url());
    let asked = json!({"endpoint": endpoint, "headers": {"Authorization": "Bearer a-secret-mark-5c", "X-Tenant": "a"}});
    service.upstream.always(|_| json_response(200, &json!({"errors": [{"message": "of the inside"}]})));
    let refused = import(asked.clone()).await;
    crate::client::assert_problem(&refused, 400, "VALIDATION_ERROR");
    let told = refused.json().to_string();
    assert!(told.contains("introspection") && !told.contains("of the inside") && !told.contains("a-secret-mark"));
    let received = service.upstream.received().pop().unwrap();
    assert_eq!((received.verb.as_str(), &received.headers["x-tenant"]), ("POST", &http::HeaderValue::from_static("a")));
    assert_eq!(received.headers["authorization"], "Bearer a-secret-mark-5c");
    let query: Value = serde_json::from_slice(&received.body).unwrap();
    assert!(query["query"].as_str().unwrap().contains("__schema"), "{query}");

    service.upstream.always(|_| json_response(401, &json!({})));
    crate::client::assert_problem(&import(asked).await, 502, "UPSTREAM_ERROR");
    let count = service.upstream.received().len();
    for (headers, pointer) in [
        (json!({"Host": "other.example"}), "/headers/Host"),
        (json!({"a b": "c"}), "/headers/a b"),
        (json!({"X-A": "b\r\nX-B: c"}), "/headers/X-A"),
    ] {
        let refused = import(json!({"endpoint": endpoint, "headers": headers})).await;
        assert_eq!((refused.status, pointers(&refused)), (400, vec![pointer.to_owned()]), "{}", refused.json());
    }
    let inside = import(json!({"endpoint": "http://169.254.169.254/graphql"})).await;
    crate::client::assert_problem(&inside, 502, "EGRESS_DENIED");
    assert_eq!(service.upstream.received().len(), count);
}
