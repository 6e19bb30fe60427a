//! The graphql adapter: from params to variables, from answers to data, errors and costs.

use std::time::Duration;

use integration_engine::adapter::graphql::GraphqlAdapter;
use integration_engine::adapter::{CallError, Cost, Effect, PageCursor};
use integration_engine::params::Params;
use integration_model::ErrorCode;
use integration_model::definition::AuthType;
use serde_json::{Value, json};

use crate::http_adapter::{Harness, in_ten_seconds, pointers};
use crate::upstream::{RawUpstream, Script, Upstream, json_reply, reply};

fn harness(base_url: &str) -> Harness {
    Harness::of(Box::new(GraphqlAdapter::new()), base_url)
}

/// What an operation makes of one answer.
async fn answered(operation: Value, status: u16, answer: Value) -> Result<Value, CallError> {
    let upstream =
        Upstream::start(move |_| reply(status, &[("content-type", "application/json")], answer.to_string())).await;
    let answer = harness(&upstream.url("/graphql")).call(operation, json!({})).await?;
    Ok(answer.data.value().expect("JSON").clone())
}

fn query() -> Value {
    json!({"query": "{ item { id } }"})
}

fn mutation(fields: &str) -> Value {
    json!({"query": format!("mutation {{ {fields} }}")})
}

#[tokio::test]
async fn params_become_variables_as_they_were_written() {
    let upstream =
        Upstream::start(|_| json_reply(r#"{"data": {"item": {"price": 1.10, "n": 12345678901234567890123}}}"#)).await;
    let harness =
        harness(&upstream.url("/api/graphql/?v=2")).with_credential(AuthType::ApiKey, json!({"key": "hunter2"}));
    let operation = json!({
        "query": "query Q($id: ID!, $n: Int, $none: Int, $kind: Kind, $null: Int = 5) { item(id: $id, a: [$n, $none, $kind, $null]) { price n } }",
        "variables": {"id": "itemId"}, "headers": {"X-Trace": "trace"},
        "constants": {"variables": {"kind": "BIG"}, "headers": {"X-Const": "c"}},
        "idempotencyKeyHeader": "Idempotency-Key", "dataPath": "/item",
    });
    let params = r#"{"itemId": "a\"b", "n": 1.10e5, "null": null, "trace": "t", "other": 1}"#;
    let answer = harness.call_text(operation.clone(), params).await.expect("an answer");
    assert_eq!(answer.data.text().as_ref(), br#"{"price": 1.10, "n": 12345678901234567890123}"#);
    let seen = upstream.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/api/graphql/?v=2"));
    assert_eq!(
        seen.body_text().split_once(r#""operationName""#).expect("a name").1,
        r#":"Q","variables":{"id":"a\"b","n":1.10e5,"kind":"BIG","null":null}}"#
    );
    for (name, value) in [
        ("content-type", "application/json"),
        ("accept", "application/graphql-response+json, application/json;q=0.9"),
        ("x-trace", "t"),
        ("x-const", "c"),
        ("x-api-key", "hunter2"),
        ("idempotency-key", "key-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }

    let shown = harness.preview(operation, json!({"itemId": "hunter2"})).expect("a preview");
    assert_eq!(shown["body"]["variables"], json!({"id": "[redacted]", "kind": "BIG"}));
    assert!(shown["body"]["query"].as_str().expect("a query").starts_with("query Q("), "{shown}");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    assert_eq!(upstream.seen().len(), 1, "a preview sends nothing");
}

#[tokio::test]
async fn errors_say_what_they_mean() {
    let of = |code: &str| json!({"data": null, "errors": [{"message": "no", "extensions": {"code": code}, "path": ["item"]}]});
    for (code, status, expected, retryable, refused, failed) in [
        ("UNAUTHENTICATED", 200, ErrorCode::Auth, false, true, false),
        ("FORBIDDEN", 200, ErrorCode::Auth, false, false, false),
        ("THROTTLED", 200, ErrorCode::RateLimitExceeded, true, false, false),
        ("BAD_USER_INPUT", 400, ErrorCode::Validation, false, false, false),
        ("NOT_FOUND", 200, ErrorCode::NotFound, false, false, false),
        ("INTERNAL_SERVER_ERROR", 200, ErrorCode::Upstream, true, false, true),
        ("GRAPHQL_VALIDATION_FAILED", 400, ErrorCode::Upstream, false, false, false),
        ("ELSE", 503, ErrorCode::Upstream, true, false, true),
        ("ELSE", 401, ErrorCode::Auth, false, true, false),
        ("ELSE", 429, ErrorCode::RateLimitExceeded, true, false, false),
        ("MINE", 200, ErrorCode::Conflict, true, false, false),
        ("GONE", 200, ErrorCode::NotFound, false, false, false),
    ] {
        let mut operation = query();
        operation["errors"] = json!({"MINE": {"code": "CONFLICT", "retryable": true}, "GONE": "NOT_FOUND"});
        let error = answered(operation, status, of(code)).await.expect_err(code);
        assert_eq!(
            (error.code, error.retryable, error.credential_refused, error.upstream_failed),
            (expected, retryable, refused, failed),
            "{code} {status}"
        );
        assert_eq!(error.upstream_status, Some(status));
        assert_eq!(error.details["upstreamErrors"], json!([{"message": "no", "code": code, "path": ["item"]}]));
        assert_eq!(error.message, format!("the upstream answered with an error: no ({code})"));
    }
}

#[tokio::test]
async fn the_error_that_says_most_stands_for_all() {
    let errors = json!({"errors": [
        {"message": "first"}, {"message": "second", "extensions": {"code": "NOT_FOUND"}},
        {"message": "third", "type": "MINE"},
    ]});
    let mut operation = query();
    let error = answered(operation.clone(), 200, errors.clone()).await.expect_err("errors");
    assert_eq!(error.code, ErrorCode::NotFound);
    operation["errors"] = json!({"MINE": "CONFLICT"});
    let error = answered(operation.clone(), 200, errors).await.expect_err("errors");
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::Conflict, "the upstream answered with an error: third (MINE)")
    );

    let many: Vec<_> = (0..25).map(|n| json!({"message": "x".repeat(5000), "path": vec![n; 100]})).collect();
    let error = answered(operation, 200, json!({"errors": many})).await.expect_err("errors");
    assert_eq!(error.details["upstreamErrorCount"], json!(25));
    assert!(error.details["upstreamErrors"].to_string().len() < 10_000, "what is told is bounded");
}

/// A mutation of several fields may have done some of them before one was refused: such a
/// refusal does not let it be sent again.
#[tokio::test]
async fn a_refused_mutation_is_repeated_only_where_nothing_was_done() {
    let refusal = |data: Option<Value>, code: &str, path: Value| {
        let mut answer = json!({"errors": [{"message": "no", "extensions": {"code": code}, "path": path}]});
        if let Some(data) = data {
            answer["data"] = data;
        }
        answer
    };
    for (fields, data, path, nothing_done) in [
        ("a", None, json!([]), true),
        ("a b", None, json!([]), true),
        ("a", Some(json!(null)), json!(["a"]), true),
        ("a { x }", Some(json!({"a": null})), json!(["a", "x"]), false),
        ("a b", Some(json!(null)), json!(["b"]), false),
        ("a b", Some(json!({"a": 1, "b": null})), json!(["b"]), false),
    ] {
        for (code, status) in [("UNAUTHENTICATED", 401), ("THROTTLED", 200), ("THROTTLED", 429), ("ELSE", 429)] {
            let answer = refusal(data.clone(), code, path.clone());
            let error = answered(mutation(fields), status, answer).await.expect_err("a refusal");
            let effect = if nothing_done { Effect::None } else { Effect::Answered };
            assert_eq!(error.effect, effect, "{fields} {data:?}");
            assert_eq!(error.credential_refused || error.retryable, nothing_done, "{fields} {data:?} {code}");
        }
    }
    let answer = refusal(Some(json!({"a": 1, "b": null})), "UNAUTHENTICATED", json!(["b"]));
    let error = answered(json!({"query": "{ a b }"}), 200, answer).await.expect_err("a refusal");
    assert!(error.credential_refused, "a query does nothing, so that it may be sent again");
}

#[tokio::test]
async fn partial_data_is_an_error_unless_the_definition_allows_it() {
    let partial = json!({"data": {"item": {"id": "1", "broken": null}, "other": null},
        "errors": [{"message": "down", "path": ["item", "broken"], "extensions": {"code": "DOWN"}}, {"message": "b", "path": ["other"]}]});
    let mut operation = json!({"query": "{ item { id broken } other }", "dataPath": "/item"});
    let error = answered(operation.clone(), 200, partial.clone()).await.expect_err("partial");
    assert_eq!((error.code, error.effect), (ErrorCode::Upstream, Effect::Answered));

    operation["partialData"] = json!("allow");
    let upstream = Upstream::start(move |_| json_reply(partial.to_string())).await;
    let answer = harness(&upstream.url("/")).call(operation.clone(), json!({})).await.expect("partial data");
    assert_eq!(answer.data.value().expect("JSON"), &json!({"id": "1", "broken": null}));
    let told: Vec<_> = answer.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["/data/broken: down (DOWN)", "/data: b"]);

    let nothing = json!({"data": {"item": null}, "errors": [{"message": "none", "path": ["item"]}]});
    assert!(answered(operation, 200, nothing).await.is_err(), "null is no part of the data");
}

#[tokio::test]
async fn what_is_no_graphql_answer_is_an_upstream_error() {
    for (status, content_type, body) in [
        (200, "text/html", "<html>"),
        (200, "application/json", r#"{"data": {"item""#),
        (200, "application/json", r#"{"item": 1}"#),
        (200, "application/json", "[]"),
        (200, "application/json", ""),
        (200, "application/json", r#"{"data": {"item": "\ud800 "#),
        (502, "text/html", "<html>bad gateway</html>"),
        (500, "application/json", r#"{"data": {"item": 1}}"#),
    ] {
        let upstream = Upstream::start(move |_| reply(status, &[("content-type", content_type)], body)).await;
        let error = harness(&upstream.url("/")).call(query(), json!({})).await.expect_err(body);
        assert_eq!((error.code, error.upstream_failed), (ErrorCode::Upstream, true), "{body}");
        assert_eq!(error.upstream_status, Some(status));
    }
    let large = format!(r#"{{"data": {{"item": "{}"}}}}"#, "x".repeat(1 << 20));
    let whole = large.clone();
    let upstream = Upstream::start(move |_| json_reply(large.clone())).await;
    let mut operation = query();
    let answer = harness(&upstream.url("/")).call(operation.clone(), json!({})).await.expect("a large answer");
    assert_eq!(answer.data.text().len(), whole.len() - r#"{"data": }"#.len());
    operation["maxResponseBytes"] = json!(1000);
    let error = harness(&upstream.url("/")).call(operation, json!({})).await.expect_err("too large");
    assert_eq!(error.code, ErrorCode::Upstream);
}

#[tokio::test]
async fn lost_connections_and_late_answers_leave_it_open_what_was_done() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"data\": {";
    for (script, code) in [
        (Script::Reset, ErrorCode::Upstream),
        (Script::Send(head.to_vec()), ErrorCode::Upstream),
        (Script::SendAndHold(head.to_vec()), ErrorCode::Timeout),
    ] {
        let upstream = RawUpstream::start(script).await;
        let harness = harness(&format!("http://{}/", upstream.address)).with_config(json!({"timeoutMs": 300}));
        let error = harness.call(mutation("a"), json!({})).await.expect_err("no answer");
        assert_eq!((error.code, error.effect, error.retryable), (code, Effect::Unknown, true));
    }
}

#[tokio::test]
async fn secrets_that_come_back_in_errors_are_taken_out() {
    let upstream = Upstream::start(|_| {
        let said = format!("bad key hunter2 {}", "x".repeat(5000));
        json_reply(
            json!({"errors": [{"message": said, "path": ["hunter2"], "extensions": {"code": "KEY-hunter2"}}]})
                .to_string(),
        )
    })
    .await;
    let harness = harness(&upstream.url("/")).with_credential(AuthType::ApiKey, json!({"key": "hunter2"}));
    let error = harness.call(query(), json!({})).await.expect_err("an error");
    let told = format!("{} {:?}", error.message, error.details);
    assert!(!told.contains("hunter2"), "{told}");
    assert!(told.contains("[redacted]") && told.len() < 2_000, "{told}");
}

/// A connection of twelve items.
async fn items() -> Upstream {
    Upstream::start(|seen| {
        let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
        let variables = &body["variables"];
        let first = usize::try_from(variables["first"].as_u64().expect("a number")).expect("a size");
        let after: usize = variables["after"].as_str().map_or(0, |after| after.parse().expect("a number"));
        let end = (after + first).min(12);
        let nodes: Vec<_> = (after..end).map(|id| json!({"id": id})).collect();
        let page_info = json!({"hasNextPage": end < 12, "endCursor": end.to_string()});
        json_reply(json!({"data": {"shop": {"items": {"nodes": nodes, "pageInfo": page_info}}}}).to_string())
    })
    .await
}

fn connection() -> Value {
    json!({
        "query": "query Q($first: Int!, $after: String) { shop { items(first: $first, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } } }",
        "dataPath": "/shop/items", "pagination": {"connection": "/shop/items", "pageSize": 5},
    })
}

#[tokio::test]
async fn the_pages_of_a_connection_follow_each_other() {
    let upstream = items().await;
    let harness = harness(&upstream.url("/"));
    let all = harness.read_all(connection(), json!({})).await.expect("all pages");
    assert_eq!(
        all["nodes"].as_array().expect("nodes").iter().map(|node| node["id"].clone()).collect::<Vec<_>>(),
        (0..12).map(Value::from).collect::<Vec<_>>()
    );
    assert_eq!(all["pageInfo"], json!({"hasNextPage": false, "endCursor": "12"}), "it tells of the whole's end");
    let sent: Vec<Value> = upstream
        .seen()
        .iter()
        .map(|seen| serde_json::from_slice::<Value>(&seen.body).expect("JSON")["variables"].clone())
        .collect();
    assert_eq!(sent, [json!({"first": 5}), json!({"first": 5, "after": "5"}), json!({"first": 5, "after": "10"})]);

    let mut list = connection();
    list["dataPath"] = json!("/shop/items/nodes");
    let all = harness.read_all(list, json!({"first": 7})).await.expect("all pages");
    assert_eq!(
        all.as_array().map(Vec::len),
        Some(12),
        "the items alone; a caller's size comes before the definition's"
    );
    assert_eq!(upstream.seen().len(), 5);

    let mut bounded = connection();
    bounded["pagination"]["maxPages"] = json!(2);
    let all = harness.read_all(bounded, json!({})).await.expect("two pages");
    assert_eq!(all["nodes"].as_array().map(Vec::len), Some(10));

    let operation = harness.operation(connection());
    for cursor in ["", "5", "0.x", "100.x", "1.", "x.y"] {
        let page = PageCursor(cursor.to_owned());
        let call = harness.call_page(&*operation, &Params::empty(), Some(&page), in_ten_seconds()).await;
        assert_eq!(call.expect_err("no cursor of ours").code, ErrorCode::Validation, "{cursor:?}");
    }
}

#[tokio::test]
async fn a_call_costs_what_is_declared_or_what_answers_say() {
    let upstream = Upstream::start(|_| {
        let cost = json!({"requestedQueryCost": 90, "actualQueryCost": 12, "throttleStatus": {"currentlyAvailable": 40, "restoreRate": 25}});
        reply(200, &[("x-ratelimit-remaining", "7")], json!({"data": {"item": 1}, "extensions": {"cost": cost}}).to_string())
    })
    .await;
    let harness = harness(&upstream.url("/"));
    let mut operation = query();
    assert_eq!(harness.operation(operation.clone()).cost(), Cost::Learned);
    let limits = harness.call(operation.clone(), json!({})).await.expect("an answer").limits;
    assert_eq!((limits.cost, limits.remaining, limits.reset_after), (Some(12), Some(0), Some(Duration::from_secs(2))));
    operation["cost"] = json!({"declared": 30});
    assert_eq!(harness.operation(operation.clone()).cost(), Cost::Fixed(30));
    assert_eq!(harness.call(operation, json!({})).await.expect("an answer").limits.cost, None);
}

#[tokio::test]
async fn faults_of_an_operation_are_told_together_with_their_places() {
    let harness = harness("http://127.0.0.1:1/");
    let faults = |operation: Value, properties: Value| {
        let schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        match harness.compile(json!({"name": "m", "operation": operation, "paramSchema": schema})) {
            Ok(_) => Vec::new(),
            Err(problems) => pointers(&problems).into_iter().map(str::to_owned).collect(),
        }
    };
    let text = "query Q($id: ID!, $n: Int, $size: Int) { item(id: $id, n: [$n, $size]) { edges { cursor } } }";
    let all = faults(
        json!({
            "query": text, "variables": {"n": "nothing", "x": "id"}, "headers": {"Host": "id", "X-A": "none"},
            "constants": {"variables": {"y": 1, "n": 2}, "headers": {"X-B": "a\nb"}}, "dataPath": "/thing",
            "pagination": {"connection": "/item", "pageSize": 5},
        }),
        json!({"id": {}}),
    );
    assert_eq!(
        all,
        [
            "/headers/Host",
            "/constants/headers/X-B",
            "/variables/x",
            "/constants/variables/y",
            "/constants/variables/n",
            "/variables/n",
            "/headers/X-A",
            "/dataPath",
            "/pagination/connection",
            "/pagination/connection",
            "/dataPath",
            "/pagination/after",
            "/pagination/pageSize",
        ]
    );
    assert_eq!(faults(json!({"query": text}), json!({})), ["/query"], "a variable that is needed and has no param");
    assert_eq!(faults(json!({"query": text}), json!({"id": {}})), [""; 0], "others may stay unset");
    assert_eq!(faults(json!({"query": "subscription { a }"}), json!({})), ["/query"]);
    assert_eq!(faults(json!({"query": "{ a"}), json!({})), ["/query"]);
    assert_eq!(faults(json!({"query": "{ a }", "operationName": "B"}), json!({})), ["/operationName"]);
    assert_eq!(faults(json!({"query": "{ a }", "errors": {"A": "MADE_UP"}}), json!({})), ["/errors/A"]);
    assert_eq!(faults(json!({"query": "{ a }", "extra": 1}), json!({})).len(), 1);
}

#[tokio::test]
async fn a_connection_test_asks_for_what_every_schema_has() {
    for (status, body, outcome) in [
        (200, r#"{"data": {"__typename": "Query"}}"#, Ok(())),
        (200, r#"{"errors": [{"message": "who?", "extensions": {"code": "UNAUTHENTICATED"}}]}"#, Err(ErrorCode::Auth)),
        (200, r#"{"errors": [{"message": "no", "extensions": {"code": "FORBIDDEN"}}]}"#, Err(ErrorCode::Auth)),
        (401, "", Err(ErrorCode::Auth)),
        (403, "no", Err(ErrorCode::Auth)),
        (404, "not here", Err(ErrorCode::Upstream)),
        (200, "<html>", Err(ErrorCode::Upstream)),
        (500, "", Err(ErrorCode::Upstream)),
    ] {
        let upstream = Upstream::start(move |_| reply(status, &[], body)).await;
        let told = harness(&upstream.url("/graphql")).test().await;
        assert_eq!(upstream.only().body_text(), r#"{"query":"{ __typename }","variables":{}}"#);
        match (told, outcome) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(code)) => {
                assert_eq!((error.code, error.credential_refused), (code, code == ErrorCode::Auth), "{status} {body}");
            }
            (told, _) => panic!("{status} {body}: {told:?}"),
        }
    }
}
