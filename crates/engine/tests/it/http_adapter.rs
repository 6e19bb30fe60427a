//! The http adapter: from params to requests, from answers to data and errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use integration_engine::adapter::http::HttpAdapter;
use integration_engine::adapter::{
    Adapter, Answer, Call, CallError, Config, Connection, Effect, Operation, PageCursor, UpstreamLimits,
};
use integration_engine::credential::{AuthWants, Credential};
use integration_engine::http_client::HttpClient;
use integration_engine::params::Params;
use integration_model::definition::{AuthType, CustomAuth, DefinitionSpec};
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http_client::{Pki, loopback_client};
use crate::upstream::{Seen, Upstream, json_reply, reply};

/// An adapter with a way to one upstream.
pub(crate) struct Harness {
    instance: InstanceId,
    adapter: Box<dyn Adapter>,
    http: HttpClient,
    config: Config,
    credential: Credential,
    custom_auth: Option<CustomAuth>,
}

impl Harness {
    pub(crate) fn new(base_url: &str) -> Self {
        Self::of(Box::new(HttpAdapter::new()), base_url)
    }

    pub(crate) fn of(adapter: Box<dyn Adapter>, base_url: &str) -> Self {
        Self {
            instance: "i".parse().expect("an id"),
            adapter,
            http: loopback_client(),
            config: object(json!({"baseUrl": base_url})).into(),
            credential: Credential::None,
            custom_auth: None,
        }
    }

    pub(crate) fn with_config(mut self, more: Value) -> Self {
        let mut fields = (*self.config).clone();
        fields.extend(object(more));
        self.config = fields.into();
        self
    }

    pub(crate) fn with_credential(mut self, auth_type: AuthType, data: Value) -> Self {
        self.credential =
            Credential::parse(auth_type, &data, AuthWants::default(), Timestamp::EPOCH).expect("a credential").0;
        self
    }

    pub(crate) fn compile(&self, method: Value) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let definition = DefinitionSpec::from_json(json!({
            "id": "d", "name": "D", "version": "1.0.0", "type": self.adapter.describe().adapter_type, "authType": "none", "methods": [method],
        }))
        .expect("a definition");
        self.adapter.compile(&definition, &definition.methods[0])
    }

    pub(crate) fn operation(&self, operation: Value) -> Arc<dyn Operation> {
        self.compile(json!({"name": "m", "operation": operation})).expect("an operation")
    }

    pub(crate) fn connection(&self, deadline: Instant) -> Connection<'_> {
        Connection {
            instance: &self.instance,
            config: &self.config,
            credential: &self.credential,
            custom_auth: self.custom_auth.as_ref(),
            http: &self.http,
            deadline,
            now: Timestamp::EPOCH,
        }
    }

    pub(crate) async fn test(&self) -> Result<String, CallError> {
        self.adapter.test(self.connection(in_ten_seconds())).await
    }

    pub(crate) async fn call_before(
        &self,
        operation: &dyn Operation,
        params: Value,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        self.call_page(operation, &Params::from_object(object(params)), None, deadline).await
    }

    pub(crate) async fn call_page(
        &self,
        operation: &dyn Operation,
        params: &Params,
        page: Option<&PageCursor>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let connection = self.connection(deadline);
        let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        operation.call(Call { connection, params, idempotency_key: "key-1", traceparent, page }).await
    }

    pub(crate) async fn call(&self, operation: Value, params: Value) -> Result<Answer, CallError> {
        self.call_before(&*self.operation(operation), params, in_ten_seconds()).await
    }

    pub(crate) async fn call_text(&self, operation: Value, params: &'static str) -> Result<Answer, CallError> {
        let params = Params::from_json(Bytes::from_static(params.as_bytes())).expect("params");
        self.call_page(&*self.operation(operation), &params, None, in_ten_seconds()).await
    }

    pub(crate) fn preview(&self, operation: Value, params: Value) -> Result<Value, CallError> {
        let params = Params::from_object(object(params));
        let connection = self.connection(in_ten_seconds());
        self.operation(operation).preview(Call {
            connection,
            params: &params,
            idempotency_key: "key-1",
            traceparent: None,
            page: None,
        })
    }

    /// Reads all pages and joins them.
    pub(crate) async fn read_all(&self, operation: Value, params: Value) -> Result<Value, CallError> {
        let operation = self.operation(operation);
        assert!(operation.is_paginated());
        let params = Params::from_object(object(params));
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let answer = self.call_page(&*operation, &params, cursor.as_ref(), in_ten_seconds()).await?;
            pages.push(answer.data);
            cursor = answer.next_page;
            if cursor.is_none() {
                let joined = operation.join_pages(pages)?;
                return Ok(joined.value().expect("JSON").clone());
            }
        }
    }
}

pub(crate) fn in_ten_seconds() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("an object, not {other}"),
    }
}

async fn echo() -> Upstream {
    Upstream::start(|_| json_reply(r#"{"ok": true}"#)).await
}

pub(crate) fn pointers(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.pointer.as_str()).collect()
}

#[tokio::test]
async fn params_go_where_the_operation_binds_them() {
    let upstream = echo().await;
    let harness =
        Harness::new(&upstream.url("/api/v2/?tenant=t%201")).with_config(json!({"headers": {"X-Team": "blue"}}));
    let operation = json!({
        "verb": "PUT", "path": "/pets/{petId}{?fields*}",
        "query": {
            "limit": "limit", "tags": "tags", "ids": {"param": "ids", "explode": false},
            "s": {"param": "ids", "style": "spaceDelimited"}, "p": {"param": "ids", "style": "pipeDelimited"},
            "filter": {"param": "filter", "style": "deepObject"}, "skip": "missing"
        },
        "headers": {"X-Trace": "trace", "X-None": "none"}, "cookies": {"session": "session", "lang": "lang"},
        "body": "*", "constants": {"headers": {"X-Const": "c"}, "query": {"v": 1, "q": "a b"}, "body": {"kind": "pet"}},
        "idempotencyKeyHeader": "Idempotency-Key"
    });
    let params = r#"{"petId": 12345678901234567890123, "fields": ["a b", "c"], "limit": 1.10, "tags": ["x", "y&z"],
        "ids": [1, 2], "filter": {"a": 1, "b": "é"}, "trace": "t", "none": null, "session": "s;1", "lang": "de",
        "name": "rex", "weight": 3.50}"#;
    let answer = harness.call_text(operation, params).await.expect("an answer");
    assert_eq!(answer.data.text().as_ref(), br#"{"ok": true}"#);
    assert_eq!(answer.upstream_status, Some(200));

    let seen = upstream.only();
    assert_eq!(seen.method, "PUT");
    assert_eq!(
        seen.target,
        "/api/v2/pets/12345678901234567890123?tenant=t%201&fields=a%20b&fields=c&filter%5Ba%5D=1&filter%5Bb%5D=%C3%A9\
         &ids=1,2&limit=1.10&p=1%7C2&s=1%202&tags=x&tags=y%26z&q=a%20b&v=1"
    );
    assert_eq!(seen.header("x-trace"), Some("t"));
    assert_eq!(seen.header("x-none"), None);
    assert_eq!(seen.header("cookie"), Some("lang=de; session=s%3B1"));
    assert_eq!((seen.header("x-const"), seen.header("x-team")), (Some("c"), Some("blue")));
    assert_eq!(seen.header("idempotency-key"), Some("key-1"));
    assert_eq!(seen.header("accept"), Some("application/json, */*;q=0.5"));
    assert_eq!(seen.header("accept-encoding"), Some("gzip, br"));
    assert!(seen.header("user-agent").expect("a name").starts_with("integration-service/"));
    assert!(seen.header("traceparent").expect("a trace").starts_with("00-4bf9"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.body_text(), r#"{"name":"rex","weight":3.50,"kind":"pet"}"#);
}

#[tokio::test]
async fn json_bodies_pass_byte_by_byte() {
    let upstream = echo().await;
    let harness = Harness::new(&upstream.url(""));
    let pet = r#"{"pet": { "n": 1.10,  "big": 12345678901234567890 }}"#;
    harness.call_text(json!({"verb": "POST", "path": "/pets", "body": "pet"}), pet).await.expect("an answer");
    harness.call_text(json!({"verb": "POST", "path": "/pets", "body": "*"}), pet).await.expect("an answer");
    let bodies: Vec<_> = upstream.seen().iter().map(|seen| seen.body_text().to_owned()).collect();
    assert_eq!(bodies, [r#"{ "n": 1.10,  "big": 12345678901234567890 }"#, pet]);
}

#[tokio::test]
async fn other_encodings_name_themselves() {
    let upstream = echo().await;
    let harness = Harness::new(&upstream.url("/"));
    let body = json!({"body": {"a": "x y"}});
    for (encoding, params, content_type, text) in [
        ("form", body.clone(), "application/x-www-form-urlencoded", "a=x+y"),
        ("xml", body, "application/xml", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>x y</a>"),
        ("csv", json!({"body": [{"a": 1}]}), "text/csv; charset=utf-8", "a\n1\n"),
        ("text", json!({"body": "hi"}), "text/plain; charset=utf-8", "hi"),
        ("binary", json!({"body": "aGk="}), "application/octet-stream", "hi"),
    ] {
        let operation = json!({"verb": "POST", "path": "", "body": "body", "encoding": encoding});
        harness.call(operation, params).await.expect(encoding);
        let seen = upstream.seen().pop().expect("a request");
        assert_eq!((seen.header("content-type"), seen.body_text()), (Some(content_type), text));
    }
    let operation = json!({"verb": "POST", "path": "/", "body": "body", "encoding": "multipart"});
    harness.call(operation, json!({"body": {"f": {"text": "hi", "filename": "a.txt"}}})).await.expect("an answer");
    let seen = upstream.seen().pop().expect("a request");
    assert!(seen.header("content-type").expect("a type").starts_with("multipart/form-data; boundary="));
    assert!(seen.body_text().contains("filename=\"a.txt\"\r\nContent-Type: application/octet-stream\r\n\r\nhi\r\n--"));

    let operation = json!({"verb": "POST", "path": "/", "body": "body", "encoding": "binary"});
    let error = harness.call(operation, json!({"body": 5})).await.expect_err("no base64");
    assert_eq!((error.code, error.effect), (ErrorCode::Validation, Effect::None));
    assert_eq!(error.details["errors"][0]["pointer"], "/params/body");
}

#[tokio::test]
async fn constant_bodies_and_missing_bodies_are_sent_as_they_are() {
    let upstream = echo().await;
    let harness = Harness::new(&upstream.url("/"));
    let constant = json!({"verb": "POST", "path": "/", "constants": {"body": {"query": "all"}}});
    harness.call(constant, json!({})).await.expect("an answer");
    harness.call(json!({"verb": "POST", "path": "/", "body": "b"}), json!({"b": null})).await.expect("an answer");
    let seen = upstream.seen();
    assert_eq!((seen[0].body_text(), seen[1].body_text()), (r#"{"query":"all"}"#, ""));
    assert_eq!(seen[1].header("content-type"), None);
}

#[tokio::test]
async fn a_param_cannot_add_headers_or_leave_the_path() {
    let upstream = echo().await;
    let harness = Harness::new(&upstream.url("/"));
    let operation = json!({"verb": "GET", "path": "/pets/{id}", "headers": {"X-A": "a"}, "cookies": {"c": "c"}});
    for params in [
        json!({"id": "1", "a": "x\r\nX-Evil: 1"}),
        json!({"id": "1", "a": "x\nX-Evil: 1"}),
        json!({"id": "1", "a": ["ok", "x\u{0}"]}),
        json!({"id": ".."}),
        json!({"id": ""}),
        json!({}),
    ] {
        let error = harness.call(operation.clone(), params.clone()).await.expect_err("refused");
        assert_eq!(
            (error.code, error.effect, error.upstream_failed),
            (ErrorCode::Validation, Effect::None, false),
            "{params}"
        );
    }
    assert!(upstream.seen().is_empty());
    let params = json!({"id": "http://evil.example/?#@", "c": "x\r\ny; z=1"});
    harness.call(operation, params).await.expect("an answer");
    let seen = upstream.only();
    assert_eq!(seen.target, "/pets/http%3A%2F%2Fevil.example%2F%3F%23%40");
    assert_eq!(seen.header("cookie"), Some("c=x%0D%0Ay%3B%20z=1"));
    assert_eq!(seen.header("host"), Some(upstream.address.to_string().as_str()));
}

#[tokio::test]
async fn credentials_go_with_requests_and_cannot_be_replaced() {
    let upstream = echo().await;
    let operation = json!({"verb": "GET", "path": "/", "headers": {"Authorization": "auth"}, "query": {"key": "key"}});
    let params = json!({"auth": "mine", "key": "mine"});
    let basic =
        Harness::new(&upstream.url("/")).with_credential(AuthType::Basic, json!({"username": "u", "password": "p"}));
    basic.call(operation.clone(), params.clone()).await.expect("an answer");
    assert_eq!(upstream.seen()[0].header("authorization"), Some("Basic dTpw"));

    let data = json!({"key": "s k", "headerOrParam": "key", "inHeader": false});
    let key = Harness::new(&upstream.url("/")).with_credential(AuthType::ApiKey, data);
    key.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect("an answer");
    assert_eq!(upstream.seen()[1].target, "/?key=s%20k");

    let mut custom = Harness::new(&upstream.url("/")).with_credential(AuthType::Custom, json!({"app": "a1"}));
    custom.custom_auth =
        Some(CustomAuth { headers: [("X-App".to_owned(), "app".to_owned())].into(), ..CustomAuth::default() });
    custom.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect("an answer");
    assert_eq!(upstream.seen()[2].header("x-app"), Some("a1"));
    custom.custom_auth =
        Some(CustomAuth { headers: [("X-App".to_owned(), "other".to_owned())].into(), ..CustomAuth::default() });
    let error = custom.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect_err("no such field");
    assert_eq!((error.code, error.effect), (ErrorCode::Auth, Effect::None));
}

#[tokio::test]
async fn mutual_tls_uses_the_credential_s_certificate_and_the_config_s_authority() {
    let pki = Pki::new();
    let upstream = Upstream::start_tls(pki.server_config(true, &["h2", "http/1.1"]), |_| json_reply("[]")).await;
    let certificate = json!({"certificate": pki.client.0, "privateKey": pki.client.1});
    let harness = Harness::new(&format!("https://{}", upstream.address))
        .with_config(json!({"tls": {"caCertificate": pki.authority_pem()}}))
        .with_credential(AuthType::Jwt, json!({"token": "t", "clientCertificate": certificate}));
    let answer = harness.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect("an answer");
    assert_eq!(answer.data.text().as_ref(), b"[]");
    assert_eq!(upstream.only().header("authorization"), Some("Bearer t"));

    let without = Harness::new(&format!("https://{}", upstream.address));
    let error = without.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect_err("untrusted");
    assert_eq!((error.code, error.effect, error.retryable), (ErrorCode::Upstream, Effect::None, false));
}

#[tokio::test]
async fn refusals_carry_facts_and_no_secrets() {
    let upstream = Upstream::start(|seen| {
        let status = seen.target[1..].parse().expect("a status");
        let body = format!("you sent {} and {}", seen.header("x-api-key").unwrap_or_default(), "x".repeat(5000));
        reply(status, &[("retry-after", "7"), ("ratelimit", "\"d\";r=0;t=9")], body)
    })
    .await;
    let harness = Harness::new(&upstream.url("/")).with_credential(AuthType::ApiKey, json!({"key": "hunter2"}));
    let limits = UpstreamLimits {
        remaining: Some(0),
        reset_after: Some(Duration::from_secs(9)),
        retry_after: Some(Duration::from_secs(7)),
        ..Default::default()
    };
    for (status, code, retryable, effect, upstream_failed) in [
        (400, ErrorCode::Upstream, false, Effect::Answered, false),
        (401, ErrorCode::Auth, false, Effect::None, false),
        (403, ErrorCode::Upstream, false, Effect::Answered, false),
        (404, ErrorCode::Upstream, false, Effect::Answered, false),
        (408, ErrorCode::Upstream, true, Effect::None, false),
        (425, ErrorCode::Upstream, true, Effect::None, false),
        (429, ErrorCode::Upstream, true, Effect::None, false),
        (500, ErrorCode::Upstream, true, Effect::Answered, true),
        (501, ErrorCode::Upstream, false, Effect::Answered, true),
        (502, ErrorCode::Upstream, true, Effect::Answered, true),
        (503, ErrorCode::Upstream, true, Effect::Answered, true),
        (504, ErrorCode::Upstream, true, Effect::Answered, true),
    ] {
        let operation = json!({"verb": "POST", "path": format!("/{status}")});
        let error = harness.call(operation, json!({})).await.expect_err("a refusal");
        assert_eq!((error.code, error.retryable, error.effect), (code, retryable, effect), "{status}");
        assert_eq!((error.upstream_failed, error.upstream_status), (upstream_failed, Some(status)), "{status}");
        assert_eq!(error.credential_refused, status == 401);
        assert_eq!(error.limits, limits);
        assert_eq!(error.details["upstreamStatus"], status);
        let excerpt = error.details["excerpt"].as_str().expect("an excerpt");
        assert!(excerpt.starts_with("you sent [redacted] and x") && excerpt.len() < 2100, "{excerpt}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn error_rules_say_what_answers_mean() {
    let upstream = Upstream::start(|seen| match seen.target.as_str() {
        "/slack" => json_reply(r#"{"ok": false, "error": "not_authed"}"#),
        "/fine" => json_reply(r#"{"ok": true}"#),
        "/gone" => reply(410, &[], r#"{"error": {"text": "no such pet", "code": 17}}"#),
        _ => reply(409, &[], "no json"),
    })
    .await;
    let harness = Harness::new(&upstream.url("/"));
    let call = async |path: &str| {
        let operation = json!({
            "verb": "GET", "path": path, "successStatuses": [200, "409-410"],
            "errorMapping": [
                {"when": {"pointer": "/ok", "equals": false}, "code": "AUTH_ERROR", "message": "/error"},
                {"status": ["4xx"], "when": {"pointer": "/error/code", "equals": 17}, "code": "NOT_FOUND",
                    "retryable": true, "message": "/error/text"}
            ]
        });
        harness.call(operation, json!({})).await
    };
    let error = call("/slack").await.expect_err("mapped");
    assert_eq!((error.code, error.credential_refused), (ErrorCode::Auth, true));
    assert_eq!(error.message, "the upstream answered 200 OK: not_authed");
    let error = call("/gone").await.expect_err("mapped");
    assert_eq!((error.code, error.retryable), (ErrorCode::NotFound, true));
    assert_eq!(error.message, "the upstream answered 410 Gone: no such pet");
    assert!(call("/fine").await.is_ok());
    assert_eq!(call("/other").await.expect("a success status").upstream_status, Some(409));
}

#[tokio::test]
async fn what_could_not_be_sent_is_said_so() {
    let operation = json!({"verb": "POST", "path": "/"});
    let mut strict = Harness::new("http://127.0.0.1:9/");
    strict.http.set_egress_policy(Default::default()).expect("TLS");
    let error = strict.call(operation.clone(), json!({})).await.expect_err("denied");
    assert_eq!((error.code, error.effect, error.upstream_failed), (ErrorCode::EgressDenied, Effect::None, false));
    assert_eq!((&error.details["host"], &error.details["address"]), (&json!("127.0.0.1"), &json!("127.0.0.1")));

    strict = Harness::new("http://127.0.0.1:9/");
    let error = strict.call(operation.clone(), json!({})).await.expect_err("closed");
    assert_eq!((error.code, error.effect, error.retryable), (ErrorCode::Upstream, Effect::None, true));

    let mut unset = Harness::new("x");
    unset.config = Config::default();
    let error = unset.call(operation, json!({})).await.expect_err("no base URL");
    assert_eq!((error.code, error.effect), (ErrorCode::InstanceNotReady, Effect::None));
}

/// Seven items in pages of three, in the way that the target asks for.
fn serve_pages(seen: &Seen) -> http::Response<http_body_util::Full<Bytes>> {
    let url = url::Url::parse(&format!("http://x{}", seen.target)).expect("a URL");
    let query = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let number = |name: &str| query(name).map(|text| text.parse::<usize>().expect("a number"));
    let start = match url.path() {
        "/page" => (number("page").unwrap_or(1) - 1) * 3,
        "/cursor" => query("after").map_or(0, |cursor| cursor.trim_start_matches("c&").parse().expect("a cursor")),
        _ => number("offset").unwrap_or(0),
    };
    let items: Vec<_> = (start..(start + 3).min(7)).map(|n| format!("{{\"n\": {n}.0}}")).collect();
    let next = (start + 3 < 7).then_some(start + 3);
    match url.path() {
        "/link" => {
            let link = next.map_or_else(
                || "</link?offset=0>; rel=\"first\"".to_owned(),
                |next| format!("<http://other.example/elsewhere?offset={next}&v=9>; rel=\"next\""),
            );
            reply(200, &[("content-type", "application/json"), ("link", &link)], format!("[{}]", items.join(",")))
        }
        "/cursor" => {
            let next = next.map_or("null".to_owned(), |next| format!("\"c&{next}\""));
            json_reply(format!("{{\"data\": {{\"items\": [{}]}}, \"next\": {next}}}", items.join(",")))
        }
        "/body-link" => {
            let next = next.map_or("null".to_owned(), |next| format!("\"?offset={next}\""));
            json_reply(format!("{{\"items\": [{}], \"next\": {next}}}", items.join(",")))
        }
        _ => json_reply(format!("{{\"total\": 7, \"items\": [{}]}}", items.join(", "))),
    }
}

#[tokio::test]
async fn pages_of_every_kind_are_read_to_the_end_and_joined() {
    let upstream = Upstream::start(serve_pages).await;
    let harness = Harness::new(&upstream.url("/"));
    let all = json!([{"n": 0.0}, {"n": 1.0}, {"n": 2.0}, {"n": 3.0}, {"n": 4.0}, {"n": 5.0}, {"n": 6.0}]);
    let read = async |path: &str, pagination: Value| {
        let operation = json!({"verb": "GET", "path": path, "query": {"q": "q"}, "constants": {"query": {"v": "1"}}, "pagination": pagination});
        harness.read_all(operation, json!({"q": "x"})).await.expect(path)
    };
    assert_eq!(read("/link", json!({"type": "link"})).await, all);
    let joined =
        read("/cursor", json!({"type": "cursor", "param": "after", "cursorPath": "/next", "itemsPath": "/data/items"}))
            .await;
    assert_eq!(joined, json!({"data": {"items": all}, "next": "c&3"}));
    let counted = json!({"total": 7, "items": all});
    assert_eq!(read("/offset", json!({"type": "offset", "itemsPath": "/items"})).await, counted);
    assert_eq!(
        read("/page", json!({"type": "page", "itemsPath": "/items", "pageSize": 3, "pageSizeParam": "per_page"})).await,
        counted
    );
    let joined = read("/body-link", json!({"type": "link", "cursorPath": "/next", "itemsPath": "/items"})).await;
    assert_eq!(joined["items"], all);

    let targets: Vec<_> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    // A link moves the query on; the path, the constants and the host stay ours.
    assert_eq!(targets[..3], ["/link?q=x&v=1", "/link?offset=3&v=1", "/link?offset=6&v=1"]);
    assert_eq!(targets[3..6], ["/cursor?q=x&v=1", "/cursor?q=x&v=1&after=c%263", "/cursor?q=x&v=1&after=c%266"]);
    assert_eq!(targets[6..10].last().map(String::as_str), Some("/offset?q=x&v=1&offset=7"));
    assert_eq!(targets[10..13].last().map(String::as_str), Some("/page?q=x&v=1&per_page=3&page=3"));
}

#[tokio::test]
async fn pagination_is_bounded_and_begins_where_the_caller_says() {
    let upstream = Upstream::start(serve_pages).await;
    let harness = Harness::new(&upstream.url("/"));
    let pagination = json!({"type": "offset", "itemsPath": "/items", "maxPages": 2});
    let operation = json!({"verb": "GET", "path": "/offset", "query": {"offset": "from"}, "pagination": pagination});
    let joined = harness.read_all(operation.clone(), json!({"from": 1})).await.expect("pages");
    assert_eq!(joined["items"].as_array().map(Vec::len), Some(6));
    let targets: Vec<_> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/offset?offset=1", "/offset?offset=4"]);

    let operation = harness.operation(operation);
    let params = Params::empty();
    for cursor in ["", "x", "1", "1.", "0.3", "9.3", "1.x", "1.-1", &format!("1.{}", "9".repeat(10_000))] {
        let cursor = PageCursor(cursor.to_owned());
        let error =
            harness.call_page(&*operation, &params, Some(&cursor), in_ten_seconds()).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::Validation, "{cursor:?}");
    }
}

#[tokio::test]
async fn a_page_without_items_where_they_should_be_is_an_error() {
    let upstream = echo().await;
    let harness = Harness::new(&upstream.url("/"));
    let operation = json!({"verb": "GET", "path": "/", "pagination": {"type": "page", "itemsPath": "/items"}});
    let error = harness.call(operation, json!({})).await.expect_err("no items");
    assert_eq!((error.code, error.effect), (ErrorCode::Upstream, Effect::Answered));
}

#[tokio::test]
async fn a_preview_shows_the_request_without_secrets_and_sends_nothing() {
    let upstream = echo().await;
    let data = json!({"key": "hunter2!", "headerOrParam": "key", "inHeader": false});
    let harness = Harness::new(&upstream.url("/")).with_credential(AuthType::ApiKey, data);
    let operation =
        json!({"verb": "POST", "path": "/pets/{id}", "body": "pet", "headers": {"X-Note": "note", "Cookie": "c"}});
    let params = json!({"id": 1, "pet": {"k": "hunter2!", "n": 1}, "note": "aHVudGVyMiE=", "c": "a=b"});
    let preview = harness.preview(operation, params).expect("a preview");
    assert_eq!(preview["method"], "POST");
    assert_eq!(preview["url"], upstream.url("/pets/1?key=%5Bredacted%5D"));
    assert_eq!(preview["body"], json!({"k": "[redacted]", "n": 1}));
    assert_eq!(preview["headers"]["x-note"], "[redacted]");
    assert_eq!(preview["headers"]["cookie"], "[redacted]");
    assert!(!preview.to_string().contains("hunter2"));
    let bearer = Harness::new(&upstream.url("/")).with_credential(AuthType::Jwt, json!({"token": "hunter2"}));
    let preview = bearer.preview(json!({"verb": "GET", "path": "/"}), json!({})).expect("a preview");
    assert_eq!((&preview["headers"]["authorization"], &preview["body"]), (&json!("[redacted]"), &Value::Null));
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_connection_test_tells_reachable_from_refused() {
    let upstream = Upstream::start(|seen| match seen.target.as_str() {
        "/401" => reply(401, &[], ""),
        "/403" => reply(403, &[], ""),
        "/500" => reply(500, &[], ""),
        "/404" => reply(404, &[], ""),
        _ => json_reply("{}"),
    })
    .await;
    let test = async |path: &str| {
        let harness = Harness::new(&upstream.url(path)).with_credential(AuthType::Jwt, json!({"token": "t"}));
        harness.adapter.test(harness.connection(in_ten_seconds())).await
    };
    assert_eq!(test("/").await.expect("reachable"), format!("{} answered 200", upstream.address));
    assert!(test("/404").await.is_ok());
    for path in ["/401", "/403"] {
        let error = test(path).await.expect_err("refused");
        assert_eq!((error.code, error.credential_refused), (ErrorCode::Auth, true));
    }
    assert_eq!(test("/500").await.expect_err("a fault").code, ErrorCode::Upstream);
    assert!(
        upstream.seen().iter().all(|seen| seen.method == "GET" && seen.header("authorization") == Some("Bearer t"))
    );
}

#[tokio::test]
async fn the_config_may_shorten_the_deadline() {
    let upstream = crate::upstream::RawUpstream::start(crate::upstream::Script::SendAndHold(Vec::new())).await;
    let harness = Harness::new(&format!("http://{}", upstream.address)).with_config(json!({"timeoutMs": 200}));
    let error = harness.call(json!({"verb": "GET", "path": "/"}), json!({})).await.expect_err("a stall");
    assert_eq!((error.code, error.effect), (ErrorCode::Timeout, Effect::Unknown));
}

#[test]
fn a_faulty_operation_is_refused_with_all_its_faults() {
    let harness = Harness::new("http://x.example");
    let problems_of = |operation: Value| match harness.compile(json!({"name": "m", "operation": operation})) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    };
    let faulty = json!({
        "verb": "FETCH", "path": 5, "query": {"a": {"style": "form"}}, "headers": {"X Y": "a"}, "encoding": "yaml",
        "successStatuses": [999], "errorMapping": [{"status": 404}], "pagination": {"type": "scroll"}, "surprise": 1
    });
    let problems = problems_of(faulty);
    let found = pointers(&problems);
    for pointer in [
        "/verb",
        "/path",
        "/encoding",
        "/query/a",
        "/headers",
        "/successStatuses/0",
        "/errorMapping/0",
        "/pagination/type",
        "",
    ] {
        assert!(found.iter().any(|at| at.starts_with(pointer)), "{pointer} in {problems:?}");
    }
    let faulty = json!({
        "verb": "GET", "path": "pets/{", "headers": {"Host": "h"}, "body": "b", "idempotencyKeyHeader": "Connection",
        "constants": {"headers": {"X-A": "a\r\nb", "Content-Length": "1"}, "body": {}},
        "pagination": {"type": "cursor", "pageSizeParam": "n"}
    });
    assert_eq!(
        pointers(&problems_of(faulty)),
        [
            "/headers/Host",
            "/constants/headers/Content-Length",
            "/constants/headers/X-A",
            "/idempotencyKeyHeader",
            "/constants/body",
            "/pagination/cursorPath",
            "/pagination/pageSize",
            "/path"
        ]
    );
    assert_eq!(pointers(&problems_of(json!({}))), ["", ""], "verb and path are missing");
    for (pagination, place) in [
        (json!({"type": "cursor", "cursorPath": "/next", "lastItemPath": "/id"}), "/pagination/cursorPath"),
        (json!({"type": "offset", "lastItemPath": "/id"}), "/pagination/lastItemPath"),
    ] {
        let faulty = json!({"verb": "GET", "path": "/", "pagination": pagination});
        assert_eq!(pointers(&problems_of(faulty)), [place]);
    }

    let schema = json!({"type": "object", "properties": {"id": {}}, "additionalProperties": false});
    let operation = json!({"verb": "GET", "path": "/{id}/{kind}", "query": {"q": "id", "r": "r"}, "body": "b"});
    let method = json!({"name": "m", "paramSchema": schema, "operation": operation});
    let problems = harness.compile(method).err().expect("undeclared params");
    assert_eq!(pointers(&problems), ["/path", "/query/r", "/body"]);
}

#[test]
fn a_faulty_config_is_refused_with_all_its_faults() {
    let adapter = HttpAdapter::new();
    let check = |config: Value| adapter.check_config(&object(config));
    let good = json!({"baseUrl": "https://{config.shop}.example/", "shop": "a", "headers": {"X-A": "b"}, "other": 1});
    assert_eq!(check(good), []);
    assert_eq!(pointers(&check(json!({}))), [""]);
    let faulty = json!({
        "baseUrl": "ftp://x", "headers": {"Host": "x", "X-A": "a\nb"}, "tls": {"caCertificate": "x"}, "timeoutMs": 0
    });
    let mut found = check(faulty);
    found.sort_by(|one, other| one.pointer.cmp(&other.pointer));
    assert_eq!(pointers(&found), ["/baseUrl", "/headers/Host", "/headers/X-A", "/timeoutMs", "/tls/caCertificate"]);
}

#[test]
fn the_adapter_describes_itself() {
    let description = HttpAdapter::new().describe();
    assert_eq!(description.adapter_type, "http");
    assert_eq!(description.auth_types, AuthType::ALL);
    assert_eq!(description.operation_schema["required"], json!(["verb", "path"]));
    assert_eq!(description.config_schema["required"], json!(["baseUrl"]));
}
