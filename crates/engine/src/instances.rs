//! Instances: configured connections, their status and their life.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use integration_model::compatibility::{self, CompatibilityReport};
use integration_model::definition::{DefinitionStatus, MAX_NAME};
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceError, InstanceStatus, StatusFacts, StatusTrigger, next_status};
use integration_model::label::{check_labels, fits};
use integration_model::principal::Principal;
use integration_model::schema::SemanticVersion;
use integration_model::{DefinitionId, ErrorCode, InstanceId, Problem, TenantId, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Engine;
use crate::error::EngineError;
use crate::registry::CompiledDefinition;
use tokio::time::Instant;

/// What a caller gives to make an instance.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewInstance {
    /// A UUIDv7 unless given.
    #[serde(default)]
    pub id: Option<InstanceId>,
    pub integration_definition_id: DefinitionId,
    /// The newest PUBLISHED version unless given.
    #[serde(default)]
    #[schema(value_type = Option<SemanticVersion>)]
    pub definition_version: Option<String>,
    /// The caller's tenant, or `default`, unless given.
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1F\x7F-\x9F]*[^\s\x00-\x1F\x7F-\x9F][^\x00-\x1F\x7F-\x9F]*$"
    )]
    pub name: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
    #[serde(default)]
    #[schema(schema_with = integration_model::schema::labels, required = false)]
    pub labels: BTreeMap<String, String>,
}

/// What may be changed of an instance. Absent fields stay as they are.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceChange {
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1F\x7F-\x9F]*[^\s\x00-\x1F\x7F-\x9F][^\x00-\x1F\x7F-\x9F]*$"
    )]
    pub name: Option<String>,
    /// `PUT` replaces the config, `PATCH` merges into it (RFC 7396: null removes).
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
    /// `PUT` replaces the labels, `PATCH` merges into them (null removes).
    #[serde(default)]
    #[schema(schema_with = integration_model::schema::label_changes, required = false)]
    pub labels: Option<BTreeMap<String, Option<String>>>,
}

/// Whether a change replaces or merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeMode {
    Replace,
    Merge,
}

/// What `upgrade` found, and whether it was done.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeReport {
    pub applied: bool,
    pub from: String,
    pub to: String,
    pub compatibility: CompatibilityReport,
    /// Why the instance's config does not fit the new version's schema; empty where it does.
    pub config_problems: Vec<Problem>,
    pub instance: Instance,
}

/// How an upgrade is to be made.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The newest PUBLISHED version unless given.
    #[serde(default)]
    #[schema(value_type = Option<SemanticVersion>)]
    pub definition_version: Option<String>,
    /// Only report, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Upgrade although it breaks callers or the config.
    #[serde(default)]
    pub accept_breaking: bool,
}

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

/// The largest config of an instance, in bytes of its JSON text.
const MAX_CONFIG: usize = 256 * 1024;
/// How long a connection test may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);

impl Engine {
    /// Makes an instance. A config that does not fit is no refusal: the instance waits for
    /// a better one in PENDING_CONFIGURATION.
    pub async fn create_instance(
        &self,
        new: NewInstance,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        check_given(&new.name, &new.config, &new.labels)?;
        let tenant_id = self.owner_for(principal, new.tenant_id)?;
        let definition =
            self.definition_for_new(&new.integration_definition_id, new.definition_version.as_deref()).await?;
        let spec = &definition.definition.spec;
        let problems = config_problems(&definition, &new.config);
        let facts =
            StatusFacts { config_valid: problems.is_empty(), credential_stored: false, auth_type: spec.auth_type };
        let now = self.store.clock().now();
        let status = facts.natural_status();
        let instance = Instance {
            id: new.id.unwrap_or_else(|| InstanceId::from_uuid(self.store.ids().next())),
            integration_definition_id: spec.id.clone(),
            definition_version: spec.version.to_string(),
            tenant_id,
            name: new.name,
            config: new.config,
            labels: new.labels,
            status,
            error: status_error(status, &problems, None),
            version: 1,
            created_at: now,
            updated_at: now,
            last_used_at: None,
            last_connected_at: (status == InstanceStatus::Connected).then_some(now),
        };
        let mut events = vec![
            EventDraft::registered(correlation_id, &instance.id, &spec.id, &instance.definition_version),
            EventDraft::instance_status(correlation_id, &instance.id, &spec.id, None, status, "created"),
        ];
        if status == InstanceStatus::Connected {
            events.push(EventDraft::connected(correlation_id, &instance.id, &spec.id, spec.auth_type, None, None));
        }
        self.store.insert_instance(&instance, events).await?;
        // A deleted instance of the same id may have left its entry behind.
        self.registry.forget_instance(&instance.id);
        Ok(instance)
    }

    /// The tenant that owns what this caller makes.
    fn owner_for(&self, principal: &Principal, wanted: Option<TenantId>) -> Result<TenantId, EngineError> {
        match (&principal.tenant, wanted) {
            (Some(own), Some(wanted)) if *own != wanted => Err(EngineError::Forbidden(wanted.to_string())),
            (Some(own), _) => Ok(own.clone()),
            (None, Some(wanted)) => Ok(wanted),
            (None, None) => Ok(TenantId::default_tenant()),
        }
    }

    async fn definition_for_new(
        &self,
        id: &DefinitionId,
        version: Option<&str>,
    ) -> Result<Arc<CompiledDefinition>, EngineError> {
        let definition = match version {
            Some(text) => {
                let version = parse_version(text, "/definitionVersion")?;
                self.definition_version(id, &version).await?
            }
            None => match self.store.latest_definition(id, &[DefinitionStatus::Published]).await? {
                Some(definition) => definition,
                None => {
                    self.definition_versions(id).await?;
                    return Err(EngineError::conflict(format!(
                        "definition {id} has no PUBLISHED version: publish one first"
                    )));
                }
            },
        };
        if definition.status != DefinitionStatus::Published {
            return Err(EngineError::conflict(format!(
                "definition {id} {} is {}: new instances take PUBLISHED versions only",
                definition.spec.version,
                definition.status.as_str()
            )));
        }
        self.compiled(id, &definition.spec.version.to_string()).await
    }

    async fn compiled(&self, id: &DefinitionId, version: &str) -> Result<Arc<CompiledDefinition>, EngineError> {
        self.registry.definition(id, version, &self.store, &self.adapters).await.map_err(|error| match error {
            crate::registry::LoadError::Store(error) => error.into(),
            crate::registry::LoadError::DefinitionGone { id, version } => {
                EngineError::DefinitionNotFound(format!("{id} in version {version}"))
            }
            crate::registry::LoadError::Broken { id, version, problems } => {
                EngineError::Conflict { message: format!("definition {id} {version} does not compile"), problems }
            }
        })
    }

    /// The instance, if this caller may know of it.
    pub async fn instance(&self, id: &str, principal: &Principal) -> Result<Instance, EngineError> {
        let missing = || EngineError::InstanceNotFound(id.to_owned());
        let parsed = InstanceId::parse(id).map_err(|_| missing())?;
        let instance = self.store.instance(&parsed).await?.ok_or_else(missing)?;
        if principal.may_see(&instance.tenant_id) { Ok(instance) } else { Err(missing()) }
    }

    /// Changes name, config or labels; the status follows the config.
    pub async fn change_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        change: InstanceChange,
        mode: ChangeMode,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let mut instance = self.instance_at(id, expected, principal).await?;
        if let Some(name) = change.name {
            instance.name = name;
        }
        if let Some(config) = change.config {
            match mode {
                ChangeMode::Replace => instance.config = config,
                ChangeMode::Merge => merge_patch(&mut instance.config, config),
            }
        }
        if let Some(labels) = change.labels {
            if mode == ChangeMode::Replace {
                instance.labels.clear();
            }
            for (key, value) in labels {
                match value {
                    Some(value) => instance.labels.insert(key, value),
                    None => instance.labels.remove(&key),
                };
            }
        }
        check_given(&instance.name, &instance.config, &instance.labels)?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        let trigger = StatusTrigger::ConfigChecked { valid: problems.is_empty() };
        self.move_instance(instance, &definition, trigger, problems, "configuration changed", correlation_id).await
    }

    /// Applies a trigger of the status machine and writes the instance with its events.
    async fn move_instance(
        &self,
        instance: Instance,
        definition: &CompiledDefinition,
        trigger: StatusTrigger,
        problems: Vec<Problem>,
        reason: &str,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let credential_stored = self.store.credential(&instance.id).await?.is_some();
        let facts = StatusFacts {
            config_valid: problems.is_empty(),
            credential_stored,
            auth_type: definition.definition.spec.auth_type,
        };
        let (instance, events) = self.plan_move(instance, trigger, facts, &problems, reason, correlation_id);
        let written = self.store.update_instance(&instance, events).await?;
        self.registry.refresh_instance(&written.id);
        Ok(written)
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

    /// Brings an instance back into use.
    pub async fn connect_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        self.move_instance(
            instance,
            &definition,
            StatusTrigger::Connect,
            problems,
            "connected by a caller",
            correlation_id,
        )
        .await
    }

    /// Takes an instance out of use; its credential stays.
    pub async fn disconnect_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        self.move_instance(
            instance,
            &definition,
            StatusTrigger::Disconnect,
            problems,
            "disconnected by a caller",
            correlation_id,
        )
        .await
    }

    /// Deletes an instance with its credential, cached answers and waiting executions; its
    /// log stays until its retention passes.
    pub async fn delete_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<(), EngineError> {
        let instance = self.instance(id, principal).await?;
        let event = EventDraft::instance_status(
            correlation_id,
            &instance.id,
            &instance.integration_definition_id,
            Some(instance.status),
            InstanceStatus::Disconnected,
            "deleted",
        );
        self.store.delete_instance(&instance.id, expected, vec![event]).await?;
        self.registry.forget_instance(&instance.id);
        self.cache.clear(&instance.id);
        self.health.forget(&instance.id);
        Ok(())
    }

    /// Pins an instance to another version of its definition.
    pub async fn upgrade_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        request: UpgradeRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<UpgradeReport, EngineError> {
        let mut instance = self.instance_at(id, expected, principal).await?;
        let definition_id = instance.integration_definition_id.clone();
        let from = self.compiled(&definition_id, &instance.definition_version).await?;
        let to = self.definition_for_new(&definition_id, request.definition_version.as_deref()).await?;
        let compatibility = compatibility::compare(&from.definition.spec, &to.definition.spec);
        let config_problems = config_problems(&to, &instance.config);
        let from_version = instance.definition_version.clone();
        let to_version = to.definition.spec.version.to_string();
        let breaks = compatibility.breaks().count();
        if !request.dry_run && !request.accept_breaking && (breaks > 0 || !config_problems.is_empty()) {
            let mut problems: Vec<Problem> = compatibility
                .breaks()
                .map(|change| Problem::new(change.pointer.clone(), change.message.clone()))
                .collect();
            problems.extend(config_problems);
            return Err(EngineError::Conflict {
                message: format!(
                    "version {to_version} breaks callers of {from_version} or the config; send acceptBreaking: true to upgrade all the same"
                ),
                problems,
            });
        }
        if !request.dry_run {
            instance.definition_version.clone_from(&to_version);
            let trigger = StatusTrigger::ConfigChecked { valid: config_problems.is_empty() };
            let reason = format!("upgraded from {from_version} to {to_version}");
            instance =
                self.move_instance(instance, &to, trigger, config_problems.clone(), &reason, correlation_id).await?;
        }
        Ok(UpgradeReport {
            applied: !request.dry_run,
            from: from_version,
            to: to_version,
            compatibility,
            config_problems,
            instance,
        })
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
        let deadline = started + TEST_TIMEOUT;
        let outcome = crate::execute::test_connection(self, &instance, deadline).await;
        let duration_ms = u64::try_from((Instant::now() - started).as_millis()).unwrap_or(u64::MAX);
        let (healthy, message, code, refused) = match outcome {
            Ok(message) => (true, message, None, false),
            Err(error) => (false, error.message, Some(error.code), error.credential_refused),
        };
        let status = if healthy {
            self.credential_accepted(&instance, correlation_id).await?
        } else if refused {
            self.credential_refused(&instance.id, &message, correlation_id).await?.unwrap_or(instance.status)
        } else {
            instance.status
        };
        let event = EventDraft::health_check(correlation_id, &instance.id, healthy, &message, duration_ms);
        self.store.append_events(vec![(instance.tenant_id.clone(), Some(instance.id.clone()), event)]).await?;
        let report = TestReport {
            healthy,
            message,
            code,
            duration_ms,
            checked_at: self.store.clock().now(),
            instance_status: status,
        };
        self.health.remember(&instance.id, &report);
        Ok(report)
    }

    async fn credential_accepted(
        &self,
        instance: &Instance,
        correlation_id: &str,
    ) -> Result<InstanceStatus, EngineError> {
        if instance.status != InstanceStatus::AuthError {
            return Ok(instance.status);
        }
        self.store.mark_credential_refused(&instance.id, None).await?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        let moved = self
            .move_instance(
                instance.clone(),
                &definition,
                StatusTrigger::CredentialAccepted,
                problems,
                "the external system took the credential",
                correlation_id,
            )
            .await?;
        Ok(moved.status)
    }

    /// The external system refused the credential: the instance says so until another comes.
    /// Gives the status after it, none where the instance is gone or changed meanwhile.
    pub(crate) async fn credential_refused(
        &self,
        id: &InstanceId,
        message: &str,
        correlation_id: &str,
    ) -> Result<Option<InstanceStatus>, EngineError> {
        let Some(instance) = self.store.instance(id).await? else { return Ok(None) };
        if instance.status != InstanceStatus::Connected {
            return Ok(Some(instance.status));
        }
        self.store.mark_credential_refused(id, Some(self.store.clock().now())).await?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let auth_type = definition.definition.spec.auth_type;
        let facts = StatusFacts { config_valid: true, credential_stored: true, auth_type };
        let (instance, mut events) =
            self.plan_move(instance, StatusTrigger::CredentialRefused, facts, &[], message, correlation_id);
        events.push(EventDraft::auth_failed(
            correlation_id,
            &instance.id,
            &instance.integration_definition_id,
            auth_type,
            message,
            json!({}),
        ));
        match self.store.update_instance(&instance, events).await {
            Ok(written) => {
                self.registry.refresh_instance(id);
                Ok(Some(written.status))
            }
            // Somebody changed the instance at the same moment: their word is newer.
            Err(integration_store::StoreError::VersionConflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The instance for a change, at the version that the caller last saw.
    pub(crate) async fn instance_at(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
    ) -> Result<Instance, EngineError> {
        let instance = self.instance(id, principal).await?;
        match expected {
            Some(expected) if expected != instance.version => {
                Err(EngineError::PreconditionFailed { current: instance.version })
            }
            _ => Ok(instance),
        }
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
}

/// What is wrong with an instance's config under a version of its definition.
fn config_problems(definition: &CompiledDefinition, config: &Map<String, Value>) -> Vec<Problem> {
    let mut merged = definition.definition.spec.default_config.clone();
    merged.extend(config.clone());
    let mut problems = definition.adapter.check_config(&merged);
    if let Err(faults) = definition.config_schema.validate(&Value::Object(merged)) {
        problems.extend(faults);
    }
    problems.into_iter().map(|problem| Problem::new(format!("/config{}", problem.pointer), problem.message)).collect()
}

fn status_error(status: InstanceStatus, problems: &[Problem], reason: Option<&str>) -> Option<InstanceError> {
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

/// RFC 7396: null removes, objects merge, all else replaces.
fn merge_patch(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(object) = slot {
                    merge_patch(object, inner);
                }
            }
            other => {
                target.insert(key, other);
            }
        }
    }
}

pub(crate) fn parse_version(text: &str, pointer: &str) -> Result<Version, EngineError> {
    Version::parse(text).map_err(|error| {
        EngineError::invalid(
            "not a semantic version",
            vec![Problem::new(pointer, format!("expected a semantic version such as 1.2.0: {error}"))],
        )
    })
}

/// The bounds of what callers give, whatever the definition says of it.
fn check_given(name: &str, config: &Map<String, Value>, labels: &BTreeMap<String, String>) -> Result<(), EngineError> {
    let mut problems = check_labels(labels);
    if name.trim().is_empty() || !fits(name, 1, MAX_NAME) {
        let expected = format!("expected a name of 1 to {MAX_NAME} characters, none of them control characters");
        problems.push(Problem::new("/name", expected));
    }
    if serde_json::to_vec(config).map_or(usize::MAX, |text| text.len()) > MAX_CONFIG {
        problems.push(Problem::new("/config", format!("expected at most {MAX_CONFIG} bytes of JSON")));
    }
    if problems.is_empty() { Ok(()) } else { Err(EngineError::invalid("the instance is not valid", problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_removes_with_null_and_merges_objects() {
        let mut config = json!({"a": {"x": 1, "y": 2}, "b": 1}).as_object().cloned().unwrap_or_default();
        let patch =
            json!({"a": {"y": null, "z": 3}, "b": null, "c": {"d": null}}).as_object().cloned().unwrap_or_default();
        merge_patch(&mut config, patch);
        assert_eq!(Value::Object(config), json!({"a": {"x": 1, "z": 3}, "c": {}}));
    }
}
