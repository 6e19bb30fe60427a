//! The keys that an issuer publishes (RFC 7517): fetched when they are needed, kept for a
//! while, used for a longer one while the issuer is away. Must not know what is signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use integration_engine::http_client::{HttpClient, OutboundRequest, RedirectMode, RedirectPolicy};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use metrics::counter;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Checked, Refusal};
use crate::telemetry::metrics::JWKS_FETCHES;

const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where keys are published.
pub(super) enum Place {
    Url { url: Uri, http: Arc<HttpClient> },
    File(PathBuf),
}

/// How long keys are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct JwksAges {
    /// After which they are fetched anew.
    pub(super) max_age: Duration,
    /// Until which they are used where fetching fails.
    pub(super) max_stale: Duration,
    /// Between two fetches, so that tokens with invented key ids cause few.
    pub(super) cooldown: Duration,
}

/// The keys of one issuer.
pub(super) struct Jwks {
    issuer: String,
    place: Place,
    ages: JwksAges,
    current: ArcSwapOption<KeySet>,
    versions: AtomicU64,
    /// When they were last asked for; held while they are.
    asked: Mutex<Option<Instant>>,
}

struct KeySet {
    keys: Vec<Key>,
    text: Bytes,
    version: u64,
    read_at: Instant,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, where it says.
    algorithm: Option<String>,
    curve: Option<EllipticCurve>,
    key: DecodingKey,
}

impl Jwks {
    pub(super) fn new(issuer: String, place: Place, ages: JwksAges) -> Self {
        let (current, versions, asked) = (ArcSwapOption::empty(), AtomicU64::new(1), Mutex::new(None));
        Self { issuer, place, ages, current, versions, asked }
    }

    /// The version of the keys at hand, where they may be used.
    pub(super) fn version(self: &Arc<Self>) -> Option<u64> {
        let set = self.current.load();
        let set = set.as_ref()?;
        let age = set.read_at.elapsed();
        if age > self.ages.max_age {
            if age > self.ages.max_stale {
                return None;
            }
            self.refresh_aside();
        }
        Some(set.version)
    }

    /// The key with this id, and the version of the keys that it is among; without an id, the
    /// only one that fits the algorithm.
    pub(super) async fn find(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Checked<(u64, DecodingKey)> {
        if let Some(version) = self.version()
            && let Some(key) = self.key_of(version, id, algorithm)
        {
            return Ok((version, key));
        }
        // A key that has just come into use, or none known at all: worth waiting for one fetch.
        self.refresh(self.asked.lock().await).await;
        let version = self.version().ok_or(Refusal("keys_unavailable"))?;
        self.key_of(version, id, algorithm).map(|key| (version, key)).ok_or(Refusal("unknown_key"))
    }

    fn key_of(&self, version: u64, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let set = self.current.load();
        let set = set.as_ref().filter(|set| set.version == version)?;
        let mut fitting =
            set.keys.iter().filter(|key| key.fits(algorithm) && (id.is_none() || key.id.as_deref() == id));
        let found = fitting.next()?;
        fitting.next().is_none().then(|| found.key.clone())
    }

    /// Fetches while callers go on with what is at hand.
    fn refresh_aside(self: &Arc<Self>) {
        let jwks = Arc::clone(self);
        if let Ok(asked) = self.asked.try_lock()
            && !self.is_cooling(*asked)
        {
            drop(asked);
            // It ends with the fetch, which has a deadline.
            tokio::spawn(async move {
                if let Ok(asked) = jwks.asked.try_lock() {
                    jwks.refresh(asked).await;
                }
            });
        }
    }

    fn is_cooling(&self, asked: Option<Instant>) -> bool {
        asked.is_some_and(|at| at.elapsed() < self.ages.cooldown)
    }

    async fn refresh(&self, mut asked: tokio::sync::MutexGuard<'_, Option<Instant>>) {
        if self.is_cooling(*asked) {
            return;
        }
        *asked = Some(Instant::now());
        let outcome = match self.fetch().await {
            Ok(text) => self.take(text),
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(()) => "fetched",
            Err(error) => {
                tracing::warn!(issuer = self.issuer, error, "the keys of an issuer could not be fetched");
                "failed"
            }
        };
        counter!(JWKS_FETCHES, "outcome" => outcome).increment(1);
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        match &self.place {
            Place::File(path) => read_file(path).await.map_err(|error| format!("{}: {error}", path.display())),
            Place::Url { url, http } => {
                let request = OutboundRequest {
                    method: Method::GET,
                    url: url.clone(),
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                    profile: None,
                    redirects: RedirectPolicy { mode: RedirectMode::None, max_hops: 0 },
                    max_response_bytes: MAX_BYTES,
                    repeatable: true,
                    fresh_connection: false,
                };
                let answer = http
                    .send(request, Instant::now() + FETCH_TIMEOUT)
                    .await
                    .map_err(|error| error.chain().to_string())?;
                if answer.status != StatusCode::OK {
                    return Err(format!("the answer was {}", answer.status));
                }
                Ok(answer.body)
            }
        }
    }

    fn take(&self, text: Bytes) -> Result<(), String> {
        let known = self.current.load_full();
        let set = match known.filter(|known| known.text == text) {
            Some(same) => KeySet { keys: same.keys.clone(), text, version: same.version, read_at: Instant::now() },
            None => {
                let keys = read_keys(&text)?;
                let version = self.versions.fetch_add(1, Ordering::Relaxed);
                KeySet { keys, text, version, read_at: Instant::now() }
            }
        };
        self.current.store(Some(Arc::new(set)));
        Ok(())
    }
}

impl Key {
    fn read(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let curve = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => None,
            AlgorithmParameters::EllipticCurve(key) => Some(key.curve.clone()),
            AlgorithmParameters::OctetKeyPair(key) => Some(key.curve.clone()),
            // A secret is never published, and what is unknown verifies nothing.
            _ => return None,
        };
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        Some(Self { id: jwk.common.key_id, algorithm, curve, key })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let curve = match algorithm {
            Algorithm::ES256 => Some(EllipticCurve::P256),
            Algorithm::ES384 => Some(EllipticCurve::P384),
            Algorithm::EdDSA => Some(EllipticCurve::Ed25519),
            _ => None,
        };
        self.key.family() == algorithm.family()
            && self.curve == curve
            && self.algorithm.as_ref().is_none_or(|own| *own == format!("{algorithm:?}"))
    }
}

/// Keys that cannot be used here are passed over: issuers publish those of other uses, too.
fn read_keys(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|_| "it is no JSON Web Key Set".to_owned())?;
    let keys: Vec<Key> = set.keys.into_iter().take(MAX_KEYS).filter_map(Key::read).collect();
    if keys.is_empty() { Err("it holds no key that verifies tokens".to_owned()) } else { Ok(keys) }
}

async fn read_file(path: &Path) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(MAX_BYTES as u64).read_to_end(&mut bytes).await?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const AGES: JwksAges = JwksAges {
        max_age: Duration::from_secs(600),
        max_stale: Duration::from_secs(3_600),
        cooldown: Duration::from_secs(30),
    };

    fn publish(path: &Path, id: &str) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = key.public_key().as_ref();
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let key =
            json!({"kty": "EC", "crv": "P-256", "kid": id, "x": encode(&point[1..33]), "y": encode(&point[33..])});
        std::fs::write(path, json!({"keys": [key]}).to_string()).expect("a file");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_asked_for_at_intervals_and_not_used_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("jwks.json");
        let jwks = Arc::new(Jwks::new("corp".to_owned(), Place::File(path.clone()), AGES));
        let found = async |id| jwks.find(Some(id), Algorithm::ES256).await.map(|(version, _)| version);
        publish(&path, "a");
        assert_eq!(found("a").await, Ok(1));
        publish(&path, "b");
        assert_eq!(found("b").await, Err(Refusal("unknown_key")), "they were asked for a moment ago");
        tokio::time::advance(AGES.cooldown).await;
        assert_eq!(found("b").await, Ok(2));
        assert_eq!(found("a").await, Err(Refusal("unknown_key")));

        std::fs::remove_file(&path).expect("a file");
        tokio::time::advance(AGES.max_age + Duration::from_secs(1)).await;
        assert_eq!(found("b").await, Ok(2), "the issuer is away");
        tokio::time::advance(AGES.max_stale).await;
        assert_eq!(found("b").await, Err(Refusal("keys_unavailable")));
        assert_eq!(jwks.version(), None, "tokens that were verified before are refused, too");
        publish(&path, "b");
        tokio::time::advance(AGES.cooldown).await;
        assert_eq!(found("b").await, Ok(3));
    }

    #[test]
    fn only_keys_that_verify_are_read() {
        assert!(read_keys(b"{}").is_err());
        assert!(read_keys(br#"{"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "new"}, 7]}"#).is_err());
    }
}
