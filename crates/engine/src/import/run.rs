//! Imports of a running service: the document behind a URL, and translation beside the
//! threads that serve calls. Must not know the formats.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use metrics::counter;
use tokio::time::Instant;
use url::Url;

use super::{ImportError, Imported, MAX_DOCUMENT_BYTES};
use crate::adapter::http::{from_http_error, is_reserved_header};
use crate::adapter::{Adapters, CallError};
use crate::config_fields::parse_endpoint;
use crate::http_client::{OutboundRequest, RedirectMode, RedirectPolicy};
use crate::{Engine, EngineError};

/// How long a document may take to arrive.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where a document is.
#[derive(Debug, Clone)]
pub enum ImportSource {
    Document(Bytes),
    /// Fetched as calls are made: under the egress policy, without any credential.
    Url(String),
    /// What an endpoint answers to JSON that is posted to it with these headers, which may hold
    /// secrets: redirects are followed within its origin alone.
    Answer {
        url: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
    },
}

/// Makes a definition of a document's bytes and the URL that it came from.
pub type Translate = dyn FnOnce(&[u8], Option<&Url>, &Adapters) -> Result<Imported, ImportError> + Send;

impl Engine {
    /// Makes a definition of a foreign document; stores nothing. `format` is the metrics' name
    /// of what is translated.
    pub async fn import(
        &self,
        format: &'static str,
        source: ImportSource,
        translate: Box<Translate>,
    ) -> Result<Imported, EngineError> {
        let result = self.run_import(source, translate).await;
        let outcome = if result.is_ok() { "translated" } else { "refused" };
        counter!("integration_imports_total", "format" => format, "outcome" => outcome).increment(1);
        result
    }

    async fn run_import(&self, source: ImportSource, translate: Box<Translate>) -> Result<Imported, EngineError> {
        let (document, origin) = match source {
            ImportSource::Document(document) => (document, None),
            ImportSource::Url(url) => {
                let (document, origin) = self.fetch(get(&url)?).await?;
                (document, Some(origin))
            }
            ImportSource::Answer { url, headers, body } => {
                let (document, origin) = self.fetch(post(&url, &headers, body)?).await?;
                (document, Some(origin))
            }
        };
        let adapters = self.adapters.clone();
        let imported = self.long_work.run(move || translate(&document, origin.as_ref(), &adapters)).await;
        imported.map_err(|error| EngineError::invalid(error.message, error.problems))
    }

    /// The document that is answered, and where it was found.
    async fn fetch(&self, request: OutboundRequest) -> Result<(Bytes, Url), EngineError> {
        let external = |code, message| EngineError::External {
            code,
            message: format!("the document cannot be fetched: {message}"),
        };
        let response = self.http.send(request, Instant::now() + MAX_WAIT).await.map_err(|error| {
            let CallError { code, message, .. } = from_http_error(&error);
            external(code, message)
        })?;
        if response.status != StatusCode::OK {
            return Err(external(ErrorCode::Upstream, format!("the server answered {}", response.status.as_u16())));
        }
        let origin = Url::parse(&response.url.to_string()).map_err(|error| wrong("/url", error.to_string()))?;
        Ok((response.body, origin))
    }
}

fn wrong(pointer: &str, message: impl Into<String>) -> EngineError {
    EngineError::invalid("the document cannot be fetched", vec![Problem::new(pointer, message)])
}

fn get(url: &str) -> Result<OutboundRequest, EngineError> {
    let accept = HeaderValue::from_static("application/json, application/yaml, application/xml;q=0.9, */*;q=0.5");
    Ok(OutboundRequest {
        method: Method::GET,
        url: parse_endpoint(url).map_err(|message| wrong("/url", message))?,
        headers: HeaderMap::from_iter([(header::ACCEPT, accept)]),
        body: Bytes::new(),
        profile: None,
        redirects: RedirectPolicy { mode: RedirectMode::Follow, ..RedirectPolicy::default() },
        max_response_bytes: MAX_DOCUMENT_BYTES,
        repeatable: true,
        fresh_connection: false,
    })
}

fn post(url: &str, headers: &BTreeMap<String, String>, body: Bytes) -> Result<OutboundRequest, EngineError> {
    let json = HeaderValue::from_static("application/json");
    let mut all = HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
    for (name, value) in headers {
        let pointer = push_pointer("/headers", name);
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !is_reserved_header(name.as_str()));
        let name = name.ok_or_else(|| wrong(&pointer, "expected a header that does not belong to the connection"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| wrong(&pointer, "expected a value without control characters"))?;
        value.set_sensitive(true);
        all.insert(name, value);
    }
    Ok(OutboundRequest {
        method: Method::POST,
        url: parse_endpoint(url).map_err(|message| wrong("/endpoint", message))?,
        headers: all,
        body,
        profile: None,
        redirects: RedirectPolicy { mode: RedirectMode::SameOrigin, ..RedirectPolicy::default() },
        max_response_bytes: MAX_DOCUMENT_BYTES,
        repeatable: true,
        fresh_connection: false,
    })
}
