//! The configuration: flags over environment over files over defaults. Owns reading all
//! sources, and reporting all faults of all of them together. Must not know what the
//! settings are used for.

mod access;
mod custody;
mod decode;
mod document;
mod environment;
mod fault;
mod integrations;
mod reference;
mod secret;
mod settings;
mod systems;
mod tls;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use integration_engine::limits::LimitRules;
use integration_model::Problem;
use integration_model::definition::DefinitionSpec;
use serde_json::Value;

pub use access::{AccessConfig, ClaimsConfig, JwtAlgorithm, JwtIssuerConfig, ServiceConfig};
pub use custody::{
    CredentialStoreConfig, CredentialStoreKind, FallbackConfig, MasterKeySource, TokenSetting, TransitConfig,
    VaultConfig,
};
pub(crate) use document::yaml_options;
pub use environment::{ADMIN_KEY, Environment};
pub use fault::{ConfigErrors, Fault, Origin};
pub use integrations::{CredentialSeed, InstanceSeed, Integrations};
pub use secret::Secret;
pub(crate) use settings::is_admin_key;
pub use settings::{
    CacheConfig, Config, DatabaseConfig, ExecutionConfig, HttpConfig, LogConfig, LogFormat, LogLevel, ServerConfig,
};
pub use systems::System;
pub(crate) use systems::registered_by_environment;
pub use tls::{ClientCertificates, TlsConfig, TlsVersion};

use decode::decode;
use document::{Node, parse_yaml, read_file};

/// Every setting with its default, commented.
pub const DEFAULTS: &str = include_str!("defaults.yaml");

const SETTINGS_FILE: &str = "integration_service.yaml";
const INTEGRATIONS_FILE: &str = "integrations.yaml";
const RATE_LIMITS_FILE: &str = "rate_limits.yaml";

/// What the command line says about the configuration; it wins over all other sources.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub host: Option<String>,
    pub port: Option<u16>,
}

/// The whole configuration, read and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub integrations: Integrations,
    pub rate_limits: LimitRules,
    /// What is set but has no effect.
    pub warnings: Vec<String>,
    /// The folder of the files.
    pub config_dir: PathBuf,
}

impl Config {
    /// Reads all sources. Every fault of every source is reported.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigErrors> {
        let mut faults = Vec::new();
        let config_dir = config_dir(flags, environment, &mut faults);
        let config = load_settings(flags, environment, &config_dir, &mut faults);
        let mut integrations = load_integrations(environment, &config_dir, &mut faults);
        let mut warnings = environment::warnings(environment);
        integrations.systems = systems::read(environment, &mut faults, &mut warnings);
        systems::leave_to_file(&mut integrations, &mut warnings);
        let rate_limits = load_rate_limits(environment, &config_dir, &mut faults);
        ConfigErrors::collect(faults)?;
        match (config, rate_limits) {
            (Some(config), Some(rate_limits)) => Ok(Loaded { config, integrations, rate_limits, warnings, config_dir }),
            _ => unreachable!("what could not be read has left a fault"),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut faults = Vec::new();
        decode(&defaults(), "", &Value::Null, &mut faults).expect("the built-in defaults fit their types")
    }
}

fn defaults() -> Node {
    let document = parse_yaml(&Arc::from("defaults.yaml"), DEFAULTS).expect("the built-in defaults are YAML");
    Node::unplaced(document.to_value(), &Origin::Default)
}

/// The limits of `rate_limits.yaml` as they stand now.
pub fn read_rate_limits(config_dir: &Path, environment: &Environment) -> Result<LimitRules, ConfigErrors> {
    let mut faults = Vec::new();
    let limits = load_rate_limits(environment, config_dir, &mut faults);
    ConfigErrors::collect(faults)?;
    Ok(limits.unwrap_or_default())
}

/// Reads and checks a file that holds one definition, JSON or YAML.
pub fn read_definition(path: &Path) -> Result<DefinitionSpec, ConfigErrors> {
    let mut faults = Vec::new();
    let spec = match read_file(path) {
        Ok(Some(document)) => integrations::decode_definition(&document, "", &mut faults),
        Ok(None) => {
            let name: Arc<str> = path.display().to_string().into();
            faults.push(Fault::new(Origin::file(&name), "", "there is no such file"));
            None
        }
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    ConfigErrors::collect(faults)?;
    Ok(spec.expect("what could not be read has left a fault"))
}

/// Makes something of the document that a file holds, references to the environment put in.
pub(crate) fn read_with_references<T>(
    path: &Path,
    environment: &Environment,
    read: impl FnOnce(Value) -> Result<T, Problem>,
) -> Result<T, ConfigErrors> {
    let fail = |fault: Fault| ConfigErrors::collect(vec![fault]).expect_err("there is a fault");
    let missing = || {
        let name: Arc<str> = path.display().to_string().into();
        fail(Fault::new(Origin::file(&name), "", "there is no such file"))
    };
    let mut document = read_file(path).map_err(fail)?.ok_or_else(missing)?;
    let mut faults = Vec::new();
    reference::substitute(&mut document, environment, &mut faults);
    ConfigErrors::collect(faults)?;
    read(document.to_value())
        .map_err(|problem| fail(Fault::new(document.origin_of(&problem.pointer), problem.pointer, problem.message)))
}

/// The document that a file holds, JSON or YAML, whatever its meaning.
pub fn read_document(path: &Path) -> Result<Value, Fault> {
    match read_file(path)? {
        Some(document) => Ok(document.to_value()),
        None => {
            let name: Arc<str> = path.display().to_string().into();
            Err(Fault::new(Origin::file(&name), "", "there is no such file"))
        }
    }
}

fn config_dir(flags: &Flags, environment: &Environment, faults: &mut Vec<Fault>) -> PathBuf {
    let (folder, origin) = match (&flags.config_dir, environment.get(environment::CONFIG_DIR)) {
        (Some(folder), _) => (folder.clone(), Origin::Flag("--config-dir")),
        (None, Some(folder)) => (PathBuf::from(folder), Origin::Environment(environment::CONFIG_DIR)),
        (None, None) => return PathBuf::from("config"),
    };
    if !folder.is_dir() {
        faults.push(Fault::new(origin, "", format!("there is no folder {}", folder.display())));
    }
    folder
}

/// Reads one of the files, references put in; an empty mapping where there is none.
fn load_file(folder: &Path, file: &str, environment: &Environment, faults: &mut Vec<Fault>) -> Option<Node> {
    match read_file(&folder.join(file)) {
        Ok(Some(mut document)) => {
            let before = faults.len();
            reference::substitute(&mut document, environment, faults);
            // A value that is not there must not be reported a second time as a wrong one.
            (faults.len() == before).then_some(document)
        }
        Ok(None) => Some(Node::empty_mapping(Origin::Default)),
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

fn load_settings(flags: &Flags, environment: &Environment, folder: &Path, faults: &mut Vec<Fault>) -> Option<Config> {
    let defaults = defaults();
    let default_values = defaults.to_value();
    let file = load_file(folder, SETTINGS_FILE, environment, faults);
    let unread = file.is_none();
    let mut node = match file {
        Some(file) => defaults.overlaid(file),
        None => defaults,
    };
    environment::overlay(&mut node, environment, faults);
    overlay_flags(&mut node, flags);
    let config: Config = decode(&node, "", &default_values, faults)?;
    if unread {
        return None;
    }
    note(config.check(), &node, faults).then_some(config)
}

fn overlay_flags(node: &mut Node, flags: &Flags) {
    let mut set = |flag: &'static str, pointer: &str, value: Option<String>| {
        if let Some(value) = value {
            node.set(pointer, Node::text(Origin::Flag(flag), &value));
        }
    };
    set("--host", "/server/host", flags.host.clone());
    set("--port", "/server/port", flags.port.map(|port| port.to_string()));
    set("--data-dir", "/dataDir", flags.data_dir.as_ref().map(|folder| folder.display().to_string()));
}

fn load_integrations(environment: &Environment, folder: &Path, faults: &mut Vec<Fault>) -> Integrations {
    match load_file(folder, INTEGRATIONS_FILE, environment, faults) {
        Some(document) => integrations::decode_integrations(&document, folder, faults),
        None => Integrations::default(),
    }
}

fn load_rate_limits(environment: &Environment, folder: &Path, faults: &mut Vec<Fault>) -> Option<LimitRules> {
    let document = load_file(folder, RATE_LIMITS_FILE, environment, faults)?;
    let limits: LimitRules = decode(&document, "", &Value::Null, faults)?;
    note(limits.check(), &document, faults).then_some(limits)
}

/// Turns breaches of rules into faults with their places; true where there are none.
fn note(problems: Vec<Problem>, node: &Node, faults: &mut Vec<Fault>) -> bool {
    let sound = problems.is_empty();
    faults.extend(
        problems
            .into_iter()
            .map(|problem| Fault::new(node.origin_of(&problem.pointer), problem.pointer, problem.message)),
    );
    sound
}
