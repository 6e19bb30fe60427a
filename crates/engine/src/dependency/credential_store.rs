//! The external credential store: `POST /credentials`, `GET /credentials/{id}`.
//!
//! What goes there is sealed already, and its data key stays in the database: neither is of
//! use without the other.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use integration_store::{MAX_SECRET_ID_LENGTH, SealedSecret, SecretStore, ServiceError, ServiceFuture};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Serialize};

use super::{CREDENTIAL_STORE, DependencyClient, DependencySettings, InvalidDependency, Request};
use crate::http_client::UNRESERVED;

/// The credential store at one address.
pub struct HttpCredentialStore {
    client: DependencyClient,
}

impl fmt::Debug for HttpCredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCredentialStore").field("host", &self.client.host).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewCredential<'a> {
    id: &'a str,
    tenant_id: &'a str,
    instance_id: &'a str,
    #[serde(rename = "type")]
    auth_type: &'a str,
    /// Base64.
    ciphertext: String,
}

#[derive(Deserialize)]
struct Created {
    id: Option<String>,
}

#[derive(Deserialize)]
struct Found {
    ciphertext: String,
}

impl HttpCredentialStore {
    pub fn new(dependency: DependencySettings) -> Result<Self, InvalidDependency> {
        let token_header = (header::AUTHORIZATION, "Bearer ");
        let client = DependencyClient::new("credential_store", dependency, token_header, CREDENTIAL_STORE)?;
        Ok(Self { client })
    }

    async fn create(&self, secret: SealedSecret<'_>) -> Result<String, ServiceError> {
        let id = secret.id.to_string();
        let body = NewCredential {
            id: &id,
            tenant_id: secret.owner.tenant_id.as_str(),
            instance_id: secret.owner.instance_id.as_str(),
            auth_type: secret.owner.auth_type.as_str(),
            ciphertext: STANDARD.encode(secret.sealed),
        };
        let mut request = Request::new(Method::POST, "/credentials".to_owned()).json(&body);
        let key = HeaderValue::from_str(&id).expect("a UUID is a header value");
        request.headers.insert(HeaderName::from_static("idempotency-key"), key);
        let answer = self.client.call(&request).await?;
        let id = match answer.status {
            // An earlier try came through; what it has is compared below.
            StatusCode::CONFLICT => id,
            status if status.is_success() => match serde_json::from_slice::<Created>(&answer.body) {
                Ok(Created { id: Some(given) }) => given,
                _ => id,
            },
            _ => return Err(self.client.refusal(&answer)),
        };
        if id.is_empty() || id.len() > MAX_SECRET_ID_LENGTH || id.chars().any(char::is_control) {
            return Err(ServiceError::Unavailable("the id that the credential store gave is none".to_owned()));
        }
        // A proxy may answer 200 to anything: only what can be read back is kept.
        if self.find(&id).await? != secret.sealed {
            let message = "the credential store does not give back what it was given";
            return Err(ServiceError::Unavailable(message.to_owned()));
        }
        Ok(id)
    }

    async fn find(&self, id: &str) -> Result<Vec<u8>, ServiceError> {
        let answer = self.client.call(&Request::new(Method::GET, path(id))).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(ServiceError::Missing(format!("{} has no credential {id}", self.client.host)))
            }
            status if status.is_success() => {
                let what = "a credential with its ciphertext in base64";
                let found: Found = answer.json(what)?;
                STANDARD
                    .decode(found.ciphertext)
                    .map_err(|_| ServiceError::Unavailable(format!("the credential store's answer is not {what}")))
            }
            _ => Err(self.client.refusal(&answer)),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), ServiceError> {
        // Nobody waits for it gladly, and nothing depends on it: one try.
        let request = Request { retried: false, ..Request::new(Method::DELETE, path(id)) };
        let answer = self.client.call(&request).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Ok(())
            }
            status if status.is_success() => Ok(()),
            _ => Err(self.client.refusal(&answer)),
        }
    }
}

fn path(id: &str) -> String {
    format!("/credentials/{}", utf8_percent_encode(id, UNRESERVED))
}

impl SecretStore for HttpCredentialStore {
    fn put<'a>(&'a self, secret: SealedSecret<'a>) -> ServiceFuture<'a, String> {
        Box::pin(self.create(secret))
    }

    fn get<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, Vec<u8>> {
        Box::pin(self.find(id))
    }

    fn delete<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, ()> {
        Box::pin(self.remove(id))
    }
}
