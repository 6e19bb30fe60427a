//! The operations face, the service's own state, and its description.

use serde_json::{Value, json};

use crate::service::{TestService, definition, json_response};

async fn register(service: &TestService, id: &str, method: &Value) {
    service.instance_of(&definition(id, method), id).await;
}

#[tokio::test]
async fn integrations_are_registered_read_updated_and_deregistered() {
    let service = TestService::start().await;
    service.post("/api/v1/integration-definitions?publish=true", &definition("pets", &json!({}))).await;
    let new = json!({"id": "mine", "integrationDefinitionId": "pets", "name": "x", "config": {"baseUrl": service.upstream.url()}});
    let created = service.post("/integrations", &new).await;
    assert_eq!((created.status, created.header("etag")), (201, "\"1\""));
    assert_eq!(created.header("location"), "/api/v1/integration-instances/mine");
    assert_eq!(service.get("/integrations/mine").await.json(), created.json());
    assert_eq!(service.items("/integrations").await, [created.json()]);
    let updated = service.with_body("PUT", "/integrations/mine", &json!({"name": "y", "labels": {"a": "b"}})).await;
    assert_eq!(
        (updated.status, &updated.json()["name"], &updated.json()["labels"]),
        (200, &json!("y"), &json!({"a": "b"}))
    );
    assert_eq!(service.delete("/integrations/mine").await.status, 204);
    assert_eq!(service.get("/integrations/mine").await.status, 404);
    let wrong = service.send(http::Request::patch("/integrations/mine").header("host", "test"), "").await;
    assert_eq!((wrong.status, &wrong.json()["code"]), (405, &json!("METHOD_NOT_ALLOWED")));
    assert!(wrong.header("allow").contains("PUT"));
}

#[tokio::test]
async fn a_circuit_breaker_is_seen_and_reset() {
    let service = TestService::start().await;
    let breaker = json!({"circuitBreaker": {"failureThreshold": 2, "windowMs": 60_000, "openMs": 600_000}});
    register(&service, "mine", &breaker).await;
    let path = "/integrations/mine/circuit-breaker";
    assert_eq!(service.get(path).await.json(), json!({"integrationId": "mine", "methods": []}));
    service.execute("mine", "call", &json!({})).await;
    let closed = json!({"method": "call", "state": "closed", "failures": 0, "halfOpenInFlight": 0});
    assert_eq!(service.get(path).await.json()["methods"], json!([closed]));

    service.upstream.always(|_| json_response(500, &json!({})));
    for _ in 0..2 {
        assert_eq!(service.execute("mine", "call", &json!({})).await.status, 502);
    }
    let open = service.get(path).await.json()["methods"][0].clone();
    assert_eq!((&open["state"], &open["failures"]), (&json!("open"), &json!(2)));
    assert!((1..=600_000).contains(&open["retryAfterMs"].as_u64().unwrap()), "{open}");
    let calls = service.upstream.received().len();
    let refused = service.execute("mine", "call", &json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("CIRCUIT_OPEN")));
    assert!((1..=600).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(service.upstream.received().len(), calls, "nothing is sent");
    let health = service.get("/integrations/mine/health").await.json();
    assert_eq!((&health["status"], &health["openCircuitBreakers"]), (&json!("degraded"), &json!(["call"])));

    let unknown = service.post(&format!("{path}/reset?method=none"), &json!({})).await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("METHOD_NOT_FOUND")));
    let reset = service.post(&format!("{path}/reset?method=call"), &json!({})).await.json();
    assert_eq!(reset["methods"], json!([closed]));
    service.upstream.always(|_| json_response(200, &json!({})));
    assert_eq!(service.execute("mine", "call", &json!({})).await.status, 200);
    assert_eq!(service.get("/integrations/mine/health").await.json()["status"], "healthy");
    service.post(&format!("{path}/reset"), &json!({})).await;
    let closings = service.items("/api/v1/events?type=integration.circuit_breaker_closed").await;
    assert_eq!(closings.len(), 1, "what was closed is not closed again");
}

#[tokio::test]
async fn limits_tell_what_is_left_of_them() {
    let service = TestService::start().await;
    let mut document = definition("mine", &json!({"rateLimits": {"requestsPerMinute": 60, "burstLimit": 3}}));
    document["rateLimits"] = json!({"requestsPerMinute": 600, "burstLimit": 10, "algorithm": "fixed_window"});
    service.instance_of(&document, "mine").await;
    let path = "/integrations/mine/rate-limit";
    let report = service.get(path).await.json();
    assert_eq!(report["integrationId"], "mine");
    assert_eq!(report["limits"].as_array().unwrap().len(), 1, "of methods, those that were called: {report}");
    service.execute("mine", "call", &json!({})).await;
    let limits = service.get(path).await.json()["limits"].clone();
    assert_eq!(
        (&limits[0]["scope"], &limits[0]["algorithm"], &limits[0]["requestsPerMinute"]),
        (&json!("instance"), &json!("fixed_window"), &json!(600))
    );
    assert_eq!(
        (&limits[1]["scope"], &limits[1]["method"], &limits[1]["algorithm"]),
        (&json!("method"), &json!("call"), &json!("token_bucket"))
    );
    assert_eq!((&limits[1]["burstLimit"], &limits[1]["remaining"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn a_cache_is_counted_and_cleared() {
    let service = TestService::start().await;
    register(&service, "mine", &json!({"cache": {"ttlMs": 600_000}})).await;
    let path = "/integrations/mine/cache";
    for _ in 0..3 {
        service.execute("mine", "call", &json!({})).await;
    }
    let statistics = service.get(path).await.json();
    assert_eq!(
        (&statistics["hits"], &statistics["misses"], &statistics["entries"]),
        (&json!(2), &json!(1), &json!(1)),
        "{statistics}"
    );
    let cleared = service.post(&format!("{path}/clear"), &json!({})).await;
    assert_eq!((cleared.status, &cleared.json()["entries"]), (200, &json!(0)));
    assert_eq!(service.execute("mine", "call", &json!({})).await.json()["meta"]["cached"], false);
    assert_eq!(service.upstream.received().len(), 2);
}

#[tokio::test]
async fn health_and_status_say_what_is_known_and_what_to_do() {
    let service = TestService::start().await;
    let mut document = definition("mine", &json!({}));
    document["authType"] = json!("basic");
    service.instance_of(&document, "mine").await;
    let health = service.get("/integrations/mine/health").await.json();
    assert_eq!((&health["status"], &health["instanceStatus"]), (&json!("unhealthy"), &json!("PENDING_AUTHENTICATION")));
    let status = service.get("/integrations/mine/status").await.json();
    assert_eq!(
        (&status["status"], &status["credential"]["status"]),
        (&json!("PENDING_AUTHENTICATION"), &json!("missing"))
    );
    assert!(status["remedy"].as_str().unwrap().contains("credential"), "{status}");
    let credential = json!({"type": "basic", "data": {"username": "u", "password": "p"}});
    service.post("/api/v1/integration-instances/mine/credentials", &credential).await;
    let status = service.get("/integrations/mine/status").await.json();
    assert_eq!(
        (&status["status"], status.get("remedy"), &status["credential"]["status"]),
        (&json!("CONNECTED"), None, &json!("valid"))
    );

    service.upstream.then(json_response(503, &json!({})));
    let report = service.post("/integrations/mine/test", &json!({})).await.json();
    assert_eq!(
        (&report["healthy"], &report["code"], &report["instanceStatus"]),
        (&json!(false), &json!("UPSTREAM_ERROR"), &json!("CONNECTED")),
        "{report}"
    );
    let health = service.get("/integrations/mine/health").await.json();
    assert_eq!((&health["status"], &health["lastTest"]), (&json!("unhealthy"), &report));
    let config = json!({"config": {"baseUrl": format!("{}/v2", service.upstream.url())}});
    service.with_body("PATCH", "/api/v1/integration-instances/mine", &config).await;
    let health = service.get("/integrations/mine/health").await.json();
    assert_eq!(
        (&health["status"], health.get("lastTest")),
        (&json!("healthy"), None),
        "a test says nothing of another config"
    );

    let report = service.post("/integrations/mine/test", &json!({})).await.json();
    assert_eq!(report["healthy"], true, "{report}");
    let received = service.upstream.received().pop().unwrap();
    assert_eq!((received.verb.as_str(), received.path_and_query.as_str()), ("GET", "/v2"));
    assert_eq!(received.headers["authorization"], "Basic dTpw");
    service
        .with_body("PATCH", "/api/v1/integration-instances/mine", &json!({"config": {"baseUrl": "http://127.0.0.1:1"}}))
        .await;
    let report = service.post("/api/v1/integration-instances/mine/test", &json!({})).await.json();
    assert_eq!((&report["healthy"], &report["code"]), (&json!(false), &json!("UPSTREAM_ERROR")), "{report}");
}

#[tokio::test]
async fn a_definition_names_the_method_that_tests() {
    let service = TestService::start().await;
    let mut document = definition("mine", &json!({}));
    document["testMethod"] = json!("call");
    service.instance_of(&document, "mine").await;
    let report = service.post("/integrations/mine/test", &json!({})).await.json();
    assert_eq!(report["healthy"], true, "{report}");
    assert_eq!(service.upstream.received()[0].path_and_query, "/thing");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let service = TestService::start().await;
    let ready = service.get("/health/ready").await;
    assert_eq!(ready.status, 200);
    let checks = json!([{"name": "database", "status": "ok"}, {"name": "serving", "status": "ok"}]);
    assert_eq!(ready.json(), json!({"status": "ok", "checks": checks}));
    service.app.engine().store().close().await;
    for path in ["/health/ready", "/status/health"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (503, &json!("unavailable")), "{path}");
        assert_eq!(answer.json()["checks"][0], json!({"name": "database", "status": "unavailable"}));
    }
    for path in ["/health", "/health/live"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("ok")), "the process lives: {path}");
    }
    let broken = service.get("/integrations").await;
    assert_eq!((broken.status, &broken.json()["code"]), (500, &json!("INTERNAL")));
    assert!(!broken.json()["detail"].as_str().unwrap().contains("closed"), "nothing internal is told");
}

#[tokio::test]
async fn metrics_count_calls_by_instance_and_method() {
    let service = TestService::start().await;
    let id = "counted-by-metrics";
    register(&service, id, &json!({"cache": {"ttlMs": 600_000}})).await;
    service.execute(id, "call", &json!({})).await;
    service.execute(id, "call", &json!({})).await;
    let answer = service.get("/status/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(id)).collect();
    assert!(lines.iter().any(|line| line.contains("method=\"call\"")), "{lines:#?}");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{name} {value}");
    }
}

#[tokio::test]
async fn the_service_describes_itself() {
    let service = TestService::start().await;
    let answer = service.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let api = answer.json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in
        ["/execute/{integrationId}/{method}", "/integrations/{id}/circuit-breaker/reset", "/api/v1/events/stream"]
    {
        assert!(api["paths"].get(path).is_some(), "{path}");
    }
    let docs = service.get("/docs").await;
    assert_eq!((docs.status, docs.header("content-type")), (200, "text/html; charset=utf-8"));
    let page = String::from_utf8(docs.body.to_vec()).unwrap();
    assert!(page.contains("/execute/{integrationId}/{method}"));
    assert!(!page.contains("<script") && !page.contains("src=\"http"), "it works offline");
    for code in integration_model::ErrorCode::ALL {
        let page = service.get(&format!("/docs/errors/{code}")).await;
        assert_eq!(page.status, 200, "{code}");
        assert!(String::from_utf8_lossy(&page.body).contains(code.as_str()));
    }
    let unknown = service.get("/docs/errors/%3Cscript%3E").await;
    assert_eq!((unknown.status, unknown.header("content-type")), (404, "application/problem+json"));
    let nowhere = service.get("/nowhere").await;
    assert_eq!((nowhere.status, &nowhere.json()["code"]), (404, &json!("NOT_FOUND")));
}
