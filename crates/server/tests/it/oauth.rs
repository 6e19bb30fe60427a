//! Coming by tokens, against an authorization server that each test scripts.

mod systems;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use integration_model::definition::GrantType;
use integration_model::{InstanceId, TenantId, Timestamp};
use integration_store::NewOAuthRequest;
use serde_json::{Value, json};
use url::Url;

use crate::client::{Answer, assert_problem, get, pointers, send};
use crate::service::{Received, TestService, definition, json_response};

pub(crate) const SECRET: &str = "client secret/+:%7f1e0b";
pub(crate) const ACCESS: &str = "AccessMark4c2a";
const REFRESH: &str = "RefreshMark9d7e";
pub(crate) const CALLBACK: &str = "/api/v1/oauth/callback";

/// A definition of an OAuth system at the test's upstream, with these fields in its config.
fn oauth_definition(service: &TestService, config: &Value) -> Value {
    let mut document = definition("oauth", &json!({}));
    document["authType"] = json!("oauth2");
    let url = service.upstream.url();
    document["oauth2Config"] = json!({
        "clientId": "client:1", "clientSecret": SECRET, "scope": "read write",
        "authorizationUrl": format!("{url}/authorize?audience=api"), "tokenUrl": format!("{url}/token"),
    });
    for (name, value) in config.as_object().unwrap() {
        let text = value.to_string().replace("UPSTREAM", &url);
        document["oauth2Config"][name] = serde_json::from_str(&text).unwrap();
        if value.is_null() {
            document["oauth2Config"].as_object_mut().unwrap().remove(name);
        }
    }
    document
}

async fn service_with(config: &Value) -> TestService {
    let service = TestService::start().await;
    service.instance_of(&oauth_definition(&service, config), "mine").await;
    service
}

pub(crate) fn path(end: &str) -> String {
    format!("/api/v1/integration-instances/mine{end}")
}

pub(crate) async fn status(service: &TestService) -> String {
    service.get(&path("")).await.json()["status"].as_str().unwrap().to_owned()
}

/// What the token endpoint answers when all is well.
fn token() -> Response {
    json_response(
        200,
        &json!({"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 3600, "token_type": "bearer"}),
    )
}

pub(crate) fn form(request: &Received) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

/// The requests that came to a path.
pub(crate) fn requests(service: &TestService, path: &str) -> Vec<Received> {
    service.upstream.received().into_iter().filter(|request| request.path_and_query == path).collect()
}

/// Begins a connection; gives where the person is sent, as pairs.
async fn begin(service: &TestService, body: &Value) -> (Url, BTreeMap<String, String>) {
    let answer = service.post(&path("/oauth/authorize"), body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let url = Url::parse(answer.json()["authorizationUrl"].as_str().unwrap()).unwrap();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    assert_eq!(query["state"], answer.json()["state"].as_str().unwrap());
    (url, query)
}

/// Comes back as a person's browser does: without a key.
async fn come_back(service: &TestService, query: &[(&str, &str)]) -> Answer {
    come_back_for(service, query, "text/html,application/xhtml+xml,*/*;q=0.8").await
}

async fn come_back_for(service: &TestService, query: &[(&str, &str)], accept: &str) -> Answer {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    send(service.address(), get(&format!("{CALLBACK}?{query}")).header("accept", accept), "").await
}

async fn events_of(service: &TestService, event_type: &str) -> Vec<Value> {
    let events = service.items("/api/v1/events?limit=200").await;
    events.into_iter().filter(|event| event["eventType"] == event_type || event["type"] == event_type).collect()
}

#[tokio::test]
async fn a_person_connects_an_instance() {
    let service = service_with(&json!({"additionalParameters": {"prompt": "consent"}})).await;
    service.upstream.always(|request| match request.path_and_query.as_str() {
        "/token" => token(),
        _ => json_response(200, &json!({"authorization": request.headers["authorization"].to_str().unwrap()})),
    });
    assert_eq!(status(&service).await, "PENDING_AUTHENTICATION");
    let (url, query) = begin(&service, &json!({})).await;
    let callback = format!("http://{}{CALLBACK}", service.address());
    assert_eq!(url.path(), "/authorize");
    for (name, value) in [
        ("audience", "api"),
        ("response_type", "code"),
        ("client_id", "client:1"),
        ("redirect_uri", callback.as_str()),
        ("scope", "read write"),
        ("code_challenge_method", "S256"),
        ("prompt", "consent"),
    ] {
        assert_eq!(query.get(name).map(String::as_str), Some(value), "{name} in {url}");
    }
    assert_eq!(URL_SAFE_NO_PAD.decode(&query["state"]).unwrap().len(), 32, "256 bits");

    let page = come_back(&service, &[("code", "the code"), ("state", &query["state"])]).await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert_eq!(page.status, 200, "{text}");
    for part in ["<html lang=\"en\">", "<title>Connected", "<h1>Connected</h1>", "mine"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("cache-control"), "no-store");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let asked = requests(&service, "/token").pop().unwrap();
    let fields = form(&asked);
    assert_eq!(fields["grant_type"], "authorization_code");
    assert_eq!(fields["code"], "the code");
    assert_eq!(fields["redirect_uri"], callback);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, fields["code_verifier"].as_bytes()));
    assert_eq!(challenge, query["code_challenge"]);
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = STANDARD.encode(format!("{}:{}", encoded("client:1"), encoded(SECRET)));
    assert_eq!(asked.headers["authorization"], format!("Basic {basic}"));

    assert_eq!(status(&service).await, "CONNECTED");
    let executed = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(executed["data"]["authorization"], format!("Bearer {ACCESS}"), "{executed}");
    let known = service.get(&path("/credentials/status")).await.json();
    assert_eq!(
        (&known["status"], &known["scope"], &known["refreshable"]),
        (&json!("valid"), &json!("read write"), &json!(true))
    );
    assert_eq!(events_of(&service, "integration.connected").await.len(), 1);
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    assert!(
        metrics.contains("integration_oauth_connections_total{grant=\"authorization_code\",outcome=\"connected\"}")
    );

    // What was used once is used up, and the second try takes nothing away.
    let again = come_back(&service, &[("code", "the code"), ("state", &query["state"])]).await;
    let text = String::from_utf8(again.body.to_vec()).unwrap();
    assert_eq!(again.status, 400, "{text}");
    assert!(text.contains("<h1>Not connected</h1>") && text.contains("used before"), "{text}");
    assert_eq!(requests(&service, "/token").len(), 1);
    assert_eq!(status(&service).await, "CONNECTED");
    let stored = service.stored_bytes();
    assert!(crate::credentials::holds(&stored, "client:1"), "the scan sees the rows");
    for secret in [ACCESS, REFRESH, SECRET, &fields["code_verifier"], &query["state"]] {
        assert!(!crate::credentials::holds(&stored, secret));
    }
}

#[tokio::test]
async fn what_does_not_end_a_connection_says_why() {
    let issuer = "https://id.example";
    let service = service_with(&json!({"issuer": issuer})).await;
    service.upstream.always(|_| token());
    let state = async |service: &TestService| begin(service, &json!({})).await.1["state"].clone();
    let json = "application/json";

    for (query, pointer) in [
        (vec![("code", "c")], "/query/state"),
        (vec![("code", "c"), ("state", "")], "/query/state"),
        (vec![("code", "c"), ("state", "made up")], "/query/state"),
        (vec![("code", "c"), ("state", "0123456789012345678901234567890123456789012")], "/query/state"),
        (vec![("code", "c"), ("code", "d"), ("state", "x")], "/query/code"),
    ] {
        let answer = come_back_for(&service, &query, json).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [pointer]);
    }
    let first = state(&service).await;
    let answer =
        come_back_for(&service, &[("code", "c"), ("state", &first), ("iss", "https://evil.example")], json).await;
    assert_problem(&answer, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&answer), ["/query/iss"]);
    let second = state(&service).await;
    let answer = come_back_for(&service, &[("state", &second)], json).await;
    assert_eq!(pointers(&answer), ["/query/code"]);
    assert!(requests(&service, "/token").is_empty(), "no code went anywhere");
    assert_eq!(status(&service).await, "AUTH_ERROR");

    let third = state(&service).await;
    let answer = come_back_for(&service, &[("code", "c"), ("state", &third), ("iss", issuer)], json).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "SUCCESS", "integrationInstanceId": "mine"})));
    assert_eq!(status(&service).await, "CONNECTED");

    // A person who refuses, and a server that does, leave the connection that works alone.
    let fourth = state(&service).await;
    let refusal = [("state", fourth.as_str()), ("error", "access_denied"), ("error_description", "<b>no</b>")];
    let page = come_back(&service, &refusal).await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert_eq!(page.status, 502);
    assert!(text.contains("access_denied: &lt;b&gt;no&lt;/b&gt;") && !text.contains("<b>"), "{text}");
    service.upstream.always(|_| {
        json_response(400, &json!({"error": "invalid_grant", "error_description": "the code c0de is gone"}))
    });
    let fifth = state(&service).await;
    let answer = come_back_for(&service, &[("code", "c0de"), ("state", &fifth), ("iss", issuer)], json).await;
    assert_problem(&answer, 502, "AUTH_ERROR");
    assert!(answer.json()["detail"].as_str().unwrap().ends_with("invalid_grant: the code [redacted] is gone"));
    assert_eq!(status(&service).await, "CONNECTED");
    assert_eq!(events_of(&service, "integration.auth.failed").await.len(), 4);
}

#[tokio::test]
async fn a_link_that_is_looked_at_or_too_old_is_not_used() {
    let service = service_with(&json!({})).await;
    service.upstream.always(|_| token());
    let (_, query) = begin(&service, &json!({})).await;
    let link = format!("{CALLBACK}?code=c&state={}", query["state"]);
    let looked = send(service.address(), http::Request::head(&link).header("host", "test"), "").await;
    assert_eq!(looked.status, 204);
    assert_eq!(come_back(&service, &[("code", "c"), ("state", &query["state"])]).await.status, 200);

    let old = "o".repeat(43);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, old.as_bytes()).as_ref());
    let expired = NewOAuthRequest {
        digest: hash,
        grant_type: GrantType::AuthorizationCode,
        tenant_id: TenantId::default_tenant(),
        instance_id: InstanceId::parse("mine").unwrap(),
        principal: "somebody".to_owned(),
        principal_tenant: None,
        expires_at: Timestamp::from_micros(1),
        poll_interval: None,
    };
    let audit = integration_model::audit::AuditDraft::done(
        integration_model::audit::AuditAction::ConnectionBegun,
        "somebody",
        "by a test",
        "c-1",
    );
    service.app.engine().store().put_oauth_request(expired, b"{}", audit).await.unwrap();
    let answer = come_back_for(&service, &[("code", "c"), ("state", &old)], "application/json").await;
    assert_eq!(pointers(&answer), ["/query/state"]);
    assert!(
        answer.json()["detail"].as_str().unwrap().len() > 5
            && answer.json()["errors"][0]["message"].as_str().unwrap().contains("expired")
    );
}

#[tokio::test]
async fn a_person_is_sent_on_only_where_the_settings_allow() {
    let files = [("integration_service.yaml", "oauth:\n  returnUrls: [https://app.example/done]\n")];
    let environment = [("INTEGRATION_SERVICE_PUBLIC_URL", "https://integrations.example/base/")];
    let service = TestService::start_configured(&files, &environment).await;
    service.instance_of(&oauth_definition(&service, &json!({})), "mine").await;
    service.upstream.always(|_| token());
    let refused = service
        .post(&path("/oauth/authorize"), &json!({"returnUrl": "https://evil.example/", "redirectUri": "x"}))
        .await;
    assert_eq!(pointers(&refused), ["/redirectUri", "/returnUrl"]);

    let (_, query) = begin(&service, &json!({"returnUrl": "https://app.example/done?tab=1", "scope": "more"})).await;
    assert_eq!(query["redirect_uri"], "https://integrations.example/base/api/v1/oauth/callback");
    assert_eq!(query["scope"], "more");
    let answer = come_back(&service, &[("code", "c"), ("state", &query["state"])]).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, "https://app.example/done?tab=1&status=connected&integrationInstanceId=mine")
    );
    let custom = json!({"returnUrl": "https://app.example/done", "redirectUri": "https://app.example/back"});
    let (_, query) = begin(&service, &custom).await;
    assert_eq!(query["redirect_uri"], "https://app.example/back");
    let answer = come_back(&service, &[("error", "access_denied"), ("state", &query["state"])]).await;
    assert_eq!(
        answer.header("location"),
        "https://app.example/done?status=failed&integrationInstanceId=mine&error=AUTH_ERROR"
    );
}

#[tokio::test]
async fn a_state_is_of_its_instance_and_its_tenant() {
    let service = service_with(&json!({})).await;
    service.upstream.always(|_| token());
    for (verb, end) in [("POST", "/oauth/authorize"), ("POST", "/oauth/device")] {
        let answer = service.send_as("bob", verb, &path(end), &json!({})).await;
        assert_problem(&answer, 404, "INSTANCE_NOT_FOUND");
    }
    let device = service.post(&path("/oauth/device"), &json!({})).await;
    assert_problem(&device, 409, "CONFLICT");
    // The instance goes, and with it what waited for it.
    let (_, query) = begin(&service, &json!({})).await;
    assert_eq!(service.delete(&path("")).await.status, 204);
    let answer = come_back(&service, &[("code", "c"), ("state", &query["state"])]).await;
    assert_eq!(answer.status, 400);
    assert!(requests(&service, "/token").is_empty());
}

#[tokio::test]
async fn nobody_is_sent_away_for_an_instance_that_could_not_be_connected() {
    let service = service_with(&json!({})).await;
    let config = json!({"config": {"baseUrl": "not a URL"}});
    assert_eq!(service.with_body("PATCH", &path(""), &config).await.status, 200);
    let refused = service.post(&path("/oauth/authorize"), &json!({})).await;
    assert_problem(&refused, 409, "CONFLICT");
    assert_eq!(pointers(&refused), ["/config/baseUrl"]);
}

#[tokio::test]
async fn no_token_is_asked_for_where_egress_is_not_allowed() {
    let service = service_with(&json!({"grantType": "client_credentials", "tokenUrl": "http://10.1.2.3/token"})).await;
    let answer = service.post(&path("/connect"), &json!({})).await;
    assert_problem(&answer, 409, "CONFLICT");
    assert!(answer.json()["detail"].as_str().unwrap().contains("egress"), "{}", answer.json());
}

#[tokio::test]
async fn a_person_agrees_on_another_device() {
    let service = service_with(&json!({
        "grantType": "device_code", "deviceAuthorizationUrl": "UPSTREAM/device", "authorizationUrl": null,
    }))
    .await;
    service.upstream.always(|_| token());
    service.upstream.then(json_response(
        200,
        &json!({
            "device_code": "DeviceMark5b", "user_code": "WDJB-MJHT", "verification_uri": "https://id.example/device",
            "expires_in": 600, "interval": 1,
        }),
    ));
    for error in ["authorization_pending", "authorization_pending"] {
        service.upstream.then(json_response(400, &json!({"error": error})));
    }
    let answer = service.post(&path("/oauth/device"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let begun = answer.json();
    assert_eq!((&begun["userCode"], &begun["interval"]), (&json!("WDJB-MJHT"), &json!(1)));
    assert_eq!(begun["verificationUri"], "https://id.example/device");
    assert!(!begun.to_string().contains("DeviceMark5b"));
    // What waits lies in the database: the next process goes on with it.
    let service = service.restart(&[], &[]).await.unwrap();
    let asked = form(&requests(&service, "/device")[0]);
    assert_eq!((asked["client_id"].as_str(), asked["scope"].as_str()), ("client:1", "read write"));

    wait_for(async || status(&service).await == "CONNECTED").await;
    let polls = requests(&service, "/token");
    assert_eq!(polls.len(), 3, "two that were too early");
    assert_eq!(form(&polls[2])["device_code"], "DeviceMark5b");
    assert_eq!(form(&polls[2])["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
    assert!(!crate::credentials::holds(&service.stored_bytes(), "DeviceMark5b"));

    // One who refuses leaves the connection alone, and is not asked again.
    service.upstream.then(json_response(
        200,
        &json!({"device_code": "d2", "user_code": "X", "verification_url": "https://id.example/d", "interval": 1}),
    ));
    service.upstream.then(json_response(400, &json!({"error": "access_denied"})));
    assert_eq!(service.post(&path("/oauth/device"), &json!({})).await.status, 200);
    wait_for(async || !events_of(&service, "integration.auth.failed").await.is_empty()).await;
    assert_eq!(status(&service).await, "CONNECTED");
}

#[tokio::test]
async fn tokens_are_given_back_and_a_server_that_fails_holds_nothing_up() {
    let service = service_with(&json!({"grantType": "client_credentials", "revocationUrl": "UPSTREAM/revoke"})).await;
    service.upstream.always(|_| token());
    let connect = async || assert_eq!(service.post(&path("/connect"), &json!({})).await.status, 200);
    let given_back = || {
        let revoked = requests(&service, "/revoke");
        revoked
            .iter()
            .map(|request| (form(request)["token_type_hint"].clone(), form(request)["token"].clone()))
            .collect::<Vec<_>>()
    };
    let both = [("refresh_token".to_owned(), REFRESH.to_owned()), ("access_token".to_owned(), ACCESS.to_owned())];
    connect().await;
    let disconnected = service.post(&path("/disconnect"), &json!({})).await;
    assert_eq!((disconnected.status, &disconnected.json()["status"]), (200, &json!("DISCONNECTED")));
    assert_eq!(disconnected.header("etag"), service.get(&path("")).await.header("etag"));
    assert_eq!(given_back(), both);
    assert_eq!(service.get(&path("/credentials/status")).await.json()["status"], "missing");
    assert_eq!(service.post(&path("/disconnect"), &json!({})).await.status, 200, "with nothing to give back");

    connect().await;
    service.upstream.then(json_response(503, &json!({})));
    assert_eq!(service.delete(&path("/credentials")).await.status, 204);
    assert_eq!((given_back().len(), status(&service).await.as_str()), (3, "DISCONNECTED"));
    connect().await;
    assert_eq!(service.delete(&path("")).await.status, 204);
    assert_eq!(given_back().len(), 5);

    let uses = service.items("/api/v1/audit?action=credential.used").await;
    let revocations: Vec<_> = uses.iter().filter(|entry| entry["reason"] == "revocation").collect();
    assert_eq!(revocations.len(), 3, "{uses:?}");
    assert_eq!(revocations.iter().filter(|entry| entry["outcome"] == "failure").count(), 1, "{revocations:?}");
}

/// Waits for what comes by itself.
pub(crate) async fn wait_for(holds: impl AsyncFn() -> bool) {
    for _ in 0..1_200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it did not come");
}
