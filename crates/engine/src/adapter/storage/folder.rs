//! Objects in a folder of this machine, below one that the operator names.
//!
//! Every path is opened relative to the folder by `cap-std`, which follows no link out of it.
//! What is in the objects is read and written in [`super::folder_content`].

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata};
use integration_model::{ErrorCode, Timestamp};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::answers::{Page, bare};
use super::client::too_large;
use super::config::StorageConfig;
use super::content;
use super::folder_content::{Found, Unfinished, look};
use super::operation::{answer, not_modified, page_answer};
use super::request::Conditions;
use super::signature_v4::sha256;
use super::spec::{Action, OperationSpec};
use super::wanted::Wanted;
use crate::adapter::server::failure::{Progress, timed_out};
use crate::adapter::{Answer, CallError, Effect};
use crate::stream::ContentStream;

/// What is being written has a name that begins so, and is told to nobody.
pub(super) const UNFINISHED: &str = ".upload-";
/// The most files that a listing looks at.
const MAX_FILES: usize = 100_000;

/// The operator's folder, if there is one; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    root: Option<Arc<PathBuf>>,
    /// Held from a look at an object to its change, so that conditions hold.
    pub(super) writing: Arc<Mutex<()>>,
}

/// Why an operation ended.
pub(super) enum Fault {
    Io(io::Error),
    Call(Box<CallError>),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

/// What was done, before content is made part of an answer.
enum Done {
    Told(Value),
    Read(Map<String, Value>, Vec<u8>),
    NotModified,
    Listed(Page),
}

/// What to do with the files.
struct Job {
    wanted: Wanted,
    action: Action,
    max_bytes: usize,
    delimiter: Option<String>,
    page_size: usize,
}

impl Folder {
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root: root.map(Arc::new), writing: Arc::default() }
    }

    pub(super) async fn run(
        &self,
        config: &StorageConfig,
        wanted: Wanted,
        spec: &OperationSpec,
        stream: Option<&ContentStream>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let action = spec.action;
        if action == Action::Presign {
            return Err(refused("a folder has no URLs: presign is for s3, gcs and azure"));
        }
        if !wanted.new.metadata.is_empty() {
            return Err(refused("a folder keeps no metadata"));
        }
        let is_unfinished = |key: &str| key.split('/').any(|part| part.starts_with(UNFINISHED));
        if is_unfinished(&wanted.key) || is_unfinished(&wanted.source) {
            return Err(refused(&format!("expected a key without a part that begins with {UNFINISHED}")));
        }
        match (action, stream) {
            (Action::Put, _) => {
                let upload = wanted.upload(stream)?;
                return self.put(&config.bucket, wanted, &upload, deadline).await;
            }
            (Action::Get, Some(ContentStream::Download(download))) => {
                return self.download(&config.bucket, wanted, download, deadline).await;
            }
            _ => {}
        }
        let own_key = wanted.own_key.clone();
        let job = Job {
            wanted,
            action,
            max_bytes: spec.max_response_bytes,
            delimiter: spec.delimiter.clone(),
            page_size: spec.page_size,
        };
        let (folder, bucket) = (self.clone(), config.bucket.clone());
        let work = move || {
            let dir = folder.open(&bucket, false)?;
            let _one_at_a_time =
                (!action.is_read()).then(|| folder.writing.lock().unwrap_or_else(PoisonError::into_inner));
            job.run(&dir).map_err(|fault| into_error(fault, action))
        };
        let effect = if action.is_read() { Effect::None } else { Effect::Unknown };
        match beside(work, deadline, effect).await? {
            Done::Told(data) => Ok(answer(data, None)),
            Done::NotModified => Ok(not_modified(&own_key, None)),
            Done::Listed(page) => Ok(page_answer(page, None)),
            Done::Read(mut object, bytes) => {
                let content = content::write(spec.decoding, bytes.into()).await.map_err(|fault| {
                    CallError::not_sent(ErrorCode::Upstream, format!("the content cannot be read: {fault}"))
                })?;
                object.insert("content".to_owned(), content);
                Ok(answer(Value::Object(object), None))
            }
        }
    }

    /// Whether the folder is there.
    pub(super) async fn test(&self, config: &StorageConfig, deadline: Instant) -> Result<String, CallError> {
        let (folder, bucket) = (self.clone(), config.bucket.clone());
        beside(move || folder.open(&bucket, false).map(drop), deadline, Effect::None).await?;
        Ok(format!("the folder {} can be opened", config.bucket))
    }

    pub(super) fn open(&self, bucket: &str, make: bool) -> Result<Dir, CallError> {
        let not_ready = |message: String| CallError::not_sent(ErrorCode::InstanceNotReady, message);
        let root = self.root.as_ref().ok_or_else(|| {
            not_ready("no folder is set for storage: the operator names it in adapters.storage.folder".to_owned())
        })?;
        // Links in the folder's own path are the operator's.
        let root = Dir::open_ambient_dir(root.as_path(), ambient_authority()).map_err(|error| {
            not_ready(format!("the folder of adapters.storage.folder cannot be opened: {}", error.kind()))
        })?;
        if make {
            match root.create_dir(bucket) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(not_ready(format!("the folder {bucket:?} cannot be made: {}", error.kind())));
                }
                _ => {}
            }
        }
        root.open_dir(bucket).map_err(|error| {
            not_ready(format!(
                "the folder {bucket:?} in that of adapters.storage.folder cannot be opened: {}",
                error.kind()
            ))
        })
    }
}

/// Runs blocking work on a thread for it. Where the deadline passes first, the work still goes
/// on to its end, with that effect.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
    deadline: Instant,
    effect: Effect,
) -> Result<T, CallError> {
    // A timer lets through what is ready before it looks at the time.
    if Instant::now() >= deadline {
        return Err(timed_out(Progress::Harmless, "waiting for the folder"));
    }
    let failed = |code, message| CallError { effect, ..CallError::not_sent(code, message) };
    match timeout_at(deadline, tokio::task::spawn_blocking(work)).await {
        Ok(joined) => {
            joined.unwrap_or_else(|_| Err(failed(ErrorCode::Internal, "the work on the folder was interrupted")))
        }
        Err(_) => {
            let error = failed(ErrorCode::Timeout, "the deadline passed while the folder was worked on");
            Err(CallError { retryable: true, upstream_failed: true, ..error })
        }
    }
}

impl Job {
    fn run(self, dir: &Dir) -> Result<Done, Fault> {
        let key = Path::new(&self.wanted.key);
        let conditions = &self.wanted.conditions;
        match self.action {
            Action::Copy => {
                let Found { mut file, .. } = look(dir, Path::new(&self.wanted.source))?;
                let mut unfinished = Unfinished::begin(dir, key)?;
                io::copy(&mut file, &mut unfinished.file)?;
                unfinished.finish()?;
                let metadata = dir.metadata(key)?;
                Ok(Done::Told(Value::Object(describe(&self.wanted.own_key, &metadata))))
            }
            Action::Delete => {
                check_conditions(dir, key, conditions)?;
                // Like the systems that this stands for: what is not there is gone.
                match dir.remove_file(key) {
                    Err(error) if !is_missing(&error) => Err(error.into()),
                    _ => Ok(Done::Told(json!({"key": self.wanted.own_key}))),
                }
            }
            Action::List => self.list(dir).map(Done::Listed),
            // What puts comes in pieces, and does not come here.
            Action::Head | Action::Get | Action::Presign | Action::Put => {
                let mut found = look(dir, key)?;
                if !found.is_wanted(conditions)? {
                    return Ok(Done::NotModified);
                }
                let object = describe(&self.wanted.own_key, &found.metadata);
                if self.action == Action::Head {
                    return Ok(Done::Told(Value::Object(object)));
                }
                let length = found.seek(self.wanted.range)?;
                if length > self.max_bytes as u64 {
                    return Err(too_large(self.max_bytes).into());
                }
                Ok(Done::Read(object, found.read(length)?))
            }
        }
    }

    fn list(&self, dir: &Dir) -> Result<Page, Fault> {
        let wanted = &self.wanted;
        let mut keys = BTreeSet::new();
        // Only the folders that the prefix leads to need a look.
        let start = wanted.prefix.rsplit_once('/').map_or("", |(start, _)| start);
        let mut waiting = vec![start.to_owned()];
        let mut seen = 0;
        while let Some(below) = waiting.pop() {
            let entries = match if below.is_empty() { dir.entries() } else { dir.read_dir(&below) } {
                Err(error) if is_missing(&error) => continue,
                other => other?,
            };
            for entry in entries {
                let entry = entry?;
                seen += 1;
                if seen > MAX_FILES {
                    return Err(refused(&format!(
                        "the listing would look at more than {MAX_FILES} files: give it a prefix"
                    ))
                    .into());
                }
                let Ok(name) = entry.file_name().into_string() else { continue };
                let key = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    waiting.push(key);
                } else if kind.is_file() && !name.starts_with(UNFINISHED) && key.starts_with(&wanted.prefix) {
                    keys.insert(key);
                }
            }
        }
        let mut page = Page::default();
        let mut last = String::new();
        for key in keys {
            let rest = &key[wanted.prefix.len()..];
            let cut = self.delimiter.as_deref().and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
            let told = cut.map_or(key.as_str(), |cut| &key[..wanted.prefix.len() + cut]);
            if told == last || wanted.after.as_deref().is_some_and(|after| told <= after) {
                continue;
            }
            if page.items.len() + page.prefixes.len() == self.page_size {
                page.next = Some(last);
                break;
            }
            last = told.to_owned();
            let own = told.strip_prefix(&wanted.config_prefix).unwrap_or(told);
            if cut.is_some() {
                page.prefixes.push(own.to_owned());
            } else if let Ok(metadata) = dir.symlink_metadata(&key) {
                page.items.push(Value::Object(describe(own, &metadata)));
            }
        }
        Ok(page)
    }
}

pub(super) fn check_conditions(dir: &Dir, key: &Path, conditions: &Conditions) -> Result<(), Fault> {
    if conditions.is_empty() {
        return Ok(());
    }
    let now = match dir.metadata(key) {
        Ok(metadata) => Some(etag(&metadata)),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(error.into()),
    };
    let matches = match (conditions.if_match.as_deref(), &now) {
        (None, _) | (Some("*"), Some(_)) => true,
        (Some(wanted), Some(now)) => bare(wanted) == now,
        (Some(_), None) => false,
    };
    if !matches {
        return Err(answered(412, "the object has another etag, or is not there").into());
    }
    if conditions.if_none_match.is_some() && now.is_some() {
        return Err(answered(412, "there is an object already").into());
    }
    Ok(())
}

/// Another one for each change: by time, size and the file itself, which each write replaces.
pub(super) fn etag(metadata: &Metadata) -> String {
    use cap_std::fs::MetadataExt as _;
    let text =
        format!("{}-{}-{:?}", metadata.len(), metadata.ino(), metadata.modified().map(|time| time.into_std()).ok());
    sha256(text.as_bytes())[..32].to_owned()
}

pub(super) fn describe(key: &str, metadata: &Metadata) -> Map<String, Value> {
    let modified = metadata.modified().map(|time| time.into_std()).ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or(Duration::ZERO);
    let modified = Timestamp::EPOCH.saturating_add(since);
    let told = json!({"key": key, "size": metadata.len(), "etag": etag(metadata), "lastModified": modified});
    told.as_object().cloned().unwrap_or_default()
}

/// Nothing is there: no file, or a file where the key wants a folder.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn refused(message: &str) -> CallError {
    CallError::not_sent(ErrorCode::Validation, message)
}

/// A refusal with the status by which the systems over HTTP tell it.
pub(super) fn answered(status: u16, message: &str) -> CallError {
    CallError {
        effect: Effect::Answered,
        upstream_status: Some(status),
        ..CallError::not_sent(ErrorCode::Upstream, message)
    }
    .with_detail("upstreamStatus", status)
}

pub(super) fn into_error(fault: Fault, action: Action) -> CallError {
    match fault {
        Fault::Call(error) => *error,
        Fault::Io(error) if is_missing(&error) && action != Action::Put => answered(404, "there is no such object"),
        Fault::Io(error) => {
            // `cap-std` tells of a way out of the folder as of a missing right.
            let message = format!("the folder does not take it: {}", error.kind());
            let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            CallError {
                retryable: full,
                upstream_failed: full,
                effect: Effect::Answered,
                ..CallError::not_sent(ErrorCode::Upstream, message)
            }
        }
    }
}
