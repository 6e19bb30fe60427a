//! `multipart/form-data` (RFC 7578). Each member of an object is a part: a scalar as text,
//! an array as several parts, an object with `content` (base64) or `text`, and optionally
//! `filename` and `contentType`, as a file; any other object as JSON.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::encode::{EncodedBody, decode_base64};
use super::json_text::{self, Json};

/// The most parts of one body.
const MAX_PARTS: usize = 10_000;
const FILE_MEMBERS: [&str; 4] = ["content", "text", "filename", "contentType"];

struct Part {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    content: Vec<u8>,
}

pub(super) fn encode(raw: &RawValue) -> Result<EncodedBody, String> {
    let Json::Map(members) = Json::view(raw) else { return Err("expected an object of parts".to_owned()) };
    let mut parts = Vec::new();
    for (name, value) in members {
        match Json::view(value) {
            Json::List(items) => {
                for item in items {
                    parts.extend(Part::new(&name, item)?);
                }
            }
            _ => parts.extend(Part::new(&name, value)?),
        }
        if parts.len() > MAX_PARTS {
            return Err(format!("expected at most {MAX_PARTS} parts"));
        }
    }
    let boundary = boundary(&parts);
    let mut body = Vec::with_capacity(parts.iter().map(|part| part.content.len() + 256).sum());
    for part in &parts {
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        part.write(&mut body);
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok(EncodedBody { content_type: format!("multipart/form-data; boundary={boundary}"), bytes: Bytes::from(body) })
}

/// A boundary that follows from the content, so that the same params make the same body.
/// That a content holds its own digest is out of reach.
fn boundary(parts: &[Part]) -> String {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(digest(&SHA256, &part.content).as_ref());
        all.extend_from_slice(part.name.as_bytes());
    }
    digest(&SHA256, &all).as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Part {
    /// The part of one value; none for null.
    fn new(name: &str, raw: &RawValue) -> Result<Option<Self>, String> {
        let part = |content| Self { name: name.to_owned(), filename: None, content_type: None, content };
        Ok(match Json::view(raw) {
            Json::Null => None,
            Json::Text(text) => Some(part(text.into_bytes())),
            Json::Literal(text) => Some(part(text.as_bytes().to_vec())),
            Json::Map(members) if is_file(&members) => Some(Self::file(name, members)?),
            Json::List(_) | Json::Map(_) => {
                let json = part(raw.get().as_bytes().to_vec());
                Some(Self { content_type: Some("application/json".to_owned()), ..json })
            }
        })
    }

    fn file(name: &str, members: Vec<(String, &RawValue)>) -> Result<Self, String> {
        let mut file = Self { name: name.to_owned(), filename: None, content_type: None, content: Vec::new() };
        for (member, value) in members {
            let Some(text) = json_text::text_of(value) else { continue };
            match member.as_str() {
                "content" => {
                    file.content = decode_base64(&text).ok_or(format!("{name}.content: expected base64"))?;
                }
                "text" => file.content = text.into_bytes(),
                "filename" => file.filename = Some(text),
                _ => {
                    if http::HeaderValue::from_str(&text).is_err() || text.is_empty() {
                        return Err(format!("{name}.contentType: expected a media type"));
                    }
                    file.content_type = Some(text);
                }
            }
        }
        if file.filename.is_some() && file.content_type.is_none() {
            file.content_type = Some("application/octet-stream".to_owned());
        }
        Ok(file)
    }

    fn write(&self, body: &mut Vec<u8>) {
        let mut head = format!("Content-Disposition: form-data; name=\"{}\"", escape(&self.name));
        if let Some(filename) = &self.filename {
            head.push_str(&format!("; filename=\"{}\"", escape(filename)));
        }
        if let Some(content_type) = &self.content_type {
            head.push_str("\r\nContent-Type: ");
            head.push_str(content_type);
        }
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(&self.content);
        body.extend_from_slice(b"\r\n");
    }
}

fn is_file(members: &[(String, &RawValue)]) -> bool {
    members.iter().any(|(name, _)| matches!(name.as_str(), "content" | "text"))
        && members.iter().all(|(name, _)| FILE_MEMBERS.contains(&name.as_str()))
}

/// Names as browsers write them (WHATWG HTML, multipart/form-data encoding algorithm).
fn escape(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}
