//! The X.509 signature: XML Signature with RSA-SHA256 over parts of the message in exclusive
//! canonical form.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{BASE64_BINARY, DS, Occasion, WSSE, WSU, identify, text};
use crate::adapter::CallError;
use crate::credential::{ClientCertificate, REDACTED};
use crate::xml::{Element, Name, Prefixes};

pub(super) const EXCLUSIVE_C14N: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
pub(super) const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
pub(super) const ECDSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256";
pub(super) const SHA_256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";
const X509_V3: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3";
const CERTIFICATE_ID: &str = "certificate";

/// Signs parts of a message, each of which has its `wsu:Id`: the token that shows the
/// certificate, and the signature.
pub(super) fn sign(
    certificate: &ClientCertificate,
    parts: &[&Element],
    occasion: &Occasion,
    prefixes: &mut Prefixes,
) -> Result<(Element, Element), CallError> {
    let der = STANDARD.encode(certificate.der()?);
    let mut token = text(WSSE, "BinarySecurityToken", &der)
        .with_attribute(Name::new("", "EncodingType"), BASE64_BINARY)
        .with_attribute(Name::new("", "ValueType"), X509_V3);
    identify(&mut token, CERTIFICATE_ID);

    let mut signed = ds("SignedInfo")
        .with_child(algorithm("CanonicalizationMethod", EXCLUSIVE_C14N))
        .with_child(algorithm("SignatureMethod", RSA_SHA256));
    for part in parts {
        let id = part.attribute_in(WSU, "Id").unwrap_or_default();
        let value = digest(&SHA256, prefixes.canonical(part).as_bytes());
        signed = signed.with_child(
            ds("Reference")
                .with_attribute(Name::new("", "URI"), format!("#{id}"))
                .with_child(ds("Transforms").with_child(algorithm("Transform", EXCLUSIVE_C14N)))
                .with_child(algorithm("DigestMethod", SHA_256))
                .with_child(ds("DigestValue").with_text(STANDARD.encode(value))),
        );
    }
    let value = match occasion.redacted {
        true => REDACTED.to_owned(),
        false => STANDARD.encode(certificate.sign_rsa_sha256(prefixes.canonical(&signed).as_bytes())?),
    };
    let reference = Element::new(Name::new(WSSE, "Reference"))
        .with_attribute(Name::new("", "URI"), format!("#{CERTIFICATE_ID}"))
        .with_attribute(Name::new("", "ValueType"), X509_V3);
    let key = Element::new(Name::new(WSSE, "SecurityTokenReference")).with_child(reference);
    let signature = ds("Signature")
        .with_child(signed)
        .with_child(ds("SignatureValue").with_text(value))
        .with_child(ds("KeyInfo").with_child(key));
    Ok((token, signature))
}

fn ds(local: &str) -> Element {
    Element::new(Name::new(DS, local))
}

fn algorithm(local: &str, uri: &str) -> Element {
    ds(local).with_attribute(Name::new("", "Algorithm"), uri)
}
