//! Content on its way into an object: whole, or in parts where it is larger than one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use integration_model::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::answers::{bare, read_xml, text_of, unreadable};
use super::client::{Client, MAX_ANSWER};
use super::config::Provider;
use super::wanted::Wanted;
use crate::adapter::{CallError, Effect};
use crate::http_client::InboundResponse;
use crate::stream::{Part, Upload};

/// What all uploads together may hold of their content, in KiB. One holds two parts.
const MEMORY: usize = 512 * 1024;
/// The most parts that each of the systems takes.
const MAX_PARTS: usize = 10_000;
/// How long giving up an upload may take beyond the call's own deadline.
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
        let no_effect = |error: CallError| CallError { effect: Effect::None, ..error };
        if upload.length().is_some_and(|length| length.div_ceil(part as u64) > MAX_PARTS as u64) {
            return Err(too_many_parts(part));
        }
        let id = self.begin(wanted).await.map_err(no_effect)?;
        match self.send_parts(&wanted.key, &id, first, upload, part).await {
            Ok((etags, size)) => {
                let (new, conditions) = (&wanted.new, &wanted.conditions);
                let request = self.site.complete_upload(&wanted.key, &id, &etags, new, conditions)?;
                let completed = self.ask(request, false).await;
                if completed.as_ref().is_err_and(|error| error.effect == Effect::Answered) {
                    self.abort(&wanted.key, &id).await;
                }
                Ok((completed?, size))
            }
            Err(error) => {
                self.abort(&wanted.key, &id).await;
                Err(no_effect(error))
            }
        }
    }

    /// The id of a new upload.
    async fn begin(&self, wanted: &Wanted) -> Result<String, CallError> {
        if self.site.provider == Provider::Azure {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random)
                .map_err(|_| CallError::not_sent(ErrorCode::Internal, "no random numbers are to be had"))?;
            return Ok(super::signature_v4::hex(&random));
        }
        let response = self.ask(self.site.begin_upload(&wanted.key, &wanted.new)?, false).await?;
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
            let (etag, next) = tokio::try_join!(sending, upload.next(size, self.deadline()))?;
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

fn too_many_parts(part: usize) -> CallError {
    let message =
        format!("the content is larger than {MAX_PARTS} parts of {part} bytes: the method needs a larger partBytes");
    CallError::not_sent(ErrorCode::PayloadTooLarge, message)
}
