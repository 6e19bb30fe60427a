//! Callers who mean harm: each gets a clear refusal, and the service goes on.

use std::net::SocketAddr;

use http::Request;
use http::request::Builder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Answer, post};
use crate::service::{KEY, TestService, definition};

const DEFINITIONS: &str = "/api/v1/integration-definitions";
const INSTANCES: &str = "/api/v1/integration-instances";

fn json_post(path: &str) -> Builder {
    post(path).header("content-type", "application/json")
}

fn yaml_post(path: &str) -> Builder {
    post(path).header("content-type", "application/yaml")
}

/// The code of an error in either of its shapes.
fn code(answer: &Answer) -> String {
    let body = answer.json();
    let code = if body["code"].is_null() { &body["error"]["code"] } else { &body["code"] };
    code.as_str().unwrap_or_default().to_owned()
}

fn assert_refused(answer: &Answer, status: u16, expected: &str, what: &str) {
    let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
    assert_eq!((answer.status, code(answer).as_str()), (status, expected), "{what}: {start}");
}

/// Sends these bytes as they are; gives what comes back until the service closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn nested_and_swollen_bodies_are_malformed() {
    let service = TestService::start().await;
    let deep = "[".repeat(100_000);
    let closed = format!("{deep}{}", "]".repeat(100_000));
    let objects = r#"{"a":"#.repeat(100_000);
    let many = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(1_000_000));
    for path in [DEFINITIONS, INSTANCES, &format!("{DEFINITIONS}/validate")] {
        for body in [&objects, &many, r#"{"id":"\ud800"}"#, "{\"id\":\"\0\"}", r#"{"id":1e999}"#, "\u{feff}{}"] {
            let what = format!("{path} {}", &body[..body.len().min(20)]);
            assert_refused(&service.send(json_post(path), body).await, 400, "MALFORMED_BODY", &what);
        }
    }
    for body in [deep.as_str(), &closed] {
        assert_refused(&service.send(json_post(DEFINITIONS), body).await, 400, "MALFORMED_BODY", "arrays");
    }
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let maps = "{a: ".repeat(10_000);
    let dashes = "- ".repeat(10_000);
    for body in
        [bomb.as_str(), "a: &a [*a]", &deep, &maps, &dashes, "a: \0", "a: .nan", "a: 1\n---\nb: 2", "a: 1\na: 2"]
    {
        let what = &body[..body.len().min(20)];
        assert_refused(&service.send(yaml_post(DEFINITIONS), body).await, 400, "MALFORMED_BODY", what);
    }
}

#[tokio::test]
async fn a_key_that_comes_twice_is_not_passed_on() {
    let service = TestService::start().await;
    let method = json!({
        "operation": {"verb": "POST", "path": "/pets", "body": "pet"},
        "paramSchema": {"type": "object", "properties": {"pet": {"properties": {"age": {"type": "integer"}}}}},
    });
    service.instance_of(&definition("pets", &method), "shop").await;
    // The upstream may read the first of the two, which was not checked.
    for body in [
        r#"{"params":{"pet":{"age":"old","age":3}}}"#,
        r#"{"params":{"pet":{"age":3},"pet":{"age":3}}}"#,
        r#"{"params":{"pet":{"age":"old","\u0061ge":3}}}"#,
        r#"{"params":{"pet":{}},"params":{"pet":{}}}"#,
    ] {
        let answer = service.send(json_post("/execute/shop/call"), body).await;
        assert_refused(&answer, 400, "VALIDATION_ERROR", body);
    }
    assert!(service.upstream.received().is_empty());
    let twice = r#"{"integrationDefinitionId":"pets","name":"a","config":{"baseUrl":"http://a","baseUrl":"http://b"}}"#;
    assert_refused(&service.send(json_post(INSTANCES), twice).await, 400, "MALFORMED_BODY", twice);
    assert_refused(&service.send(json_post(DEFINITIONS), r#"{"id":"a","id":"b"}"#).await, 400, "MALFORMED_BODY", "id");
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told_in_the_shape_of_calls() {
    let service = TestService::start().await;
    service.instance_of(&definition("pets", &json!({})), "shop").await;
    let call = || json_post("/execute/shop/call");
    let large = format!(r#"{{"params":{{"a":"{}"}}}}"#, "x".repeat(11 << 20));
    let cases: [(Builder, &str, u16, &str); 10] = [
        (call(), "[", 400, "VALIDATION_ERROR"),
        (call(), r#"[{"a":1}]"#, 400, "VALIDATION_ERROR"),
        (call(), "{", 400, "MALFORMED_BODY"),
        (call(), r#"{"params":{},"more":1}"#, 400, "VALIDATION_ERROR"),
        (call(), r#"{"params":[1]}"#, 400, "VALIDATION_ERROR"),
        (post("/execute/shop/call"), "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (call(), &large, 413, "PAYLOAD_TOO_LARGE"),
        (call().header("idempotency-key", ""), "{}", 400, "VALIDATION_ERROR"),
        (json_post("/execute/shop/call?dryRun=maybe"), "{}", 400, "VALIDATION_ERROR"),
        (json_post("/execute/a%2Fb/c%2Fd"), "{}", 404, "INSTANCE_NOT_FOUND"),
    ];
    for (request, body, status, expected) in cases {
        let answer = service.send(request, body).await;
        assert_refused(&answer, status, expected, &body[..body.len().min(40)]);
        assert_eq!(answer.json()["status"], "ERROR");
        assert!(answer.json()["error"]["details"]["stage"].is_string(), "{}", answer.json());
        assert_eq!(answer.header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn lists_stay_small_whatever_is_stored() {
    let service = TestService::start().await;
    let labels: Value =
        (0..65).map(|number| (format!("k{number}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let faults = [
        ("/name", json!({"name": "x".repeat(201)})),
        ("/name", json!({"name": "a\u{0}b"})),
        ("/description", json!({"description": "x".repeat(10_001)})),
        ("/version", json!({"version": format!("1.0.0-{}", "x".repeat(130))})),
        ("/labels", json!({"labels": labels})),
        ("/labels/", json!({"labels": {"": "v"}})),
        ("/labels/k", json!({"labels": {"k": "x".repeat(257)}})),
        ("/methods/0/paramSchema", json!({"methods": [{"name": "a", "paramSchema": 5}]})),
        ("/methods/0/operation", json!({"methods": [{"name": "a", "operation": null}]})),
    ];
    for (pointer, fault) in faults {
        let mut document = definition("large", &json!({}));
        document.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        let answer = service.post(DEFINITIONS, &document).await;
        assert_refused(&answer, 400, "VALIDATION_ERROR", pointer);
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer);
    }
    service.instance_of(&definition("pets", &json!({})), "shop").await;
    let large = json!({"integrationDefinitionId": "pets", "name": "n", "config": {"a": "x".repeat(300_000)}});
    let answer = service.post(INSTANCES, &large).await;
    assert_refused(&answer, 400, "VALIDATION_ERROR", "config");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/config");
    for list in [DEFINITIONS, INSTANCES] {
        let answer = service.get(&format!("{list}?label={}", vec!["a=b"; 5_000].join(","))).await;
        assert_refused(&answer, 400, "VALIDATION_ERROR", "labels of a filter");
    }
}

#[tokio::test]
async fn hostile_schemas_and_expressions_end() {
    let service = TestService::start().await;
    let pattern = |pattern: &str| json!({"paramSchema": {"type": "object", "properties": {"a": {"pattern": pattern}}}});
    let refused = [
        pattern("((a{1000}){1000}){1000}"),
        json!({"paramSchema": {"$ref": "#"}}),
        json!({"paramSchema": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}),
        json!({"paramSchema": {"$ref": "file:///etc/passwd"}}),
        json!({"paramSchema": {"$ref": "http://127.0.0.1/"}}),
        json!({"responseTransform": "(".repeat(5_000)}),
        json!({"responseTransform": "1+".repeat(100_000)}),
        json!({"operation": {"verb": "GET", "path": format!("/{}", "{a}".repeat(20_000))}}),
        json!({"operation": {"verb": "G\r\n", "path": "/"}}),
    ];
    for method in refused {
        let answer = service.post(&format!("{DEFINITIONS}?publish=true"), &definition("hostile", &method)).await;
        let what: String = method.to_string().chars().take(80).collect();
        assert_refused(&answer, 400, "VALIDATION_ERROR", &what);
    }
    let long = format!("{}!", "a".repeat(50_000));
    for (id, method) in [("nested", pattern("^(a+)+$")), ("reference", pattern(r"^(a*)*\1b$"))] {
        service.instance_of(&definition(id, &method), id).await;
        let answer = service.execute(id, "call", &json!({"a": long})).await;
        assert_refused(&answer, 400, "VALIDATION_ERROR", id);
    }
    for (id, expression) in [("range", "[1..1e9]"), ("loop", "($f := function($x) { $f($x) }; $f(1))")] {
        service.instance_of(&definition(id, &json!({"responseTransform": expression})), id).await;
        assert_refused(&service.execute(id, "call", &json!({})).await, 500, "TRANSFORM_ERROR", id);
    }
}

#[tokio::test]
async fn params_do_not_leave_their_place_in_the_request() {
    let service = TestService::start().await;
    let method = json!({"operation": {"verb": "GET", "path": "/pets/{id}/x", "headers": {"X-Trace": "trace"}}});
    service.instance_of(&definition("pets", &method), "shop").await;
    for params in [
        json!({"id": 1, "trace": "a\r\nX-Evil: 1"}),
        json!({"id": 1, "trace": "a\u{0}"}),
        json!({"id": ".."}),
        json!({"id": "../../admin?x=1#y"}),
    ] {
        let answer = service.execute("shop", "call", &params).await;
        if answer.status != 200 {
            assert_refused(&answer, 400, "VALIDATION_ERROR", &params.to_string());
        }
    }
    for received in service.upstream.received() {
        assert!(received.path_and_query.starts_with("/pets/") && received.path_and_query.ends_with("/x"));
        assert!(!received.headers.contains_key("x-evil"));
    }
}

#[tokio::test]
async fn odd_http_is_answered_or_refused() {
    let service = TestService::start().await;
    service.instance_of(&definition("pets", &json!({})), "shop").await;
    let address = service.address();
    let starts = async |request: &str, expected: &str| {
        let answer = exchange(address, request.replace("KEY", KEY).as_bytes()).await;
        assert!(answer.starts_with(expected), "{request:?}: {answer}");
        answer
    };
    starts("GET /health HTTP/1.0\r\n\r\n", "HTTP/1.0 200").await;
    starts("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 400").await;
    starts("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", "HTTP/1.1 400").await;
    starts("GET /health HTTP/9.9\r\nHost: a\r\n\r\n", "HTTP/1.1 400").await;
    starts("GET /\u{e9} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 4").await;
    let call = "POST /execute/shop/call HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: KEY\r\nContent-Type: application/json\r\n";
    let chunked = format!("{call}Transfer-Encoding: chunked\r\n\r\n");
    starts(&format!("{chunked}2\r\n{{}}\r\n0\r\n\r\n"), "HTTP/1.1 200").await;
    starts(&format!("{chunked}zz\r\n{{}}\r\n0\r\n\r\n"), "HTTP/1.1 400").await;
    starts(&format!("{call}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} "), "HTTP/1.1 400").await;
    starts(&format!("{call}Content-Length: -2\r\n\r\n{{}}"), "HTTP/1.1 400").await;
    let huge = starts(&format!("{call}Content-Length: 99999999999\r\n\r\n"), "HTTP/1.1 413").await;
    assert!(huge.contains("PAYLOAD_TOO_LARGE"));
    let expecting = format!("{call}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}");
    assert!(starts(&expecting, "HTTP/1.1 100").await.contains("HTTP/1.1 200"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "a".repeat(100_000));
    starts(&long, "HTTP/1.1 4").await;
}

#[tokio::test]
async fn every_path_tells_its_verbs_and_takes_no_others() {
    let service = TestService::start().await;
    for (path, allowed) in [(DEFINITIONS, "GET,HEAD,POST"), ("/execute/shop/call", "POST"), ("/health", "GET,HEAD")] {
        for verb in ["OPTIONS", "TRACE", "DELETE", "BREW"] {
            let request = Request::builder().method(verb).uri(path).header("host", "test");
            let answer = service.send(request, "").await;
            assert_refused(&answer, 405, "METHOD_NOT_ALLOWED", verb);
            assert_eq!(answer.header("allow"), allowed);
        }
    }
}

#[tokio::test]
async fn texts_that_are_no_utf_8_or_no_name_find_nothing() {
    let service = TestService::start().await;
    for path in ["%ff%fe", "%00", "a%2Fb", "..%2f..%2fetc", &"a".repeat(50_000)] {
        let answer = service.get(&format!("{INSTANCES}/{path}")).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    for query in ["q=%ff%fe", "q=%00", "q=%25%5f%5c"] {
        let answer = service.get(&format!("{DEFINITIONS}?{query}")).await;
        assert_eq!((answer.status, &answer.json()["items"]), (200, &json!([])), "{query}");
    }
    let header = http::HeaderValue::from_bytes(b"\xff").unwrap();
    let answer = service.send(Request::get(INSTANCES).header("host", "test").header("x-tenant-id", header), "").await;
    assert_refused(&answer, 400, "VALIDATION_ERROR", "tenant");
}
