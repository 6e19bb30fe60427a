//! The algorithms of a rate limiter, as plain state.

use std::time::Duration;

use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use tokio::time::Instant;

use super::{Permit, RateLimitSnapshot, Refused};
use crate::adapter::UpstreamLimits;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// The longest pause that an upstream can ask for, so that a wrong header does not stop an
/// instance for good.
const MAX_PAUSE: Duration = Duration::from_secs(3_600);
/// How long an adaptive limiter without a rate pauses after a refusal that named no time.
const DEFAULT_PAUSE: Duration = SECOND;
/// An adaptive limiter slows down no further than this share of its rate.
const LEAST_SHARE: f64 = 1.0 / 64.0;
/// How much of its rate an adaptive limiter wins back each second: half of it in 25 s.
const RECOVERY_PER_SECOND: f64 = 0.02;
/// Keeps sums of fractions from missing a whole token by a rounding error.
const ROUNDING: f64 = 1e-6;

/// The state of one limiter.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    limits: RateLimits,
    gate: Gate,
    paused_until: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Gate {
    Open,
    Bucket(Bucket),
    Windows { minute: Window, second: Option<Window> },
}

impl Gate {
    fn new(limits: &RateLimits, now: Instant) -> Self {
        match (limits.algorithm, limits.requests_per_minute) {
            (_, None) => Self::Open,
            (RateLimitAlgorithm::FixedWindow, Some(limit)) => Self::Windows {
                minute: Window::new(MINUTE, limit, now),
                second: limits.burst_limit.map(|burst| Window::new(SECOND, burst, now)),
            },
            (_, Some(per_minute)) => Self::Bucket(Bucket::new(per_minute, burst_of(limits, per_minute), now)),
        }
    }
}

fn burst_of(limits: &RateLimits, per_minute: u32) -> u32 {
    limits.burst_limit.unwrap_or_else(|| per_minute.div_ceil(60)).max(1)
}

impl Pace {
    pub(super) fn new(limits: &RateLimits, now: Instant) -> Self {
        Self { limits: *limits, gate: Gate::new(limits, now), paused_until: None }
    }

    pub(super) fn try_acquire(&mut self, now: Instant, cost: u32) -> Result<Permit, Refused> {
        if let Some(pause) = self.pause_left(now) {
            return Err(Refused { retry_after: pause });
        }
        match &mut self.gate {
            Gate::Open => {}
            Gate::Bucket(bucket) => bucket.take(now, cost)?,
            Gate::Windows { minute, second } => {
                minute.take(now, cost)?;
                if let Some(second) = second
                    && let Err(refused) = second.take(now, cost)
                {
                    minute.give_back(now, cost);
                    return Err(refused);
                }
            }
        }
        Ok(Permit { cost, taken_at: now })
    }

    pub(super) fn refund(&mut self, now: Instant, permit: Permit) {
        match &mut self.gate {
            Gate::Open => {}
            Gate::Bucket(bucket) => bucket.give_back(now, permit.cost),
            Gate::Windows { minute, second } => {
                minute.give_back(permit.taken_at, permit.cost);
                if let Some(second) = second {
                    second.give_back(permit.taken_at, permit.cost);
                }
            }
        }
    }

    pub(super) fn observe(&mut self, now: Instant, limits: &UpstreamLimits, refused: bool) {
        if self.limits.algorithm != RateLimitAlgorithm::Adaptive {
            return;
        }
        let exhausted = limits.remaining == Some(0);
        let mut pause = limits.retry_after;
        if exhausted || refused {
            pause = pause.max(limits.reset_after.filter(|_| exhausted));
            match &mut self.gate {
                Gate::Bucket(bucket) => bucket.slow_down(now),
                Gate::Open | Gate::Windows { .. } if refused => pause = pause.or(Some(DEFAULT_PAUSE)),
                Gate::Open | Gate::Windows { .. } => {}
            }
        }
        if let Some(pause) = pause {
            self.paused_until = self.paused_until.max(Some(now + pause.min(MAX_PAUSE)));
        }
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> RateLimitSnapshot {
        let pause = self.pause_left(now);
        let mut snapshot = RateLimitSnapshot {
            algorithm: self.limits.algorithm,
            limit: None,
            burst: None,
            remaining: None,
            reset_after: Duration::ZERO,
            current_rate_per_minute: None,
            paused_until: self.paused_until,
        };
        match &mut self.gate {
            Gate::Open => {}
            Gate::Bucket(bucket) => bucket.describe(now, &mut snapshot),
            Gate::Windows { minute, second } => {
                let free = minute.free(now);
                snapshot.limit = Some(minute.limit);
                snapshot.burst = Some(second.as_ref().map_or(minute.limit, |second| second.limit.min(minute.limit)));
                snapshot.remaining = Some(second.as_mut().map_or(free, |second| second.free(now).min(free)));
                snapshot.reset_after = minute.ends_after(now);
                snapshot.current_rate_per_minute = Some(f64::from(minute.limit));
            }
        }
        if let Some(pause) = pause {
            snapshot.remaining = snapshot.remaining.map(|_| 0);
            snapshot.reset_after = snapshot.reset_after.max(pause);
        }
        snapshot
    }

    pub(super) fn reconfigure(&mut self, now: Instant, limits: &RateLimits) {
        if self.limits == *limits {
            return;
        }
        let mut gate = Gate::new(limits, now);
        match (&mut gate, &mut self.gate) {
            (Gate::Bucket(new), Gate::Bucket(old)) => new.carry_over(now, old),
            (Gate::Windows { minute, second }, Gate::Windows { minute: old_minute, second: old_second }) => {
                minute.carry_over(old_minute);
                if let (Some(second), Some(old)) = (second, old_second) {
                    second.carry_over(old);
                }
            }
            _ => {}
        }
        if limits.algorithm != RateLimitAlgorithm::Adaptive {
            self.paused_until = None;
        }
        self.gate = gate;
        self.limits = *limits;
    }

    /// Whether forgetting this limiter would let nobody through who is not let through now.
    pub(super) fn is_untouched(&mut self, now: Instant) -> bool {
        let snapshot = self.snapshot(now);
        snapshot.paused_until.is_none() && snapshot.reset_after.is_zero()
    }

    fn pause_left(&mut self, now: Instant) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(now);
        if left.is_zero() {
            self.paused_until = None;
            return None;
        }
        Some(left)
    }
}

/// Tokens that refill steadily. The rate is a share of the nominal one: below 1 where an
/// upstream asked for less, and climbing.
#[derive(Debug, Clone)]
struct Bucket {
    per_minute: u32,
    capacity: f64,
    /// Below zero after a call that cost more than the bucket holds.
    tokens: f64,
    share: f64,
    settled_at: Instant,
    slowed_at: Option<Instant>,
}

impl Bucket {
    fn new(per_minute: u32, burst: u32, now: Instant) -> Self {
        let capacity = f64::from(burst);
        Self { per_minute, capacity, tokens: capacity, share: 1.0, settled_at: now, slowed_at: None }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.per_minute.max(1)) / 60.0
    }

    /// Adds what has flowed in since the last look, while the share itself climbed.
    fn settle(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.settled_at).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        let climbing = elapsed.min((1.0 - self.share) / RECOVERY_PER_SECOND);
        let reached = (self.share + climbing * RECOVERY_PER_SECOND).min(1.0);
        let nominal_seconds = (self.share + reached) / 2.0 * climbing + reached * (elapsed - climbing);
        self.tokens = (self.tokens + nominal_seconds * self.per_second()).min(self.capacity);
        self.share = reached;
        self.settled_at = now;
    }

    fn take(&mut self, now: Instant, cost: u32) -> Result<(), Refused> {
        self.settle(now);
        let cost = f64::from(cost);
        let missing = cost.min(self.capacity) - self.tokens;
        if cost > 0.0 && missing > ROUNDING {
            return Err(Refused { retry_after: self.time_to_gain(missing) });
        }
        self.tokens -= cost;
        Ok(())
    }

    fn give_back(&mut self, now: Instant, cost: u32) {
        self.settle(now);
        self.tokens = (self.tokens + f64::from(cost)).min(self.capacity);
    }

    /// How long until `tokens` more have flowed in, the climbing share included.
    fn time_to_gain(&self, tokens: f64) -> Duration {
        let nominal_seconds = tokens / self.per_second();
        let climb = (1.0 - self.share) / RECOVERY_PER_SECOND;
        let gained_in_climb = (self.share + 1.0) / 2.0 * climb;
        let seconds = if nominal_seconds >= gained_in_climb {
            climb + nominal_seconds - gained_in_climb
        } else {
            // share·t + recovery·t²/2 = nominal_seconds, solved for t.
            let root = (self.share * self.share + 2.0 * RECOVERY_PER_SECOND * nominal_seconds).sqrt();
            (root - self.share) / RECOVERY_PER_SECOND
        };
        // Rounded up to a whole millisecond: coming back exactly then must find the token.
        Duration::from_millis((seconds * 1_000.0).ceil().max(1.0) as u64)
    }

    /// Halves the rate and takes what is saved up. The many refusals of calls that were
    /// under way together count as one: at most one a second.
    fn slow_down(&mut self, now: Instant) {
        self.settle(now);
        if self.slowed_at.is_some_and(|at| now.saturating_duration_since(at) < SECOND) {
            return;
        }
        self.slowed_at = Some(now);
        self.share = (self.share / 2.0).max(LEAST_SHARE);
        self.tokens = self.tokens.min(0.0);
    }

    fn carry_over(&mut self, now: Instant, old: &mut Self) {
        old.settle(now);
        let used = old.capacity - old.tokens;
        self.tokens = (self.capacity - used).max(0.0);
        self.share = old.share;
        self.slowed_at = old.slowed_at;
    }

    fn describe(&mut self, now: Instant, snapshot: &mut RateLimitSnapshot) {
        self.settle(now);
        let missing = self.capacity - self.tokens;
        snapshot.limit = Some(self.per_minute);
        snapshot.burst = Some(self.capacity as u32);
        snapshot.remaining = Some((self.tokens + ROUNDING).max(0.0) as u32);
        snapshot.reset_after = if missing > ROUNDING { self.time_to_gain(missing) } else { Duration::ZERO };
        snapshot.current_rate_per_minute = Some(f64::from(self.per_minute) * self.share);
    }
}

/// Calls counted in windows, each beginning with the first call after the one before ended.
#[derive(Debug, Clone)]
struct Window {
    length: Duration,
    limit: u32,
    used: u32,
    started_at: Instant,
}

impl Window {
    fn new(length: Duration, limit: u32, now: Instant) -> Self {
        Self { length, limit: limit.max(1), used: 0, started_at: now }
    }

    fn ends_after(&self, now: Instant) -> Duration {
        if self.used == 0 {
            return Duration::ZERO;
        }
        (self.started_at + self.length).saturating_duration_since(now)
    }

    fn free(&mut self, now: Instant) -> u32 {
        if self.ends_after(now).is_zero() {
            self.used = 0;
        }
        self.limit.saturating_sub(self.used)
    }

    fn take(&mut self, now: Instant, cost: u32) -> Result<(), Refused> {
        let cost = cost.min(self.limit);
        if cost > self.free(now) {
            return Err(Refused { retry_after: self.ends_after(now) });
        }
        if self.used == 0 {
            self.started_at = now;
        }
        self.used += cost;
        Ok(())
    }

    /// Gives back what was taken at `taken_at`, unless that window is over.
    fn give_back(&mut self, taken_at: Instant, cost: u32) {
        if taken_at >= self.started_at {
            self.used = self.used.saturating_sub(cost.min(self.limit));
        }
    }

    fn carry_over(&mut self, old: &Self) {
        self.used = old.used;
        self.started_at = old.started_at;
    }
}
