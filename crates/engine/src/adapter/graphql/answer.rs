//! A GraphQL response: its data, its errors, what it says of cost.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::adapter::http::json_text::{self, Json};
use crate::data::Data;

/// The most errors of one answer that are looked at.
const MAX_ERRORS: usize = 10;
/// The longest path of an error that is told.
const MAX_PATH: usize = 32;
/// The longest error code that is told.
const MAX_CODE: usize = 128;

/// Where servers put an error's code: most in `extensions`, each in its own place.
const CODE_POINTERS: [&str; 4] = ["/extensions/code", "/extensions/errorType", "/extensions/classification", "/type"];

/// The whole answer, in the parts that GraphQL gives it.
pub(super) struct GraphqlAnswer {
    pub(super) text: Bytes,
    /// The `data` member; none where the operation was refused before it began.
    pub(super) data: Option<Bytes>,
    pub(super) errors: Vec<UpstreamError>,
    /// How many errors there are, those not looked at included.
    pub(super) error_count: usize,
}

/// One of an answer's errors, as it was sent.
#[derive(Debug)]
pub(super) struct UpstreamError {
    pub(super) message: String,
    pub(super) code: Option<String>,
    /// The field that failed, from the data's root; empty where no field did.
    pub(super) path: Vec<String>,
}

impl GraphqlAnswer {
    /// Reads an answer. The message says what is wrong with it.
    pub(super) fn read(text: Bytes) -> Result<Self, String> {
        // RFC 8259 lets a parser pass over a byte order mark.
        let text = if text.starts_with(b"\xef\xbb\xbf") { text.slice(3..) } else { text };
        Data::from_text(text.clone()).check().map_err(|error| error.to_string())?;
        let expected = || "expected an object with data or errors".to_owned();
        let raw = json_text::parse(&text).ok_or_else(expected)?;
        let Json::Map(members) = Json::view(raw) else { return Err(expected()) };
        // The last of several members of one name counts, as everywhere.
        let member = |wanted: &str| members.iter().rev().find(|(name, _)| name == wanted).map(|(_, raw)| *raw);
        let (data, errors) = (member("data"), member("errors"));
        let items = match errors.map(Json::view) {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::List(items)) => items,
            Some(_) => return Err("expected a list of errors".to_owned()),
        };
        if data.is_none() && items.is_empty() {
            return Err(expected());
        }
        Ok(Self {
            data: data.map(|raw| text.slice_ref(raw.get().as_bytes())),
            error_count: items.len(),
            errors: items.into_iter().take(MAX_ERRORS).map(UpstreamError::read).collect(),
            text,
        })
    }

    /// The part of the data at a JSON Pointer; null where there is none.
    pub(super) fn result(&self, pointer: &str) -> Data {
        let Some(data) = &self.data else { return Data::null() };
        match json_text::locate(data, pointer) {
            Some(raw) => Data::from_text(data.slice_ref(raw.get().as_bytes())),
            None => Data::null(),
        }
    }

    /// Whether the data at a JSON Pointer holds anything but null.
    pub(super) fn has_result(&self, pointer: &str) -> bool {
        let data = self.data.as_deref().and_then(|data| json_text::locate(data, pointer));
        match data.map(Json::view) {
            None | Some(Json::Null) => false,
            Some(Json::Map(members)) => members.iter().any(|(_, raw)| !matches!(Json::view(raw), Json::Null)),
            Some(_) => true,
        }
    }

    /// The number at a JSON Pointer into the whole answer.
    pub(super) fn number(&self, pointer: &str) -> Option<f64> {
        let raw = json_text::locate(&self.text, pointer)?;
        raw.get().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
    }
}

impl UpstreamError {
    fn read(raw: &RawValue) -> Self {
        let at = |pointer: &str| json_text::locate(raw.get().as_bytes(), pointer);
        let path = match at("/path").map(Json::view) {
            Some(Json::List(steps)) => steps.into_iter().take(MAX_PATH).filter_map(json_text::text_of).collect(),
            _ => Vec::new(),
        };
        let text = |pointer: &str| match Json::view(at(pointer)?) {
            Json::Text(text) => Some(text),
            _ => None,
        };
        Self {
            message: text("/message").unwrap_or_default(),
            code: CODE_POINTERS.iter().find_map(|pointer| text(pointer)).filter(|code| code.len() <= MAX_CODE),
            path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<GraphqlAnswer, String> {
        GraphqlAnswer::read(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn data_comes_back_as_it_was_written() {
        let answer =
            read("\u{feff}{\"data\": {\"a\": {\"n\": 1.10, \"big\": 12345678901234567890123}}}").expect("an answer");
        assert_eq!(answer.result("/a").text().as_ref(), b"{\"n\": 1.10, \"big\": 12345678901234567890123}");
        assert_eq!(answer.result("/x/y").text().as_ref(), b"null");
        assert!(answer.has_result("") && answer.has_result("/a/n") && !answer.has_result("/b"));
        assert!(!read(r#"{"data": {"a": null, "b": null}}"#).expect("an answer").has_result(""));
    }

    #[test]
    fn what_is_no_graphql_answer_is_told() {
        for text in
            ["", "[]", "{}", "null", "<html>", r#"{"errors": []}"#, r#"{"errors": "x"}"#, r#"{"data": {"a": 1}"#]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn codes_are_found_where_servers_put_them() {
        let answer = read(
            r#"{"errors": [
                {"message": "a", "path": ["x", 0, "y"], "extensions": {"code": "A"}},
                {"message": "b", "extensions": {"errorType": "B"}}, {"extensions": {"classification": "C"}},
                {"type": "D", "extensions": {"code": 7}}, "nonsense", {"path": "x"}
            ]}"#,
        )
        .expect("an answer");
        let codes: Vec<_> = answer.errors.iter().map(|error| error.code.as_deref().unwrap_or("-")).collect();
        assert_eq!(codes, ["A", "B", "C", "D", "-", "-"]);
        assert_eq!(answer.errors[0].path, ["x", "0", "y"]);
        assert_eq!(answer.errors[4].message, "");
    }
}
