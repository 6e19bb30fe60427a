//! Instances through their endpoints: the status machine, changes, upgrades, what a deletion
//! leaves behind.

use serde_json::{Value, json};

use crate::client::{Answer, assert_problem, pointers};
use crate::service::{TestService, definition, json_request, json_response};

const INSTANCES: &str = "/api/v1/integration-instances";

pub(crate) fn path(id: &str) -> String {
    format!("{INSTANCES}/{id}")
}

pub(crate) async fn publish(service: &TestService, definition: &Value) {
    let known = service.get(&format!("/api/v1/integration-definitions/{}", definition["id"].as_str().unwrap())).await;
    let path = match known.status {
        200 => format!("/api/v1/integration-definitions/{}/versions?publish=true", definition["id"].as_str().unwrap()),
        _ => "/api/v1/integration-definitions?publish=true".to_owned(),
    };
    let created = service.post(&path, definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
}

/// A service with `pets`, a definition of this auth type.
pub(crate) async fn with_pets(auth_type: &str) -> TestService {
    let service = TestService::start().await;
    let mut document = definition("pets", &json!({}));
    document["authType"] = json!(auth_type);
    publish(&service, &document).await;
    service
}

pub(crate) async fn create(service: &TestService, id: &str) -> Answer {
    let config = json!({"baseUrl": service.upstream.url()});
    service.post(INSTANCES, &json!({"id": id, "integrationDefinitionId": "pets", "name": id, "config": config})).await
}

pub(crate) async fn patch(service: &TestService, id: &str, change: &Value) -> Answer {
    service.with_body("PATCH", &path(id), change).await
}

pub(crate) async fn with_if_match(service: &TestService, verb: &str, path: &str, etag: &str, body: &Value) -> Answer {
    service.send(json_request(verb, path).header("if-match", etag), &body.to_string()).await
}

#[tokio::test]
async fn an_instance_is_made_with_an_id_an_etag_and_a_place() {
    let service = with_pets("none").await;
    let created = create(&service, "mine").await;
    assert_eq!(
        (created.status, created.header("etag"), created.header("location")),
        (201, "\"1\"", path("mine").as_str())
    );
    let body = created.json();
    assert_eq!(
        (&body["status"], &body["definitionVersion"], &body["tenantId"], &body["version"], &body["labels"]),
        (&json!("CONNECTED"), &json!("1.0.0"), &json!("default"), &json!(1), &json!({}))
    );
    assert!(body["lastConnectedAt"].is_string() && body.get("error").is_none() && body.get("lastUsedAt").is_none());
    let read = service.get(&path("mine")).await;
    assert_eq!((read.json(), read.header("etag")), (body, "\"1\""));
    assert_problem(&create(&service, "mine").await, 409, "ALREADY_EXISTS");

    let unnamed = service.post(INSTANCES, &json!({"integrationDefinitionId": "pets", "name": "unnamed"})).await;
    let id = unnamed.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_with_the_place() {
    let service = with_pets("none").await;
    let good = json!({"integrationDefinitionId": "pets", "name": "x"});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, pointer) in [
        (with("id", json!("a/b")), "/id"),
        (with("name", json!(" ")), "/name"),
        (with("name", json!("x".repeat(201))), "/name"),
        (with("config", json!([])), "/config"),
        (with("labels", json!({"a": 1})), "/labels/a"),
        (with("labels", json!({"": "x"})), "/labels/"),
        (with("tenantId", json!("")), "/tenantId"),
        (with("definitionVersion", json!("one")), "/definitionVersion"),
        (with("colour", json!("red")), "/colour"),
    ] {
        let answer = service.post(INSTANCES, &body).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [pointer], "{}", answer.json());
    }
    assert_problem(
        &service.post(INSTANCES, &with("integrationDefinitionId", json!("gone"))).await,
        404,
        "DEFINITION_NOT_FOUND",
    );
    assert_problem(
        &service.post(INSTANCES, &with("definitionVersion", json!("9.0.0"))).await,
        404,
        "DEFINITION_NOT_FOUND",
    );
    service.post("/api/v1/integration-definitions", &definition("draft", &json!({}))).await;
    assert_problem(&service.post(INSTANCES, &with("integrationDefinitionId", json!("draft"))).await, 409, "CONFLICT");
    for id in ["gone", "a%20b", &"x".repeat(65)] {
        assert_problem(&service.get(&path(id)).await, 404, "INSTANCE_NOT_FOUND");
    }
}

#[tokio::test]
async fn the_status_follows_config_and_credential() {
    let service = with_pets("api_key").await;
    let created = service.post(INSTANCES, &json!({"id": "mine", "integrationDefinitionId": "pets", "name": "x"})).await;
    let body = created.json();
    assert_eq!((created.status, &body["status"]), (201, &json!("PENDING_CONFIGURATION")), "{body}");
    assert_eq!(body["error"]["code"], "VALIDATION_ERROR");
    assert_eq!(body["error"]["details"]["errors"][0]["pointer"], "/config");

    let credentials = format!("{}/credentials", path("mine"));
    let credential = json!({"type": "api_key", "data": {"key": "k"}});
    let url = json!(service.upstream.url());
    let good = json!({"config": {"baseUrl": url}});
    let status = async || service.get(&path("mine")).await.json()["status"].as_str().unwrap().to_owned();
    let code = async || service.execute("mine", "call", &json!({})).await.json()["error"]["code"].clone();

    assert_eq!(code().await, "INSTANCE_NOT_READY");
    assert_eq!(patch(&service, "mine", &good).await.json()["status"], "PENDING_AUTHENTICATION");
    assert_eq!(code().await, "INSTANCE_NOT_READY");
    service.post(&credentials, &credential).await;
    assert_eq!(status().await, "CONNECTED");
    assert_eq!(code().await, Value::Null);

    assert_eq!(patch(&service, "mine", &json!({"config": {"baseUrl": 5}})).await.json()["status"], "CONFIG_ERROR");
    assert_eq!(code().await, "INSTANCE_NOT_READY");
    service.post(&credentials, &credential).await;
    assert_eq!(status().await, "CONFIG_ERROR", "a credential mends no config");
    assert_eq!(
        patch(&service, "mine", &json!({"config": {"baseUrl": "not a URL"}})).await.json()["status"],
        "CONFIG_ERROR"
    );
    let mended = patch(&service, "mine", &good).await.json();
    assert_eq!((&mended["status"], mended.get("error")), (&json!("CONNECTED"), None));

    let disconnected = service.post(&format!("{}/disconnect", path("mine")), &json!({})).await.json();
    assert_eq!(
        (&disconnected["status"], &disconnected["error"]["code"]),
        (&json!("DISCONNECTED"), &json!("DISCONNECTED"))
    );
    assert_eq!(code().await, "INSTANCE_NOT_READY");
    assert_eq!(
        patch(&service, "mine", &good).await.json()["status"],
        "DISCONNECTED",
        "a config says nothing against a person"
    );
    assert_eq!(service.post(&format!("{}/connect", path("mine")), &json!({})).await.json()["status"], "CONNECTED");

    assert_eq!(service.delete(&credentials).await.status, 204);
    assert_eq!(status().await, "DISCONNECTED");
    assert_eq!(
        service.post(&format!("{}/connect", path("mine")), &json!({})).await.json()["status"],
        "PENDING_AUTHENTICATION"
    );
    service.post(&credentials, &credential).await;
    assert_eq!(status().await, "CONNECTED");

    let moves: Vec<(Value, Value)> = service
        .items("/api/v1/events?type=integration.instance.status&instance=mine&limit=100")
        .await
        .into_iter()
        .rev()
        .map(|event| (event["data"]["previousStatus"].clone(), event["data"]["currentStatus"].clone()))
        .collect();
    let mut expected = vec![(Value::Null, json!("PENDING_CONFIGURATION"))];
    for status in [
        "PENDING_AUTHENTICATION",
        "CONNECTED",
        "CONFIG_ERROR",
        "CONNECTED",
        "DISCONNECTED",
        "CONNECTED",
        "DISCONNECTED",
        "PENDING_AUTHENTICATION",
        "CONNECTED",
    ] {
        expected.push((expected.last().unwrap().1.clone(), json!(status)));
    }
    assert_eq!(moves, expected);
    let connected = service.items("/api/v1/events?type=integration.connected&instance=mine").await;
    assert_eq!(connected.len(), 4);
}

#[tokio::test]
async fn put_replaces_and_patch_merges() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    let url = json!(service.upstream.url());
    let change = json!({"config": {"baseUrl": url, "a": {"x": 1, "y": 2}}, "labels": {"team": "x", "env": "prod"}});
    let put = service.with_body("PUT", &path("mine"), &change).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"2\""));
    assert_eq!(
        (&put.json()["config"], &put.json()["labels"], &put.json()["name"]),
        (&change["config"], &change["labels"], &json!("mine"))
    );

    let patched =
        patch(&service, "mine", &json!({"config": {"a": {"y": null, "z": 3}}, "labels": {"env": null, "tier": "1"}}))
            .await;
    assert_eq!(patched.json()["config"], json!({"baseUrl": url, "a": {"x": 1, "z": 3}}));
    assert_eq!(patched.json()["labels"], json!({"team": "x", "tier": "1"}));
    let merge = json_request("PATCH", &path("mine"));
    let merge = merge.header("x-unused", "1");
    assert_eq!(service.send(merge, "{\"name\":\"renamed\"}").await.json()["name"], "renamed");
    let typed = http::Request::patch(path("mine"))
        .header("host", "test")
        .header("content-type", "application/merge-patch+json");
    assert_eq!(service.send(typed, "{\"name\":\"again\"}").await.json()["name"], "again");

    let put = service.with_body("PUT", &path("mine"), &json!({"labels": {"only": "this"}})).await;
    assert_eq!(
        (&put.json()["labels"], &put.json()["config"]["a"]),
        (&json!({"only": "this"}), &json!({"x": 1, "z": 3}))
    );
    let put = service.with_body("PUT", &path("mine"), &json!({"config": {"baseUrl": url}})).await;
    assert_eq!(put.json()["config"], json!({"baseUrl": url}));

    for (change, pointer) in [
        (json!({"colour": 1}), "/colour"),
        (json!({"name": ""}), "/name"),
        (json!({"name": 5}), "/name"),
        (json!({"labels": {"a": 5}}), "/labels/a"),
        (json!([]), ""),
    ] {
        let answer = patch(&service, "mine", &change).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [pointer], "{}", answer.json());
    }
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (format!("l{n}"), json!("x"))).collect();
    assert_eq!(pointers(&patch(&service, "mine", &json!({ "labels": many })).await), ["/labels"]);
}

#[tokio::test]
async fn an_instance_that_was_read_can_be_edited_and_sent_back() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    service.execute("mine", "call", &json!({})).await;
    let mut document = service.get(&path("mine")).await.json();
    document["name"] = json!("renamed");
    document["status"] = json!("DISCONNECTED");
    for verb in ["PUT", "PATCH"] {
        let answer = service.with_body(verb, &path("mine"), &document).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!((&answer.json()["name"], &answer.json()["status"]), (&json!("renamed"), &json!("CONNECTED")));
    }
    for (name, value) in
        [("id", "other"), ("tenantId", "other"), ("integrationDefinitionId", "other"), ("definitionVersion", "2.0.0")]
    {
        let mut moved = document.clone();
        moved[name] = json!(value);
        let answer = service.with_body("PUT", &path("mine"), &moved).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), [format!("/{name}")]);
    }
}

#[tokio::test]
async fn a_change_from_an_outdated_version_is_refused() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    let url = path("mine");
    let first = with_if_match(&service, "PATCH", &url, "\"1\"", &json!({"name": "a"})).await;
    assert_eq!((first.status, first.header("etag")), (200, "\"2\""));
    for (verb, path) in [
        ("PATCH", url.clone()),
        ("PUT", url.clone()),
        ("DELETE", url.clone()),
        ("POST", format!("{url}/connect")),
        ("POST", format!("{url}/disconnect")),
        ("POST", format!("{url}/upgrade")),
        ("PUT", "/integrations/mine".to_owned()),
        ("DELETE", "/integrations/mine".to_owned()),
    ] {
        let answer = with_if_match(&service, verb, &path, "\"1\"", &json!({})).await;
        assert_problem(&answer, 412, "PRECONDITION_FAILED");
    }
    for bad in ["one", "\"x\"", "\"\"", "W/\"3\""] {
        let answer = with_if_match(&service, "PATCH", &url, bad, &json!({})).await;
        assert_problem(&answer, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&answer), ["/headers/if-match"]);
    }
    assert_eq!(with_if_match(&service, "PATCH", &url, "*", &json!({"name": "b"})).await.status, 200);
    assert_eq!(with_if_match(&service, "DELETE", &url, "\"3\"", &json!({})).await.status, 204);
}

/// `pets` in a version with these methods and required config.
fn pets(version: &str, methods: &[&str], required: &Value) -> Value {
    let mut document = definition("pets", &json!({}));
    let method = document["methods"][0].clone();
    document["version"] = json!(version);
    document["configSchema"]["required"] = required.clone();
    document["methods"] = methods
        .iter()
        .map(|name| {
            let mut method = method.clone();
            method["name"] = json!(name);
            method
        })
        .collect();
    document
}

#[tokio::test]
async fn an_upgrade_tells_what_it_breaks_before_it_does() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    publish(&service, &pets("1.1.0", &["call", "other"], &json!(["baseUrl"]))).await;
    publish(&service, &pets("2.0.0", &["other"], &json!(["baseUrl", "region"]))).await;
    let upgrade = format!("{}/upgrade", path("mine"));

    assert_eq!(service.execute("mine", "other", &json!({})).await.status, 404);
    let refused = service.post(&upgrade, &json!({})).await;
    assert_problem(&refused, 409, "CONFLICT");
    let found = pointers(&refused);
    assert!(found.contains(&"/methods/0".to_owned()) && found.contains(&"/config".to_owned()), "{found:?}");

    let dry = service.post(&upgrade, &json!({"dryRun": true})).await;
    let report = dry.json();
    assert_eq!(
        (dry.status, &report["applied"], &report["from"], &report["to"]),
        (200, &json!(false), &json!("1.0.0"), &json!("2.0.0"))
    );
    assert_eq!(report["compatibility"]["requiredBump"], "major");
    assert_eq!(report["configProblems"][0]["pointer"], "/config");
    assert_eq!(service.get(&path("mine")).await.json()["definitionVersion"], "1.0.0");

    let applied = service.post(&upgrade, &json!({"definitionVersion": "1.1.0"})).await.json();
    assert_eq!(
        (&applied["applied"], &applied["instance"]["definitionVersion"], &applied["instance"]["status"]),
        (&json!(true), &json!("1.1.0"), &json!("CONNECTED"))
    );
    assert_eq!(service.execute("mine", "other", &json!({})).await.status, 200);

    let forced = service.post(&upgrade, &json!({"acceptBreaking": true})).await.json();
    assert_eq!(
        (&forced["instance"]["definitionVersion"], &forced["instance"]["status"]),
        (&json!("2.0.0"), &json!("CONFIG_ERROR"))
    );
    let mended = patch(&service, "mine", &json!({"config": {"region": "eu"}})).await;
    assert_eq!(mended.json()["status"], "CONNECTED");

    assert_problem(&service.post(&upgrade, &json!({"definitionVersion": "9.0.0"})).await, 404, "DEFINITION_NOT_FOUND");
    service
        .post("/api/v1/integration-definitions/pets/versions", &pets("2.1.0", &["other"], &json!(["baseUrl"])))
        .await;
    assert_problem(&service.post(&upgrade, &json!({"definitionVersion": "2.1.0"})).await, 409, "CONFLICT");
    assert_eq!(pointers(&service.post(&upgrade, &json!({"definitionVersion": "x"})).await), ["/definitionVersion"]);
}

#[tokio::test]
async fn a_version_executes_until_it_is_archived() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    let version = "/api/v1/integration-definitions/pets/versions/1.0.0";
    service.post(&format!("{version}/deprecate"), &json!({})).await;
    assert_eq!(service.execute("mine", "call", &json!({})).await.status, 200);
    assert_problem(&create(&service, "another").await, 409, "CONFLICT");
    service.post(&format!("{version}/archive"), &json!({})).await;
    let refused = service.execute("mine", "call", &json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("INSTANCE_NOT_READY")));
}

#[tokio::test]
async fn the_list_is_filtered_paged_and_sorted() {
    let service = with_pets("none").await;
    publish(&service, &definition("mail", &json!({}))).await;
    create(&service, "c").await;
    create(&service, "a").await;
    service
        .post(
            INSTANCES,
            &json!({"id": "b", "integrationDefinitionId": "mail", "name": "Post 100%", "labels": {"team": "x"}}),
        )
        .await;
    for face in [INSTANCES, "/integrations"] {
        let ids = async |query: &str| -> Vec<String> {
            let items = service.items(&format!("{face}?{query}")).await;
            items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("sort=id").await, ["a", "b", "c"]);
        assert_eq!(ids("sort=-id").await, ["c", "b", "a"]);
        assert_eq!(ids("sort=createdAt").await, ["c", "a", "b"]);
        assert_eq!(ids("status=PENDING_CONFIGURATION").await, ["b"]);
        assert_eq!(ids("integrationDefinitionId=pets&sort=id").await, ["a", "c"]);
        assert_eq!(ids("label=team%3Dx").await, ["b"]);
        assert_eq!(ids("q=100%25").await, ["b"]);
        assert_eq!(ids("limit=1&page=2&sort=id").await, ["b"]);
        let page = service.get(&format!("{face}?limit=2")).await.json();
        assert_eq!(page["pagination"], json!({"page": 1, "limit": 2, "total": 3, "pages": 2}));
        for (query, pointer) in [
            ("status=GONE", "/query/status"),
            ("integrationDefinitionId=a/b", "/query/integrationDefinitionId"),
            ("limit=x", "/query/limit"),
        ] {
            assert_eq!(pointers(&service.get(&format!("{face}?{query}")).await), [pointer]);
        }
    }
}

#[tokio::test]
async fn a_deleted_instance_leaves_nothing_for_the_next_of_its_id() {
    let service = TestService::start().await;
    let mut document = definition("pets", &json!({"cache": {"ttlMs": 600_000}, "idempotent": true}));
    document["authType"] = json!("api_key");
    publish(&service, &document).await;
    create(&service, "mine").await;
    let credentials = format!("{}/credentials", path("mine"));
    let credential = json!({"type": "api_key", "data": {"key": "k"}});
    service.post(&credentials, &credential).await;
    for cached in [false, true] {
        assert_eq!(service.execute("mine", "call", &json!({})).await.json()["meta"]["cached"], cached);
    }
    let key = json_request("POST", "/execute/mine/call").header("idempotency-key", "once");
    assert_eq!(service.send(key, "{\"params\":{\"a\":1}}").await.status, 200);
    assert_eq!(service.delete(&path("mine")).await.status, 204);
    assert_problem(&service.delete(&path("mine")).await, 404, "INSTANCE_NOT_FOUND");
    assert_eq!(service.execute("mine", "call", &json!({})).await.status, 404);
    assert!(!service.items("/api/v1/executions?instance=mine").await.is_empty(), "the log stays");

    let again = create(&service, "mine").await.json();
    assert_eq!((&again["status"], &again["version"]), (&json!("PENDING_AUTHENTICATION"), &json!(1)));
    assert_eq!(service.get(&format!("{credentials}/status")).await.json()["status"], "missing");
    service.post(&credentials, &credential).await;
    let calls = service.upstream.received().len();
    assert_eq!(service.execute("mine", "call", &json!({})).await.json()["meta"]["cached"], false);
    let key = json_request("POST", "/execute/mine/call").header("idempotency-key", "once");
    let answer = service.send(key, "{\"params\":{\"a\":2}}").await;
    assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, ""));
    assert_eq!(service.upstream.received().len(), calls + 2);
}

#[tokio::test]
async fn a_deletion_ends_what_waits_for_the_instance() {
    let service = with_pets("none").await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({"baseUrl": format!("http://{}", silent.local_addr().unwrap())});
    service
        .post(INSTANCES, &json!({"id": "mine", "integrationDefinitionId": "pets", "name": "x", "config": config}))
        .await;
    let queue = json_request("POST", "/execute/mine/call").header("prefer", "respond-async");
    let queued = service.send(queue, "{}").await;
    assert_eq!(queued.status, 202);
    assert_eq!(service.delete(&path("mine")).await.status, 204);
    let ended = service.get(queued.header("location")).await.json();
    assert_eq!(ended["status"], "ERROR", "{ended}");
    assert!(["CANCELLED", "INTERRUPTED"].contains(&ended["error"]["code"].as_str().unwrap()), "{ended}");
}

#[tokio::test]
async fn a_changed_config_forgets_what_was_answered_before() {
    let service = TestService::start().await;
    publish(&service, &definition("pets", &json!({"cache": {"ttlMs": 600_000}}))).await;
    create(&service, "mine").await;
    for (label, cached) in [("a", false), ("b", true)] {
        patch(&service, "mine", &json!({"labels": {"l": label}})).await;
        let answer = service.execute("mine", "call", &json!({})).await.json();
        assert_eq!(answer["meta"]["cached"], cached, "labels have no part in answers");
    }
    patch(&service, "mine", &json!({"config": {"baseUrl": format!("{}/v2", service.upstream.url())}})).await;
    assert_eq!(service.execute("mine", "call", &json!({})).await.json()["meta"]["cached"], false);
    assert_eq!(service.upstream.received().pop().unwrap().path_and_query, "/v2/thing");
}

#[tokio::test]
async fn an_instance_tells_when_it_was_used() {
    let service = with_pets("none").await;
    create(&service, "mine").await;
    service.upstream.then(json_response(200, &json!({})));
    service.execute("mine", "call", &json!({})).await;
    let instance = service.get(&path("mine")).await.json();
    assert!(instance["lastUsedAt"].is_string(), "{instance}");
    assert_eq!(instance["version"], 1, "use is no change");
}
