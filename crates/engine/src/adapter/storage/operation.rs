//! One operation, compiled: from a call to requests, from answers to data.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method as Verb, header};
use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::answers::{Page, bare, object, page, read_xml, text_of, unreadable};
use super::client::{Client, MAX_REFUSAL, is_not_modified, size_of, too_large};
use super::config::{Provider, StorageConfig, unusable};
use super::content;
use super::folder::Folder;
use super::request::StorageRequest;
use super::spec::{Action, OperationSpec};
use super::upload::PartMemory;
use super::wanted::Wanted;
use crate::adapter::http::connection::TlsProfiles;
use crate::adapter::http::limits::limits;
use crate::adapter::http::request::{Request, shown_request};
use crate::adapter::{Answer, Call, CallError, Effect, Operation, PageCursor, UpstreamLimits};
use crate::credential::REDACTED;
use crate::data::Data;
use crate::http_client::InboundResponse;
use crate::stream::{ContentHead, ContentStream, Download, Upload};

pub(super) struct StorageOperation {
    spec: OperationSpec,
    profiles: Arc<TlsProfiles>,
    folder: Folder,
    memory: PartMemory,
    /// Whether a system may meet a request twice.
    repeatable: bool,
}

impl StorageOperation {
    pub(super) fn compile(
        method: &Method,
        profiles: Arc<TlsProfiles>,
        folder: Folder,
        memory: PartMemory,
    ) -> Result<Self, Vec<Problem>> {
        let spec = OperationSpec::read(method)?;
        let repeatable = method.idempotent || spec.action.is_read();
        Ok(Self { spec, profiles, folder, memory, repeatable })
    }

    async fn run(&self, call: Call<'_>, stream: Option<&ContentStream>) -> Result<Answer, CallError> {
        let config = StorageConfig::read(call.connection.config)?;
        let wanted = Wanted::of(&self.spec, &config, &call)?;
        if config.provider == Provider::Folder {
            return self.folder.run(&config, wanted, &self.spec, stream, call.connection.deadline).await;
        }
        let site = config.site().map_err(|problem| unusable(&problem))?;
        let client = Client::new(call.connection, site, &self.profiles)?;
        match self.spec.action {
            Action::Put => {
                let upload = wanted.upload(stream)?;
                self.put(&client, &wanted, &upload).await
            }
            Action::Get => match stream {
                Some(ContentStream::Download(download)) => self.download(&client, &wanted, download).await,
                _ => self.get(&client, &wanted).await,
            },
            Action::Head => self.head(&client, &wanted).await,
            Action::List => self.list(&client, &wanted).await,
            Action::Presign => self.presign(&client, &wanted, call.connection.now),
            Action::Delete => {
                let asked = client.ask(self.request(&client, &wanted)?, self.repeatable).await;
                let deleted = json!({"key": wanted.own_key});
                match asked {
                    // S3 says nothing of what is not there; the others are made alike.
                    Err(error) if wanted.conditions.is_empty() && says_no_object(&error) => Ok(answer(deleted, None)),
                    other => Ok(answer(deleted, Some(&other?))),
                }
            }
            Action::Copy => {
                let response = match client.ask(self.request(&client, &wanted)?, self.repeatable).await {
                    Err(error) if client.site.provider == Provider::S3 && may_be_too_large(&error) => {
                        client.copy_in_parts(&wanted, error).await?
                    }
                    asked => asked?,
                };
                let mut copied = object(&wanted.own_key, client.site.provider, &response.headers);
                copied.remove("contentType");
                if let Ok((_, result)) = read_xml(&response.body)
                    && let Some(etag) = text_of(&result["ETag"])
                {
                    copied.insert("etag".to_owned(), bare(etag).into());
                }
                let status = response.headers.get("x-ms-copy-status").and_then(|value| value.to_str().ok());
                if let Some("pending") = status {
                    copied.insert("pending".to_owned(), true.into());
                }
                Ok(answer(Value::Object(copied), Some(&response)))
            }
        }
    }

    /// The first request of the operation; for content in parts, as if it went whole.
    fn request(&self, client: &Client<'_>, wanted: &Wanted) -> Result<StorageRequest, CallError> {
        let site = &client.site;
        let mut request = match self.spec.action {
            Action::Put => {
                let content = wanted.content.clone().unwrap_or_default();
                return site.put(&wanted.key, content, &wanted.new, &wanted.conditions);
            }
            Action::Copy => return site.copy(&wanted.source, &wanted.key),
            Action::List => return Ok(site.list(&wanted.listing(&self.spec))),
            Action::Get => site.object(Verb::GET, &wanted.key),
            Action::Head => site.object(Verb::HEAD, &wanted.key),
            Action::Delete => site.object(Verb::DELETE, &wanted.key),
            Action::Presign => {
                let verb = Verb::from_bytes(self.spec.method.name().as_bytes()).unwrap_or_default();
                let mut request = site.object(verb, &wanted.key);
                if let Some(content_type) = &wanted.new.content_type {
                    request.set("content-type", content_type)?;
                }
                request
            }
        };
        if let Some((first, last)) = wanted.range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            request.set("range", &format!("bytes={first}-{last}"))?;
        }
        site.require(&mut request, &wanted.conditions, self.spec.action == Action::Delete)?;
        Ok(request)
    }

    async fn put(&self, client: &Client<'_>, wanted: &Wanted, upload: &Upload) -> Result<Answer, CallError> {
        let part = self.spec.part_bytes;
        let _room = self.memory.reserve(upload, part)?;
        let first = upload.first(part, client.deadline()).await?;
        let (response, size) = if first.is_last {
            let size = first.content.len() as u64;
            let request = client.site.put(&wanted.key, first.content, &wanted.new, &wanted.conditions)?;
            (client.ask(request, self.repeatable).await?, size)
        } else if client.site.provider == Provider::Gcs && !wanted.conditions.is_empty() {
            let message =
                format!("Google takes conditions for content of one part alone: expected at most {part} bytes");
            return Err(CallError::not_sent(ErrorCode::PayloadTooLarge, message));
        } else {
            client.put_in_parts(wanted, first, upload, part).await?
        };
        let mut put = object(&wanted.own_key, client.site.provider, &response.headers);
        // The type is the answer's own; an etag may be in its text.
        put.remove("contentType");
        if let Ok((_, result)) = read_xml(&response.body)
            && let Some(etag) = text_of(&result["ETag"])
        {
            put.insert("etag".to_owned(), bare(etag).into());
        }
        put.insert("size".to_owned(), size.into());
        Ok(answer(Value::Object(put), Some(&response)))
    }

    async fn get(&self, client: &Client<'_>, wanted: &Wanted) -> Result<Answer, CallError> {
        let request = self.request(client, wanted)?;
        let (response, request) = client.send(request, self.spec.max_response_bytes.max(MAX_REFUSAL), true).await?;
        if is_not_modified(response.status) {
            return Ok(not_modified(&wanted.own_key, Some(&response)));
        }
        if !response.status.is_success() {
            return Err(client.refusal(&response, &request));
        }
        if response.body.len() > self.spec.max_response_bytes {
            return Err(too_large(self.spec.max_response_bytes));
        }
        let mut got = object(&wanted.own_key, client.site.provider, &response.headers);
        let size = if response.status == http::StatusCode::PARTIAL_CONTENT { size_of(&response.headers) } else { None };
        got.insert("size".to_owned(), size.unwrap_or_else(|| response.body.len().into()));
        let content = content::write(self.spec.decoding, response.body.clone())
            .await
            .map_err(|fault| unreadable(&response, &fault))?;
        got.insert("content".to_owned(), content);
        Ok(answer(Value::Object(got), Some(&response)))
    }

    /// Gives the content to the caller as it comes.
    async fn download(&self, client: &Client<'_>, wanted: &Wanted, download: &Download) -> Result<Answer, CallError> {
        let (mut response, request) = client.open(self.request(client, wanted)?).await?;
        if !response.status.is_success() {
            let response = client.read(response).await?;
            if is_not_modified(response.status) {
                return Ok(not_modified(&wanted.own_key, Some(&response)));
            }
            return Err(client.refusal(&response, &request));
        }
        let mut facts = object(&wanted.own_key, client.site.provider, &response.headers);
        facts.extend(size_of(&response.headers).map(|size| ("size".to_owned(), size)));
        let length = response.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse().ok());
        let (status, limits) = (response.status.as_u16(), limits(&response.headers));
        download.begin(ContentHead { facts: facts.clone(), length })?;
        while let Some(piece) = client.next(&mut response).await.map_err(|error| broken_off(error, status))? {
            download.send(piece, client.deadline()).await?;
        }
        Ok(Answer { upstream_status: Some(status), limits, ..answer(Value::Object(facts), None) })
    }

    async fn head(&self, client: &Client<'_>, wanted: &Wanted) -> Result<Answer, CallError> {
        let (response, request) = client.send(self.request(client, wanted)?, MAX_REFUSAL, true).await?;
        if is_not_modified(response.status) {
            return Ok(not_modified(&wanted.own_key, Some(&response)));
        }
        if !response.status.is_success() {
            return Err(client.refusal(&response, &request));
        }
        let mut told = object(&wanted.own_key, client.site.provider, &response.headers);
        told.extend(size_of(&response.headers).map(|size| ("size".to_owned(), size)));
        Ok(answer(Value::Object(told), Some(&response)))
    }

    async fn list(&self, client: &Client<'_>, wanted: &Wanted) -> Result<Answer, CallError> {
        let response = client.ask(self.request(client, wanted)?, true).await?;
        let read = page(client.site.provider, &response.body, &wanted.config_prefix)
            .map_err(|fault| unreadable(&response, &fault))?;
        Ok(page_answer(read, Some(&response)))
    }

    fn presign(
        &self,
        client: &Client<'_>,
        wanted: &Wanted,
        now: integration_model::Timestamp,
    ) -> Result<Answer, CallError> {
        let mut request = self.request(client, wanted)?;
        let mut headers = Map::new();
        if client.site.provider == Provider::Azure {
            // Its signature says nothing of headers.
            request.headers = HeaderMap::new();
            if request.verb == Verb::PUT {
                headers.insert("x-ms-blob-type".to_owned(), "BlockBlob".into());
            }
        }
        if let Some(content_type) = &wanted.new.content_type {
            headers.insert("content-type".to_owned(), content_type.as_str().into());
        }
        let url = client.access.presign(&client.site, request, self.spec.expires_in, now)?;
        let expires_at = now.saturating_add(self.spec.expires_in);
        let method = self.spec.method.name();
        let data = json!({"url": url, "method": method, "headers": headers, "expiresAt": expires_at});
        Ok(answer(data, None))
    }

    fn show(&self, call: &Call<'_>) -> Result<Value, CallError> {
        let config = StorageConfig::read(call.connection.config)?;
        let wanted = Wanted::of(&self.spec, &config, call)?;
        if config.provider == Provider::Folder {
            let key = if self.spec.action == Action::List { &wanted.prefix } else { &wanted.key };
            return Ok(json!({"folder": config.bucket, "key": key, "size": wanted.size()}));
        }
        let site = config.site().map_err(|problem| unusable(&problem))?;
        let client = Client::new(call.connection, site, &self.profiles)?;
        let mut request = self.request(&client, &wanted)?;
        request.set("authorization", REDACTED)?;
        let url = client.site.url(&request)?;
        let shown = Request { url, headers: request.headers, body: request.body };
        let mut shown = shown_request(&request.verb, &shown, call.connection.credential);
        if self.spec.action == Action::Put && wanted.size() > self.spec.part_bytes {
            shown["parts"] = wanted.size().div_ceil(self.spec.part_bytes).into();
        }
        Ok(shown)
    }
}

impl Operation for StorageOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call, None))
    }

    fn call_with_stream<'a>(
        &'a self,
        call: Call<'a>,
        stream: &'a ContentStream,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call, Some(stream)))
    }

    fn takes_content(&self) -> bool {
        self.spec.action == Action::Put
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        self.show(&call)
    }

    fn is_paginated(&self) -> bool {
        self.spec.action == Action::List
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        let mut joined = json!({"items": [], "prefixes": []});
        for page in &pages {
            let page = page.value().map_err(|error| CallError::not_sent(ErrorCode::Internal, error.to_string()))?;
            for name in ["items", "prefixes"] {
                if let (Some(all), Some(more)) = (joined[name].as_array_mut(), page[name].as_array()) {
                    all.extend(more.iter().cloned());
                }
            }
        }
        Ok(Data::from_value(joined))
    }
}

/// Whether the bucket is there and the object is not.
fn says_no_object(error: &CallError) -> bool {
    let code = error.details.get("upstreamCode").and_then(Value::as_str);
    error.upstream_status == Some(404) && matches!(code, Some("NoSuchKey" | "BlobNotFound"))
}

/// Whether a copy may have been refused for the size of its source, of which S3 has no name.
fn may_be_too_large(error: &CallError) -> bool {
    let code = error.details.get("upstreamCode").and_then(Value::as_str);
    matches!(code, Some("InvalidRequest" | "EntityTooLarge"))
}

/// An answer with data of an object.
pub(super) fn answer(data: Value, response: Option<&InboundResponse>) -> Answer {
    Answer {
        data: Data::from_value(data),
        upstream_status: response.map(|response| response.status.as_u16()),
        next_page: None,
        limits: response.map_or_else(UpstreamLimits::default, |response| limits(&response.headers)),
        warnings: Vec::new(),
    }
}

pub(super) fn not_modified(key: &str, response: Option<&InboundResponse>) -> Answer {
    answer(json!({"key": key, "notModified": true}), response)
}

/// Content that broke off after its beginning. Nothing was changed by that.
fn broken_off(error: CallError, status: u16) -> CallError {
    CallError { effect: Effect::Answered, upstream_status: Some(status), ..error }
}

pub(super) fn page_answer(page: Page, response: Option<&InboundResponse>) -> Answer {
    let data = json!({"items": page.items, "prefixes": page.prefixes});
    Answer { next_page: page.next.map(PageCursor), ..answer(data, response) }
}
