//! Single flight: of the calls that miss the same key, one asks the upstream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use integration_model::InstanceId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::instances::Membership;
use super::{CacheKey, CachedAnswer, NewAnswer, ResponseCache};
use crate::policy::lock;

/// How a caller gets its answer.
pub enum Flight<'a> {
    /// By asking the upstream; the others wait for it.
    Lead(FlightGuard<'a>),
    /// From another call, which asked the upstream just now.
    Filled(Arc<CachedAnswer>),
}

/// The lead in filling a key. Dropping it, as when the call fails or is cancelled, passes the
/// lead on.
pub struct FlightGuard<'a> {
    cache: &'a ResponseCache,
    key: CacheKey,
    id: u64,
    membership: Option<Membership>,
}

impl<'a> FlightGuard<'a> {
    pub(super) fn new(cache: &'a ResponseCache, key: CacheKey, id: u64, membership: Membership) -> Self {
        Self { cache, key, id, membership: Some(membership) }
    }

    /// Keeps the answer and hands it to those who wait.
    pub fn fill(mut self, answer: NewAnswer, now: Instant) -> Arc<CachedAnswer> {
        let membership = self.membership.take().expect("a guard fills once, since it is consumed");
        let answer = self.cache.store(self.key.clone(), answer, membership, now);
        self.cache.flights.land(&self.key, self.id, Some(Arc::clone(&answer)));
        answer
    }
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        self.cache.flights.land(&self.key, self.id, None);
    }
}

/// The flights under way. There are never more than calls under way.
pub(super) struct Flights {
    inner: Mutex<Inner>,
}

struct Inner {
    under_way: HashMap<CacheKey, UnderWay>,
    next_id: u64,
}

/// Dropping the sender tells those who wait that there will be no answer.
struct UnderWay {
    id: u64,
    outcome: watch::Sender<Option<Arc<CachedAnswer>>>,
}

pub(super) enum Joined {
    Leads(u64),
    Waits(Waiting),
}

pub(super) struct Waiting {
    outcome: watch::Receiver<Option<Arc<CachedAnswer>>>,
}

impl Waiting {
    /// The answer, or `None` where the leader had none.
    pub(super) async fn outcome(mut self) -> Option<Arc<CachedAnswer>> {
        self.outcome.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

impl Flights {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { under_way: HashMap::new(), next_id: 0 }) }
    }

    pub(super) fn join(&self, key: &CacheKey) -> Joined {
        let mut inner = lock(&self.inner);
        if let Some(flight) = inner.under_way.get(key) {
            return Joined::Waits(Waiting { outcome: flight.outcome.subscribe() });
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.under_way.insert(key.clone(), UnderWay { id, outcome: watch::Sender::new(None) });
        Joined::Leads(id)
    }

    /// Ends a flight, if it is still the one under way for its key.
    fn land(&self, key: &CacheKey, id: u64, answer: Option<Arc<CachedAnswer>>) {
        let mut inner = lock(&self.inner);
        if inner.under_way.get(key).is_none_or(|flight| flight.id != id) {
            return;
        }
        let flight = inner.under_way.remove(key);
        // Those who wait are woken without the lock held.
        drop(inner);
        if let Some(flight) = flight
            && answer.is_some()
        {
            flight.outcome.send_replace(answer);
        }
    }

    /// Ends the flights of an instance without an answer: who waits asks anew.
    pub(super) fn abandon(&self, instance: &InstanceId) {
        let mut inner = lock(&self.inner);
        let abandoned: Vec<_> = inner.under_way.extract_if(|key, _| key.instance() == instance).collect();
        drop(inner);
        drop(abandoned);
    }
}
