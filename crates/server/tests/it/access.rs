//! Who may do what: every route of the table as every role, as nobody, with grants alone and as
//! another tenant; and what is told of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::response::Parts;
use integration_model::principal::Role;
use integration_service::access::matrix;
use integration_service::access::table::{Allowed, GrantScope, Rule, TABLE};
use integration_service::router::describe;
use serde_json::{Value, json};

use crate::client::{Answer, head_of, send};
use crate::service::{TestService, definition};

/// A key with these fields.
pub(crate) async fn key(service: &TestService, fields: &Value) -> String {
    let mut new = json!({"name": "test"});
    new.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let created = service.post("/api/v1/api-keys", &new).await;
    assert_eq!(created.status, 201, "{}", created.json());
    created.json()["key"].as_str().unwrap().to_owned()
}

fn request(verb: &Method, path: &str) -> http::request::Builder {
    http::Request::builder().method(verb).uri(path).header("host", "test").header("content-type", "application/json")
}

pub(crate) async fn as_key(service: &TestService, key: &str, verb: &Method, path: &str, body: &Value) -> Answer {
    let request = request(verb, path).header("authorization", format!("Bearer {key}"));
    send(service.address(), request, &body.to_string()).await
}

/// The head of an answer whose body may not end; nothing that exists is touched.
async fn try_route(service: &TestService, credential: Option<&str>, verb: &Method, template: &str) -> Parts {
    let mut request = request(verb, &filled(template, "nowhere", "call", "nowhere"));
    if let Some(credential) = credential {
        request = request.header("authorization", credential);
    }
    head_of(service.address(), request, "{}").await
}

/// Whether the guard asks who comes. A webhook's 401 is about its signature.
fn asks_who_comes(head: &Parts) -> bool {
    let challenge = head.headers.get("www-authenticate");
    head.status == 401 && challenge.is_none_or(|challenge| !challenge.as_bytes().starts_with(b"Signature"))
}

/// A path with ids in the place of its parameters.
fn filled(template: &str, resource: &str, method: &str, execution: &str) -> String {
    let id = if template.starts_with("/api/v1/executions/") { execution } else { resource };
    template
        .replace("{id}", id)
        .replace("{integrationId}", id)
        .replace("{method}", method)
        .replace("{version}", "1.0.0")
        .replace("{code}", "FORBIDDEN")
}

fn allows(rule: &Rule, role: Role) -> bool {
    match rule.allowed {
        Allowed::Anyone | Allowed::Authenticated => true,
        Allowed::Roles(roles) => roles.contains(role),
    }
}

#[tokio::test]
async fn every_route_lets_in_exactly_the_roles_of_the_table() {
    let service = TestService::start().await;
    for role in Role::ALL {
        for tenant in [None, Some("acme")] {
            let key = key(&service, &json!({"roles": [role], "tenantId": tenant})).await;
            let credential = format!("Bearer {key}");
            for (verb, template, rule) in TABLE {
                let head = try_route(&service, Some(&credential), verb, template).await;
                let status = head.status.as_u16();
                let expected = allows(rule, *role) && !(rule.unbound && tenant.is_some());
                assert!(!asks_who_comes(&head), "{verb} {template} as {role:?} of {tenant:?}");
                assert_eq!(status != 403, expected, "{verb} {template} as {role:?} of {tenant:?}: {status}");
                assert!(status < 500, "{verb} {template} as {role:?}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn every_route_asks_who_comes_as_the_table_says() {
    // Nobody is told to wait here.
    let settings = [("integration_service.yaml", "access: { failedAttemptsPerMinute: 100000 }")];
    let service = TestService::start_configured(&settings, &[]).await;
    let key = key(&service, &json!({"roles": ["admin"]})).await;
    let password = format!("Basic {}", STANDARD.encode(format!("anybody:{key}")));
    for (verb, template, rule) in TABLE {
        let open = rule.allowed == Allowed::Anyone;
        for credential in [None, Some("Bearer isk_unknown"), Some("Basic Og=="), Some("Negotiate x")] {
            let head = try_route(&service, credential, verb, template).await;
            assert_eq!(asks_who_comes(&head), !open, "{verb} {template} with {credential:?}: {head:?}");
        }
        let head = try_route(&service, Some(&password), verb, template).await;
        assert_eq!(asks_who_comes(&head), !open && !rule.basic, "{verb} {template} with a password: {head:?}");
    }
    let elsewhere = request(&Method::GET, "/api/v1/nothing");
    let head = head_of(service.address(), elsewhere, "").await;
    assert!(asks_who_comes(&head), "strangers do not learn what there is: {head:?}");
}

#[tokio::test]
async fn the_table_has_every_route_and_no_other() {
    let service = TestService::start().await;
    let document = serde_json::to_value(describe()).unwrap();
    let described: Vec<(String, &str)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |verb| (verb.to_uppercase(), path.as_str())))
        .collect();
    for (verb, path) in &described {
        assert!(
            TABLE.iter().any(|(known, template, _)| known == verb.as_str() && template == path),
            "nobody said who may call {verb} {path}: a line in access/table.rs is missing"
        );
    }
    for (verb, template, rule) in TABLE {
        let operation = &document["paths"][template][verb.as_str().to_lowercase()];
        if operation.is_null() {
            let path = filled(template, "nowhere", "call", "nowhere");
            let answer = service.send(request(verb, &path), "").await;
            assert_eq!(answer.status, 200, "{verb} {template} is in the table and nowhere else");
            continue;
        }
        let schemes: Vec<&str> = operation["security"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|one| one.as_object().unwrap().keys())
            .map(String::as_str)
            .collect();
        let expected: &[&str] = match (rule.allowed, rule.basic) {
            (Allowed::Anyone, _) => &[],
            (_, false) => &["bearer", "apiKey", "mutualTLS"],
            (_, true) => &["bearer", "apiKey", "mutualTLS", "basic"],
        };
        assert_eq!(schemes, expected, "{verb} {template}");
        let roles: Vec<&str> = Role::ALL.iter().filter(|role| allows(rule, **role)).map(|role| role.as_str()).collect();
        if let Allowed::Roles(_) = rule.allowed {
            assert_eq!(operation["x-required-roles"], json!(roles), "{verb} {template}");
            assert!(operation["description"].as_str().unwrap().contains(&rule.needs()), "{verb} {template}");
            assert!(operation["responses"].get("403").is_some(), "{verb} {template}");
        }
    }
}

/// A service with two instances of two definitions and an execution of each, of the tenant
/// `walled`.
struct Walled {
    service: TestService,
    /// Executed by the key with a grant.
    own: String,
    /// Executed by another.
    other: String,
    granted: String,
}

const TENANT: &str = "walled-tenant";

impl Walled {
    async fn start() -> Self {
        let service = TestService::start().await;
        for name in ["granted", "other"] {
            let definition = definition(&format!("{name}-kind"), &json!({}));
            let created = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
            assert_eq!(created.status, 201, "{}", created.json());
            let instance = json!({
                "id": format!("{name}-instance"), "integrationDefinitionId": definition["id"], "name": name,
                "config": {"baseUrl": service.upstream.url()},
            });
            let created = service.send_as(TENANT, "POST", "/api/v1/integration-instances", &instance).await;
            assert_eq!(created.status, 201, "{}", created.json());
        }
        let grants = json!([{"instance": "granted-instance", "methods": ["call"]}]);
        let granted = key(&service, &json!({"grants": grants, "tenantId": TENANT})).await;
        let executor = key(&service, &json!({"roles": ["executor"], "tenantId": TENANT})).await;
        let execute = async |key: &str| {
            let path = "/execute/granted-instance/call";
            let answer = as_key(&service, key, &Method::POST, path, &json!({"params": {}})).await;
            assert_eq!(answer.status, 200, "{}", answer.json());
            answer.json()["meta"]["executionId"].as_str().unwrap().to_owned()
        };
        let (own, other) = (execute(&granted).await, execute(&executor).await);
        Self { service, own, other, granted }
    }

    /// The status of a route for the key with a grant.
    async fn status(&self, verb: &Method, path: &str) -> u16 {
        let request = request(verb, path).header("x-api-key", &self.granted);
        head_of(self.service.address(), request, "{}").await.status.as_u16()
    }
}

#[tokio::test]
async fn a_key_with_grants_alone_reaches_what_is_granted_and_nothing_else() {
    let walled = Walled::start().await;
    for (verb, template, rule) in TABLE {
        let path = |name: &str, method: &str, execution: &str| {
            let kind = if template.contains("definition") { "kind" } else { "instance" };
            filled(template, &format!("{name}-{kind}"), method, execution)
        };
        let granted = walled.status(verb, &path("granted", "call", &walled.own)).await;
        let elsewhere = walled.status(verb, &path("other", "call", &walled.other)).await;
        let what = format!("{verb} {template}: {granted} {elsewhere}");
        match (rule.allowed, rule.grant) {
            (Allowed::Anyone | Allowed::Authenticated, _) => assert!(granted != 403 && elsewhere != 403, "{what}"),
            (Allowed::Roles(_), None) => assert_eq!((granted, elsewhere), (403, 403), "{what}"),
            (Allowed::Roles(_), Some(scope)) => {
                assert!(granted != 403 && granted != 404, "{what}");
                // That there is such an execution is not told.
                let told = if matches!(scope, GrantScope::Execution | GrantScope::Replay) { 404 } else { 403 };
                assert_eq!(elsewhere, told, "{what}");
            }
        }
        if rule.grant == Some(GrantScope::Method) {
            let other_method = walled.status(verb, &path("granted", "delete", "")).await;
            assert_eq!(other_method, 403, "another method of the same instance");
        }
    }
    let refused =
        as_key(&walled.service, &walled.granted, &Method::POST, "/execute/other-instance/call", &json!({})).await;
    let error = refused.json()["error"].clone();
    assert_eq!((error["code"].as_str(), error["details"]["stage"].as_str()), (Some("FORBIDDEN"), Some("authorize")));
    assert!(error["message"].as_str().unwrap().contains("executor"), "says what is needed: {error}");
}

#[tokio::test]
async fn asynchronous_calls_and_dry_runs_keep_to_the_grants() {
    let walled = Walled::start().await;
    let call = async |path: &str| {
        let request =
            request(&Method::POST, path).header("x-api-key", &walled.granted).header("prefer", "respond-async");
        send(walled.service.address(), request, r#"{"params": {}}"#).await
    };
    let queued = call("/execute/granted-instance/call").await;
    assert_eq!(queued.status, 202, "{}", queued.json());
    let own = walled.status(&Method::GET, queued.header("location")).await;
    assert_eq!(own, 200, "the caller reads what it asked for");
    assert_eq!(call("/execute/other-instance/call").await.status, 403);
    assert_eq!(call("/execute/other-instance/call?dryRun=true").await.status, 403);
    assert_eq!(call("/execute/granted%2Dinstance/c%61ll").await.status, 202, "a path is compared as it is read");
    assert_eq!(call("/execute/granted-instance/%2e%2e").await.status, 403);
}

/// What a handler needs to come as far as the resource.
fn body_of(template: &str) -> Value {
    match template.rsplit('/').next() {
        Some("credentials" | "rotate") => json!({"type": "basic", "data": {"username": "u", "password": "p"}}),
        Some("upgrade") => json!({"definitionVersion": "1.0.0"}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn another_tenant_finds_nothing_behind_any_route() {
    let walled = Walled::start().await;
    let service = &walled.service;
    let stranger = key(service, &json!({"roles": ["admin"], "tenantId": "stranger"})).await;
    let own_key = service.items("/api/v1/api-keys").await[0]["id"].as_str().unwrap().to_owned();
    assert_ne!(service.items("/api/v1/api-keys").await[1]["tenantId"], json!("stranger"));
    let hidden_key = service.items("/api/v1/api-keys").await[1]["id"].as_str().unwrap().to_owned();
    let names = [TENANT, "granted-instance", "other-instance", &walled.own, &walled.other, &hidden_key];
    for (verb, template, rule) in TABLE.iter().filter(|(.., rule)| rule.allowed != Allowed::Anyone) {
        let is_stream = template.ends_with("/stream");
        let belongs_to_nobody = ["definition", "/docs/", "/catalogue/"];
        let belongs_to_a_tenant =
            template.contains('{') && !belongs_to_nobody.iter().any(|part| template.contains(part));
        let id = if template.contains("api-keys") { &hidden_key } else { "granted-instance" };
        let path = filled(template, id, "call", &walled.own);
        for tenant_header in [None, Some("stranger"), Some(TENANT)] {
            if is_stream {
                continue;
            }
            let mut request = request(verb, &path).header("x-api-key", &stranger);
            if let Some(tenant) = tenant_header {
                request = request.header("x-tenant-id", tenant);
            }
            let answer = send(service.address(), request, &body_of(template).to_string()).await;
            let text = String::from_utf8_lossy(&answer.body);
            if belongs_to_a_tenant {
                let expected = if tenant_header == Some(TENANT) { 403 } else { 404 };
                assert_eq!(answer.status, expected, "{verb} {path} with {tenant_header:?}: {text}");
            }
            assert!(answer.status < 500, "{verb} {path}: {text}");
            for name in names.iter().filter(|name| !path.contains(**name) && tenant_header != Some(**name)) {
                assert!(!text.contains(name), "{verb} {path} tells of {name}: {text}");
            }
            if rule.unbound {
                assert_eq!(answer.status, 403, "{verb} {path}");
            }
        }
    }
    let as_admin = service.get("/api/v1/integration-instances/granted-instance").await;
    assert_eq!(as_admin.json()["status"], "CONNECTED", "nothing was changed");
    assert_eq!(service.get(&format!("/api/v1/api-keys/{hidden_key}")).await.json().get("revokedAt"), None);
    assert_eq!(
        as_key(service, &stranger, &Method::GET, &format!("/api/v1/api-keys/{own_key}"), &json!({})).await.status,
        200
    );
}

#[test]
fn the_page_of_who_may_do_what_is_that_of_the_table() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/access.md");
    #[expect(clippy::disallowed_methods, reason = "says, as for snapshots, that the page is to be written anew")]
    let update = std::env::var_os("INSTA_UPDATE");
    if update.is_some_and(|update| update == "always") {
        std::fs::write(&file, matrix()).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(page == matrix(), "docs/access.md is stale: run this test with INSTA_UPDATE=always");
}
