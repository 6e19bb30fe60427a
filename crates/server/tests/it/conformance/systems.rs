//! Systems over HTTP: REST, GraphQL, SOAP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::Response;
use serde_json::{Value, json};

use super::conforms;
use crate::service::{Received, TestService, Upstream, json_response};
use crate::{graphql, soap};

const TOKEN: &str = "the-right-secret";

fn token(token: &str) -> Value {
    json!({"type": "oauth2", "data": {"access_token": token}})
}

/// A shop for pets, as most systems over HTTP are.
fn shop(request: &Received, orders: &AtomicU64) -> Response {
    if request.headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        let said = request.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        return json_response(401, &json!({"error": format!("{said} is not known")}));
    }
    match (request.verb.as_str(), request.path_and_query.as_str()) {
        ("POST", "/orders") => json_response(201, &json!({"number": orders.fetch_add(1, Ordering::SeqCst)})),
        ("GET", "/orders") => json_response(200, &json!({"orders": orders.load(Ordering::SeqCst)})),
        ("GET", "/pets/limited") => {
            let mut refused = json_response(429, &json!({"error": "slow down"}));
            refused.headers_mut().insert("retry-after", http::HeaderValue::from_static("7"));
            refused
        }
        ("GET", "/pets/large") => json_response(200, &json!({"name": "x".repeat(5000)})),
        ("GET", path) => match path.strip_prefix("/pets/") {
            Some(name) => json_response(200, &json!({"name": name, "kind": "dog"})),
            None => json_response(404, &json!({"error": "no such thing"})),
        },
        _ => json_response(404, &json!({"error": "no such thing"})),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http() {
    let upstream = Upstream::start().await;
    let orders = Arc::new(AtomicU64::new(0));
    upstream.always(move |request| shop(request, &orders));
    let operation = json!({"verb": "GET", "path": "/pets/{name}", "maxResponseBytes": 4096});
    let sample = json!({
        "definition": {
            "id": "shop", "name": "Shop", "version": "1.0.0", "type": "http", "authType": "oauth2",
            "methods": [
                {"name": "getPet", "operation": operation, "idempotent": true},
                {"name": "order", "operation": {"verb": "POST", "path": "/orders", "body": "*"}},
                {"name": "getOrders", "operation": {"verb": "GET", "path": "/orders"}, "idempotent": true},
            ],
        },
        "config": {"baseUrl": upstream.url()},
        "credential": token(TOKEN),
        "calls": [
            {"method": "getPet", "params": {"name": "Rex"}, "data": {"name": "Rex"}},
            {"method": "getPet", "params": {"name": "Ben"}, "data": {"name": "Ben"}},
        ],
        "write": {"method": "order", "params": {"pet": "Rex {n}"}, "witness": {"method": "getOrders"}},
        "invalidParams": [{"params": {}, "pointer": "/params/name"}, {"params": {"name": {}}, "pointer": "/params/name"}],
        "refusedCredential": {"credential": token("the-wrong-secret")},
        "limited": {"params": {"name": "limited"}, "code": "UPSTREAM_ERROR", "retryable": true},
        "tooLarge": {"params": {"name": "large"}},
    });
    conforms("http", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphql() {
    let (Some(shop), Some(busy)) = (graphql::Shop::start(1_000_000), graphql::Shop::start(5)) else { return };
    let items = "query Items($after: String) { items(first: 50, after: $after) { nodes { id } } }";
    let create = "mutation Create($input: NewItem!) { createItem(input: $input) { id } }";
    let sample = json!({
        "definition": {
            "id": "shop", "name": "Shop", "version": "1.0.0", "type": "graphql", "authType": "oauth2",
            "methods": [
                {
                    "name": "getItem", "paramSchema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
                    "operation": {"query": "query Item($id: ID!) { item(id: $id) { id title } }", "dataPath": "/item"},
                },
                {"name": "createItem", "operation": {"query": create, "variables": {"input": "item"}}},
                {"name": "lastItems", "operation": {"query": items, "dataPath": "/items/nodes"}},
                {"name": "allItems", "operation": {"query": items, "maxResponseBytes": 256}},
                {"name": "getSecret", "operation": {"query": "{ secret }"}},
            ],
        },
        "config": {"baseUrl": shop.url},
        "credential": token("good"),
        "calls": [
            {"method": "getItem", "params": {"id": "7"}, "data": {"id": "7", "title": "Item 7"}},
            {"method": "getItem", "params": {"id": "8"}, "data": {"id": "8", "title": "Item 8"}},
        ],
        "write": {
            "method": "createItem", "params": {"item": {"title": "New {n}"}},
            // Those after the fiftieth.
            "witness": {"method": "lastItems", "params": {"after": "NTA="}},
        },
        "invalidParams": [{"params": {}, "pointer": "/params"}, {"params": {"id": {}}, "pointer": "/params/id"}],
        "refusedCredential": {"method": "getSecret", "params": {}, "credential": token("the-wrong-secret")},
        "limited": {"config": {"baseUrl": busy.url}, "retryable": true},
        "tooLarge": {"method": "allItems", "params": {}},
    });
    conforms("graphql", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soap() {
    let Some(server) = soap::Server::start() else { return };
    let service = TestService::start().await;
    let mut definition = server.definition(&service, "basic").await;
    let mut short = definition["methods"][0].clone();
    short["name"] = json!("AddShort");
    short["operation"]["maxResponseBytes"] = json!(64);
    definition["methods"].as_array_mut().unwrap().push(short);
    let basic = |password: &str| json!({"type": "basic", "data": {"username": "svc", "password": password}});
    let sample = json!({
        "definition": definition,
        "config": {
            "baseUrl": format!("{}/guarded", server.url),
            "security": {"usernameToken": {"password": "digest"}, "timestamp": {}},
        },
        "credential": basic("s3cret"),
        "calls": [
            {"method": "Add", "params": {"a": 1, "b": [2, 3]}, "data": {"sum": 6}},
            {"method": "Add", "params": {"a": 1, "b": [4]}, "data": {"sum": 5}},
        ],
        "write": {"method": "Divide", "params": {"a": 1.5, "b": 2}},
        "invalidParams": [
            {"params": {"a": "x", "b": [1]}, "pointer": "/params/a"}, {"params": {"a": 1, "b": [{}]}, "pointer": "/params/b/0"},
        ],
        "refusedCredential": {"credential": basic("the-wrong-secret")},
        "tooLarge": {"method": "AddShort"},
    });
    conforms("soap", sample).await;
}
