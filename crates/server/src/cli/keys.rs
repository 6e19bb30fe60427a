//! `keys …`: makes keys, and rotates the master key while the service runs.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use integration_model::audit::{AuditAction, AuditDraft, TargetType};
use integration_store::{MasterKeys, RewrapReport, Store};

use serde_json::json;

use super::ConfigArguments;
use super::terminal::{complain, say};
use crate::access::generate_key;
use crate::app::open_store;
use crate::config::{Config, Environment, MasterKeySource};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Print a new master key (for INTEGRATION_SERVICE_MASTER_KEY), or with --admin a new
    /// admin key (for INTEGRATION_SERVICE_ADMIN_KEY).
    Generate(GenerateArguments),
    /// Make a new master key, or a new version of the key service's key, and wrap all secrets
    /// anew under it, while the service runs.
    ///
    /// May be killed at any moment and run again: a rotation that did not come to its end is
    /// finished, and only then the next one makes another key.
    Rotate(RotateArguments),
}

#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    /// An admin key, which callers send, instead of a master key, which encrypts.
    #[arg(long)]
    admin: bool,
    /// The master key's id; each key of a list needs its own.
    #[arg(long, default_value = "k1", conflicts_with = "admin")]
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    /// Make no new key: wrap anew what is not under the first key of the list.
    #[arg(long)]
    rewrap_only: bool,
    /// Secrets that are wrapped anew in one transaction.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(command: &KeysCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        KeysCommand::Generate(arguments) => generate(arguments),
        KeysCommand::Rotate(arguments) => rotate(arguments, environment),
    }
}

fn generate(arguments: &GenerateArguments) -> anyhow::Result<()> {
    if arguments.admin {
        say(generate_key()?.expose());
    } else {
        say(&MasterKeys::generate_line(&arguments.id).context("cannot make a master key")?);
    }
    Ok(())
}

fn rotate(arguments: &RotateArguments, environment: &Environment) -> anyhow::Result<()> {
    let config =
        arguments.config.load(environment).context("the configuration is faulty, so nothing was rotated")?.config;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        if config.vault.wrapping_transit().is_some() {
            return rotate_in_service(&config, arguments).await;
        }
        match config.master_key_source() {
            MasterKeySource::Env(text) => {
                let keys = MasterKeys::parse(text.expose()).context("the master key is not usable")?;
                rewrap_given(&config, &keys, arguments).await
            }
            MasterKeySource::File(path) | MasterKeySource::DataDirFile(path) => {
                rotate_file(&config, &path, arguments).await
            }
        }
    })
}

/// Keys that are given as text cannot be added to from here.
async fn rewrap_given(config: &Config, keys: &MasterKeys, arguments: &RotateArguments) -> anyhow::Result<()> {
    let store = open_store(config, 1).await?;
    rewrap(&store, arguments.batch).await?;
    tell_keys(&store, keys).await?;
    store.close().await;
    if !arguments.rewrap_only {
        say(&format!(
            "No new key was made, for the keys are given by the configuration. To rotate: put a new key before the \
             others (`integration-service keys generate --id {}` prints one; a comma separates keys), restart every \
             running service, and run this again.",
            free_id(&keys.ids())
        ));
    }
    Ok(())
}

/// An id that no key of the list has.
fn free_id(taken: &[String]) -> String {
    let candidates = (taken.len() + 1..).map(|number| format!("k{number}"));
    candidates.into_iter().find(|id| !taken.contains(id)).unwrap_or_default()
}

async fn rotate_file(config: &Config, path: &Path, arguments: &RotateArguments) -> anyhow::Result<()> {
    if !path.exists() {
        bail!("there is no master key to rotate: {} does not exist", path.display());
    }
    let mut store = open_store(config, 1).await?;
    let waiting = waiting_secrets(&store).await?;
    if waiting > 0 {
        say(&format!(
            "{waiting} secrets are not under {}, the active key: that rotation is finished, and no new key is made.",
            store.vault().active_key_id().await?
        ));
    } else if !arguments.rewrap_only {
        store.close().await;
        let id = MasterKeys::rotate_file(path).context("cannot add a master key")?;
        say(&format!("{id} is the active master key from now on; {} holds it before the older ones.", path.display()));
        store = open_store(config, 1).await?;
    }
    rewrap(&store, arguments.batch).await?;
    tell_keys(&store, &MasterKeys::from_file(path).context("the key file cannot be read")?).await?;
    store.close().await;
    Ok(())
}

/// The key service makes the new key version; what is under other keys, or in files, moves
/// under its active one first.
async fn rotate_in_service(config: &Config, arguments: &RotateArguments) -> anyhow::Result<()> {
    let store = open_store(config, 1).await?;
    let waiting = waiting_secrets(&store).await?;
    if waiting > 0 {
        say(&format!(
            "{waiting} secrets are not under {}, the active key: they are wrapped anew first, and no new key version \
             is made.",
            store.vault().active_key_id().await?
        ));
    } else if !arguments.rewrap_only
        && let Some(id) = store.vault().rotate_key_service().await.context("the key service made no new key version")?
    {
        say(&format!("{id} is the active key version from now on."));
    }
    rewrap(&store, arguments.batch).await?;
    let active = store.vault().active_key_id().await?;
    let in_use = tell_keys_in_use(&store).await?;
    if in_use.iter().all(|(id, _)| *id == active) {
        say(&format!(
            "No secret is under any other key than {active}. Older key versions and master keys can go when no backup \
             of the database that needs them is kept."
        ));
    }
    store.close().await;
    Ok(())
}

/// How many secrets are under other keys than the active one.
async fn waiting_secrets(store: &Store) -> anyhow::Result<u64> {
    let active = store.vault().active_key_id().await?;
    let in_use = store.keys_in_use().await?;
    Ok(in_use.iter().filter(|(id, _)| *id != active).map(|(_, count)| count).sum())
}

async fn rewrap(store: &Store, batch: u32) -> anyhow::Result<()> {
    let mut told = 0;
    let progress = move |done: u64, total: u64| {
        // A line for each hundredth, however many secrets there are.
        let hundredth = done.saturating_mul(100) / total.max(1);
        if hundredth > told {
            told = hundredth;
            complain(&format!("{done} of {total} secrets are wrapped anew"));
        }
    };
    let RewrapReport { rewrapped, already } =
        store.rewrap(batch, progress).await.context("not all secrets are wrapped anew; run this again")?;
    let active = store.vault().active_key_id().await?;
    say(&format!("{rewrapped} secrets are wrapped anew under {active}; {already} were under it before."));
    let audit = AuditDraft::done(AuditAction::KeysRotated, "command line", "keys rotate", "keys rotate")
        .to(TargetType::MasterKey, active)
        .with_details(json!({"rewrapped": rewrapped, "already": already}));
    store.append_audit(audit, None, None, None).await.context("the rotation could not be put into the audit")
}

/// Which keys are needed, and which are not any longer.
async fn tell_keys(store: &Store, keys: &MasterKeys) -> anyhow::Result<()> {
    let in_use = tell_keys_in_use(store).await?;
    let unused: Vec<String> =
        keys.ids().into_iter().skip(1).filter(|id| !in_use.iter().any(|(used, _)| used == id)).collect();
    if unused.is_empty() {
        return Ok(());
    }
    say(&format!(
        "No secret is under {}. Take it out of the list when every running service was restarted since, and when \
         no backup of the database that needs it is kept.",
        unused.join(", ")
    ));
    Ok(())
}

async fn tell_keys_in_use(store: &Store) -> anyhow::Result<Vec<(String, u64)>> {
    let in_use = store.keys_in_use().await?;
    for (id, count) in &in_use {
        say(&format!("{id}: in use, {count} secrets"));
    }
    Ok(in_use)
}
