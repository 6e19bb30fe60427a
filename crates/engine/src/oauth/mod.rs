//! Coming by OAuth 2 tokens: the client of authorization servers, their quirks, and the
//! grants.
//!
//! Owns: what goes to authorization servers and how their answers are read, the ways in which
//! a person connects an instance, and when tokens are renewed ([`refresh`]). Must not know: how
//! requests carry tokens.

mod authorization;
mod client;
mod connect;
mod derived;
mod device;
mod discovery;
pub mod refresh;
mod registration;
mod return_urls;
mod revocation;
mod sealed;
mod token_endpoint;
mod token_response;

use std::sync::OnceLock;
use std::time::Duration;

use integration_model::Problem;
use integration_model::definition::{DefinitionSpec, GrantType, OAuth2Config};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Engine;
use crate::config_fields::check_endpoint;
use crate::credential::{Credential, OAuth2Token};
use crate::registry::CompiledDefinition;

pub(crate) use client::{OAuthClient, signer};
pub(crate) use derived::DerivedToken;
pub(crate) use token_endpoint::Grant;

pub use authorization::{AuthorizationResponse, AuthorizationStarted, AuthorizeRequest, ConnectionOutcome};
pub use device::{DeviceAuthorization, DeviceRequest};
pub use return_urls::{InvalidReturnUrl, ReturnUrls};

use discovery::MetadataCache;
use token_response::{MAX_DESCRIPTION, MAX_ERROR, printable};

/// What is kept of authorization servers.
pub(crate) struct OAuth {
    metadata: MetadataCache,
    /// Where authorization servers send people back to.
    callback_url: OnceLock<String>,
    /// Told when a device is waited for.
    device_begun: Notify,
    /// Held while a client is registered.
    registering: tokio::sync::Mutex<()>,
}

impl OAuth {
    pub(crate) fn new() -> Self {
        Self {
            metadata: MetadataCache::new(),
            callback_url: OnceLock::new(),
            device_begun: Notify::new(),
            registering: tokio::sync::Mutex::default(),
        }
    }
}

/// The error of a grant that cannot be renewed without a person.
pub(crate) const NO_REFRESH_TOKEN: &str = "no_refresh_token";

/// Why there is no token. Messages are bounded and hold no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nothing reached the server: safe to repeat.
    #[error("the token endpoint was not reached: {message}")]
    NotSent { message: String },
    /// Sent, and no complete answer came: the server may have done what was asked.
    #[error("the token endpoint gave no complete answer: {message}")]
    Unanswered { message: String },
    /// The server answered that it cannot now, or not yet.
    #[error("the token endpoint is not available: {message}")]
    Unavailable {
        status: u16,
        /// The OAuth error code, such as `slow_down`, where there is one.
        error: Option<String>,
        message: String,
        retry_after: Option<Duration>,
    },
    /// A definite answer: `invalid_grant`, `invalid_client`, `access_denied`, …
    #[error("the authorization server refused: {}", refusal(error, description.as_deref()))]
    Refused { error: String, description: Option<String>, status: u16 },
    /// An answer that says success and holds no usable token.
    #[error("the token endpoint's answer holds no usable token: {message}")]
    Malformed { message: String },
    /// The definition, the config or the egress policy does not let the request be made.
    #[error("no token can be asked for: {message}")]
    Misconfigured { message: String },
}

fn refusal(error: &str, description: Option<&str>) -> String {
    match description {
        Some(description) => format!("{error}: {description}"),
        None => error.to_owned(),
    }
}

impl TokenError {
    pub(crate) fn misconfigured(message: impl Into<String>) -> Self {
        Self::Misconfigured { message: message.into() }
    }

    /// What an authorization response says in place of a code.
    fn refused_by_answer(error: &str, description: Option<&str>) -> Self {
        Self::Refused {
            error: printable(error, MAX_ERROR),
            description: description.map(|text| printable(text, MAX_DESCRIPTION)),
            status: 0,
        }
    }

    /// Whether the server refused with this error code.
    fn is_refused(&self, code: &str) -> bool {
        matches!(self, Self::Refused { error, .. } if error == code)
    }
}

/// Gets an instance a new token in place of `credential`: by its refresh token where there is
/// one, else by a grant that needs no person. Where the answer brings no new refresh token,
/// the old one stays good; the caller keeps it.
pub(crate) async fn renew(
    engine: &Engine,
    definition: &CompiledDefinition,
    config: &Map<String, Value>,
    credential: &Credential,
    deadline: Instant,
) -> Result<OAuth2Token, TokenError> {
    let client = OAuthClient::resolve(engine, definition, config).await?;
    let refresh_token = match credential.request_part() {
        Credential::OAuth2(token) => token.refresh_token.as_ref(),
        _ => None,
    };
    match refresh_token {
        Some(refresh_token) => client.exchange(engine, Grant::RefreshToken { refresh_token }, deadline).await,
        None => client.obtain(engine, deadline).await,
    }
}

/// Whether a grant of this kind gets new tokens without a refresh token and without a person.
pub(crate) fn renews_itself(config: &OAuth2Config) -> bool {
    matches!(config.grant_type, GrantType::ClientCredentials | GrantType::JwtBearer)
}

/// The faults of the URLs of authorization servers in a definition.
pub(crate) fn check_endpoints(spec: &DefinitionSpec) -> Vec<Problem> {
    let of_call = spec.custom_auth.iter().filter_map(|auth| {
        let fault = check_endpoint(&auth.token.as_ref()?.url).err()?;
        Some(Problem::new("/customAuth/token/url", fault))
    });
    of_call.chain(spec.oauth2_config.as_deref().into_iter().flat_map(check_config)).collect()
}

fn check_config(config: &OAuth2Config) -> Vec<Problem> {
    let endpoints = [
        ("authorizationUrl", &config.authorization_url),
        ("tokenUrl", &config.token_url),
        ("discoveryUrl", &config.discovery_url),
        ("issuer", &config.issuer),
        ("refreshUrl", &config.refresh_url),
        ("revocationUrl", &config.revocation_url),
        ("deviceAuthorizationUrl", &config.device_authorization_url),
        ("registrationUrl", &config.registration_url),
    ];
    let faults = endpoints.into_iter().filter_map(|(field, text)| {
        let fault = check_endpoint(text.as_deref()?).err()?;
        Some(Problem::new(format!("/oauth2Config/{field}"), fault))
    });
    faults.collect()
}
