//! How an exchange ends in the store: with a new token, a failure for now, a refusal for
//! good, or as one whose outcome nobody knows.

use std::time::Duration;

use integration_model::credential::{RefreshError, RefreshErrorKind};
use integration_model::definition::AuthType;
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceStatus, StatusFacts, StatusTrigger};
use integration_model::{InstanceId, Timestamp};
use integration_store::{CredentialMeta, NewDataKey, RefreshFailure, RenewedCredential, SecretOwner};
use serde_json::json;
use uuid::Uuid;

use super::exchange::{Next, Renewed, Subject, later_than_others, until_stored};
use super::policy::{learnt_lifetime, pause};
use super::{Cause, RefreshOutcome, RefreshPolicy, Wish, count};
use crate::Engine;
use crate::credential::CredentialFacts;
use crate::oauth::TokenError;
use crate::policy::jitter;
use crate::registry::CompiledDefinition;

/// Failed exchanges that are repeated at once, with a pause, while calls wait.
const QUICK_REPEATS: u32 = 3;

impl Engine {
    /// Stores the new token, however long the store takes: nobody else has it.
    pub(super) async fn commit_token(
        &self,
        subject: &Subject,
        wish: &Wish,
        exchange: Uuid,
        renewed: &Renewed,
        data_key: NewDataKey,
    ) -> RefreshOutcome {
        let (id, old) = (&subject.instance.id, &subject.stored);
        // What refuses tokens that the grant still gives has its own reasons.
        let heals = wish.cause != Cause::Time || old.refused_at.is_none();
        let now = self.store.clock().now();
        let facts = &renewed.facts;
        let lifetime = match (facts.expires_at, wish.cause) {
            (Some(_), _) => None,
            (None, Cause::TokenRefused) => Some(learnt_lifetime(now.since(old.updated_at))),
            (None, _) => old.refresh.lifetime,
        };
        let owner =
            SecretOwner { tenant_id: &old.tenant_id, instance_id: &old.instance_id, auth_type: old.meta.auth_type };
        let sealed = match self.store.seal_credential(data_key, owner, &renewed.sealed).await {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(instance.id = %id, error = %error, "a renewed token is lost: it could not be sealed");
                return RefreshOutcome::Failed("the new token could not be sealed");
            }
        };
        let correlation_id = wish.correlation_id.clone().unwrap_or_else(|| exchange.to_string());
        let committed = until_stored("a new token", || async {
            let Some(read) = self.store.instance(id).await? else { return Ok(false) };
            let (update, events) = match self.status_facts(&read, true).await {
                Ok((facts, problems)) if read.status == InstanceStatus::AuthError && heals => {
                    let (trigger, reason) = (StatusTrigger::CredentialAccepted, "the token was renewed");
                    let (update, events) =
                        self.plan_move(read.clone(), trigger, facts, &problems, reason, &correlation_id);
                    (Some(update), events)
                }
                // The token is what must not be lost; the status is moved by the next who can.
                _ => (None, Vec::new()),
            };
            let new = RenewedCredential {
                old,
                exchange,
                meta: subject.policy.meta(facts, lifetime, now),
                sealed: &sealed,
                rotates: Some(subject.policy.rotates(renewed.brought_another)),
                lifetime,
            };
            self.store.commit_refresh(new, &read, update.as_ref(), events).await
        })
        .await;
        match committed {
            Ok(true) => {
                count("renewed");
                tracing::debug!(instance.id = %id, "a token was renewed");
            }
            // Another credential was stored, or another exchange took over.
            Ok(false) => {
                count("superseded");
                tracing::warn!(instance.id = %id, "a renewed token came too late to be stored");
            }
            Err(_) => {
                tracing::error!(instance.id = %id, "a renewed token is lost: the store closed before it was stored");
                return RefreshOutcome::Failed("the store is closed");
            }
        }
        self.renewed(id)
    }

    pub(super) fn renewed(&self, id: &InstanceId) -> RefreshOutcome {
        self.registry.refresh_instance(id);
        RefreshOutcome::Renewed
    }

    /// Writes down how an exchange failed: for good, or for now.
    pub(super) async fn note_failure(
        &self,
        subject: &Subject,
        wish: &Wish,
        exchange: Uuid,
        error: &TokenError,
        failures: &mut u32,
    ) -> Next {
        let id = &subject.instance.id;
        let now = self.store.clock().now();
        let before = subject.stored.refresh.error.as_ref().and_then(|error| error.unanswered_at);
        let noted = describe(error, before, now);
        count(noted.kind.as_str());
        if noted.kind == RefreshErrorKind::Refused {
            return self.note_refusal(subject, wish, exchange, noted).await;
        }
        let retry_after = match error {
            TokenError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        };
        let pause = pause(subject.stored.refresh.failures, retry_after);
        let retry_at = now.saturating_add(pause);
        let failure = RefreshFailure {
            exchange,
            error: noted.clone(),
            retry_at,
            next_refresh_at: subject.policy.is_auto().then_some(retry_at),
        };
        tracing::warn!(instance.id = %id, kind = noted.kind.as_str(), error = %noted.message, "a token could not be renewed; the grant is kept");
        if until_stored("a failed token refresh", || self.store.fail_refresh(id, failure.clone())).await.is_err() {
            return Next::End(RefreshOutcome::Failed("the store is closed"));
        }
        self.registry.refresh_instance(id);
        *failures += 1;
        if *failures > QUICK_REPEATS || retry_after.is_some() || noted.kind == RefreshErrorKind::Misconfigured {
            return Next::End(RefreshOutcome::Later { error: noted, retry_at });
        }
        tokio::time::sleep(pause).await;
        Next::Again
    }

    /// The external system refused for good: the instance says so, and keeps the evidence.
    async fn note_refusal(&self, subject: &Subject, wish: &Wish, exchange: Uuid, noted: RefreshError) -> Next {
        let id = &subject.instance.id;
        let correlation_id = wish.correlation_id.clone().unwrap_or_else(|| exchange.to_string());
        let counted = until_stored("a refused token refresh", || async {
            let Some(read) = self.store.instance(id).await? else { return Ok(false) };
            let (update, events) = self.plan_auth_error(&read, &subject.definition, &noted, &correlation_id);
            self.store.refuse_refresh(exchange, &noted, &read, update.as_ref(), events).await
        })
        .await;
        match counted {
            Ok(true) => {
                tracing::warn!(instance.id = %id, error = %noted.message, "the external system refused to renew a token");
                self.instance_changed(id);
                Next::End(RefreshOutcome::Refused(noted))
            }
            // What was refused is not what is stored by now.
            Ok(false) => Next::Again,
            Err(_) => Next::End(RefreshOutcome::Failed("the store is closed")),
        }
    }

    /// An exchange was cut off, and what it was made with may be used up. The old access token
    /// serves while it lasts; after it, and a grace for a process that is only paused, the
    /// instance says that a person is needed.
    pub(super) async fn interrupted(&self, subject: Subject, wish: &Wish) -> RefreshOutcome {
        let Subject { instance, definition, stored, .. } = &subject;
        let now = self.store.clock().now();
        let lease_until = stored.refresh.lease_until.unwrap_or(now);
        let begun_at = stored.refresh.begun_at.unwrap_or(lease_until);
        let given_up_at = lease_until.saturating_add(self.grace());
        let given_up = stored.refresh.error.clone().filter(|error| error.kind == RefreshErrorKind::Interrupted);
        if let Some(error) = given_up.filter(|_| instance.status != InstanceStatus::Connected) {
            return RefreshOutcome::Interrupted { error, until: None };
        }
        let error = RefreshError {
            kind: RefreshErrorKind::Interrupted,
            message: format!(
                "reconnect needed: the token refresh of {begun_at} was interrupted and its outcome is unknown; to try \
                 the old refresh token once more all the same, send retryInterrupted (POST …/credentials/refresh)"
            ),
            error: None,
            status: None,
            at: now,
            unanswered_at: Some(begun_at),
        };
        let serves_until = match stored.meta.expires_at {
            _ if wish.cause == Cause::TokenRefused => now,
            Some(expires_at) => expires_at,
            None => Timestamp::from_micros(i64::MAX),
        };
        let until = given_up_at.max(serves_until);
        if until > now {
            let look_at = stored.meta.expires_at.map(|_| until);
            if stored.meta.next_refresh_at != look_at {
                self.schedule(&stored.instance_id, stored.id, look_at).await;
                // Calls do not ask again while it is so.
                self.registry.refresh_instance(&instance.id);
            }
            return RefreshOutcome::Interrupted { error, until: Some(until) };
        }
        let Some(exchange) = stored.refresh.exchange else { return self.renewed(&instance.id) };
        let correlation_id = wish.correlation_id.clone().unwrap_or_else(|| exchange.to_string());
        let silent_since = now.saturating_sub(self.grace());
        let given_up = until_stored("an interrupted token refresh", || async {
            let Some(read) = self.store.instance(&instance.id).await? else { return Ok(false) };
            let (update, events) = self.plan_auth_error(&read, definition, &error, &correlation_id);
            self.store.give_up_refresh(exchange, silent_since, &error, &read, update.as_ref(), events).await
        })
        .await;
        match given_up {
            Ok(true) => {
                count(error.kind.as_str());
                tracing::error!(instance.id = %instance.id, "a token refresh was interrupted and its outcome is unknown: somebody has to connect the instance again");
                self.instance_changed(&instance.id);
                RefreshOutcome::Interrupted { error, until: None }
            }
            // Its process came back.
            Ok(false) => later_than_others(stored, now),
            Err(_) => RefreshOutcome::Failed("the store is closed"),
        }
    }

    /// The instance as AUTH_ERROR with the events that tell of it; no change where another
    /// status holds.
    fn plan_auth_error(
        &self,
        read: &Instance,
        definition: &CompiledDefinition,
        error: &RefreshError,
        correlation_id: &str,
    ) -> (Option<Instance>, Vec<EventDraft>) {
        if read.status != InstanceStatus::Connected {
            return (None, Vec::new());
        }
        let auth_type = definition.definition.spec.auth_type;
        let facts = StatusFacts { config_valid: true, credential_stored: true, auth_type };
        let (mut changed, mut events) =
            self.plan_move(read.clone(), StatusTrigger::CredentialRefused, facts, &[], &error.message, correlation_id);
        let details = json!({ "refresh": error });
        if let Some(shown) = &mut changed.error {
            shown.details = Some(details.clone());
        }
        events.push(EventDraft::auth_failed(
            correlation_id,
            &read.id,
            &read.integration_definition_id,
            auth_type,
            &error.message,
            details,
        ));
        (Some(changed), events)
    }
}

impl RefreshPolicy {
    /// What is stored of a credential beside its secret.
    pub(crate) fn meta(&self, facts: &CredentialFacts, lifetime: Option<Duration>, now: Timestamp) -> CredentialMeta {
        let refreshable = self.can_renew(facts.refreshable);
        CredentialMeta {
            auth_type: AuthType::OAuth2,
            expires_at: facts.expires_at,
            scope: facts.scope.clone(),
            refreshable,
            next_refresh_at: self.next_refresh_at(facts.expires_at, lifetime, now, jitter()).filter(|_| refreshable),
            secrets_until: Vec::new(),
        }
    }
}

/// What is kept of a failure, and shown.
fn describe(error: &TokenError, unanswered_before: Option<Timestamp>, now: Timestamp) -> RefreshError {
    let (kind, code, status) = match error {
        TokenError::NotSent { .. } => (RefreshErrorKind::NotSent, None, None),
        TokenError::Unanswered { .. } => (RefreshErrorKind::Unanswered, None, None),
        TokenError::Unavailable { status, error, .. } => (RefreshErrorKind::Unavailable, error.clone(), Some(*status)),
        TokenError::Refused { error, status, .. } => {
            (RefreshErrorKind::Refused, Some(error.clone()), (*status != 0).then_some(*status))
        }
        TokenError::Malformed { .. } => (RefreshErrorKind::Malformed, None, None),
        TokenError::Misconfigured { .. } => (RefreshErrorKind::Misconfigured, None, None),
    };
    let is_unanswered = matches!(kind, RefreshErrorKind::Unanswered | RefreshErrorKind::Malformed);
    let message = match unanswered_before {
        Some(at) if kind == RefreshErrorKind::Refused => format!(
            "{error} (an exchange of {at} got no usable answer: the external system may have renewed the grant then)"
        ),
        _ => error.to_string(),
    };
    RefreshError {
        kind,
        message,
        error: code,
        status,
        at: now,
        unanswered_at: unanswered_before.or_else(|| is_unanswered.then_some(now)),
    }
}
