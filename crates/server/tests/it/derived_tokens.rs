//! Credentials that are exchanged for a token: signed assertions, and logins that give a session.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::client::{assert_problem, pointers};
use crate::oauth::{ACCESS, SECRET, form, path, status};
use crate::service::{Received, TestService, definition, json_response};

/// A service with an instance of a definition and its credential; `UPSTREAM` in both stands for
/// the URL of the upstream.
async fn service_with_login(definition: Value, credential: &Value) -> TestService {
    let service = TestService::start().await;
    service.instance_of(&at_upstream(&service, &definition), "mine").await;
    let stored = service.post(&path("/credentials"), &at_upstream(&service, credential)).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
    service
}

fn at_upstream(service: &TestService, document: &Value) -> Value {
    serde_json::from_str(&document.to_string().replace("UPSTREAM", &service.upstream.url())).unwrap()
}

/// A definition whose calls carry the token that a signed assertion is exchanged for.
fn with_assertions() -> Value {
    let mut document = definition("jwt", &json!({}));
    document["authType"] = json!("jwt");
    document["testMethod"] = json!("call");
    document
}

/// A key of its own, whose assertions say who issued them.
fn signing_key(issuer: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    json!({"type": "jwt", "data": {
        "privateKey": key, "algorithm": "ES256", "issuer": issuer, "audience": "you", "tokenUrl": "UPSTREAM/login",
    }})
}

/// A definition whose calls carry the session of a login; `carrier` says where.
fn with_sessions(carrier: &Value) -> Value {
    let mut document = definition("custom", &json!({}));
    document["authType"] = json!("custom");
    document["testMethod"] = json!("call");
    let mut token = json!({
        "url": "{config.baseUrl}/login?v=2", "headers": {"X-App": "app"}, "body": {"user": "name", "pass": "password"},
        "constants": {"body": {"grant": "password"}}, "response": {"accessToken": "/session/id"},
    });
    token.as_object_mut().unwrap().extend(carrier.as_object().unwrap().clone());
    document["customAuth"] = json!({"headers": {"X-App": "app"}, "token": token});
    document
}

/// Answers logins with tokens that count, and calls with what they carry.
fn count_logins(service: &TestService) {
    let logins = std::sync::atomic::AtomicU32::new(0);
    service.upstream.always(move |request| {
        if request.path_and_query.starts_with("/login") {
            let number = logins.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let token = format!("{ACCESS}-{number}");
            return json_response(200, &json!({"access_token": token, "session": {"id": token}, "expires_in": 3600}));
        }
        let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        let seen = json!({
            "path": request.path_and_query, "authorization": header("authorization"), "app": header("x-app"),
        });
        json_response(200, &seen)
    });
}

fn logins(service: &TestService) -> Vec<Received> {
    service.upstream.received().into_iter().filter(|request| request.path_and_query.starts_with("/login")).collect()
}

#[tokio::test]
async fn a_signed_assertion_is_exchanged_once_for_many_calls() {
    let credential = signing_key("me");
    let service = service_with_login(with_assertions(), &credential).await;
    count_logins(&service);
    let params = json!({});
    let calls = (0..8).map(|_| service.execute("mine", "call", &params));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.json()["data"]["authorization"], format!("Bearer {ACCESS}-1"), "{}", answer.json());
    }
    let asked = logins(&service);
    assert_eq!(asked.len(), 1);
    let fields = form(&asked[0]);
    assert_eq!(fields["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let claims = fields["assertion"].split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("me"), &json!("you")));
    // What would be sent is shown without asking for anything.
    let shown = service.post("/execute/mine/call?dryRun=true", &json!({"params": {}})).await.json();
    assert!(shown.to_string().contains("[redacted]") && !shown.to_string().contains(ACCESS), "{shown}");

    // Stored anew, it has no token yet, and is told that it gets none.
    let credential = at_upstream(&service, &credential);
    assert_eq!(service.post(&path("/credentials"), &credential).await.status, 201);
    service.upstream.always(|_| json_response(503, &json!({"error": "server_error"})));
    let failed = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(
        (&failed["error"]["code"], &failed["error"]["retryable"]),
        (&json!("UPSTREAM_ERROR"), &json!(true)),
        "{failed}"
    );
    assert_eq!(status(&service).await, "CONNECTED", "a passing failure says nothing of the key");
    service.upstream.always(|_| json_response(400, &json!({"error": "invalid_grant"})));
    let refused = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(refused["error"]["code"], "AUTH_ERROR", "{refused}");
    assert_eq!(status(&service).await, "AUTH_ERROR");
}

#[tokio::test]
async fn a_login_gives_a_token_and_a_refused_one_is_asked_for_again() {
    let credential = json!({"type": "custom", "data": {"app": "the app", "name": "ann", "password": SECRET}});
    let service = service_with_login(with_sessions(&json!({})), &credential).await;
    count_logins(&service);
    let executed = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(executed["data"]["authorization"], format!("Bearer {ACCESS}-1"), "{executed}");
    assert_eq!(executed["data"]["app"], "the app");
    service.execute("mine", "call", &json!({})).await;
    let asked = logins(&service);
    assert_eq!(asked.len(), 1);
    let body: Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!(body, json!({"grant": "password", "pass": SECRET, "user": "ann"}));
    assert_eq!(
        (asked[0].path_and_query.as_str(), &asked[0].headers["x-app"]),
        ("/login?v=2", &"the app".parse().unwrap())
    );

    // The system forgets the session: one call, one more login, no error.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    service.upstream.then(json_response(401, &json!({"error": "session gone"})));
    let executed = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(executed["data"]["authorization"], format!("Bearer {ACCESS}-2"), "{executed}");
    assert_eq!((logins(&service).len(), status(&service).await.as_str()), (2, "CONNECTED"));

    // In a query parameter, by a form, with a login that is refused.
    let query = json!({"query": "sid", "encoding": "form"});
    let service = service_with_login(with_sessions(&query), &credential).await;
    count_logins(&service);
    let executed = service.execute("mine", "call", &json!({})).await.json();
    assert_eq!(executed["data"]["path"], format!("/thing?sid={ACCESS}-1"), "{executed}");
    assert_eq!(form(&logins(&service)[0])["pass"], SECRET);
    // Stored anew, it has no token yet.
    assert_eq!(service.post(&path("/credentials"), &credential).await.status, 201);
    service.upstream.always(|_| json_response(403, &json!({"message": format!("{SECRET} is wrong")})));
    let refused = service.execute("mine", "call", &json!({})).await;
    assert_eq!(refused.json()["error"]["code"], "AUTH_ERROR", "{}", refused.json());
    assert!(!refused.json().to_string().contains(SECRET));
    assert_eq!(status(&service).await, "AUTH_ERROR");

    let lacking = json!({"type": "custom", "data": {"app": "x", "name": "ann"}});
    let answer = service.post(&path("/credentials"), &lacking).await;
    assert_eq!(pointers(&answer), ["/data/password"]);
}

#[tokio::test]
async fn a_new_login_takes_the_old_one_s_place_where_it_gives_a_token_that_is_taken() {
    let login = |name: &str| json!({"type": "custom", "data": {"app": "the app", "name": name, "password": SECRET}});
    let sessions = service_with_login(with_sessions(&json!({})), &login("ann")).await;
    let assertions = service_with_login(with_assertions(), &signing_key("ann")).await;
    for (service, [accepted, refused]) in
        [(sessions, [login("bob"), login("eve")]), (assertions, [signing_key("bob"), signing_key("eve")])]
    {
        // Logins of eve are refused; those of bob give a token that calls are taken with.
        service.upstream.always(|request| {
            let sent = String::from_utf8_lossy(&request.body).into_owned();
            let claims = sent.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
            let sent = claims.map_or(sent, |claims| String::from_utf8(claims).unwrap());
            match request.path_and_query.starts_with("/login") {
                true if sent.contains("eve") => json_response(400, &json!({"error": "invalid_grant"})),
                true => json_response(200, &json!({"access_token": ACCESS, "session": {"id": ACCESS}})),
                false => {
                    let taken = request.headers["authorization"] == format!("Bearer {ACCESS}");
                    json_response(if taken { 200 } else { 401 }, &json!({}))
                }
            }
        });
        let answer = service.post(&path("/credentials/rotate"), &at_upstream(&service, &refused)).await;
        assert_problem(&answer, 502, "AUTH_ERROR");
        assert!(!answer.json().to_string().contains(SECRET), "{}", answer.json());
        let kept = service.get(&path("/credentials/status")).await.json();
        assert_eq!(kept["useCount"], 0, "the old one stays: {kept}");
        let answer = service.post(&path("/credentials/rotate"), &at_upstream(&service, &accepted)).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        let report = answer.json();
        assert_eq!((&report["stored"], &report["test"]["healthy"]), (&json!(true), &json!(true)), "{report}");
        assert_eq!(service.execute("mine", "call", &json!({})).await.status, 200);
        assert!(!logins(&service).is_empty());
    }
}
