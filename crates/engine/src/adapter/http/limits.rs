//! What an upstream says of its limits: `Retry-After` (RFC 9110), `RateLimit` in the three
//! forms of its drafts, and the `X-RateLimit-*` of old.

use std::time::Duration;

use http::{HeaderMap, header};
use integration_model::Timestamp;

use crate::adapter::UpstreamLimits;

/// The longest wait that is believed.
pub(in crate::adapter) const MAX_WAIT: Duration = Duration::from_secs(7 * 86_400);
/// A reset beyond this many seconds is a point in time, not a wait.
const EPOCH_FROM: u64 = 100_000_000;
/// A reset beyond this is such a point in milliseconds.
const EPOCH_MILLIS_FROM: u64 = 100_000_000_000;

pub(in crate::adapter) fn limits(headers: &HeaderMap) -> UpstreamLimits {
    let (remaining, reset_after) = structured(headers).unwrap_or_else(|| single(headers));
    UpstreamLimits { remaining, reset_after, retry_after: retry_after(headers), cost: None }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// How long the `Retry-After` header asks to wait.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, header::RETRY_AFTER.as_str())?;
    match whole_seconds(value) {
        Some(seconds) => Some(wait(seconds)),
        None => Some(parse_http_date(value)?.since(now(headers)?).min(MAX_WAIT)),
    }
}

/// `RateLimit`: `"policy";r=50;t=30, …` (current draft) or `limit=100, remaining=50,
/// reset=30` (older ones). Of several policies, the one with the least left counts.
fn structured(headers: &HeaderMap) -> Option<(Option<u64>, Option<Duration>)> {
    let value = text(headers, "ratelimit")?;
    if value.contains("remaining=") {
        let pair = |name| {
            value.split(',').find_map(|part| part.trim().strip_prefix(name)).and_then(|rest| rest.split(';').next())
        };
        let remaining = pair("remaining=").and_then(whole_seconds);
        return Some((remaining, pair("reset=").and_then(whole_seconds).map(wait)));
    }
    value
        .split(',')
        .filter_map(|policy| {
            let parameter = |name| {
                policy.split(';').skip(1).find_map(|part| part.trim().strip_prefix(name)).and_then(whole_seconds)
            };
            parameter("r=").map(|remaining| (Some(remaining), parameter("t=").map(wait)))
        })
        .min_by_key(|(remaining, _)| *remaining)
}

/// One header for each figure.
fn single(headers: &HeaderMap) -> (Option<u64>, Option<Duration>) {
    let first = |names: [&str; 3]| {
        let value = names.into_iter().find_map(|name| text(headers, name))?;
        // Several windows may share a header; the first is the nearest.
        whole_seconds(value.split([',', ';']).next()?.trim())
    };
    let remaining = first(["ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining"]);
    let reset = first(["ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset"]).and_then(|reset| match reset {
        EPOCH_MILLIS_FROM.. => until(reset / 1000, headers),
        EPOCH_FROM.. => until(reset, headers),
        seconds => Some(wait(seconds)),
    });
    (remaining, reset)
}

/// Reads a number, its fraction (some send one) rounded up.
fn whole_seconds(text: &str) -> Option<u64> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((whole, fraction)) => {
            let is_number = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
            let whole: u64 = whole.parse().ok().filter(|_| is_number)?;
            Some(whole.saturating_add(u64::from(fraction.bytes().any(|b| b != b'0'))))
        }
    }
}

fn wait(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(MAX_WAIT)
}

fn until(epoch_seconds: u64, headers: &HeaderMap) -> Option<Duration> {
    let time = Timestamp::EPOCH.saturating_add(Duration::from_secs(epoch_seconds));
    Some(time.since(now(headers)?).min(MAX_WAIT))
}

/// The upstream's own time, by which its points in time go. One that does not tell its time
/// cannot be understood there.
fn now(headers: &HeaderMap) -> Option<Timestamp> {
    text(headers, header::DATE.as_str()).and_then(parse_http_date)
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the only form of dates that may still be sent.
fn parse_http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let (time, zone) = (words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    (zone == "GMT").then(|| Timestamp::parse(&format!("{year}-{month:02}-{day}T{time}Z")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn limits_of(pairs: &[(&'static str, &'static str)]) -> UpstreamLimits {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        limits(&headers)
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(limits_of(&[("retry-after", "120")]).retry_after, seconds(120));
        let date = [("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(limits_of(&date).retry_after, seconds(30));
        assert_eq!(limits_of(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]).retry_after, None);
        assert_eq!(limits_of(&[("retry-after", "soon")]).retry_after, None);
        assert_eq!(limits_of(&[("retry-after", "-5")]).retry_after, None);
        assert_eq!(limits_of(&[("retry-after", "99999999999999")]).retry_after, Some(MAX_WAIT));
    }

    #[test]
    fn all_forms_of_rate_limit_headers_are_read() {
        let expected = UpstreamLimits { remaining: Some(50), reset_after: seconds(30), ..Default::default() };
        assert_eq!(limits_of(&[("ratelimit", "\"default\";r=50;t=30")]), expected);
        assert_eq!(limits_of(&[("ratelimit", "\"day\";r=900;t=4000, \"minute\";r=50;t=30")]), expected);
        assert_eq!(limits_of(&[("ratelimit", "limit=100, remaining=50, reset=30")]), expected);
        assert_eq!(limits_of(&[("ratelimit-remaining", "50"), ("ratelimit-reset", "30")]), expected);
        assert_eq!(limits_of(&[("x-ratelimit-remaining", "50"), ("x-ratelimit-reset", "29.5")]), expected);
        assert_eq!(limits_of(&[("x-rate-limit-remaining", "50"), ("x-rate-limit-reset", "30")]), expected);
    }

    #[test]
    fn a_reset_may_be_a_point_in_time() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for reset in ["784111807", "784111807000"] {
            assert_eq!(limits_of(&[date, ("x-ratelimit-reset", reset)]).reset_after, seconds(30), "{reset}");
        }
    }

    #[test]
    fn nonsense_is_no_limit() {
        for value in ["", "x", "\"a\"", "r=1", ";;;", "remaining=", "\"a\";r=x;t=y"] {
            assert_eq!(limits_of(&[("ratelimit", value)]), UpstreamLimits::default(), "{value}");
        }
    }
}
