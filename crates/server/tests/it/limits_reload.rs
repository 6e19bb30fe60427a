//! `rate_limits.yaml` read anew by the running binary.

use std::net::SocketAddr;

use serde_json::json;

use crate::binary::{Running, folder};
use crate::client::{Answer, send};
use crate::service::{Upstream, json_request};

const SETTINGS: &str = "access: {adminKey: a-key-that-only-tests-know}\nhttp: {egressAllow: [127.0.0.0/8]}\n";

const INTEGRATIONS: &str = r#"
definitions:
  - id: pets
    name: Pets
    version: 1.0.0
    type: http
    authType: none
    configSchema: {type: object}
    methods:
      - {name: call, operation: {verb: GET, path: /thing}}
instances:
  - {id: pets, integrationDefinitionId: pets, config: {baseUrl: "UPSTREAM"}}
"#;

async fn call(address: SocketAddr) -> Answer {
    let request = json_request("POST", "/execute/pets/call").header("x-api-key", crate::service::KEY);
    send(address, request, "{}").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_limits_hold_without_a_restart() {
    let upstream = Upstream::start().await;
    let integrations = INTEGRATIONS.replace("UPSTREAM", &upstream.url());
    let folder = folder(&[("integration_service.yaml", SETTINGS), ("integrations.yaml", &integrations)]);
    let mut running = tokio::task::block_in_place(|| Running::start(folder.path()));
    let address: SocketAddr = running.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut reload = |text: &str, told: &str| {
        std::fs::write(folder.path().join("config/rate_limits.yaml"), text).unwrap();
        running.signal("-HUP");
        tokio::task::block_in_place(|| running.wait_for_line(told));
    };
    for _ in 0..5 {
        let answer = call(address).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    }

    let limit = "{requestsPerMinute: 1, burstLimit: 1}";
    for (rules, scope) in [
        (format!("instances: {{pets: {{methods: {{call: {limit}}}}}}}"), "method"),
        (format!("instances: {{pets: {limit}}}"), "instance"),
        (format!("tenants: {{default: {limit}}}"), "tenant"),
        (format!("users: {{byId: {{\"api-key:admin\": {limit}}}}}"), "user"),
    ] {
        reload(&rules, "new rate limits are in force");
        assert_eq!(call(address).await.status, 200, "{scope}");
        let refused = call(address).await;
        let error = &refused.json()["error"];
        assert_eq!(
            (refused.status, &error["code"], &error["details"]["limit"]),
            (429, &json!("RATE_LIMIT_EXCEEDED"), &json!(scope)),
            "{error}"
        );
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    }
    reload("users: {default: {requestsPerMinute: none}}", "rate limits not reloaded, the old ones stay");
    assert_eq!(call(address).await.status, 429);
    reload("{}", "new rate limits are in force");
    for _ in 0..5 {
        assert_eq!(call(address).await.status, 200);
    }
    running.signal("-TERM");
    assert_eq!(tokio::task::block_in_place(|| running.end()).0, 0);
}
