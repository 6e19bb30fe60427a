//! The registry of definitions through its endpoints.

use serde_json::{Value, json};

use crate::client::{Answer, assert_problem, get, pointers, post};
use crate::service::{TestService, definition, json_request};

const DEFINITIONS: &str = "/api/v1/integration-definitions";

fn version_path(id: &str, version: &str) -> String {
    format!("{DEFINITIONS}/{id}/versions/{version}")
}

/// `definition` in another version, with one more method where `method` is some.
fn with_version(base: &Value, version: &str) -> Value {
    let mut document = base.clone();
    document["version"] = json!(version);
    document
}

async fn post_yaml(service: &TestService, path: &str, text: &str) -> Answer {
    service.send(post(path).header("content-type", "application/yaml"), text).await
}

#[tokio::test]
async fn a_definition_is_created_from_json_and_from_yaml_alike() {
    let service = TestService::start().await;
    let created = service.post(DEFINITIONS, &definition("pets", &json!({}))).await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.header("location"), version_path("pets", "1.0.0"));
    let body = created.json();
    assert_eq!((&body["status"], &body["id"]), (&json!("DRAFT"), &json!("pets")));
    assert_eq!(body.get("publishedAt"), None);
    assert_eq!(service.get(created.header("location")).await.json(), body);

    let yaml = "id: pets2\nname: pets2\nversion: 1.0.0\ntype: http\nauthType: none\n\
        configSchema: {type: object, required: [baseUrl], properties: {baseUrl: {type: string}}}\n\
        methods:\n  - name: call\n    paramSchema: {type: object}\n    operation: {verb: GET, path: /thing}\n";
    let from_yaml = post_yaml(&service, DEFINITIONS, yaml).await;
    assert_eq!(from_yaml.status, 201, "{}", from_yaml.json());
    assert_eq!(from_yaml.json()["methods"], body["methods"]);
    assert_eq!(from_yaml.json()["configSchema"], body["configSchema"]);

    let again = service.post(DEFINITIONS, &definition("pets", &json!({}))).await;
    assert_problem(&again, 409, "ALREADY_EXISTS");
}

#[tokio::test]
async fn a_document_that_does_not_fit_is_refused_with_the_place() {
    let service = TestService::start().await;
    let good = definition("strict", &json!({}));
    let broken = |pointer: &str, value: Value| {
        let mut document = good.clone();
        match pointer.rsplit_once('/') {
            Some(("", name)) => document[name] = value,
            Some((parent, name)) => document.pointer_mut(parent).unwrap()[name] = value,
            None => document = value,
        }
        document
    };
    for (pointer, value, expected) in [
        ("/typo", json!(1), "unknown key"),
        ("/methods/0/timoutMs", json!(1), "unknown key"),
        ("/methods/0/timeoutMs", json!("soon"), "expected a whole number, 0 or more, found a string"),
        ("/version", json!("one"), "semantic version"),
        ("/id", json!("-x"), "expected 1 to 64 characters"),
        ("/authType", json!("magic"), "expected one of none, basic"),
        ("/methods", json!({}), "expected an array, found an object"),
        ("/rateLimits", json!([100, 10]), "expected an object, found an array"),
        ("/methods/0/circuitBreaker", json!([]), "expected an object, found an array"),
        ("/name", Value::Null, "expected a string"),
    ] {
        let answer = service.post(DEFINITIONS, &broken(pointer, value)).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [pointer], "{}", answer.json());
        let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(expected), "{pointer}: {message}");
    }
    let missing = service.post(DEFINITIONS, &json!({"id": "x"})).await;
    assert_problem(&missing, 400, "VALIDATION_ERROR");
    assert!(missing.json()["detail"].as_str().unwrap().contains("expected the key name"), "{}", missing.json());
    assert_problem(&service.get(&version_path("strict", "1.0.0")).await, 404, "DEFINITION_NOT_FOUND");
}

#[tokio::test]
async fn bodies_that_are_no_documents_are_refused_without_harm() {
    let service = TestService::start().await;
    let json = |text: &str| (json_request("POST", DEFINITIONS), text.to_owned());
    let yaml = |text: &str| (post(DEFINITIONS).header("content-type", "application/yaml"), text.to_owned());
    let bomb = format!(
        "a: &a [x,x]\n{}",
        (0..40).fold(String::new(), |text, n| {
            let (before, name) = (if n == 0 { "a".to_owned() } else { format!("b{}", n - 1) }, format!("b{n}"));
            text + &format!("{name}: &{name} [*{before},*{before},*{before},*{before}]\n")
        })
    );
    for (request, body) in [
        json("{"),
        json(""),
        json("{} {}"),
        json("[1"),
        json(&"[".repeat(50_000)),
        yaml("a: [1"),
        yaml("a: 1\na: 2"),
        yaml(&"[".repeat(50_000)),
        yaml(&bomb),
    ] {
        let answer = service.send(request, &body).await;
        assert_problem(&answer, 400, "MALFORMED_BODY");
    }
    let text = service.send(post(DEFINITIONS).header("content-type", "text/plain"), "{}").await;
    assert_problem(&text, 415, "UNSUPPORTED_MEDIA_TYPE");
    assert_problem(&service.send(post(DEFINITIONS), "{}").await, 415, "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test]
async fn yaml_that_cannot_be_read_is_not_shown_in_the_refusal() {
    let service = TestService::start().await;
    let yaml = "oauth2Config:\n  clientSecret: not-for-logs\n  tokenUrl: [1\n";
    let answer = post_yaml(&service, DEFINITIONS, yaml).await;
    assert_problem(&answer, 400, "MALFORMED_BODY");
    assert!(!answer.json().to_string().contains("not-for-logs"), "{}", answer.json());
}

#[tokio::test]
async fn words_that_older_yaml_took_for_booleans_are_texts() {
    let service = TestService::start().await;
    let yaml =
        "id: y1\nname: no\nversion: 1.0.0\ntype: http\nauthType: none\nlabels: {country: NO, on: yes}\nmethods: []\n";
    let created = post_yaml(&service, DEFINITIONS, yaml).await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.json()["labels"], json!({"country": "NO", "on": "yes"}));
}

#[tokio::test]
async fn a_secret_of_the_wrong_kind_is_not_shown_in_the_refusal() {
    let service = TestService::start().await;
    let mut document = definition("oauth", &json!({}));
    document["authType"] = json!("oauth2");
    document["oauth2Config"] = json!({"clientId": "c", "clientSecret": 987_654_321_u32});
    for path in [DEFINITIONS.to_owned(), format!("{DEFINITIONS}/validate")] {
        let answer = service.post(&path, &document).await;
        assert!(!answer.json().to_string().contains("987654321"), "{}", answer.json());
    }
}

#[tokio::test]
async fn a_document_that_was_read_can_be_edited_and_sent_back() {
    let service = TestService::start().await;
    service.post(DEFINITIONS, &definition("pets", &json!({}))).await;
    let path = version_path("pets", "1.0.0");
    let mut document = service.get(&path).await.json();
    document["name"] = json!("Pets, renamed");
    document["status"] = json!("PUBLISHED");
    let updated = service.with_body("PUT", &path, &document).await;
    assert_eq!(updated.status, 200, "{}", updated.json());
    assert_eq!(updated.json()["name"], "Pets, renamed");
    assert_eq!(updated.json()["status"], "DRAFT", "a status is not moved by writing it");
    assert_eq!(updated.json()["createdAt"], document["createdAt"]);

    let mut next = updated.json();
    next["version"] = json!("1.1.0");
    let created = service.post(&format!("{DEFINITIONS}/pets/versions"), &next).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

#[tokio::test]
async fn an_update_keeps_to_the_version_of_its_path() {
    let service = TestService::start().await;
    let base = definition("pets", &json!({}));
    service.post(DEFINITIONS, &base).await;
    let elsewhere = service.with_body("PUT", &version_path("pets", "1.0.0"), &with_version(&base, "1.1.0")).await;
    assert_problem(&elsewhere, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&elsewhere), ["/version"]);
    let other = service.with_body("PUT", &version_path("pets", "1.0.0"), &definition("cats", &json!({}))).await;
    assert_eq!(pointers(&other), ["/id"]);
    let other = service.post(&format!("{DEFINITIONS}/pets/versions"), &definition("cats", &json!({}))).await;
    assert_eq!(pointers(&other), ["/id"]);
    let missing = service.with_body("PUT", &version_path("pets", "9.0.0"), &with_version(&base, "9.0.0")).await;
    assert_problem(&missing, 404, "DEFINITION_NOT_FOUND");
    let unknown = service.post(&format!("{DEFINITIONS}/cats/versions"), &definition("cats", &json!({}))).await;
    assert_problem(&unknown, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.get(&version_path("pets", "latest")).await, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.get(&format!("{DEFINITIONS}/%2e%2e")).await, 404, "DEFINITION_NOT_FOUND");
}

#[tokio::test]
async fn a_version_moves_along_its_life_and_no_other_way() {
    let service = TestService::start().await;
    let path = version_path("pets", "1.0.0");
    service.post(DEFINITIONS, &definition("pets", &json!({}))).await;
    let act = async |verb: &str| service.post(&format!("{path}/{verb}"), &json!({})).await;
    let mut published_at = Value::Null;
    for (verb, expected) in [
        ("deprecate", Err("DRAFT")),
        ("archive", Err("DRAFT")),
        ("publish", Ok("PUBLISHED")),
        ("publish", Err("PUBLISHED")),
        ("archive", Err("PUBLISHED")),
        ("deprecate", Ok("DEPRECATED")),
        ("deprecate", Err("DEPRECATED")),
        ("publish", Ok("PUBLISHED")),
        ("deprecate", Ok("DEPRECATED")),
        ("archive", Ok("ARCHIVED")),
        ("publish", Err("ARCHIVED")),
        ("deprecate", Err("ARCHIVED")),
        ("archive", Err("ARCHIVED")),
    ] {
        let answer = act(verb).await;
        match expected {
            Ok(status) => {
                assert_eq!((answer.status, &answer.json()["status"]), (200, &json!(status)), "{}", answer.json());
                if published_at.is_null() {
                    published_at = answer.json()["publishedAt"].clone();
                    assert!(published_at.is_string());
                }
                assert_eq!(answer.json()["publishedAt"], published_at, "the first publication counts");
            }
            Err(current) => {
                assert_problem(&answer, 409, "CONFLICT");
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains(&format!("is {current}; it cannot become")), "{detail}");
            }
        }
    }
    assert_problem(
        &service.post(&format!("{}/publish", version_path("no", "1.0.0")), &json!({})).await,
        404,
        "DEFINITION_NOT_FOUND",
    );
}

#[tokio::test]
async fn what_was_published_stays_as_it_is() {
    let service = TestService::start().await;
    let document = definition("pets", &json!({}));
    let published = service.post(&format!("{DEFINITIONS}?publish=true"), &document).await;
    assert_eq!((published.status, &published.json()["status"]), (201, &json!("PUBLISHED")));
    let path = version_path("pets", "1.0.0");
    let mut changed = document.clone();
    changed["name"] = json!("other");
    assert_problem(&service.with_body("PUT", &path, &changed).await, 409, "CONFLICT");
    assert_problem(&service.delete(&path).await, 409, "CONFLICT");
    assert_eq!(service.get(&path).await.json(), published.json());
}

#[tokio::test]
async fn a_draft_can_be_deleted() {
    let service = TestService::start().await;
    let path = version_path("pets", "1.0.0");
    service.post(DEFINITIONS, &definition("pets", &json!({}))).await;
    assert_eq!(service.delete(&path).await.status, 204);
    assert_problem(&service.get(&path).await, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.delete(&path).await, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.get(&format!("{DEFINITIONS}/pets")).await, 404, "DEFINITION_NOT_FOUND");
    assert_problem(&service.get(&format!("{DEFINITIONS}/pets/versions")).await, 404, "DEFINITION_NOT_FOUND");
}

/// A definition with a fault in every part that publishing looks at.
fn unfit() -> Value {
    json!({
        "id": "unfit", "name": " ", "version": "1.0.0", "type": "http", "authType": "custom",
        "configSchema": {"type": 5}, "testMethod": "ping",
        "methods": [
            {"name": "a", "paramSchema": {"type": "objekt"}, "operation": {"verb": "GET", "path": "/a"}},
            {"name": "a", "resultSchema": {"$ref": "https://elsewhere.example/schema"}, "operation": {"verb": "GET", "path": "/b"}},
            {"name": "c", "responseTransform": "(((", "operation": {"verb": "GET", "path": "/c"}},
            {"name": "d", "requestTransform": "template:gone", "operation": {"verb": "GET", "path": "/d"}},
            {"name": "e", "operation": {"verb": "GET", "path": "/e/{"}},
            {"name": "g", "operation": {"verb": "GET", "path": "/g", "colour": "red"}},
            {"name": "f", "timeoutMs": 0, "operation": {"verb": "GET", "path": "/f"}},
        ],
    })
}

#[tokio::test]
async fn publishing_lists_everything_that_is_wrong() {
    let service = TestService::start().await;
    assert_eq!(service.post(DEFINITIONS, &unfit()).await.status, 201, "a draft may be unfinished");
    let refused = service.post(&format!("{}/publish", version_path("unfit", "1.0.0")), &json!({})).await;
    assert_problem(&refused, 400, "VALIDATION_ERROR");
    let found = pointers(&refused);
    assert_eq!(found.iter().filter(|pointer| *pointer == "/methods/3/requestTransform").count(), 1, "told once");
    for expected in [
        "/name",
        "/customAuth",
        "/configSchema",
        "/testMethod",
        "/methods/0/paramSchema",
        "/methods/1/name",
        "/methods/1/resultSchema",
        "/methods/2/responseTransform",
        "/methods/3/requestTransform",
        "/methods/4/operation/path",
        "/methods/5/operation",
        "/methods/6/timeoutMs",
    ] {
        assert!(found.iter().any(|pointer| pointer.starts_with(expected)), "{expected} is not in {found:#?}");
    }
    let unknown = json!({"id": "u", "name": "u", "version": "1.0.0", "type": "telepathy", "authType": "none", "methods": [{"name": "a"}]});
    let refused = service.post(&format!("{DEFINITIONS}?publish=true"), &unknown).await;
    assert_eq!(pointers(&refused), ["/type"]);
    assert_problem(&service.get(&format!("{DEFINITIONS}/u")).await, 404, "DEFINITION_NOT_FOUND");
}

#[tokio::test]
async fn validation_says_the_same_and_stores_nothing() {
    let service = TestService::start().await;
    let validate = format!("{DEFINITIONS}/validate");
    let report = service.post(&validate, &unfit()).await.json();
    assert_eq!((&report["valid"], &report["methodCount"]), (&json!(false), &json!(7)));
    let refused = service.post(&format!("{DEFINITIONS}?publish=true"), &unfit()).await.json();
    assert_eq!(report["problems"], refused["errors"]);

    let good = service.post(&validate, &definition("fine", &json!({}))).await.json();
    assert_eq!(good, json!({"valid": true, "problems": [], "methodCount": 1}));
    let yaml = post_yaml(&service, &validate, "id: x\nname: 5\n").await.json();
    assert_eq!((&yaml["valid"], &yaml["problems"][0]["pointer"]), (&json!(false), &json!("/name")));
    assert!(service.items(DEFINITIONS).await.is_empty());
}

#[tokio::test]
async fn a_number_that_hides_breaks_is_refused_with_their_list() {
    let service = TestService::start().await;
    let first =
        definition("pets", &json!({"paramSchema": {"type": "object", "properties": {"a": {"type": "string"}}}}));
    service.post(&format!("{DEFINITIONS}?publish=true"), &first).await;
    let mut breaking = with_version(&first, "1.1.0");
    breaking["methods"][0]["paramSchema"]["required"] = json!(["a"]);
    let versions = format!("{DEFINITIONS}/pets/versions");
    service.post(&versions, &breaking).await;
    let refused = service.post(&format!("{}/publish", version_path("pets", "1.1.0")), &json!({})).await;
    assert_problem(&refused, 409, "CONFLICT");
    let found = pointers(&refused);
    assert!(found.contains(&"/version".to_owned()), "{found:?}");
    assert!(found.iter().any(|pointer| pointer.starts_with("/methods/0/paramSchema")), "{found:?}");
    assert!(refused.json().to_string().contains("2.0.0"), "{}", refused.json());
    assert_eq!(service.get(&version_path("pets", "1.1.0")).await.json()["status"], "DRAFT");

    let honest = service.post(&format!("{versions}?publish=true"), &with_version(&breaking, "2.0.0")).await;
    assert_eq!(honest.status, 201, "{}", honest.json());

    let report = service.get(&format!("{DEFINITIONS}/pets/compare?from=1.0.0&to=1.1.0")).await.json();
    assert_eq!(
        (&report["honest"], &report["requiredBump"], &report["actualBump"]),
        (&json!(false), &json!("major"), &json!("minor"))
    );
    assert!(report["changes"].as_array().unwrap().iter().any(|change| change["kind"] == "breaking"));
    let report = service.get(&format!("{DEFINITIONS}/pets/compare?from=1.0.0&to=2.0.0")).await.json();
    assert_eq!((&report["honest"], &report["from"], &report["to"]), (&json!(true), &json!("1.0.0"), &json!("2.0.0")));
    let missing = service.get(&format!("{DEFINITIONS}/pets/compare?from=1.0.0&to=3.0.0")).await;
    assert_problem(&missing, 404, "DEFINITION_NOT_FOUND");
    let bad = service.get(&format!("{DEFINITIONS}/pets/compare?from=one&to=2.0.0")).await;
    assert_eq!(pointers(&bad), ["/query/from"]);
}

#[tokio::test]
async fn publishing_at_once_is_all_or_nothing() {
    let service = TestService::start().await;
    let first = definition("pets", &json!({}));
    service.post(&format!("{DEFINITIONS}?publish=true"), &first).await;
    let mut breaking = with_version(&first, "1.0.1");
    breaking["methods"][0]["name"] = json!("renamed");
    let refused = service.post(&format!("{DEFINITIONS}/pets/versions?publish=true"), &breaking).await;
    assert_problem(&refused, 409, "CONFLICT");
    assert_problem(&service.get(&version_path("pets", "1.0.1")).await, 404, "DEFINITION_NOT_FOUND");

    let built =
        service.post(&format!("{DEFINITIONS}/pets/versions?publish=true"), &with_version(&first, "1.0.0+build")).await;
    assert_problem(&built, 409, "CONFLICT");
    assert_eq!(pointers(&built), ["/version"], "a version that is no higher says so");
}

#[tokio::test]
async fn readers_get_the_version_they_most_likely_mean() {
    let service = TestService::start().await;
    let first = definition("pets", &json!({"description": "Calls"}));
    service.post(&format!("{DEFINITIONS}?publish=true"), &first).await;
    let versions = format!("{DEFINITIONS}/pets/versions");
    service.post(&format!("{versions}?publish=true"), &with_version(&first, "1.10.0")).await;
    service.post(&format!("{versions}?publish=true"), &with_version(&first, "1.9.0")).await;
    service.post(&versions, &with_version(&first, "2.0.0")).await;
    let listed: Vec<Value> = service.items(&versions).await.into_iter().map(|item| item["version"].clone()).collect();
    assert_eq!(listed, ["2.0.0", "1.10.0", "1.9.0", "1.0.0"]);
    for (path, version) in [
        (format!("{DEFINITIONS}/pets"), "1.10.0"),
        (format!("{DEFINITIONS}/pets?version=2.0.0"), "2.0.0"),
        (format!("{DEFINITIONS}/pets/methods"), "1.10.0"),
        (format!("{DEFINITIONS}/pets/schema?version=1.9.0"), "1.9.0"),
        ("/definitions/pets/schema".to_owned(), "1.10.0"),
    ] {
        assert_eq!(service.get(&path).await.json()["version"], version, "{path}");
    }
    let methods = service.get(&format!("{DEFINITIONS}/pets/methods")).await.json();
    assert_eq!((&methods["definitionId"], &methods["items"][0]["name"]), (&json!("pets"), &json!("call")));
    let schema = service.get("/definitions/pets/schema?method=call").await.json();
    assert_eq!(
        schema["methods"],
        json!({"call": {"description": "Calls", "paramSchema": {"type": "object"}, "resultSchema": {}}})
    );
    assert_eq!(schema["configSchema"], first["configSchema"]);
    assert_problem(&service.get("/definitions/pets/schema?method=none").await, 404, "METHOD_NOT_FOUND");
    assert_eq!(pointers(&service.get(&format!("{DEFINITIONS}/pets?version=x")).await), ["/query/version"]);
}

#[tokio::test]
async fn the_list_is_filtered_paged_and_sorted() {
    let service = TestService::start().await;
    for (id, auth_type, team, publish) in
        [("c-mail", "basic", "x", true), ("a-pets", "none", "x", true), ("b-crm", "none", "y,z", false)]
    {
        let mut document = definition(id, &json!({}));
        document["authType"] = json!(auth_type);
        document["labels"] = json!({"team": team});
        document["description"] = json!(format!("The {id} of 100%"));
        let created = service.post(&format!("{DEFINITIONS}?publish={publish}"), &document).await;
        assert_eq!(created.status, 201, "{}", created.json());
    }
    let ids = async |query: &str| -> Vec<String> {
        let items = service.items(&format!("{DEFINITIONS}?{query}")).await;
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("sort=id").await, ["a-pets", "b-crm", "c-mail"]);
    assert_eq!(ids("sort=-id").await, ["c-mail", "b-crm", "a-pets"]);
    assert_eq!(ids("sort=createdAt").await, ["c-mail", "a-pets", "b-crm"]);
    assert_eq!(ids("status=PUBLISHED&sort=id").await, ["a-pets", "c-mail"]);
    assert_eq!(ids("status=DRAFT").await, ["b-crm"]);
    assert_eq!(ids("authType=basic").await, ["c-mail"]);
    assert_eq!(ids("type=http&sort=id").await.len(), 3);
    assert_eq!(ids("type=soap").await.len(), 0);
    assert_eq!(ids("q=PETS").await, ["a-pets"]);
    assert_eq!(ids("q=100%25&sort=id").await.len(), 3, "a wildcard is a character");
    assert_eq!(ids("q=a%25s").await.len(), 0);
    assert_eq!(ids("label=team%3Dx&sort=id").await, ["a-pets", "c-mail"]);
    assert_eq!(ids("label=team%3Dx,other%3D1").await.len(), 0);
    assert_eq!(ids("limit=1&page=2&sort=id").await, ["b-crm"]);
    assert_eq!(ids("limit=1&page=9&sort=id").await.len(), 0);

    let page = service.get(&format!("{DEFINITIONS}?limit=2&sort=id")).await.json();
    assert_eq!(page["pagination"], json!({"page": 1, "limit": 2, "total": 3, "pages": 2}));
    let item = &page["items"][0];
    for name in ["id", "name", "description", "version", "type", "authType", "methodCount", "status", "updatedAt"] {
        assert!(item.get(name).is_some(), "{name} is not in {item}");
    }
    assert_eq!(item["methodCount"], 1);
    assert_eq!(item.get("methods"), None, "a list is light");

    for (query, pointer) in [
        ("limit=0", "/query/limit"),
        ("limit=201", "/query/limit"),
        ("page=0", "/query/page"),
        ("page=x", "/query/page"),
        ("sort=colour", "/query/sort"),
        ("status=GONE", "/query/status"),
        ("authType=magic", "/query/authType"),
        ("label=team", "/query/label"),
    ] {
        let answer = service.get(&format!("{DEFINITIONS}?{query}")).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [pointer], "{query}");
    }
}

#[tokio::test]
async fn a_client_secret_goes_in_and_never_comes_out() {
    const SECRET: &str = "client-secret-5f3a9c";
    let service = TestService::start().await;
    let mut document = definition("oauth", &json!({}));
    document["authType"] = json!("oauth2");
    document["oauth2Config"] =
        json!({"clientId": "client-id-1234", "clientSecret": SECRET, "tokenUrl": "https://id.example/token"});
    let created = service.post(DEFINITIONS, &document).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let path = version_path("oauth", "1.0.0");
    let mut edited = service.get(&path).await.json();
    edited["name"] = json!("edited");
    let mut answers = vec![created, service.with_body("PUT", &path, &edited).await];
    assert_eq!(answers[1].status, 200);
    answers.push(service.post(&format!("{path}/publish"), &json!({})).await);
    for path in
        [path.as_str(), DEFINITIONS, &format!("{DEFINITIONS}/oauth"), "/definitions/oauth/schema", "/api/v1/events"]
    {
        answers.push(service.get(path).await);
    }
    for answer in &answers {
        assert!(!String::from_utf8_lossy(&answer.body).contains(SECRET));
    }
    let stored = service.stored_bytes();
    assert!(crate::credentials::holds(&stored, "client-id-1234"), "the scan sees the rows");
    assert!(!crate::credentials::holds(&stored, SECRET));
    let kept = service
        .app
        .engine()
        .store()
        .definition_client_secret(&"oauth".parse().unwrap(), &"1.0.0".parse().unwrap())
        .await
        .unwrap()
        .expect("the secret outlives an edit without it");
    assert_eq!(secrecy::ExposeSecret::expose_secret(&kept), SECRET);
}

#[tokio::test]
async fn the_adapters_say_what_they_take() {
    let service = TestService::start().await;
    let adapters = service.items("/api/v1/adapters").await;
    let http = adapters.iter().find(|adapter| adapter["type"] == "http").unwrap();
    for name in ["version", "description", "authTypes", "operationSchema", "configSchema"] {
        assert!(http.get(name).is_some(), "{name}");
    }
    assert_eq!(service.send(get("/api/v1/adapters").header("x-tenant-id", "a"), "").await.status, 200);
}
