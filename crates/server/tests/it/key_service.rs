//! The key service: data keys wrapped by a transit engine, its outages, and rotations into,
//! within and out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::counterpart::{Fault, TRANSIT_TOKEN, Transit};
use crate::keys::{
    Moment, command, execute_afresh, prepare, rotate_and_kill, run, service_with_credentials, store_credential,
};
use crate::service::{TestService, borrowed};

async fn service_on(transit: &Transit, count: usize) -> TestService {
    let service = TestService::start_with(&borrowed(&transit.environment())).await;
    prepare(&service, count).await;
    service
}

async fn restart(service: TestService, transit: &Transit, further: &[(&str, &str)]) -> Result<TestService, String> {
    let environment = transit.environment();
    let mut environment = borrowed(&environment);
    environment.extend(further);
    service.restart(&[], &environment).await
}

/// What a `keys rotate` says with these variables.
fn rotate(service: &TestService, environment: &[(String, String)]) -> String {
    run(command(service.folder.path(), &["keys", "rotate"]).envs(environment.iter().cloned()))
}

async fn key_id(service: &TestService, number: usize) -> Value {
    service.get(&format!("/api/v1/integration-instances/i{number}/credentials/status")).await.json()["keyId"].clone()
}

async fn execute(service: &TestService, number: usize) -> (u16, Value) {
    let answer = service.execute(&format!("i{number}"), "call", &json!({})).await;
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_costs_the_key_service_nothing_once_the_key_is_unwrapped() {
    let transit = Transit::start();
    let service = service_on(&transit, 1).await;
    assert_eq!(key_id(&service, 0).await, "transit:integration-service:v1");
    assert!(!service.folder.path().join("data/master.key").exists(), "no master key is made beside a key service");
    transit.take_operations();
    for _ in 0..3 {
        execute_afresh(&service, 0).await;
    }
    assert_eq!(transit.take_operations(), [""; 0]);
    let service = restart(service, &transit, &[]).await.unwrap();
    for _ in 0..3 {
        execute_afresh(&service, 0).await;
    }
    // Two for what every database has, one for the credential.
    assert_eq!(transit.take_operations(), ["POST decrypt"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_along_and_no_secret_does() {
    let transit = Transit::start();
    let files = [("integration_service.yaml", "vault: { transit: { namespace: team/a } }")];
    let environment = transit.environment();
    let service = TestService::start_configured(&files, &borrowed(&environment)).await;
    prepare(&service, 1).await;
    let seen = transit.take_seen();
    assert!(!seen.is_empty());
    for seen in seen {
        assert_eq!(seen.headers["x-vault-token"], TRANSIT_TOKEN);
        assert_eq!(
            (&seen.headers["x-vault-namespace"], &seen.headers["x-vault-request"]),
            (&"team/a".parse().unwrap(), &"true".parse().unwrap())
        );
        assert!(!crate::credentials::holds(&seen.body, "secret-0"));
    }
    assert!(!crate::credentials::holds(&service.stored_bytes(), TRANSIT_TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_key_service_is_away_calls_go_on_with_keys_that_are_unwrapped() {
    let transit = Transit::start();
    let service = service_on(&transit, 2).await;
    let files = [("integration_service.yaml", "vault: { fallback: { freshMs: 0 } }")];
    let environment = transit.environment();
    let service = service.restart(&files, &borrowed(&environment)).await.unwrap();
    execute_afresh(&service, 0).await;
    for fault in [Fault::Unavailable, Fault::Garbage, Fault::Hangs] {
        transit.set_fault(Some(fault));
        for _ in 0..2 {
            execute_afresh(&service, 0).await;
        }
    }
    let health = service.get("/status/health").await;
    assert_eq!(health.status, 200);
    assert!(
        health.json()["checks"].as_array().unwrap().contains(&json!({"name": "key_service", "status": "degraded"}))
    );
    let metrics = String::from_utf8(service.get("/status/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("integration_key_service_fallbacks_total"), "{metrics}");

    // What was not unwrapped waits for the service, and nothing new is stored without it.
    transit.set_fault(Some(Fault::Garbage));
    let (status, body) = execute(&service, 1).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("CREDENTIAL_UNAVAILABLE")), "{body}");
    assert_eq!((&body["error"]["retryable"], &body["error"]["details"]["stage"]), (&json!(true), &json!("credential")));
    let data = json!({"key": "k", "headerOrParam": "X-Key", "inHeader": true});
    let path = "/api/v1/integration-instances/i1/credentials";
    let refused = service.post(path, &json!({"type": "api_key", "data": data})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("CREDENTIAL_UNAVAILABLE")));
    transit.set_fault(None);
    execute_afresh(&service, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_service_refuses_is_not_used_any_longer() {
    let transit = Transit::start();
    let service = service_on(&transit, 1).await;
    let files = [("integration_service.yaml", "vault: { fallback: { freshMs: 0 } }")];
    let environment = transit.environment();
    let service = service.restart(&files, &borrowed(&environment)).await.unwrap();
    execute_afresh(&service, 0).await;
    transit.forbid("decrypt");
    let (status, body) = execute(&service, 0).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("CREDENTIAL_UNAVAILABLE")), "{body}");
    assert_eq!(body["error"]["retryable"], json!(false));
    assert!(body["error"]["message"].as_str().unwrap().contains("permission denied"), "{body}");
    transit.set_fault(Some(Fault::Garbage));
    assert_eq!(execute(&service, 0).await.0, 503, "what was refused is no fallback");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_from_the_service_opens_nothing() {
    let transit = Transit::start();
    let service = service_on(&transit, 1).await;
    transit.set_fault(Some(Fault::WrongContent));
    let refused = restart(service, &transit, &[]).await.err().unwrap();
    assert!(refused.contains("does not open with master key \"transit:integration-service:v1\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_lead_into_the_service_through_its_versions_and_out_again() {
    let transit = Transit::start();
    let service = service_with_credentials(3).await;
    let inside = transit.environment();

    // Into it: the old keys open, the service wraps.
    let service = restart(service, &transit, &[]).await.unwrap();
    execute_afresh(&service, 0).await;
    let said = rotate(&service, &inside);
    assert!(said.contains("5 secrets are not under transit:integration-service:v1, the active key"), "{said}");
    assert!(said.contains("5 secrets are wrapped anew under transit:integration-service:v1; 0 were"), "{said}");
    std::fs::remove_file(service.folder.path().join("data/master.key")).unwrap();
    for number in 0..3 {
        execute_afresh(&service, number).await;
        assert_eq!(key_id(&service, number).await, "transit:integration-service:v1");
    }

    // Within it: a new version, by the service alone.
    transit.take_operations();
    let said = rotate(&service, &inside);
    assert!(said.contains("transit:integration-service:v2 is the active key version from now on"), "{said}");
    assert!(said.contains("5 secrets are wrapped anew under transit:integration-service:v2; 0 were"), "{said}");
    let operations = transit.take_operations();
    assert!(operations.contains(&"POST rewrap".to_owned()), "{operations:?}");
    let opened = operations.iter().filter(|operation| *operation == "POST decrypt").count();
    assert_eq!(opened, 2, "what every database has, and no credential: {operations:?}");
    transit.set_min_decryption_version("integration-service", 2);
    let service = restart(service, &transit, &[]).await.unwrap();
    for number in 0..3 {
        execute_afresh(&service, number).await;
    }
    store_credential(&service, 0).await;
    assert_eq!(key_id(&service, 0).await, "transit:integration-service:v2");

    // To another key of it.
    transit.create_key("other", true);
    let mut other = inside.clone();
    other.push(("INTEGRATION_SERVICE_TRANSIT_KEY".to_owned(), "other".to_owned()));
    let said = rotate(&service, &other);
    assert!(said.contains("5 secrets are wrapped anew under transit:other:v1"), "{said}");
    let service = service.restart(&[], &borrowed(&other)).await.unwrap();
    for number in 0..3 {
        execute_afresh(&service, number).await;
    }

    // Out of it: the service opens, a new master key wraps.
    let files = [("integration_service.yaml", "vault: { transit: { decryptOnly: true } }")];
    let service = service.restart(&files, &borrowed(&other)).await.unwrap();
    execute_afresh(&service, 0).await;
    let said = rotate(&service, &other);
    assert!(said.contains("5 secrets are wrapped anew under k1"), "{said}");
    let service = service.restart(&[("integration_service.yaml", "{}")], &[]).await.unwrap();
    for number in 0..3 {
        execute_afresh(&service, number).await;
        assert_eq!(key_id(&service, number).await, "k1");
    }
}

/// More than one transaction's worth.
const CREDENTIALS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_into_the_service_that_is_killed_again_and_again_loses_nothing() {
    let transit = Transit::start();
    let service = service_with_credentials(CREDENTIALS).await;
    let service = Arc::new(restart(service, &transit, &[]).await.unwrap());
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let calling = {
        let (service, stop, calls) = (Arc::clone(&service), Arc::clone(&stop), Arc::clone(&calls));
        tokio::spawn(async move {
            for number in (0..CREDENTIALS).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                if number % 10 == 0 {
                    store_credential(&service, number).await;
                }
                execute_afresh(&service, number).await;
                calls.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let (folder, environment) = (service.folder.path().to_owned(), transit.environment());
    let killing = tokio::task::spawn_blocking(move || {
        for moment in [Moment::FirstWord, Moment::Steps(2), Moment::Steps(7), Moment::FirstWord, Moment::Steps(11)] {
            rotate_and_kill(&folder, moment, &environment);
        }
    });
    killing.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    calling.await.unwrap();
    assert!(calls.load(Ordering::Relaxed) > 0);

    let rewrap_only = || {
        let mut command = command(service.folder.path(), &["keys", "rotate", "--rewrap-only"]);
        run(command.envs(transit.environment()))
    };
    rewrap_only();
    let said = rewrap_only();
    let all = CREDENTIALS + 2;
    assert!(said.starts_with("0 secrets are wrapped anew") && said.contains(&format!("{all} were under it")), "{said}");
    std::fs::remove_file(service.folder.path().join("data/master.key")).unwrap();
    transit.set_min_decryption_version("integration-service", transit.latest_version("integration-service"));
    let service = restart(Arc::into_inner(service).unwrap(), &transit, &[]).await.unwrap();
    for number in 0..CREDENTIALS {
        execute_afresh(&service, number).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_read_again_when_it_changes() {
    let transit = Transit::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let write = |token: &str| {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        assert!(std::process::Command::new("chmod").arg("600").arg(&file).status().unwrap().success());
    };
    write(TRANSIT_TOKEN);
    let url = transit.url();
    let environment = [
        ("INTEGRATION_SERVICE_TRANSIT_ADDRESS", url.as_str()),
        ("INTEGRATION_SERVICE_TRANSIT_TOKEN_FILE", file.to_str().unwrap()),
    ];
    let service = TestService::start_with(&environment).await;
    prepare(&service, 1).await;
    transit.set_token("hvs.the-next-token");
    let data = json!({"key": "secret-0", "headerOrParam": "X-Key", "inHeader": true});
    let path = "/api/v1/integration-instances/i0/credentials";
    let refused = service.post(path, &json!({"type": "api_key", "data": data})).await;
    let text = refused.json().to_string();
    assert_eq!(refused.status, 503, "{text}");
    assert!(text.contains("permission denied") && text.contains("the token is not valid any longer"), "{text}");
    assert!(!text.contains(TRANSIT_TOKEN), "{text}");
    write("hvs.the-next-token");
    store_credential(&service, 0).await;
    execute_afresh(&service, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_that_cannot_be_used_is_told_at_start() {
    let transit = Transit::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    let folder = tempfile::tempdir().unwrap();
    let open_file = folder.path().join("token");
    std::fs::write(&open_file, "hvs.x").unwrap();
    assert!(std::process::Command::new("chmod").arg("644").arg(&open_file).status().unwrap().success());
    let open_file = open_file.to_str().unwrap().to_owned();
    let (address, key, mount, token, token_file) = (
        "INTEGRATION_SERVICE_TRANSIT_ADDRESS",
        "INTEGRATION_SERVICE_TRANSIT_KEY",
        "INTEGRATION_SERVICE_TRANSIT_MOUNT",
        "INTEGRATION_SERVICE_TRANSIT_TOKEN",
        "INTEGRATION_SERVICE_TRANSIT_TOKEN_FILE",
    );
    let url = transit.url();
    for (environment, expected) in [
        (vec![(address, nobody.as_str()), (token, "hvs.wrong")], "no connection to 127.0.0.1"),
        (vec![(address, &url), (token, "hvs.wrong")], "permission denied"),
        (vec![(address, &url), (token, TRANSIT_TOKEN), (key, "missing")], "encryption key not found"),
        (
            vec![(address, &url), (token, TRANSIT_TOKEN), (mount, "elsewhere")],
            "there is no transit engine at this mount",
        ),
        (vec![(address, &url), (token_file, &open_file)], "it can be used by everybody (mode 0644); expected 0600"),
        (vec![(address, &url), (token_file, "/nowhere/token")], "the token file /nowhere/token"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = command(folder.path(), &["keys", "rotate"]).envs(environment.clone()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{environment:?}: {text}");
        assert!(!text.contains("hvs."), "{text}");
    }
}
