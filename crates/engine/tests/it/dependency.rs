//! Calls to the services that this one depends on: tries, the breaker, TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use integration_engine::dependency::{
    DependencySettings, HttpCredentialStore, TokenSource, TransitKeyService, TransitSettings,
};
use integration_store::{KeyService, SecretStore, ServiceError};
use secrecy::SecretString;

use crate::http_client::Pki;
use crate::upstream::{Reply, Seen, Upstream};

const TOKEN: &str = "token-that-stays-here";

fn settings(address: &str) -> DependencySettings {
    DependencySettings {
        address: address.parse().expect("a URL"),
        token: Some(TokenSource::Given(SecretString::from(TOKEN))),
        ca_file: None,
        client_certificate: None,
        timeout: Duration::from_secs(2),
        shards: 1,
    }
}

fn credential_store(settings: DependencySettings) -> HttpCredentialStore {
    HttpCredentialStore::new(settings).expect("a client")
}

fn transit(settings: DependencySettings) -> TransitKeyService {
    let key = TransitSettings { mount: "transit".to_owned(), key: "k".to_owned(), namespace: None };
    TransitKeyService::new(settings, key).expect("a client")
}

fn reply(status: u16, body: impl Into<bytes::Bytes>) -> Reply {
    http::Response::builder().status(status).body(http_body_util::Full::new(body.into())).expect("a response")
}

fn found(_: &Seen) -> Reply {
    reply(200, r#"{"id":"x","ciphertext":"c2VhbGVk"}"#)
}

#[tokio::test]
async fn a_call_is_tried_six_times_and_after_three_such_calls_none_is_made() {
    let upstream = Upstream::start(|_| reply(503, "")).await;
    let store = credential_store(settings(&format!("http://{}/base/", upstream.address)));
    // At once, for each takes its time.
    let calls = tokio::join!(store.get("a"), store.get("b"), store.get("c"));
    for failed in [calls.0, calls.1, calls.2] {
        assert!(failed.expect_err("503").is_unavailable());
    }
    let seen = upstream.seen();
    assert_eq!(seen.iter().filter(|seen| seen.target == "/base/credentials/a").count(), 6);
    assert_eq!(seen.len(), 18);
    let error = store.get("d").await.expect_err("kept back");
    assert!(error.to_string().contains("left alone"), "{error}");
    assert_eq!(upstream.seen().len(), 18);
}

#[tokio::test]
async fn a_call_succeeds_where_one_of_its_tries_does() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen| match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => reply(429, ""),
        1 => reply(502, "<html>"),
        _ => found(seen),
    })
    .await;
    let store = credential_store(settings(&format!("http://{}", upstream.address)));
    assert_eq!(store.get("a/../b?c").await.expect("found"), b"sealed");
    let seen = upstream.seen();
    assert_eq!((seen.len(), seen[0].target.as_str()), (3, "/credentials/a%2F..%2Fb%3Fc"));
    assert_eq!(seen[0].header("authorization"), Some("Bearer token-that-stays-here"));
}

#[tokio::test]
async fn a_definite_answer_is_not_asked_for_again_and_tells_no_token() {
    for (status, body, expected) in [
        (400, format!(r#"{{"errors":["bad {TOKEN}","second"]}}"#), "400 Bad Request: bad [redacted]; second"),
        (403, format!("no\u{7}\nfor {TOKEN}{}", "x".repeat(10_000)), "403 Forbidden: no  for [redacted]xxx"),
        (404, "{}".to_owned(), "there is no transit engine"),
    ] {
        let upstream = Upstream::start(move |_| reply(status, body.clone())).await;
        let error = transit(settings(&format!("http://{}", upstream.address))).wrap(b"key", b"context").await;
        let error = error.expect_err("refused");
        let text = error.to_string();
        assert!(matches!(error, ServiceError::Refused(_)) && text.contains(expected), "{text}");
        assert!(!text.contains(TOKEN) && text.len() < 500, "{text}");
        assert_eq!(upstream.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Upstream::start(found).await;
    let location = format!("http://{}/", other.address);
    let upstream = Upstream::start(move |_| {
        let mut reply = reply(307, "");
        reply.headers_mut().insert("location", location.parse().expect("a header"));
        reply
    })
    .await;
    let store = credential_store(settings(&format!("http://{}", upstream.address)));
    let error = store.get("a").await.expect_err("a redirect");
    assert!(error.to_string().contains("answered with a redirect"), "{error}");
    assert_eq!((upstream.seen().len(), other.seen().len()), (1, 0));
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let upstream = Upstream::start(|_| reply(200, vec![b' '; 9 << 20])).await;
    let settings =
        DependencySettings { timeout: Duration::from_secs(20), ..settings(&format!("http://{}", upstream.address)) };
    let error = transit(settings).rewrap(&[]).await;
    assert_eq!(error.expect("nothing to do"), []);
    let store = credential_store(self::settings(&format!("http://{}", upstream.address)));
    let error = store.delete("a").await.expect_err("too large");
    assert!(error.is_unavailable() && error.to_string().contains("larger than"), "{error}");
}

/// Writes PEM texts into files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }
}

#[tokio::test]
async fn tls_is_verified_and_a_certificate_is_shown() {
    let (pki, files) = (Pki::new(), Files::new());
    let upstream = Upstream::start_tls(pki.server_config(true, &["h2", "http/1.1"]), found).await;
    let address = format!("https://{}", upstream.address);
    let ca_file = Some(files.write("ca.pem", pki.authority_pem()));
    let client_certificate = Some((files.write("client.pem", &pki.client.0), files.write("client.key", &pki.client.1)));
    let whole = DependencySettings { ca_file: ca_file.clone(), client_certificate, ..settings(&address) };
    assert_eq!(credential_store(whole).get("a").await.expect("found"), b"sealed");
    let stranger = DependencySettings { ca_file: ca_file.clone(), ..settings(&address) };
    // One try each is enough: deleting is not repeated.
    assert!(credential_store(stranger).delete("a").await.expect_err("no certificate").is_unavailable());
    let error = credential_store(settings(&address)).delete("a").await.expect_err("an unknown authority");
    assert!(error.to_string().contains("no TLS session"), "{error}");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn files_that_do_not_fit_are_told_by_name() {
    let (pki, files) = (Pki::new(), Files::new());
    let (certificate, key) = (files.write("client.pem", &pki.client.0), files.write("client.key", &pki.client.1));
    let no_pem = files.write("no.pem", "hello");
    let address = "https://store.example";
    for (ca_file, client_certificate, expected) in [
        (Some(no_pem.clone()), None, "no.pem: expected one or more certificates of authorities"),
        (Some(files.0.path().join("missing")), None, "missing cannot be read"),
        (None, Some((no_pem.clone(), key.clone())), "no.pem: expected one or more certificates"),
        (None, Some((certificate.clone(), no_pem)), "no.pem: expected a private key"),
        (None, Some((key, certificate)), "client.key: expected one or more certificates"),
    ] {
        let settings = DependencySettings { ca_file, client_certificate, ..settings(address) };
        let error = HttpCredentialStore::new(settings).map(drop).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn answers_that_are_none_are_told_as_such() {
    for body in [
        "",
        "<html>",
        r#"{"data":{}}"#,
        r#"{"data":{"ciphertext":"plain"}}"#,
        r#"{"data":{"ciphertext":"vault:vX:y"}}"#,
    ] {
        let upstream = Upstream::start(move |_| reply(200, body)).await;
        let service: Arc<dyn KeyService> = Arc::new(transit(settings(&format!("http://{}", upstream.address))));
        let error = service.wrap(b"key", b"context").await.expect_err(body);
        assert!(error.is_unavailable(), "{body}: {error}");
    }
}
