use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use aws_lc_rs::signature::{KeyPair as _, VerificationAlgorithm};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn parse(auth_type: AuthType, data: Value) -> (Credential, CredentialFacts) {
    Credential::parse(auth_type, &data, AuthWants::default(), NOW).expect("a credential")
}

fn pointers(auth_type: AuthType, data: Value) -> Vec<String> {
    let problems = Credential::parse(auth_type, &data, AuthWants::default(), NOW).expect_err("a faulty credential");
    problems.into_iter().map(|problem| problem.pointer).collect()
}

fn applied(credential: &Credential, bindings: Option<&CustomAuth>) -> (HeaderMap, Vec<(String, String)>) {
    let mut headers = HeaderMap::new();
    let mut query = Vec::new();
    credential.apply(bindings, &mut headers, &mut query).expect("a usable credential");
    (headers, query.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn authorization(credential: &Credential) -> String {
    let (headers, _) = applied(credential, None);
    assert!(headers[header::AUTHORIZATION].is_sensitive());
    headers[header::AUTHORIZATION].to_str().expect("text").to_owned()
}

#[test]
fn each_auth_type_applies_itself() {
    let (basic, _) = parse(AuthType::Basic, json!({"username": "ann", "password": "pä:ss"}));
    assert_eq!(authorization(&basic), format!("Basic {}", STANDARD.encode("ann:pä:ss")));

    let (key, _) = parse(AuthType::ApiKey, json!({"key": "k-1", "headerOrParam": "X-Key"}));
    assert_eq!(applied(&key, None).0["x-key"], "k-1");
    let (key, _) = parse(AuthType::ApiKey, json!({"key": "k-1", "headerOrParam": "X-Key", "prefix": "Token "}));
    assert_eq!(applied(&key, None).0["x-key"], "Token k-1");
    let (key, _) = parse(AuthType::ApiKey, json!({"key": "k 1", "headerOrParam": "key", "inHeader": false}));
    assert_eq!(applied(&key, None), (HeaderMap::new(), vec![("key".to_owned(), "k 1".to_owned())]));

    let (token, facts) = parse(
        AuthType::OAuth2,
        json!({"access_token": "at", "refresh_token": "rt", "token_type": "bearer", "scope": "a b", "expires_in": 60, "id_token": "x"}),
    );
    assert_eq!(authorization(&token), "Bearer at");
    assert_eq!(facts.expires_at, Some(NOW.saturating_add(std::time::Duration::from_secs(60))));
    assert_eq!((facts.scope.as_deref(), facts.refreshable), (Some("a b"), true));

    let (token, facts) = parse(AuthType::Jwt, json!({"token": "a.b.c", "expires_at": "2026-01-31T10:30:00Z"}));
    assert_eq!(authorization(&token), "Bearer a.b.c");
    assert_eq!(facts.expires_at, Timestamp::parse("2026-01-31T10:30:00Z").ok());

    let bindings = CustomAuth {
        headers: [("X-App".to_owned(), "app".to_owned())].into(),
        query: [("sig".to_owned(), "signature".to_owned())].into(),
        token: None,
    };
    let data = json!({"app": "a1", "signature": "s1"});
    let (custom, _) =
        Credential::parse(AuthType::Custom, &data, AuthWants { custom: Some(&bindings), ..AuthWants::default() }, NOW)
            .expect("a credential");
    let (headers, query) = applied(&custom, Some(&bindings));
    assert_eq!(headers["x-app"], "a1");
    assert!(headers["x-app"].is_sensitive());
    assert_eq!(query, [("sig".to_owned(), "s1".to_owned())]);

    let (none, _) = parse(AuthType::None, json!({}));
    assert_eq!(applied(&none, None), (HeaderMap::new(), Vec::new()));
}

#[test]
fn a_definition_says_what_carries_a_key_that_does_not_say_so() {
    let bearer = ApiKeyAuth { header: Some("Authorization".to_owned()), prefix: "Bearer ".to_owned(), query: None };
    let query = ApiKeyAuth { query: Some("key".to_owned()), ..ApiKeyAuth::default() };
    let read = |wants, data| {
        let wants = AuthWants { api_key: Some(wants), custom: None };
        Credential::parse(AuthType::ApiKey, &data, wants, NOW).expect("a credential").0
    };
    assert_eq!(authorization(&read(&bearer, json!({"key": "k-1"}))), "Bearer k-1");
    assert_eq!(authorization(&read(&bearer, json!({"key": "k-1", "prefix": "Bot "}))), "Bot k-1");
    let own = read(&bearer, json!({"key": "k-1", "headerOrParam": "X-Key"}));
    assert_eq!(applied(&own, None).0["x-key"], "k-1", "the prefix goes with the definition's header");
    let in_query = read(&query, json!({"key": "k-1"}));
    assert_eq!(applied(&in_query, None), (HeaderMap::new(), vec![("key".to_owned(), "k-1".to_owned())]));
    let kept = read(&bearer, json!({"key": "k-1"})).to_bytes();
    let kept = Credential::from_bytes(&kept).expect("what was kept");
    assert_eq!(authorization(&kept), "Bearer k-1");
}

#[test]
fn all_faults_are_reported_and_no_value_is_shown() {
    let data = json!({"username": "a:b\r\n", "pasword": "hunter2"});
    let problems = Credential::parse(AuthType::Basic, &data, AuthWants::default(), NOW).expect_err("faults");
    let pointers_found: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(pointers_found, ["/data/username", "/data/password", "/data/pasword"]);
    assert!(!format!("{problems:?}").contains("hunter2"));

    assert_eq!(pointers(AuthType::Basic, json!("x")), ["/data"]);
    assert_eq!(pointers(AuthType::ApiKey, json!({"key": "a\nb"})), ["/data/key"]);
    assert_eq!(pointers(AuthType::ApiKey, json!({"key": " a"})), ["/data/key"]);
    assert_eq!(pointers(AuthType::ApiKey, json!({"key": "", "inHeader": "yes"})), ["/data/key", "/data/inHeader"]);
    assert_eq!(pointers(AuthType::ApiKey, json!({"key": "k", "headerOrParam": "a b"})), ["/data/headerOrParam"]);
    assert_eq!(pointers(AuthType::ApiKey, json!({"key": "k", "prefix": "a\nb"})), ["/data/prefix"]);
    assert_eq!(pointers(AuthType::OAuth2, json!({})), ["/data/access_token"]);
    let long = "x".repeat(20_000);
    assert_eq!(
        pointers(AuthType::Jwt, json!({"token": long, "expires_at": "soon"})),
        ["/data/token", "/data/expires_at"]
    );
    assert_eq!(
        pointers(
            AuthType::Jwt,
            json!({"privateKey": "x", "algorithm": "none", "ttlSeconds": 0, "audience": 1, "claims": [], "tokenUrl": "ftp://x"})
        ),
        ["/data/algorithm", "/data/audience", "/data/claims", "/data/ttlSeconds", "/data/tokenUrl"]
    );
    assert_eq!(pointers(AuthType::Jwt, json!({"privateKey": "x"})), ["/data/privateKey"]);
    let bindings = CustomAuth { headers: [("X".to_owned(), "app".to_owned())].into(), ..CustomAuth::default() };
    let problems = Credential::parse(
        AuthType::Custom,
        &json!({"o": []}),
        AuthWants { custom: Some(&bindings), ..AuthWants::default() },
        NOW,
    )
    .expect_err("faults");
    let found: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(found, ["/data/o", "/data/app"]);
    assert_eq!(
        pointers(AuthType::None, json!({"clientCertificate": {"certificate": "x"}})),
        ["/data/clientCertificate/privateKey"]
    );
}

fn verify(token: &str, algorithm: &'static dyn VerificationAlgorithm, public_key: &[u8]) -> (Value, Value) {
    let parts: Vec<_> = token.split('.').collect();
    let [head, claims, signature] = parts.as_slice() else { panic!("three parts") };
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64");
    UnparsedPublicKey::new(algorithm, public_key)
        .verify(format!("{head}.{claims}").as_bytes(), &bytes(signature))
        .expect("a valid signature");
    let json = |part: &str| serde_json::from_slice(&bytes(part)).expect("JSON");
    (json(head), json(claims))
}

#[test]
fn private_keys_sign_tokens_that_verify() {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    let data = |pem: String, algorithm: &str| {
        json!({"privateKey": pem, "algorithm": algorithm, "keyId": "k1", "issuer": "me", "subject": "you",
            "audience": ["a"], "claims": {"role": "x", "exp": 1}, "ttlSeconds": 90})
    };
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
    let rsa_der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).expect("PKCS#8");
    let lines = STANDARD.encode(rsa_der.as_ref());
    let rsa_pem = format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n");
    let cases: [(String, &str, &'static dyn VerificationAlgorithm, Vec<u8>); 3] = [
        (rsa_pem, "RS256", &RSA_PKCS1_2048_8192_SHA256, rsa.public_key().as_ref().to_vec()),
        (ecdsa.serialize_pem(), "ES256", &ECDSA_P256_SHA256_FIXED, ecdsa.public_key_raw().to_vec()),
        (ed25519.serialize_pem(), "EdDSA", &ED25519, ed25519.public_key_raw().to_vec()),
    ];
    for (pem, name, algorithm, public_key) in cases {
        let (credential, facts) = parse(AuthType::Jwt, data(pem, name));
        assert!(facts.refreshable);
        let Credential::JwtKey(signer) = &credential else { panic!("a signer") };
        let signed = signer.sign(NOW).expect("a token");
        assert_eq!(signed.expires_at, NOW.saturating_add(std::time::Duration::from_secs(90)));
        let (head, claims) = verify(signed.token.expose_secret(), algorithm, &public_key);
        assert_eq!(head, json!({"alg": name, "typ": "JWT", "kid": "k1"}));
        assert_eq!(
            claims,
            json!({"role": "x", "iss": "me", "sub": "you", "aud": ["a"], "iat": 1_700_000_000, "exp": 1_700_000_090})
        );
        let (signed, until) = credential.signed(NOW).expect("a signed token");
        assert_eq!(until, Some(NOW.saturating_add(std::time::Duration::from_secs(90))));
        assert!(authorization(&signed).starts_with("Bearer ey"));
    }
    let wrong = data(ecdsa.serialize_pem(), "RS256");
    assert_eq!(pointers(AuthType::Jwt, wrong), ["/data/privateKey"]);
}

#[test]
fn what_the_vault_keeps_reads_back() {
    let key = rcgen::generate_simple_self_signed(["client.example".to_owned()]).expect("a certificate");
    let certificate = json!({"certificate": key.cert.pem(), "privateKey": key.signing_key.serialize_pem()});
    for (auth_type, data) in [
        (AuthType::None, json!({"clientCertificate": certificate})),
        (AuthType::Basic, json!({"username": "a", "password": "", "clientCertificate": certificate})),
        (AuthType::ApiKey, json!({"key": "k", "headerOrParam": "q", "inHeader": false})),
        (AuthType::ApiKey, json!({"key": "k", "headerOrParam": "Authorization", "prefix": "Bearer "})),
        (AuthType::OAuth2, json!({"accessToken": "a", "refreshToken": "r", "expiresAt": 1_800_000_000, "scope": "s"})),
        (AuthType::Jwt, json!({"token": "t", "expiresAt": "2030-01-01T00:00:00.123Z"})),
        (
            AuthType::Jwt,
            json!({"privateKey": key.signing_key.serialize_pem(), "algorithm": "ES256", "issuer": "i", "claims": {"a": 1}}),
        ),
        (AuthType::Custom, json!({"a": "x", "n": 5, "clientCertificate": certificate})),
    ] {
        let (credential, facts) = parse(auth_type, data);
        let bytes = credential.to_bytes();
        let again = Credential::from_bytes(&bytes).expect("a stored credential");
        assert_eq!(again.to_bytes(), bytes);
        assert_eq!((again.auth_type(), again.facts()), (auth_type, facts));
        assert_eq!(again.client_identity().is_some(), credential.client_identity().is_some());
    }
    for bytes in [&b""[..], b"{}", b"[]", b"{\"type\":\"basic\",\"data\":{}}", b"\xff"] {
        assert!(Credential::from_bytes(bytes).is_err());
    }
}

#[test]
fn a_certificate_and_a_key_belong_together() {
    let one = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["b.example".to_owned()]).expect("a certificate");
    let mixed =
        json!({"clientCertificate": {"certificate": one.cert.pem(), "privateKey": other.signing_key.serialize_pem()}});
    assert_eq!(pointers(AuthType::None, mixed), ["/data/clientCertificate/privateKey"]);
    let garbage = json!({"clientCertificate": {"certificate": "x", "privateKey": one.signing_key.serialize_pem()}});
    assert_eq!(pointers(AuthType::None, garbage), ["/data/clientCertificate/certificate"]);
}

#[test]
fn secrets_are_redacted_in_every_form() {
    let (basic, _) = parse(AuthType::Basic, json!({"username": "ann", "password": "s3cr&t \"pw\""}));
    let text = format!(
        "plain s3cr&t \"pw\" json {} url s3cr%26t%20%22pw%22 form s3cr%26t+%22pw%22 basic {} b64 {}",
        json!("s3cr&t \"pw\""),
        STANDARD.encode("ann:s3cr&t \"pw\""),
        URL_SAFE_NO_PAD.encode("s3cr&t \"pw\""),
    );
    assert_eq!(
        basic.redact(&text),
        "plain [redacted] json \"[redacted]\" url [redacted] form [redacted] basic [redacted] b64 [redacted]"
    );
    let (token, _) = parse(AuthType::OAuth2, json!({"access_token": "tok", "refresh_token": "token-2"}));
    assert_eq!(token.redact("token-2 tok x"), "[redacted] [redacted] x");
}

#[test]
fn debug_shows_no_secret() {
    let key = rcgen::generate_simple_self_signed(["client.example".to_owned()]).expect("a certificate");
    let pem = key.signing_key.serialize_pem();
    for (auth_type, data) in [
        (AuthType::Basic, json!({"username": "planted", "password": "planted"})),
        (AuthType::OAuth2, json!({"access_token": "planted", "refresh_token": "planted"})),
        (AuthType::Custom, json!({"f": "planted"})),
        (AuthType::Jwt, json!({"privateKey": pem, "algorithm": "ES256"})),
        (AuthType::None, json!({"clientCertificate": {"certificate": key.cert.pem(), "privateKey": pem}})),
    ] {
        let (credential, _) = parse(auth_type, data);
        let shown = format!("{credential:?} {credential:#?}");
        assert!(!shown.contains("planted") && !shown.contains("PRIVATE"), "{shown}");
    }
}
