//! Answers in pages, recognised by the names that are used for nothing else, and only where
//! the schema of the answer shows where the items are.

use serde_json::{Value, json};

use super::Source;
use super::documents::Node;
use super::parameters::{Parameter, schema_of};
use super::responses::Responses;

/// A query parameter that takes a cursor, and where answers hold the next one.
const CURSORS: [(&str, &[&str]); 8] = [
    (
        "cursor",
        &[
            "/next_cursor",
            "/nextCursor",
            "/response_metadata/next_cursor",
            "/pagination/next_cursor",
            "/meta/next_cursor",
            "/paging/cursors/after",
            "/cursors/after",
        ],
    ),
    ("after", &["/paging/cursors/after", "/cursors/after", "/meta/cursors/after"]),
    ("page_token", &["/next_page_token", "/nextPageToken"]),
    ("pageToken", &["/nextPageToken", "/next_page_token"]),
    ("next_token", &["/next_token", "/meta/next_token"]),
    ("nextToken", &["/nextToken"]),
    ("marker", &["/next_marker"]),
    ("offset", &["/next_page/offset"]),
];
/// Where answers hold the URL of the next page.
const LINKS: [&str; 5] = ["/next_page_uri", "/links/pages/next", "/links/next", "/meta/next_page_url", "/next"];
/// Pages that are counted: the parameter, and those that give the size of a page.
const OFFSETS: [(&str, &[&str]); 2] =
    [("offset", &["limit", "page_size", "pageSize"]), ("skip", &["limit", "take", "top"])];
const PAGES: [(&str, &[&str]); 2] =
    [("page", &["per_page", "perPage", "page_size", "pageSize", "limit", "size"]), ("page_number", &["page_size"])];

/// The operation's `pagination`; none where it is not sure.
pub(super) fn recognise<'a>(
    source: &Source<'a>,
    parameters: &[Parameter<'a>],
    responses: &Responses<'a>,
) -> Option<Value> {
    let (answer, schema) = responses.first_json(source)?;
    let items = items_path(source, schema)?;
    let query = |name: &str| parameters.iter().find(|parameter| parameter.place == "query" && parameter.name == name);
    let of_answer = |pointer: &str| is_text_at(source, schema, pointer);
    for (param, pointers) in CURSORS {
        if let (Some(_), Some(pointer)) = (query(param), pointers.iter().find(|pointer| of_answer(pointer))) {
            return Some(json!({"type": "cursor", "param": param, "cursorPath": pointer, "itemsPath": items}));
        }
    }
    if answer.members_of("headers").any(|(name, _)| name.eq_ignore_ascii_case("link")) {
        return Some(json!({"type": "link", "itemsPath": items}));
    }
    if !items.is_empty()
        && let Some(pointer) = LINKS.iter().find(|pointer| of_answer(pointer))
    {
        return Some(json!({"type": "link", "cursorPath": pointer, "itemsPath": items}));
    }
    let number = |name: &str| {
        let schema = schema_of(source.dialect, query(name)?.node)?;
        let schema = source.documents.follow(schema).ok()?;
        source.has_type(Some(schema), "integer").then_some(schema)
    };
    for (kind, names) in [("offset", OFFSETS), ("page", PAGES)] {
        for (param, sizes) in names {
            let Some(position) = number(param) else { continue };
            let Some((size_param, size)) = sizes.iter().find_map(|name| Some((*name, number(name)?))) else { continue };
            let mut pagination = json!({"type": kind, "param": param, "itemsPath": items});
            if let Some(size) =
                size.value.get("default").and_then(Value::as_u64).filter(|size| (1..=100_000).contains(size))
            {
                pagination["pageSizeParam"] = size_param.into();
                pagination["pageSize"] = size.into();
            }
            let first = position.value.get("default").or_else(|| position.value.get("minimum"));
            if kind == "page" && first.and_then(Value::as_u64) == Some(0) {
                pagination["startPage"] = 0.into();
            }
            return Some(pagination);
        }
    }
    None
}

/// Where the array of items is: the whole answer, or its one array.
fn items_path<'a>(source: &Source<'a>, schema: Node<'a>) -> Option<String> {
    let schema = source.documents.follow(schema).ok()?;
    if source.has_type(Some(schema), "array") {
        return Some(String::new());
    }
    let mut arrays =
        source.properties(schema).into_iter().filter(|(_, property)| source.has_type(Some(*property), "array"));
    let (name, _) = arrays.next()?;
    let is_plain = name.len() <= 200 && !name.contains(['/', '~']);
    (arrays.next().is_none() && is_plain).then(|| format!("/{name}"))
}

/// Whether the answer has a text (or a number) at this place.
fn is_text_at<'a>(source: &Source<'a>, schema: Node<'a>, pointer: &str) -> bool {
    let mut node = schema;
    for name in pointer.split('/').skip(1) {
        match source.properties(node).into_iter().find(|(known, _)| *known == name) {
            Some((_, property)) => node = property,
            None => return false,
        }
    }
    source.has_type(Some(node), "string")
}
