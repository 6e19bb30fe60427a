//! When a token is renewed, and by which rules: what the definition says, made into times.

use std::time::Duration;

use integration_model::Timestamp;
use integration_model::definition::{AuthType, DefinitionSpec, RefreshStrategy};
use integration_store::StoredCredential;

use crate::oauth::renews_itself;

/// How long before its expiry a token is renewed, unless the definition says.
const BEFORE_EXPIRY: Duration = Duration::from_secs(5 * 60);
/// A token that lives for less is renewed when a call needs it, and not kept fresh.
const SHORTEST_KEPT_FRESH: Duration = Duration::from_secs(1);
/// What one refused token teaches of a system that names no expiry is not taken for less: a
/// refusal may have other causes.
const SHORTEST_LEARNT_LIFETIME: Duration = Duration::from_secs(60);
/// The first pause after a failed exchange; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest that a token endpoint's own `Retry-After` is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// How the tokens of a definition's instances are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefreshPolicy {
    pub(crate) strategy: RefreshStrategy,
    before_expiry: Duration,
    /// Whether the grant itself gets a new token, without a refresh token.
    renews_itself: bool,
}

/// What a call finds of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// Still good, and to be renewed soon.
    Due,
    Expired,
}

impl RefreshPolicy {
    /// None where the definition says nothing of how tokens are come by.
    pub(crate) fn of(spec: &DefinitionSpec) -> Option<Self> {
        let config = spec.oauth2_config.as_ref().filter(|_| spec.auth_type == AuthType::OAuth2)?;
        let refresh = config.refresh_token_config.as_ref();
        Some(Self {
            strategy: refresh.map_or(RefreshStrategy::Auto, |refresh| refresh.strategy),
            before_expiry: refresh
                .and_then(|refresh| refresh.time_before_expiry_ms)
                .map_or(BEFORE_EXPIRY, Duration::from_millis),
            renews_itself: renews_itself(config),
        })
    }

    /// Whether a credential can be renewed without a person.
    pub(crate) fn can_renew(&self, has_refresh_token: bool) -> bool {
        has_refresh_token || self.renews_itself
    }

    pub(crate) fn is_auto(&self) -> bool {
        self.strategy == RefreshStrategy::Auto
    }

    /// Whether another exchange may be made where one was interrupted: what it was made with
    /// is good a second time. Where the external system gives a new refresh token each time,
    /// it may take the old one for stolen, and end the whole grant.
    pub(super) fn may_take_over(&self, rotates: Option<bool>) -> bool {
        self.renews_itself || rotates == Some(false)
    }

    /// What is known of whether refresh tokens are exchanged for new ones, after an answer.
    pub(super) fn rotates(&self, brought_another: bool) -> bool {
        brought_another && !self.renews_itself
    }

    pub(super) fn freshness(&self, stored: &StoredCredential, now: Timestamp) -> Freshness {
        let expires_at = stored.meta.expires_at;
        if expires_at.is_some_and(|at| at <= now) {
            return Freshness::Expired;
        }
        let ends = expires_at.or_else(|| Some(stored.updated_at.saturating_add(stored.refresh.lifetime?)));
        match ends {
            Some(ends) if self.ahead_of(ends, stored.updated_at) <= now => Freshness::Due,
            _ => Freshness::Fresh,
        }
    }

    /// When a token is renewed without a call. `spread`, from 0 to 1, moves it ahead a
    /// little, so that the tokens of many instances are not all due at once.
    pub(crate) fn next_refresh_at(
        &self,
        expires_at: Option<Timestamp>,
        lifetime: Option<Duration>,
        stored_at: Timestamp,
        spread: f64,
    ) -> Option<Timestamp> {
        let ends = expires_at.or_else(|| Some(stored_at.saturating_add(lifetime?)))?;
        if ends.since(stored_at) < SHORTEST_KEPT_FRESH {
            return None;
        }
        let at = self.ahead_of(ends, stored_at);
        Some(at.saturating_sub(at.since(stored_at).mul_f64(0.1 * spread))).filter(|_| self.is_auto())
    }

    /// The time before an expiry; at most half of a token's life before it, so that tokens
    /// that live shortly are not renewed all the time.
    fn ahead_of(&self, expires_at: Timestamp, stored_at: Timestamp) -> Timestamp {
        expires_at.saturating_sub(self.before_expiry.min(expires_at.since(stored_at) / 2))
    }
}

/// How long a token lives that names no expiry, as its refusal after `lived` has it.
pub(super) fn learnt_lifetime(lived: Duration) -> Duration {
    lived.max(SHORTEST_LEARNT_LIFETIME)
}

/// How long to wait after the failure of this number, from 0.
pub(super) fn pause(failures: u32, retry_after: Option<Duration>) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(failures.min(20)).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
    retry_after.map_or(own, |asked| own.max(asked.min(LONGEST_RETRY_AFTER)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn policy(config: serde_json::Value) -> RefreshPolicy {
        let mut oauth = json!({"clientId": "c", "tokenUrl": "https://login.test/token"});
        for (name, value) in config.as_object().expect("an object") {
            oauth[name] = value.clone();
        }
        let spec = DefinitionSpec::from_json(json!({
            "id": "crm", "name": "CRM", "description": "", "version": "1.0.0", "type": "http", "authType": "oauth2",
            "oauth2Config": oauth, "methods": [{"name": "call", "operation": {"verb": "GET", "path": "/"}}],
        }));
        RefreshPolicy::of(&spec.expect("a definition")).expect("a policy")
    }

    fn next(policy: RefreshPolicy, seconds: u64, spread: f64) -> Duration {
        let expires_at = START.saturating_add(Duration::from_secs(seconds));
        policy.next_refresh_at(Some(expires_at), None, START, spread).expect("automatic").since(START)
    }

    #[test]
    fn a_token_is_renewed_five_minutes_ahead_and_a_short_one_in_the_middle_of_its_life() {
        let usual = policy(json!({}));
        assert_eq!(next(usual, 3_600, 0.0), Duration::from_secs(3_300));
        assert_eq!(next(usual, 3_600, 1.0), Duration::from_secs(2_970));
        assert_eq!(next(usual, 2, 0.0), Duration::from_secs(1));
        let own = policy(json!({"refreshTokenConfig": {"strategy": "auto", "timeBeforeExpiryMs": 60_000}}));
        assert_eq!(next(own, 3_600, 0.0), Duration::from_secs(3_540));
        assert_eq!(usual.next_refresh_at(Some(START), None, START, 0.0), None, "expired when it came");
        let manual = policy(json!({"refreshTokenConfig": {"strategy": "manual"}}));
        let in_an_hour = START.saturating_add(Duration::from_secs(3_600));
        assert_eq!(manual.next_refresh_at(Some(in_an_hour), None, START, 0.0), None);
    }

    #[test]
    fn only_what_is_good_twice_is_taken_over() {
        let usual = policy(json!({}));
        assert_eq!([None, Some(true), Some(false)].map(|rotates| usual.may_take_over(rotates)), [false, false, true]);
        let own = policy(json!({"grantType": "client_credentials"}));
        assert!(own.may_take_over(None) && own.can_renew(false));
        assert!(!usual.can_renew(false) && usual.can_renew(true));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_obey_the_server() {
        let millis = |failures| pause(failures, None).as_millis();
        assert_eq!([0, 1, 2, 9, 40].map(millis), [100, 200, 400, 51_200, 60_000]);
        assert_eq!(pause(0, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(0, Some(Duration::from_secs(1 << 40))), LONGEST_RETRY_AFTER);
    }
}
