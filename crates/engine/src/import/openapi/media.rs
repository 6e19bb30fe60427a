//! Media types, as far as they say how a body is written.

/// What a body of a media type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MediaKind {
    Json,
    Form,
    Multipart,
    Xml,
    Csv,
    Text,
    Binary,
}

/// A media type, or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MediaType<'a> {
    pub(super) name: &'a str,
    pub(super) kind: MediaKind,
}

impl MediaKind {
    pub(super) const fn encoding(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Form => "form",
            Self::Multipart => "multipart",
            Self::Xml => "xml",
            Self::Csv => "csv",
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

impl<'a> MediaType<'a> {
    pub(super) fn parse(name: &'a str) -> Self {
        let essence = name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let kind = match essence.as_str() {
            "application/json" | "text/json" | "*/*" | "application/*" => MediaKind::Json,
            "application/x-www-form-urlencoded" => MediaKind::Form,
            "multipart/form-data" => MediaKind::Multipart,
            "application/xml" | "text/xml" => MediaKind::Xml,
            "text/csv" => MediaKind::Csv,
            other if other.ends_with("+json") => MediaKind::Json,
            other if other.ends_with("+xml") => MediaKind::Xml,
            other if other.starts_with("text/") => MediaKind::Text,
            _ => MediaKind::Binary,
        };
        Self { name, kind }
    }

    /// The one to prefer comes first.
    pub(super) fn rank(&self) -> (MediaKind, bool) {
        (self.kind, !self.is_usual())
    }

    /// Whether the encoding says so by itself.
    fn is_usual(&self) -> bool {
        matches!(
            self.name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str(),
            "application/json"
                | "application/x-www-form-urlencoded"
                | "multipart/form-data"
                | "application/xml"
                | "text/csv"
                | "text/plain"
                | "application/octet-stream"
        )
    }

    /// The `Content-Type` to send where the encoding's own is another one.
    pub(super) fn content_type(&self) -> Option<&'a str> {
        let fits = self.name.len() <= 200 && http::HeaderValue::from_str(self.name).is_ok();
        (fits && !self.is_usual() && !self.name.contains('*')).then_some(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_says_how_a_body_is_written() {
        for (name, kind, content_type) in [
            ("application/json; charset=utf-8", MediaKind::Json, None),
            ("application/vnd.x+json", MediaKind::Json, Some("application/vnd.x+json")),
            ("application/*", MediaKind::Json, None),
            ("application/soap+xml", MediaKind::Xml, Some("application/soap+xml")),
            ("text/x-markdown", MediaKind::Text, Some("text/x-markdown")),
            ("image/*", MediaKind::Binary, None),
            ("image/png", MediaKind::Binary, Some("image/png")),
        ] {
            let media_type = MediaType::parse(name);
            assert_eq!((media_type.kind, media_type.content_type()), (kind, content_type), "{name}");
        }
    }
}
