use integration_model::execution::ExecutionStatus;
use integration_store::{EventCursor, EventFilter, ExecutionFilter};

use crate::fixtures::{add_instance, execution, publish_petshop, queued, record};
use crate::harness::{DAY, Harness, on_both};

on_both!(retention_drops_whole_days, another_process_sees_new_days_and_misses_dropped_ones,);

async fn retention_drops_whole_days(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "i1").await;
    assert!(store.drop_expired_partitions().await.expect("nothing to drop").is_empty());
    let waiting = queued(store, "i1");
    store.enqueue(&waiting, &"{}".into(), b"{}").await.expect("enqueued");
    let first = execution(store, "i1");
    store.record(record(first.clone())).await.expect("recorded");
    harness.clock.advance(4 * DAY);
    let last = execution(store, "i1");
    store.record(record(last.clone())).await.expect("recorded");

    // Events are kept for three days, executions for seven.
    let dropped = store.drop_expired_partitions().await.expect("dropped");
    assert_eq!(dropped, ["events_p20260310"]);
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 1);
    assert!(store.execution(first.id).await.expect("read").is_some());

    harness.clock.advance(4 * DAY);
    let dropped = store.drop_expired_partitions().await.expect("dropped");
    assert!(dropped.contains(&"executions_p20260310".to_owned()), "{dropped:?}");
    assert!(!dropped.iter().any(|name| name.starts_with("executions_p20260314")), "{dropped:?}");
    assert!(store.execution(first.id).await.expect("read").is_none());
    assert!(store.execution(last.id).await.expect("read").is_some());
    assert_eq!(store.list_executions(&ExecutionFilter::default(), None, 10).await.expect("listed").len(), 1);
    assert!(store.claim_queued("w", 10, DAY).await.expect("claimed").is_empty(), "its row went with its day");
}

async fn another_process_sees_new_days_and_misses_dropped_ones(harness: &Harness) {
    let store = &harness.store;
    let second = harness.second().await;
    let first = execution(store, "i1");
    store.record(record(first.clone())).await.expect("recorded");
    harness.clock.advance(3 * DAY);
    let later = execution(store, "i1");
    store.record(record(later.clone())).await.expect("recorded");
    assert_eq!(second.execution(later.id).await.expect("read").expect("there").status, ExecutionStatus::Success);
    assert_eq!(second.list_executions(&ExecutionFilter::default(), None, 10).await.expect("listed").len(), 2);
    assert!(second.execution(first.id).await.expect("read").is_some());
    harness.clock.advance(7 * DAY);
    store.drop_expired_partitions().await.expect("dropped");
    assert!(second.execution(first.id).await.expect("read").is_none());
    second.close().await;
}
