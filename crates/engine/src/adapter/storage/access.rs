//! How requests are proven: access keys, shared keys, signatures in URLs, tokens.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Uri, header};
use integration_model::definition::SigningAlgorithm;
use integration_model::{ErrorCode, Problem, Timestamp};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::config::{Provider, Site};
use super::request::{AZURE_VERSION, StorageRequest};
use super::signature_v4::{AWS, GOOGLE, Signer, basic_time, hex, hmac_sha256};
use crate::adapter::CallError;
use crate::credential::{Credential, JwtSigner, TokenContent};

/// How long the tokens hold that a service account signs for itself.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// For whom it signs them.
const GOOGLE_AUDIENCE: &str = "https://storage.googleapis.com/";
/// The version by which signatures of Azure are made.
const SAS_VERSION: &str = AZURE_VERSION;

/// What proves the caller to one provider.
#[derive(Clone)]
pub(super) enum Access<'a> {
    /// The bucket is public.
    None,
    KeyPair {
        id: &'a str,
        secret: &'a str,
        token: Option<&'a str>,
    },
    ServiceAccount {
        email: &'a str,
        signer: Arc<JwtSigner>,
    },
    SharedKey(Zeroizing<Vec<u8>>),
    Sas(&'a str),
    /// Goes into the `Authorization` header as it is.
    Bearer(&'a Credential),
}

impl<'a> Access<'a> {
    /// Reads a credential; the problem points into it and shows no value.
    pub(super) fn of(provider: Provider, credential: &'a Credential) -> Result<Self, Problem> {
        let credential = credential.request_part();
        let basic = match credential {
            Credential::Basic { username, password } => Some((username.as_str(), password.expose_secret())),
            _ => None,
        };
        let field = |name: &str| match credential {
            Credential::Custom(fields) => fields.get(name).map(ExposeSecret::expose_secret),
            _ => None,
        };
        let needs = |message: &str| Err(Problem::new("/data", format!("expected {message}")));
        let is_token = matches!(credential, Credential::OAuth2(_) | Credential::Jwt { .. } | Credential::JwtKey(_));
        if matches!(credential, Credential::None) {
            return Ok(Self::None);
        }
        match provider {
            Provider::S3 => match (basic, field("accessKeyId"), field("secretAccessKey")) {
                (Some((id, secret)), ..) => Ok(Self::KeyPair { id, secret, token: None }),
                (None, Some(id), Some(secret)) => Ok(Self::KeyPair { id, secret, token: field("sessionToken") }),
                _ => needs("accessKeyId and secretAccessKey, and sessionToken where there is one; or basic"),
            },
            Provider::Gcs if is_token => Ok(Self::Bearer(credential)),
            Provider::Gcs => match (field("client_email"), field("private_key")) {
                (Some(email), Some(key)) => {
                    let content = TokenContent {
                        key_id: field("private_key_id").map(str::to_owned),
                        issuer: Some(email.to_owned()),
                        subject: Some(email.to_owned()),
                        audience: Some(GOOGLE_AUDIENCE.into()),
                        ttl: TOKEN_TTL,
                        ..TokenContent::default()
                    };
                    JwtSigner::new(SecretString::from(key), SigningAlgorithm::Rs256, content, None)
                        .map(|signer| Self::ServiceAccount { email, signer: Arc::new(signer) })
                        .map_err(|message| Problem::new("/data/private_key", message))
                }
                _ => needs("client_email and private_key, as the JSON key of a service account has them; or a token"),
            },
            Provider::Azure if is_token => Ok(Self::Bearer(credential)),
            Provider::Azure => match (basic.map(|(_, key)| key).or(field("accountKey")), field("sasToken")) {
                (Some(key), _) => STANDARD
                    .decode(key)
                    .map(|key| Self::SharedKey(Zeroizing::new(key)))
                    .map_err(|_| Problem::new("/data", "expected the account's key in base64")),
                (None, Some(token)) => Ok(Self::Sas(token.trim_start_matches('?'))),
                _ => needs("accountKey or sasToken; or a token"),
            },
            Provider::Folder => needs("none: a folder asks for none"),
        }
    }

    /// Adds what proves the caller. Requests by access keys carry the hash of their body.
    pub(super) fn sign(
        &self,
        site: &Site,
        request: &mut StorageRequest,
        payload_hash: &str,
        now: Timestamp,
    ) -> Result<(), CallError> {
        if site.provider == Provider::Azure {
            request.set("x-ms-version", AZURE_VERSION)?;
            request.set("x-ms-date", &http_date(now))?;
        }
        match self {
            Self::None => Ok(()),
            Self::KeyPair { id, secret, token } => {
                request.set("x-amz-content-sha256", payload_hash)?;
                request.set("x-amz-date", &basic_time(now))?;
                if let Some(token) = token {
                    insert_secret(&mut request.headers, "x-amz-security-token", token)?;
                }
                let signer = Signer { id, token: None, region: &site.region, now };
                let value = signer.authorization(request, &site.authority, payload_hash, secret);
                insert_secret(&mut request.headers, "authorization", &value)
            }
            Self::ServiceAccount { signer, .. } => {
                let signed = signer.sign(now).map_err(|error| unusable(&error.to_string()))?;
                let value = Zeroizing::new(format!("Bearer {}", signed.token.expose_secret()));
                insert_secret(&mut request.headers, "authorization", &value)
            }
            Self::SharedKey(key) => {
                let signature = STANDARD.encode(hmac_sha256(key, text_of_shared_key(site, request).as_bytes()));
                let value = format!("SharedKey {}:{signature}", site.account);
                insert_secret(&mut request.headers, "authorization", &value)
            }
            Self::Sas(token) => {
                // The source of a copy is read by the same right.
                if let Some(source) = request.headers.remove("x-ms-copy-source") {
                    let source = format!("{}?{token}", String::from_utf8_lossy(source.as_bytes()));
                    insert_secret(&mut request.headers, "x-ms-copy-source", &source)?;
                }
                let pairs = url::form_urlencoded::parse(token.as_bytes());
                request.query.extend(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())));
                Ok(())
            }
            Self::Bearer(credential) => {
                credential.apply(None, &mut request.headers, &mut Vec::new()).map_err(CallError::from)
            }
        }
    }

    /// What a system might say again of a request that was signed so: nobody else may see it.
    pub(super) fn sent_secrets(request: &StorageRequest) -> Vec<Zeroizing<String>> {
        let in_headers = request.headers.values().filter(|value| value.is_sensitive()).flat_map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let last = text.rsplit([' ', '=', ':']).find(|part| !part.is_empty()).unwrap_or_default().to_owned();
            [text, last]
        });
        let in_query = request.query.iter().filter(|(name, _)| name == "sig").map(|(_, value)| value.clone());
        in_headers.chain(in_query).map(Zeroizing::new).collect()
    }

    /// Makes a URL that is good by itself.
    pub(super) fn presign(
        &self,
        site: &Site,
        mut request: StorageRequest,
        expires_in: Duration,
        now: Timestamp,
    ) -> Result<String, CallError> {
        let signature = match self {
            Self::KeyPair { id, secret, token } => {
                let signer = Signer { id, token: *token, region: &site.region, now };
                let text = AWS.presign(&mut request, &site.authority, &signer, expires_in);
                ("X-Amz-Signature", signer.hmac(secret, &text))
            }
            Self::ServiceAccount { email, signer } => {
                let by = Signer { id: email, token: None, region: "auto", now };
                let text = GOOGLE.presign(&mut request, &site.authority, &by, expires_in);
                let signature = signer.sign_bytes(text.as_bytes()).map_err(|error| unusable(&error.to_string()))?;
                ("X-Goog-Signature", hex(&signature))
            }
            Self::SharedKey(key) => {
                let permission = match request.verb.as_str() {
                    "PUT" => "cw",
                    "DELETE" => "d",
                    _ => "r",
                };
                let expiry = whole_seconds(now.saturating_add(expires_in));
                let resource = resource_of(site, &request);
                let text = format!("{permission}\n\n{expiry}\n{resource}\n\n\n\n{SAS_VERSION}\nb\n\n\n\n\n\n\n");
                let pairs = [("sv", SAS_VERSION), ("se", expiry.as_str()), ("sr", "b"), ("sp", permission)];
                request.query.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                ("sig", STANDARD.encode(hmac_sha256(key, text.as_bytes())))
            }
            Self::None | Self::Sas(_) | Self::Bearer(_) => {
                return Err(unusable(
                    "a URL is signed by an access key, an account's key or a service account's key alone",
                ));
            }
        };
        request.query.push((signature.0.to_owned(), signature.1));
        site.url(&request).map(|url| url.to_string())
    }
}

impl Site {
    pub(super) fn url(&self, request: &StorageRequest) -> Result<Uri, CallError> {
        let query = request.encoded_query();
        let target = if query.is_empty() { request.path.clone() } else { format!("{}?{query}", request.path) };
        let builder = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let invalid = |_| CallError::not_sent(ErrorCode::Validation, "the key makes no valid URL");
        builder.path_and_query(target).build().map_err(invalid)
    }
}

fn insert_secret(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), CallError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| unusable("a header cannot carry it"))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn unusable(message: &str) -> CallError {
    CallError::not_sent(ErrorCode::Auth, format!("the credential cannot be used: {message}"))
}

/// The text that an account's key signs (Azure, "Authorize with Shared Key").
fn text_of_shared_key(site: &Site, request: &StorageRequest) -> String {
    let header = |name: header::HeaderName| {
        request
            .headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    };
    let length = if request.body.is_empty() { String::new() } else { request.body.len().to_string() };
    let mut text = format!("{}\n", request.verb);
    for value in [
        header(header::CONTENT_ENCODING),
        header(header::CONTENT_LANGUAGE),
        length,
        String::new(),
        header(header::CONTENT_TYPE),
        String::new(),
        header(header::IF_MODIFIED_SINCE),
        header(header::IF_MATCH),
        header(header::IF_NONE_MATCH),
        header(header::IF_UNMODIFIED_SINCE),
        header(header::RANGE),
    ] {
        text.push_str(&value);
        text.push('\n');
    }
    let mut own: Vec<_> = request
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| format!("{name}:{}\n", String::from_utf8_lossy(value.as_bytes()).trim()))
        .collect();
    own.sort();
    text.extend(own);
    let _ = write!(text, "/{}{}", site.account, request.path);
    let mut query: Vec<_> =
        request.query.iter().map(|(name, value)| format!("\n{}:{value}", name.to_ascii_lowercase())).collect();
    query.sort();
    text.extend(query);
    text
}

/// What a signature of Azure is good for, as it names it.
fn resource_of(site: &Site, request: &StorageRequest) -> String {
    let bucket = site.path.rsplit('/').next().unwrap_or_default();
    let key = request.path.strip_prefix(&site.path).unwrap_or_default();
    format!("/blob/{}/{bucket}{}", site.account, percent_decode_str(key).decode_utf8_lossy())
}

fn whole_seconds(time: Timestamp) -> String {
    let text: String = time.to_string().chars().take(19).collect();
    format!("{text}Z")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(super) fn http_date(now: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = basic_time(now);
    // The first day of the epoch was a Thursday.
    let weekday = usize::try_from(now.as_secs().div_euclid(86_400).rem_euclid(7)).unwrap_or_default();
    let month = text[4..6].parse::<usize>().unwrap_or(1).clamp(1, 12) - 1;
    let (year, day, hour, minute, second) = (&text[..4], &text[6..8], &text[9..11], &text[11..13], &text[13..15]);
    format!("{}, {day} {} {year} {hour}:{minute}:{second} GMT", DAYS[weekday], MONTHS[month])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_headers_have_them() {
        let at = |text| http_date(Timestamp::parse(text).expect("a time"));
        assert_eq!(at("1994-11-06T08:49:37.9Z"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at("1970-01-01T00:00:00Z"), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
