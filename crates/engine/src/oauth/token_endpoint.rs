//! Requests to the token endpoint (RFC 6749 3.2) and what becomes of them.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use integration_model::definition::{GrantType, TokenEndpointAuthMethod, TokenRequestFormat};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::client::ClientAuth;
use super::{OAuthClient, TokenError};
use crate::Engine;
use crate::credential::OAuth2Token;
use crate::http_client::{HttpError, InboundResponse, OutboundRequest, RedirectMode, RedirectPolicy};
use crate::network::NetworkError;

/// The most bytes of a token endpoint's answer.
pub(super) const MAX_ANSWER: usize = 64 * 1024;
/// The longest that one request may take, however far the deadline. Only time in which the
/// process is awake counts: one that was stopped and goes on may find the answer waiting.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// In which steps that time is counted.
const WAIT_STEP: Duration = Duration::from_millis(250);

const INVALID_CLIENT: &str = "invalid_client";
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a token is asked for with.
pub(crate) enum Grant<'a> {
    AuthorizationCode {
        code: &'a SecretString,
        redirect_uri: &'a str,
        code_verifier: &'a SecretString,
    },
    RefreshToken {
        refresh_token: &'a SecretString,
    },
    ClientCredentials,
    DeviceCode {
        device_code: &'a SecretString,
    },
    /// A signed assertion (RFC 7523 2.1).
    JwtBearer {
        assertion: &'a SecretString,
    },
}

impl Grant<'_> {
    /// The registered name of the grant.
    const fn grant_type(&self) -> &'static str {
        match self {
            Self::AuthorizationCode { .. } => registered_name(GrantType::AuthorizationCode),
            Self::RefreshToken { .. } => "refresh_token",
            Self::ClientCredentials => registered_name(GrantType::ClientCredentials),
            Self::DeviceCode { .. } => registered_name(GrantType::DeviceCode),
            Self::JwtBearer { .. } => registered_name(GrantType::JwtBearer),
        }
    }
}

/// What the registry of OAuth parameters calls a grant.
pub(super) const fn registered_name(grant: GrantType) -> &'static str {
    match grant {
        GrantType::AuthorizationCode => "authorization_code",
        GrantType::ClientCredentials => "client_credentials",
        GrantType::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
        GrantType::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
    }
}

impl OAuthClient {
    /// Asks for a token. The request goes out once, on a connection of its own.
    pub(crate) async fn exchange(
        &self,
        engine: &Engine,
        grant: Grant<'_>,
        deadline: Instant,
    ) -> Result<OAuth2Token, TokenError> {
        let url = match grant {
            Grant::RefreshToken { .. } => &self.endpoints.refresh,
            _ => &self.endpoints.token,
        };
        let read =
            |response: &InboundResponse, sent: &[&str]| self.reader.token(response, engine.store.clock().now(), sent);
        let token = self.ask(engine, url, || self.form_of(&grant), read, deadline).await?;
        let asked_for = match grant {
            Grant::ClientCredentials | Grant::JwtBearer { .. } => self.read_scope(self.wire_scope(None).as_deref()),
            _ => None,
        };
        // What is not said is what was asked for (RFC 6749 5.1).
        Ok(OAuth2Token { scope: token.scope.or(asked_for), ..token })
    }

    /// Sends a form with what proves the client, and reads the answer. Where the definition
    /// does not say how the client proves itself, a refused Basic authentication is followed
    /// by the secret in the body.
    pub(super) async fn ask<'a, T>(
        &'a self,
        engine: &Engine,
        url: &Uri,
        form: impl Fn() -> Form<'a>,
        read: impl Fn(&InboundResponse, &[&str]) -> Result<T, TokenError>,
        deadline: Instant,
    ) -> Result<T, TokenError> {
        let ClientAuth::Secret { method: None, .. } = self.auth else {
            return self.ask_as(engine, url, form(), &read, None, deadline).await;
        };
        let (basic, post) = (TokenEndpointAuthMethod::ClientSecretBasic, TokenEndpointAuthMethod::ClientSecretPost);
        match self.ask_as(engine, url, form(), &read, Some(basic), deadline).await {
            // The client was not known, so nothing was done with what it brought.
            Err(refused) if refused.is_refused(INVALID_CLIENT) => {
                match self.ask_as(engine, url, form(), &read, Some(post), deadline).await {
                    Err(again) if again.is_refused(INVALID_CLIENT) => Err(refused),
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn ask_as<'a, T>(
        &'a self,
        engine: &Engine,
        url: &Uri,
        mut form: Form<'a>,
        read: &impl Fn(&InboundResponse, &[&str]) -> Result<T, TokenError>,
        method: Option<TokenEndpointAuthMethod>,
        deadline: Instant,
    ) -> Result<T, TokenError> {
        let authorization = self.prove(engine, &mut form, method)?;
        let response = self.post(engine, url, &form, authorization, deadline).await?;
        read(&response, &form.secrets())
    }

    fn form_of<'a>(&'a self, grant: &Grant<'a>) -> Form<'a> {
        let mut form = Form::default();
        form.push("grant_type", grant.grant_type());
        match grant {
            Grant::AuthorizationCode { code, redirect_uri, code_verifier } => {
                form.push_secret("code", code);
                form.push("redirect_uri", redirect_uri);
                form.push_secret("code_verifier", code_verifier);
            }
            Grant::RefreshToken { refresh_token } => form.push_secret("refresh_token", refresh_token),
            Grant::ClientCredentials => {
                if let Some(scope) = self.wire_scope(None) {
                    form.push_text("scope", scope);
                }
                for (name, value) in &self.config.additional_parameters {
                    form.set(name, value);
                }
            }
            Grant::DeviceCode { device_code } => form.push_secret("device_code", device_code),
            Grant::JwtBearer { assertion } => {
                form.push_secret("assertion", assertion);
                if let Some(scope) = self.wire_scope(None) {
                    form.push_text("scope", scope);
                }
            }
        }
        for (name, value) in &self.config.token_parameters {
            // Some systems have a name of their own for what is client credentials.
            if name != "grant_type" || matches!(grant, Grant::ClientCredentials) {
                form.set(name, value);
            }
        }
        form
    }

    /// The scope to ask for, as the system wants it written: the one given, else the definition's.
    pub(super) fn wire_scope(&self, given: Option<&str>) -> Option<String> {
        let scope = given.or(self.config.scope.as_deref()).filter(|scope| !scope.trim().is_empty())?;
        Some(match &self.config.scope_separator {
            Some(separator) => scope.split_whitespace().collect::<Vec<_>>().join(separator),
            None => scope.to_owned(),
        })
    }

    /// The scopes of a text as the system writes it, separated by spaces.
    pub(super) fn read_scope(&self, wire: Option<&str>) -> Option<String> {
        let wire = wire?;
        Some(match &self.config.scope_separator {
            Some(separator) => wire.split(separator.as_str()).collect::<Vec<_>>().join(" "),
            None => wire.to_owned(),
        })
    }

    /// Adds what proves the client: to the form, or as the `Authorization` header.
    fn prove<'a>(
        &'a self,
        engine: &Engine,
        form: &mut Form<'a>,
        tried: Option<TokenEndpointAuthMethod>,
    ) -> Result<Option<HeaderValue>, TokenError> {
        match &self.auth {
            ClientAuth::None => {
                form.set("client_id", &self.client_id);
                Ok(None)
            }
            ClientAuth::PrivateKey => {
                form.set("client_id", &self.client_id);
                form.push("client_assertion_type", CLIENT_ASSERTION_TYPE);
                form.push_made("client_assertion", self.client_assertion(engine)?);
                Ok(None)
            }
            ClientAuth::Secret { secret, method } => match method.or(tried) {
                Some(TokenEndpointAuthMethod::ClientSecretPost) => {
                    form.set("client_id", &self.client_id);
                    form.push_secret("client_secret", secret);
                    Ok(None)
                }
                _ => {
                    form.note_secret(secret);
                    basic(&self.client_id, secret).map(Some)
                }
            },
        }
    }

    async fn post(
        &self,
        engine: &Engine,
        url: &Uri,
        form: &Form<'_>,
        authorization: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<InboundResponse, TokenError> {
        let mut headers = self.headers.clone();
        let (content_type, body) = match self.config.token_request_format.unwrap_or_default() {
            TokenRequestFormat::Form => ("application/x-www-form-urlencoded", form.to_form()),
            TokenRequestFormat::Json => ("application/json", form.to_json()),
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        send(engine, Method::POST, url, headers, body, deadline).await
    }
}

/// Sends a request with secrets: once, on a connection of its own, to where it is sent and
/// nowhere else.
pub(super) async fn send(
    engine: &Engine,
    method: Method,
    url: &Uri,
    mut headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    deadline: Instant,
) -> Result<InboundResponse, TokenError> {
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    let request = OutboundRequest {
        method,
        url: url.clone(),
        headers,
        body: Bytes::from_owner(body),
        profile: None,
        // A redirect would take secrets to another place than the definition names.
        redirects: RedirectPolicy { mode: RedirectMode::None, max_hops: 0 },
        max_response_bytes: MAX_ANSWER,
        repeatable: false,
        fresh_connection: true,
    };
    match awake_timeout(MAX_WAIT, engine.http.send(request, deadline)).await {
        Some(result) => result.map_err(|error| from_http_error(&error)),
        None => Err(TokenError::Unanswered { message: format!("no answer came in {} s", MAX_WAIT.as_secs()) }),
    }
}

/// Waits for `work`, for a time of which only what the process is awake counts.
async fn awake_timeout<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut left = limit;
    while !left.is_zero() {
        match tokio::time::timeout(WAIT_STEP.min(left), work.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) => left = left.saturating_sub(WAIT_STEP),
        }
    }
    None
}

/// What a failed exchange says of the request.
pub(super) fn from_http_error(error: &HttpError) -> TokenError {
    let message = error.chain();
    match error {
        HttpError::Network(NetworkError::EgressDenied { .. }) | HttpError::InvalidUrl { .. } => {
            TokenError::Misconfigured { message }
        }
        HttpError::TooLarge { .. } => TokenError::Malformed { message },
        error if error.request_was_sent() => TokenError::Unanswered { message },
        _ => TokenError::NotSent { message },
    }
}

/// HTTP Basic with the client's id and secret, each form-encoded first (RFC 6749 2.3.1).
fn basic(client_id: &str, secret: &SecretString) -> Result<HeaderValue, TokenError> {
    let encoded = |text: &str| Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>());
    let pair = Zeroizing::new(format!("{}:{}", *encoded(client_id), *encoded(secret.expose_secret())));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| TokenError::misconfigured("a header cannot carry the client's id and secret"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The parameters of a request, in order, with the secrets among them marked.
#[derive(Default)]
pub(super) struct Form<'a> {
    fields: Vec<(&'a str, FormValue<'a>)>,
    /// Secrets that travel elsewhere in the same request.
    beside: Vec<&'a SecretString>,
}

enum FormValue<'a> {
    Text(std::borrow::Cow<'a, str>),
    Secret(&'a SecretString),
    /// Made for this request alone.
    Owned(SecretString),
}

impl FormValue<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Secret(secret) => secret.expose_secret(),
            Self::Owned(secret) => secret.expose_secret(),
        }
    }
}

impl<'a> Form<'a> {
    fn push(&mut self, name: &'a str, value: &'a str) {
        self.fields.push((name, FormValue::Text(value.into())));
    }

    fn push_text(&mut self, name: &'a str, value: String) {
        self.fields.push((name, FormValue::Text(value.into())));
    }

    pub(super) fn push_secret(&mut self, name: &'a str, secret: &'a SecretString) {
        self.fields.push((name, FormValue::Secret(secret)));
    }

    fn push_made(&mut self, name: &'a str, secret: SecretString) {
        self.fields.push((name, FormValue::Owned(secret)));
    }

    /// Puts a value in the place of the one of this name, if there is one.
    pub(super) fn set(&mut self, name: &'a str, value: &'a str) {
        self.fields.retain(|(known, _)| *known != name);
        self.push(name, value);
    }

    fn note_secret(&mut self, secret: &'a SecretString) {
        self.beside.push(secret);
    }

    /// Everything that must not be told again where the server repeats what it got.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let own = self.fields.iter().filter(|(_, value)| !matches!(value, FormValue::Text(_)));
        own.map(|(_, value)| value.text()).chain(self.beside.iter().map(|secret| secret.expose_secret())).collect()
    }

    pub(super) fn to_form(&self) -> Zeroizing<Vec<u8>> {
        let mut serializer = form_urlencoded::Serializer::new(String::with_capacity(2048));
        for (name, value) in &self.fields {
            serializer.append_pair(name, value.text());
        }
        Zeroizing::new(serializer.finish().into_bytes())
    }

    pub(super) fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let map: std::collections::BTreeMap<&str, &str> =
            self.fields.iter().map(|(name, value)| (*name, value.text())).collect();
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        serde_json::to_writer(&mut *bytes, &map).expect("a map of texts is JSON");
        bytes
    }
}
