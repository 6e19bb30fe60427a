//! Services that come with certificates: beside their tokens, and in their place.

use base64::Engine as _;
use http::request::Builder;
use rcgen::SanType;
use serde_json::{Value, json};

use crate::client::{Answer, assert_problem, get, send_over};
use crate::issuer::{AUDIENCE, ISSUER, Issuer, claims};
use crate::pki::{Identity, connect};
use crate::service::{KEY, TestService, definition, json_request, json_response};
use crate::tls::TlsFiles;

const INSTANCES: &str = "/api/v1/integration-instances";
const DEFINITIONS: &str = "/api/v1/integration-definitions";
const ORCHESTRATOR: &str = "spiffe://example.org/orchestrator";

struct Setup {
    files: TlsFiles,
    service: TestService,
}

impl Setup {
    /// A service with these settings of access, which asks callers for certificates.
    async fn start(access: &str) -> Self {
        let files = TlsFiles::new();
        let service = files.start(&format!("{}access:\n{access}", files.client_settings("optional"))).await;
        Self { files, service }
    }

    fn identity(&self, name: &str) -> Identity {
        self.files.authority.issue(name)
    }

    async fn send(&self, identity: Option<&Identity>, request: Builder, body: &Value) -> Answer {
        let config = self.files.authority.client(identity);
        let stream = connect(self.service.address(), &config).await.unwrap();
        send_over(stream, request, &body.to_string()).await.unwrap()
    }

    async fn status(&self, identity: Option<&Identity>, request: Builder) -> u16 {
        self.send(identity, request, &Value::Null).await.status
    }

    /// An instance of the tenant, made with the admin key and this certificate.
    async fn instance(&self, identity: &Identity, tenant: &str) {
        let admin = |path: &str| json_request("POST", path).header("x-api-key", KEY).header("x-tenant-id", tenant);
        let pets = definition("pets", &json!({}));
        let made = self.send(Some(identity), admin(&format!("{DEFINITIONS}?publish=true")), &pets).await;
        assert_eq!(made.status, 201, "{}", made.json());
        let config = json!({"baseUrl": self.service.upstream.url()});
        let new = json!({"id": "shop", "integrationDefinitionId": "pets", "name": "x", "config": config});
        let made = self.send(Some(identity), admin(INSTANCES), &new).await;
        assert_eq!(made.status, 201, "{}", made.json());
    }
}

fn with_key(path: &str) -> Builder {
    get(path).header("x-api-key", KEY)
}

#[tokio::test]
async fn calls_need_certificate_and_token_both() {
    let setup = Setup::start("  adminKey: null\n").await;
    let known = setup.identity("anything.example");
    assert_eq!(setup.status(Some(&known), with_key(INSTANCES)).await, 200);
    assert_eq!(setup.status(Some(&known), get(INSTANCES)).await, 401, "no token");
    for path in [INSTANCES, DEFINITIONS, "/integrations", "/no/such/path"] {
        let answer = setup.send(None, with_key(path), &Value::Null).await;
        assert_problem(&answer, 401, "UNAUTHENTICATED");
        assert_eq!(answer.json()["detail"], "show the certificate of a known service, too");
    }
    let call = json_request("POST", "/execute/shop/call").header("x-api-key", KEY);
    assert_eq!(setup.status(None, call).await, 401);
    let password = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{KEY}")));
    for path in ["/status/health", "/status/metrics", "/docs"] {
        assert_eq!(setup.status(None, get(path).header("authorization", &password)).await, 200, "{path}");
    }
    assert_eq!(setup.status(None, get("/health")).await, 200);

    let setup = Setup::start("  requireClientCertificate: false\n").await;
    assert_eq!(setup.status(None, with_key(INSTANCES)).await, 200);
}

#[tokio::test]
async fn where_services_are_listed_no_other_certificate_will_do() {
    let setup = Setup::start(&format!("  services:\n    - {{san: {ORCHESTRATOR}, name: orchestrator}}\n    - {{san: \"dns:Forms.example\", name: forms}}\n")).await;
    for (name, status) in [
        (ORCHESTRATOR, 200),
        ("forms.example", 200),
        ("spiffe://example.org/orchestrator/x", 401),
        ("spiffe://evil.example/orchestrator", 401),
        ("other.example", 401),
    ] {
        assert_eq!(setup.status(Some(&setup.identity(name)), with_key(INSTANCES)).await, status, "{name}");
    }
    let both = setup.files.authority.issue_with(ORCHESTRATOR, |params| {
        params.subject_alt_names.push(SanType::DnsName("forms.example".try_into().unwrap()));
    });
    assert_eq!(setup.status(Some(&both), with_key(INSTANCES)).await, 401, "one that names two services is neither's");
    let disguised = setup.files.authority.issue_with("x.example", |params| {
        params.subject_alt_names = vec![SanType::URI("dns:forms.example".try_into().unwrap())];
    });
    assert_eq!(setup.status(Some(&disguised), with_key(INSTANCES)).await, 401, "a URI is no host name");
}

#[tokio::test]
async fn a_certificate_alone_is_good_for_what_the_settings_give_it() {
    let setup = Setup::start(&format!(
        "  services:\n    - {{san: {ORCHESTRATOR}, name: orchestrator, tenant: acme, grants: [{{instance: shop, methods: [call]}}]}}\n    \
         - {{san: \"dns:watch.example\", name: watch, roles: [auditor]}}\n"
    ))
    .await;
    let orchestrator = setup.identity(ORCHESTRATOR);
    let watch = setup.identity("watch.example");
    setup.instance(&watch, "acme").await;
    let call = |method: &str| json_request("POST", &format!("/execute/shop/{method}"));
    let answer = setup.send(Some(&orchestrator), call("call"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(setup.send(Some(&orchestrator), call("other"), &json!({})).await.status, 403);
    assert_eq!(setup.send(Some(&watch), call("call"), &json!({})).await.status, 403);
    assert_eq!(
        setup.send(Some(&orchestrator), call("call").header("x-tenant-id", "bob"), &json!({})).await.status,
        403
    );
    let listed = setup.send(Some(&watch), get("/api/v1/executions"), &Value::Null).await;
    assert_eq!(listed.json()["items"][0]["principal"], "service:orchestrator");
    let wrong = call("call").header("x-api-key", "wrong");
    assert_eq!(
        setup.send(Some(&orchestrator), wrong, &json!({})).await.status,
        401,
        "a wrong token is not passed over"
    );
}

#[tokio::test]
async fn a_service_s_tokens_are_good_with_its_certificate_alone() {
    let issuer = Issuer::new();
    let setup = Setup::start(&format!(
        "  requireClientCertificate: false\n  services:\n    - {{san: {ORCHESTRATOR}, name: orchestrator, tenant: acme, principals: [\"jwt:corp:bound\"]}}\n  \
         jwt:\n    - name: corp\n      issuer: {ISSUER}\n      audience: {AUDIENCE}\n      jwksUrl: UPSTREAM/jwks\n      algorithms: [ES256]\n      \
         claims: {{tenant: /tenant, roles: /roles}}\n"
    ))
    .await;
    let keys = issuer.jwks("a");
    setup.service.upstream.always(move |_| json_response(200, &keys));
    let (own, other) = (setup.identity(ORCHESTRATOR), setup.identity("other.example"));
    let request = |more: Value| {
        let mut said = json!({"roles": ["operator"]});
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        get(INSTANCES).header(
            "authorization",
            format!("Bearer {}", issuer.sign(&json!({"alg": "ES256", "kid": "a-ec"}), &claims(&said))),
        )
    };
    let bound = || request(json!({"sub": "bound"}));
    assert_eq!(setup.status(Some(&own), bound()).await, 200);
    assert_eq!(setup.status(Some(&other), bound()).await, 401);
    assert_eq!(setup.status(None, bound()).await, 401);
    let free = || request(json!({"sub": "free"}));
    assert_eq!(setup.status(None, free()).await, 200);
    assert_eq!(setup.status(Some(&own), free()).await, 200);
    let of_another_tenant = request(json!({"sub": "free", "tenant": "bob"}));
    assert_eq!(setup.status(Some(&own), of_another_tenant).await, 401, "the service calls for one tenant");
    let narrowed = with_key(INSTANCES).header("x-tenant-id", "bob");
    assert_eq!(setup.status(Some(&own), narrowed).await, 403, "so does the admin key beside it");

    let confirmed = || request(json!({"sub": "free", "cnf": {"x5t#S256": other.thumbprint()}}));
    assert_eq!(setup.status(Some(&other), confirmed()).await, 200);
    assert_eq!(setup.status(Some(&own), confirmed()).await, 401);
    assert_eq!(setup.status(None, confirmed()).await, 401);
    // One that was verified before is no freer.
    let token = confirmed();
    let header = token.headers_ref().unwrap()["authorization"].clone();
    assert_eq!(setup.status(Some(&other), get(INSTANCES).header("authorization", &header)).await, 200);
    assert_eq!(setup.status(None, get(INSTANCES).header("authorization", &header)).await, 401);
}
