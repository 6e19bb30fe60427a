//! Credentials: stored, applied at the upstream, judged, and never seen again.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::service::{Keeper, Received, TestService, definition, json_response, on_both_keepers};

on_both_keepers!(
    each_type_is_applied_to_the_request,
    a_token_is_signed_by_the_key_that_was_stored,
    what_is_no_credential_is_refused_with_the_place_and_without_the_value,
    a_secret_is_seen_by_the_upstream_alone,
    an_expired_credential_is_told_and_not_sent,
    a_refusal_takes_the_instance_out_and_another_credential_brings_it_back,
    a_test_finds_that_a_refused_credential_is_taken_again,
    a_refusal_without_a_credential_says_nothing_of_one,
    a_late_refusal_of_an_older_credential_spares_the_newer_one,
);

/// Whether `bytes` hold `text` as it is, or in base64 at whatever offset.
pub(crate) fn holds(bytes: &[u8], text: &str) -> bool {
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    contains(text.as_bytes())
        || (0..3).any(|offset| {
            let padded = format!("{}{text}", "x".repeat(offset));
            [STANDARD.encode(&padded), URL_SAFE.encode(&padded)].iter().any(|encoded| {
                // Only the characters that no neighbouring byte has a part in.
                contains(&encoded.as_bytes()[(offset * 8).div_ceil(6)..padded.len() * 8 / 6])
            })
        })
}

const MARK: &str = "S3cretMark7f1e0b";

/// A definition whose instances need a credential of this type.
fn guarded(id: &str, auth_type: &str) -> Value {
    let mut document = definition(id, &json!({"responseTransform": "{'ok': true}"}));
    document["authType"] = json!(auth_type);
    if auth_type == "custom" {
        document["customAuth"] =
            json!({"headers": {"X-App": "app", "X-Token": "token"}, "query": {"sig": "signature"}});
    }
    document
}

fn credentials(id: &str) -> String {
    format!("/api/v1/integration-instances/{id}/credentials")
}

async fn store(service: &TestService, id: &str, auth_type: &str, data: Value) -> Answer {
    service.post(&credentials(id), &json!({"type": auth_type, "data": data})).await
}

async fn status_of(service: &TestService, id: &str) -> String {
    let instance = service.get(&format!("/api/v1/integration-instances/{id}")).await.json();
    instance["status"].as_str().unwrap().to_owned()
}

async fn credential_state(service: &TestService, id: &str) -> Value {
    service.get(&format!("{}/status", credentials(id))).await.json()["status"].clone()
}

/// The only request that the upstream got since it was last asked.
fn last(service: &TestService) -> Received {
    service.upstream.received().pop().unwrap()
}

async fn each_type_is_applied_to_the_request(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    let basic = format!("Basic {}", STANDARD.encode(format!("ann:{MARK}")));
    let token = format!("Bearer {MARK}");
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let cases: [(&str, Value, Headers<'_>, &str); 8] = [
        ("basic", json!({"username": "ann", "password": MARK}), vec![("authorization", &basic)], "/thing"),
        (
            "api_key",
            json!({"key": MARK, "headerOrParam": "X-Pets", "inHeader": true}),
            vec![("x-pets", MARK)],
            "/thing",
        ),
        ("api_key", json!({"key": MARK}), vec![("x-api-key", MARK)], "/thing"),
        (
            "api_key",
            json!({"key": MARK, "headerOrParam": "key", "inHeader": false}),
            vec![],
            "/thing?key=S3cretMark7f1e0b",
        ),
        ("oauth2", json!({"access_token": MARK, "token_type": "bearer"}), vec![("authorization", &token)], "/thing"),
        (
            "oauth2",
            json!({"accessToken": MARK, "expiresAt": "2999-01-01T00:00:00Z"}),
            vec![("authorization", &token)],
            "/thing",
        ),
        ("jwt", json!({"token": MARK}), vec![("authorization", &token)], "/thing"),
        (
            "custom",
            json!({"app": "app-1", "token": MARK, "signature": "s/1"}),
            vec![("x-app", "app-1"), ("x-token", MARK)],
            "/thing?sig=s%2F1",
        ),
    ];
    for (number, (auth_type, data, headers, path)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}");
        service.instance_of(&guarded(&id, auth_type), &id).await;
        assert_eq!(status_of(&service, &id).await, "PENDING_AUTHENTICATION");
        let refused = service.execute(&id, "call", &json!({})).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("INSTANCE_NOT_READY")));

        let stored = store(&service, &id, auth_type, data).await;
        assert_eq!(stored.status, 201, "{id}: {}", stored.json());
        assert_eq!((&stored.json()["status"], &stored.json()["type"]), (&json!("stored"), &json!(auth_type)));
        assert_eq!(status_of(&service, &id).await, "CONNECTED");
        let executed = service.execute(&id, "call", &json!({})).await;
        assert_eq!(executed.status, 200, "{id}: {}", executed.json());
        let received = last(&service);
        assert_eq!(received.path_and_query, path, "{id}");
        for (name, value) in headers {
            assert_eq!(received.headers.get(name).unwrap(), value, "{id}");
        }
    }
}

async fn a_token_is_signed_by_the_key_that_was_stored(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    service.instance_of(&guarded("signed", "jwt"), "signed").await;
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let der = key.to_pkcs8v1().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let data = json!({
        "privateKey": pem, "algorithm": "ES256", "keyId": "k1", "issuer": "us", "subject": "robot",
        "audience": "them", "claims": {"role": "reader"}, "ttlSeconds": 60,
    });
    let stored = store(&service, "signed", "jwt", data).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
    let executed = service.execute("signed", "call", &json!({})).await;
    assert_eq!(executed.status, 200, "{}", executed.json());

    let authorization = last(&service).headers["authorization"].to_str().unwrap().to_owned();
    let token = authorization.strip_prefix("Bearer ").unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())
        .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .expect("signed by the key");
    let part = |index: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split('.').nth(index).unwrap()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}));
    let claims = part(1);
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"], &claims["role"]),
        (&json!("us"), &json!("robot"), &json!("them"), &json!("reader"))
    );
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
}

async fn what_is_no_credential_is_refused_with_the_place_and_without_the_value(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    for auth_type in ["basic", "api_key", "oauth2", "jwt", "custom", "none"] {
        service.instance_of(&guarded(auth_type, auth_type), auth_type).await;
    }
    for (id, sent_type, data, pointers) in [
        ("basic", "api_key", json!({"key": MARK}), vec!["/type"]),
        ("basic", "basic", json!({}), vec!["/data/password", "/data/username"]),
        (
            "basic",
            "basic",
            json!({"username": "a:b", "password": format!("{MARK}\r\nX: y")}),
            vec!["/data/password", "/data/username"],
        ),
        ("basic", "basic", json!({"username": "a", "password": MARK, "pasword": MARK}), vec!["/data/pasword"]),
        ("basic", "basic", json!([MARK]), vec!["/data"]),
        (
            "api_key",
            "api_key",
            json!({"key": MARK, "headerOrParam": "no name", "inHeader": true}),
            vec!["/data/headerOrParam"],
        ),
        ("api_key", "api_key", json!({"key": MARK, "inHeader": MARK}), vec!["/data/inHeader"]),
        ("oauth2", "oauth2", json!({"access_token": MARK, "expires_at": MARK}), vec!["/data/expires_at"]),
        ("jwt", "jwt", json!({"privateKey": MARK, "algorithm": "ES256"}), vec!["/data/privateKey"]),
        ("jwt", "jwt", json!({"privateKey": MARK, "algorithm": MARK}), vec!["/data/algorithm"]),
        ("custom", "custom", json!({"app": MARK}), vec!["/data/signature", "/data/token"]),
        ("none", "basic", json!({"username": "a", "password": MARK}), vec!["/type"]),
        ("basic", MARK, json!({}), vec!["/type"]),
    ] {
        let answer = store(&service, id, sent_type, data).await;
        let body = answer.json();
        assert_eq!((answer.status, &body["code"]), (400, &json!("VALIDATION_ERROR")), "{body}");
        let mut found: Vec<&str> =
            body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, pointers, "{body}");
        assert!(!body.to_string().contains(MARK), "{body}");
    }
    let none = store(&service, "none", "none", json!({})).await;
    assert_eq!((none.status, &none.json()["code"]), (409, &json!("CONFLICT")));
    let missing = store(&service, "nobody", "basic", json!({})).await;
    assert_eq!((missing.status, &missing.json()["code"]), (404, &json!("INSTANCE_NOT_FOUND")));
}

async fn a_secret_is_seen_by_the_upstream_alone(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    let mut seen: Vec<u8> = Vec::new();
    for (id, auth_type, data) in [
        ("basic", "basic", json!({"username": "username-of-ann", "password": MARK})),
        ("query", "api_key", json!({"key": MARK, "headerOrParam": "key", "inHeader": false})),
        ("oauth", "oauth2", json!({"access_token": MARK, "refresh_token": format!("r{MARK}"), "scope": "read"})),
        ("custom", "custom", json!({"app": "a", "token": MARK, "signature": MARK})),
    ] {
        service.instance_of(&guarded(id, auth_type), id).await;
        let mut answers = vec![store(&service, id, auth_type, data).await];
        service.execute(id, "call", &json!({})).await;
        // An upstream that tells the secret to whoever asks.
        service.upstream.always(|received| {
            let told = json!({"headers": format!("{:?}", received.headers), "path": received.path_and_query});
            json_response(500, &told)
        });
        answers.push(service.execute(id, "call", &json!({})).await);
        service.upstream.always(|received| {
            json_response(401, &json!({"message": format!("{MARK} at {} is wrong", received.path_and_query)}))
        });
        answers.push(service.post(&format!("/integrations/{id}/test"), &json!({})).await);
        answers.push(service.post(&format!("/execute/{id}/call?dryRun=true"), &json!({})).await);
        let ready =
            service.post(&format!("{}/connect", credentials(id).trim_end_matches("/credentials")), &json!({})).await;
        answers.push(ready);
        answers.push(service.execute(id, "call", &json!({})).await);
        answers.push(service.post(&format!("/execute/{id}/call?dryRun=true"), &json!({})).await);
        for path in [
            format!("/api/v1/integration-instances/{id}"),
            format!("{}/status", credentials(id)),
            format!("/api/v1/integration-instances/{id}/executions"),
            format!("/integrations/{id}/health"),
            format!("/integrations/{id}/status"),
            format!("/api/v1/events?instance={id}"),
        ] {
            answers.push(service.get(&path).await);
        }
        for answer in answers {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!holds(&answer.body, MARK), "{id}: {text}");
            seen.extend_from_slice(&answer.body);
        }
        service.upstream.always(|_| json_response(200, &json!({})));
    }
    assert!(holds(&seen, "UPSTREAM_ERROR"), "the upstream's own words were among what was looked at");
    assert!(!holds(&service.get("/status/metrics").await.body, MARK));
    let stored = service.stored_bytes();
    assert!(holds(&stored, "integration.instance.status"), "the scan sees the rows");
    assert!(!holds(&stored, MARK), "the database holds the secret in the clear");
    assert!(!holds(&stored, "username-of-ann"), "the user name is sealed with the password");
}

#[test]
fn the_scan_finds_text_in_the_clear_and_in_base64() {
    for (before, after) in [("", ""), ("a", "b"), ("ab", "cd"), ("abc", "")] {
        let text = format!("{before}{MARK}{after}");
        assert!(holds(text.as_bytes(), MARK));
        assert!(holds(STANDARD.encode(&text).as_bytes(), MARK), "{text}");
    }
    assert!(!holds(b"S3cretMark", MARK));
}

async fn an_expired_credential_is_told_and_not_sent(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    service.instance_of(&guarded("old", "oauth2"), "old").await;
    let data =
        json!({"access_token": MARK, "refresh_token": "r", "expires_at": "2020-01-01T00:00:00Z", "scope": "read"});
    let stored = store(&service, "old", "oauth2", data).await;
    assert_eq!(stored.json(), json!({"status": "stored", "type": "oauth2", "expiresAt": "2020-01-01T00:00:00.000Z"}));
    let status = service.get(&format!("{}/status", credentials("old"))).await.json();
    assert_eq!(
        (&status["status"], &status["type"], &status["scope"], &status["refreshable"], &status["expiresAt"]),
        (&json!("expired"), &json!("oauth2"), &json!("read"), &json!(true), &json!("2020-01-01T00:00:00.000Z"))
    );
    let executed = service.execute("old", "call", &json!({})).await;
    assert_eq!(
        (executed.status, &executed.json()["error"]["code"]),
        (502, &json!("AUTH_ERROR")),
        "{}",
        executed.json()
    );
    assert!(service.upstream.received().is_empty());
}

async fn a_refusal_takes_the_instance_out_and_another_credential_brings_it_back(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    service.instance_of(&guarded("pets", "api_key"), "pets").await;
    assert_eq!(credential_state(&service, "pets").await, "missing");
    store(&service, "pets", "api_key", json!({"key": "first"})).await;
    assert_eq!(credential_state(&service, "pets").await, "valid");

    service.upstream.then(json_response(401, &json!({"message": "no"})));
    let refused = service.execute("pets", "call", &json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (502, &json!("AUTH_ERROR")), "{}", refused.json());
    let instance = service.get("/api/v1/integration-instances/pets").await.json();
    assert_eq!((&instance["status"], &instance["error"]["code"]), (&json!("AUTH_ERROR"), &json!("AUTH_ERROR")));
    assert_eq!(credential_state(&service, "pets").await, "refused");
    let kept = service.execute("pets", "call", &json!({})).await;
    assert_eq!((kept.status, &kept.json()["error"]["code"]), (409, &json!("INSTANCE_NOT_READY")));
    assert_eq!(service.upstream.received().len(), 1, "a refused credential is not sent again");
    assert_eq!(service.items("/api/v1/events?type=integration.auth.failed&instance=pets").await.len(), 1);

    store(&service, "pets", "api_key", json!({"key": "second"})).await;
    assert_eq!(
        (status_of(&service, "pets").await.as_str(), credential_state(&service, "pets").await),
        ("CONNECTED", json!("valid"))
    );
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
    assert_eq!(last(&service).headers["x-api-key"], "second");

    assert_eq!(service.delete(&credentials("pets")).await.status, 204);
    assert_eq!(
        (status_of(&service, "pets").await.as_str(), credential_state(&service, "pets").await),
        ("DISCONNECTED", json!("missing"))
    );
    let again = service.delete(&credentials("pets")).await;
    assert_eq!((again.status, &again.json()["code"]), (404, &json!("NOT_FOUND")));
    let gone = service.execute("pets", "call", &json!({})).await;
    assert_eq!((gone.status, &gone.json()["error"]["code"]), (409, &json!("INSTANCE_NOT_READY")));

    let moves: Vec<Value> = service
        .items("/api/v1/events?type=integration.instance.status&instance=pets")
        .await
        .into_iter()
        .rev()
        .map(|event| event["data"]["currentStatus"].clone())
        .collect();
    assert_eq!(moves, ["PENDING_AUTHENTICATION", "CONNECTED", "AUTH_ERROR", "CONNECTED", "DISCONNECTED"]);
}

async fn a_test_finds_that_a_refused_credential_is_taken_again(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    service.instance_of(&guarded("pets", "api_key"), "pets").await;
    store(&service, "pets", "api_key", json!({"key": "k"})).await;
    service.upstream.then(json_response(401, &json!({})));
    let report = service.post("/integrations/pets/test", &json!({})).await.json();
    assert_eq!(
        (&report["healthy"], &report["code"], &report["instanceStatus"]),
        (&json!(false), &json!("AUTH_ERROR"), &json!("AUTH_ERROR")),
        "{report}"
    );
    let report = service.post("/integrations/pets/test", &json!({})).await.json();
    assert_eq!((&report["healthy"], &report["instanceStatus"]), (&json!(true), &json!("CONNECTED")), "{report}");
    assert_eq!(credential_state(&service, "pets").await, "valid");
}

async fn a_refusal_without_a_credential_says_nothing_of_one(keeper: Keeper) {
    let service = TestService::start_on(keeper).await;
    service.instance_of(&guarded("open", "none"), "open").await;
    service.upstream.then(json_response(401, &json!({})));
    assert_eq!(service.execute("open", "call", &json!({})).await.status, 502);
    assert_eq!(status_of(&service, "open").await, "CONNECTED");
}

async fn a_late_refusal_of_an_older_credential_spares_the_newer_one(keeper: Keeper) {
    let service = std::sync::Arc::new(TestService::start_on(keeper).await);
    service.instance_of(&guarded("pets", "api_key"), "pets").await;
    store(&service, "pets", "api_key", json!({"key": "old"})).await;
    // The upstream answers the call with the old key only after the new one was stored.
    let (arrived, wait_for_arrival) = std::sync::mpsc::channel();
    let (go_on, wait_to_go_on) = std::sync::mpsc::channel::<()>();
    let wait_to_go_on = std::sync::Mutex::new(wait_to_go_on);
    service.upstream.always(move |received| {
        if received.headers["x-api-key"] == "new" {
            return json_response(200, &json!({}));
        }
        tokio::task::block_in_place(|| {
            arrived.send(()).unwrap();
            wait_to_go_on.lock().unwrap().recv().unwrap();
        });
        json_response(401, &json!({}))
    });
    let calling = tokio::spawn({
        let service = service.clone();
        async move { service.execute("pets", "call", &json!({})).await.status }
    });
    tokio::task::spawn_blocking(move || wait_for_arrival.recv().unwrap()).await.unwrap();
    store(&service, "pets", "api_key", json!({"key": "new"})).await;
    go_on.send(()).unwrap();
    assert_eq!(calling.await.unwrap(), 502);
    assert_eq!(
        (status_of(&service, "pets").await.as_str(), credential_state(&service, "pets").await),
        ("CONNECTED", json!("valid"))
    );
    assert_eq!(service.execute("pets", "call", &json!({})).await.status, 200);
}

/// A new private key that signs tokens with ES256.
pub(crate) fn signing_key_pem() -> String {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let text = STANDARD.encode(key.to_pkcs8v1().unwrap().as_ref());
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// An instance `crm` of a rotating system, with a token that holds for an hour.
async fn with_tokens(service: &TestService) {
    let mut document = guarded("crm", "oauth2");
    document["oauth2Config"] =
        json!({"clientId": "client", "clientSecret": MARK, "tokenUrl": format!("{}/token", service.upstream.url())});
    service.instance_of(&document, "crm").await;
    let data = json!({"access_token": "at-0", "refresh_token": format!("rt-{MARK}"), "expires_in": 3_600});
    assert_eq!(store(service, "crm", "oauth2", data).await.status, 201);
}

async fn refresh(service: &TestService, id: &str, body: &str) -> Answer {
    let path = format!("{}/refresh", credentials(id));
    let request =
        if body.is_empty() { crate::client::post(&path) } else { crate::service::json_request("POST", &path) };
    service.send(request, body).await
}

#[tokio::test]
async fn a_token_is_renewed_on_demand() {
    let service = TestService::start().await;
    with_tokens(&service).await;
    let token = json!({"access_token": format!("new-{MARK}"), "refresh_token": "rt-1", "expires_in": 7_200});
    service.upstream.then(json_response(200, &token));
    let answer = refresh(&service, "crm", "").await;
    let status = answer.json();
    assert_eq!((answer.status, &status["status"]), (200, &json!("valid")), "{status}");
    assert_eq!(
        (&status["refresh"]["strategy"], &status["refresh"]["failures"]),
        (&json!("auto"), &json!(0)),
        "{status}"
    );
    assert_eq!(status["refresh"]["interrupted"], false);
    assert!(status["refresh"]["nextRefreshAt"].as_str() < status["expiresAt"].as_str(), "{status}");
    assert!(!status.to_string().contains(MARK));
    let received = last(&service);
    assert_eq!(received.path_and_query, "/token");
    assert!(String::from_utf8_lossy(&received.body).contains(&format!("refresh_token=rt-{MARK}")));
    service.execute("crm", "call", &json!({})).await;
    assert_eq!(last(&service).headers["authorization"], format!("Bearer new-{MARK}"));

    // The system cannot now: the grant stays, and the answer says when to come again.
    let unavailable = || {
        let mut response = json_response(503, &json!({"error": "temporarily_unavailable"}));
        response.headers_mut().insert("retry-after", "7".parse().unwrap());
        response
    };
    service.upstream.then(unavailable());
    let answer = refresh(&service, "crm", "{}").await;
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("AUTH_ERROR")), "{}", answer.json());
    let retry_after: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=7).contains(&retry_after), "{retry_after}");
    assert_eq!(status_of(&service, "crm").await, "CONNECTED");
    let status = service.get(&format!("{}/status", credentials("crm"))).await.json();
    assert_eq!((&status["status"], &status["refresh"]["lastError"]["kind"]), (&json!("valid"), &json!("unavailable")));

    service.upstream.then(json_response(400, &json!({"error": "invalid_grant"})));
    let answer = refresh(&service, "crm", "{\"retryInterrupted\": false}").await;
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("AUTH_ERROR")), "{}", answer.json());
    assert_eq!(status_of(&service, "crm").await, "AUTH_ERROR");
    assert!(!service.items("/api/v1/events?type=integration.auth.failed").await.is_empty());
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    for outcome in ["renewed", "unavailable", "refused"] {
        let line = format!("integration_token_refreshes_total{{outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&line), "{outcome}");
    }
}

#[tokio::test]
async fn what_cannot_be_renewed_says_why() {
    let service = TestService::start().await;
    with_tokens(&service).await;
    for (id, auth_type) in [("basic", "basic"), ("plain", "oauth2"), ("empty", "oauth2")] {
        service.instance_of(&guarded(id, auth_type), id).await;
    }
    store(&service, "basic", "basic", json!({"username": "a", "password": MARK})).await;
    store(&service, "plain", "oauth2", json!({"access_token": MARK, "refresh_token": MARK})).await;
    for (id, body, status, code) in [
        ("basic", "", 409, "CONFLICT"),
        ("basic", " null", 409, "CONFLICT"),
        ("plain", "", 409, "CONFLICT"),
        ("empty", "", 404, "NOT_FOUND"),
        ("nobody", "", 404, "INSTANCE_NOT_FOUND"),
        ("crm", "[]", 400, "VALIDATION_ERROR"),
        ("crm", "{\"retry\": true}", 400, "VALIDATION_ERROR"),
        ("crm", "{\"retryInterrupted\": 1}", 400, "VALIDATION_ERROR"),
        ("crm", "{", 400, "MALFORMED_BODY"),
    ] {
        let answer = refresh(&service, id, body).await;
        crate::client::assert_problem(&answer, status, code);
    }
    let path = format!("{}/refresh", credentials("crm"));
    let text = service.send(crate::client::post(&path).header("content-type", "text/plain"), "x").await;
    crate::client::assert_problem(&text, 415, "UNSUPPORTED_MEDIA_TYPE");
    let other = service.send_as("another", "POST", &path, &json!({})).await;
    crate::client::assert_problem(&other, 404, "INSTANCE_NOT_FOUND");
    assert!(service.upstream.received().is_empty(), "nothing was asked of the system");
}
