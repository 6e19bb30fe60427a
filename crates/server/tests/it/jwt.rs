//! JSON Web Tokens as keys: whom they let in, the tricks that do not work, and the keys of an
//! issuer that changes them or is away.

use std::sync::Arc;
use std::sync::Mutex;

use http::request::Builder;
use serde_json::{Value, json};

use crate::client::{Answer, assert_problem, get, send};
use crate::issuer::{AUDIENCE, ISSUER, Issuer, claims, encode, now, sign_shared};
use crate::service::{TestService, definition, json_request, json_response};

const INSTANCES: &str = "/api/v1/integration-instances";
const DEFINITIONS: &str = "/api/v1/integration-definitions";

/// The settings of one issuer, with these lines besides.
fn settings(more: &str) -> String {
    format!(
        "access:\n  failedAttemptsPerMinute: 100000\n  jwt:\n    - name: corp\n      issuer: {ISSUER}\n      \
         audience: {AUDIENCE}\n      claims: {{tenant: /tenant, roles: /roles, grants: /grants}}\n{more}"
    )
}

fn published(more: &str) -> String {
    settings(&format!("      jwksUrl: UPSTREAM/jwks\n      algorithms: [RS256, ES256]\n{more}"))
}

/// A service that takes the tokens of an issuer whose keys the upstream publishes, and the
/// number of times they were fetched.
struct Setup {
    service: TestService,
    issuer: Issuer,
    keys: Arc<Mutex<Option<Value>>>,
}

impl Setup {
    async fn start(settings: &str) -> Self {
        let service = TestService::start_configured(&[("integration_service.yaml", settings)], &[]).await;
        let issuer = Issuer::new();
        let keys = Arc::new(Mutex::new(Some(issuer.jwks("a"))));
        let published = Arc::clone(&keys);
        service.upstream.always(move |received| match (&*received.path_and_query, &*published.lock().unwrap()) {
            ("/jwks", Some(keys)) => json_response(200, keys),
            ("/jwks", None) => json_response(500, &json!({})),
            _ => json_response(200, &json!({"name": "Rex"})),
        });
        Self { service, issuer, keys }
    }

    fn publish(&self, keys: Option<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn fetches(&self) -> usize {
        self.service.upstream.received().iter().filter(|received| received.path_and_query == "/jwks").count()
    }

    async fn send(&self, token: &str, request: Builder, body: &Value) -> Answer {
        send(self.service.address(), request.header("authorization", format!("Bearer {token}")), &body.to_string())
            .await
    }

    async fn status(&self, token: &str) -> u16 {
        self.send(token, get(INSTANCES), &Value::Null).await.status
    }

    /// An instance of the tenant.
    async fn instance(&self, tenant: &str) {
        let pets = definition("pets", &json!({}));
        assert_eq!(self.service.post(&format!("{DEFINITIONS}?publish=true"), &pets).await.status, 201);
        let config = json!({"baseUrl": self.service.upstream.url()});
        let new = json!({"id": "shop", "integrationDefinitionId": "pets", "name": "x", "config": config});
        assert_eq!(self.service.send_as(tenant, "POST", INSTANCES, &new).await.status, 201);
    }
}

/// Roles that let a caller look at instances.
fn operator() -> Value {
    json!({"roles": ["operator"]})
}

#[tokio::test]
async fn a_token_is_what_its_claims_say() {
    let setup = Setup::start(&published("")).await;
    setup.instance("acme").await;
    let call = json_request("POST", "/execute/shop/call");
    let executor = setup.issuer.token(&json!({}));
    let answer = setup.send(&executor, call, &json!({"params": {}})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let listed = &setup.service.items("/api/v1/executions").await[0];
    assert_eq!((&listed["principal"], &listed["tenantId"]), (&json!("jwt:corp:alice"), &json!("acme")));
    let listing = setup.send(&executor, get("/api/v1/audit"), &Value::Null).await;
    assert_problem(&listing, 403, "FORBIDDEN");
    let auditor =
        setup.issuer.sign(&json!({"alg": "RS256", "kid": "a-rsa"}), &claims(&json!({"roles": "auditor other"})));
    assert_eq!(setup.send(&auditor, get("/api/v1/audit"), &Value::Null).await.status, 200);

    let granted = setup.issuer.token(&json!({"roles": [], "grants": [{"instance": "shop", "methods": ["call"]}]}));
    let call = |method: &str| json_request("POST", &format!("/execute/shop/{method}"));
    assert_eq!(setup.send(&granted, call("call"), &json!({})).await.status, 200);
    assert_eq!(setup.send(&granted, call("other"), &json!({})).await.status, 403);
    assert_eq!(setup.fetches(), 1, "keys are fetched once");
}

#[tokio::test]
async fn a_token_of_one_tenant_is_no_good_for_another() {
    let setup = Setup::start(&published("")).await;
    setup.instance("acme").await;
    let own = setup.issuer.token(&json!({}));
    let stranger = setup.issuer.token(&json!({"tenant": "evil"}));
    let call = || json_request("POST", "/execute/shop/call");
    assert_eq!(setup.send(&own, call(), &json!({})).await.status, 200);
    assert_eq!(setup.send(&stranger, call(), &json!({})).await.status, 404);
    assert_eq!(setup.send(&stranger, call().header("x-tenant-id", "acme"), &json!({})).await.status, 403);
    for tenant in [json!(["acme"]), json!({}), json!(""), json!("*"), json!("a/b"), json!(7), json!(true)] {
        assert_eq!(setup.status(&setup.issuer.token(&json!({"tenant": tenant}))).await, 401, "{tenant}");
    }
    let mut null = claims(&operator());
    null["tenant"] = Value::Null;
    assert_eq!(setup.status(&setup.issuer.sign(&json!({"alg": "ES256", "kid": "a-ec"}), &null)).await, 401);
    let absent = setup.issuer.token(&json!({"tenant": null, "roles": ["operator"]}));
    assert_eq!(setup.status(&absent).await, 401, "no tenant is said, and none is the default");
}

#[tokio::test]
async fn roles_are_those_that_the_settings_give() {
    let setup = Setup::start(&published("")).await;
    for (roles, status) in [
        (json!(["operator"]), 200),
        (json!("openid operator"), 200),
        (json!(["Operator", "root", "superadmin"]), 403),
        (json!([]), 403),
        (json!({"operator": true}), 401),
        (json!([["operator"]]), 401),
        (json!(7), 401),
    ] {
        assert_eq!(setup.status(&setup.issuer.token(&json!({"roles": roles}))).await, status, "{roles}");
    }
    let mapped = "      defaultTenant: acme\n      defaultRoles: [monitor]\n";
    let claims = "claims: {tenant: /tenant, roles: /realm_access/roles, roleMap: {ops: operator}}";
    let text = published(mapped).replace("claims: {tenant: /tenant, roles: /roles, grants: /grants}", claims);
    let setup = Setup::start(&text).await;
    for (roles, status) in [(json!(["ops"]), 200), (json!(["operator", "admin"]), 403)] {
        let token = setup.issuer.token(&json!({"tenant": null, "realm_access": {"roles": roles}}));
        assert_eq!(setup.status(&token).await, status, "{roles}");
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let setup = Setup::start(&published("")).await;
    let (issuer, attacker) = (&setup.issuer, Issuer::new());
    let good = json!({"alg": "ES256", "kid": "a-ec"});
    let base = claims(&operator());
    let sound = issuer.sign(&good, &base);
    let parts: Vec<&str> = sound.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let mut forged: Vec<(String, String)> = Vec::new();
    let mut add = |what: &str, token: String| forged.push((what.to_owned(), token));

    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(json!({"alg": name, "kid": "a-ec"}).to_string());
        for end in ["", signature, "AA"] {
            add(&format!("alg {name:?} {end:.2}"), format!("{header}.{body}.{end}"));
        }
    }
    for header in
        [json!({}), json!({"alg": null}), json!({"alg": ["ES256"]}), json!({"alg": "es256"}), json!({"alg": "ES256K"})]
    {
        add(&header.to_string(), format!("{}.{body}.{signature}", encode(header.to_string())));
    }
    for key in issuer.public_texts() {
        for kid in ["a-rsa", "a-ec", "a-oct"] {
            add("key confusion", sign_shared(&key, &json!({"alg": "HS256", "kid": kid}), &base));
        }
    }
    for (what, key) in [("an empty key", &b""[..]), ("the published secret", b"a secret that everybody can read")] {
        add(what, sign_shared(key, &json!({"alg": "HS256", "kid": "a-oct"}), &base));
    }
    for kid in
        ["../../../../dev/null", "' union select 'x", "http://127.0.0.1/jwks", "a-ec\0", "b-ec", "", &"k".repeat(4_000)]
    {
        add(&format!("kid {kid:.20}"), attacker.sign(&json!({"alg": "ES256", "kid": kid}), &base));
        add(&format!("kid {kid:.20}, no key"), sign_shared(b"", &json!({"alg": "HS256", "kid": kid}), &base));
    }
    add("a number as kid", issuer.sign(&json!({"alg": "ES256", "kid": 7}), &base));
    let own = setup.service.upstream.url();
    let attackers_keys = attacker.jwks("a");
    for (name, value) in [
        ("jwk", attackers_keys["keys"][3].clone()),
        ("jku", json!(format!("{own}/evil"))),
        ("x5u", json!(format!("{own}/evil"))),
        ("x5c", json!(["AA"])),
    ] {
        let mut header = good.clone();
        header[name] = value;
        add(name, attacker.sign(&header, &base));
        header["kid"] = Value::Null;
        header.as_object_mut().unwrap().remove("kid");
        add(&format!("{name} without kid"), attacker.sign(&header, &base));
    }
    add("an extension", issuer.sign(&json!({"alg": "ES256", "kid": "a-ec", "crit": ["b64"], "b64": false}), &base));
    add("another use", issuer.sign(&json!({"alg": "ES256", "kid": "a-ec", "typ": "logout+jwt"}), &base));
    add("the key of another algorithm", issuer.sign(&json!({"alg": "ES256", "kid": "a-rsa"}), &base));
    add(
        "a tampered payload",
        format!("{head}.{}.{signature}", encode(claims(&json!({"roles": ["admin"]})).to_string())),
    );
    add("an empty signature", format!("{head}.{body}."));
    add("psychic", format!("{head}.{body}.{}", encode([0; 64])));
    add("psychic, in DER", format!("{head}.{body}.{}", encode([0x30, 6, 2, 1, 0, 2, 1, 0])));
    add("a longer signature", format!("{sound}AA"));
    add("another part", format!("{sound}.{signature}"));
    add("padding", format!("{sound}="));
    add("no JSON", format!("{}.{body}.{signature}", encode("{")));
    add("an array", issuer.sign_text(&good, "[]"));
    let text = base.to_string();
    add("a claim twice", issuer.sign_text(&good, &text.replacen('{', r#"{"tenant":"evil","#, 1)));
    add("the issuer twice", issuer.sign_text(&good, &text.replacen('{', r#"{"iss":"https://evil.example","#, 1)));

    let mut claim = |what: &str, more: Value| {
        let mut claims = claims(&operator());
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        add(what, issuer.sign(&good, &claims));
    };
    claim("expired", json!({"exp": now() - 61}));
    claim("not yet valid", json!({"nbf": now() + 120}));
    claim("of tomorrow", json!({"iat": now() + 120}));
    claim("an expiry that is no number", json!({"exp": "9999999999"}));
    claim("an endless expiry", json!({"exp": 1e300}));
    claim("a null expiry", json!({"exp": null}));
    claim("another audience", json!({"aud": "billing"}));
    claim("other audiences", json!({"aud": ["billing", "integrations/x"]}));
    claim("no audience", json!({"aud": null}));
    claim("another issuer", json!({"iss": "https://issuer.example/"}));
    claim("issuers", json!({"iss": [ISSUER]}));
    claim("no subject", json!({"sub": ""}));
    claim("a long subject", json!({"sub": "x".repeat(201)}));
    claim("a subject in two lines", json!({"sub": "a\nb"}));
    claim("grants of another shape", json!({"grants": [{"instance": "*", "all": true}]}));
    claim("bound to a key", json!({"cnf": {"jkt": "x"}}));
    claim("bound to a certificate", json!({"cnf": {"x5t#S256": encode([7; 32])}}));
    claim("oversized", json!({"more": "x".repeat(10_000)}));
    let mut no_expiry = base.clone();
    no_expiry.as_object_mut().unwrap().remove("exp");
    add("no expiry", issuer.sign(&good, &no_expiry));

    for (what, token) in &forged {
        let answer = setup.send(token, get(INSTANCES), &Value::Null).await;
        assert_problem(&answer, 401, "UNAUTHENTICATED");
        // All in the same words; one that is too long is not looked at.
        let detail = answer.json()["detail"].clone();
        assert!(detail == "the key is not valid" || what == "oversized", "{what}: {detail}");
    }
    assert_eq!(setup.status(&sound).await, 200, "what they were made of is good");
    let asked = setup.service.upstream.received();
    assert!(asked.iter().all(|received| received.path_and_query == "/jwks"), "nobody follows what a token says");
    assert_eq!(asked.len(), 1, "invented ids of keys cause no more than one fetch");
}

#[tokio::test]
async fn clocks_may_differ_a_little() {
    let setup = Setup::start(&published("      clockSkewSeconds: 300\n")).await;
    let near = json!({"roles": ["operator"], "exp": now() - 60, "nbf": now() + 60, "iat": now() + 60});
    assert_eq!(setup.status(&setup.issuer.token(&near)).await, 200);
}

#[tokio::test]
async fn new_keys_are_found_and_old_ones_forgotten() {
    let setup = Setup::start(&published("      jwksCooldownSeconds: 0\n")).await;
    let old = setup.issuer.token(&operator());
    assert_eq!(setup.status(&old).await, 200);
    let next = Issuer::new();
    setup.publish(Some(next.jwks("b")));
    let new = next.sign(&json!({"alg": "ES256", "kid": "b-ec"}), &claims(&operator()));
    assert_eq!(setup.status(&new).await, 200);
    assert_eq!(setup.status(&old).await, 401, "a token that was verified before, by a key that is gone");
    let without_id = next.sign(&json!({"alg": "ES256"}), &claims(&operator()));
    assert_eq!(setup.status(&without_id).await, 200, "only one key fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_once_for_all_who_wait() {
    let setup = Arc::new(Setup::start(&published("")).await);
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let setup = Arc::clone(&setup);
            let token = setup.issuer.token(&json!({"roles": ["operator"], "sub": format!("caller-{number}")}));
            tokio::spawn(async move { setup.status(&token).await })
        })
        .collect();
    for call in waiting {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(setup.fetches(), 1);
}

#[tokio::test]
async fn known_keys_are_used_while_the_issuer_is_away() {
    let ages = |stale: &str| {
        published(&format!(
            "      jwksMaxAgeSeconds: 0\n      jwksMaxStaleSeconds: {stale}\n      jwksCooldownSeconds: 0\n"
        ))
    };
    let setup = Setup::start(&ages("3600")).await;
    let token = |subject: &str| setup.issuer.token(&json!({"roles": ["operator"], "sub": subject}));
    assert_eq!(setup.status(&token("first")).await, 200);
    setup.publish(None);
    assert_eq!(setup.status(&token("first")).await, 200);
    assert_eq!(setup.status(&token("second")).await, 200);

    let setup = Setup::start(&ages("3600")).await;
    let token = setup.issuer.token(&operator());
    setup.publish(None);
    assert_eq!(setup.status(&token).await, 401, "there are no keys");
}

#[tokio::test]
async fn keys_may_lie_in_a_file_or_be_shared() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, issuer.jwks("a").to_string()).unwrap();
    let source = format!("      jwksFile: {}\n      algorithms: [ES256]\n", file.display());
    let setup = Setup::start(&settings(&source)).await;
    assert_eq!(setup.status(&issuer.token(&operator())).await, 200);
    let other = issuer.sign(&json!({"alg": "RS256", "kid": "a-rsa"}), &claims(&operator()));
    assert_eq!(setup.status(&other).await, 401, "the settings list no RS256");

    let key = "a-shared-key-of-thirty-two-bytes!";
    let source = "      sharedKey: ${SHARED_KEY}\n      algorithms: [HS256]\n";
    let files = [("integration_service.yaml", settings(source))];
    let service = TestService::start_configured(&[(files[0].0, &files[0].1)], &[("SHARED_KEY", key)]).await;
    let status = async |token: &str| {
        let request = get(INSTANCES).header("authorization", format!("Bearer {token}"));
        send(service.address(), request, "").await.status
    };
    assert_eq!(status(&sign_shared(key.as_bytes(), &json!({"alg": "HS256"}), &claims(&operator()))).await, 200);
    assert_eq!(status(&sign_shared(b"another", &json!({"alg": "HS256"}), &claims(&operator()))).await, 401);
    assert_eq!(status(&issuer.token(&operator())).await, 401);
}
