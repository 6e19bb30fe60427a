//! The demo as a person runs it: the real binary, its words and its traces.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The demo with `folder` for everything that it may leave behind.
fn demo(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_integration-service"))
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("TMPDIR", folder)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn the_demo_shows_the_way_of_a_call_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--once"]).wait_with_output().unwrap();
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{text}{error}");
    assert_eq!(error, "");
    for line in [
        "POST /api/v1/integration-definitions/github/versions/1.0.0/publish  →  200",
        "\"authorization\": \"[redacted]\"",
        "\"name\": \"octocat/hello-world\"",
        "\"cached\": true",
        "\"pages\": 3",
        "\"attempts\": 3",
        "\"pointer\": \"/params/perPage\"",
        "Idempotency-Replayed: true",
        "Location: /api/v1/executions/",
        "listLanguages         SUCCESS  -                        3      no       200",
        "\"type\": \"integration.method.executed\"",
        "integration_executions_total{integration=\"gh\",method=\"getRepository\",status=\"SUCCESS\",code=\"\"} 2",
        "/status/metrics",
        "admin key  isk_",
        "its temporary folder is removed",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("ghp_"), "the credential is shown: {text}");
    assert!(!text.contains('\u{1b}'), "colours are for terminals: {text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 100 && line.trim_end() == line, "{line:?}");
    }
    assert!(is_empty(folder.path()));
}

#[test]
fn without_once_the_demo_stays_up_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = demo(folder.path(), &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.by_ref().find_map(|line| Some(line.trim().strip_prefix("API")?.trim().to_owned())).unwrap();
    assert!(lines.any(|line| line.starts_with("The service stays up")));
    let health =
        Command::new(env!("CARGO_BIN_EXE_integration-service")).args(["health", "--url", &url]).output().unwrap();
    assert!(health.status.success());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(is_empty(folder.path()));
}

#[test]
fn a_demo_that_fails_says_why_and_keeps_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut child = demo(folder.path(), &["--once", "--port", &port]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("the demo failed; its data and log are kept in"), "{error}");
    assert!(error.contains(&port), "{error}");
    assert!(!is_empty(folder.path()));
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = demo(folder.path(), &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().is_some());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // It was interrupted midway, or had just shown everything.
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 1)));
    assert!(is_empty(folder.path()));
}
