//! Requests to the systems that keep objects, as their protocols want them; not yet signed.
//!
//! The XML API of Google Cloud Storage is that of S3 with other names of headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, header};
use integration_model::ErrorCode;
use percent_encoding::utf8_percent_encode;

use super::config::{Provider, Site};
use crate::adapter::CallError;
use crate::http_client::UNRESERVED;

/// The version of the protocol that is spoken to Azure.
pub(super) const AZURE_VERSION: &str = "2021-12-02";

/// One request, not yet signed.
#[derive(Debug, Clone)]
pub(super) struct StorageRequest {
    pub(super) verb: Verb,
    /// Encoded.
    pub(super) path: String,
    /// Plain names and values.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is told of an object when it is written.
#[derive(Debug, Default, Clone)]
pub(super) struct NewObject {
    pub(super) content_type: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
}

impl NewObject {
    /// What is told of an object that is there.
    pub(super) fn like(headers: &HeaderMap, provider: Provider) -> Self {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let prefix = format!("{}meta-", provider.header_prefix());
        let metadata = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().strip_prefix(&prefix)?.to_owned(), text(value))));
        Self { content_type: headers.get(header::CONTENT_TYPE).map(text), metadata: metadata.collect() }
    }
}

/// What has to hold for a request to be acted on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
}

impl Conditions {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is asked of a listing.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    pub(super) page_size: usize,
    pub(super) after: Option<&'a str>,
}

impl Site {
    /// The encoded path of a key.
    pub(super) fn path_of(&self, key: &str) -> String {
        format!("{}/{}", self.path, encode_key(key))
    }

    /// A request for an object.
    pub(super) fn object(&self, verb: Verb, key: &str) -> StorageRequest {
        let (query, headers, body) = (Vec::new(), HeaderMap::new(), Bytes::new());
        StorageRequest { verb, path: self.path_of(key), query, headers, body }
    }

    pub(super) fn list(&self, listing: &Listing<'_>) -> StorageRequest {
        let size = listing.page_size.to_string();
        let (fixed, size_name, cursor_name): (&[(&str, &str)], _, _) = if self.provider == Provider::Azure {
            (&[("restype", "container"), ("comp", "list")], "maxresults", "marker")
        } else {
            (&[("list-type", "2"), ("encoding-type", "url")], "max-keys", "continuation-token")
        };
        let mut query: Vec<_> = fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let given = [
            (size_name, Some(size.as_str())),
            ("prefix", Some(listing.prefix).filter(|prefix| !prefix.is_empty())),
            ("delimiter", listing.delimiter),
            (cursor_name, listing.after),
        ];
        query.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
        let path = if self.path.is_empty() { "/".to_owned() } else { self.path.clone() };
        StorageRequest { verb: Verb::GET, path, query, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn put(
        &self,
        key: &str,
        content: Bytes,
        new: &NewObject,
        conditions: &Conditions,
    ) -> Result<StorageRequest, CallError> {
        let mut request = self.object(Verb::PUT, key);
        request.body = content;
        if self.provider == Provider::Azure {
            request.set("x-ms-blob-type", "BlockBlob")?;
        }
        self.describe(&mut request, new)?;
        self.require(&mut request, conditions, true)?;
        Ok(request)
    }

    pub(super) fn copy(&self, source: &str, key: &str) -> Result<StorageRequest, CallError> {
        let mut request = self.object(Verb::PUT, key);
        request.set(&format!("{}copy-source", self.provider.header_prefix()), &self.copy_source(source))?;
        Ok(request)
    }

    /// The source of a copy as a header names it.
    pub(super) fn copy_source(&self, key: &str) -> String {
        match self.provider {
            Provider::Azure => format!("{}://{}{}", self.scheme, self.authority, self.path_of(key)),
            _ => format!("/{}/{}", self.bucket, encode_key(key)),
        }
    }

    /// Begins an upload in parts; Azure needs no beginning.
    pub(super) fn begin_upload(&self, key: &str, new: &NewObject) -> Result<StorageRequest, CallError> {
        let mut request = self.object(Verb::POST, key);
        request.query.push(("uploads".to_owned(), String::new()));
        self.describe(&mut request, new)?;
        Ok(request)
    }

    pub(super) fn put_part(&self, key: &str, upload: &str, number: usize, content: Bytes) -> StorageRequest {
        let mut request = self.object(Verb::PUT, key);
        request.body = content;
        let query = if self.provider == Provider::Azure {
            [("comp", "block".to_owned()), ("blockid", block_id(upload, number))]
        } else {
            [("partNumber", number.to_string()), ("uploadId", upload.to_owned())]
        };
        request.query.extend(query.map(|(name, value)| (name.to_owned(), value)));
        request
    }

    /// Makes an object of the parts, which are told by their etags.
    pub(super) fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        etags: &[String],
        new: &NewObject,
        conditions: &Conditions,
    ) -> Result<StorageRequest, CallError> {
        let mut request;
        let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?>");
        if self.provider == Provider::Azure {
            request = self.object(Verb::PUT, key);
            request.query.push(("comp".to_owned(), "blocklist".to_owned()));
            body.push_str("<BlockList>");
            for number in 1..=etags.len() {
                body.push_str(&format!("<Latest>{}</Latest>", block_id(upload, number)));
            }
            body.push_str("</BlockList>");
            if let Some(content_type) = &new.content_type {
                request.set("x-ms-blob-content-type", content_type)?;
            }
            self.describe(&mut request, &NewObject { content_type: None, metadata: new.metadata.clone() })?;
        } else {
            request = self.object(Verb::POST, key);
            request.query.push(("uploadId".to_owned(), upload.to_owned()));
            body.push_str("<CompleteMultipartUpload>");
            for (index, etag) in etags.iter().enumerate() {
                let etag = quick_xml::escape::escape(etag.as_str());
                body.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1));
            }
            body.push_str("</CompleteMultipartUpload>");
        }
        request.set("content-type", "application/xml")?;
        request.body = Bytes::from(body);
        self.require(&mut request, conditions, true)?;
        Ok(request)
    }

    /// Gives up an upload in parts. Azure forgets parts by itself.
    pub(super) fn abort_upload(&self, key: &str, upload: &str) -> Option<StorageRequest> {
        if self.provider == Provider::Azure {
            return None;
        }
        let mut request = self.object(Verb::DELETE, key);
        request.query.push(("uploadId".to_owned(), upload.to_owned()));
        Some(request)
    }

    fn describe(&self, request: &mut StorageRequest, new: &NewObject) -> Result<(), CallError> {
        if let Some(content_type) = &new.content_type {
            request.set("content-type", content_type)?;
        }
        for (name, value) in &new.metadata {
            request.set(&format!("{}meta-{}", self.provider.header_prefix(), name.to_ascii_lowercase()), value)?;
        }
        Ok(())
    }

    /// Adds conditions. Google tells writes apart by generations, not by etags.
    pub(super) fn require(
        &self,
        request: &mut StorageRequest,
        conditions: &Conditions,
        is_write: bool,
    ) -> Result<(), CallError> {
        let Conditions { if_match, if_none_match } = conditions;
        if self.provider == Provider::Gcs && is_write {
            let generation = if_none_match.as_ref().map(|_| "0").or(if_match.as_deref());
            return match generation {
                Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
                    request.set("x-goog-if-generation-match", text)
                }
                Some(_) => Err(refused("ifMatch: expected the version of the object, a number, as GCS has it")),
                None => Ok(()),
            };
        }
        for (name, value) in [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)] {
            if let Some(etag) = value {
                request.set(name.as_str(), &quoted(etag))?;
            }
        }
        Ok(())
    }
}

impl StorageRequest {
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), CallError> {
        let visible = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) if visible => {
                self.headers.insert(name, value);
                Ok(())
            }
            _ => Err(refused(&format!("expected visible ASCII characters for {name}, which a header carries"))),
        }
    }

    /// The query as it goes out: encoded, and ordered as signatures want it.
    pub(super) fn encoded_query(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
        let mut pairs: Vec<_> = self.query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
        pairs.sort();
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }
}

fn refused(message: &str) -> CallError {
    CallError::not_sent(ErrorCode::Validation, message)
}

fn encode_key(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(|part| utf8_percent_encode(part, UNRESERVED).to_string()).collect();
    segments.join("/")
}

/// Blocks of one blob have ids of one length, in base64.
fn block_id(upload: &str, number: usize) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{upload}-{number:05}"))
}

/// An etag as headers carry it.
fn quoted(etag: &str) -> String {
    if etag == "*" || etag.starts_with('"') || etag.starts_with("W/") { etag.to_owned() } else { format!("\"{etag}\"") }
}
