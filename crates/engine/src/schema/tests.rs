use serde_json::json;

use super::*;

fn schema(schema: Value) -> Schema {
    Schema::compile(&schema).unwrap_or_else(|problems| panic!("{schema}: {problems:?}"))
}

fn problems(schema: Value, value: Value) -> Vec<(String, String)> {
    let problems = self::schema(schema).validate(&value).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
}

fn refused(schema: Value) -> (String, String) {
    let problems = Schema::compile(&schema).expect_err("refused");
    (problems[0].pointer.clone(), problems[0].message.clone())
}

#[test]
fn all_problems_are_told_with_their_places() {
    let pets = json!({
        "type": "object", "required": ["petId", "a/b"], "additionalProperties": false,
        "properties": {
            "petId": {"type": "integer"},
            "a/b": {},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}}
        }
    });
    let found = problems(pets, json!({"petId": "x", "tags": ["ok", "long", 7], "extra": 1}));
    let has = |pointer: &str, part: &str| {
        assert!(
            found.iter().any(|(at, message)| at == pointer && message.contains(part)),
            "{pointer} {part}: {found:?}"
        );
    };
    has("/petId", "integer");
    has("/tags/1", "longer than 3");
    has("/tags/2", "string");
    has("", "\"a/b\" is a required property");
    has("", "'extra'");
    assert_eq!(found.len(), 5);
}

#[test]
fn messages_are_short_and_do_not_repeat_values() {
    let secret = "s3cret".repeat(10_000);
    let choices: Vec<_> = (0..10_000).map(|n| format!("choice {n}")).collect();
    let schema = json!({"properties": {"a": {"maxLength": 3}, "b": {"enum": choices}, "c": {"type": "integer"}}});
    let found = problems(schema, json!({"a": secret, "b": secret, "c": secret}));
    assert_eq!(found.len(), 3);
    for (_, message) in found {
        assert!(message.len() <= 300 && !message.contains("s3cret"), "{message}");
    }
}

#[test]
fn problems_beyond_the_first_fifty_are_counted() {
    let schema = json!({"items": {"type": "integer"}});
    let found = problems(schema.clone(), json!(vec!["x"; 120]));
    assert_eq!(found.len(), 51);
    assert_eq!(found[50].1, "and 70 further problems");
    let found = problems(schema, json!(vec!["x"; 50_000]));
    assert_eq!(found[50].1, "and 1000 or more further problems");
}

#[test]
fn every_draft_is_taken_and_the_newest_is_the_default() {
    let prefix = json!({"prefixItems": [{"type": "string"}]});
    assert_eq!(problems(prefix.clone(), json!([1])).len(), 1);
    for (draft, keyword) in [
        ("http://json-schema.org/draft-04/schema#", json!({"maximum": 3, "exclusiveMaximum": true})),
        ("http://json-schema.org/draft-06/schema#", json!({"exclusiveMaximum": 3})),
        ("http://json-schema.org/draft-07/schema#", json!({"if": {"minimum": 3}, "then": false})),
        ("https://json-schema.org/draft/2019-09/schema", json!({"$recursiveRef": "#", "maximum": 2})),
        (
            "https://json-schema.org/draft/2020-12/schema",
            json!({"$dynamicRef": "#m", "$defs": {"m": {"$dynamicAnchor": "m", "maximum": 2}}}),
        ),
    ] {
        let mut keyword = keyword;
        keyword["$schema"] = json!(draft);
        if draft.contains("2019-09") {
            // A schema that applies to itself for the same value is refused in every draft.
            keyword = json!({"$schema": draft, "items": {"$recursiveRef": "#"}, "not": {"type": "number"}});
        }
        assert_eq!(problems(keyword, json!(3)).len(), 1, "{draft}");
    }
    let (pointer, message) = refused(json!({"$schema": "https://example.com/dialect"}));
    assert!(pointer == "/$schema" && message.contains("2020-12"), "{message}");
}

#[test]
fn formats_are_checked() {
    for (format, good, bad) in [
        ("uri", "https://example.com/a", "example"),
        ("email", "a@example.com", "a@"),
        ("uuid", "0190b6a0-5f1c-7c3e-8a56-0123456789ab", "0190"),
        ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
        ("date", "2026-01-02", "2026-13-02"),
        ("ipv4", "127.0.0.1", "127.0.0"),
    ] {
        assert!(problems(json!({"format": format}), json!(good)).is_empty(), "{format}");
        assert_eq!(problems(json!({"format": format}), json!(bad)).len(), 1, "{format}");
    }
    assert!(problems(json!({"format": "no-such-format"}), json!("x")).is_empty());
}

#[test]
fn a_wrong_schema_is_refused_with_all_its_faults() {
    let found =
        Schema::compile(&json!({"type": "strin", "properties": {"a": {"minLength": -1}, "b": {"pattern": "("}}}));
    let mut places: Vec<_> = found.expect_err("wrong").into_iter().map(|problem| problem.pointer).collect();
    places.dedup();
    assert!(places.contains(&"/type".into()) && places.contains(&"/properties/a/minLength".into()), "{places:?}");
    for (schema, place) in [(json!([]), ""), (json!("x"), ""), (json!(null), ""), (json!({"pattern": "("}), "/pattern")]
    {
        assert_eq!(refused(schema).0, place);
    }
}

#[test]
fn references_stay_within_the_schema() {
    for outside in ["https://example.com/x.json", "file:///etc/passwd", "other.json", "//example.com/x", "urn:x:y"] {
        let (pointer, message) = refused(json!({"properties": {"a": {"$ref": outside}}}));
        assert_eq!(pointer, "/properties/a/$ref");
        assert!(message.contains("remote schemas and files are not read"), "{message}");
    }
    assert_eq!(
        refused(json!({"$ref": "#/$defs/none"})),
        ("/$ref".into(), "the reference leads nowhere in this schema".into())
    );
    for reference in ["#/$defs/a%20b", "#named", "https://example.com/whole#/$defs/a%20b"] {
        let schema = json!({
            "$id": "https://example.com/whole", "properties": {"x": {"$ref": reference}},
            "$defs": {"a b": {"$anchor": "named", "type": "integer"}}
        });
        assert_eq!(problems(schema, json!({"x": "y"})).len(), 1, "{reference}");
    }
    let bundled = json!({
        "properties": {"x": {"$ref": "https://example.com/item"}},
        "$defs": {"item": {"$id": "https://example.com/item", "$ref": "#/$defs/t", "$defs": {"t": {"type": "integer"}}}}
    });
    assert_eq!(problems(bundled, json!({"x": "y"})).len(), 1);
    let meta = json!({"$ref": "https://json-schema.org/draft/2020-12/schema"});
    assert!(!problems(meta, json!({"type": "x"})).is_empty());
}

#[test]
fn recursion_into_the_value_is_fine() {
    let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}});
    let deep = (0..40).fold(json!(1), |inner, _| json!({"children": [inner]}));
    let found = problems(tree, deep);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "/children/0".repeat(40));
}

#[test]
fn a_schema_that_never_ends_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
    ] {
        assert!(refused(schema).1.contains("refers to itself"));
    }
}

/// `levels` definitions, each of which uses the next one twice.
fn doubling(levels: usize, twice: impl Fn(Value) -> Value) -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..levels {
        definitions.insert(format!("d{level}"), twice(json!({"$ref": format!("#/$defs/d{}", level + 1)})));
    }
    definitions.insert(format!("d{levels}"), json!({"type": "integer"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

#[test]
fn a_schema_that_asks_for_endless_work_is_refused() {
    let (_, message) = refused(doubling(60, |next| json!({"allOf": [next, next]})));
    assert!(message.contains("one and the same value"), "{message}");
    let (_, message) = refused(doubling(60, |next| json!({"properties": {"x": {"allOf": [next, next]}}})));
    assert!(message.contains("too many times"), "{message}");
    let chain = doubling(5_000, |next| json!({"allOf": [next]}));
    assert!(refused(chain).1.contains("one and the same value"));
    let fine = doubling(8, |next| json!({"allOf": [next, next]}));
    assert!(problems(fine, json!(1)).is_empty());
}

#[test]
fn many_alternatives_at_depth_are_told_in_short() {
    let node = json!({"anyOf": [
        {"properties": {"x": {"$ref": "#"}}, "type": "object"},
        {"properties": {"x": {"$ref": "#"}}, "type": "object", "required": ["x"]},
        {"type": "integer"}
    ]});
    let valid = (0..60).fold(json!(1), |inner, _| json!({"x": inner}));
    assert!(problems(node.clone(), valid).is_empty());
    let wrong = (0..60).fold(json!("s"), |inner, _| json!({"x": inner}));
    let found = problems(node.clone(), wrong);
    assert_eq!((found.len(), found[0].0.as_str()), (1, ""));
    let shallow = problems(node, json!({"x": "s"}));
    assert!(shallow[0].1.contains("anyOf"), "{shallow:?}");
}

#[test]
fn large_and_deep_schemas_are_refused() {
    let wide: Vec<_> = (0..200_000).collect();
    assert!(refused(json!({"enum": wide})).1.contains("at most 100000 values"));
    let deep = (0..120).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(refused(deep).1.contains("levels"));
    assert!(refused(json!({"description": "x".repeat(5_000_000)})).1.contains("bytes"));
}

#[test]
fn names_without_number_are_refused() {
    let many = |part: fn(usize) -> Value| json!({"$defs": (0..5_000).map(|n| (n.to_string(), part(n))).collect::<serde_json::Map<_, _>>()});
    assert!(refused(many(|n| json!({"$id": format!("https://example.com/{n}")}))).1.contains("at most 100"));
    let (_, message) = refused(many(|_| json!({"$dynamicAnchor": "a", "items": {"$dynamicRef": "#a"}})));
    assert!(message.contains("too many references"), "{message}");
}

#[test]
fn patterns_cannot_run_away() {
    let wrong = format!("{}!", "a".repeat(50));
    let found = problems(json!({"pattern": "^(?=a)(a|aa)+\\1$"}), json!(wrong));
    assert_eq!(found.len(), 1);
    assert!(Schema::compile(&json!({"pattern": "((((a{100}){100}){100}))"})).is_err());
}

#[test]
fn schemas_that_let_everything_pass_are_known_as_such() {
    for trivial in [json!({}), json!(true), json!({"title": "x", "description": "y"})] {
        let trivial = schema(trivial);
        assert!(trivial.is_trivial());
        assert!(trivial.validate(&json!({"any": "thing"})).is_ok());
    }
    assert!(!schema(json!(false)).is_trivial());
    assert_eq!(schema(json!(false)).validate(&json!(1)).expect_err("nothing passes").len(), 1);
    assert!(Schema::compile(&json!({"title": 7})).is_err());
}

#[test]
fn equal_schemas_are_compiled_once_for_as_long_as_one_is_used() {
    let text = json!({"type": "object", "description": "shared", "properties": {"a": {"type": "integer"}}});
    let (first, second) = (schema(text.clone()), schema(text.clone()));
    let checks = [&first, &second].map(|schema| schema.check.as_ref().expect("it checks"));
    assert!(Arc::ptr_eq(checks[0], checks[1]));
    let known = || Compiled::lock().get(&text.to_string());
    drop(first);
    assert!(known().is_some());
    drop(second);
    assert!(known().is_none(), "nobody uses it");
    assert!(schema(text.clone()).validate(&json!({"a": "b"})).is_err());
}
