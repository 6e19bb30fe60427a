//! Whether a delivery is what its sender signed, and when.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};
use integration_model::{Problem, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::credential::SigningSecrets;

use super::config::{Encoding, HeaderLayout, Part, SchemeName, TimestampFormat, Webhook};

/// The most signatures of one delivery that are looked at: senders sign with several secrets
/// while they go over to another.
const MAX_SIGNATURES: usize = 16;
/// The longest header that is read for a signature, a timestamp or an id, in bytes.
const MAX_HEADER: usize = 4096;
/// The longest id of a delivery, in bytes.
const MAX_ID: usize = 256;
/// Marks a public key among the secrets of Standard Webhooks.
const PUBLIC_KEY: &str = "whpk_";
const SECRET_PREFIX: &str = "whsec_";
const ED25519_KEY: usize = 32;

/// Senders differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a delivery was not verified. The sender is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such webhook.
    Unknown,
    /// There is no secret to verify with.
    NoSecret,
    /// A header that the scheme needs is missing, comes twice, or cannot be read.
    Header,
    /// The timestamp is too far from the clock.
    Timestamp,
    /// No signature is that of a secret.
    Signature,
}

impl Refusal {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NoSecret => "no_secret",
            Self::Header => "header",
            Self::Timestamp => "timestamp",
            Self::Signature => "signature",
        }
    }
}

/// What the headers of a delivery claim.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) id: Option<String>,
    pub(super) sent_at: Option<Timestamp>,
    /// As it stands in its header.
    timestamp: String,
    signatures: Vec<Vec<u8>>,
    /// Ed25519 signatures.
    asymmetric: Vec<Vec<u8>>,
}

impl Webhook {
    /// Reads the headers of a delivery, and holds its timestamp to the clock.
    pub(crate) fn claim(&self, headers: &HeaderMap, now: Timestamp) -> Result<Claim, Refusal> {
        let claim = self.read_headers(headers).ok_or(Refusal::Header)?;
        match claim.sent_at {
            Some(at) if now.since(at) > self.tolerance || at.since(now) > self.tolerance => Err(Refusal::Timestamp),
            _ => Ok(claim),
        }
    }

    fn read_headers(&self, headers: &HeaderMap) -> Option<Claim> {
        let mut claim =
            Claim { id: None, sent_at: None, timestamp: String::new(), signatures: Vec::new(), asymmetric: Vec::new() };
        match &self.layout {
            HeaderLayout::Standard => claim.read_standard(headers)?,
            HeaderLayout::Pairs(name) => claim.read_pairs(only(headers, name)?)?,
            HeaderLayout::Plain { signature, prefix, encoding, timestamp, id } => {
                let encoded = only(headers, signature)?.strip_prefix(prefix.as_str())?;
                claim.signatures.push(match encoding {
                    Encoding::Hex => from_hex(encoded)?,
                    Encoding::Base64 => BASE64.decode(encoded).ok()?,
                });
                if let Some((name, format)) = timestamp {
                    claim.stamp(only(headers, name)?, *format)?;
                }
                claim.id = match id {
                    // Where it is signed, it has to be there; else it only tells deliveries apart.
                    Some(name) if headers.contains_key(name) || self.signed.contains(&Part::Id) => {
                        Some(only(headers, name).filter(|id| is_id(id))?.to_owned())
                    }
                    _ => None,
                };
            }
        }
        let count = claim.signatures.len() + claim.asymmetric.len();
        (1..=MAX_SIGNATURES).contains(&count).then_some(claim)
    }

    /// Whether one of the secrets made one of the signatures. Takes as long for the last secret
    /// as for none.
    pub(crate) fn verify<'a>(
        &self,
        claim: &Claim,
        body: &[u8],
        secrets: impl Iterator<Item = &'a SecretString>,
    ) -> Result<(), Refusal> {
        let mut verified = false;
        for secret in secrets {
            verified |= match self.key(secret) {
                Ok(Key::Shared(key)) => {
                    let mut context = hmac::Context::with_key(&key);
                    self.each_part(claim, body, |bytes| context.update(bytes));
                    let tag = context.sign();
                    claim.signatures.iter().fold(false, |found, signature| {
                        verify_slices_are_equal(tag.as_ref(), signature).is_ok() | found
                    })
                }
                Ok(Key::Public(key)) if !claim.asymmetric.is_empty() => {
                    let mut signed = Vec::with_capacity(body.len() + MAX_HEADER);
                    self.each_part(claim, body, |bytes| signed.extend_from_slice(bytes));
                    let key = UnparsedPublicKey::new(&ED25519, key);
                    claim.asymmetric.iter().any(|signature| key.verify(&signed, signature).is_ok())
                }
                // One that does not fit the scheme verifies nothing; a connection test tells.
                Ok(Key::Public(_)) | Err(_) => false,
            };
        }
        if verified { Ok(()) } else { Err(Refusal::Signature) }
    }

    /// A digest of what was signed.
    pub(super) fn digest(&self, claim: &Claim, body: &[u8]) -> [u8; 32] {
        let mut context = digest::Context::new(&SHA256);
        self.each_part(claim, body, |bytes| context.update(bytes));
        finished(context)
    }

    fn each_part(&self, claim: &Claim, body: &[u8], mut visit: impl FnMut(&[u8])) {
        for part in &self.signed {
            match part {
                Part::Text(text) => visit(text.as_bytes()),
                Part::Id => visit(claim.id.as_deref().unwrap_or_default().as_bytes()),
                Part::Timestamp => visit(claim.timestamp.as_bytes()),
                Part::Body => visit(body),
            }
        }
    }

    /// What is wrong with secrets under this scheme.
    pub(super) fn check_secrets(&self, secrets: &SigningSecrets) -> Result<(), Problem> {
        for (index, one) in secrets.iter().enumerate() {
            self.key(&one.secret).map_err(|expected| Problem::new(format!("/data/secrets/{index}"), expected))?;
        }
        Ok(())
    }

    fn key(&self, secret: &SecretString) -> Result<Key, &'static str> {
        let text = secret.expose_secret();
        let shared = |bytes: &[u8]| Key::Shared(Box::new(hmac::Key::new(self.algorithm, bytes)));
        if self.scheme != SchemeName::Standard {
            return Ok(shared(text.as_bytes()));
        }
        if let Some(encoded) = text.strip_prefix(PUBLIC_KEY) {
            let key = BASE64.decode(encoded).ok().filter(|key| key.len() == ED25519_KEY);
            return key.map(Key::Public).ok_or("expected 32 bytes in base64 after whpk_");
        }
        let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        match BASE64.decode(encoded).map(Zeroizing::new) {
            Ok(bytes) if !bytes.is_empty() => Ok(shared(&bytes)),
            _ => Err("expected base64, after whsec_ or alone"),
        }
    }
}

enum Key {
    Shared(Box<hmac::Key>),
    Public(Vec<u8>),
}

impl Claim {
    /// `webhook-…`, or the names that they had before there was a standard.
    fn read_standard(&mut self, headers: &HeaderMap) -> Option<()> {
        let prefix = if headers.contains_key("webhook-signature") { "webhook" } else { "svix" };
        let named = |part: &str| HeaderName::from_bytes(format!("{prefix}-{part}").as_bytes()).ok();
        self.id = Some(only(headers, &named("id")?).filter(|id| is_id(id))?.to_owned());
        self.stamp(only(headers, &named("timestamp")?)?, TimestampFormat::Unix)?;
        for versioned in only(headers, &named("signature")?)?.split(' ').take(MAX_SIGNATURES + 1) {
            // Signatures of versions to come are passed over.
            let Some((version, encoded)) = versioned.split_once(',') else { continue };
            let list = match version {
                "v1" => &mut self.signatures,
                "v1a" => &mut self.asymmetric,
                _ => continue,
            };
            list.extend(BASE64.decode(encoded).ok());
        }
        Some(())
    }

    /// `t=TIME,v1=HEX,v1=HEX,v0=…`
    fn read_pairs(&mut self, text: &str) -> Option<()> {
        for (name, value) in text.split(',').filter_map(|pair| pair.trim().split_once('=')) {
            match name {
                "t" if self.sent_at.is_some() => return None,
                "t" => self.stamp(value, TimestampFormat::Unix)?,
                "v1" if self.signatures.len() > MAX_SIGNATURES => return None,
                "v1" => self.signatures.extend(from_hex(value)),
                _ => {}
            }
        }
        self.sent_at.map(drop)
    }

    fn stamp(&mut self, text: &str, format: TimestampFormat) -> Option<()> {
        let number = || text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
        let at = match format {
            TimestampFormat::Unix => Timestamp::from_micros(number()?.checked_mul(1_000_000)?),
            TimestampFormat::UnixMs => Timestamp::from_micros(number()?.checked_mul(1_000)?),
            TimestampFormat::Rfc3339 => Timestamp::parse(text).ok()?,
        };
        self.sent_at = Some(at);
        text.clone_into(&mut self.timestamp);
        Some(())
    }
}

/// The value of a header that comes once: of two, another program than this one may look at the
/// other.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && value.len() <= MAX_HEADER).then_some(value)
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

pub(super) fn finished(context: digest::Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests;
