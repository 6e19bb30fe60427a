//! Executing methods through the public door: every stage, with a real upstream.

use std::time::Duration;

use axum::response::Response;
use http::Request;
use serde_json::{Value, json};

use crate::client::{Answer, post};
use crate::service::{TestService, definition, json_response};

/// A service with an instance `it` of a definition whose one method has these fields.
async fn service_with(method: &Value) -> TestService {
    let service = TestService::start().await;
    service.instance_of(&definition("thing", method), "it").await;
    service
}

async fn call(service: &TestService, params: &Value) -> Answer {
    service.execute("it", "call", params).await
}

async fn events_of_type(service: &TestService, kind: &str) -> Vec<Value> {
    let answer = service.get(&format!("/api/v1/events?type={kind}&limit=200")).await;
    answer.json()["items"].as_array().unwrap().clone()
}

/// Asks again until `done` holds of the answer; a test that never sees it is ended by its runner.
async fn poll(service: &TestService, path: &str, done: impl Fn(&Value) -> bool) -> Value {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    loop {
        pause.tick().await;
        let body = service.get(path).await.json();
        if done(&body) {
            return body;
        }
    }
}

/// An answer that never comes.
fn never() -> Response {
    let body = axum::body::Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

#[tokio::test]
async fn an_answer_has_its_row_and_its_event() {
    let service = service_with(&json!({})).await;
    service.upstream.always(|_| json_response(200, &json!({"a": 1})));
    let request = post("/execute/it/call")
        .header("content-type", "application/json")
        .header("x-correlation-id", "corr-1")
        .header("x-task-id", "task-1")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let answer = service.send(request, r#"{"params":{}}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-correlation-id"), "corr-1");
    let body = answer.json();
    assert_eq!((&body["status"], &body["data"]), (&json!("SUCCESS"), &json!({"a": 1})));

    let id = body["meta"]["executionId"].as_str().unwrap();
    let row = service.get(&format!("/api/v1/executions/{id}")).await.json();
    assert_eq!(row["status"], "SUCCESS");
    assert_eq!(row["correlationId"], "corr-1");
    assert_eq!(row["upstreamStatus"], 200);
    assert_eq!(row["taskId"], "task-1");
    let event = &events_of_type(&service, "integration.method.executed").await[0];
    assert_eq!(
        event["metadata"],
        json!({"correlationId": "corr-1", "taskId": "task-1", "source": "integration-service"})
    );
    assert_eq!(event["data"]["resultSummary"], json!({"statusCode": 200, "dataSize": 7}));
    let sent = &service.upstream.received()[0];
    assert!(sent.headers["traceparent"].to_str().unwrap().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    let instance = service.get("/api/v1/integration-instances/it").await.json();
    assert!(instance["lastUsedAt"].is_string());
}

/// More than are called without reading ahead.
#[tokio::test]
async fn of_many_instances_each_has_its_own() {
    const COUNT: usize = 1_010;
    let definition = "
id: things
name: Things
version: 1.0.0
type: http
authType: api_key
configSchema: {type: object, required: [baseUrl], properties: {baseUrl: {type: string}}}
methods:
  - name: call
    paramSchema: {type: object}
    operation: {verb: GET, path: /thing}
  - name: find
    operation: {verb: GET, path: '/things/{id}'}
    rateLimits: {requestsPerMinute: 600}
";
    let instances: String = (0..COUNT)
        .map(|n| {
            format!(
                "  - {{id: i{n}, integrationDefinitionId: things, config: {{baseUrl: UPSTREAM/{n}}}, credential: \
                 {{type: api_key, data: {{key: k{n}, headerOrParam: X-Key, inHeader: true}}}}}}\n"
            )
        })
        .collect();
    let integrations = format!("definitions: [{{file: things.yaml}}]\ninstances:\n{instances}");
    let files = [("things.yaml", definition), ("integrations.yaml", integrations.as_str())];
    let service = TestService::start_configured(&files, &[]).await;
    service.upstream.always(|received| {
        json_response(200, &json!({"at": received.path_and_query, "key": received.headers["x-key"].to_str().unwrap()}))
    });
    for n in (0..COUNT).chain([0, COUNT - 1]) {
        let data = service.execute(&format!("i{n}"), "call", &json!({})).await.json()["data"].clone();
        assert_eq!(data, json!({"at": format!("/{n}/thing"), "key": format!("k{n}")}));
    }
    let found = service.execute("i7", "find", &json!({"id": "a"})).await.json();
    assert_eq!(found["data"], json!({"at": "/7/things/a", "key": "k7"}), "{found}");
    let missing = service.execute("i7", "lose", &json!({})).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["code"], "METHOD_NOT_FOUND");
}

#[tokio::test]
async fn all_faults_of_the_params_are_told_with_their_places() {
    let service = service_with(&json!({"paramSchema": {
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}},
    }}))
    .await;
    let answer = call(&service, &json!({"b": ["x", 1], "c": true})).await;
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "VALIDATION_ERROR");
    let pointers: Vec<_> =
        error["details"]["errors"].as_array().unwrap().iter().map(|e| e["pointer"].clone()).collect();
    assert!(pointers.contains(&json!("/params/b/1")), "{pointers:?}");
    assert_eq!(pointers.len(), 3, "{error}");
    assert!(service.upstream.received().is_empty());

    for (body, code) in [
        ("{\"params\":", "MALFORMED_BODY"),
        ("[]", "VALIDATION_ERROR"),
        (r#"{"params":{},"x":1}"#, "VALIDATION_ERROR"),
        (r#"{"params":[1]}"#, "VALIDATION_ERROR"),
    ] {
        let request = post("/execute/it/call").header("content-type", "application/json");
        let answer = service.send(request, body).await;
        let document = answer.json();
        let told = document.get("code").unwrap_or(&document["error"]["code"]);
        assert_eq!((answer.status, told), (400, &json!(code)), "{body}");
    }
}

#[tokio::test]
async fn numbers_pass_through_exactly() {
    let service =
        service_with(&json!({"operation": {"verb": "POST", "path": "/thing", "body": "*", "query": {"n": "n"}}})).await;
    service.upstream.always(|received| {
        Response::builder().header("content-type", "application/json").body(received.body.clone().into()).unwrap()
    });
    let request = post("/execute/it/call").header("content-type", "application/json");
    let answer = service.send(request, r#"{"params":{"n":12345678901234567890123,"price":1.10}}"#).await;
    assert_eq!(answer.status, 200);
    assert!(service.upstream.received()[0].path_and_query.contains("n=12345678901234567890123"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains(r#""price":1.10"#), "{text}");
}

#[tokio::test]
async fn a_transient_fault_is_retried_only_where_that_is_safe() {
    let retry = json!({"maxRetries": 3, "initialDelayMs": 1, "maxDelayMs": 5});
    let service = service_with(&json!({"idempotent": true, "retryConfig": retry})).await;
    service.upstream.then(json_response(503, &json!({})));
    service.upstream.then(json_response(500, &json!({})));
    let answer = call(&service, &json!({})).await;
    assert_eq!((answer.status, &answer.json()["meta"]["attempts"]), (200, &json!(3)));

    let unsafe_one = definition(
        "other",
        &json!({
            "retryConfig": retry, "operation": {"verb": "POST", "path": "/thing"},
        }),
    );
    service.instance_of(&unsafe_one, "unsafe").await;
    service.upstream.then(json_response(503, &json!({"reason": "busy"})));
    let answer = service.execute("unsafe", "call", &json!({})).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (502, &json!("UPSTREAM_ERROR")));
    assert_eq!(error["details"]["upstreamStatus"], 503);
    assert_eq!(answer.json()["meta"]["attempts"], 1);

    service.upstream.then(json_response(429, &json!({})));
    let answer = service.execute("unsafe", "call", &json!({})).await;
    assert_eq!((answer.status, &answer.json()["meta"]["attempts"]), (200, &json!(2)), "a 429 surely did nothing");
}

#[tokio::test]
async fn every_attempt_carries_the_same_idempotency_key() {
    let service = service_with(&json!({
        "retryConfig": {"maxRetries": 2, "initialDelayMs": 1, "maxDelayMs": 2},
        "operation": {"verb": "POST", "path": "/thing", "idempotencyKeyHeader": "Idempotency-Key"},
    }))
    .await;
    service.upstream.then(json_response(503, &json!({})));
    assert_eq!(call(&service, &json!({})).await.status, 200);
    let received = service.upstream.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].headers["idempotency-key"], received[1].headers["idempotency-key"]);
}

#[tokio::test]
async fn a_call_without_an_answer_says_what_is_known() {
    let service = service_with(&json!({"timeoutMs": 100, "operation": {"verb": "POST", "path": "/thing"}})).await;
    service.upstream.always(|_| never());
    let answer = call(&service, &json!({})).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (504, &json!("TIMEOUT")));
    assert_eq!(error["details"]["outcome"], "unknown");
    assert_eq!(error["retryable"], false);
    let failed = &events_of_type(&service, "integration.method.failed").await[0];
    assert_eq!(failed["data"]["error"]["code"], "TIMEOUT");

    service.instance_of(&definition("safe", &json!({"timeoutMs": 100, "idempotent": true})), "safe").await;
    let answer = service.execute("safe", "call", &json!({})).await;
    assert_eq!(answer.json()["error"]["details"]["outcome"], Value::Null);
    assert_eq!(answer.json()["error"]["retryable"], true);
}

#[tokio::test]
async fn a_fresh_answer_is_given_again_until_the_cache_is_cleared() {
    let service = service_with(&json!({"cache": {"ttlMs": 60_000}})).await;
    service.upstream.always(|received| json_response(200, &json!({"at": received.path_and_query})));
    assert_eq!(call(&service, &json!({"a": 1})).await.json()["meta"]["cached"], false);
    let again = call(&service, &json!({"a": 1})).await.json();
    assert_eq!((&again["meta"]["cached"], &again["meta"]["attempts"]), (&json!(true), &json!(0)));
    assert!(again["meta"]["cacheAgeMs"].is_u64());
    assert_eq!(call(&service, &json!({"a": 2})).await.json()["meta"]["cached"], false, "other params, other answer");
    let statistics = service.get("/integrations/it/cache").await.json();
    assert_eq!((&statistics["entries"], &statistics["hits"]), (&json!(2), &json!(1)));

    service.post("/integrations/it/cache/clear", &json!({})).await;
    assert_eq!(call(&service, &json!({"a": 1})).await.json()["meta"]["cached"], false);
    assert_eq!(service.upstream.received().len(), 3);
}

#[tokio::test]
async fn concurrent_calls_of_one_key_ask_the_upstream_once() {
    let service = service_with(&json!({"cache": {"ttlMs": 60_000}, "timeoutMs": 10_000})).await;
    let params = json!({"k": 1});
    let calls = (0..20).map(|_| call(&service, &params));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(service.upstream.received().len(), 1);
}

#[tokio::test]
async fn an_outdated_answer_stands_in_for_a_failing_upstream() {
    let service = service_with(&json!({"cache": {"ttlMs": 0, "staleTtlMs": 60_000}})).await;
    service.upstream.then(json_response(200, &json!({"v": 1})));
    assert_eq!(call(&service, &json!({})).await.status, 200);
    service.upstream.always(|_| json_response(503, &json!({})));
    let answer = call(&service, &json!({})).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["data"]["v"], &body["meta"]["stale"]), (200, &json!(1), &json!(true)));
    assert!(body["meta"]["cacheAgeMs"].is_u64());

    service.upstream.always(|_| json_response(404, &json!({})));
    assert_eq!(call(&service, &json!({})).await.status, 502, "a refusal is an answer, not a failure");
}

#[tokio::test]
async fn a_used_up_limit_says_when_to_come_back() {
    let service = service_with(&json!({"rateLimits": {"requestsPerMinute": 1, "burstLimit": 2}})).await;
    for _ in 0..2 {
        let answer = call(&service, &json!({})).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").starts_with("\"method\";r="), "{}", answer.header("ratelimit"));
    }
    let answer = call(&service, &json!({})).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["details"]["limit"]),
        (429, &json!("RATE_LIMIT_EXCEEDED"), &json!("method"))
    );
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(error["retryAfter"], seconds);
    assert_eq!(service.upstream.received().len(), 2);
    assert_eq!(events_of_type(&service, "integration.rate_limit_exceeded").await.len(), 1);
}

#[tokio::test]
async fn a_breaker_opens_probes_and_closes() {
    let service = service_with(&json!({
        "circuitBreaker": {"failureThreshold": 2, "windowMs": 60_000, "openMs": 200, "halfOpenMaxCalls": 1},
    }))
    .await;
    service.upstream.always(|_| json_response(500, &json!({})));
    for _ in 0..2 {
        assert_eq!(call(&service, &json!({})).await.status, 502);
    }
    let refused = call(&service, &json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("CIRCUIT_OPEN")));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(service.upstream.received().len(), 2);
    let seen = service.get("/integrations/it/circuit-breaker").await.json();
    assert_eq!(seen["methods"][0]["state"], "open");
    assert_eq!(service.get("/integrations/it/health").await.json()["status"], "degraded");
    assert_eq!(events_of_type(&service, "integration.circuit_breaker_opened").await.len(), 1);

    service.upstream.always(|_| json_response(200, &json!({})));
    poll(&service, "/integrations/it/circuit-breaker", |body| body["methods"][0]["state"] == "half_open").await;
    assert_eq!(call(&service, &json!({})).await.status, 200);
    let seen = service.get("/integrations/it/circuit-breaker").await.json();
    assert_eq!(seen["methods"][0]["state"], "closed");
    assert_eq!(events_of_type(&service, "integration.circuit_breaker_closed").await.len(), 1);
}

#[tokio::test]
async fn a_caller_s_mistakes_do_not_open_the_breaker() {
    let service = service_with(&json!({
        "circuitBreaker": {"failureThreshold": 1, "windowMs": 60_000, "openMs": 60_000},
    }))
    .await;
    service.upstream.always(|_| json_response(404, &json!({})));
    for _ in 0..3 {
        assert_eq!(call(&service, &json!({})).await.json()["error"]["code"], "UPSTREAM_ERROR");
    }
    assert_eq!(service.get("/integrations/it/circuit-breaker").await.json()["methods"][0]["state"], "closed");
}

#[tokio::test]
async fn transforms_shape_params_and_answer() {
    let mut thing = definition(
        "thing",
        &json!({
            "operation": {"verb": "GET", "path": "/items/{id}"},
            "requestTransform": "{'id': item.number}",
            "responseTransform": "template:label",
        }),
    );
    thing["templates"] = json!({"label": "{'label': $uppercase(name), 'n': n}"});
    let service = TestService::start().await;
    service.instance_of(&thing, "it").await;
    service.upstream.always(|_| json_response(200, &json!({"name": "rex", "n": 7})));
    let answer = call(&service, &json!({"item": {"number": 5}})).await;
    assert_eq!(answer.json()["data"], json!({"label": "REX", "n": 7}));
    assert_eq!(service.upstream.received()[0].path_and_query, "/items/5");

    let broken = definition("broken", &json!({"requestTransform": "$error('no')"}));
    service.instance_of(&broken, "broken").await;
    let answer = service.execute("broken", "call", &json!({})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("TRANSFORM_ERROR")));
    assert_eq!(service.upstream.received().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn the_result_schema_is_ignored_warned_of_or_enforced() {
    let service = TestService::start().await;
    service.upstream.always(|_| json_response(200, &json!({"n": "seven"})));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    for (mode, status, warnings) in [("off", 200, 0), ("warn", 200, 1), ("enforce", 502, 0)] {
        service.instance_of(&definition(mode, &json!({"resultSchema": schema, "resultValidation": mode})), mode).await;
        let answer = service.execute(mode, "call", &json!({})).await;
        let body = answer.json();
        assert_eq!(answer.status, status, "{mode}");
        assert_eq!(body["meta"]["warnings"].as_array().map_or(0, Vec::len), warnings, "{mode}");
        if mode == "enforce" {
            assert_eq!(body["error"]["code"], "RESULT_INVALID");
            assert_eq!(body["error"]["details"]["errors"][0]["pointer"], "/data/n");
        }
    }
}

#[tokio::test]
async fn params_that_came_before_are_treated_like_all_others() {
    let method = |kind: &str| {
        json!({
            "operation": {"verb": "GET", "path": "/things/{id}"}, "idempotent": true, "cache": {"ttlMs": 600_000},
            "paramSchema": {"type": "object", "properties": {"id": {"type": kind}}, "additionalProperties": false},
        })
    };
    let service = service_with(&method("integer")).await;
    service.upstream.always(|received| json_response(200, &json!({"at": received.path_and_query})));
    let send = async |query: &str, params: &str| {
        let request = post(&format!("/execute/it/call{query}")).header("content-type", "application/json");
        service.send(request, &format!("{{\"params\":{params}}}")).await
    };
    for cached in [false, true, true, true] {
        let answer = send("", "{\"id\": 7}").await.json();
        assert_eq!((&answer["data"]["at"], &answer["meta"]["cached"]), (&json!("/things/7"), &json!(cached)));
    }
    assert_eq!(send("", " { \"id\" : 7 } ").await.json()["meta"]["cached"], true, "it means the same");
    for _ in 0..3 {
        assert_eq!(send("", "{\"id\": \"7\"}").await.json()["error"]["code"], "VALIDATION_ERROR");
    }
    let preview = send("?dryRun=true", "{\"id\": 7}").await.json();
    assert!(preview["data"].to_string().contains("/things/7"), "{preview}");
    let rows = service.items("/api/v1/executions?limit=100").await;
    let replay = format!("/api/v1/executions/{}/replay", rows.last().unwrap()["id"].as_str().unwrap());
    assert_eq!(service.post(&replay, &json!({})).await.json()["data"]["at"], "/things/7");
    assert_eq!(service.upstream.received().len(), 1);

    let mut next = definition("thing", &method("string"));
    next["version"] = json!("2.0.0");
    crate::instances::publish(&service, &next).await;
    let upgrade = json!({"definitionVersion": "2.0.0", "acceptBreaking": true});
    let upgraded = service.post("/api/v1/integration-instances/it/upgrade", &upgrade).await;
    assert_eq!(upgraded.status, 200, "{}", upgraded.json());
    assert_eq!(send("", "{\"id\": 7}").await.json()["error"]["code"], "VALIDATION_ERROR", "it fits no more");
}

#[tokio::test]
async fn a_dry_run_shows_the_request_and_does_nothing() {
    let service = TestService::start().await;
    let mut thing = definition("thing", &json!({"operation": {"verb": "POST", "path": "/items/{id}", "body": "item"}}));
    thing["authType"] = json!("api_key");
    service.instance_of(&thing, "it").await;
    let secret = json!({"type": "api_key", "data": {"key": "s3cr3t-mark", "headerOrParam": "X-Key", "inHeader": true}});
    assert_eq!(service.post("/api/v1/integration-instances/it/credentials", &secret).await.status, 201);
    let request = post("/execute/it/call?dryRun=true").header("content-type", "application/json");
    let answer = service.send(request, r#"{"params":{"id":"a b","item":{"n":1}}}"#).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    assert!(text.contains("/items/a%20b") && text.contains("[redacted]"), "{text}");
    assert!(!text.contains("s3cr3t-mark"), "{text}");
    assert!(service.upstream.received().is_empty());
    assert_eq!(service.get("/api/v1/executions").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_key_is_answered_once_and_again_alike() {
    let service = service_with(&json!({"operation": {"verb": "POST", "path": "/thing", "body": "*"}})).await;
    service.upstream.always(|_| json_response(201, &json!({"made": true})));
    let send = |key: &'static str, body: &'static str| {
        let request =
            post("/execute/it/call").header("content-type", "application/json").header("idempotency-key", key);
        service.send(request, body)
    };
    let first = send("k1", r#"{"params":{"a":1}}"#).await;
    let again = send("k1", r#"{"params":{"a":1}}"#).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(service.upstream.received().len(), 1);
    let other = send("k1", r#"{"params":{"a":2}}"#).await;
    assert_eq!((other.status, &other.json()["error"]["code"]), (422, &json!("IDEMPOTENCY_KEY_REUSED")));
    assert_eq!(service.upstream.received().len(), 1);

    service.upstream.then(json_response(500, &json!({})));
    let failed = send("k2", r#"{"params":{}}"#).await;
    assert_eq!(failed.status, 502);
    let again = send("k2", r#"{"params":{}}"#).await;
    assert_eq!(again.status, 502, "an answered failure is an answer, too");
    assert_eq!(failed.body, again.body);
}

#[tokio::test]
async fn concurrent_calls_of_one_key_act_once() {
    let service = service_with(&json!({"operation": {"verb": "POST", "path": "/thing", "body": "*"}})).await;
    let calls = (0..10).map(|_| {
        let request =
            post("/execute/it/call").header("content-type", "application/json").header("idempotency-key", "same");
        service.send(request, r#"{"params":{}}"#)
    });
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(service.upstream.received().len(), 1);
    for answer in answers {
        assert!(answer.status == 200 || answer.status == 409, "{}", answer.status);
    }
}

#[tokio::test]
async fn a_queued_call_runs_and_keeps_its_answer() {
    let service = service_with(&json!({"operation": {"verb": "POST", "path": "/thing", "body": "*"}})).await;
    service.upstream.always(|_| json_response(201, &json!({"made": 1})));
    let request = post("/execute/it/call").header("content-type", "application/json").header("prefer", "respond-async");
    let answer = service.send(request, r#"{"params":{"a":1}}"#).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    let location = answer.header("location").to_owned();
    let row = poll(&service, &location, |row| row["status"] == "SUCCESS").await;
    assert_eq!((&row["data"], &row["mode"]), (&json!({"made": 1}), &json!("async")));
    assert_eq!(service.upstream.received()[0].body, r#"{"a":1}"#);

    let replayed = service.post(&format!("{location}/replay"), &json!({})).await;
    assert_eq!(replayed.status, 200);
    assert_eq!(service.upstream.received()[1].body, r#"{"a":1}"#);
    let id = replayed.json()["meta"]["executionId"].as_str().unwrap().to_owned();
    let row = service.get(&format!("/api/v1/executions/{id}")).await.json();
    assert!(location.ends_with(row["replayOf"].as_str().unwrap()));
}

#[tokio::test]
async fn a_running_call_can_be_cancelled_and_says_that_its_outcome_is_unknown() {
    let service = service_with(&json!({"timeoutMs": 60_000, "operation": {"verb": "POST", "path": "/thing"}})).await;
    service.upstream.always(|_| never());
    let request = post("/execute/it/call").header("content-type", "application/json").header("prefer", "respond-async");
    let location = service.send(request, r#"{"params":{}}"#).await.header("location").to_owned();
    poll(&service, &location, |row| row["status"] == "RUNNING").await;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    while service.upstream.received().is_empty() {
        pause.tick().await;
    }
    assert_eq!(service.post(&format!("{location}/cancel"), &json!({})).await.status, 200);
    let row = poll(&service, &location, |row| row["status"] == "ERROR").await;
    assert_eq!(row["error"]["code"], "CANCELLED");
    assert_eq!(row["error"]["details"]["outcome"], "unknown");
    assert_eq!(service.post(&format!("{location}/cancel"), &json!({})).await.status, 409);
}

#[tokio::test]
async fn pages_are_joined_or_walked() {
    let service = service_with(&json!({"operation": {
        "verb": "GET", "path": "/items",
        "pagination": {"type": "cursor", "param": "after", "cursorPath": "/next", "itemsPath": "/items"},
    }}))
    .await;
    service.upstream.always(|received| {
        let page: u32 = received.path_and_query.split("after=").nth(1).map_or(1, |text| text.parse().unwrap());
        let next = if page < 3 { json!((page + 1).to_string()) } else { Value::Null };
        json_response(200, &json!({"items": [page * 10, page * 10 + 1], "next": next}))
    });
    let execute = |query: &str| {
        let request = post(&format!("/execute/it/call?{query}")).header("content-type", "application/json");
        service.send(request, r#"{"params":{}}"#)
    };
    let all = execute("paginate=all").await.json();
    assert_eq!(all["data"]["items"], json!([10, 11, 20, 21, 30, 31]), "{all}");
    assert_eq!(all["meta"]["pages"], 3);
    let first = execute("paginate=page").await.json();
    let cursor = first["meta"]["nextPage"].as_str().unwrap();
    let encoded: String = cursor.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let second = execute(&format!("paginate=page&cursor={encoded}")).await.json();
    assert_eq!(second["data"]["items"], json!([20, 21]), "{second}");
    assert_eq!(execute("paginate=some").await.status, 400);
}

#[tokio::test]
async fn what_is_not_ready_says_what_to_do() {
    let service = TestService::start().await;
    let mut thing = definition("thing", &json!({}));
    thing["authType"] = json!("basic");
    service.instance_of(&thing, "it").await;
    let answer = call(&service, &json!({})).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (409, &json!("INSTANCE_NOT_READY")));
    assert_eq!(error["details"]["status"], "PENDING_AUTHENTICATION");
    assert!(error["message"].as_str().unwrap().contains("POST …/credentials"), "{error}");
    for (path, code) in [("/execute/nobody/call", "INSTANCE_NOT_FOUND"), ("/execute/it/nothing", "METHOD_NOT_FOUND")] {
        let answer = service.post(path, &json!({"params": {}})).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(code)));
    }
}

#[tokio::test]
async fn a_private_upstream_is_refused_unless_allowed() {
    let service = TestService::start_with(&[("INTEGRATION_SERVICE_EGRESS_ALLOW", "10.1.2.3/32")]).await;
    service.instance_of(&definition("thing", &json!({})), "it").await;
    let answer = call(&service, &json!({})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("EGRESS_DENIED")));
    assert!(service.upstream.received().is_empty());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_row() {
    let service = service_with(&json!({"timeoutMs": 300, "operation": {"verb": "POST", "path": "/thing"}})).await;
    service.upstream.always(|_| never());
    let request = Request::post("/execute/it/call")
        .header("host", "test")
        .header("content-type", "application/json")
        .header("x-api-key", crate::service::KEY);
    let gone = tokio::time::timeout(
        Duration::from_millis(100),
        crate::client::send(service.address(), request, r#"{"params":{}}"#),
    );
    assert!(gone.await.is_err(), "the caller left before the answer");
    let list = poll(&service, "/api/v1/executions", |list| !list["items"].as_array().unwrap().is_empty()).await;
    assert_eq!(list["items"][0]["error"]["code"], "TIMEOUT");
}

#[tokio::test]
async fn a_key_stays_used_where_the_upstream_has_acted() {
    let service = service_with(&json!({
        "operation": {"verb": "POST", "path": "/thing", "body": "*"},
        "resultSchema": {"type": "string"}, "resultValidation": "enforce",
    }))
    .await;
    let send = || {
        let request =
            post("/execute/it/call").header("content-type", "application/json").header("idempotency-key", "k");
        service.send(request, r#"{"params":{}}"#)
    };
    let first = send().await;
    assert_eq!((first.status, &first.json()["error"]["code"]), (502, &json!("RESULT_INVALID")));
    assert_eq!(send().await.body, first.body);
    assert_eq!(service.upstream.received().len(), 1);
}

#[tokio::test]
async fn a_large_answer_is_transformed() {
    let service = service_with(&json!({"responseTransform": "$count(items)"})).await;
    let items: Vec<_> = (0..20_000).collect();
    service.upstream.always(move |_| json_response(200, &json!({"items": items})));
    assert_eq!(call(&service, &json!({})).await.json()["data"], 20_000);
}
