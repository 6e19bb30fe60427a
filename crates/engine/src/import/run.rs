//! Imports of a running service: the document behind a URL, and translation beside the
//! threads that serve calls. Must not know the formats.

use std::collections::{BTreeMap, VecDeque};
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

/// How long a document, with all that it refers to, may take to arrive.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The most documents that are fetched for one.
const MAX_FETCHED: usize = 100;

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

/// A document together with those that it refers to.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The one that was asked for.
    pub name: String,
    /// All of them, by their URLs.
    pub files: BTreeMap<String, String>,
    /// What could not be fetched, and why.
    pub missing: Vec<String>,
}

/// What an import of several documents begins with.
pub enum Input {
    Document(Bytes),
    Fetched(Fetched),
}

/// The URLs of the documents that one refers to, by its own and its text.
pub type References = fn(&str, &str) -> Vec<String>;

/// Makes a definition of a document, or of several.
pub type TranslateAll = dyn FnOnce(Input, &Adapters) -> Result<Imported, ImportError> + Send;

impl Engine {
    /// Makes a definition of a foreign document; stores nothing. `format` is the metrics' name
    /// of what is translated.
    pub async fn import(
        &self,
        format: &'static str,
        source: ImportSource,
        translate: Box<Translate>,
    ) -> Result<Imported, EngineError> {
        counted(format, self.run_import(source, translate).await)
    }

    /// Like `import`, of a document that may refer to others: those behind its URL are fetched too.
    pub async fn import_all(
        &self,
        format: &'static str,
        source: ImportSource,
        references: References,
        translate: Box<TranslateAll>,
    ) -> Result<Imported, EngineError> {
        let run = async {
            let input = match source {
                ImportSource::Document(document) => Input::Document(document),
                ImportSource::Url(url) => Input::Fetched(self.fetch_all(&url, references).await?),
                ImportSource::Answer { url, headers, body } => {
                    let deadline = Instant::now() + MAX_WAIT;
                    Input::Document(self.fetch(post(&url, &headers, body)?, deadline).await?.0)
                }
            };
            let adapters = self.adapters.clone();
            let imported = self.long_work.run(move || translate(input, &adapters)).await;
            imported.map_err(|error| EngineError::invalid(error.message, error.problems))
        };
        counted(format, run.await)
    }

    /// The document at a URL with what it refers to. What is missing is told, but for the first.
    async fn fetch_all(&self, url: &str, references: References) -> Result<Fetched, EngineError> {
        let deadline = Instant::now() + MAX_WAIT;
        let (first, origin) = self.fetch(get(url)?, deadline).await?;
        let mut fetched = Fetched { name: origin.to_string(), ..Fetched::default() };
        let mut total = 0;
        let mut waiting = VecDeque::from([(fetched.name.clone(), first)]);
        while let Some((name, document)) = waiting.pop_front() {
            total += document.len();
            if total > MAX_DOCUMENT_BYTES {
                let message = format!("expected documents of at most {MAX_DOCUMENT_BYTES} bytes in all");
                return Err(EngineError::invalid(message, Vec::new()));
            }
            let Ok(text) = String::from_utf8(document.into()) else {
                fetched.missing.push(format!("{name} is not UTF-8"));
                continue;
            };
            let own = name.clone();
            let (text, wanted) = self
                .long_work
                .run(move || {
                    let wanted = references(&own, &text);
                    (text, wanted)
                })
                .await;
            fetched.files.insert(name, text);
            for url in wanted {
                let is_known = fetched.files.contains_key(&url) || waiting.iter().any(|(waiting, _)| *waiting == url);
                if is_known || fetched.files.len() + waiting.len() + fetched.missing.len() >= MAX_FETCHED {
                    continue;
                }
                let found = match get(&url) {
                    Ok(request) => self.fetch(request, deadline).await,
                    Err(error) => Err(error),
                };
                match found {
                    Ok((document, _)) => waiting.push_back((url, document)),
                    Err(error) => fetched.missing.push(format!("{url}: {error}")),
                }
            }
        }
        Ok(fetched)
    }

    async fn run_import(&self, source: ImportSource, translate: Box<Translate>) -> Result<Imported, EngineError> {
        let deadline = Instant::now() + MAX_WAIT;
        let (document, origin) = match source {
            ImportSource::Document(document) => (document, None),
            ImportSource::Url(url) => {
                let (document, origin) = self.fetch(get(&url)?, deadline).await?;
                (document, Some(origin))
            }
            ImportSource::Answer { url, headers, body } => {
                let (document, origin) = self.fetch(post(&url, &headers, body)?, deadline).await?;
                (document, Some(origin))
            }
        };
        let adapters = self.adapters.clone();
        let imported = self.long_work.run(move || translate(&document, origin.as_ref(), &adapters)).await;
        imported.map_err(|error| EngineError::invalid(error.message, error.problems))
    }

    /// The document that is answered, and where it was found.
    async fn fetch(&self, request: OutboundRequest, deadline: Instant) -> Result<(Bytes, Url), EngineError> {
        let external = |code, message| EngineError::External {
            code,
            message: format!("the document cannot be fetched: {message}"),
        };
        let response = self.http.send(request, deadline).await.map_err(|error| {
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

fn counted(format: &'static str, result: Result<Imported, EngineError>) -> Result<Imported, EngineError> {
    let outcome = if result.is_ok() { "translated" } else { "refused" };
    counter!("integration_imports_total", "format" => format, "outcome" => outcome).increment(1);
    result
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
