//! An issuer of JSON Web Tokens: signs what a test says, as issuers do and as attackers would.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "integrations";

/// Two key pairs, one for RS256 and one for ES256.
pub(crate) struct Issuer {
    rsa: rsa::KeyPair,
    ecdsa: EcdsaKeyPair,
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Now, as the tokens write it.
pub(crate) fn now() -> i64 {
    integration_store::Clock::system().now().as_secs()
}

/// Claims that are good, and these over them; a null takes one away.
pub(crate) fn claims(more: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "tenant": "acme", "roles": ["executor"],
        "iat": now(), "exp": now() + 600,
    });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|name, _| more.get(name) != Some(&Value::Null));
    claims
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let ecdsa = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { rsa: rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap(), ecdsa }
    }

    fn rsa_public(&self) -> (Vec<u8>, Vec<u8>) {
        let key = self.rsa.public_key();
        (
            key.modulus().big_endian_without_leading_zero().to_vec(),
            key.exponent().big_endian_without_leading_zero().to_vec(),
        )
    }

    /// The public keys, with ids that begin so, beside keys that nobody here can use.
    pub(crate) fn jwks(&self, prefix: &str) -> Value {
        let ((modulus, exponent), point) = (self.rsa_public(), self.ecdsa.public_key().as_ref());
        json!({"keys": [
            {"kty": "EC", "crv": "secp256k1", "kid": format!("{prefix}-k"), "x": "AA", "y": "AA"},
            {"kty": "oct", "kid": format!("{prefix}-oct"), "k": encode("a secret that everybody can read")},
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": format!("{prefix}-rsa"), "n": encode(modulus), "e": encode(exponent)},
            {"kty": "EC", "use": "sig", "crv": "P-256", "kid": format!("{prefix}-ec"), "x": encode(&point[1..33]), "y": encode(&point[33..])},
        ]})
    }

    /// A public key as text, which attackers take for an HMAC key.
    pub(crate) fn public_texts(&self) -> Vec<Vec<u8>> {
        use aws_lc_rs::encoding::AsDer as _;
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = self.rsa.public_key().as_der().unwrap();
        let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<_> =
            base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        vec![pem.clone().into_bytes(), pem.trim().to_owned().into_bytes(), der.as_ref().to_vec(), self.rsa_public().0]
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(header, &claims.to_string())
    }

    /// Signs by the algorithm that the header names.
    pub(crate) fn sign_text(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims));
        let signature = match header["alg"].as_str() {
            Some("RS256") => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            _ => self.ecdsa.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }

    /// A good token, of a good key, with these claims besides.
    pub(crate) fn token(&self, more: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "a-ec", "typ": "JWT"}), &claims(more))
    }
}

/// Signs with a shared key.
pub(crate) fn sign_shared(key: &[u8], header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", encode(tag))
}
