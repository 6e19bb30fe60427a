//! Making the request of one call.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method as Verb, Uri, header};
use integration_model::ErrorCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::base_url::BaseUrl;
use super::connection::base_url;
use super::encode::Encoding;
use super::operation::HttpOperation;
use super::pagination::PageRequest;
use super::query::QueryString;
use super::values::{ParamValue, invalid_param};
use crate::adapter::{Call, CallError};
use crate::credential::{Credential, REDACTED};

/// The longest URL that is made.
const MAX_URL: usize = 32 * 1024;

/// What a cookie's value may hold without encoding (RFC 6265, `cookie-octet`, less `%`).
const COOKIE_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b':')
    .remove(b'<')
    .remove(b'=')
    .remove(b'>')
    .remove(b'?')
    .remove(b'@')
    .remove(b'[')
    .remove(b']')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'{')
    .remove(b'|')
    .remove(b'}')
    .remove(b'~');

pub(in crate::adapter) struct Request {
    pub(in crate::adapter) url: Uri,
    pub(in crate::adapter) headers: HeaderMap,
    pub(in crate::adapter) body: Bytes,
}

impl HttpOperation {
    /// What pagination adds to the request of this call.
    pub(super) fn page_request(&self, call: &Call<'_>) -> Result<PageRequest, CallError> {
        let Some(pagination) = &self.pagination else { return Ok(PageRequest::default()) };
        pagination.request(call.page, |wire_name| {
            let (_, binding) = self.query.iter().find(|(name, _)| name == wire_name)?;
            ParamValue::read(call.params, binding.param()).map(|value| value.into_joined().into_owned())
        })
    }

    /// Makes the request. `redacted` stands in for credentials in the query.
    pub(super) fn build(
        &self,
        call: &Call<'_>,
        page: &PageRequest,
        redacted: Option<&str>,
    ) -> Result<Request, CallError> {
        let connection = &call.connection;
        let base = base_url(connection)?;
        let mut headers = self.headers.of_instance(connection.config.http());
        let body = self.encode_body(call, &mut headers)?;
        self.headers.add_of_call(call, &mut headers)?;
        self.add_cookies(call, &mut headers)?;
        // The credential comes last: nothing a caller says can stand in its place.
        let mut secrets = Vec::new();
        connection.credential.apply(connection.custom_auth, &mut headers, &mut secrets)?;
        if let Some(redacted) = redacted {
            secrets.iter_mut().for_each(|(_, value)| *value = redacted);
        }
        let url = self.url(call, base, page, &secrets)?;
        Ok(Request { url, headers, body })
    }

    fn encode_body(&self, call: &Call<'_>, headers: &mut HeaderMap) -> Result<Bytes, CallError> {
        let Some(json) = self.body.json(call.params) else { return Ok(Bytes::new()) };
        if self.encoding == Encoding::Json {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            return Ok(json);
        }
        let encoded = self.encoding.encode(&json, self.form_arrays).map_err(|message| match self.body.param() {
            "" => CallError::not_sent(ErrorCode::Validation, format!("the body cannot be encoded: {message}")),
            name => invalid_param(name, message),
        })?;
        // Only the encoding knows the boundary of its parts.
        if self.encoding == Encoding::Multipart || !headers.contains_key(header::CONTENT_TYPE) {
            let value = HeaderValue::from_str(&encoded.content_type)
                .map_err(|_| CallError::not_sent(ErrorCode::Internal, "the body has no content type"))?;
            headers.insert(header::CONTENT_TYPE, value);
        }
        Ok(encoded.bytes)
    }

    fn add_cookies(&self, call: &Call<'_>, headers: &mut HeaderMap) -> Result<(), CallError> {
        let mut cookies = String::new();
        for (name, param) in &self.cookies {
            let Some(value) = ParamValue::read(call.params, param) else { continue };
            if !cookies.is_empty() {
                cookies.push_str("; ");
            }
            cookies.push_str(name);
            cookies.push('=');
            cookies.extend(utf8_percent_encode(&value.into_joined(), COOKIE_VALUE));
        }
        if !cookies.is_empty() {
            let mut value = HeaderValue::from_str(&cookies)
                .map_err(|_| CallError::not_sent(ErrorCode::Validation, "expected cookies that a header can carry"))?;
            value.set_sensitive(true);
            headers.insert(header::COOKIE, value);
        }
        Ok(())
    }

    /// The URL: scheme and authority from the config, path from base and template, the
    /// query from all that has a part in it.
    fn url(
        &self,
        call: &Call<'_>,
        base: &BaseUrl,
        page: &PageRequest,
        secrets: &[(&str, &str)],
    ) -> Result<Uri, CallError> {
        let mut target = String::with_capacity(128);
        target.push_str(base.prefix());
        self.path.push_path(call.params, &mut target)?;
        if target.is_empty() {
            target.push('/');
        }
        let mut query = QueryString::after(&mut target);
        query.push_raw(&base.query);
        match &page.link_query {
            Some(link) => self.push_link(link, base, secrets, &mut query),
            None => self.push_params(call, page, &mut query)?,
        }
        query.push_raw(&self.constant_query);
        page.pairs.iter().for_each(|(name, value)| query.push(name, value));
        secrets.iter().for_each(|(name, value)| query.push(name, value));

        if target.len() > MAX_URL {
            let message = format!("the params make a URL of more than {MAX_URL} bytes");
            return Err(CallError::not_sent(ErrorCode::Validation, message));
        }
        let invalid = || CallError::not_sent(ErrorCode::Validation, "the params make no valid URL");
        let path_and_query = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| invalid())?;
        Uri::builder()
            .scheme(base.scheme.clone())
            .authority(base.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|_| invalid())
    }

    fn push_params(&self, call: &Call<'_>, page: &PageRequest, query: &mut QueryString<'_>) -> Result<(), CallError> {
        if let Some(pairs) = self.path.query(call.params)? {
            query.push_raw(&pairs);
        }
        for (wire_name, binding) in &self.query {
            if !page.pairs.iter().any(|(name, _)| name == wire_name) {
                binding.push(wire_name, call.params, query);
            }
        }
        Ok(())
    }

    /// Appends the query of a link to the next page, less what is always ours: constants,
    /// the base URL's own pairs, credentials.
    fn push_link(&self, link: &str, base: &BaseUrl, secrets: &[(&str, &str)], query: &mut QueryString<'_>) {
        for (name, value) in url::form_urlencoded::parse(link.as_bytes()) {
            let is_ours = self.constant_query_names.iter().any(|ours| *ours == name)
                || secrets.iter().any(|(ours, _)| *ours == name)
                || url::form_urlencoded::parse(base.query.as_bytes()).any(|(ours, _)| ours == name);
            if !is_ours {
                query.push(&name, &value);
            }
        }
    }
}

/// A request as a person reads it, secrets redacted.
pub(in crate::adapter) fn shown_request(verb: &Verb, request: &Request, credential: &Credential) -> Value {
    let headers: Map<_, _> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let text = if value.is_sensitive() {
                REDACTED.to_owned()
            } else {
                credential.redact(&String::from_utf8_lossy(value.as_bytes()))
            };
            (name.as_str().to_owned(), Value::from(text))
        })
        .collect();
    json!({
        "method": verb.as_str(),
        "url": credential.redact(&request.url.to_string()),
        "headers": headers,
        "body": shown_body(&request.body, credential),
    })
}

/// A body as a person reads it: JSON as JSON, other text as a string, bytes by their count.
fn shown_body(body: &Bytes, credential: &Credential) -> Value {
    match std::str::from_utf8(body) {
        Ok("") => Value::Null,
        Ok(text) => {
            let text = credential.redact(text);
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        Err(_) => Value::String(format!("({} bytes that are no text)", body.len())),
    }
}
