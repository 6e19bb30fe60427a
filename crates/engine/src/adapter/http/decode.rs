//! Answers' bodies: from what the upstream sent to JSON data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{table, xml};
use crate::data::Data;

/// From this size on, a body is decoded beside the runtime's threads.
const LARGE: usize = 128 * 1024;

/// How an answer's body is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decoding {
    /// By the answer's content type; without one, by looking at it.
    #[default]
    Auto,
    /// Passed on as it came, once it is seen to be JSON.
    Json,
    /// See the `xml` module.
    Xml,
    /// See the `table` module.
    Csv,
    /// An object; repeated names make arrays.
    Form,
    /// A string.
    Text,
    /// A string in base64.
    Binary,
    /// Not at all: null.
    None,
}

impl Decoding {
    /// What the request says it takes.
    pub(super) const fn accept(self) -> &'static str {
        match self {
            Self::Auto => "application/json, */*;q=0.5",
            Self::Json => "application/json",
            Self::Xml => "application/xml, text/xml",
            Self::Csv => "text/csv",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Text => "text/plain, */*;q=0.5",
            Self::Binary | Self::None => "*/*",
        }
    }

    /// Decodes a body; an empty one is null. The message says what is wrong with the body.
    /// JSON is parsed at once where `parse` says that its value will be looked at.
    pub(super) async fn decode(self, headers: &HeaderMap, body: Bytes, parse: bool) -> Result<Data, String> {
        if body.is_empty() || self == Self::None {
            return Ok(Data::null());
        }
        let content_type = ContentType::of(headers);
        let decoding = if self == Self::Auto { content_type.decoding(&body) } else { self };
        let is_latin1 = content_type.is_latin1;
        beside_the_runtime(body.len(), move || decoding.decode_now(is_latin1, body, parse)).await
    }

    fn decode_now(self, is_latin1: bool, body: Bytes, parse: bool) -> Result<Data, String> {
        match self {
            Self::Json => json(body, parse),
            Self::Xml => {
                let value = xml::decode(&text(is_latin1, &body)?).map_err(|fault| format!("it is not XML: {fault}"))?;
                Ok(Data::from_value(value))
            }
            Self::Csv => {
                let value =
                    table::decode(&text(is_latin1, &body)?).map_err(|fault| format!("it is not CSV: {fault}"))?;
                Ok(Data::from_value(value))
            }
            Self::Form => Ok(Data::from_value(form(&body))),
            Self::Text | Self::Auto => Ok(Data::from_value(Value::String(text(is_latin1, &body)?))),
            Self::Binary => Ok(Data::from_value(Value::String(STANDARD.encode(&body)))),
            Self::None => Ok(Data::null()),
        }
    }
}

/// Reads a body of so many bytes: a large one beside the runtime's threads.
pub(in crate::adapter) async fn beside_the_runtime<T: Send + 'static>(
    size: usize,
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    if size < LARGE {
        return read();
    }
    tokio::task::spawn_blocking(read).await.map_err(|_| "its decoding was interrupted".to_owned())?
}

fn json(body: Bytes, parse: bool) -> Result<Data, String> {
    // RFC 8259 lets a parser pass over a byte order mark.
    let body = if body.starts_with(b"\xef\xbb\xbf") { body.slice(3..) } else { body };
    let data = Data::from_text(body);
    let seen = if parse { data.value().map(drop) } else { data.check() };
    seen.map_err(|error| error.to_string())?;
    Ok(data)
}

fn text(is_latin1: bool, body: &[u8]) -> Result<String, String> {
    if is_latin1 {
        return Ok(body.iter().copied().map(char::from).collect());
    }
    std::str::from_utf8(body).map(str::to_owned).map_err(|error| format!("it is not UTF-8: {error}"))
}

fn form(body: &[u8]) -> Value {
    let mut members = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        let value = Value::String(value.into_owned());
        match members.get_mut(name.as_ref()) {
            None => drop(members.insert(name.into_owned(), value)),
            Some(Value::Array(items)) => items.push(value),
            Some(first) => {
                let first_value = first.take();
                *first = Value::Array(vec![first_value, value]);
            }
        }
    }
    Value::Object(members)
}

/// What the answer says of itself.
struct ContentType<'a> {
    media_type: &'a str,
    is_latin1: bool,
}

impl<'a> ContentType<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (media_type, parameters) = value.split_once(';').unwrap_or((value, ""));
        let charset = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        let is_latin1 = charset.is_some_and(|charset| {
            ["iso-8859-1", "latin1", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
        });
        Self { media_type: media_type.trim(), is_latin1 }
    }

    fn decoding(&self, body: &[u8]) -> Decoding {
        // The usual answer is not copied to compare it.
        if self.media_type == "application/json" {
            return Decoding::Json;
        }
        let media_type = self.media_type.to_ascii_lowercase();
        match media_type.as_str() {
            "" => sniff(body),
            "application/json" | "text/json" | "application/x-json" => Decoding::Json,
            "application/xml" | "text/xml" => Decoding::Xml,
            "text/csv" => Decoding::Csv,
            "application/x-www-form-urlencoded" => Decoding::Form,
            other if other.ends_with("+json") => Decoding::Json,
            "image/svg+xml" => Decoding::Text,
            other if other.ends_with("+xml") => Decoding::Xml,
            other if other.starts_with("text/") => Decoding::Text,
            _ => Decoding::Binary,
        }
    }
}

fn sniff(body: &[u8]) -> Decoding {
    match body.trim_ascii_start().first() {
        Some(b'{' | b'[') => Decoding::Json,
        _ if std::str::from_utf8(body).is_ok() => Decoding::Text,
        _ => Decoding::Binary,
    }
}
