//! Master keys from the command line: rotation beside a running service, and killed midway.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::service::{TestService, definition, json_response};

/// More than one transaction's worth.
const CREDENTIALS: usize = 300;

pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_integration-service"));
    command.args(arguments).env_clear().current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end, which must be a good one; gives what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A service with `count` instances, each with a credential of its own, and an upstream
/// that tells which credential it got.
pub(crate) async fn service_with_credentials(count: usize) -> TestService {
    let service = TestService::start().await;
    prepare(&service, count).await;
    service
}

/// Gives a service such instances and such an upstream.
pub(crate) async fn prepare(service: &TestService, count: usize) {
    service
        .upstream
        .always(|received| json_response(200, &json!({"key": received.headers["x-key"].to_str().unwrap()})));
    let mut definition = definition("keyed", &json!({}));
    definition["authType"] = json!("api_key");
    let created = service.post("/api/v1/integration-definitions?publish=true", &definition).await;
    assert_eq!(created.status, 201, "{}", created.json());
    for number in 0..count {
        let instance = json!({
            "id": format!("i{number}"),
            "integrationDefinitionId": "keyed",
            "name": format!("i{number}"),
            "config": {"baseUrl": service.upstream.url()},
        });
        let created = service.post("/api/v1/integration-instances", &instance).await;
        assert_eq!(created.status, 201, "{}", created.json());
        store_credential(service, number).await;
    }
}

pub(crate) async fn store_credential(service: &TestService, number: usize) {
    let data = json!({"key": format!("secret-{number}"), "headerOrParam": "X-Key", "inHeader": true});
    let path = format!("/api/v1/integration-instances/i{number}/credentials");
    let stored = service.post(&path, &json!({"type": "api_key", "data": data})).await;
    assert_eq!(stored.status, 201, "{}", stored.json());
}

/// Executes with the credential as it is in the database now, not as it was cached.
pub(crate) async fn execute_afresh(service: &TestService, number: usize) {
    let path = format!("/api/v1/integration-instances/i{number}");
    let touched = service.with_body("PATCH", &path, &json!({"labels": {"touched": "again"}})).await;
    assert_eq!(touched.status, 200, "{}", touched.json());
    let answer = service.execute(&format!("i{number}"), "call", &json!({})).await;
    assert_eq!(answer.json()["data"]["key"], format!("secret-{number}"), "{}", answer.json());
}

/// Leaves nothing but the active key in the key file.
fn drop_old_keys(folder: &Path) {
    let file = folder.join("data/master.key");
    let text = std::fs::read_to_string(&file).unwrap();
    let active = text.lines().next().unwrap();
    assert!(text.lines().count() > 1 && active.contains(':'));
    std::fs::write(&file, format!("{active}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_beside_a_running_service_keeps_every_credential() {
    let service = service_with_credentials(3).await;
    let folder = service.folder.path().to_owned();
    let said = run(&mut command(&folder, &["keys", "rotate"]));
    assert!(said.contains("k2 is the active master key from now on"), "{said}");
    assert!(said.contains("5 secrets are wrapped anew under k2; 0 were under it before"), "{said}");
    assert!(said.contains("k2: in use, 5 secrets") && said.contains("No secret is under k1."), "{said}");
    for number in 0..3 {
        execute_afresh(&service, number).await;
    }
    store_credential(&service, 0).await;
    drop_old_keys(&folder);
    let service = service.restart(&[], &[]).await.unwrap();
    for number in 0..3 {
        execute_afresh(&service, number).await;
        let status = service.get(&format!("/api/v1/integration-instances/i{number}/credentials/status")).await;
        assert_eq!(status.json()["keyId"], "k2");
    }
}

/// Where a rotation is killed.
#[derive(Clone, Copy)]
pub(crate) enum Moment {
    /// As soon as it said its first word: the key file has its new key, or it goes on with
    /// an earlier rotation.
    FirstWord,
    /// When this many steps are done.
    Steps(usize),
}

pub(crate) fn rotate_and_kill(folder: &Path, moment: Moment, environment: &[(String, String)]) {
    let mut command = command(folder, &["keys", "rotate", "--batch", "3"]);
    let mut child = command.envs(environment.iter().cloned()).spawn().unwrap();
    match moment {
        Moment::FirstWord => drop(BufReader::new(child.stdout.take().unwrap()).lines().next()),
        Moment::Steps(count) => {
            BufReader::new(child.stderr.take().unwrap()).lines().take(count).for_each(drop);
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_again_and_again_loses_nothing() {
    let service = Arc::new(service_with_credentials(CREDENTIALS).await);
    let folder = service.folder.path().to_owned();
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
    let killing = {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || {
            use Moment::{FirstWord, Steps};
            for moment in
                [FirstWord, Steps(1), Steps(7), FirstWord, Steps(2), Steps(23), Steps(1), FirstWord, Steps(40)]
            {
                rotate_and_kill(&folder, moment, &[]);
            }
        })
    };
    killing.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    calling.await.unwrap();
    assert!(calls.load(Ordering::Relaxed) > 0);

    // What was begun is finished, and then there is nothing left to do.
    run(&mut command(&folder, &["keys", "rotate", "--rewrap-only"]));
    let said = run(&mut command(&folder, &["keys", "rotate", "--rewrap-only"]));
    let all = CREDENTIALS + 2;
    assert!(said.starts_with("0 secrets are wrapped anew") && said.contains(&format!("{all} were under it")), "{said}");
    drop_old_keys(&folder);
    let service = Arc::into_inner(service).unwrap().restart(&[], &[]).await.unwrap();
    for number in 0..CREDENTIALS {
        execute_afresh(&service, number).await;
    }
}

#[test]
fn a_rotation_that_was_not_finished_makes_no_second_key() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut command(folder.path(), &["migrate"]));
    let rotate = || run(&mut command(folder.path(), &["keys", "rotate"]));
    let fail = command(folder.path(), &["keys", "rotate"]).output().unwrap();
    assert!(!fail.status.success(), "there is no key yet");
    let file = folder.path().join("data/master.key");
    let key = |id: &str| run(&mut command(folder.path(), &["keys", "generate", "--id", id]));
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        assert!(Command::new("chmod").arg("600").arg(&file).status().unwrap().success());
    };
    let first = key("k1");
    write(&first);
    assert!(rotate().contains("k2 is the active master key"));
    // As if the key had been added and the process killed right after.
    let text = std::fs::read_to_string(&file).unwrap();
    write(&format!("{}{text}", key("k3")));
    let said = rotate();
    assert!(said.contains("2 secrets are not under k3, the active key"), "{said}");
    assert!(said.contains("No secret is under k2, k1."), "{said}");
    assert!(rotate().contains("k4 is the active master key"));
}

#[test]
fn keys_of_the_environment_are_followed_and_never_made() {
    let folder = tempfile::tempdir().unwrap();
    let key = |id: &str| run(&mut command(folder.path(), &["keys", "generate", "--id", id])).trim().to_owned();
    let (first, second) = (key("k1"), key("k2"));
    let rotate =
        |keys: &str| run(command(folder.path(), &["keys", "rotate"]).env("INTEGRATION_SERVICE_MASTER_KEY", keys));
    let said = rotate(&first);
    assert!(said.contains("0 secrets are wrapped anew under k1; 2 were"), "{said}");
    assert!(said.contains("`integration-service keys generate --id k2`"), "{said}");
    let said = rotate(&format!("{second},{first}"));
    assert!(said.contains("2 secrets are wrapped anew under k2") && said.contains("No secret is under k1."), "{said}");
    let said = rotate(&second);
    assert!(said.contains("0 secrets are wrapped anew under k2; 2 were"), "{said}");
    assert!(!said.contains(&first[3..]) && !said.contains(&second[3..]), "a key is shown: {said}");
}

#[test]
fn migrate_says_what_it_applied() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(&mut command(folder.path(), &["migrate"]));
    assert!(first.lines().all(|line| line.starts_with("applied ")) && !first.is_empty(), "{first}");
    assert_eq!(run(&mut command(folder.path(), &["migrate"])).trim(), "The schema is up to date.");
}
