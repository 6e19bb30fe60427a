//! The write-ahead spool: files in which a process puts down, with one write and no commit, what
//! has to outlive it before the database has it: that a credential is about to be used, and on
//! SQLite how an execution ended. The rows follow in a transaction with others; what a process
//! wrote down and did not commit is committed by the next one.
//!
//! A segment is a file of uses as JSON lines and of records as bytes with their length before
//! them, locked by the process that writes it for as long as it lives. It is deleted when all that it holds is committed. Must not know the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use integration_model::audit::{AuditAction, AuditEntry, AuditOutcome};
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::encoded::{Decoded, Encoded};
use crate::spool_record::{SpooledRecord, is_record};

/// After how many bytes a new segment begins.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How many bytes one process may have in the spool; uses are refused beyond it.
const MAX_BYTES: u64 = 512 << 20;
/// The longest line or record; what is longer is refused.
pub(crate) const MAX_ENTRY: usize = 64 << 10;
/// What a record begins with, and no line does.
const RECORD: u8 = 1;
const EXTENSION: &str = "spool";

/// What is known of a use before it happens.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct SpoolLine<'a> {
    pub(crate) id: Uuid,
    pub(crate) at: Timestamp,
    pub(crate) tenant: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) credential: Option<Uuid>,
    pub(crate) execution: Option<Uuid>,
    pub(crate) correlation: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) method: &'a str,
}

#[derive(Deserialize)]
struct ReadLine {
    id: Uuid,
    at: Timestamp,
    tenant: TenantId,
    principal: String,
    instance: InstanceId,
    credential: Option<Uuid>,
    execution: Option<Uuid>,
    correlation: String,
    reason: String,
    method: String,
}

impl From<ReadLine> for AuditEntry {
    fn from(line: ReadLine) -> Self {
        Self {
            id: line.id,
            sequence: None,
            timestamp: line.at,
            tenant_id: Some(line.tenant),
            principal: line.principal,
            action: AuditAction::CredentialUsed,
            target: None,
            instance_id: Some(line.instance),
            credential_id: line.credential,
            execution_id: line.execution.map(ExecutionId),
            outcome: AuditOutcome::Unknown,
            reason: reason_text(&line.reason, &line.method),
            correlation_id: line.correlation,
            details: Some(json!({
                "note": "the process ended, or the row could not be committed, before the use did",
                "begunAt": line.at,
            })),
            hash: None,
        }
    }
}

/// `execute getPet`, `connection test`.
pub(crate) fn reason_text(why: &str, method: &str) -> String {
    if method.is_empty() { why.to_owned() } else { format!("{why} {method}") }
}

/// The spool of one process.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    /// Tells the segments of this process from others'.
    process: String,
    current: Mutex<Current>,
    /// Of all segments that this process wrote and that are there.
    bytes: Arc<AtomicU64>,
    /// Full segments in which something was not committed.
    left: Arc<Mutex<Vec<Arc<Segment>>>>,
}

#[derive(Debug, Default)]
struct Current {
    segment: Option<Arc<Segment>>,
    next_number: u64,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    bytes: AtomicU64,
    /// Entries whose end is not known yet; the segment itself counts as one until it is full.
    open: AtomicUsize,
    /// Whether an entry was given up without its row.
    is_left: AtomicBool,
    spool_bytes: Arc<AtomicU64>,
    /// Of the spool, which holds segments too.
    left: Weak<Mutex<Vec<Arc<Segment>>>>,
}

/// One line of the spool; to be settled once its row is committed.
#[derive(Debug)]
pub(crate) struct SpoolEntry {
    segment: Arc<Segment>,
    is_settled: AtomicBool,
}

impl SpoolEntry {
    /// The row is committed: the line has done its work.
    pub(crate) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
    }
}

impl Drop for SpoolEntry {
    fn drop(&mut self) {
        if !self.is_settled.load(Ordering::Acquire) {
            self.segment.is_left.store(true, Ordering::Release);
        }
        Segment::close_one(&self.segment);
    }
}

impl Segment {
    fn close_one(segment: &Arc<Self>) {
        if segment.open.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if segment.is_left.load(Ordering::Acquire) {
            // Where the spool is gone, the next process finds the file.
            if let Some(left) = segment.left.upgrade() {
                left.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(segment));
            }
        } else {
            segment.remove();
        }
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a segment of the spool could not be deleted");
        }
        self.spool_bytes.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Lines that were written down and not committed, with the file to delete after they are.
#[derive(Debug)]
pub(crate) struct LeftOver {
    pub(crate) uses: Vec<AuditEntry>,
    pub(crate) records: Encoded,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// Of a process that is gone; this one has its lock.
    Foreign {
        path: PathBuf,
        _lock: File,
    },
    Own(Arc<Segment>),
}

impl LeftOver {
    /// To be called after the entries are committed.
    pub(crate) fn delete(self) {
        match self.held {
            Held::Own(segment) => segment.remove(),
            Held::Foreign { path, .. } => {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "a segment of the spool could not be deleted");
                }
            }
        }
    }
}

impl Spool {
    /// Nothing is made before the first line.
    pub(crate) fn new(folder: PathBuf, process: &str) -> Self {
        Self {
            folder,
            process: process.to_owned(),
            current: Mutex::default(),
            bytes: Arc::default(),
            left: Arc::default(),
        }
    }

    /// Writes a line; when this returns it outlives the process.
    pub(crate) fn write(&self, line: &impl Serialize) -> io::Result<SpoolEntry> {
        self.append(|text| {
            serde_json::to_writer(&mut *text, line)?;
            text.push(b'\n');
            if text.len() > MAX_ENTRY {
                return Err(io::Error::other(format!("a line is longer than {MAX_ENTRY} bytes")));
            }
            Ok(())
        })
    }

    /// Writes records at once, all or none; when this returns they outlive the process.
    pub(crate) fn write_records(&self, records: &Encoded) -> io::Result<SpoolEntry> {
        self.append(|text| {
            for record in records.iter() {
                text.push(RECORD);
                text.extend_from_slice(&u32::try_from(record.len()).map_err(io::Error::other)?.to_le_bytes());
                text.extend_from_slice(record);
            }
            Ok(())
        })
    }

    fn append(&self, fill: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<SpoolEntry> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let current = &mut *current;
        current.text.clear();
        fill(&mut current.text)?;
        let length = current.text.len() as u64;
        if self.bytes.load(Ordering::Relaxed) + length > MAX_BYTES {
            return Err(io::Error::other(format!("more than {MAX_BYTES} bytes of it wait for the database")));
        }
        let full = |segment: &Arc<Segment>| segment.bytes.load(Ordering::Relaxed) >= SEGMENT_BYTES;
        if current.segment.as_ref().is_none_or(full) {
            let fresh = self.begin_segment(current.next_number)?;
            current.next_number += 1;
            if let Some(old) = current.segment.replace(fresh) {
                Segment::close_one(&old);
            }
        }
        let segment = current.segment.as_ref().expect("one was begun");
        segment.open.fetch_add(1, Ordering::AcqRel);
        let entry = SpoolEntry { segment: Arc::clone(segment), is_settled: AtomicBool::new(false) };
        if let Err(error) = (&segment.file).write_all(&current.text) {
            // Its end is torn, which nobody reads; nothing may follow on it.
            entry.settle();
            if let Some(torn) = current.segment.take() {
                Segment::close_one(&torn);
            }
            return Err(error);
        }
        segment.bytes.fetch_add(length, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(entry)
    }

    /// Makes a file that is locked from the moment it can be found under its name.
    fn begin_segment(&self, number: u64) -> io::Result<Arc<Segment>> {
        // Who used which credential is for this user alone.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.folder.join(format!("{}-{number}.{EXTENSION}", self.process));
        let unnamed = path.with_extension("new");
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&unnamed)?;
        file.try_lock().map_err(io::Error::from)?;
        std::fs::rename(&unnamed, &path)?;
        Ok(Arc::new(Segment {
            path,
            file,
            bytes: AtomicU64::new(0),
            open: AtomicUsize::new(1),
            is_left: AtomicBool::new(false),
            spool_bytes: Arc::clone(&self.bytes),
            left: Arc::downgrade(&self.left),
        }))
    }

    /// What was written down and never committed: by processes that are gone, and by this one
    /// where all else of the segment is settled. Files that other processes write are left alone, and
    /// so are those of the processes named.
    pub(crate) fn take_left_over(&self, but_of: &[String]) -> io::Result<Vec<LeftOver>> {
        self.close_where_left();
        let own = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut found = Vec::new();
        for segment in own {
            let (uses, records) = read_segment(&segment.path)?;
            found.push(LeftOver { uses, records, held: Held::Own(segment) });
        }
        let folder = match std::fs::read_dir(&self.folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for file in folder {
            let path = file?.path();
            let is_of = |process: &String| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(process.as_str()))
            };
            if is_of(&self.process)
                || but_of.iter().any(is_of)
                || path.extension().is_none_or(|extension| extension != EXTENSION)
            {
                continue;
            }
            let lock = match File::open(&path) {
                Ok(file) => file,
                // Another process was here first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let (uses, records) = match read_segment(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read?,
            };
            found.push(LeftOver { uses, records, held: Held::Foreign { path, _lock: lock } });
        }
        Ok(found)
    }

    /// Puts segments back whose entries could not be committed; another try comes later.
    pub(crate) fn put_back(&self, left: Vec<LeftOver>) {
        let mut own = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(left.into_iter().filter_map(|left| match left.held {
            Held::Own(segment) => Some(segment),
            Held::Foreign { .. } => None,
        }));
    }

    /// Ends the current segment where something in it was given up, so that it is found.
    fn close_where_left(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let left = current.segment.take_if(|segment| segment.is_left.load(Ordering::Acquire));
        drop(current);
        if let Some(left) = left {
            Segment::close_one(&left);
        }
    }

    /// Ends the current segment, which goes where all of it is committed.
    pub(crate) fn close(&self) {
        let last = self.current.lock().unwrap_or_else(PoisonError::into_inner).segment.take();
        if let Some(last) = last {
            Segment::close_one(&last);
        }
    }
}

/// What a segment holds; what is neither line nor record, as where a write was torn, is passed over.
fn read_segment(path: &Path) -> io::Result<(Vec<AuditEntry>, Encoded)> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut uses, mut records) = (Vec::new(), Encoded::default());
    let mut torn = 0_usize;
    let mut bytes = Vec::new();
    while let Some(&first) = reader.fill_buf()?.first() {
        bytes.clear();
        let is_read = if first == RECORD {
            read_record(&mut reader, &mut bytes)? && Decoded::check(&bytes).map(|()| records.push_bytes(&bytes)).is_ok()
        } else {
            reader.by_ref().take(MAX_ENTRY as u64).read_until(b'\n', &mut bytes)?;
            if is_record(&bytes) {
                SpooledRecord::read(&bytes).is_ok_and(|record| records.push(&record).is_ok())
            } else {
                serde_json::from_slice::<ReadLine>(&bytes).map(|line| uses.push(line.into())).is_ok()
            }
        };
        torn += usize::from(!is_read);
    }
    if torn > 0 {
        tracing::warn!(path = %path.display(), entries = torn, "entries of the spool are not readable");
    }
    Ok((uses, records))
}

/// Reads the bytes of a record; false where they end too early.
fn read_record(reader: &mut impl io::Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; 5];
    let read = reader.by_ref().take(header.len() as u64).read_to_end(bytes)?;
    if read < header.len() {
        return Ok(false);
    }
    header.copy_from_slice(bytes);
    bytes.clear();
    let [_, length @ ..] = header;
    let length = u64::from(u32::from_le_bytes(length)).min(MAX_ENTRY as u64);
    Ok(reader.take(length).read_to_end(bytes)? as u64 == length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u128) -> SpoolLine<'static> {
        SpoolLine {
            id: Uuid::from_u128(id),
            at: Timestamp::from_micros(1_700_000_000_000_000),
            tenant: "acme",
            principal: "api-key:\"quoted\"\n",
            instance: "pets",
            credential: Some(Uuid::from_u128(9)),
            execution: None,
            correlation: "c-1",
            reason: "execute",
            method: "getPet",
        }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[test]
    fn what_a_dead_process_left_is_read_once_and_what_it_settled_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Spool::new(folder.path().join("audit"), "a");
        let settled = first.write(&line(1)).unwrap();
        settled.settle();
        drop(settled);
        let left = first.write(&line(2)).unwrap();
        let second = Spool::new(folder.path().join("audit"), "b");
        assert!(second.take_left_over(&[]).unwrap().is_empty(), "the first process lives");

        // The end of the process closes its files.
        drop(left);
        drop(first);
        let mut found = second.take_left_over(&[]).unwrap();
        let found = found.pop().expect("a segment was left");
        assert_eq!(found.uses.len(), 2);
        assert_eq!(found.uses[1].id, Uuid::from_u128(2));
        assert_eq!(found.uses[1].reason, "execute getPet");
        assert_eq!(found.uses[1].outcome, AuditOutcome::Unknown);
        assert_eq!(found.uses[1].principal, "api-key:\"quoted\"\n");
        found.delete();
        assert_eq!(files(&folder.path().join("audit")), 0);
    }

    #[test]
    fn a_segment_whose_entries_are_settled_is_deleted_at_the_close() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("audit"), "a");
        let entry = spool.write(&line(1)).unwrap();
        assert_eq!(files(&folder.path().join("audit")), 1);
        entry.settle();
        drop(entry);
        spool.close();
        assert_eq!(files(&folder.path().join("audit")), 0);
    }

    #[test]
    fn full_segments_go_when_their_last_entry_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let spool = Spool::new(path.clone(), "a");
        let held = spool.write(&line(1)).unwrap();
        let long = "x".repeat(40_000);
        for number in 2..300 {
            let entry = spool.write(&SpoolLine { correlation: &long, ..line(number) }).unwrap();
            entry.settle();
        }
        assert_eq!(files(&path), 2, "the one that is written, and the one with an open entry");
        held.settle();
        drop(held);
        assert_eq!(files(&path), 1);
    }

    #[test]
    fn an_entry_that_was_given_up_is_found_by_its_own_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let spool = Spool::new(path.clone(), "a");
        drop(spool.write(&line(1)).unwrap());
        spool.close();
        let mut found = spool.take_left_over(&[]).unwrap();
        assert_eq!(found.len(), 1);
        spool.put_back(found);
        found = spool.take_left_over(&[]).unwrap();
        assert_eq!(found[0].uses.len(), 1);
        found.remove(0).delete();
        assert_eq!(files(&path), 0);
    }

    #[test]
    fn a_torn_last_line_does_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let spool = Spool::new(path.clone(), "a");
        drop(spool.write(&line(1)).unwrap());
        let file = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
        OpenOptions::new().append(true).open(file).unwrap().write_all(b"{\"id\":\"0000").unwrap();
        drop(spool);
        let found = Spool::new(path, "b").take_left_over(&[]).unwrap();
        assert_eq!(found[0].uses.len(), 1);
    }

    #[test]
    fn records_are_read_beside_lines_and_so_are_those_of_older_versions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let spool = Spool::new(path.clone(), "a");
        let record = crate::encoded::tests::record();
        drop(spool.write(&line(1)).unwrap());
        drop(spool.write_records(&Encoded::of(&[record.clone(), record.clone()]).unwrap()).unwrap());
        drop(spool.write(&line(2)).unwrap());
        let file = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        let uses = record
            .credential_uses
            .iter()
            .map(|used| json!({"id": used.id(), "at": used.at(), "credential": used.credential(), "why": used.why()}));
        let older = format!(
            r#"{{"record":{{"execution":{},"params":"{{\"id\": 1}}","events":{},"uses":{}}}}}"#,
            serde_json::to_string(&*record.execution).unwrap(),
            serde_json::to_string(&record.events).unwrap(),
            serde_json::to_string(&uses.collect::<Vec<_>>()).unwrap(),
        );
        writeln!(file, "{older}").unwrap();
        // The end is torn.
        file.write_all(&[RECORD, 200, 0, 0, 0, 1]).unwrap();
        drop(spool);
        let found = Spool::new(path, "b").take_left_over(&[]).unwrap().pop().unwrap();
        assert_eq!(found.uses.len(), 2);
        let expected = Encoded::of(&[record]).unwrap();
        assert_eq!(found.records.len(), 3);
        assert!(found.records.iter().all(|read| Some(read) == expected.iter().next()));
    }

    #[test]
    fn a_folder_that_cannot_be_made_fails_the_write() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("audit"), b"a file").unwrap();
        let spool = Spool::new(folder.path().join("audit"), "a");
        assert!(spool.write(&line(1)).is_err());
    }
}
