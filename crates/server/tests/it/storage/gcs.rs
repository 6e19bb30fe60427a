//! Google Cloud Storage, against a server that checks what Google documents: tokens that
//! service accounts sign for themselves, signed URLs, generations.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::verifying::VerifyingServer;
use super::{data, failure, instance, tested};
use crate::service::TestService;

const EMAIL: &str = "app@project.iam.gserviceaccount.com";

/// A service with an instance on the test's upstream, and the public key of its account.
async fn service() -> (TestService, Vec<u8>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let service = TestService::start().await;
    let config = json!({"provider": "gcs", "bucket": "files", "endpoint": service.upstream.url()});
    // As the file of a service account's key has it.
    let credential = json!({
        "type": "service_account", "project_id": "project", "private_key_id": "kid", "private_key": key.serialize_pem(),
        "client_email": EMAIL, "token_uri": "https://oauth2.googleapis.com/token",
    });
    instance(&service, "custom", config, Some(credential)).await;
    service.upstream.always(|seen| {
        let bucket = seen.path_and_query.starts_with("/files?");
        let body = if bucket { "<ListBucketResult></ListBucketResult>" } else { "content" };
        Response::builder()
            .status(200)
            .header("x-goog-generation", "17")
            .header("x-goog-meta-author", "Ann")
            .body(Body::from(body))
            .unwrap()
    });
    (service, rcgen::PublicKeyData::subject_public_key_info(&key))
}

/// The same on a server that keeps objects: it speaks the protocol of S3, of which Google's is
/// a dialect, and takes what the account's key signed.
pub(super) async fn service_on_server() -> (TestService, VerifyingServer) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let public_key = rcgen::PublicKeyData::subject_public_key_info(&key);
    let translate = move |mut request: http::Request<hyper::body::Incoming>| {
        let token = request.headers_mut().remove("authorization").expect("a token");
        let token = token.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        verify(&public_key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap());
        let own: Vec<_> =
            request.headers().keys().filter(|name| name.as_str().starts_with("x-goog-")).cloned().collect();
        for name in own {
            let value = request.headers_mut().remove(&name).unwrap();
            let name = name.as_str().replace("x-goog-", "x-amz-");
            request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value);
        }
        request
    };
    let server = VerifyingServer::start_with(|_| {}, translate).await;
    let service = TestService::start().await;
    let config = json!({"provider": "gcs", "bucket": "files", "endpoint": server.url, "prefix": "app/"});
    let credential = json!({"client_email": EMAIL, "private_key": key.serialize_pem()});
    instance(&service, "custom", config, Some(credential)).await;
    (service, server)
}

fn verify(public_key: &[u8], text: &[u8], signature: &[u8]) {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key).verify(text, signature).unwrap();
}

#[tokio::test]
async fn a_service_account_signs_for_itself() {
    let (service, public_key) = service().await;
    let (healthy, said) = tested(&service).await;
    assert!(healthy, "{said}");
    let got = data(&service, "get", json!({"key": "a"})).await;
    assert_eq!((&got["version"], &got["metadata"]), (&json!("17"), &json!({"author": "Ann"})));
    let seen = service.upstream.received();
    assert_eq!(seen[0].path_and_query, "/files?encoding-type=url&list-type=2&max-keys=1");
    let token = seen[1].headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    verify(&public_key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap());
    let part = |at: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split('.').nth(at).unwrap()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "RS256", "kid": "kid", "typ": "JWT"}));
    assert_eq!((&part(1)["iss"], &part(1)["aud"]), (&json!(EMAIL), &json!("https://storage.googleapis.com/")));
}

#[tokio::test]
async fn a_signed_url_is_as_google_documents_it() {
    let (service, public_key) = service().await;
    let link = data(&service, "linkToGet", json!({"key": "a b"})).await;
    let host = service.upstream.url().strip_prefix("http://").unwrap().to_owned();
    let target = link["url"].as_str().unwrap().split_once(&host).unwrap().1;
    let (path, query) = target.split_once('?').unwrap();
    let pairs: Vec<&str> = query.split('&').collect();
    let value = |name: &str| pairs.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap();
    let signed: Vec<&str> = pairs.iter().copied().filter(|pair| !pair.starts_with("X-Goog-Signature=")).collect();
    let canonical = format!("GET\n{path}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", signed.join("&"));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let time = value("X-Goog-Date");
    let scope = format!("{}/auto/storage/goog4_request", &time[..8]);
    let text = format!("GOOG4-RSA-SHA256\n{time}\n{scope}\n{}", hex(digest(&SHA256, canonical.as_bytes()).as_ref()));
    let signature = value("X-Goog-Signature");
    let signature: Vec<u8> =
        (0..signature.len()).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap()).collect();
    verify(&public_key, text.as_bytes(), &signature);
    assert_eq!(value("X-Goog-Credential"), format!("{}%2F{}", EMAIL.replace('@', "%40"), scope.replace('/', "%2F")));
    assert_eq!((path, value("X-Goog-Expires")), ("/files/a%20b", "60"));
}

#[tokio::test]
async fn writes_are_guarded_by_generations() {
    let (service, _) = service().await;
    data(&service, "putNew", json!({"key": "a", "content": 1})).await;
    data(&service, "putOver", json!({"key": "a", "content": "x", "etag": "17"})).await;
    let error = failure(&service, "putOver", json!({"key": "a", "content": "x", "etag": "an etag"})).await;
    assert_eq!(error["code"], "VALIDATION_ERROR", "{error}");
    let seen = service.upstream.received();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers["x-goog-if-generation-match"], "0");
    assert_eq!(seen[1].headers["x-goog-if-generation-match"], "17");
}
