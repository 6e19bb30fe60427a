//! The token that a dependency asks for: given, or in a file that somebody else renews.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use integration_store::ServiceError;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// The most bytes of a token file.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Where a token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    Given(SecretString),
    /// Read again when it changes. Others must not be able to read it.
    File(PathBuf),
}

/// A token in use. Has no printable form.
#[derive(Clone)]
pub(super) struct Secret(SecretString);

impl Secret {
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

pub(super) struct Token {
    source: TokenSource,
    /// What the file held when it looked like this.
    read: Mutex<Option<(Look, Secret)>>,
}

/// What tells a file from the one that it was before.
#[derive(Clone, Copy, PartialEq)]
struct Look {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Token {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, read: Mutex::default() }
    }

    pub(super) async fn read(&self) -> Result<Secret, ServiceError> {
        match &self.source {
            TokenSource::Given(token) => Ok(Secret(token.clone())),
            // The file may be there a moment later: somebody is writing it.
            TokenSource::File(path) => self
                .read_file(path)
                .await
                .map_err(|error| ServiceError::Unavailable(format!("the token file {}: {error}", path.display()))),
        }
    }

    async fn read_file(&self, path: &Path) -> std::io::Result<Secret> {
        let file = tokio::fs::File::open(path).await?;
        let metadata = file.metadata().await?;
        let look = Look { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() };
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, token)) = known.filter(|(before, _)| *before == look) {
            return Ok(token);
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o007 != 0 {
            let message = format!("it can be used by everybody (mode {mode:04o}); expected 0600");
            return Err(std::io::Error::other(message));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).await?;
        if text.trim().is_empty() {
            return Err(std::io::Error::other("it is empty"));
        }
        let token = Secret(SecretString::from(text.trim()));
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((look, token.clone()));
        Ok(token)
    }
}
