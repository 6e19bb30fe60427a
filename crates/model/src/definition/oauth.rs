//! How the tokens of an OAuth 2 system are come by: endpoints, the client, and the ways in
//! which a system departs from the standards, all of it data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::auth::is_header_name;
use crate::Problem;
use crate::problem::push_pointer;

/// The secret of an OAuth client on its way from the author to the vault: it has no
/// printable form and is never serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ClientSecret(String);

impl ClientSecret {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// Hands the secret out for sealing.
    pub fn into_inner(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientSecret(redacted)")
    }
}

/// How the access token of an OAuth 2 system is come by. URLs may hold `{config.field}`,
/// which stands for a field of the instance's config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuth2Config {
    /// May be absent only with `dynamicRegistration`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub client_id: String,
    /// Write-only: encrypted at rest and never returned.
    #[serde(default, skip_serializing)]
    #[schema(value_type = Option<String>, write_only)]
    pub client_secret: Option<ClientSecret>,
    /// The private key, in PEM, of `private_key_jwt` and `jwt_bearer`, in place of a client
    /// secret. Write-only: encrypted at rest and never returned.
    #[serde(default, skip_serializing)]
    #[schema(value_type = Option<String>, write_only)]
    pub client_private_key: Option<ClientSecret>,
    /// The `kid` of what the private key signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_id: Option<String>,
    /// `RS256` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_assertion_algorithm: Option<SigningAlgorithm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// What is asked for, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Go to the authorization request; with `client_credentials` and `device_code`, to the
    /// request that begins the grant. Values may hold `{config.field}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub additional_parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_config: Option<RefreshTokenConfig>,
    #[serde(default)]
    pub grant_type: GrantType,
    /// An issuer, or the whole URL of its metadata (RFC 8414, OpenID Connect Discovery). Gives
    /// the endpoints that are not named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_url: Option<String>,
    /// Who the `iss` of an authorization response has to be (RFC 9207), and the `issuer` of
    /// the metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Where tokens are refreshed, if not at `tokenUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_url: Option<String>,
    /// Where tokens are revoked when an instance is disconnected for good (RFC 7009).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_url: Option<String>,
    /// Where the device code grant begins (RFC 8628).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_authorization_url: Option<String>,
    /// Where clients register themselves (RFC 7591).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_url: Option<String>,
    /// Registers a client where none is named here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dynamic_registration: bool,
    /// `client_secret_basic` unless the metadata says that the system takes another one only;
    /// `none` without a secret, `private_key_jwt` with a private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_method: Option<TokenEndpointAuthMethod>,
    /// `form` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_request_format: Option<TokenRequestFormat>,
    /// Go with every request for a token. Values may hold `{config.field}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub token_parameters: BTreeMap<String, String>,
    /// Go with every request for a token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub token_headers: BTreeMap<String, String>,
    /// What stands between scopes on the wire; a space unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_separator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_response: Option<TokenResponsePaths>,
    /// The scheme that the access token is sent with, whatever the token response calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    /// How long a token lasts whose response does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_default_ms: Option<u64>,
    /// What the assertion of `jwt_bearer` says (RFC 7523).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<AssertionClaims>,
}

/// What a signed assertion says. Texts may hold `{config.field}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssertionClaims {
    /// The client's id unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The issuer unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The token endpoint unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub claims: Map<String, Value>,
}

/// How tokens and assertions are signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum SigningAlgorithm {
    #[default]
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Rs256, Self::Es256, Self::EdDsa].into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// A person agrees in a browser (RFC 6749 4.1, with PKCE).
    #[default]
    AuthorizationCode,
    ClientCredentials,
    /// A person agrees on another device (RFC 8628).
    DeviceCode,
    /// An assertion that the client signs (RFC 7523).
    JwtBearer,
}

impl GrantType {
    pub const ALL: &'static [Self] =
        &[Self::AuthorizationCode, Self::ClientCredentials, Self::DeviceCode, Self::JwtBearer];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "device_code",
            Self::JwtBearer => "jwt_bearer",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|grant| grant.as_str() == text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenEndpointAuthMethod {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    None,
}

impl TokenEndpointAuthMethod {
    /// The method's registered name (RFC 7591).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::None => "none",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenRequestFormat {
    #[default]
    Form,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshTokenConfig {
    pub strategy: RefreshStrategy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_before_expiry_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshStrategy {
    Auto,
    Manual,
}

/// JSON Pointers to the fields of a token response that lie at unusual places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenResponsePaths {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<String>,
    /// What the value at `expiresIn` counts; seconds unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_unit: Option<ExpiresInUnit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// A value there that is not empty makes the response an error, whatever its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
}

/// What the expiry in a token response counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresInUnit {
    #[default]
    Seconds,
    Milliseconds,
    Minutes,
    Hours,
    Days,
    /// Seconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    TimestampMs,
    /// An RFC 3339 timestamp.
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

/// What the service itself writes into authorization and device authorization requests.
const AUTHORIZATION_PARAMETERS: &[&str] =
    &["response_type", "client_id", "redirect_uri", "state", "scope", "code_challenge", "code_challenge_method"];
/// What the service itself writes into token requests. `grant_type` is not among them: some
/// systems have names of their own for client credentials.
const TOKEN_PARAMETERS: &[&str] = &[
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "code",
    "redirect_uri",
    "code_verifier",
    "refresh_token",
    "device_code",
    "assertion",
];
/// What the service itself writes into the head of token requests.
const TOKEN_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The most entries of `additionalParameters`, `tokenParameters` and `tokenHeaders` each.
const MAX_ENTRIES: usize = 50;
/// The longest text of one field.
const MAX_TEXT: usize = 4096;
/// The longest time to live that a definition may name: ten years.
const MAX_EXPIRES_IN_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

impl OAuth2Config {
    /// Parts the client's secret, or its private key, from the rest: it goes to the vault,
    /// never beside it. Both at once are refused.
    pub fn take_secret(&mut self) -> Result<Option<ClientSecret>, Problem> {
        match (self.client_secret.take(), self.client_private_key.take()) {
            (Some(_), Some(_)) => Err(Problem::new(
                "/oauth2Config/clientPrivateKey",
                "expected either a clientSecret or a clientPrivateKey, not both",
            )),
            (secret, key) => Ok(secret.or(key)),
        }
    }

    /// The settings as they are kept in the open.
    pub fn without_secret(&self) -> Self {
        Self { client_secret: None, client_private_key: None, ..self.clone() }
    }

    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut checker = Checker { pointer, problems: Vec::new() };
        checker.client(self);
        checker.endpoints(self);
        checker.texts(self);
        checker.parameters("additionalParameters", &self.additional_parameters, AUTHORIZATION_PARAMETERS);
        checker.parameters("tokenParameters", &self.token_parameters, TOKEN_PARAMETERS);
        checker.headers(&self.token_headers);
        if let Some(paths) = &self.token_response {
            checker.problems.extend(paths.check(&format!("{pointer}/tokenResponse")));
        }
        checker.problems
    }
}

struct Checker<'a> {
    pointer: &'a str,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(format!("{}/{field}", self.pointer), message));
    }

    fn client(&mut self, config: &OAuth2Config) {
        if config.client_id.is_empty() && !config.dynamic_registration {
            self.problem("clientId", "expected the client's id, or dynamicRegistration: true to have one registered");
        }
        if config.dynamic_registration && config.registration_url.is_none() && config.discovery_url.is_none() {
            self.problem(
                "registrationUrl",
                "dynamicRegistration needs a registrationUrl, or a discoveryUrl to find it",
            );
        }
        if config.dynamic_registration && !config.client_id.is_empty() {
            self.problem("dynamicRegistration", "expected either a clientId or dynamicRegistration, not both");
        }
        if config.dynamic_registration
            && (config.grant_type == GrantType::JwtBearer
                || config.token_endpoint_auth_method == Some(TokenEndpointAuthMethod::PrivateKeyJwt))
        {
            self.problem("dynamicRegistration", "a registered client proves itself by a secret: expected a clientId");
        }
        let public = config.token_endpoint_auth_method == Some(TokenEndpointAuthMethod::None);
        if config.grant_type == GrantType::ClientCredentials && public {
            self.problem("tokenEndpointAuthMethod", "client_credentials needs a client that can prove itself");
        }
        let by_secret = matches!(
            config.token_endpoint_auth_method,
            Some(TokenEndpointAuthMethod::ClientSecretBasic | TokenEndpointAuthMethod::ClientSecretPost)
        );
        if config.grant_type == GrantType::JwtBearer && by_secret {
            self.problem(
                "tokenEndpointAuthMethod",
                "jwt_bearer signs with the clientPrivateKey: expected private_key_jwt or none",
            );
        }
        if config.assertion.is_some() && config.grant_type != GrantType::JwtBearer {
            self.problem("assertion", "only grantType jwt_bearer has an assertion");
        }
    }

    fn endpoints(&mut self, config: &OAuth2Config) {
        if config.discovery_url.is_some() {
            return;
        }
        let asks_for_tokens = config.authorization_url.is_some()
            || config.refresh_url.is_some()
            || config.grant_type != GrantType::AuthorizationCode;
        if asks_for_tokens && config.token_url.is_none() {
            self.problem("tokenUrl", "expected the token endpoint, or a discoveryUrl to find it");
        }
        if config.grant_type == GrantType::DeviceCode && config.device_authorization_url.is_none() {
            let expected = "grantType device_code needs a deviceAuthorizationUrl, or a discoveryUrl to find it";
            self.problem("deviceAuthorizationUrl", expected);
        }
    }

    fn texts(&mut self, config: &OAuth2Config) {
        let texts = [
            ("clientId", Some(&config.client_id)),
            ("clientKeyId", config.client_key_id.as_ref()),
            ("scope", config.scope.as_ref()),
            ("issuer", config.issuer.as_ref()),
        ];
        for (field, text) in texts {
            if text.is_some_and(|text| !is_text(text)) {
                self.problem(field, format!("expected at most {MAX_TEXT} characters, none of them control characters"));
            }
        }
        if config.scope_separator.as_ref().is_some_and(|text| !(1..=3).contains(&text.len()) || !is_text(text)) {
            self.problem("scopeSeparator", "expected one to three characters such as \",\"");
        }
        if config.token_type.as_deref().is_some_and(|scheme| !is_header_name(scheme)) {
            self.problem("tokenType", "expected an authentication scheme such as Bearer");
        }
        if config.expires_in_default_ms.is_some_and(|ms| !(1_000..=MAX_EXPIRES_IN_MS).contains(&ms)) {
            self.problem("expiresInDefaultMs", format!("expected 1000 to {MAX_EXPIRES_IN_MS}"));
        }
        let before = config.refresh_token_config.and_then(|config| config.time_before_expiry_ms);
        if before.is_some_and(|ms| ms > MAX_EXPIRES_IN_MS) {
            self.problem("refreshTokenConfig/timeBeforeExpiryMs", format!("expected at most {MAX_EXPIRES_IN_MS}"));
        }
    }

    fn parameters(&mut self, field: &str, parameters: &BTreeMap<String, String>, own: &[&str]) {
        self.entries(field, parameters);
        for name in parameters.keys().filter(|name| own.contains(&name.as_str())) {
            self.problem(&push_pointer(field, name), "expected another name: the service writes this one itself");
        }
    }

    fn headers(&mut self, headers: &BTreeMap<String, String>) {
        self.entries("tokenHeaders", headers);
        for name in headers.keys() {
            let at = push_pointer("tokenHeaders", name);
            if !is_header_name(name) {
                self.problem(&at, "expected a header name (RFC 9110 token)");
            } else if TOKEN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                self.problem(&at, "expected another name: the service writes this one itself");
            }
        }
    }

    fn entries(&mut self, field: &str, entries: &BTreeMap<String, String>) {
        if entries.len() > MAX_ENTRIES {
            self.problem(field, format!("expected at most {MAX_ENTRIES} entries"));
        }
        for (name, value) in entries {
            if name.is_empty() || !is_text(name) || !is_text(value) {
                let expected =
                    format!("expected a name and a value of at most {MAX_TEXT} characters, no control characters");
                self.problem(&push_pointer(field, name), expected);
            }
        }
    }
}

impl TokenResponsePaths {
    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        let pointers = [
            ("accessToken", &self.access_token),
            ("refreshToken", &self.refresh_token),
            ("expiresIn", &self.expires_in),
            ("scope", &self.scope),
            ("error", &self.error),
            ("errorDescription", &self.error_description),
        ];
        let faulty = pointers.into_iter().filter(|(_, path)| path.as_ref().is_some_and(|path| !is_pointer(path)));
        let expected = "expected a JSON Pointer (RFC 6901) such as /data/access_token";
        faulty.map(|(field, _)| Problem::new(format!("{pointer}/{field}"), expected)).collect()
    }
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// Whether `text` points into a document, not at the whole of it.
fn is_pointer(text: &str) -> bool {
    let escapes_are_right = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    text.starts_with('/') && text.len() <= MAX_TEXT && escapes_are_right
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(config: Value) -> Vec<String> {
        let config: OAuth2Config = serde_json::from_value(config).expect("readable");
        config.check("").into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn each_quirk_is_checked_where_it_stands() {
        let cases = [
            (json!({"clientId": "c"}), vec![]),
            (json!({}), vec!["/clientId"]),
            (json!({"dynamicRegistration": true}), vec!["/registrationUrl"]),
            (
                json!({"clientId": "c", "dynamicRegistration": true, "discoveryUrl": "https://a.example"}),
                vec!["/dynamicRegistration"],
            ),
            (json!({"dynamicRegistration": true, "discoveryUrl": "https://a.example"}), vec![]),
            (json!({"clientId": "c", "authorizationUrl": "https://a.example/a"}), vec!["/tokenUrl"]),
            (json!({"clientId": "c", "grantType": "client_credentials"}), vec!["/tokenUrl"]),
            (
                json!({"clientId": "c", "tokenUrl": "https://a.example", "grantType": "client_credentials", "tokenEndpointAuthMethod": "none"}),
                vec!["/tokenEndpointAuthMethod"],
            ),
            (
                json!({"clientId": "c", "tokenUrl": "https://a.example", "grantType": "device_code"}),
                vec!["/deviceAuthorizationUrl"],
            ),
            (json!({"clientId": "c", "assertion": {}}), vec!["/assertion"]),
            (json!({"clientId": "c", "scopeSeparator": ""}), vec!["/scopeSeparator"]),
            (json!({"clientId": "c", "tokenType": "B c"}), vec!["/tokenType"]),
            (json!({"clientId": "c", "expiresInDefaultMs": 1}), vec!["/expiresInDefaultMs"]),
            (json!({"clientId": "c", "additionalParameters": {"state": "x"}}), vec!["/additionalParameters/state"]),
            (json!({"clientId": "c", "tokenParameters": {"code": "x"}}), vec!["/tokenParameters/code"]),
            (
                json!({"clientId": "c", "tokenHeaders": {"Host": "x", "a b": "c", "X-Ok": "1"}}),
                vec!["/tokenHeaders/Host", "/tokenHeaders/a b"],
            ),
            (
                json!({"clientId": "c", "tokenResponse": {"accessToken": "token", "error": "/~2", "scope": "/a~1b"}}),
                vec!["/tokenResponse/accessToken", "/tokenResponse/error"],
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(pointers(config.clone()), expected, "{config}");
        }
    }

    #[test]
    fn secrets_are_parted_from_what_is_kept_in_the_open() {
        let mut config: OAuth2Config =
            serde_json::from_value(json!({"clientId": "c", "clientSecret": "hidden"})).expect("readable");
        assert!(!format!("{config:?}").contains("hidden"));
        assert!(!serde_json::to_string(&config).expect("JSON").contains("hidden"));
        assert_eq!(config.without_secret().client_secret, None);
        let secret = config.take_secret().expect("one secret").expect("a secret");
        assert_eq!((secret.into_inner().as_str(), &config.client_secret), ("hidden", &None));
        let mut both: OAuth2Config =
            serde_json::from_value(json!({"clientId": "c", "clientSecret": "a", "clientPrivateKey": "b"}))
                .expect("readable");
        assert_eq!(both.take_secret().expect_err("two secrets").pointer, "/oauth2Config/clientPrivateKey");
    }
}
