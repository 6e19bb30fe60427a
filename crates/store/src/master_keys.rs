//! The master keys: which ones there are, where they come from, how a new one is added.
//!
//! Must not know the database or what is sealed under them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use integration_model::id::is_valid_id;
use zeroize::Zeroizing;

use crate::vault::VaultError;

/// Bytes of a key.
pub(crate) const KEY_LENGTH: usize = 32;
/// The id of a key that is given without one, and of the first key of a new file.
const FIRST_KEY_ID: &str = "k1";
/// The most that is read of a key file, in bytes.
const MAX_FILE_LENGTH: u64 = 64 * 1024;

/// An ordered list of AES-256 keys with ids; the first is active and seals, all open.
///
/// Keys that come from a file are read again when a row names a key that is not among
/// them, so that a running service follows a rotation.
#[derive(Clone)]
pub struct MasterKeys {
    current: Arc<RwLock<Arc<KeySet>>>,
    path: Option<PathBuf>,
}

struct KeySet(Vec<Arc<MasterKey>>);

/// One master key, ready for use.
pub(crate) struct MasterKey {
    pub(crate) id: String,
    pub(crate) key: LessSafeKey,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys").field("ids", &self.ids()).field("path", &self.path).finish_non_exhaustive()
    }
}

impl MasterKeys {
    /// Reads `id:base64` items, separated by lines or commas; empty lines and lines that
    /// begin with `#` are passed over. A single item may lack its id, which is then `k1`.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(KeySet::parse(text)?))), path: None })
    }

    /// Reads a file in the format of [`MasterKeys::parse`], which others must not be able
    /// to read or write.
    pub fn from_file(path: &Path) -> Result<Self, VaultError> {
        let keys = KeySet::parse(&read_key_file(path)?)?;
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(keys))), path: Some(path.to_owned()) })
    }

    /// A line `id:base64` with a new random key.
    pub fn generate_line(id: &str) -> Result<Zeroizing<String>, VaultError> {
        if !is_valid_id(id) {
            return Err(VaultError::InvalidKey { position: 1, expected: ID_EXPECTED });
        }
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        fill_random(&mut *key)?;
        let encoded = Zeroizing::new(STANDARD.encode(*key));
        let mut line = Zeroizing::new(String::with_capacity(id.len() + 1 + encoded.len()));
        line.push_str(id);
        line.push(':');
        line.push_str(&encoded);
        Ok(line)
    }

    /// Makes a file (mode 0600) with one new key; refuses where there is a file.
    pub fn create_file(path: &Path) -> Result<(), VaultError> {
        let line = Self::generate_line(FIRST_KEY_ID)?;
        let mut file = create_private(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => VaultError::FileExists { path: path.to_owned() },
            _ => file_error(path)(source),
        })?;
        write_lines(&mut file, &[line.as_str()]).map_err(file_error(path))?;
        sync_directory(path).map_err(file_error(path))
    }

    /// Puts a new key in front of a file's keys, so that it is the active one; the old keys
    /// stay. Readers see the old file or the new one, never a part. Gives the new key's id.
    pub fn rotate_file(path: &Path) -> Result<String, VaultError> {
        // Two rotations at once would lose one of the new keys.
        let directory = File::open(directory_of(path)).map_err(file_error(path))?;
        directory.lock().map_err(file_error(path))?;
        let text = read_key_file(path)?;
        let id = KeySet::parse(&text)?.next_id();
        let line = Self::generate_line(&id)?;
        // A file of one bare key has no id yet; its lines are written with theirs.
        let kept = Zeroizing::new(with_ids(&text));
        let temporary = temporary_beside(path)?;
        let written = create_private(&temporary).and_then(|mut file| {
            write_lines(&mut file, &[line.as_str(), kept.as_str()])?;
            std::fs::rename(&temporary, path)?;
            sync_directory(path)
        });
        if let Err(source) = written {
            // Best effort: the rename may have happened already.
            let _ = std::fs::remove_file(&temporary);
            return Err(file_error(path)(source));
        }
        Ok(id)
    }

    /// The ids of the keys, the active one first.
    pub fn ids(&self) -> Vec<String> {
        self.snapshot().0.iter().map(|key| key.id.clone()).collect()
    }

    pub(crate) fn active(&self) -> Arc<MasterKey> {
        Arc::clone(self.snapshot().0.first().expect("a key set is not empty"))
    }

    /// The key with this id; the file is read again where it is not known.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<MasterKey>, VaultError> {
        if let Some(key) = self.snapshot().find(id) {
            return Ok(key);
        }
        if let Some(path) = &self.path {
            let keys = Arc::new(KeySet::parse(&read_key_file(path)?)?);
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
            if let Some(key) = keys.find(id) {
                return Ok(key);
            }
        }
        Err(VaultError::UnknownKey { id: id.to_owned(), known: self.ids() })
    }

    fn snapshot(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

const ID_EXPECTED: &str = "an id of 1 to 64 characters out of A-Z, a-z, 0-9, '_', '.' and '-'";

impl KeySet {
    fn parse(text: &str) -> Result<Self, VaultError> {
        let items: Vec<&str> = items(text).collect();
        let mut keys: Vec<Arc<MasterKey>> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let invalid = |expected| VaultError::InvalidKey { position: index + 1, expected };
            let (id, encoded) = match item.split_once(':') {
                Some((id, encoded)) => (id.trim(), encoded.trim()),
                None if items.len() == 1 => (FIRST_KEY_ID, *item),
                None => return Err(invalid("id:base64")),
            };
            if !is_valid_id(id) {
                return Err(invalid(ID_EXPECTED));
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(VaultError::DuplicateKey { id: id.to_owned() });
            }
            let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| invalid("a key in standard base64"))?);
            if bytes.len() != KEY_LENGTH {
                return Err(invalid("a key of 32 bytes"));
            }
            keys.push(Arc::new(MasterKey { id: id.to_owned(), key: aes_key(&bytes)? }));
        }
        if keys.is_empty() { Err(VaultError::NoKeys) } else { Ok(Self(keys)) }
    }

    fn find(&self, id: &str) -> Option<Arc<MasterKey>> {
        self.0.iter().find(|key| key.id == id).cloned()
    }

    /// `k` and the number after the highest one in use.
    fn next_id(&self) -> String {
        let highest = self.0.iter().filter_map(|key| key.id.strip_prefix('k')?.parse::<u32>().ok()).max();
        let free = |number: &u32| self.find(&format!("k{number}")).is_none();
        let number = (highest.unwrap_or(0).saturating_add(1)..=u32::MAX).chain(1..=u32::MAX).find(free);
        format!("k{}", number.unwrap_or(1))
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn with_ids(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + FIRST_KEY_ID.len() + 1);
    for item in items(text) {
        if !lines.is_empty() {
            lines.push('\n');
        }
        if !item.contains(':') {
            lines.push_str(FIRST_KEY_ID);
            lines.push(':');
        }
        lines.push_str(item);
    }
    lines
}

/// An AES-256-GCM key from its 32 bytes.
pub(crate) fn aes_key(bytes: &[u8]) -> Result<LessSafeKey, VaultError> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| VaultError::Malformed)
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), VaultError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| VaultError::NoRandomness)
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::File { path: path.clone(), source }
}

fn read_key_file(path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let file = File::open(path).map_err(file_error(path))?;
    let metadata = file.metadata().map_err(file_error(path))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(VaultError::FileMode { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_FILE_LENGTH {
        return Err(VaultError::FileTooLarge { path: path.to_owned(), limit: MAX_FILE_LENGTH });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_LENGTH).read_to_string(&mut text).map_err(file_error(path))?;
    Ok(text)
}

fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn write_lines(file: &mut File, lines: &[&str]) -> std::io::Result<()> {
    for line in lines {
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
    }
    file.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// A name of its own in the same folder, so that a file left by a killed rotation is in
/// nobody's way.
fn temporary_beside(path: &Path) -> Result<PathBuf, VaultError> {
    let mut suffix = [0; 8];
    fill_random(&mut suffix)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_be_bytes(suffix)));
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(id: &str) -> String {
        MasterKeys::generate_line(id).expect("a line").to_string()
    }

    #[test]
    fn the_first_key_is_active_and_lines_and_commas_both_separate() {
        let text = format!("# keys\n{},{}\n\n{}\n", key("new"), key("old"), key("older"));
        let keys = MasterKeys::parse(&text).expect("keys");
        assert_eq!(keys.ids(), ["new", "old", "older"]);
        assert_eq!(keys.active().id, "new");
        let bare = key("x").split_once(':').map(|(_, encoded)| encoded.to_owned()).expect("a colon");
        assert_eq!(MasterKeys::parse(&bare).expect("a key").ids(), ["k1"]);
    }

    #[test]
    fn wrong_keys_are_refused_with_their_place_and_without_their_text() {
        let good = key("a");
        let secret = "c2VjcmV0LXNlY3JldA==";
        for text in [
            format!("{good}\nb:{secret}"),
            format!("{good},{secret}"),
            format!("{good},b:{secret}!"),
            format!("{good},b c:{secret}"),
        ] {
            let error = MasterKeys::parse(&text).expect_err(&text);
            assert!(matches!(error, VaultError::InvalidKey { position: 2, .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("c2Vj"));
        }
        assert!(matches!(MasterKeys::parse(&format!("{good},{good}")), Err(VaultError::DuplicateKey { .. })));
        assert!(matches!(MasterKeys::parse(" \n#x\n"), Err(VaultError::NoKeys)));
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        MasterKeys::create_file(&path).expect("created");
        let mode = std::fs::metadata(&path).expect("metadata").mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(matches!(MasterKeys::create_file(&path), Err(VaultError::FileExists { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode set");
        let error = MasterKeys::from_file(&path).expect_err("world-readable");
        assert!(error.to_string().contains("0644"), "{error}");
    }

    #[test]
    fn rotation_adds_an_active_key_and_keeps_the_old_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        MasterKeys::create_file(&path).expect("created");
        let running = MasterKeys::from_file(&path).expect("keys");
        assert_eq!(MasterKeys::rotate_file(&path).expect("rotated"), "k2");
        assert_eq!(MasterKeys::rotate_file(&path).expect("rotated"), "k3");
        assert_eq!(MasterKeys::from_file(&path).expect("keys").ids(), ["k3", "k2", "k1"]);
        assert_eq!(running.ids(), ["k1"]);
        assert_eq!(running.get("k3").expect("read again").id, "k3");
        assert_eq!(running.active().id, "k3");
        assert!(matches!(running.get("k9"), Err(VaultError::UnknownKey { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1, "no temporary file stays");
    }

    #[test]
    fn rotation_gives_a_bare_key_its_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        MasterKeys::create_file(&path).expect("created");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text.trim_start_matches("k1:")).expect("written");
        MasterKeys::rotate_file(&path).expect("rotated");
        assert_eq!(MasterKeys::from_file(&path).expect("keys").ids(), ["k2", "k1"]);
    }
}
