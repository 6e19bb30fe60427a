//! Registers what `integrations.yaml` names. Doing it again changes nothing: what is there
//! stays as it is, but for configs and credentials that the file says anew.

use anyhow::Context as _;
use integration_engine::credentials::NewCredential;
use integration_engine::instances::{ChangeMode, InstanceChange, NewInstance};
use integration_engine::{Engine, EngineError};
use integration_model::definition::{DefinitionSpec, DefinitionStatus};
use integration_model::principal::Principal;

use crate::config::{CredentialSeed, InstanceSeed, Integrations};

/// The correlation id of all that the start does.
const CORRELATION_ID: &str = "startup";

/// Registers definitions first, then the instances of them.
pub(crate) async fn register(engine: &Engine, integrations: Integrations) -> anyhow::Result<()> {
    for spec in integrations.definitions {
        let what = format!("definition {} {}", spec.id, spec.version);
        register_definition(engine, spec).await.with_context(|| format!("cannot register {what}"))?;
    }
    for seed in integrations.instances {
        let id = seed.id.clone();
        register_instance(engine, seed).await.with_context(|| format!("cannot register instance {id}"))?;
    }
    Ok(())
}

async fn register_definition(engine: &Engine, spec: DefinitionSpec) -> anyhow::Result<()> {
    let (id, version) = (spec.id.clone(), spec.version.clone());
    let stored = engine.store().definition(&id, &version).await?;
    match stored {
        None => {
            let known = !engine.store().definition_versions(&id).await?.is_empty();
            let created =
                if known { engine.create_version(&id, spec).await } else { engine.create_definition(spec).await };
            created.map_err(explained)?;
        }
        Some(stored) if stored.status == DefinitionStatus::Draft => {
            engine.update_draft(&id, &version, spec).await.map_err(explained)?;
        }
        Some(stored) => {
            if stored.spec != spec {
                tracing::warn!(
                    definition = %id, version = %version,
                    "the published version differs from the file and stays as it is: give the file's a new version"
                );
            }
            return Ok(());
        }
    }
    engine.publish_definition(&id, &version).await.map_err(explained)?;
    Ok(())
}

async fn register_instance(engine: &Engine, seed: InstanceSeed) -> anyhow::Result<()> {
    let principal = Principal::system();
    let id = seed.id.to_string();
    let name = seed.name.unwrap_or_else(|| id.clone());
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
            if stored.config != seed.config || stored.labels != seed.labels || stored.name != name {
                let change = InstanceChange {
                    name: Some(name),
                    config: Some(seed.config),
                    labels: Some(seed.labels.into_iter().map(|(key, value)| (key, Some(value))).collect()),
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
