//! Webhooks: what external systems deliver becomes events, once it is verified.
//!
//! Owns: the way of a delivery from its headers to the commit of its event, what the sender is
//! told, and how much of it is audited. Must not know: HTTP's routes, how a scheme signs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use integration_model::definition::{RateLimitAlgorithm, RateLimits};
use integration_model::{ErrorCode, InstanceId};
use integration_store::{CredentialUse, Delivery, IntendedUse, StoreError};
use metrics::counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Engine;
use crate::adapter::webhook::{Claim, Content, DEFAULT_MAX_BODY, Refusal, Webhook};
use crate::credential::Credential;
use crate::execute::ready_to_execute;
use crate::policy::rate_limit::KeyedRateLimiter;
use crate::registry::{ActiveInstance, LoadError};
use crate::transform::is_heavy;

/// How long a sender waits for its answer at most, once its body is here: the least patient
/// give up after three seconds.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// How many deliveries are worked on at once; their bodies lie in memory.
const MAX_AT_ONCE: usize = 256;
/// How many refused deliveries of an instance get a row in the audit and a line in the log
/// each minute: strangers decide how many there are.
const AUDITED_REFUSALS: RateLimits =
    RateLimits { requests_per_minute: Some(60), burst_limit: Some(60), algorithm: RateLimitAlgorithm::TokenBucket };
const MAX_INSTANCES: usize = 10_000;
/// Who uses the credential.
const PRINCIPAL: &str = "webhook";

const RECEIVED: &str = "integration_webhooks_received_total";
const DUPLICATES: &str = "integration_webhooks_duplicate_total";
const REFUSED: &str = "integration_webhooks_refused_total";

/// What receiving keeps in memory.
pub(crate) struct Webhooks {
    places: Semaphore,
    refusals: KeyedRateLimiter<String>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { places: Semaphore::new(MAX_AT_ONCE), refusals: KeyedRateLimiter::new(&AUDITED_REFUSALS, MAX_INSTANCES) }
    }
}

/// Where a delivery goes, if there is such a webhook.
pub struct WebhookTarget(Option<(Arc<ActiveInstance>, Webhook)>);

/// What the sender is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookAnswer {
    /// The delivery's event is committed, now or before.
    Received { duplicate: bool },
    /// The sender asks whether the receiver is there, and wants this text back.
    Challenge(String),
}

/// Why a delivery was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Whoever does not hold the secret learns no more.
    #[error("there is no such webhook, or the signature of the delivery does not hold")]
    NotVerified,
    #[error("this webhook takes no deliveries at present")]
    NotReady,
    #[error("the limit of the webhook is used up")]
    RateLimited { retry_after: Duration },
    #[error("the delivery could not be taken in time: send it again")]
    Overloaded,
    #[error("the delivery cannot be verified at present: send it again")]
    Unavailable(ErrorCode),
    #[error("the store failed")]
    Store(#[source] StoreError),
}

impl WebhookTarget {
    /// The largest body that is taken.
    pub fn max_body_bytes(&self) -> usize {
        self.0.as_ref().map_or(DEFAULT_MAX_BODY, |(_, webhook)| webhook.max_body_bytes())
    }
}

/// A delivery as it came.
struct Incoming<'a> {
    headers: &'a HeaderMap,
    body: Bytes,
    correlation_id: &'a str,
}

impl Engine {
    /// Finds the webhook that a delivery is for. That there is none shows when the delivery is
    /// received, as a wrong signature does.
    pub async fn webhook(&self, id: &str) -> Result<WebhookTarget, WebhookError> {
        let Ok(parsed) = InstanceId::parse(id) else { return Ok(WebhookTarget(None)) };
        // Loading waits for other loads: strangers who guess ids must not hold those up.
        if self.registry.loaded(&parsed).is_none()
            && self.store.instance(&parsed).await.map_err(WebhookError::Store)?.is_none()
        {
            return Ok(WebhookTarget(None));
        }
        let limits = self.limits.load_full();
        let active = match self.registry.instance(id, &self.store, &self.adapters, &limits.rules).await {
            Ok(active) => active,
            Err(LoadError::Store(error)) => return Err(WebhookError::Store(error)),
            Err(error) => {
                tracing::error!(instance.id = %parsed, %error, "a webhook cannot be made ready");
                None
            }
        };
        let target = active.and_then(|active| {
            let webhook = active.definition.adapter.webhook(&active.config)?;
            Some((active, webhook))
        });
        Ok(WebhookTarget(target))
    }

    /// Verifies a delivery and commits its event. Where this takes longer than senders wait,
    /// they are asked to send it again; what was committed then is known as a duplicate.
    pub async fn receive_webhook(
        &self,
        target: WebhookTarget,
        headers: &HeaderMap,
        body: Bytes,
        correlation_id: &str,
    ) -> Result<WebhookAnswer, WebhookError> {
        let Some((active, webhook)) = target.0 else {
            count_refusal("", Refusal::Unknown);
            return Err(WebhookError::NotVerified);
        };
        let Ok(_place) = self.webhooks.places.try_acquire() else { return Err(WebhookError::Overloaded) };
        let incoming = Incoming { headers, body, correlation_id };
        match tokio::time::timeout(PATIENCE, self.receive(&active, webhook, incoming)).await {
            Ok(answer) => answer,
            Err(_) => {
                tracing::warn!(instance.id = %active.instance.id, correlationId = correlation_id, "a webhook's delivery could not be taken in time");
                Err(WebhookError::Overloaded)
            }
        }
    }

    async fn receive(
        &self,
        active: &Arc<ActiveInstance>,
        webhook: Webhook,
        incoming: Incoming<'_>,
    ) -> Result<WebhookAnswer, WebhookError> {
        let Incoming { headers, body, correlation_id } = incoming;
        let instance = &active.instance;
        let intended = IntendedUse {
            tenant: &instance.tenant_id,
            principal: PRINCIPAL,
            instance: &instance.id,
            credential: active.credential.id(),
            execution: None,
            correlation_id,
            why: "webhook delivery",
            method: "",
        };
        let refuse = |refusal, used| self.refuse(active, refusal, used, intended);
        let claim = match webhook.claim(headers, self.store.clock().now()) {
            Ok(claim) => claim,
            Err(refusal) => return Err(refuse(refusal, None).await),
        };
        let unavailable = |code| WebhookError::Unavailable(code);
        let Some(used) = self.begin_use(active, intended).map_err(|failure| unavailable(failure.code))? else {
            return Err(refuse(Refusal::NoSecret, None).await);
        };
        let credential = match self.open_credential(active, Instant::now() + PATIENCE).await {
            Ok(credential) => credential,
            Err(failure) if failure.code == ErrorCode::Auth => {
                return Err(refuse(Refusal::NoSecret, Some(used)).await);
            }
            Err(failure) => {
                self.finish_use(Some(used), intended, false).await;
                return Err(unavailable(failure.code));
            }
        };
        let verified = self.verify(webhook, claim, credential, body.clone()).await?;
        let (webhook, claim) = match verified {
            Ok(verified) => verified,
            Err(refusal) => return Err(refuse(refusal, Some(used)).await),
        };
        let refused = if ready_to_execute(active).is_err() {
            Some(WebhookError::NotReady)
        } else {
            let limiter = active.limiter.as_deref();
            let limited = limiter.and_then(|limiter| limiter.try_acquire(Instant::now(), 1).err());
            limited.map(|refused| WebhookError::RateLimited { retry_after: refused.retry_after })
        };
        if let Some(error) = refused {
            self.finish_use(Some(used), intended, true).await;
            return Err(error);
        }
        let content = Content::read(headers, &body);
        if let Some(challenge) = webhook.challenge(&content) {
            self.finish_use(Some(used), intended, true).await;
            return Ok(WebhookAnswer::Challenge(challenge));
        }
        let delivery = Delivery {
            key: webhook.delivery_key(&claim, &content),
            event: webhook.event(instance, &claim, headers, &content, correlation_id),
            used: Some(used),
        };
        let fresh = self.store.take_delivery(delivery, intended).await.map_err(|error| match error {
            StoreError::NotFound => WebhookError::NotVerified,
            error => WebhookError::Store(error),
        })?;
        counter!(if fresh { RECEIVED } else { DUPLICATES }, "integration" => label(active)).increment(1);
        Ok(WebhookAnswer::Received { duplicate: !fresh })
    }

    /// Beside the threads that serve callers where the body is large.
    async fn verify(
        &self,
        webhook: Webhook,
        claim: Claim,
        credential: Arc<Credential>,
        body: Bytes,
    ) -> Result<Result<(Webhook, Claim), Refusal>, WebhookError> {
        let now = self.store.clock().now();
        let is_heavy = is_heavy(body.len());
        let work = move || {
            let Credential::SigningSecrets(secrets) = credential.request_part() else { return Err(Refusal::NoSecret) };
            let mut live = secrets.live(now).peekable();
            if live.peek().is_none() {
                return Err(Refusal::NoSecret);
            }
            webhook.verify(&claim, &body, live)?;
            Ok((webhook, claim))
        };
        if !is_heavy {
            return Ok(work());
        }
        tokio::task::spawn_blocking(work).await.map_err(|_| WebhookError::Overloaded)
    }

    /// Puts a refusal down. The log and the audit tell of so many a minute, the metric of all.
    async fn refuse(
        &self,
        active: &ActiveInstance,
        refusal: Refusal,
        used: Option<CredentialUse>,
        intended: IntendedUse<'_>,
    ) -> WebhookError {
        count_refusal(&label(active), refusal);
        let id = active.instance.id.as_str();
        if self.webhooks.refusals.try_acquire(id, Instant::now(), 1).is_ok() {
            tracing::warn!(
                instance.id = id,
                reason = refusal.as_str(),
                correlationId = intended.correlation_id,
                "a webhook's delivery was refused"
            );
            self.finish_use(used, intended, false).await;
        } else if let Some(used) = used {
            used.discard();
        }
        WebhookError::NotVerified
    }
}

fn count_refusal(integration: &str, refusal: Refusal) {
    counter!(REFUSED, "integration" => integration.to_owned(), "reason" => refusal.as_str()).increment(1);
}

/// The label of an instance among the metrics.
fn label(active: &ActiveInstance) -> String {
    crate::metrics::bounded_labels(active.instance.id.as_str(), "").0
}
