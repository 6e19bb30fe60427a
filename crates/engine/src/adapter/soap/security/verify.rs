//! The signature of an answer: that Body and Timestamp are those which a trusted certificate
//! signed.
//!
//! What is read afterwards is the signed octets themselves, so that nothing around them says what
//! they mean. A reference counts only where it leads to the Body and the Timestamp of this very
//! envelope: the same elements elsewhere in the document prove nothing.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_model::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::signature::{ECDSA_SHA256, EXCLUSIVE_C14N, RSA_SHA256, SHA_256};
use super::trust::{Algorithm, Trust, fits};
use super::{DS, Security, WSSE, WSU};
use crate::adapter::soap::envelope::SoapVersion;
use crate::xml::{self, Element, XML_NAMESPACE};

/// The most parts that one signature covers.
const MAX_REFERENCES: usize = 32;
/// The most certificates of an answer that are looked at.
const MAX_TOKENS: usize = 8;
/// The most prefixes that are declared for the values of a part.
const MAX_PREFIXES: usize = 100;

/// What a config asks of answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Demand {
    certificates: String,
    #[serde(default = "yes")]
    timestamp: bool,
    #[serde(default = "max_age")]
    max_age_seconds: u64,
    #[serde(default = "tolerance")]
    tolerance_seconds: u64,
}

const fn yes() -> bool {
    true
}

const fn max_age() -> u64 {
    300
}

const fn tolerance() -> u64 {
    60
}

/// Verifies answers.
pub(in crate::adapter::soap) struct Verifier {
    trust: Trust,
    /// None where no Timestamp is asked for.
    freshness: Option<Freshness>,
}

struct Freshness {
    max_age: Duration,
    tolerance: Duration,
}

impl Verifier {
    /// The verifier that a config asks for; none where it asks for none. What cannot be read is an
    /// error, so that nothing passes for want of a verifier.
    pub(in crate::adapter::soap) fn of(config: &Map<String, Value>) -> Result<Option<Self>, String> {
        let Some(demand) = Security::read(config)?.and_then(|security| security.response) else { return Ok(None) };
        let freshness = Freshness {
            max_age: Duration::from_secs(demand.max_age_seconds),
            tolerance: Duration::from_secs(demand.tolerance_seconds),
        };
        let freshness = demand.timestamp.then_some(freshness);
        Ok(Some(Self { trust: Trust::read(&demand.certificates)?, freshness }))
    }

    /// The Body of an envelope, read from what was signed.
    pub(in crate::adapter::soap) fn body(&self, text: &str, root: &Element, now: Timestamp) -> Result<Element, String> {
        let version = SoapVersion::ALL.into_iter().find(|version| root.name == version.name("Envelope"));
        let soap = version.ok_or("it is no SOAP envelope")?.namespace();
        let body = only(root, soap, "Body")?;
        let security = only(only(root, soap, "Header")?, WSSE, "Security")?;
        let signature = only(security, DS, "Signature")?;
        let signed = only(signature, DS, "SignedInfo")?;
        self.check_signature(text, security, signature, signed, now)?;

        let mut timestamp = None;
        if let Some(freshness) = &self.freshness {
            let found = only(security, WSU, "Timestamp")?;
            freshness.check(found, now)?;
            timestamp = Some(found);
        }
        let mut signed_body = None;
        let references = signed.children().filter(|child| child.name.is(DS, "Reference"));
        for (index, reference) in references.enumerate() {
            if index >= MAX_REFERENCES {
                return Err(format!("expected at most {MAX_REFERENCES} references"));
            }
            let part = referred(root, reference)?;
            let form = digested(text, reference, part)?;
            if std::ptr::eq(part, body) {
                signed_body = Some(form);
            } else if timestamp.is_some_and(|timestamp| std::ptr::eq(part, timestamp)) {
                timestamp = None;
            }
        }
        if timestamp.is_some() {
            return Err("its Timestamp is not signed".to_owned());
        }
        xml::read(&signed_body.ok_or("its Body is not signed")?)
    }

    /// Checks that a trusted certificate made the signature.
    fn check_signature(
        &self,
        text: &str,
        security: &Element,
        signature: &Element,
        signed: &Element,
        now: Timestamp,
    ) -> Result<(), String> {
        let algorithm = match named_algorithm(signed, "SignatureMethod")? {
            (RSA_SHA256, _) => Algorithm::RsaSha256,
            (ECDSA_SHA256, _) => Algorithm::EcdsaSha256,
            (other, _) => return Err(not_taken(other)),
        };
        let message = match named_algorithm(signed, "CanonicalizationMethod")? {
            (EXCLUSIVE_C14N, method) => xml::canonical(text, signed, &prefixes(method)?)?,
            (other, _) => return Err(not_taken(other)),
        };
        let value = decode(only(signature, DS, "SignatureValue")?)?;
        // What the answer says of its key only proposes certificates.
        let proposed = proposed(security, signature)?;
        let mut reason = None;
        for certificate in proposed.iter().chain(self.trust.named()) {
            match self.trust.check(certificate, now) {
                Ok(()) if fits(certificate, algorithm, message.as_bytes(), &value) => return Ok(()),
                Ok(()) => {}
                Err(error) => drop(reason.get_or_insert(error)),
            }
        }
        Err(reason.unwrap_or_else(|| "its signature does not fit, or is by another key".to_owned()))
    }
}

impl Freshness {
    fn check(&self, timestamp: &Element, now: Timestamp) -> Result<(), String> {
        let created = time(only(timestamp, WSU, "Created")?)?;
        if created > now.saturating_add(self.tolerance) {
            return Err("its Timestamp is in the future".to_owned());
        }
        let mut end = created.saturating_add(self.max_age);
        if timestamp.child(WSU, "Expires").is_some() {
            end = end.min(time(only(timestamp, WSU, "Expires")?)?);
        }
        if now > end.saturating_add(self.tolerance) {
            return Err("its Timestamp has expired".to_owned());
        }
        Ok(())
    }
}

fn time(element: &Element) -> Result<Timestamp, String> {
    Timestamp::parse(element.text().trim()).map_err(|_| format!("its {} is no time", element.name.local))
}

/// The one child of this name: of several, others might read another.
fn only<'a>(parent: &'a Element, namespace: &str, local: &str) -> Result<&'a Element, String> {
    let mut found = parent.children().filter(|child| child.name.is(namespace, local));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("it has no {local} in its {}", parent.name.local)),
        (Some(_), Some(_)) => Err(format!("it has more than one {local} in its {}", parent.name.local)),
    }
}

/// The algorithm that a child names, and the child.
fn named_algorithm<'a>(parent: &'a Element, local: &str) -> Result<(&'a str, &'a Element), String> {
    let child = only(parent, DS, local)?;
    let name = child.attribute("Algorithm").ok_or_else(|| format!("its {local} names no algorithm"))?;
    Ok((name, child))
}

fn not_taken(algorithm: &str) -> String {
    let known: String = algorithm.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    format!("it is signed with {known}, which is not taken")
}

/// The prefixes that an exclusive canonicalization includes.
fn prefixes(method: &Element) -> Result<Vec<&str>, String> {
    let list = method.children().find(|child| child.name.is(EXCLUSIVE_C14N, "InclusiveNamespaces"));
    let list = list.and_then(|list| list.attribute("PrefixList")).unwrap_or_default();
    let prefixes: Vec<_> = list.split_whitespace().collect();
    if prefixes.len() > MAX_PREFIXES {
        return Err(format!("expected at most {MAX_PREFIXES} prefixes"));
    }
    Ok(prefixes)
}

/// The element that a reference leads to.
fn referred<'a>(root: &'a Element, reference: &Element) -> Result<&'a Element, String> {
    let id = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#')).filter(|id| !id.is_empty());
    let id = id.ok_or("a reference does not lead to an element by its id")?;
    let mut found = None;
    let mut open = vec![root];
    while let Some(element) = open.pop() {
        let ids = [("", "Id"), ("", "ID"), (WSU, "Id"), (XML_NAMESPACE, "id")];
        if ids.iter().any(|(namespace, local)| element.attribute_in(namespace, local) == Some(id))
            && found.replace(element).is_some()
        {
            return Err("a reference leads to more than one element".to_owned());
        }
        open.extend(element.children());
    }
    found.ok_or_else(|| "a reference leads nowhere".to_owned())
}

/// The octets of a part, whose digest is the one that was signed.
fn digested(text: &str, reference: &Element, part: &Element) -> Result<String, String> {
    let form = match named_algorithm(only(reference, DS, "Transforms")?, "Transform")? {
        (EXCLUSIVE_C14N, transform) => xml::canonical(text, part, &prefixes(transform)?)?,
        (other, _) => return Err(not_taken(other)),
    };
    match named_algorithm(reference, "DigestMethod")? {
        (SHA_256, _) => {}
        (other, _) => return Err(not_taken(other)),
    }
    if digest(&SHA256, form.as_bytes()).as_ref() != decode(only(reference, DS, "DigestValue")?)? {
        return Err(format!("its {} is not what was signed", part.name.local));
    }
    Ok(form)
}

/// The certificates that the answer brings along.
fn proposed(security: &Element, signature: &Element) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    let mut open: Vec<_> = security.children().filter(|child| child.name.is(WSSE, "BinarySecurityToken")).collect();
    open.extend(signature.children().filter(|child| child.name.is(DS, "KeyInfo")));
    while let Some(element) = open.pop() {
        if element.name.is(WSSE, "BinarySecurityToken") || element.name.is(DS, "X509Certificate") {
            found.push(CertificateDer::from(decode(element)?));
        }
        if found.len() > MAX_TOKENS {
            return Err(format!("expected at most {MAX_TOKENS} certificates"));
        }
        open.extend(element.children());
    }
    Ok(found)
}

fn decode(element: &Element) -> Result<Vec<u8>, String> {
    let text: String = element.text().split_ascii_whitespace().collect();
    STANDARD.decode(text).map_err(|_| format!("its {} is not Base64", element.name.local))
}
