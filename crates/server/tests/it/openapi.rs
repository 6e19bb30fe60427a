//! The service's own description: reviewed as a snapshot, and held against the service.

use std::process::Command;

use http::Method;
use integration_service::router::describe;
use serde_json::Value;

use crate::client::send;
use crate::service::TestService;

fn document() -> Value {
    serde_json::to_value(describe()).unwrap()
}

/// Every documented verb and path, with something in the place of each parameter.
fn endpoints() -> Vec<(Method, String)> {
    let document = document();
    let mut endpoints = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let segments: Vec<&str> = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        for verb in ["get", "put", "post", "delete", "patch"].iter().filter(|verb| item.get(*verb).is_some()) {
            endpoints.push((verb.to_ascii_uppercase().parse().unwrap(), segments.join("/")));
        }
    }
    endpoints
}

#[test]
fn the_description_is_the_reviewed_one() {
    insta::assert_json_snapshot!(document(), { ".info.version" => "[version]" });
}

#[test]
fn the_command_prints_what_is_served() {
    let output = Command::new(env!("CARGO_BIN_EXE_integration-service")).arg("openapi").output().unwrap();
    assert!(output.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), document());
}

#[tokio::test]
async fn no_documented_endpoint_but_health_and_the_callback_answers_without_a_key() {
    let service = TestService::start().await;
    let endpoints = endpoints();
    assert!(endpoints.len() > 40, "{endpoints:?}");
    for (verb, path) in endpoints {
        let request = http::Request::builder().method(&verb).uri(&path).header("host", "test");
        let answer = send(service.address(), request, "").await;
        let open = matches!(path.as_str(), "/health" | "/health/live" | "/health/ready" | "/api/v1/oauth/callback");
        assert_eq!(answer.status == 401, !open, "{verb} {path}: {}", answer.status);
    }
}

#[tokio::test]
async fn every_documented_endpoint_is_there() {
    let service = TestService::start().await;
    for (verb, path) in endpoints().into_iter().filter(|(_, path)| !path.ends_with("/stream")) {
        let request = http::Request::builder()
            .method(&verb)
            .uri(&path)
            .header("host", "test")
            .header("content-type", "application/json");
        let answer = service.send(request, "{}").await;
        let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let is_nowhere =
            body["detail"].as_str().is_some_and(|detail| detail.starts_with("there is nothing at this path"));
        assert!(!is_nowhere && body["code"] != "METHOD_NOT_ALLOWED", "{verb} {path}: {body}");
        assert!(answer.status < 500, "{verb} {path}: {}", answer.status);
    }
}
