//! GraphQL schemas as definitions: what becomes of them.

use integration_engine::adapter::Adapters;
use integration_engine::import::graphql::translate;
use integration_engine::import::{FindingKind, ImportError, ImportOptions, Imported, MAX_DEFINITION_BYTES};
use integration_engine::registry::check_definition;
use integration_model::definition::Method;
use serde_json::{Value, json};

const SHOP: &str = r#"
"All that the shop sells"
schema { query: Root mutation: Changes subscription: News }
scalar Money
enum Status { OPEN CLOSED }
interface Node { id: ID! }
type Item implements Node {
  id: ID! title: String! price: Money status: Status! tags: [String!]!
  maker: Maker related(first: Int!): [Item!]! similar: ItemConnection
  old: Int @deprecated(reason: "gone")
}
type Maker { name: String! items: [Item!]! address: Address }
type Address { city: String }
type PageInfo { hasNextPage: Boolean! endCursor: String }
type Edge { cursor: String! node: Item! }
type ItemConnection { edges: [Edge!]! pageInfo: PageInfo! totalCount: Int! }
input Filter { title: String price: Range not: Filter }
input Range { from: Money to: Money! = 5 }
type Problem { message: String! title: Int }
union Found = Item | Problem
type Root {
  "One item"
  item(id: ID!): Item
  items(first: Int!, after: String, filter: Filter, status: Status = OPEN): ItemConnection!
  node(id: ID!): Node
  find(text: String! = "x"): [Found!]!
  version: String!
}
extend type Root { ping(times: Int): Boolean @deprecated }
type Changes { item(input: NewItem!): Item! }
input NewItem { title: String! "In cents" price: Money tags: [String!] = [] }
type News { tick: Int! }
"#;

fn import(text: &str) -> Result<Imported, ImportError> {
    translate(text.as_bytes(), &ImportOptions::default(), &Adapters::built_in())
}

fn shop() -> Imported {
    import(SHOP).unwrap_or_else(|error| panic!("{error}: {:?}", error.problems))
}

fn method<'a>(imported: &'a Imported, name: &str) -> &'a Method {
    imported.definition.methods.iter().find(|method| method.name == name).expect("the method")
}

#[test]
fn every_query_and_mutation_is_a_method() {
    let imported = shop();
    let names: Vec<_> = imported.definition.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["item", "items", "node", "find", "version", "ping", "item2"]);
    let report = &imported.report;
    assert_eq!(
        (report.format.as_str(), report.operation_count, report.method_count, report.skipped_count),
        ("GraphQL SDL", 8, 7, 1)
    );
    let skipped: Vec<_> = report.findings.iter().filter(|finding| finding.kind == FindingKind::Skipped).collect();
    assert_eq!(skipped[0].operation.as_deref(), Some("subscription tick"));
    assert_eq!(imported.definition.description, "All that the shop sells");
    assert_eq!(check_definition(&imported.definition, &Adapters::built_in()), []);

    let item = method(&imported, "item");
    assert_eq!((item.description.as_str(), item.idempotent, item.deprecated), ("One item", true, false));
    assert_eq!(
        item.operation,
        json!({
            "query": "query item($id: ID!) { item(id: $id) { id title price status tags maker { name } } }",
            "dataPath": "/item",
        })
    );
    assert_eq!(
        item.result_schema,
        json!({"type": ["object", "null"], "properties": {
            "id": {"type": ["string", "integer"]}, "title": {"type": "string"}, "price": {}, "status": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "maker": {"type": ["object", "null"], "properties": {"name": {"type": "string"}}},
        }})
    );
    assert!(method(&imported, "ping").deprecated);
    let change = method(&imported, "item2");
    assert!(!change.idempotent);
    assert!(
        change.operation["query"]
            .as_str()
            .expect("a query")
            .starts_with("mutation item($input: NewItem!) { item(input: $input) {")
    );
    assert_eq!(method(&imported, "version").operation["query"], "query version { version }");
    assert_eq!(
        method(&imported, "node").operation["query"],
        "query node($id: ID!) { node(id: $id) { __typename id } }"
    );
    assert_eq!(
        method(&imported, "find").operation["query"],
        "query find($text: String) { find(text: $text) { __typename ... on Item { id title price status tags } ... on Problem { message } } }"
    );
}

#[test]
fn arguments_are_params_and_connections_are_paged() {
    let imported = shop();
    let items = method(&imported, "items");
    assert_eq!(items.operation["pagination"], json!({"connection": "/items", "pageSize": 20}));
    assert_eq!(
        items.operation["query"],
        "query items($first: Int!, $after: String, $filter: Filter, $status: Status) { items(first: $first, after: $after, filter: $filter, status: $status) \
         { edges { node { id title price status tags maker { name } } } pageInfo { hasNextPage endCursor } totalCount } }"
    );
    let params = &items.param_schema;
    assert_eq!(params["required"], Value::Null, "the definition gives the size of a page");
    assert_eq!(params["properties"]["first"], json!({"type": "integer"}));
    assert_eq!(params["properties"]["filter"], json!({"anyOf": [{"$ref": "#/$defs/Filter"}, {"type": "null"}]}));
    assert_eq!(
        params["$defs"]["Range"],
        json!({"type": "object", "additionalProperties": false, "properties": {"from": {}, "to": {}}}),
        "what has a default need not be given"
    );
    assert_eq!(
        params["$defs"]["Filter"]["properties"]["not"],
        json!({"anyOf": [{"$ref": "#/$defs/Filter"}, {"type": "null"}]})
    );
    assert_eq!(params["$defs"]["Status"], json!({"enum": ["OPEN", "CLOSED"]}));
    let change = method(&imported, "item2");
    assert_eq!(change.param_schema["required"], json!(["input"]));
    assert_eq!(change.param_schema["$defs"]["NewItem"]["properties"]["price"], json!({"description": "In cents"}));
}

#[test]
fn an_introspection_says_the_same_as_its_schema() {
    let named = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let non_null = |of: Value| json!({"kind": "NON_NULL", "name": null, "ofType": of});
    let id = json!({"name": "id", "type": non_null(named("SCALAR", "ID")), "defaultValue": null});
    let field =
        |name: &str, of: Value, args: Value| json!({"name": name, "args": args, "type": of, "isDeprecated": false});
    let schema = json!({"data": {"__schema": {
        "queryType": {"name": "Query"}, "mutationType": null,
        "types": [
            {"kind": "OBJECT", "name": "Query", "fields": [
                field("item", named("OBJECT", "Item"), json!([id])),
                field("all", non_null(json!({"kind": "LIST", "ofType": named("OBJECT", "Item")})), json!([])),
                field("bad name { x", named("SCALAR", "Int"), json!([])),
            ]},
            {"kind": "OBJECT", "name": "Item", "fields": [field("status", named("ENUM", "Status"), json!([]))]},
            {"kind": "ENUM", "name": "Status", "enumValues": [{"name": "A"}]},
            {"kind": "OBJECT", "name": "__Type", "fields": []},
        ],
    }}});
    let by_introspection = import(&schema.to_string()).expect("a definition");
    let text = "type Query { item(id: ID!): Item all: [Item]! } type Item { status: Status } enum Status { A }";
    let by_text = import(text).expect("a definition");
    assert_eq!(by_introspection.report.format, "GraphQL introspection");
    assert_eq!(by_introspection.definition.methods, by_text.definition.methods);
    assert_eq!(by_text.definition.methods.len(), 2);
}

#[test]
fn what_is_no_schema_is_refused() {
    for (text, expected) in [
        ("", "expected a GraphQL schema"),
        ("{}", "introspection query"),
        ("{\"__schema\": {}}", "expected types"),
        ("type Query {", "expected a GraphQL schema"),
        ("query { a }", "this is a query"),
        ("type A { a: Int }", "no query"),
        ("\u{0}", "expected a GraphQL schema"),
    ] {
        let error = import(text).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    assert!(translate(b"\xff\xfe", &ImportOptions::default(), &Adapters::built_in()).is_err());
    assert!(import(&format!("type Query {{ a: {}Int }}", "[".repeat(100_000))).is_err(), "depth is bounded");
}

#[test]
fn what_is_asked_for_is_bounded() {
    let fields: String = (0..5_000).map(|n| format!("f{n}: Int ")).collect();
    let inputs: String = (0..1_000).map(|n| format!("input I{n} {{ next: I{} }} ", (n + 1) % 1_000)).collect();
    let text = format!("type Query {{ wide: Wide deep(by: I0): Int }} type Wide {{ {fields} }} {inputs}");
    let imported = import(&text).expect("a definition");
    assert_eq!(method(&imported, "wide").operation["query"].as_str().expect("a query").matches("f").count(), 150);
    let types = method(&imported, "deep").param_schema["$defs"].as_object().map(serde_json::Map::len);
    assert_eq!(types, Some(200));
    let simplified = imported.report.findings.iter().filter(|finding| finding.kind == FindingKind::Simplified);
    assert_eq!(simplified.count(), 2);
    assert_eq!(check_definition(&imported.definition, &Adapters::built_in()), []);
}

#[test]
fn a_definition_stays_within_its_size() {
    let description = "x".repeat(20_000);
    let fields: Vec<_> = (0..1_000)
        .map(|n| json!({"name": format!("q{n}"), "description": description, "args": [], "type": {"kind": "SCALAR", "name": "Int"}}))
        .collect();
    let types = json!([{"kind": "OBJECT", "name": "Query", "fields": fields}]);
    let schema = json!({"__schema": {"queryType": {"name": "Query"}, "types": types}}).to_string();
    let Imported { definition, report } = import(&schema).expect("a definition");
    assert!(serde_json::to_vec(&definition).expect("JSON").len() <= MAX_DEFINITION_BYTES);
    assert!(
        report.method_count > 700 && report.skipped_count > 100,
        "{} {}",
        report.method_count,
        report.skipped_count
    );
    assert_eq!(report.method_count + report.skipped_count, 1_000);
}
