//! The environment's part of the configuration. The only place that reads the process's
//! environment.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::document::{Content, Node};
use super::fault::{Fault, Origin};

/// Environment variables; empty ones count as not set. Values are not shown by `Debug`.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(variables.filter(|(_, value): &(String, String)| !value.is_empty()).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The folder of the configuration files.
pub(crate) const CONFIG_DIR: &str = "INTEGRATION_SERVICE_CONFIG_DIR";

/// Where the client commands take their key from.
pub const ADMIN_KEY: &str = "INTEGRATION_SERVICE_ADMIN_KEY";

const DEBUG: &str = "INTEGRATION_SERVICE_DEBUG";
const EGRESS_ALLOW: &str = "INTEGRATION_SERVICE_EGRESS_ALLOW";
const OWN_PREFIX: &str = "INTEGRATION_SERVICE_";

/// Which variable sets which setting.
const SETTINGS: &[(&str, &str)] = &[
    ("INTEGRATION_SERVICE_HOST", "/server/host"),
    ("INTEGRATION_SERVICE_PORT", "/server/port"),
    ("INTEGRATION_SERVICE_PUBLIC_URL", "/server/publicUrl"),
    ("INTEGRATION_SERVICE_TLS_CERTIFICATE_FILE", "/server/tls/certificateFile"),
    ("INTEGRATION_SERVICE_TLS_KEY_FILE", "/server/tls/keyFile"),
    ("INTEGRATION_SERVICE_TLS_CLIENT_CA_FILE", "/server/tls/clientCaFile"),
    ("INTEGRATION_SERVICE_TLS_CLIENT_CERTIFICATES", "/server/tls/clientCertificates"),
    ("INTEGRATION_SERVICE_TLS_MIN_VERSION", "/server/tls/minVersion"),
    ("INTEGRATION_SERVICE_DATABASE_URL", "/database/url"),
    ("INTEGRATION_SERVICE_DATA_DIR", "/dataDir"),
    ("INTEGRATION_SERVICE_EVENT_BUS", "/eventBus"),
    ("INTEGRATION_SERVICE_COORDINATION", "/coordination"),
    ("INTEGRATION_SERVICE_MASTER_KEY", "/vault/masterKey"),
    ("INTEGRATION_SERVICE_MASTER_KEY_FILE", "/vault/masterKeyFile"),
    ("INTEGRATION_SERVICE_TRANSIT_ADDRESS", "/vault/transit/address"),
    ("INTEGRATION_SERVICE_TRANSIT_MOUNT", "/vault/transit/mount"),
    ("INTEGRATION_SERVICE_TRANSIT_KEY", "/vault/transit/key"),
    ("INTEGRATION_SERVICE_TRANSIT_TOKEN", "/vault/transit/token"),
    ("INTEGRATION_SERVICE_TRANSIT_TOKEN_FILE", "/vault/transit/tokenFile"),
    ("INTEGRATION_SERVICE_CREDENTIAL_STORE", "/credentialStore/kind"),
    ("INTEGRATION_SERVICE_CREDENTIAL_STORE_URL", "/credentialStore/url"),
    ("INTEGRATION_SERVICE_CREDENTIAL_STORE_TOKEN", "/credentialStore/token"),
    ("INTEGRATION_SERVICE_CREDENTIAL_STORE_TOKEN_FILE", "/credentialStore/tokenFile"),
    (ADMIN_KEY, "/access/adminKey"),
    ("LOG_LEVEL", "/log/level"),
    ("LOG_FORMAT", "/log/format"),
];

/// Variables that later versions act on.
const RESERVED: &[&str] = &["CONSUL_HOST", "CONSUL_PORT"];

/// Lays the environment's settings over `settings`.
pub(crate) fn overlay(settings: &mut Node, environment: &Environment, faults: &mut Vec<Fault>) {
    for (name, pointer) in SETTINGS {
        if let Some(value) = environment.get(name) {
            settings.set(pointer, Node::text(Origin::Environment(name), value));
        }
    }
    if let Some(value) = environment.get(EGRESS_ALLOW) {
        let origin = Origin::Environment(EGRESS_ALLOW);
        let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let items = entries.map(|entry| Node::text(origin.clone(), entry)).collect();
        settings.set("/http/egressAllow", Node::new(origin, Content::Sequence(items)));
    }
    match environment.get(DEBUG).map(str::to_ascii_lowercase).as_deref() {
        Some("true" | "1" | "yes" | "on") => lower_to_debug(settings),
        None | Some("false" | "0" | "no" | "off") => {}
        Some(_) => faults.push(Fault::new(Origin::Environment(DEBUG), "/log/level", "expected true or false")),
    }
}

/// Debugging never hides what a lower level already shows.
fn lower_to_debug(settings: &mut Node) {
    let finer = settings.at("/log/level").is_some_and(
        |level| matches!(&level.content, Content::Scalar(Value::String(text)) if text.eq_ignore_ascii_case("trace")),
    );
    if !finer {
        settings.set("/log/level", Node::text(Origin::Environment(DEBUG), "debug"));
    }
}

/// What is set but will have no effect.
pub(crate) fn warnings(environment: &Environment) -> Vec<String> {
    let known = |name: &str| {
        [CONFIG_DIR, DEBUG, EGRESS_ALLOW].contains(&name) || SETTINGS.iter().any(|(setting, _)| *setting == name)
    };
    environment
        .0
        .keys()
        .filter_map(|name| {
            if RESERVED.contains(&name.as_str()) {
                Some(format!("{name} is set, but is not supported yet: it has no effect in this version"))
            } else if name.starts_with(OWN_PREFIX) && !known(name) {
                Some(format!("{name} is set, but there is no such setting: it has no effect"))
            } else {
                None
            }
        })
        .collect()
}
