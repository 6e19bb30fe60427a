//! Each keyword both ways, the rules above schemas, and the claim itself against values.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn definition(version: &str, methods: &Value) -> DefinitionSpec {
    let document = json!({
        "id": "petshop", "name": "Pet shop", "version": version, "type": "http", "authType": "api_key",
        "methods": methods
    });
    DefinitionSpec::from_json(document).expect("a definition")
}

fn with_params(schema: &Value) -> DefinitionSpec {
    definition("1.0.0", &json!([{"name": "run", "paramSchema": schema}]))
}

fn with_result(schema: &Value) -> DefinitionSpec {
    definition("1.0.0", &json!([{"name": "run", "resultSchema": schema}]))
}

/// How a parameter `p` of the one schema fares as the other.
fn param_bump(old: &Value, new: &Value) -> Bump {
    let wrap = |schema: &Value| {
        let defs = schema.get("$defs").cloned().unwrap_or_else(|| json!({}));
        with_params(&json!({"type": "object", "properties": {"p": schema}, "$defs": defs}))
    };
    compare(&wrap(old), &wrap(new)).required_bump
}

fn result_bump(old: &Value, new: &Value) -> Bump {
    compare(&with_result(old), &with_result(new)).required_bump
}

fn patched(change: impl FnOnce(&mut Value)) -> (DefinitionSpec, DefinitionSpec) {
    let old = json!({
        "id": "petshop", "name": "Pet shop", "version": "1.2.3", "type": "http", "authType": "api_key",
        "configSchema": {"type": "object", "required": ["baseUrl"], "properties": {"baseUrl": {"type": "string"}}},
        "templates": {"label": "name"},
        "methods": [
            {"name": "getPet", "operation": {"verb": "GET", "path": "/pets/{petId}"}, "responseTransform": "template:label",
             "paramSchema": {"type": "object", "required": ["petId"], "additionalProperties": false,
               "properties": {"petId": {"type": "integer"}, "trace": {"type": "string"}}},
             "resultSchema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}},
            {"name": "listPets", "operation": {"verb": "GET", "path": "/pets"}}
        ]
    });
    let mut new = old.clone();
    change(&mut new);
    let read = |document| DefinitionSpec::from_json(document).expect("a definition");
    (read(old), read(new))
}

fn report(change: impl FnOnce(&mut Value)) -> CompatibilityReport {
    let (old, new) = patched(change);
    compare(&old, &new)
}

/// Pairs of which everything the first takes is taken by the second, and not the other way.
fn narrow_and_wide() -> Vec<(Value, Value)> {
    vec![
        (json!({"type": "integer"}), json!({"type": "number"})),
        (json!({"type": "string"}), json!({"type": ["string", "null"]})),
        (json!({"type": "string"}), json!({})),
        (json!(false), json!({"type": "string"})),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["a", "b", "c"]})),
        (json!({"enum": ["a", 1]}), json!({"type": ["string", "integer"]})),
        (json!({"enum": [1.0, 2]}), json!({"type": "integer"})),
        (json!({"const": "a"}), json!({"enum": ["a", "b"]})),
        (
            json!({"const": {"kind": "a", "n": 5}}),
            json!({"type": "object", "required": ["kind"], "properties": {"n": {"minimum": 5}}}),
        ),
        (json!({"type": "null"}), json!({"enum": [null, 1]})),
        (json!({"minimum": 5}), json!({"minimum": 4})),
        (json!({"exclusiveMinimum": 5}), json!({"minimum": 5})),
        (json!({"type": "integer", "minimum": 6}), json!({"type": "number", "exclusiveMinimum": 5})),
        (json!({"maximum": 9007199254740992_i64}), json!({"maximum": 9007199254740993_i64})),
        (json!({"exclusiveMaximum": 7}), json!({"maximum": 7})),
        (json!({"multipleOf": 6}), json!({"multipleOf": 3})),
        (json!({"multipleOf": 0.3}), json!({"multipleOf": 0.1})),
        (json!({"type": "string", "minLength": 3}), json!({"type": "string", "minLength": 2})),
        (json!({"type": "string", "maxLength": 3}), json!({"type": "string", "maxLength": 4})),
        (json!({"type": "string", "pattern": "^a"}), json!({"type": "string"})),
        (json!({"type": "string", "format": "date"}), json!({"type": "string"})),
        (json!({"type": "string", "format": "uri"}), json!({"type": "string", "format": "uri-reference"})),
        (json!({"type": "array", "items": {"type": "integer"}}), json!({"type": "array", "items": {"type": "number"}})),
        (json!({"type": "array", "items": {"type": "integer"}}), json!({"type": "array"})),
        (json!({"prefixItems": [{"type": "integer"}]}), json!({"prefixItems": [{"type": "number"}]})),
        (json!({"prefixItems": [{"const": 1}], "items": {"type": "integer"}}), json!({"items": {"type": "integer"}})),
        (json!({"prefixItems": [{"const": 1}], "items": false}), json!({"prefixItems": [{"const": 1}]})),
        (json!({"minItems": 2}), json!({"minItems": 1})),
        (json!({"maxItems": 2}), json!({"maxItems": 3})),
        (json!({"uniqueItems": true}), json!({"uniqueItems": false})),
        (json!({"type": "object", "required": ["a", "b"]}), json!({"type": "object", "required": ["a"]})),
        (json!({"required": ["a", "b"]}), json!({"minProperties": 2})),
        (json!({"maxProperties": 2}), json!({"maxProperties": 3})),
        (
            json!({"properties": {"a": {"type": "integer"}}}),
            json!({"properties": {"a": {"type": ["integer", "string"]}}}),
        ),
        (
            json!({"properties": {"a": {"type": "integer"}}, "additionalProperties": false}),
            json!({"properties": {"a": {"type": "integer"}, "b": {}}, "additionalProperties": false}),
        ),
        (json!({"type": "object", "additionalProperties": false}), json!({"type": "object"})),
        (json!({"additionalProperties": {"type": "integer"}}), json!({"additionalProperties": {"type": "number"}})),
        (json!({"additionalProperties": {"type": "integer"}}), json!({"additionalProperties": true})),
        (
            json!({"patternProperties": {"^x": {"type": "integer"}}}),
            json!({"patternProperties": {"^x": {"type": "number"}}}),
        ),
        (json!({"propertyNames": {"maxLength": 3}}), json!({"propertyNames": {"maxLength": 4}})),
        (json!({"allOf": [{"type": "integer"}, {"minimum": 3}]}), json!({"type": "integer"})),
        (json!({"type": "integer", "minimum": 3}), json!({"allOf": [{"type": "number"}, {"minimum": 2}]})),
        (json!({"anyOf": [{"type": "integer"}]}), json!({"anyOf": [{"type": "integer"}, {"type": "string"}]})),
        (json!({"type": "string"}), json!({"anyOf": [{"type": "null"}, {"type": "string"}]})),
        (
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array"}]}),
        ),
        (json!({"enum": ["a", null]}), json!({"anyOf": [{"type": "null"}, {"type": "string"}]})),
        (json!({"oneOf": [{"type": "integer"}]}), json!({"oneOf": [{"type": "integer"}, {"type": "string"}]})),
        (
            json!({"oneOf": [{"type": "object", "required": ["k"], "properties": {"k": {"const": "a"}}}]}),
            json!({"oneOf": [
                {"type": "object", "required": ["k"], "properties": {"k": {"const": "b"}}},
                {"type": "object", "required": ["k"], "properties": {"k": {"const": "a"}}}
            ]}),
        ),
        (json!({"type": "string"}), json!({"not": {"type": "integer"}})),
        (json!({"not": {"type": ["integer", "null"]}}), json!({"not": {"type": "integer"}})),
    ]
}

#[test]
fn params_may_widen_and_results_may_narrow() {
    for (narrow, wide) in narrow_and_wide() {
        assert_eq!(param_bump(&narrow, &wide), Bump::Minor, "param {narrow} -> {wide}");
        assert_eq!(param_bump(&wide, &narrow), Bump::Major, "param {wide} -> {narrow}");
        assert_eq!(result_bump(&wide, &narrow), Bump::Minor, "result {wide} -> {narrow}");
        assert_eq!(result_bump(&narrow, &wide), Bump::Major, "result {narrow} -> {wide}");
    }
}

#[test]
fn the_same_in_other_words_is_a_patch() {
    for (one, other) in [
        (json!({"type": ["integer", "number"]}), json!({"type": "number"})),
        (json!({"type": "integer", "exclusiveMinimum": 4}), json!({"type": "integer", "minimum": 5})),
        (json!({"const": 1}), json!({"enum": [1.0]})),
        (json!({"type": "string", "title": "A"}), json!({"type": "string", "description": "B"})),
        (json!({"type": "boolean"}), json!({"enum": [true, false]})),
        (json!({"allOf": [{"type": "string"}, {"minLength": 2}]}), json!({"type": "string", "minLength": 2})),
        (
            json!({"oneOf": [{"multipleOf": 3}, {"minimum": 5}]}),
            json!({"oneOf": [{"multipleOf": 3, "title": "t"}, {"minimum": 5}]}),
        ),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}), json!({"type": "integer", "$defs": {}})),
        (json!({"not": {"type": "string"}}), json!({"not": {"type": "string", "title": "text"}})),
        (
            json!({"if": {"minimum": 2}, "then": {"multipleOf": 2}}),
            json!({"title": "t", "if": {"minimum": 2}, "then": {"multipleOf": 2}}),
        ),
    ] {
        assert_eq!(param_bump(&one, &other), Bump::Patch, "param {one} -> {other}");
        assert_eq!(result_bump(&one, &other), Bump::Patch, "result {one} -> {other}");
    }
}

#[test]
fn what_cannot_be_proved_counts_as_a_break_and_says_so() {
    for (old, new) in [
        (json!({"type": "string", "pattern": "^a"}), json!({"type": "string", "pattern": "^[a]"})),
        (json!({"oneOf": [{"minimum": 5}]}), json!({"oneOf": [{"minimum": 5}, {"multipleOf": 3}]})),
        (json!({"minimum": 5}), json!({"not": {"multipleOf": 7}})),
        (json!({"if": {"minimum": 5}, "then": {}}), json!({"if": {"minimum": 6}, "then": {}})),
        (json!({"type": "string"}), json!({"$ref": "https://example.com/schema"})),
        (json!({"properties": {"xa": {"type": "string"}}}), json!({"patternProperties": {"^x": {"type": "integer"}}})),
        (json!({"type": "object"}), json!({"type": "object", "unevaluatedProperties": false})),
    ] {
        let report =
            compare(&with_params(&json!({"properties": {"p": old}})), &with_params(&json!({"properties": {"p": new}})));
        assert_eq!(report.required_bump, Bump::Major, "{old} -> {new}");
        assert!(report.changes.iter().any(|change| change.kind == ChangeKind::Unproven), "{old} -> {new}: {report:?}");
    }
}

#[test]
fn references_are_followed_and_may_go_round() {
    let tree = |leaf: &str| {
        json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {"type": "object", "properties": {"leaf": {"type": leaf}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}
        })
    };
    let bump = |old: &str, new: &str| compare(&with_params(&tree(old)), &with_params(&tree(new))).required_bump;
    assert_eq!(bump("integer", "number"), Bump::Minor);
    assert_eq!(bump("number", "integer"), Bump::Major);
    let endless = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    assert_eq!(compare(&with_params(&endless), &with_params(&json!({"type": "object"}))).required_bump, Bump::Patch);
}

#[test]
fn keywords_beside_a_reference_count_only_since_draft_2019() {
    let schema = |draft: &str, minimum: i64| {
        json!({
            "$schema": draft, "type": "object", "definitions": {"n": {"type": "integer"}},
            "properties": {"p": {"$ref": "#/definitions/n", "minimum": minimum}}
        })
    };
    let bump = |draft| compare(&with_params(&schema(draft, 1)), &with_params(&schema(draft, 2))).required_bump;
    assert_eq!(bump("http://json-schema.org/draft-07/schema#"), Bump::Patch);
    assert_eq!(bump("https://json-schema.org/draft/2020-12/schema"), Bump::Major);
}

#[test]
fn an_optional_param_is_an_addition_and_a_required_one_a_break() {
    let open = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let optional = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}});
    let mut required = optional.clone();
    required["required"] = json!(["b"]);
    let bump = |old: &Value, new: &Value| compare(&with_params(old), &with_params(new)).required_bump;
    assert_eq!(bump(&open, &optional), Bump::Minor);
    assert_eq!(bump(&json!({}), &optional), Bump::Minor);
    assert_eq!(bump(&open, &required), Bump::Major);
    assert_eq!(bump(&optional, &required), Bump::Major);
    assert_eq!(bump(&optional, &open), Bump::Major, "a param that is no longer named goes nowhere");
    let mut explicit = open.clone();
    explicit["additionalProperties"] = json!(true);
    assert_eq!(bump(&explicit, &optional), Bump::Major, "the author promised to take anything under that name");
    assert_eq!(result_bump(&open, &optional), Bump::Minor);
    assert_eq!(result_bump(&optional, &open), Bump::Major);
}

#[test]
fn methods_come_with_a_minor_and_go_with_a_major_version() {
    let added = report(|new| {
        new["version"] = json!("1.3.0");
        new["methods"].as_array_mut().expect("methods").insert(0, json!({"name": "health"}));
    });
    assert!(added.honest, "{added:?}");
    assert_eq!((added.required_bump, added.changes.len()), (Bump::Minor, 1));
    assert_eq!(added.changes[0].pointer, "/methods/0");

    let removed = report(|new| {
        new["version"] = json!("1.3.0");
        new["methods"].as_array_mut().expect("methods").remove(0);
    });
    assert!(!removed.honest);
    let change = removed.breaks().next().expect("a break");
    assert_eq!((change.pointer.as_str(), change.method.as_deref()), ("/methods/0", Some("getPet")));
    let problem = removed.version_problem.expect("a reason");
    assert_eq!(problem.pointer, "/version");
    assert!(problem.message.contains("2.0.0"), "{problem}");
}

#[test]
fn a_break_points_to_its_keyword_in_the_new_version() {
    let report = report(|new| {
        new["version"] = json!("1.2.4");
        let params = &mut new["methods"][0]["paramSchema"];
        params["properties"]["trace"] = json!({"type": "string", "maxLength": 8});
        params["required"] = json!(["petId", "trace"]);
        new["methods"][0]["resultSchema"]["properties"]["id"] = json!({"type": ["integer", "null"]});
    });
    let breaks: Vec<(&str, &str)> =
        report.breaks().map(|change| (change.pointer.as_str(), change.message.as_str())).collect();
    assert_eq!(
        breaks,
        [
            ("/methods/0/paramSchema/required", "\"trace\" is required now"),
            ("/methods/0/paramSchema/properties/trace/maxLength", "maxLength is 8 now"),
            ("/methods/0/resultSchema/properties/id/type", "may now be null"),
        ]
    );
    assert!(!report.honest);
}

#[test]
fn texts_policies_and_the_call_itself_ask_for_a_patch() {
    let changes: [fn(&mut Value); 7] = [
        |new| new["description"] = json!("Pets and orders"),
        |new| new["labels"] = json!({"team": "a"}),
        |new| new["templates"]["label"] = json!("title"),
        |new| new["methods"][0]["operation"]["path"] = json!("/v2/pets/{petId}"),
        |new| new["methods"][0]["timeoutMs"] = json!(500),
        |new| new["methods"][0]["idempotent"] = json!(true),
        |new| new["methods"][0]["paramSchema"]["properties"]["petId"]["description"] = json!("which"),
    ];
    for change in changes {
        let report = report(|new| {
            new["version"] = json!("1.2.4");
            change(new);
        });
        assert_eq!((report.required_bump, report.honest), (Bump::Patch, true), "{report:?}");
    }
}

#[test]
fn another_type_or_auth_type_is_a_break() {
    for (field, value) in [("type", "other"), ("authType", "basic")] {
        let report = report(|new| new[field] = json!(value));
        assert_eq!(report.required_bump, Bump::Major);
        assert_eq!(report.changes[0].pointer, format!("/{field}"));
    }
}

#[test]
fn a_required_config_property_needs_a_default_or_a_major_version() {
    let require = |new: &mut Value| {
        new["configSchema"]["properties"]["region"] = json!({"type": "string"});
        new["configSchema"]["required"] = json!(["baseUrl", "region"]);
    };
    assert_eq!(report(require).required_bump, Bump::Major);
    let with_default = report(|new| {
        require(new);
        new["defaultConfig"] = json!({"region": "eu"});
    });
    assert_eq!(with_default.required_bump, Bump::Minor, "{with_default:?}");
    let narrowed = report(|new| new["configSchema"]["properties"]["baseUrl"]["format"] = json!("uri"));
    assert_eq!(narrowed.required_bump, Bump::Major);
}

#[test]
fn a_default_that_goes_may_break_the_instances_that_rely_on_it() {
    let (mut old, new) = patched(|_| {});
    old.default_config.insert("baseUrl".to_owned(), json!("https://example.com"));
    let report = compare(&old, &new);
    let breaks: Vec<&str> = report.breaks().map(|change| change.pointer.as_str()).collect();
    assert_eq!(breaks, ["/configSchema/required", "/defaultConfig/baseUrl"]);
}

#[test]
fn a_custom_credential_field_that_was_not_needed_before_is_a_break() {
    let (mut old, mut new) = patched(|_| {});
    let auth = |headers: Value| serde_json::from_value(json!({"headers": headers})).ok();
    old.custom_auth = auth(json!({"X-Id": "id"}));
    new.custom_auth = auth(json!({"X-Id": "id", "X-Extra": "extra"}));
    assert_eq!(compare(&old, &new).breaks().next().map(|c| c.pointer.as_str()), Some("/customAuth/headers/X-Extra"));
    new.custom_auth = auth(json!({"X-Identity": "id"}));
    assert_eq!(compare(&old, &new).required_bump, Bump::Patch);
}

#[test]
fn the_number_must_rise_and_by_enough() {
    let judge = |from: &str, to: &str, remove: bool| {
        let both = json!([{"name": "a"}, {"name": "b"}]);
        let one = json!([{"name": "a"}]);
        let report = compare(&definition(from, &both), &definition(to, if remove { &one } else { &both }));
        (report.actual_bump, report.honest)
    };
    for (from, to, remove, expected) in [
        ("1.0.0", "1.0.0", false, (Bump::None, false)),
        ("1.0.0", "1.0.0+build.2", false, (Bump::None, false)),
        ("1.1.0", "1.0.9", false, (Bump::None, false)),
        ("2.0.0", "1.9.0", true, (Bump::None, false)),
        ("1.0.0", "1.0.1", false, (Bump::Patch, true)),
        ("1.0.0", "1.1.0", true, (Bump::Minor, false)),
        ("1.0.0", "2.0.0", true, (Bump::Major, true)),
        ("1.0.0", "2.0.0-rc.1", true, (Bump::Major, true)),
        ("0.1.0", "0.2.0", true, (Bump::Minor, true)),
        ("0.1.0", "0.1.1", true, (Bump::Patch, false)),
        ("2.0.0-rc.1", "2.0.0-rc.2", true, (Bump::Patch, true)),
        ("2.0.0-rc.1", "2.0.0", true, (Bump::Patch, true)),
    ] {
        assert_eq!(judge(from, to, remove), expected, "{from} -> {to}, removing: {remove}");
    }
}

#[test]
fn hostile_schemas_are_compared_in_bounded_work() {
    let explosion = |keyword: &str, leaf: &str| {
        let mut defs = serde_json::Map::new();
        for level in 0..60 {
            let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
            let part = |name: &str| json!({"properties": {name: next}});
            defs.insert(format!("l{level}"), json!({keyword: [part("a"), part("b"), next]}));
        }
        defs.insert("l60".to_owned(), json!({"type": leaf}));
        json!({"$ref": "#/$defs/l0", "$defs": defs})
    };
    let mut deep = [json!({"type": "string"}), json!({"type": "integer"})];
    for schema in &mut deep {
        for _ in 0..100 {
            *schema = json!({"properties": {"a": schema.take()}});
        }
    }
    // Each item is told apart, and each leads to the same large object beside another demand.
    let wide = |leaf: &str| {
        let names: Vec<String> = (0..2_000).map(|number| format!("p{number}")).collect();
        let items: Vec<Value> =
            (0..2_000).map(|number| json!({"allOf": [{"$ref": "#/$defs/large"}], "minProperties": number})).collect();
        json!({"prefixItems": items, "$defs": {"large": {"required": names, "additionalProperties": {"type": leaf}}}})
    };
    let long = |start: usize| json!({"properties": {"p": {"enum": (start..start + 20_000).collect::<Vec<_>>()}}});
    let pairs = [
        (explosion("anyOf", "string"), explosion("anyOf", "integer")),
        (explosion("oneOf", "string"), explosion("oneOf", "integer")),
        (explosion("allOf", "string"), explosion("allOf", "integer")),
        (explosion("anyOf", "string"), explosion("oneOf", "string")),
        (deep[0].clone(), deep[1].clone()),
        (long(0), long(10_000)),
        (wide("string"), wide("integer")),
        (json!({"type": "string", "pattern": "é".repeat(100_000)}), json!({"type": "string"})),
    ];
    for (old, new) in &pairs {
        let report = compare(&with_result(old), &with_result(new));
        assert_eq!(report.required_bump, Bump::Major);
        assert!(report.changes.len() <= MAX_FINDINGS + 1);
        assert!(report.changes.iter().all(|change| change.message.len() < 1_000));
    }
}

#[test]
fn schemas_that_are_no_schemas_are_told_not_trusted() {
    let nonsense = [
        json!({"type": 5}),
        json!({"type": "object", "properties": 3, "required": "x"}),
        json!({"properties": [1]}),
        json!({"$ref": 7}),
    ];
    for old in &nonsense {
        for new in &nonsense {
            let report = compare(&with_params(old), &with_params(new));
            assert_eq!(report.changes.is_empty(), old == new);
        }
    }
}

/// Small schemas over small values.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(false)),
        Just(json!({"type": "null"})),
        prop::sample::subsequence(vec!["string", "integer", "number", "boolean", "null", "array", "object"], 1..4)
            .prop_map(|types| json!({"type": types})),
        (0..5_i64, 0..6_i64).prop_map(|(min, span)| json!({"type": "integer", "minimum": min, "maximum": min + span})),
        (0..5_i64, 1..4_i64).prop_map(|(min, of)| json!({"exclusiveMinimum": min, "multipleOf": of})),
        (0..3_u64, 0..3_u64).prop_map(|(min, span)| json!({"minLength": min, "maxLength": min + span})),
        prop::sample::subsequence(vec![json!(1), json!(2), json!("a"), json!("bb"), json!(null), json!([1])], 1..4)
            .prop_map(|values| json!({"enum": values})),
        prop::sample::select(vec![json!(1), json!("a"), json!({"a": 1})]).prop_map(|value| json!({"const": value})),
        Just(json!({"$ref": "#/$defs/shared"})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), prop::sample::subsequence(vec!["a", "b"], 0..=2), prop::bool::ANY).prop_map(
                |(a, b, required, open)| json!({
                    "type": "object", "properties": {"a": a, "b": b}, "required": required, "additionalProperties": open
                })
            ),
            (inner.clone(), prop::bool::ANY)
                .prop_map(|(items, unique)| json!({"type": "array", "items": items, "uniqueItems": unique})),
            (inner.clone(), inner.clone(), 0..3_u64)
                .prop_map(|(first, items, most)| json!({"prefixItems": [first], "items": items, "maxItems": most})),
            inner.clone().prop_map(|other| json!({"additionalProperties": other})),
            inner.clone().prop_map(|excluded| json!({"not": excluded})),
            (prop::sample::select(vec!["anyOf", "oneOf", "allOf"]), prop::collection::vec(inner.clone(), 1..4))
                .prop_map(|(keyword, parts)| json!({keyword: parts})),
            (inner.clone(), inner).prop_map(|(one, other)| json!({"anyOf": [one], "not": other})),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(1.5)),
        (-1..9_i64).prop_map(|number| json!(number)),
        prop::sample::select(vec!["", "a", "bb", "ccc"]).prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), inner, 0..3)
                .prop_map(|members| json!(members)),
        ]
    })
}

fn rooted(schema: &Value, shared: &Value) -> Value {
    json!({"allOf": [schema], "$defs": {"shared": shared}})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_version_compared_with_itself_has_no_changes(schema in any_schema()) {
        let version = with_params(&schema);
        prop_assert!(compare(&version, &version).changes.is_empty());
    }

    #[test]
    fn the_same_schema_beside_a_new_title_is_no_break(schema in any_schema()) {
        let plain = rooted(&schema, &json!({"type": "integer"}));
        let mut retitled = plain.clone();
        retitled["title"] = json!("new");
        let report = compare(&with_result(&plain), &with_result(&retitled));
        let unproven = report.breaks().all(|change| change.kind == ChangeKind::Unproven);
        prop_assert!(unproven, "{report:?}");
    }

    /// The claims that matter: what is said not to be widened or narrowed is not.
    #[test]
    fn values_stay_valid_where_no_break_is_told(
        old in any_schema(), new in any_schema(), shared in [any_shared(), any_shared()],
        mix in prop::bool::ANY, values in prop::collection::vec(any_value(), 40),
    ) {
        // Unrelated schemas seldom contain each other; those made of one another often do.
        let wide = if mix { json!({"anyOf": [old, new]}) } else { old };
        let (wide, narrow) = (rooted(&wide, &shared[0]), rooted(&spelled_out(&new), &shared[1]));
        let fits = |schema: &Value| jsonschema::validator_for(schema).expect("a schema");
        let (fits_wide, fits_narrow) = (fits(&wide), fits(&narrow));
        let stays_valid = |value: &Value| !fits_narrow.is_valid(value) || fits_wide.is_valid(value);

        let result = compare(&with_result(&wide), &with_result(&narrow));
        if result.breaks().next().is_none() {
            prop_assert!(values.iter().all(stays_valid), "{narrow} within {wide}");
        }
        let param = compare(&with_member(&narrow), &with_member(&wide));
        if param.breaks().next().is_none() {
            prop_assert!(values.iter().all(stays_valid), "{narrow} within {wide}");
        }
    }
}

/// Params of which `p` fits the schema.
fn with_member(schema: &Value) -> DefinitionSpec {
    let member = json!({"allOf": schema["allOf"]});
    with_params(&json!({"type": "object", "properties": {"p": member}, "$defs": schema["$defs"]}))
}

/// The same schema, its open objects said to be open: then nothing in it counts as undeclared.
fn spelled_out(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(spelled_out).collect(),
        Value::Object(members) => {
            let mut spelled: Map<String, Value> = members
                .iter()
                .map(|(key, value)| match (key.as_str(), value) {
                    ("enum" | "const" | "required" | "type", value) => (key.clone(), value.clone()),
                    ("properties", Value::Object(named)) => {
                        (key.clone(), named.iter().map(|(name, schema)| (name.clone(), spelled_out(schema))).collect())
                    }
                    (_, value) => (key.clone(), spelled_out(value)),
                })
                .collect();
            spelled.entry("additionalProperties").or_insert(Value::Bool(true));
            Value::Object(spelled)
        }
        other => other.clone(),
    }
}

fn any_shared() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"type": "integer"}),
        json!({"type": "number"}),
        json!({"enum": [1, "a"]}),
        json!(true),
    ])
}
