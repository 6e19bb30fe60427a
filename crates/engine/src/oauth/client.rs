//! A definition version's OAuth client, made ready for one instance: its endpoints with the
//! config filled in or discovered, its secret opened.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use integration_model::definition::{GrantType, OAuth2Config, SigningAlgorithm, TokenEndpointAuthMethod};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::discovery::ServerMetadata;
use super::registration::registered_client;
use super::token_response::ResponseReader;
use super::{Grant, NO_REFRESH_TOKEN, TokenError};
use crate::Engine;
use crate::config_fields::{endpoint, fill_text};
use crate::credential::{JwtSigner, OAuth2Token, TokenContent};
use crate::registry::CompiledDefinition;

/// How long an assertion that proves a client holds: it is used at once.
const CLIENT_ASSERTION_TTL: Duration = Duration::from_secs(60);
/// How long an assertion that is exchanged for a token holds.
const GRANT_ASSERTION_TTL: Duration = Duration::from_secs(300);

/// An OAuth client of one instance.
pub(crate) struct OAuthClient {
    pub(super) config: OAuth2Config,
    pub(super) client_id: String,
    pub(super) auth: ClientAuth,
    pub(super) endpoints: Endpoints,
    pub(super) headers: HeaderMap,
    pub(super) reader: ResponseReader,
    /// What the assertion of `jwt_bearer` says.
    assertion: TokenContent,
    /// Signs assertions, where the client has a private key.
    signer: Option<JwtSigner>,
}

/// Where the server is asked what.
pub(super) struct Endpoints {
    pub(super) token: Uri,
    pub(super) refresh: Uri,
    pub(super) authorization: Option<Uri>,
    pub(super) revocation: Option<Uri>,
    pub(super) device_authorization: Option<Uri>,
    registration: Option<Uri>,
    /// Who the server says it is.
    pub(super) issuer: Option<String>,
    /// Whether its authorization responses say who they are from (RFC 9207).
    pub(super) sends_issuer: bool,
}

/// How the client proves itself to the token endpoint.
pub(super) enum ClientAuth {
    /// A public client: it names itself and proves nothing.
    None,
    /// A secret, sent as the method says; none says to find out which the server takes.
    Secret { secret: SecretString, method: Option<TokenEndpointAuthMethod> },
    /// An assertion signed with the client's private key (RFC 7523 2.2).
    PrivateKey,
}

impl OAuthClient {
    /// Makes the client of an instance ready.
    pub(crate) async fn resolve(
        engine: &Engine,
        definition: &CompiledDefinition,
        instance_config: &Map<String, Value>,
    ) -> Result<Self, TokenError> {
        let spec = &definition.definition.spec;
        let Some(config) = spec.oauth2_config.as_deref() else {
            return Err(TokenError::misconfigured("the definition has no oauth2Config"));
        };
        let named = NamedEndpoints { config, instance_config };
        let metadata = named.metadata(engine).await?;
        let endpoints = named.endpoints(metadata.as_deref())?;
        if config.client_id.is_empty() {
            let Some(endpoint) = &endpoints.registration else {
                return Err(TokenError::misconfigured("the server's metadata name no place to register a client"));
            };
            let client = registered_client(engine, &spec.id, config, endpoint).await?;
            let mut config = config.clone();
            config.client_id.clone_from(&client.client_id);
            config.token_endpoint_auth_method = client.auth_method.or(config.token_endpoint_auth_method);
            return Self::new(config, client.secret(), endpoints, metadata.as_deref(), instance_config);
        }
        let secret = engine.store.definition_client_secret(&spec.id, &spec.version).await.map_err(|error| {
            tracing::error!(definition.id = %spec.id, error = %error, "a client secret cannot be read");
            TokenError::NotSent { message: "the client's secret cannot be read now".to_owned() }
        })?;
        Self::new(config.clone(), secret, endpoints, metadata.as_deref(), instance_config)
    }

    fn new(
        config: OAuth2Config,
        secret: Option<SecretString>,
        endpoints: Endpoints,
        metadata: Option<&ServerMetadata>,
        instance_config: &Map<String, Value>,
    ) -> Result<Self, TokenError> {
        let config = with_parameters_filled(config, instance_config)?;
        let signer = match &secret {
            Some(secret) if is_private_key(&config, secret) => Some(client_signer(&config, secret)?),
            _ => None,
        };
        Ok(Self {
            client_id: config.client_id.clone(),
            auth: ClientAuth::new(&config, secret, signer.is_some(), metadata)?,
            assertion: assertion_content(&config, &endpoints.token, instance_config)?,
            signer,
            headers: token_headers(&config)?,
            reader: ResponseReader::new(&config),
            endpoints,
            config,
        })
    }

    /// Whether the client registered itself, for this service's own callback alone.
    pub(super) fn is_registered(&self) -> bool {
        self.config.dynamic_registration
    }

    /// Gets a token by the definition's own grant, where that needs no person.
    pub(crate) async fn obtain(&self, engine: &Engine, deadline: Instant) -> Result<OAuth2Token, TokenError> {
        match self.config.grant_type {
            GrantType::ClientCredentials => self.exchange(engine, Grant::ClientCredentials, deadline).await,
            GrantType::JwtBearer => {
                let assertion = self.sign(engine, &self.assertion)?;
                self.exchange(engine, Grant::JwtBearer { assertion: &assertion }, deadline).await
            }
            GrantType::AuthorizationCode | GrantType::DeviceCode => Err(TokenError::Refused {
                error: NO_REFRESH_TOKEN.to_owned(),
                description: Some("the system gave no refresh token: connect the instance again".to_owned()),
                status: 0,
            }),
        }
    }

    /// An assertion that proves this client to the server.
    pub(super) fn client_assertion(&self, engine: &Engine) -> Result<SecretString, TokenError> {
        let audience = self.endpoints.issuer.clone().unwrap_or_else(|| self.endpoints.token.to_string());
        let content = TokenContent {
            key_id: self.config.client_key_id.clone(),
            issuer: Some(self.client_id.clone()),
            subject: Some(self.client_id.clone()),
            audience: Some(Value::from(audience)),
            claims: Map::new(),
            ttl: CLIENT_ASSERTION_TTL,
        };
        self.sign(engine, &content)
    }

    fn sign(&self, engine: &Engine, content: &TokenContent) -> Result<SecretString, TokenError> {
        let Some(signer) = &self.signer else {
            return Err(TokenError::misconfigured("the definition has no clientPrivateKey to sign assertions with"));
        };
        let mut content = content.clone();
        // An assertion is good for one use.
        content.claims.insert("jti".to_owned(), Value::from(engine.store.ids().next().to_string()));
        let signed = signer.sign_content(&content, engine.store.clock().now());
        signed.map(|signed| signed.token).map_err(|error| TokenError::misconfigured(error.to_string()))
    }
}

impl ClientAuth {
    fn new(
        config: &OAuth2Config,
        secret: Option<SecretString>,
        is_private_key: bool,
        metadata: Option<&ServerMetadata>,
    ) -> Result<Self, TokenError> {
        use TokenEndpointAuthMethod::{ClientSecretBasic, ClientSecretPost, None as Public, PrivateKeyJwt};
        match (config.token_endpoint_auth_method, secret) {
            (Some(Public), _) => Ok(Self::None),
            (Some(PrivateKeyJwt), _) if is_private_key => Ok(Self::PrivateKey),
            (Some(PrivateKeyJwt), _) => {
                Err(TokenError::misconfigured("private_key_jwt needs the definition's clientPrivateKey"))
            }
            // The assertion of jwt_bearer says who sends it.
            (None, Some(_)) if is_private_key && config.grant_type == GrantType::JwtBearer => Ok(Self::None),
            (_, Some(_)) if is_private_key => Ok(Self::PrivateKey),
            (Some(_), None) => {
                Err(TokenError::misconfigured("the definition has no clientSecret for its tokenEndpointAuthMethod"))
            }
            (None, None) => Ok(Self::None),
            (method @ Some(_), Some(secret)) => Ok(Self::Secret { secret, method }),
            (None, Some(secret)) => {
                let supports = |method: TokenEndpointAuthMethod| {
                    metadata.is_some_and(|metadata| metadata.auth_methods.iter().any(|name| name == method.as_str()))
                };
                let method = match (supports(ClientSecretBasic), supports(ClientSecretPost)) {
                    (true, _) => Some(ClientSecretBasic),
                    (false, true) => Some(ClientSecretPost),
                    (false, false) => None,
                };
                Ok(Self::Secret { secret, method })
            }
        }
    }
}

/// The endpoints as a definition names them, for one config.
struct NamedEndpoints<'a> {
    config: &'a OAuth2Config,
    instance_config: &'a Map<String, Value>,
}

impl NamedEndpoints<'_> {
    fn url(&self, field: &str, text: Option<&String>) -> Result<Option<Uri>, TokenError> {
        let filled = text.map(|text| endpoint(text, self.instance_config)).transpose();
        filled.map_err(|fault| TokenError::misconfigured(format!("{field} is no usable URL: {fault}")))
    }

    fn issuer(&self) -> Result<Option<String>, TokenError> {
        Ok(self.url("issuer", self.config.issuer.as_ref())?.map(|url| {
            let written = self.config.issuer.as_deref().is_some_and(|text| text.ends_with('/'));
            // A URL of a host alone gets a slash that the issuer may not have.
            let text = url.to_string();
            if written { text } else { text.trim_end_matches('/').to_owned() }
        }))
    }

    async fn metadata(&self, engine: &Engine) -> Result<Option<std::sync::Arc<ServerMetadata>>, TokenError> {
        let Some(url) = self.url("discoveryUrl", self.config.discovery_url.as_ref())? else { return Ok(None) };
        engine.oauth.metadata.of(engine, &url, self.issuer()?.as_deref()).await.map(Some)
    }

    fn endpoints(&self, metadata: Option<&ServerMetadata>) -> Result<Endpoints, TokenError> {
        let config = self.config;
        let named = |field, text: &Option<String>, found: fn(&ServerMetadata) -> &Option<Uri>| {
            Ok::<_, TokenError>(
                self.url(field, text.as_ref())?.or_else(|| metadata.and_then(|metadata| found(metadata).clone())),
            )
        };
        let Some(token) = named("tokenUrl", &config.token_url, |metadata| &metadata.token_endpoint)? else {
            return Err(TokenError::misconfigured("neither the definition nor the metadata name a token endpoint"));
        };
        Ok(Endpoints {
            refresh: self.url("refreshUrl", config.refresh_url.as_ref())?.unwrap_or_else(|| token.clone()),
            authorization: named("authorizationUrl", &config.authorization_url, |metadata| {
                &metadata.authorization_endpoint
            })?,
            revocation: named("revocationUrl", &config.revocation_url, |metadata| &metadata.revocation_endpoint)?,
            device_authorization: named("deviceAuthorizationUrl", &config.device_authorization_url, |metadata| {
                &metadata.device_authorization_endpoint
            })?,
            registration: named("registrationUrl", &config.registration_url, |metadata| {
                &metadata.registration_endpoint
            })?,
            issuer: match metadata {
                Some(metadata) => Some(metadata.issuer.clone()),
                None => self.issuer()?,
            },
            sends_issuer: metadata.is_some_and(|metadata| metadata.sends_issuer),
            token,
        })
    }
}

/// Whether the definition's secret is a private key.
fn is_private_key(config: &OAuth2Config, secret: &SecretString) -> bool {
    match config.token_endpoint_auth_method {
        Some(TokenEndpointAuthMethod::PrivateKeyJwt) => true,
        Some(TokenEndpointAuthMethod::ClientSecretBasic | TokenEndpointAuthMethod::ClientSecretPost) => false,
        Some(TokenEndpointAuthMethod::None) | None => secret.expose_secret().trim_start().starts_with("-----BEGIN "),
    }
}

fn client_signer(config: &OAuth2Config, key: &SecretString) -> Result<JwtSigner, TokenError> {
    signer(config, key).map_err(|fault| TokenError::misconfigured(format!("the clientPrivateKey: {fault}")))
}

/// Reads a client's private key; the message says what is wrong with it.
pub(crate) fn signer(config: &OAuth2Config, key: &SecretString) -> Result<JwtSigner, String> {
    let algorithm: SigningAlgorithm = config.client_assertion_algorithm.unwrap_or_default();
    JwtSigner::new(key.clone(), algorithm, TokenContent::default(), None)
}

fn assertion_content(
    config: &OAuth2Config,
    token_url: &Uri,
    instance_config: &Map<String, Value>,
) -> Result<TokenContent, TokenError> {
    let claims = config.assertion.clone().unwrap_or_default();
    let text = |field: &str, text: Option<String>| {
        let filled = text.map(|text| fill_text(&text, instance_config).map(std::borrow::Cow::into_owned)).transpose();
        filled.map_err(|fault| TokenError::misconfigured(format!("assertion.{field}: {fault}")))
    };
    let issuer = text("issuer", claims.issuer)?.unwrap_or_else(|| config.client_id.clone());
    Ok(TokenContent {
        key_id: config.client_key_id.clone(),
        subject: Some(text("subject", claims.subject)?.unwrap_or_else(|| issuer.clone())),
        audience: Some(Value::from(text("audience", claims.audience)?.unwrap_or_else(|| token_url.to_string()))),
        issuer: Some(issuer),
        claims: claims.claims,
        ttl: GRANT_ASSERTION_TTL,
    })
}

/// The parameters with fields of the instance's config where they name some: the audience of a
/// token, for one, may be the instance's own.
fn with_parameters_filled(
    mut config: OAuth2Config,
    instance_config: &Map<String, Value>,
) -> Result<OAuth2Config, TokenError> {
    let OAuth2Config { additional_parameters, token_parameters, .. } = &mut config;
    for (name, value) in additional_parameters.iter_mut().chain(token_parameters) {
        if value.contains("{config.") {
            *value = fill_text(value, instance_config)
                .map_err(|fault| TokenError::misconfigured(format!("the parameter {name:?}: {fault}")))?
                .into_owned();
        }
    }
    Ok(config)
}

fn token_headers(config: &OAuth2Config) -> Result<HeaderMap, TokenError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.token_headers {
        let header = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = header else {
            return Err(TokenError::misconfigured(format!("a header cannot carry tokenHeaders {name:?}")));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}
