use std::time::Duration;

use bytes::Bytes;
use integration_model::ErrorCode;
use integration_model::execution::{Execution, ExecutionError, ExecutionMode, ExecutionStatus};
use integration_store::{
    EventCursor, EventFilter, ExecutionFilter, ExecutionRecord, IdempotencyClaim, IdempotencyState, MAX_KEPT_PARAMS,
    StoreError,
};
use serde_json::json;
use serde_json::value::RawValue;

use crate::events::read_on_while;
use crate::fixtures::{add_instance, execution, instance_id, publish_petshop, queued, record, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    an_execution_reads_back_as_it_was_recorded,
    records_of_many_callers_are_all_committed_with_their_events,
    records_of_two_processes_keep_one_order_of_events,
    a_record_is_committed_though_its_caller_went_away,
    a_bad_record_does_not_fail_the_others,
    closing_commits_what_was_taken,
    the_answer_of_a_claim_is_recorded_with_the_execution,
    lists_filter_and_go_on_from_a_cursor,
);

async fn an_execution_reads_back_as_it_was_recorded(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let instance = add_instance(store, "i1").await;
    let error = ExecutionError {
        code: ErrorCode::Timeout,
        message: "no \0 answer, \"quoted\" \\ é 🦀".to_owned(),
        details: json!({"outcome": "unknown", "excerpt": "a\u{0}b"}),
        retryable: true,
        retry_after: Some(3),
    };
    let written = Execution {
        status: ExecutionStatus::Error,
        mode: ExecutionMode::Async,
        error: Some(error.clone()),
        attempts: 3,
        cached: true,
        upstream_status: None,
        data_size: None,
        task_id: Some("task".to_owned()),
        replay_of: Some(integration_model::ExecutionId(store.ids().next())),
        data: Some(RawValue::from_string("{\"n\": 1.10}".to_owned()).expect("JSON")),
        correlation_id: "a\0b".to_owned(),
        ..execution(store, "i1")
    };
    let mut record = record(written.clone());
    record.params = Some(Bytes::from_static(br#"{"petId": 12345678901234567890}"#));
    store.record(record).await.expect("recorded");

    let read = store.execution(written.id).await.expect("read").expect("there");
    let mut expected = serde_json::to_value(&written).expect("JSON");
    expected["correlationId"] = json!("a\u{FFFD}b");
    let mut found = serde_json::to_value(&read).expect("JSON");
    assert_eq!(found["error"]["details"], error.details);
    // The message is inside a JSON text, which holds a NUL escaped.
    assert_eq!(found, expected);
    found["data"].take();
    assert_eq!(read.data.expect("data").get(), "{\"n\": 1.10}");
    let params = store.execution_params(written.id).await.expect("read").expect("kept");
    assert_eq!(params.as_ref(), br#"{"petId": 12345678901234567890}"#);
    assert_eq!(store.instance(&instance.id).await.expect("read").expect("there").last_used_at, written.finished_at);

    let mut large = crate::fixtures::record(execution(store, "i1"));
    large.params = Some(vec![b' '; MAX_KEPT_PARAMS + 1].into());
    let id = large.execution.id;
    store.record(large).await.expect("recorded");
    assert_eq!(store.execution_params(id).await.expect("read"), None);
    let unknown = integration_model::ExecutionId(uuid::Uuid::max());
    assert!(store.execution(unknown).await.expect("read").is_none());
    assert!(store.execution_params(unknown).await.expect("read").is_none());
}

async fn records_of_many_callers_are_all_committed_with_their_events(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    for number in 0..3 {
        add_instance(store, &format!("i{number}")).await;
    }
    let mut signal = store.event_signal();
    signal.mark_unchanged();
    let callers: Vec<_> = (0..700)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let row = execution(&store, &format!("i{}", number % 3));
                let id = row.id;
                store.record(record(row)).await.expect("recorded");
                assert!(store.execution(id).await.expect("read").is_some(), "committed before the answer");
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    assert!(signal.has_changed().expect("open"));
    let filter = ExecutionFilter::default();
    assert_eq!(store.count_executions(&filter, 10_000).await.expect("counted"), 700);
    assert_eq!(store.count_executions(&filter, 100).await.expect("counted"), 100);
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 1000).await.expect("listed");
    assert_eq!(events.len(), 700);
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
}

async fn records_of_two_processes_keep_one_order_of_events(harness: &Harness) {
    let second = harness.second().await;
    let writers: Vec<_> = (0..6)
        .map(|number| {
            let store = if number % 2 == 0 { harness.store.clone() } else { second.clone() };
            tokio::spawn(async move {
                for _ in 0..10 {
                    store.record(record(execution(&store, "i1"))).await.expect("recorded");
                }
            })
        })
        .collect();
    read_on_while(&harness.store, writers).await;
    second.close().await;
}

async fn a_record_is_committed_though_its_caller_went_away(harness: &Harness) {
    let store = &harness.store;
    let row = execution(store, "i1");
    let id = row.id;
    let held = harness.hold_writers().await;
    // Polled once, so that the record is on its way, then dropped.
    let mut caller = Box::pin(store.record(record(row)));
    assert!(std::future::poll_fn(|context| std::task::Poll::Ready(caller.as_mut().poll(context))).await.is_pending());
    drop(caller);
    drop(held);
    store.record(record(execution(store, "i1"))).await.expect("recorded");
    assert!(store.execution(id).await.expect("read").is_some());
}

async fn a_bad_record_does_not_fail_the_others(harness: &Harness) {
    let store = &harness.store;
    // Its partition's table is there under the same name, but with other columns.
    let mut bad = execution(store, "i1");
    let far = integration_store::Ids::new(integration_store::Clock::manual(
        integration_model::Timestamp::parse("2031-01-01T00:00:00Z").expect("a time"),
    ));
    bad.id = integration_model::ExecutionId(far.next());
    harness.tamper("create table executions_p20310101 (id text)").await;
    let good: Vec<_> = (0..5).map(|_| execution(store, "i1")).collect();
    let (refused, recorded) = tokio::join!(store.record(record(bad)), async {
        let mut tasks = Vec::new();
        for row in &good {
            let (store, row) = (store.clone(), row.clone());
            tasks.push(tokio::spawn(async move { store.record(record(row)).await }));
        }
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.expect("no panic"));
        }
        outcomes
    });
    assert!(matches!(refused, Err(StoreError::Database(_))), "{refused:?}");
    assert!(recorded.iter().all(Result::is_ok), "{recorded:?}");
    harness.tamper("drop table executions_p20310101").await;
}

async fn closing_commits_what_was_taken(harness: &Harness) {
    let second = harness.second().await;
    let rows: Vec<_> = (0..50).map(|_| execution(&second, "i1")).collect();
    let held = harness.hold_writers().await;
    let mut callers: Vec<_> = rows.iter().map(|row| Box::pin(second.record(record(row.clone())))).collect();
    for caller in &mut callers {
        std::future::poll_fn(|context| {
            assert!(caller.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    drop(held);
    second.close().await;
    for caller in callers {
        caller.await.expect("recorded");
    }
    for row in &rows {
        assert!(harness.store.execution(row.id).await.expect("read").is_some());
    }
    assert!(matches!(second.record(record(execution(&second, "i1"))).await, Err(StoreError::Closed)));
    assert!(matches!(second.ping().await, Err(StoreError::Closed)));
    assert!(matches!(second.put_setting("a", "b").await, Err(StoreError::Closed)));
}

async fn the_answer_of_a_claim_is_recorded_with_the_execution(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "i1").await;
    let row = execution(store, "i1");
    let claim = IdempotencyClaim {
        tenant: row.tenant_id.clone(),
        instance: row.integration_instance_id.clone(),
        method: row.method_name.clone(),
        key: "key \" ' \\".to_owned(),
        fingerprint: [7; 32],
        execution_id: row.id,
    };
    assert_eq!(store.claim_idempotency(&claim, DAY).await.expect("claimed"), IdempotencyState::Claimed);
    let mut record = record(row.clone());
    record.idempotency = Some(claim.clone());
    record.answer = Some(Bytes::from_static(b"\x00\xFFanswer"));
    store.record(record).await.expect("recorded");
    let again = store.claim_idempotency(&claim, DAY).await.expect("claimed");
    let answer = Bytes::from_static(b"\x00\xFFanswer");
    assert_eq!(again, IdempotencyState::Answered { execution_id: row.id, answer });
}

async fn lists_filter_and_go_on_from_a_cursor(harness: &Harness) {
    let store = &harness.store;
    let mut ids = Vec::new();
    let start = harness.clock.now();
    for number in 0..9 {
        let mut row = execution(store, if number % 2 == 0 { "i1" } else { "i2" });
        if number == 4 {
            row.status = ExecutionStatus::Error;
            "other".clone_into(&mut row.method_name);
            "special".clone_into(&mut row.correlation_id);
            row.tenant_id = tenant("other");
        }
        ids.push(row.id);
        store.record(record(row)).await.expect("recorded");
        harness.clock.advance(Duration::from_secs(8 * 3600));
    }
    ids.reverse();
    let all = ExecutionFilter::default();
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.list_executions(&all, cursor, 2).await.expect("listed");
        let Some(last) = page.last() else { break };
        cursor = Some(last.id);
        seen.extend(page.iter().map(|row| row.id));
    }
    assert_eq!(seen, ids, "newest first, over the days");

    let found = async |filter: ExecutionFilter| {
        let listed = store.list_executions(&filter, None, 100).await.expect("listed").len();
        assert_eq!(store.count_executions(&filter, 100).await.expect("counted"), listed as u64);
        listed
    };
    assert_eq!(found(ExecutionFilter { instance: Some(instance_id("i1")), ..all.clone() }).await, 5);
    assert_eq!(found(ExecutionFilter { tenant: Some(tenant("other")), ..all.clone() }).await, 1);
    assert_eq!(found(ExecutionFilter { method: Some("other".to_owned()), ..all.clone() }).await, 1);
    assert_eq!(found(ExecutionFilter { status: Some(ExecutionStatus::Error), ..all.clone() }).await, 1);
    assert_eq!(found(ExecutionFilter { status: Some(ExecutionStatus::Success), ..all.clone() }).await, 8);
    assert_eq!(found(ExecutionFilter { correlation_id: Some("special".to_owned()), ..all.clone() }).await, 1);
    let span = ExecutionFilter {
        created_from: Some(start.saturating_add(DAY)),
        created_until: Some(start.saturating_add(2 * DAY)),
        ..all.clone()
    };
    assert_eq!(found(span).await, 3);
    let unfinished = queued(store, "i1");
    assert!(store.list_executions(&all, Some(unfinished.id), 0).await.expect("listed").is_empty());
}

#[tokio::test]
async fn sqlites_log_stays_bounded_while_records_come() {
    let harness = Harness::sqlite().await;
    let params = Bytes::from(format!("\"{}\"", "x".repeat(60_000)));
    let (records, mut longest) = (5_000, 0);
    for _ in 0..records {
        let row = execution(&harness.store, "i1");
        harness.store.record(ExecutionRecord { params: Some(params.clone()), ..record(row) }).await.expect("recorded");
        longest = harness.log_length().max(longest);
    }
    let written = 60_000 * records;
    // Without a fresh start it would hold half as much again as was written.
    assert!(longest < written, "{longest} bytes of {written}");
    harness.finish().await;
}
