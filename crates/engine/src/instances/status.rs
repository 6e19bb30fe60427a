//! How an instance's status moves: by its config, its credential, and what the external
//! system says of it.

use std::time::Duration;

use integration_model::audit::{AuditAction, AuditDraft, AuditOutcome};
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceError, InstanceStatus, StatusFacts, StatusTrigger, next_status};
use integration_model::principal::Principal;
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use integration_store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::race::until_it_holds;
use crate::Engine;
use crate::error::EngineError;
use crate::execute::{Tested, test_connection};
use crate::registry::{CompiledDefinition, merged_config};

/// The result of a connection test.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestReport {
    pub healthy: bool,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    pub duration_ms: u64,
    pub checked_at: Timestamp,
    pub instance_status: InstanceStatus,
}

/// How long a connection test may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);

impl Engine {
    /// Applies a trigger of the status machine and writes the instance with its events, for
    /// the reason that the audit is told.
    pub(super) async fn move_instance(
        &self,
        instance: Instance,
        definition: &CompiledDefinition,
        trigger: StatusTrigger,
        problems: Vec<Problem>,
        audit: AuditDraft,
    ) -> Result<Instance, EngineError> {
        let credential_stored = self.store.credential(&instance.id).await?.is_some();
        let facts = StatusFacts {
            config_valid: problems.is_empty(),
            credential_stored,
            auth_type: definition.definition.spec.auth_type,
        };
        let (instance, events) =
            self.plan_move(instance, trigger, facts, &problems, &audit.reason, &audit.correlation_id);
        self.write_instance(&instance, events, Some(audit)).await
    }

    /// The instance after a trigger, with the events that tell of it.
    pub(crate) fn plan_move(
        &self,
        mut instance: Instance,
        trigger: StatusTrigger,
        facts: StatusFacts,
        problems: &[Problem],
        reason: &str,
        correlation_id: &str,
    ) -> (Instance, Vec<EventDraft>) {
        let now = self.store.clock().now();
        let previous = instance.status;
        let next = next_status(previous, trigger, facts);
        let mut events = Vec::new();
        if next != previous {
            events.push(EventDraft::instance_status(
                correlation_id,
                &instance.id,
                &instance.integration_definition_id,
                Some(previous),
                next,
                reason,
            ));
            if next == InstanceStatus::Connected {
                instance.last_connected_at = Some(now);
                events.push(EventDraft::connected(
                    correlation_id,
                    &instance.id,
                    &instance.integration_definition_id,
                    facts.auth_type,
                    None,
                    None,
                ));
            }
            instance.error = status_error(next, problems, Some(reason));
        } else if matches!(next, InstanceStatus::PendingConfiguration | InstanceStatus::ConfigError) {
            // The status stays, but what is wrong may be something else now.
            instance.error = status_error(next, problems, Some(reason));
        }
        instance.status = next;
        instance.updated_at = now;
        (instance, events)
    }

    /// Writes a change with its events, and has what is known of the instance read anew. A
    /// move of the status that nobody asked for needs no `audit` of its own.
    pub(crate) async fn write_instance(
        &self,
        instance: &Instance,
        events: Vec<EventDraft>,
        audit: Option<AuditDraft>,
    ) -> Result<Instance, EngineError> {
        let written = self
            .store
            .update_instance(instance, events, audit)
            .await
            .map_err(|error| instance_error(&instance.id, error))?;
        self.instance_changed(&written.id);
        Ok(written)
    }

    /// Has the next call read the instance anew; an earlier test says nothing of it now.
    pub(crate) fn instance_changed(&self, id: &InstanceId) {
        self.registry.refresh_instance(id);
        self.health.forget(id);
    }

    /// The facts that the status machine wants to know of an instance.
    pub(crate) async fn status_facts(
        &self,
        instance: &Instance,
        credential_stored: bool,
    ) -> Result<(StatusFacts, Vec<Problem>), EngineError> {
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        let facts = StatusFacts {
            config_valid: problems.is_empty(),
            credential_stored,
            auth_type: definition.definition.spec.auth_type,
        };
        Ok((facts, problems))
    }

    /// Finds out whether the external system is reachable and takes the credential; the
    /// status follows what it finds.
    pub async fn test_instance(
        &self,
        id: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<TestReport, EngineError> {
        let instance = self.instance(id, principal).await?;
        let started = Instant::now();
        let Tested { result: outcome, credential } =
            test_connection(self, &instance, started + TEST_TIMEOUT, principal, correlation_id).await;
        let duration_ms = crate::execute::millis(Instant::now() - started);
        let (healthy, message, code, refused) = match outcome {
            Ok(message) => (true, message, None, false),
            Err(error) => (false, error.message, Some(error.code), error.credential_refused),
        };
        let status = if healthy {
            self.credential_accepted(&instance.id, credential, principal, correlation_id).await?
        } else if refused {
            self.credential_refused(&instance.id, credential, &message, principal, correlation_id).await?
        } else {
            // A refused refresh may have moved it.
            self.store.instance(&instance.id).await?.map(|instance| instance.status)
        };
        let event = EventDraft::health_check(correlation_id, &instance.id, healthy, &message, duration_ms);
        let mut audit =
            AuditDraft::done(AuditAction::InstanceTested, &principal.name, "connection test", correlation_id);
        if !healthy {
            audit.outcome = AuditOutcome::Failure;
            audit.details = code.map(|code| json!({"code": code}));
        }
        self.store.append_audit(audit, Some(&instance.tenant_id), Some(&instance.id), credential).await?;
        self.store.append_events(vec![(instance.tenant_id, Some(instance.id.clone()), event)]).await?;
        let report = TestReport {
            healthy,
            message,
            code,
            duration_ms,
            checked_at: self.store.clock().now(),
            instance_status: status.ok_or_else(|| EngineError::InstanceNotFound(id.to_owned()))?,
        };
        self.health.remember(&instance.id, &report);
        Ok(report)
    }

    /// The external system took the credential `used`: an instance that waited for that is
    /// CONNECTED again. Gives the status after it, none where the instance is gone.
    async fn credential_accepted(
        &self,
        id: &InstanceId,
        used: Option<Uuid>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Option<InstanceStatus>, EngineError> {
        until_it_holds(None, || async {
            let Some((instance, stored)) = self.instance_and_credential(id).await? else { return Ok(None) };
            if instance.status != InstanceStatus::AuthError || stored != used {
                return Ok(Some(instance.status));
            }
            let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
            let problems = config_problems(&definition, &instance.config);
            let reason = "the external system took the credential";
            let audit = AuditDraft::done(AuditAction::InstanceConnected, &principal.name, reason, correlation_id);
            let moved =
                self.move_instance(instance, &definition, StatusTrigger::CredentialAccepted, problems, audit).await?;
            self.mark_credential(id, used, None, None).await?;
            Ok(Some(moved.status))
        })
        .await
    }

    /// The external system refused the credential `used`: the instance says so until another
    /// comes. Gives the status after it, none where the instance is gone.
    pub(crate) async fn credential_refused(
        &self,
        id: &InstanceId,
        used: Option<Uuid>,
        message: &str,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Option<InstanceStatus>, EngineError> {
        until_it_holds(None, || async {
            let Some((instance, stored)) = self.instance_and_credential(id).await? else { return Ok(None) };
            // A refusal of an older credential says nothing of the one that came after it.
            if instance.status != InstanceStatus::Connected || used.is_none() || stored != used {
                return Ok(Some(instance.status));
            }
            let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
            let auth_type = definition.definition.spec.auth_type;
            let facts = StatusFacts { config_valid: true, credential_stored: true, auth_type };
            let (instance, mut events) =
                self.plan_move(instance, StatusTrigger::CredentialRefused, facts, &[], message, correlation_id);
            let (definition, details) = (&instance.integration_definition_id, json!({}));
            events.push(EventDraft::auth_failed(correlation_id, id, definition, auth_type, message, details));
            let written = self.write_instance(&instance, events, None).await?;
            let audit = AuditDraft::done(
                AuditAction::CredentialRefused,
                &principal.name,
                "refused by the external system",
                correlation_id,
            );
            self.mark_credential(id, used, Some(self.store.clock().now()), Some(audit)).await?;
            Ok(Some(written.status))
        })
        .await
    }

    /// The instance with the id of its credential, which is read second: a credential that
    /// comes later moves the instance's version too.
    async fn instance_and_credential(&self, id: &InstanceId) -> Result<Option<(Instance, Option<Uuid>)>, EngineError> {
        let Some(instance) = self.store.instance(id).await? else { return Ok(None) };
        let credential = self.store.credential(id).await?.map(|stored| stored.id);
        Ok(Some((instance, credential)))
    }

    /// Notes whether the external system refuses a credential, if it is still the stored one.
    async fn mark_credential(
        &self,
        id: &InstanceId,
        used: Option<Uuid>,
        refused_at: Option<Timestamp>,
        audit: Option<AuditDraft>,
    ) -> Result<(), EngineError> {
        let Some(used) = used else { return Ok(()) };
        match self.store.mark_credential_refused(id, used, refused_at, audit).await {
            Err(StoreError::NotFound) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// What the store says of a change: where the row is gone, so is the instance.
pub(crate) fn instance_error(id: &InstanceId, error: StoreError) -> EngineError {
    match error {
        StoreError::NotFound => EngineError::InstanceNotFound(id.to_string()),
        other => other.into(),
    }
}

/// What is wrong with an instance's config under a version of its definition.
pub(crate) fn config_problems(definition: &CompiledDefinition, config: &Map<String, Value>) -> Vec<Problem> {
    let merged = merged_config(definition, config);
    let mut problems = definition.adapter.check_config(&merged);
    if let Err(faults) = definition.config_schema.validate(&Value::Object(merged)) {
        problems.extend(faults);
    }
    problems.into_iter().map(|problem| Problem::new(format!("/config{}", problem.pointer), problem.message)).collect()
}

pub(super) fn status_error(
    status: InstanceStatus,
    problems: &[Problem],
    reason: Option<&str>,
) -> Option<InstanceError> {
    let (code, message) = match status {
        InstanceStatus::Connected => return None,
        InstanceStatus::PendingConfiguration | InstanceStatus::ConfigError => {
            let first = problems.first().map_or_else(String::new, |problem| format!(": {problem}"));
            (ErrorCode::Validation.as_str(), format!("the config does not fit the definition{first}"))
        }
        InstanceStatus::PendingAuthentication => ("CREDENTIAL_MISSING", "no credential is stored".to_owned()),
        InstanceStatus::Disconnected => ("DISCONNECTED", reason.unwrap_or("disconnected").to_owned()),
        InstanceStatus::AuthError => {
            (ErrorCode::Auth.as_str(), reason.unwrap_or("the credential was refused").to_owned())
        }
    };
    let details = (!problems.is_empty()).then(|| json!({ "errors": problems }));
    Some(InstanceError { message, code: code.to_owned(), details })
}
