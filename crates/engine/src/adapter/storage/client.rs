//! Exchanges with the systems over HTTP: signed, sent, read; content in parts where it is large.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method as Verb, StatusCode, header};
use integration_model::ErrorCode;
use serde_json::Value;
use tokio::time::Instant;

use super::access::Access;
use super::answers::{bare, read_xml, refusal, text_of, unreadable};
use super::config::{Provider, Site};
use super::request::{Conditions, NewObject, StorageRequest};
use crate::adapter::http::connection::{Connections, deadline};
use crate::adapter::http::errors::from_http_error;
use crate::adapter::{CallError, Connection, Effect};
use crate::http_client::{HttpError, InboundResponse, OutboundRequest, RedirectMode, RedirectPolicy};
use crate::network::TlsProfile;

const USER_AGENT: &str = concat!("integration-service/", env!("CARGO_PKG_VERSION"));
/// The largest refusal that is read where content may be smaller.
pub(super) const MAX_REFUSAL: usize = 64 * 1024;
/// The largest answer that is no object's content.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How long giving up an upload may take beyond the call's own deadline.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// The way to one bucket.
pub(super) struct Client<'a> {
    connection: Connection<'a>,
    pub(super) site: Site,
    pub(super) access: Access<'a>,
    profile: Option<Arc<TlsProfile>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(connection: Connection<'a>, site: Site, connections: &Connections) -> Result<Self, CallError> {
        let access = Access::of(site.provider, connection.credential).map_err(|problem| {
            CallError::not_sent(ErrorCode::Auth, format!("the credential does not fit: {problem}"))
        })?;
        let profile = connections.profile(&connection)?;
        Ok(Self { connection, site, access, profile })
    }

    /// Sends a request; whatever its status says is given back.
    pub(super) async fn send(
        &self,
        mut request: StorageRequest,
        max_response_bytes: usize,
        repeatable: bool,
    ) -> Result<(InboundResponse, StorageRequest), CallError> {
        self.access.sign(&self.site, &mut request, self.connection.now)?;
        let mut headers = request.headers.clone();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let outbound = OutboundRequest {
            method: request.verb.clone(),
            url: self.site.url(&request)?,
            headers,
            body: request.body.clone(),
            profile: self.profile.clone(),
            // A signature is good for one host and path.
            redirects: RedirectPolicy { mode: RedirectMode::None, ..RedirectPolicy::default() },
            max_response_bytes,
            repeatable,
            fresh_connection: false,
        };
        let response = self.connection.http.send(outbound, deadline(&self.connection)).await;
        match response {
            Ok(response) => Ok((response, request)),
            Err(HttpError::TooLarge { limit }) => Err(too_large(limit)),
            Err(error) => Err(from_http_error(&error)),
        }
    }

    /// Sends a request that has to succeed.
    pub(super) async fn ask(&self, request: StorageRequest, repeatable: bool) -> Result<InboundResponse, CallError> {
        let (response, request) = self.send(request, MAX_ANSWER, repeatable).await?;
        if !response.status.is_success() {
            return Err(self.refusal(&response, &request));
        }
        // Some operations answer 200 first and say later that they failed.
        if request.verb != Verb::GET && read_xml(&response.body).is_ok_and(|(name, _)| name == "Error") {
            return Err(self.refusal(&response, &request));
        }
        Ok(response)
    }

    pub(super) fn refusal(&self, response: &InboundResponse, request: &StorageRequest) -> CallError {
        refusal(response, request, self.connection.credential)
    }

    /// Whether content of this size goes in parts. Google takes conditions for whole objects alone.
    pub(super) fn goes_in_parts(&self, size: usize, part: usize, conditions: &Conditions) -> bool {
        size > part && (self.site.provider != Provider::Gcs || conditions.is_empty())
    }

    /// Uploads content in parts, one after the other. Until the last request, nothing can be
    /// seen of them: what fails before has no effect, and is given up.
    pub(super) async fn put_in_parts(
        &self,
        key: &str,
        content: &Bytes,
        part: usize,
        new: &NewObject,
        conditions: &Conditions,
    ) -> Result<InboundResponse, CallError> {
        let no_effect = |error: CallError| CallError { effect: Effect::None, ..error };
        let upload = self.begin(key, new).await.map_err(no_effect)?;
        match self.send_parts(key, &upload, content, part).await {
            Ok(etags) => {
                let request = self.site.complete_upload(key, &upload, &etags, new, conditions)?;
                let completed = self.ask(request, false).await;
                if completed.as_ref().is_err_and(|error| error.effect == Effect::Answered) {
                    self.abort(key, &upload).await;
                }
                completed
            }
            Err(error) => {
                self.abort(key, &upload).await;
                Err(no_effect(error))
            }
        }
    }

    /// The id of a new upload.
    async fn begin(&self, key: &str, new: &NewObject) -> Result<String, CallError> {
        if self.site.provider == Provider::Azure {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random)
                .map_err(|_| CallError::not_sent(ErrorCode::Internal, "no random numbers are to be had"))?;
            return Ok(super::signature_v4::hex(&random));
        }
        let response = self.ask(self.site.begin_upload(key, new)?, false).await?;
        let (_, answer) = read_xml(&response.body).map_err(|fault| unreadable(&response, &fault))?;
        text_of(&answer["UploadId"]).map(str::to_owned).ok_or_else(|| unreadable(&response, "it names no upload"))
    }

    async fn send_parts(
        &self,
        key: &str,
        upload: &str,
        content: &Bytes,
        part: usize,
    ) -> Result<Vec<String>, CallError> {
        let mut etags = Vec::new();
        for start in (0..content.len()).step_by(part) {
            let piece = content.slice(start..content.len().min(start + part));
            // A part that comes twice is still one.
            let response = self.ask(self.site.put_part(key, upload, etags.len() + 1, piece), true).await?;
            let etag = response.headers.get(header::ETAG).and_then(|value| value.to_str().ok());
            match etag {
                Some(etag) => etags.push(format!("\"{}\"", bare(etag))),
                None if self.site.provider == Provider::Azure => etags.push(String::new()),
                None => return Err(unreadable(&response, "it names no etag of the part")),
            }
        }
        Ok(etags)
    }

    /// Gives up an upload as far as that goes: systems give up old ones by rules of their own.
    async fn abort(&self, key: &str, upload: &str) {
        let Some(request) = self.site.abort_upload(key, upload) else { return };
        let connection = Connection { deadline: Instant::now() + ABORT_GRACE, ..self.connection };
        let Ok(access) = Access::of(self.site.provider, connection.credential) else { return };
        let client = Client { connection, site: self.site.clone(), access, profile: self.profile.clone() };
        let _ = client.send(request, MAX_ANSWER, true).await;
    }
}

/// An object that is larger than an answer may be.
pub(super) fn too_large(limit: usize) -> CallError {
    let message =
        format!("the object is larger than {limit} bytes: read it in ranges, or by the URL of a presign method");
    CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
        .with_detail("maxResponseBytes", limit)
}

pub(super) fn is_not_modified(response: &InboundResponse) -> bool {
    response.status == StatusCode::NOT_MODIFIED
}

/// How large an object is of which an answer holds a part or nothing.
pub(super) fn size_of(response: &InboundResponse) -> Option<Value> {
    let text = |name| response.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let whole = text(header::CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).map(|(_, whole)| whole);
    let size: Option<u64> = whole.or(text(header::CONTENT_LENGTH)).and_then(|size| size.parse().ok());
    size.map(Value::from)
}
