//! Signed answers: what is taken, and what is not. The messages are those that the adapter itself
//! signs, sent back to it; another implementation signs them in the tests of the service.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use integration_engine::adapter::soap::SoapAdapter;
use integration_engine::adapter::{Adapter, Call, CallError, Connection, Effect};
use integration_engine::credential::{AuthWants, Credential};
use integration_engine::http_client::HttpClient;
use integration_engine::params::Params;
use integration_model::definition::{AuthType, DefinitionSpec};
use integration_model::{ErrorCode, Timestamp};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http_client::loopback_client;
use crate::upstream::{Upstream, reply};

const NOW: &str = "2026-01-31T10:30:00Z";
const DATA: &str = r#"{"amount":"100.50","to":"Bob"}"#;

struct Identity {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Identity {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key");
        let certificate = Self::params().self_signed(&key).expect("a certificate");
        Self { certificate, key }
    }

    fn params() -> rcgen::CertificateParams {
        let mut params = rcgen::CertificateParams::new(vec!["bank.test".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params
    }

    fn credential(&self) -> Credential {
        let data = json!({"username": "teller", "password": "s3cret!", "clientCertificate": {
            "certificate": self.certificate.pem(), "privateKey": self.key.serialize_pem()}});
        Credential::parse(AuthType::Basic, &data, AuthWants::default(), Timestamp::EPOCH).expect("a credential").0
    }
}

/// What the upstream answers.
type Answers = Arc<Mutex<(u16, String)>>;

struct Bank {
    adapter: SoapAdapter,
    http: HttpClient,
    upstream: Upstream,
    answers: Answers,
    credential: Credential,
    response: Value,
    /// When answers are read.
    now: &'static str,
}

impl Bank {
    /// A client that takes answers by these certificates.
    async fn new(identity: &Identity, certificates: &str) -> Self {
        let answers: Answers = Arc::default();
        let given = Arc::clone(&answers);
        let upstream = Upstream::start(move |_| {
            let (status, text) = given.lock().expect("no panic").clone();
            reply(status, &[("content-type", "text/xml")], text)
        })
        .await;
        let response = json!({"certificates": certificates});
        Self {
            adapter: SoapAdapter::new(),
            http: loopback_client(),
            upstream,
            answers,
            credential: identity.credential(),
            response,
            now: NOW,
        }
    }

    async fn call(&self, security: Value, now: &str) -> Result<String, CallError> {
        let definition = DefinitionSpec::from_json(json!({
            "id": "d", "name": "D", "version": "1.0.0", "type": "soap", "authType": "basic",
            "methods": [{"name": "m", "operation": {
                "namespace": "urn:bank",
                "request": {"name": "Pay", "type": {"children": [{"name": "amount", "type": "xs:string"}, {"name": "to"}]}},
                "response": {"name": "Pay", "type": {"children": [{"name": "amount", "type": "xs:string"}, {"name": "to"}]}},
            }}],
        }))
        .expect("a definition");
        let operation = self.adapter.compile(&definition, &definition.methods[0]).expect("an operation");
        let params = Params::from_json(Bytes::from_static(DATA.as_bytes())).expect("params");
        let instance = "i".parse().expect("an id");
        let config = json!({"baseUrl": self.upstream.url("/"), "security": security});
        let config: Map<_, _> = config.as_object().cloned().expect("an object");
        assert_eq!(self.adapter.check_config(&config), []);
        let connection = Connection {
            instance: &instance,
            config: &config.into(),
            credential: &self.credential,
            custom_auth: None,
            http: &self.http,
            deadline: Instant::now() + Duration::from_secs(30),
            now: Timestamp::parse(now).expect("a time"),
        };
        let call = Call { connection, params: &params, idempotency_key: "k", traceparent: None, page: None };
        let answer = operation.call(call).await?;
        Ok(std::str::from_utf8(answer.data.text()).expect("text").to_owned())
    }

    /// A message as the adapter signs it.
    async fn signed(&self) -> String {
        *self.answers.lock().expect("no panic") = (200, String::new());
        let security = json!({"timestamp": {}, "signature": {}});
        let _ = self.call(security, NOW).await;
        self.upstream.seen().last().expect("a request").body_text().to_owned()
    }

    /// What becomes of an answer.
    async fn read(&self, status: u16, text: impl Into<String>) -> Result<String, CallError> {
        *self.answers.lock().expect("no panic") = (status, text.into());
        self.call(json!({"response": self.response}), self.now).await
    }

    #[track_caller]
    fn refused(outcome: Result<String, CallError>, reason: &str) {
        let error = outcome.expect_err(reason);
        assert!(error.message.contains("is not accepted") && error.message.contains(reason), "{reason}: {error:?}");
        assert_eq!((error.code, error.retryable, error.effect), (ErrorCode::Upstream, false, Effect::Unknown));
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.find(start).expect("the start");
    let to = text[from..].find(end).expect("the end") + from + end.len();
    &text[from..to]
}

#[tokio::test]
async fn what_a_named_certificate_signed_is_read() {
    let identity = Identity::new();
    let bank = Bank::new(&identity, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    assert_eq!(bank.read(200, &text).await.expect("an answer"), DATA);
    // The certificate need not come along.
    let token = between(&text, "<wsse:BinarySecurityToken", "</wsse:BinarySecurityToken>");
    assert_eq!(bank.read(200, text.replace(token, "")).await.expect("an answer"), DATA);
    // Comments, and how the XML is written, are nobody's concern.
    let other = text.replace("<n1:to>", "<n1:to\n>").replace("Bob", "B<![CDATA[o]]><!-- x -->&#98;");
    assert_eq!(bank.read(200, other).await.expect("an answer"), DATA);
    let marked = format!("\u{feff}<?xml version=\"1.0\"?>\n{}\n", text.split_once("?>").expect("a declaration").1);
    assert_eq!(bank.read(200, marked).await.expect("an answer"), DATA);
}

#[tokio::test]
async fn certificates_by_a_named_authority_sign_within_their_time() {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![]).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    let authority = params.self_signed(&authority_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let own = Identity::new();
    let certificate = Identity::params().signed_by(&own.key, &issuer).expect("a certificate");
    let identity = Identity { certificate, key: own.key };

    let mut bank = Bank::new(&identity, &authority.pem()).await;
    let text = bank.signed().await;
    assert_eq!(bank.read(200, &text).await.expect("an answer"), DATA);
    bank.now = "2028-01-31T10:30:00Z";
    Bank::refused(bank.read(200, &text).await, "its certificate has expired");

    // Another of its certificates does not speak for it, nor one by it for others.
    let other = Identity::new();
    let bank = Bank::new(&other, &authority.pem()).await;
    let text = bank.signed().await;
    Bank::refused(bank.read(200, text).await, "not among those of security.response");
    let bank = Bank::new(&other, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    Bank::refused(bank.read(200, text).await, "not among those of security.response");
}

#[tokio::test]
async fn what_is_not_signed_or_was_changed_is_refused() {
    let identity = Identity::new();
    let mut bank = Bank::new(&identity, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    let security = between(&text, "<soap:Header>", "</soap:Header>");
    let signature = between(&text, "<ds:Signature ", "</ds:Signature>");
    let timestamp = between(&text, "<wsu:Timestamp", "</wsu:Timestamp>");
    let reference = between(&text, "<ds:Reference URI=\"#timestamp\"", "</ds:Reference>");
    for (changed, reason) in [
        (text.replace(security, ""), "no Header"),
        (text.replace(signature, ""), "no Signature"),
        (text.replace(timestamp, ""), "no Timestamp"),
        (text.replace(signature, &signature.repeat(2)), "more than one Signature"),
        (text.replace("Bob", "Eve"), "its Body is not what was signed"),
        (text.replace("<n1:to>", "<n1:to x=\"1\">"), "its Body is not what was signed"),
        (text.replace("10:35:00Z", "11:35:00Z"), "its Timestamp is not what was signed"),
        (text.replace(reference, ""), "does not fit"),
        (text.replace("rsa-sha256", "hmac-sha256"), "hmac-sha256, which is not taken"),
        (text.replace("rsa-sha256", "rsa-sha1"), "rsa-sha1, which is not taken"),
        (text.replace("xmldsig-more#rsa-sha256", "xmldsig-more#ecdsa-sha256"), "does not fit"),
    ] {
        assert_ne!(changed, text, "{reason}");
        Bank::refused(bank.read(200, changed).await, reason);
    }
    // A fault that nobody signed is told as such.
    let fault = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>too late</faultstring></s:Fault></s:Body></s:Envelope>"#;
    Bank::refused(bank.read(500, fault).await, "it says that it is a fault Client: too late");
    assert!(bank.read(202, "").await.is_err(), "an answer that says nothing");
    for (now, reason) in [("2026-01-31T10:36:01Z", "has expired"), ("2026-01-31T10:28:59Z", "is in the future")] {
        bank.now = now;
        Bank::refused(bank.read(200, &text).await, reason);
    }
    bank.response["maxAgeSeconds"] = 10.into();
    bank.now = "2026-01-31T10:31:30Z";
    Bank::refused(bank.read(200, &text).await, "has expired");
    bank.response["timestamp"] = false.into();
    assert_eq!(bank.read(200, &text).await.expect("an answer"), DATA);
}

/// The signed Body stays in the document, and another stands where Bodies are read.
#[tokio::test]
async fn what_is_wrapped_around_a_signed_body_is_refused() {
    let identity = Identity::new();
    let bank = Bank::new(&identity, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    let body = between(&text, "<soap:Body", "</soap:Body>");
    let forged = body.replace("Bob", "Eve");
    let unnamed = forged.replace("wsu:Id=\"body\"", "");
    let renamed = forged.replace("wsu:Id=\"body\"", "wsu:Id=\"other\"");
    let timestamp = between(&text, "<wsu:Timestamp", "</wsu:Timestamp>");
    let wrap = |body: &str| format!("<x:Wrapper xmlns:x=\"urn:x\">{body}</x:Wrapper>");
    let header = |more: &str| format!("{more}</soap:Header>");
    for (changed, reason) in [
        // In the header, beside the other, in it, and in the signature itself.
        (text.replace(body, &unnamed).replace("</soap:Header>", &header(&wrap(body))), "its Body is not signed"),
        (text.replace(body, &renamed).replace("</soap:Header>", &header(&wrap(body))), "its Body is not signed"),
        (text.replace(body, &format!("{unnamed}{body}")), "more than one Body"),
        (text.replace(body, &format!("{body}{unnamed}")), "more than one Body"),
        (text.replace(body, &format!("{unnamed}{}", wrap(body))), "its Body is not signed"),
        (text.replace(body, &unnamed.replace("</soap:Body>", &format!("{body}</soap:Body>"))), "its Body is not signed"),
        (
            text.replace(body, &unnamed)
                .replace("</ds:Signature>", &format!("<ds:Object>{body}</ds:Object></ds:Signature>")),
            "its Body is not signed",
        ),
        // Two of one id.
        (text.replace(body, &forged).replace("</soap:Header>", &header(&wrap(body))), "more than one element"),
        (
            text.replace(body, &forged.replace("wsu:Id", "ID")).replace("</soap:Header>", &header(&wrap(body))),
            "more than one element",
        ),
        // The Timestamp likewise.
        (
            text.replace(timestamp, &timestamp.replace("wsu:Id=\"timestamp\"", "").replace("10:35", "23:35"))
                .replace("</soap:Header>", &header(&wrap(timestamp))),
            "its Timestamp is not signed",
        ),
        // A second header of security, or one that holds the first.
        (
            text.replace("</soap:Header>", &header("<wsse:Security xmlns:wsse=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd\"/>")),
            "more than one Security",
        ),
        // An envelope in an envelope.
        (
            format!(
                "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header>{}</s:Header><s:Body><Pay xmlns=\"urn:bank\"><to>Eve</to></Pay></s:Body></s:Envelope>",
                text.split_once("?>").expect("a declaration").1
            ),
            "no Security",
        ),
    ] {
        Bank::refused(bank.read(200, changed).await, reason);
    }
}

/// Whatever is done to a signed message, it is refused, or says what it said.
#[tokio::test]
async fn no_change_of_a_signed_message_is_read_as_something_else() {
    let identity = Identity::new();
    let bank = Bank::new(&identity, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    // A generator of its own, so that each run tries the same.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(most).expect("a size")).expect("a size")
    };
    let pieces =
        ["<", ">", "\"", "&", "x", "=", "#", "body", "<!--", "]]>", "<a/>", "xmlns=\"\" ", " Id=\"body\"", "\u{e9}"];
    let mut taken = 0;
    for _ in 0..300 {
        let (at, length) = (next(text.len()), next(40));
        let end = (at + length).min(text.len());
        let changed = match next(4) {
            0 => format!("{}{}", &text[..at], &text[end..]),
            1 => format!("{}{}{}", &text[..at], &text[at..end], &text[at..]),
            2 => format!("{}{}{}", &text[..at], pieces[next(pieces.len())], &text[at..]),
            _ => format!("{}{}{}", &text[..at], pieces[next(pieces.len())], &text[(at + 1).min(text.len())..]),
        };
        if let Ok(data) = bank.read(200, &*changed).await {
            assert_eq!(data, DATA, "{changed}");
            taken += 1;
        }
    }
    assert!(taken < 60, "{taken} were taken");
}

#[tokio::test]
async fn malformed_signatures_are_refused() {
    let identity = Identity::new();
    let bank = Bank::new(&identity, &identity.certificate.pem()).await;
    let text = bank.signed().await;
    let part = |start: &str, end: &str| between(&text, start, end).to_owned();
    let value = part("<ds:SignatureValue>", "</ds:SignatureValue>");
    let method = part("<ds:SignatureMethod", "</ds:SignatureMethod>");
    let transforms = part("<ds:Transforms>", "</ds:Transforms>");
    let digest_method = part("<ds:DigestMethod", "</ds:DigestMethod>");
    let token = part("<wsse:BinarySecurityToken", "</wsse:BinarySecurityToken>");
    let reference = part("<ds:Reference", "</ds:Reference>");
    for changed in [
        text.replace(&value, "<ds:SignatureValue>?</ds:SignatureValue>"),
        text.replace(&value, "<ds:SignatureValue/>"),
        text.replace(&value, &format!("<ds:SignatureValue>{}</ds:SignatureValue>", STANDARD.encode([0; 256]))),
        text.replace(&value, ""),
        text.replace(&method, ""),
        text.replace(&method, "<ds:SignatureMethod/>"),
        text.replace(&transforms, ""),
        text.replace(&transforms, "<ds:Transforms/>"),
        text.replace(&transforms, &transforms.repeat(2)),
        text.replace(&digest_method, ""),
        text.replace(&token, "<wsse:BinarySecurityToken>?</wsse:BinarySecurityToken>"),
        text.replace(&token, &token.repeat(20)),
        text.replace("URI=\"#body\"", ""),
        text.replace("URI=\"#body\"", "URI=\"\""),
        text.replace("URI=\"#body\"", "URI=\"#\""),
        text.replace("URI=\"#body\"", "URI=\"#nowhere\""),
        text.replace("URI=\"#body\"", "URI=\"https://example.com/\""),
        text.replace(&reference, &reference.repeat(100)),
        text.replace("xml-exc-c14n#", "xml-exc-c14n#WithComments"),
    ] {
        assert_ne!(changed, text);
        let error = bank.read(200, &*changed).await.expect_err(&changed);
        assert_eq!(error.code, ErrorCode::Upstream, "{error:?}");
    }
}

#[test]
fn configs_whose_certificates_cannot_be_read_are_refused() {
    let adapter = SoapAdapter::new();
    for response in [
        json!({"certificates": "none"}),
        json!({"certificates": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}),
        json!({"certificates": ""}),
        json!({}),
        json!({"certificates": 1}),
    ] {
        let config = json!({"baseUrl": "https://bank.example/", "security": {"response": response}});
        let problems = adapter.check_config(config.as_object().expect("an object"));
        assert!(problems.iter().any(|problem| problem.pointer.starts_with("/security/response")), "{problems:?}");
    }
}
