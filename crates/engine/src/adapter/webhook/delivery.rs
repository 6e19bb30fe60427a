//! What is kept of a verified delivery: its id, its headers, its body.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{self, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use integration_model::event::{EventDraft, WebhookBody, WebhookReceived};
use integration_model::instance::Instance;
use integration_store::DeliveryKey;
use serde_json::Value;
use serde_json::value::RawValue;

use super::config::{ChallengeAt, DeduplicateBy, Webhook};
use super::verify::{Claim, finished};

/// The longest value of a header that is kept, in bytes.
const MAX_HEADER_VALUE: usize = 1024;
/// The longest id of a delivery, in bytes.
const MAX_ID: usize = 256;
/// The longest challenge that is sent back, in bytes.
const MAX_CHALLENGE: usize = 1024;
/// How deep JSON may be that is kept as such: it is read again as a part of other JSON, by
/// readers with a bound of their own.
const MAX_DEPTH: usize = 64;

/// The body of a verified delivery, read.
pub(crate) struct Content<'a> {
    bytes: &'a [u8],
    /// Where it is JSON.
    value: Option<Value>,
}

impl<'a> Content<'a> {
    /// JSON is what says so, or says nothing, and can be read.
    pub(crate) fn read(headers: &HeaderMap, bytes: &'a [u8]) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
        let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let may_be_json = essence.is_none_or(|essence| essence == "application/json" || essence.ends_with("+json"));
        let value = may_be_json.then(|| integration_model::json::from_slice(bytes).ok()).flatten();
        Self { bytes, value: value.filter(|value| is_within(value, MAX_DEPTH)) }
    }

    fn text_at(&self, pointer: &str) -> Option<&str> {
        self.value.as_ref()?.pointer(pointer)?.as_str()
    }
}

fn is_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_within(item, depth - 1)),
        Value::Object(members) => depth > 0 && members.values().all(|member| is_within(member, depth - 1)),
        _ => true,
    }
}

impl Webhook {
    /// What the sender wants back to know that the receiver is there.
    pub(crate) fn challenge(&self, content: &Content<'_>) -> Option<String> {
        let text = match self.challenge.as_ref()? {
            ChallengeAt::Slack if content.text_at("/type") == Some("url_verification") => content.text_at("/challenge"),
            ChallengeAt::Slack => None,
            ChallengeAt::Pointer(pointer) => content.text_at(pointer),
        };
        text.filter(|text| text.len() <= MAX_CHALLENGE).map(str::to_owned)
    }

    /// The sender's id of the delivery.
    pub(crate) fn delivery_id<'a>(&self, claim: &'a Claim, content: &'a Content<'_>) -> Option<&'a str> {
        let in_body = || content.text_at(self.id_pointer.as_deref()?);
        claim.id.as_deref().or_else(in_body).filter(|id| (1..=MAX_ID).contains(&id.len()))
    }

    /// What tells this delivery from others of its instance.
    pub(crate) fn delivery_key(&self, claim: &Claim, content: &Content<'_>) -> DeliveryKey {
        let id = self.delivery_id(claim, content).filter(|_| self.deduplicate_by == DeduplicateBy::Delivery);
        match id {
            Some(id) => {
                let mut context = digest::Context::new(&SHA256);
                context.update(b"id\0");
                context.update(id.as_bytes());
                finished(context)
            }
            None => self.digest(claim, content.bytes),
        }
    }

    pub(crate) fn event(
        &self,
        instance: &Instance,
        claim: &Claim,
        headers: &HeaderMap,
        content: &Content<'_>,
        correlation_id: &str,
    ) -> EventDraft {
        let raw = content.value.as_ref().and_then(|_| serde_json::from_slice::<&RawValue>(content.bytes).ok());
        EventDraft::webhook_received(
            correlation_id,
            &WebhookReceived {
                integration_instance_id: &instance.id,
                integration_definition_id: &instance.integration_definition_id,
                scheme: self.scheme(),
                delivery_id: self.delivery_id(claim, content),
                sent_at: claim.sent_at,
                headers: &self.kept_headers(headers),
                body: raw.map_or_else(|| WebhookBody::Base64(STANDARD.encode(content.bytes)), WebhookBody::Json),
            },
        )
    }

    fn kept_headers(&self, headers: &HeaderMap) -> BTreeMap<String, String> {
        let kept = self.headers.iter().filter_map(|name| {
            let value = headers.get(name)?.to_str().ok().filter(|value| value.len() <= MAX_HEADER_VALUE)?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        kept.collect()
    }
}
