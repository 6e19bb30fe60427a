//! The conformance suite, used as those use it who write an adapter of their own: on one that
//! does all as it should, and on ones that each get one thing wrong.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod adapter;
mod server;

use std::sync::Arc;

use futures_util::future::join_all;
use integration_engine::conformance::{Report, Sample, Verdict, check, claims};
use integration_engine::network::EgressPolicy;
use serde_json::{Value, json};

use adapter::{Flaw, NotesAdapter};
use server::NotesServer;

const PASSWORD: &str = "the-right-secret";

fn sample(server: &NotesServer) -> Value {
    let echo = json!({"type": "object", "required": ["text"], "properties": {"text": {}}});
    let credential = |password: &str| json!({"type": "basic", "data": {"username": "me", "password": password}});
    json!({
        "definition": {
            "id": "notes", "name": "Notes", "version": "1.0.0", "type": "notes", "authType": "basic",
            "methods": [
                {"name": "echo", "paramSchema": echo, "operation": {"command": "ECHO", "param": "text"}},
                {"name": "add", "operation": {"command": "ADD"}},
                {"name": "count", "operation": {"command": "COUNT"}},
                {"name": "large", "operation": {"command": "LARGE"}},
                {"name": "wait", "operation": {"command": "WAIT"}},
            ],
        },
        "config": {"host": "127.0.0.1", "port": server.address.port()},
        "credential": credential(PASSWORD),
        "calls": [
            {"method": "echo", "params": {"text": "one"}, "data": "one"},
            {"method": "echo", "params": {"text": "two"}, "data": "two"},
        ],
        "write": {"method": "add", "witness": {"method": "count"}},
        "invalidParams": [{"params": {}, "pointer": "/params"}, {"params": {"text": "a\nb"}, "pointer": "/params/text"}],
        "invalidCredentials": [{"type": "api_key", "data": {"key": "an-unfit-secret"}}],
        "refusedCredential": {"credential": credential("the-wrong-secret")},
        "limited": {"method": "wait", "params": {}},
        "tooLarge": {"method": "large", "params": {}},
        "patienceMs": 200,
    })
}

async fn report(flaw: Option<Flaw>) -> Report {
    let server = NotesServer::start(PASSWORD).await;
    let sample = Sample::from_json(sample(&server)).unwrap();
    let egress = EgressPolicy::parse(["127.0.0.1"]).unwrap();
    check(Arc::new(NotesAdapter::with(flaw)), sample, egress).await.unwrap()
}

#[tokio::test]
async fn an_adapter_that_keeps_its_promises_passes_all_checks() {
    let report = report(None).await;
    assert!(report.checks.iter().all(|check| check.verdict == Verdict::Passed), "{report}");
    assert!(report.checks.iter().map(|check| (check.name, check.claim)).eq(claims()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_promise_is_found_by_the_check_that_is_there_for_it() {
    let found = [
        (Flaw::DefaultThatDoesNotFit, "description"),
        (Flaw::TakesUnknownMembers, "operation"),
        (Flaw::TakesAnyConfig, "config"),
        (Flaw::TakesAnyCredential, "credential"),
        (Flaw::SendsBeforeItChecks, "params"),
        (Flaw::Panics, "hostile params"),
        (Flaw::ShowsSecretInDryRuns, "dry run"),
        (Flaw::AddsInTests, "connection test"),
        (Flaw::ForgetsItsText, "execution"),
        (Flaw::KeepsClosedConnections, "closed connection"),
        (Flaw::TellsRefusedCredentialsAsFailures, "refused credential"),
        (Flaw::ShowsSecretInErrors, "refused credential"),
        (Flaw::TellsLimitsAsFailures, "limit"),
        (Flaw::CutsLargeAnswers, "too large"),
        (Flaw::GoesAroundThePolicy, "egress"),
        (Flaw::DoesNotRepeat, "nobody there"),
        (Flaw::LooksAtNoClock, "deadline passed"),
        (Flaw::TellsTimeoutsAsFailures, "no answer"),
        (Flaw::KeepsLateConnections, "late answer"),
        (Flaw::TakesHalfAnAnswer, "lost answer"),
        (Flaw::TakesAnyAnswer, "malformed answer"),
        (Flaw::SaysThatNothingHappened, "lost write"),
    ]
    .map(|(flaw, expected)| async move {
        let report = report(Some(flaw)).await;
        let failed: Vec<&str> = report.failures().map(|check| check.name).collect();
        assert!(failed.contains(&expected), "{flaw:?} is not found by {expected}: {report}");
    });
    join_all(found).await;
}

#[tokio::test]
async fn a_sample_that_cannot_be_used_says_why() {
    let server = NotesServer::start(PASSWORD).await;
    let unknown = Sample::from_json(json!({"definition": {}, "cals": []})).err().unwrap();
    assert!(unknown.pointer == "/definition" || unknown.message.contains("cals"), "{unknown}");
    let mut other = sample(&server);
    other["definition"]["type"] = json!("http");
    let other = Sample::from_json(other).unwrap();
    let unusable = check(Arc::new(NotesAdapter::with(None)), other, EgressPolicy::public_only()).await.unwrap_err();
    assert_eq!(unusable.to_string(), "the sample cannot be used: the definition is of type http, the adapter notes");

    let mut wrong = sample(&server);
    wrong["definition"]["methods"][0]["operation"] = json!({"command": "SHOUT"});
    let wrong = Sample::from_json(wrong).unwrap();
    let egress = EgressPolicy::parse(["127.0.0.1"]).unwrap();
    let report = check(Arc::new(NotesAdapter::with(None)), wrong, egress).await.unwrap();
    let text = report.to_string();
    assert!(text.contains("definition: FAILED\n  /methods/0/operation/command: "), "{text}");
    assert!(text.contains("execution: skipped: the definition cannot be published"), "{text}");
}
