//! The base URL as one endpoint that takes everything by POST, as protocols do that HTTP
//! merely carries.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method as Verb, Uri, header};
use integration_model::ErrorCode;
use serde_json::Value;

use super::base_url::BaseUrl;
use super::connection::{TlsProfiles, base_url, deadline};
use super::errors::from_http_error;
use super::headers::RequestHeaders;
use super::query::QueryString;
use super::request::{Request, shown_request};
use crate::adapter::{Call, CallError};
use crate::credential::REDACTED;
use crate::http_client::{InboundResponse, OutboundRequest, RedirectPolicy};

/// Where the operations of one method are posted to, and with which headers.
pub(in crate::adapter) struct Endpoint {
    pub(in crate::adapter) profiles: Arc<TlsProfiles>,
    pub(in crate::adapter) headers: RequestHeaders,
    pub(in crate::adapter) content_type: HeaderValue,
    pub(in crate::adapter) max_response_bytes: usize,
    /// Whether the upstream may meet a request twice.
    pub(in crate::adapter) repeatable: bool,
}

/// What of a request proves the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapter) enum Proof {
    /// Its headers, or its query.
    Head,
    /// The body has it in itself.
    Body,
}

impl Endpoint {
    /// Sends a body and reads the whole answer, whatever its status.
    pub(in crate::adapter) async fn post(&self, call: &Call<'_>, body: Bytes) -> Result<InboundResponse, CallError> {
        self.post_proven(call, body, Proof::Head).await
    }

    /// Sends a body that may prove the caller itself.
    pub(in crate::adapter) async fn post_proven(
        &self,
        call: &Call<'_>,
        body: Bytes,
        proof: Proof,
    ) -> Result<InboundResponse, CallError> {
        let connection = &call.connection;
        let Request { url, headers, body } = self.request(call, body, proof, None)?;
        let request = OutboundRequest {
            method: Verb::POST,
            url,
            headers,
            body,
            profile: self.profiles.of(connection)?,
            redirects: RedirectPolicy::default(),
            max_response_bytes: self.max_response_bytes,
            repeatable: self.repeatable,
            fresh_connection: false,
        };
        connection.http.send(request, deadline(connection)).await.map_err(|error| from_http_error(&error))
    }

    /// The request that [`Endpoint::post`] would send, secrets redacted.
    pub(in crate::adapter) fn preview(&self, call: &Call<'_>, body: Bytes) -> Result<Value, CallError> {
        self.preview_proven(call, body, Proof::Head)
    }

    pub(in crate::adapter) fn preview_proven(
        &self,
        call: &Call<'_>,
        body: Bytes,
        proof: Proof,
    ) -> Result<Value, CallError> {
        let request = self.request(call, body, proof, Some(REDACTED))?;
        Ok(shown_request(&Verb::POST, &request, call.connection.credential))
    }

    fn request(
        &self,
        call: &Call<'_>,
        body: Bytes,
        proof: Proof,
        redacted: Option<&str>,
    ) -> Result<Request, CallError> {
        let connection = &call.connection;
        let base = base_url(connection)?;
        let mut headers = self.headers.of_instance(connection.config.http());
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        self.headers.add_of_call(call, &mut headers)?;
        // The credential comes last: nothing a caller says can stand in its place.
        let mut secrets = Vec::new();
        if proof == Proof::Head {
            connection.credential.apply(connection.custom_auth, &mut headers, &mut secrets)?;
        }
        if let Some(redacted) = redacted {
            secrets.iter_mut().for_each(|(_, value)| *value = redacted);
        }
        Ok(Request { url: url(base, &base.path, &secrets)?, headers, body })
    }
}

/// A URL of the base URL's host, with a path and with what goes with every request.
pub(super) fn url(base: &BaseUrl, path: &str, secrets: &[(&str, &str)]) -> Result<Uri, CallError> {
    let mut target = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    let mut query = QueryString::after(&mut target);
    query.push_raw(&base.query);
    secrets.iter().for_each(|(name, value)| query.push(name, value));
    let invalid = |_| CallError::not_sent(ErrorCode::InstanceNotReady, "the base URL is no valid URL");
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|error| invalid(error.into()))?;
    Uri::builder()
        .scheme(base.scheme.clone())
        .authority(base.authority.clone())
        .path_and_query(target)
        .build()
        .map_err(invalid)
}
