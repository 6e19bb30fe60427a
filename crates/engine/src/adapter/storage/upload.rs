//! Content on its way into an object in parts, and copies of what is large.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method as Verb, header};
use integration_model::ErrorCode;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::answers::{bare, read_xml, text_of, unreadable};
use super::client::{Client, MAX_ANSWER, size_of};
use super::config::Provider;
use super::request::NewObject;
use super::wanted::Wanted;
use crate::adapter::{CallError, Effect};
use crate::http_client::InboundResponse;
use crate::stream::{Part, Upload};

/// What all uploads together may hold of their content, in KiB. One holds two parts.
const MEMORY: usize = 512 * 1024;
/// The most parts that each of the systems takes.
const MAX_PARTS: usize = 10_000;
/// How much S3 copies at once, and how much of what is larger in each part.
const MAX_COPY: u64 = 5 << 30;
const COPY_PART: u64 = 1 << 30;
/// How long giving up an upload may take beyond the call's own deadline, and how long a part that is
/// under way is waited for before.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Room for the parts of uploads under way; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct PartMemory(Arc<Semaphore>);

impl Default for PartMemory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY)))
    }
}

impl PartMemory {
    pub(super) fn reserve(&self, upload: &Upload, part: usize) -> Result<OwnedSemaphorePermit, CallError> {
        let two = part.saturating_mul(2);
        let bytes =
            upload.length().and_then(|length| usize::try_from(length).ok()).map_or(two, |length| length.min(two));
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(wanted).map_err(|_| {
            let message = "too much content is on its way into objects; try again in a moment";
            CallError { retryable: true, ..CallError::not_sent(ErrorCode::Overloaded, message) }
        })
    }
}

impl Client<'_> {
    /// Uploads content in parts of which the first is given: one is sent while the next is
    /// waited for. Until the last request, nothing can be seen of them: what fails before has no
    /// effect, and is given up. Gives how much it was, too.
    pub(super) async fn put_in_parts(
        &self,
        wanted: &Wanted,
        first: Part,
        upload: &Upload,
        part: usize,
    ) -> Result<(InboundResponse, u64), CallError> {
        if upload.length().is_some_and(|length| length.div_ceil(part as u64) > MAX_PARTS as u64) {
            return Err(too_many_parts(part));
        }
        let id = self.begin(&wanted.key, &wanted.new).await?;
        let (etags, size) = match self.send_parts(&wanted.key, &id, first, upload, part).await {
            Ok((etags, size)) => (Ok(etags), size),
            Err(error) => (Err(error), 0),
        };
        Ok((self.finish(wanted, &id, etags, &wanted.new).await?, size))
    }

    /// Copies an object in parts that is too large for S3 to copy it at once; gives the refusal
    /// back where that is not why.
    pub(super) async fn copy_in_parts(
        &self,
        wanted: &Wanted,
        refusal: CallError,
    ) -> Result<InboundResponse, CallError> {
        let (head, _) = self.send(self.site.object(Verb::HEAD, &wanted.source), MAX_ANSWER, true).await?;
        let size = size_of(&head.headers).as_ref().and_then(Value::as_u64).unwrap_or_default();
        if !head.status.is_success() || size <= MAX_COPY {
            return Err(refusal);
        }
        let new = NewObject::like(&head.headers, self.site.provider);
        let etag = head.headers.get(header::ETAG).and_then(|value| value.to_str().ok()).unwrap_or("*");
        let id = self.begin(&wanted.key, &new).await?;
        let etags = self.copy_parts(wanted, &id, size, etag).await;
        self.finish(wanted, &id, etags, &new).await
    }

    async fn copy_parts(&self, wanted: &Wanted, id: &str, size: u64, etag: &str) -> Result<Vec<String>, CallError> {
        let mut etags = Vec::new();
        let mut first = 0;
        while first < size {
            let last = size.min(first + COPY_PART) - 1;
            let mut request = self.site.put_part(&wanted.key, id, etags.len() + 1, Bytes::new());
            request.set("x-amz-copy-source", &self.site.copy_source(&wanted.source))?;
            request.set("x-amz-copy-source-range", &format!("bytes={first}-{last}"))?;
            // All parts are of one object, whoever writes another meanwhile.
            request.set("x-amz-copy-source-if-match", etag)?;
            let response = self.ask(request, true).await?;
            let (_, answer) = read_xml(&response.body).map_err(|fault| unreadable(&response, &fault))?;
            let etag = text_of(&answer["ETag"]).ok_or_else(|| unreadable(&response, "it names no etag of the part"))?;
            etags.push(format!("\"{}\"", bare(etag)));
            first = last + 1;
        }
        Ok(etags)
    }

    /// Makes an object of the parts, or gives them up. What fails before has no effect.
    async fn finish(
        &self,
        wanted: &Wanted,
        id: &str,
        etags: Result<Vec<String>, CallError>,
        new: &NewObject,
    ) -> Result<InboundResponse, CallError> {
        let finished = match etags {
            Ok(etags) => {
                let request = self.site.complete_upload(&wanted.key, id, &etags, new, &wanted.conditions)?;
                self.ask(request, false).await
            }
            Err(error) => Err(no_effect(error)),
        };
        if finished.as_ref().is_err_and(|error| error.effect != Effect::Unknown) {
            self.abort(&wanted.key, id).await;
        }
        finished
    }

    /// The id of a new upload.
    async fn begin(&self, key: &str, new: &NewObject) -> Result<String, CallError> {
        if self.site.provider == Provider::Azure {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random)
                .map_err(|_| CallError::not_sent(ErrorCode::Internal, "no random numbers are to be had"))?;
            return Ok(super::signature_v4::hex(&random));
        }
        let response = self.ask(self.site.begin_upload(key, new)?, false).await.map_err(no_effect)?;
        let (_, answer) = read_xml(&response.body).map_err(|fault| unreadable(&response, &fault))?;
        text_of(&answer["UploadId"]).map(str::to_owned).ok_or_else(|| unreadable(&response, "it names no upload"))
    }

    /// The etags of all parts, and how much was in them.
    async fn send_parts(
        &self,
        key: &str,
        id: &str,
        first: Part,
        upload: &Upload,
        size: usize,
    ) -> Result<(Vec<String>, u64), CallError> {
        let (mut part, mut etags, mut sent) = (first, Vec::new(), 0);
        loop {
            sent += part.content.len() as u64;
            if etags.len() == MAX_PARTS {
                return Err(too_many_parts(size));
            }
            let sending = self.send_part(key, id, etags.len() + 1, part.content);
            if part.is_last {
                etags.push(sending.await?);
                return Ok((etags, sent));
            }
            let next = upload.next(size, self.deadline());
            let (etag, next) = match select(pin!(sending), pin!(next)).await {
                Either::Left((etag, next)) => (etag?, next.await?),
                Either::Right((Ok(next), sending)) => (sending.await?, next),
                Either::Right((Err(broken), sending)) => {
                    // A part that is taken after its upload was given up would stay for good.
                    let _ = timeout(ABORT_GRACE, sending).await;
                    return Err(broken);
                }
            };
            etags.push(etag);
            part = next;
        }
    }

    async fn send_part(&self, key: &str, id: &str, number: usize, content: Bytes) -> Result<String, CallError> {
        // A part that comes twice is still one.
        let response = self.ask(self.site.put_part(key, id, number, content), true).await?;
        let etag = response.headers.get(header::ETAG).and_then(|value| value.to_str().ok());
        match etag {
            Some(etag) => Ok(format!("\"{}\"", bare(etag))),
            None if self.site.provider == Provider::Azure => Ok(String::new()),
            None => Err(unreadable(&response, "it names no etag of the part")),
        }
    }

    /// Gives up an upload as far as that goes: systems give up old ones by rules of their own.
    async fn abort(&self, key: &str, id: &str) {
        let Some(request) = self.site.abort_upload(key, id) else { return };
        let _ = self.until(Instant::now() + ABORT_GRACE).send(request, MAX_ANSWER, true).await;
    }
}

/// An upload that was only begun changes nothing that can be seen.
fn no_effect(error: CallError) -> CallError {
    CallError { effect: Effect::None, ..error }
}

fn too_many_parts(part: usize) -> CallError {
    let message =
        format!("the content is larger than {MAX_PARTS} parts of {part} bytes: the method needs a larger partBytes");
    CallError::not_sent(ErrorCode::PayloadTooLarge, message)
}
