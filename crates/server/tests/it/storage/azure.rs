//! Azure Blob Storage, against Azurite, which checks signatures.

use serde_json::{Value, json};

use super::{Server, call, data, failure, instance, large_content, life_of_objects, pages, store, tested, text};
use crate::client::send;
use crate::service::TestService;

/// The account that every Azurite has, and its published key.
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub(super) async fn service() -> Option<(TestService, Server)> {
    let server = Server::start("azure")?;
    let service = TestService::start().await;
    let config =
        json!({"provider": "azure", "bucket": "files", "account": ACCOUNT, "endpoint": server.url, "prefix": "app/"});
    instance(&service, "custom", config, Some(json!({"accountKey": KEY}))).await;
    Some((service, server))
}

#[tokio::test]
async fn a_real_server_keeps_blobs() {
    let Some((service, _server)) = service().await else { return };
    life_of_objects(&service).await;
    pages(&service).await;
    let described = json!({"key": "described", "content": "{}", "type": "application/json", "author": "Ann"});
    let put = data(&service, "put", described).await;
    let head = data(&service, "head", json!({"key": "described"})).await;
    assert_eq!((&head["contentType"], &head["metadata"]), (&json!("application/json"), &json!({"author": "Ann"})));
    large_content(&service).await;

    let there = failure(&service, "putNew", json!({"key": "described", "content": 1})).await;
    assert_eq!(there["details"]["upstreamStatus"], 409, "{there}");
    data(&service, "putNew", json!({"key": "new", "content": 1})).await;
    data(&service, "putOver", json!({"key": "described", "content": "x", "etag": put["etag"]})).await;
    let lost = failure(&service, "putOver", json!({"key": "described", "content": "y", "etag": put["etag"]})).await;
    assert_eq!(lost["details"]["upstreamStatus"], 412, "{lost}");
}

#[tokio::test]
async fn a_signature_in_the_url_is_made_and_used() {
    let Some((service, server)) = service().await else { return };
    let host = server.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let path = |link: &Value| link["url"].as_str().unwrap().split_once(host).unwrap().1.to_owned();
    let link = data(&service, "linkToPut", json!({"key": "by link"})).await;
    let request = http::Request::put(path(&link))
        .header("host", host)
        .header("content-type", "text/plain")
        .header("x-ms-blob-type", link["headers"]["x-ms-blob-type"].as_str().unwrap());
    let sent = send(host.parse().unwrap(), request, "sent by link").await;
    assert_eq!(sent.status, 201, "{}", text(&sent));
    let link = data(&service, "linkToGet", json!({"key": "by link"})).await;
    let fetched = send(host.parse().unwrap(), http::Request::get(path(&link)).header("host", host), "").await;
    assert_eq!(text(&fetched), "sent by link");

    // The same signature as a credential.
    let token = path(&link).split_once('?').unwrap().1.to_owned();
    store(&service, json!({"sasToken": token})).await;
    assert_eq!(data(&service, "get", json!({"key": "by link"})).await["content"], "sent by link");
    let other = call(&service, "get", json!({"key": "other"})).await.json();
    assert_eq!(other["error"]["details"]["upstreamStatus"], 403, "{other}");
    let signature = token.rsplit_once("sig=").map(|(_, rest)| rest.split('&').next().unwrap()).unwrap();
    assert!(!other.to_string().contains(signature), "{other}");
}

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let Some((service, _server)) = service().await else { return };
    store(&service, json!({"accountKey": "d3Jvbmcga2V5"})).await;
    let error = failure(&service, "get", json!({"key": "x"})).await;
    // Azure itself says AuthenticationFailed, Azurite what Azure says of networks.
    assert_eq!(error["details"]["upstreamStatus"], 403, "{error}");
    let (healthy, said) = tested(&service).await;
    assert!(!healthy && said.contains("AUTH_ERROR"), "{said}");
    assert!(!error.to_string().contains("d3Jvbmcga2V5"), "{error}");
}
