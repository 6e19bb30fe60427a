//! The storage adapter through the public door: against real servers, against one that says
//! what a test wants, and in a folder.

mod azure;
mod folder;
mod gcs;
mod s3;

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Answer;
use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;

/// A running server of objects; it ends with this value.
pub(crate) struct Server {
    pub(crate) url: String,
    _process: Program,
    _folder: TempDir,
}

impl Server {
    /// Nothing where it is not installed.
    pub(crate) fn start(provider: &str) -> Option<Self> {
        let modules = program("INTEGRATION_TEST_NODE_MODULES")?;
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/storage/server.mjs");
        let settings = json!({"modules": modules, "provider": provider, "folder": folder.path()});
        let mut command = Command::new("node");
        command.arg(script).env("SETTINGS", settings.to_string());
        let (process, said) = Program::start(&mut command, |line| serde_json::from_str::<Value>(&line).ok());
        Some(Self { url: said["url"].as_str().unwrap().to_owned(), _process: process, _folder: folder })
    }
}

/// A definition with a method for each action.
fn files(auth_type: &str) -> Value {
    let method = |name: &str, idempotent: bool, operation: Value| {
        json!({
            "name": name, "operation": operation, "idempotent": idempotent, "timeoutMs": 20_000,
            "retryConfig": {"maxRetries": 1, "initialDelayMs": 1},
        })
    };
    let metadata = json!({"author": "{author}"});
    json!({
        "id": "files", "name": "Files", "version": "1.0.0", "type": "storage", "authType": auth_type,
        "methods": [
            method("put", true, json!({
                "action": "put", "key": "{+key}", "content": "content", "encoding": "text", "contentType": "{type}",
                "metadata": metadata,
            })),
            method("putNew", false, json!({"action": "put", "key": "{+key}", "content": "content", "encoding": "json", "ifNoneMatch": "*"})),
            method("putOver", false, json!({"action": "put", "key": "{+key}", "content": "content", "encoding": "text", "ifMatch": "{etag}"})),
            method("putBytes", true, json!({"action": "put", "key": "{+key}", "content": "content", "partBytes": 5_242_880})),
            method("get", true, json!({
                "action": "get", "key": "{+key}", "decoding": "text", "range": {"first": "{first}", "last": "{last}"},
                "maxResponseBytes": 64, "ifNoneMatch": "{known}",
            })),
            method("getJson", true, json!({"action": "get", "key": "{+key}", "decoding": "json"})),
            method("getBytes", true, json!({"action": "get", "key": "{+key}"})),
            method("list", true, json!({"action": "list", "prefix": "{prefix}", "pageSize": 2})),
            method("listFolder", true, json!({"action": "list", "prefix": "{prefix}", "delimiter": "/"})),
            method("head", true, json!({"action": "head", "key": "{+key}"})),
            method("delete", true, json!({"action": "delete", "key": "{+key}"})),
            method("copy", true, json!({"action": "copy", "source": "{+from}", "key": "{+to}"})),
            method("linkToGet", true, json!({"action": "presign", "key": "{+key}", "expiresInSeconds": 60})),
            method("linkToPut", true, json!({"action": "presign", "key": "{+key}", "method": "PUT", "contentType": "text/plain"})),
        ],
    })
}

/// Makes an instance `files` with a config and, where there is one, a credential.
async fn instance(service: &TestService, auth_type: &str, config: Value, credential: Option<Value>) {
    let created = service.post("/api/v1/integration-definitions?publish=true", &files(auth_type)).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let instance = json!({"id": "files", "integrationDefinitionId": "files", "name": "Files", "config": config});
    let created = service.post("/api/v1/integration-instances", &instance).await;
    assert_eq!(created.status, 201, "{}", created.json());
    if let Some(data) = credential {
        store(service, data).await;
    }
}

async fn store(service: &TestService, data: Value) {
    let path = "/api/v1/integration-instances/files/credentials";
    let stored = service.post(path, &json!({"type": "custom", "data": data})).await;
    assert!(stored.status < 300, "{}", stored.json());
}

async fn call(service: &TestService, method: &str, params: Value) -> Answer {
    service.execute("files", method, &params).await
}

/// The data of a call that succeeds.
async fn data(service: &TestService, method: &str, params: Value) -> Value {
    let answer = call(service, method, params).await;
    assert_eq!(answer.status, 200, "{method}: {}", answer.json());
    answer.json()["data"].clone()
}

/// The error of a call that fails.
async fn failure(service: &TestService, method: &str, params: Value) -> Value {
    let answer = call(service, method, params).await;
    assert_ne!(answer.status, 200, "{method}: {}", answer.json());
    answer.json()["error"].clone()
}

/// Whether a connection test finds all well, and what it says.
async fn tested(service: &TestService) -> (bool, String) {
    let answer = service.post("/api/v1/integration-instances/files/test", &json!({})).await.json();
    (answer["healthy"] == true, answer.to_string())
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// The keys and prefixes of a listing.
fn told(listing: &Value) -> (Vec<&str>, Vec<&str>) {
    let keys = listing["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    let prefixes = listing["prefixes"].as_array().unwrap().iter().map(|prefix| prefix.as_str().unwrap()).collect();
    (keys, prefixes)
}

#[tokio::test]
async fn the_example_can_be_published() {
    let service = TestService::start().await;
    let request = http::Request::post("/api/v1/integration-definitions?publish=true")
        .header("host", "test")
        .header("content-type", "application/yaml");
    let example = include_str!("../../../../../examples/storage.yaml");
    let published = service.send(request, example).await;
    assert_eq!(published.status, 201, "{}", text(&published));
}

/// What every provider does alike: written, read, told of, listed, copied, deleted.
async fn life_of_objects(service: &TestService) {
    let (healthy, said) = tested(service).await;
    assert!(healthy, "{said}");
    let key = "a/b c+ü.txt";
    let put =
        data(service, "put", json!({"key": key, "content": "hello, world", "type": "text/plain", "author": null}))
            .await;
    assert_eq!((&put["key"], &put["size"]), (&json!(key), &json!(12)));
    let got = data(service, "get", json!({"key": key})).await;
    assert_eq!((&got["content"], &got["etag"], &got["size"]), (&json!("hello, world"), &put["etag"], &json!(12)));
    let told_of = data(service, "head", json!({"key": key})).await;
    assert_eq!((&told_of["size"], &told_of["etag"]), (&json!(12), &put["etag"]));
    assert!(told_of["lastModified"].as_str().unwrap().starts_with("20"), "{told_of}");
    let part = data(service, "get", json!({"key": key, "first": 7, "last": 9})).await;
    assert_eq!((&part["content"], &part["size"]), (&json!("wor"), &json!(12)));
    assert_eq!(data(service, "get", json!({"key": key, "first": 7})).await["content"], "world");
    let known = data(service, "get", json!({"key": key, "known": put["etag"]})).await;
    assert_eq!(known, json!({"key": key, "notModified": true}));

    for name in ["1", "2", "3", "sub/4"] {
        data(service, "put", json!({"key": format!("list/{name}"), "content": name, "type": null, "author": null}))
            .await;
    }
    let folder = data(service, "listFolder", json!({"prefix": "list/"})).await;
    assert_eq!(told(&folder), (vec!["list/1", "list/2", "list/3"], vec!["list/sub/"]));

    let copied = data(service, "copy", json!({"from": "list/2", "to": "copied"})).await;
    assert_eq!(copied["key"], "copied");
    assert_eq!(data(service, "get", json!({"key": "copied"})).await["content"], "2");
    for _ in 0..2 {
        data(service, "delete", json!({"key": "list/1"})).await;
    }
    let gone = failure(service, "get", json!({"key": "list/1"})).await;
    assert_eq!((&gone["code"], &gone["details"]["upstreamStatus"]), (&json!("UPSTREAM_ERROR"), &json!(404)), "{gone}");
    assert_eq!(failure(service, "head", json!({"key": "list/1"})).await["details"]["upstreamStatus"], 404);

    let large = failure(service, "get", json!({"key": put_large(service).await})).await;
    assert!(large["message"].as_str().unwrap().contains("read it in ranges"), "{large}");
    for key in ["../x", "/x", "a//b", "a/./b", "", "a\\b"] {
        let error = failure(service, "get", json!({ "key": key })).await;
        assert_eq!(
            (&error["code"], &error["details"]["errors"][0]["pointer"]),
            (&json!("VALIDATION_ERROR"), &json!("/params/key"))
        );
    }
}

/// Lists come in pages, which can be joined.
async fn pages(service: &TestService) {
    for name in ["1", "2", "3", "sub/4"] {
        let params = json!({"key": format!("list/{name}"), "content": name, "type": null, "author": null});
        data(service, "put", params).await;
    }
    let all = service.post("/execute/files/list?paginate=all", &json!({"params": {"prefix": "list/"}})).await.json();
    assert_eq!(told(&all["data"]).0, ["list/1", "list/2", "list/3", "list/sub/4"], "{all}");
    assert_eq!(all["meta"]["pages"], 2);
}

async fn put_large(service: &TestService) -> &'static str {
    let params = json!({"key": "large", "content": "x".repeat(65), "type": null, "author": null});
    data(service, "put", params).await;
    "large"
}

/// Content of 6 MiB, in base64, goes in two parts where the system takes parts.
async fn large_content(service: &TestService) {
    use base64::Engine as _;
    let content: Vec<u8> = (0..6 * 1024 * 1024_u32).map(|at| (at / 251 % 256) as u8).collect();
    let text = base64::engine::general_purpose::STANDARD.encode(&content);
    let put = data(service, "putBytes", json!({"key": "big", "content": text})).await;
    assert_eq!(put["size"], content.len());
    let got = data(service, "getBytes", json!({"key": "big"})).await;
    assert!(got["content"] == text, "the content came back as it was");
    assert_eq!(data(service, "head", json!({"key": "big"})).await["size"], content.len());
}
