//! The base URL of an instance: where its upstream is.

use http::uri::{Authority, Scheme};
use serde_json::{Map, Value};
use url::Url;

use crate::config_fields::fill_url;
use crate::prefetch;

const MAX_LENGTH: usize = 4096;

/// A parsed base URL, in the parts of which request URLs are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapter) struct BaseUrl {
    pub(in crate::adapter) scheme: Scheme,
    pub(in crate::adapter) authority: Authority,
    /// The path as it is written.
    pub(super) path: String,
    /// Pairs that go with every request, encoded; empty where there are none.
    pub(in crate::adapter) query: String,
}

impl BaseUrl {
    /// The base URL of a config; the message says what is wrong with its `baseUrl`.
    pub(super) fn of(config: &Map<String, Value>) -> Result<Self, String> {
        match config.get("baseUrl") {
            Some(Value::String(text)) => Self::parse(&fill_url(text, config)?),
            _ => Err("expected an http or https URL".to_owned()),
        }
    }

    pub(in crate::adapter) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("expected at most {MAX_LENGTH} bytes"));
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return Err("expected no control characters and no backslash".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("expected an http or https URL: {error}"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err("expected an http or https URL".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected no user information: the credential is stored apart".to_owned());
        }
        if url.fragment().is_some() {
            return Err("expected no fragment, which is never sent".to_owned());
        }
        let authority = url.authority().parse().map_err(|_| "expected a host name or an address".to_owned())?;
        Ok(Self { scheme, authority, path: url.path().to_owned(), query: url.query().unwrap_or_default().to_owned() })
    }

    /// The path without a slash at its end, for paths that follow.
    pub(in crate::adapter) fn prefix(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Reads ahead what a call reads of it.
    pub(super) fn prefetch(&self) {
        prefetch::text(self.authority.as_str());
        prefetch::text(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn base_of(config: Value) -> Result<BaseUrl, String> {
        BaseUrl::of(config.as_object().expect("an object"))
    }

    #[test]
    fn a_base_url_may_carry_a_prefix_a_query_and_fields() {
        let base = base_of(json!({
            "baseUrl": "https://{config.shop}.example.com:8443/api/{config.version}/?tenant=a%20b",
            "shop": "pets", "version": 2,
        }))
        .expect("a base URL");
        assert_eq!(base.authority.as_str(), "pets.example.com:8443");
        assert_eq!(base.prefix(), "/api/2");
        assert_eq!(base.query, "tenant=a%20b");
    }

    #[test]
    fn a_field_cannot_change_the_host() {
        for field in ["evil.example/", "evil.example?", "u@evil.example", "a\\b", "evil.example#", "..", ""] {
            let config = json!({"baseUrl": "https://{config.shop}.example.com/", "shop": field});
            assert!(base_of(config).is_err(), "{field:?}");
        }
        let base = base_of(json!({"baseUrl": "https://a.example/{config.x}", "x": "../b?c#d"})).expect("a base URL");
        assert_eq!((base.authority.as_str(), base.prefix()), ("a.example", "/..%2Fb%3Fc%23d"));
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for text in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https://u:p@example.com",
            "https://u@example.com",
            "https://a.example/#f",
            "http://[::1",
            "http://a b/",
            "javascript:alert(1)",
            "http://a\r\nb/",
            "http://x\\y",
            "https://{shop}.example",
            "https://{config.shop",
            "https://{config.none}.example",
        ] {
            assert!(base_of(json!({"baseUrl": text})).is_err(), "{text:?}");
        }
        assert!(base_of(json!({})).is_err());
    }
}
