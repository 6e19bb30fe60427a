//! `credentials …`: moves credentials between the database and the credential store.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::ConfigArguments;
use super::terminal::{complain, say};
use crate::app::open_store;
use crate::config::{CredentialStoreKind, Environment};

#[derive(Debug, Subcommand)]
pub(super) enum CredentialsCommand {
    /// Move all credentials to where the configuration has new ones kept, while the service
    /// runs: into the credential store (credentialStore.kind: http), or back into the
    /// database (embedded, with the url of the store that they are in).
    ///
    /// May be killed at any moment and run again.
    Move(MoveArguments),
}

#[derive(Debug, Args)]
pub(super) struct MoveArguments {
    /// Credentials that are read at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(command: &CredentialsCommand, environment: &Environment) -> anyhow::Result<()> {
    let CredentialsCommand::Move(arguments) = command;
    let config =
        arguments.config.load(environment).context("the configuration is faulty, so nothing was moved")?.config;
    if config.credential_store.url().is_none() {
        bail!("there is no credential store to move credentials to or from: credentialStore.url is not set");
    }
    let target = match config.credential_store.kind {
        CredentialStoreKind::Http => "the credential store",
        CredentialStoreKind::Embedded => "the database",
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let store = open_store(&config, 1).await?;
        let progress = |moved| complain(&format!("{moved} credentials are moved"));
        let moved = store
            .move_credentials(arguments.batch, progress)
            .await
            .context("not all credentials are moved; run this again")?;
        say(&format!("{moved} credentials were moved into {target}; the others were there before."));
        store.close().await;
        Ok(())
    })
}
