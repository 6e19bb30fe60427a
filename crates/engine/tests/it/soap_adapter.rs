//! The soap adapter: from params to envelopes, from envelopes to data and errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use integration_engine::adapter::soap::SoapAdapter;
use integration_engine::adapter::{Adapter, Answer, Call, CallError, Config, Connection, Effect, Operation};
use integration_engine::credential::{AuthWants, Credential};
use integration_engine::http_client::HttpClient;
use integration_engine::params::Params;
use integration_model::definition::{AuthType, DefinitionSpec};
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http_client::loopback_client;
use crate::upstream::{Reply, Upstream, reply};

const SOAP11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP12: &str = "http://www.w3.org/2003/05/soap-envelope";

struct Harness {
    adapter: SoapAdapter,
    http: HttpClient,
    instance: InstanceId,
    config: Config,
    credential: Credential,
}

impl Harness {
    fn new(base_url: &str) -> Self {
        Self {
            adapter: SoapAdapter::new(),
            http: loopback_client(),
            instance: "i".parse().expect("an id"),
            config: object(json!({"baseUrl": base_url})).into(),
            credential: Credential::None,
        }
    }

    fn with_config(mut self, more: Value) -> Self {
        let mut fields = (*self.config).clone();
        fields.extend(object(more));
        self.config = fields.into();
        self
    }

    fn with_credential(mut self, auth_type: AuthType, data: Value) -> Self {
        self.credential =
            Credential::parse(auth_type, &data, AuthWants::default(), Timestamp::EPOCH).expect("a credential").0;
        self
    }

    fn compile(&self, operation: Value) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let definition = DefinitionSpec::from_json(json!({
            "id": "d", "name": "D", "version": "1.0.0", "type": "soap", "authType": "none",
            "methods": [{"name": "m", "operation": operation}],
        }))
        .expect("a definition");
        self.adapter.compile(&definition, &definition.methods[0])
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            instance: &self.instance,
            config: &self.config,
            credential: &self.credential,
            custom_auth: None,
            http: &self.http,
            deadline: Instant::now() + Duration::from_secs(10),
            now: Timestamp::parse("2026-01-31T10:30:00.250Z").expect("a time"),
        }
    }

    async fn call(&self, operation: Value, params: &str) -> Result<Answer, CallError> {
        let operation = self.compile(operation).expect("an operation");
        let params = Params::from_json(Bytes::copy_from_slice(params.as_bytes())).expect("params");
        let connection = self.connection();
        operation.call(Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None }).await
    }

    fn preview(&self, operation: Value, params: &str) -> Value {
        let operation = self.compile(operation).expect("an operation");
        let params = Params::from_json(Bytes::copy_from_slice(params.as_bytes())).expect("params");
        let connection = self.connection();
        let call = Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None };
        operation.preview(call).expect("a preview")
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn xml_reply(status: u16, content_type: &str, text: impl Into<Bytes>) -> Reply {
    reply(status, &[("content-type", content_type)], text)
}

fn envelope(namespace: &str, body: &str) -> Reply {
    let text =
        format!(r#"<?xml version="1.0"?><s:Envelope xmlns:s="{namespace}"><s:Body>{body}</s:Body></s:Envelope>"#);
    xml_reply(200, "text/xml; charset=utf-8", text)
}

/// The part of an envelope between the tags of its body.
fn body_of(text: &str) -> &str {
    let (_, rest) = text.split_once("<soap:Body").expect("a body");
    let (_, rest) = rest.split_once('>').expect("a tag");
    rest.split_once("</soap:Body>").expect("its end").0
}

fn add() -> Value {
    json!({
        "soapAction": "urn:calc#Add", "namespace": "urn:calc",
        "request": {"name": "Add", "type": {"children": [
            {"name": "a", "type": "xs:int"}, {"name": "b", "type": "xs:decimal", "many": true},
        ]}},
        "response": {"name": "AddResponse", "type": {"children": [
            {"name": "sum", "type": "xs:decimal"}, {"name": "at", "type": "xs:dateTime"},
            {"name": "step", "type": "xs:int", "many": true}, {"name": "note", "nillable": true},
        ]}},
    })
}

const ADDED: &str = concat!(
    r#"<AddResponse xmlns="urn:calc" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">"#,
    r#"<sum>12345678901234567890.50</sum> <at>2026-01-31T10:30:00Z</at><step>1</step><note xsi:nil="true"/></AddResponse>"#
);

#[tokio::test]
async fn params_become_an_envelope_and_the_answer_data() {
    for (version, namespace, content_type, action) in [
        ("1.1", SOAP11, "text/xml; charset=utf-8", Some("\"urn:calc#Add\"")),
        ("1.2", SOAP12, "application/soap+xml; charset=utf-8; action=\"urn:calc#Add\"", None),
    ] {
        let upstream = Upstream::start(move |_| envelope(namespace, ADDED)).await;
        let harness = Harness::new(&upstream.url("/calc/")).with_config(json!({"soapVersion": version}));
        // The order is the schema's, not the caller's; numbers keep their digits.
        let answer = harness.call(add(), r#"{"b": [1.10, 2e2, "3"], "a": 7}"#).await.expect("an answer");
        assert_eq!(
            std::str::from_utf8(answer.data.text()).expect("text"),
            r#"{"sum":12345678901234567890.50,"at":"2026-01-31T10:30:00Z","step":[1],"note":null}"#
        );
        let seen = upstream.only();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/calc/"));
        assert_eq!((seen.header("content-type"), seen.header("soapaction")), (Some(content_type), action));
        assert_eq!(
            seen.body_text(),
            format!(
                r#"<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{namespace}"><soap:Body><n1:Add xmlns:n1="urn:calc"><n1:a>7</n1:a><n1:b>1.10</n1:b><n1:b>200</n1:b><n1:b>3</n1:b></n1:Add></soap:Body></soap:Envelope>"#
            )
        );
    }
}

fn rich() -> Value {
    json!({
        "style": "rpc", "namespace": "urn:shop",
        "request": {"name": "place", "type": {"namespace": "", "children": [
            {"name": "order", "type": "Order"},
            {"name": "free", "type": "xs:anyType", "optional": true},
            {"name": "note", "nillable": true, "optional": true},
        ]}},
        "headers": [
            {"element": {"name": "Session", "namespace": "urn:h"}, "param": "session", "mustUnderstand": true},
            {"element": {"name": "Version", "namespace": "urn:h", "value": 2}},
        ],
        "types": {
            "Order": {
                "namespace": "urn:types",
                "attributes": [{"name": "id", "type": "xs:int"}, {"name": "v", "value": "1"}],
                "children": [
                    {"name": "price", "type": "Price", "optional": true},
                    {"repeat": [{"name": "key", "many": true}, {"name": "value", "many": true}]},
                    {"name": "part", "type": "Order", "many": true},
                    {"name": "who", "type": "Party", "optional": true},
                    {"any": true},
                ],
            },
            "Price": {"attributes": [{"name": "currency"}], "text": "xs:decimal"},
            "Party": {"abstract": true, "derived": ["Person"], "schemaName": {"namespace": "urn:types", "name": "Party"}},
            "Person": {
                "namespace": "", "schemaName": {"namespace": "urn:types", "name": "Person"},
                "children": [{"name": "name"}],
            },
        },
    })
}

#[tokio::test]
async fn attributes_groups_nil_derived_types_headers_and_free_content_are_written_as_described() {
    let harness = Harness::new("http://127.0.0.1:9/");
    let shown = harness.preview(
        rich(),
        r##"{"session": "s1", "note": null, "free": {"x": [1, true], "@a": "b", "y": {"@xmlns": "urn:y", "#text": "<z>"}},
            "order": {"@id": 7, "price": {"@currency": "EUR", "#text": 1.50}, "key": ["k1", "k2"], "value": ["v1", "v2"],
                      "part": [{"price": 2}, {}], "who": {"@xsi:type": "Person", "name": "Ann & Bob"},
                      "extra": {"@xmlns": "urn:e", "more": 1}}}"##,
    );
    let body = shown["body"].as_str().expect("text");
    assert_eq!(
        body_of(body),
        concat!(
            r#"<n2:place xmlns:n2="urn:shop"><order id="7" v="1"><n3:price xmlns:n3="urn:types" currency="EUR">1.50</n3:price>"#,
            r#"<n3:key xmlns:n3="urn:types">k1</n3:key><n3:value xmlns:n3="urn:types">v1</n3:value>"#,
            r#"<n3:key xmlns:n3="urn:types">k2</n3:key><n3:value xmlns:n3="urn:types">v2</n3:value>"#,
            r#"<n3:part xmlns:n3="urn:types" v="1"><n3:price>2</n3:price></n3:part><n3:part xmlns:n3="urn:types" v="1"></n3:part>"#,
            r#"<n3:who xmlns:n3="urn:types" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="n3:Person"><name>Ann &amp; Bob</name></n3:who>"#,
            r#"<n4:extra xmlns:n4="urn:e"><n4:more>1</n4:more></n4:extra></order>"#,
            r#"<free a="b"><x>1</x><x>true</x><n5:y xmlns:n5="urn:y">&lt;z&gt;</n5:y></free>"#,
            r#"<note xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"></note></n2:place>"#,
        )
    );
    let header = concat!(
        r#"<soap:Header><n1:Session xmlns:n1="urn:h" soap:mustUnderstand="1">s1</n1:Session>"#,
        r#"<n1:Version xmlns:n1="urn:h">2</n1:Version></soap:Header>"#
    );
    assert!(body.contains(header), "{body}");
}

#[test]
fn headers_are_written_out_and_elements_put_into_one_namespace_where_the_author_says_so() {
    let mut operation = json!({
        "namespace": "urn:a",
        "headers": [
            {"xml": "<s:Session xmlns:s='urn:s' xmlns:x='http://www.w3.org/2001/XMLSchema-instance' x:type='s:Long'>7 &amp; 8</s:Session>text"},
            {"element": {"name": "H", "value": "v"}},
        ],
        "request": {"name": "R", "type": {"namespace": "urn:b", "children": [
            {"name": "x"}, {"name": "y", "namespace": "urn:c", "type": "T"}, {"any": true},
        ]}},
        "types": {"T": {"namespace": "urn:d", "children": [{"name": "ids", "type": "xs:int list"}]}},
    });
    let harness = Harness::new("https://soap.example/");
    let text = |operation: &Value| {
        let preview = harness.preview(operation.clone(), r#"{"x": "1", "y": {"ids": [1, 2]}, "z": 3}"#);
        preview["body"].as_str().expect("a text").to_owned()
    };
    let written = text(&operation);
    let header = concat!(
        r#"<soap:Header><n1:Session xmlns:n1="urn:s" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="n1:Long">"#,
        r#"7 &amp; 8</n1:Session>text<n2:H xmlns:n2="urn:a">v</n2:H></soap:Header>"#
    );
    assert!(written.contains(header), "{written}");
    assert_eq!(
        body_of(&written),
        concat!(
            r#"<n2:R xmlns:n2="urn:a"><n3:x xmlns:n3="urn:b">1</n3:x><n4:y xmlns:n4="urn:c">"#,
            r#"<n5:ids xmlns:n5="urn:d">1 2</n5:ids></n4:y><n3:z xmlns:n3="urn:b">3</n3:z></n2:R>"#
        )
    );
    operation["oneNamespace"] = true.into();
    assert_eq!(
        body_of(&text(&operation)),
        r#"<n2:R xmlns:n2="urn:a"><n2:x>1</n2:x><n2:y><n2:ids>1 2</n2:ids></n2:y><n2:z>3</n2:z></n2:R>"#
    );

    for (header, pointer) in [
        (json!({"xml": "<a>"}), "/headers/0/xml"),
        (json!({"xml": "</header><header>"}), "/headers/0/xml"),
        (json!({"xml": "<p:a/>"}), "/headers/0/xml"),
        (json!({"xml": "<!DOCTYPE a><a/>"}), "/headers/0/xml"),
        (json!({"xml": "<a/>", "param": "p"}), "/headers/0"),
        (json!({"xml": "<a/>", "mustUnderstand": true}), "/headers/0"),
        (json!({"xml": "<a/>", "element": {"name": "a", "value": ""}}), "/headers/0"),
        (json!({}), "/headers/0"),
    ] {
        operation["headers"] = json!([header]);
        let problems = harness.compile(operation.clone()).err().expect("problems");
        assert_eq!(problems.iter().map(|problem| problem.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{header}");
    }
}

#[tokio::test]
async fn params_that_do_not_fit_the_model_are_refused_with_their_place() {
    let harness = Harness::new("http://127.0.0.1:9/");
    for (params, pointer) in [
        (r#"{"order": 1}"#, "/params/order"),
        (r#"{"order": {"@id": "x"}}"#, "/params/order/@id"),
        (r##"{"order": {"part": [{}, {"price": {"#text": "y"}}]}}"##, "/params/order/part/1/price"),
        (r#"{"order": {"who": {"name": "x"}}}"#, "/params/order/who"),
        (r#"{"order": {"who": {"@xsi:type": "Order"}}}"#, "/params/order/who/@xsi:type"),
        (r#"{"order": {"a b": 1}}"#, "/params/order/a b"),
        (r#"{"order": {"p:a": 1}}"#, "/params/order/p:a"),
        (r#"{"order": {"@other": 1}}"#, "/params/order/@other"),
        (r#"{"order": {}, "unknown": 1}"#, "/params/unknown"),
        (r#"{"order": {}, "note": "\u0001"}"#, "/params/note"),
        (r#"{"free": {"a><b": 1}}"#, "/params/free/a><b"),
    ] {
        let error = harness.call(rich(), params).await.expect_err(params);
        assert_eq!((error.code, error.effect), (ErrorCode::Validation, Effect::None), "{params} {error:?}");
        assert_eq!(error.details["errors"][0]["pointer"], pointer, "{params}");
    }
    let deep = format!(r#"{{"free": {}1{}}}"#, r#"{"a":"#.repeat(100), "}".repeat(100));
    assert_eq!(harness.call(rich(), &deep).await.expect_err("too deep").code, ErrorCode::Validation);
}

#[tokio::test]
async fn answers_are_read_by_the_model_and_what_it_does_not_know_is_kept() {
    let upstream = Upstream::start(|_| {
        envelope(
            SOAP11,
            concat!(
                r#"<r:got xmlns:r="urn:shop" xmlns:t="urn:types" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">"#,
                r#"<t:order id="7" other="x"><t:price currency="EUR">1.50</t:price><part/>"#,
                r#"<t:who i:type="t:Person"><name> A&lt;<![CDATA[<b>]]> </name></t:who></t:order>"#,
                r#"<new xmlns="urn:n"><a>1</a><a>2</a><b k="v"/></new></r:got>"#
            ),
        )
    })
    .await;
    let mut operation = rich();
    operation["response"] =
        json!({"name": "got", "type": {"namespace": "urn:types", "children": [{"name": "order", "type": "Order"}]}});
    let answer = Harness::new(&upstream.url("/")).call(operation, r#"{"order": {}}"#).await.expect("an answer");
    assert_eq!(
        *answer.data.value().expect("JSON"),
        json!({
            "order": {
                "@id": 7, "@other": "x", "price": {"@currency": "EUR", "#text": 1.5}, "part": [{}],
                "who": {"@xsi:type": "Person", "name": " A<<b> "},
            },
            "new": {"@xmlns": "urn:n", "a": ["1", "2"], "b": {"@k": "v"}},
        })
    );
}

async fn fault(status: u16, namespace: &'static str, fault: &'static str, operation: Value) -> CallError {
    let upstream = Upstream::start(move |_| {
        let mut answer = envelope(namespace, fault);
        *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        answer
    })
    .await;
    let harness = Harness::new(&upstream.url("/"))
        .with_credential(AuthType::Basic, json!({"username": "svc", "password": "p<ss&word"}));
    harness.call(operation, r#"{"a": 1, "b": [1]}"#).await.expect_err("a fault")
}

#[tokio::test]
async fn faults_of_both_versions_say_whose_fault_it_was() {
    let client = concat!(
        r#"<s:Fault><faultcode>s:Client.Input</faultcode><faultstring>no p&lt;ss&amp;word here</faultstring>"#,
        r#"<detail><e:BadInput xmlns:e="urn:e"><field>a</field><seen>p&lt;ss&amp;word</seen></e:BadInput></detail></s:Fault>"#
    );
    let error = fault(500, SOAP11, client, add()).await;
    assert_eq!((error.code, error.retryable, error.upstream_failed), (ErrorCode::Upstream, false, false), "{error:?}");
    assert_eq!((error.effect, error.upstream_status), (Effect::Answered, Some(500)));
    assert_eq!(error.details["fault"], json!({"codes": ["Client.Input"], "reason": "no [redacted] here"}));
    assert_eq!(error.details["faultDetail"]["BadInput"]["field"], json!({"@xmlns": "", "#text": "a"}));
    assert!(!format!("{error:?}").contains("word"), "{error:?}");

    let receiver = concat!(
        r#"<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value xmlns:m="urn:m">m:Busy</s:Value></s:Subcode></s:Code>"#,
        r#"<s:Reason><s:Text xml:lang="en">try later</s:Text></s:Reason></s:Fault>"#
    );
    let error = fault(500, SOAP12, receiver, add()).await;
    assert_eq!((error.code, error.retryable, error.upstream_failed), (ErrorCode::Upstream, true, true), "{error:?}");
    assert_eq!(error.message, "the upstream answered a fault Receiver/Busy: try later");

    let mut mapped = add();
    mapped["errorMapping"] = json!([
        {"fault": "Busy", "code": "RATE_LIMIT_EXCEEDED"},
        {"detail": "BadInput", "code": "VALIDATION_ERROR"},
    ]);
    assert_eq!(fault(200, SOAP12, receiver, mapped.clone()).await.code, ErrorCode::RateLimitExceeded);
    assert_eq!(fault(200, SOAP11, client, mapped).await.code, ErrorCode::Validation);

    let refused =
        "<s:Fault><faultcode xmlns:w='urn:w'>w:FailedAuthentication</faultcode><faultstring>no</faultstring></s:Fault>";
    let error = fault(500, SOAP11, refused, add()).await;
    assert_eq!((error.code, error.credential_refused, error.effect), (ErrorCode::Auth, true, Effect::None));
}

#[tokio::test]
async fn answers_that_are_no_envelopes_are_told_apart() {
    for (status, content_type, text, code, part) in [
        (200, "text/xml", "<a", ErrorCode::Upstream, "not XML"),
        (200, "text/xml", "<a/>", ErrorCode::Upstream, "expected a SOAP envelope"),
        (200, "text/xml", "", ErrorCode::Upstream, "empty"),
        (
            200,
            "text/xml",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            ErrorCode::Upstream,
            "document types are not read",
        ),
        (200, "text/html", "<p>hello", ErrorCode::Upstream, "cannot be read"),
        (401, "text/html", "no", ErrorCode::Auth, "401"),
        (503, "text/html", "busy", ErrorCode::Upstream, "503"),
    ] {
        let upstream = Upstream::start(move |_| xml_reply(status, content_type, text)).await;
        let error = Harness::new(&upstream.url("/")).call(add(), r#"{"a": 1}"#).await.expect_err(text);
        assert_eq!(error.code, code, "{text}");
        assert!(error.message.contains(part), "{part} in {}", error.message);
        assert_eq!(error.upstream_status, Some(status));
    }
    let upstream = Upstream::start(|_| xml_reply(202, "text/xml", "")).await;
    let mut one_way = add();
    one_way["oneWay"] = json!(true);
    let answer = Harness::new(&upstream.url("/")).call(one_way, r#"{"a": 1}"#).await.expect("nothing");
    assert_eq!(answer.data.text(), "null");
}

#[tokio::test]
async fn a_basic_credential_goes_as_http_basic_or_into_the_message() {
    let upstream = Upstream::start(|_| envelope(SOAP11, ADDED)).await;
    let basic = json!({"username": "svc", "password": "s3<ret"});
    let harness = Harness::new(&upstream.url("/")).with_credential(AuthType::Basic, basic.clone());
    harness.call(add(), r#"{"a": 1}"#).await.expect("an answer");
    let seen = upstream.only();
    assert!(seen.header("authorization").is_some_and(|value| value.starts_with("Basic ")));
    assert!(!seen.body_text().contains("Security"));

    for (password, nonce) in [("text", false), ("digest", true)] {
        let upstream = Upstream::start(|_| envelope(SOAP11, ADDED)).await;
        let security = json!({"security": {"usernameToken": {"password": password}, "timestamp": {"ttlSeconds": 60}}});
        let harness =
            Harness::new(&upstream.url("/")).with_credential(AuthType::Basic, basic.clone()).with_config(security);
        let shown = harness.preview(add(), r#"{"a": 1}"#)["body"].as_str().expect("text").to_owned();
        assert!(shown.contains(">[redacted]</wsse:Password>") && !shown.contains("s3"), "{shown}");
        harness.call(add(), r#"{"a": 1}"#).await.expect("an answer");
        let seen = upstream.only();
        assert_eq!(seen.header("authorization"), None);
        let text = seen.body_text();
        assert!(
            text.contains("<wsu:Created>2026-01-31T10:30:00Z</wsu:Created><wsu:Expires>2026-01-31T10:31:00Z<"),
            "{text}"
        );
        assert!(text.contains("<wsse:Username>svc</wsse:Username>"), "{text}");
        assert_eq!(text.contains(">s3&lt;ret</wsse:Password>"), password == "text", "{text}");
        assert_eq!(text.contains("</wsse:Nonce>"), nonce, "{text}");
    }

    let harness = Harness::new(&upstream.url("/")).with_config(json!({"security": {"usernameToken": {}}}));
    let error = harness.call(add(), r#"{"a": 1}"#).await.expect_err("no credential");
    assert_eq!((error.code, error.effect), (ErrorCode::Auth, Effect::None));
    assert_eq!(
        harness.adapter.check_credential(&harness.config, &Credential::None).expect_err("none").pointer,
        "/data/username"
    );
}

#[tokio::test]
async fn operations_that_cannot_be_are_refused_at_publication() {
    let harness = Harness::new("http://127.0.0.1:9/");
    for (operation, pointer) in [
        (json!({}), ""),
        (json!({"request": {"name": "a", "extra": 1}}), "/request"),
        (json!({"request": {"name": "a b"}}), "/request/name"),
        (json!({"request": {"name": "p:a"}}), "/request/name"),
        (json!({"request": {"name": "a", "type": "xs:unknown"}}), "/request/type"),
        (
            json!({"request": {"name": "a", "type": {"children": [{"name": "b", "type": "None"}]}}}),
            "/request/type/children/0/type",
        ),
        (
            json!({"request": {"name": "a", "type": {"children": [{"name": "b"}, {"name": "c", "member": "b"}]}}}),
            "/request/type",
        ),
        (json!({"request": {"name": "a"}, "types": {"T": {"derived": ["U"]}}}), "/types/T/derived/0"),
        (json!({"request": {"name": "a"}, "soapAction": "a\"b"}), "/soapAction"),
        (json!({"request": {"name": "a"}, "headers": [{"element": {"name": "h"}}]}), "/headers/0"),
    ] {
        let problems = harness.compile(operation.clone()).err().expect("problems");
        assert!(problems.iter().any(|problem| problem.pointer == pointer), "{operation}: {problems:?}");
    }
    let problems = harness
        .adapter
        .check_config(&object(json!({"baseUrl": "http://a/", "soapVersion": "2", "security": {"x": 1}})));
    let mut pointers: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/security", "/soapVersion"]);
}

#[tokio::test]
async fn a_connection_test_asks_for_the_description_and_changes_nothing() {
    let upstream =
        Upstream::start(|seen| xml_reply(if seen.method == "GET" { 200 } else { 500 }, "text/xml", "<x/>")).await;
    let harness = Harness::new(&upstream.url("/calc?x=1"));
    harness.adapter.test(harness.connection()).await.expect("reached");
    assert_eq!(upstream.only().target, "/calc?x=1&wsdl=");
}
