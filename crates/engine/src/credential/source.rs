//! Where a call gets its credential from: the sealed one that is kept with the instance,
//! opened for the time of one attempt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integration_model::Timestamp;
use integration_store::{Store, StoredCredential};

use super::Credential;

/// A signed token is replaced this long before it expires.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);

/// The credential of one instance as it was read from the store.
#[derive(Default)]
pub(crate) struct CredentialSource {
    stored: Option<StoredCredential>,
    /// What is too dear to make for each call: a signed token, a parsed certificate.
    prepared: Mutex<Option<Prepared>>,
}

struct Prepared {
    credential: Arc<Credential>,
    /// Until when a signed token may be used.
    until: Option<Timestamp>,
}

/// Why there is no credential to call with, for people, without secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the credential has expired: store a new one (POST …/credentials)")]
    Expired,
    #[error("the stored credential does not open with the master keys at hand")]
    Sealed,
    #[error("the stored credential is not readable")]
    Unreadable,
    #[error("a token could not be signed: {0}")]
    NotSigned(String),
}

impl CredentialSource {
    pub(crate) fn new(stored: Option<StoredCredential>) -> Self {
        Self { stored, prepared: Mutex::default() }
    }

    /// The credential in the clear.
    pub(crate) fn open(&self, store: &Store) -> Result<Arc<Credential>, Unusable> {
        let Some(stored) = &self.stored else { return Ok(Arc::new(Credential::None)) };
        let now = store.clock().now();
        if stored.meta.expires_at.is_some_and(|at| at <= now) {
            return Err(Unusable::Expired);
        }
        if let Some(credential) = self.prepared(now) {
            return Ok(credential);
        }
        let bytes = store.open_credential(stored).map_err(|error| {
            tracing::error!(credential.instance = %stored.instance_id, error = %error, "a credential does not open");
            Unusable::Sealed
        })?;
        let credential = Credential::from_bytes(&bytes).map_err(|_| Unusable::Unreadable)?;
        self.prepare(credential, now)
    }

    fn prepared(&self, now: Timestamp) -> Option<Arc<Credential>> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = prepared.as_ref()?;
        prepared.until.is_none_or(|until| now < until).then(|| Arc::clone(&prepared.credential))
    }

    /// Signs where the credential is a key, and keeps what was dear to make.
    fn prepare(&self, credential: Credential, now: Timestamp) -> Result<Arc<Credential>, Unusable> {
        let (credential, until) = credential.signed(now).map_err(|error| Unusable::NotSigned(error.to_string()))?;
        let is_dear = until.is_some() || matches!(credential, Credential::WithCertificate { .. });
        let credential = Arc::new(credential);
        if is_dear {
            let until = until.map(|until| until.saturating_sub(RENEWED_BEFORE));
            let kept = Prepared { credential: Arc::clone(&credential), until };
            *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok(credential)
    }
}
