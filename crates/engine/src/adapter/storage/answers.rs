//! What the systems answer: facts of objects, listings, refusals.

use http::{HeaderMap, HeaderName, header};
use integration_model::{ErrorCode, Timestamp};
use serde_json::{Map, Value, json};

use super::access::Access;
use super::client::MAX_REFUSAL;
use super::config::Provider;
use super::request::StorageRequest;
use crate::adapter::http::errors::{Refusal, excerpt, undecodable};
use crate::adapter::http::limits::parse_http_date;
use crate::adapter::http::xml;
use crate::adapter::{CallError, Effect};
use crate::credential::{Credential, redact_secrets};
use crate::http_client::InboundResponse;

/// How much of what a system says of a refusal is passed on.
const MESSAGE: usize = 500;

/// Codes that say that the credential was refused.
const CREDENTIAL_REFUSED: [&str; 10] = [
    "InvalidAccessKeyId",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "InvalidSecurity",
    "AuthenticationRequired",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
];
/// Codes that say that another try may help, whatever the status.
const PASSING: [&str; 7] = [
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "ServerBusy",
    "OperationTimedOut",
    "OperationAborted",
    "ConditionalRequestConflict",
];

/// One page of a listing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    pub(super) prefixes: Vec<String>,
    pub(super) next: Option<String>,
}

/// An object as results tell it.
pub(super) fn object(key: &str, provider: Provider, headers: &HeaderMap) -> Map<String, Value> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let prefix = provider.header_prefix();
    let version = match provider {
        Provider::Gcs => "x-goog-generation",
        Provider::Azure => "x-ms-version-id",
        Provider::S3 | Provider::Folder => "x-amz-version-id",
    };
    let mut object = Map::from_iter([("key".to_owned(), Value::from(key))]);
    let mut tell = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    tell("etag", text(header::ETAG.as_str()).map(|etag| bare(etag).into()));
    tell("version", text(version).map(Value::from));
    tell("contentType", text(header::CONTENT_TYPE.as_str()).map(Value::from));
    tell("lastModified", text(header::LAST_MODIFIED.as_str()).and_then(parse_http_date).map(|time| json!(time)));
    let meta = format!("{prefix}meta-");
    let metadata: Map<_, _> = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = HeaderName::as_str(name).strip_prefix(&meta)?;
            Some((name.to_owned(), Value::from(String::from_utf8_lossy(value.as_bytes()))))
        })
        .collect();
    tell("metadata", Some(metadata).filter(|metadata| !metadata.is_empty()).map(Value::Object));
    object
}

/// An etag without its quotes.
pub(super) fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// Reads an XML answer: what is in its root element, and the root's name.
pub(super) fn read_xml(body: &[u8]) -> Result<(String, Value), String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let document =
        xml::decode(text.trim_start_matches('\u{feff}')).map_err(|fault| format!("it is not XML: {fault}"))?;
    match document {
        Value::Object(root) => root.into_iter().next().ok_or_else(|| "it is empty".to_owned()),
        _ => Err("it is empty".to_owned()),
    }
}

/// Reads a page of a listing. Keys come without `prefix`, which the config says.
pub(super) fn page(provider: Provider, body: &[u8], prefix: &str) -> Result<Page, String> {
    let (name, root) = read_xml(body)?;
    let expected = if provider == Provider::Azure { "EnumerationResults" } else { "ListBucketResult" };
    if name != expected {
        return Err(format!("expected {expected}, and it is {}", name.chars().take(60).collect::<String>()));
    }
    let is_encoded = text_of(&root["EncodingType"]) == Some("url");
    let own_key = |key: &Value| {
        let key = text_of(key).ok_or("an object has no key")?;
        let key = if is_encoded { decode_url(key) } else { key.to_owned() };
        let own = key.strip_prefix(prefix).ok_or("it holds keys that were not asked for")?;
        Ok::<_, &str>(own.to_owned())
    };
    let mut page = Page::default();
    if provider == Provider::Azure {
        for blob in each(&root["Blobs"]["Blob"]) {
            let facts = &blob["Properties"];
            page.items.push(item(
                own_key(&blob["Name"])?,
                &facts["Content-Length"],
                &facts["Etag"],
                &facts["Last-Modified"],
            )?);
        }
        for blob in each(&root["Blobs"]["BlobPrefix"]) {
            page.prefixes.push(own_key(&blob["Name"])?);
        }
        page.next = text_of(&root["NextMarker"]).filter(|marker| !marker.is_empty()).map(str::to_owned);
    } else {
        for entry in each(&root["Contents"]) {
            page.items.push(item(own_key(&entry["Key"])?, &entry["Size"], &entry["ETag"], &entry["LastModified"])?);
        }
        for common in each(&root["CommonPrefixes"]) {
            page.prefixes.push(own_key(&common["Prefix"])?);
        }
        if text_of(&root["IsTruncated"]) == Some("true") {
            let next =
                text_of(&root["NextContinuationToken"]).ok_or("it is cut off and does not say where to go on")?;
            page.next = Some(next.to_owned());
        }
    }
    Ok(page)
}

fn item(key: String, size: &Value, etag: &Value, modified: &Value) -> Result<Value, String> {
    let size: u64 = text_of(size).and_then(|size| size.parse().ok()).ok_or("an object has no size")?;
    let mut item = json!({"key": key, "size": size});
    if let Some(etag) = text_of(etag) {
        item["etag"] = bare(etag).into();
    }
    let modified = text_of(modified);
    if let Some(time) = modified.and_then(|text| parse_http_date(text).or_else(|| Timestamp::parse(text).ok())) {
        item["lastModified"] = json!(time);
    }
    Ok(item)
}

/// An element that may be there once, more often or not at all.
fn each(value: &Value) -> impl Iterator<Item = &Value> {
    let (many, one) = match value {
        Value::Array(items) => (items.as_slice(), None),
        Value::Null => (&[][..], None),
        one => (&[][..], Some(one)),
    };
    many.iter().chain(one)
}

/// The text of an element, also of one with attributes.
pub(super) fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["#text"].as_str())
}

fn decode_url(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// An answer that cannot be read.
pub(super) fn unreadable(response: &InboundResponse, fault: &str) -> CallError {
    undecodable(response.status, fault)
}

/// The error that an answer is, a refusal or one that came with status 200.
pub(super) fn refusal(response: &InboundResponse, request: &StorageRequest, credential: &Credential) -> CallError {
    let body = &response.body[..response.body.len().min(MAX_REFUSAL)];
    let said = read_xml(body).ok().filter(|(name, _)| name == "Error").map(|(_, error)| error).unwrap_or_default();
    let in_header = response.headers.get("x-ms-error-code").and_then(|value| value.to_str().ok());
    let code = in_header.or(text_of(&said["Code"])).unwrap_or_default();
    // A name, not whatever a system wants to put into messages.
    let is_name = !code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let code = if is_name { code } else { "" };
    let secrets = Access::sent_secrets(request);
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str()).collect();
    let message = redact_secrets(text_of(&said["Message"]).unwrap_or_default(), &secrets);
    let message = excerpt(message.as_bytes(), MESSAGE, credential);
    let refusal = Refusal { status: response.status, headers: &response.headers, body: &[], credential };
    let mut error = refusal.into_error(None);
    if !code.is_empty() {
        error.message = format!("{}: {code}", error.message);
        error = error.with_detail("upstreamCode", code);
    }
    if !message.is_empty() {
        error = error.with_detail("excerpt", message);
    }
    if CREDENTIAL_REFUSED.contains(&code) {
        return CallError { code: ErrorCode::Auth, credential_refused: true, effect: Effect::None, ..error };
    }
    let passes = PASSING.contains(&code);
    CallError {
        retryable: error.retryable || passes,
        upstream_failed: error.upstream_failed || (passes && response.status.is_success()),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let s3 = br#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>n/2</NextContinuationToken>
            <Contents><Key>app/a+b%2B%C3%BC</Key><Size>5</Size><ETag>&quot;e&quot;</ETag><LastModified>2024-01-02T03:04:05.000Z</LastModified></Contents>
            <CommonPrefixes><Prefix>app/x/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let read = page(Provider::S3, s3, "app/").expect("a page");
        assert_eq!(
            read.items,
            [json!({"key": "a b+ü", "size": 5, "etag": "e", "lastModified": "2024-01-02T03:04:05.000Z"})]
        );
        assert_eq!((read.prefixes, read.next), (vec!["x/".to_owned()], Some("n/2".to_owned())));

        let azure = br#"<EnumerationResults ServiceEndpoint="http://h/"><Blobs><Blob><Name>a</Name><Properties>
            <Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Etag>0x8D</Etag><Content-Length>7</Content-Length>
            </Properties></Blob></Blobs><NextMarker /></EnumerationResults>"#;
        let read = page(Provider::Azure, azure, "").expect("a page");
        assert_eq!(
            read.items,
            [json!({"key": "a", "size": 7, "etag": "0x8D", "lastModified": "1994-11-06T08:49:37.000Z"})]
        );
        assert_eq!(read.next, None);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        for text in [
            "",
            "{}",
            "<html/>",
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<ListBucketResult><Contents><Key>other/a</Key><Size>1</Size></Contents></ListBucketResult>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<!DOCTYPE x [<!ENTITY e \"e\">]><ListBucketResult/>",
        ] {
            page(Provider::S3, text.as_bytes(), "app/").expect_err(text);
        }
    }
}
