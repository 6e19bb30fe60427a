//! API keys: made once, known by a prefix, refused as soon as they are revoked.

use std::time::Duration;

use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::access::{as_key, key};
use crate::client::{assert_problem, get, pointers, send};
use crate::keys::{command, run};
use crate::service::{TestService, definition};

const KEYS: &str = "/api/v1/api-keys";

async fn status_as(service: &TestService, key: &str, path: &str) -> u16 {
    as_key(service, key, &Method::GET, path, &json!({})).await.status
}

/// Waits until a key is refused, which another process saw to.
async fn until_refused(service: &TestService, key: &str, path: &str) {
    let refused = async {
        let mut glances = tokio::time::interval(Duration::from_millis(50));
        while status_as(service, key, path).await != 401 {
            glances.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the key is refused in the end");
}

#[tokio::test]
async fn a_key_is_told_once_and_never_stored() {
    let service = TestService::start().await;
    let new = json!({
        "name": "invoices", "roles": ["operator", "monitor"], "tenantId": "acme",
        "grants": [{"instance": "crm", "methods": ["getPet"]}], "expiresAt": "2999-01-31T10:30:00Z",
    });
    let created = service.post(KEYS, &new).await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.header("cache-control"), "no-store");
    let mut known = created.json();
    let key = known.as_object_mut().unwrap().remove("key").unwrap();
    let key = key.as_str().unwrap();
    assert_eq!((key.len(), &key[..12]), (47, known["prefix"].as_str().unwrap()));
    assert_eq!(known["expiresAt"], "2999-01-31T10:30:00.000Z");
    for name in ["name", "grants", "tenantId"] {
        assert_eq!(known[name], new[name], "{name}");
    }
    assert_eq!((&known["roles"], &known["createdBy"]), (&json!(["operator", "monitor"]), &json!("api-key:admin")));
    assert_eq!(service.get(created.header("location")).await.json(), known);
    assert_eq!(service.items(KEYS).await, [known.clone()]);
    let stored = service.stored_bytes();
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(known["prefix"].as_str().unwrap()) && !holds(&key[12..]), "a digest is stored, not the key");

    let instances = "/api/v1/integration-instances";
    let mine = as_key(&service, key, &Method::GET, instances, &json!({})).await;
    assert_eq!((mine.status, &mine.json()["items"]), (200, &json!([])));
    let used = service.get(created.header("location")).await.json();
    assert!(used["lastUsedAt"].is_string(), "{used}");
    let location = created.header("location").to_owned();
    let service = service.restart(&[], &[]).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(service.get(&location).await.json()["lastUsedAt"], used["lastUsedAt"], "it is stored in the end");
    assert_eq!(status_as(&service, key, instances).await, 200, "keys outlive the process");
}

#[tokio::test]
async fn a_key_that_gives_nothing_or_does_not_fit_is_not_made() {
    let service = TestService::start().await;
    for (new, faults) in [
        (json!({"name": "x"}), vec!["/roles"]),
        (json!({"name": "", "roles": ["admin"]}), vec!["/name"]),
        (json!({"name": "x", "roles": ["king"]}), vec!["/roles/0"]),
        (json!({"name": "x", "roles": ["admin"], "expiresAt": "2020-01-01T00:00:00Z"}), vec!["/expiresAt"]),
        (
            json!({"name": "x", "grants": [{"instance": "a b", "methods": ["*"]}]}),
            vec!["/grants/0/instance", "/grants/0/methods/0"],
        ),
        (json!({"name": "x", "roles": ["admin"], "key": "isk_mine"}), vec!["/key"]),
    ] {
        let refused = service.post(KEYS, &new).await;
        assert_problem(&refused, 400, "VALIDATION_ERROR");
        assert_eq!(pointers(&refused), faults, "{}", refused.json());
    }
    assert!(service.items(KEYS).await.is_empty());
    assert_problem(&service.get(&format!("{KEYS}/x")).await, 404, "NOT_FOUND");
    assert_problem(&service.delete(&format!("{KEYS}/x")).await, 404, "NOT_FOUND");
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_on_every_way_in() {
    let service = TestService::start().await;
    service.instance_of(&definition("pets", &json!({})), "pets").await;
    let key = key(&service, &json!({"roles": ["executor", "auditor"]})).await;
    let params = json!({"params": {}});
    let call = || as_key(&service, &key, &Method::POST, "/execute/pets/call", &params);
    assert_eq!(call().await.status, 200);

    let stream = tokio::net::TcpStream::connect(service.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = get("/api/v1/events/stream").header("x-api-key", &key).body(Full::<bytes::Bytes>::default()).unwrap();
    let mut events = sender.send_request(request).await.unwrap();
    assert_eq!(events.status(), 200);

    let id = service.items(KEYS).await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(service.delete(&format!("{KEYS}/{id}")).await.status, 204);
    assert_eq!(call().await.status, 401);
    assert_eq!(status_as(&service, &key, "/docs").await, 401);
    // What is committed from now on is not told.
    service.execute("pets", "call", &json!({})).await;
    let told = async {
        let mut told = String::new();
        while let Some(Ok(frame)) = events.frame().await {
            told.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
        }
        told
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.expect("the stream ends");
    assert!(!told.contains("integration.method.executed"), "{told}");

    assert_eq!(service.delete(&format!("{KEYS}/{id}")).await.status, 204, "it is revoked already");
    let revoked = service.items(KEYS).await;
    assert!(revoked[0]["revokedAt"].is_string(), "what is known of it stays");
    let audit = service.items("/api/v1/audit?action=api_key.created,api_key.revoked").await;
    let told: Vec<_> = audit.iter().map(|entry| (&entry["action"], &entry["details"]["apiKeyId"])).collect();
    assert_eq!(told, [(&json!("api_key.revoked"), &json!(id)), (&json!("api_key.created"), &json!(id))]);
    assert!(!Value::from(audit.clone()).to_string().contains(&key[12..]));
}

#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let service = TestService::start().await;
    let admin = key(&service, &json!({"roles": ["admin"], "tenantId": "acme"})).await;
    let post = |body: Value| {
        let (service, admin) = (&service, &admin);
        async move { as_key(service, admin, &Method::POST, KEYS, &body).await }
    };
    let elsewhere = post(json!({"name": "x", "roles": ["admin"], "tenantId": "other"})).await;
    assert_problem(&elsewhere, 403, "FORBIDDEN");
    let own = post(json!({"name": "x", "roles": ["admin"]})).await;
    assert_eq!((own.status, &own.json()["tenantId"]), (201, &json!("acme")), "no key for all tenants");
    // The admin of all tenants may act for one.
    let bound = service.send_as("other", "POST", KEYS, &json!({"name": "x", "roles": ["monitor"]})).await;
    assert_eq!((bound.status, &bound.json()["tenantId"]), (201, &json!("other")));
    let other = format!("{KEYS}/{}", bound.json()["id"].as_str().unwrap());
    assert_problem(&as_key(&service, &admin, &Method::GET, &other, &json!({})).await, 404, "NOT_FOUND");
    assert_problem(&as_key(&service, &admin, &Method::DELETE, &other, &json!({})).await, 404, "NOT_FOUND");
    let seen = as_key(&service, &admin, &Method::GET, KEYS, &json!({})).await.json();
    assert_eq!(seen["pagination"]["total"], 2);
    assert!(seen["items"].as_array().unwrap().iter().all(|key| key["tenantId"] == "acme"), "{seen}");
}

#[tokio::test]
async fn trying_out_keys_is_slowed_and_locks_nobody_out() {
    let settings = [("integration_service.yaml", "access: { failedAttemptsPerMinute: 3 }")];
    let service = TestService::start_configured(&settings, &[]).await;
    let attempt = |path: &'static str, key: &'static str| {
        send(service.address(), http::Request::post(path).header("host", "test").header("x-api-key", key), "{}")
    };
    for _ in 0..20 {
        assert_eq!(send(service.address(), get("/docs"), "").await.status, 401, "who sends no key tries none");
    }
    for path in ["/integrations", "/execute/a/b", "/nowhere"] {
        assert_problem(&attempt(path, "isk_guess").await, 401, "UNAUTHENTICATED");
    }
    for path in ["/integrations", "/execute/a/b", "/nowhere"] {
        let limited = attempt(path, "isk_another-guess").await;
        assert_problem(&limited, 429, "RATE_LIMIT_EXCEEDED");
        let wait: u64 = limited.header("retry-after").parse().unwrap();
        assert!((1..=20).contains(&wait), "{wait}");
    }
    assert_eq!(service.get("/docs").await.status, 200, "a valid key is taken all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_command_line_are_known_to_a_running_service() {
    let service = TestService::start().await;
    let folder = service.folder.path().to_owned();
    let arguments =
        ["api-keys", "create", "ci", "--role", "monitor,auditor", "--grant", "crm:getPet", "--tenant", "acme"];
    let key = run(&mut command(&folder, &arguments)).trim().to_owned();
    let until_known = async {
        let mut glances = tokio::time::interval(Duration::from_millis(50));
        while status_as(&service, &key, "/docs").await != 200 {
            glances.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until_known).await.expect("the key is known in the end");
    assert_eq!(status_as(&service, &key, "/api/v1/audit").await, 200);
    assert_eq!(status_as(&service, &key, "/integrations").await, 403);

    let prefix = &key[..12];
    let list = run(&mut command(&folder, &["api-keys", "list"]));
    assert!(list.contains(prefix) && list.contains("auditor,monitor,crm:getPet  acme  ci"), "{list}");
    assert!(!list.contains(&key));
    assert_eq!(run(&mut command(&folder, &["api-keys", "list", "--tenant", "other"])), "");
    run(&mut command(&folder, &["api-keys", "revoke", prefix]));
    until_refused(&service, &key, "/docs").await;
    assert!(run(&mut command(&folder, &["api-keys", "list"])).contains("revoked"));
    let id = list.split_whitespace().next().unwrap();
    let again = command(&folder, &["api-keys", "revoke", id]).output().unwrap();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("was revoked before"));
    let faulty = command(&folder, &["api-keys", "create", "x", "--role", "king"]).output().unwrap();
    assert_eq!(faulty.status.code(), Some(2));
    let audit = service.items("/api/v1/audit?principal=command-line").await;
    assert_eq!(audit.len(), 2, "{audit:?}");
}
