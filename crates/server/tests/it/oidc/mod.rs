//! Connections through a real authorization server, the certified `oidc-provider`: by a
//! person's steps over plain HTTP, and by a person's browser.

mod browser;
pub(crate) mod person;

use std::process::Command;

use serde_json::{Value, json};

use crate::client::get;
use crate::oauth::{CALLBACK, wait_for};
use crate::process::Program;
use crate::service::{TestService, definition, json_response};
use person::Person;

pub(crate) const SECRET: &str = "a-secret-for-tests-only-0123456789abcdef";

/// What the tests against other programs find by the environment; nothing where a program is
/// not there, unless the environment requires it.
#[expect(clippy::disallowed_methods, reason = "tests find the programs that they run against by the environment")]
pub(crate) fn program(variable: &str) -> Option<String> {
    let found = std::env::var(variable).ok();
    let required = std::env::var("INTEGRATION_TEST_REQUIRE_SERVICES").is_ok_and(|value| value == "1");
    assert!(found.is_some() || !required, "INTEGRATION_TEST_REQUIRE_SERVICES=1, but {variable} is not set: run ./test");
    found
}

/// A running authorization server; it ends with this value.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    private_key: String,
    _process: Program,
}

impl Provider {
    /// Starts one for a service; nothing where it is not installed.
    pub(crate) fn start(service: &TestService, token_seconds: u32) -> Option<Self> {
        Self::start_for(&format!("http://{}{CALLBACK}", service.address()), token_seconds)
    }

    /// Starts one for clients at this redirect URI.
    pub(crate) fn start_for(callback: &str, token_seconds: u32) -> Option<Self> {
        let modules = program("INTEGRATION_TEST_NODE_MODULES")?;
        let settings = json!({"modules": modules, "callback": callback, "tokenSeconds": token_seconds});
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/oidc/server.mjs");
        let mut command = Command::new("node");
        command.arg(script).env("SETTINGS", settings.to_string());
        // It has words of its own for developers before ours.
        let (process, said) = Program::start(&mut command, |line| serde_json::from_str::<Value>(&line).ok());
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        Some(Self { issuer: text("issuer"), private_key: text("privateKey"), _process: process })
    }

    /// A definition of an API behind this server, with these fields in its `oauth2Config`.
    fn definition(&self, config: &Value) -> Value {
        let mut document = definition("guarded", &json!({}));
        document["authType"] = json!("oauth2");
        document["oauth2Config"] = json!({"discoveryUrl": self.issuer, "scope": "api:read"});
        for (name, value) in config.as_object().unwrap() {
            document["oauth2Config"][name] = value.clone();
        }
        document
    }

    /// Whether the server still takes a token.
    async fn knows(&self, token: &str) -> bool {
        let form = [("token", token), ("client_id", "basic"), ("client_secret", SECRET)];
        let answer = Person::new(&self.issuer).post_form("/token/introspection", &form).await;
        answer.json()["active"].as_bool().unwrap()
    }
}

fn path(end: &str) -> String {
    format!("/api/v1/integration-instances/mine{end}")
}

async fn status(service: &TestService) -> String {
    service.get(&path("")).await.json()["status"].as_str().unwrap().to_owned()
}

/// Calls the API, which tells the token that came with the call.
async fn token_of_a_call(service: &TestService) -> String {
    let executed = service.execute("mine", "call", &json!({})).await.json();
    let authorization = executed["data"]["authorization"].as_str().unwrap_or_else(|| panic!("{executed}"));
    authorization.strip_prefix("Bearer ").unwrap().to_owned()
}

/// A service with an instance of an API behind a real authorization server.
async fn guarded(token_seconds: u32, config: impl Fn(&Provider) -> Value) -> Option<(TestService, Provider)> {
    let service = TestService::start().await;
    let provider = Provider::start(&service, token_seconds)?;
    service.instance_of(&provider.definition(&config(&provider)), "mine").await;
    service.upstream.always(|request| {
        json_response(200, &json!({"authorization": request.headers["authorization"].to_str().unwrap()}))
    });
    Some((service, provider))
}

async fn begin(service: &TestService) -> String {
    let answer = service.post(&path("/oauth/authorize"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["authorizationUrl"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_person_connects_and_disconnects() {
    let config = |provider: &Provider| {
        json!({
            "clientId": "basic", "clientSecret": SECRET, "additionalParameters": {"prompt": "consent"},
            "revocationUrl": format!("{}/token/revocation", provider.issuer),
        })
    };
    let Some((service, provider)) = guarded(600, config).await else { return };
    let back = Person::new(&provider.issuer).agree(&begin(&service).await).await;
    assert!(back.contains("iss="), "the server says who it is: {back}");
    let page = crate::client::send(service.address(), get(&back).header("accept", "text/html"), "").await;
    assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
    assert_eq!(status(&service).await, "CONNECTED");
    let known = service.get(&path("/credentials/status")).await.json();
    assert_eq!((&known["scope"], &known["refreshable"]), (&json!("api:read"), &json!(true)));
    let token = token_of_a_call(&service).await;
    assert!(provider.knows(&token).await);

    assert_eq!(service.post(&path("/disconnect"), &json!({})).await.status, 200);
    assert!(!provider.knows(&token).await, "the server has ended it");
}

#[tokio::test]
async fn a_client_proves_itself_with_its_key() {
    let config = |provider: &Provider| {
        json!({
            "clientId": "keyed", "clientPrivateKey": provider.private_key, "clientKeyId": "client-key",
            "clientAssertionAlgorithm": "ES256", "grantType": "client_credentials",
        })
    };
    let Some((service, provider)) = guarded(600, config).await else { return };
    for _ in 0..2 {
        let connected = service.post(&path("/connect"), &json!({})).await;
        assert_eq!((connected.status, &connected.json()["status"]), (200, &json!("CONNECTED")), "{}", connected.json());
    }
    assert!(provider.knows(&token_of_a_call(&service).await).await);
    assert!(!crate::credentials::holds(&service.stored_bytes(), provider.private_key.lines().nth(1).unwrap()));
}

#[tokio::test]
async fn a_person_agrees_on_another_device() {
    let config = |_: &Provider| json!({"clientId": "device", "grantType": "device_code", "scope": "openid offline_access api:read"});
    let Some((service, provider)) = guarded(600, config).await else { return };
    let answer = service.post(&path("/oauth/device"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    Person::new(&provider.issuer).agree_on_device(answer.json()["verificationUriComplete"].as_str().unwrap()).await;
    wait_for(async || status(&service).await == "CONNECTED").await;
    assert!(provider.knows(&token_of_a_call(&service).await).await);
}

#[tokio::test]
async fn a_client_registers_itself_once() {
    let config = |_: &Provider| json!({"dynamicRegistration": true});
    let Some((service, provider)) = guarded(600, config).await else { return };
    let client_of = |url: &str| {
        let url = url::Url::parse(url).unwrap();
        url.query_pairs().find(|(name, _)| name == "client_id").unwrap().1.into_owned()
    };
    let (first, second) = (begin(&service).await, begin(&service).await);
    assert_eq!(client_of(&first), client_of(&second));
    let back = Person::new(&provider.issuer).agree(&second).await;
    let page = crate::client::send(service.address(), get(&back).header("accept", "text/html"), "").await;
    assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
    assert!(provider.knows(&token_of_a_call(&service).await).await);
    let elsewhere = service.post(&path("/oauth/authorize"), &json!({"redirectUri": "https://app.example/"})).await;
    assert_eq!(crate::client::pointers(&elsewhere), ["/redirectUri"]);
}
