//! An instance's config as its adapter sees it.

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::http::config::HttpConfig;

/// An instance's config over the definition's `defaultConfig`, with what follows from it for every
/// call.
#[derive(Default)]
pub struct Config {
    fields: Map<String, Value>,
    /// Made at the first call over HTTP.
    http: OnceLock<Box<HttpConfig>>,
}

impl Config {
    /// What the adapters read from it that speak HTTP.
    pub(super) fn http(&self) -> &HttpConfig {
        self.http.get_or_init(|| Box::new(HttpConfig::read(&self.fields)))
    }

    /// Reads ahead what a call reads of it.
    pub(crate) fn prefetch(&self) {
        if let Some(http) = self.http.get() {
            http.prefetch();
        }
    }
}

impl From<Map<String, Value>> for Config {
    fn from(fields: Map<String, Value>) -> Self {
        Self { fields, http: OnceLock::new() }
    }
}

impl Deref for Config {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Map<String, Value> {
        &self.fields
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.fmt(f)
    }
}
