//! Descriptions of other formats through the endpoint and the command.

use std::path::Path;

use serde_json::{Value, json};

use crate::binary::run;
use crate::client::{Answer, assert_problem, post};
use crate::service::{KEY, TestService, json_response};

const IMPORT: &str = "/api/v1/imports/openapi";
const DEFINITIONS: &str = "/api/v1/integration-definitions";

fn shop(version: &str) -> Value {
    json!({
        "openapi": "3.0.3", "info": {"title": "Shop", "version": version}, "servers": [{"url": "https://shop.example/api"}],
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "apiKey", "in": "query", "name": "key"}},
            "schemas": {"Pet": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "born": {"type": "string", "nullable": true}, "mother": {"$ref": "#/components/schemas/Pet"}}}},
        },
        "paths": {
            "/pets/{pet-id}": {
                "parameters": [{"name": "pet-id", "in": "path", "required": true, "schema": {"type": "integer"}}],
                "put": {"operationId": "pets/save", "parameters": [{"name": "tags", "in": "query", "explode": false, "schema": {"type": "array", "items": {"type": "string"}}}],
                    "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
                    "responses": {"200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}}},
                "trace": {},
            },
        },
    })
}

async fn import(service: &TestService, query: &str, document: &Value) -> Answer {
    service.post(&format!("{IMPORT}{query}"), document).await
}

#[tokio::test]
async fn what_is_imported_can_be_executed_as_the_document_says() {
    let service = TestService::start().await;
    let answer = import(&service, "?publish=true", &shop("1.0.0")).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    assert_eq!(answer.header("location"), format!("{DEFINITIONS}/shop/versions/1.0.0"));
    let body = answer.json();
    assert_eq!((&body["definitionId"], &body["status"]), (&json!("shop"), &json!("PUBLISHED")));
    let report = &body["report"];
    assert_eq!(
        (&report["operationCount"], &report["methodCount"], &report["skippedCount"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let skipped = report["findings"].as_array().unwrap().iter().find(|finding| finding["kind"] == "skipped").unwrap();
    assert_eq!(skipped["operation"], "TRACE /pets/{pet-id}");

    let instance = json!({"id": "shop", "integrationDefinitionId": "shop", "name": "Shop", "config": {"baseUrl": service.upstream.url()}});
    assert_eq!(service.post("/api/v1/integration-instances", &instance).await.status, 201);
    let credential = json!({"type": "api_key", "data": {"key": "k", "headerOrParam": "key", "inHeader": false}});
    assert_eq!(service.post("/api/v1/integration-instances/shop/credentials", &credential).await.status, 201);
    service.upstream.always(|_| json_response(200, &json!({"name": "Rex", "mother": {"name": "Eve", "born": null}})));
    let params = json!({"pet_id": 7, "tags": ["a", "b"], "body": {"name": "Rex", "born": null}});
    let executed = service.execute("shop", "petsSave", &params).await.json();
    assert_eq!((&executed["status"], &executed["data"]["name"]), (&json!("SUCCESS"), &json!("Rex")), "{executed}");
    assert_eq!(executed["meta"].get("warnings"), None);
    let received = service.upstream.received().pop().unwrap();
    assert_eq!((received.verb.as_str(), received.path_and_query.as_str()), ("PUT", "/pets/7?tags=a,b&key=k"));
    assert_eq!(serde_json::from_slice::<Value>(&received.body).unwrap(), params["body"]);
    let refused = service.execute("shop", "petsSave", &json!({"pet_id": 7, "body": {"name": "R", "mother": {}}})).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["details"]["errors"][0]["pointer"]),
        (400, &json!("/params/body/mother"))
    );
    service.upstream.always(|_| json_response(200, &json!({"name": 5})));
    let warned = service.execute("shop", "petsSave", &params).await.json();
    assert!(warned["meta"]["warnings"].is_array(), "{warned}");
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_a_version_is_stored_once() {
    let service = TestService::start().await;
    let dry = import(
        &service,
        "?dryRun=true&id=mine&name=My%20shop&version=3.1.0&server=https%3A%2F%2Fother.example",
        &shop("1"),
    )
    .await;
    assert_eq!(dry.status, 200, "{}", dry.json());
    let body = dry.json();
    assert_eq!(
        (body.get("status"), &body["definition"]["name"], &body["version"]),
        (None, &json!("My shop"), &json!("3.1.0"))
    );
    assert_eq!(body["definition"]["defaultConfig"]["baseUrl"], "https://other.example");
    assert!(service.items(DEFINITIONS).await.is_empty());
    // What a dry run gives is a definition like any other.
    assert_eq!(service.post(DEFINITIONS, &body["definition"]).await.status, 201);

    assert_eq!(import(&service, "", &shop("1")).await.json()["status"], "DRAFT");
    assert_problem(&import(&service, "", &shop("1.0.0")).await, 409, "ALREADY_EXISTS");
    assert_eq!(import(&service, "", &shop("1.1")).await.json()["version"], "1.1.0");
    let audit = service.items("/api/v1/audit?action=definition.created").await;
    assert_eq!(audit.len(), 3, "{audit:?}");
}

#[tokio::test]
async fn what_is_not_fit_to_be_published_is_not_stored_and_imports_are_counted() {
    let service = TestService::start().await;
    let mut document = shop("1.0.0");
    document["components"]["securitySchemes"]["key"] = json!({"type": "oauth2", "flows": {"clientCredentials": {
        "tokenUrl": "https://shop.example/token", "scopes": {}}}});
    let refused = import(&service, "?publish=true", &document).await;
    assert_problem(&refused, 400, "VALIDATION_ERROR");
    assert_eq!(refused.json()["errors"][0]["pointer"], "/oauth2Config/clientId");
    assert!(service.items(DEFINITIONS).await.is_empty());
    let draft = import(&service, "", &document).await.json();
    assert!(draft["report"].to_string().contains("set oauth2Config.clientId"), "{draft}");
    let published = import(&service, "?publish=true&version=1.0.1&clientId=c", &document).await;
    assert_eq!(published.json()["status"], "PUBLISHED", "{}", published.json());
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains(r#"integration_imports_total{format="openapi",outcome="translated"}"#), "{metrics}");
}

#[tokio::test]
async fn yaml_and_large_documents_are_taken_and_others_refused() {
    let service = TestService::start().await;
    let yaml = "swagger: '2.0'\ninfo: {title: Old, version: 2}\nhost: old.example\npaths:\n  /a:\n    get:\n      responses:\n        200: {description: ok}\n";
    let send = |content_type: &'static str, text: String| {
        let request = post(&format!("{IMPORT}?dryRun=true")).header("content-type", content_type);
        let service = &service;
        async move { service.send(request, &text).await }
    };
    let answer = send("application/yaml", yaml.to_owned()).await.json();
    assert_eq!((&answer["report"]["format"], &answer["version"]), (&json!("OpenAPI 2.0"), &json!("2.0.0")));
    let mut large = shop("1.0.0");
    large["info"]["x-note"] = "x".repeat(11 << 20).into();
    assert_eq!(import(&service, "?dryRun=true", &large).await.status, 200);
    assert_problem(&send("text/plain", yaml.to_owned()).await, 415, "UNSUPPORTED_MEDIA_TYPE");
    for text in ["{", "{}", "[]", "a: [", r#"{"url": "http://127.0.0.1:1/x", "other": 1}"#] {
        assert_problem(&send("application/json", text.to_owned()).await, 400, "VALIDATION_ERROR");
    }
    let wrong = send("application/json", r#"{"openapi": "9.0"}"#.to_owned()).await;
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/openapi");
    for query in ["?id=a%20b", "?version=x", "?dryRun=maybe"] {
        assert_problem(&import(&service, query, &shop("1.0.0")).await, 400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn a_url_is_fetched_under_the_egress_rules_and_without_a_credential() {
    let service = TestService::start().await;
    let mut document = shop("1.0.0");
    document["servers"] = json!([{"url": "/v2"}]);
    service.upstream.always(move |_| json_response(200, &document));
    let url = format!("{}/docs/openapi.json", service.upstream.url());
    let answer = import(&service, "?dryRun=true", &json!({"url": url})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(answer.json()["definition"]["defaultConfig"]["baseUrl"], format!("{}/v2", service.upstream.url()));
    let received = service.upstream.received().pop().unwrap();
    assert_eq!(received.path_and_query, "/docs/openapi.json");
    assert!(!received.headers.contains_key("authorization") && !received.headers.contains_key("x-api-key"));

    service.upstream.always(|_| json_response(403, &json!({"secret": "of the inside"})));
    let refused = import(&service, "", &json!({"url": url})).await;
    assert_problem(&refused, 502, "UPSTREAM_ERROR");
    assert!(!refused.json().to_string().contains("inside"));
    service.upstream.always(|_| json_response(200, &json!({"secret": "of the inside"})));
    let no_document = import(&service, "", &json!({"url": url})).await;
    assert_problem(&no_document, 400, "VALIDATION_ERROR");
    assert!(!no_document.json().to_string().contains("inside"));
    let asked = service.upstream.received().len();
    for denied in ["http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data", "http://[::1]/x"] {
        assert_problem(&import(&service, "", &json!({"url": denied})).await, 502, "EGRESS_DENIED");
    }
    for invalid in ["file:///etc/passwd", "http://u:p@127.0.0.1/", "ftp://a.example/"] {
        assert_problem(&import(&service, "", &json!({"url": invalid})).await, 400, "VALIDATION_ERROR");
    }
    assert_eq!(service.upstream.received().len(), asked);
    assert!(service.items(DEFINITIONS).await.is_empty());
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A description in three files, beside a definition, in a folder of their own.
fn write_files(folder: &Path) {
    let part = "get:\n  operationId: getPet\n  responses:\n    200:\n      content:\n        application/json:\n          schema: { $ref: '../pet.yaml#/Pet' }\n";
    write(
        folder,
        "all/api.yaml",
        "openapi: 3.1.0\ninfo: {title: In parts, version: 1.0.0}\nservers: [{url: 'https://a.example'}]\npaths:\n  /pet: { $ref: paths/pet.yaml }\n  /far: {get: {parameters: [{$ref: '../outside.yaml#/p'}]}}\n",
    );
    write(folder, "all/paths/pet.yaml", part);
    write(folder, "all/pet.yaml", "Pet: {type: object, properties: {mother: {$ref: '#/Pet'}}}\n");
    write(folder, "outside.yaml", "p: {name: secret, in: query, schema: {type: string}}\n");
    write(folder, "all/shop.json", &crate::service::definition("plain", &json!({})).to_string());
}

#[test]
fn a_dry_run_of_the_command_needs_no_service_and_tells_in_a_table() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let (code, out, error) = run(folder.path(), &["definitions", "import", "all", "--dry-run"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let rows: Vec<Vec<&str>> = out.lines().take(3).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["FILE", "DEFINITION", "VERSION", "STATUS", "AUTH", "METHODS", "SKIPPED", "FINDINGS"]);
    assert_eq!(rows[1][..7], ["all/api.yaml", "in-parts", "1.0.0", "not", "stored", "none", "2"]);
    assert_eq!(rows[2][..3], ["all/shop.json", "plain", "1.0.0"]);
    // The parts of a description are no definitions, and what lies outside of the folder is not read.
    assert!(out.contains("GET /far: a parameter is left out") && out.contains("not at hand"), "{out}");

    write(folder.path(), "all/bad.yaml", "openapi: 3.1.0\ninfo: {title: x}\npaths: {}\n");
    let (code, out, error) = run(folder.path(), &["definitions", "import", "all", "--dry-run"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("all/bad.yaml: the document describes no operation") && error.contains("1 of 4 files"),
        "{error}"
    );
    assert!(out.contains("in-parts"), "{out}");
    let (code, _, error) = run(folder.path(), &["definitions", "import", "all", "--dry-run", "--id", "x"]);
    assert_eq!(code, 1);
    assert!(error.contains("for one file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_stores_and_publishes_what_it_makes() {
    let service = TestService::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let url = format!("http://{}", service.address());
    let import = |arguments: &[&str]| {
        let all = [&["definitions", "import"], arguments, &["--url", &url, "--key", KEY]].concat();
        tokio::task::block_in_place(|| run(folder.path(), &all))
    };
    let (code, out, error) = import(&["all", "--publish"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert_eq!(out.matches("PUBLISHED").count(), 2, "{out}");
    let schema = service.get("/definitions/in-parts/schema?method=getPet").await.json();
    assert_eq!(
        schema["methods"]["getPet"]["resultSchema"]["$defs"]["Pet"]["properties"]["mother"]["$ref"],
        "#/$defs/Pet"
    );
    let (code, _, error) = import(&["all/api.yaml"]);
    assert_eq!(code, 1);
    assert!(error.contains("ALREADY_EXISTS"), "{error}");
    let (code, out, _) = import(&["all/api.yaml", "--definition-version", "1.0.1", "--server", "https://b.example"]);
    assert_eq!((code, out.contains("DRAFT")), (0, true), "{out}");
    let draft = service.get(&format!("{DEFINITIONS}/in-parts/versions/1.0.1")).await.json();
    assert_eq!(draft["defaultConfig"]["baseUrl"], "https://b.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_has_the_service_fetch_what_is_at_a_url() {
    let service = TestService::start().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", service.address());
    let import = |arguments: &[&str]| {
        let all = [&["definitions", "import"], arguments, &["--url", &url, "--key", KEY]].concat();
        tokio::task::block_in_place(|| run(folder.path(), &all))
    };
    service.upstream.always(|_| json_response(200, &shop("1.0.0")));
    let document = format!("{}/openapi.json", service.upstream.url());
    let (code, out, error) = import(&[&document, "--dry-run"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("not stored") && out.contains("TRACE /pets/{pet-id}"), "{out}");
    assert!(service.items(DEFINITIONS).await.is_empty());
    let (code, out, error) = import(&[&document, "--publish", "--id", "far-shop"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let row: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..5], ["far-shop", "1.0.0", "PUBLISHED", "api_key"], "{out}");
    let (code, _, error) = import(&["http://10.0.0.1/openapi.json"]);
    assert_eq!((code, error.contains("EGRESS_DENIED")), (1, true), "{error}");

    service.upstream.always(|_| {
        json_response(
            200,
            &json!({"data": {"__schema": {
        "queryType": {"name": "Query"}, "types": [{"kind": "OBJECT", "name": "Query", "fields": [
            {"name": "ping", "args": [], "type": {"kind": "SCALAR", "name": "String"}}]}]}}}),
        )
    });
    let endpoint = format!("{}/graphql", service.upstream.url());
    let (code, out, error) = import(&[&endpoint, "--id", "far-graph"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let draft = service.get(&format!("{DEFINITIONS}/far-graph/versions/1.0.0")).await.json();
    assert_eq!((&draft["methods"][0]["name"], &draft["defaultConfig"]["baseUrl"]), (&json!("ping"), &json!(endpoint)));
    let (code, _, error) = import(&[&endpoint, "--header", "Authorization=NO_SUCH_VARIABLE"]);
    assert_eq!((code, error.contains("NO_SUCH_VARIABLE is not set")), (1, true), "{error}");
}
