//! Request bodies: from JSON text to the encoding of the operation.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::form_urlencoded::Serializer;

use super::json_text::{self, Json};
use super::{multipart, table, xml};

/// How deep structures may be nested in the encodings that rebuild them.
pub(super) const MAX_DEPTH: usize = 64;

const LENIENT_STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);
const LENIENT: GeneralPurposeConfig = general_purpose::PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// How a request's body is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// As the caller wrote it.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`: an object; objects nest as `name[member]`, arrays
    /// as [`FormArrays`] says.
    Form,
    /// `multipart/form-data`: an object; see the `multipart` module.
    Multipart,
    /// See the `xml` module.
    Xml,
    /// An array of objects, or text that is CSV already; see the `table` module.
    Csv,
    /// A scalar.
    Text,
    /// A string in base64.
    Binary,
}

/// How forms name the items of an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FormArrays {
    /// `name=1&name=2`
    #[default]
    Repeat,
    /// `name[]=1&name[]=2`
    Brackets,
    /// `name[0]=1&name[1]=2`
    Indices,
}

impl FormArrays {
    fn item(self, name: &str, index: usize) -> Cow<'_, str> {
        match self {
            Self::Repeat => Cow::Borrowed(name),
            Self::Brackets => Cow::Owned(format!("{name}[]")),
            Self::Indices => Cow::Owned(format!("{name}[{index}]")),
        }
    }
}

/// A body and its content type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedBody {
    pub(super) content_type: String,
    pub(super) bytes: Bytes,
}

impl Encoding {
    /// Encodes a body. The message says what the encoding expects.
    pub(super) fn encode(self, json: &Bytes, arrays: FormArrays) -> Result<EncodedBody, String> {
        let body = |content_type: &str, bytes: Bytes| EncodedBody { content_type: content_type.to_owned(), bytes };
        if self == Self::Json {
            return Ok(body("application/json", json.clone()));
        }
        let raw = json_text::parse(json).ok_or("expected JSON")?;
        match self {
            Self::Json => Ok(body("application/json", json.clone())),
            Self::Form => Ok(body("application/x-www-form-urlencoded", form(raw, arrays)?)),
            Self::Multipart => multipart::encode(raw),
            Self::Xml => Ok(body("application/xml", xml::encode(raw)?)),
            Self::Csv => Ok(body("text/csv; charset=utf-8", table::encode(raw)?)),
            Self::Text => Ok(body("text/plain; charset=utf-8", text(raw)?)),
            Self::Binary => Ok(body("application/octet-stream", binary(raw)?)),
        }
    }
}

fn text(raw: &RawValue) -> Result<Bytes, String> {
    match Json::view(raw) {
        Json::Text(text) => Ok(Bytes::from(text)),
        Json::Literal(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        _ => Err("expected a string, a number or a boolean".to_owned()),
    }
}

fn binary(raw: &RawValue) -> Result<Bytes, String> {
    match Json::view(raw) {
        Json::Text(text) => {
            decode_base64(&text).map(Bytes::from).ok_or_else(|| "expected a string in base64".to_owned())
        }
        _ => Err("expected a string in base64".to_owned()),
    }
}

/// Reads base64 in either alphabet, padded or not.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    if text.contains(['-', '_']) { LENIENT_URL_SAFE.decode(text).ok() } else { LENIENT_STANDARD.decode(text).ok() }
}

fn form(raw: &RawValue, arrays: FormArrays) -> Result<Bytes, String> {
    let Json::Map(members) = Json::view(raw) else { return Err("expected an object".to_owned()) };
    let mut pairs = Serializer::new(String::new());
    for (name, value) in members {
        push_pairs(&name, value, arrays, MAX_DEPTH, &mut pairs)?;
    }
    Ok(Bytes::from(pairs.finish()))
}

fn push_pairs(
    name: &str,
    raw: &RawValue,
    arrays: FormArrays,
    depth: usize,
    pairs: &mut Serializer<'_, String>,
) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("expected at most {MAX_DEPTH} levels"));
    }
    match Json::view(raw) {
        Json::Null => {}
        Json::Text(text) => drop(pairs.append_pair(name, &text)),
        Json::Literal(text) => drop(pairs.append_pair(name, text)),
        Json::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                push_pairs(&arrays.item(name, index), item, arrays, depth - 1, pairs)?;
            }
        }
        Json::Map(members) => {
            for (member, value) in members {
                push_pairs(&format!("{name}[{member}]"), value, arrays, depth - 1, pairs)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
