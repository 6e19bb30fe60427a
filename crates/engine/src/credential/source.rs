//! Where a call gets its credential from: the sealed one that is kept with the instance,
//! opened for the time of one attempt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integration_model::Timestamp;
use integration_store::{Store, StoreError, StoredCredential};
use uuid::Uuid;

use super::Credential;
use crate::oauth::DerivedToken;
use crate::prefetch;

/// A signed token is replaced this long before it expires.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);

/// The credential of one instance as it was read from the store.
#[derive(Default)]
pub(crate) struct CredentialSource {
    stored: Option<StoredCredential>,
    /// What is too dear to make for each call: a signed token, a parsed certificate.
    prepared: Mutex<Option<Prepared>>,
    /// What the credential was exchanged for.
    pub(crate) derived: Arc<DerivedToken>,
}

struct Prepared {
    credential: Arc<Credential>,
    /// Until when a signed token may be used.
    until: Option<Timestamp>,
}

/// Why there is no credential to call with, for people, without secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(
        "the credential has expired: store a new one (POST …/credentials), or renew it (POST …/credentials/refresh)"
    )]
    Expired,
    #[error("the stored credential does not open with the master keys at hand")]
    Sealed,
    /// Nothing is known to be wrong with it.
    #[error("the credential cannot be had at present: {message}")]
    Unavailable {
        message: String,
        /// Whether the same call may succeed later without anybody's doing.
        retryable: bool,
    },
    #[error("the stored credential is not readable")]
    Unreadable,
    #[error("a token could not be signed: {0}")]
    NotSigned(String),
}

impl CredentialSource {
    pub(crate) fn new(stored: Option<StoredCredential>) -> Self {
        Self { stored, prepared: Mutex::default(), derived: Arc::default() }
    }

    /// Goes on with what an earlier reading of the same credential was exchanged for.
    pub(crate) fn carry_over(&mut self, previous: &Self) {
        if self.id().is_some() && self.id() == previous.id() {
            self.derived = Arc::clone(&previous.derived);
        }
    }

    /// Tells this credential from one that comes later.
    pub(crate) fn id(&self) -> Option<Uuid> {
        self.stored.as_ref().map(|stored| stored.id)
    }

    /// What is known of the credential without opening it.
    pub(crate) fn stored(&self) -> Option<&StoredCredential> {
        self.stored.as_ref()
    }

    /// Whether the credential names an expiry that has passed.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.stored.as_ref().and_then(|stored| stored.meta.expires_at).is_some_and(|at| at <= now)
    }

    /// Reads ahead what opening it reads.
    pub(crate) fn prefetch(&self) {
        prefetch::words(self.prepared.is_poisoned());
        if let Some(stored) = &self.stored {
            stored.prefetch();
        }
    }

    /// The credential in the clear.
    pub(crate) async fn open(&self, store: &Store) -> Result<Arc<Credential>, Unusable> {
        let Some(stored) = &self.stored else { return Ok(Arc::new(Credential::None)) };
        let now = store.clock().now();
        if self.has_expired(now) {
            return Err(Unusable::Expired);
        }
        if let Some(credential) = self.prepared(now) {
            store.confirm_credential(stored).await.map_err(|error| not_opened(stored, &error))?;
            return Ok(credential);
        }
        let bytes = store.open_credential(stored).await.map_err(|error| not_opened(stored, &error))?;
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
        let is_dear =
            until.is_some() || matches!(credential, Credential::WithCertificate { .. } | Credential::JwtKey(_));
        let credential = Arc::new(credential);
        if is_dear {
            let until = until.map(|until| until.saturating_sub(RENEWED_BEFORE));
            let kept = Prepared { credential: Arc::clone(&credential), until };
            *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok(credential)
    }
}

fn not_opened(stored: &StoredCredential, error: &StoreError) -> Unusable {
    if error.is_unavailable() {
        // The store's own log says when a service goes away and comes back.
        return Unusable::Unavailable { message: error.chain(), retryable: true };
    }
    tracing::error!(credential.instance = %stored.instance_id, error = %error.chain(), "a credential does not open");
    if error.is_of_service() {
        return Unusable::Unavailable { message: error.chain(), retryable: false };
    }
    Unusable::Sealed
}
