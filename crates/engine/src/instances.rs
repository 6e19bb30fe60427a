//! Instances: configured connections, made, changed, taken in and out of use, deleted.

pub(crate) mod race;
mod status;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::{DefinitionStatus, MAX_NAME};
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceStatus, StatusFacts, StatusTrigger};
use integration_model::label::{check_labels, fits};
use integration_model::principal::Principal;
use integration_model::schema::SemanticVersion;
use integration_model::{DefinitionId, InstanceId, Problem, TenantId};
use integration_store::StoreError;
use semver::Version;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::status::TestReport;
pub(crate) use self::status::{config_problems, instance_error};
pub use self::upgrade::{UpgradeReport, UpgradeRequest};

use self::race::until_it_holds;
use self::status::status_error;
use crate::Engine;
use crate::error::EngineError;
use crate::registry::CompiledDefinition;

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
    /// Not changed here, nor are the next three: where given, they have to be as they are.
    #[serde(default)]
    #[schema(value_type = Option<InstanceId>)]
    pub id: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<TenantId>)]
    pub tenant_id: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<DefinitionId>)]
    pub integration_definition_id: Option<String>,
    /// Another version comes by `POST …/upgrade`.
    #[serde(default)]
    #[schema(value_type = Option<SemanticVersion>)]
    pub definition_version: Option<String>,
}

/// What the service itself keeps of an instance.
const READ_ONLY: [&str; 7] = ["status", "error", "version", "createdAt", "updatedAt", "lastUsedAt", "lastConnectedAt"];

impl InstanceChange {
    /// Reads a change; the error says where it does not fit. What the service itself keeps
    /// of an instance may come along, as in a document that was read, edited and sent back.
    pub fn from_json(document: Value) -> Result<Self, Problem> {
        integration_model::problem::from_object(document, &READ_ONLY)
    }

    fn refuse_moves(&self, instance: &Instance) -> Result<(), EngineError> {
        let fixed = [
            ("/id", &self.id, instance.id.as_str()),
            ("/tenantId", &self.tenant_id, instance.tenant_id.as_str()),
            ("/integrationDefinitionId", &self.integration_definition_id, instance.integration_definition_id.as_str()),
            ("/definitionVersion", &self.definition_version, instance.definition_version.as_str()),
        ];
        let moved = fixed.into_iter().filter(|(_, given, stored)| given.as_ref().is_some_and(|given| given != stored));
        let problems: Vec<Problem> = moved
            .map(|(pointer, _, stored)| match pointer {
                "/definitionVersion" => {
                    Problem::new(pointer, format!("expected {stored:?}: another version comes by POST …/upgrade"))
                }
                _ => Problem::new(pointer, format!("expected {stored:?}: this does not change")),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(EngineError::invalid("the change is not possible", problems)) }
    }
}

/// Whether a change replaces or merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeMode {
    Replace,
    Merge,
}

/// The largest config of an instance, in bytes of its JSON text.
const MAX_CONFIG: usize = 256 * 1024;

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
            definition_version: spec.version.to_string().into(),
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
        let audit = AuditDraft::done(AuditAction::InstanceCreated, &principal.name, "created", correlation_id)
            .with_details(json!({"definition": spec.id, "version": instance.definition_version}));
        self.store.insert_instance(&instance, events, audit).await.map_err(|error| match error {
            StoreError::NotFound => EngineError::DefinitionNotFound(format!("{} in version {}", spec.id, spec.version)),
            other => other.into(),
        })?;
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

    pub(crate) async fn compiled(
        &self,
        id: &DefinitionId,
        version: &str,
    ) -> Result<Arc<CompiledDefinition>, EngineError> {
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
        until_it_holds(expected, || self.try_change(id, expected, &change, mode, principal, correlation_id)).await
    }

    async fn try_change(
        &self,
        id: &str,
        expected: Option<i64>,
        change: &InstanceChange,
        mode: ChangeMode,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let stored = self.instance_at(id, expected, principal).await?;
        change.refuse_moves(&stored)?;
        let instance = changed(stored.clone(), change, mode);
        check_given(&instance.name, &instance.config, &instance.labels)?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        let trigger = StatusTrigger::ConfigChecked { valid: problems.is_empty() };
        // What it was changed to may be secret; that it was is not.
        let changes = json!({
            "config": instance.config != stored.config,
            "labels": instance.labels != stored.labels,
            "name": instance.name != stored.name,
        });
        let audit =
            AuditDraft::done(AuditAction::InstanceUpdated, &principal.name, "configuration changed", correlation_id)
                .with_details(json!({"changed": changes}));
        let written = self.move_instance(instance, &definition, trigger, problems, audit).await?;
        if written.config != stored.config {
            // What is cached was answered by the system that the config named before.
            self.cache.clear(&written.id);
        }
        Ok(written)
    }

    /// Brings an instance back into use. Where its grant needs no person, it gets a new token
    /// first, and so proves that it works.
    pub async fn connect_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        if let Some(connected) = self.connect_by_grant(&instance, principal, correlation_id).await? {
            return Ok(connected);
        }
        let audit =
            AuditDraft::done(AuditAction::InstanceConnected, &principal.name, "connected by a caller", correlation_id);
        until_it_holds(expected, || self.try_trigger(id, expected, StatusTrigger::Connect, principal, audit.clone()))
            .await
    }

    /// Takes an instance out of use; its credential stays, unless its definition says where
    /// tokens are revoked: then they are, and the next connection begins anew.
    pub async fn disconnect_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Instance, EngineError> {
        let reason = "disconnected by a caller";
        let instance = self.instance_at(id, expected, principal).await?;
        if self.revokes_at_disconnect(&instance).await? {
            match self.delete_credential_at(id, expected, reason, principal, correlation_id).await {
                // Nothing is stored: then there is nothing to give back.
                Err(EngineError::NotFound(_)) => {}
                Err(error) => return Err(error),
                Ok(_) => return self.instance(id, principal).await,
            }
        }
        let audit = AuditDraft::done(AuditAction::InstanceDisconnected, &principal.name, reason, correlation_id);
        until_it_holds(expected, || self.try_trigger(id, expected, StatusTrigger::Disconnect, principal, audit.clone()))
            .await
    }

    async fn revokes_at_disconnect(&self, instance: &Instance) -> Result<bool, EngineError> {
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let config = definition.definition.spec.oauth2_config.as_ref();
        Ok(config.is_some_and(|config| config.revocation_url.is_some()))
    }

    async fn try_trigger(
        &self,
        id: &str,
        expected: Option<i64>,
        trigger: StatusTrigger,
        principal: &Principal,
        audit: AuditDraft,
    ) -> Result<Instance, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        let definition = self.compiled(&instance.integration_definition_id, &instance.definition_version).await?;
        let problems = config_problems(&definition, &instance.config);
        self.move_instance(instance, &definition, trigger, problems, audit).await
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
        let revocation = self.revocation_of(&instance).await;
        let event = EventDraft::instance_status(
            correlation_id,
            &instance.id,
            &instance.integration_definition_id,
            Some(instance.status),
            InstanceStatus::Disconnected,
            "deleted",
        );
        let audit = AuditDraft::done(AuditAction::InstanceDeleted, &principal.name, "instance deleted", correlation_id);
        self.store
            .delete_instance(&instance.id, expected, vec![event], audit)
            .await
            .map_err(|error| instance_error(&instance.id, error))?;
        self.registry.forget_instance(&instance.id);
        self.cache.clear(&instance.id);
        self.health.forget(&instance.id);
        if let Some(revocation) = revocation {
            self.revoke(revocation, principal, correlation_id).await;
        }
        Ok(())
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
}

/// The instance with a change made to it.
fn changed(mut instance: Instance, change: &InstanceChange, mode: ChangeMode) -> Instance {
    if let Some(name) = &change.name {
        instance.name.clone_from(name);
    }
    if let Some(config) = &change.config {
        match mode {
            ChangeMode::Replace => instance.config.clone_from(config),
            ChangeMode::Merge => merge_patch(&mut instance.config, config.clone()),
        }
    }
    if let Some(labels) = &change.labels {
        if mode == ChangeMode::Replace {
            instance.labels.clear();
        }
        for (key, value) in labels {
            match value {
                Some(value) => instance.labels.insert(key.clone(), value.clone()),
                None => instance.labels.remove(key),
            };
        }
    }
    instance
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
