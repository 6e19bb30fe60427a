//! Who calls, and who may do what: what a request presents, checked ([`Authenticator`]), and the
//! table of what each role may do ([`table`]), kept by [`guard`]. Must not know what a route does.

mod attempts;
mod follow;
mod guard;
mod issue;
mod jwt;
mod keys;
mod matrix;
mod services;
pub mod table;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use integration_model::ErrorCode;
use integration_model::Timestamp;
use integration_model::principal::Principal;
use integration_store::Clock;

pub(crate) use guard::{check_execute, guard};
pub(crate) use issue::{create_api_key, list_api_keys, read_api_key, revoke_api_key};
pub use jwt::TokenVerifier;
pub use keys::{AccessKey, KEY_PREFIX, RandomnessUnavailable, generate_key};
pub use matrix::matrix;
pub use services::Services;

use crate::access::attempts::FailedAttempts;
use crate::access::keys::Keys;
use crate::config::Secret;
use crate::error::ApiError;
use crate::middleware::RequestContext;
use crate::telemetry::metrics::HTTP_AUTH_FAILURES;
use crate::tls::ClientCertificate;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longer credentials than any of ours are refused before they are looked at.
const MAX_CREDENTIAL_LENGTH: usize = 8 * 1024;

/// Tells who comes with a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    keys: Arc<Keys>,
    /// Held while the keys are read from the store.
    reading: Arc<tokio::sync::Mutex<()>>,
    failed: Arc<FailedAttempts>,
    tokens: Option<Arc<TokenVerifier>>,
    services: Arc<Services>,
    clock: Clock,
}

impl Authenticator {
    /// Knows the admin key alone until it reads others. `failures` a minute and address are
    /// told that they failed, further ones to wait.
    pub fn new(admin: AccessKey, clock: Clock, failures: u32) -> Self {
        Self {
            keys: Arc::new(Keys::new(admin, clock.clone())),
            reading: Arc::default(),
            failed: Arc::new(FailedAttempts::new(failures)),
            tokens: None,
            services: Arc::default(),
            clock,
        }
    }

    /// Takes the tokens of these issuers, too.
    #[must_use]
    pub fn with_tokens(self, tokens: TokenVerifier) -> Self {
        Self { tokens: Some(Arc::new(tokens)), ..self }
    }

    /// Knows these services by their certificates.
    #[must_use]
    pub fn with_services(self, services: Services) -> Self {
        Self { services: Arc::new(services), ..self }
    }

    /// Who comes with these headers: `Authorization: Bearer` or `X-API-Key`, and with
    /// `basic` also a password under any user name. What the connection's certificate says
    /// goes with it, or is enough by itself.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        context: &RequestContext,
        basic: bool,
    ) -> Result<Arc<Principal>, ApiError> {
        let shown = self.services.shown(context.certificate.as_deref(), self.clock.now().as_secs());
        let Some(presented) = presented(headers, basic) else {
            return Services::alone(shown)
                .ok_or_else(|| refused("send a key: Authorization: Bearer KEY, or X-API-Key: KEY", basic));
        };
        let found = match self.principal_of(&presented, shown.certificate).await {
            Some(principal) => self.services.confirm(principal, shown, basic),
            None => Err("the key is not valid"),
        };
        found.map_err(|detail| self.failed.count(context.peer.ip(), refused(detail, basic)))
    }

    /// Whom a credential belongs to.
    async fn principal_of(
        &self,
        presented: &Secret,
        certificate: Option<&ClientCertificate>,
    ) -> Option<Arc<Principal>> {
        if let Some(principal) = self.keys.find(presented) {
            return Some(principal);
        }
        let tokens = self.tokens.as_ref().filter(|_| TokenVerifier::is_token(presented.expose()))?;
        tokens.verify(presented.expose(), certificate).await
    }

    /// When an API key was last used in this process.
    pub(crate) fn last_used(&self, id: &str) -> Option<Timestamp> {
        self.keys.last_used(id)
    }
}

/// What the request presents; none also where it cannot be one of ours.
fn presented(headers: &HeaderMap, basic: bool) -> Option<Secret> {
    if let Some(key) = headers.get(API_KEY) {
        return key.to_str().ok().filter(|key| key.len() <= MAX_CREDENTIAL_LENGTH).map(Secret::new);
    }
    let value = headers.get(AUTHORIZATION)?.to_str().ok().filter(|value| value.len() <= MAX_CREDENTIAL_LENGTH)?;
    let (scheme, value) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Secret::new(value.trim()));
    }
    if basic && scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        return decoded.split_once(':').map(|(_, password)| Secret::new(password));
    }
    None
}

fn refused(detail: &str, basic: bool) -> ApiError {
    ::metrics::counter!(HTTP_AUTH_FAILURES).increment(1);
    // Browsers ask for a password only where Basic is offered.
    let challenge = if basic { "Basic realm=\"Integration Service\"" } else { "Bearer realm=\"Integration Service\"" };
    ApiError::new(ErrorCode::Unauthenticated, detail).with_challenge(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[tokio::test]
    async fn a_key_is_taken_in_each_of_its_places_and_nothing_else_is() {
        let key = generate_key().expect("randomness");
        let authenticator = Authenticator::new(AccessKey::admin(&key), Clock::system(), 100);
        let context = RequestContext::new(&HeaderMap::new(), ([127, 0, 0, 1], 1).into());
        let text = key.expose();
        for good in [
            headers(AUTHORIZATION, &format!("Bearer {text}")),
            headers(AUTHORIZATION, &format!("bearer  {text}")),
            headers(API_KEY, text),
        ] {
            let principal = authenticator.authenticate(&good, &context, false).await.expect("the key");
            assert_eq!(*principal.name, format!("api-key:{}", &text[..8]));
        }
        let password = headers(AUTHORIZATION, &format!("Basic {}", STANDARD.encode(format!("anyone:{text}"))));
        assert!(authenticator.authenticate(&password, &context, true).await.is_ok());
        assert!(authenticator.authenticate(&password, &context, false).await.is_err());
        for bad in [
            HeaderMap::new(),
            headers(API_KEY, ""),
            headers(API_KEY, &text[..text.len() - 1]),
            headers(API_KEY, &"x".repeat(10_000)),
            headers(AUTHORIZATION, text),
            headers(AUTHORIZATION, "Basic %%%"),
        ] {
            let error = authenticator.authenticate(&bad, &context, true).await.expect_err("no valid key");
            assert_eq!(error.code, ErrorCode::Unauthenticated);
        }
    }
}
