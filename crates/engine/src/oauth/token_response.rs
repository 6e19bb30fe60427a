//! Reading what token endpoints answer: the standard's shape, and the shapes that systems
//! have of their own.

use std::time::Duration;

use http::StatusCode;
use integration_model::Timestamp;
use integration_model::definition::{AuthType, ExpiresInUnit, OAuth2Config};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::TokenError;
use crate::adapter::http::retry_after;
use crate::credential::{AuthWants, Credential, OAuth2Token, redact_secrets, wipe};
use crate::http_client::InboundResponse;

/// The longest error description that is told.
pub(super) const MAX_DESCRIPTION: usize = 300;
/// The longest error code that is told.
pub(super) const MAX_ERROR: usize = 100;

/// Reads the answers of one system.
pub(super) struct ResponseReader {
    access_token: String,
    refresh_token: String,
    expires_in: String,
    unit: ExpiresInUnit,
    scope: String,
    scope_separator: Option<String>,
    error: String,
    error_description: String,
    token_type: Option<String>,
    default_lifetime: Option<Duration>,
}

impl ResponseReader {
    pub(super) fn new(config: &OAuth2Config) -> Self {
        let paths = config.token_response.clone().unwrap_or_default();
        let or = |pointer: Option<String>, usual: &str| pointer.unwrap_or_else(|| usual.to_owned());
        Self {
            access_token: or(paths.access_token, "/access_token"),
            refresh_token: or(paths.refresh_token, "/refresh_token"),
            expires_in: or(paths.expires_in, "/expires_in"),
            unit: paths.expires_in_unit.unwrap_or_default(),
            scope: or(paths.scope, "/scope"),
            scope_separator: config.scope_separator.clone(),
            error: or(paths.error, "/error"),
            error_description: or(paths.error_description, "/error_description"),
            token_type: config.token_type.clone(),
            default_lifetime: config.expires_in_default_ms.map(Duration::from_millis),
        }
    }

    /// Reads the token of an answer that came at `now`. `sent` are the secrets of the request,
    /// which are taken out of what the server says.
    pub(super) fn token(
        &self,
        response: &InboundResponse,
        now: Timestamp,
        sent: &[&str],
    ) -> Result<OAuth2Token, TokenError> {
        let mut document = self.document(response, sent)?;
        let token = self.token_of(&document, now);
        wipe(&mut document);
        token
    }

    /// Reads the document of an answer that says success.
    pub(super) fn document(&self, response: &InboundResponse, sent: &[&str]) -> Result<Value, TokenError> {
        let status = response.status;
        let document = parse_body(&response.body);
        if let Some((error, description)) = document.as_ref().and_then(|document| self.error_of(document, sent)) {
            return Err(classify(response, Some(error), description));
        }
        if status.is_redirection() {
            return Err(TokenError::misconfigured(format!(
                "the endpoint answers {} (a redirect): name the URL that it leads to",
                status.as_u16()
            )));
        }
        match document {
            Some(document) if status.is_success() => Ok(document),
            None if status.is_success() => {
                Err(TokenError::Malformed { message: "it is neither a JSON object nor a form".to_owned() })
            }
            // Only who speaks JSON here is the authorization server itself; a page comes from
            // something before it, and says nothing of the grant.
            Some(_) if matches!(status.as_u16(), 400 | 401) => {
                Err(classify(response, Some(format!("http_{}", status.as_u16())), None))
            }
            _ => Err(classify(response, None, None)),
        }
    }

    fn error_of(&self, document: &Value, sent: &[&str]) -> Option<(String, Option<String>)> {
        let error = match document.pointer(&self.error)? {
            Value::String(text) if !text.is_empty() => text.clone(),
            Value::Number(number) if number.as_i64() != Some(0) => number.to_string(),
            Value::Bool(true) => "error".to_owned(),
            // `{"error": {"code": …, "message": …}}`
            Value::Object(inner) => {
                let code = ["code", "type", "status"].iter().find_map(|name| scalar(inner.get(*name)?));
                code.unwrap_or_else(|| "error".to_owned())
            }
            _ => return None,
        };
        let description = document
            .pointer(&self.error_description)
            .or_else(|| document.pointer(&format!("{}/message", self.error)))
            .and_then(scalar)
            .filter(|text| !text.is_empty());
        let clean = |text: String, limit| printable(&redact_secrets(&text, sent), limit);
        Some((clean(error, MAX_ERROR), description.map(|text| clean(text, MAX_DESCRIPTION))))
    }

    fn token_of(&self, document: &Value, now: Timestamp) -> Result<OAuth2Token, TokenError> {
        let malformed = |message: String| TokenError::Malformed { message };
        let access_token = match document.pointer(&self.access_token) {
            Some(Value::String(text)) if !text.is_empty() => text,
            Some(_) => return Err(malformed(format!("expected a string at {}", self.access_token))),
            None => return Err(malformed(format!("there is nothing at {}", self.access_token))),
        };
        let said = document.pointer(&self.expires_in).filter(|value| !is_unsaid(value));
        let expires_at = match said {
            None => self.default_lifetime.map(|lifetime| now.saturating_add(lifetime)),
            Some(value) => Some(expiry(value, self.unit, now).ok_or_else(|| {
                malformed(format!(
                    "the value at {} is no expiry in the unit that the definition names",
                    self.expires_in
                ))
            })?),
        };
        let token_type = match (&self.token_type, document.get("token_type").and_then(Value::as_str)) {
            (Some(own), _) => own.as_str(),
            (None, Some(text)) if !text.is_empty() => text,
            (None, _) => "Bearer",
        };
        if ["dpop", "mac"].iter().any(|scheme| token_type.eq_ignore_ascii_case(scheme)) {
            return Err(malformed(format!("tokens of type {token_type} are not supported; expected Bearer")));
        }
        let mut data = json!({
            "access_token": access_token,
            "refresh_token": document.pointer(&self.refresh_token).filter(|value| value.is_string()),
            "token_type": token_type,
            "scope": document.pointer(&self.scope).and_then(|scope| self.scope_of(scope)),
            "expires_at": expires_at,
        });
        // The one reader of credentials knows what a request can carry.
        let parsed = Credential::parse(AuthType::OAuth2, &data, AuthWants::default(), now);
        wipe(&mut data);
        match parsed {
            Ok((Credential::OAuth2(token), _)) => Ok(token),
            Ok(_) => Err(malformed("it is no token".to_owned())),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(malformed(problems.join("; ").replace("/data/", "")))
            }
        }
    }

    /// The scopes, separated by spaces whatever separates them on the wire.
    fn scope_of(&self, value: &Value) -> Option<String> {
        let scope = match value {
            Value::String(text) => match &self.scope_separator {
                Some(separator) => text.split(separator.as_str()).collect::<Vec<_>>().join(" "),
                None => text.clone(),
            },
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            _ => return None,
        };
        let scope = scope.split_whitespace().collect::<Vec<_>>().join(" ");
        (!scope.is_empty()).then_some(scope)
    }
}

/// A JSON object, or a form, which some systems answer with.
fn parse_body(body: &[u8]) -> Option<Value> {
    match serde_json::from_slice(body) {
        Ok(document @ Value::Object(_)) => Some(document),
        Ok(_) => None,
        Err(_) => {
            let text = std::str::from_utf8(body).ok()?.trim();
            if !text.contains('=') || text.contains(['<', '{', '\n', ' ']) {
                return None;
            }
            let pairs: Map<String, Value> = form_urlencoded::parse(text.as_bytes())
                .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
                .collect();
            Some(Value::Object(pairs))
        }
    }
}

/// Whether a system says with this that it names no expiry: a token that ends as it is given
/// is good for nothing.
fn is_unsaid(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0"),
        _ => false,
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What an error means for who asked: whether to come again, or to give up.
fn classify(response: &InboundResponse, error: Option<String>, description: Option<String>) -> TokenError {
    let status = response.status;
    let code = error.as_deref().unwrap_or_default();
    let passing = matches!(code, "temporarily_unavailable" | "server_error" | "slow_down" | "authorization_pending");
    let answered = match status.canonical_reason() {
        Some(reason) => format!("it answered {} {reason}", status.as_u16()),
        None => format!("it answered {}", status.as_u16()),
    };
    match error {
        Some(error) if !passing && !is_passing(status) => {
            TokenError::Refused { error, description, status: status.as_u16() }
        }
        error => {
            let said = [error.clone(), description].into_iter().flatten().collect::<Vec<_>>().join(": ");
            TokenError::Unavailable {
                status: status.as_u16(),
                error,
                message: if said.is_empty() { answered } else { format!("{answered}: {said}") },
                retry_after: retry_after(&response.headers),
            }
        }
    }
}

/// Statuses that say nothing of the grant, whatever the body says.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// When a token ends, as the value says it.
fn expiry(value: &Value, unit: ExpiresInUnit, now: Timestamp) -> Option<Timestamp> {
    if unit == ExpiresInUnit::Rfc3339 {
        return Timestamp::parse(value.as_str()?).ok();
    }
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let seconds = match unit {
        ExpiresInUnit::Seconds | ExpiresInUnit::Timestamp => number,
        ExpiresInUnit::Milliseconds | ExpiresInUnit::TimestampMs => number / 1_000.0,
        ExpiresInUnit::Minutes => number * 60.0,
        ExpiresInUnit::Hours => number * 3_600.0,
        ExpiresInUnit::Days => number * 86_400.0,
        ExpiresInUnit::Rfc3339 => return None,
    };
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    let is_point_in_time = matches!(unit, ExpiresInUnit::Timestamp | ExpiresInUnit::TimestampMs);
    let from = if is_point_in_time { Timestamp::EPOCH } else { now };
    Some(from.saturating_add(span))
}

/// One line of a text, no longer than `limit`.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect();
    if clean.len() < text.len() && text.chars().count() > limit { format!("{clean}…") } else { clean }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Version};
    use secrecy::ExposeSecret as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

    fn answer(status: u16, body: &Value) -> InboundResponse {
        InboundResponse {
            status: StatusCode::from_u16(status).expect("a status"),
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_string()),
            url: "https://id.example/token".parse().expect("a URI"),
        }
    }

    fn read(config: Value, status: u16, body: &Value) -> Result<OAuth2Token, TokenError> {
        let config: OAuth2Config = serde_json::from_value(config).expect("a config");
        ResponseReader::new(&config).token(&answer(status, body), NOW, &["s3cret"])
    }

    #[test]
    fn an_expiry_is_read_in_the_unit_of_its_system() {
        let at = |seconds: i64| Some(NOW.as_secs() + seconds);
        for (unit, value, expected) in [
            ("seconds", json!(90), at(90)),
            ("seconds", json!("90"), at(90)),
            ("seconds", json!(89.5), at(89)),
            ("seconds", json!(0), None),
            ("seconds", json!(""), None),
            ("seconds", Value::Null, None),
            ("milliseconds", json!(90_000), at(90)),
            ("minutes", json!(2), at(120)),
            ("hours", json!(1), at(3_600)),
            ("days", json!("1"), at(86_400)),
            ("timestamp", json!(1_000_000_090), at(90)),
            ("timestamp_ms", json!(1_000_000_090_000_i64), at(90)),
            ("rfc3339", json!("2001-09-09T01:48:10Z"), at(90)),
        ] {
            let config = json!({"tokenResponse": {"expiresIn": "/ttl", "expiresInUnit": unit}});
            let token = read(config, 200, &json!({"access_token": "t", "ttl": value})).expect("a token");
            assert_eq!(token.expires_at.map(Timestamp::as_secs), expected, "{unit} {value}");
        }
        for (unit, value) in [
            ("seconds", json!(-1)),
            ("seconds", json!("soon")),
            ("seconds", json!({})),
            ("seconds", json!("inf")),
            ("rfc3339", json!(90)),
        ] {
            let config = json!({"tokenResponse": {"expiresInUnit": unit}});
            let error = read(config, 200, &json!({"access_token": "t", "expires_in": value})).expect_err("no expiry");
            assert!(matches!(error, TokenError::Malformed { .. }), "{unit} {value}");
        }
    }

    #[test]
    fn what_passes_is_told_from_what_is_final() {
        for (status, error, passes) in [
            (400, json!("invalid_grant"), false),
            (400, json!("authorization_pending"), true),
            (400, json!("slow_down"), true),
            (400, json!("temporarily_unavailable"), true),
            (400, json!("an error of its own"), false),
            (429, json!("invalid_grant"), true),
            (500, json!("invalid_grant"), true),
            (200, json!("server_error"), true),
            (200, json!(true), false),
            (200, json!({"type": "gone"}), false),
        ] {
            let result = read(json!({}), status, &json!({"error": error, "access_token": "t"}));
            let error = result.expect_err("an error");
            assert_eq!(matches!(error, TokenError::Unavailable { .. }), passes, "{status} {error}");
            assert_eq!(matches!(error, TokenError::Refused { .. }), !passes, "{status} {error}");
        }
        for no_error in [Value::Null, json!(""), json!(0), json!(false)] {
            assert!(read(json!({}), 200, &json!({"error": no_error, "access_token": "t"})).is_ok(), "{no_error}");
        }
    }

    #[test]
    fn what_a_server_says_is_bounded_and_holds_no_secret() {
        let said = format!("s3cret and czNjcmV0\n{}", "x".repeat(1_000));
        let error = read(json!({}), 400, &json!({"error": "e", "error_description": said})).expect_err("an error");
        let TokenError::Refused { description: Some(text), .. } = &error else { panic!("{error}") };
        assert!(text.starts_with("[redacted] and [redacted] xxx"), "{text}");
        assert_eq!(text.chars().count(), MAX_DESCRIPTION + 1);
        assert!(!format!("{error:?}").contains("s3cret"));
    }

    #[test]
    fn scopes_are_kept_apart_by_spaces() {
        for (config, scope, expected) in [
            (json!({}), json!("a  b"), Some("a b")),
            (json!({"scopeSeparator": ","}), json!("a,b"), Some("a b")),
            (json!({}), json!(["a", "b"]), Some("a b")),
            (json!({}), json!(""), None),
            (json!({}), json!(7), None),
        ] {
            let token = read(config, 200, &json!({"access_token": "t", "scope": scope})).expect("a token");
            assert_eq!((token.scope.as_deref(), token.access_token.expose_secret()), (expected, "t"));
        }
    }
}
