//! Envelope encryption: each secret is sealed under a data key of its own, which is wrapped
//! by a master key. AES-256-GCM with fresh random nonces throughout.
//!
//! What a secret belongs to is part of what is authenticated, so that a row put in the
//! place of another does not open. Master keys may be in a key service, and what is sealed
//! in a store of its own: what came from them is kept, so that a call waits for neither.
//! Must not know tables.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::key_service::{KeyService, Keyring, WrappedKey};
use crate::master_keys::{KEY_LENGTH, MasterKey, MasterKeys, aes_key, fill_random};
use crate::metrics::CREDENTIAL_STORE_DEFERRED;
use crate::secrets::{ExternalSecrets, Place, Reference, SealedSecret, SecretOwner};
use crate::service::{Confirmed, Dependency, Fallback, ServiceError};

/// The first byte of everything sealed; says how the rest is laid out: nonce, ciphertext, tag.
const FORMAT_VERSION: u8 = 1;
/// How long a credential store is waited for before a new secret stays in its row.
const PUT_PATIENCE: Duration = Duration::from_secs(4);
/// Separates wrapped data keys from everything else that a master key might ever seal.
const WRAP_PURPOSE: &[u8] = b"data-key";

/// What is wrong with the keys, or with something sealed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("expected at least one master key, as id:base64 of 32 bytes")]
    NoKeys,
    /// The key's own text is not told.
    #[error("master key {position}: expected {expected}")]
    InvalidKey { position: usize, expected: &'static str },
    #[error("two master keys have the id {id:?}")]
    DuplicateKey { id: String },
    #[error("{} can be used by everybody (mode {mode:04o}); expected 0600", path.display())]
    FileMode { path: PathBuf, mode: u32 },
    #[error("{} is no key file: it is larger than {limit} bytes", path.display())]
    FileTooLarge { path: PathBuf, limit: u64 },
    #[error("{} exists already and is not overwritten", path.display())]
    FileExists { path: PathBuf },
    #[error("the key file {} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("master key {id:?} is needed, but only these are given: {}", known.join(", "))]
    UnknownKey { id: String, known: Vec<String> },
    #[error("the key service did not do its part")]
    KeyService(#[source] ServiceError),
    #[error("the credential store did not do its part")]
    CredentialStore(#[source] ServiceError),
    #[error("the secret is in a credential store, and none is configured")]
    NoCredentialStore,
    /// Another key, another owner, or changed bytes: they cannot be told apart.
    #[error("the sealed secret does not open with master key {id:?}: another key of that id, or the row was changed")]
    DoesNotOpen { id: String },
    #[error("the sealed secret has no known format")]
    Malformed,
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

impl VaultError {
    /// Whether a service is away, so that the same may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::KeyService(error) | Self::CredentialStore(error) if error.is_unavailable())
    }

    /// Whether a service has a part in it, that is: whether the keys and the row may be right.
    pub fn is_of_service(&self) -> bool {
        matches!(self, Self::KeyService(_) | Self::CredentialStore(_))
    }

    /// The message with that of its source: `a: b`.
    pub fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// A secret as it is kept: its data key, wrapped, and itself, sealed under the data key.
#[derive(Clone)]
pub struct Sealed {
    /// Names the secret; bound to the wrapped key.
    pub(crate) secret_id: Uuid,
    /// Which master key wraps the data key.
    pub(crate) key_id: String,
    pub(crate) wrapped_key: Vec<u8>,
    /// What is sealed, or where it is: see [`Place`].
    pub(crate) sealed: Vec<u8>,
    /// What was learnt at the first opening.
    kept: Arc<OnceLock<Arc<Kept>>>,
}

/// What opens a secret once it was asked for. The cipher's own state is wiped when it is
/// freed.
#[derive(Default)]
struct Kept {
    data_key: Confirmed<LessSafeKey>,
    /// What is sealed, where it is not in the row.
    content: Confirmed<Vec<u8>>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Sealed {
    /// Reads a word of each part that opening it reads where no service has a part in it.
    pub(crate) fn prefetch(&self) {
        let kept = self.kept.get().map(|kept| kept.data_key.is_there());
        std::hint::black_box((kept, self.sealed.first().copied()));
    }

    pub(crate) fn from_row(secret_id: Uuid, key_id: String, wrapped_key: Vec<u8>, sealed: Vec<u8>) -> Self {
        Self { secret_id, key_id, wrapped_key, sealed, kept: Arc::default() }
    }

    /// Names the secret.
    pub fn secret_id(&self) -> Uuid {
        self.secret_id
    }

    /// Which master key wraps the data key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    fn wrapped(&self) -> WrappedKey {
        WrappedKey { key_id: self.key_id.clone(), bytes: self.wrapped_key.clone() }
    }

    /// The id in the credential store, where the secret is there.
    pub(crate) fn external_id(&self) -> Option<&str> {
        match Place::of(&self.sealed)? {
            Place::Here(_) => None,
            Place::Elsewhere(reference) => Some(reference.id),
        }
    }
}

/// A data key that nothing is sealed under yet, wrapped already.
pub struct NewDataKey {
    pub(crate) secret_id: Uuid,
    key: Zeroizing<[u8; KEY_LENGTH]>,
    wrapped: WrappedKey,
}

impl fmt::Debug for NewDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewDataKey").field("secret_id", &self.secret_id).finish_non_exhaustive()
    }
}

/// Seals and opens secrets.
pub struct Vault {
    keys: Keyring,
    clock: Clock,
    key_service: Dependency,
    secrets: Option<ExternalSecrets>,
    credential_store: Dependency,
    /// What services gave lately, by secret and master key, so that a row that is read anew
    /// needs nothing from them. None where there are no services.
    recent: Option<Cache<(Uuid, String), Arc<Kept>>>,
    /// Whether there may be secrets that the credential store did not take. At first, those
    /// of a process before this one.
    deferred: AtomicBool,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("keys", &self.keys).field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

impl Vault {
    pub(crate) fn new(keys: Keyring, secrets: Option<ExternalSecrets>, fallback: Fallback, clock: Clock) -> Self {
        let has_services = keys.service.is_some() || secrets.is_some();
        Self {
            key_service: Dependency::key_service(fallback, clock.clone()),
            credential_store: Dependency::credential_store(fallback, clock.clone()),
            recent: has_services.then(|| Cache::new(fallback.max_entries)),
            keys,
            clock,
            secrets,
            deferred: AtomicBool::new(true),
        }
    }

    /// The master key under which new secrets are sealed.
    pub async fn active_key_id(&self) -> Result<String, VaultError> {
        match self.keys.wrapping_service() {
            Some(service) => self.key_service.note(service.active_key_id().await.map_err(VaultError::KeyService)),
            None => Ok(self.active_local()?.id.clone()),
        }
    }

    /// Makes a new version of the key service's key, the active one from then on. Nothing
    /// where no key service wraps what is new.
    pub async fn rotate_key_service(&self) -> Result<Option<String>, VaultError> {
        match self.keys.wrapping_service() {
            Some(service) => service.rotate().await.map(Some).map_err(VaultError::KeyService),
            None => Ok(None),
        }
    }

    /// Whether the key service answered when it was last asked; none where there is none.
    pub fn key_service_answers(&self) -> Option<bool> {
        self.keys.service.as_ref().map(|_| !self.key_service.is_away())
    }

    /// Whether the credential store answered when it was last asked; none where there is none.
    pub fn credential_store_answers(&self) -> Option<bool> {
        self.secrets.as_ref().map(|_| !self.credential_store.is_away())
    }

    /// A data key for a secret that is yet to come. Nothing of a service is needed to seal
    /// with it.
    pub(crate) async fn new_data_key(&self, secret_id: Uuid) -> Result<NewDataKey, VaultError> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        fill_random(&mut *key)?;
        let wrapped = self.wrap_key(secret_id, &*key).await?;
        Ok(NewDataKey { secret_id, key, wrapped })
    }

    /// Seals a secret for its owner under a data key of its own.
    pub(crate) fn seal_with(&self, new: NewDataKey, owner: &[&[u8]], plaintext: &[u8]) -> Result<Sealed, VaultError> {
        let data_key = aes_key(&*new.key)?;
        let sealed = seal_bytes(&data_key, &context(owner), plaintext)?;
        let sealed = Sealed::from_row(new.secret_id, new.wrapped.key_id, new.wrapped.bytes, sealed);
        self.kept(&sealed).data_key.put(data_key, self.clock.now());
        Ok(sealed)
    }

    /// The same with a data key that is made now.
    pub(crate) async fn seal(&self, secret_id: Uuid, owner: &[&[u8]], plaintext: &[u8]) -> Result<Sealed, VaultError> {
        self.seal_with(self.new_data_key(secret_id).await?, owner, plaintext)
    }

    /// Puts what is sealed into the credential store where there is one that takes new
    /// secrets. Where it does not take this one, the secret stays in its row, and is moved
    /// later: it is sealed as well there, and must not be lost.
    pub(crate) async fn put_elsewhere(&self, sealed: Sealed, owner: SecretOwner<'_>) -> Sealed {
        if !self.keeps_elsewhere() {
            return sealed;
        }
        // A caller waits, and perhaps the only new token of a grant.
        let moved = if !self.credential_store.is_due() {
            Err(self.credential_store.late())
        } else {
            match tokio::time::timeout(PUT_PATIENCE, self.moved_out(&sealed, owner)).await {
                Ok(moved) => moved,
                Err(_) => self.credential_store.note(Err(self.credential_store.late())),
            }
        };
        match moved {
            Ok(moved) => moved,
            Err(error) => {
                self.deferred.store(true, Ordering::Relaxed);
                metrics::counter!(CREDENTIAL_STORE_DEFERRED).increment(1);
                tracing::warn!(
                    instance.id = %owner.instance_id,
                    error = %error.chain(),
                    "the credential store did not take a credential: it stays in the database, sealed, until it is moved"
                );
                sealed
            }
        }
    }

    /// A secret of its row, as the row holds it when the credential store has it.
    pub(crate) async fn moved_out(&self, sealed: &Sealed, owner: SecretOwner<'_>) -> Result<Sealed, VaultError> {
        let secrets = self.secrets.as_ref().ok_or(VaultError::NoCredentialStore)?;
        let secret = SealedSecret { id: sealed.secret_id, owner, sealed: &sealed.sealed };
        let put = secrets.store.put(secret).await.map_err(VaultError::CredentialStore);
        let column = Reference::column(&self.credential_store.note(put)?, &sealed.sealed);
        self.kept(sealed).content.put(sealed.sealed.clone(), self.clock.now());
        Ok(Sealed { sealed: column, ..sealed.clone() })
    }

    /// A secret of the credential store, as its row holds it when the row has it.
    pub(crate) async fn moved_in(&self, sealed: &Sealed) -> Result<Sealed, VaultError> {
        let content = self.content(sealed, self.kept(sealed)).await?.to_vec();
        Ok(Sealed { sealed: content, ..sealed.clone() })
    }

    /// Has the credential store forget a secret that no row refers to any longer. What is
    /// left there when this fails is of no use to anybody.
    pub(crate) async fn forget(&self, external_id: &str) {
        let Some(secrets) = &self.secrets else { return };
        let deleted = secrets.store.delete(external_id).await.map_err(VaultError::CredentialStore);
        if let Err(error) = self.credential_store.note(deleted) {
            tracing::warn!(secret.id = external_id, error = %error.chain(), "a credential could not be deleted from the credential store");
        }
    }

    /// Whether there is a credential store to read or to write.
    pub(crate) fn has_credential_store(&self) -> bool {
        self.secrets.is_some()
    }

    /// Whether new secrets go to a credential store.
    pub(crate) fn keeps_elsewhere(&self) -> bool {
        self.secrets.as_ref().is_some_and(|secrets| secrets.keeps_new)
    }

    pub(crate) fn deferred(&self) -> &AtomicBool {
        &self.deferred
    }

    /// Opens a secret for its owner. The data key is unwrapped once and kept with `sealed`.
    pub(crate) async fn open(&self, sealed: &Sealed, owner: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let kept = self.kept(sealed);
        let data_key = self.data_key(sealed, kept).await?;
        let content = self.content(sealed, kept).await?;
        open_bytes(data_key, &context(owner), content, &sealed.key_id)
    }

    /// Whether a secret that was opened before may still be used: what came from services is
    /// asked for again in its time.
    pub(crate) async fn confirm(&self, sealed: &Sealed) -> Result<(), VaultError> {
        let kept = self.kept(sealed);
        self.data_key(sealed, kept).await?;
        self.content(sealed, kept).await.map(drop)
    }

    /// Wraps the data keys of secrets anew, under the active master key; gives them in their
    /// order.
    pub(crate) async fn rewrap(&self, secrets: &[Sealed]) -> Result<Vec<WrappedKey>, VaultError> {
        if let Some(service) = self.keys.wrapping_service()
            && secrets.iter().all(|secret| service.has_key(&secret.key_id))
        {
            let keys: Vec<_> =
                secrets.iter().map(|secret| (secret.wrapped(), wrap_context(secret.secret_id))).collect();
            let rewrapped = service.rewrap(&keys).await;
            return self.key_service.note(rewrapped.map_err(VaultError::KeyService));
        }
        let mut wrapped = Vec::with_capacity(secrets.len());
        for secret in secrets {
            let data_key = self.unwrap_key(secret).await?;
            wrapped.push(self.wrap_key(secret.secret_id, &data_key).await?);
        }
        Ok(wrapped)
    }

    fn kept<'s>(&self, sealed: &'s Sealed) -> &'s Kept {
        sealed.kept.get_or_init(|| match &self.recent {
            Some(recent) => recent
                .get_or_insert_with(&(sealed.secret_id, sealed.key_id.clone()), || {
                    Ok::<_, std::convert::Infallible>(Arc::default())
                })
                .unwrap_or_default(),
            None => Arc::default(),
        })
    }

    async fn data_key<'k>(&self, sealed: &Sealed, kept: &'k Kept) -> Result<&'k LessSafeKey, VaultError> {
        match self.keys.service_with(&sealed.key_id) {
            None => kept.data_key.local(|| aes_key(&self.unwrap_here(sealed)?)),
            Some(service) => {
                let ask = || self.unwrap_there(service.as_ref(), sealed);
                kept.data_key.get(&self.key_service, async || aes_key(&ask().await?)).await
            }
        }
    }

    async fn content<'s>(&self, sealed: &'s Sealed, kept: &'s Kept) -> Result<&'s [u8], VaultError> {
        let reference = match Place::of(&sealed.sealed).ok_or(VaultError::Malformed)? {
            Place::Here(content) => return Ok(content),
            Place::Elsewhere(reference) => reference,
        };
        let secrets = self.secrets.as_ref().ok_or(VaultError::NoCredentialStore)?;
        let ask = async || {
            let content = secrets.store.get(reference.id).await.map_err(VaultError::CredentialStore)?;
            if !reference.is_of(&content) {
                // What it answers may be right again later; what is kept is right now.
                let error = "the credential store gave another secret than it was given";
                return Err(VaultError::CredentialStore(ServiceError::Unavailable(error.to_owned())));
            }
            Ok(content)
        };
        kept.content.get(&self.credential_store, ask).await.map(Vec::as_slice)
    }

    async fn wrap_key(&self, secret_id: Uuid, data_key: &[u8]) -> Result<WrappedKey, VaultError> {
        let context = wrap_context(secret_id);
        match self.keys.wrapping_service() {
            Some(service) => {
                let bound = bound_key(data_key, &context);
                let wrapped = service.wrap(&bound, &context).await;
                self.key_service.note(wrapped.map_err(VaultError::KeyService))
            }
            None => {
                let master = self.active_local()?;
                Ok(WrappedKey { key_id: master.id.clone(), bytes: seal_bytes(&master.key, &context, data_key)? })
            }
        }
    }

    async fn unwrap_key(&self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        match self.keys.service_with(&sealed.key_id) {
            Some(service) => self.key_service.note(self.unwrap_there(service.as_ref(), sealed).await),
            None => self.unwrap_here(sealed),
        }
    }

    fn unwrap_here(&self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let id = &sealed.key_id;
        let unknown = || VaultError::UnknownKey { id: id.clone(), known: Vec::new() };
        let master = self.keys.local.as_ref().ok_or_else(unknown)?.get(id)?;
        open_bytes(&master.key, &wrap_context(sealed.secret_id), &sealed.wrapped_key, id)
    }

    async fn unwrap_there(&self, service: &dyn KeyService, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let context = wrap_context(sealed.secret_id);
        let wrapped = sealed.wrapped();
        let bound = service.unwrap(&wrapped, &context).await.map_err(VaultError::KeyService)?;
        unbound_key(&bound, &context).ok_or(VaultError::DoesNotOpen { id: wrapped.key_id })
    }

    fn active_local(&self) -> Result<Arc<MasterKey>, VaultError> {
        self.keys.local.as_ref().map(MasterKeys::active).ok_or(VaultError::NoKeys)
    }
}

/// A data key as a key service gets it: behind the digest of what it belongs to, since not
/// every key of a service authenticates what stands beside the text that it encrypts.
fn bound_key(data_key: &[u8], context: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bound = Zeroizing::new(digest(&SHA256, context).as_ref().to_vec());
    bound.extend_from_slice(data_key);
    bound
}

/// The data key, where it belongs to this context.
fn unbound_key(bound: &[u8], context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let data_key = bound.strip_prefix(digest(&SHA256, context).as_ref())?;
    (data_key.len() == KEY_LENGTH).then(|| Zeroizing::new(data_key.to_vec()))
}

fn wrap_context(secret_id: Uuid) -> Vec<u8> {
    context(&[WRAP_PURPOSE, secret_id.as_bytes()])
}

/// Puts parts together so that no two lists of parts give the same bytes.
fn context(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn seal_bytes(key: &LessSafeKey, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_LEN];
    fill_random(&mut nonce)?;
    let header = 1 + NONCE_LEN;
    let mut out = Vec::with_capacity(header + plaintext.len() + AES_256_GCM.tag_len());
    out.push(FORMAT_VERSION);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    let body = out.get_mut(header..).ok_or(VaultError::Malformed)?;
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), body)
        .map_err(|_| VaultError::Malformed)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open_bytes(
    key: &LessSafeKey,
    context: &[u8],
    sealed: &[u8],
    key_id: &str,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (&FORMAT_VERSION, rest) = sealed.split_first().ok_or(VaultError::Malformed)? else {
        return Err(VaultError::Malformed);
    };
    let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Malformed)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut plaintext)
        .map_err(|_| VaultError::DoesNotOpen { id: key_id.to_owned() })?
        .len();
    plaintext.truncate(length);
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(line: &str) -> Vault {
        Vault::new(MasterKeys::parse(line).expect("keys").into(), None, Fallback::default(), Clock::system())
    }

    const ID: Uuid = Uuid::from_u128(7);
    const OWNER: &[&[u8]] = &[b"tenant", b"instance"];

    #[tokio::test]
    async fn a_secret_opens_for_its_owner_alone() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let sealed = vault.seal(ID, OWNER, b"secret").await.expect("sealed");
        // As it comes from its row, without the data key.
        let stored = |id| Sealed::from_row(id, "k1".to_owned(), sealed.wrapped_key.clone(), sealed.sealed.clone());
        assert_eq!(vault.open(&stored(ID), OWNER).await.expect("opened").as_slice(), b"secret");
        for (id, owner) in [
            (ID, &[&b"tenan"[..], b"tinstance"]),
            (ID, &[b"tenant", b"other"]),
            (Uuid::nil(), &[b"tenant", b"instance"]),
        ] {
            assert!(matches!(vault.open(&stored(id), owner).await, Err(VaultError::DoesNotOpen { .. })));
        }
    }

    #[tokio::test]
    async fn the_same_secret_never_looks_the_same_twice() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let one = vault.seal(ID, OWNER, b"secret").await.expect("sealed");
        let two = vault.seal(ID, OWNER, b"secret").await.expect("sealed");
        assert_ne!(one.sealed, two.sealed);
        assert_ne!(one.wrapped_key, two.wrapped_key);
        assert!(!format!("{one:?}").contains("secret"));
    }

    #[tokio::test]
    async fn every_changed_or_cut_byte_is_noticed() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let sealed = vault.seal(ID, OWNER, b"secret").await.expect("sealed");
        for index in 0..sealed.sealed.len() {
            let mut changed = sealed.clone();
            changed.sealed[index] ^= 1;
            assert!(vault.open(&changed, OWNER).await.is_err(), "byte {index}");
            changed.sealed.truncate(index);
            assert!(vault.open(&changed, OWNER).await.is_err(), "cut at {index}");
        }
    }

    #[tokio::test]
    async fn rewrapping_changes_the_master_key_and_not_the_secret() {
        let old = MasterKeys::generate_line("k1").expect("a line");
        let new = MasterKeys::generate_line("k2").expect("a line");
        let before = vault(&old).seal(ID, OWNER, b"secret").await.expect("sealed");
        let both = vault(&format!("{}\n{}", *new, *old));
        let rewrapped = both.rewrap(std::slice::from_ref(&before)).await.expect("rewrapped").remove(0);
        assert_eq!(rewrapped.key_id, "k2");
        let after = Sealed::from_row(ID, rewrapped.key_id, rewrapped.bytes, before.sealed.clone());
        assert_eq!(vault(&new).open(&after, OWNER).await.expect("opened").as_slice(), b"secret");
        let stored = Sealed::from_row(ID, "k1".to_owned(), before.wrapped_key.clone(), before.sealed);
        assert!(matches!(vault(&new).open(&stored, OWNER).await, Err(VaultError::UnknownKey { .. })));
    }
}
