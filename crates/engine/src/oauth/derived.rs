//! Tokens that a stored secret is exchanged for: the access token behind a signed assertion
//! (RFC 7523), and the token of a login call. Kept in memory alone, asked for once at a time,
//! and asked for anew when they expire or are refused.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use integration_model::definition::{CustomAuth, OAuth2Config, TokenCall, TokenCallEncoding, TokenCallVerb};
use integration_model::execution::Stage;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::TokenError;
use super::token_endpoint::{Form, registered_name, send};
use super::token_response::ResponseReader;
use crate::Engine;
use crate::adapter::CallError;
use crate::config_fields::{endpoint, parse_endpoint};
use crate::credential::{ApiKeyLocation, Credential, JwtSigner, OAuth2Token, REDACTED};
use crate::execute::Failure;
use crate::registry::ActiveInstance;

/// A token is replaced this long before it expires, or when a tenth of its life is left.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);
/// A refused token that is younger than this was asked for after the refused one was sent.
const YOUNG: Duration = Duration::from_secs(1);
const BEARER: &str = "Bearer ";

/// The token that a credential was exchanged for.
#[derive(Default)]
pub(crate) struct DerivedToken {
    kept: tokio::sync::Mutex<Option<Kept>>,
}

struct Kept {
    credential: Arc<Credential>,
    made_at: Instant,
    /// None where it holds until it is refused.
    until: Option<Timestamp>,
}

impl DerivedToken {
    /// Gives up a token that was refused, unless another has come meanwhile.
    async fn drop_refused(&self) {
        let mut kept = self.kept.lock().await;
        kept.take_if(|kept| kept.made_at.elapsed() >= YOUNG);
    }
}

/// What a credential is exchanged for a token with.
enum Exchange<'a> {
    Assertion(&'a JwtSigner, &'a str),
    Login(&'a TokenCall, &'a std::collections::BTreeMap<String, SecretString>),
}

impl Engine {
    /// The credential as requests carry it, for the time of one attempt.
    pub(crate) async fn credential_for(
        &self,
        active: &ActiveInstance,
        correlation_id: &str,
        deadline: Instant,
    ) -> Result<Arc<Credential>, Failure> {
        let opened = self.open_credential(active, deadline).await?;
        let custom_auth = active.definition.definition.spec.custom_auth.as_ref();
        let Some(exchange) = exchange_of(&opened, custom_auth) else { return Ok(opened) };
        let derived = &active.credential.derived;
        let Ok(mut kept) = timeout_at(deadline, derived.kept.lock()).await else {
            let message = "the deadline passed while a token was being asked for";
            return Err(Failure::new(Stage::Credential, ErrorCode::Timeout, message).retryable(true));
        };
        let now = self.store.clock().now();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.until.is_none_or(|until| now < until)) {
            return Ok(Arc::clone(&kept.credential));
        }
        match self.derive(&exchange, &active.config, deadline).await {
            Ok(token) => {
                let until = token.expires_at.map(|at| at.saturating_sub(RENEWED_BEFORE.min(at.since(now) / 10)));
                let credential = Arc::new(with_token(&opened, &exchange, token));
                *kept = Some(Kept { credential: Arc::clone(&credential), made_at: Instant::now(), until });
                Ok(credential)
            }
            Err(error) => {
                drop(kept);
                Err(self.not_derived(active, &error, correlation_id).await)
            }
        }
    }

    /// Whether another token can be asked for in place of one that was refused.
    pub(crate) async fn gives_up_derived(&self, active: &ActiveInstance, deadline: Instant) -> bool {
        let custom_auth = active.definition.definition.spec.custom_auth.as_ref();
        let opened = self.open_credential(active, deadline).await;
        let is_derived = opened.is_ok_and(|opened| exchange_of(&opened, custom_auth).is_some());
        if is_derived {
            active.credential.derived.drop_refused().await;
        }
        is_derived
    }

    /// A credential that the instance does not have yet, as its requests would carry it.
    pub(crate) async fn candidate_to_send(
        &self,
        active: &ActiveInstance,
        candidate: &Credential,
        deadline: Instant,
    ) -> Result<Credential, CallError> {
        let custom_auth = active.definition.definition.spec.custom_auth.as_ref();
        let Some(exchange) = exchange_of(candidate, custom_auth) else { return Ok(candidate.clone()) };
        match self.derive(&exchange, &active.config, deadline).await {
            Ok(token) => Ok(with_token(candidate, &exchange, token)),
            Err(error) => {
                let message = format!("the credential was not exchanged for a token: {error}");
                let credential_refused = matches!(error, TokenError::Refused { .. } | TokenError::Misconfigured { .. });
                let code = if credential_refused { ErrorCode::Auth } else { ErrorCode::Upstream };
                Err(CallError { credential_refused, ..CallError::not_sent(code, message) })
            }
        }
    }

    /// The credential for a request that is only shown: nothing is asked for.
    pub(crate) async fn credential_to_show(
        &self,
        active: &ActiveInstance,
        deadline: Instant,
    ) -> Result<Arc<Credential>, Failure> {
        let opened = self.open_credential(active, deadline).await?;
        let custom_auth = active.definition.definition.spec.custom_auth.as_ref();
        let Some(exchange) = exchange_of(&opened, custom_auth) else { return Ok(opened) };
        let token = OAuth2Token {
            access_token: SecretString::from(REDACTED),
            refresh_token: None,
            token_type: BEARER.trim_end().to_owned(),
            scope: None,
            expires_at: None,
        };
        Ok(Arc::new(with_token(&opened, &exchange, token)))
    }

    async fn derive(
        &self,
        exchange: &Exchange<'_>,
        config: &Map<String, Value>,
        deadline: Instant,
    ) -> Result<OAuth2Token, TokenError> {
        match exchange {
            Exchange::Assertion(signer, token_url) => {
                let url = parse_endpoint(token_url)
                    .map_err(|fault| TokenError::misconfigured(format!("the credential's tokenUrl: {fault}")))?;
                let now = self.store.clock().now();
                let signed = signer.sign(now).map_err(|error| TokenError::misconfigured(error.to_string()))?;
                let mut form = Form::default();
                form.set("grant_type", registered_name(integration_model::definition::GrantType::JwtBearer));
                form.push_secret("assertion", &signed.token);
                let headers = HeaderMap::from_iter([content_type("application/x-www-form-urlencoded")]);
                let response = send(self, Method::POST, &url, headers, form.to_form(), deadline).await?;
                ResponseReader::new(&OAuth2Config::default()).token(&response, now, &form.secrets())
            }
            Exchange::Login(call, fields) => self.log_in(call, fields, config, deadline).await,
        }
    }

    async fn log_in(
        &self,
        call: &TokenCall,
        fields: &std::collections::BTreeMap<String, SecretString>,
        config: &Map<String, Value>,
        deadline: Instant,
    ) -> Result<OAuth2Token, TokenError> {
        let url = endpoint(&call.url, config)
            .map_err(|fault| TokenError::misconfigured(format!("customAuth.token.url is no usable URL: {fault}")))?;
        let field = |name: &String| {
            let lacking = || TokenError::misconfigured(format!("the credential has no field {name:?}"));
            fields.get(name).ok_or_else(lacking)
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &call.constants.headers {
            headers.insert(header_name(name)?, header_value(name, value)?);
        }
        for (name, bound) in &call.headers {
            let mut value = header_value(name, field(bound)?.expose_secret())?;
            value.set_sensitive(true);
            headers.insert(header_name(name)?, value);
        }
        let mut form = Form::default();
        call.constants.body.iter().for_each(|(name, value)| form.set(name, value));
        for (name, bound) in &call.body {
            form.push_secret(name, field(bound)?);
        }
        let (method, body) = match (call.verb, call.encoding) {
            (TokenCallVerb::Get, _) => (Method::GET, Vec::new().into()),
            (verb, TokenCallEncoding::Json) => {
                headers.extend([content_type("application/json")]);
                (method(verb), form.to_json())
            }
            (verb, TokenCallEncoding::Form) => {
                headers.extend([content_type("application/x-www-form-urlencoded")]);
                (method(verb), form.to_form())
            }
        };
        let response = send(self, method, &url, headers, body, deadline).await?;
        let mut paths = call.response.clone().unwrap_or_default();
        paths.access_token.get_or_insert_with(|| "/token".to_owned());
        let reader = ResponseReader::new(&OAuth2Config {
            token_response: Some(paths),
            expires_in_default_ms: call.expires_in_default_ms,
            token_type: Some(BEARER.trim_end().to_owned()),
            ..OAuth2Config::default()
        });
        let secrets: Vec<&str> = fields.values().map(|secret| secret.expose_secret()).collect();
        match reader.token(&response, self.store.clock().now(), &secrets) {
            // A login that is refused need not speak OAuth.
            Err(TokenError::Unavailable { status, message, .. }) if matches!(status, 400 | 401 | 403 | 404 | 422) => {
                Err(TokenError::Refused { error: format!("http_{status}"), description: Some(message), status })
            }
            result => result,
        }
    }

    /// A refused exchange says of the stored secret what a refused call would.
    async fn not_derived(&self, active: &ActiveInstance, error: &TokenError, correlation_id: &str) -> Failure {
        let message = format!("the credential was not exchanged for a token: {error}");
        match error {
            TokenError::Refused { .. } => {
                let (id, used) = (&active.instance.id, active.credential.id());
                if let Err(error) =
                    self.credential_refused(id, used, &message, &Principal::system(), correlation_id).await
                {
                    tracing::error!(instance.id = %id, error = %error, "the refused credential could not be noted");
                }
                Failure::new(Stage::Credential, ErrorCode::Auth, message)
            }
            TokenError::Misconfigured { .. } => Failure::new(Stage::Credential, ErrorCode::Auth, message),
            TokenError::Unavailable { retry_after: Some(wait), .. } => {
                Failure::new(Stage::Credential, ErrorCode::Upstream, message).retryable(true).retry_after(*wait)
            }
            TokenError::NotSent { .. } | TokenError::Unanswered { .. } | TokenError::Unavailable { .. } => {
                Failure::new(Stage::Credential, ErrorCode::Upstream, message).retryable(true)
            }
            TokenError::Malformed { .. } => Failure::new(Stage::Credential, ErrorCode::Upstream, message),
        }
    }
}

fn exchange_of<'a>(credential: &'a Credential, custom_auth: Option<&'a CustomAuth>) -> Option<Exchange<'a>> {
    match credential.request_part() {
        Credential::JwtKey(signer) => signer.token_url().map(|url| Exchange::Assertion(signer, url)),
        Credential::Custom(fields) => {
            custom_auth.and_then(|auth| auth.token.as_ref()).map(|call| Exchange::Login(call, fields))
        }
        _ => None,
    }
}

/// The opened credential with the token that it was exchanged for.
fn with_token(opened: &Credential, exchange: &Exchange<'_>, token: OAuth2Token) -> Credential {
    if let Credential::WithCertificate { certificate, credential } = opened {
        let credential = Box::new(with_token(credential, exchange, token));
        return Credential::WithCertificate { certificate: Arc::clone(certificate), credential };
    }
    let Exchange::Login(call, _) = exchange else { return Credential::OAuth2(token) };
    let (name, location) = match (&call.header, &call.query) {
        (_, Some(query)) => (query.clone(), ApiKeyLocation::Query),
        (Some(header), None) => (header.clone(), ApiKeyLocation::Header),
        (None, None) => (header::AUTHORIZATION.to_string(), ApiKeyLocation::Header),
    };
    let usual = if name.eq_ignore_ascii_case(header::AUTHORIZATION.as_str()) { BEARER } else { "" };
    Credential::WithToken {
        token: token.access_token,
        prefix: call.prefix.clone().unwrap_or_else(|| usual.to_owned()),
        name,
        location,
        credential: Box::new(opened.clone()),
    }
}

const fn method(verb: TokenCallVerb) -> Method {
    match verb {
        TokenCallVerb::Get => Method::GET,
        TokenCallVerb::Post => Method::POST,
        TokenCallVerb::Put => Method::PUT,
    }
}

fn content_type(kind: &'static str) -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(kind))
}

fn header_name(name: &str) -> Result<HeaderName, TokenError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| TokenError::misconfigured(format!("customAuth.token: {name:?} is no header name")))
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, TokenError> {
    HeaderValue::from_str(value)
        .map_err(|_| TokenError::misconfigured(format!("customAuth.token: a header cannot carry the value of {name}")))
}
