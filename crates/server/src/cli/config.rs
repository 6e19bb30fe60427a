//! `config check`: reads the configuration as `serve` does, and says what is wrong with it.

use anyhow::bail;
use clap::Subcommand;

use super::ConfigArguments;
use super::terminal::{complain, say};
use crate::config::{Environment, Loaded, MasterKeySource};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report every fault with file, line, column and path.
    Check(ConfigArguments),
    /// Print every setting with its default, commented.
    Defaults,
}

pub(super) fn run(command: &ConfigCommand, environment: &Environment) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check(arguments) => check(arguments, environment),
        ConfigCommand::Defaults => {
            say(crate::config::DEFAULTS.trim_end());
            Ok(())
        }
    }
}

fn check(arguments: &ConfigArguments, environment: &Environment) -> anyhow::Result<()> {
    match arguments.load(environment) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&format!("warning: {warning}"));
            }
            say(&summary(&loaded));
            Ok(())
        }
        Err(errors) => {
            for fault in errors.faults() {
                say(&fault.to_string());
            }
            let count = errors.faults().len();
            bail!("the configuration has {count} {}", if count == 1 { "fault" } else { "faults" });
        }
    }
}

/// What would run; no secret is in it.
fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let database = config.database_url();
    let kind = database.expose().split(':').next().unwrap_or_default();
    let master_key = match config.master_key_source() {
        MasterKeySource::Env(_) => "given".to_owned(),
        MasterKeySource::File(file) | MasterKeySource::DataDirFile(file) => file.display().to_string(),
    };
    let systems: Vec<&str> = loaded.integrations.systems.iter().map(|system| system.instance.id.as_str()).collect();
    format!(
        "The configuration is sound.\n\
         files          {}\n\
         address        {}://{}:{}\n\
         data           {}\n\
         database       {kind}\n\
         master key     {master_key}\n\
         definitions    {}\n\
         instances      {}\n\
         environment    {}",
        loaded.config_dir.display(),
        config.server.scheme(),
        config.server.host,
        config.server.port,
        config.data_dir.display(),
        loaded.integrations.definitions.len(),
        loaded.integrations.instances.len(),
        if systems.is_empty() { "no systems".to_owned() } else { systems.join(", ") },
    )
}
