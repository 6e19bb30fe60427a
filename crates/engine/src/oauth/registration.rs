//! Clients that register themselves (RFC 7591), for definitions that name none: one for each
//! definition, server and redirect URI, kept sealed.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use integration_model::definition::{GrantType, OAuth2Config, TokenEndpointAuthMethod};
use integration_model::{DefinitionId, Timestamp};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::TokenError;
use super::sealed::{SealedText, sealed_form};
use super::token_endpoint::{registered_name, send};
use super::token_response::ResponseReader;
use crate::Engine;
use crate::credential::wipe;

/// How long a registration may take.
const MAX_WAIT: Duration = Duration::from_secs(15);
const CLIENT_NAME: &str = "Integration Service";

/// A client as the server registered it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegisteredClient {
    pub(super) client_id: String,
    client_secret: Option<SealedText>,
    pub(super) auth_method: Option<TokenEndpointAuthMethod>,
}

impl RegisteredClient {
    pub(super) fn secret(&self) -> Option<SecretString> {
        self.client_secret.as_ref().map(|secret| secret.0.clone())
    }
}

/// The client of a definition at a server: the one that was registered, or a new one.
pub(super) async fn registered_client(
    engine: &Engine,
    definition: &DefinitionId,
    config: &OAuth2Config,
    endpoint: &Uri,
) -> Result<RegisteredClient, TokenError> {
    let starting = || TokenError::NotSent { message: "the service is still starting".to_owned() };
    let redirect_uri = engine.oauth.callback_url.get().ok_or_else(starting)?;
    if let Some(client) = stored(engine, definition, endpoint, redirect_uri).await? {
        return Ok(client);
    }
    // One at a time, so that one process registers one client.
    let _registering = engine.oauth.registering.lock().await;
    if let Some(client) = stored(engine, definition, endpoint, redirect_uri).await? {
        return Ok(client);
    }
    let (client, expires_at) = register(engine, config, endpoint, redirect_uri).await?;
    let url = endpoint.to_string();
    let put = engine.store.put_oauth_client(definition, &url, redirect_uri, expires_at, &sealed_form(&client)).await;
    put.map_err(|error| unreadable(&error))?;
    tracing::info!(definition.id = %definition, oauth.registration = %url, "a client was registered");
    // Another process may have been first; then its client is everybody's.
    Ok(stored(engine, definition, endpoint, redirect_uri).await?.unwrap_or(client))
}

async fn stored(
    engine: &Engine,
    definition: &DefinitionId,
    endpoint: &Uri,
    redirect_uri: &str,
) -> Result<Option<RegisteredClient>, TokenError> {
    let found = engine.store.oauth_client(definition, &endpoint.to_string(), redirect_uri).await;
    let Some((bytes, expires_at)) = found.map_err(|error| unreadable(&error))? else { return Ok(None) };
    if expires_at.is_some_and(|at| at <= engine.store.clock().now()) {
        return Ok(None);
    }
    let client = serde_json::from_slice(&bytes);
    client.map(Some).map_err(|_| TokenError::misconfigured("the registered client is not readable"))
}

fn unreadable(error: &integration_store::StoreError) -> TokenError {
    tracing::error!(error = %error, "a registered client cannot be read or kept");
    TokenError::NotSent { message: "the registered client cannot be read or kept now".to_owned() }
}

async fn register(
    engine: &Engine,
    config: &OAuth2Config,
    endpoint: &Uri,
    redirect_uri: &str,
) -> Result<(RegisteredClient, Option<Timestamp>), TokenError> {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let body = Zeroizing::new(registration(config, redirect_uri).to_string().into_bytes());
    let sent = send(engine, Method::POST, endpoint, headers, body, Instant::now() + MAX_WAIT).await;
    let response = sent.map_err(|error| match error {
        // A client too many is no harm; the token endpoint has met nothing.
        TokenError::Unanswered { message } => {
            TokenError::NotSent { message: format!("registering a client: {message}") }
        }
        other => other,
    })?;
    let mut document = ResponseReader::new(&OAuth2Config::default()).document(&response, &[])?;
    let client = read_client(&document);
    let expires_at = document["client_secret_expires_at"].as_i64().filter(|seconds| *seconds > 0);
    wipe(&mut document);
    let client = client.ok_or_else(|| TokenError::Malformed {
        message: "expected client_id, and a known token_endpoint_auth_method, in the answer of the registration"
            .to_owned(),
    })?;
    Ok((client, expires_at.and_then(|seconds| seconds.checked_mul(1_000_000)).map(Timestamp::from_micros)))
}

/// What the client says of itself (RFC 7591 2).
fn registration(config: &OAuth2Config, redirect_uri: &str) -> Value {
    let grants = match config.grant_type {
        GrantType::ClientCredentials => json!([registered_name(config.grant_type)]),
        other => json!([registered_name(other), "refresh_token"]),
    };
    let mut metadata = json!({
        "client_name": CLIENT_NAME,
        "grant_types": grants,
        "token_endpoint_auth_method":
            config.token_endpoint_auth_method.unwrap_or(TokenEndpointAuthMethod::ClientSecretBasic).as_str(),
    });
    let (redirect_uris, response_types) = match config.grant_type {
        GrantType::AuthorizationCode => (json!([redirect_uri]), json!(["code"])),
        _ => (json!([]), json!([])),
    };
    metadata["redirect_uris"] = redirect_uris;
    metadata["response_types"] = response_types;
    metadata
}

fn read_client(document: &Value) -> Option<RegisteredClient> {
    let auth_method = match document.get("token_endpoint_auth_method") {
        None | Some(Value::Null) => None,
        Some(name) => Some(serde_json::from_value(name.clone()).ok()?),
    };
    Some(RegisteredClient {
        client_id: document["client_id"].as_str().filter(|id| !id.is_empty() && id.len() <= 4096)?.to_owned(),
        client_secret: document["client_secret"].as_str().map(|secret| SealedText(SecretString::from(secret))),
        auth_method,
    })
}
