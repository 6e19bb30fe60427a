use integration_model::event::{EventDraft, EventType};
use integration_store::{EventCursor, EventFilter, Store};

use crate::fixtures::{instance_id, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(events_read_back_in_both_orders_over_the_days, ids_ascend_in_the_order_of_commits_of_all_processes,);

fn health(number: u64) -> EventDraft {
    let instance = instance_id("i1");
    EventDraft::health_check(&format!("c-{number}"), &instance, true, "fine \0", number).with_task(Some("task"))
}

async fn append(store: &Store, tenant_id: &str, number: u64) {
    let instance = number.is_multiple_of(2).then(|| instance_id("i1"));
    store.append_events(vec![(tenant(tenant_id), instance, health(number))]).await.expect("appended");
}

async fn events_read_back_in_both_orders_over_the_days(harness: &Harness) {
    let store = &harness.store;
    let start = harness.clock.now();
    for number in 0..6 {
        append(store, if number < 4 { "acme" } else { "other" }, number).await;
        harness.clock.advance(DAY / 2);
    }
    store.append_events(Vec::new()).await.expect("nothing to append");
    let numbers = async |filter: &EventFilter, cursor, limit| {
        let events = store.list_events(filter, cursor, limit).await.expect("listed");
        events.iter().map(|event| event.data["durationMs"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let all = EventFilter::default();
    assert_eq!(numbers(&all, EventCursor::After(None), 10).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(numbers(&all, EventCursor::Before(None), 4).await, [5, 4, 3, 2]);
    for (cursor, limit, expected, more) in [
        (EventCursor::After(None), 10, &[0, 1, 2, 3, 4, 5][..], false),
        (EventCursor::Before(None), 6, &[5, 4, 3, 2, 1, 0], true),
        (EventCursor::Before(None), 5, &[5, 4, 3, 2, 1], true),
    ] {
        let stretch = store.read_events(&all, cursor, limit).await.expect("read");
        let read: Vec<_> = stretch.events.iter().map(|event| event.data["durationMs"].as_u64()).collect();
        let expected: Vec<_> = expected.iter().copied().map(Some).collect();
        assert_eq!((read, stretch.more), (expected, more));
    }
    let events = store.list_events(&all, EventCursor::After(None), 10).await.expect("listed");
    let third = &events[2];
    assert_eq!(numbers(&all, EventCursor::After(Some(third.id)), 2).await, [3, 4]);
    assert_eq!(numbers(&all, EventCursor::Before(Some(third.id)), 9).await, [1, 0]);
    assert_eq!(third.event_type, EventType::HealthCheck);
    assert_eq!(third.timestamp, start.saturating_add(DAY));
    assert_eq!((third.metadata.correlation_id.as_str(), third.metadata.task_id.as_deref()), ("c-2", Some("task")));

    let filter = EventFilter { tenant: Some(tenant("other")), ..all.clone() };
    assert_eq!(numbers(&filter, EventCursor::After(None), 10).await, [4, 5]);
    let filter = EventFilter { instance: Some(instance_id("i1")), ..all.clone() };
    assert_eq!(numbers(&filter, EventCursor::After(None), 10).await, [0, 2, 4]);
    let filter = EventFilter { from: Some(third.timestamp), until: Some(events[4].timestamp), ..all.clone() };
    assert_eq!(numbers(&filter, EventCursor::After(None), 10).await, [2, 3]);
    let filter = EventFilter { types: vec![EventType::Connected, EventType::HealthCheck], ..all.clone() };
    assert_eq!(numbers(&filter, EventCursor::Before(None), 1).await, [5]);
    let filter = EventFilter { types: vec![EventType::Connected], ..all };
    assert!(numbers(&filter, EventCursor::After(None), 10).await.is_empty());
}

/// Reads the events on from the last id seen until the writers' 60 are there: whoever does so
/// never misses one.
pub(crate) async fn read_on_while(store: &Store, writers: Vec<tokio::task::JoinHandle<()>>) {
    let filter = EventFilter::default();
    let mut seen = Vec::new();
    let mut last = None;
    while seen.len() < 60 {
        let events = store.list_events(&filter, EventCursor::After(last), 7).await.expect("listed");
        last = events.last().map(|event| event.id).or(last);
        seen.extend(events.into_iter().map(|event| event.id));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let all = store.list_events(&filter, EventCursor::After(None), 100).await.expect("listed");
    assert_eq!(seen, all.iter().map(|event| event.id).collect::<Vec<_>>());
}

async fn ids_ascend_in_the_order_of_commits_of_all_processes(harness: &Harness) {
    let second = harness.second().await;
    let writers: Vec<_> = (0..6)
        .map(|number| {
            let store = if number % 2 == 0 { harness.store.clone() } else { second.clone() };
            tokio::spawn(async move {
                for _ in 0..10 {
                    append(&store, "acme", number).await;
                }
            })
        })
        .collect();
    read_on_while(&harness.store, writers).await;
    second.close().await;
}
