use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use integration_model::ErrorCode;
use integration_model::audit::AuditAction;
use integration_model::execution::{Execution, ExecutionError, ExecutionStatus};
use integration_store::{EventCursor, EventFilter, StoreError};
use serde_json::json;

use crate::fixtures::{add_instance, audit, executed, publish_petshop, queued, record};
use crate::harness::{Harness, on_both};

on_both!(
    an_execution_waits_runs_and_ends,
    no_execution_is_claimed_twice,
    an_ended_lease_is_taken_over_and_the_first_end_counts,
    a_requeued_execution_waits_again,
    only_a_waiting_execution_is_cancelled,
);

const LEASE: Duration = Duration::from_secs(30);

async fn enqueue(harness: &Harness) -> Execution {
    let execution = queued(&harness.store, "i1");
    let params = Bytes::from_static(br#"{"petId":1}"#);
    harness.store.enqueue(&execution, &params, br#"{"timeoutMs":5}"#).await.expect("enqueued");
    execution
}

async fn with_instance(harness: &Harness) {
    publish_petshop(&harness.store).await;
    add_instance(&harness.store, "i1").await;
}

async fn status(harness: &Harness, execution: &Execution) -> ExecutionStatus {
    harness.store.execution(execution.id).await.expect("read").expect("there").status
}

async fn an_execution_waits_runs_and_ends(harness: &Harness) {
    let store = &harness.store;
    with_instance(harness).await;
    let first = enqueue(harness).await;
    let second = enqueue(harness).await;
    assert!(matches!(store.enqueue(&first, &Bytes::new(), b"").await, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(status(harness, &first).await, ExecutionStatus::Queued);
    let params = store.execution_params(first.id).await.expect("read").expect("kept");
    assert_eq!(params.as_ref(), br#"{"petId":1}"#);

    let claimed = store.claim_queued("w1", 1, LEASE).await.expect("claimed");
    let [claimed] = claimed.as_slice() else { panic!("expected one, got {claimed:?}") };
    assert_eq!((claimed.execution.id, claimed.execution.status), (first.id, ExecutionStatus::Running));
    assert_eq!(
        (claimed.params.as_ref(), claimed.request.as_ref()),
        (&br#"{"petId":1}"#[..], &br#"{"timeoutMs":5}"#[..])
    );
    assert_eq!(status(harness, &first).await, ExecutionStatus::Running);
    assert_eq!(status(harness, &second).await, ExecutionStatus::Queued);

    let mut end = record(Execution { status: ExecutionStatus::Success, ..claimed.execution.clone() });
    end.from_queue = true;
    store.record(end.clone()).await.expect("recorded");
    assert_eq!(status(harness, &first).await, ExecutionStatus::Success);
    assert!(store.execution_params(first.id).await.expect("read").is_some(), "kept for a replay");
    assert!(matches!(store.record(end).await, Err(StoreError::Conflict(_))));
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 1, "ended once");
}

async fn no_execution_is_claimed_twice(harness: &Harness) {
    with_instance(harness).await;
    let second = harness.second().await;
    let mut expected = BTreeSet::new();
    for _ in 0..20 {
        expected.insert(enqueue(harness).await.id);
    }
    let workers: Vec<_> = (0..6)
        .map(|number| {
            let store = if number % 2 == 0 { harness.store.clone() } else { second.clone() };
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                loop {
                    let batch = store.claim_queued(&format!("w{number}"), 3, LEASE).await.expect("claimed");
                    if batch.is_empty() {
                        return claimed;
                    }
                    assert!(batch.windows(2).all(|pair| pair[0].execution.id < pair[1].execution.id));
                    claimed.extend(batch.into_iter().map(|queued| queued.execution.id));
                }
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for worker in workers {
        claimed.extend(worker.await.expect("no panic"));
    }
    assert_eq!(claimed.len(), 20);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), expected);
    second.close().await;
}

async fn an_ended_lease_is_taken_over_and_the_first_end_counts(harness: &Harness) {
    let store = &harness.store;
    with_instance(harness).await;
    let execution = enqueue(harness).await;
    let claimed = store.claim_queued("w1", 5, LEASE).await.expect("claimed");
    assert!(store.expired_leases("w2", 5, LEASE).await.expect("asked").is_empty());
    harness.clock.advance(LEASE / 2);
    assert!(store.extend_leases("w1", &[execution.id], LEASE).await.expect("extended").is_empty());
    assert!(store.extend_leases("w1", &[], LEASE).await.expect("extended").is_empty());
    harness.clock.advance(LEASE);
    assert!(store.expired_leases("w2", 5, LEASE).await.expect("asked").is_empty(), "it was extended");
    harness.clock.advance(Duration::from_secs(1));
    let taken = store.expired_leases("w2", 5, LEASE).await.expect("asked");
    assert_eq!(taken[0].execution.id, execution.id);
    assert!(store.expired_leases("w3", 5, LEASE).await.expect("asked").is_empty());
    assert_eq!(store.extend_leases("w1", &[execution.id], LEASE).await.expect("asked"), [execution.id]);

    let mut unknown = record(Execution { status: ExecutionStatus::Error, ..taken[0].execution.clone() });
    unknown.from_queue = true;
    store.record(unknown).await.expect("recorded");
    let mut late = record(Execution { status: ExecutionStatus::Success, ..claimed[0].execution.clone() });
    late.from_queue = true;
    assert!(matches!(store.record(late).await, Err(StoreError::Conflict(_))));
    assert_eq!(status(harness, &execution).await, ExecutionStatus::Error);
}

async fn a_requeued_execution_waits_again(harness: &Harness) {
    let store = &harness.store;
    with_instance(harness).await;
    let execution = enqueue(harness).await;
    assert!(!store.requeue(execution.id).await.expect("asked"), "it waits already");
    store.claim_queued("w1", 5, LEASE).await.expect("claimed");
    assert!(store.requeue(execution.id).await.expect("requeued"));
    assert_eq!(status(harness, &execution).await, ExecutionStatus::Queued);
    assert_eq!(store.claim_queued("w2", 5, LEASE).await.expect("claimed").len(), 1);
}

async fn only_a_waiting_execution_is_cancelled(harness: &Harness) {
    let store = &harness.store;
    with_instance(harness).await;
    let running = enqueue(harness).await;
    store.claim_queued("w1", 1, LEASE).await.expect("claimed");
    let waiting = enqueue(harness).await;
    let ended = |execution: &Execution| Execution {
        status: ExecutionStatus::Error,
        error: Some(ExecutionError {
            code: ErrorCode::Cancelled,
            message: "cancelled".to_owned(),
            details: json!({}),
            retryable: false,
            retry_after: None,
        }),
        finished_at: Some(store.clock().now()),
        ..execution.clone()
    };
    let cancel = async |execution: &Execution| {
        store
            .cancel_queued(
                execution.id,
                ended(execution),
                vec![executed(execution)],
                audit(AuditAction::ExecutionCancelled),
            )
            .await
            .expect("asked")
    };
    assert!(!cancel(&running).await);
    assert!(cancel(&waiting).await);
    assert!(!cancel(&waiting).await);
    assert_eq!(status(harness, &running).await, ExecutionStatus::Running);
    assert_eq!(status(harness, &waiting).await, ExecutionStatus::Error);
    assert!(store.claim_queued("w1", 5, LEASE).await.expect("claimed").is_empty());
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 1);
}
