//! One refresh, from the look at the store to the answer of the token endpoint.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use integration_model::credential::{RefreshError, RefreshErrorKind};
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::{InstanceId, Timestamp};
use integration_store::{BegunRefresh, NewDataKey, StoreError, StoredCredential};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Cause, RefreshOutcome, RefreshPolicy, RefreshStep, Wish};
use crate::Engine;
use crate::credential::{Credential, CredentialFacts, OAuth2Token};
use crate::oauth::{TokenError, renew};
use crate::registry::{CompiledDefinition, merged_config};

/// How often a lease is extended in its time: two extensions may fail before it ends.
const EXTENSIONS: u32 = 3;
/// For how many leases after the end of one its process is waited for: it may be paused, and
/// hold the only new token.
const GRACE_LEASES: u32 = 2;
/// How often another process's exchange is looked at: first, and at the longest.
const GLANCE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// How long another process's exchange is waited for.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(60);
/// How long the store is given to come back, between two tries.
const STORE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// When something that could not be refreshed by a fault of ours is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Far beyond what an exchange takes. Its own bound counts the time that the process is
/// awake: one that is stopped and goes on finds the answer, not a deadline that has passed.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What a refresh works on.
pub(super) struct Subject {
    pub(super) instance: Instance,
    pub(super) definition: Arc<CompiledDefinition>,
    pub(super) policy: RefreshPolicy,
    pub(super) stored: StoredCredential,
}

/// What an exchange is made with.
struct Opened {
    bytes: Zeroizing<Vec<u8>>,
    credential: Credential,
    data_key: NewDataKey,
}

/// What an exchange brought.
pub(super) struct Renewed {
    /// The credential in the form that the vault seals.
    pub(super) sealed: Zeroizing<Vec<u8>>,
    pub(super) facts: CredentialFacts,
    /// Whether another refresh token came.
    pub(super) brought_another: bool,
}

impl Renewed {
    fn new(before: &[u8], credential: Credential, token: OAuth2Token) -> Self {
        let (credential, brought_another) = credential.renewed_by(token);
        Self { sealed: credential.renewed_bytes(before), facts: credential.facts(), brought_another }
    }
}

/// What to do after an exchange.
pub(super) enum Next {
    End(RefreshOutcome),
    /// Nothing was lost: look at the store again, and go on.
    Again,
}

impl Engine {
    /// Gets an instance another credential than the one that the wish names.
    pub(super) async fn refresh(&self, wish: &Wish) -> RefreshOutcome {
        let waits_until = Instant::now() + WAIT_FOR_OTHERS;
        let mut glance = GLANCE.0;
        let mut failures = 0;
        self.refreshes.reached(RefreshStep::Begin, &wish.instance).await;
        loop {
            let subject = match self.refresh_subject(wish, failures > 0).await {
                Ok(subject) => subject,
                Err(outcome) => return outcome,
            };
            let exchange = self.store.ids().next();
            let begun = match self.open_exchange(&subject, wish) {
                Some(other) => other,
                None => self.commit_intent(&subject, wish, exchange).await,
            };
            match begun {
                BegunRefresh::Superseded => return self.renewed(&wish.instance),
                BegunRefresh::Interrupted(stored) => {
                    return self.interrupted(Subject { stored, ..subject }, wish).await;
                }
                BegunRefresh::UnderWay(stored) => {
                    if Instant::now() >= waits_until {
                        return later_than_others(&stored, self.store.clock().now());
                    }
                    tokio::time::sleep(glance).await;
                    glance = (glance * 3 / 2).min(GLANCE.1);
                }
                BegunRefresh::Begun(stored) => {
                    let subject = Subject { stored, ..subject };
                    match self.exchange(&subject, wish, exchange, &mut failures).await {
                        Next::End(outcome) => return outcome,
                        Next::Again => {}
                    }
                }
            }
        }
    }

    /// Reads anew what is to be refreshed. The outcome where there is nothing to do; an
    /// earlier failure does not hold back the one who `repeats` its own.
    async fn refresh_subject(&self, wish: &Wish, repeats: bool) -> Result<Subject, RefreshOutcome> {
        let id = &wish.instance;
        let (instance, stored) = until_stored("a credential", || async {
            let instance = self.store.instance(id).await?;
            Ok((instance, self.store.credential(id).await?))
        })
        .await
        .map_err(|_| RefreshOutcome::Failed("the store is closed"))?;
        let (Some(instance), Some(stored)) = (instance, stored) else {
            return Err(RefreshOutcome::NotRenewable("there is no credential"));
        };
        if stored.id != wish.secret {
            return Err(self.renewed(id));
        }
        let compiled = self.compiled(&instance.integration_definition_id, &instance.definition_version).await;
        let Ok(definition) = compiled else {
            self.look_again(&stored, Some(LOOK_AGAIN)).await;
            return Err(RefreshOutcome::Failed("the definition does not compile"));
        };
        let policy = RefreshPolicy::of(&definition.definition.spec);
        let reason = match policy {
            None => Some("the definition has no oauth2Config"),
            Some(policy) if !policy.can_renew(stored.meta.refreshable) => Some("it has no refresh token"),
            Some(policy) if !policy.is_auto() && !wish.cause.is_person() => Some("the definition's strategy is manual"),
            Some(_) if wish.cause == Cause::Time && instance.status == InstanceStatus::Disconnected => {
                Some("the instance is DISCONNECTED")
            }
            Some(_) => None,
        };
        let (Some(policy), None) = (policy, reason) else {
            self.look_again(&stored, None).await;
            return Err(RefreshOutcome::NotRenewable(reason.unwrap_or_default()));
        };
        if let Some(error) = stored.refresh.error.clone()
            && !wish.cause.is_person()
            && !repeats
        {
            match stored.refresh.retry_at {
                Some(retry_at) if retry_at > self.store.clock().now() => {
                    return Err(RefreshOutcome::Later { error, retry_at });
                }
                // A person who connected it again wants to see it tried.
                _ if error.kind == RefreshErrorKind::Refused && instance.status != InstanceStatus::Connected => {
                    return Err(RefreshOutcome::Refused(error));
                }
                _ => {}
            }
        }
        Ok(Subject { instance, definition, policy, stored })
    }

    /// The exchange that keeps another from beginning, as far as was read: waiting for it is
    /// no reason to write.
    fn open_exchange(&self, subject: &Subject, wish: &Wish) -> Option<BegunRefresh> {
        let (state, now) = (&subject.stored.refresh, self.store.clock().now());
        if state.is_under_way(now) {
            Some(BegunRefresh::UnderWay(subject.stored.clone()))
        } else if state.is_interrupted(now) && !takes_over(subject, wish) {
            Some(BegunRefresh::Interrupted(subject.stored.clone()))
        } else {
            None
        }
    }

    /// Commits the intent of an exchange, however long the store takes.
    async fn commit_intent(&self, subject: &Subject, wish: &Wish, exchange: Uuid) -> BegunRefresh {
        let take_over = takes_over(subject, wish);
        let grace = if take_over { Duration::ZERO } else { self.grace() };
        let begun = until_stored("the intent of a token refresh", || {
            let lease = self.settings.lease;
            self.store.begin_refresh(&wish.instance, wish.secret, exchange, lease, grace, take_over)
        })
        .await;
        // The store is closed: the process ends.
        begun.unwrap_or(BegunRefresh::Superseded)
    }

    pub(super) fn grace(&self) -> Duration {
        self.settings.lease * GRACE_LEASES
    }

    /// Makes the exchange whose intent is committed, and commits its outcome.
    async fn exchange(&self, subject: &Subject, wish: &Wish, exchange: Uuid, failures: &mut u32) -> Next {
        let id = &subject.instance.id;
        self.refreshes.reached(RefreshStep::Intended, id).await;
        let answer = match self.open_for_exchange(&subject.stored).await {
            Ok(Opened { bytes, credential, data_key }) => {
                let answer = self.ask_for_token(subject, exchange, &credential).await;
                answer.map(|answer| answer.map(|token| (Renewed::new(&bytes, credential, token), data_key)))
            }
            Err(error) => Some(Err(error)),
        };
        let Some(answer) = answer else {
            tracing::warn!(instance.id = %id, "another exchange took the place of a token refresh");
            return Next::Again;
        };
        self.refreshes.reached(RefreshStep::Answered, id).await;
        let next = match answer {
            Ok((renewed, data_key)) => Next::End(self.commit_alive(subject, wish, exchange, &renewed, data_key).await),
            Err(error) => self.note_failure(subject, wish, exchange, &error, failures).await,
        };
        self.refreshes.reached(RefreshStep::Committed, id).await;
        next
    }

    /// Opens what is to be exchanged, and makes the key that its successor is sealed with:
    /// the new token must not wait for a key service, which may be away by then.
    async fn open_for_exchange(&self, stored: &StoredCredential) -> Result<Opened, TokenError> {
        let failed = |error: StoreError| {
            tracing::error!(instance.id = %stored.instance_id, error = %error, "a credential cannot be exchanged");
            match error {
                StoreError::Vault(error) if error.is_unavailable() => {
                    TokenError::NotSent { message: format!("the credential cannot be had at present: {error}") }
                }
                _ => TokenError::misconfigured("the credential does not open with the master keys at hand"),
            }
        };
        let bytes = self.store.open_credential(stored).await.map_err(failed)?;
        let data_key = self.store.new_data_key().await.map_err(failed)?;
        let credential = Credential::from_bytes(&bytes)
            .map_err(|_| TokenError::misconfigured("the stored credential is not readable"))?;
        Ok(Opened { bytes, credential, data_key })
    }

    /// Asks the token endpoint, and meanwhile says that this process is alive. None where the
    /// exchange does not count any more.
    async fn ask_for_token(
        &self,
        subject: &Subject,
        exchange: Uuid,
        credential: &Credential,
    ) -> Option<Result<OAuth2Token, TokenError>> {
        let config = merged_config(&subject.definition, &subject.instance.config);
        let mut answer = pin!(renew(self, &subject.definition, &config, credential, Instant::now() + FAR));
        let mut extensions = self.extensions().await;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                _ = extensions.tick() => {}
            }
            // The answer has to wait for it: who does not count any more must send nothing.
            if !self.extend(subject, exchange).await {
                return None;
            }
        }
    }

    /// Stores the new token, and meanwhile says that this process is alive: sealing and
    /// storing may have to wait for others too.
    async fn commit_alive(
        &self,
        subject: &Subject,
        wish: &Wish,
        exchange: Uuid,
        renewed: &Renewed,
        data_key: NewDataKey,
    ) -> RefreshOutcome {
        let mut commit = pin!(self.commit_token(subject, wish, exchange, renewed, data_key));
        let alive = pin!(async {
            let mut extensions = self.extensions().await;
            loop {
                extensions.tick().await;
                if !self.extend(subject, exchange).await {
                    return;
                }
            }
        });
        tokio::select! {
            biased;
            outcome = &mut commit => outcome,
            // The commit itself has ended the exchange, or finds that another did.
            () = alive => commit.await,
        }
    }

    /// The times at which a lease is extended.
    async fn extensions(&self) -> Interval {
        let mut ticks = tokio::time::interval((self.settings.lease / EXTENSIONS).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        ticks
    }

    /// Says that this process is alive. Gives whether its exchange is still the one that
    /// counts, as far as the store can tell.
    async fn extend(&self, subject: &Subject, exchange: Uuid) -> bool {
        let (id, lease) = (&subject.instance.id, self.settings.lease);
        self.store.extend_refresh(id, exchange, lease, self.grace()).await.unwrap_or_else(|error| {
            tracing::error!(instance.id = %id, error = %error, "the lease of a token refresh could not be extended");
            true
        })
    }

    async fn look_again(&self, stored: &StoredCredential, after: Option<Duration>) {
        let at = after.map(|after| self.store.clock().now().saturating_add(after));
        self.schedule(&stored.instance_id, stored.id, at).await;
    }

    pub(super) async fn schedule(&self, instance: &InstanceId, secret: Uuid, at: Option<Timestamp>) {
        if let Err(error) = self.store.schedule_refresh(instance, secret, at).await {
            tracing::error!(instance.id = %instance, error = %error, "a token refresh could not be put off");
        }
    }
}

/// Whether an interrupted exchange does not keep this one from beginning.
fn takes_over(subject: &Subject, wish: &Wish) -> bool {
    subject.policy.may_take_over(subject.stored.refresh.rotates)
        || wish.cause == Cause::Person { retry_interrupted: true }
}

/// Another process has been at it for long.
pub(super) fn later_than_others(stored: &StoredCredential, now: Timestamp) -> RefreshOutcome {
    let error = stored.refresh.error.clone().unwrap_or_else(|| RefreshError {
        kind: RefreshErrorKind::Unavailable,
        message: "another process has been renewing the token for a long time".to_owned(),
        error: None,
        status: None,
        at: now,
        unanswered_at: None,
    });
    RefreshOutcome::Later { error, retry_at: now.saturating_add(GLANCE.1) }
}

/// Does something with the store until it is done: again at once where the instance changed
/// in between, after a pause where the store fails. Ends only with the store itself.
pub(super) async fn until_stored<T, F>(what: &'static str, attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut wait = STORE_PAUSE.0;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(StoreError::VersionConflict { .. }) => {}
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                tracing::error!(error = %error, what, "the store failed; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(STORE_PAUSE.1);
            }
        }
    }
}
