//! Reading credentials: from what an author sends, and from what the vault opens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::definition::{ApiKeyAuth, AuthType, CustomAuth, KEY_PREFIX, SigningAlgorithm, is_key_prefix};
use integration_model::problem::push_pointer;
use integration_model::{Problem, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::jwt::{JwtSigner, TokenContent};
use super::{ApiKeyLocation, AuthWants, ClientCertificate, Credential, OAuth2Token, SigningSecret, SigningSecrets};
use crate::network::ClientIdentity;

/// The longest value of one field, in bytes.
const MAX_FIELD: usize = 16 * 1024;
/// The most fields of a custom credential.
const MAX_FIELDS: usize = 64;
const MAX_TTL_SECONDS: u64 = 86_400;
const DEFAULT_TTL_SECONDS: u64 = 300;
const CERTIFICATE_NAMES: [&str; 2] = ["clientCertificate", "client_certificate"];
const DEFAULT_API_KEY_HEADER: &str = "X-API-Key";

/// What may be known of a credential without the secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFacts {
    pub expires_at: Option<Timestamp>,
    pub scope: Option<String>,
    /// Whether it can be renewed without a person.
    pub refreshable: bool,
    /// Of several secrets that are in force together, until when each is.
    pub secrets_until: Vec<Option<Timestamp>>,
}

/// Bytes from the vault that hold no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored credential is not readable")]
pub struct InvalidStoredCredential;

impl Credential {
    /// Reads the `data` of a credential as an author sends it. `now` is what `expires_in`
    /// counts from; `wants` is what the definition says of it. The problems point into `/data`
    /// and never show a value.
    pub fn parse(
        auth_type: AuthType,
        data: &Value,
        wants: AuthWants<'_>,
        now: Timestamp,
    ) -> Result<(Self, CredentialFacts), Vec<Problem>> {
        let mut fields = Fields::new(data)?;
        let certificate = fields.client_certificate();
        let credential = match auth_type {
            AuthType::None => Some(Self::None),
            AuthType::Basic => fields.basic(),
            AuthType::ApiKey => fields.api_key(wants.api_key),
            AuthType::OAuth2 => fields.oauth2(now),
            AuthType::Jwt if fields.has(&["privateKey", "private_key"]) => fields.jwt_key(),
            AuthType::Jwt => fields.jwt_token(),
            AuthType::Custom if data["secrets"].is_array() => fields.signing_secrets(),
            AuthType::Custom => fields.custom(wants.custom),
        };
        // Token responses carry fields of their own, custom credentials have no others.
        let is_open = matches!(auth_type, AuthType::OAuth2 | AuthType::Custom) && !data["secrets"].is_array();
        if !is_open {
            fields.refuse_unknown();
        }
        match (credential, fields.problems.is_empty()) {
            (Some(credential), true) => {
                let credential = match certificate {
                    Some(certificate) => {
                        Self::WithCertificate { certificate: Arc::new(certificate), credential: Box::new(credential) }
                    }
                    None => credential,
                };
                let facts = credential.facts();
                Ok((credential, facts))
            }
            _ => Err(fields.problems),
        }
    }

    /// What may be known of this credential without the secret.
    pub fn facts(&self) -> CredentialFacts {
        match self.request_part() {
            Self::OAuth2(token) => CredentialFacts {
                expires_at: token.expires_at,
                scope: token.scope.clone(),
                refreshable: token.refresh_token.is_some(),
                secrets_until: Vec::new(),
            },
            Self::SigningSecrets(secrets) => CredentialFacts {
                expires_at: secrets.expires_at(),
                secrets_until: secrets.iter().map(|one| one.expires_at).collect(),
                ..CredentialFacts::default()
            },
            Self::Jwt { expires_at, .. } => CredentialFacts { expires_at: *expires_at, ..CredentialFacts::default() },
            Self::JwtKey(_) => CredentialFacts { refreshable: true, ..CredentialFacts::default() },
            _ => CredentialFacts::default(),
        }
    }

    /// The form that the vault seals.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.document(None)
    }

    /// The form that the vault seals, of a credential that came of the one `sealed` holds by
    /// renewal: it tells which one stood at the beginning.
    pub(crate) fn renewed_bytes(&self, sealed: &[u8]) -> Zeroizing<Vec<u8>> {
        let origin = origin_of(sealed).or_else(|| Self::from_bytes(sealed).ok().map(|first| first.fingerprint()));
        self.document(origin)
    }

    /// Whether `sealed` holds this credential, or one that came of it by renewal.
    pub(crate) fn is_origin_of(&self, sealed: &[u8]) -> bool {
        let own = self.fingerprint();
        origin_of(sealed).is_some_and(|origin| origin == own)
            || Self::from_bytes(sealed).is_ok_and(|stored| stored.fingerprint() == own)
    }

    /// Tells credentials apart by their secrets, whenever they expire.
    fn fingerprint(&self) -> String {
        let mut data = self.data();
        if let (Self::OAuth2(_), Value::Object(members)) = (self.request_part(), &mut data) {
            members.remove("expires_at");
        }
        let mut document = self.with_certificate(data);
        let bytes = Zeroizing::new(document.to_string().into_bytes());
        wipe(&mut document);
        URL_SAFE_NO_PAD.encode(digest(&SHA256, &bytes))
    }

    fn document(&self, origin: Option<String>) -> Zeroizing<Vec<u8>> {
        let mut document = json!({"type": self.auth_type().as_str(), "data": self.with_certificate(self.data())});
        if let Some(origin) = origin {
            document["origin"] = origin.into();
        }
        let bytes = Zeroizing::new(document.to_string().into_bytes());
        wipe(&mut document);
        bytes
    }

    fn with_certificate(&self, mut data: Value) -> Value {
        if let Self::WithCertificate { certificate, .. } = self {
            data["clientCertificate"] = json!({
                "certificate": certificate.certificate_pem,
                "privateKey": certificate.private_key_pem.expose_secret(),
            });
        }
        data
    }

    /// Reads what [`Credential::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidStoredCredential> {
        let mut document: Value = serde_json::from_slice(bytes).map_err(|_| InvalidStoredCredential)?;
        let auth_type = document["type"].as_str().and_then(AuthType::parse).ok_or(InvalidStoredCredential)?;
        let parsed = Self::parse(auth_type, &document["data"], AuthWants::default(), Timestamp::EPOCH);
        wipe(&mut document);
        parsed.map(|(credential, _)| credential).map_err(|_| InvalidStoredCredential)
    }

    fn data(&self) -> Value {
        match self.request_part() {
            // A derived token is never kept.
            Self::WithToken { credential, .. } => credential.data(),
            Self::None | Self::WithCertificate { .. } => json!({}),
            Self::Basic { username, password } => json!({"username": username, "password": password.expose_secret()}),
            Self::ApiKey { key, prefix, name, location } => {
                let in_header = *location == ApiKeyLocation::Header;
                let mut data = json!({"key": key.expose_secret(), "headerOrParam": name, "inHeader": in_header});
                if !prefix.is_empty() {
                    data["prefix"] = json!(prefix);
                }
                data
            }
            Self::OAuth2(token) => json!({
                "access_token": token.access_token.expose_secret(),
                "refresh_token": token.refresh_token.as_ref().map(ExposeSecret::expose_secret),
                "token_type": token.token_type,
                "scope": token.scope,
                "expires_at": token.expires_at,
            }),
            Self::Jwt { token, expires_at } => json!({"token": token.expose_secret(), "expires_at": expires_at}),
            Self::JwtKey(signer) => {
                let content = signer.content();
                json!({
                    "privateKey": signer.private_key_pem().expose_secret(),
                    "algorithm": signer.algorithm().as_str(),
                    "keyId": content.key_id,
                    "issuer": content.issuer,
                    "subject": content.subject,
                    "audience": content.audience,
                    "claims": content.claims,
                    "ttlSeconds": content.ttl.as_secs(),
                    "tokenUrl": signer.token_url(),
                })
            }
            Self::SigningSecrets(secrets) => json!({"secrets": secrets.iter().map(signing_secret).collect::<Vec<_>>()}),
            Self::Custom(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.expose_secret())))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

fn signing_secret(one: &SigningSecret) -> Value {
    json!({"secret": one.secret.expose_secret(), "expiresAt": one.expires_at})
}

/// The fingerprint of the credential that stood at the beginning, where one was renewed.
fn origin_of(sealed: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Sealed {
        origin: Option<String>,
    }
    serde_json::from_slice::<Sealed>(sealed).ok()?.origin
}

/// Overwrites the strings of a document that held secrets.
pub(crate) fn wipe(value: &mut Value) {
    use zeroize::Zeroize as _;
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a text may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    /// One line without control characters: fit for a header.
    Line,
    /// Several lines, as PEM has them.
    Pem,
}

/// Reads named fields, remembering which were asked for and what was wrong.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    pointer: &'static str,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    fn new(data: &'a Value) -> Result<Self, Vec<Problem>> {
        match data {
            Value::Object(object) => Ok(Self { object, pointer: "/data", known: Vec::new(), problems: Vec::new() }),
            _ => Err(vec![Problem::new("/data", "expected an object")]),
        }
    }

    fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(push_pointer(self.pointer, field), message));
    }

    fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.object.contains_key(*name))
    }

    /// The value under the first of `names` that is there, and not null.
    fn value(&mut self, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        self.known.extend_from_slice(names);
        names
            .iter()
            .find_map(|name| self.object.get(*name).map(|value| (*name, value)))
            .filter(|(_, value)| !value.is_null())
    }

    fn text(&mut self, names: &[&'static str], kind: Text) -> Option<&'a str> {
        let (name, value) = self.value(names)?;
        let Some(text) = value.as_str() else {
            self.problem(name, "expected a string");
            return None;
        };
        match check_text(text, kind) {
            Ok(()) => Some(text),
            Err(message) => {
                self.problem(name, message);
                None
            }
        }
    }

    fn required(&mut self, names: &[&'static str], kind: Text) -> Option<&'a str> {
        let before = self.problems.len();
        let text = self.text(names, kind);
        match text {
            Some("") => {
                self.problem(names[0], "expected a value that is not empty");
                None
            }
            None if self.problems.len() == before => {
                self.problem(names[0], "expected a string");
                None
            }
            other => other,
        }
    }

    fn timestamp(&mut self, names: &[&'static str]) -> Option<Timestamp> {
        let (name, value) = self.value(names)?;
        let time = match value {
            Value::String(text) => Timestamp::parse(text).ok(),
            Value::Number(number) => {
                number.as_i64().and_then(|seconds| seconds.checked_mul(1_000_000)).map(Timestamp::from_micros)
            }
            _ => None,
        };
        if time.is_none() {
            self.problem(name, "expected an RFC 3339 timestamp, or seconds since 1970-01-01T00:00:00Z");
        }
        time
    }

    fn seconds(&mut self, names: &[&'static str]) -> Option<u64> {
        let (name, value) = self.value(names)?;
        let seconds = match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        if seconds.is_none() {
            self.problem(name, "expected a number of seconds");
        }
        seconds
    }

    fn refuse_unknown(&mut self) {
        for name in self.object.keys() {
            if !self.known.contains(&name.as_str()) {
                let message = format!("unknown field; expected one of {}", self.known.join(", "));
                self.problems.push(Problem::new(push_pointer(self.pointer, name), message));
            }
        }
    }

    fn basic(&mut self) -> Option<Credential> {
        let username = self.required(&["username"], Text::Line);
        // Systems that take an API key as the user name want an empty password.
        let password = self.text(&["password"], Text::Line);
        if password.is_none() && !self.object.contains_key("password") {
            self.problem("password", "expected a string");
        }
        if username.is_some_and(|name| name.contains(':')) {
            self.problem("username", "expected no ':', which ends the user name in Basic authentication");
        }
        Some(Credential::Basic { username: username?.to_owned(), password: SecretString::from(password?) })
    }

    /// The definition says what carries the key where the credential does not.
    fn api_key(&mut self, wants: Option<&ApiKeyAuth>) -> Option<Credential> {
        let key = self.required(&["key"], Text::Line);
        let name = self.text(&["headerOrParam", "header_or_param"], Text::Line);
        let wants = wants.filter(|_| name.is_none());
        let wanted = wants.and_then(|wants| wants.header.as_deref().or(wants.query.as_deref()));
        let name = name.or(wanted).unwrap_or(DEFAULT_API_KEY_HEADER);
        let prefix = match self.value(&["prefix"]) {
            None => wants.map_or("", |wants| &wants.prefix),
            Some((_, Value::String(prefix))) if is_key_prefix(prefix) => prefix,
            Some((field, _)) => {
                self.problem(field, KEY_PREFIX);
                return None;
            }
        };
        let in_header = match self.value(&["inHeader", "in_header"]) {
            None => wants.is_none_or(|wants| wants.query.is_none()),
            Some((_, Value::Bool(in_header))) => *in_header,
            Some((field, _)) => {
                self.problem(field, "expected true or false");
                return None;
            }
        };
        if in_header && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.problem("headerOrParam", "expected a header name (RFC 9110 token)");
        }
        if name.is_empty() {
            self.problem("headerOrParam", "expected a value that is not empty");
        }
        let location = if in_header { ApiKeyLocation::Header } else { ApiKeyLocation::Query };
        let (prefix, name) = (prefix.to_owned(), name.to_owned());
        Some(Credential::ApiKey { key: SecretString::from(key?), prefix, name, location })
    }

    fn oauth2(&mut self, now: Timestamp) -> Option<Credential> {
        let access_token = self.required(&["access_token", "accessToken"], Text::Line);
        let refresh_token = self.text(&["refresh_token", "refreshToken"], Text::Line);
        let token_type = self.text(&["token_type", "tokenType"], Text::Line).unwrap_or("Bearer");
        let scope = self.text(&["scope"], Text::Line).map(str::to_owned);
        let expires_at = self.timestamp(&["expires_at", "expiresAt"]);
        let expires_in = self.seconds(&["expires_in", "expiresIn"]);
        if token_type.is_empty() || http::HeaderName::from_bytes(token_type.as_bytes()).is_err() {
            self.problem("token_type", "expected an authentication scheme such as Bearer");
        }
        // Servers write the scheme in any case; the header wants the registered one.
        let token_type = if token_type.eq_ignore_ascii_case("bearer") { "Bearer" } else { token_type };
        Some(Credential::OAuth2(OAuth2Token {
            access_token: SecretString::from(access_token?),
            refresh_token: refresh_token.filter(|token| !token.is_empty()).map(SecretString::from),
            token_type: token_type.to_owned(),
            scope,
            expires_at: expires_at
                .or_else(|| expires_in.map(|seconds| now.saturating_add(Duration::from_secs(seconds)))),
        }))
    }

    fn jwt_token(&mut self) -> Option<Credential> {
        let token = self.required(&["token"], Text::Line);
        let expires_at = self.timestamp(&["expires_at", "expiresAt"]);
        Some(Credential::Jwt { token: SecretString::from(token?), expires_at })
    }

    fn jwt_key(&mut self) -> Option<Credential> {
        let private_key = self.required(&["privateKey", "private_key"], Text::Pem);
        let algorithm = match self.text(&["algorithm"], Text::Line) {
            None => Some(SigningAlgorithm::Rs256),
            Some(name) => SigningAlgorithm::parse(name),
        };
        if algorithm.is_none() {
            self.problem("algorithm", "expected RS256, ES256 or EdDSA");
        }
        let key_id = self.text(&["keyId", "key_id"], Text::Line).map(str::to_owned);
        let issuer = self.text(&["issuer"], Text::Line).map(str::to_owned);
        let subject = self.text(&["subject"], Text::Line).map(str::to_owned);
        let audience = self.audience();
        let claims = match self.value(&["claims"]) {
            None => Map::new(),
            Some((_, Value::Object(claims))) => claims.clone(),
            Some((field, _)) => {
                self.problem(field, "expected an object of claims");
                Map::new()
            }
        };
        let ttl = self.seconds(&["ttlSeconds", "ttl_seconds"]).unwrap_or(DEFAULT_TTL_SECONDS);
        if !(1..=MAX_TTL_SECONDS).contains(&ttl) {
            self.problem("ttlSeconds", format!("expected 1 to {MAX_TTL_SECONDS}"));
        }
        let token_url = self.text(&["tokenUrl", "token_url"], Text::Line).map(str::to_owned);
        let is_web = |url: &String| matches!(url::Url::parse(url), Ok(url) if matches!(url.scheme(), "http" | "https"));
        if token_url.as_ref().is_some_and(|url| !is_web(url)) {
            self.problem("tokenUrl", "expected an http or https URL");
        }
        let content = TokenContent { key_id, issuer, subject, audience, claims, ttl: Duration::from_secs(ttl) };
        match JwtSigner::new(SecretString::from(private_key?), algorithm?, content, token_url) {
            Ok(signer) => Some(Credential::JwtKey(Arc::new(signer))),
            Err(message) => {
                self.problem("privateKey", message);
                None
            }
        }
    }

    fn audience(&mut self) -> Option<Value> {
        let (field, value) = self.value(&["audience"])?;
        let fits = match value {
            Value::String(_) => true,
            Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_string),
            _ => false,
        };
        if !fits {
            self.problem(field, "expected a string or an array of strings");
        }
        Some(value.clone())
    }

    fn custom(&mut self, custom_auth: Option<&CustomAuth>) -> Option<Credential> {
        if self.object.len() > MAX_FIELDS {
            self.problems.push(Problem::new(self.pointer, format!("expected at most {MAX_FIELDS} fields")));
            return None;
        }
        let mut fields = BTreeMap::new();
        for (name, value) in self.object.iter().filter(|(name, _)| !CERTIFICATE_NAMES.contains(&name.as_str())) {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => {
                    self.problem(name, "expected a string, a number or a boolean");
                    continue;
                }
            };
            // What no header carries may be a key in PEM.
            let kind = if custom_auth.is_none() && text.starts_with("-----BEGIN") { Text::Pem } else { Text::Line };
            match check_text(&text, kind) {
                Ok(()) => drop(fields.insert(name.clone(), SecretString::from(text))),
                Err(message) => self.problem(name, message),
            }
        }
        if let Some(bindings) = custom_auth {
            for (wire_name, field) in bindings.bound_fields() {
                if !self.object.contains_key(field) {
                    self.problem(
                        field,
                        format!("expected a string: the definition's customAuth sends it as {wire_name}"),
                    );
                }
            }
        }
        Some(Credential::Custom(fields))
    }

    /// Each is a text, or an object of `secret` and `expiresAt`.
    fn signing_secrets(&mut self) -> Option<Credential> {
        let (_, value) = self.value(&["secrets"])?;
        let items = value.as_array()?;
        let mut secrets = Vec::new();
        for (index, item) in items.iter().enumerate().take(SigningSecrets::MAX + 1) {
            let (text, expires_at) = match item {
                Value::String(text) => (Some(text.as_str()), None),
                Value::Object(members) => match read_expiring(members) {
                    Some((text, expires_at)) => (Some(text), expires_at),
                    None => (None, None),
                },
                _ => (None, None),
            };
            let fault = match text {
                None => Some("expected a string, or an object of secret and expiresAt".to_owned()),
                Some("") => Some("expected a value that is not empty".to_owned()),
                Some(text) => check_text(text, Text::Line).err(),
            };
            match (fault, text) {
                (None, Some(text)) => secrets.push(SigningSecret { secret: SecretString::from(text), expires_at }),
                (fault, _) => self
                    .problems
                    .push(Problem::new(format!("{}/secrets/{index}", self.pointer), fault.unwrap_or_default())),
            }
        }
        if !(1..=SigningSecrets::MAX).contains(&items.len()) {
            self.problem("secrets", format!("expected 1 to {} secrets", SigningSecrets::MAX));
        }
        Some(Credential::SigningSecrets(SigningSecrets::new(secrets)))
    }

    fn client_certificate(&mut self) -> Option<ClientCertificate> {
        let (name, value) = self.value(&CERTIFICATE_NAMES)?;
        let Value::Object(object) = value else {
            self.problem(name, "expected an object of certificate and privateKey, both PEM");
            return None;
        };
        let mut inner = Fields { object, pointer: "/data/clientCertificate", known: Vec::new(), problems: Vec::new() };
        let certificate = inner.required(&["certificate"], Text::Pem);
        let private_key = inner.required(&["privateKey", "private_key"], Text::Pem);
        inner.refuse_unknown();
        let built = match (certificate, private_key) {
            (Some(certificate), Some(private_key)) => ClientIdentity::from_pem(certificate, private_key)
                .map(|identity| ClientCertificate {
                    certificate_pem: certificate.to_owned(),
                    private_key_pem: SecretString::from(private_key),
                    identity: Arc::new(identity),
                })
                .map_err(|error| inner.problem(error.field(), error.to_string()))
                .ok(),
            _ => None,
        };
        self.problems.append(&mut inner.problems);
        built
    }
}

fn read_expiring(members: &Map<String, Value>) -> Option<(&str, Option<Timestamp>)> {
    let expires_at = match members.get("expiresAt") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Timestamp::parse(text).ok()?),
        Some(_) => return None,
    };
    let is_known = |name: &String| matches!(name.as_str(), "secret" | "expiresAt");
    let text = members.get("secret")?.as_str()?;
    members.keys().all(is_known).then_some((text, expires_at))
}

fn check_text(text: &str, kind: Text) -> Result<(), String> {
    if text.len() > MAX_FIELD {
        return Err(format!("expected at most {MAX_FIELD} bytes"));
    }
    let allowed = |c: char| !c.is_control() || (kind == Text::Pem && matches!(c, '\n' | '\r' | '\t'));
    if !text.chars().all(allowed) {
        return Err("expected no line breaks or other control characters".to_owned());
    }
    if kind == Text::Line && text.trim() != text {
        return Err("expected no space at the start or the end".to_owned());
    }
    Ok(())
}
