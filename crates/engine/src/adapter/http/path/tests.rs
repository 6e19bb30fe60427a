use integration_model::ErrorCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn params(value: Value) -> Params {
    match value {
        Value::Object(object) => Params::from_object(object),
        _ => panic!("params are an object"),
    }
}

fn path_of(template: &str, value: Value) -> Result<String, CallError> {
    let template = PathTemplate::parse(template).expect("a path template");
    let mut path = String::new();
    template.push_path(&params(value), &mut path).map(|()| path)
}

#[test]
fn a_path_and_its_query_are_told_apart() {
    let template = PathTemplate::parse("/pets{/kind}?sort=name{&limit}").expect("a path template");
    let given = params(json!({"kind": "dog", "limit": 5}));
    let mut path = String::new();
    template.push_path(&given, &mut path).expect("a path");
    assert_eq!(path, "/pets/dog");
    assert_eq!(template.query(&given).expect("a query").as_deref(), Some("sort=name&limit=5"));
    assert_eq!(template.params().collect::<Vec<_>>(), ["kind", "limit"]);
    let template = PathTemplate::parse("/pets{?limit}").expect("a path template");
    assert_eq!(template.query(&params(json!({}))).expect("no query"), None);
}

#[test]
fn numbers_are_in_the_path_as_they_were_written() {
    let text = bytes::Bytes::from_static(br#"{"id": 12345678901234567890123}"#);
    let given = Params::from_json(text).expect("params");
    let mut path = String::new();
    PathTemplate::parse("/{id}").expect("a path template").push_path(&given, &mut path).expect("a path");
    assert_eq!(path, "/12345678901234567890123");
}

#[test]
fn a_segment_that_would_be_empty_is_refused() {
    for (template, value) in [
        ("/pets/{id}", json!({})),
        ("/pets/{id}", json!({"id": ""})),
        ("/pets/{id}", json!({"id": null})),
        ("/pets/{id}", json!({"id": []})),
        ("/pets/{+id}", json!({"id": ""})),
        ("/pets{/id}", json!({"id": ""})),
        ("/pets{/id*}", json!({"id": ["a", ""]})),
    ] {
        let error = path_of(template, value.clone()).expect_err(template);
        assert_eq!(error.code, ErrorCode::Validation);
        assert_eq!(error.details["errors"][0]["pointer"], "/params/id", "{template} {value}");
    }
    assert_eq!(path_of("/pets{/id}", json!({})).expect("an optional segment"), "/pets");
}

#[test]
fn dot_segments_from_params_are_refused() {
    for (template, value) in [
        ("/pets/{id}", ".."),
        ("/pets/{id}", "."),
        ("/pets/{id}/x", ".."),
        ("/pets/{id}", "../../admin"),
        ("/pets/{id}", "a/../../admin"),
        ("/pets/{id}", "..\\admin"),
        ("/pets/{id}", "..;a=b"),
        ("/pets/{+id}", "a/../b"),
        ("/pets/{+id}", "%2e%2e/b"),
        ("/pets/{+id}", "x/%2E./b"),
        ("/pets/.{id}", "."),
        ("/pets/{id}{id}", "."),
        ("/pets{/id}", ".."),
    ] {
        let error = path_of(template, json!({"id": value})).expect_err(value);
        assert_eq!(error.code, ErrorCode::Validation, "{template} {value}");
    }
    assert_eq!(path_of("/files/{id}", json!({"id": "a..b.txt"})).expect("dots within a name"), "/files/a..b.txt");
}

#[test]
fn a_param_ends_no_path() {
    assert_eq!(path_of("/x/{+id}", json!({"id": "a?b#c"})).expect("a path"), "/x/a%3Fb%23c");
    assert_eq!(path_of("/x/{id}", json!({"id": "a?b#c/d"})).expect("a path"), "/x/a%3Fb%23c%2Fd");
}

#[test]
fn a_template_that_cannot_be_a_path_is_refused() {
    for template in ["pets", "{id}", "//{+x}#f", "/a{#b}", "/../a", "/a/./b", "/a/%2e%2e", "http://x/{id}", "?a=b/.."] {
        let is_query_only = template.starts_with('?');
        assert_eq!(PathTemplate::parse(template).is_err(), !is_query_only, "{template}");
    }
    assert!(PathTemplate::parse("").is_ok());
}

proptest! {
    /// Whatever a param holds, scheme, host, and the number of segments stay as they were.
    #[test]
    fn no_param_changes_the_structure(id in any::<String>(), other in any::<String>()) {
        let given = json!({"id": id, "other": other});
        if let Ok(path) = path_of("/v1/pets/{id}/toys/{other}", given.clone()) {
            let url: http::Uri = format!("https://api.example:8443{path}").parse().expect("a URI");
            prop_assert_eq!(url.scheme_str(), Some("https"));
            prop_assert_eq!(url.authority().map(|a| a.as_str()), Some("api.example:8443"));
            prop_assert_eq!(url.query(), None);
            let segments: Vec<_> = url.path().split('/').collect();
            prop_assert_eq!(segments.len(), 6);
            prop_assert_eq!((segments[1], segments[2], segments[4]), ("v1", "pets", "toys"));
            let read_again = url::Url::parse(&url.to_string()).expect("a URL");
            prop_assert_eq!(read_again.path(), url.path());
            let decoded = percent_decode_str(segments[3]).decode_utf8().expect("UTF-8");
            prop_assert_eq!(decoded.as_ref(), id.as_str());
        }
    }

    /// Reserved expansion may add segments, and nothing else.
    #[test]
    fn reserved_expansion_stays_below_its_place(rest in any::<String>()) {
        if let Ok(path) = path_of("/v1/files/{+rest}", json!({"rest": rest})) {
            let url: http::Uri = format!("https://api.example{path}").parse().expect("a URI");
            prop_assert_eq!(url.authority().map(|a| a.as_str()), Some("api.example"));
            prop_assert!(url.path().starts_with("/v1/files/"));
            prop_assert_eq!(url.query(), None);
            let read_again = url::Url::parse(&url.to_string()).expect("a URL");
            prop_assert!(read_again.path().starts_with("/v1/files/"));
            prop_assert_eq!((read_again.query(), read_again.fragment()), (None, None));
        }
    }
}
