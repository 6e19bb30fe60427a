//! WS-Security 1.1: who calls, when, and that nobody changed it, in the header `Security`.
//!
//! Owns: UsernameToken, Timestamp, the X.509 signature, and what is asked of those of answers. Must
//! not know: what the body says.

mod signature;
mod trust;
mod verify;

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_model::{ErrorCode, Problem, Timestamp};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::envelope::SoapVersion;
use crate::adapter::CallError;
use crate::adapter::http::endpoint::Proof;
use crate::credential::{Credential, REDACTED};
use crate::xml::{AttributeValue, Element, Name, Prefixes};
pub(super) use verify::Verifier;

pub(super) const WSSE: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
pub(super) const WSU: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
pub(super) const DS: &str = "http://www.w3.org/2000/09/xmldsig#";
const USERNAME_TOKEN_PROFILE: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0";
const BASE64_BINARY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary";
const NONCE_BYTES: usize = 16;

/// What an instance's config says of WS-Security.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Security {
    username_token: Option<UsernameToken>,
    timestamp: Option<Lifetime>,
    signature: Option<Signature>,
    response: Option<verify::Demand>,
    #[serde(default = "yes")]
    must_understand: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UsernameToken {
    #[serde(default)]
    password: PasswordType,
    #[serde(default)]
    nonce: bool,
    #[serde(default = "yes")]
    created: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PasswordType {
    #[default]
    Text,
    Digest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Lifetime {
    #[serde(default = "five_minutes")]
    ttl_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Signature {
    #[serde(default)]
    sign_token: bool,
}

const fn yes() -> bool {
    true
}

const fn five_minutes() -> u64 {
    300
}

/// When a message is made, and what makes it unlike others.
pub(super) struct Occasion {
    pub(super) now: Timestamp,
    pub(super) nonce: [u8; NONCE_BYTES],
    /// Whether the message is only looked at: then it holds nothing that proves a caller.
    pub(super) redacted: bool,
}

impl Occasion {
    pub(super) fn new(now: Timestamp, redacted: bool) -> Result<Self, CallError> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| CallError::not_sent(ErrorCode::Internal, "no random numbers could be had"))?;
        Ok(Self { now, nonce, redacted })
    }
}

impl Security {
    /// What the config says of requests, where it says something that fits.
    pub(super) fn of(config: &Map<String, Value>) -> Option<Self> {
        let security = Self::read(config).ok()??;
        let says = security.username_token.is_some() || security.timestamp.is_some() || security.signature.is_some();
        says.then_some(security)
    }

    fn read(config: &Map<String, Value>) -> Result<Option<Self>, String> {
        config.get("security").map(Self::deserialize).transpose().map_err(|error| error.to_string())
    }

    /// Whether the credential goes into the message, and not into the headers of HTTP.
    pub(super) fn proof(config: &Map<String, Value>) -> Proof {
        let in_body = Self::of(config).is_some_and(|security| security.username_token.is_some());
        if in_body { Proof::Body } else { Proof::Head }
    }

    /// Whether the credential has what the message needs; the problem shows no value.
    pub(super) fn check(&self, credential: &Credential) -> Result<(), Problem> {
        if self.username_token.is_some() && !matches!(credential.request_part(), Credential::Basic { .. }) {
            let message = "expected a basic credential: the config asks for a UsernameToken";
            return Err(Problem::new("/data/username", message));
        }
        if self.signature.is_some() {
            let at = "/data/clientCertificate";
            let Some(certificate) = credential.client_certificate() else {
                return Err(Problem::new(at, "expected a certificate and its key: the config asks for a signature"));
            };
            certificate.sign_rsa_sha256(b"").map_err(|error| Problem::new(at, error.to_string()))?;
        }
        Ok(())
    }

    /// The header `Security`; a signature covers the `body`, which is given a name to be
    /// referred to by.
    pub(super) fn header(
        &self,
        version: SoapVersion,
        credential: &Credential,
        body: &mut Element,
        occasion: &Occasion,
        prefixes: &mut Prefixes,
    ) -> Result<Element, CallError> {
        self.check(credential).map_err(|problem| CallError::not_sent(ErrorCode::Auth, problem.message))?;
        let mut header = Element::new(Name::new(WSSE, "Security"));
        if self.must_understand {
            header = header.with_attribute(version.name("mustUnderstand"), version.truth());
        }
        let timestamp = self.timestamp.as_ref().map(|lifetime| lifetime.element(occasion.now));
        let token = match (&self.username_token, credential.request_part()) {
            (Some(token), Credential::Basic { username, password }) => {
                Some(token.element(username, password.expose_secret(), occasion))
            }
            _ => None,
        };
        let signature = match (&self.signature, credential.client_certificate()) {
            (Some(options), Some(certificate)) => {
                identify(body, "body");
                let token = token.as_ref().filter(|_| options.sign_token);
                let parts: Vec<_> = std::iter::once(&*body).chain(timestamp.as_ref()).chain(token).collect();
                Some(signature::sign(certificate, &parts, occasion, prefixes)?)
            }
            _ => None,
        };
        let (certificate, signature) = signature.unzip();
        let parts = [timestamp, certificate, token, signature];
        Ok(parts.into_iter().flatten().fold(header, Element::with_child))
    }
}

impl Lifetime {
    fn element(&self, now: Timestamp) -> Element {
        let expires = now.saturating_add(Duration::from_secs(self.ttl_seconds));
        let mut timestamp = Element::new(Name::new(WSU, "Timestamp"))
            .with_child(text(WSU, "Created", &seconds(now)))
            .with_child(text(WSU, "Expires", &seconds(expires)));
        identify(&mut timestamp, "timestamp");
        timestamp
    }
}

impl UsernameToken {
    /// PasswordDigest is Base64(SHA-1(nonce + created + password)).
    fn element(&self, username: &str, password: &str, occasion: &Occasion) -> Element {
        let is_digest = self.password == PasswordType::Digest;
        let created = seconds(occasion.now);
        let (kind, value) = match self.password {
            _ if occasion.redacted => (self.password.name(), REDACTED.to_owned()),
            PasswordType::Text => (self.password.name(), password.to_owned()),
            PasswordType::Digest => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                [&occasion.nonce, created.as_bytes(), password.as_bytes()].iter().for_each(|part| context.update(part));
                (self.password.name(), STANDARD.encode(context.finish()))
            }
        };
        let kind = format!("{USERNAME_TOKEN_PROFILE}#{kind}");
        let mut token = Element::new(Name::new(WSSE, "UsernameToken"))
            .with_child(text(WSSE, "Username", username))
            .with_child(text(WSSE, "Password", &value).with_attribute(Name::new("", "Type"), kind));
        if is_digest || self.nonce {
            let nonce = text(WSSE, "Nonce", &STANDARD.encode(occasion.nonce));
            token = token.with_child(nonce.with_attribute(Name::new("", "EncodingType"), BASE64_BINARY));
        }
        if is_digest || self.created {
            token = token.with_child(text(WSU, "Created", &created));
        }
        identify(&mut token, "token");
        token
    }
}

impl PasswordType {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "PasswordText",
            Self::Digest => "PasswordDigest",
        }
    }
}

fn text(namespace: &str, local: &str, value: &str) -> Element {
    Element::new(Name::new(namespace, local)).with_text(value)
}

/// Gives an element the name by which a signature refers to it.
fn identify(element: &mut Element, id: &str) {
    element.attributes.push((Name::new(WSU, "Id"), AttributeValue::Text(id.to_owned())));
}

/// Not every system reads fractions of a second.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{}Z", text.split(['.', 'Z']).next().unwrap_or_default())
}
