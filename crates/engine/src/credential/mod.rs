//! Credentials in use: how each auth type applies itself to a request.
//!
//! Owns: the decrypted secret of an instance and its forms: what an author sends, what the
//! vault seals, what a request carries. Must not know: where credentials are stored, how
//! they are refreshed, who asks for them.

mod jwt;
mod parse;
mod redact;
mod signing_secrets;
pub(crate) mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use integration_model::Timestamp;
use integration_model::definition::{ApiKeyAuth, AuthType, CustomAuth, DefinitionSpec, SigningAlgorithm};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use jwt::SigningKey;
pub(crate) use jwt::TokenContent;
pub use jwt::{JwtSigner, SignedToken, SigningFailed};
pub(crate) use parse::wipe;
pub use parse::{CredentialFacts, InvalidStoredCredential};
pub use redact::REDACTED;
pub(crate) use redact::redact_secrets;

pub use signing_secrets::{SigningSecret, SigningSecrets};

use crate::network::ClientIdentity;

/// The decrypted secret of one instance. Has no printable form.
#[derive(Clone)]
pub enum Credential {
    /// The external system asks for none.
    None,
    Basic {
        username: String,
        password: SecretString,
    },
    ApiKey {
        key: SecretString,
        /// What stands before the key in a header.
        prefix: String,
        /// The header or query parameter that carries the key.
        name: String,
        location: ApiKeyLocation,
    },
    OAuth2(OAuth2Token),
    /// A token made elsewhere.
    Jwt {
        token: SecretString,
        expires_at: Option<Timestamp>,
    },
    /// A key that tokens are signed with.
    JwtKey(Arc<JwtSigner>),
    /// Named secrets, bound to headers and query parameters by the definition's `customAuth`.
    Custom(BTreeMap<String, SecretString>),
    /// Secrets that verify what external systems deliver; no request carries them.
    SigningSecrets(SigningSecrets),
    /// A token that a login call gave, next to what the request itself carries.
    WithToken {
        token: SecretString,
        /// What stands before the token.
        prefix: String,
        /// The header or query parameter that carries it.
        name: String,
        location: ApiKeyLocation,
        credential: Box<Credential>,
    },
    /// A client certificate for the TLS handshake, next to what the request itself carries.
    WithCertificate {
        certificate: Arc<ClientCertificate>,
        credential: Box<Credential>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyLocation {
    Header,
    Query,
}

/// The tokens of an OAuth 2 grant.
#[derive(Clone)]
pub struct OAuth2Token {
    pub access_token: SecretString,
    pub refresh_token: Option<SecretString>,
    /// The scheme of the `Authorization` header; `Bearer` unless the system said otherwise.
    pub token_type: String,
    pub scope: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// A client certificate with its key, checked to belong together.
pub struct ClientCertificate {
    certificate_pem: String,
    private_key_pem: SecretString,
    identity: Arc<ClientIdentity>,
}

/// What a definition says of the credentials of its instances.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuthWants<'a> {
    /// What carries an API key that does not say so itself.
    pub api_key: Option<&'a ApiKeyAuth>,
    /// Which fields a custom credential must have.
    pub custom: Option<&'a CustomAuth>,
}

impl<'a> AuthWants<'a> {
    pub fn of(definition: &'a DefinitionSpec) -> Self {
        Self { api_key: definition.api_key_auth.as_ref(), custom: definition.custom_auth.as_ref() }
    }
}

/// The credential cannot go into a request as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the credential cannot be used: {0}")]
pub struct NotUsable(String);

impl Credential {
    /// The auth type that this credential serves.
    pub fn auth_type(&self) -> AuthType {
        match self {
            Self::None => AuthType::None,
            Self::Basic { .. } => AuthType::Basic,
            Self::ApiKey { .. } => AuthType::ApiKey,
            Self::OAuth2(_) => AuthType::OAuth2,
            Self::Jwt { .. } | Self::JwtKey(_) => AuthType::Jwt,
            Self::Custom(_) | Self::SigningSecrets(_) => AuthType::Custom,
            Self::WithToken { credential, .. } | Self::WithCertificate { credential, .. } => credential.auth_type(),
        }
    }

    /// The credential without its client certificate.
    pub fn request_part(&self) -> &Self {
        match self {
            Self::WithCertificate { credential, .. } => credential.request_part(),
            other => other,
        }
    }

    /// The certificate to show in TLS handshakes, where the credential holds one.
    pub fn client_identity(&self) -> Option<&Arc<ClientIdentity>> {
        match self {
            Self::WithCertificate { certificate, .. } => Some(&certificate.identity),
            _ => None,
        }
    }

    /// The client certificate, where the credential holds one.
    pub(crate) fn client_certificate(&self) -> Option<&ClientCertificate> {
        match self {
            Self::WithCertificate { certificate, .. } => Some(certificate),
            _ => None,
        }
    }

    /// The credential as requests carry it: a key has signed a token, which holds until the
    /// time given beside it. A key whose assertion is exchanged elsewhere stays a key.
    pub fn signed(self, now: Timestamp) -> Result<(Self, Option<Timestamp>), SigningFailed> {
        match self {
            Self::JwtKey(signer) if signer.token_url().is_none() => {
                let SignedToken { token, expires_at } = signer.sign(now)?;
                Ok((Self::Jwt { token, expires_at: Some(expires_at) }, Some(expires_at)))
            }
            Self::WithCertificate { certificate, credential } => {
                let (credential, until) = credential.signed(now)?;
                Ok((Self::WithCertificate { certificate, credential: Box::new(credential) }, until))
            }
            other => Ok((other, None)),
        }
    }

    /// The credential with the tokens that this one was exchanged for; the refresh token
    /// stays where no other came. Gives too whether another came.
    pub(crate) fn renewed_by(self, token: OAuth2Token) -> (Self, bool) {
        match self {
            Self::OAuth2(old) => {
                let (was, is) = (old.refresh_token, token.refresh_token);
                let is_same = matches!((&was, &is), (Some(was), Some(is)) if was.expose_secret() == is.expose_secret());
                let brought_another = is.is_some() && !is_same;
                let scope = token.scope.or(old.scope);
                (Self::OAuth2(OAuth2Token { refresh_token: is.or(was), scope, ..token }), brought_another)
            }
            Self::WithCertificate { certificate, credential } => {
                let (credential, brought_another) = credential.renewed_by(token);
                (Self::WithCertificate { certificate, credential: Box::new(credential) }, brought_another)
            }
            _ => (Self::OAuth2(token), true),
        }
    }

    /// Adds what proves the caller to a request: headers, marked sensitive, and pairs of
    /// query parameters, not yet encoded. A field that `custom_auth` binds and the
    /// credential lacks is an error; other credentials do not look at it.
    ///
    /// A [`Credential::JwtKey`] cannot be applied: [`Credential::signed`] makes a token of it.
    pub fn apply<'a>(
        &'a self,
        custom_auth: Option<&'a CustomAuth>,
        headers: &mut HeaderMap,
        query: &mut Vec<(&'a str, &'a str)>,
    ) -> Result<(), NotUsable> {
        match self {
            Self::None => Ok(()),
            Self::Basic { username, password } => {
                let pair = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
                let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
                insert(headers, header::AUTHORIZATION, &value)
            }
            Self::ApiKey { key, prefix, name, location: ApiKeyLocation::Header } => {
                let value = Zeroizing::new(format!("{prefix}{}", key.expose_secret()));
                insert(headers, header_name(name)?, &value)
            }
            Self::ApiKey { key, name, location: ApiKeyLocation::Query, .. } => {
                query.push((name, key.expose_secret()));
                Ok(())
            }
            Self::OAuth2(token) => authorize(headers, &token.token_type, token.access_token.expose_secret()),
            Self::Jwt { token, .. } => authorize(headers, "Bearer", token.expose_secret()),
            Self::SigningSecrets(_) => Err(NotUsable("it verifies what comes in; no request carries it".to_owned())),
            Self::JwtKey(_) => {
                Err(NotUsable("its signed assertion has to be exchanged at the tokenUrl first".to_owned()))
            }
            Self::Custom(fields) => match custom_auth {
                Some(bindings) => apply_custom(fields, bindings, headers, query),
                None => Ok(()),
            },
            Self::WithToken { token, prefix, name, location, credential } => {
                credential.apply(custom_auth, headers, query)?;
                match location {
                    ApiKeyLocation::Header => {
                        let value = Zeroizing::new(format!("{prefix}{}", token.expose_secret()));
                        insert(headers, header_name(name)?, &value)
                    }
                    ApiKeyLocation::Query => {
                        query.push((name, token.expose_secret()));
                        Ok(())
                    }
                }
            }
            Self::WithCertificate { credential, .. } => credential.apply(custom_auth, headers, query),
        }
    }
}

impl ClientCertificate {
    /// For what makes its TLS itself: the certificates and the private key, in PEM.
    pub(crate) fn pem(&self) -> (&str, &SecretString) {
        (&self.certificate_pem, &self.private_key_pem)
    }

    /// The client's own certificate, without those of its authorities.
    pub(crate) fn der(&self) -> Result<CertificateDer<'static>, NotUsable> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|_| NotUsable("its certificate is not PEM".to_owned()))
    }

    /// A signature by the certificate's key (RSASSA-PKCS1-v1_5 with SHA-256).
    pub(crate) fn sign_rsa_sha256(&self, message: &[u8]) -> Result<Vec<u8>, NotUsable> {
        let key = SigningKey::from_pem(self.private_key_pem.expose_secret(), SigningAlgorithm::Rs256);
        let key = key.map_err(|_| NotUsable("expected an RSA key, which signs with SHA-256".to_owned()))?;
        key.sign(message).map_err(|_| NotUsable("its key could not sign".to_owned()))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, redacted)", self.auth_type().as_str())
    }
}

impl fmt::Debug for OAuth2Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OAuth2Token(redacted)")
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(redacted)")
    }
}

fn apply_custom<'a>(
    fields: &'a BTreeMap<String, SecretString>,
    bindings: &'a CustomAuth,
    headers: &mut HeaderMap,
    query: &mut Vec<(&'a str, &'a str)>,
) -> Result<(), NotUsable> {
    let field = |name: &String| {
        fields
            .get(name)
            .map(ExposeSecret::expose_secret)
            .ok_or_else(|| NotUsable(format!("it has no field {name:?}, which customAuth binds")))
    };
    for (wire_name, name) in &bindings.headers {
        insert(headers, header_name(wire_name)?, field(name)?)?;
    }
    for (wire_name, name) in &bindings.query {
        query.push((wire_name, field(name)?));
    }
    Ok(())
}

fn authorize(headers: &mut HeaderMap, scheme: &str, token: &str) -> Result<(), NotUsable> {
    let value = Zeroizing::new(format!("{scheme} {token}"));
    insert(headers, header::AUTHORIZATION, &value)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, secret: &str) -> Result<(), NotUsable> {
    let mut value = HeaderValue::from_bytes(secret.as_bytes())
        .map_err(|_| NotUsable(format!("a header cannot carry its value for {name}")))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn header_name(name: &str) -> Result<HeaderName, NotUsable> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| NotUsable(format!("{name:?} is no header name")))
}

#[cfg(test)]
mod tests;
