//! Keys of objects: texts with params in them that cannot leave their place.

use std::collections::BTreeSet;

use integration_model::ErrorCode;

use crate::adapter::CallError;
use crate::adapter::template::{Template, invalid_param, text_of};
use crate::params::Params;

/// The longest key that the systems take, in bytes.
const MAX_KEY: usize = 1024;

/// `{param}` stands for a param without slashes, `{+param}` for one that may have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyTemplate {
    template: Template,
    may_have_slashes: BTreeSet<String>,
}

impl KeyTemplate {
    /// The error says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut plain = String::with_capacity(text.len());
        let mut may_have_slashes = BTreeSet::new();
        let mut rest = text;
        while let Some(at) = rest.find("{+") {
            plain.push_str(&rest[..at]);
            // A brace before it makes it one that stands for itself.
            if plain.ends_with('{') {
                plain.push_str("{+");
            } else {
                plain.push('{');
                let name = rest[at + 2..].split('}').next().unwrap_or_default();
                may_have_slashes.insert(name.to_owned());
            }
            rest = &rest[at + 2..];
        }
        plain.push_str(rest);
        let template = Template::parse(&plain)?;
        if let Some(literal) = template.literal() {
            check_segments(literal)?;
        }
        Ok(Self { template, may_have_slashes })
    }

    /// The key of an operation that has none.
    pub(super) fn none() -> Self {
        Self { template: Template::of_text(String::new()), may_have_slashes: BTreeSet::new() }
    }

    pub(super) fn params(&self) -> impl Iterator<Item = &str> {
        self.template.params()
    }

    /// The key, after what the config says goes before it.
    pub(super) fn render(&self, prefix: &str, params: &Params) -> Result<String, CallError> {
        for name in self.template.params() {
            let text = text_of(params, name)?;
            if text.is_empty() {
                return Err(invalid_param(name, "expected a text that is not empty: it goes into a key"));
            }
            if text.contains('/') && !self.may_have_slashes.contains(name) {
                return Err(invalid_param(name, "expected no slash: it is one part of a key"));
            }
        }
        let key = format!("{prefix}{}", self.template.render(params)?);
        check_segments(&key).map_err(|message| {
            let name = self.template.params().next();
            name.map_or_else(
                || CallError::not_sent(ErrorCode::Validation, message.clone()),
                |name| invalid_param(name, &message),
            )
        })?;
        Ok(key)
    }
}

/// Keys that servers or folders would read as others are refused.
pub(super) fn check_segments(key: &str) -> Result<(), String> {
    if key.len() > MAX_KEY {
        return Err(format!("expected a key of at most {MAX_KEY} bytes"));
    }
    if key.chars().any(|character| character.is_control() || character == '\\') {
        return Err("expected a key without control characters and backslashes".to_owned());
    }
    if key.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("expected a key without empty segments and without . and ..".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn render(template: &str, params: &'static str) -> Result<String, CallError> {
        let params = Params::from_json(Bytes::from_static(params.as_bytes())).expect("params");
        KeyTemplate::parse(template).expect("a template").render("app/", &params)
    }

    #[test]
    fn params_stay_in_their_place() {
        assert_eq!(render("a/{id}.pdf", r#"{"id": 7}"#).expect("a key"), "app/a/7.pdf");
        assert_eq!(render("{+path}", r#"{"path": "x/y z+ü.txt"}"#).expect("a key"), "app/x/y z+ü.txt");
        assert_eq!(render("{{+x}}", "{}").expect("a key"), "app/{+x}");
        for (template, params) in [
            ("a/{id}", r#"{"id": "x/y"}"#),
            ("a/{id}", r#"{"id": ".."}"#),
            ("a/{id}", r#"{"id": ""}"#),
            ("a/{id}", "{}"),
            ("a/{id}", r#"{"id": ["x"]}"#),
            ("{+path}", r#"{"path": "../other"}"#),
            ("{+path}", r#"{"path": "/etc"}"#),
            ("{+path}", r#"{"path": "a//b"}"#),
            ("{+path}", r#"{"path": "a\\b"}"#),
            ("{+path}", "{\"path\": \"a\\u0000\"}"),
            (".{id}", r#"{"id": "."}"#),
        ] {
            let error = render(template, params).expect_err(params);
            assert_eq!(error.code, ErrorCode::Validation, "{params}");
            assert!(error.message.contains("/params/"), "{}", error.message);
        }
        for template in ["a/../b", "a//b", "{", "/a", "a/"] {
            KeyTemplate::parse(template).expect_err(template);
        }
    }
}
