//! `migrate`: brings the database's schema up to date without starting the service.

use anyhow::Context as _;
use integration_store::Store;

use super::ConfigArguments;
use super::terminal::say;
use crate::config::Environment;

pub(super) fn run(arguments: &ConfigArguments, environment: &Environment) -> anyhow::Result<()> {
    let config = arguments.load(environment).context("the configuration is faulty, so nothing was changed")?.config;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let applied = runtime
        .block_on(Store::migrate(config.database_url().expose()))
        .context("the schema could not be brought up to date")?;
    if applied.is_empty() {
        say("The schema is up to date.");
    }
    for name in applied {
        say(&format!("applied {name}"));
    }
    Ok(())
}
