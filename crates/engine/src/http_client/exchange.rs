//! One request and its answer on one connection, within a deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::body::read_body;
use super::connector::ConnectionHistory;
use super::decompress::decompress;
use super::error::{HttpError, Phase};
use super::pool::{HyperClient, Lane};

/// One request, ready to go; cheap to go again.
pub(super) struct Exchange<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    /// Whether the upstream may meet the request twice.
    pub(super) repeatable: bool,
    pub(super) fresh_connection: bool,
    pub(super) max_response_bytes: usize,
}

pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Exchange<'_> {
    /// Sends the request and reads the whole answer.
    pub(super) async fn run(&self, lane: &Lane, deadline: Instant) -> Result<Received, HttpError> {
        // A timer lets through what is ready before it looks at the time.
        if Instant::now() >= deadline {
            return Err(HttpError::TimedOut { sent: false, phase: Phase::Connect });
        }
        let progress = Progress::default();
        within(deadline, &progress, self.send_and_read(lane, &progress)).await
    }

    /// Sends the request; the answer's body is still to come.
    pub(super) async fn open(&self, lane: &Lane, deadline: Instant) -> Result<Response<Incoming>, HttpError> {
        let progress = Progress::default();
        within(deadline, &progress, self.answer(lane, &progress)).await
    }

    async fn answer(&self, lane: &Lane, progress: &Progress) -> Result<Response<Incoming>, HttpError> {
        let first = if self.fresh_connection { &lane.fresh } else { &lane.pooled };
        match self.send(first, progress).await {
            Ok(response) => Ok(response),
            Err((_, true)) if self.repeatable => self.send(&lane.fresh, progress).await.map_err(|(error, _)| error),
            Err((error, _)) => Err(error),
        }
    }

    async fn send_and_read(&self, lane: &Lane, progress: &Progress) -> Result<Received, HttpError> {
        let response = self.answer(lane, progress).await?;
        progress.advance(Phase::Body);
        let (mut head, body) = response.into_parts();
        let body = read_body(body, self.max_response_bytes).await?;
        let body = decompress(&mut head.headers, body, self.max_response_bytes).await?;
        Ok(Received { status: head.status, version: head.version, headers: head.headers, body })
    }

    /// Sends the request. The flag beside an error says that the connection was kept from
    /// an earlier exchange and gone before it brought anything for this one.
    async fn send(&self, client: &HyperClient, progress: &Progress) -> Result<Response<Incoming>, (HttpError, bool)> {
        let mut request = Request::new(OutboundBody::new(self.body.clone(), progress.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        match client.request(request).await {
            Ok(response) => {
                if let Some(history) = response.extensions().get::<ConnectionHistory>() {
                    history.mark_served();
                }
                Ok(response)
            }
            Err(error) => {
                let stale = was_stale(&error);
                let sent = progress.phase() != Phase::Connect;
                Err((HttpError::from_client(error, sent), stale))
            }
        }
    }
}

/// The outcome of work, or how far it had come when the deadline passed.
async fn within<T>(
    deadline: Instant,
    progress: &Progress,
    work: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    match timeout_at(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let phase = progress.phase();
            Err(HttpError::TimedOut { sent: phase != Phase::Connect, phase })
        }
    }
}

fn was_stale(error: &hyper_util::client::legacy::Error) -> bool {
    let mut extensions = http::Extensions::new();
    if let Some(info) = error.connect_info() {
        info.get_extras(&mut extensions);
    }
    extensions.get::<ConnectionHistory>().is_some_and(ConnectionHistory::was_stale)
}

/// How far an exchange has come, seen by the one who waits and told by the body.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    fn advance(&self, phase: Phase) {
        let step = match phase {
            Phase::Connect => 0,
            Phase::Response => 1,
            Phase::Body => 2,
        };
        self.0.fetch_max(step, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Connect,
            1 => Phase::Response,
            _ => Phase::Body,
        }
    }
}

/// A request's body. A connection that takes the request asks the body whether it has
/// anything to send: from then on, bytes of the request may have gone out.
pub(super) struct OutboundBody {
    data: Bytes,
    progress: Progress,
}

impl OutboundBody {
    fn new(data: Bytes, progress: Progress) -> Self {
        Self { data, progress }
    }
}

impl Body for OutboundBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.progress.advance(Phase::Response);
        let data = std::mem::take(&mut self.data);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress.advance(Phase::Response);
        self.data.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
