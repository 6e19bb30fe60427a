//! `stripe` and `stripe-webhook` against a Stripe of its own, the fake `localstripe`: its state,
//! its refusals, its signatures.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::{connect, install};
use crate::client::post;
use crate::oauth::wait_for;
use crate::oidc::program;
use crate::process::Program;
use crate::service::TestService;

/// A running fake; it ends with this value.
pub(crate) struct Stripe {
    pub(crate) url: String,
    _process: Program,
}

impl Stripe {
    /// Starts one; nothing where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let packages = program("INTEGRATION_TEST_PYTHON_PACKAGES")?;
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "localstripe", "--from-scratch", "--port", "0"]).env("PYTHONPATH", packages);
        command.stderr(std::process::Stdio::null());
        let (process, port) = Program::start(&mut command, |line| {
            let (_, after) = line.split_once("http://[::]:")?;
            after.split_whitespace().next().map(str::to_owned)
        });
        Some(Self { url: format!("http://127.0.0.1:{port}"), _process: process })
    }

    fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().unwrap()
    }
}

async fn service_beside(stripe: &Stripe) -> TestService {
    let service = TestService::start().await;
    connect(&service, "stripe", &json!({"baseUrl": stripe.url})).await;
    set_key(&service, "sk_test_12345").await;
    service
}

async fn set_key(service: &TestService, key: &str) {
    let credential = json!({"type": "api_key", "data": {"key": key}});
    let stored = service.post("/api/v1/integration-instances/stripe/credentials", &credential).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

async fn call(service: &TestService, method: &str, params: Value) -> Value {
    let answer = service.execute("stripe", method, &params).await.json();
    assert_eq!(answer["status"], "SUCCESS", "{method}: {answer}");
    assert_eq!(answer["meta"].get("warnings"), None, "{method}: the result fits its schema");
    answer["data"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_pays_and_is_paid_back() {
    let Some(stripe) = Stripe::start() else { return };
    let service = service_beside(&stripe).await;
    let customer =
        call(&service, "createCustomer", json!({"email": "ann@example.com", "metadata": {"order": "7"}})).await;
    assert_eq!((&customer["email"], &customer["metadata"]["order"]), (&json!("ann@example.com"), &json!("7")));
    let found = call(&service, "getCustomer", json!({"customer": customer["id"]})).await;
    assert_eq!(found["id"], customer["id"]);

    let new = json!({"amount": 1999, "currency": "eur", "customer": customer["id"], "payment_method": "pm_card_visa"});
    let intent = call(&service, "createPaymentIntent", new).await;
    assert_eq!((&intent["amount"], &intent["status"]), (&json!(1999), &json!("requires_confirmation")));
    let paid = call(&service, "confirmPaymentIntent", json!({"intent": intent["id"]})).await;
    assert_eq!(paid["status"], "succeeded", "{paid}");

    let refund = call(&service, "createRefund", json!({"payment_intent": intent["id"], "amount": 500})).await;
    assert_eq!((&refund["amount"], &refund["status"]), (&json!(500), &json!("succeeded")));
    let refunds = call(&service, "listRefunds", json!({})).await;
    assert_eq!(refunds["data"][0]["id"], refund["id"]);

    let missing = service.execute("stripe", "getCustomer", &json!({"customer": "cus_none"})).await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("NOT_FOUND")));
    let wrong = json!({"amount": 0, "currency": "eur"});
    let refused = service.execute("stripe", "createPaymentIntent", &wrong).await.json();
    assert_eq!(refused["error"]["details"]["stage"], "validate", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_through_the_lists_of_its_form() {
    let Some(stripe) = Stripe::start() else { return };
    let service = service_beside(&stripe).await;
    let customer = call(&service, "createCustomer", json!({"email": "ann@example.com"})).await;
    let product = call(&service, "createProduct", json!({"name": "Tea", "type": "service"})).await;
    // The fake knows no prices, but the plans that were before them.
    let plan = format!("id=tea&amount=500&currency=eur&interval=month&product={}", product["id"].as_str().unwrap());
    let request = post("/v1/plans").header("authorization", "Bearer sk_test_12345");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let made = crate::client::send(stripe.address(), request, &plan).await;
    assert_eq!(made.status, 200, "{}", made.json());
    let items = json!([{"plan": "tea", "quantity": 3}]);
    let new = json!({"customer": customer["id"], "items": items, "trial_period_days": 7});
    let subscription = call(&service, "createSubscription", new).await;
    assert_eq!(subscription["items"]["data"][0]["quantity"], 3, "{subscription}");
    let listed = call(&service, "listSubscriptions", json!({"customer": customer["id"]})).await;
    assert_eq!(listed["data"][0]["id"], subscription["id"]);
    let ended = call(&service, "cancelSubscription", json!({"subscription": subscription["id"]})).await;
    assert_eq!(ended["status"], "canceled", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_makes_one_customer() {
    let Some(stripe) = Stripe::start() else { return };
    let service = service_beside(&stripe).await;
    let create = || {
        let request = post("/execute/stripe/createCustomer").header("content-type", "application/json");
        service.send(request.header("idempotency-key", "order-7"), r#"{"params": {"email": "ann@example.com"}}"#)
    };
    let (first, again) = (create().await, create().await);
    assert_eq!((first.status, again.status), (200, 200), "{}", first.json());
    assert_eq!(first.json()["data"]["id"], again.json()["data"]["id"]);
    let customers = call(&service, "listCustomers", json!({})).await;
    assert_eq!(customers["data"].as_array().unwrap().len(), 1, "{customers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stripe_refuses_is_an_auth_error() {
    let Some(stripe) = Stripe::start() else { return };
    let service = service_beside(&stripe).await;
    set_key(&service, "no-key-of-stripe").await;
    let refused = service.execute("stripe", "listCustomers", &json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (502, &json!("AUTH_ERROR")), "{}", refused.json());
    let instance = service.get("/api/v1/integration-instances/stripe").await.json();
    assert_eq!(instance["status"], "AUTH_ERROR");
    set_key(&service, "sk_test_12345").await;
    call(&service, "listCustomers", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stripe_delivers_becomes_an_event() {
    let Some(stripe) = Stripe::start() else { return };
    let service = service_beside(&stripe).await;
    install(&service, "stripe-webhook").await;
    let hook = json!({"id": "hook", "integrationDefinitionId": "stripe-webhook", "name": "Stripe"});
    assert_eq!(service.post("/api/v1/integration-instances", &hook).await.status, 201);
    let secret = json!({"type": "custom", "data": {"secrets": ["whsec_mark-of-tests"]}});
    assert_eq!(service.post("/api/v1/integration-instances/hook/credentials", &secret).await.status, 201);
    let target = format!("http://{}/webhooks/hook", service.address());
    let settings = json!({"url": target, "secret": "whsec_mark-of-tests"});
    let request = crate::service::json_request("POST", "/_config/webhooks/test");
    assert_eq!(crate::client::send(stripe.address(), request, &settings.to_string()).await.status, 200);

    let customer = call(&service, "createCustomer", json!({"email": "ann@example.com"})).await;
    let received = async || service.items("/api/v1/events?type=integration.webhook.received").await;
    wait_for(async || !received().await.is_empty()).await;
    let event = &received().await[0]["data"];
    assert_eq!((&event["body"]["type"], &event["scheme"]), (&json!("customer.created"), &json!("stripe")));
    assert_eq!(event["body"]["data"]["object"]["id"], customer["id"]);
}
