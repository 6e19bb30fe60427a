//! Registers what `integrations.yaml` names. Doing it again changes nothing: what is there
//! stays as it is, but for what the file says anew of an instance: its name, labels, config,
//! version and credential. `systems` does the same for what the environment describes.

mod systems;

use anyhow::Context as _;
use integration_engine::credentials::NewCredential;
use integration_engine::instances::{ChangeMode, InstanceChange, NewInstance, UpgradeRequest};
use integration_engine::{Engine, EngineError};
use integration_model::InstanceId;
use integration_model::definition::{DefinitionSpec, DefinitionStatus};
use integration_model::instance::Instance;
use integration_model::principal::Principal;

use crate::config::{CredentialSeed, InstanceSeed, Integrations};
pub(crate) use systems::connect;

/// The correlation id of all that the start does.
const CORRELATION_ID: &str = "startup";

/// Registers definitions first, then the instances of them, then the environment's; gives those that a token has to be
/// fetched for.
pub(crate) async fn register(engine: &Engine, integrations: Integrations) -> anyhow::Result<Vec<InstanceId>> {
    for spec in integrations.definitions {
        let what = format!("definition {} {}", spec.id, spec.version);
        register_definition(engine, spec).await.with_context(|| format!("cannot register {what}"))?;
    }
    for seed in integrations.instances {
        let id = seed.id.clone();
        register_instance(engine, seed).await.with_context(|| format!("cannot register instance {id}"))?;
    }
    let mut to_connect = Vec::new();
    for system in integrations.systems {
        to_connect.extend(systems::register(engine, system).await?);
    }
    Ok(to_connect)
}

async fn register_definition(engine: &Engine, spec: DefinitionSpec) -> anyhow::Result<()> {
    let principal = Principal::system();
    let (id, version) = (spec.id.clone(), spec.version.clone());
    let stored = engine.store().definition(&id, &version).await?;
    match stored {
        None => {
            let known = !engine.store().definition_versions(&id).await?.is_empty();
            let created = if known {
                engine.create_version(&id, spec, &principal, CORRELATION_ID).await
            } else {
                engine.create_definition(spec, &principal, CORRELATION_ID).await
            };
            created.map_err(explained)?;
        }
        Some(stored) if stored.status == DefinitionStatus::Draft => {
            engine.update_draft(&id, &version, spec, &principal, CORRELATION_ID).await.map_err(explained)?;
        }
        Some(stored) => {
            if stored.spec != without_client_secret(spec) {
                tracing::warn!(
                    definition = %id, version = %version,
                    "the published version differs from the file and stays as it is: give the file's a new version"
                );
            }
            return Ok(());
        }
    }
    engine.publish_definition(&id, &version, &principal, CORRELATION_ID).await.map_err(explained)?;
    Ok(())
}

/// A stored definition comes without the secret, which is in the vault.
pub(crate) fn without_client_secret(mut spec: DefinitionSpec) -> DefinitionSpec {
    if let Some(config) = &mut spec.oauth2_config {
        **config = config.without_secret();
    }
    spec
}

async fn register_instance(engine: &Engine, seed: InstanceSeed) -> anyhow::Result<()> {
    let principal = Principal::system();
    let id = seed.id.to_string();
    let name = seed.name.clone().unwrap_or_else(|| id.clone());
    match engine.instance(&id, &principal).await {
        Err(EngineError::InstanceNotFound(_)) => {
            let new = NewInstance {
                id: Some(seed.id),
                integration_definition_id: seed.integration_definition_id,
                definition_version: seed.definition_version,
                tenant_id: Some(seed.tenant_id),
                name,
                config: seed.config,
                labels: seed.labels,
            };
            engine.create_instance(new, &principal, CORRELATION_ID).await.map_err(explained)?;
        }
        Err(error) => return Err(explained(error)),
        Ok(stored) => {
            refuse_another_owner(&seed, &stored)?;
            if let Some(version) = seed.definition_version.filter(|version| *version != stored.definition_version) {
                // The file is its operator's word; what the new version breaks shows in the status.
                let request = UpgradeRequest {
                    definition_version: Some(version),
                    accept_breaking: true,
                    ..UpgradeRequest::default()
                };
                engine.upgrade_instance(&id, None, request, &principal, CORRELATION_ID).await.map_err(explained)?;
            }
            if stored.config != seed.config || stored.labels != seed.labels || stored.name != name {
                let change = InstanceChange {
                    name: Some(name),
                    config: Some(seed.config),
                    labels: Some(seed.labels.into_iter().map(|(key, value)| (key, Some(value))).collect()),
                    ..InstanceChange::default()
                };
                engine
                    .change_instance(&id, None, change, ChangeMode::Replace, &principal, CORRELATION_ID)
                    .await
                    .map_err(explained)?;
            }
        }
    }
    match seed.credential {
        Some(credential) => store_credential(engine, &id, credential, &principal).await,
        None => Ok(()),
    }
}

fn refuse_another_owner(seed: &InstanceSeed, stored: &Instance) -> anyhow::Result<()> {
    let same = seed.tenant_id == stored.tenant_id && seed.integration_definition_id == stored.integration_definition_id;
    anyhow::ensure!(
        same,
        "it is of tenant {} and definition {}, the file says {} and {}: these do not change; give it another id",
        stored.tenant_id,
        stored.integration_definition_id,
        seed.tenant_id,
        seed.integration_definition_id
    );
    Ok(())
}

async fn store_credential(
    engine: &Engine,
    id: &str,
    seed: CredentialSeed,
    principal: &Principal,
) -> anyhow::Result<()> {
    let data = serde_json::from_str(seed.data.expose()).context("the credential's data is no JSON")?;
    let new = NewCredential { auth_type: seed.auth_type, data };
    if engine.holds_credential(id, &new, principal).await.map_err(explained)? {
        return Ok(());
    }
    engine.store_credential(id, new, principal, CORRELATION_ID).await.map_err(explained)?;
    Ok(())
}

/// The error with all its problems.
fn explained(error: EngineError) -> anyhow::Error {
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    if problems.is_empty() { error.into() } else { anyhow::anyhow!("{error}: {}", problems.join("; ")) }
}
