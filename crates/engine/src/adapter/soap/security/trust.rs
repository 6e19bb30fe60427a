//! Whose signature counts: certificates that are named themselves, and those that a named
//! authority gave out.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use integration_model::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

/// The most certificates that a config names.
const MAX_CERTIFICATES: usize = 32;

/// How a signature is made. SHA-1, and keys that both sides know, are no choice.
#[derive(Debug, Clone, Copy)]
pub(super) enum Algorithm {
    RsaSha256,
    EcdsaSha256,
}

/// The certificates that a config names.
pub(super) struct Trust {
    named: Vec<CertificateDer<'static>>,
    /// Where some of them are authorities.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
}

impl Trust {
    pub(super) fn read(pem: &str) -> Result<Self, String> {
        let named: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let named = named.map_err(|_| "expected certificates in PEM".to_owned())?;
        if !(1..=MAX_CERTIFICATES).contains(&named.len()) {
            return Err(format!("expected 1 to {MAX_CERTIFICATES} certificates in PEM"));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            let parsed = parse(certificate)?;
            // Only what says that it is an authority speaks for others.
            if parsed.is_ca() {
                roots.add(certificate.clone()).map_err(|error| format!("a certificate cannot be used: {error}"))?;
            }
        }
        let authorities = (!roots.is_empty()).then(|| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()
        });
        let authorities = authorities.transpose().map_err(|error| format!("an authority cannot be used: {error}"))?;
        Ok(Self { named, authorities })
    }

    /// The certificates that are named themselves.
    pub(super) fn named(&self) -> &[CertificateDer<'static>] {
        &self.named
    }

    /// Whether a certificate may sign at this time.
    pub(super) fn check(&self, certificate: &CertificateDer<'_>, now: Timestamp) -> Result<(), String> {
        let parsed = parse(certificate)?;
        let time = ASN1Time::from_timestamp(now.as_secs()).map_err(|_| "the time is none that certificates know")?;
        if !parsed.validity().is_valid_at(time) {
            return Err("its certificate has expired, or is not valid yet".to_owned());
        }
        if self.named.contains(certificate) {
            return Ok(());
        }
        let now = UnixTime::since_unix_epoch(now.since(Timestamp::EPOCH));
        let checked = self.authorities.as_ref().map(|one| one.verify_client_cert(certificate, &[], now));
        match checked {
            Some(Ok(_)) => Ok(()),
            _ => Err("its certificate is not among those of security.response, nor by one of them".to_owned()),
        }
    }
}

/// Whether the key of a certificate made the signature of a message.
pub(super) fn fits(certificate: &CertificateDer<'_>, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let Ok(certificate) = parse(certificate) else { return false };
    let key = &certificate.public_key().subject_public_key.data;
    let verified = match algorithm {
        Algorithm::RsaSha256 => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature),
        Algorithm::EcdsaSha256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature),
    };
    verified.is_ok()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err("a certificate is not X.509".to_owned()),
    }
}
