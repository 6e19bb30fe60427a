//! Exchanges with the systems over HTTP: signed, sent, read.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, StatusCode, header};
use integration_model::ErrorCode;
use serde_json::Value;
use tokio::time::Instant;

use super::access::Access;
use super::answers::{read_xml, refusal};
use super::config::Site;
use super::request::StorageRequest;
use super::signature_v4::sha256;
use crate::adapter::http::connection::{TlsProfiles, deadline};
use crate::adapter::http::decode::beside_the_runtime;
use crate::adapter::http::errors::from_http_error;
use crate::adapter::{CallError, Connection, Effect};
use crate::http_client::{HttpError, InboundResponse, OpenResponse, OutboundRequest, RedirectMode, RedirectPolicy};
use crate::network::TlsProfile;

const USER_AGENT: &str = concat!("integration-service/", env!("CARGO_PKG_VERSION"));
/// The largest refusal that is read where content may be smaller.
pub(super) const MAX_REFUSAL: usize = 64 * 1024;
/// The largest answer that is no object's content.
pub(super) const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// The way to one bucket.
pub(super) struct Client<'a> {
    connection: Connection<'a>,
    pub(super) site: Site,
    pub(super) access: Access<'a>,
    profile: Option<Arc<TlsProfile>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(connection: Connection<'a>, site: Site, profiles: &TlsProfiles) -> Result<Self, CallError> {
        let access = Access::of(site.provider, connection.credential).map_err(|problem| {
            CallError::not_sent(ErrorCode::Auth, format!("the credential does not fit: {problem}"))
        })?;
        let profile = profiles.of(&connection)?;
        Ok(Self { connection, site, access, profile })
    }

    /// The same for what has to be done after the call's own deadline.
    pub(super) fn until(&self, deadline: Instant) -> Client<'_> {
        let (access, site, profile) = (self.access.clone(), self.site.clone(), self.profile.clone());
        Client { connection: Connection { deadline, ..self.connection }, site, access, profile }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.connection.deadline
    }

    /// Sends a request; whatever its status says is given back.
    pub(super) async fn send(
        &self,
        request: StorageRequest,
        max_response_bytes: usize,
        repeatable: bool,
    ) -> Result<(InboundResponse, StorageRequest), CallError> {
        let (outbound, request) = self.prepare(request, max_response_bytes, repeatable).await?;
        match self.connection.http.send(outbound, deadline(&self.connection)).await {
            Ok(response) => Ok((response, request)),
            Err(HttpError::TooLarge { limit }) => Err(too_large(limit)),
            Err(error) => Err(from_http_error(&error)),
        }
    }

    /// The same, with an answer whose content is still to come.
    pub(super) async fn open(&self, request: StorageRequest) -> Result<(OpenResponse, StorageRequest), CallError> {
        let (outbound, request) = self.prepare(request, 0, true).await?;
        let response = self.connection.http.open(outbound, deadline(&self.connection)).await;
        response.map(|response| (response, request)).map_err(|error| from_http_error(&error))
    }

    /// The next piece of content, within the time that one request may take.
    pub(super) async fn next(&self, response: &mut OpenResponse) -> Result<Option<Bytes>, CallError> {
        response.next(deadline(&self.connection)).await.map_err(|error| from_http_error(&error))
    }

    /// An answer as a whole that was to hold content and holds a refusal.
    pub(super) async fn read(&self, response: OpenResponse) -> Result<InboundResponse, CallError> {
        response.read(MAX_REFUSAL, deadline(&self.connection)).await.map_err(|error| from_http_error(&error))
    }

    async fn prepare(
        &self,
        mut request: StorageRequest,
        max_response_bytes: usize,
        repeatable: bool,
    ) -> Result<(OutboundRequest, StorageRequest), CallError> {
        let body = request.body.clone();
        let payload_hash = match self.access {
            Access::KeyPair { .. } => beside_the_runtime(body.len(), move || Ok(sha256(&body)))
                .await
                .map_err(|message| CallError::not_sent(ErrorCode::Internal, message))?,
            _ => String::new(),
        };
        self.access.sign(&self.site, &mut request, &payload_hash, self.connection.now)?;
        let mut headers = request.headers.clone();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if request.body.is_empty() && matches!(request.verb, Verb::PUT | Verb::POST) {
            // Left out, as it would be, it is an error to these systems (411).
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
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
        Ok((outbound, request))
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
}

/// An object that is larger than an answer may be.
pub(super) fn too_large(limit: usize) -> CallError {
    let message = format!(
        "the object is larger than {limit} bytes: read it in ranges, as a stream (Accept: application/octet-stream), or by the URL of a presign method"
    );
    CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
        .with_detail("maxResponseBytes", limit)
}

pub(super) fn is_not_modified(status: StatusCode) -> bool {
    status == StatusCode::NOT_MODIFIED
}

/// How large an object is of which an answer holds a part or nothing.
pub(super) fn size_of(headers: &HeaderMap) -> Option<Value> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let whole = text(header::CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).map(|(_, whole)| whole);
    let size: Option<u64> = whole.or(text(header::CONTENT_LENGTH)).and_then(|size| size.parse().ok());
    size.map(Value::from)
}
