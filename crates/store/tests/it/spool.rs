//! What is in the spool before it is in the logs: executions of a process.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use integration_model::audit::AuditOutcome;
use integration_model::execution::Execution;
use integration_store::{
    AuditFilter, AuditOrder, EventCursor, EventFilter, ExecutionFilter, ExecutionRecord, IdempotencyClaim,
    IdempotencyState, Store, StoreOptions,
};

use crate::audit::{begin, prepared, with_use};
use crate::fixtures::{execution, instance_id, record};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    who_reads_finds_what_was_recorded_before,
    what_the_database_does_not_take_waits_and_callers_hear_of_it,
    a_record_that_is_too_long_for_a_line_waits_for_its_commit,
    what_is_recorded_later_tells_its_event_later,
    what_changes_more_than_the_log_is_seen_at_once,
);

/// A process with a spool.
pub(crate) async fn open(harness: &Harness, folder: &Path) -> Store {
    let options = StoreOptions { spool_folder: Some(folder.to_owned()), ..harness.options() };
    Store::open(options).await.expect("opened")
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|file| file.expect("a file").path()).collect()
}

/// Puts a copy of what a process wrote down where another one looks for what dead ones left.
fn leave_copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for (number, segment) in segments(from).into_iter().enumerate() {
        std::fs::copy(segment, to.join(format!("dead-{number}.spool"))).expect("copied");
    }
}

pub(crate) async fn rows(store: &Store) -> (usize, usize, usize) {
    let executions = store.list_executions(&ExecutionFilter::default(), None, 100).await.expect("executions").len();
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 100).await.expect("events");
    let executed = events.iter().filter(|event| event.event_type.as_str() == "integration.method.executed").count();
    let audit = store.list_audit(&AuditFilter::default(), AuditOrder::NewestFirst, None, 100).await.expect("audit");
    let of_executions = audit.entries.iter().filter(|entry| entry.execution_id.is_some());
    (executions, executed, of_executions.count())
}

/// An execution that used the credential, with params that need escapes.
pub(crate) fn record_of(store: &Store, credential: uuid::Uuid) -> (Execution, ExecutionRecord) {
    let row = execution(store, "pets");
    let used = begin(store, &row, credential);
    let record = ExecutionRecord { params: Some("{\"name\": \"Ti\\\"ll\"}".into()), ..with_use(row.clone(), used) };
    (row, record)
}

async fn who_reads_finds_what_was_recorded_before(harness: &Harness) {
    let folder = tempfile::tempdir().expect("a folder");
    let credential = prepared(&harness.store).await;
    let store = open(harness, folder.path()).await;
    for number in 1..=30 {
        let (row, record) = record_of(&store, credential);
        store.record(record).await.expect("recorded");
        assert!(store.execution(row.id).await.expect("read").is_some(), "execution {number}");
        assert_eq!(rows(&store).await, (number, number, number));
    }
    store.write_uses().await.expect("written");
    let stored = store.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!(stored.use_count, 30);
    store.close().await;
    assert_eq!(segments(folder.path()).len(), 0, "all is committed");
}

#[tokio::test]
async fn a_caller_does_not_wait_for_another_process_that_writes() {
    let harness = Harness::sqlite().await;
    let folder = tempfile::tempdir().expect("a folder");
    let credential = prepared(&harness.store).await;
    let store = open(&harness, folder.path()).await;
    let lock = harness.hold_writers().await;
    let (row, record) = record_of(&store, credential);
    store.record(record).await.expect("recorded while the lock is held");
    drop(lock);
    assert!(store.execution(row.id).await.expect("read").is_some());
    store.close().await;
    harness.finish().await;
}

#[tokio::test]
async fn what_a_killed_process_did_not_commit_is_committed_once() {
    let (of_dead, harness) = (Harness::sqlite().await, Harness::sqlite().await);
    let (folder, left) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let credential = prepared(&of_dead.store).await;
    let dead = open(&of_dead, folder.path()).await;
    let (row, record) = record_of(&dead, credential);
    dead.record(record).await.expect("recorded");
    dead.record(crate::fixtures::record(execution(&dead, "pets"))).await.expect("recorded");
    let unfinished = begin(&dead, &execution(&dead, "pets"), credential);
    leave_copy(folder.path(), left.path());

    // To a database that has none of it, as if the process had died before its commit.
    prepared(&harness.store).await;
    let next = open(&harness, left.path()).await;
    assert_eq!(rows(&next).await, (2, 2, 3));
    let read = next.execution(row.id).await.expect("read").expect("recovered");
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&row).unwrap());
    let params = next.execution_params(row.id).await.expect("read").expect("kept");
    assert_eq!(params, "{\"name\": \"Ti\\\"ll\"}");
    let audit = next.list_audit(&AuditFilter::default(), AuditOrder::NewestFirst, None, 100).await.expect("audit");
    let of_row = audit.entries.iter().find(|entry| entry.execution_id == Some(row.id)).expect("its use");
    assert_eq!((of_row.outcome, of_row.reason.as_str()), (AuditOutcome::Success, "execute getPet"));
    assert_eq!(next.verify_audit(None, |_| ()).await.expect("read").fault, None);
    assert_eq!(segments(left.path()).len(), 0, "the spool is gone");

    // To the one that has it: as if it had died between its commit and the end of the segment.
    leave_copy(folder.path(), left.path());
    let other = open(&of_dead, left.path()).await;
    assert_eq!(rows(&other).await, (2, 2, 3));
    other.close().await;
    // And once more.
    leave_copy(folder.path(), left.path());
    assert_eq!(next.recover_spool().await.expect("recovered"), 0);
    assert_eq!(rows(&next).await, (2, 2, 3));
    unfinished.discard();
    next.close().await;
    dead.close().await;
    of_dead.finish().await;
    harness.finish().await;
}

async fn what_the_database_does_not_take_waits_and_callers_hear_of_it(harness: &Harness) {
    let folder = tempfile::tempdir().expect("a folder");
    let credential = prepared(&harness.store).await;
    let store = open(harness, folder.path()).await;
    let table = "events_p20260310";
    harness.tamper(&format!("alter table {table} rename to elsewhere")).await;
    let (first, of_first) = record_of(&store, credential);
    store.record(of_first).await.expect("it is in the spool");
    assert!(store.execution(first.id).await.expect("read").is_none(), "its batch failed");
    let (_, of_second) = record_of(&store, credential);
    store.record(of_second).await.expect_err("the journal falters");

    harness.tamper(&format!("alter table elsewhere rename to {table}")).await;
    store.record(record(execution(&store, "pets"))).await.expect("recorded");
    assert_eq!(store.recover_spool().await.expect("recovered"), 2, "the first, and the use of the second");
    assert!(store.execution(first.id).await.expect("read").is_some());
    assert_eq!(rows(&store).await, (2, 2, 3));
    store.close().await;
    assert_eq!(segments(folder.path()).len(), 0);
}

async fn a_record_that_is_too_long_for_a_line_waits_for_its_commit(harness: &Harness) {
    let folder = tempfile::tempdir().expect("a folder");
    prepared(&harness.store).await;
    let store = open(harness, folder.path()).await;
    let mut long = record(execution(&store, "pets"));
    long.params = Some(format!("{:?}", "\\".repeat(32_766)).into());
    let id = long.execution.id;
    store.record(long).await.expect("recorded");
    assert_eq!(segments(folder.path()).len(), 0);
    assert!(store.execution_params(id).await.expect("read").is_some());
    store.close().await;
}

async fn what_is_recorded_later_tells_its_event_later(harness: &Harness) {
    let folder = tempfile::tempdir().expect("a folder");
    prepared(&harness.store).await;
    let store = open(harness, folder.path()).await;
    // Alone by the spool, then ever more at once, until the thread commits them itself.
    let mut order = Vec::new();
    for burst in [1, 1, 40, 1, 60, 60, 60, 60, 1, 60, 1, 1] {
        let named = |number| format!("{}-{number}", order.len());
        let records: Vec<ExecutionRecord> = (0..burst)
            .map(|number| record(Execution { correlation_id: named(number), ..execution(&store, "pets") }))
            .collect();
        order.push(records.iter().map(|record| record.execution.correlation_id.clone()).collect::<Vec<_>>());
        let recorded = records.into_iter().map(|record| {
            let store = store.clone();
            tokio::spawn(async move { store.record(record).await })
        });
        for task in recorded.collect::<Vec<_>>() {
            task.await.expect("it runs").expect("recorded");
        }
    }
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 1000).await.expect("events");
    let told: Vec<&str> = events
        .iter()
        .filter(|event| event.event_type.as_str() == "integration.method.executed")
        .map(|event| event.metadata.correlation_id.as_str())
        .collect();
    assert_eq!(told.len(), order.iter().map(Vec::len).sum::<usize>());
    let mut rest = told.as_slice();
    for burst in &order {
        let (of_burst, later) = rest.split_at(burst.len());
        assert!(burst.iter().all(|id| of_burst.contains(&id.as_str())), "a burst of {} came too late", burst.len());
        rest = later;
    }
    store.close().await;
}

async fn what_changes_more_than_the_log_is_seen_at_once(harness: &Harness) {
    let folder = tempfile::tempdir().expect("a folder");
    prepared(&harness.store).await;
    let store = open(harness, folder.path()).await;
    let row = execution(&store, "pets");
    let claim = IdempotencyClaim { execution_id: row.id, ..crate::idempotency::claim(&store, "pets", "k") };
    assert_eq!(store.claim_idempotency(&claim, DAY).await.expect("asked"), IdempotencyState::Claimed);
    let answer = Bytes::from_static(b"{}");
    let answered = IdempotencyState::Answered { execution_id: row.id, answer: answer.clone() };
    let record = ExecutionRecord { idempotency: Some(claim.clone()), answer: Some(answer), ..record(row) };
    store.record(record).await.expect("recorded");
    // Another process sees it too.
    assert_eq!(harness.store.claim_idempotency(&claim, DAY).await.expect("asked"), answered);
    store.close().await;
}
