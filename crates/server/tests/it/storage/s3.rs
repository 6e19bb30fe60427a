//! S3, against a real server, and against one that says what a test wants. The real one knows
//! access keys and does not compute signatures of version 4: `signatures` has one that does.

use axum::body::Body;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Server, call, data, failure, files, instance, large_content, life_of_objects, store, text};
use crate::client::send;
use crate::service::TestService;

fn key() -> Value {
    json!({"accessKeyId": "S3RVER", "secretAccessKey": "S3RVER"})
}

/// A service with an instance of a bucket on a real server.
async fn service() -> Option<(TestService, Server)> {
    let server = Server::start("s3")?;
    let service = TestService::start().await;
    let config = json!({"provider": "s3", "bucket": "files", "endpoint": server.url, "prefix": "app/"});
    instance(&service, "custom", config, Some(key())).await;
    Some((service, server))
}

/// The same on the test's own upstream.
async fn service_on_upstream(config: Value) -> TestService {
    let service = TestService::start().await;
    let mut whole = json!({"provider": "s3", "bucket": "files", "endpoint": service.upstream.url()});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let credential =
        json!({"accessKeyId": "AKID", "secretAccessKey": "the-secret-key", "sessionToken": "the-session-token"});
    instance(&service, "custom", whole, Some(credential)).await;
    service
}

fn answer(status: u16, body: &str) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

#[tokio::test]
async fn a_real_server_keeps_objects() {
    let Some((service, _server)) = service().await else { return };
    life_of_objects(&service).await;
    let described = json!({"key": "described", "content": "{}", "type": "application/json", "author": "Ann"});
    data(&service, "put", described).await;
    let head = data(&service, "head", json!({"key": "described"})).await;
    assert_eq!((&head["contentType"], &head["metadata"]), (&json!("application/json"), &json!({"author": "Ann"})));
    assert_eq!(data(&service, "getJson", json!({"key": "described"})).await["content"], json!({}));
    large_content(&service).await;
}

#[tokio::test]
async fn a_presigned_url_is_good_by_itself() {
    let Some((service, server)) = service().await else { return };
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let path = |link: &Value| link["url"].as_str().unwrap().strip_prefix(&server.url).unwrap().to_owned();
    let link = data(&service, "linkToPut", json!({"key": "by link"})).await;
    assert_eq!((&link["method"], &link["headers"]), (&json!("PUT"), &json!({"content-type": "text/plain"})));
    let request =
        http::Request::put(path(&link)).header("host", address_of(&server)).header("content-type", "text/plain");
    assert_eq!(send(address, request, "sent by link").await.status, 200);
    assert_eq!(data(&service, "get", json!({"key": "by link"})).await["content"], "sent by link");

    let link = data(&service, "linkToGet", json!({"key": "by link"})).await;
    let fetch = |path: String| send(address, http::Request::get(path).header("host", address_of(&server)), "");
    assert_eq!(text(&fetch(path(&link)).await), "sent by link");
    // It is told in the answer alone.
    let id = call(&service, "linkToGet", json!({"key": "k"})).await.json()["meta"]["executionId"].clone();
    let execution = service.get(&format!("/api/v1/executions/{}", id.as_str().unwrap())).await;
    assert_eq!(execution.status, 200);
    assert!(!text(&execution).contains("X-Amz-Signature"), "{}", text(&execution));
    assert!(!String::from_utf8_lossy(&service.stored_bytes()).contains("X-Amz-Signature"));
}

fn address_of(server: &Server) -> &str {
    server.url.strip_prefix("http://").unwrap()
}

#[tokio::test]
async fn a_wrong_key_is_an_error_of_the_credential() {
    let Some((service, _server)) = service().await else { return };
    store(&service, json!({"accessKeyId": "OTHER", "secretAccessKey": "wrong-secret"})).await;
    let error = failure(&service, "get", json!({"key": "x"})).await;
    assert_eq!(
        (&error["code"], &error["details"]["upstreamCode"]),
        (&json!("AUTH_ERROR"), &json!("InvalidAccessKeyId")),
        "{error}"
    );
    assert!(!error.to_string().contains("wrong-secret"), "{error}");
}

#[tokio::test]
async fn conditions_guard_what_is_written() {
    let service = service_on_upstream(json!({})).await;
    service.upstream.then(answer(412, "<Error><Code>PreconditionFailed</Code><Message>No</Message></Error>"));
    let error = failure(&service, "putNew", json!({"key": "a", "content": {"n": 1}})).await;
    assert_eq!((&error["details"]["upstreamStatus"], &error["retryable"]), (&json!(412), &json!(false)), "{error}");
    data(&service, "putOver", json!({"key": "a", "content": "x", "etag": "abc"})).await;
    let seen = service.upstream.received();
    assert_eq!(seen[0].headers["if-none-match"], "*");
    assert_eq!(serde_json::from_slice::<Value>(&seen[0].body).unwrap(), json!({"n": 1}));
    assert_eq!(seen[1].headers["if-match"], "\"abc\"");
    assert_eq!(seen[1].headers["x-amz-security-token"], "the-session-token");

    // A repeated one would meet what it did itself.
    let mut definition = files("custom");
    definition["version"] = json!("2.0.0");
    definition["methods"][1]["idempotent"] = json!(true);
    definition["methods"][0]["operation"]["delimiter"] = json!("/");
    let refused = service.post("/api/v1/integration-definitions/validate", &definition).await.json();
    for pointer in ["/methods/1/operation/ifNoneMatch", "/methods/0/operation/delimiter"] {
        assert!(refused.to_string().contains(pointer), "{refused}");
    }
}

#[tokio::test]
async fn a_dry_run_shows_the_request_without_a_signature() {
    let service = service_on_upstream(json!({})).await;
    let shown = service
        .post(
            "/execute/files/put?dryRun=true",
            &json!({"params": {"key": "a b", "content": "text", "type": "text/plain", "author": "Ann"}}),
        )
        .await
        .json();
    assert_eq!(shown["data"]["method"], "PUT", "{shown}");
    assert_eq!(shown["data"]["url"], format!("{}/files/a%20b", service.upstream.url()));
    assert_eq!(
        (&shown["data"]["headers"]["authorization"], &shown["data"]["body"]),
        (&json!("[redacted]"), &json!("text"))
    );
    assert_eq!(shown["data"]["headers"]["x-amz-meta-author"], "Ann");
    assert!(service.upstream.received().is_empty());
    for secret in ["the-secret-key", "the-session-token", "Signature"] {
        assert!(!shown.to_string().contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn refusals_say_what_follows_from_them() {
    let service = service_on_upstream(json!({})).await;
    let error = |code: &str| {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>you sent the-session-token</Message></Error>"
        )
    };
    for code in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AuthenticationFailed"] {
        service.upstream.then(answer(403, &error(code)));
        let told = failure(&service, "get", json!({"key": "x"})).await;
        assert_eq!(told["code"], "AUTH_ERROR", "{told}");
        assert!(!told.to_string().contains("the-session-token"), "{told}");
        store(
            &service,
            json!({"accessKeyId": "AKID", "secretAccessKey": "the-secret-key", "sessionToken": "the-session-token"}),
        )
        .await;
    }
    service.upstream.then(answer(403, &error("AccessDenied")));
    assert_eq!(failure(&service, "get", json!({"key": "x"})).await["code"], "UPSTREAM_ERROR");

    // Busy: asked again.
    service.upstream.then(answer(503, &error("SlowDown")));
    service.upstream.then(answer(200, "content"));
    assert_eq!(data(&service, "get", json!({"key": "x"})).await["content"], "content");
    // An error that comes with 200.
    service.upstream.then(answer(200, &error("InternalError")));
    service.upstream.then(answer(200, "<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>"));
    let copied = call(&service, "copy", json!({"from": "a", "to": "b"})).await.json();
    assert_eq!((&copied["data"]["etag"], &copied["meta"]["attempts"]), (&json!("e"), &json!(2)), "{copied}");
    // No listing at all.
    service.upstream.then(answer(200, "<html>hello</html>"));
    let told = failure(&service, "list", json!({})).await;
    assert!(told["message"].as_str().unwrap().contains("cannot be read"), "{told}");
    service.upstream.then(answer(200, "\u{fffd}"));
    assert_eq!(failure(&service, "getJson", json!({"key": "x"})).await["code"], "UPSTREAM_ERROR");
    // A redirect would need another signature.
    service
        .upstream
        .then(Response::builder().status(307).header("location", "/elsewhere").body(Body::empty()).unwrap());
    assert_eq!(failure(&service, "get", json!({"key": "x"})).await["details"]["upstreamStatus"], 307);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let service = service_on_upstream(json!({})).await;
    service.upstream.always(|seen| {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let (key, next) = if seen.path_and_query.contains("continuation-token=t%2F1") {
            ("b", "<IsTruncated>false</IsTruncated>")
        } else {
            ("a", "<IsTruncated>true</IsTruncated><NextContinuationToken>t/1</NextContinuationToken>")
        };
        answer(200, &format!("<ListBucketResult>{next}{}</ListBucketResult>", entry(key)))
    });
    let all = service.post("/execute/files/list?paginate=all", &json!({"params": {"prefix": "p/x"}})).await.json();
    assert_eq!(all["data"]["items"], json!([{"key": "a", "size": 1}, {"key": "b", "size": 1}]), "{all}");
    let first = &service.upstream.received()[0].path_and_query;
    assert_eq!(first, "/files?encoding-type=url&list-type=2&max-keys=2&prefix=p%2Fx");
}

#[tokio::test]
async fn parts_that_fail_have_no_effect_and_are_given_up() {
    let service = service_on_upstream(json!({})).await;
    service.upstream.always(|seen| {
        let query = seen.path_and_query.split_once('?').map_or("", |(_, query)| query);
        match (seen.verb.as_str(), query) {
            ("POST", "uploads=") => {
                answer(200, "<InitiateMultipartUploadResult><UploadId>u/1</UploadId></InitiateMultipartUploadResult>")
            }
            ("PUT", query) if query.starts_with("partNumber=2") => answer(400, "<Error><Code>BadDigest</Code></Error>"),
            ("PUT", _) => Response::builder().status(200).header("etag", "\"p\"").body(Body::empty()).unwrap(),
            _ => answer(204, ""),
        }
    });
    let content = "AAAA".repeat(6 * 1024 * 1024 / 3);
    let error = failure(&service, "putBytes", json!({"key": "big", "content": content})).await;
    assert_eq!(error["details"]["upstreamCode"], "BadDigest", "{error}");
    let seen = service.upstream.received();
    let last = seen.last().unwrap();
    assert_eq!((last.verb.as_str(), last.path_and_query.as_str()), ("DELETE", "/files/big?uploadId=u%2F1"));
    assert_eq!(seen.iter().filter(|seen| seen.verb == "POST").count(), 1, "nothing was completed");
}

#[tokio::test]
async fn a_credential_that_does_not_fit_the_provider_is_refused_at_once() {
    let service = service_on_upstream(json!({})).await;
    let path = "/api/v1/integration-instances/files/credentials";
    let refused = service.post(path, &json!({"type": "custom", "data": {"accessKeyId": "only"}})).await;
    assert_eq!(refused.status, 400, "{}", refused.json());
    assert!(text(&refused).contains("secretAccessKey"), "{}", text(&refused));
}

#[tokio::test]
async fn what_is_too_large_to_be_copied_at_once_is_copied_in_parts() {
    const SIZE: u64 = (6 << 30) + 5;
    let service = service_on_upstream(json!({})).await;
    service.upstream.always(|seen| {
        let query = seen.path_and_query.split_once('?').map_or("", |(_, query)| query);
        match (seen.verb.as_str(), query) {
            ("HEAD", _) => Response::builder()
                .header("content-length", SIZE)
                .header("content-type", "video/mp4")
                .header("x-amz-meta-author", "Ann")
                .header("etag", "\"source\"")
                .body(Body::empty())
                .unwrap(),
            ("PUT", "") => {
                answer(400, "<Error><Code>InvalidRequest</Code><Message>larger than 5368709120</Message></Error>")
            }
            ("POST", "uploads=") => {
                answer(200, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
            }
            ("PUT", _) => answer(200, "<CopyPartResult><ETag>&quot;p&quot;</ETag></CopyPartResult>"),
            _ => answer(
                200,
                "<CompleteMultipartUploadResult><ETag>&quot;whole&quot;</ETag></CompleteMultipartUploadResult>",
            ),
        }
    });
    let copied = data(&service, "copy", json!({"from": "a b", "to": "c"})).await;
    assert_eq!((&copied["key"], &copied["etag"]), (&json!("c"), &json!("whole")));
    let seen = service.upstream.received();
    let begun = &seen[2].headers;
    assert_eq!(
        (begun["content-type"].as_bytes(), begun["x-amz-meta-author"].as_bytes()),
        (&b"video/mp4"[..], &b"Ann"[..])
    );
    assert!(seen[2..].iter().all(|seen| seen.headers.contains_key("content-length")));
    let ranges: Vec<_> =
        seen.iter().filter_map(|seen| seen.headers.get("x-amz-copy-source-range")?.to_str().ok()).collect();
    assert_eq!((ranges.len(), ranges[0]), (7, "bytes=0-1073741823"));
    assert_eq!(ranges[6], format!("bytes={}-{}", 6_u64 << 30, SIZE - 1));
    assert_eq!(
        (&seen[3].headers["x-amz-copy-source"], &seen[3].headers["x-amz-copy-source-if-match"]),
        (&http::HeaderValue::from_static("/files/a%20b"), &http::HeaderValue::from_static("\"source\""))
    );
    assert!(seen.last().unwrap().path_and_query.ends_with("?uploadId=u"));
}
