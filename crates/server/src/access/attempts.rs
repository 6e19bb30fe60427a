//! Slows those who try out keys: after so many failures in a minute, further failures from the
//! same address are told to wait. What is valid is let in all the same, so that nobody locks
//! out others behind one address. Must not know what was presented.

use std::net::{IpAddr, Ipv6Addr};

use integration_engine::policy::rate_limit::KeyedRateLimiter;
use integration_model::ErrorCode;
use integration_model::definition::RateLimits;
use tokio::time::Instant;

use crate::error::ApiError;
use crate::telemetry::metrics::HTTP_AUTH_LIMITED;

/// The most addresses that are remembered.
const MAX_SOURCES: usize = 16_384;

/// Failures by the address they come from.
pub(super) struct FailedAttempts(KeyedRateLimiter<IpAddr>);

impl FailedAttempts {
    pub(super) fn new(per_minute: u32) -> Self {
        let limits = RateLimits {
            requests_per_minute: Some(per_minute),
            burst_limit: Some(per_minute),
            ..RateLimits::default()
        };
        Self(KeyedRateLimiter::new(&limits, MAX_SOURCES))
    }

    /// Counts a failure: gives its own error, or the one of too many.
    pub(super) fn count(&self, source: IpAddr, error: ApiError) -> ApiError {
        match self.0.try_acquire(&network_of(source), Instant::now(), 1) {
            Ok(_) => error,
            Err(refused) => {
                ::metrics::counter!(HTTP_AUTH_LIMITED).increment(1);
                let detail = "too many requests with keys that are not valid came from this address";
                ApiError::new(ErrorCode::RateLimitExceeded, detail).with_retry_after(refused.retry_after)
            }
        }
    }
}

impl std::fmt::Debug for FailedAttempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailedAttempts").field("sources", &self.0.len()).finish()
    }
}

/// One caller has a whole /64 of IPv6 addresses.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_by_network_and_minute() {
        let attempts = FailedAttempts::new(3);
        let code = |source: &str| {
            let error = ApiError::new(ErrorCode::Unauthenticated, "no");
            attempts.count(source.parse().expect("an address"), error)
        };
        for _ in 0..3 {
            assert_eq!(code("192.0.2.1").code, ErrorCode::Unauthenticated);
        }
        let limited = code("::ffff:192.0.2.1");
        assert_eq!(limited.code, ErrorCode::RateLimitExceeded);
        assert!(limited.retry_after.is_some_and(|after| after <= Duration::from_secs(20)));
        assert_eq!(code("192.0.2.2").code, ErrorCode::Unauthenticated);
        for last in 1..=3 {
            assert_eq!(code(&format!("2001:db8::{last}")).code, ErrorCode::Unauthenticated);
        }
        assert_eq!(code("2001:db8::9").code, ErrorCode::RateLimitExceeded);
        assert_eq!(code("2001:db8:0:1::9").code, ErrorCode::Unauthenticated);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(code("192.0.2.1").code, ErrorCode::Unauthenticated);
    }
}
