//! What answers say of cost: the figures in `extensions.cost` (`requestedQueryCost`,
//! `actualQueryCost`, `throttleStatus`), a place that the author names, and rate headers.

use std::time::Duration;

use http::HeaderMap;

use super::answer::GraphqlAnswer;
use super::spec::CostSpec;
use crate::adapter::http::limits::{MAX_WAIT, limits};
use crate::adapter::{Cost, UpstreamLimits};

const REQUESTED: &str = "/extensions/cost/requestedQueryCost";
const ACTUAL: &str = "/extensions/cost/actualQueryCost";
const AVAILABLE: &str = "/extensions/cost/throttleStatus/currentlyAvailable";
const RESTORED_PER_SECOND: &str = "/extensions/cost/throttleStatus/restoreRate";

/// How much of a limit a call takes.
pub(super) fn cost(spec: Option<&CostSpec>) -> Cost {
    match spec {
        Some(CostSpec::Declared(cost)) => Cost::Fixed(*cost),
        _ => Cost::Learned,
    }
}

/// What an answer says of the upstream's limits; `refused` where it refused for them.
pub(super) fn upstream_limits(
    spec: Option<&CostSpec>,
    headers: &HeaderMap,
    answer: &GraphqlAnswer,
    refused: bool,
) -> UpstreamLimits {
    let mut limits = limits(headers);
    limits.cost = match spec {
        Some(CostSpec::Declared(_)) => None,
        Some(CostSpec::Pointer(pointer)) => answer.number(pointer).map(whole),
        None => answer.number(ACTUAL).or_else(|| answer.number(REQUESTED)).map(whole),
    };
    let throttle = (answer.number(REQUESTED), answer.number(AVAILABLE), answer.number(RESTORED_PER_SECOND));
    if let (Some(needed), Some(available), Some(per_second)) = throttle {
        if available >= needed {
            return limits;
        }
        // The same query again would be refused until enough is restored.
        let wait =
            Duration::try_from_secs_f64((needed - available) / per_second).map_or(MAX_WAIT, |wait| wait.min(MAX_WAIT));
        limits.remaining = Some(0);
        limits.reset_after = limits.reset_after.max(Some(wait));
        if refused {
            limits.retry_after = limits.retry_after.or(Some(wait));
        }
    }
    limits
}

/// A cost in whole units, rounded up.
fn whole(cost: f64) -> u32 {
    cost.ceil().min(f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn limits_of(spec: Option<CostSpec>, extensions: Value, refused: bool) -> UpstreamLimits {
        let answer = json!({"data": {"rateLimit": {"cost": 3}}, "extensions": extensions}).to_string();
        let answer = GraphqlAnswer::read(Bytes::from(answer)).expect("an answer");
        upstream_limits(spec.as_ref(), &HeaderMap::new(), &answer, refused)
    }

    fn throttled(available: f64, rate: Value) -> Value {
        json!({"cost": {"requestedQueryCost": 100, "actualQueryCost": 41.5,
            "throttleStatus": {"currentlyAvailable": available, "restoreRate": rate}}})
    }

    #[test]
    fn the_cost_is_what_the_answer_took() {
        assert_eq!(limits_of(None, throttled(900.0, json!(50)), false).cost, Some(42));
        assert_eq!(limits_of(None, json!({"cost": {"requestedQueryCost": 7}}), false).cost, Some(7));
        assert_eq!(limits_of(None, json!({}), false), UpstreamLimits::default());
        let pointer = Some(CostSpec::Pointer("/data/rateLimit/cost".to_owned()));
        assert_eq!(limits_of(pointer, json!({}), false).cost, Some(3));
        assert_eq!(
            limits_of(None, json!({"cost": {"actualQueryCost": -1, "requestedQueryCost": 1e300}}), false).cost,
            Some(u32::MAX)
        );
    }

    #[test]
    fn what_is_left_says_when_the_same_query_would_do_again() {
        let limits = limits_of(None, throttled(50.0, json!(25)), false);
        assert_eq!(
            (limits.remaining, limits.reset_after, limits.retry_after),
            (Some(0), Some(Duration::from_secs(2)), None)
        );
        assert_eq!(limits_of(None, throttled(50.0, json!(25)), true).retry_after, Some(Duration::from_secs(2)));
        assert_eq!(limits_of(None, throttled(100.0, json!(25)), false).remaining, None);
        assert_eq!(limits_of(None, throttled(50.0, json!(0)), false).reset_after, Some(MAX_WAIT));
        assert_eq!(limits_of(None, throttled(50.0, json!("x")), false).remaining, None);
    }
}
