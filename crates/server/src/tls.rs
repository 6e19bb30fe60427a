//! TLS of callers: the service's certificate, the certificates of callers, and both read again
//! when their files change. Must not know HTTP.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use integration_model::Problem;
use metrics::{counter, gauge};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::signal::unix::Signal;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use crate::config::{ClientCertificates, TlsConfig, TlsVersion};
use crate::telemetry::metrics::{TLS_CERTIFICATE_EXPIRY, TLS_RELOADS};

/// The most bytes of a file with certificates or a key.
const MAX_PEM_BYTES: u64 = 1 << 20;
const MAX_CERTIFICATES: usize = 512;
/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// TLS as the files have it now.
#[derive(Debug)]
pub struct Tls {
    settings: TlsConfig,
    current: ArcSwap<ServerConfig>,
    /// Of what the files held when they were last read, faulty or not.
    read: Mutex<[u8; SHA256_OUTPUT_LEN]>,
}

impl Tls {
    /// Reads the files; every fault of all of them.
    pub fn load(settings: &TlsConfig) -> Result<Self, Vec<Problem>> {
        let files = Files::read(settings)?;
        let current = ArcSwap::new(files.server_config(settings)?);
        Ok(Self { settings: settings.clone(), current, read: Mutex::new(files.digest()) })
    }

    /// Makes TLS connections of others, with the certificate of this moment.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again; true where they held something new, which new connections get.
    /// Unless `forced`, files that have not changed are passed over, so that a fault is
    /// reported once.
    pub fn reload(&self, forced: bool) -> Result<bool, Vec<Problem>> {
        let files = Files::read(&self.settings)?;
        let digest = files.digest();
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if *read == digest && !forced {
                return Ok(false);
            }
            *read = digest;
        }
        self.current.store(files.server_config(&self.settings)?);
        Ok(true)
    }

    /// Follows the files until `stop`: on each hangup, and every few seconds.
    pub async fn follow(self: Arc<Self>, mut hangups: Signal, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let mut reported = Vec::new();
        loop {
            let forced = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                hangup = hangups.recv() => match hangup {
                    Some(()) => true,
                    None => return,
                },
            };
            // Reading small files now and then may block a thread of the background runtime.
            let outcome = self.reload(forced);
            match outcome {
                Ok(false) => {}
                Ok(true) => {
                    reported.clear();
                    counter!(TLS_RELOADS, "outcome" => "loaded").increment(1);
                    tracing::info!("certificates reloaded");
                }
                Err(problems) if problems == reported && !forced => {}
                Err(problems) => {
                    counter!(TLS_RELOADS, "outcome" => "refused").increment(1);
                    for problem in &problems {
                        tracing::error!("certificates not reloaded, the old ones stay: {problem}");
                    }
                    reported = problems;
                }
            }
        }
    }
}

/// What the files hold.
struct Files {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(settings: &TlsConfig) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut content = |field: &str, path: Option<&Path>, mode: u32| {
            let bytes = match path {
                Some(path) => read(path, mode).map_err(|error| format!("{}: {error}", path.display())),
                None => Err("expected a file".to_owned()),
            };
            bytes.unwrap_or_else(|message| {
                problems.push(problem(field, message));
                Zeroizing::default()
            })
        };
        let certificate = content("certificateFile", settings.certificate_file.as_deref(), 0);
        let key = content("keyFile", settings.key_file.as_deref(), 0o007);
        let client_ca = settings.client_ca_file.as_deref().map(|path| content("clientCaFile", Some(path), 0));
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { certificate: certificate.to_vec(), key, client_ca: client_ca.map(|bytes| bytes.to_vec()) })
    }

    fn digest(&self) -> [u8; SHA256_OUTPUT_LEN] {
        let mut context = Context::new(&SHA256);
        for part in [&self.certificate[..], &self.key, self.client_ca.as_deref().unwrap_or_default()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        sized(context.finish().as_ref())
    }

    fn server_config(&self, settings: &TlsConfig) -> Result<Arc<ServerConfig>, Vec<Problem>> {
        let (identity, verifier) = (self.identity(), self.verifier(settings));
        let (identity, verifier) = match (identity, verifier) {
            (Ok(identity), Ok(verifier)) => (identity, verifier),
            (identity, verifier) => return Err(identity.err().into_iter().chain(verifier.err()).collect()),
        };
        let unavailable =
            |error: rustls::Error| vec![problem("certificateFile", format!("TLS cannot be set up: {error}"))];
        note_expiry(&identity);
        let versions: &[&SupportedProtocolVersion] = match settings.min_version {
            TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V13 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(unavailable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if settings.client_certificates == ClientCertificates::None {
            config.ticketer = Ticketer::new().map_err(unavailable)?;
        } else {
            // A resumed session would carry a certificate that nobody verifies again.
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn identity(&self) -> Result<CertifiedKey, Problem> {
        let chain = certificates(&self.certificate).ok_or_else(|| {
            problem("certificateFile", "expected the certificate in PEM, and those that lead to its authority")
        })?;
        let expected = "expected a private key in PEM (PKCS#8, or the older RSA and EC forms)";
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| problem("keyFile", expected))?;
        let key = provider().key_provider.load_private_key(key).map_err(|_| problem("keyFile", expected))?;
        let identity = CertifiedKey::new(chain, key);
        match identity.keys_match() {
            Ok(()) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(problem("keyFile", "the private key does not belong to the certificate"))
            }
            Err(_) => Err(problem("certificateFile", "the first certificate cannot be read")),
        }
    }

    fn verifier(&self, settings: &TlsConfig) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
        let Some(pem) = &self.client_ca else { return Ok(Arc::new(NoClientAuth)) };
        let fault = |error: String| problem("clientCaFile", error);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem).ok_or_else(|| fault("expected authorities in PEM".to_owned()))? {
            roots.add(certificate).map_err(|error| fault(format!("an authority cannot be used: {error}")))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = match settings.client_certificates {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional | ClientCertificates::None => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| fault(error.to_string()))?;
        Ok(verifier)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn problem(field: &str, message: impl Into<String>) -> Problem {
    Problem::new(format!("/server/tls/{field}"), message)
}

/// Reads a file whose mode has none of the bits of `refused_mode`.
fn read(path: &Path, refused_mode: u32) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    if mode & refused_mode != 0 {
        return Err(io::Error::other(format!("it can be used by everybody (mode {mode:04o}); expected 0600")));
    }
    if !metadata.is_file() || metadata.len() > MAX_PEM_BYTES {
        return Err(io::Error::other(format!("expected a file of at most {MAX_PEM_BYTES} bytes")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize));
    file.take(MAX_PEM_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The certificates of a PEM text; `None` where there are none or too many, or one is broken.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MAX_CERTIFICATES + 1).collect();
    found.ok().filter(|found| (1..=MAX_CERTIFICATES).contains(&found.len()))
}

fn sized(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(bytes);
    out
}

/// Shows until when the service's own certificate is good.
fn note_expiry(identity: &CertifiedKey) {
    let parsed = identity.cert.first().and_then(|certificate| X509Certificate::from_der(certificate).ok());
    if let Some((_, certificate)) = parsed {
        gauge!(TLS_CERTIFICATE_EXPIRY).set(certificate.validity().not_after.timestamp() as f64);
    }
}

/// A name in a certificate (subject alternative name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// Such as `spiffe://example.org/orchestrator`.
    Uri(String),
    /// In lower case.
    Dns(String),
}

impl SubjectName {
    /// Reads `dns:NAME`, or a URI with an authority.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            |text: &str| !text.is_empty() && text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.strip_prefix("dns:") {
            Some(name) => (fits(name) && !name.contains('*')).then(|| Self::Dns(name.to_ascii_lowercase())),
            None => (fits(text) && text.contains("://")).then(|| Self::Uri(text.to_owned())),
        }
    }
}

/// The certificate that a caller showed and TLS verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    names: Vec<SubjectName>,
    thumbprint: [u8; SHA256_OUTPUT_LEN],
    not_after: i64,
}

impl ClientCertificate {
    /// Reads a certificate that was verified.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()?.map_or_else(Vec::new, |extension| {
            let names = extension.value.general_names.iter();
            names
                .filter_map(|name| match name {
                    GeneralName::URI(uri) => Some(SubjectName::Uri((*uri).to_owned())),
                    GeneralName::DNSName(name) => Some(SubjectName::Dns(name.to_ascii_lowercase())),
                    _ => None,
                })
                .collect()
        });
        let thumbprint = sized(digest(&SHA256, der).as_ref());
        Some(Self { names, thumbprint, not_after: certificate.validity().not_after.timestamp() })
    }

    pub fn names(&self) -> &[SubjectName] {
        &self.names
    }

    /// SHA-256 of the certificate, as `x5t#S256` has it (RFC 8705).
    pub fn thumbprint(&self) -> &[u8; SHA256_OUTPUT_LEN] {
        &self.thumbprint
    }

    /// Whether it is still good; a connection may outlive its certificate.
    pub fn is_good_at(&self, unix_seconds: i64) -> bool {
        unix_seconds <= self.not_after
    }
}
