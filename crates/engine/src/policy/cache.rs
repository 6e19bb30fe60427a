//! The response cache: answers given again, with single flight and a stale fallback.
//!
//! Owns: answers by key, their age, and which call fills a key while others wait. Must not
//! know: what an answer means, or when a stale one is good enough; the caller decides that.

mod flight;
mod instances;
mod key;

pub use flight::{Flight, FlightGuard};
pub use instances::CacheStatistics;
pub use key::{CacheKey, CacheScope, TextKey};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use integration_model::InstanceId;
use integration_model::definition::CacheConfig;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::time::Instant;

use flight::Flights;
use instances::{Instances, Membership};

/// What an entry costs besides its body: key, counters, bookkeeping.
const ENTRY_OVERHEAD: u64 = 256;
/// What an answer usually weighs, for the sizing of tables.
const USUAL_WEIGHT: u64 = 2_048;
/// Each part of the cache holds at least this much, so that large answers fit.
const LEAST_PART: u64 = 16 * 1024 * 1024;

/// Of how many texts of params it is known which answer they ask for; some hundred bytes each.
const KNOWN_TEXTS: usize = 32_768;

/// Keeps answers within a bound of memory; what is seldom asked for goes first.
pub struct ResponseCache {
    answers: Cache<CacheKey, Arc<CachedAnswer>, ByWeight>,
    instances: Instances,
    flights: Flights,
    /// Digests alone, apart from the answers: a caller who writes the same params in ever other
    /// ways makes no answer go. Like there, what is asked for again stays where others pass by.
    known: Cache<TextKey, CacheKey>,
}

/// An answer that was kept.
#[derive(Debug)]
pub struct CachedAnswer {
    /// JSON text.
    pub body: Bytes,
    pub upstream_status: Option<u16>,
    stored_at: Instant,
    ttl: Duration,
    stale_ttl: Duration,
    membership: Membership,
}

/// An answer to keep, and for how long.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    /// JSON text in a buffer of its own: a slice of a larger one would keep all of that.
    pub body: Bytes,
    pub upstream_status: Option<u16>,
    pub ttl: Duration,
    /// How long after `ttl` the answer may still stand in for an upstream that fails.
    pub stale_ttl: Duration,
}

impl NewAnswer {
    pub fn new(body: Bytes, upstream_status: Option<u16>, config: &CacheConfig) -> Self {
        let ttl = Duration::from_millis(config.ttl_ms);
        Self { body, upstream_status, ttl, stale_ttl: Duration::from_millis(config.stale_ttl_ms) }
    }
}

/// What the cache has for a key.
#[derive(Debug, Clone)]
pub enum Lookup {
    Fresh {
        answer: Arc<CachedAnswer>,
        age: Duration,
    },
    /// Good only where the upstream fails; [`ResponseCache::record_stale_hit`] where given.
    Stale {
        answer: Arc<CachedAnswer>,
        age: Duration,
    },
    Miss,
}

impl CachedAnswer {
    /// How long ago it was kept.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored_at)
    }

    fn weight(&self) -> u64 {
        self.body.len() as u64 + ENTRY_OVERHEAD
    }
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<CacheKey, Arc<CachedAnswer>> for ByWeight {
    fn weight(&self, _: &CacheKey, answer: &Arc<CachedAnswer>) -> u64 {
        answer.weight()
    }
}

impl ResponseCache {
    /// A cache of at most `max_bytes`; 0 keeps nothing.
    pub fn new(max_bytes: u64) -> Self {
        let parts = (max_bytes / LEAST_PART).clamp(1, 64);
        // A power of two, rounded down, so that no part gets smaller than meant.
        let parts = 1_usize << parts.ilog2();
        let options = OptionsBuilder::new()
            .shards(parts)
            .estimated_items_capacity(
                usize::try_from(max_bytes / USUAL_WEIGHT).unwrap_or(usize::MAX).clamp(32, 1 << 20),
            )
            .weight_capacity(max_bytes)
            .build()
            .expect("both capacities are set");
        Self {
            answers: Cache::with_options(options, ByWeight, DefaultHashBuilder::default(), DefaultLifecycle::default()),
            instances: Instances::new(),
            flights: Flights::new(),
            known: Cache::new(KNOWN_TEXTS),
        }
    }

    /// Which answer this text of params asks for, where that is known. It fitted its schema then.
    pub fn known(&self, text: &TextKey) -> Option<CacheKey> {
        self.known.get(text)
    }

    /// Notes which answer a text of params asks for: one that fits its schema.
    pub fn remember(&self, text: TextKey, key: &CacheKey) {
        self.known.insert(text, key.clone());
    }

    /// Looks a key up and counts the hit or the miss.
    pub fn lookup(&self, key: &CacheKey, now: Instant) -> Lookup {
        let lookup = self.peek(key, now);
        match &lookup {
            Lookup::Fresh { answer, .. } => answer.membership.record_hit(),
            Lookup::Stale { answer, .. } => answer.membership.record_miss(),
            Lookup::Miss => self.instances.get_or_insert(key.instance()).record_miss(),
        }
        lookup
    }

    fn peek(&self, key: &CacheKey, now: Instant) -> Lookup {
        let Some(answer) = self.answers.get(key) else { return Lookup::Miss };
        let age = answer.age(now);
        if !answer.membership.is_current() || age >= answer.ttl.saturating_add(answer.stale_ttl) {
            self.answers.remove_if(key, |kept| Arc::ptr_eq(kept, &answer));
            return Lookup::Miss;
        }
        if age < answer.ttl { Lookup::Fresh { answer, age } } else { Lookup::Stale { answer, age } }
    }

    /// Counts a stale answer that was given to a caller.
    pub fn record_stale_hit(&self, answer: &CachedAnswer) {
        answer.membership.record_stale_hit();
    }

    /// Takes the lead in filling a key, or waits for the call that has it.
    ///
    /// `Lead` goes to one caller at a time; the others wait until it fills the key (`Filled`
    /// for all of them), or gives up or is cancelled (`Lead` for the next). Bound the wait
    /// with the caller's own deadline; dropping the future is safe.
    pub async fn lead_or_wait(&self, key: &CacheKey, now: Instant) -> Flight<'_> {
        loop {
            let waiting = match self.flights.join(key) {
                flight::Joined::Leads(id) => {
                    let membership = self.instances.get_or_insert(key.instance()).join();
                    let guard = FlightGuard::new(self, key.clone(), id, membership);
                    // Another may have filled the key since this caller looked.
                    if let Lookup::Fresh { answer, .. } = self.peek(key, now) {
                        return Flight::Filled(answer);
                    }
                    return Flight::Lead(guard);
                }
                flight::Joined::Waits(waiting) => waiting,
            };
            if let Some(answer) = waiting.outcome().await {
                answer.membership.record_hit();
                return Flight::Filled(answer);
            }
        }
    }

    /// Keeps an answer, unless the instance was cleared since `membership` began.
    fn store(&self, key: CacheKey, new: NewAnswer, membership: Membership, now: Instant) -> Arc<CachedAnswer> {
        let mut answer = CachedAnswer {
            body: new.body,
            upstream_status: new.upstream_status,
            stored_at: now,
            ttl: new.ttl,
            stale_ttl: new.stale_ttl,
            membership,
        };
        let keep = answer.membership.is_current() && !(answer.ttl + answer.stale_ttl).is_zero();
        if keep {
            answer.membership.count(answer.weight());
        }
        let answer = Arc::new(answer);
        if keep {
            self.answers.insert(key, Arc::clone(&answer));
        }
        answer
    }

    /// Drops all answers of an instance, and those being fetched for it, at once.
    pub fn clear(&self, instance: &InstanceId) {
        self.instances.clear(instance);
        self.flights.abandon(instance);
        self.answers.retain(|key, _| key.instance() != instance);
        self.known.retain(|_, key| key.instance() != instance);
    }

    /// What the cache does for an instance. Hits, misses and stale hits count from the start,
    /// or from when the instance was last forgotten for lack of room.
    pub fn statistics(&self, instance: &InstanceId) -> CacheStatistics {
        self.instances.get(instance).map(|counters| counters.statistics()).unwrap_or_default()
    }

    /// Bytes kept at the moment, overhead included.
    pub fn bytes(&self) -> u64 {
        self.answers.weight()
    }
}

#[cfg(test)]
mod tests;
