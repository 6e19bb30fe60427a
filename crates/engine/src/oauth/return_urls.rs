//! Where people may be sent after a connection: without a list, anybody who begins one could
//! have this service send its people anywhere.

use url::Url;

/// The URLs that people may be sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReturnUrls(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    url: Url,
    /// Whether everything below is allowed too.
    is_prefix: bool,
}

/// An entry that is no URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an http or https URL without user information, query and fragment; with a slash at its end, all below it is allowed"
)]
pub struct InvalidReturnUrl;

impl ReturnUrls {
    /// Reads a list: an entry allows its own URL with any query, and where it ends in a slash
    /// everything below it.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidReturnUrl> {
        entries.into_iter().map(Entry::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether people may be sent to `url`.
    pub fn allow(&self, url: &str) -> bool {
        let Some(url) = read(url) else { return false };
        self.0.iter().any(|entry| entry.allows(&url))
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, InvalidReturnUrl> {
        let url = read(text).filter(|url| url.query().is_none()).ok_or(InvalidReturnUrl)?;
        Ok(Self { is_prefix: text.ends_with('/'), url })
    }

    fn allows(&self, url: &Url) -> bool {
        let path_fits =
            if self.is_prefix { url.path().starts_with(self.url.path()) } else { url.path() == self.url.path() };
        url.origin() == self.url.origin() && path_fits
    }
}

fn read(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && is_plain && text.len() <= 4096).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_sent_where_the_list_says_and_nowhere_else() {
        let urls = ReturnUrls::parse(["https://app.example/done", "https://app.example/settings/"]).expect("a list");
        for good in [
            "https://app.example/done",
            "https://app.example/done?x=1",
            "https://app.example/settings/",
            "https://app.example/settings/a/b?c=d",
            "https://APP.example:443/done",
        ] {
            assert!(urls.allow(good), "{good}");
        }
        for bad in [
            "https://app.example/done/more",
            "https://app.example/settings",
            "https://app.example/settings/../admin",
            "https://app.example.evil.example/done",
            "https://app.example@evil.example/done",
            "http://app.example/done",
            "https://app.example:8443/done",
            "https://app.example/done#x",
            "//app.example/done",
            "javascript:alert(1)",
            "",
        ] {
            assert!(!urls.allow(bad), "{bad}");
        }
        assert!(!ReturnUrls::default().allow("https://app.example/done"));
        for bad in ["app.example", "ftp://app.example/", "https://app.example/?x", "https://u@app.example/"] {
            assert!(ReturnUrls::parse([bad]).is_err(), "{bad}");
        }
    }
}
