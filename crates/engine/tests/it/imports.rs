//! OpenAPI descriptions as definitions: what becomes of each part, of hostile documents, and of
//! real ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use integration_engine::adapter::Adapters;
use integration_engine::import::openapi::{Documents, translate};
use integration_engine::import::{
    FindingKind, ImportError, ImportOptions, Imported, MAX_DEFINITION_BYTES, read_document,
};
use integration_engine::registry::check_definition;
use integration_engine::schema::Schema;
use integration_model::definition::{AuthType, Method};
use serde_json::{Value, json};

fn run(documents: &Documents, options: &ImportOptions) -> Result<Imported, ImportError> {
    translate(documents, options, None, &Adapters::built_in(), &mut |_, _| {})
}

/// The definition of a document, which has to be fit to be published.
fn import(document: Value) -> Imported {
    let options = ImportOptions { client_id: Some("client".to_owned()), ..ImportOptions::default() };
    let imported = run(&Documents::single(document), &options).expect("a definition");
    assert_eq!(check_definition(&imported.definition, &Adapters::built_in()), []);
    imported
}

/// A document of 3.0 with these paths and components.
fn document(paths: Value, components: Value) -> Value {
    json!({"openapi": "3.0.3", "info": {"title": "Shop", "version": "1.2"}, "paths": paths, "components": components,
        "servers": [{"url": "https://shop.example/v1"}]})
}

/// The one method of a document with one operation.
fn method(verb: &str, path: &str, operation: Value, components: Value) -> (Method, Imported) {
    let imported = import(document(json!({path: {verb: operation}}), components));
    (imported.definition.methods[0].clone(), imported)
}

fn messages(imported: &Imported, kind: FindingKind) -> Vec<String> {
    let findings = imported.report.findings.iter().filter(|finding| finding.kind == kind);
    findings.map(|finding| finding.message.clone()).collect()
}

#[test]
fn parameters_go_where_the_document_says_in_its_styles() {
    let list = json!({"type": "array", "items": {"type": "string"}});
    let parameters = json!([
        {"name": "shop-id", "in": "path", "required": true, "schema": {"type": "integer"}},
        {"name": "rest", "in": "path", "required": true, "schema": {"type": "string"}, "x-multi-segment": true},
        {"name": "tags", "in": "query", "schema": list},
        {"name": "ids", "in": "query", "explode": false, "schema": list},
        {"name": "piped", "in": "query", "style": "pipeDelimited", "schema": list},
        {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
        {"name": "expand", "in": "query", "style": "deepObject", "schema": list},
        {"name": "where", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
        {"name": "rest", "in": "query", "required": true, "deprecated": true, "description": "Again", "schema": {"type": "string"}},
        {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
        {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
        {"name": "Idempotency-Key", "in": "header", "required": true, "schema": {"type": "string"}},
        {"name": "session", "in": "cookie", "schema": {"type": "string"}},
        {"name": "a b", "in": "header", "schema": {"type": "string"}},
    ]);
    let operation =
        json!({"operationId": "shops/find-all", "summary": "Find", "parameters": parameters, "responses": {}});
    let (method, imported) = method("get", "/shops/{shop-id}/{rest}/{undescribed}", operation, json!({}));
    assert_eq!((method.name.as_str(), method.description.as_str(), method.idempotent), ("shopsFindAll", "Find", true));
    assert_eq!(
        method.operation,
        json!({
            "verb": "GET", "path": "/shops/{shop_id}/{+rest}/{undescribed}",
            "query": {
                "tags": "tags", "ids": {"param": "ids", "style": "form", "explode": false},
                "piped": {"param": "piped", "style": "pipeDelimited", "explode": false},
                "filter": {"param": "filter", "style": "deepObject"}, "expand[]": "expand", "where": "where", "rest": "rest2",
            },
            "headers": {"X-Trace": "X-Trace"}, "cookies": {"session": "session"},
            "idempotencyKeyHeader": "Idempotency-Key",
        })
    );
    let params = &method.param_schema;
    assert_eq!(params["required"], json!(["shop_id", "rest", "undescribed", "rest2"]));
    assert_eq!(params["additionalProperties"], json!(false));
    assert_eq!(params["properties"]["rest2"], json!({"type": "string", "description": "Again", "deprecated": true}));
    assert_eq!(params["properties"].as_object().expect("properties").len(), 12);
    let simplified = messages(&imported, FindingKind::Simplified);
    assert!(simplified.iter().any(|message| message.contains("\"a b\"")), "{simplified:?}");
    assert!(messages(&imported, FindingKind::Note).iter().any(|message| message.contains("\"shop_id\"")));
}

#[test]
fn an_operation_replaces_parameters_of_its_path_and_names_are_unique() {
    let parameter = |kind: &str| json!({"name": "q", "in": "query", "schema": {"type": kind}});
    let paths = json!({
        "/a": {"parameters": [parameter("string")], "get": {"operationId": "x", "parameters": [parameter("integer")]}, "post": {"operationId": "x"}},
        "/a/{id}": {"delete": {}, "trace": {}},
    });
    let imported = import(document(paths, json!({})));
    let methods = &imported.definition.methods;
    let names: Vec<_> = methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["x", "x2", "deleteAById"]);
    assert_eq!(methods[0].param_schema["properties"]["q"], json!({"type": "integer"}));
    assert_eq!(methods[1].param_schema["properties"]["q"], json!({"type": "string"}));
    let report = &imported.report;
    assert_eq!((report.operation_count, report.method_count, report.skipped_count), (4, 3, 1));
    assert!(report.findings.iter().any(|finding| finding.operation.as_deref() == Some("TRACE /a/{id}")));
}

#[test]
fn bodies_have_the_encoding_of_their_media_type() {
    let body = |content: Value| json!({"requestBody": {"required": true, "description": "It", "content": content}, "responses": {}});
    let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let (json_body, imported) = method(
        "post",
        "/",
        body(json!({"application/xml": {}, "application/vnd.a+json": {"schema": object}})),
        json!({}),
    );
    assert_eq!(
        json_body.operation,
        json!({"verb": "POST", "path": "/", "body": "body", "constants": {"headers": {"Content-Type": "application/vnd.a+json"}}})
    );
    assert_eq!(json_body.param_schema["required"], json!(["body"]));
    assert!(!json_body.idempotent);
    assert!(
        messages(&imported, FindingKind::Note).iter().any(|message| message.contains("application/xml is taken too"))
    );

    let form =
        json!({"application/x-www-form-urlencoded": {"schema": object, "encoding": {"a": {"style": "deepObject"}}}});
    let (form, _) = method("post", "/", body(form), json!({}));
    assert_eq!((&form.operation["encoding"], &form.operation["formArrays"]), (&json!("form"), &json!("indices")));

    let files = json!({"type": "object", "required": ["photo"], "properties": {
        "photo": {"$ref": "#/components/schemas/File"}, "more": {"type": "array", "items": {"type": "string", "format": "binary"}}, "note": {"type": "string"}}});
    let components = json!({"schemas": {"File": {"type": "string", "format": "binary"}}});
    let (multipart, _) = method("post", "/", body(json!({"multipart/form-data": {"schema": files}})), components);
    assert_eq!(multipart.operation["encoding"], json!("multipart"));
    let schema = Schema::compile(&multipart.param_schema).expect("a schema");
    let file = json!({"content": "aGk=", "filename": "a.png"});
    assert_eq!(schema.validate(&json!({"body": {"photo": file, "more": [file], "note": "x"}})), Ok(()));
    assert!(schema.validate(&json!({"body": {"photo": "aGk="}})).is_err());

    for (media_type, encoding) in
        [("text/plain", "text"), ("image/png", "binary"), ("text/csv", "csv"), ("text/xml", "xml")]
    {
        let (method, _) = method("put", "/", body(json!({media_type: {"schema": {"type": "string"}}})), json!({}));
        assert_eq!(method.operation["encoding"], json!(encoding), "{media_type}");
    }
}

#[test]
fn schemas_become_json_schema_of_today() {
    let components = json!({"schemas": {
        "Pet": {"type": "object", "required": ["id", "name", "secret"], "example": {}, "xml": {"name": "pet"}, "properties": {
            "id": {"type": "integer", "format": "int64", "readOnly": true},
            "secret": {"type": "string", "writeOnly": true},
            "name": {"type": "string", "nullable": true, "minLength": 1},
            "age": {"type": "number", "minimum": 0, "exclusiveMinimum": true, "maximum": 50, "exclusiveMaximum": false},
            "kind": {"type": "string", "enum": ["cat", "dog"], "nullable": true},
            "parent": {"$ref": "#/components/schemas/Pet"},
            "owner": {"nullable": true, "allOf": [{"$ref": "#/components/schemas/Owner%20Name"}]},
            "example": {"type": "string"},
            "page": {"type": "string", "format": "uri"},
        }},
        "Owner Name": {"type": "string", "required": true, "pattern": "("},
    }});
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}});
    let operation =
        json!({"requestBody": {"content": content}, "responses": {"200": {"description": "", "content": content}}});
    let (method, imported) = method("post", "/pets", operation, components);
    let pet = &method.param_schema["$defs"]["Pet"];
    assert_eq!(method.param_schema["properties"]["body"], json!({"$ref": "#/$defs/Pet"}));
    assert_eq!((pet.get("example"), pet.get("xml")), (None, None));
    assert_eq!(pet["required"], json!(["name", "secret"]));
    assert_eq!(pet["properties"]["name"], json!({"type": ["string", "null"], "minLength": 1}));
    assert_eq!(pet["properties"]["age"], json!({"type": "number", "exclusiveMinimum": 0, "maximum": 50}));
    assert_eq!(pet["properties"]["kind"]["enum"], json!(["cat", "dog", null]));
    assert_eq!(pet["properties"]["page"], json!({"type": "string", "format": "uri-reference"}));
    assert_eq!(pet["properties"]["parent"], json!({"$ref": "#/$defs/Pet"}));
    assert_eq!(method.result_schema["$ref"], json!("#/$defs/Pet"));
    assert_eq!(method.result_schema["$defs"]["Pet"]["required"], json!(["id", "name"]));
    // The pattern does not compile: it goes, and what had it is let pass.
    let told = messages(&imported, FindingKind::Simplified);
    assert!(
        !told.is_empty() && told.iter().all(|message| message.contains("taken out") || message.contains("everything")),
        "{told:?}"
    );
    let schema = Schema::compile(&method.param_schema).expect("a schema");
    let deep = json!({"body": {"name": null, "secret": "s", "kind": null, "owner": null, "parent": {"name": "p", "secret": "s"}}});
    assert_eq!(schema.validate(&deep), Ok(()));
    assert!(schema.validate(&json!({"body": {"name": "", "secret": "s"}})).is_err());
    assert!(schema.validate(&json!({"body": {"name": "n", "secret": "s", "parent": {}}})).is_err());
}

#[test]
fn results_are_those_of_the_successes() {
    let json_of = |schema: Value| json!({"description": "", "content": {"application/json": {"schema": schema}}});
    let of = |responses: Value| method("get", "/", json!({"responses": responses}), json!({})).0;
    let one = of(json!({"200": json_of(json!({"type": "string"})), "404": json_of(json!({"type": "object"}))}));
    assert_eq!(one.result_schema, json!({"type": "string"}));
    let several = of(
        json!({"200": json_of(json!({"type": "string"})), "202": json_of(json!({"type": "object"})), "204": {"description": ""}}),
    );
    assert_eq!(several.result_schema, json!({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}));
    let text_too = of(json!({"200": json_of(json!({"type": "string"})), "206": {"content": {"text/plain": {}}}}));
    assert_eq!(text_too.result_schema, json!({}));
    let other_type = of(json!({"200": {"content": {"application/vnd.x+json": {"schema": {"type": "array"}}}}}));
    assert_eq!(other_type.operation["accept"], json!("application/vnd.x+json"));
    assert_eq!(other_type.result_schema, json!({"type": "array"}));
    let download = of(json!({"302": {"description": "Elsewhere"}}));
    assert_eq!(download.operation["redirects"], json!("follow"));
}

#[test]
fn pages_and_limits_are_recognised_where_they_are_sure() {
    let list_of = |extra: Value| {
        let mut properties = json!({"items": {"type": "array", "items": {}}, "total": {"type": "integer"}});
        properties.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        json!({"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}})
    };
    let query = |names: &[&str], kind: &str| -> Value {
        names.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": kind, "default": 20}})).collect()
    };
    let pagination = |parameters: Value, answer: Value| {
        let (method, imported) =
            method("get", "/", json!({"parameters": parameters, "responses": {"200": answer}}), json!({}));
        (method.operation.get("pagination").cloned(), imported.definition.rate_limits)
    };
    let text = json!({"type": "string"});
    let (cursor, limits) =
        pagination(query(&["cursor"], "string"), list_of(json!({"meta": {"properties": {"next_cursor": text}}})));
    assert_eq!(
        (cursor, limits),
        (
            Some(
                json!({"type": "cursor", "param": "cursor", "cursorPath": "/meta/next_cursor", "itemsPath": "/items"})
            ),
            None
        )
    );
    let (link, _) = pagination(json!([]), list_of(json!({"next_page_uri": {"type": "string", "nullable": true}})));
    assert_eq!(link, Some(json!({"type": "link", "cursorPath": "/next_page_uri", "itemsPath": "/items"})));
    let (page, _) = pagination(query(&["page", "per_page"], "integer"), list_of(json!({})));
    assert_eq!(
        page,
        Some(
            json!({"type": "page", "param": "page", "itemsPath": "/items", "pageSizeParam": "per_page", "pageSize": 20})
        )
    );
    let (offset, _) = pagination(query(&["offset", "limit"], "integer"), list_of(json!({})));
    assert_eq!(offset.expect("pages")["type"], json!("offset"));
    // A cursor that no answer gives, a page without a size, two arrays: nothing is sure.
    assert_eq!(pagination(query(&["cursor"], "string"), list_of(json!({}))).0, None);
    assert_eq!(pagination(query(&["page"], "integer"), list_of(json!({}))).0, None);
    assert_eq!(pagination(query(&["page", "per_page"], "integer"), list_of(json!({"b": {"type": "array"}}))).0, None);
    let mut with_headers = json!({"content": {"application/json": {"schema": {"type": "array", "items": {}}}}});
    with_headers["headers"] =
        json!({"Link": {"schema": text}, "X-RateLimit-Remaining": {"schema": {"type": "integer"}}});
    let (link, limits) = pagination(json!([]), with_headers);
    assert_eq!(link, Some(json!({"type": "link", "itemsPath": ""})));
    assert!(limits.is_some_and(|limits| limits.requests_per_minute.is_none()));
}

#[test]
fn security_schemes_become_the_auth_type_that_most_operations_take() {
    let with = |schemes: Value, security: Value| {
        let mut document =
            document(json!({"/a": {"get": {}}, "/b": {"get": {"security": []}}}), json!({"securitySchemes": schemes}));
        document["security"] = security;
        import(document)
    };
    let key = json!({"type": "apiKey", "in": "header", "name": "X-Key"});
    let imported = with(json!({"k": key}), json!([{"k": []}]));
    assert_eq!(imported.definition.auth_type, AuthType::ApiKey);
    assert!(messages(&imported, FindingKind::Note).iter().any(|note| note.contains(r#""headerOrParam":"X-Key""#)));
    let both =
        with(json!({"k": key, "q": {"type": "apiKey", "in": "query", "name": "app"}}), json!([{"k": [], "q": []}]));
    let custom = both.definition.custom_auth.expect("customAuth");
    assert_eq!((&custom.headers["X-Key"], &custom.query["app"]), (&"k".to_owned(), &"q".to_owned()));
    assert_eq!(
        with(json!({"b": {"type": "http", "scheme": "Bearer"}}), json!([{"b": []}])).definition.auth_type,
        AuthType::Jwt
    );
    assert_eq!(
        with(json!({"b": {"type": "http", "scheme": "basic"}}), json!([{"b": []}])).definition.auth_type,
        AuthType::Basic
    );
    let code = json!({"type": "oauth2", "flows": {"authorizationCode": {
        "authorizationUrl": "/authorize", "tokenUrl": "https://id.example/token", "scopes": {"a": "", "b": ""}}}});
    let imported = with(json!({"o": code}), json!([{"o": ["b", "a"]}]));
    let config = imported.definition.oauth2_config.expect("oauth2Config");
    assert_eq!(config.authorization_url.as_deref(), Some("https://shop.example/authorize"));
    assert_eq!((config.token_url.as_deref(), config.scope.as_deref()), (Some("https://id.example/token"), Some("a b")));
    let implicit =
        json!({"type": "oauth2", "flows": {"implicit": {"authorizationUrl": "https://id.example/a", "scopes": {}}}});
    let imported = with(json!({"o": implicit}), json!([{"o": []}]));
    assert_eq!(imported.definition.auth_type, AuthType::Jwt);
    assert!(messages(&imported, FindingKind::Note).iter().any(|note| note.contains("access tokens")));
    let imported = with(
        json!({"t": {"type": "mutualTLS"}, "d": {"type": "http", "scheme": "digest"}}),
        json!([{"t": []}, {"d": []}]),
    );
    assert_eq!(imported.definition.auth_type, AuthType::None);
    assert!(messages(&imported, FindingKind::Note).iter().any(|note| note.contains(r#""d" is left out"#)));
}

#[test]
fn servers_become_the_config_and_operations_elsewhere_are_told() {
    let mut whole = document(
        json!({"/a": {"get": {}, "put": {}}, "/b": {"post": {"servers": [{"url": "https://upload.example"}]}}}),
        json!({}),
    );
    whole["servers"] = json!([
        {"url": "https://{region}.shop.example:{port}/{base}", "variables": {
            "region": {"default": "eu", "enum": ["eu", "us"]}, "port": {"default": 8443}, "base": {"default": "api/v2"}}},
        {"url": "https://test.shop.example"},
    ]);
    let imported = import(whole.clone());
    let definition = &imported.definition;
    assert_eq!(
        definition.default_config["baseUrl"],
        json!("https://{config.region}.shop.example:{config.port}/api/v2")
    );
    assert_eq!(
        definition.config_schema["properties"]["region"],
        json!({"type": "string", "default": "eu", "enum": ["eu", "us"]})
    );
    assert_eq!(definition.methods.len(), 2);
    assert!(messages(&imported, FindingKind::Skipped)[0].contains("server=https://upload.example"));
    let options = ImportOptions { server: Some("https://upload.example".to_owned()), ..ImportOptions::default() };
    let other = run(&Documents::single(whole), &options).expect("a definition").definition;
    assert_eq!((other.methods.len(), &other.default_config["baseUrl"]), (1, &json!("https://upload.example")));
}

#[test]
fn a_document_of_2_0_is_read_by_its_own_rules() {
    let imported = import(json!({
        "swagger": "2.0", "info": {"title": "Old shop", "version": "v3"}, "host": "old.example", "basePath": "/api", "schemes": ["http", "https"],
        "securityDefinitions": {"s": {"type": "oauth2", "flow": "application", "tokenUrl": "https://old.example/token", "scopes": {}}},
        "security": [{"s": []}],
        "consumes": ["application/json"], "produces": ["application/json"],
        "paths": {"/pets": {
            "get": {"operationId": "list", "parameters": [
                {"name": "tags", "in": "query", "type": "array", "items": {"type": "string"}, "collectionFormat": "pipes"},
                {"name": "ids", "in": "query", "type": "array", "items": {"type": "integer"}, "collectionFormat": "multi", "x-nullable": true},
                {"$ref": "#/parameters/Limit"}],
                "responses": {"200": {"schema": {"type": "array", "items": {"$ref": "#/definitions/Pet"}}}}},
            "post": {"operationId": "add", "parameters": [{"name": "pet", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Pet"}}]},
            "put": {"operationId": "photo", "parameters": [
                {"name": "file", "in": "formData", "type": "file", "required": true}, {"name": "note", "in": "formData", "type": "string"}]},
        }},
        "parameters": {"Limit": {"name": "limit", "in": "query", "type": "integer", "maximum": 10, "exclusiveMaximum": true}},
        "definitions": {"Pet": {"type": "object", "discriminator": "kind", "properties": {"kind": {"type": "string"}}}},
    }));
    let definition = &imported.definition;
    assert_eq!((definition.id.as_str(), definition.version.to_string().as_str()), ("old-shop", "3.0.0"));
    assert_eq!(definition.default_config["baseUrl"], json!("https://old.example/api"));
    assert_eq!(definition.auth_type, AuthType::OAuth2);
    let by_name = |name: &str| definition.methods.iter().find(|method| method.name == name).expect("a method");
    let list = by_name("list");
    assert_eq!(list.operation["query"]["tags"], json!({"param": "tags", "style": "pipeDelimited", "explode": false}));
    assert_eq!(list.operation["query"]["ids"], json!("ids"));
    assert_eq!(list.param_schema["properties"]["ids"]["type"], json!(["array", "null"]));
    assert_eq!(list.param_schema["properties"]["limit"], json!({"type": "integer", "exclusiveMaximum": 10}));
    assert_eq!(list.result_schema["items"], json!({"$ref": "#/$defs/Pet"}));
    assert_eq!(by_name("add").operation["body"], json!("body"));
    let photo = by_name("photo");
    assert_eq!(photo.operation["encoding"], json!("multipart"));
    assert_eq!(photo.param_schema["properties"]["body"]["required"], json!(["file"]));
}

#[test]
fn a_document_of_3_1_has_null_types_siblings_of_references_and_webhooks() {
    let imported = import(json!({
        "openapi": "3.1.0", "info": {"title": "New"}, "webhooks": {"sold": {"post": {}}},
        "paths": {"/a": {"get": {"parameters": [{"name": "q", "in": "query", "schema": {"$ref": "#/components/schemas/Q", "maxLength": 5}}],
            "callbacks": {"done": {}}}}},
        "components": {"schemas": {"Q": {"type": ["string", "null"], "examples": ["x"], "const": "abc"}}},
    }));
    let method = &imported.definition.methods[0];
    assert_eq!(method.param_schema["properties"]["q"], json!({"$ref": "#/$defs/Q", "maxLength": 5}));
    assert_eq!(method.param_schema["$defs"]["Q"], json!({"type": ["string", "null"], "const": "abc"}));
    assert!(messages(&imported, FindingKind::Note).iter().any(|note| note.contains("1 webhooks")));
    assert!(messages(&imported, FindingKind::Simplified)[0].contains("callbacks"));
    let alone = import(
        json!({"openapi": "3.1.0", "info": {"title": "Hooks", "version": "1"}, "webhooks": {"sold": {"post": {}}}}),
    );
    assert_eq!((alone.definition.adapter_type.as_str(), alone.definition.methods.len()), ("webhook", 0));
}

#[test]
fn files_of_the_folder_are_followed_and_nothing_else() {
    let root = json!({"openapi": "3.0.0", "info": {"title": "Parts", "version": "1"}, "paths": {
        "/a": {"$ref": "paths/a.yaml"},
        "/b": {"get": {"parameters": [{"$ref": "https://evil.example/p.yaml#/x"}],
            "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "../../etc/passwd"}}}}}}},
    }});
    let part = json!({"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "../pet.yaml#/Pet"}}}}}}});
    let pet = json!({"Pet": {"type": "object", "properties": {"mother": {"$ref": "#/Pet"}}}});
    let others = BTreeMap::from([("paths/a.yaml".to_owned(), part), ("pet.yaml".to_owned(), pet)]);
    let imported =
        run(&Documents::with_files("api.yaml", root, others), &ImportOptions::default()).expect("a definition");
    let schema = &imported.definition.methods[0].result_schema;
    assert_eq!(schema["$defs"]["Pet"]["properties"]["mother"], json!({"$ref": "#/$defs/Pet"}));
    let told = messages(&imported, FindingKind::Simplified).join("\n");
    assert!(told.contains("another host") && told.contains("not at hand"), "{told}");
}

#[test]
fn what_is_too_large_too_deep_or_circular_is_cut_and_never_stricter() {
    // Each part has two alternatives of which one is only told by parts that do not fit.
    let mut schemas = serde_json::Map::new();
    for index in 0..5_000 {
        let next = format!("#/components/schemas/S{}", (index + 1) % 5_000);
        let filler: serde_json::Map<String, Value> =
            (0..5).map(|n| (format!("f{n}"), json!({"type": "integer"}))).collect();
        schemas
            .insert(format!("S{index}"), json!({"oneOf": [{"$ref": next}, {"type": "string"}], "properties": filler}));
    }
    schemas.insert("Loop".to_owned(), json!({"allOf": [{"$ref": "#/components/schemas/Loop"}]}));
    let mut deep = json!({"type": "string"});
    for _ in 0..50 {
        deep = json!({"type": "object", "properties": {"d": deep}});
    }
    schemas.insert("Deep".to_owned(), deep);
    let answer = |name: &str| json!({"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}}}}}});
    let imported = import(document(
        json!({"/s": answer("S0"), "/loop": answer("Loop"), "/deep": answer("Deep")}),
        json!({"schemas": schemas}),
    ));
    let told = messages(&imported, FindingKind::Simplified);
    assert_eq!(told.iter().filter(|message| message.contains("is too large")).count(), 2, "{told:?}");
    for method in &imported.definition.methods {
        let schema = Schema::compile(&method.result_schema).expect("a schema");
        assert_eq!(schema.validate(&json!("a text")).is_ok(), method.name != "getDeep", "{}", method.name);
    }
    assert!(serde_json::to_vec(&imported.definition).expect("JSON").len() < 200_000);
}

#[test]
fn what_many_operations_share_is_not_taken_whole_into_each() {
    let text = "x".repeat(100_000);
    let values: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let properties: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("p{n}"), json!({}))).collect();
    let many = |keyword: &str| json!({keyword: vec![json!({"$ref": "#/components/schemas/Wide"}); 300]});
    let components = json!({"schemas": {
        "Enum": {"enum": values}, "Pattern": {"pattern": text}, "Closed": {"properties": properties, "additionalProperties": false},
        "Wide": {"allOf": [many("anyOf"), many("oneOf"), many("allOf")]}, "Const": {"default": text, "required": values},
    }});
    let parameters: Vec<Value> = ["Enum", "Pattern", "Closed", "Wide", "Const"]
        .map(|name| json!({"name": name, "in": "query", "style": "form", "explode": false, "schema": {"$ref": format!("#/components/schemas/{name}")}}))
        .to_vec();
    let shared = json!({"get": {"operationId": "same", "parameters": parameters}});
    let mut whole = document(json!({}), components);
    whole["components"]["pathItems"] = json!({"Shared": shared});
    whole["paths"] = (0..20)
        .map(|n| (format!("/p{n}"), json!({"$ref": "#/components/pathItems/Shared"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let imported = run(&Documents::single(whole), &ImportOptions::default()).expect("a definition");
    let definition = imported.definition;
    assert_eq!((definition.methods.len(), definition.methods[19].name.as_str()), (20, "same20"));
    let size = serde_json::to_vec(&definition).expect("JSON").len();
    assert!(size <= MAX_DEFINITION_BYTES, "{size}");
    let schema = Schema::compile(&definition.methods[0].param_schema).expect("a schema");
    let given = json!({"Enum": "19999", "Pattern": "y", "Closed": {"p19999": 1}, "Wide": 1, "Const": {}});
    assert_eq!(schema.validate(&given), Ok(()));
}

#[test]
fn a_definition_stays_within_its_size_however_many_operations_there_are() {
    let properties: serde_json::Map<String, Value> =
        (0..950).map(|n| (format!("property_{n:050}"), json!({"type": "string"}))).collect();
    let components = json!({"schemas": {"Big": {"type": "object", "properties": properties}}});
    let operation = json!({"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Big"}}}}}});
    let paths: serde_json::Map<String, Value> =
        (0..110).map(|n| (format!("/p{n}"), json!({"get": operation}))).collect();
    let imported = run(&Documents::single(document(Value::Object(paths), components)), &ImportOptions::default())
        .expect("a definition");
    assert_eq!(imported.definition.methods.len(), 110);
    assert!(serde_json::to_vec(&imported.definition).expect("JSON").len() <= MAX_DEFINITION_BYTES);
    assert!(
        messages(&imported, FindingKind::Simplified)
            .iter()
            .any(|message| message.contains("definition would be too large"))
    );
}

#[test]
fn what_is_no_description_is_refused_with_the_place() {
    let refused =
        |document: Value| run(&Documents::single(document), &ImportOptions::default()).expect_err("no description");
    assert!(refused(json!({"id": "x"})).message.contains("expected an OpenAPI document"));
    assert_eq!(refused(json!({"swagger": "1.2"})).problems[0].pointer, "/swagger");
    assert_eq!(refused(json!({"openapi": "4.0.0"})).problems[0].pointer, "/openapi");
    assert!(refused(json!([1])).message.contains("expected an OpenAPI document"));
    let error = refused(json!({"openapi": "3.0.0", "paths": {"/a": 5, "/b": {"get": 7}, "/c": {"$ref": "#/nowhere"}}}));
    assert!(error.message.contains("no operation"), "{error}");
    for text in ["", "[", "{\"a\":1,\"a\":2}", "a: b: c", "\u{0}", "&a [*a]"] {
        assert!(
            read_document(text.as_bytes()).map_or(true, |document| run(
                &Documents::single(document),
                &ImportOptions::default()
            )
            .is_err()),
            "{text}"
        );
    }
    let bomb = format!(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}",
        (1..20).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect::<String>()
    );
    assert!(read_document(bomb.as_bytes()).is_err());
    let yaml =
        read_document(b"openapi: 3.0.0\npaths:\n  /a:\n    get:\n      responses:\n        200: {description: yes}\n")
            .expect("YAML");
    assert_eq!(yaml["paths"]["/a"]["get"]["responses"]["200"]["description"], json!("yes"));
}

/// Larger public documents, where `INTEGRATION_SPECS` names a folder of them.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn public_documents_become_definitions_that_can_be_published() {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests find the corpora and servers that they run against by the environment"
    )]
    let Ok(folder) = std::env::var("INTEGRATION_SPECS") else {
        eprintln!("skipped: INTEGRATION_SPECS names no folder of public documents");
        return;
    };
    let entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path());
    let is_document = |file: &PathBuf| file.extension().is_some_and(|extension| extension != "md");
    let files: Vec<PathBuf> = entries.filter(is_document).collect();
    assert!(!files.is_empty(), "there is no document in {folder}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            check_public_document(file);
        }
    };
    std::thread::scope(|threads| (0..2).for_each(|_| drop(threads.spawn(work))));
}

fn check_public_document(file: &Path) {
    let name = file.display();
    let document = read_document(&std::fs::read(file).expect("a file")).expect("a document");
    let options = ImportOptions { client_id: Some("client".to_owned()), ..ImportOptions::default() };
    let Imported { mut definition, report } =
        run(&Documents::single(document), &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(serde_json::to_vec(&definition).expect("JSON").len() <= MAX_DEFINITION_BYTES, "{name}");
    assert_eq!(report.method_count + report.skipped_count, report.operation_count, "{name}");
    assert!(report.skipped_count * 20 <= report.operation_count, "{name}: {} are skipped", report.skipped_count);
    // Each method was compiled when it was made; the whole is checked with some of them.
    definition.methods.truncate(20);
    assert_eq!(check_definition(&definition, &Adapters::built_in()), [], "{name}");
}
