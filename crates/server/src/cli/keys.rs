//! `keys generate`: new keys, printed and kept nowhere.

use anyhow::anyhow;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use super::terminal::say;
use crate::access::generate_key;
use crate::config::Secret;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Print a new master key (for INTEGRATION_SERVICE_MASTER_KEY), or with --admin a new
    /// admin key (for INTEGRATION_SERVICE_ADMIN_KEY).
    Generate(GenerateArguments),
}

#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    /// An admin key, which callers send, instead of a master key, which encrypts.
    #[arg(long)]
    admin: bool,
}

pub(super) fn run(command: &KeysCommand) -> anyhow::Result<()> {
    let KeysCommand::Generate(arguments) = command;
    let key = if arguments.admin { generate_key()? } else { generate_master_key()? };
    say(key.expose());
    Ok(())
}

/// 256 random bits with the id of a first key.
fn generate_master_key() -> anyhow::Result<Secret> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).map_err(|_| anyhow!("the system's source of randomness failed"))?;
    Ok(Secret::new(format!("k1:{}", STANDARD.encode(bytes))))
}
