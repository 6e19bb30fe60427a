//! The authorization code grant (RFC 6749 4.1) with PKCE (RFC 7636): a person goes to the
//! authorization server and comes back.
//!
//! What ties both ways together is the `state`: 256 random bits, kept as a digest, good once
//! and for ten minutes.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::GrantType;
use integration_model::instance::Instance;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, InstanceId, Problem, Timestamp};
use integration_store::{NewOAuthRequest, OAuthRequest};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

use super::discovery::is_same_issuer;
use super::sealed::{SealedText, sealed_form};
use super::{Grant, OAuthClient, TokenError};
use crate::config_fields::parse_endpoint;
use crate::credential::OAuth2Token;
use crate::{Engine, EngineError};

/// How long a person may take to come back.
const STATE_TTL: Duration = Duration::from_secs(600);
/// 256 bits in base64url.
const STATE_LENGTH: usize = 43;
/// How long the exchange of the code may take, repeats included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the exchange is tried where it surely was not done.
const EXCHANGE_ATTEMPTS: u32 = 3;
/// The pause before another try.
const EXCHANGE_PAUSE: Duration = Duration::from_millis(500);
/// The longest parameter of a callback that is looked at.
const MAX_PARAMETER: usize = 4096;

/// How a person is sent to the authorization server.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizeRequest {
    /// Where the authorization server sends the person back to, exactly as it is registered
    /// there; this service's own callback unless given.
    #[serde(default)]
    #[schema(format = "uri", max_length = 4096)]
    pub redirect_uri: Option<String>,
    /// Where this service sends the person at the end; has to be allowed by `oauth.returnUrls`.
    /// A page of this service says how it went unless given.
    #[serde(default)]
    #[schema(format = "uri", max_length = 4096)]
    pub return_url: Option<String>,
    /// The scopes to ask for, in place of the definition's.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub scope: Option<String>,
}

// Has no printable form: the state is a secret.
/// Where a person goes to agree.
#[derive(Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationStarted {
    /// To be opened in the person's browser.
    pub authorization_url: String,
    /// What the authorization server gives back at the callback.
    pub state: String,
    /// Until when the person may come back.
    pub expires_at: Timestamp,
}

/// What a person's browser brings back (RFC 6749 4.1.2, RFC 9207).
#[derive(Clone, Default, Deserialize)]
pub struct AuthorizationResponse {
    pub state: Option<String>,
    pub code: Option<String>,
    pub iss: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

impl std::fmt::Debug for AuthorizationResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorizationResponse(redacted)")
    }
}

/// How a connection ended, and where its person goes from here.
#[derive(Debug)]
pub struct ConnectionOutcome {
    /// None where the state belongs to no connection.
    pub instance_id: Option<InstanceId>,
    pub return_url: Option<String>,
    pub result: Result<(), EngineError>,
}

/// What is sealed between the two ways.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pending {
    code_verifier: SealedText,
    redirect_uri: String,
    return_url: Option<String>,
    scope: Option<String>,
    /// To which client at which endpoint the code will belong.
    client_id: String,
    token_url: String,
}

impl Engine {
    /// Begins the authorization code grant for an instance.
    pub async fn begin_authorization(
        &self,
        id: &str,
        request: AuthorizeRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<AuthorizationStarted, EngineError> {
        let instance = self.instance(id, principal).await?;
        let redirect_uri = self.checked_request(&request)?;
        let client = self.oauth_client(&instance, GrantType::AuthorizationCode).await?;
        if client.is_registered() && redirect_uri != self.callback_url()? {
            let message = format!("expected {:?}, for which the client is registered", self.callback_url()?);
            let problem = Problem::new("/redirectUri", message);
            return Err(EngineError::invalid("the connection cannot be begun", vec![problem]));
        }
        let Some(endpoint) = &client.endpoints.authorization else {
            return Err(EngineError::conflict(
                "neither the definition nor the server's metadata name an authorization endpoint",
            ));
        };
        let state = random_text()?;
        let code_verifier = SecretString::from(random_text()?.as_str());
        let scope = client.wire_scope(request.scope.as_deref());
        let url = Url::parse(&endpoint.to_string())
            .map_err(|_| EngineError::conflict("the authorization endpoint is no usable URL"))?;
        let authorization_url = with_query(url, |query| {
            query.append_pair("response_type", "code");
            query.append_pair("client_id", &client.client_id);
            query.append_pair("redirect_uri", &redirect_uri);
            if let Some(scope) = &scope {
                query.append_pair("scope", scope);
            }
            query.append_pair("state", &state);
            query.append_pair("code_challenge", &challenge_of(&code_verifier));
            query.append_pair("code_challenge_method", "S256");
            for (name, value) in &client.config.additional_parameters {
                query.append_pair(name, value);
            }
        });
        let expires_at = self.store.clock().now().saturating_add(STATE_TTL);
        let pending = Pending {
            code_verifier: SealedText(code_verifier),
            redirect_uri,
            return_url: request.return_url,
            scope,
            client_id: client.client_id.clone(),
            token_url: client.endpoints.token.to_string(),
        };
        let audit = AuditDraft::done(
            AuditAction::ConnectionBegun,
            &principal.name,
            GrantType::AuthorizationCode.as_str(),
            correlation_id,
        );
        let new = NewOAuthRequest {
            digest: digest_of(&state),
            grant_type: GrantType::AuthorizationCode,
            tenant_id: instance.tenant_id,
            instance_id: instance.id,
            principal: principal.name.to_string(),
            principal_tenant: principal.tenant.clone(),
            expires_at,
            poll_interval: None,
        };
        self.store.put_oauth_request(new, &sealed_form(&pending), audit).await.map_err(|error| gone(id, error))?;
        Ok(AuthorizationStarted { authorization_url, state: state.to_string(), expires_at })
    }

    /// Ends the authorization code grant: exchanges what the person's browser brought. The
    /// state is used up, whatever comes of it. A credential that works stays where this fails.
    pub async fn finish_authorization(
        &self,
        response: AuthorizationResponse,
        correlation_id: &str,
    ) -> ConnectionOutcome {
        let (request, pending) = match self.claim_authorization(&response).await {
            Ok(claimed) => claimed,
            Err(error) => return ConnectionOutcome { instance_id: None, return_url: None, result: Err(error) },
        };
        let result = self.complete_authorization(&request, &pending, &response, correlation_id).await;
        ConnectionOutcome { instance_id: Some(request.instance_id), return_url: pending.return_url, result }
    }

    async fn claim_authorization(
        &self,
        response: &AuthorizationResponse,
    ) -> Result<(OAuthRequest, Pending), EngineError> {
        let unknown = |message: &str| {
            EngineError::invalid("no connection waits for this answer", vec![Problem::new("/query/state", message)])
        };
        // Whatever cannot be one is not looked for.
        let Some(state) = response.state.as_deref().filter(|state| state.len() == STATE_LENGTH) else {
            return Err(unknown("expected the state that POST …/oauth/authorize gave"));
        };
        let Some(request) = self.store.claim_oauth_request(digest_of(state)).await? else {
            return Err(unknown("it was used before, or never given: begin again with POST …/oauth/authorize"));
        };
        let minutes = STATE_TTL.as_secs() / 60;
        if request.expires_at <= self.store.clock().now() {
            return Err(unknown(&format!(
                "it has expired after {minutes} minutes: begin again with POST …/oauth/authorize"
            )));
        }
        if request.grant_type != GrantType::AuthorizationCode {
            return Err(unknown("expected the state that POST …/oauth/authorize gave"));
        }
        let bytes = self.store.open_oauth_request(&request).await?;
        let pending = serde_json::from_slice(&bytes)
            .map_err(|_| EngineError::conflict("what was kept of the connection is not readable: begin again"))?;
        Ok((request, pending))
    }

    async fn complete_authorization(
        &self,
        request: &OAuthRequest,
        pending: &Pending,
        response: &AuthorizationResponse,
        correlation_id: &str,
    ) -> Result<(), EngineError> {
        let principal = principal_of(request);
        let instance = self.instance(request.instance_id.as_str(), &principal).await?;
        match self.exchange_code(&instance, pending, response).await {
            Ok(token) => {
                self.store_token(
                    &instance.id,
                    request.grant_type,
                    token,
                    &principal,
                    "connected by a person",
                    correlation_id,
                )
                .await?;
                Ok(())
            }
            Err(error) => {
                tracing::info!(
                    instance.id = %instance.id, principal = %principal.name, error = %error,
                    "a person's connection failed"
                );
                self.connection_failed(&instance.id, request.grant_type, &error.to_string(), correlation_id).await?;
                Err(error)
            }
        }
    }

    async fn exchange_code(
        &self,
        instance: &Instance,
        pending: &Pending,
        response: &AuthorizationResponse,
    ) -> Result<OAuth2Token, EngineError> {
        let client = self.oauth_client(instance, GrantType::AuthorizationCode).await?;
        check_issuer(&client, response.iss.as_deref())?;
        if let Some(error) = response.error.as_deref().filter(|error| !error.is_empty()) {
            return Err(TokenError::refused_by_answer(error, response.error_description.as_deref()).into());
        }
        let Some(code) = response.code.as_deref().filter(|code| (1..=MAX_PARAMETER).contains(&code.len())) else {
            return Err(EngineError::invalid(
                "the authorization server sent no code",
                vec![Problem::new("/query/code", format!("expected a code of at most {MAX_PARAMETER} bytes"))],
            ));
        };
        if client.client_id != pending.client_id || client.endpoints.token.to_string() != pending.token_url {
            return Err(EngineError::conflict(
                "the instance was changed while the person was away: begin again with POST …/oauth/authorize",
            ));
        }
        let code = SecretString::from(code);
        let token = self.exchange_with_patience(&client, &code, pending).await?;
        Ok(OAuth2Token { scope: token.scope.or_else(|| client.read_scope(pending.scope.as_deref())), ..token })
    }

    /// A code is gone once it was met; where it surely was not, another try costs nothing but
    /// time, and spares the person a second way.
    async fn exchange_with_patience(
        &self,
        client: &OAuthClient,
        code: &SecretString,
        pending: &Pending,
    ) -> Result<OAuth2Token, TokenError> {
        let deadline = Instant::now() + EXCHANGE_TIMEOUT;
        let (redirect_uri, code_verifier) = (pending.redirect_uri.as_str(), &pending.code_verifier.0);
        let mut attempt = 1;
        loop {
            let grant = Grant::AuthorizationCode { code, redirect_uri, code_verifier };
            match client.exchange(self, grant, deadline).await {
                Err(TokenError::NotSent { .. } | TokenError::Unavailable { .. }) if attempt < EXCHANGE_ATTEMPTS => {
                    tokio::time::sleep(EXCHANGE_PAUSE * attempt).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// The redirect URI of a request that may be made.
    fn checked_request(&self, request: &AuthorizeRequest) -> Result<String, EngineError> {
        let mut problems = Vec::new();
        if let Some(Err(fault)) = request.redirect_uri.as_deref().map(parse_endpoint) {
            problems.push(Problem::new("/redirectUri", fault));
        }
        if let Some(url) = &request.return_url
            && !self.settings.return_urls.allow(url)
        {
            problems.push(Problem::new("/returnUrl", "expected a URL that the setting oauth.returnUrls allows"));
        }
        let is_scope = |scope: &String| scope.len() <= MAX_PARAMETER && !scope.chars().any(char::is_control);
        if request.scope.as_ref().is_some_and(|scope| !is_scope(scope)) {
            problems.push(Problem::new("/scope", format!("expected at most {MAX_PARAMETER} characters on one line")));
        }
        if !problems.is_empty() {
            return Err(EngineError::invalid("the connection cannot be begun", problems));
        }
        match &request.redirect_uri {
            Some(redirect_uri) => Ok(redirect_uri.clone()),
            None => Ok(self.callback_url()?.to_owned()),
        }
    }
}

/// Whether the answer is from whom the person was sent to (RFC 9207): another server's answer
/// would have its code sent to this one.
fn check_issuer(client: &OAuthClient, issuer: Option<&str>) -> Result<(), EngineError> {
    let fault = |message: String| {
        let problem = Problem::new("/query/iss", message);
        Err(EngineError::invalid("the answer is not from the authorization server that was asked", vec![problem]))
    };
    match (issuer, &client.endpoints.issuer) {
        (Some(issuer), Some(expected)) if !is_same_issuer(issuer, expected) => fault(format!("expected {expected:?}")),
        (None, Some(expected)) if client.endpoints.sends_issuer => {
            fault(format!("expected {expected:?}: the server says that its answers name it"))
        }
        _ => Ok(()),
    }
}

/// Who began a connection, and ends it.
pub(super) fn principal_of(request: &OAuthRequest) -> Principal {
    Principal::recorded(&request.principal, request.principal_tenant.clone())
}

/// The digest under which a secret of 256 bits is kept.
pub(super) fn digest_of(secret: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    out
}

/// 256 random bits, fit for URLs.
fn random_text() -> Result<Zeroizing<String>, EngineError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| EngineError::External {
        code: ErrorCode::Internal,
        message: "the system's source of randomness failed".to_owned(),
    })?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// The S256 challenge of a verifier (RFC 7636 4.2).
fn challenge_of(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.expose_secret().as_bytes()))
}

fn with_query(
    mut url: Url,
    write: impl FnOnce(&mut url::form_urlencoded::Serializer<'_, url::UrlQuery<'_>>),
) -> String {
    write(&mut url.query_pairs_mut());
    url.into()
}

fn gone(id: &str, error: integration_store::StoreError) -> EngineError {
    match error {
        integration_store::StoreError::NotFound => EngineError::InstanceNotFound(id.to_owned()),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge_of(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
