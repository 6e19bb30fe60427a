//! The query of a request: pairs in the styles of OpenAPI.

use serde::Deserialize;

use super::uri_template::push_encoded;
use super::values::ParamValue;
use crate::params::Params;

/// Which param a query parameter carries, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum QueryBinding {
    Param(String),
    Styled(StyledParam),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StyledParam {
    pub(super) param: String,
    #[serde(default)]
    style: Style,
    explode: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Style {
    #[default]
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
}

impl Style {
    /// What stands between the items of a list that is not exploded.
    const fn delimiter(self) -> &'static str {
        match self {
            Self::Form | Self::DeepObject => ",",
            Self::SpaceDelimited => "%20",
            Self::PipeDelimited => "%7C",
        }
    }
}

impl QueryBinding {
    pub(super) fn param(&self) -> &str {
        match self {
            Self::Param(name) => name,
            Self::Styled(styled) => &styled.param,
        }
    }

    fn style(&self) -> (Style, bool) {
        match self {
            Self::Param(_) => (Style::Form, true),
            // Only `form` explodes where nothing is said (OpenAPI, "style").
            Self::Styled(styled) => (styled.style, styled.explode.unwrap_or(styled.style == Style::Form)),
        }
    }

    /// Appends the pairs of the param, if it has a value.
    pub(super) fn push(&self, wire_name: &str, params: &Params, query: &mut QueryString<'_>) {
        let Some(value) = ParamValue::read(params, self.param()) else { return };
        let (style, explode) = self.style();
        match value {
            ParamValue::Text(text) => query.push(wire_name, &text),
            ParamValue::List(items) if explode => items.iter().for_each(|item| query.push(wire_name, item)),
            ParamValue::List(items) => query.push_joined(wire_name, items.iter(), style.delimiter()),
            ParamValue::Map(members) if style == Style::DeepObject => {
                members.iter().for_each(|(name, value)| query.push(&format!("{wire_name}[{name}]"), value));
            }
            ParamValue::Map(members) if explode => {
                members.iter().for_each(|(name, value)| query.push(name, value));
            }
            ParamValue::Map(members) => {
                let items = members.iter().flat_map(|(name, value)| [name, value]);
                query.push_joined(wire_name, items, style.delimiter());
            }
        }
    }
}

/// Appends a query to the text of a URL.
pub(super) struct QueryString<'a> {
    url: &'a mut String,
    separator: char,
}

impl<'a> QueryString<'a> {
    /// Goes on after `url`, which has no query yet.
    pub(super) fn after(url: &'a mut String) -> Self {
        Self { url, separator: '?' }
    }

    fn separate(&mut self) {
        self.url.push(self.separator);
        self.separator = '&';
    }

    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.separate();
        push_encoded(name, self.url);
        self.url.push('=');
        push_encoded(value, self.url);
    }

    /// Appends pairs that are encoded already.
    pub(super) fn push_raw(&mut self, pairs: &str) {
        if !pairs.is_empty() {
            self.separate();
            self.url.push_str(pairs);
        }
    }

    fn push_joined<'b>(&mut self, name: &str, items: impl Iterator<Item = &'b String>, delimiter: &str) {
        self.separate();
        push_encoded(name, self.url);
        self.url.push('=');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.url.push_str(delimiter);
            }
            push_encoded(item, self.url);
        }
    }
}
