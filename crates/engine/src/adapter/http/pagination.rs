//! Answers in pages: where the next one begins, and how pages become one answer.
//!
//! A page cursor is the number of pages read before it, a dot, and what the next request
//! needs: a cursor, an offset, a page number, or the query of a link. Cursors may come back
//! from callers, so nothing in them can lead elsewhere than to the operation's own path.

use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::json_text::{self, Json};
use crate::adapter::{CallError, Effect, PageCursor};
use crate::data::Data;

/// The longest cursor that is taken.
const MAX_CURSOR: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A `Link` header with `rel="next"` (RFC 8288), or a URL in the body at `cursorPath`.
    Link,
    /// A value at `cursorPath` goes into the next request.
    Cursor,
    /// The next request skips the items read so far.
    Offset,
    /// Pages are numbered.
    Page,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::adapter) struct PaginationSpec {
    #[serde(rename = "type")]
    kind: Kind,
    param: Option<String>,
    page_size_param: Option<String>,
    page_size: Option<u64>,
    #[serde(default)]
    items_path: String,
    cursor_path: Option<String>,
    last_item_path: Option<String>,
    has_more_path: Option<String>,
    start_page: Option<u64>,
    #[serde(default = "default_max_pages")]
    max_pages: u32,
}

const fn default_max_pages() -> u32 {
    100
}

/// What pagination adds to one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::adapter) struct PageRequest {
    /// How many pages were read before.
    pages: u32,
    /// The offset or page number of this request.
    position: u64,
    page_size: Option<u64>,
    /// Pairs in place of those of the same name.
    pub(in crate::adapter) pairs: Vec<(String, String)>,
    /// The query of a link, in place of what params put into the query.
    pub(super) link_query: Option<String>,
}

/// One answer, as far as pagination looks at it.
pub(in crate::adapter) struct PageAnswer<'a> {
    pub(in crate::adapter) url: &'a Uri,
    pub(in crate::adapter) headers: &'a HeaderMap,
    pub(in crate::adapter) data: &'a Data,
}

impl PaginationSpec {
    /// The pages of a GraphQL connection: `after` carries the cursor; `page_size` is the name and
    /// the value of what asks for so many items, which are at `items_path` of each page's data.
    pub(in crate::adapter) fn of_connection(
        connection: &str,
        after: &str,
        page_size: Option<(String, u64)>,
        items_path: String,
        max_pages: u32,
    ) -> Self {
        let (page_size_param, page_size) = page_size.unzip();
        Self {
            kind: Kind::Cursor,
            param: Some(after.to_owned()),
            page_size_param,
            page_size,
            items_path,
            last_item_path: None,
            cursor_path: Some(format!("{connection}/pageInfo/endCursor")),
            has_more_path: Some(format!("{connection}/pageInfo/hasNextPage")),
            start_page: None,
            max_pages,
        }
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |fits: bool, pointer: &str, message: &str| {
            if !fits {
                problems.push(Problem::new(pointer, message));
            }
        };
        let has_cursor_path = self.cursor_path.is_some();
        expect(
            self.kind != Kind::Cursor || has_cursor_path != self.last_item_path.is_some(),
            "/pagination/cursorPath",
            "type cursor needs it, where the answer holds the next cursor, or else lastItemPath",
        );
        expect(
            self.kind == Kind::Cursor || self.last_item_path.is_none(),
            "/pagination/lastItemPath",
            "only type cursor has one",
        );
        expect(
            matches!(self.kind, Kind::Cursor | Kind::Link) || !has_cursor_path,
            "/pagination/cursorPath",
            "only types cursor and link have one",
        );
        expect(
            self.page_size_param.is_none() || self.page_size.is_some(),
            "/pagination/pageSize",
            "expected the size that pageSizeParam carries",
        );
        let is_counted = matches!(self.kind, Kind::Offset | Kind::Page);
        expect(is_counted || self.start_page.is_none(), "/pagination/startPage", "only types offset and page have one");
        expect(self.kind != Kind::Link || self.param.is_none(), "/pagination/param", "type link has none");
        problems
    }

    fn param(&self) -> &str {
        self.param.as_deref().unwrap_or(match self.kind {
            Kind::Link => "",
            Kind::Cursor => "cursor",
            Kind::Offset => "offset",
            Kind::Page => "page",
        })
    }

    fn start(&self) -> u64 {
        self.start_page.unwrap_or(u64::from(self.kind == Kind::Page))
    }

    /// What to add to the request of a page. `given` finds what the caller's params already
    /// say under a query parameter's name.
    pub(in crate::adapter) fn request(
        &self,
        cursor: Option<&PageCursor>,
        given: impl Fn(&str) -> Option<String>,
    ) -> Result<PageRequest, CallError> {
        let mut request = PageRequest { page_size: self.page_size, position: self.start(), ..PageRequest::default() };
        if let Some(name) = &self.page_size_param {
            match given(name) {
                Some(size) => request.page_size = size.parse().ok(),
                None => request.pairs.extend(self.page_size.map(|size| (name.clone(), size.to_string()))),
            }
        }
        let Some(cursor) = cursor else {
            if let Some(position) = given(self.param()).and_then(|position| position.parse().ok()) {
                request.position = position;
            }
            return Ok(request);
        };
        let (pages, state) = self.read_cursor(cursor).ok_or_else(invalid_cursor)?;
        request.pages = pages;
        match self.kind {
            Kind::Link => request.link_query = Some(state.to_owned()),
            Kind::Cursor => request.pairs.push((self.param().to_owned(), state.to_owned())),
            Kind::Offset | Kind::Page => {
                request.position = state.parse().map_err(|_| invalid_cursor())?;
                request.pairs.push((self.param().to_owned(), request.position.to_string()));
            }
        }
        Ok(request)
    }

    fn read_cursor<'a>(&self, cursor: &'a PageCursor) -> Option<(u32, &'a str)> {
        let (pages, state) = cursor.0.split_once('.')?;
        let pages = pages.parse().ok()?;
        (cursor.0.len() <= MAX_CURSOR && !state.is_empty() && pages > 0 && pages < self.max_pages)
            .then_some((pages, state))
    }

    /// Where the page after this answer begins, if there is one.
    pub(in crate::adapter) fn next(
        &self,
        request: &PageRequest,
        answer: &PageAnswer<'_>,
    ) -> Result<Option<PageCursor>, CallError> {
        let pages = request.pages.saturating_add(1);
        if pages >= self.max_pages {
            return Ok(None);
        }
        let has_more = self.has_more(answer.data);
        if has_more == Some(false) {
            return Ok(None);
        }
        let state = match self.kind {
            Kind::Link => self.next_link(answer)?,
            Kind::Cursor => self.next_cursor(answer.data)?,
            Kind::Offset | Kind::Page => self.next_position(request, has_more, answer.data)?,
        };
        match state.filter(|state| !state.is_empty()) {
            Some(state) if state.len() > MAX_CURSOR - 16 => Err(unusable("the next page's cursor is too long")),
            state => Ok(state.map(|state| PageCursor(format!("{pages}.{state}")))),
        }
    }

    fn next_cursor(&self, data: &Data) -> Result<Option<String>, CallError> {
        let Some(path) = &self.last_item_path else {
            return Ok(self.cursor_path.as_deref().and_then(|path| value_at(data, path)));
        };
        let items = items(data.text(), &self.items_path)?;
        let last = items.last().and_then(|item| json_text::locate(item.get().as_bytes(), path));
        Ok(last.and_then(json_text::text_of))
    }

    fn has_more(&self, data: &Data) -> Option<bool> {
        let value = value_at(data, self.has_more_path.as_deref()?);
        Some(!matches!(value.as_deref(), None | Some("false" | "" | "0")))
    }

    fn next_position(
        &self,
        request: &PageRequest,
        has_more: Option<bool>,
        data: &Data,
    ) -> Result<Option<String>, CallError> {
        let count = items(data.text(), &self.items_path)?.len() as u64;
        let is_last = count == 0 || (has_more.is_none() && request.page_size.is_some_and(|size| count < size));
        let step = if self.kind == Kind::Offset { count } else { 1 };
        Ok((!is_last).then(|| request.position.saturating_add(step).to_string()))
    }

    /// The query of the next link. Links may name another path for the same list; the
    /// operation's own is kept, so the position has to be in the query.
    fn next_link(&self, answer: &PageAnswer<'_>) -> Result<Option<String>, CallError> {
        let link = match &self.cursor_path {
            Some(path) => value_at(answer.data, path),
            None => next_of_link_headers(answer.headers).map(str::to_owned),
        };
        let Some(link) = link.filter(|link| !link.is_empty()) else { return Ok(None) };
        let url = Url::parse(&answer.url.to_string())
            .and_then(|url| url.join(&link))
            .map_err(|_| unusable("the link to the next page is no URL"))?;
        match url.query().filter(|query| !query.is_empty() && Some(*query) != answer.url.query()) {
            Some(query) => Ok(Some(query.to_owned())),
            None => Err(unusable("the link to the next page says nothing new in its query")),
        }
    }

    /// The data of one page, `whole`, with the items of all of them, in the text in which
    /// they came.
    pub(in crate::adapter) fn join(&self, pages: &[Data], whole: &Data) -> Result<Data, CallError> {
        if pages.len() <= 1 {
            return Ok(whole.clone());
        }
        let text = whole.text();
        let array = array_at(text, &self.items_path)?;
        let start = array.get().as_ptr() as usize - text.as_ptr() as usize;
        let end = start + array.get().len();
        let mut joined = Vec::with_capacity(pages.iter().map(|page| page.text().len()).sum());
        joined.extend_from_slice(&text[..start]);
        joined.push(b'[');
        let mut separator: &[u8] = b"";
        for page in pages {
            for item in items(page.text(), &self.items_path)? {
                joined.extend_from_slice(separator);
                joined.extend_from_slice(item.get().as_bytes());
                separator = b",";
            }
        }
        joined.push(b']');
        joined.extend_from_slice(&text[end..]);
        Ok(Data::from_text(Bytes::from(joined)))
    }
}

/// The text of the value at a pointer; none for null.
fn value_at(data: &Data, pointer: &str) -> Option<String> {
    json_text::locate(data.text(), pointer).and_then(json_text::text_of)
}

fn array_at<'a>(text: &'a [u8], pointer: &str) -> Result<&'a RawValue, CallError> {
    json_text::locate(text, pointer)
        .filter(|raw| raw.get().starts_with('['))
        .ok_or_else(|| unusable(&format!("a page has no array of items at {pointer:?}")))
}

fn items<'a>(text: &'a [u8], pointer: &str) -> Result<Vec<&'a RawValue>, CallError> {
    match Json::view(array_at(text, pointer)?) {
        Json::List(items) => Ok(items),
        _ => Err(unusable(&format!("a page has no array of items at {pointer:?}"))),
    }
}

fn invalid_cursor() -> CallError {
    CallError::not_sent(ErrorCode::Validation, "the page cursor is not one that this method gave out")
}

fn unusable(message: &str) -> CallError {
    CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
}

/// The target of `rel="next"` in the `Link` headers.
fn next_of_link_headers(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_link)
}

fn next_link(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        let end = parameters_end(after);
        if after[..end].split(';').any(is_next) {
            return Some(target.trim());
        }
        rest = &after[end..];
    }
    None
}

/// Where the parameters of a link end: at a comma that is not quoted.
fn parameters_end(text: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        let relations = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("rel")
            && relations.split(' ').any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found_among_others() {
        let github = r#"<https://api.example/x?page=1>; rel="prev", <https://api.example/x?page=3>; rel="next""#;
        assert_eq!(next_link(github), Some("https://api.example/x?page=3"));
        assert_eq!(next_link(r#"</x?a=1,2>; title="a, b; rel=next"; rel="last next""#), Some("/x?a=1,2"));
        assert_eq!(next_link("<y>; REL=next"), Some("y"));
        for none in ["", "<x", "<x>; rel=prev", "rel=next", r#"<x>; title="\", rel=next"#] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }
}
