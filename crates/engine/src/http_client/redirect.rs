//! Following redirects: which, how far, and what goes along.

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use url::Url;

use super::error::{HttpError, RedirectRefusal};

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectMode {
    /// None: the redirect is the answer.
    None,
    /// Those within the origin of the request; others are errors.
    SameOrigin,
    /// All but those from https to http. Credentials stay behind at the border of an origin.
    Follow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectPolicy {
    pub mode: RedirectMode,
    pub max_hops: u8,
}

impl Default for RedirectPolicy {
    fn default() -> Self {
        Self { mode: RedirectMode::SameOrigin, max_hops: 5 }
    }
}

/// Headers that carry credentials by their name alone; values marked sensitive do so too.
const CREDENTIAL_HEADERS: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
];

/// Whether a header of this name usually carries a credential.
pub fn is_credential_header(name: &HeaderName) -> bool {
    CREDENTIAL_HEADERS.contains(&name.as_str())
}

/// The parts of a request that a redirect may change.
pub(super) struct Target {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether a redirect led to another origin: what belongs to the first one, its
    /// credentials, client certificate and authorities, is no longer used.
    pub(super) left_origin: bool,
}

impl Target {
    /// Turns the request into the one that the redirect asks for. `false`: the answer is no
    /// redirect to follow.
    pub(super) fn redirect(
        &mut self,
        policy: RedirectPolicy,
        hops: u8,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<bool, HttpError> {
        let followed = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = headers.get(header::LOCATION) else { return Ok(false) };
        if !followed || policy.mode == RedirectMode::None {
            return Ok(false);
        }
        let refuse =
            |refusal, url: &Uri| HttpError::Redirect { host: url.host().unwrap_or_default().to_owned(), refusal };
        let next = resolve(&self.url, location.as_bytes())
            .ok_or_else(|| refuse(RedirectRefusal::InvalidLocation, &self.url))?;
        if hops >= policy.max_hops {
            return Err(refuse(RedirectRefusal::TooMany { limit: policy.max_hops }, &next));
        }
        if self.url.scheme() == Some(&Scheme::HTTPS) && next.scheme() != Some(&Scheme::HTTPS) {
            return Err(refuse(RedirectRefusal::Downgrade, &next));
        }
        if !same_origin(&self.url, &next) {
            if policy.mode == RedirectMode::SameOrigin {
                return Err(refuse(RedirectRefusal::OtherOrigin, &next));
            }
            self.left_origin = true;
            self.leave_credentials();
        }
        self.rewrite_method(status);
        self.url = next;
        Ok(true)
    }

    /// 303 turns everything into a GET, 301 and 302 turn a POST into one; 307 and 308 keep
    /// the request as it is (RFC 9110, section 15.4).
    fn rewrite_method(&mut self, status: StatusCode) {
        let becomes_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = Bytes::new();
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
                self.headers.remove(name);
            }
        }
    }

    fn leave_credentials(&mut self) {
        let kept = std::mem::take(&mut self.headers);
        let mut last = None;
        for (name, value) in kept {
            if name.is_some() {
                last = name;
            }
            let Some(name) = &last else { continue };
            if !value.is_sensitive() && !is_credential_header(name) {
                self.headers.append(name.clone(), value);
            }
        }
    }
}

/// The absolute URL that a `Location` means.
fn resolve(base: &Uri, location: &[u8]) -> Option<Uri> {
    let location = std::str::from_utf8(location).ok()?;
    let mut url = Url::parse(&base.to_string()).ok()?.join(location).ok()?;
    url.set_fragment(None);
    let fits = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    fits.then(|| url.as_str().parse().ok()).flatten()
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    one.scheme() == other.scheme()
        && port(one) == port(other)
        && match (one.host(), other.host()) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            _ => false,
        }
}
