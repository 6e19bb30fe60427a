//! Secrets that come and go by flows: codes, verifiers, tokens and client secrets of OAuth,
//! logins and their sessions, and the key of a client's certificate.

use std::collections::BTreeMap;

use http::Request;
use serde_json::{Value, json};

use super::search::contains;
use super::{Run, definition_of, pem_body, secret};
use crate::service::{Received, Upstream, json_request, json_response};

fn form(request: &Received) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

fn instance(id: &str) -> String {
    format!("/api/v1/integration-instances/{id}")
}

async fn publish(run: &mut Run, document: &Value, base_url: &str) {
    let created = run.post("/api/v1/integration-definitions?publish=true", document).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let id = &document["id"];
    let body = json!({"id": id, "integrationDefinitionId": id, "name": id, "config": {"baseUrl": base_url}});
    let created = run.post("/api/v1/integration-instances", &body).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

/// Answers a token request well, with one more token each time.
fn tokens(access: &'static str, refresh: &'static str) -> impl Fn(&Received) -> axum::response::Response + Send {
    move |_| json_response(200, &json!({"access_token": access, "refresh_token": refresh, "expires_in": 3600}))
}

/// Refuses, and says back all that it was sent.
fn refuse_with_echo(status: u16) -> impl Fn(&Received) -> axum::response::Response + Send {
    move |request| {
        let sent = String::from_utf8_lossy(&request.body).into_owned();
        let authorization = request.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let description = format!("{sent} {authorization:?}");
        json_response(status, &json!({"error": "invalid_request", "error_description": description, "echo": sent}))
    }
}

/// A person's connection, well and badly, and the refreshes after it. Gives what the service made
/// up itself: the verifiers.
async fn connect(run: &mut Run, upstream: &Upstream) -> Vec<(String, Vec<u8>)> {
    let server = Upstream::start().await;
    let mut document = definition_of("flow", "oauth2");
    document["oauth2Config"] = json!({
        "authorizationUrl": format!("{}/authorize", server.url()), "tokenUrl": format!("{}/token", server.url()),
        "revocationUrl": format!("{}/revoke", server.url()), "clientId": "us",
        "clientSecret": secret("client secret in use"), "tokenEndpointAuthMethod": "client_secret_post",
    });
    publish(run, &document, &upstream.url()).await;
    let mut verifiers = Vec::new();
    for (status, wanted) in [(500, 502), (400, 502), (200, 200)] {
        let begun =
            run.service.send(json_request("POST", &format!("{}/oauth/authorize", instance("flow"))), "{}").await;
        assert_eq!(begun.status, 200, "{}", begun.json());
        // The state is for whoever asked, and good once: it is used up here.
        let state = begun.json()["state"].as_str().unwrap().to_owned();
        if status == 200 {
            server.always(tokens(secret("access token of a flow"), secret("refresh token of a flow")));
        } else {
            server.always(refuse_with_echo(status));
        }
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("code", secret("authorization code")), ("state", &state)])
            .finish();
        let path = format!("/api/v1/oauth/callback?{query}");
        let page = run.send("the callback", Request::get(path).header("host", "test"), "").await;
        assert_eq!(page.status == 200, wanted == 200, "{}: {}", page.status, String::from_utf8_lossy(&page.body));
        let sent = form(server.received().last().unwrap());
        assert_eq!(sent["client_secret"], secret("client secret in use"));
        verifiers.push((format!("verifier {status}"), sent["code_verifier"].clone().into_bytes()));
    }
    upstream.always(|_| json_response(200, &json!({"ok": true})));
    assert_eq!(run.execute("flow", &json!({})).await.status, 200);
    for (status, wanted) in [(503, 502), (200, 200), (400, 502)] {
        if status == 200 {
            server.always(tokens(secret("renewed access token"), secret("renewed refresh token")));
        } else {
            server.always(refuse_with_echo(status));
        }
        let refreshed = run.post(&format!("{}/credentials/refresh", instance("flow")), &json!({})).await;
        assert_eq!(refreshed.status == 200, wanted == 200, "{}", refreshed.json());
        if status == 200 {
            upstream.always(move |request| super::echo(404, request));
            assert_ne!(run.execute("flow", &json!({})).await.status, 200);
        }
    }
    upstream.always(move |request| super::echo(401, request));
    run.execute("flow", &json!({})).await;
    server.always(refuse_with_echo(500));
    run.post(&format!("{}/disconnect", instance("flow")), &json!({})).await;
    let told: Vec<u8> = server.received().iter().flat_map(|request| request.body.clone()).collect();
    for sent in ["authorization code", "refresh token of a flow", "renewed refresh token", "client secret in use"] {
        assert!(contains(&told, secret(sent).as_bytes()), "{sent} was not used: the search would prove nothing");
    }
    verifiers
}

/// A login that gives a session, and is refused.
async fn log_in(run: &mut Run, upstream: &Upstream) {
    let server = Upstream::start().await;
    let mut document = definition_of("login", "custom");
    document["customAuth"] = json!({"token": {
        "url": format!("{}/login", server.url()), "body": {"user": "name", "pass": "password"},
        "response": {"accessToken": "/session"},
    }});
    publish(run, &document, &upstream.url()).await;
    let credential = json!({"type": "custom", "data": {"name": "ann", "password": secret("password of a login")}});
    for status in [500, 403, 200] {
        // Stored anew, it has no session.
        let stored = run.post(&format!("{}/credentials", instance("login")), &credential).await;
        assert_eq!(stored.status, 201, "{}", stored.json());
        if status == 200 {
            server.always(|_| json_response(200, &json!({"session": secret("session of a login")})));
        } else {
            server.always(refuse_with_echo(status));
        }
        upstream.always(|_| json_response(200, &json!({"ok": true})));
        assert_eq!(run.execute("login", &json!({})).await.status == 200, status == 200);
    }
    for status in [404, 500] {
        upstream.always(move |request| super::echo(status, request));
        assert_ne!(run.execute("login", &json!({})).await.status, 200);
    }
    let told: Vec<u8> = server.received().iter().flat_map(|request| request.body.clone()).collect();
    assert!(contains(&told, secret("password of a login").as_bytes()));
    let used = upstream.received().iter().any(|request| {
        request.headers.get("authorization").is_some_and(|value| contains(value.as_bytes(), b"MarkSession"))
    });
    assert!(used, "the session went with a call");
}

/// A client's certificate, shown to a system that speaks no TLS, and one that does not fit.
async fn show_certificate(run: &mut Run, upstream: &Upstream) -> (String, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["us".to_owned()]).unwrap().self_signed(&key).unwrap();
    let private_key = key.serialize_pem();
    let mut document = definition_of("certificate", "basic");
    document["id"] = json!("certificate");
    publish(run, &document, &upstream.url().replace("http://", "https://")).await;
    let credential = |certificate: &str| {
        json!({"type": "basic", "data": {"username": "ann", "password": secret("basic password"),
            "clientCertificate": {"certificate": certificate, "privateKey": private_key}}})
    };
    let path = format!("{}/credentials", instance("certificate"));
    assert_eq!(run.post(&path, &credential("no certificate")).await.status, 400);
    let stored = run.post(&path, &credential(&certificate.pem())).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
    assert_ne!(run.execute("certificate", &json!({})).await.status, 200);
    run.post("/execute/certificate/call?dryRun=true", &json!({"params": {}})).await;
    ("key of a client's certificate".to_owned(), pem_body(&private_key))
}

/// Runs all of them; gives the secrets that have no place in the list.
pub(super) async fn run_all(run: &mut Run, upstream: &Upstream) -> Vec<(String, Vec<u8>)> {
    let mut secrets = connect(run, upstream).await;
    log_in(run, upstream).await;
    secrets.push(show_certificate(run, upstream).await);
    secrets
}
