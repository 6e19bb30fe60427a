//! TLS of outbound connections: roots, client certificates, and profiles that differ from
//! the default.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

/// The most certificates that one PEM text may hold.
const MAX_CERTIFICATES: usize = 64;

/// A client certificate chain and its private key, which belong together.
pub struct ClientIdentity {
    resolver: Arc<SingleCertAndKey>,
    fingerprint: [u8; 32],
}

/// Why a client certificate cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    #[error("expected one or more certificates in PEM")]
    Certificate,
    #[error("expected a private key in PEM (PKCS#8, or the older RSA and EC forms)")]
    PrivateKey,
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

impl InvalidIdentity {
    /// The field that is at fault: `certificate` or `privateKey`.
    pub fn field(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey | Self::Mismatch => "privateKey",
        }
    }
}

impl ClientIdentity {
    /// Reads a certificate chain, the client's own first, and its private key.
    pub fn from_pem(certificate: &str, private_key: &str) -> Result<Self, InvalidIdentity> {
        let chain = certificates(certificate).ok_or(InvalidIdentity::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(private_key.as_bytes()).map_err(|_| InvalidIdentity::PrivateKey)?;
        let key = provider().key_provider.load_private_key(key).map_err(|_| InvalidIdentity::PrivateKey)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => InvalidIdentity::Mismatch,
            _ => InvalidIdentity::Certificate,
        })?;
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            fingerprint: fingerprint(&[certificate, private_key]),
        })
    }

    /// Tells identities apart; says nothing about the key.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(redacted)")
    }
}

/// What makes the TLS of some connections different: certificate authorities to trust
/// besides the usual ones, a client certificate to show.
#[derive(Debug)]
pub struct TlsProfile {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<ClientIdentity>>,
    fingerprint: [u8; 32],
}

/// The text holds no certificates that could be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one or more certificates of authorities in PEM")]
pub struct InvalidAuthority;

impl TlsProfile {
    pub fn new(authorities: Option<&str>, identity: Option<Arc<ClientIdentity>>) -> Result<Self, InvalidAuthority> {
        let certificates = match authorities {
            Some(pem) => certificates(pem).filter(|certificates| is_trustable(certificates)).ok_or(InvalidAuthority)?,
            None => Vec::new(),
        };
        let fingerprint = Self::fingerprint_of(authorities, identity.as_deref());
        Ok(Self { authorities: certificates, identity, fingerprint })
    }

    /// The fingerprint that a profile of these parts has, without making it.
    pub fn fingerprint_of(authorities: Option<&str>, identity: Option<&ClientIdentity>) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&fingerprint(&[authorities.unwrap_or_default()]));
        if let Some(identity) = identity {
            context.update(identity.fingerprint());
        }
        digest(context)
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

/// What all outbound TLS shares.
pub(super) struct TlsSetup {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// What `roots` were read from.
    certificates: Vec<CertificateDer<'static>>,
}

impl TlsSetup {
    /// Trusts the roots of the machine; those of Mozilla, built in, where it has none.
    pub(super) fn load() -> Self {
        let mut roots = RootCertStore::empty();
        let mut certificates = rustls_native_certs::load_native_certs().certs;
        certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
        if roots.is_empty() {
            tracing::info!("the machine has no root certificates; using the built-in ones");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Self { provider: Arc::new(provider()), roots: Arc::new(roots), certificates }
    }

    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(super) fn config(
        &self,
        profile: Option<&TlsProfile>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let roots = match profile {
            Some(profile) if !profile.authorities.is_empty() => {
                let mut roots = RootCertStore::clone(&self.roots);
                roots.add_parsable_certificates(profile.authorities.iter().cloned());
                Arc::new(roots)
            }
            _ => Arc::clone(&self.roots),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match profile.and_then(|profile| profile.identity.as_ref()) {
            Some(identity) => {
                let resolver: Arc<dyn ResolvesClientCert> = Arc::<SingleCertAndKey>::clone(&identity.resolver);
                builder.with_client_cert_resolver(resolver)
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect::<Result<_, _>>().ok()?;
    (1..=MAX_CERTIFICATES).contains(&certificates.len()).then_some(certificates)
}

fn is_trustable(certificates: &[CertificateDer<'static>]) -> bool {
    let mut roots = RootCertStore::empty();
    certificates.iter().all(|certificate| roots.add(certificate.clone()).is_ok())
}

fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // The lengths keep parts from running into each other.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    digest(context)
}

fn digest(context: Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
