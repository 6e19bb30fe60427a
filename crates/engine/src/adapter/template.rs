//! Texts of operations with params in them: `user:{id}`. A brace is written twice.

use integration_model::problem::push_pointer;
use integration_model::{ErrorCode, Problem};
use serde_json::Value;

use super::CallError;
use crate::params::Params;

/// A text with places for params.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapter) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Param(String),
}

impl Template {
    /// The error says what was expected.
    pub(in crate::adapter) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let name = rest.split_once('}').filter(|_| brace == "{");
            let Some((name, after)) = name.filter(|(name, _)| !name.is_empty() && !name.contains('{')) else {
                return Err("expected {param}; a brace that stands for itself is written twice: {{ or }}".to_owned());
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Param(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// A text that stands for itself.
    pub(in crate::adapter) fn of_text(text: String) -> Self {
        Self(vec![Part::Text(text)])
    }

    /// The names of its params.
    pub(in crate::adapter) fn params(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Param(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text, where no param is in it.
    pub(in crate::adapter) fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with its params filled in.
    pub(in crate::adapter) fn render(&self, params: &Params) -> Result<String, CallError> {
        self.render_with(params, |text| text)
    }

    /// The text with its params filled in, each as `escape` gives it.
    pub(in crate::adapter) fn render_with(
        &self,
        params: &Params,
        escape: impl Fn(String) -> String,
    ) -> Result<String, CallError> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Param(name) => out.push_str(&escape(text_of(params, name)?)),
            }
        }
        Ok(out)
    }
}

/// A param as text: a string as it is, a number as it was written, a boolean.
pub(in crate::adapter) fn text_of(params: &Params, name: &str) -> Result<String, CallError> {
    match params.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Bool(value)) => Ok(value.to_string()),
        Some(Value::Number(number)) => {
            let written = params.json_text(name).and_then(|text| String::from_utf8(text.to_vec()).ok());
            Ok(written.unwrap_or_else(|| number.to_string()))
        }
        None | Some(Value::Null) => Err(invalid_param(name, "expected a value: the operation needs this param")),
        Some(Value::Array(_) | Value::Object(_)) => Err(invalid_param(name, "expected a text, a number or a boolean")),
    }
}

/// A param that does not fit the operation; the message shows no value.
pub(in crate::adapter) fn invalid_param(name: &str, expected: &str) -> CallError {
    invalid(Problem::new(push_pointer("/params", name), expected))
}

fn invalid(problem: Problem) -> CallError {
    CallError::not_sent(ErrorCode::Validation, problem.to_string()).with_detail("errors", serde_json::json!([problem]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn render(text: &str, params: &'static str) -> Result<String, CallError> {
        let params = Params::from_json(Bytes::from_static(params.as_bytes())).expect("params");
        Template::parse(text).expect("a template").render(&params)
    }

    #[test]
    fn params_fill_parts_and_braces_are_written_twice() {
        let params = r#"{"id": 12345678901234567890.10, "s": "a {id} }", "yes": true}"#;
        for (text, expected) in [
            ("user:{id}", "user:12345678901234567890.10"),
            ("{s}", "a {id} }"),
            ("{{{s}}}:{yes}", "{a {id} }}:true"),
            ("{{s}}", "{s}"),
            ("", ""),
        ] {
            assert_eq!(render(text, params).expect(text), expected, "{text}");
        }
        assert_eq!(Template::parse("{a}:{b}").expect("a template").params().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Template::parse("{{x").expect("a template").literal(), Some("{x"));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["{", "}", "{}", "a{b", "a}b", "{a{b}"] {
            Template::parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_param_that_is_no_text_is_refused() {
        for params in ["{}", r#"{"a": null}"#, r#"{"a": [1]}"#, r#"{"a": {}}"#] {
            let error = render("{a}", params).expect_err(params);
            assert_eq!(error.code, ErrorCode::Validation);
            assert_eq!(error.details["errors"][0]["pointer"], "/params/a");
        }
    }
}
