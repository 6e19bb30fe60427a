//! The catalogue: definitions of widely used systems that come inside the binary. Owns the list
//! and what is put into a definition when it is installed. Must not know how it is stored.

use std::sync::LazyLock;

use integration_model::definition::{ClientSecret, DefinitionSpec};
use integration_model::{DefinitionId, Problem};
use serde::Deserialize;
use serde_json::Value;

/// The files of the folder `catalogue`; a file's name is the id of its definition.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../catalogue/", $name, ".yaml")))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "airtable",
    "anthropic",
    "asana",
    "auth0",
    "datadog",
    "discord",
    "email",
    "github",
    "github-webhook",
    "gitlab",
    "google-calendar",
    "google-sheets",
    "hubspot",
    "jira",
    "mailgun",
    "microsoft-graph-mail",
    "notion",
    "openai",
    "pagerduty",
    "postgresql",
    "redis",
    "salesforce",
    "sendgrid",
    "shopify",
    "slack",
    "slack-webhook",
    "storage",
    "stripe",
    "stripe-webhook",
    "twilio",
    "twilio-verify",
    "zendesk",
];

/// A definition of the catalogue.
#[derive(Debug)]
pub struct Entry {
    pub spec: DefinitionSpec,
    /// The file as it was written, with its comments.
    pub text: &'static str,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let read = FILES.iter().filter_map(|(name, text)| match read(text) {
        Ok(spec) => Some(Entry { spec, text }),
        Err(error) => {
            tracing::error!(name, error, "a definition of the catalogue cannot be read");
            None
        }
    });
    read.collect()
});

fn read(text: &str) -> Result<DefinitionSpec, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let document: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    DefinitionSpec::from_json(document).map_err(|problem| problem.to_string())
}

/// All entries, in the order of their ids.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

pub fn find(id: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.spec.id.as_str() == id)
}

/// What an installation brings to a definition of the catalogue.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Installation {
    /// Another id than the catalogue's, for a system that is connected through several OAuth
    /// clients.
    #[serde(default)]
    pub id: Option<DefinitionId>,
    /// The id of the OAuth client, where the definition has an `oauth2Config`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Its secret. Write-only: encrypted at rest and never returned.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    pub client_secret: Option<ClientSecret>,
}

impl Installation {
    /// The definition as it is to be stored.
    pub(crate) fn apply(self, entry: &Entry) -> Result<DefinitionSpec, Vec<Problem>> {
        let mut spec = entry.spec.clone();
        if let Some(id) = self.id {
            spec.id = id;
        }
        let given = [("/clientId", self.client_id.is_some()), ("/clientSecret", self.client_secret.is_some())];
        match &mut spec.oauth2_config {
            Some(config) => {
                config.client_id = self.client_id.unwrap_or_default();
                config.client_secret = self.client_secret;
                Ok(spec)
            }
            None => {
                let problem = |(pointer, _)| Problem::new(pointer, "expected none: the definition has no oauth2Config");
                let problems: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(problem).collect();
                if problems.is_empty() { Ok(spec) } else { Err(problems) }
            }
        }
    }
}
