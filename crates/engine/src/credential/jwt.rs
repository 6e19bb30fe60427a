//! Tokens signed with a private key (RFC 7519, RFC 7523): RS256, ES256 and EdDSA.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::Timestamp;
use integration_model::definition::SigningAlgorithm;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// What the tokens say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TokenContent {
    pub(crate) key_id: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) subject: Option<String>,
    /// A string or an array of strings.
    pub(crate) audience: Option<Value>,
    pub(crate) claims: Map<String, Value>,
    pub(crate) ttl: Duration,
}

/// Signs tokens with one private key.
pub struct JwtSigner {
    key: SigningKey,
    algorithm: SigningAlgorithm,
    private_key_pem: SecretString,
    content: TokenContent,
    token_url: Option<String>,
}

pub(super) enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A token and the moment from which it is no longer valid.
pub struct SignedToken {
    pub token: SecretString,
    pub expires_at: Timestamp,
}

/// The key could not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the private key could not sign the token")]
pub struct SigningFailed;

impl JwtSigner {
    pub(crate) fn new(
        private_key_pem: SecretString,
        algorithm: SigningAlgorithm,
        content: TokenContent,
        token_url: Option<String>,
    ) -> Result<Self, String> {
        let key = SigningKey::from_pem(private_key_pem.expose_secret(), algorithm)?;
        Ok(Self { key, algorithm, private_key_pem, content, token_url })
    }

    /// Makes a token that holds from `now` for the configured time to live.
    pub fn sign(&self, now: Timestamp) -> Result<SignedToken, SigningFailed> {
        self.sign_content(&self.content, now)
    }

    /// Makes a token that says something else than the usual.
    pub(crate) fn sign_content(&self, content: &TokenContent, now: Timestamp) -> Result<SignedToken, SigningFailed> {
        let expires_at = now.saturating_add(content.ttl);
        let mut text = Zeroizing::new(String::with_capacity(512));
        URL_SAFE_NO_PAD.encode_string(content.header(self.algorithm).to_string(), &mut text);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(content.claims(now, expires_at).to_string(), &mut text);
        let signature = self.key.sign(text.as_bytes())?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(SignedToken { token: SecretString::from(text.as_str()), expires_at })
    }

    /// Where the signed assertion is exchanged for an access token; without it, the signed
    /// token itself goes with the requests.
    pub fn token_url(&self) -> Option<&str> {
        self.token_url.as_deref()
    }

    pub fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    pub(super) fn private_key_pem(&self) -> &SecretString {
        &self.private_key_pem
    }

    pub(super) fn content(&self) -> &TokenContent {
        &self.content
    }
}

impl TokenContent {
    fn header(&self, algorithm: SigningAlgorithm) -> Value {
        let mut header = json!({"alg": algorithm.as_str(), "typ": "JWT"});
        if let Some(key_id) = &self.key_id {
            header["kid"] = Value::from(key_id.as_str());
        }
        header
    }

    fn claims(&self, now: Timestamp, expires_at: Timestamp) -> Value {
        let mut claims = self.claims.clone();
        let TokenContent { issuer, subject, audience, .. } = self;
        let registered = [
            ("iss", issuer.as_deref().map(Value::from)),
            ("sub", subject.as_deref().map(Value::from)),
            ("aud", audience.clone()),
            ("iat", Some(Value::from(now.as_secs()))),
            ("exp", Some(Value::from(expires_at.as_secs()))),
        ];
        for (name, value) in registered {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value);
            }
        }
        Value::Object(claims)
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSigner({}, redacted)", self.algorithm.as_str())
    }
}

impl fmt::Debug for SignedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedToken(redacted, until {})", self.expires_at)
    }
}

impl SigningKey {
    pub(super) fn from_pem(pem: &str, algorithm: SigningAlgorithm) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "expected a private key in PEM (PKCS#8, or the older RSA and EC forms)".to_owned())?;
        let mismatch = |_| format!("expected a private key that signs {}", algorithm.as_str());
        match algorithm {
            SigningAlgorithm::Rs256 => {
                let key = match &der {
                    PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
                    other => RsaKeyPair::from_pkcs8(other.secret_der()),
                };
                Ok(Self::Rsa(Box::new(key.map_err(mismatch)?)))
            }
            SigningAlgorithm::Es256 => {
                let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let key = match &der {
                    PrivateKeyDer::Sec1(key) => EcdsaKeyPair::from_private_key_der(signing, key.secret_sec1_der()),
                    other => EcdsaKeyPair::from_pkcs8(signing, other.secret_der()),
                };
                Ok(Self::Ecdsa(Box::new(key.map_err(mismatch)?)))
            }
            SigningAlgorithm::EdDsa => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_der()).map_err(mismatch)?;
                Ok(Self::Ed25519(Box::new(key)))
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| SigningFailed)?;
                Ok(signature)
            }
            Self::Ecdsa(key) => {
                let signature = key.sign(&SystemRandom::new(), message).map_err(|_| SigningFailed)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}
