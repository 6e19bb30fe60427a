//! Rate limits: how often a method, an instance, a tenant or a user may call.
//!
//! Owns: the limiters and what they tell of themselves. Must not know: who is limited, or
//! how a refusal is answered.

mod cost;
mod keyed;
mod pace;

pub use cost::LearnedCost;
pub use keyed::KeyedRateLimiter;

use std::sync::Mutex;
use std::time::Duration;

use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use tokio::time::Instant;

use super::lock;
use crate::adapter::UpstreamLimits;
use crate::prefetch;
use pace::Pace;

/// One limit, shared by all who call under it.
///
/// - `token_bucket` refills at `requestsPerMinute` and holds `burstLimit` tokens
///   (`requestsPerMinute / 60` rounded up unless given).
/// - `fixed_window` counts `requestsPerMinute` in windows of one minute, each beginning with
///   the first call after the one before ended; a `burstLimit` caps each second the same way.
/// - `adaptive` is a token bucket that halves its rate where the upstream refuses, pauses
///   where the upstream says until when, and climbs back. Without `requestsPerMinute` it
///   lets everything through but the pauses.
#[derive(Debug)]
pub struct RateLimiter {
    pace: Mutex<Pace>,
}

/// A call that was let through. Dropping it is fine: the call then counts.
#[derive(Debug, Clone, Copy)]
#[must_use = "give it back with `refund` where a later stage refuses the call"]
pub struct Permit {
    cost: u32,
    taken_at: Instant,
}

/// A call that was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When the same call would be let through if nobody else called.
    pub retry_after: Duration,
}

/// A limiter at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimitSnapshot {
    pub algorithm: RateLimitAlgorithm,
    /// Calls a minute as configured; `None` without a limit.
    pub limit: Option<u32>,
    /// The most calls at once; `None` without a limit.
    pub burst: Option<u32>,
    /// Calls that would be let through now; `None` without a limit.
    pub remaining: Option<u32>,
    /// Until the limiter is as fresh as if nobody had called.
    pub reset_after: Duration,
    /// Calls a minute at the moment: below `limit` where an adaptive limiter slowed down.
    pub current_rate_per_minute: Option<f64>,
    /// Until when the upstream asked for no calls.
    pub paused_until: Option<Instant>,
}

impl RateLimiter {
    pub fn new(limits: &RateLimits, now: Instant) -> Self {
        Self { pace: Mutex::new(Pace::new(limits, now)) }
    }

    pub(crate) fn prefetch(&self) {
        prefetch::words(self.pace.is_poisoned());
    }

    /// Takes `cost` calls' worth. A cost above the most that the limiter ever holds is let
    /// through where the limiter is untouched, and paid off afterwards. A cost of 0 waits for
    /// pauses only.
    pub fn try_acquire(&self, now: Instant, cost: u32) -> Result<Permit, Refused> {
        lock(&self.pace).try_acquire(now, cost)
    }

    /// Gives back what a call took that was not made after all.
    pub fn refund(&self, now: Instant, permit: Permit) {
        lock(&self.pace).refund(now, permit);
    }

    /// Takes in what an answer said of the upstream's own limits; `refused` for 429 and 503.
    /// Only an adaptive limiter acts on it.
    pub fn observe(&self, now: Instant, limits: &UpstreamLimits, refused: bool) {
        lock(&self.pace).observe(now, limits, refused);
    }

    pub fn snapshot(&self, now: Instant) -> RateLimitSnapshot {
        lock(&self.pace).snapshot(now)
    }

    /// Changes the settings; what was used up stays used up.
    pub fn reconfigure(&self, now: Instant, limits: &RateLimits) {
        lock(&self.pace).reconfigure(now, limits);
    }
}

#[cfg(test)]
mod tests;
