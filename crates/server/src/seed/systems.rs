//! Registers the systems that the environment describes. What an operator made under the same id
//! is left alone, and no secret goes to a definition that is not the one that was shipped.

use anyhow::Context as _;
use integration_engine::{Engine, EngineError};
use integration_model::definition::{DefinitionSpec, DefinitionStatus};
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::principal::Principal;
use integration_model::{DefinitionId, InstanceId};
use secrecy::ExposeSecret as _;
use semver::Version;

use super::{CORRELATION_ID, explained, register_instance, without_client_secret};
use crate::config::{InstanceSeed, System, registered_by_environment};

/// Registers a system; its instance, where a token has to be fetched for it.
pub(super) async fn register(engine: &Engine, system: System) -> anyhow::Result<Option<InstanceId>> {
    let System { variable, definition, instance: mut seed, fields } = system;
    let id = seed.id.clone();
    let stored = match engine.instance(id.as_str(), &Principal::system()).await {
        Ok(stored) => Some(stored),
        Err(EngineError::InstanceNotFound(_)) => None,
        Err(error) => return Err(explained(error)),
    };
    if stored.as_ref().is_some_and(|stored| !is_of_environment(stored, &seed)) {
        tracing::warn!(
            instance.id = %id,
            variable,
            "the variable has no effect: there is an instance of this id that the environment did not make"
        );
        return Ok(None);
    }
    let Some(version) = ready_version(engine, definition).await.with_context(|| format!("cannot register {id}"))?
    else {
        tracing::warn!(
            definition.id = %id,
            variable,
            "the variable has no effect: the registry has another definition of this id and version than the catalogue"
        );
        return Ok(None);
    };
    let wants_token = seed.credential.is_none();
    let is_as_before = stored.as_ref().is_some_and(|stored| {
        stored.definition_version == version.to_string() && stored.status == InstanceStatus::Connected
    });
    seed.definition_version = Some(version.to_string());
    if let Some(stored) = stored {
        keep_what_is_the_operators(&mut seed, stored, fields);
    }
    register_instance(engine, seed).await.with_context(|| format!("cannot register instance {id} of {variable}"))?;
    Ok((wants_token && !is_as_before).then_some(id))
}

fn is_of_environment(stored: &Instance, seed: &InstanceSeed) -> bool {
    registered_by_environment(&stored.labels)
        && stored.integration_definition_id == seed.integration_definition_id
        && stored.tenant_id == seed.tenant_id
}

/// The environment decides on some fields of the config, and on its own labels.
fn keep_what_is_the_operators(seed: &mut InstanceSeed, stored: Instance, fields: &[&str]) {
    seed.name = Some(stored.name);
    for (name, value) in stored.config {
        if !fields.contains(&name.as_str()) {
            seed.config.entry(name).or_insert(value);
        }
    }
    for (key, value) in stored.labels {
        seed.labels.entry(key).or_insert(value);
    }
}

/// The published version of the definition with this content and this client's secret, made where there is none;
/// nothing where its number is taken by another content.
async fn ready_version(engine: &Engine, mut spec: DefinitionSpec) -> anyhow::Result<Option<Version>> {
    let known = engine.store().definition_versions(&spec.id).await?;
    let versions: Vec<Version> = known.iter().filter_map(|known| Version::parse(&known.version).ok()).collect();
    let shipped = spec.version.clone();
    let mut is_taken = false;
    for version in &versions {
        let Some(stored) = engine.store().definition(&spec.id, version).await? else { continue };
        let same_but_for_client = content(&stored.spec, false) == content(&spec, false);
        let same = content(&stored.spec, true) == content(&spec, true) && holds_secret(engine, &spec, version).await?;
        match stored.status {
            DefinitionStatus::Published if same => return Ok(Some(version.clone())),
            DefinitionStatus::Draft if same => {
                publish(engine, &spec.id, version).await?;
                return Ok(Some(version.clone()));
            }
            _ if *version == shipped && !same_but_for_client => return Ok(None),
            _ => is_taken |= *version == shipped,
        }
    }
    // Another client, since a published version never changes.
    if is_taken {
        let of_line =
            versions.iter().filter(|version| (version.major, version.minor) == (shipped.major, shipped.minor));
        spec.version.patch = of_line.map(|version| version.patch).max().unwrap_or(shipped.patch) + 1;
    }
    let (id, version, principal) = (spec.id.clone(), spec.version.clone(), Principal::system());
    let created = if versions.is_empty() {
        engine.create_definition(spec, &principal, CORRELATION_ID).await
    } else {
        engine.create_version(&id, spec, &principal, CORRELATION_ID).await
    };
    created.map_err(explained)?;
    publish(engine, &id, &version).await?;
    Ok(Some(version))
}

async fn publish(engine: &Engine, id: &DefinitionId, version: &Version) -> anyhow::Result<()> {
    engine.publish_definition(id, version, &Principal::system(), CORRELATION_ID).await.map_err(explained)?;
    Ok(())
}

/// What a definition says, whatever its number.
fn content(spec: &DefinitionSpec, with_client: bool) -> DefinitionSpec {
    let mut spec = without_client_secret(spec.clone());
    spec.version = Version::new(0, 0, 0);
    if let Some(config) = spec.oauth2_config.as_mut().filter(|_| !with_client) {
        config.client_id.clear();
    }
    spec
}

async fn holds_secret(engine: &Engine, spec: &DefinitionSpec, version: &Version) -> anyhow::Result<bool> {
    let wanted = spec.oauth2_config.as_ref().and_then(|config| config.client_secret.clone());
    let Some(wanted) = wanted else { return Ok(true) };
    let held = engine.store().definition_client_secret(&spec.id, version).await?;
    Ok(held.is_some_and(|held| held.expose_secret() == wanted.into_inner()))
}

/// Fetches the tokens of instances that were registered; one that gets none says so in its status.
pub(crate) async fn connect(engine: &Engine, instances: Vec<InstanceId>) {
    for id in instances {
        let connected = engine.connect_instance(id.as_str(), None, &Principal::system(), CORRELATION_ID).await;
        if let Err(error) = connected {
            tracing::warn!(instance.id = %id, error = %error, "the instance could not be connected at start");
        }
    }
}
