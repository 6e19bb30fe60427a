//! Redis, mail, storage of objects, webhooks.

use integration_engine::adapter::AdapterSettings;
use serde_json::{Value, json};

use super::{conforms, conforms_with};
use crate::databases::method;
use crate::service::TestService;
use crate::{email, redis, storage};

fn basic(username: &str, password: &str) -> Value {
    json!({"type": "basic", "data": {"username": username, "password": password}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    const SECRET: &str = "the-right-secret";
    let settings = ["--requirepass", SECRET];
    let Some(server) = redis::Server::start(&settings) else { return };
    let Some(full) = redis::Server::start(&[&settings[..], &["--maxmemory", "1"]].concat()) else { return };
    let config = |server: &redis::Server| json!({"host": "127.0.0.1", "port": server.address.port()});
    let command = |name: &str, command: Value, more: Value| {
        let mut operation = json!({ "command": command });
        operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        method(name, &operation, &json!({"a": {}}))
    };
    let methods = [
        command("echo", json!(["ECHO", "said {a}"]), json!({})),
        command("push", json!(["RPUSH", "notes", "{a}"]), json!({})),
        command("count", json!(["LLEN", "notes"]), json!({})),
        command("large", json!(["ECHO", "x".repeat(2000)]), json!({"maxReplyBytes": 1024})),
    ];
    let sample = json!({
        "definition": {
            "id": "cache", "name": "Cache", "version": "1.0.0", "type": "redis", "authType": "basic", "methods": methods,
        },
        "config": config(&server),
        "credential": basic("default", SECRET),
        "calls": [
            {"method": "echo", "params": {"a": "one"}, "data": "said one"},
            {"method": "echo", "params": {"a": "two"}, "data": "said two"},
        ],
        "write": {"method": "push", "params": {"a": "{n}"}, "witness": {"method": "count"}},
        "invalidParams": [{"params": {"a": {"b": 1}}, "pointer": "/params/a"}, {"params": {}, "pointer": "/params/a"}],
        "invalidCredentials": [{"type": "custom", "data": {"certain": "an-unfit-secret"}}],
        "refusedCredential": {"credential": basic("default", "the-wrong-secret")},
        "limited": {
            "config": config(&full), "method": "push", "params": {"a": "1"}, "code": "UPSTREAM_ERROR", "retryable": true,
        },
        "tooLarge": {"method": "large", "params": {}},
    });
    conforms("redis", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn email() {
    let Some(server) = email::Server::start(&json!({"login": true})) else { return };
    let operation = json!({
        "from": "Sender <sender@here.example>", "to": {"param": "to"}, "subject": "{a}", "text": "Hello",
    });
    let sent = |to: &str| json!({"method": "note", "params": {"to": [to], "a": "News"}, "data": {"accepted": [to]}});
    let sample = json!({
        "definition": {
            "id": "mail", "name": "Mail", "version": "1.0.0", "type": "email", "authType": "basic",
            "methods": [method("note", &operation, &json!({"to": {}, "a": {}}))],
        },
        "config": {"host": "127.0.0.1", "port": server.address.port()},
        "credential": basic("sender", "right-secret"),
        "calls": [sent("ann@there.example"), sent("ben@there.example")],
        "write": {"method": "note", "params": {"to": ["ann@there.example"], "a": "{n}"}},
        "invalidParams": [
            {"params": {"to": "nobody", "a": "News"}, "pointer": "/params/to"},
            {"params": {"to": ["ann@there.example"], "a": [1]}, "pointer": "/params/a"},
        ],
        "invalidCredentials": [{"type": "custom", "data": {"certain": "an-unfit-secret"}}],
        "refusedCredential": {"credential": basic("sender", "the-wrong-secret")},
        "limited": {
            "params": {"to": ["ann@there.example"], "a": "busy"}, "code": "UPSTREAM_ERROR", "retryable": true,
        },
    });
    conforms("email", sample).await;
}

/// What is asked of every provider.
fn objects(auth_type: &str, config: Value) -> Value {
    let method = |name: &str, operation: Value| json!({"name": name, "operation": operation});
    json!({
        "definition": {
            "id": "files", "name": "Files", "version": "1.0.0", "type": "storage", "authType": auth_type,
            "methods": [
                method("put", json!({"action": "put", "key": "{+key}", "content": "content", "encoding": "text"})),
                method("get", json!({"action": "get", "key": "{+key}", "decoding": "text"})),
                method("getSmall", json!({"action": "get", "key": "{+key}", "decoding": "text", "maxResponseBytes": 64})),
                method("head", json!({"action": "head", "key": "{+key}"})),
                method("list", json!({"action": "list", "prefix": "notes/"})),
            ],
        },
        "config": config,
        "calls": [
            {"method": "get", "params": {"key": "pages/a"}, "data": {"content": "a".repeat(100)}},
            {"method": "get", "params": {"key": "pages/b"}, "data": {"content": "b".repeat(100)}},
        ],
        "write": {
            "method": "put", "params": {"key": "notes/{n}", "content": "note"}, "witness": {"method": "list"},
        },
        "invalidParams": [
            {"params": {"key": "../x"}, "pointer": "/params/key"}, {"params": {"key": [1]}, "pointer": "/params/key"},
        ],
        "tooLarge": {"method": "getSmall"},
    })
}

/// Puts the objects there that the calls read.
async fn fill(sample: &Value, names: &[&str]) {
    let service = TestService::start().await;
    let credential = Some(sample["credential"]["data"].clone());
    storage::instance(&service, "custom", sample["config"].clone(), credential).await;
    for name in names {
        let params = json!({
            "key": format!("pages/{name}"), "content": name.repeat(100), "type": "text/plain", "author": null,
        });
        storage::data(&service, "put", params).await;
    }
}

fn custom(data: Value) -> Value {
    json!({"type": "custom", "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_s3() {
    let Some(server) = storage::Server::start("s3") else { return };
    let mut sample =
        objects("custom", json!({"provider": "s3", "bucket": "files", "endpoint": server.url, "prefix": "app/"}));
    sample["credential"] = custom(json!({"accessKeyId": "S3RVER", "secretAccessKey": "S3RVER"}));
    sample["invalidCredentials"] = json!([custom(json!({"accountKey": "YW4gdW5maXQgc2VjcmV0"}))]);
    let other = custom(json!({"accessKeyId": "OTHER", "secretAccessKey": "the-wrong-secret"}));
    sample["refusedCredential"] = json!({ "credential": other });
    // This server fails where a list is longer than asked for, as in the connection test: there
    // is one object to begin with.
    sample["calls"][1] = json!({"method": "head", "params": {"key": "pages/a"}, "data": {"size": 100}});
    fill(&sample, &["a"]).await;
    conforms("storage_s3", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_azure() {
    let Some(server) = storage::Server::start("azure") else { return };
    let config =
        json!({"provider": "azure", "bucket": "files", "account": storage::azure::ACCOUNT, "endpoint": server.url});
    let mut sample = objects("custom", config);
    sample["credential"] = custom(json!({"accountKey": storage::azure::KEY}));
    sample["invalidCredentials"] = json!([custom(json!({"secretAccessKey": "an-unfit-secret"}))]);
    fill(&sample, &["a", "b"]).await;
    conforms("storage_azure", sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("files/pages")).unwrap();
    for name in ["a", "b"] {
        std::fs::write(folder.path().join("files/pages").join(name), name.repeat(100)).unwrap();
    }
    let settings = AdapterSettings { storage_folder: Some(folder.path().to_owned()), ..AdapterSettings::default() };
    let sample = objects("none", json!({"provider": "folder", "bucket": "files"}));
    conforms_with("storage_folder", &settings, sample).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook() {
    let sample = json!({
        "definition": {
            "id": "hooks", "name": "Hooks", "version": "1.0.0", "type": "webhook", "authType": "custom", "methods": [],
        },
        "config": {"scheme": "standard"},
        "credential": custom(json!({"secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]})),
        "invalidCredentials": [
            custom(json!({"secrets": ["not for the standard"]})), custom(json!({"certain": "an-unfit-secret"})),
        ],
    });
    conforms("webhook", sample).await;
}
