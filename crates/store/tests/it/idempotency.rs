use std::time::Duration;

use bytes::Bytes;
use integration_model::ExecutionId;
use integration_store::{IdempotencyClaim, IdempotencyState, Store};

use crate::fixtures::{add_instance, instance_id, publish_petshop, queued, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    a_key_is_claimed_once_and_answers_for_its_time,
    a_released_key_can_be_claimed_again,
    claims_of_dead_processes_are_found,
);

pub(crate) fn claim(store: &Store, instance: &str, key: &str) -> IdempotencyClaim {
    IdempotencyClaim {
        tenant: tenant("acme"),
        instance: instance_id(instance),
        method: "getPet".to_owned(),
        key: key.to_owned(),
        fingerprint: [1; 32],
        execution_id: ExecutionId(store.ids().next()),
    }
}

async fn a_key_is_claimed_once_and_answers_for_its_time(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "i1").await;
    let first = claim(store, "i1", "k");
    let try_claim = async |claim: &IdempotencyClaim| store.claim_idempotency(claim, DAY).await.expect("asked");
    assert_eq!(try_claim(&first).await, IdempotencyState::Claimed);
    let claimed_at = harness.clock.now();
    let second = claim(store, "i1", "k");
    let in_progress = IdempotencyState::InProgress { execution_id: first.execution_id, claimed_at };
    assert_eq!(try_claim(&second).await, in_progress);
    let other = IdempotencyClaim { fingerprint: [2; 32], ..claim(store, "i1", "k") };
    assert_eq!(try_claim(&other).await, IdempotencyState::Mismatch);
    let other_method = IdempotencyClaim { method: "m".to_owned(), fingerprint: [2; 32], ..claim(store, "i1", "k") };
    assert_eq!(try_claim(&other_method).await, IdempotencyState::Claimed);

    assert!(!store.finish_abandoned(&second, b"x").await.expect("asked"), "not the claim's execution");
    assert!(store.finish_abandoned(&first, b"answer").await.expect("finished"));
    assert!(!store.finish_abandoned(&first, b"other").await.expect("asked"));
    let answered =
        IdempotencyState::Answered { execution_id: first.execution_id, answer: Bytes::from_static(b"answer") };
    harness.clock.advance(DAY - Duration::from_secs(1));
    assert_eq!(try_claim(&second).await, answered);
    harness.clock.advance(Duration::from_secs(1));
    assert_eq!(try_claim(&other).await, IdempotencyState::Claimed, "the first one's time has passed");
    assert_eq!(store.purge_expired_claims(100).await.expect("purged"), 1);
    harness.clock.advance(DAY);
    assert_eq!(store.purge_expired_claims(100).await.expect("purged"), 1);
}

async fn a_released_key_can_be_claimed_again(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "i1").await;
    let first = claim(store, "i1", "k");
    let second = claim(store, "i1", "k");
    let try_claim = async |claim: &IdempotencyClaim| store.claim_idempotency(claim, DAY).await.expect("asked");
    assert_eq!(try_claim(&first).await, IdempotencyState::Claimed);
    store.release_idempotency(&second).await.expect("asked");
    assert!(matches!(try_claim(&second).await, IdempotencyState::InProgress { .. }), "not the second's to release");
    store.release_idempotency(&first).await.expect("released");
    assert_eq!(try_claim(&second).await, IdempotencyState::Claimed);
    store.finish_abandoned(&second, b"{}").await.expect("finished");
    store.release_idempotency(&second).await.expect("asked");
    assert!(matches!(try_claim(&first).await, IdempotencyState::Answered { .. }), "an answer stays");
}

async fn claims_of_dead_processes_are_found(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "i1").await;
    let dead = harness.second().await;
    let lease = Duration::from_secs(30);
    store.heartbeat(lease).await.expect("alive");
    dead.heartbeat(lease).await.expect("alive");
    let of_dead = claim(&dead, "i1", "dead");
    let of_living = claim(store, "i1", "living");
    let waiting = queued(&dead, "i1");
    dead.enqueue(&waiting, &Bytes::from_static(b"{}"), b"{}").await.expect("enqueued");
    let of_queued = IdempotencyClaim { execution_id: waiting.id, ..claim(&dead, "i1", "queued") };
    dead.claim_idempotency(&of_dead, DAY).await.expect("claimed");
    dead.claim_idempotency(&of_queued, DAY).await.expect("claimed");
    store.claim_idempotency(&of_living, DAY).await.expect("claimed");
    dead.close().await;
    harness.clock.advance(Duration::from_secs(1));
    let now = harness.clock.now();
    assert!(store.abandoned_claims(now, 10).await.expect("asked").is_empty(), "the lease has not ended");
    harness.clock.advance(lease);
    store.heartbeat(lease).await.expect("alive");
    assert_eq!(store.abandoned_claims(now, 10).await.expect("asked"), std::slice::from_ref(&of_dead));
    store.finish_abandoned(&of_dead, b"unknown").await.expect("finished");
    assert!(store.abandoned_claims(now, 10).await.expect("asked").is_empty());
    assert_ne!(store.worker(), dead.worker());
}
