//! Schemes against the examples that their owners publish, and against what strangers send.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

const SLACK_BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&\
    channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&\
    command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554\
    %2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";

fn webhook(config: &Value) -> Webhook {
    Webhook::from_config(config.as_object().expect("an object")).expect("a webhook")
}

fn header_map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// Holds a delivery to the secrets at a time.
fn judge(
    config: &Value,
    secrets: &[&str],
    headers: &[(&str, &str)],
    body: &[u8],
    now: Timestamp,
) -> Result<(), Refusal> {
    let webhook = webhook(config);
    let secrets: Vec<SecretString> = secrets.iter().map(|text| SecretString::from(*text)).collect();
    let claim = webhook.claim(&header_map(headers), now)?;
    webhook.verify(&claim, body, secrets.iter())
}

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const STANDARD_BODY: &[u8] = br#"{"test": 2432232314}"#;

fn standard_headers(signature: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", signature),
    ]
}

#[test]
fn the_published_examples_are_verified() {
    let github = [("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")];
    let slack = [
        ("X-Slack-Request-Timestamp", "1531420618"),
        ("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
    ];
    let config = |scheme: &str| json!({ "scheme": scheme });
    for (scheme, secret, headers, body, now) in [
        ("standard", STANDARD_SECRET, &standard_headers(STANDARD_SIGNATURE)[..], STANDARD_BODY, at(1_614_265_330)),
        ("github", "It's a Secret to Everybody", &github, &b"Hello, World!"[..], at(0)),
        ("slack", "8f742231b10e8888abcd99yyyzzz85a5", &slack, SLACK_BODY.as_bytes(), at(1_531_420_618)),
    ] {
        assert_eq!(judge(&config(scheme), &[secret], headers, body, now), Ok(()), "{scheme}");
        let changed = [body, b" "].concat();
        assert_eq!(judge(&config(scheme), &[secret], headers, &changed, now), Err(Refusal::Signature), "{scheme}");
        assert_eq!(judge(&config(scheme), &["b3RoZXI="], headers, body, now), Err(Refusal::Signature), "{scheme}");
        assert_eq!(judge(&config(scheme), &["b3RoZXI=", secret], headers, body, now), Ok(()), "{scheme}");
        for missing in 0..headers.len() {
            let mut fewer = headers.to_vec();
            let (name, _) = fewer.remove(missing);
            assert_eq!(judge(&config(scheme), &[secret], &fewer, body, now), Err(Refusal::Header), "{name}");
            let mut twice = headers.to_vec();
            twice.push(headers[missing]);
            assert_eq!(judge(&config(scheme), &[secret], &twice, body, now), Err(Refusal::Header), "{name} twice");
        }
    }
}

#[test]
fn a_timestamp_holds_for_the_tolerance_in_either_direction() {
    let headers = standard_headers(STANDARD_SIGNATURE);
    let judged = |config: &Value, now| judge(config, &[STANDARD_SECRET], &headers, STANDARD_BODY, at(now));
    let usual = json!({"scheme": "standard"});
    for (now, expected) in [
        (1_614_265_330 + 300, Ok(())),
        (1_614_265_330 - 300, Ok(())),
        (1_614_265_330 + 301, Err(Refusal::Timestamp)),
        (1_614_265_330 - 301, Err(Refusal::Timestamp)),
    ] {
        assert_eq!(judged(&usual, now), expected, "{now}");
    }
    assert_eq!(judged(&json!({"scheme": "standard", "toleranceSeconds": 10}), 1_614_265_341), Err(Refusal::Timestamp));
    for text in ["", "-1", "+1614265330", "1614265330.0", "99999999999999999999", "now", "9223372036854775807"] {
        let mut headers = headers.clone();
        headers[1].1 = text;
        let judged = judge(&usual, &[STANDARD_SECRET], &headers, STANDARD_BODY, at(1_614_265_330));
        assert_eq!(judged, Err(Refusal::Header), "{text:?}");
    }
}

#[test]
fn signatures_of_other_versions_and_secrets_are_passed_over() {
    let judged = |signature: &'static str| {
        let headers = standard_headers(signature);
        judge(&json!({"scheme": "standard"}), &[STANDARD_SECRET], &headers, STANDARD_BODY, at(1_614_265_330))
    };
    assert_eq!(judged("v1,AAAA v2,xyz v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), Ok(()));
    assert_eq!(judged("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), Err(Refusal::Header));
    assert_eq!(judged("v1,g0hM9SsE"), Err(Refusal::Signature));
    assert_eq!(judged("v1,"), Err(Refusal::Signature));
    assert_eq!(judged("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), Err(Refusal::Header));
    let many: &'static str = vec!["v1,AAAA"; 17].join(" ").leak();
    assert_eq!(judged(many), Err(Refusal::Header));
    let svix = [
        ("svix-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("svix-timestamp", "1614265330"),
        ("svix-signature", STANDARD_SIGNATURE),
    ];
    let config = json!({"scheme": "standard"});
    assert_eq!(judge(&config, &[STANDARD_SECRET], &svix, STANDARD_BODY, at(1_614_265_330)), Ok(()));
}

#[test]
fn a_public_key_verifies_what_its_private_key_signed() {
    let pair = Ed25519KeyPair::generate().expect("a key pair");
    let public = format!("whpk_{}", STANDARD.encode(pair.public_key().as_ref()));
    let signature = pair.sign(br#"msg_1.1614265330.{"a":1}"#);
    let signature: &'static str = format!("v1a,{}", STANDARD.encode(signature.as_ref())).leak();
    let mut headers = standard_headers(signature);
    headers[0].1 = "msg_1";
    let judged =
        |secret: &str, body: &[u8]| judge(&json!({"scheme": "standard"}), &[secret], &headers, body, at(1_614_265_330));
    assert_eq!(judged(&public, br#"{"a":1}"#), Ok(()));
    assert_eq!(judged(&public, br#"{"a":2}"#), Err(Refusal::Signature));
    assert_eq!(judged(STANDARD_SECRET, br#"{"a":1}"#), Err(Refusal::Signature));
    // A public key is no shared secret: who knows it cannot sign.
    let key = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
    let forged = hmac::sign(&key, br#"msg_1.1614265330.{"a":1}"#);
    headers[2].1 = format!("v1,{}", STANDARD.encode(forged.as_ref())).leak();
    assert_eq!(
        judge(&json!({"scheme": "standard"}), &[&public], &headers, br#"{"a":1}"#, at(1_614_265_330)),
        Err(Refusal::Signature)
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn stripe_signs_with_several_secrets_at_once() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_stripe");
    let tag = hex(hmac::sign(&key, b"1700000000.{}").as_ref());
    let judged = |header: &str, secret: &str| {
        judge(&json!({"scheme": "stripe"}), &[secret], &[("Stripe-Signature", header)], b"{}", at(1_700_000_100))
    };
    assert_eq!(judged(&format!("t=1700000000,v1={tag}"), "whsec_stripe"), Ok(()));
    assert_eq!(judged(&format!("t=1700000000,v1=00,v1={tag},v0=ff"), "whsec_stripe"), Ok(()));
    assert_eq!(judged(&format!("t=1700000000, v1={}", tag.to_uppercase()), "whsec_stripe"), Ok(()));
    assert_eq!(judged(&format!("t=1700000001,v1={tag}"), "whsec_stripe"), Err(Refusal::Signature));
    assert_eq!(judged(&format!("t=1700000000,v0={tag}"), "whsec_stripe"), Err(Refusal::Header));
    assert_eq!(judged(&format!("v1={tag}"), "whsec_stripe"), Err(Refusal::Header));
    assert_eq!(judged(&format!("t=1700000000,t=1700000000,v1={tag}"), "whsec_stripe"), Err(Refusal::Header));
    assert_eq!(judged(&format!("t=1700000000,v1={tag}"), "stripe"), Err(Refusal::Signature));
}

#[test]
fn a_scheme_of_one_s_own_is_described() {
    let config = json!({"scheme": "hmac", "hmac": {
        "signatureHeader": "X-Sig", "algorithm": "sha512", "encoding": "base64", "prefix": "hs512 ",
        "signed": "{id}|{timestamp}|{body}", "timestampHeader": "X-Time", "timestampFormat": "unix_ms", "idHeader": "X-Id"
    }});
    let key = hmac::Key::new(hmac::HMAC_SHA512, b"s");
    let tag = STANDARD.encode(hmac::sign(&key, b"7|1700000000123|hello").as_ref());
    let signature = format!("hs512 {tag}");
    let headers = [("X-Sig", &*signature), ("X-Time", "1700000000123"), ("X-Id", "7")];
    assert_eq!(judge(&config, &["s"], &headers, b"hello", at(1_700_000_000)), Ok(()));
    let moved = [("X-Sig", &*signature), ("X-Time", "1700000000123"), ("X-Id", "8")];
    assert_eq!(judge(&config, &["s"], &moved, b"hello", at(1_700_000_000)), Err(Refusal::Signature));
    let bare = [("X-Sig", &*tag), ("X-Time", "1700000000123"), ("X-Id", "7")];
    assert_eq!(judge(&config, &["s"], &bare, b"hello", at(1_700_000_000)), Err(Refusal::Header));

    let sha1 = json!({"scheme": "hmac", "hmac": {"signatureHeader": "X-Sig", "algorithm": "sha1"}});
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"s");
    let tag = hex(hmac::sign(&key, b"hello").as_ref());
    assert_eq!(judge(&sha1, &["s"], &[("X-Sig", &*tag)], b"hello", at(0)), Ok(()));
    let short: &str = &tag[..tag.len() - 1];
    assert_ne!(judge(&sha1, &["s"], &[("X-Sig", short)], b"hello", at(0)), Ok(()));
}

#[test]
fn a_secret_that_does_not_fit_the_scheme_is_told() {
    let webhook = webhook(&json!({"scheme": "standard"}));
    for (secret, fits) in [
        (STANDARD_SECRET, true),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true),
        ("whsec_not base64", false),
        ("whsec_", false),
        ("whpk_AAAA", false),
    ] {
        assert_eq!(webhook.key(&SecretString::from(secret)).is_ok(), fits, "{secret}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_strangers_send_is_read_or_refused(
        value in "\\PC{0,80}", body in proptest::collection::vec(proptest::num::u8::ANY, 0..64)
    ) {
        for (scheme, names) in [
            ("standard", &["webhook-id", "webhook-timestamp", "webhook-signature"][..]),
            ("github", &["x-hub-signature-256"]),
            ("stripe", &["stripe-signature"]),
            ("slack", &["x-slack-signature", "x-slack-request-timestamp"]),
        ] {
            let mut headers = HeaderMap::new();
            for name in names {
                if let Ok(value) = http::HeaderValue::from_str(&value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            let webhook = webhook(&json!({ "scheme": scheme }));
            if let Ok(claim) = webhook.claim(&headers, at(0)) {
                let secret = SecretString::from("c2VjcmV0");
                proptest::prop_assert!(webhook.verify(&claim, &body, std::iter::once(&secret)).is_err());
            }
        }
    }
}
