//! What an authorization server says of itself (RFC 8414, OpenID Connect Discovery).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use integration_model::Timestamp;
use quick_cache::sync::Cache;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::TokenError;
use super::token_endpoint::{MAX_ANSWER, from_http_error};
use crate::Engine;
use crate::config_fields::parse_endpoint;
use crate::http_client::{OutboundRequest, RedirectPolicy};

/// How many servers' metadata are kept.
const MAX_KEPT: usize = 1024;
/// How long metadata are good without asking again.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long metadata serve while the server does not give newer ones.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the server may take to tell them.
const MAX_WAIT: Duration = Duration::from_secs(10);

const OAUTH_SUFFIX: &str = "/.well-known/oauth-authorization-server";
const OPENID_SUFFIX: &str = "/.well-known/openid-configuration";

/// The metadata of one authorization server, as far as they are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ServerMetadata {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<Uri>,
    pub(super) token_endpoint: Option<Uri>,
    pub(super) revocation_endpoint: Option<Uri>,
    pub(super) device_authorization_endpoint: Option<Uri>,
    pub(super) registration_endpoint: Option<Uri>,
    /// `client_secret_basic` where the server does not say.
    pub(super) auth_methods: Vec<String>,
    /// Whether authorization responses carry `iss` (RFC 9207).
    pub(super) sends_issuer: bool,
}

/// As it comes.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The metadata that were read, by the URL that names them.
pub(crate) struct MetadataCache {
    kept: Cache<String, Arc<Kept>>,
}

struct Kept {
    metadata: Arc<ServerMetadata>,
    read_at: Timestamp,
}

impl MetadataCache {
    pub(crate) fn new() -> Self {
        Self { kept: Cache::new(MAX_KEPT) }
    }

    /// The metadata at `url`, an issuer or the whole URL of its metadata. The issuer in them
    /// has to be `issuer`, or where that is not known the one that the URL belongs to.
    pub(super) async fn of(
        &self,
        engine: &Engine,
        url: &Uri,
        issuer: Option<&str>,
    ) -> Result<Arc<ServerMetadata>, TokenError> {
        let now = engine.store.clock().now();
        let key = url.to_string();
        let kept = self.kept.get(&key);
        let metadata = match kept.as_ref().filter(|kept| now.since(kept.read_at) < FRESH) {
            Some(kept) => Arc::clone(&kept.metadata),
            None => match read(engine, url).await {
                Ok(metadata) => {
                    let metadata = Arc::new(metadata);
                    self.kept.insert(key, Arc::new(Kept { metadata: Arc::clone(&metadata), read_at: now }));
                    metadata
                }
                Err(error) => match kept.filter(|kept| now.since(kept.read_at) < STALE) {
                    Some(kept) => {
                        tracing::warn!(oauth.discovery = %url, error = %error, "metadata could not be read; the kept ones serve");
                        Arc::clone(&kept.metadata)
                    }
                    None => return Err(error),
                },
            },
        };
        match issuer {
            Some(issuer) if !is_same_issuer(issuer, &metadata.issuer) => {
                Err(TokenError::misconfigured(other_issuer(&metadata.issuer, issuer)))
            }
            _ => Ok(metadata),
        }
    }
}

async fn read(engine: &Engine, url: &Uri) -> Result<ServerMetadata, TokenError> {
    let deadline = Instant::now() + MAX_WAIT;
    let candidates = candidates(url)?;
    let mut last = None;
    for Candidate { url, issuer } in candidates {
        match fetch(engine, &url, deadline).await {
            Ok(body) => return ServerMetadata::read(&body, issuer.as_deref()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| TokenError::misconfigured("the discoveryUrl leads nowhere")))
}

async fn fetch(engine: &Engine, url: &Uri, deadline: Instant) -> Result<Bytes, TokenError> {
    let accept = (header::ACCEPT, HeaderValue::from_static("application/json"));
    let request = OutboundRequest {
        method: Method::GET,
        url: url.clone(),
        headers: HeaderMap::from_iter([accept]),
        body: Bytes::new(),
        profile: None,
        redirects: RedirectPolicy::default(),
        max_response_bytes: MAX_ANSWER,
        repeatable: true,
        fresh_connection: false,
    };
    // Whatever happened to this request, the token endpoint has met none.
    let not_sent = |message: String| TokenError::NotSent { message: format!("its metadata at {url}: {message}") };
    match engine.http.send(request, deadline).await {
        Ok(response) if response.status == StatusCode::OK => Ok(response.body),
        Ok(response) => Err(not_sent(format!("the server answered {}", response.status.as_u16()))),
        Err(error) => match from_http_error(&error) {
            misconfigured @ TokenError::Misconfigured { .. } => Err(misconfigured),
            _ => Err(not_sent(error.chain())),
        },
    }
}

/// Where metadata may be, and whose they have to be there.
struct Candidate {
    url: Uri,
    issuer: Option<String>,
}

fn candidates(url: &Uri) -> Result<Vec<Candidate>, TokenError> {
    let malformed = || TokenError::misconfigured("the discoveryUrl is no usable URL");
    let text = url.to_string();
    if url.path().contains("/.well-known/") {
        return Ok(vec![Candidate { url: url.clone(), issuer: issuer_of(&text) }]);
    }
    let parsed = Url::parse(&text).map_err(|_| malformed())?;
    let path = parsed.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = parsed.clone();
        url.set_path(&path);
        url.as_str().parse::<Uri>().map_err(|_| malformed())
    };
    // RFC 8414 puts the well-known part before the issuer's path, OpenID Connect after it.
    let urls = [at(format!("{OAUTH_SUFFIX}{path}"))?, at(format!("{path}{OPENID_SUFFIX}"))?];
    Ok(urls.into_iter().map(|url| Candidate { url, issuer: Some(text.clone()) }).collect())
}

/// The issuer whose metadata are at a well-known URL, where the URL tells.
fn issuer_of(url: &str) -> Option<String> {
    if let Some(issuer) = url.strip_suffix(OPENID_SUFFIX) {
        return Some(issuer.to_owned());
    }
    let (origin, path) = url.split_once(OAUTH_SUFFIX)?;
    Some(format!("{origin}{path}"))
}

/// Issuers are compared as they are written, but for a slash at the end: people and servers
/// do not agree on that one.
pub(super) fn is_same_issuer(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn other_issuer(found: &str, expected: &str) -> String {
    let found: String = found.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("the metadata are those of {found:?}; expected the issuer {expected:?}")
}

impl ServerMetadata {
    fn read(body: &[u8], issuer: Option<&str>) -> Result<Self, TokenError> {
        let document: Document = serde_json::from_slice(body)
            .map_err(|error| TokenError::misconfigured(format!("the metadata are not readable: {error}")))?;
        if let Some(issuer) = issuer
            && !is_same_issuer(issuer, &document.issuer)
        {
            return Err(TokenError::misconfigured(other_issuer(&document.issuer, issuer)));
        }
        let endpoint = |name: &str, text: Option<String>| {
            text.map(|text| parse_endpoint(&text)).transpose().map_err(|fault| {
                TokenError::misconfigured(format!("the {name} of the metadata is no usable URL: {fault}"))
            })
        };
        Ok(Self {
            authorization_endpoint: endpoint("authorization_endpoint", document.authorization_endpoint)?,
            token_endpoint: endpoint("token_endpoint", document.token_endpoint)?,
            revocation_endpoint: endpoint("revocation_endpoint", document.revocation_endpoint)?,
            device_authorization_endpoint: endpoint(
                "device_authorization_endpoint",
                document.device_authorization_endpoint,
            )?,
            registration_endpoint: endpoint("registration_endpoint", document.registration_endpoint)?,
            auth_methods: document.token_endpoint_auth_methods_supported,
            sends_issuer: document.authorization_response_iss_parameter_supported,
            issuer: document.issuer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Vec<(String, Option<String>)> {
        let candidates = candidates(&text.parse().expect("a URI")).expect("candidates");
        candidates.into_iter().map(|candidate| (candidate.url.to_string(), candidate.issuer)).collect()
    }

    #[test]
    fn an_issuer_or_a_whole_url_leads_to_the_metadata() {
        let issuer = |text: &str| Some(text.to_owned());
        assert_eq!(
            urls("https://id.example/tenant/"),
            [
                (
                    "https://id.example/.well-known/oauth-authorization-server/tenant".to_owned(),
                    issuer("https://id.example/tenant/")
                ),
                (
                    "https://id.example/tenant/.well-known/openid-configuration".to_owned(),
                    issuer("https://id.example/tenant/")
                ),
            ]
        );
        for (url, expected) in [
            ("https://id.example/t/.well-known/openid-configuration", issuer("https://id.example/t")),
            ("https://id.example/.well-known/oauth-authorization-server/t", issuer("https://id.example/t")),
            ("https://id.example/.well-known/other", None),
        ] {
            assert_eq!(urls(url), [(url.to_owned(), expected)]);
        }
    }

    #[test]
    fn metadata_of_another_issuer_are_refused() {
        let body = br#"{"issuer": "https://id.example/", "token_endpoint": "https://id.example/token"}"#;
        assert!(ServerMetadata::read(body, Some("https://id.example")).is_ok());
        assert!(matches!(
            ServerMetadata::read(body, Some("https://other.example")),
            Err(TokenError::Misconfigured { message }) if message.contains("https://id.example/")
        ));
        let bad = br#"{"issuer": "https://id.example", "token_endpoint": "javascript:x"}"#;
        assert!(ServerMetadata::read(bad, None).is_err());
    }
}
