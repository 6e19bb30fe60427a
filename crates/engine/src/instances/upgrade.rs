//! Moving an instance to another version of its definition.

use integration_model::Problem;
use std::sync::Arc;

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::compatibility::{self, CompatibilityReport};
use integration_model::instance::{Instance, StatusTrigger};
use integration_model::principal::Principal;
use integration_model::schema::SemanticVersion;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::race::until_it_holds;
use super::status::config_problems;
use crate::Engine;
use crate::error::EngineError;

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
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
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

impl Engine {
    /// Pins an instance to another version of its definition.
    pub async fn upgrade_instance(
        &self,
        id: &str,
        expected: Option<i64>,
        request: UpgradeRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<UpgradeReport, EngineError> {
        until_it_holds(expected, || self.try_upgrade(id, expected, &request, principal, correlation_id)).await
    }

    async fn try_upgrade(
        &self,
        id: &str,
        expected: Option<i64>,
        request: &UpgradeRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<UpgradeReport, EngineError> {
        let instance = self.instance_at(id, expected, principal).await?;
        let definition_id = instance.integration_definition_id.clone();
        let from = self.compiled(&definition_id, &instance.definition_version).await?;
        let to = self.definition_for_new(&definition_id, request.definition_version.as_deref()).await?;
        let compatibility = {
            let to = Arc::clone(&to);
            self.long_work.run(move || compatibility::compare(&from.definition.spec, &to.definition.spec)).await
        };
        let config_problems = config_problems(&to, &instance.config);
        let mut report = UpgradeReport {
            applied: false,
            from: instance.definition_version.to_string(),
            to: to.definition.spec.version.to_string(),
            compatibility,
            config_problems,
            instance,
        };
        if request.dry_run {
            return Ok(report);
        }
        if !request.accept_breaking {
            refuse_breaking(&report)?;
        }
        let mut changed = report.instance.clone();
        changed.definition_version = report.to.as_str().into();
        let trigger = StatusTrigger::ConfigChecked { valid: report.config_problems.is_empty() };
        let reason = format!("upgraded from {} to {}", report.from, report.to);
        let audit = AuditDraft::done(AuditAction::InstanceUpgraded, &principal.name, reason, correlation_id)
            .with_details(json!({"from": report.from, "to": report.to}));
        report.instance = self.move_instance(changed, &to, trigger, report.config_problems.clone(), audit).await?;
        report.applied = true;
        Ok(report)
    }
}

/// An upgrade that breaks callers or the config happens only where the caller says so.
fn refuse_breaking(report: &UpgradeReport) -> Result<(), EngineError> {
    let breaks =
        report.compatibility.breaks().map(|change| Problem::new(change.pointer.clone(), change.message.clone()));
    let problems: Vec<Problem> = breaks.chain(report.config_problems.iter().cloned()).collect();
    if problems.is_empty() {
        return Ok(());
    }
    let (from, to) = (&report.from, &report.to);
    Err(EngineError::Conflict {
        message: format!(
            "version {to} breaks callers of {from} or the config; send acceptBreaking: true to upgrade all the same"
        ),
        problems,
    })
}
