//! The egress guard before every request that leaves: calls, and all that goes to
//! authorization servers.

use serde_json::{Value, json};

use crate::service::{TestService, definition, json_response};

/// A service that may call one private address, which is not the upstream's.
async fn guarded() -> TestService {
    TestService::start_with(&[("INTEGRATION_SERVICE_EGRESS_ALLOW", "10.1.2.3/32")]).await
}

/// The upstream's URL with its address in another spelling.
fn spelled(service: &TestService, host: &str) -> String {
    service.upstream.url().replace("127.0.0.1", host)
}

#[tokio::test]
async fn a_base_url_leads_to_no_private_address_however_it_is_spelled() {
    let service = guarded().await;
    service.instance_of(&definition("thing", &json!({})), "it").await;
    for host in ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::ffff:7f00:1]", "0"] {
        let config = json!({"config": {"baseUrl": spelled(&service, host)}});
        let changed = service.with_body("PATCH", "/api/v1/integration-instances/it", &config).await;
        assert_eq!(changed.json()["status"], "CONNECTED", "{}", changed.json());
        let answer = service.execute("it", "call", &json!({})).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("EGRESS_DENIED")), "{host}");
        let tested = service.post("/api/v1/integration-instances/it/test", &json!({})).await.json();
        assert_eq!((&tested["healthy"], &tested["code"]), (&json!(false), &json!("EGRESS_DENIED")), "{host}");
    }
    for url in ["http://u:p@10.1.2.3/", "http://10.1.2.3\\@127.0.0.1/", "file:///etc/passwd"] {
        let config = json!({"config": {"baseUrl": url}});
        let changed = service.with_body("PATCH", "/api/v1/integration-instances/it", &config).await;
        assert_eq!(changed.json()["status"], "CONFIG_ERROR", "{url}");
    }
    assert!(service.upstream.received().is_empty());
}

#[tokio::test]
async fn what_is_allowed_by_its_name_is_called_by_that_name() {
    let service = TestService::start_with(&[("INTEGRATION_SERVICE_EGRESS_ALLOW", "localhost")]).await;
    service.instance_of(&definition("thing", &json!({})), "it").await;
    assert_eq!(service.execute("it", "call", &json!({})).await.json()["error"]["code"], "EGRESS_DENIED");
    let config = json!({"config": {"baseUrl": spelled(&service, "localhost")}});
    service.with_body("PATCH", "/api/v1/integration-instances/it", &config).await;
    assert_eq!(service.execute("it", "call", &json!({})).await.status, 200);
    // A redirect leads to no other name.
    let location = format!("{}/there", service.upstream.url());
    let redirect = http::Response::builder().status(302).header("location", location);
    service.upstream.then(redirect.body(axum::body::Body::empty()).unwrap());
    let answer = service.execute("it", "call", &json!({})).await;
    assert_eq!(answer.status, 502, "{}", answer.json());
    assert_eq!(service.upstream.received().len(), 2);
}

#[tokio::test]
async fn no_authorization_server_is_asked_at_a_private_address() {
    let service = guarded().await;
    service.upstream.always(|_| json_response(200, &json!({"access_token": "a", "token": "a"})));
    let url = service.upstream.url();
    let oauth = |config: Value| {
        let mut base = json!({"clientId": "c", "clientSecret": "s-123456", "tokenUrl": format!("{url}/token")});
        base.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        ("oauth2", "oauth2Config", base)
    };
    let call = json!({"token": {"url": format!("{url}/login"), "body": {"password": "p"}}});
    let credential = json!({"type": "custom", "data": {"p": "secret-123"}});
    for (id, (auth_type, field, config), path, body) in [
        ("token", oauth(json!({"grantType": "client_credentials"})), "connect", json!({})),
        (
            "discovery",
            oauth(json!({"discoveryUrl": format!("{url}/realm"), "tokenUrl": null})),
            "oauth/authorize",
            json!({}),
        ),
        (
            "device",
            oauth(json!({"grantType": "device_code", "deviceAuthorizationUrl": format!("{url}/device")})),
            "oauth/device",
            json!({}),
        ),
        ("login", ("custom", "customAuth", call), "credentials", credential),
    ] {
        let mut document = definition(id, &json!({}));
        document["authType"] = json!(auth_type);
        document[field] = config;
        service.instance_of(&document, id).await;
        let answer = service.post(&format!("/api/v1/integration-instances/{id}/{path}"), &body).await;
        let detail = if id == "login" {
            assert_eq!(answer.status, 201, "{}", answer.json());
            let answer = service.execute(id, "call", &json!({})).await;
            assert_eq!(answer.status, 502, "{id}");
            answer.json()["error"]["message"].clone()
        } else {
            assert!(answer.status >= 400, "{id}: {}", answer.json());
            answer.json()["detail"].clone()
        };
        assert!(detail.as_str().unwrap().contains("egress"), "{id}: {detail}");
    }
    assert!(service.upstream.received().is_empty());
}
