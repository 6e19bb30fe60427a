//! The keys that are valid now: digests only, and who comes with each. Must not know HTTP, nor
//! where keys are kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::Timestamp;
use integration_model::api_key::ApiKey;
use integration_model::principal::Principal;
use integration_store::Clock;

use crate::config::Secret;

/// Tells this service's keys from others, for people and for scanners of leaked secrets.
pub const KEY_PREFIX: &str = "isk_";

/// How much of the admin key is shown to tell it by: its prefix and four characters.
const SHOWN_OF_ADMIN: usize = KEY_PREFIX.len() + 4;

/// How much of other keys is shown: enough to tell all keys apart, while 208 bits stay hidden.
const SHOWN: usize = KEY_PREFIX.len() + 8;

/// Longer keys than any of ours are refused before they are hashed.
const MAX_KEY_LENGTH: usize = 512;

/// How exactly the last use of a key is known.
const USE_GRAIN: Duration = Duration::from_secs(1);

type Digest = [u8; SHA256_OUTPUT_LEN];

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

/// What is shown of a key that [`generate_key`] made.
pub(super) fn shown_of(key: &Secret) -> String {
    key.expose().chars().take(SHOWN).collect()
}

pub(super) fn hash(key: &str) -> Digest {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    out
}

/// A key as the server knows it: what it hashes to, and who comes with it.
#[derive(Clone)]
pub struct AccessKey {
    digest: Digest,
    principal: Arc<Principal>,
    expires_at: Option<Timestamp>,
    /// None for the admin key, which no row stands for.
    usage: Option<Arc<Usage>>,
}

/// When a key was last used, in microseconds since the epoch: as it is, and as it is stored.
#[derive(Debug, Default)]
struct Usage {
    last: AtomicI64,
    stored: AtomicI64,
}

impl AccessKey {
    /// The admin key: its principal may act for all tenants.
    pub fn admin(key: &Secret) -> Self {
        let shown = match key.expose().get(..SHOWN_OF_ADMIN) {
            Some(shown) if shown.starts_with(KEY_PREFIX) => shown,
            // Part of a key that somebody chose may be all that is hard to guess of it.
            _ => "admin",
        };
        Self {
            digest: hash(key.expose()),
            principal: Arc::new(Principal { name: format!("api-key:{shown}").into(), ..Principal::system() }),
            expires_at: None,
            usage: None,
        }
    }

    fn stored(key: &ApiKey, digest: Digest, usage: Arc<Usage>) -> Self {
        Self { digest, principal: Arc::new(key.principal()), expires_at: key.expires_at, usage: Some(usage) }
    }

    /// Notes the use of a key that has not expired.
    fn is_used(&self, clock: &Clock) -> bool {
        if self.expires_at.is_none() && self.usage.is_none() {
            return true;
        }
        let now = clock.now();
        if self.expires_at.is_some_and(|at| at <= now) {
            return false;
        }
        if let Some(usage) = &self.usage {
            // A key that is used all the time is written to once a second: its users on other
            // cores do not wait for each other.
            let last = Timestamp::from_micros(usage.last.load(Ordering::Relaxed));
            if now.since(last) >= USE_GRAIN {
                usage.last.store(now.as_micros(), Ordering::Relaxed);
            }
        }
        true
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// All valid keys; swapped as a whole.
#[derive(Debug)]
pub(super) struct Keys {
    admin: AccessKey,
    known: ArcSwap<Known>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Known {
    /// By the first bytes of the digest, so that thousands of keys cost no more than one.
    /// Those bytes of a hash tell nothing of the key; the rest is compared in constant time.
    by_prefix: HashMap<[u8; 8], Vec<AccessKey>>,
    /// By the id of the key.
    usages: BTreeMap<String, Arc<Usage>>,
}

impl Known {
    fn add(&mut self, key: AccessKey) {
        self.by_prefix.entry(prefix_of(&key.digest)).or_default().push(key);
    }
}

impl Keys {
    pub(super) fn new(admin: AccessKey, clock: Clock) -> Self {
        let mut known = Known::default();
        known.add(admin.clone());
        Self { admin, known: ArcSwap::from_pointee(known), clock }
    }

    /// Who comes with this key.
    pub(super) fn find(&self, key: &Secret) -> Option<Arc<Principal>> {
        if key.expose().len() > MAX_KEY_LENGTH {
            return None;
        }
        let digest = hash(key.expose());
        let known = self.known.load();
        let found = known
            .by_prefix
            .get(&prefix_of(&digest))?
            .iter()
            .find(|known| verify_slices_are_equal(&known.digest, &digest).is_ok())?;
        found.is_used(&self.clock).then(|| found.principal.clone())
    }

    /// Puts these in the place of all keys but the admin's.
    pub(super) fn replace(&self, keys: &[(ApiKey, Digest)]) {
        let before = self.known.load();
        let mut known = Known::default();
        known.add(self.admin.clone());
        for (key, digest) in keys {
            let usage = before.usages.get(&key.id).cloned().unwrap_or_default();
            known.add(AccessKey::stored(key, *digest, Arc::clone(&usage)));
            known.usages.insert(key.id.clone(), usage);
        }
        self.known.store(Arc::new(known));
    }

    /// When a key was last used in this process.
    pub(super) fn last_used(&self, id: &str) -> Option<Timestamp> {
        let micros = self.known.load().usages.get(id)?.last.load(Ordering::Relaxed);
        (micros > 0).then(|| Timestamp::from_micros(micros))
    }

    /// The last uses that [`Keys::uses_are_stored`] has not been told of.
    pub(super) fn unstored_uses(&self) -> BTreeMap<String, Timestamp> {
        let known = self.known.load();
        let uses = known.usages.iter().filter_map(|(id, usage)| {
            let last = usage.last.load(Ordering::Relaxed);
            (last > usage.stored.load(Ordering::Relaxed)).then(|| (id.clone(), Timestamp::from_micros(last)))
        });
        uses.collect()
    }

    pub(super) fn uses_are_stored(&self, uses: &BTreeMap<String, Timestamp>) {
        let known = self.known.load();
        for (id, at) in uses {
            if let Some(usage) = known.usages.get(id) {
                usage.stored.fetch_max(at.as_micros(), Ordering::Relaxed);
            }
        }
    }
}

fn prefix_of(digest: &Digest) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}

#[cfg(test)]
mod tests {
    use integration_model::principal::Role;

    use super::*;

    fn api_key(id: &str, expires_at: Option<Timestamp>) -> ApiKey {
        ApiKey {
            id: id.to_owned(),
            name: id.to_owned(),
            prefix: format!("isk_{id}"),
            roles: vec![Role::Monitor],
            grants: Vec::new(),
            tenant_id: None,
            created_at: Timestamp::EPOCH,
            created_by: "x".to_owned(),
            expires_at,
            revoked_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn a_chosen_key_is_not_shown_in_its_name() {
        let key = Secret::new("correct-horse-battery");
        assert_eq!(&*AccessKey::admin(&key).principal.name, "api-key:admin");
        assert!(!format!("{:?}{key:?}", AccessKey::admin(&key)).contains("horse"));
    }

    #[test]
    fn a_key_is_refused_from_the_moment_it_expires() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000));
        let keys = Keys::new(AccessKey::admin(&Secret::new("the-admin-s-own-key")), clock.clone());
        let (lasting, ending) = (Secret::new("isk_lasting"), Secret::new("isk_ending"));
        let end = clock.now().saturating_add(Duration::from_secs(60));
        keys.replace(&[
            (api_key("lasting", None), hash(lasting.expose())),
            (api_key("ending", Some(end)), hash(ending.expose())),
        ]);
        assert_eq!(&*keys.find(&ending).expect("valid").name, "api-key:isk_ending");
        clock.advance(Duration::from_secs(60));
        assert!(keys.find(&ending).is_none());
        assert!(keys.find(&lasting).is_some());
        keys.replace(&[]);
        assert!(keys.find(&lasting).is_none());
        assert!(keys.find(&Secret::new("the-admin-s-own-key")).is_some(), "the admin key stays");
    }

    #[test]
    fn uses_are_told_once_and_outlive_a_replacement() {
        let clock = Clock::manual(Timestamp::from_micros(5_000_000));
        let keys = Keys::new(AccessKey::admin(&Secret::new("the-admin-s-own-key")), clock.clone());
        let stored = [(api_key("a", None), hash("isk_a")), (api_key("b", None), hash("isk_b"))];
        keys.replace(&stored);
        assert!(keys.unstored_uses().is_empty());
        keys.find(&Secret::new("isk_a")).expect("valid");
        keys.replace(&stored);
        let used = clock.now();
        assert_eq!((keys.last_used("a"), keys.last_used("b")), (Some(used), None));
        let uses = keys.unstored_uses();
        assert_eq!(uses, BTreeMap::from([("a".to_owned(), used)]));
        keys.uses_are_stored(&uses);
        assert!(keys.unstored_uses().is_empty());
        clock.advance(USE_GRAIN);
        keys.find(&Secret::new("isk_a")).expect("valid");
        assert_eq!(keys.unstored_uses(), BTreeMap::from([("a".to_owned(), clock.now())]));
    }
}
