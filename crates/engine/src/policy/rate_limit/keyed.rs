//! One limit for each of many: users, tenants.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Mutex;

use integration_model::definition::RateLimits;
use tokio::time::Instant;

use super::pace::Pace;
use super::{Permit, RateLimitSnapshot, Refused};
use crate::policy::lock;

/// Keys are spread over this many maps, so that callers seldom wait for each other.
const SHARDS: usize = 16;

/// A limiter for each key, made when the key first calls.
///
/// At most `max_keys` are remembered. When there are more, those whose limit is untouched are
/// forgotten, which changes nothing for them; if all are in use, those that called least
/// recently are, and start afresh when they come back.
pub struct KeyedRateLimiter<K> {
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
    max_keys_per_shard: usize,
}

struct Shard<K> {
    limits: RateLimits,
    entries: HashMap<K, Entry>,
}

struct Entry {
    pace: Pace,
    used_at: Instant,
}

impl<K: Hash + Eq + Clone> KeyedRateLimiter<K> {
    pub fn new(limits: &RateLimits, max_keys: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { limits: *limits, entries: HashMap::new() })).collect();
        Self { hasher: RandomState::new(), shards, max_keys_per_shard: (max_keys / SHARDS).max(1) }
    }

    /// As [`super::RateLimiter::try_acquire`], for one key.
    pub fn try_acquire<Q>(&self, key: &Q, now: Instant, cost: u32) -> Result<Permit, Refused>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut shard = lock(self.shard(key));
        if let Some(entry) = shard.entries.get_mut(key) {
            entry.used_at = now;
            return entry.pace.try_acquire(now, cost);
        }
        if shard.entries.len() >= self.max_keys_per_shard {
            shard.make_room(now);
        }
        let mut pace = Pace::new(&shard.limits, now);
        let outcome = pace.try_acquire(now, cost);
        shard.entries.insert(key.to_owned(), Entry { pace, used_at: now });
        outcome
    }

    /// Gives back what a call took that was not made after all.
    pub fn refund<Q>(&self, key: &Q, now: Instant, permit: Permit)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(entry) = lock(self.shard(key)).entries.get_mut(key) {
            entry.pace.refund(now, permit);
        }
    }

    /// The limiter of a key; of one that never called, a fresh one.
    pub fn snapshot<Q>(&self, key: &Q, now: Instant) -> RateLimitSnapshot
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = lock(self.shard(key));
        let limits = shard.limits;
        match shard.entries.get_mut(key) {
            Some(entry) => entry.pace.snapshot(now),
            None => Pace::new(&limits, now).snapshot(now),
        }
    }

    /// Changes the settings for all keys; what they used up stays used up.
    pub fn reconfigure(&self, now: Instant, limits: &RateLimits) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.limits = *limits;
            for entry in shard.entries.values_mut() {
                entry.pace.reconfigure(now, limits);
            }
        }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<Shard<K>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

impl<K: Hash + Eq + Clone> Shard<K> {
    /// Forgets the untouched; if there are none, the eighth that called least recently. So
    /// the cost of looking at all is shared by the many keys that then find room.
    fn make_room(&mut self, now: Instant) {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !entry.pace.is_untouched(now));
        if self.entries.len() < before {
            return;
        }
        let mut times: Vec<Instant> = self.entries.values().map(|entry| entry.used_at).collect();
        let eighth = times.len() / 8;
        let (_, &mut oldest, _) = times.select_nth_unstable(eighth);
        let mut to_forget = eighth + 1;
        self.entries.retain(|_, entry| {
            let forget = to_forget > 0 && entry.used_at <= oldest;
            to_forget -= usize::from(forget);
            !forget
        });
    }
}
