//! The registry of definitions: their versions and the life of each.

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::compatibility::{self, CompatibilityReport};
use integration_model::definition::{Definition, DefinitionSpec, DefinitionStatus, DefinitionSummary};
use integration_model::principal::Principal;
use integration_model::{DefinitionId, Problem};
use integration_store::StoreError;
use secrecy::SecretString;
use semver::Version;
use serde::Serialize;

use crate::Engine;
use crate::error::EngineError;
use crate::registry::check_definition;

/// What `validate` says of a document, without storing anything.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationReport {
    /// Whether the definition could be published, as far as it can be told from itself.
    pub valid: bool,
    pub problems: Vec<Problem>,
    pub method_count: usize,
}

impl Engine {
    /// Checks a definition as publishing would.
    pub async fn validate_definition(&self, mut spec: DefinitionSpec) -> ValidationReport {
        let of_secret = take_client_secret(&mut spec).err();
        let (spec, mut problems) = self.check(spec).await;
        problems.extend(of_secret.iter().flat_map(|error| error.problems().iter().cloned()));
        ValidationReport { valid: problems.is_empty(), problems, method_count: spec.methods.len() }
    }

    async fn check(&self, spec: DefinitionSpec) -> (DefinitionSpec, Vec<Problem>) {
        let adapters = self.adapters.clone();
        self.long_work
            .run(move || {
                let problems = check_definition(&spec, &adapters);
                (spec, problems)
            })
            .await
    }

    async fn compare(&self, from: DefinitionSpec, to: DefinitionSpec) -> CompatibilityReport {
        self.long_work.run(move || compatibility::compare(&from, &to)).await
    }

    /// Stores the first version of a new definition as a DRAFT.
    pub async fn create_definition(
        &self,
        spec: DefinitionSpec,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        if !self.store.definition_versions(&spec.id).await?.is_empty() {
            return Err(EngineError::AlreadyExists(format!("definition {}", spec.id)));
        }
        self.insert_draft(spec, principal, correlation_id).await
    }

    /// Stores another version of an existing definition as a DRAFT.
    pub async fn create_version(
        &self,
        id: &DefinitionId,
        spec: DefinitionSpec,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        same_id(id, &spec)?;
        self.known_definition(id).await?;
        self.insert_draft(spec, principal, correlation_id).await
    }

    async fn insert_draft(
        &self,
        mut spec: DefinitionSpec,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        check_size(&spec)?;
        let secret = take_client_secret(&mut spec)?;
        let audit = AuditDraft::done(AuditAction::DefinitionCreated, &principal.name, "created", correlation_id);
        Ok(self.store.insert_definition(&spec, secret, audit).await?)
    }

    /// Replaces the content of a DRAFT.
    pub async fn update_draft(
        &self,
        id: &DefinitionId,
        version: &Version,
        mut spec: DefinitionSpec,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        same_id(id, &spec)?;
        if &spec.version != version {
            return Err(EngineError::invalid(
                "the body names another version than the path",
                vec![Problem::new("/version", format!("expected {version}, as in the path"))],
            ));
        }
        check_size(&spec)?;
        self.definition_version(id, version).await?;
        let secret = take_client_secret(&mut spec)?;
        let audit = AuditDraft::done(AuditAction::DefinitionUpdated, &principal.name, "changed", correlation_id);
        self.store.update_draft(&spec, secret, audit).await.map_err(|error| lost(&spec, error))
    }

    pub async fn delete_draft(
        &self,
        id: &DefinitionId,
        version: &Version,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<(), EngineError> {
        let spec = self.definition_version(id, version).await?.spec;
        let audit = AuditDraft::done(AuditAction::DefinitionDeleted, &principal.name, "deleted", correlation_id);
        self.store.delete_draft(id, version, audit).await.map_err(|error| lost(&spec, error))
    }

    /// Checks a DRAFT whole and makes it immutable; a DEPRECATED version comes back into use.
    pub async fn publish_definition(
        &self,
        id: &DefinitionId,
        version: &Version,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        let mut definition = self.definition_version(id, version).await?;
        if definition.status == DefinitionStatus::Draft {
            let (spec, problems) = self.check(definition.spec).await;
            definition.spec = spec;
            if !problems.is_empty() {
                return Err(EngineError::invalid(format!("{id} {version} is not fit to be published"), problems));
            }
            self.check_version_is_honest(&definition.spec).await?;
        }
        self.change_status(definition, DefinitionStatus::Published, principal, correlation_id).await
    }

    pub async fn deprecate_definition(
        &self,
        id: &DefinitionId,
        version: &Version,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        let definition = self.definition_version(id, version).await?;
        self.change_status(definition, DefinitionStatus::Deprecated, principal, correlation_id).await
    }

    pub async fn archive_definition(
        &self,
        id: &DefinitionId,
        version: &Version,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        let definition = self.definition_version(id, version).await?;
        self.change_status(definition, DefinitionStatus::Archived, principal, correlation_id).await
    }

    async fn change_status(
        &self,
        definition: Definition,
        next: DefinitionStatus,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Definition, EngineError> {
        let Definition { spec, status, .. } = &definition;
        if !status.may_become(next) {
            return Err(EngineError::conflict(format!(
                "{} {} is {}; it cannot become {} (the way is DRAFT, PUBLISHED, DEPRECATED, ARCHIVED, and from DEPRECATED back to PUBLISHED)",
                spec.id,
                spec.version,
                status.as_str(),
                next.as_str()
            )));
        }
        let (action, reason) = match next {
            DefinitionStatus::Draft => (AuditAction::DefinitionUpdated, "changed"),
            DefinitionStatus::Published => (AuditAction::DefinitionPublished, "published"),
            DefinitionStatus::Deprecated => (AuditAction::DefinitionDeprecated, "deprecated"),
            DefinitionStatus::Archived => (AuditAction::DefinitionArchived, "archived"),
        };
        let audit = AuditDraft::done(action, &principal.name, reason, correlation_id);
        let changed =
            self.store.set_definition_status(&definition, next, audit).await.map_err(|error| lost(spec, error))?;
        self.registry.forget_definition(&spec.id);
        Ok(changed)
    }

    /// A version number must tell callers the truth: what breaks them needs a major one.
    async fn check_version_is_honest(&self, spec: &DefinitionSpec) -> Result<(), EngineError> {
        let Some(base) = self.version_before(&spec.id, &spec.version).await? else { return Ok(()) };
        let report = self.compare(base.spec.clone(), spec.clone()).await;
        if report.honest {
            return Ok(());
        }
        let breaks = report.breaks().map(|change| Problem::new(change.pointer.clone(), change.message.clone()));
        Err(EngineError::Conflict {
            message: format!("version {} is no honest number after {}", spec.version, base.spec.version),
            problems: report.version_problem.iter().cloned().chain(breaks).collect(),
        })
    }

    /// The highest version below `version` that callers may have met.
    async fn version_before(&self, id: &DefinitionId, version: &Version) -> Result<Option<Definition>, EngineError> {
        let earlier = self
            .store
            .definition_versions(id)
            .await?
            .into_iter()
            .filter(|summary| summary.status != DefinitionStatus::Draft)
            .filter_map(|summary| Version::parse(&summary.version).ok())
            .filter(|other| other < version)
            .max();
        match earlier {
            Some(earlier) => Ok(self.store.definition(id, &earlier).await?),
            None => Ok(None),
        }
    }

    /// What changed between two versions, and what it means for callers.
    pub async fn compare_versions(
        &self,
        id: &DefinitionId,
        from: &Version,
        to: &Version,
    ) -> Result<CompatibilityReport, EngineError> {
        let from = self.definition_version(id, from).await?;
        let to = self.definition_version(id, to).await?;
        Ok(self.compare(from.spec, to.spec).await)
    }

    pub async fn definition_version(&self, id: &DefinitionId, version: &Version) -> Result<Definition, EngineError> {
        self.store
            .definition(id, version)
            .await?
            .ok_or_else(|| EngineError::DefinitionNotFound(format!("{id} in version {version}")))
    }

    /// The version that a reader most likely means: the newest PUBLISHED one, else the
    /// newest DEPRECATED, else whatever there is.
    pub async fn current_definition(&self, id: &DefinitionId) -> Result<Definition, EngineError> {
        use DefinitionStatus::{Archived, Deprecated, Draft, Published};
        for statuses in [&[Published][..], &[Deprecated], &[Draft, Archived]] {
            if let Some(definition) = self.store.latest_definition(id, statuses).await? {
                return Ok(definition);
            }
        }
        Err(EngineError::DefinitionNotFound(id.to_string()))
    }

    pub async fn definition_versions(&self, id: &DefinitionId) -> Result<Vec<DefinitionSummary>, EngineError> {
        self.known_definition(id).await
    }

    async fn known_definition(&self, id: &DefinitionId) -> Result<Vec<DefinitionSummary>, EngineError> {
        let versions = self.store.definition_versions(id).await?;
        if versions.is_empty() {
            return Err(EngineError::DefinitionNotFound(id.to_string()));
        }
        Ok(versions)
    }
}

fn check_size(spec: &DefinitionSpec) -> Result<(), EngineError> {
    let problems = spec.check_size();
    if problems.is_empty() { Ok(()) } else { Err(EngineError::invalid("the definition is too large", problems)) }
}

/// What the store says of a change: where the row is gone, so is the version.
fn lost(spec: &DefinitionSpec, error: StoreError) -> EngineError {
    match error {
        StoreError::NotFound => EngineError::DefinitionNotFound(format!("{} in version {}", spec.id, spec.version)),
        other => other.into(),
    }
}

fn same_id(id: &DefinitionId, spec: &DefinitionSpec) -> Result<(), EngineError> {
    if &spec.id == id {
        return Ok(());
    }
    Err(EngineError::invalid(
        "the body names another definition than the path",
        vec![Problem::new("/id", format!("expected {id:?}, as in the path"))],
    ))
}

/// Parts the OAuth client's secret from the document: it goes to the vault, never beside it.
fn take_client_secret(spec: &mut DefinitionSpec) -> Result<Option<SecretString>, EngineError> {
    let Some(config) = &mut spec.oauth2_config else { return Ok(None) };
    let invalid = |problem| EngineError::invalid("the definition is not valid", vec![problem]);
    let is_key = config.client_private_key.is_some();
    let Some(secret) = config.take_secret().map_err(invalid)? else { return Ok(None) };
    let secret = SecretString::from(secret.into_inner());
    if is_key && let Err(fault) = crate::oauth::signer(config, &secret) {
        return Err(invalid(Problem::new("/oauth2Config/clientPrivateKey", fault)));
    }
    Ok(Some(secret))
}
