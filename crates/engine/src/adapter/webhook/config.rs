//! How an external system signs what it delivers, as an instance's config says it.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, HMAC_SHA512};
use http::HeaderName;
use integration_model::Problem;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::own_schema::OwnSchema;
use crate::http_client::is_credential_header;

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

const DEFAULT_TOLERANCE: u64 = 300;
/// The largest body that is taken where the config names none.
pub const DEFAULT_MAX_BODY: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SchemeName {
    Standard,
    Github,
    Stripe,
    Slack,
    Hmac,
}

impl SchemeName {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Slack => "slack",
            Self::Hmac => "hmac",
        }
    }
}

/// What tells one delivery from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeduplicateBy {
    #[default]
    Delivery,
    Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigSpec {
    scheme: SchemeName,
    #[serde(default)]
    tolerance_seconds: Option<u64>,
    #[serde(default)]
    max_body_bytes: Option<usize>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    deduplicate_by: DeduplicateBy,
    #[serde(default)]
    hmac: Option<HmacSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HmacSpec {
    signature_header: String,
    #[serde(default)]
    algorithm: Algorithm,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    signed: Option<String>,
    #[serde(default)]
    timestamp_header: Option<String>,
    #[serde(default)]
    timestamp_format: TimestampFormat,
    #[serde(default)]
    id_header: Option<String>,
    #[serde(default)]
    id_pointer: Option<String>,
    #[serde(default)]
    challenge_pointer: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    #[default]
    Sha256,
    Sha512,
    Sha1,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimestampFormat {
    #[default]
    Unix,
    UnixMs,
    Rfc3339,
}

/// A piece of what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Id,
    Timestamp,
    Body,
}

/// Where a delivery's headers hold what.
#[derive(Debug, Clone)]
pub(super) enum HeaderLayout {
    /// A header for each, the signatures as `v1,BASE64` one after the other.
    Standard,
    /// `t=…,v1=…` in one header.
    Pairs(HeaderName),
    /// One signature in a header, perhaps a timestamp and an id in others.
    Plain {
        signature: HeaderName,
        prefix: String,
        encoding: Encoding,
        timestamp: Option<(HeaderName, TimestampFormat)>,
        id: Option<HeaderName>,
    },
}

/// Where the body asks for an answer that proves that the receiver is there.
#[derive(Debug, Clone)]
pub(super) enum ChallengeAt {
    /// In `challenge`, where `type` is `url_verification`.
    Slack,
    Pointer(String),
}

/// How deliveries are verified, told apart and kept.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub(super) scheme: SchemeName,
    pub(super) layout: HeaderLayout,
    pub(super) algorithm: hmac::Algorithm,
    pub(super) signed: Vec<Part>,
    pub(super) tolerance: Duration,
    pub(super) max_body_bytes: usize,
    /// What goes into the event.
    pub(super) headers: Vec<HeaderName>,
    pub(super) deduplicate_by: DeduplicateBy,
    /// JSON Pointer to the delivery's id in the body.
    pub(super) id_pointer: Option<String>,
    pub(super) challenge: Option<ChallengeAt>,
}

impl Webhook {
    /// Reads a config; all its faults, with JSON Pointers, where it does not fit.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, Vec<Problem>> {
        let config = Value::Object(config.clone());
        let problems = CONFIG_SCHEMA.check(&config);
        if !problems.is_empty() {
            return Err(problems);
        }
        let spec: ConfigSpec =
            serde_json::from_value(config).map_err(|error| vec![Problem::new("", error.to_string())])?;
        spec.compile()
    }

    pub fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    pub fn scheme(&self) -> &'static str {
        self.scheme.as_str()
    }
}

impl ConfigSpec {
    fn compile(self) -> Result<Webhook, Vec<Problem>> {
        use Part::{Body, Id, Timestamp};
        let text = |text: &str| Part::Text(text.to_owned());
        let mut webhook = Webhook {
            scheme: self.scheme,
            layout: HeaderLayout::Standard,
            algorithm: HMAC_SHA256,
            signed: vec![Body],
            tolerance: Duration::from_secs(self.tolerance_seconds.unwrap_or(DEFAULT_TOLERANCE)),
            max_body_bytes: self.max_body_bytes.unwrap_or(DEFAULT_MAX_BODY),
            headers: vec![http::header::CONTENT_TYPE, http::header::USER_AGENT],
            deduplicate_by: self.deduplicate_by,
            id_pointer: None,
            challenge: None,
        };
        let mut kept: &[&'static str] = &[];
        match self.scheme {
            SchemeName::Standard => webhook.signed = vec![Id, text("."), Timestamp, text("."), Body],
            SchemeName::Github => {
                webhook.layout = HeaderLayout::Plain {
                    signature: HeaderName::from_static("x-hub-signature-256"),
                    prefix: "sha256=".to_owned(),
                    encoding: Encoding::Hex,
                    timestamp: None,
                    id: Some(HeaderName::from_static("x-github-delivery")),
                };
                kept = &[
                    "x-github-event",
                    "x-github-hook-id",
                    "x-github-hook-installation-target-id",
                    "x-github-hook-installation-target-type",
                ];
            }
            SchemeName::Stripe => {
                webhook.layout = HeaderLayout::Pairs(HeaderName::from_static("stripe-signature"));
                webhook.signed = vec![Timestamp, text("."), Body];
                webhook.id_pointer = Some("/id".to_owned());
            }
            SchemeName::Slack => {
                let timestamp = HeaderName::from_static("x-slack-request-timestamp");
                webhook.layout = HeaderLayout::Plain {
                    signature: HeaderName::from_static("x-slack-signature"),
                    prefix: "v0=".to_owned(),
                    encoding: Encoding::Hex,
                    timestamp: Some((timestamp, TimestampFormat::Unix)),
                    id: None,
                };
                webhook.signed = vec![text("v0:"), Timestamp, text(":"), Body];
                webhook.id_pointer = Some("/event_id".to_owned());
                webhook.challenge = Some(ChallengeAt::Slack);
                kept = &["x-slack-retry-num", "x-slack-retry-reason"];
            }
            // The schema asks for it.
            SchemeName::Hmac => self.hmac.map_or_else(|| Ok(()), |hmac| hmac.describe(&mut webhook))?,
        }
        webhook.headers.extend(kept.iter().copied().map(HeaderName::from_static));
        webhook.keep_headers(&self.headers)?;
        Ok(webhook)
    }
}

impl Webhook {
    fn keep_headers(&mut self, names: &[String]) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let pointer = || format!("/headers/{index}");
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => problems.push(Problem::new(pointer(), "expected a header name (RFC 9110 token)")),
                Ok(name) if is_credential_header(&name) || self.signature_headers().contains(&name) => {
                    problems.push(Problem::new(pointer(), "expected a header that carries no credential or signature"));
                }
                Ok(name) if self.headers.contains(&name) => {}
                Ok(name) => self.headers.push(name),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn signature_headers(&self) -> Vec<HeaderName> {
        match &self.layout {
            HeaderLayout::Standard => ["webhook-signature", "svix-signature"].map(HeaderName::from_static).to_vec(),
            HeaderLayout::Pairs(name) | HeaderLayout::Plain { signature: name, .. } => vec![name.clone()],
        }
    }
}

impl HmacSpec {
    fn describe(self, webhook: &mut Webhook) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut header = |field: &str, name: Option<&String>| {
            let parsed = name.map(|name| HeaderName::from_bytes(name.as_bytes())).transpose();
            parsed.unwrap_or_else(|_| {
                problems.push(Problem::new(format!("/hmac/{field}"), "expected a header name (RFC 9110 token)"));
                None
            })
        };
        let signature = header("signatureHeader", Some(&self.signature_header));
        let timestamp = header("timestampHeader", self.timestamp_header.as_ref());
        let id = header("idHeader", self.id_header.as_ref());
        match parts(self.signed.as_deref().unwrap_or("{body}")) {
            Ok(parts) => {
                for (part, header, name) in [(Part::Timestamp, &timestamp, "timestamp"), (Part::Id, &id, "id")] {
                    if parts.contains(&part) && header.is_none() {
                        let message = format!("it holds {{{name}}}: expected {name}Header to name where it comes from");
                        problems.push(Problem::new("/hmac/signed", message));
                    }
                }
                if timestamp.is_some() && !parts.contains(&Part::Timestamp) {
                    let message = "expected {timestamp} in what is signed: without, anybody can make an old delivery \
                                   look new";
                    problems.push(Problem::new("/hmac/signed", message));
                }
                webhook.signed = parts;
            }
            Err(message) => problems.push(Problem::new("/hmac/signed", message)),
        }
        let Some(signature) = signature.filter(|_| problems.is_empty()) else { return Err(problems) };
        webhook.layout = HeaderLayout::Plain {
            signature,
            prefix: self.prefix,
            encoding: self.encoding,
            timestamp: timestamp.map(|name| (name, self.timestamp_format)),
            id,
        };
        webhook.algorithm = match self.algorithm {
            Algorithm::Sha256 => HMAC_SHA256,
            Algorithm::Sha512 => HMAC_SHA512,
            Algorithm::Sha1 => HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        webhook.id_pointer = self.id_pointer;
        webhook.challenge = self.challenge_pointer.map(ChallengeAt::Pointer);
        Ok(())
    }
}

/// Reads a text such as `{timestamp}.{body}`.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        if before.len() == rest.len() {
            break;
        }
        let (name, tail) = after.split_once('}').ok_or("'{' without '}'")?;
        parts.push(match name {
            "body" => Part::Body,
            "timestamp" => Part::Timestamp,
            "id" => Part::Id,
            _ => return Err("expected {body}, {timestamp} or {id} between braces".to_owned()),
        });
        rest = tail;
    }
    match parts.iter().filter(|part| **part == Part::Body).count() {
        1 => Ok(parts),
        _ => Err("expected {body} once: what is not signed can be changed on its way".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<Webhook, Vec<Problem>> {
        Webhook::from_config(config.as_object().expect("an object"))
    }

    #[test]
    fn a_config_says_where_it_does_not_fit() {
        for (config, pointer) in [
            (json!({}), ""),
            (json!({"scheme": "gitlab"}), "/scheme"),
            (json!({"scheme": "hmac"}), ""),
            (json!({"scheme": "github", "hmac": {"signatureHeader": "x"}}), "/hmac"),
            (json!({"scheme": "github", "toleranceSeconds": 0}), "/toleranceSeconds"),
            (json!({"scheme": "github", "maxBodyBytes": 4_194_305}), "/maxBodyBytes"),
            (json!({"scheme": "github", "headers": ["x-ok", "Authorization"]}), "/headers/1"),
            (json!({"scheme": "github", "headers": ["X-Hub-Signature-256"]}), "/headers/0"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "signed": "{timestamp}."}}), "/hmac/signed"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "signed": "{id}{body}"}}), "/hmac/signed"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "signed": "{body}{url}"}}), "/hmac/signed"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "signed": "{body}{body}"}}), "/hmac/signed"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "timestampHeader": "t"}}), "/hmac/signed"),
            (json!({"scheme": "hmac", "hmac": {"signatureHeader": "x", "idPointer": "id"}}), "/hmac/idPointer"),
        ] {
            let problems = read(&config).expect_err("a fault");
            assert_eq!(problems[0].pointer, pointer, "{config}: {problems:?}");
        }
    }

    #[test]
    fn what_is_signed_is_read_in_its_order() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            parts("v1:{timestamp}:{id}.{body}").expect("parts"),
            [text("v1:"), Part::Timestamp, text(":"), Part::Id, text("."), Part::Body]
        );
        assert_eq!(parts("{body}").expect("parts"), [Part::Body]);
        let config = json!({
            "scheme": "hmac", "headers": ["X-Topic", "content-type"],
            "hmac": {"signatureHeader": "X-Sig", "signed": "{timestamp}.{body}", "timestampHeader": "X-Time"}
        });
        let names: Vec<String> = read(&config).expect("a webhook").headers.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["content-type", "user-agent", "x-topic"]);
    }
}
