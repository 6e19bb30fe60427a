//! Who may call: keys, and the check of one on each request. Owns the key material that the
//! server holds, digests only. Must not know what a caller wants to do.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method};
use integration_model::ErrorCode;
use integration_model::principal::Principal;

use crate::config::Secret;
use crate::error::ApiError;
use crate::telemetry::metrics::HTTP_AUTH_FAILURES;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Tells this service's keys from others, for people and for scanners of leaked secrets.
pub const KEY_PREFIX: &str = "isk_";

/// How much of a key is shown to tell keys apart: its prefix and four characters.
const SHOWN_LENGTH: usize = KEY_PREFIX.len() + 4;

/// Longer credentials than any of ours are refused before they are hashed.
const MAX_KEY_LENGTH: usize = 512;

/// Makes a key of 256 random bits.
pub fn generate_key() -> Result<Secret, RandomnessUnavailable> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).map_err(|_| RandomnessUnavailable)?;
    Ok(Secret::new(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's source of randomness failed")]
pub struct RandomnessUnavailable;

/// A key as the server knows it: what it hashes to, and who comes with it.
#[derive(Clone)]
pub struct AccessKey {
    digest: [u8; SHA256_OUTPUT_LEN],
    principal: Arc<Principal>,
}

impl AccessKey {
    /// The admin key: its principal may act for all tenants.
    pub fn admin(key: &Secret) -> Self {
        let shown = match key.expose().get(..SHOWN_LENGTH) {
            Some(shown) if shown.starts_with(KEY_PREFIX) => shown,
            // Part of a key that somebody chose may be all that is hard to guess of it.
            _ => "admin",
        };
        Self::new(key, Principal { name: format!("api-key:{shown}").into(), ..Principal::system() })
    }

    pub fn new(key: &Secret, principal: Principal) -> Self {
        Self { digest: hash(key.expose()), principal: Arc::new(principal) }
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("principal", &self.principal).finish_non_exhaustive()
    }
}

fn hash(key: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    out
}

/// The keys that are valid now. Swapped as a whole; cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessKeys(Arc<ArcSwap<KeysByPrefix>>);

/// By the first bytes of the digest, so that thousands of keys cost no more than one. Those
/// bytes of a hash tell nothing of the key; the rest is compared in constant time.
type KeysByPrefix = HashMap<[u8; 8], Vec<AccessKey>>;

impl AccessKeys {
    pub fn new(keys: impl IntoIterator<Item = AccessKey>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(by_prefix(keys))))
    }

    /// Puts other keys in the place of all that were valid.
    pub fn replace(&self, keys: impl IntoIterator<Item = AccessKey>) {
        self.0.store(Arc::new(by_prefix(keys)));
    }

    /// Who comes with these headers: `Authorization: Bearer` or `X-API-Key`, and with
    /// `basic` also a password under any user name.
    pub fn authenticate(&self, headers: &HeaderMap, basic: bool) -> Result<Arc<Principal>, ApiError> {
        let key = match presented_key(headers, basic) {
            Some(key) if key.expose().len() <= MAX_KEY_LENGTH => key,
            Some(_) => return Err(refused("the key is not valid", basic)),
            None => return Err(refused("send a key: Authorization: Bearer KEY, or X-API-Key: KEY", basic)),
        };
        let digest = hash(key.expose());
        let keys = self.0.load();
        keys.get(&prefix_of(&digest))
            .into_iter()
            .flatten()
            .find(|known| verify_slices_are_equal(&known.digest, &digest).is_ok())
            .map(|known| known.principal.clone())
            .ok_or_else(|| refused("the key is not valid", basic))
    }
}

fn by_prefix(keys: impl IntoIterator<Item = AccessKey>) -> KeysByPrefix {
    let mut map = KeysByPrefix::new();
    for key in keys {
        map.entry(prefix_of(&key.digest)).or_default().push(key);
    }
    map
}

fn prefix_of(digest: &[u8; SHA256_OUTPUT_LEN]) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}

fn presented_key(headers: &HeaderMap, basic: bool) -> Option<Secret> {
    if let Some(key) = headers.get(API_KEY) {
        return key.to_str().ok().map(Secret::new);
    }
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Secret::new(value.trim()));
    }
    if basic && scheme.eq_ignore_ascii_case("basic") && value.len() <= 2 * MAX_KEY_LENGTH {
        let decoded = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        return decoded.split_once(':').map(|(_, password)| Secret::new(password));
    }
    None
}

fn refused(detail: &str, basic: bool) -> ApiError {
    ::metrics::counter!(HTTP_AUTH_FAILURES).increment(1);
    // Browsers ask for a password only where Basic is offered.
    let challenge = if basic { "Basic realm=\"Integration Service\"" } else { "Bearer realm=\"Integration Service\"" };
    ApiError::new(ErrorCode::Unauthenticated, detail).with_challenge(challenge)
}

/// Whether a browser may open this with a password: reading the service's own state and
/// description.
fn takes_basic(method: &Method, path: &str) -> bool {
    (method == Method::GET || method == Method::HEAD)
        && (path.starts_with("/status/") || path == "/docs" || path.starts_with("/docs/") || path == "/openapi.json")
}

/// Lets only known callers through; the handler finds an `Arc<Principal>` in the request's
/// extensions.
pub(crate) async fn require_key(State(keys): State<AccessKeys>, mut request: Request, next: Next) -> Response {
    let basic = takes_basic(request.method(), request.uri().path());
    match keys.authenticate(request.headers(), basic) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn a_key_is_taken_in_each_of_its_places_and_nothing_else_is() {
        let key = generate_key().expect("randomness");
        let keys = AccessKeys::new([AccessKey::admin(&key)]);
        let text = key.expose();
        for good in [
            headers(AUTHORIZATION, &format!("Bearer {text}")),
            headers(AUTHORIZATION, &format!("bearer  {text}")),
            headers(API_KEY, text),
        ] {
            let principal = keys.authenticate(&good, false).expect("the key");
            assert_eq!(*principal.name, format!("api-key:{}", &text[..8]));
        }
        let password = headers(AUTHORIZATION, &format!("Basic {}", STANDARD.encode(format!("anyone:{text}"))));
        assert!(keys.authenticate(&password, true).is_ok());
        assert!(keys.authenticate(&password, false).is_err());
        for bad in [
            HeaderMap::new(),
            headers(API_KEY, ""),
            headers(API_KEY, &text[..text.len() - 1]),
            headers(API_KEY, &"x".repeat(10_000)),
            headers(AUTHORIZATION, text),
            headers(AUTHORIZATION, "Basic %%%"),
        ] {
            let error = keys.authenticate(&bad, true).expect_err("no valid key");
            assert_eq!(error.code, ErrorCode::Unauthenticated);
        }
        keys.replace([]);
        assert!(keys.authenticate(&headers(API_KEY, text), false).is_err());
    }

    #[test]
    fn a_chosen_key_is_not_shown_in_its_name() {
        let key = Secret::new("correct-horse-battery");
        assert_eq!(&*AccessKey::admin(&key).principal.name, "api-key:admin");
        assert!(!format!("{:?}{key:?}", AccessKey::admin(&key)).contains("horse"));
    }
}
