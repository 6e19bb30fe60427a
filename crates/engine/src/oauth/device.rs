//! The device code grant (RFC 8628): a person types a code on another device, and this
//! service asks until the answer is there.
//!
//! What waits lies in the store, so that a restart, or another process, goes on with it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::GrantType;
use integration_model::principal::Principal;
use integration_model::{Problem, Timestamp};
use integration_store::{NewOAuthRequest, OAuthRequest, StoreError};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::authorization::{digest_of, principal_of};
use super::sealed::{SealedText, sealed_form};
use super::token_endpoint::Form;
use super::{Grant, OAuthClient, TokenError};
use crate::credential::{OAuth2Token, wipe};
use crate::http_client::InboundResponse;
use crate::{Engine, EngineError};

/// How long the server may take to begin the grant.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one question at the token endpoint may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a process keeps a device to itself while it asks.
const POLL_LEASE: Duration = Duration::from_secs(60);
/// How often is asked where the server does not say (RFC 8628 3.2).
const DEFAULT_INTERVAL: u64 = 5;
/// What `slow_down` adds (RFC 8628 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// The longest pause between two questions.
const MAX_INTERVAL: Duration = Duration::from_secs(300);
/// The longest that a person may take, whatever the server says.
const MAX_LIFETIME: u64 = 3_600;
/// How many devices are asked for at once.
const POLLS_AT_ONCE: u32 = 16;
/// How often the store is looked at for devices that another process began.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long an expired connection is kept, so that who comes late hears that it expired.
const KEPT_EXPIRED: Duration = Duration::from_secs(3_600);

// Has no printable form: whoever has the code can agree.
/// What a person needs to agree on another device.
#[derive(Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAuthorization {
    /// What the person types there.
    pub user_code: String,
    /// Where the person goes.
    pub verification_uri: String,
    /// The same with the code in it, where the server gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_uri_complete: Option<String>,
    /// Until when the person may agree.
    pub expires_at: Timestamp,
    /// How often this service asks whether the person did, in seconds.
    pub interval: u64,
}

/// How the device code grant is begun.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceRequest {
    /// The scopes to ask for, in place of the definition's.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub scope: Option<String>,
}

/// What is sealed while the person is away.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    device_code: SealedText,
    scope: Option<String>,
}

impl Engine {
    /// Begins the device code grant for an instance; its end comes by itself.
    pub async fn begin_device_authorization(
        &self,
        id: &str,
        request: DeviceRequest,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<DeviceAuthorization, EngineError> {
        let instance = self.instance(id, principal).await?;
        if request.scope.as_ref().is_some_and(|scope| scope.len() > 4096 || scope.chars().any(char::is_control)) {
            let problem = Problem::new("/scope", "expected at most 4096 characters on one line");
            return Err(EngineError::invalid("the connection cannot be begun", vec![problem]));
        }
        let client = self.oauth_client(&instance, GrantType::DeviceCode).await?;
        let scope = client.wire_scope(request.scope.as_deref());
        let now = self.store.clock().now();
        let begun = client.begin_device(self, scope.as_deref(), now).await?;
        let interval = Duration::from_secs(begun.shown.interval);
        let new = NewOAuthRequest {
            digest: digest_of(begun.device_code.expose_secret()),
            grant_type: GrantType::DeviceCode,
            tenant_id: instance.tenant_id,
            instance_id: instance.id,
            principal: principal.name.to_string(),
            principal_tenant: principal.tenant.clone(),
            expires_at: begun.shown.expires_at,
            poll_interval: Some(interval),
        };
        let audit = AuditDraft::done(
            AuditAction::ConnectionBegun,
            &principal.name,
            GrantType::DeviceCode.as_str(),
            correlation_id,
        );
        let waiting = Waiting { device_code: SealedText(begun.device_code), scope };
        self.store.put_oauth_request(new, &sealed_form(&waiting), audit).await.map_err(|error| match error {
            StoreError::NotFound => EngineError::InstanceNotFound(id.to_owned()),
            other => other.into(),
        })?;
        self.oauth.device_begun.notify_one();
        Ok(begun.shown)
    }

    /// Asks for the devices that are waited for until `stop`, and forgets what expired.
    pub async fn run_connections(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let pause = match self.poll_devices().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(error = %error, "connections that people began could not be looked at");
                    LOOK_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.oauth.device_begun.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks for all devices that are due; gives how long to wait for the next.
    async fn poll_devices(&self) -> Result<Duration, StoreError> {
        let now = self.store.clock().now();
        self.store.purge_oauth_requests(now.saturating_sub(KEPT_EXPIRED)).await?;
        let Some(next) = self.store.next_device_poll().await? else { return Ok(LOOK_INTERVAL) };
        if next > now {
            return Ok(next.since(now).min(LOOK_INTERVAL));
        }
        let due = self.store.claim_device_polls(now.saturating_add(POLL_LEASE), POLLS_AT_ONCE).await?;
        join_all(due.iter().map(|request| self.poll_device(request))).await;
        Ok(Duration::ZERO)
    }

    async fn poll_device(&self, request: &OAuthRequest) {
        if let Err(error) = self.try_poll_device(request).await {
            tracing::warn!(instance.id = %request.instance_id, error = %error, "a device's connection failed");
        }
    }

    async fn try_poll_device(&self, request: &OAuthRequest) -> Result<(), EngineError> {
        let correlation_id = self.store.ids().next().to_string();
        let ended = if request.expires_at <= self.store.clock().now() {
            Err(EngineError::from(TokenError::Refused {
                error: "expired_token".to_owned(),
                description: Some("nobody entered the code in time: begin again with POST …/oauth/device".to_owned()),
                status: 0,
            }))
        } else {
            match self.ask_for_device(request).await {
                Ok(token) => Ok(token),
                Err(PollError::Later(interval)) => {
                    self.store.postpone_device_poll(request.digest, interval).await?;
                    return Ok(());
                }
                Err(PollError::Ended(error)) => Err(error),
            }
        };
        let result = match ended {
            Ok(token) => {
                let reason = "connected by a person on another device";
                let principal = principal_of(request);
                self.store_token(&request.instance_id, request.grant_type, token, &principal, reason, &correlation_id)
                    .await
            }
            Err(error) => {
                self.connection_failed(&request.instance_id, request.grant_type, &error.to_string(), &correlation_id)
                    .await?;
                Err(error)
            }
        };
        self.store.claim_oauth_request(request.digest).await?;
        result
    }

    async fn ask_for_device(&self, request: &OAuthRequest) -> Result<OAuth2Token, PollError> {
        let unreadable = || EngineError::conflict("what was kept of the connection is not readable: begin again");
        let instance = self.instance(request.instance_id.as_str(), &principal_of(request)).await?;
        let bytes = self.store.open_oauth_request(request).await.map_err(EngineError::from)?;
        let waiting: Waiting = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
        let client = self.oauth_client(&instance, GrantType::DeviceCode).await?;
        let grant = Grant::DeviceCode { device_code: &waiting.device_code.0 };
        let interval = request.poll_interval.unwrap_or(Duration::from_secs(DEFAULT_INTERVAL));
        let slower = (interval + SLOW_DOWN).min(MAX_INTERVAL);
        match client.exchange(self, grant, Instant::now() + POLL_TIMEOUT).await {
            Ok(token) => {
                Ok(OAuth2Token { scope: token.scope.or_else(|| client.read_scope(waiting.scope.as_deref())), ..token })
            }
            Err(TokenError::Unavailable { error: Some(error), .. }) if error == "authorization_pending" => {
                Err(PollError::Later(interval))
            }
            // RFC 8628 3.5 wants the same of who does not hear an answer as of who is told to.
            Err(TokenError::Unavailable { retry_after, .. }) => {
                Err(PollError::Later(retry_after.unwrap_or(slower).clamp(slower, MAX_INTERVAL)))
            }
            Err(TokenError::NotSent { .. } | TokenError::Unanswered { .. }) => Err(PollError::Later(slower)),
            Err(error) => Err(PollError::Ended(error.into())),
        }
    }
}

enum PollError {
    Later(Duration),
    Ended(EngineError),
}

impl From<EngineError> for PollError {
    fn from(error: EngineError) -> Self {
        match error {
            // The store's own troubles, and those on the way to metadata, say nothing of the grant.
            EngineError::Store(_) => Self::Later(SLOW_DOWN),
            EngineError::External { code: integration_model::ErrorCode::Upstream, .. } => Self::Later(SLOW_DOWN),
            other => Self::Ended(other),
        }
    }
}

struct Begun {
    device_code: SecretString,
    shown: DeviceAuthorization,
}

impl OAuthClient {
    async fn begin_device<'a>(
        &'a self,
        engine: &Engine,
        scope: Option<&'a str>,
        now: Timestamp,
    ) -> Result<Begun, TokenError> {
        let Some(endpoint) = &self.endpoints.device_authorization else {
            return Err(TokenError::misconfigured(
                "neither the definition nor the server's metadata name a device authorization endpoint",
            ));
        };
        let form = || {
            let mut form = Form::default();
            // The request names its client, however it proves itself (RFC 8628 3.1).
            form.set("client_id", &self.client_id);
            if let Some(scope) = scope {
                form.set("scope", scope);
            }
            for (name, value) in &self.config.additional_parameters {
                form.set(name, value);
            }
            form
        };
        let read = |response: &InboundResponse, sent: &[&str]| {
            let mut document = self.reader.document(response, sent)?;
            let begun = read_device_authorization(&document, now);
            wipe(&mut document);
            begun.map_err(|field| TokenError::Malformed {
                message: format!("expected {field} in the answer of the device authorization endpoint"),
            })
        };
        self.ask(engine, endpoint, form, read, Instant::now() + BEGIN_TIMEOUT).await
    }
}

fn read_device_authorization(document: &Value, now: Timestamp) -> Result<Begun, &'static str> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).filter(|text| is_shown(text));
    let uri = |name: &str| text(name).filter(|uri| crate::config_fields::parse_endpoint(uri).is_ok());
    let seconds = |name: &str| document.get(name).and_then(Value::as_u64);
    let device_code = document.get("device_code").and_then(Value::as_str).filter(|code| !code.is_empty());
    let expires_in = seconds("expires_in").unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME);
    Ok(Begun {
        device_code: SecretString::from(device_code.ok_or("device_code")?),
        shown: DeviceAuthorization {
            user_code: text("user_code").ok_or("user_code")?.to_owned(),
            // The draft of the standard called it otherwise, and some systems still do.
            verification_uri: uri("verification_uri")
                .or_else(|| uri("verification_url"))
                .ok_or("verification_uri")?
                .to_owned(),
            verification_uri_complete: uri("verification_uri_complete").map(str::to_owned),
            expires_at: now.saturating_add(Duration::from_secs(expires_in)),
            interval: seconds("interval").unwrap_or(DEFAULT_INTERVAL).clamp(1, MAX_INTERVAL.as_secs()),
        },
    })
}

fn is_shown(text: &str) -> bool {
    (1..=2048).contains(&text.len()) && !text.chars().any(char::is_control)
}
