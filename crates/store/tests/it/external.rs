//! A store of secrets outside of the database, in memory, that fails on cue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use integration_store::{SealedSecret, SecretStore, ServiceError, ServiceFuture};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    kept: Mutex<HashMap<String, Vec<u8>>>,
    away: std::sync::atomic::AtomicBool,
    /// How often a secret was asked for.
    pub(crate) reads: AtomicUsize,
}

impl MemoryStore {
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.kept().keys().cloned().collect()
    }

    /// Puts what one id has in the place of what another has.
    pub(crate) fn swap(&self, from: &str, to: &str) {
        let mut kept = self.kept();
        let other = kept[from].clone();
        kept.insert(to.to_owned(), other);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_there(&self) -> Result<(), ServiceError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(ServiceError::Unavailable("away".to_owned())),
            false => Ok(()),
        }
    }
}

impl SecretStore for MemoryStore {
    fn put<'a>(&'a self, secret: SealedSecret<'a>) -> ServiceFuture<'a, String> {
        Box::pin(async move {
            self.is_there()?;
            // An id of its own, as a store may give.
            let id = format!("secret/{}", secret.id);
            self.kept().insert(id.clone(), secret.sealed.to_vec());
            Ok(id)
        })
    }

    fn get<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, Vec<u8>> {
        Box::pin(async move {
            self.is_there()?;
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.kept().get(id).cloned().ok_or_else(|| ServiceError::Missing(format!("no {id}")))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            self.is_there()?;
            self.kept().remove(id);
            Ok(())
        })
    }
}
