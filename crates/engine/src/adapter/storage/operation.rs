//! One operation, compiled: from a call to requests, from answers to data.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method as Verb};
use integration_model::definition::Method;
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value, json};

use super::answers::{Page, bare, object, page, read_xml, text_of, unreadable};
use super::client::{Client, MAX_REFUSAL, is_not_modified, size_of, too_large};
use super::config::{Provider, StorageConfig, unusable};
use super::content;
use super::folder::Folder;
use super::key::check_segments;
use super::request::{Conditions, Listing, NewObject, StorageRequest};
use super::spec::{Action, OperationSpec};
use crate::adapter::http::connection::Connections;
use crate::adapter::http::limits::limits;
use crate::adapter::http::request::{Request, shown_request};
use crate::adapter::template::{Template, invalid_param};
use crate::adapter::{Answer, Call, CallError, Operation, PageCursor, UpstreamLimits};
use crate::credential::REDACTED;
use crate::data::Data;
use crate::http_client::InboundResponse;
use crate::params::Params;

pub(super) struct StorageOperation {
    spec: OperationSpec,
    connections: Arc<Connections>,
    folder: Folder,
    /// Whether a system may meet a request twice.
    repeatable: bool,
}

impl StorageOperation {
    pub(super) fn compile(
        method: &Method,
        connections: Arc<Connections>,
        folder: Folder,
    ) -> Result<Self, Vec<Problem>> {
        let spec = OperationSpec::read(method)?;
        let repeatable = method.idempotent || spec.action.is_read();
        Ok(Self { spec, connections, folder, repeatable })
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let config = StorageConfig::read(call.connection.config)?;
        let mut wanted = Wanted::of(&self.spec, &config, &call)?;
        if config.provider == Provider::Folder {
            return self.folder.run(&config, wanted, &self.spec, call.connection.deadline).await;
        }
        let site = config.site().map_err(|problem| unusable(&problem))?;
        let client = Client::new(call.connection, site, &self.connections)?;
        match self.spec.action {
            Action::Put => self.put(&client, &mut wanted).await,
            Action::Get => self.get(&client, &wanted).await,
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
                let response = client.ask(self.request(&client, &wanted)?, self.repeatable).await?;
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
            Action::Put => return site.put(&wanted.key, wanted.content.clone(), &wanted.new, &wanted.conditions),
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

    async fn put(&self, client: &Client<'_>, wanted: &mut Wanted) -> Result<Answer, CallError> {
        let (part, size) = (self.spec.part_bytes, wanted.content.len());
        let response = if client.goes_in_parts(size, part, &wanted.conditions) {
            client.put_in_parts(&wanted.key, &wanted.content, part, &wanted.new, &wanted.conditions).await?
        } else {
            client.ask(self.request(client, wanted)?, self.repeatable).await?
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
        if is_not_modified(&response) {
            return Ok(not_modified(&wanted.own_key, &response));
        }
        if !response.status.is_success() {
            return Err(client.refusal(&response, &request));
        }
        if response.body.len() > self.spec.max_response_bytes {
            return Err(too_large(self.spec.max_response_bytes));
        }
        let mut got = object(&wanted.own_key, client.site.provider, &response.headers);
        let size = if response.status == http::StatusCode::PARTIAL_CONTENT { size_of(&response) } else { None };
        got.insert("size".to_owned(), size.unwrap_or_else(|| response.body.len().into()));
        let content = content::write(self.spec.decoding, response.body.clone())
            .await
            .map_err(|fault| unreadable(&response, &fault))?;
        got.insert("content".to_owned(), content);
        Ok(answer(Value::Object(got), Some(&response)))
    }

    async fn head(&self, client: &Client<'_>, wanted: &Wanted) -> Result<Answer, CallError> {
        let (response, request) = client.send(self.request(client, wanted)?, MAX_REFUSAL, true).await?;
        if is_not_modified(&response) {
            return Ok(not_modified(&wanted.own_key, &response));
        }
        if !response.status.is_success() {
            return Err(client.refusal(&response, &request));
        }
        let mut told = object(&wanted.own_key, client.site.provider, &response.headers);
        told.extend(size_of(&response).map(|size| ("size".to_owned(), size)));
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
            return Ok(json!({"folder": config.bucket, "key": key, "size": wanted.content.len()}));
        }
        let site = config.site().map_err(|problem| unusable(&problem))?;
        let client = Client::new(call.connection, site, &self.connections)?;
        let mut request = self.request(&client, &wanted)?;
        request.set("authorization", REDACTED)?;
        let url = client.site.url(&request)?;
        let shown = Request { url, headers: request.headers, body: request.body };
        let mut shown = shown_request(&request.verb, &shown, call.connection.credential);
        if self.spec.action == Action::Put
            && client.goes_in_parts(wanted.content.len(), self.spec.part_bytes, &wanted.conditions)
        {
            shown["parts"] = wanted.content.len().div_ceil(self.spec.part_bytes).into();
        }
        Ok(shown)
    }
}

impl Operation for StorageOperation {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
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

/// What one call wants, its params filled in.
pub(super) struct Wanted {
    /// The key as the caller knows it, without what the config says goes before it.
    pub(super) own_key: String,
    pub(super) key: String,
    pub(super) source: String,
    pub(super) content: Bytes,
    pub(super) new: NewObject,
    pub(super) conditions: Conditions,
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) prefix: String,
    pub(super) config_prefix: String,
    pub(super) after: Option<String>,
}

impl Wanted {
    fn of(spec: &OperationSpec, config: &StorageConfig, call: &Call<'_>) -> Result<Self, CallError> {
        let params = call.params;
        let key_of = |template: &super::key::KeyTemplate, is_there: bool| {
            if is_there { template.render(&config.prefix, params) } else { Ok(String::new()) }
        };
        let key = key_of(&spec.key, spec.action != Action::List)?;
        let content_type = spec.content_type.as_ref().map(|template| optional(template, params)).transpose()?;
        let mut metadata = Vec::new();
        for (name, template) in &spec.metadata {
            metadata.extend(optional(template, params)?.map(|value| (name.clone(), value)));
        }
        let condition = |template: &Option<Template>| match template {
            Some(template) => optional(template, params),
            None => Ok(None),
        };
        let prefix = format!("{}{}", config.prefix, optional(&spec.prefix, params)?.unwrap_or_default());
        check_prefix(&prefix)?;
        Ok(Self {
            own_key: key.strip_prefix(&config.prefix).unwrap_or_default().to_owned(),
            source: key_of(&spec.source, spec.action == Action::Copy)?,
            key,
            content: match spec.action {
                Action::Put => content::read(spec.encoding, params, &spec.content)?,
                _ => Bytes::new(),
            },
            new: NewObject { content_type: content_type.flatten(), metadata },
            conditions: Conditions {
                if_match: condition(&spec.if_match)?,
                if_none_match: condition(&spec.if_none_match)?,
            },
            range: match &spec.range {
                Some((first, last)) => range(first, last.as_ref(), params)?,
                None => None,
            },
            prefix,
            config_prefix: config.prefix.clone(),
            after: call.page.map(|PageCursor(cursor)| cursor.clone()),
        })
    }

    pub(super) fn listing<'a>(&'a self, spec: &'a OperationSpec) -> Listing<'a> {
        Listing {
            prefix: &self.prefix,
            delimiter: spec.delimiter.as_deref(),
            page_size: spec.page_size,
            after: self.after.as_deref(),
        }
    }
}

/// A text whose params may be missing: then it is, too.
fn optional(template: &Template, params: &Params) -> Result<Option<String>, CallError> {
    let is_missing = |name: &str| params.get(name).is_none_or(Value::is_null);
    if template.params().any(is_missing) {
        return Ok(None);
    }
    template.render(params).map(Some)
}

/// The beginning of keys: what a key may not hold, it may not either.
fn check_prefix(prefix: &str) -> Result<(), CallError> {
    let whole = format!("{prefix}x");
    check_segments(&whole).map_err(|message| CallError::not_sent(ErrorCode::Validation, format!("prefix: {message}")))
}

fn range(first: &Template, last: Option<&Template>, params: &Params) -> Result<Option<(u64, Option<u64>)>, CallError> {
    let number = |template: &Template, text: String| {
        let name = template.params().next().unwrap_or_default();
        text.parse::<u64>().map_err(|_| invalid_param(name, "expected a whole number from 0: it counts bytes"))
    };
    let Some(text) = optional(first, params)? else { return Ok(None) };
    let from = number(first, text)?;
    let to = match last {
        Some(template) => optional(template, params)?.map(|text| number(template, text)).transpose()?,
        None => None,
    };
    if to.is_some_and(|to| to < from) {
        return Err(CallError::not_sent(
            ErrorCode::Validation,
            "range: expected a last byte that is not before the first",
        ));
    }
    Ok(Some((from, to)))
}

/// Whether the bucket is there and the object is not.
fn says_no_object(error: &CallError) -> bool {
    let code = error.details.get("upstreamCode").and_then(Value::as_str);
    error.upstream_status == Some(404) && matches!(code, Some("NoSuchKey" | "BlobNotFound"))
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

fn not_modified(key: &str, response: &InboundResponse) -> Answer {
    answer(json!({"key": key, "notModified": true}), Some(response))
}

pub(super) fn page_answer(page: Page, response: Option<&InboundResponse>) -> Answer {
    let data = json!({"items": page.items, "prefixes": page.prefixes});
    Answer { next_page: page.next.map(PageCursor), ..answer(data, response) }
}
