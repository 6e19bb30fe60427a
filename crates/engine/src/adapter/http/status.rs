//! Sets of HTTP statuses: `200`, `"2xx"`, `"200-204"`.

use http::StatusCode;
use serde::{Deserialize, Deserializer};

/// A range of statuses, both ends within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapter) struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    pub(super) const SUCCESS: Self = Self { first: 200, last: 299 };

    pub(super) fn contains(self, status: StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(class) = text.strip_suffix("xx") {
            let first = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))? * 100;
            return Some(Self { first, last: first + 99 });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (range.first >= 100 && range.last <= 599 && range.first <= range.last).then_some(range)
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u16),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(status) => status.to_string(),
            Form::Text(text) => text,
        };
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("expected a status such as 404, \"4xx\" or \"400-404\""))
    }
}
