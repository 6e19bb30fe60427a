//! Rotation: an instance's credential is exchanged for another, or read anew where it was
//! exchanged elsewhere; and reminders of the credentials whose rotation is due.
//!
//! Must not know: HTTP, where events come from.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use integration_model::audit::{AuditAction, AuditDraft, AuditOutcome, TargetType};
use integration_model::definition::AuthType;
use integration_model::instance::Instance;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use integration_store::{IntendedUse, StoreError};
use metrics::gauge;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::credential::{Credential, SigningSecrets};
use crate::credentials::NewCredential;
use crate::execute::{millis, test_candidate};
use crate::instances::TestReport;
use crate::instances::race::until_it_holds;
use crate::{Engine, EngineError};

/// How long the external system may take to judge a new credential.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How many instances one event may name, and how many of them are tested at once.
const MAX_INSTANCES: usize = 50;
const TESTED_AT_ONCE: usize = 8;
/// How often the ages of credentials are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// The longest that a secret stays in force beside the one that took its place: 30 days.
const MAX_OVERLAP_SECONDS: u64 = 30 * 86_400;

const DUE: &str = "integration_credentials_rotation_due";
const OLDEST: &str = "integration_credentials_oldest_age_seconds";

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationReport {
    /// Whether a new credential was stored; false where the stored one was read anew.
    pub stored: bool,
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What the external system said to it.
    pub test: TestReport,
}

/// A credential that takes the place of the stored one. It has no printable form.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    /// The definition's `authType` unless given.
    #[serde(rename = "type", default)]
    pub auth_type: Option<AuthType>,
    /// As where a credential is stored.
    #[schema(value_type = Object)]
    pub data: Value,
    /// For how long the secrets before stay in force beside the new ones; of webhooks alone,
    /// whose sender may take a while to go over to the new secret. They end at once without.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub overlap_seconds: Option<u64>,
}

/// An event of another service, in the envelope that all services share.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub struct IncomingEvent {
    /// `system.credential.rotated`.
    #[serde(rename = "type")]
    #[schema(example = "system.credential.rotated")]
    pub event_type: String,
    /// The same event is taken once, however often it comes.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    pub timestamp: Timestamp,
    /// Which instances it concerns: `integrationInstanceId`, or `integrationInstanceIds`.
    #[schema(value_type = Object)]
    pub data: Value,
    pub metadata: IncomingMetadata,
}

#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncomingMetadata {
    #[schema(min_length = 1, max_length = 128)]
    pub correlation_id: String,
    #[serde(default)]
    pub task_id: Option<String>,
    /// The service that publishes the event.
    #[schema(min_length = 1, max_length = 200)]
    pub source: String,
}

/// That an event was taken.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventTaken {
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// Whether it was taken before; then nothing was done now.
    pub duplicate: bool,
    /// What came of it, for each instance that it names.
    pub instances: Vec<EventEffect>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventEffect {
    pub integration_instance_id: String,
    /// None where the instance is unknown to this caller or has no credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<TestReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The types of events that are taken from others.
pub const CONSUMED_EVENTS: &[&str] = &["system.credential.rotated"];

/// The instances that the data of a `system.credential.rotated` may name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialRotated {
    #[serde(default)]
    integration_instance_id: Option<String>,
    #[serde(default)]
    integration_instance_ids: Vec<String>,
}

impl Engine {
    /// Exchanges an instance's credential. With a new one: it is tested first, and stored
    /// unless the external system refuses it. Without: what is kept of the stored one in
    /// memory is dropped, and it is read and tested anew.
    pub async fn rotate_credential(
        &self,
        id: &str,
        new: Option<Rotation>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<RotationReport, EngineError> {
        match new {
            Some(new) => self.exchange_credential(id, new, principal, correlation_id).await,
            None => self.reread_credential(id, "read anew for a caller", principal, correlation_id).await,
        }
    }

    async fn exchange_credential(
        &self,
        id: &str,
        rotation: Rotation,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<RotationReport, EngineError> {
        let instance = self.instance(id, principal).await?;
        let (facts, _) = self.status_facts(&instance, true).await?;
        let new = &NewCredential { auth_type: rotation.auth_type.unwrap_or(facts.auth_type), data: rotation.data };
        let (candidate, _) = self.parse_credential(&instance, new, facts.auth_type).await?;
        let overlap = rotation.overlap_seconds.map(|seconds| overlap_of(&candidate, seconds)).transpose()?;
        let Some(before) = self.store.credential(&instance.id).await? else {
            return Err(EngineError::NotFound("credential"));
        };
        let now = self.store.clock().now();
        let (candidate, _) = candidate.signed(now).map_err(|error| {
            let problem = Problem::new("/data", error.to_string());
            EngineError::invalid("the credential is not valid", vec![problem])
        })?;
        let started = Instant::now();
        let tested =
            test_candidate(self, &instance, &candidate, started + TEST_TIMEOUT, principal, correlation_id).await;
        let mut audit = AuditDraft::done(
            AuditAction::CredentialRotated,
            &principal.name,
            "exchanged for another by a caller",
            correlation_id,
        );
        let (healthy, message, code) = match tested {
            Ok(message) => (true, message, None),
            Err(error) if error.credential_refused || error.code == ErrorCode::Internal => {
                audit.outcome = AuditOutcome::Failure;
                audit.details = Some(json!({"code": error.code}));
                self.store.append_audit(audit, Some(&instance.tenant_id), Some(&instance.id), Some(before.id)).await?;
                return Err(EngineError::CredentialRefused { code: error.code, message: error.message });
            }
            Err(error) => (false, error.message, Some(error.code)),
        };
        let duration_ms = millis(Instant::now() - started);
        audit.details = Some(json!({"tested": healthy, "replaced": before.id}));
        let stored =
            until_it_holds(None, || self.try_store_credential(id, new, overlap, principal, audit.clone())).await?;
        let after = self.instance(id, principal).await?;
        let test = TestReport {
            healthy,
            message,
            code,
            duration_ms,
            checked_at: self.store.clock().now(),
            instance_status: after.status,
        };
        Ok(RotationReport { stored: true, auth_type: stored.auth_type, expires_at: stored.expires_at, test })
    }

    /// The new secrets, with those before for a while.
    pub(crate) async fn overlapping(
        &self,
        instance: &Instance,
        new: Credential,
        overlap: Duration,
        audit: &AuditDraft,
    ) -> Result<Credential, EngineError> {
        let Credential::SigningSecrets(new) = new else { return Ok(new) };
        let Some(stored) = self.store.credential(&instance.id).await? else {
            return Err(EngineError::NotFound("credential"));
        };
        let intended = IntendedUse {
            tenant: &instance.tenant_id,
            principal: &audit.principal,
            instance: &instance.id,
            credential: Some(stored.id),
            execution: None,
            correlation_id: &audit.correlation_id,
            why: "kept beside a new one",
            method: "",
        };
        let used = self.store.begin_use(intended)?;
        let opened = self.store.open_credential(&stored).await;
        self.finish_use(Some(used), intended, opened.is_ok()).await;
        let before = match Credential::from_bytes(&opened?) {
            Ok(Credential::SigningSecrets(before)) => before,
            _ => return Err(EngineError::conflict("the stored credential is no list of secrets: none can be kept")),
        };
        let both = new.overlapping(&before, self.store.clock().now(), overlap);
        if both.len() > SigningSecrets::MAX {
            let message = format!(
                "expected at most {} secrets in force together, those before among them: {} would be",
                SigningSecrets::MAX,
                both.len()
            );
            let problem = Problem::new("/data/secrets", message);
            return Err(EngineError::invalid("the credential is not valid", vec![problem]));
        }
        Ok(Credential::SigningSecrets(both))
    }

    async fn reread_credential(
        &self,
        id: &str,
        reason: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<RotationReport, EngineError> {
        let instance = self.instance(id, principal).await?;
        let Some(stored) = self.store.credential(&instance.id).await? else {
            return Err(EngineError::NotFound("credential"));
        };
        self.instance_changed(&instance.id);
        // What was cached was answered to what the secret was before.
        self.cache.clear(&instance.id);
        let test = self.test_instance(id, principal, correlation_id).await?;
        let mut audit = AuditDraft::done(AuditAction::CredentialRotated, &principal.name, reason, correlation_id);
        if !test.healthy {
            audit.outcome = AuditOutcome::Failure;
            audit.details = test.code.map(|code| json!({"code": code}));
        }
        self.store.append_audit(audit, Some(&instance.tenant_id), Some(&instance.id), Some(stored.id)).await?;
        Ok(RotationReport { stored: false, auth_type: stored.meta.auth_type, expires_at: stored.meta.expires_at, test })
    }

    /// Takes an event of another service: does what it asks, and does it once. The event is
    /// marked as taken after it is done, so that one that was torn comes again.
    pub async fn take_event(&self, event: IncomingEvent, principal: &Principal) -> Result<EventTaken, EngineError> {
        if !CONSUMED_EVENTS.contains(&event.event_type.as_str()) {
            return Err(EngineError::EventNotTaken(event.event_type.chars().take(100).collect()));
        }
        let ids = event.instances()?;
        if self.store.event_was_consumed(event.id).await? {
            return Ok(EventTaken { id: event.id, duplicate: true, instances: Vec::new() });
        }
        let correlation_id = event.metadata.correlation_id.as_str();
        let reason = format!("rotated, says {}", event.metadata.source);
        let reason = reason.as_str();
        let mut instances: Vec<(usize, EventEffect)> = futures_util::stream::iter(ids.into_iter().enumerate())
            .map(|(index, id)| async move {
                let effect = match self.reread_credential(&id, reason, principal, correlation_id).await {
                    Ok(report) => EventEffect { integration_instance_id: id, test: Some(report.test), error: None },
                    Err(EngineError::Store(error)) => return Err(EngineError::Store(error)),
                    Err(error) => {
                        EventEffect { integration_instance_id: id, test: None, error: Some(error.to_string()) }
                    }
                };
                Ok((index, effect))
            })
            .buffer_unordered(TESTED_AT_ONCE)
            .collect::<Vec<Result<_, EngineError>>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        instances.sort_by_key(|(index, _)| *index);
        let audit = AuditDraft::done(AuditAction::EventTaken, &principal.name, reason, correlation_id)
            .to(TargetType::Event, event.id.to_string())
            .with_details(json!({"type": event.event_type}));
        let fresh = self.store.mark_event_consumed(event.id, audit).await?;
        let instances = instances.into_iter().map(|(_, effect)| effect).collect();
        Ok(EventTaken { id: event.id, duplicate: !fresh, instances })
    }

    /// Counts now and then how many credentials are due for rotation, for the metrics.
    pub async fn run_rotation_reminders(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(COUNT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.count_due_rotations().await {
                tracing::warn!(%error, "the ages of credentials could not be counted");
            }
        }
    }

    async fn count_due_rotations(&self) -> Result<(), StoreError> {
        let now = self.store.clock().now();
        let ages = self.store.credential_ages(now.saturating_sub(self.settings.rotation_reminder)).await?;
        // Gauges hold floats; counts and seconds lie far below where those are exact.
        gauge!(DUE).set(ages.older as f64);
        gauge!(OLDEST).set(ages.oldest.map_or(0.0, |at| now.since(at).as_secs_f64()));
        Ok(())
    }
}

/// How long the secrets before stay in force.
fn overlap_of(candidate: &Credential, seconds: u64) -> Result<Duration, EngineError> {
    let expected = if !matches!(candidate, Credential::SigningSecrets(_)) {
        "expected none: only the secrets of webhooks are in force together".to_owned()
    } else if !(1..=MAX_OVERLAP_SECONDS).contains(&seconds) {
        format!("expected 1 to {MAX_OVERLAP_SECONDS}")
    } else {
        return Ok(Duration::from_secs(seconds));
    };
    let problem = Problem::new("/overlapSeconds", expected);
    Err(EngineError::invalid("the credential is not valid", vec![problem]))
}

impl IncomingEvent {
    /// The ids of the instances that the event names, each once.
    fn instances(&self) -> Result<Vec<String>, EngineError> {
        let mut problems = Vec::new();
        let bounded =
            |text: &str, max: usize| !text.is_empty() && text.len() <= max && !text.contains(char::is_control);
        if !bounded(&self.metadata.correlation_id, 128) {
            problems.push(Problem::new("/metadata/correlationId", "expected 1 to 128 characters"));
        }
        if !bounded(&self.metadata.source, 200) {
            problems.push(Problem::new("/metadata/source", "expected 1 to 200 characters"));
        }
        let mut ids = Vec::new();
        match serde_json::from_value::<CredentialRotated>(self.data.clone()) {
            Ok(data) => {
                for id in data.integration_instance_id.into_iter().chain(data.integration_instance_ids) {
                    if InstanceId::parse(&id).is_err() {
                        problems.push(Problem::new("/data", format!("{id:?} is no instance's id")));
                    } else if !ids.contains(&id) {
                        ids.push(id);
                    }
                    if ids.len() > MAX_INSTANCES || problems.len() > MAX_INSTANCES {
                        break;
                    }
                }
                if problems.is_empty() && !(1..=MAX_INSTANCES).contains(&ids.len()) {
                    let expected = format!(
                        "expected integrationInstanceId, or integrationInstanceIds with 1 to {MAX_INSTANCES} ids"
                    );
                    problems.push(Problem::new("/data", expected));
                }
            }
            Err(error) => problems.push(Problem::new("/data", error.to_string())),
        }
        if problems.is_empty() { Ok(ids) } else { Err(EngineError::invalid("the event is not valid", problems)) }
    }
}
