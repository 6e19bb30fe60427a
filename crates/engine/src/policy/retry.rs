//! Retry: the one place that decides whether a failed attempt is repeated, and when.
//!
//! Owns: the decision and the budget. Must not know: how an attempt is made. A call that may
//! have taken effect is repeated only where the upstream is said to bear it.

use std::sync::Mutex;
use std::time::Duration;

use integration_model::ErrorCode;
use integration_model::definition::RetryConfig;
use tokio::time::Instant;

use super::lock;
use crate::adapter::{CallError, Effect};
use crate::prefetch;

/// When and how often failed attempts of one method are repeated; without a config, never.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    config: Option<RetryConfig>,
}

/// What makes a call safe to make twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeatability {
    /// The method says so.
    pub idempotent: bool,
    /// Each attempt carries the same idempotency key in a header that the upstream reads.
    pub idempotency_key_sent: bool,
}

/// An attempt that failed, and what is left of its call.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt<'a> {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    pub error: &'a CallError,
    pub repeatability: Repeatability,
    /// Until the deadline of the call.
    pub remaining: Duration,
    pub now: Instant,
    /// A random number from 0 up to 1, that one not included.
    pub jitter: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Make another attempt after this long.
    RetryAfter(Duration),
    Stop(StopReason),
}

/// Why no other attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The method has no retry policy.
    NoPolicy,
    /// Trying again would not mend the error.
    NotRetryable,
    /// The policy does not list the error's code.
    CodeNotListed,
    /// The upstream may have acted, and is not said to bear the call twice.
    NotRepeatable,
    /// `maxRetries` are made.
    RetriesUsedUp,
    /// The delay, or the upstream's own `Retry-After`, goes beyond the call's deadline.
    DeadlineTooNear,
    /// Too many calls of this instance are being retried already.
    BudgetUsedUp,
}

impl StopReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "no_policy",
            Self::NotRetryable => "not_retryable",
            Self::CodeNotListed => "code_not_listed",
            Self::NotRepeatable => "not_repeatable",
            Self::RetriesUsedUp => "retries_used_up",
            Self::DeadlineTooNear => "deadline_too_near",
            Self::BudgetUsedUp => "budget_used_up",
        }
    }
}

impl RetryPolicy {
    pub fn new(config: Option<&RetryConfig>) -> Self {
        let config = config.cloned().map(|mut config| {
            config.backoff_multiplier = config.backoff_multiplier.clamp(1.0, 100.0);
            config
        });
        Self { config }
    }

    /// Decides. A retry takes from the budget; everything else is looked at before.
    ///
    /// The delay is the larger of the backoff with full jitter (0 up to `initialDelayMs` ×
    /// `backoffMultiplier`^retries, at most `maxDelayMs`) and the upstream's `Retry-After`.
    pub fn decide(&self, failed: &FailedAttempt<'_>, budget: &RetryBudget) -> Decision {
        match self.delay(failed) {
            Err(reason) => Decision::Stop(reason),
            Ok(_) if !budget.try_spend(failed.now) => Decision::Stop(StopReason::BudgetUsedUp),
            Ok(delay) => Decision::RetryAfter(delay),
        }
    }

    fn delay(&self, failed: &FailedAttempt<'_>) -> Result<Duration, StopReason> {
        let config = self.config.as_ref().ok_or(StopReason::NoPolicy)?;
        let error = failed.error;
        if !error.retryable {
            return Err(StopReason::NotRetryable);
        }
        if config.retryable_errors.as_ref().is_some_and(|codes| !codes.contains(&error.code)) {
            return Err(StopReason::CodeNotListed);
        }
        if !is_safe_to_repeat(error, failed.repeatability) {
            return Err(StopReason::NotRepeatable);
        }
        let retries_made = failed.attempt.saturating_sub(1);
        if retries_made >= config.max_retries {
            return Err(StopReason::RetriesUsedUp);
        }
        let jitter = if failed.jitter.is_nan() { 1.0 } else { failed.jitter.clamp(0.0, 1.0) };
        let backoff = config.delay(retries_made).mul_f64(jitter);
        let delay = error.limits.retry_after.map_or(backoff, |asked| asked.max(backoff));
        if delay >= failed.remaining {
            return Err(StopReason::DeadlineTooNear);
        }
        Ok(delay)
    }
}

/// Whether the same call may be made again without the risk that it takes effect twice.
///
/// An answered call took what effect its answer says; only 429 says for sure that it took
/// none. A 503 may come from a proxy whose upstream went on.
fn is_safe_to_repeat(error: &CallError, repeatability: Repeatability) -> bool {
    if repeatability.idempotent || repeatability.idempotency_key_sent {
        return true;
    }
    match error.effect {
        Effect::None => true,
        Effect::Answered => error.upstream_status == Some(429) || error.code == ErrorCode::RateLimitExceeded,
        Effect::Unknown => false,
    }
}

/// How many retries the calls of one instance may cause together, so that retries do not
/// double the load on an upstream in trouble: a share of the calls, and a few a second
/// besides, so that quiet instances can retry at all.
#[derive(Debug)]
pub struct RetryBudget {
    share: f64,
    per_second: f64,
    balance: Mutex<Balance>,
}

#[derive(Debug)]
struct Balance {
    /// Earned by calls.
    earned: f64,
    /// Granted by time.
    granted: f64,
    settled_at: Instant,
}

/// Calls earn no more retries in advance than this, so that a long quiet time does not pay
/// for a storm.
const MOST_EARNED: f64 = 100.0;

impl RetryBudget {
    /// Retries may be `share` of the calls (0.2 for one in five), and `per_second` besides.
    pub fn new(share: f64, per_second: f64, now: Instant) -> Self {
        let per_second = per_second.max(0.0);
        Self {
            share: share.clamp(0.0, 1.0),
            per_second,
            balance: Mutex::new(Balance { earned: 0.0, granted: per_second, settled_at: now }),
        }
    }

    /// One in five calls, and ten a second besides.
    pub fn usual(now: Instant) -> Self {
        Self::new(0.2, 10.0, now)
    }

    pub(crate) fn prefetch(&self) {
        prefetch::words(self.balance.is_poisoned());
    }

    /// Counts a call: its first attempt.
    pub fn record_call(&self) {
        let mut balance = lock(&self.balance);
        balance.earned = (balance.earned + self.share).min(MOST_EARNED);
    }

    fn try_spend(&self, now: Instant) -> bool {
        let mut balance = lock(&self.balance);
        let elapsed = now.saturating_duration_since(balance.settled_at).as_secs_f64();
        balance.granted = (balance.granted + elapsed * self.per_second).min(self.per_second);
        balance.settled_at = balance.settled_at.max(now);
        // A hair of tolerance: five times a fifth is not quite one in floating point.
        let whole = 1.0 - 1e-9;
        if balance.granted >= whole {
            balance.granted -= 1.0;
        } else if balance.earned >= whole {
            balance.earned -= 1.0;
        } else {
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::UpstreamLimits;

    fn policy() -> RetryPolicy {
        RetryPolicy::new(Some(&RetryConfig {
            max_retries: 3,
            backoff_multiplier: 2.0,
            initial_delay_ms: 100,
            max_delay_ms: 300,
            retryable_errors: Some(vec![ErrorCode::Upstream, ErrorCode::Timeout]),
        }))
    }

    fn error(effect: Effect, status: Option<u16>) -> CallError {
        CallError {
            retryable: true,
            effect,
            upstream_status: status,
            ..CallError::not_sent(ErrorCode::Upstream, "the upstream failed")
        }
    }

    const ONCE: Repeatability = Repeatability { idempotent: false, idempotency_key_sent: false };
    const IDEMPOTENT: Repeatability = Repeatability { idempotent: true, idempotency_key_sent: false };
    const WITH_KEY: Repeatability = Repeatability { idempotent: false, idempotency_key_sent: true };

    fn failed(error: &CallError) -> FailedAttempt<'_> {
        FailedAttempt {
            attempt: 1,
            error,
            repeatability: IDEMPOTENT,
            remaining: Duration::from_secs(10),
            now: Instant::now(),
            jitter: 0.5,
        }
    }

    fn decide(failed: &FailedAttempt<'_>) -> Decision {
        policy().decide(failed, &RetryBudget::usual(failed.now))
    }

    #[test]
    fn delays_grow_to_their_bound_and_are_jittered() {
        let error = error(Effect::Answered, Some(500));
        let delays: Vec<_> = (1..=4).map(|attempt| decide(&FailedAttempt { attempt, ..failed(&error) })).collect();
        let millis = |millis| Decision::RetryAfter(Duration::from_millis(millis));
        assert_eq!(delays, [millis(50), millis(100), millis(150), Decision::Stop(StopReason::RetriesUsedUp)]);
        assert_eq!(decide(&FailedAttempt { jitter: 0.0, ..failed(&error) }), millis(0));
    }

    #[test]
    fn what_would_not_help_is_not_tried() {
        let fault = error(Effect::None, None);
        let hopeless = CallError { retryable: false, ..fault.clone() };
        assert_eq!(decide(&failed(&hopeless)), Decision::Stop(StopReason::NotRetryable));
        let unlisted = CallError { code: ErrorCode::Auth, ..fault.clone() };
        assert_eq!(decide(&failed(&unlisted)), Decision::Stop(StopReason::CodeNotListed));
        let attempt = failed(&fault);
        let budget = RetryBudget::usual(attempt.now);
        assert_eq!(RetryPolicy::new(None).decide(&attempt, &budget), Decision::Stop(StopReason::NoPolicy));
    }

    #[test]
    fn a_call_that_may_have_happened_is_not_repeated_by_itself() {
        let allowed = |effect, status, repeatability| {
            let error = error(effect, status);
            decide(&FailedAttempt { repeatability, ..failed(&error) }) != Decision::Stop(StopReason::NotRepeatable)
        };
        assert!(allowed(Effect::None, None, ONCE));
        assert!(allowed(Effect::Answered, Some(429), ONCE), "429 says that nothing was done");
        assert!(!allowed(Effect::Answered, Some(503), ONCE));
        assert!(!allowed(Effect::Answered, Some(500), ONCE));
        assert!(!allowed(Effect::Unknown, None, ONCE));
        for repeatability in [IDEMPOTENT, WITH_KEY] {
            assert!(allowed(Effect::Unknown, None, repeatability));
            assert!(allowed(Effect::Answered, Some(503), repeatability));
        }
    }

    #[test]
    fn retry_after_is_obeyed_and_stops_where_the_deadline_is_nearer() {
        let limits = UpstreamLimits { retry_after: Some(Duration::from_secs(2)), ..Default::default() };
        let error = CallError { limits, ..error(Effect::Answered, Some(503)) };
        assert_eq!(decide(&failed(&error)), Decision::RetryAfter(Duration::from_secs(2)));
        let near = FailedAttempt { remaining: Duration::from_secs(2), ..failed(&error) };
        assert_eq!(decide(&near), Decision::Stop(StopReason::DeadlineTooNear));
    }

    #[test]
    fn retries_are_a_share_of_the_calls_and_a_few_a_second() {
        let start = Instant::now();
        let budget = RetryBudget::new(0.2, 2.0, start);
        let spent = |now| (0..1_000).take_while(|_| budget.try_spend(now)).count();
        assert_eq!(spent(start), 2, "what time grants");
        (0..50).for_each(|_| budget.record_call());
        assert_eq!(spent(start), 10, "a fifth of the calls");
        assert_eq!(spent(start + Duration::from_secs(60)), 2, "time saves up no more than a second's worth");
        (0..100_000).for_each(|_| budget.record_call());
        assert_eq!(spent(start + Duration::from_secs(60)), 100, "nor do calls without end");
    }

    #[test]
    fn a_stopped_retry_costs_no_budget() {
        let error = error(Effect::Unknown, None);
        let attempt = FailedAttempt { repeatability: ONCE, ..failed(&error) };
        let budget = RetryBudget::new(0.0, 1.0, attempt.now);
        assert_eq!(policy().decide(&attempt, &budget), Decision::Stop(StopReason::NotRepeatable));
        assert!(matches!(policy().decide(&failed(&error), &budget), Decision::RetryAfter(_)));
        let later = FailedAttempt { now: attempt.now, ..failed(&error) };
        assert_eq!(policy().decide(&later, &budget), Decision::Stop(StopReason::BudgetUsedUp));
    }

    #[test]
    fn extreme_settings_do_not_panic() {
        let config = RetryConfig {
            max_retries: u32::MAX,
            backoff_multiplier: -5.0,
            initial_delay_ms: u64::MAX,
            max_delay_ms: u64::MAX,
            retryable_errors: None,
        };
        let error = error(Effect::None, None);
        let attempt = FailedAttempt { attempt: u32::MAX, jitter: f64::NAN, ..failed(&error) };
        let budget = RetryBudget::usual(attempt.now);
        let _ = RetryPolicy::new(Some(&config)).decide(&attempt, &budget);
    }
}
