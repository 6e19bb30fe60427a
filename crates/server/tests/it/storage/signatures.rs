//! S3 against a server that verifies signatures: whatever a request holds is signed as it is sent.

use std::time::Duration;

use bytes::Bytes;
use integration_engine::adapter::{Adapters, Call, Connection};
use integration_engine::credential::{AuthWants, Credential};
use integration_engine::http_client::{HttpClient, HttpClientSettings};
use integration_engine::network::EgressPolicy;
use integration_engine::params::Params;
use integration_model::Timestamp;
use integration_model::definition::{AuthType, DefinitionSpec};
use serde_json::{Value, json};

use super::verifying::{ID, SECRET, VerifyingServer};
use super::{data, failure, files, instance, large_content, life_of_objects, pages, store, tested, text};
use crate::client::send;
use crate::service::TestService;

fn key() -> Value {
    json!({"accessKeyId": ID, "secretAccessKey": SECRET})
}

pub(super) async fn service() -> (TestService, VerifyingServer) {
    let server = VerifyingServer::start().await;
    let service = TestService::start().await;
    instance(&service, "custom", server.config(), Some(key())).await;
    (service, server)
}

#[tokio::test]
async fn every_action_is_signed() {
    let (service, _server) = service().await;
    life_of_objects(&service).await;
    pages(&service).await;
    large_content(&service).await;
    let described = json!({"key": "described", "content": "{}", "type": "application/json", "author": "Ann  B"});
    data(&service, "put", described).await;
    let head = data(&service, "head", json!({"key": "described"})).await;
    assert_eq!((&head["contentType"], &head["metadata"]["author"]), (&json!("application/json"), &json!("Ann  B")));
    let there = failure(&service, "putNew", json!({"key": "described", "content": 1})).await;
    assert_eq!(there["details"]["upstreamStatus"], 412, "{there}");
}

#[tokio::test]
async fn keys_may_have_any_characters() {
    let (service, server) = service().await;
    let address = server.url.strip_prefix("http://").unwrap();
    for key in [
        "spaces  in it",
        "plus+and%20percent%",
        "ünïcödé/日本語/😀",
        "a&b=c?d#e",
        "quote'\"<x>;,@:$!*()[]{}|^`~",
        "dots..and...more.",
    ] {
        let put = data(&service, "put", json!({"key": key, "content": key, "type": null, "author": null})).await;
        assert_eq!(put["key"], key);
        assert_eq!(data(&service, "get", json!({"key": key})).await["content"], key);
        data(&service, "head", json!({"key": key})).await;
        data(&service, "copy", json!({"from": key, "to": format!("copies/{key}")})).await;
        let listed = data(&service, "listFolder", json!({"prefix": format!("copies/{key}")})).await;
        assert_eq!(super::told(&listed).0, [format!("copies/{key}")]);
        let link = data(&service, "linkToGet", json!({"key": key})).await;
        let target = link["url"].as_str().unwrap().strip_prefix(&server.url).unwrap().to_owned();
        let fetched = send(address.parse().unwrap(), http::Request::get(target).header("host", address), "").await;
        assert_eq!((fetched.status, text(&fetched)), (200, key.to_owned()));
        data(&service, "delete", json!({"key": key})).await;
        assert_eq!(failure(&service, "head", json!({"key": key})).await["details"]["upstreamStatus"], 404);
    }
}

#[tokio::test]
async fn wrong_keys_are_errors_of_the_credential() {
    let (service, _server) = service().await;
    for (credential, code) in [
        (json!({"accessKeyId": ID, "secretAccessKey": "another-secret"}), "SignatureDoesNotMatch"),
        (json!({"accessKeyId": "NOBODY", "secretAccessKey": SECRET}), "NotSignedUp"),
    ] {
        store(&service, credential).await;
        let error = failure(&service, "put", json!({"key": "x", "content": "x", "type": null, "author": null})).await;
        assert_eq!(
            (&error["code"], &error["details"]["upstreamCode"]),
            (&json!("AUTH_ERROR"), &json!(code)),
            "{error}"
        );
        let (healthy, said) = tested(&service).await;
        assert!(!healthy, "{said}");
        for secret in ["another-secret", SECRET] {
            assert!(!error.to_string().contains(secret) && !said.contains(secret), "{error} {said}");
        }
    }
    store(&service, key()).await;
    data(&service, "put", json!({"key": "x", "content": "x", "type": null, "author": null})).await;
}

#[tokio::test]
async fn a_signed_url_is_good_for_what_it_says_alone() {
    let (service, server) = service().await;
    let address = server.url.strip_prefix("http://").unwrap();
    let target = |link: &Value| link["url"].as_str().unwrap().strip_prefix(&server.url).unwrap().to_owned();
    let link = data(&service, "linkToPut", json!({"key": "by link"})).await;
    let put = |target: String, media_type: &'static str| async move {
        let request = http::Request::put(target).header("host", address).header("content-type", media_type);
        send(address.parse().unwrap(), request, "sent by link").await.status
    };
    assert_eq!(put(target(&link), "text/plain").await, 200);
    // The content type is signed.
    assert_eq!(put(target(&link), "text/html").await, 403);
    assert_eq!(data(&service, "get", json!({"key": "by link"})).await["content"], "sent by link");

    let fetch = |target: String| async move {
        send(address.parse().unwrap(), http::Request::get(target).header("host", address), "").await.status
    };
    let link = target(&data(&service, "linkToGet", json!({"key": "by link"})).await);
    assert_eq!(fetch(link.clone()).await, 200);
    assert_eq!(fetch(link.replace("by%20link", "other")).await, 403);
    assert_eq!(fetch(link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")).await, 403);
    // Signed like that, at another time.
    let now = service.app.engine().store().clock().now();
    assert_eq!(fetch(link_made_at(now, &server).await).await, 200);
    assert_eq!(fetch(link_made_at(now.saturating_sub(Duration::from_secs(120)), &server).await).await, 403);
}

/// The target of a URL that is good for a minute from then on.
async fn link_made_at(now: Timestamp, server: &VerifyingServer) -> String {
    let definition = DefinitionSpec::from_json(files("custom")).unwrap();
    let method = definition.methods.iter().find(|method| method.name == "linkToGet").unwrap();
    let operation = Adapters::built_in().get("storage").unwrap().compile(&definition, method).unwrap();
    let params = Params::from_json(Bytes::from_static(br#"{"key": "by link"}"#)).unwrap();
    let (config, id) = (server.config(), "files".parse().unwrap());
    let credential = Credential::parse(AuthType::Custom, &key(), AuthWants::default(), now).unwrap().0;
    let http = HttpClient::new(HttpClientSettings::default(), EgressPolicy::default()).unwrap();
    let connection = Connection {
        instance: &id,
        config: &config.as_object().unwrap().clone().into(),
        credential: &credential,
        custom_auth: None,
        http: &http,
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
        now,
    };
    let call = Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None };
    let made = operation.call(call).await.unwrap();
    let url = made.data.value().unwrap()["url"].as_str().unwrap().to_owned();
    url.strip_prefix(&server.url).unwrap().to_owned()
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let (service, server) = service().await;
    let folder = server.folder.path().join("files/app/many");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..2_345 {
        std::fs::write(folder.join(format!("{number:05}")), "x").unwrap();
    }
    let path = "/execute/files/listFolder?paginate=all";
    let all = service.post(path, &json!({"params": {"prefix": "many/"}})).await.json();
    let keys = super::told(&all["data"]).0;
    assert_eq!((keys.len(), keys[0], keys[2_344]), (2_345, "many/00000", "many/02344"));
    assert_eq!(all["meta"]["pages"], 3, "{}", all["meta"]);
}
