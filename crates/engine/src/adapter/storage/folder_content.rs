//! What is in the objects of a folder: read and written piece by piece.
//!
//! An object appears whole or not at all: it is written beside its place and then moved there.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::Bytes;
use cap_std::fs::{Dir, File, Metadata, OpenOptions};
use integration_model::ErrorCode;
use serde_json::Value;
use tokio::time::Instant;

use super::answers::bare;
use super::folder::{Fault, Folder, UNFINISHED, answered, beside, check_conditions, describe, etag, into_error};
use super::operation::{answer, not_modified};
use super::request::Conditions;
use super::signature_v4::hex;
use super::spec::Action;
use super::wanted::Wanted;
use crate::adapter::{Answer, CallError, Effect};
use crate::stream::{ContentHead, Download, Upload};

/// How much is read or written at once.
const PIECE: usize = 256 * 1024;

impl Folder {
    /// Writes what a caller sends, as it comes.
    pub(super) async fn put(
        &self,
        bucket: &str,
        wanted: Wanted,
        upload: &Upload,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let failed = |fault| into_error(fault, Action::Put);
        let mut part = upload.first(PIECE, deadline).await?;
        let (folder, bucket, key) = (self.clone(), bucket.to_owned(), PathBuf::from(&wanted.key));
        let conditions = wanted.conditions.clone();
        let begin = move || {
            let dir = folder.open(&bucket, true)?;
            // They are looked at again at the end: this spares what would be refused then.
            check_conditions(&dir, &key, &conditions).and_then(|()| Unfinished::begin(&dir, &key)).map_err(failed)
        };
        let mut unfinished = beside(begin, deadline, Effect::None).await?;
        loop {
            let content = part.content;
            let write = move || match unfinished.file.write_all(&content) {
                Ok(()) => Ok(unfinished),
                Err(error) => Err(failed(error.into())),
            };
            unfinished = beside(write, deadline, Effect::None).await?;
            if part.is_last {
                break;
            }
            part = upload.next(PIECE, deadline).await?;
        }
        let folder = self.clone();
        let finish = move || {
            let _one_at_a_time = folder.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let (dir, key) = (unfinished.dir.try_clone(), unfinished.key.clone());
            let finished = dir.map_err(Fault::from).and_then(|dir| {
                check_conditions(&dir, &key, &wanted.conditions)?;
                unfinished.finish()?;
                Ok(describe(&wanted.own_key, &dir.metadata(&key)?))
            });
            finished.map_err(failed)
        };
        let object = beside(finish, deadline, Effect::Unknown).await?;
        Ok(answer(Value::Object(object), None))
    }

    /// Gives a caller what it wants of an object, as it is read.
    pub(super) async fn download(
        &self,
        bucket: &str,
        wanted: Wanted,
        download: &Download,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let failed = |fault| into_error(fault, Action::Get);
        let (folder, bucket, own_key) = (self.clone(), bucket.to_owned(), wanted.own_key.clone());
        let open = move || {
            let dir = folder.open(&bucket, false)?;
            let opened = look(&dir, Path::new(&wanted.key)).and_then(|mut found| {
                let is_wanted = found.is_wanted(&wanted.conditions)?;
                let length = if is_wanted { found.seek(wanted.range)? } else { 0 };
                Ok(is_wanted.then(|| (describe(&wanted.own_key, &found.metadata), found, length)))
            });
            opened.map_err(failed)
        };
        let Some((facts, mut found, length)) = beside(open, deadline, Effect::None).await? else {
            return Ok(not_modified(&own_key, None));
        };
        download.begin(ContentHead { facts: facts.clone(), length: Some(length) })?;
        let mut left = length;
        while left > 0 {
            let read = move || match found.read(left.min(PIECE as u64)) {
                Ok(piece) => Ok((found, piece)),
                Err(fault) => Err(failed(fault)),
            };
            let piece;
            (found, piece) = beside(read, deadline, Effect::None).await?;
            if piece.is_empty() {
                return Err(CallError::not_sent(ErrorCode::Upstream, "the object became shorter while it was read"));
            }
            left -= piece.len() as u64;
            download.send(Bytes::from(piece), deadline).await?;
        }
        Ok(answer(Value::Object(facts), None))
    }
}

/// An object that is there.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

pub(super) fn look(dir: &Dir, key: &Path) -> Result<Found, Fault> {
    // A pipe would not open before somebody writes to it.
    if !dir.metadata(key)?.is_file() {
        return Err(io::Error::from(io::ErrorKind::NotFound).into());
    }
    let file = dir.open(key)?;
    let metadata = file.metadata()?;
    Ok(Found { file, metadata })
}

impl Found {
    /// Whether a reader with these conditions does not have it yet.
    pub(super) fn is_wanted(&self, conditions: &Conditions) -> Result<bool, Fault> {
        let etag = etag(&self.metadata);
        let is_it = |given: &str| given == "*" || bare(given) == etag;
        if conditions.if_match.as_deref().is_some_and(|wanted| !is_it(wanted)) {
            return Err(answered(412, "the object has another etag").into());
        }
        Ok(!conditions.if_none_match.as_deref().is_some_and(is_it))
    }

    /// Goes to where reading begins; gives how much there is to read.
    pub(super) fn seek(&mut self, range: Option<(u64, Option<u64>)>) -> Result<u64, Fault> {
        let size = self.metadata.len();
        let Some((first, last)) = range else { return Ok(size) };
        if first >= size {
            return Err(answered(416, "the range begins after the object's end").into());
        }
        self.file.seek(SeekFrom::Start(first))?;
        Ok(last.map_or(size, |last| last.saturating_add(1).min(size)).saturating_sub(first))
    }

    pub(super) fn read(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        let mut content = Vec::new();
        (&mut self.file).take(length).read_to_end(&mut content)?;
        Ok(content)
    }
}

/// An object that is being written. What is not finished goes away with it.
pub(super) struct Unfinished {
    dir: Dir,
    key: PathBuf,
    place: PathBuf,
    pub(super) file: File,
}

impl Unfinished {
    pub(super) fn begin(dir: &Dir, key: &Path) -> Result<Self, Fault> {
        let parent = key.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            dir.create_dir_all(parent)?;
        }
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers are to be had"))?;
        let place = parent.unwrap_or(Path::new("")).join(format!("{UNFINISHED}{}", hex(&random)));
        let file = dir.open_with(&place, OpenOptions::new().write(true).create_new(true))?;
        Ok(Self { dir: dir.try_clone()?, key: key.to_owned(), place, file })
    }

    /// Puts what was written where its key says.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        self.dir.rename(&self.place, &self.dir, &self.key)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Nothing is there any more where it was finished.
        let _ = self.dir.remove_file(&self.place);
    }
}
