//! A key service that speaks the API of the transit engine of HashiCorp Vault and OpenBao.
//!
//! The id of a key version is `transit:NAME:vN`; what is kept of a wrapped data key is the
//! ciphertext as the service gives it, `vault:vN:…`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use integration_store::{KeyService, ServiceError, ServiceFuture, WrappedKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Answer, DependencyClient, DependencySettings, InvalidDependency, Request, SERVICE_CALLS};

/// Begins the id of every key of a transit service.
const ID_PREFIX: &str = "transit:";
/// Data keys that are wrapped anew by one call.
const REWRAP_BATCH: usize = 250;

/// Which key of a transit engine is used.
#[derive(Debug, Clone)]
pub struct TransitSettings {
    /// Where the engine is mounted: `transit`.
    pub mount: String,
    /// The name of the key.
    pub key: String,
    pub namespace: Option<String>,
}

/// The key service at one address.
pub struct TransitKeyService {
    client: DependencyClient,
    mount: String,
    key: String,
}

impl fmt::Debug for TransitKeyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransitKeyService").field("mount", &self.mount).field("key", &self.key).finish_non_exhaustive()
    }
}

/// A request's body, or one item of its batch.
#[derive(Default, Serialize)]
struct Input {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<String>,
    /// Without effect on keys that do not derive.
    context: String,
}

#[derive(Serialize)]
struct Batch {
    batch_input: Vec<Input>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: Zeroizing<String>,
}

#[derive(Deserialize)]
struct BatchResults {
    batch_results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    #[serde(default)]
    ciphertext: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct KeyFacts {
    latest_version: u64,
    #[serde(default = "yes")]
    supports_encryption: bool,
}

fn yes() -> bool {
    true
}

impl TransitKeyService {
    pub fn new(dependency: DependencySettings, transit: TransitSettings) -> Result<Self, InvalidDependency> {
        let token_header = (HeaderName::from_static("x-vault-token"), "");
        let mut client = DependencyClient::new("key_service", dependency, token_header, SERVICE_CALLS)?;
        client.headers.insert(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        if let Some(namespace) = &transit.namespace {
            let value = HeaderValue::from_str(namespace)
                .map_err(|_| InvalidDependency::Setting("the namespace cannot go into a header".to_owned()))?;
            client.headers.insert(HeaderName::from_static("x-vault-namespace"), value);
        }
        Ok(Self { client, mount: transit.mount, key: transit.key })
    }

    async fn post(&self, path: &str, body: Option<&impl Serialize>) -> Result<Answer, ServiceError> {
        let request = Request::new(Method::POST, format!("/v1/{}/{path}", self.mount));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = self.client.call(&request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    fn refusal(&self, answer: &Answer) -> ServiceError {
        let error = self.client.refusal(answer);
        let hint = match answer.status {
            StatusCode::FORBIDDEN => "the token is not valid any longer, or its policy does not allow this",
            StatusCode::NOT_FOUND => "there is no transit engine at this mount, or no such key",
            _ => return error,
        };
        ServiceError::Refused(format!("{error} ({hint}; mount {:?}, key {:?})", self.mount, self.key))
    }

    async fn encrypt(&self, data_key: &[u8], context: &[u8]) -> Result<WrappedKey, ServiceError> {
        let plaintext = Some(Zeroizing::new(STANDARD.encode(data_key)));
        let input = Input { plaintext, context: STANDARD.encode(context), ..Input::default() };
        let answer = self.post(&format!("encrypt/{}", self.key), Some(&input)).await?;
        let Envelope { data: Encrypted { ciphertext } } = answer.json("an encrypted key")?;
        self.wrapped(ciphertext)
    }

    async fn decrypt(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let input = Input { ciphertext: Some(text(wrapped)?), context: STANDARD.encode(context), ..Input::default() };
        let answer = self.post(&format!("decrypt/{}", key_name(&wrapped.key_id)?), Some(&input)).await?;
        let Envelope { data: Decrypted { plaintext } } = answer.json("a decrypted key")?;
        STANDARD.decode(plaintext.as_bytes()).map(Zeroizing::new).map_err(|_| unreadable("a key in base64"))
    }

    async fn rewrap_batch(&self, keys: &[(WrappedKey, Vec<u8>)]) -> Result<Vec<WrappedKey>, ServiceError> {
        let input = |(key, context): &(WrappedKey, Vec<u8>)| {
            Ok(Input { ciphertext: Some(text(key)?), context: STANDARD.encode(context), ..Input::default() })
        };
        let batch = Batch { batch_input: keys.iter().map(input).collect::<Result<_, ServiceError>>()? };
        let answer = self.post(&format!("rewrap/{}", self.key), Some(&batch)).await?;
        let Envelope { data: BatchResults { batch_results } } = answer.json("a batch of encrypted keys")?;
        if batch_results.len() != keys.len() {
            return Err(unreadable("as many keys as were sent"));
        }
        batch_results
            .into_iter()
            .map(|result| match result.error.as_str() {
                "" => self.wrapped(result.ciphertext),
                error => Err(ServiceError::Refused(error.chars().take(super::MAX_EXCERPT).collect())),
            })
            .collect()
    }

    /// Reads the key version out of a ciphertext `vault:vN:…`.
    fn wrapped(&self, ciphertext: String) -> Result<WrappedKey, ServiceError> {
        let version = ciphertext.split(':').nth(1).and_then(|version| version.strip_prefix('v')?.parse::<u64>().ok());
        let version = version.ok_or_else(|| unreadable("a ciphertext with the version of its key"))?;
        Ok(WrappedKey { key_id: self.key_id(version), bytes: ciphertext.into_bytes() })
    }

    fn key_id(&self, version: u64) -> String {
        format!("{ID_PREFIX}{}:v{version}", self.key)
    }

    async fn latest_version(&self) -> Result<String, ServiceError> {
        let path = format!("/v1/{}/keys/{}", self.mount, self.key);
        let answer = self.client.call(&Request::new(Method::GET, path)).await?;
        match answer.status {
            status if status.is_success() => {
                let Envelope { data } = answer.json::<Envelope<KeyFacts>>("the facts of a key")?;
                if !data.supports_encryption {
                    return Err(ServiceError::Refused(format!("the key {:?} is not one that encrypts", self.key)));
                }
                Ok(self.key_id(data.latest_version))
            }
            // A token that may only encrypt and decrypt learns it from what it encrypts.
            StatusCode::FORBIDDEN => Ok(self.encrypt(&[0], b"active-key").await?.key_id),
            _ => Err(self.refusal(&answer)),
        }
    }
}

impl KeyService for TransitKeyService {
    fn has_key(&self, key_id: &str) -> bool {
        key_id.starts_with(ID_PREFIX)
    }

    fn active_key_id(&self) -> ServiceFuture<'_, String> {
        Box::pin(self.latest_version())
    }

    fn wrap<'a>(&'a self, data_key: &'a [u8], context: &'a [u8]) -> ServiceFuture<'a, WrappedKey> {
        Box::pin(self.encrypt(data_key, context))
    }

    fn unwrap<'a>(&'a self, wrapped: &'a WrappedKey, context: &'a [u8]) -> ServiceFuture<'a, Zeroizing<Vec<u8>>> {
        Box::pin(self.decrypt(wrapped, context))
    }

    /// By the service alone where the key is the same; a key that is not the configured one
    /// any longer opens what it wrapped, and the configured one wraps it.
    fn rewrap<'a>(&'a self, keys: &'a [(WrappedKey, Vec<u8>)]) -> ServiceFuture<'a, Vec<WrappedKey>> {
        Box::pin(async move {
            let mut wrapped = Vec::with_capacity(keys.len());
            for batch in keys.chunks(REWRAP_BATCH) {
                if batch.iter().all(|(key, _)| key_name(&key.key_id).is_ok_and(|name| name == self.key)) {
                    wrapped.extend(self.rewrap_batch(batch).await?);
                    continue;
                }
                for (key, context) in batch {
                    let data_key = self.decrypt(key, context).await?;
                    wrapped.push(self.encrypt(&data_key, context).await?);
                }
            }
            Ok(wrapped)
        })
    }

    fn rotate(&self) -> ServiceFuture<'_, String> {
        Box::pin(async move {
            self.post(&format!("keys/{}/rotate", self.key), None::<&()>).await?;
            self.latest_version().await
        })
    }
}

/// The name in `transit:NAME:vN`.
fn key_name(key_id: &str) -> Result<&str, ServiceError> {
    let name = key_id.strip_prefix(ID_PREFIX).and_then(|rest| rest.rsplit_once(":v")).map(|(name, _)| name);
    // It comes from a row, and goes into a path.
    name.filter(|name| is_key_name(name))
        .ok_or_else(|| ServiceError::Refused(format!("{key_id:?} names no key of a transit service")))
}

/// Whether `name` may name a key: letters, digits, `_`, `-` and `.`, not at its ends.
pub fn is_key_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=128).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('.') && !name.ends_with('.')
}

fn text(wrapped: &WrappedKey) -> Result<String, ServiceError> {
    String::from_utf8(wrapped.bytes.clone())
        .map_err(|_| ServiceError::Refused("the wrapped data key is no ciphertext of a transit service".to_owned()))
}

fn unreadable(what: &str) -> ServiceError {
    ServiceError::Unavailable(format!("the key service's answer is not {what}"))
}
