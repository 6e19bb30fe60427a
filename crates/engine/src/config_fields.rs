//! `{config.field}` in the texts of a definition: places that an instance's config fills.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value};
use url::Url;

use crate::http_client::UNRESERVED;

/// The longest URL of an endpoint, in bytes.
const MAX_URL: usize = 4096;

/// Puts fields of the config where the text of a URL says `{config.field}`. They are encoded,
/// so that a field stays within the part of the URL where it stands.
pub(crate) fn fill_url<'a>(text: &'a str, config: &Map<String, Value>) -> Result<Cow<'a, str>, String> {
    fill(text, |field| {
        let value = value_of(field, config)?;
        if value.chars().all(|c| c == '.') {
            return Err(not_filled(field));
        }
        Ok(utf8_percent_encode(&value, UNRESERVED).to_string())
    })
}

/// Puts fields of the config where a text that is no URL says `{config.field}`, as they are.
pub(crate) fn fill_text<'a>(text: &'a str, config: &Map<String, Value>) -> Result<Cow<'a, str>, String> {
    fill(text, |field| value_of(field, config))
}

/// The URL of an endpoint. A text that begins with a field takes its value as it is, for
/// systems whose base URL is configured; it may not bring more than scheme, host and path.
pub(crate) fn endpoint(text: &str, config: &Map<String, Value>) -> Result<Uri, String> {
    let filled = match text.strip_prefix("{config.").and_then(|rest| rest.split_once('}')) {
        None => fill_url(text, config)?.into_owned(),
        Some((field, rest)) => {
            let base = value_of(field, config)?;
            if base.contains(['?', '#']) {
                return Err(format!(
                    "it names the config's field {field:?}: expected a URL without query and fragment"
                ));
            }
            format!("{}{}", base.trim_end_matches('/'), fill_url(rest, config)?)
        }
    };
    parse_endpoint(&filled)
}

/// Checks what can be known of an endpoint's text before there is a config.
pub(crate) fn check_endpoint(text: &str) -> Result<(), String> {
    let filled = fill(text, |_| Ok("x".to_owned()))?;
    if text.starts_with("{config.") {
        let (_, rest) = filled.split_at(1);
        return parse_endpoint(&format!("https://x{rest}")).map(drop);
    }
    parse_endpoint(&filled).map(drop)
}

/// Reads the URL of an endpoint, as RFC 6749 wants it: http or https, without a fragment.
pub(crate) fn parse_endpoint(text: &str) -> Result<Uri, String> {
    if text.len() > MAX_URL {
        return Err(format!("expected at most {MAX_URL} bytes"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("expected no spaces, control characters or backslashes".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("expected an http or https URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected an http or https URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected no user information".to_owned());
    }
    if url.fragment().is_some() {
        return Err("expected no fragment".to_owned());
    }
    url.as_str().parse().map_err(|_| "expected an http or https URL".to_owned())
}

fn fill<'a>(text: &'a str, value: impl Fn(&str) -> Result<String, String>) -> Result<Cow<'a, str>, String> {
    if !text.contains('{') {
        return Ok(Cow::Borrowed(text));
    }
    let mut filled = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else { return Err("'{' without '}'".to_owned()) };
        let field = name.strip_prefix("config.").ok_or("expected {config.field} between braces")?;
        filled.push_str(before);
        filled.push_str(&value(field)?);
        rest = tail;
    }
    filled.push_str(rest);
    Ok(Cow::Owned(filled))
}

fn value_of(field: &str, config: &Map<String, Value>) -> Result<String, String> {
    match config.get(field) {
        Some(Value::String(text)) if text.is_empty() => Err(not_filled(field)),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(format!("it names the config's field {field:?}: expected a string there")),
    }
}

fn not_filled(field: &str) -> String {
    format!("it names the config's field {field:?}: expected a value that is not empty")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_leads_to_its_own_endpoint_and_no_further() {
        let config = json!({
            "tenant": "a/b?c", "domain": "login.example.com", "base": "https://git.example:8443/gitlab/",
            "query": "https://x.example/?a=b", "user": "https://u@x.example", "empty": "", "dots": "..",
        });
        let config = config.as_object().expect("an object");
        for (text, expected) in [
            ("https://id.example/{config.tenant}/token", "https://id.example/a%2Fb%3Fc/token"),
            ("https://{config.domain}/token?x=1", "https://login.example.com/token?x=1"),
            ("{config.base}/oauth/token", "https://git.example:8443/gitlab/oauth/token"),
        ] {
            assert_eq!(endpoint(text, config).expect(text).to_string(), expected);
            check_endpoint(text).expect(text);
        }
        for text in [
            "{config.query}/token",
            "{config.user}/token",
            "https://{config.empty}/token",
            "https://id.example/{config.dots}/token",
            "https://id.example/{config.none}",
        ] {
            assert!(endpoint(text, config).is_err(), "{text}");
        }
        for text in
            ["", "id.example", "ftp://id.example", "https://id.example/#x", "https://{tenant}.example", "{config"]
        {
            assert!(check_endpoint(text).is_err(), "{text}");
        }
    }
}
