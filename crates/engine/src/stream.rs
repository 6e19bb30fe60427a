//! Content that passes through the service piece by piece, beside a call's params or instead
//! of its answer's data.
//!
//! Owns: the way of the bytes between a caller and an adapter, what is held of them, and whose
//! fault it is where they stop. Must not know: HTTP, what the content is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, Fuse};
use integration_model::ErrorCode;
use metrics::counter;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::adapter::CallError;

/// How many pieces of a download wait for their caller.
const WAITING_PIECES: usize = 4;

/// Content that goes with a call.
#[derive(Debug, Clone)]
pub enum ContentStream {
    /// The caller sends it.
    Upload(Arc<Upload>),
    /// The caller takes it.
    Download(Arc<Download>),
}

impl ContentStream {
    /// Whether another attempt can be made: nothing of the content is gone.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Upload(upload) => !upload.begun.load(Ordering::Relaxed),
            Self::Download(download) => !download.has_begun(),
        }
    }
}

/// Why a caller's content broke off.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum BrokenContent {
    #[error("the content ended before it was complete")]
    Incomplete,
    #[error("nothing of the content arrived within {} ms", .0.as_millis())]
    Stalled(Duration),
    #[error("the content is larger than {0} bytes, the limit of this service")]
    TooLarge(u64),
}

impl From<BrokenContent> for CallError {
    fn from(broken: BrokenContent) -> Self {
        let code = match broken {
            BrokenContent::TooLarge(_) => ErrorCode::PayloadTooLarge,
            BrokenContent::Incomplete | BrokenContent::Stalled(_) => ErrorCode::MalformedBody,
        };
        Self::not_sent(code, broken.to_string())
    }
}

/// Content that a caller sends, taken in parts.
pub struct Upload {
    /// As far as the caller tells it beforehand.
    length: Option<u64>,
    source: tokio::sync::Mutex<Source>,
    /// Whether a part after the first was asked for.
    begun: AtomicBool,
}

struct Source {
    pieces: Fuse<BoxStream<'static, Result<Bytes, BrokenContent>>>,
    /// What came and is no part's yet.
    rest: Bytes,
    /// Kept until the next one is asked for: another attempt begins with it.
    first: Option<Part>,
}

/// A part of an upload.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) content: Bytes,
    pub(crate) is_last: bool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Upload {
    pub fn new(length: Option<u64>, pieces: BoxStream<'static, Result<Bytes, BrokenContent>>) -> Self {
        let source = Source { pieces: pieces.fuse(), rest: Bytes::new(), first: None };
        Self { length, source: tokio::sync::Mutex::new(source), begun: AtomicBool::new(false) }
    }

    /// Takes what is left and drops it, up to so many bytes.
    pub async fn discard(&self, most: u64) {
        let mut source = self.source.lock().await;
        let mut left = most;
        while let Some(Ok(piece)) = source.pieces.next().await {
            match left.checked_sub(piece.len() as u64) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The first part: `size` bytes, or all there is. The same one again until the next is
    /// asked for.
    pub(crate) async fn first(&self, size: usize, deadline: Instant) -> Result<Part, CallError> {
        let mut source = self.source.lock().await;
        if let Some(part) = &source.first {
            return Ok(part.clone());
        }
        let part = source.read(size, deadline).await?;
        source.first = Some(part.clone());
        Ok(part)
    }

    /// The part after the one before.
    pub(crate) async fn next(&self, size: usize, deadline: Instant) -> Result<Part, CallError> {
        self.begun.store(true, Ordering::Relaxed);
        let mut source = self.source.lock().await;
        source.first = None;
        source.read(size, deadline).await
    }
}

impl From<Bytes> for Upload {
    fn from(content: Bytes) -> Self {
        let length = content.len() as u64;
        Self::new(Some(length), futures_util::stream::iter([Ok(content)]).boxed())
    }
}

impl Source {
    async fn read(&mut self, size: usize, deadline: Instant) -> Result<Part, CallError> {
        let late = || {
            let message = "the deadline passed while the caller's content was waited for";
            CallError { retryable: true, ..CallError::not_sent(ErrorCode::Timeout, message) }
        };
        timeout_at(deadline, self.fill(size)).await.map_err(|_| late())?
    }

    async fn fill(&mut self, size: usize) -> Result<Part, CallError> {
        let mut part = BytesMut::new();
        loop {
            if part.is_empty() && self.rest.len() >= size {
                let content = self.rest.split_to(size);
                return Ok(Part { content, is_last: !self.has_more().await? });
            }
            let taken = self.rest.split_to(self.rest.len().min(size - part.len()));
            if part.is_empty() && !taken.is_empty() {
                part.reserve(size);
            }
            part.extend_from_slice(&taken);
            // A full part is the last one where nothing follows it.
            let is_full = part.len() == size;
            if !self.has_more().await? {
                return Ok(Part { content: part.freeze(), is_last: true });
            }
            if is_full {
                return Ok(Part { content: part.freeze(), is_last: false });
            }
        }
    }

    /// Waits until there is something in `rest`, or nothing comes any more.
    async fn has_more(&mut self) -> Result<bool, CallError> {
        while self.rest.is_empty() {
            match self.pieces.next().await {
                Some(piece) => self.rest = piece?,
                None => return Ok(false),
            }
            counter!("integration_streamed_bytes_total", "direction" => "in").increment(self.rest.len() as u64);
        }
        Ok(true)
    }
}

/// Content that a caller takes.
#[derive(Debug)]
pub struct Download {
    head: Mutex<Option<oneshot::Sender<ContentHead>>>,
    pieces: mpsc::Sender<Bytes>,
}

/// What is known of content before it comes.
#[derive(Debug)]
pub struct ContentHead {
    /// What the answer's data would say besides the content.
    pub facts: Map<String, Value>,
    pub length: Option<u64>,
}

/// The caller's end of a download. Without a head, the call ends with an answer of its own.
#[derive(Debug)]
pub struct Delivery {
    pub head: oneshot::Receiver<ContentHead>,
    /// Its end says that the call has ended; only the call's reply says that it went well.
    pub pieces: mpsc::Receiver<Bytes>,
}

impl Download {
    pub fn new() -> (Self, Delivery) {
        let (head, head_receiver) = oneshot::channel();
        let (pieces, pieces_receiver) = mpsc::channel(WAITING_PIECES);
        (Self { head: Mutex::new(Some(head)), pieces }, Delivery { head: head_receiver, pieces: pieces_receiver })
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Says what comes. From here on, the answer is the content.
    pub(crate) fn begin(&self, head: ContentHead) -> Result<(), CallError> {
        let sender = self.head.lock().unwrap_or_else(PoisonError::into_inner).take();
        sender.and_then(|sender| sender.send(head).ok()).ok_or_else(gone)
    }

    /// Gives the caller a piece; waits until it has taken some of those before.
    pub(crate) async fn send(&self, piece: Bytes, deadline: Instant) -> Result<(), CallError> {
        let size = piece.len() as u64;
        match timeout_at(deadline, self.pieces.send(piece)).await {
            Ok(Ok(())) => {
                counter!("integration_streamed_bytes_total", "direction" => "out").increment(size);
                Ok(())
            }
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                let message = "the deadline passed while the caller took the content";
                Err(CallError::not_sent(ErrorCode::Timeout, message))
            }
        }
    }
}

/// Nobody takes the content any more.
fn gone() -> CallError {
    CallError::not_sent(ErrorCode::Cancelled, "the caller went away before it had the whole content")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn upload(pieces: &[&'static str]) -> Upload {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Upload::new(None, futures_util::stream::iter(pieces).boxed())
    }

    async fn parts(upload: &Upload, size: usize) -> Vec<(String, bool)> {
        let mut parts = Vec::new();
        let mut part = upload.first(size, soon()).await.expect("a part");
        loop {
            parts.push((String::from_utf8_lossy(&part.content).into_owned(), part.is_last));
            if part.is_last {
                return parts;
            }
            part = upload.next(size, soon()).await.expect("a part");
        }
    }

    #[tokio::test]
    async fn content_is_cut_into_parts_of_one_size() {
        let told = |parts: &[(&str, bool)]| -> Vec<(String, bool)> {
            parts.iter().map(|(text, last)| ((*text).to_owned(), *last)).collect()
        };
        assert_eq!(parts(&upload(&["ab", "", "cde", "f"]), 4).await, told(&[("abcd", false), ("ef", true)]));
        assert_eq!(parts(&upload(&["abcdefgh"]), 4).await, told(&[("abcd", false), ("efgh", true)]));
        assert_eq!(parts(&upload(&["a", "bcdefghij"]), 3).await.len(), 4);
        assert_eq!(parts(&upload(&["abc", "d", ""]), 4).await, told(&[("abcd", true)]));
        assert_eq!(parts(&upload(&[]), 4).await, told(&[("", true)]));
    }

    #[tokio::test]
    async fn the_first_part_can_be_had_again_until_the_next_is_asked_for() {
        let upload = Arc::new(upload(&["abcd", "ef"]));
        let stream = ContentStream::Upload(Arc::clone(&upload));
        for _ in 0..2 {
            assert_eq!(upload.first(4, soon()).await.expect("a part").content, "abcd");
            assert!(stream.is_whole());
        }
        assert_eq!(upload.next(4, soon()).await.expect("a part").content, "ef");
        assert!(!stream.is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_stops_is_the_callers_fault() {
        let late = Upload::new(None, futures_util::stream::pending().boxed());
        let error = late.first(4, soon()).await.expect_err("nothing comes");
        assert_eq!((error.code, error.upstream_failed), (ErrorCode::Timeout, false));
        let broken = Upload::new(None, futures_util::stream::iter([Err(BrokenContent::Incomplete)]).boxed());
        let error = broken.first(4, soon()).await.expect_err("it breaks off");
        assert_eq!((error.code, error.upstream_failed), (ErrorCode::MalformedBody, false));

        let (download, delivery) = Download::new();
        for _ in 0..WAITING_PIECES {
            download.send(Bytes::from_static(b"x"), soon()).await.expect("there is room");
        }
        let error = download.send(Bytes::from_static(b"x"), soon()).await.expect_err("nobody takes it");
        assert_eq!((error.code, error.upstream_failed), (ErrorCode::Timeout, false));
        drop(delivery);
        let error = download.send(Bytes::from_static(b"x"), soon()).await.expect_err("nobody is there");
        assert_eq!(error.code, ErrorCode::Cancelled);
    }
}
