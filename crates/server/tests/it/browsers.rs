//! What browsers are told, and what other sites make them send.

use base64::Engine as _;
use http::Request;
use http::request::Builder;

use crate::client::{assert_problem, get, post, send};
use crate::service::{KEY, TestService};

const LISTED: &str = "https://app.example.com";

fn settings() -> String {
    format!("server: {{corsOrigins: [\"{LISTED}\"]}}\n")
}

fn preflight(origin: &str) -> Builder {
    Request::options("/execute/shop/call")
        .header("host", "test")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let service = TestService::start().await;
    for (path, policy) in [
        ("/health", "default-src 'none'"),
        ("/status/metrics", "default-src 'none'"),
        ("/no/such/path", "default-src 'none'"),
        ("/docs", "default-src 'self'"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
        let told = answer.header("content-security-policy");
        assert!(told.starts_with(policy) && told.contains("frame-ancestors 'none'"), "{path}: {told}");
        assert!(!answer.headers.contains_key("strict-transport-security"), "{path}: there is no TLS");
    }
}

#[tokio::test]
async fn no_origin_may_call_unless_it_is_listed() {
    let service = TestService::start().await;
    let answer = service.send(preflight(LISTED), "").await;
    assert_problem(&answer, 405, "METHOD_NOT_ALLOWED");
    let answer = service.send(get("/status/health").header("origin", LISTED), "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));

    let service = TestService::start_configured(&[("integration_service.yaml", &settings())], &[]).await;
    let answer = send(service.address(), preflight(LISTED), "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, LISTED));
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    assert!(answer.header("access-control-allow-headers").contains("Authorization"));
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    let answer = service.send(get("/status/health").header("origin", LISTED), "").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin"), answer.header("vary")),
        (200, LISTED, "Origin")
    );
    for other in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"] {
        let answer = service.send(preflight(other), "").await;
        assert_problem(&answer, 405, "METHOD_NOT_ALLOWED");
        let answer = service.send(get("/status/health").header("origin", other), "").await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{other}");
    }
}

#[tokio::test]
async fn what_another_site_makes_a_browser_send_is_refused() {
    let service = TestService::start_configured(&[("integration_service.yaml", &settings())], &[]).await;
    let password = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{KEY}")));
    let basic = || post("/api/v1/integration-definitions").header("authorization", &password);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "http://test.evil.example"),
        ("origin", "null"),
    ] {
        let answer = send(service.address(), basic().header(name, value), "{}").await;
        assert_problem(&answer, 403, "FORBIDDEN");
        let bare = send(service.address(), post("/health").header(name, value), "").await;
        assert_problem(&bare, 403, "FORBIDDEN");
        let token = post("/api/v1/integration-definitions/validate").header("content-type", "application/json");
        assert_eq!(
            service.send(token.header(name, value), "{}").await.status,
            200,
            "a token is no browser's own: {value}"
        );
    }
    for (name, value) in
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none"), ("origin", "http://test"), ("origin", LISTED)]
    {
        let answer = send(service.address(), basic().header(name, value), "{}").await;
        assert_problem(&answer, 401, "UNAUTHENTICATED");
    }
}

#[tokio::test]
async fn a_key_in_a_url_opens_nothing() {
    let service = TestService::start().await;
    for name in ["access_token", "api_key", "key", "X-API-Key", "authorization"] {
        let answer = send(service.address(), get(&format!("/status/metrics?{name}={KEY}")), "").await;
        assert_problem(&answer, 401, "UNAUTHENTICATED");
    }
}
