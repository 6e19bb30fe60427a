//! Master keys, wherever they are: at hand, or in a key service that never gives them away.
//! Must not know how a service is reached, nor what the keys wrap.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::master_keys::MasterKeys;
use crate::service::ServiceFuture;

/// Wraps data keys under keys of its own.
pub trait KeyService: fmt::Debug + Send + Sync {
    /// Whether a key of this id is one of this service's. Ids of services hold a `:`, which
    /// those of keys at hand cannot.
    fn has_key(&self, key_id: &str) -> bool;

    /// The id of the key version that new data keys are wrapped under.
    fn active_key_id(&self) -> ServiceFuture<'_, String>;

    /// Wraps a data key under the active key version. `context` is bound to it where the
    /// service's key derives keys.
    fn wrap<'a>(&'a self, data_key: &'a [u8], context: &'a [u8]) -> ServiceFuture<'a, WrappedKey>;

    /// Gives back what [`KeyService::wrap`] took.
    fn unwrap<'a>(&'a self, wrapped: &'a WrappedKey, context: &'a [u8]) -> ServiceFuture<'a, Zeroizing<Vec<u8>>>;

    /// Wraps data keys of this service anew, under the active key version; gives them in
    /// their order.
    fn rewrap<'a>(&'a self, keys: &'a [(WrappedKey, Vec<u8>)]) -> ServiceFuture<'a, Vec<WrappedKey>>;

    /// Makes a new key version, the active one from then on; gives its id.
    fn rotate(&self) -> ServiceFuture<'_, String>;
}

/// A data key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which master key wraps it.
    pub key_id: String,
    pub bytes: Vec<u8>,
}

/// The master keys that seal and open.
#[derive(Debug, Clone)]
pub struct Keyring {
    pub(crate) local: Option<MasterKeys>,
    pub(crate) service: Option<Arc<dyn KeyService>>,
    pub(crate) service_wraps: bool,
}

impl Keyring {
    /// A key service wraps what is new; keys at hand open what they wrapped before.
    pub fn service(service: Arc<dyn KeyService>, local: Option<MasterKeys>) -> Self {
        Self { local, service: Some(service), service_wraps: true }
    }

    /// Keys at hand wrap what is new; a key service opens what it wrapped before.
    pub fn local_after(local: MasterKeys, service: Arc<dyn KeyService>) -> Self {
        Self { local: Some(local), service: Some(service), service_wraps: false }
    }

    /// The key service, where it wraps what is new.
    pub fn wrapping_service(&self) -> Option<&Arc<dyn KeyService>> {
        self.service.as_ref().filter(|_| self.service_wraps)
    }

    /// The key service that has this key.
    pub(crate) fn service_with(&self, key_id: &str) -> Option<&Arc<dyn KeyService>> {
        self.service.as_ref().filter(|service| service.has_key(key_id))
    }
}

impl From<MasterKeys> for Keyring {
    fn from(keys: MasterKeys) -> Self {
        Self { local: Some(keys), service: None, service_wraps: false }
    }
}
