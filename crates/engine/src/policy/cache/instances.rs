//! What the cache knows of each instance: a generation, which ends when the instance is
//! cleared, and counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use integration_model::InstanceId;
use serde::Serialize;

/// More instances than this are not told apart at one time, as many as are kept ready; those
/// without answers are forgotten first.
pub(super) const MAX_INSTANCES: usize = 131_072;

/// What the cache does for one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatistics {
    pub entries: u64,
    pub bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub stale_hits: u64,
}

/// The counters of one instance. They are read for people only, so that nothing is ordered
/// by them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    generation: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    stale_hits: AtomicU64,
}

impl Counters {
    /// Belongs to the instance as it is now, until it is cleared.
    pub(super) fn join(self: &Arc<Self>) -> Membership {
        let generation = self.generation.load(Ordering::Acquire);
        Membership { counters: Arc::clone(self), generation, counted: 0 }
    }

    pub(super) fn record_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn statistics(&self) -> CacheStatistics {
        CacheStatistics {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale_hits: self.stale_hits.load(Ordering::Relaxed),
        }
    }

    fn end_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// That an answer belongs to an instance, counted there while the answer exists.
#[derive(Debug)]
pub(super) struct Membership {
    counters: Arc<Counters>,
    generation: u64,
    counted: u64,
}

impl Membership {
    /// Whether the instance has not been cleared since.
    pub(super) fn is_current(&self) -> bool {
        self.counters.generation.load(Ordering::Acquire) == self.generation
    }

    pub(super) fn count(&mut self, bytes: u64) {
        self.counted = bytes;
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn record_hit(&self) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record_miss(&self) {
        self.counters.record_miss();
    }

    pub(super) fn record_stale_hit(&self) {
        self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.counters.entries.fetch_sub(1, Ordering::Relaxed);
            self.counters.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

/// The counters of all instances.
pub(super) struct Instances {
    by_id: RwLock<HashMap<InstanceId, Arc<Counters>>>,
}

impl Instances {
    pub(super) fn new() -> Self {
        Self { by_id: RwLock::default() }
    }

    pub(super) fn get(&self, instance: &InstanceId) -> Option<Arc<Counters>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(instance).cloned()
    }

    pub(super) fn get_or_insert(&self, instance: &InstanceId) -> Arc<Counters> {
        if let Some(counters) = self.get(instance) {
            return counters;
        }
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        if by_id.len() >= MAX_INSTANCES && !by_id.contains_key(instance) {
            make_room(&mut by_id);
        }
        Arc::clone(by_id.entry(instance.clone()).or_default())
    }

    pub(super) fn clear(&self, instance: &InstanceId) {
        if let Some(counters) = self.get(instance) {
            counters.end_generation();
        }
    }
}

/// Forgets the instances that have no answers; if all have, all of them. The generation of
/// each ends with it, since its answers could no longer be found to be cleared.
fn make_room(by_id: &mut HashMap<InstanceId, Arc<Counters>>) {
    let is_idle = |counters: &Arc<Counters>| counters.entries.load(Ordering::Relaxed) == 0;
    let all_busy = !by_id.values().any(is_idle);
    by_id.retain(|_, counters| {
        let forget = all_busy || is_idle(counters);
        if forget {
            counters.end_generation();
        }
        !forget
    });
}
