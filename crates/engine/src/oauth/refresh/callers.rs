//! What those see of a refresh who need its token: calls, and people who ask for one.

use std::sync::Arc;
use std::time::Duration;

use integration_model::credential::{CredentialStatus, RefreshError, RefreshErrorKind, RefreshStatus};
use integration_model::execution::Stage;
use integration_model::instance::Instance;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, Timestamp};
use integration_store::StoredCredential;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::policy::Freshness;
use super::{Cause, RefreshOutcome, RefreshPolicy, Wish};
use crate::execute::Failure;
use crate::registry::ActiveInstance;
use crate::{Engine, EngineError};

/// How often a call looks again that found another token which had expired too.
const LOOKS: u32 = 3;
/// How long a person's request waits for a refresh; it goes on after it.
const PERSON_WAITS: Duration = Duration::from_secs(20);

/// What a person may say of a refresh.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshRequest {
    /// Presents the refresh token once more where an earlier exchange was interrupted and its
    /// outcome is not known. A system that takes it for stolen ends the grant.
    #[serde(default)]
    pub retry_interrupted: bool,
}

/// What became of a person's wish.
#[derive(Debug, Clone, PartialEq)]
pub enum RefreshReply {
    Renewed(CredentialStatus),
    /// It goes on; the status tells how it ends.
    UnderWay(CredentialStatus),
}

impl Engine {
    /// The instance with a token for one attempt: as it is where the token is good, else as it
    /// is after a refresh. One that is good but due is used, and renewed beside the call.
    pub(crate) async fn with_fresh_token(
        &self,
        active: &Arc<ActiveInstance>,
        deadline: Instant,
    ) -> Result<Arc<ActiveInstance>, Failure> {
        let mut active = Arc::clone(active);
        for _ in 0..LOOKS {
            let Some((policy, stored)) = renewable(&active) else { return Ok(active) };
            let now = self.store.clock().now();
            match policy.freshness(stored, now) {
                Freshness::Fresh => return Ok(active),
                // It may have been renewed while the call was under way.
                _ if active.is_stale() => active = self.reloaded(active).await,
                Freshness::Due => {
                    if may_ask(stored, now) {
                        self.refreshes.join(wish(stored, Cause::Time), false);
                    }
                    return Ok(active);
                }
                Freshness::Expired => match self.refreshed(wish(stored, Cause::Time), deadline).await? {
                    RefreshOutcome::Renewed => active = self.reloaded(active).await,
                    outcome => return Err(failure(outcome, "the access token has expired", now)),
                },
            }
        }
        Err(auth_error("every new access token has expired before it could be used".to_owned()).retryable(true))
    }

    /// The instance with another token than the one that the external system refused; none
    /// where there is no other to be had.
    pub(crate) async fn with_another_token(
        &self,
        active: &Arc<ActiveInstance>,
        deadline: Instant,
    ) -> Result<Option<Arc<ActiveInstance>>, Failure> {
        if self.gives_up_derived(active, deadline).await {
            return Ok(Some(Arc::clone(active)));
        }
        let Some((_, stored)) = renewable(active) else { return Ok(None) };
        match self.refreshed(wish(stored, Cause::TokenRefused), deadline).await? {
            RefreshOutcome::Renewed => {
                let renewed = self.reloaded(Arc::clone(active)).await;
                Ok(Some(renewed).filter(|renewed| renewed.credential.id() != active.credential.id()))
            }
            RefreshOutcome::NotRenewable(_) => Ok(None),
            outcome => {
                let now = self.store.clock().now();
                Err(failure(outcome, "the external system refused the access token", now))
            }
        }
    }

    /// Waits for a refresh, at the longest until the deadline; it goes on after it.
    async fn refreshed(&self, wish: Wish, deadline: Instant) -> Result<RefreshOutcome, Failure> {
        let stopping = RefreshOutcome::Failed("the service is stopping");
        let Some(mut flight) = self.refreshes.join(wish, false) else { return Ok(stopping) };
        match timeout_at(deadline, flight.done.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => Ok(outcome.clone().unwrap_or(stopping)),
            Ok(Err(_)) => Ok(stopping),
            Err(_) => {
                let message = "the deadline passed while the access token was being renewed";
                Err(Failure::new(Stage::Credential, ErrorCode::Timeout, message).retryable(true))
            }
        }
    }

    /// The instance as it is stored; as it was where that cannot be read.
    async fn reloaded(&self, active: Arc<ActiveInstance>) -> Arc<ActiveInstance> {
        let limits = self.limits.load_full();
        let id = active.instance.id.as_str();
        match self.registry.instance(id, &self.store, &self.adapters, &limits.rules).await {
            Ok(Some(reloaded)) => reloaded,
            Ok(None) => active,
            Err(error) => {
                tracing::warn!(instance.id = id, error = %error, "an instance could not be read anew");
                active
            }
        }
    }

    /// Renews an instance's token now, because a person asked.
    pub async fn refresh_credential(
        &self,
        id: &str,
        request: RefreshRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<RefreshReply, EngineError> {
        let instance = self.instance(id, principal).await?;
        let stored = self.store.credential(&instance.id).await?.ok_or(EngineError::NotFound("credential"))?;
        let cause = Cause::Person { retry_interrupted: request.retry_interrupted };
        let deadline = Instant::now() + PERSON_WAITS;
        // A refresh that began without the person's word may end where theirs goes on.
        for last in [false, true] {
            let wish = Wish { correlation_id: Some(correlation_id.to_owned()), ..wish(&stored, cause) };
            let began = self.refreshes.is_idle(&instance.id);
            let outcome = match self.refreshed(wish, deadline).await {
                Ok(outcome) => outcome,
                Err(_) => return Ok(RefreshReply::UnderWay(self.credential_status(id, principal).await?)),
            };
            match outcome {
                RefreshOutcome::Renewed => {
                    return Ok(RefreshReply::Renewed(self.credential_status(id, principal).await?));
                }
                _ if !began && !last => {}
                outcome => return Err(self.not_renewed(outcome)),
            }
        }
        Err(EngineError::conflict("the credential is being renewed by many at once: try again"))
    }

    fn not_renewed(&self, outcome: RefreshOutcome) -> EngineError {
        let now = self.store.clock().now();
        match outcome {
            RefreshOutcome::NotRenewable(reason) => {
                EngineError::conflict(format!("the credential cannot be renewed: {reason}"))
            }
            RefreshOutcome::Interrupted { error, until: None } => EngineError::conflict(error.message),
            outcome => {
                let failure = failure(outcome, "the token was not renewed", now);
                EngineError::NotRenewed {
                    code: failure.code,
                    message: failure.message.clone(),
                    retry_after: failure.retry_after,
                }
            }
        }
    }

    /// What is told of the renewal of an instance's credential.
    pub(crate) async fn refresh_status(
        &self,
        instance: &Instance,
        stored: &StoredCredential,
    ) -> Result<Option<RefreshStatus>, EngineError> {
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let policy = RefreshPolicy::of(&definition.definition.spec);
        let Some(policy) = policy.filter(|policy| policy.can_renew(stored.meta.refreshable)) else { return Ok(None) };
        let (state, now) = (&stored.refresh, self.store.clock().now());
        let is_under_way = state.is_under_way(now);
        Ok(Some(RefreshStatus {
            strategy: policy.strategy,
            next_refresh_at: stored.meta.next_refresh_at.filter(|_| state.exchange.is_none()),
            under_way_since: state.begun_at.filter(|_| is_under_way),
            interrupted: state.is_interrupted(now),
            failures: state.failures,
            retry_at: state.retry_at,
            last_error: state.error.clone(),
        }))
    }
}

/// The credential of an instance that is renewed without a person, and how.
fn renewable(active: &ActiveInstance) -> Option<(RefreshPolicy, &StoredCredential)> {
    let stored = active.credential.stored()?;
    let policy = RefreshPolicy::of(&active.definition.definition.spec)?;
    (policy.is_auto() && policy.can_renew(stored.meta.refreshable)).then_some((policy, stored))
}

/// Whether a refresh ahead of time is worth asking for: not while another is under way, or
/// just failed.
fn may_ask(stored: &StoredCredential, now: Timestamp) -> bool {
    let state = &stored.refresh;
    state.retry_at.is_none_or(|at| at <= now) && !state.is_interrupted(now) && stored.refused_at.is_none()
}

fn wish(stored: &StoredCredential, cause: Cause) -> Wish {
    Wish { instance: stored.instance_id.clone(), secret: stored.id, cause, correlation_id: None }
}

fn auth_error(message: String) -> Failure {
    Failure::new(Stage::Credential, ErrorCode::Auth, message)
}

/// A refresh that brought no token, as the failure of a call.
fn failure(outcome: RefreshOutcome, found: &str, now: Timestamp) -> Failure {
    let with_evidence = |message: String, error: &RefreshError| {
        // Plain data serialises.
        let evidence = serde_json::to_value(error).expect("the evidence serialises");
        auth_error(message).with_detail("refresh", evidence)
    };
    match outcome {
        RefreshOutcome::Renewed => auth_error(format!("{found}, and so has the one after it")).retryable(true),
        RefreshOutcome::NotRenewable(reason) => auth_error(format!("{found} and cannot be renewed: {reason}")),
        RefreshOutcome::Later { error, retry_at } => {
            let failure = with_evidence(format!("{found} and could not be renewed yet: {}", error.message), &error);
            if error.kind == RefreshErrorKind::Misconfigured {
                failure
            } else {
                failure.retry_after(retry_at.since(now).max(Duration::from_millis(1)))
            }
        }
        RefreshOutcome::Refused(error) => {
            with_evidence(format!("{found} and was not renewed: {}", error.message), &error)
        }
        RefreshOutcome::Interrupted { error, until: Some(until) } => with_evidence(
            format!("{found} while its renewal was interrupted; the process that made it is waited for until {until}"),
            &error,
        )
        .retry_after(until.since(now).clamp(Duration::from_millis(1), Duration::from_secs(1))),
        RefreshOutcome::Interrupted { error, until: None } => {
            with_evidence(format!("{found}; {}", error.message), &error)
        }
        RefreshOutcome::Failed(reason) => {
            Failure::new(Stage::Credential, ErrorCode::Internal, format!("{found}, and no other is at hand: {reason}"))
                .retryable(true)
        }
    }
}
