//! The keys that are valid now: digests only, and who comes with each. Must not know HTTP.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::principal::Principal;

use crate::config::Secret;

/// Tells this service's keys from others, for people and for scanners of leaked secrets.
pub const KEY_PREFIX: &str = "isk_";

/// How much of a key is shown to tell keys apart: its prefix and four characters.
const SHOWN_LENGTH: usize = KEY_PREFIX.len() + 4;

/// Longer keys than any of ours are refused before they are hashed.
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

/// All valid keys; swapped as a whole.
#[derive(Debug)]
pub(super) struct Keys(ArcSwap<KeysByPrefix>);

/// By the first bytes of the digest, so that thousands of keys cost no more than one. Those
/// bytes of a hash tell nothing of the key; the rest is compared in constant time.
type KeysByPrefix = HashMap<[u8; 8], Vec<AccessKey>>;

impl Keys {
    pub(super) fn new(keys: impl IntoIterator<Item = AccessKey>) -> Self {
        let mut map = KeysByPrefix::new();
        for key in keys {
            map.entry(prefix_of(&key.digest)).or_default().push(key);
        }
        Self(ArcSwap::from_pointee(map))
    }

    /// Who comes with this key.
    pub(super) fn find(&self, key: &Secret) -> Option<Arc<Principal>> {
        if key.expose().len() > MAX_KEY_LENGTH {
            return None;
        }
        let digest = hash(key.expose());
        let keys = self.0.load();
        keys.get(&prefix_of(&digest))?
            .iter()
            .find(|known| verify_slices_are_equal(&known.digest, &digest).is_ok())
            .map(|known| known.principal.clone())
    }
}

fn prefix_of(digest: &[u8; SHA256_OUTPUT_LEN]) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_key_is_not_shown_in_its_name() {
        let key = Secret::new("correct-horse-battery");
        assert_eq!(&*AccessKey::admin(&key).principal.name, "api-key:admin");
        assert!(!format!("{:?}{key:?}", AccessKey::admin(&key)).contains("horse"));
    }
}
