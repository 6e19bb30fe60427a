//! Events: their exact shapes, their history, their live stream.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::service::{KEY, TestService, definition, json_request, json_response};

const EVENTS: &str = "/api/v1/events";

fn is_timestamp(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z'))
}

/// The events of an instance, the oldest first, what differs from run to run taken out.
async fn story(service: &TestService, query: &str) -> Vec<Value> {
    let mut items = service.items(&format!("{EVENTS}?limit=200&{query}")).await;
    items.reverse();
    let ids: Vec<&str> = items.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted(), "ids ascend");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "no id comes twice");
    for event in &mut items {
        assert_eq!(event["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
        assert!(is_timestamp(&event["timestamp"]), "{event}");
        let members: Vec<&String> = event.as_object().unwrap().keys().collect();
        assert_eq!(members.len(), 5, "{members:?}");
        event.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "timestamp");
        if let Some(time) = event["data"].get_mut("executionTime") {
            assert!(time.is_u64());
            *time = json!(0);
        }
    }
    items
}

fn event(event_type: &str, correlation_id: &str, data: &Value) -> Value {
    json!({
        "type": event_type,
        "data": data,
        "metadata": {"correlationId": correlation_id, "source": "integration-service"},
    })
}

/// Posts under a correlation id of its own.
async fn post_as(service: &TestService, correlation_id: &str, path: &str, body: &Value) -> crate::client::Answer {
    let request = json_request("POST", path).header("x-correlation-id", correlation_id).header("x-task-id", "task-7");
    service.send(request, &body.to_string()).await
}

#[tokio::test]
async fn the_life_of_an_instance_is_told_in_the_documented_shapes() {
    let service = TestService::start().await;
    let mut document = definition("pets", &json!({}));
    document["authType"] = json!("oauth2");
    service.post("/api/v1/integration-definitions?publish=true", &document).await;
    let config = json!({"baseUrl": service.upstream.url()});
    let new = json!({"id": "mine", "integrationDefinitionId": "pets", "name": "x", "config": config});
    let instance = "/api/v1/integration-instances/mine";
    post_as(&service, "c-1", "/api/v1/integration-instances", &new).await;
    let credential = json!({
        "type": "oauth2",
        "data": {"access_token": "t", "scope": "read,write", "expires_at": "2999-10-15T10:30:00Z"},
    });
    post_as(&service, "c-2", &format!("{instance}/credentials"), &credential).await;
    service.upstream.then(json_response(200, &json!({"a": 1})));
    post_as(&service, "c-3", "/execute/mine/call", &json!({"params": {}})).await;
    service.upstream.then(json_response(401, &json!({})));
    post_as(&service, "c-4", "/execute/mine/call", &json!({"params": {}})).await;

    let mut told = story(&service, "instance=mine").await;
    let about = json!({"integrationInstanceId": "mine", "integrationDefinitionId": "pets"});
    let with = |extra: &Value| {
        let mut data = about.clone();
        data.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        data
    };
    let moved = |from: Value, to: &str, reason: &Value| {
        with(&json!({"previousStatus": from, "currentStatus": to, "statusChangeReason": reason}))
    };
    let mut executed = event(
        "integration.method.executed",
        "c-3",
        &json!({
            "integrationInstanceId": "mine", "methodName": "call", "status": "SUCCESS", "executionTime": 0,
            "resultSummary": {"statusCode": 200, "dataSize": 7},
        }),
    );
    executed["metadata"]["taskId"] = json!("task-7");
    let failed = told.pop().unwrap();
    let reason =
        told.iter().find(|event| event["type"] == "integration.auth.failed").unwrap()["data"]["error"]["message"]
            .clone();
    let expected = [
        event("integration.registered", "c-1", &with(&json!({"definitionVersion": "1.0.0"}))),
        event("integration.instance.status", "c-1", &moved(Value::Null, "PENDING_AUTHENTICATION", &json!("created"))),
        event(
            "integration.instance.status",
            "c-2",
            &moved(json!("PENDING_AUTHENTICATION"), "CONNECTED", &json!("credential stored")),
        ),
        event(
            "integration.connected",
            "c-2",
            &with(&json!({
                "authType": "oauth2",
                "connectionDetails": {"scope": "read,write", "expiresAt": "2999-10-15T10:30:00.000Z"},
            })),
        ),
        executed,
        event("integration.instance.status", "c-4", &moved(json!("CONNECTED"), "AUTH_ERROR", &reason)),
        event(
            "integration.auth.failed",
            "c-4",
            &with(&json!({"authType": "oauth2", "error": {"code": "AUTH_ERROR", "message": reason, "details": {}}})),
        ),
    ];
    assert_eq!(json!(told), json!(expected));

    assert_eq!(failed["type"], "integration.method.failed");
    assert_eq!(
        failed["metadata"],
        json!({"correlationId": "c-4", "taskId": "task-7", "source": "integration-service"})
    );
    let members: Vec<&String> = failed["data"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["integrationInstanceId", "methodName", "error", "retryable", "executionTime"]);
    let error = failed["data"]["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "details"]);
    assert_eq!((&error["code"], &failed["data"]["retryable"]), (&json!("AUTH_ERROR"), &json!(false)));
}

#[tokio::test]
async fn limits_breakers_and_tests_are_told_too() {
    let service = TestService::start().await;
    let method = json!({
        "rateLimits": {"requestsPerMinute": 1, "burstLimit": 1},
        "circuitBreaker": {"failureThreshold": 1, "windowMs": 60_000, "openMs": 600_000},
    });
    service.instance_of(&definition("pets", &method), "mine").await;
    service.upstream.then(json_response(500, &json!({})));
    post_as(&service, "c-1", "/execute/mine/call", &json!({})).await;
    post_as(&service, "c-2", "/execute/mine/call", &json!({})).await;
    post_as(&service, "c-3", "/integrations/mine/circuit-breaker/reset", &json!({})).await;
    post_as(&service, "c-4", "/integrations/mine/test", &json!({})).await;
    let types = "integration.circuit_breaker_opened,integration.circuit_breaker_closed,integration.rate_limit_exceeded,\
                 integration.health_check";
    let mut told = story(&service, &format!("type={types}")).await;
    for event in &mut told {
        for name in ["retryAfterMs", "durationMs", "message"] {
            if let Some(value) = event["data"].get_mut(name) {
                assert!(!value.is_null());
                *value = json!(0);
            }
        }
    }
    let about = |extra: Value| {
        let mut data = json!({"integrationInstanceId": "mine"});
        data.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        data
    };
    let expected = [
        event(
            "integration.circuit_breaker_opened",
            "c-1",
            &about(json!({"methodName": "call", "failures": 1, "openMs": 600_000})),
        ),
        event(
            "integration.rate_limit_exceeded",
            "c-2",
            &about(json!({"methodName": "call", "limit": "method", "retryAfterMs": 0})),
        ),
        event("integration.circuit_breaker_closed", "c-3", &about(json!({"methodName": "call"}))),
        event("integration.health_check", "c-4", &about(json!({"healthy": true, "message": 0, "durationMs": 0}))),
    ];
    assert_eq!(json!(told), json!(expected));
}

#[tokio::test]
async fn the_history_is_filtered_and_read_in_pages() {
    let service = TestService::start().await;
    for id in ["a", "b"] {
        service.instance_of(&definition(id, &json!({})), id).await;
        for _ in 0..3 {
            service.execute(id, "call", &json!({})).await;
        }
    }
    let all = service.items(&format!("{EVENTS}?limit=200")).await;
    assert_eq!(all.len(), 12);
    let mut paged: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = service.get(&format!("{EVENTS}?limit=5{cursor}")).await.json();
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);

    let count = async |query: &str| service.items(&format!("{EVENTS}?limit=200&{query}")).await.len();
    assert_eq!(count("instance=a").await, 6);
    assert_eq!(count("type=integration.method.executed").await, 6);
    assert_eq!(count("type=integration.method.executed,integration.registered&instance=b").await, 4);
    let middle = all[6]["timestamp"].as_str().unwrap();
    assert_eq!(count(&format!("from={middle}")).await + count(&format!("until={middle}")).await, 12);
    assert_eq!(count("from=2999-01-01T00:00:00Z").await, 0);
    for (query, pointer) in [
        ("type=integration.gone", "/query/type"),
        ("instance=a/b", "/query/instance"),
        ("from=yesterday", "/query/from"),
        ("cursor=5", "/query/cursor"),
        ("limit=0", "/query/limit"),
    ] {
        let answer = service.get(&format!("{EVENTS}?{query}")).await;
        assert_eq!((answer.status, &answer.json()["errors"][0]["pointer"]), (400, &json!(pointer)));
    }
}

/// A reader of the live stream.
struct Stream {
    body: Incoming,
    text: String,
    connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Stream {
    async fn open(service: &TestService, query: &str, headers: &[(&str, &str)]) -> Self {
        let stream = tokio::net::TcpStream::connect(service.address()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request =
            http::Request::get(format!("{EVENTS}/stream?{query}")).header("host", "test").header("x-api-key", KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &http::HeaderValue::from_static("text/event-stream"))
        );
        Self { body: response.into_body(), text: String::new(), connection }
    }

    /// The next event, none at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let Some(data) = field("data") else { continue };
                let event: Value = serde_json::from_str(data).unwrap();
                assert_eq!((field("id"), field("event")), (event["id"].as_str(), event["type"].as_str()));
                return Some(event);
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(30), self.body.frame()).await.expect("an event in time")?;
            self.text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.next().await.expect("the stream goes on"));
        }
        events
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn execute(service: &TestService, instance: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(service.execute(instance, "call", &json!({})).await.status, 200);
    }
}

#[tokio::test]
async fn the_stream_tells_what_is_committed_from_now_on() {
    let service = TestService::start().await;
    service.instance_of(&definition("a", &json!({})), "a").await;
    service.instance_of(&definition("b", &json!({})), "b").await;
    let mut all = Stream::open(&service, "", &[]).await;
    let mut of_a = Stream::open(&service, "instance=a&type=integration.method.executed", &[]).await;
    execute(&service, "b", 2).await;
    execute(&service, "a", 1).await;
    let told = all.take(3).await;
    let instances: Vec<&Value> = told.iter().map(|event| &event["data"]["integrationInstanceId"]).collect();
    assert_eq!(instances, ["b", "b", "a"]);
    assert_eq!(of_a.next().await.as_ref(), told.last());
    let mut history = service.items(&format!("{EVENTS}?limit=3")).await;
    history.reverse();
    assert_eq!(told, history, "the stream and the history tell the same");
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    let service = TestService::start().await;
    service.instance_of(&definition("a", &json!({})), "a").await;
    let mut told = Vec::new();
    let mut stream = Stream::open(&service, "", &[]).await;
    execute(&service, "a", 3).await;
    told.extend(stream.take(2).await);
    drop(stream);
    execute(&service, "a", 300).await;
    let last = told.last().unwrap()["id"].as_str().unwrap().to_owned();
    let mut stream = Stream::open(&service, "", &[("last-event-id", &last)]).await;
    told.extend(stream.take(301).await);
    execute(&service, "a", 2).await;
    told.extend(stream.take(2).await);
    let ids: Vec<&str> = told.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert_eq!(ids.len(), 305);

    let bad = service.send(crate::client::get(&format!("{EVENTS}/stream")).header("last-event-id", "5"), "").await;
    assert_eq!((bad.status, &bad.json()["errors"][0]["pointer"]), (400, &json!("/headers/last-event-id")));
}

#[tokio::test]
async fn the_stream_keeps_tenants_apart() {
    let service = TestService::start().await;
    service.post("/api/v1/integration-definitions?publish=true", &definition("pets", &json!({}))).await;
    let mut of_ann = Stream::open(&service, "", &[("x-tenant-id", "ann")]).await;
    for (tenant, id) in [("bob", "of-bob"), ("ann", "of-ann")] {
        let new = json!({"id": id, "integrationDefinitionId": "pets", "name": id});
        assert_eq!(service.send_as(tenant, "POST", "/api/v1/integration-instances", &new).await.status, 201);
    }
    for event in of_ann.take(2).await {
        assert_eq!(event["data"]["integrationInstanceId"], "of-ann");
    }
}

#[tokio::test]
async fn streams_end_when_the_service_stops() {
    let service = TestService::start().await;
    let mut stream = Stream::open(&service, "", &[]).await;
    let TestService { app, .. } = service;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(stream.next().await, None);
    tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("it stops in time").unwrap();
}
