//! Looks for secrets in all that came out, in every form in which they would be recognised.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::client::Answer;

/// The forms in which a secret would be recognised.
fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = secret
        .iter()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let lower = secret
        .iter()
        .filter(|byte| !byte.is_ascii_alphanumeric())
        .fold(percent.clone(), |text, byte| text.replace(&format!("%{byte:02X}"), &format!("%{byte:02x}")));
    let everything: String = secret.iter().map(|byte| format!("%{byte:02X}")).collect();
    let mut forms = vec![
        ("plain".to_owned(), secret.to_vec()),
        ("hexadecimal".to_owned(), hex.clone().into_bytes()),
        ("upper hexadecimal".to_owned(), hex.to_uppercase().into_bytes()),
        ("percent-encoded".to_owned(), lower.into_bytes()),
        ("percent-encoded, upper".to_owned(), percent.into_bytes()),
        ("percent-encoded throughout".to_owned(), everything.into_bytes()),
        ("debug of bytes".to_owned(), format!("{secret:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    for offset in 0..3_usize {
        let padded = [b"xxx"[..offset].to_vec(), secret.to_vec()].concat();
        for (name, encoded) in [("base64", STANDARD.encode(&padded)), ("base64url", URL_SAFE.encode(&padded))] {
            // Only the characters that no neighbouring byte has a part in.
            let own = &encoded.as_bytes()[(offset * 8).div_ceil(6)..padded.len() * 8 / 6];
            forms.push((format!("{name} at offset {offset}"), own.to_vec()));
        }
    }
    forms
}

/// All that came out, by where.
#[derive(Default)]
pub(super) struct Output(pub(super) BTreeMap<String, Vec<u8>>);

impl Output {
    pub(super) fn add(&mut self, place: impl Into<String>, bytes: &[u8]) {
        self.0.entry(place.into()).or_default().extend_from_slice(bytes);
    }

    pub(super) fn add_answer(&mut self, place: &str, answer: &Answer) {
        for (name, value) in &answer.headers {
            self.add(format!("headers of {place}"), format!("{name}: ").as_bytes());
            self.add(format!("headers of {place}"), value.as_bytes());
        }
        self.add(format!("body of {place}"), &answer.body);
    }

    /// Every secret that is in it, in whatever form.
    pub(super) fn leaks(&self, secrets: &[(String, Vec<u8>)]) -> Vec<String> {
        let mut leaks = Vec::new();
        for (name, secret) in secrets {
            for (form, needle) in forms(secret) {
                for (place, bytes) in &self.0 {
                    if contains(bytes, &needle) {
                        leaks.push(format!("{name}, {form}, in {place}"));
                    }
                }
            }
        }
        leaks
    }
}

pub(super) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[test]
fn the_search_finds_every_form() {
    let secret = b"MarkOfTheTest+/0123456789".to_vec();
    let secrets = [("mark".to_owned(), secret.clone())];
    let mut forms: Vec<Vec<u8>> = vec![
        secret.clone(),
        format!("{secret:?}").into_bytes(),
        STANDARD.encode([b"ann:".as_slice(), &secret, b"more"].concat()).into_bytes(),
        URL_SAFE.encode([b"a".as_slice(), &secret].concat()).into_bytes(),
        b"MarkOfTheTest%2B%2F0123456789".to_vec(),
    ];
    forms.push(secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect());
    for form in forms {
        let mut output = Output::default();
        output.add("somewhere", &[b"before ".as_slice(), &form, b" after"].concat());
        assert!(!output.leaks(&secrets).is_empty(), "{}", String::from_utf8_lossy(&form));
    }
    let mut output = Output::default();
    output.add("somewhere", b"MarkOfTheTest and others");
    assert!(output.leaks(&secrets).is_empty());
}
