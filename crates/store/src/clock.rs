//! Time and ids, injected so that tests steer them. Must not know what they are used for.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use integration_model::Timestamp;
use uuid::Uuid;

/// Tells the time: the system's, or one that stands until it is moved.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start`; clones move together.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.as_micros()))))
    }

    /// Moves a manual clock forward; the system's clock goes its own way.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(micros) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::SeqCst);
        }
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::EPOCH.saturating_add(since)
            }
            Source::Manual(micros) => Timestamp::from_micros(micros.load(Ordering::SeqCst)),
        }
    }
}

/// Makes UUIDv7s that strictly ascend within the process, also when the clock stands or
/// goes back.
#[derive(Debug, Clone)]
pub struct Ids {
    clock: Clock,
    state: Arc<Mutex<IdState>>,
}

struct IdState {
    last: Parts,
    random: Random,
}

impl std::fmt::Debug for IdState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdState").field("last", &self.last).finish_non_exhaustive()
    }
}

/// Random numbers, fetched many at a time: one alone costs more than the rest of an id.
struct Random {
    bytes: [u8; 1024],
    used: usize,
}

impl Random {
    fn next(&mut self) -> u128 {
        if self.used == self.bytes.len() {
            aws_lc_rs::rand::fill(&mut self.bytes).expect("the operating system gives random bytes");
            self.used = 0;
        }
        let number = self.bytes[self.used..].first_chunk().copied().unwrap_or_default();
        self.used += size_of::<u128>();
        u128::from_be_bytes(number)
    }
}

/// The two halves of a UUIDv7: milliseconds since the epoch, and 74 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Parts {
    millis: u64,
    tail: u128,
}

const TAIL_BITS: u32 = 74;
const LOW_BITS: u32 = 62;
const MAX_MILLIS: u64 = (1 << 48) - 1;

impl Parts {
    fn of(id: Uuid) -> Self {
        let bits = id.as_u128();
        let high = (bits >> 64) & 0xFFF;
        let low = bits & ((1 << LOW_BITS) - 1);
        Self { millis: millis_of(id), tail: (high << LOW_BITS) | low }
    }

    fn uuid(self) -> Uuid {
        let high = self.tail >> LOW_BITS;
        let low = self.tail & ((1 << LOW_BITS) - 1);
        let time = u128::from(self.millis.min(MAX_MILLIS)) << 80;
        Uuid::from_u128(time | (7 << 76) | (high << 64) | (0b10 << LOW_BITS) | low)
    }

    /// The next in order: the clock's time where that is later, else a random step further.
    fn successor(self, millis: u64, random: u128) -> Self {
        // Half of the range stays free for the steps within one millisecond.
        let fresh = random >> (128 - TAIL_BITS + 1);
        if millis > self.millis {
            return Self { millis, tail: fresh };
        }
        let tail = self.tail + 1 + (random & 0xFFFF_FFFF);
        if tail >> TAIL_BITS == 0 {
            Self { millis: self.millis, tail }
        } else {
            Self { millis: self.millis + 1, tail: fresh }
        }
    }
}

impl Ids {
    pub fn new(clock: Clock) -> Self {
        let random = Random { bytes: [0; 1024], used: 1024 };
        Self { clock, state: Arc::new(Mutex::new(IdState { last: Parts { millis: 0, tail: 0 }, random })) }
    }

    /// The next id.
    pub fn next(&self) -> Uuid {
        self.next_after(Uuid::nil())
    }

    /// The next id, which also lies after `floor`.
    pub(crate) fn next_after(&self, floor: Uuid) -> Uuid {
        let millis = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let random = state.random.next();
        state.last = state.last.max(Parts::of(floor)).successor(millis, random);
        state.last.uuid()
    }
}

/// The time inside a UUIDv7, in milliseconds since the epoch.
pub(crate) fn millis_of(id: Uuid) -> u64 {
    // The shift leaves 48 bits.
    (id.as_u128() >> 80) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_while_the_clock_stands_and_carry_its_time() {
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_123_456));
        let ids = Ids::new(clock.clone());
        let mut last = ids.next();
        assert_eq!(last.get_version_num(), 7);
        assert_eq!(millis_of(last), 1_700_000_000_123);
        for _ in 0..10_000 {
            let next = ids.next();
            assert!(next > last);
            assert_eq!(next.get_version_num(), 7);
            last = next;
        }
        clock.advance(Duration::from_millis(5));
        assert_eq!(millis_of(ids.next()), 1_700_000_000_128);
    }

    #[test]
    fn ids_go_on_after_a_floor_that_lies_ahead_of_the_clock() {
        let ids = Ids::new(Clock::manual(Timestamp::from_micros(1_000_000)));
        let floor = Ids::new(Clock::manual(Timestamp::from_micros(2_000_000))).next();
        let next = ids.next_after(floor);
        assert!(next > floor);
        assert!(ids.next() > next);
    }

    #[test]
    fn a_full_millisecond_flows_into_the_next() {
        let full = Parts { millis: 7, tail: (1 << TAIL_BITS) - 1 };
        let next = full.successor(7, 0);
        assert_eq!(next.millis, 8);
        assert!(next.uuid() > full.uuid());
    }
}
