use std::time::Duration;

use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use tokio::time::Instant;

use super::*;

fn limits(algorithm: RateLimitAlgorithm, per_minute: Option<u32>, burst: Option<u32>) -> RateLimits {
    RateLimits { requests_per_minute: per_minute, burst_limit: burst, algorithm }
}

fn bucket(per_minute: u32, burst: Option<u32>) -> RateLimits {
    limits(RateLimitAlgorithm::TokenBucket, Some(per_minute), burst)
}

fn admitted(limiter: &RateLimiter, now: Instant, tries: u32) -> u32 {
    (0..tries).filter(|_| limiter.try_acquire(now, 1).is_ok()).count() as u32
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_bucket_lets_its_burst_through_and_then_its_rate() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&bucket(600, Some(50)), start);
    assert_eq!(admitted(&limiter, start, 100), 50);
    assert_eq!(admitted(&limiter, start + SECOND, 100), 10);
    assert_eq!(admitted(&limiter, start + 60 * SECOND, 100), 50, "never more than the burst");
}

#[test]
fn a_burst_is_a_second_worth_unless_given_and_never_nothing() {
    let start = Instant::now();
    assert_eq!(admitted(&RateLimiter::new(&bucket(61, None), start), start, 10), 2);
    assert_eq!(admitted(&RateLimiter::new(&bucket(1, None), start), start, 10), 1);
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&bucket(7, Some(1)), start);
    let _ = limiter.try_acquire(start, 1).expect("the first call");
    let refused = limiter.try_acquire(start, 1).expect_err("the bucket is empty");
    assert!(limiter.try_acquire(start + refused.retry_after - Duration::from_millis(2), 1).is_err());
    assert!(limiter.try_acquire(start + refused.retry_after, 1).is_ok());
}

#[test]
fn a_refunded_call_does_not_count() {
    let start = Instant::now();
    for algorithm in [RateLimitAlgorithm::TokenBucket, RateLimitAlgorithm::FixedWindow] {
        let limiter = RateLimiter::new(&limits(algorithm, Some(60), Some(1)), start);
        let permit = limiter.try_acquire(start, 1).expect("the first call");
        limiter.refund(start, permit);
        assert_eq!(admitted(&limiter, start, 5), 1, "{algorithm:?}");
    }
}

#[test]
fn a_refund_into_a_later_window_is_not_a_gift() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limits(RateLimitAlgorithm::FixedWindow, Some(2), None), start);
    let permit = limiter.try_acquire(start, 1).expect("the first call");
    let later = start + 61 * SECOND;
    assert_eq!(admitted(&limiter, later, 5), 2);
    limiter.refund(later, permit);
    assert_eq!(admitted(&limiter, later, 5), 0);
}

#[test]
fn a_cost_above_the_burst_is_paid_off_afterwards() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&bucket(60, Some(10)), start);
    assert!(limiter.try_acquire(start, 30).is_ok());
    let refused = limiter.try_acquire(start, 1).expect_err("in debt");
    assert_eq!(refused.retry_after, 21 * SECOND);
}

#[test]
fn a_window_counts_a_minute_and_its_burst_a_second() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limits(RateLimitAlgorithm::FixedWindow, Some(5), Some(3)), start);
    assert_eq!(admitted(&limiter, start, 10), 3);
    assert_eq!(limiter.try_acquire(start, 1).expect_err("this second").retry_after, SECOND);
    assert_eq!(admitted(&limiter, start + SECOND, 10), 2);
    let refused = limiter.try_acquire(start + 2 * SECOND, 1).expect_err("this minute");
    assert_eq!(refused.retry_after, 58 * SECOND);
    assert_eq!(admitted(&limiter, start + 60 * SECOND, 10), 3);
}

#[test]
fn only_an_adaptive_limiter_acts_on_the_upstream() {
    let start = Instant::now();
    let says = UpstreamLimits { retry_after: Some(30 * SECOND), ..Default::default() };
    let limiter = RateLimiter::new(&bucket(60, Some(5)), start);
    limiter.observe(start, &says, true);
    assert_eq!(admitted(&limiter, start, 10), 5);
}

#[test]
fn an_adaptive_limiter_pauses_until_the_upstream_said() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limits(RateLimitAlgorithm::Adaptive, None, None), start);
    assert_eq!(admitted(&limiter, start, 1_000), 1_000, "no limit is configured");
    limiter.observe(start, &UpstreamLimits { retry_after: Some(30 * SECOND), ..Default::default() }, true);
    let refused = limiter.try_acquire(start + 10 * SECOND, 1).expect_err("paused");
    assert_eq!(refused.retry_after, 20 * SECOND);
    assert_eq!(limiter.snapshot(start).paused_until, Some(start + 30 * SECOND));
    assert!(limiter.try_acquire(start + 30 * SECOND, 1).is_ok());
    let used_up =
        UpstreamLimits { remaining: Some(0), reset_after: Some(Duration::from_secs(1 << 40)), ..Default::default() };
    limiter.observe(start + 30 * SECOND, &used_up, false);
    let refused = limiter.try_acquire(start + 30 * SECOND, 1).expect_err("paused");
    assert_eq!(refused.retry_after, 3_600 * SECOND, "no header pauses for longer than an hour");
}

#[test]
fn an_adaptive_limiter_halves_and_climbs_back() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limits(RateLimitAlgorithm::Adaptive, Some(6_000), Some(100)), start);
    for _ in 0..50 {
        limiter.observe(start, &UpstreamLimits::default(), true);
    }
    let slowed = limiter.snapshot(start);
    assert_eq!(slowed.current_rate_per_minute, Some(3_000.0), "refusals at the same time count once");
    assert_eq!(slowed.remaining, Some(0));
    let mut previous = 3_000.0;
    for second in 1..=25 {
        let rate = limiter.snapshot(start + second * SECOND).current_rate_per_minute.expect("a rate");
        assert!(rate > previous && rate <= 6_000.1, "{rate} after {second} s");
        previous = rate;
    }
    assert!(previous > 5_999.0);
}

#[test]
fn a_slowed_limiter_says_exactly_when_to_come_back() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&limits(RateLimitAlgorithm::Adaptive, Some(6), Some(3)), start);
    for second in 0..6 {
        limiter.observe(start + second * SECOND, &UpstreamLimits::default(), true);
    }
    let now = start + 6 * SECOND;
    for cost in [1, 2, 3] {
        let refused = limiter.try_acquire(now, cost).expect_err("slowed down");
        let again = RateLimiter { pace: Mutex::new(lock(&limiter.pace).clone()) };
        assert!(again.try_acquire(now + refused.retry_after - Duration::from_millis(2), cost).is_err());
        let again = RateLimiter { pace: Mutex::new(lock(&limiter.pace).clone()) };
        assert!(again.try_acquire(now + refused.retry_after, cost).is_ok());
    }
}

#[test]
fn settings_change_without_forgetting_what_was_used() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&bucket(60, Some(10)), start);
    assert_eq!(admitted(&limiter, start, 8), 8);
    limiter.reconfigure(start, &bucket(60, Some(20)));
    assert_eq!(limiter.snapshot(start).remaining, Some(12));
    limiter.reconfigure(start, &bucket(60, Some(5)));
    assert_eq!(limiter.snapshot(start).remaining, Some(0));
    limiter.reconfigure(start, &limits(RateLimitAlgorithm::FixedWindow, Some(3), None));
    assert_eq!(admitted(&limiter, start, 8), 3);
}

#[test]
fn time_that_runs_backwards_changes_nothing() {
    let start = Instant::now() + 10 * SECOND;
    let limiter = RateLimiter::new(&bucket(60, Some(1)), start);
    assert!(limiter.try_acquire(start, 1).is_ok());
    assert!(limiter.try_acquire(start - 5 * SECOND, 1).is_err());
    assert!(limiter.try_acquire(start + SECOND, 1).is_ok());
}

#[test]
fn a_snapshot_tells_what_the_headers_need() {
    let start = Instant::now();
    let limiter = RateLimiter::new(&bucket(60, Some(10)), start);
    assert_eq!(admitted(&limiter, start, 4), 4);
    let snapshot = limiter.snapshot(start);
    assert_eq!((snapshot.limit, snapshot.burst, snapshot.remaining), (Some(60), Some(10), Some(6)));
    assert_eq!(snapshot.reset_after, 4 * SECOND);
    assert_eq!(snapshot.current_rate_per_minute, Some(60.0));
}

#[test]
fn keys_are_limited_apart() {
    let start = Instant::now();
    let limiter = KeyedRateLimiter::<String>::new(&bucket(60, Some(1)), 100);
    let permit = limiter.try_acquire("a", start, 1).expect("a's first");
    assert!(limiter.try_acquire("a", start, 1).is_err());
    assert!(limiter.try_acquire("b", start, 1).is_ok());
    limiter.refund("a", start, permit);
    assert_eq!(limiter.snapshot("a", start).remaining, Some(1));
    assert_eq!(limiter.snapshot("unseen", start).remaining, Some(1));
}

#[test]
fn the_number_of_keys_is_bounded() {
    let start = Instant::now();
    let limiter = KeyedRateLimiter::<u32>::new(&bucket(1, Some(1)), 160);
    for key in 0..10_000 {
        assert!(limiter.try_acquire(&key, start + Duration::from_millis(u64::from(key)), 1).is_ok());
        assert!(limiter.len() <= 160);
    }
    assert!(limiter.try_acquire(&9_999, start + 10 * SECOND, 1).is_err(), "the latest are remembered");
}

#[test]
fn untouched_keys_are_forgotten_before_others() {
    let start = Instant::now();
    let limiter = KeyedRateLimiter::<u32>::new(&bucket(1, Some(5)), 1_600);
    for key in 1..1_500 {
        assert!(limiter.try_acquire(&key, start, 1).is_ok());
    }
    assert!(limiter.try_acquire(&0, start, 5).is_ok());
    // A minute later all buckets are full again but that of key 0, which called least recently.
    let later = start + 61 * SECOND;
    for key in 2_000..2_400 {
        assert!(limiter.try_acquire(&key, later, 1).is_ok());
    }
    assert!(limiter.try_acquire(&0, later, 5).is_err(), "key 0 is remembered");
}
