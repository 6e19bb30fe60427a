//! The command line: one module for each command. Exit codes: 0 is success, 1 a failure
//! that a message explains, 2 a wrong use of the command line.

mod adapters;
mod api_keys;
mod audit;
mod call;
mod catalogue;
pub(crate) mod client;
mod config;
mod content;
mod credentials;
mod definitions;
mod demo;
mod health;
mod import;
mod keys;
mod migrate;
mod openapi;
mod serve;
pub(crate) mod terminal;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Environment, Flags, Loaded};

/// Calls external systems for workflows and tasks: one service, one binary.
#[derive(Debug, Parser)]
#[command(name = "integration-service", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(serve::ServeArguments),
    /// See the service at work: a definition of GitHub's REST API, executed against a sandbox
    /// inside this program. Needs no network and leaves nothing behind.
    Demo(demo::DemoArguments),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check, import, publish and list definitions.
    #[command(subcommand)]
    Definitions(definitions::DefinitionsCommand),
    /// Look at the adapters, and hold one to the conformance suite.
    #[command(subcommand)]
    Adapters(adapters::AdaptersCommand),
    /// Look at the definitions that come with the service, and add them to a running one.
    #[command(subcommand)]
    Catalogue(catalogue::CatalogueCommand),
    /// Execute a method of an instance on a running service.
    Call(call::CallArguments),
    /// Make keys, and rotate the master key.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Make, list and revoke the keys that callers send.
    #[command(subcommand)]
    ApiKeys(api_keys::ApiKeysCommand),
    /// Move credentials between the database and the credential store.
    #[command(subcommand)]
    Credentials(credentials::CredentialsCommand),
    /// Check that the audit is whole, and export it.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Bring the database's schema up to date.
    Migrate(ConfigArguments),
    /// Print the service's description (OpenAPI).
    Openapi,
    /// Ask a running service whether it can do its work.
    Health(client::ServiceArguments),
}

/// Where the configuration is.
#[derive(Debug, Clone, Default, Args)]
struct ConfigArguments {
    /// The folder of the configuration files [default: ./config].
    #[arg(long = "config-dir", alias = "dir", value_name = "FOLDER")]
    config_dir: Option<PathBuf>,
    /// The folder of the database and the keys [default: ./data].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

impl ConfigArguments {
    fn flags(&self) -> Flags {
        Flags { config_dir: self.config_dir.clone(), data_dir: self.data_dir.clone(), ..Flags::default() }
    }

    fn load(&self, environment: &Environment) -> Result<Loaded, ConfigErrors> {
        Config::load(&self.flags(), environment)
    }
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            // Help and version are no failures; clap knows which stream each belongs to.
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    let environment = Environment::of_process();
    let result = match command {
        Command::Serve(arguments) => serve::run(&arguments, &environment),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Config(command) => config::run(&command, &environment),
        Command::Definitions(command) => definitions::run(command, &environment),
        Command::Adapters(command) => adapters::run(&command, &environment),
        Command::Catalogue(command) => catalogue::run(command, &environment),
        Command::Call(arguments) => call::run(arguments, &environment),
        Command::Keys(command) => keys::run(&command, &environment),
        Command::ApiKeys(command) => api_keys::run(command, &environment),
        Command::Credentials(command) => credentials::run(&command, &environment),
        Command::Audit(command) => audit::run(command, &environment),
        Command::Migrate(arguments) => migrate::run(&arguments, &environment),
        Command::Openapi => openapi::run(),
        Command::Health(arguments) => health::run(&arguments, &environment),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
