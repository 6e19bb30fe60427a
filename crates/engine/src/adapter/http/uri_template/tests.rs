use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::params::Params;

fn expand(template: &str, variables: &Value) -> Option<String> {
    let params = Params::from_json(Bytes::from(variables.to_string())).expect("an object");
    let template = UriTemplate::parse(template).ok()?;
    let mut out = String::new();
    let lookup = |variable: &Variable, _| Ok::<_, PrefixOfComposite>(ParamValue::read(&params, &variable.name));
    template.expand(&mut out, lookup).ok()?;
    Some(out)
}

#[test]
fn every_operator_expands_every_form_of_value() {
    let variables = serde_json::json!({
        "pet": "rex", "say": "Hi & bye!", "dir": "/a/b", "none": null, "blank": "", "pct": "100%25 or 5%",
        "list": ["x y", "z"], "map": {"k": "v;"}, "n": 12,
    });
    for (template, expected) in [
        ("/pets/{pet}", "/pets/rex"),
        ("/pets/{n}", "/pets/12"),
        ("{say}", "Hi%20%26%20bye%21"),
        ("{+say}", "Hi%20&%20bye!"),
        ("{+dir}/c", "/a/b/c"),
        ("{+pct}", "100%25%20or%205%25"),
        ("{pct}", "100%2525%20or%205%25"),
        ("x{#dir}", "x#/a/b"),
        ("f{.pet,list}", "f.rex.x%20y,z"),
        ("{/list*}", "/x%20y/z"),
        ("{/pet:2}", "/re"),
        ("{;pet,blank}", ";pet=rex;blank"),
        ("{?pet,blank,none}", "?pet=rex&blank="),
        ("{?list*}", "?list=x%20y&list=z"),
        ("{?list}", "?list=x%20y,z"),
        ("{?map*}", "?k=v%3B"),
        ("{map}", "k,v%3B"),
        ("a{&none}", "a"),
        ("{none}", ""),
        ("<é>", "%3C%C3%A9%3E"),
    ] {
        assert_eq!(expand(template, &variables).as_deref(), Some(expected), "{template}");
    }
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    for template in
        ["{", "}", "{}", "{a", "a}", "{{a}}", "{a b}", "{!a}", "{a:0}", "{a:10000}", "{a:x}", "{a.}", "{%2x}", "{a*:1}"]
    {
        assert!(UriTemplate::parse(template).is_err(), "{template}");
    }
    let error = UriTemplate::parse("/pets/{pet id}").expect_err("a space in a name");
    assert_eq!(error.to_string(), "no URI template (RFC 6570): \"pet id\" is no variable name at byte 7");
    assert!(UriTemplate::parse(&"x".repeat(MAX_TEMPLATE + 1)).is_err());
}

#[test]
fn prefixes_cut_between_characters() {
    assert_eq!(expand("{x:2}", &serde_json::json!({"x": "äöü"})).as_deref(), Some("%C3%A4%C3%B6"));
    assert_eq!(expand("{x:2}", &serde_json::json!({"x": ["a"]})), None);
}

/// Runs the public test suite of RFC 6570 where it is at hand: `INTEGRATION_SUITES` names
/// the folder that holds `uritemplate/`.
#[test]
fn the_public_suite_passes() {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests find the corpora and servers that they run against by the environment"
    )]
    let Some(folder) = std::env::var_os("INTEGRATION_SUITES") else {
        #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
        {
            eprintln!("skipped: INTEGRATION_SUITES does not name the folder of the public suites");
        }
        return;
    };
    let folder = Path::new(&folder).join("uritemplate");
    for name in ["spec-examples.json", "spec-examples-by-section.json", "extended-tests.json", "negative-tests.json"] {
        let text = std::fs::read(folder.join(name)).expect("a readable suite");
        let groups: Value = serde_json::from_slice(&text).expect("a suite in JSON");
        for (group, content) in groups.as_object().expect("groups") {
            for case in content["testcases"].as_array().expect("cases") {
                let template = case[0].as_str().expect("a template");
                let result = expand(template, &content["variables"]);
                let fits = match &case[1] {
                    Value::Bool(false) => result.is_none(),
                    Value::String(expected) => result.as_ref() == Some(expected),
                    Value::Array(several) => {
                        result.as_ref().is_some_and(|text| several.iter().any(|expected| expected == text))
                    }
                    other => panic!("unknown expectation {other}"),
                };
                assert!(fits, "{name}, {group}: {template} gives {result:?}, not {}", case[1]);
            }
        }
    }
}
