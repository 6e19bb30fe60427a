//! Envelope encryption: each secret is sealed under a data key of its own, which is wrapped
//! by a master key. AES-256-GCM with fresh random nonces throughout.
//!
//! What a secret belongs to is part of what is authenticated, so that a row put in the
//! place of another does not open. Must not know tables.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::master_keys::{KEY_LENGTH, MasterKeys, aes_key, fill_random};

/// The first byte of everything sealed; says how the rest is laid out: nonce, ciphertext, tag.
const FORMAT_VERSION: u8 = 1;
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
    /// Another key, another owner, or changed bytes: they cannot be told apart.
    #[error("the sealed secret does not open with master key {id:?}: another key of that id, or the row was changed")]
    DoesNotOpen { id: String },
    #[error("the sealed secret has no known format")]
    Malformed,
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// A secret as it is kept: its data key, wrapped, and itself, sealed under the data key.
#[derive(Clone)]
pub struct Sealed {
    /// Names the secret; bound to the wrapped key.
    pub(crate) secret_id: Uuid,
    /// Which master key wraps the data key.
    pub(crate) key_id: String,
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
    /// The data key once it was unwrapped; the cipher's own state is wiped when it is freed.
    data_key: Arc<OnceLock<LessSafeKey>>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Sealed {
    pub(crate) fn from_row(secret_id: Uuid, key_id: String, wrapped_key: Vec<u8>, sealed: Vec<u8>) -> Self {
        Self { secret_id, key_id, wrapped_key, sealed, data_key: Arc::default() }
    }

    /// Which master key wraps the data key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// Seals and opens secrets.
#[derive(Debug, Clone)]
pub struct Vault {
    keys: MasterKeys,
}

impl Vault {
    pub(crate) fn new(keys: MasterKeys) -> Self {
        Self { keys }
    }

    /// The master key under which new secrets are sealed.
    pub fn active_key_id(&self) -> String {
        self.keys.active().id.clone()
    }

    /// Seals a secret for its owner under a data key of its own.
    pub(crate) fn seal(&self, secret_id: Uuid, owner: &[&[u8]], plaintext: &[u8]) -> Result<Sealed, VaultError> {
        let mut data_key = Zeroizing::new([0; KEY_LENGTH]);
        fill_random(&mut *data_key)?;
        let master = self.keys.active();
        let wrapped_key = seal_bytes(&master.key, &wrap_context(secret_id), &*data_key)?;
        let data_key = aes_key(&*data_key)?;
        let sealed = seal_bytes(&data_key, &context(owner), plaintext)?;
        Ok(Sealed {
            secret_id,
            key_id: master.id.clone(),
            wrapped_key,
            sealed,
            data_key: Arc::new(OnceLock::from(data_key)),
        })
    }

    /// Opens a secret for its owner. The data key is unwrapped once and kept with `sealed`.
    pub(crate) fn open(&self, sealed: &Sealed, owner: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let data_key = match sealed.data_key.get() {
            Some(key) => key,
            None => {
                let key = aes_key(&self.unwrap_key(sealed.secret_id, &sealed.key_id, &sealed.wrapped_key)?)?;
                sealed.data_key.get_or_init(|| key)
            }
        };
        open_bytes(data_key, &context(owner), &sealed.sealed, &sealed.key_id)
    }

    /// Wraps a data key anew, under the active master key. Gives the key's id and the wrapped key.
    pub(crate) fn rewrap(
        &self,
        secret_id: Uuid,
        key_id: &str,
        wrapped_key: &[u8],
    ) -> Result<(String, Vec<u8>), VaultError> {
        let data_key = self.unwrap_key(secret_id, key_id, wrapped_key)?;
        let master = self.keys.active();
        Ok((master.id.clone(), seal_bytes(&master.key, &wrap_context(secret_id), &data_key)?))
    }

    fn unwrap_key(&self, secret_id: Uuid, key_id: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        open_bytes(&self.keys.get(key_id)?.key, &wrap_context(secret_id), wrapped, key_id)
    }
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
        Vault::new(MasterKeys::parse(line).expect("keys"))
    }

    const ID: Uuid = Uuid::from_u128(7);
    const OWNER: &[&[u8]] = &[b"tenant", b"instance"];

    #[test]
    fn a_secret_opens_for_its_owner_alone() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let sealed = vault.seal(ID, OWNER, b"secret").expect("sealed");
        // As it comes from its row, without the data key.
        let stored = |id| Sealed::from_row(id, "k1".to_owned(), sealed.wrapped_key.clone(), sealed.sealed.clone());
        assert_eq!(vault.open(&stored(ID), OWNER).expect("opened").as_slice(), b"secret");
        for (id, owner) in [
            (ID, &[&b"tenan"[..], b"tinstance"]),
            (ID, &[b"tenant", b"other"]),
            (Uuid::nil(), &[b"tenant", b"instance"]),
        ] {
            assert!(matches!(vault.open(&stored(id), owner), Err(VaultError::DoesNotOpen { .. })));
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same_twice() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let one = vault.seal(ID, OWNER, b"secret").expect("sealed");
        let two = vault.seal(ID, OWNER, b"secret").expect("sealed");
        assert_ne!(one.sealed, two.sealed);
        assert_ne!(one.wrapped_key, two.wrapped_key);
        assert!(!format!("{one:?}").contains("secret"));
    }

    #[test]
    fn every_changed_or_cut_byte_is_noticed() {
        let vault = vault(&MasterKeys::generate_line("k1").expect("a line"));
        let sealed = vault.seal(ID, OWNER, b"secret").expect("sealed");
        for index in 0..sealed.sealed.len() {
            let mut changed = sealed.clone();
            changed.sealed[index] ^= 1;
            assert!(vault.open(&changed, OWNER).is_err(), "byte {index}");
            changed.sealed.truncate(index);
            assert!(vault.open(&changed, OWNER).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn rewrapping_changes_the_master_key_and_not_the_secret() {
        let old = MasterKeys::generate_line("k1").expect("a line");
        let new = MasterKeys::generate_line("k2").expect("a line");
        let before = vault(&old).seal(ID, OWNER, b"secret").expect("sealed");
        let both = vault(&format!("{}\n{}", *new, *old));
        let (key_id, wrapped) = both.rewrap(ID, &before.key_id, &before.wrapped_key).expect("rewrapped");
        assert_eq!(key_id, "k2");
        let after = Sealed::from_row(ID, key_id, wrapped, before.sealed.clone());
        assert_eq!(vault(&new).open(&after, OWNER).expect("opened").as_slice(), b"secret");
        let stored = Sealed::from_row(ID, "k1".to_owned(), before.wrapped_key.clone(), before.sealed);
        assert!(matches!(vault(&new).open(&stored, OWNER), Err(VaultError::UnknownKey { .. })));
    }
}
