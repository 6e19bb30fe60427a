//! The settings of TLS for callers. Owns their types and rules. Must not know what the files
//! hold.

use std::path::PathBuf;

use integration_model::Problem;
use serde::Deserialize;

/// The certificate of the service, and whose certificates callers may show.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
    pub min_version: TlsVersion,
}

/// Whether callers are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Not asked for.
    None,
    /// Verified where a caller shows one.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

impl TlsConfig {
    /// Whether callers speak TLS with the service itself.
    pub fn is_on(&self) -> bool {
        self.certificate_file.is_some() || self.key_file.is_some()
    }

    /// Whether callers may come with certificates.
    pub fn takes_client_certificates(&self) -> bool {
        self.is_on() && self.client_certificates != ClientCertificates::None
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |fits: bool, field: &str, expected: &str| {
            if !fits {
                problems.push(Problem::new(format!("/server/tls/{field}"), expected));
            }
        };
        let both = "expected a certificate and its private key, or neither";
        expect(self.certificate_file.is_some() || self.key_file.is_none(), "certificateFile", both);
        expect(self.key_file.is_some() || self.certificate_file.is_none(), "keyFile", both);
        let asks = self.client_certificates != ClientCertificates::None;
        expect(
            self.is_on() || (!asks && self.client_ca_file.is_none()),
            "certificateFile",
            "expected the certificate of the service: without TLS, callers cannot show theirs",
        );
        expect(
            !asks || self.client_ca_file.is_some(),
            "clientCaFile",
            "expected the authorities whose client certificates are good",
        );
        expect(
            asks || self.client_ca_file.is_none(),
            "clientCertificates",
            "expected optional or required: clientCaFile is given",
        );
        problems
    }
}
