//! JSON Web Tokens of the configured issuers (RFC 7519, RFC 8725): verified, and remembered
//! until they expire. Must not know HTTP.

mod claims;
mod jwks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_engine::http_client::HttpClient;
use integration_model::json;
use integration_model::principal::Principal;
use integration_store::Clock;
use jsonwebtoken::{Algorithm, DecodingKey};
use metrics::counter;
use quick_cache::sync::Cache;
use serde_json::Value;

use crate::config::{JwtAlgorithm, JwtIssuerConfig};
use crate::telemetry::metrics::JWT_REFUSED;
use crate::tls::ClientCertificate;
use claims::{ClaimsReader, Verified};
use jwks::{Jwks, JwksAges, Place};

/// The most bytes of a token.
const MAX_TOKEN_LENGTH: usize = 8 * 1024;
/// The most tokens that are remembered.
const MAX_VERIFIED: usize = 10_000;

/// Why a token is not taken; callers are told no more than that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(&'static str);

type Checked<T> = Result<T, Refusal>;

/// Verifies tokens.
pub struct TokenVerifier {
    issuers: Vec<Issuer>,
    /// By digest, so that no usable token is kept.
    verified: Cache<[u8; SHA256_OUTPUT_LEN], Remembered>,
    clock: Clock,
}

struct Issuer {
    id: String,
    algorithms: Vec<Algorithm>,
    keys: IssuerKeys,
    claims: ClaimsReader,
}

enum IssuerKeys {
    Shared(DecodingKey),
    Published(Arc<Jwks>),
}

#[derive(Clone)]
struct Remembered {
    /// Of the keys that verified it: others may have taken their place.
    keys_version: u64,
    issuer: usize,
    token: Arc<Verified>,
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers = self.issuers.iter().map(|issuer| &issuer.id);
        f.debug_struct("TokenVerifier").field("issuers", &issuers.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl TokenVerifier {
    /// Knows these issuers; `http` fetches their keys.
    pub fn new(issuers: &[JwtIssuerConfig], http: &Arc<HttpClient>, clock: Clock) -> anyhow::Result<Self> {
        let issuers = issuers.iter().map(|config| {
            Issuer::new(config, http).with_context(|| format!("access.jwt of {} is not usable", config.name))
        });
        Ok(Self { issuers: issuers.collect::<Result<_, _>>()?, verified: Cache::new(MAX_VERIFIED), clock })
    }

    /// Whether a text has the form of a token: three parts.
    pub(super) fn is_token(text: &str) -> bool {
        text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Who comes with a token, on a connection where this certificate was shown.
    pub(super) async fn verify(&self, token: &str, certificate: Option<&ClientCertificate>) -> Option<Arc<Principal>> {
        match self.try_verify(token, certificate).await {
            Ok(principal) => Some(principal),
            Err(Refusal(reason)) => {
                counter!(JWT_REFUSED, "reason" => reason).increment(1);
                tracing::debug!(reason, "a token was refused");
                None
            }
        }
    }

    async fn try_verify(&self, token: &str, certificate: Option<&ClientCertificate>) -> Checked<Arc<Principal>> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(Refusal("too_long"));
        }
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let token = match self.remembered(&key) {
            Some(token) => token,
            None => self.verify_new(token, key).await?,
        };
        token.check(self.clock.now().as_secs(), certificate)?;
        Ok(Arc::clone(&token.principal))
    }

    fn remembered(&self, key: &[u8; SHA256_OUTPUT_LEN]) -> Option<Arc<Verified>> {
        let found = self.verified.get(key)?;
        let version = self.issuers.get(found.issuer)?.keys.version()?;
        (version == found.keys_version).then_some(found.token)
    }

    async fn verify_new(&self, token: &str, key: [u8; SHA256_OUTPUT_LEN]) -> Checked<Arc<Verified>> {
        let parts = Parts::split(token)?;
        let header = Header::read(parts.header)?;
        let claims = read_json(parts.claims)?;
        // Not believed yet: it says who has to have signed this.
        let named = claims.get("iss").and_then(Value::as_str).ok_or(Refusal("issuer"))?;
        let issuer = self.issuers.iter().position(|issuer| issuer.id == named).ok_or(Refusal("issuer"))?;
        let keys_version = self.issuers[issuer].verify_signature(&header, &parts).await?;
        let token = Arc::new(self.issuers[issuer].claims.read(&claims)?);
        token.check_time(self.clock.now().as_secs())?;
        self.verified.insert(key, Remembered { keys_version, issuer, token: Arc::clone(&token) });
        Ok(token)
    }
}

impl Issuer {
    fn new(config: &JwtIssuerConfig, http: &Arc<HttpClient>) -> anyhow::Result<Self> {
        let published = |place| {
            let ages = JwksAges {
                max_age: Duration::from_secs(config.jwks_max_age_seconds),
                max_stale: Duration::from_secs(config.jwks_max_stale_seconds),
                cooldown: Duration::from_secs(config.jwks_cooldown_seconds),
            };
            IssuerKeys::Published(Arc::new(Jwks::new(config.name.clone(), place, ages)))
        };
        let keys = match (&config.shared_key, &config.jwks_url, &config.jwks_file) {
            (Some(key), _, _) => IssuerKeys::Shared(DecodingKey::from_secret(key.expose().as_bytes())),
            (_, Some(url), _) => {
                published(Place::Url { url: url.parse().context("jwksUrl is no URL")?, http: Arc::clone(http) })
            }
            (_, _, Some(file)) => published(Place::File(file.clone())),
            _ => anyhow::bail!("it has no keys"),
        };
        Ok(Self {
            id: config.issuer.clone(),
            algorithms: config.algorithms.iter().map(|algorithm| algorithm_of(*algorithm)).collect(),
            keys,
            claims: ClaimsReader::new(config),
        })
    }

    /// Checks the signature by the issuer's keys alone: nothing that the token says of keys but
    /// the id is looked at. Gives the version of the keys.
    async fn verify_signature(&self, header: &Header, parts: &Parts<'_>) -> Checked<u64> {
        if !self.algorithms.contains(&header.algorithm) {
            return Err(Refusal("algorithm"));
        }
        let is_signed = |key: &DecodingKey| {
            key.family() == header.algorithm.family()
                && jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), key, header.algorithm)
                    .unwrap_or(false)
        };
        match &self.keys {
            IssuerKeys::Shared(key) if is_signed(key) => Ok(0),
            IssuerKeys::Shared(_) => Err(Refusal("signature")),
            IssuerKeys::Published(jwks) => {
                let (version, key) = jwks.find(header.key_id.as_deref(), header.algorithm).await?;
                if is_signed(&key) { Ok(version) } else { Err(Refusal("signature")) }
            }
        }
    }
}

impl IssuerKeys {
    /// Of the keys at hand, where they may be used.
    fn version(&self) -> Option<u64> {
        match self {
            Self::Shared(_) => Some(0),
            Self::Published(jwks) => jwks.version(),
        }
    }
}

/// A token taken apart.
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header and claims, as they were signed.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Checked<Self> {
        let malformed = Refusal("malformed");
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(malformed)?;
        if header.is_empty() || claims.is_empty() || signature.is_empty() || claims.contains('.') {
            return Err(malformed);
        }
        Ok(Self { header, claims, signature, signed })
    }
}

/// What is read of a token's header; all else in it is passed over.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(text: &str) -> Checked<Self> {
        let header = read_json(text)?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Refusal("malformed")),
        };
        // Extensions that must be understood; none is.
        if header.get("crit").is_some() {
            return Err(Refusal("extension"));
        }
        // A token for another use may be signed by the same keys (RFC 8725 3.11).
        let kind = text("typ")?.map(str::to_ascii_lowercase);
        let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        if !matches!(kind, None | Some("jwt" | "at+jwt")) {
            return Err(Refusal("type"));
        }
        let algorithm = text("alg")?.and_then(algorithm_named).ok_or(Refusal("algorithm"))?;
        Ok(Self { algorithm, key_id: text("kid")?.map(str::to_owned) })
    }
}

/// Each key comes once: readers differ in which of two they take.
fn read_json(text: &str) -> Checked<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal("malformed"))?;
    match json::from_slice(&bytes) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(Refusal("malformed")),
    }
}

/// By its exact name (RFC 7518); `none` has none.
fn algorithm_named(name: &str) -> Option<Algorithm> {
    serde_json::from_value(Value::from(name)).ok().map(algorithm_of)
}

fn algorithm_of(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::HS384 => Algorithm::HS384,
        JwtAlgorithm::HS512 => Algorithm::HS512,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::PS256 => Algorithm::PS256,
        JwtAlgorithm::PS384 => Algorithm::PS384,
        JwtAlgorithm::PS512 => Algorithm::PS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_lc_rs::hmac;
    use integration_engine::http_client::HttpClientSettings;
    use integration_engine::network::EgressPolicy;
    use integration_model::Timestamp;
    use serde_json::json;

    use super::*;

    const KEY: &str = "a-shared-key-of-thirty-two-bytes!";

    fn verifier(clock: &Clock) -> TokenVerifier {
        let config = json!({
            "name": "corp", "issuer": "i", "audience": "a", "sharedKey": KEY, "algorithms": ["HS256"],
            "clockSkewSeconds": 10, "defaultTenant": "*", "defaultRoles": ["monitor"],
        });
        let policy = EgressPolicy::parse([]).expect("a policy");
        let http = HttpClient::new(HttpClientSettings::default(), policy).expect("a client");
        let issuers = [serde_json::from_value(config).expect("an issuer")];
        TokenVerifier::new(&issuers, &Arc::new(http), clock.clone()).expect("a verifier")
    }

    fn token(claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "HS256"})), encode(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    #[tokio::test]
    async fn a_token_is_remembered_until_it_expires_and_no_longer() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000));
        let verifier = verifier(&clock);
        let token = token(&json!({"iss": "i", "aud": "a", "sub": "x", "exp": 1_100}));
        for _ in 0..2 {
            let principal = verifier.try_verify(&token, None).await.expect("a principal");
            assert_eq!(&*principal.name, "jwt:corp:x");
            assert_eq!(verifier.verified.len(), 1);
        }
        clock.advance(Duration::from_secs(109));
        assert!(verifier.try_verify(&token, None).await.is_ok());
        clock.advance(Duration::from_secs(1));
        assert_eq!(verifier.try_verify(&token, None).await, Err(Refusal("expired")));
    }

    #[tokio::test]
    async fn only_good_tokens_are_remembered() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000));
        let verifier = verifier(&clock);
        for (claims, reason) in [
            (json!({"iss": "i", "aud": "b", "sub": "x", "exp": 1_100}), "audience"),
            (json!({"iss": "i", "aud": "a", "sub": "x", "exp": 900}), "expired"),
            (json!({"iss": "i", "aud": "a", "sub": "x"}), "no_expiry"),
            (json!({"iss": "j", "aud": "a", "sub": "x", "exp": 1_100}), "issuer"),
        ] {
            assert_eq!(verifier.try_verify(&token(&claims), None).await, Err(Refusal(reason)));
        }
        assert!(verifier.verified.is_empty());
    }
}
