//! Deliveries of webhooks: each is taken once, over processes and restarts, for a time.

use std::time::Duration;

use integration_model::audit::{AuditAction, AuditOutcome};
use integration_model::event::EventDraft;
use integration_store::{
    AuditFilter, AuditOrder, Delivery, DeliveryKey, EventCursor, EventFilter, IntendedUse, Store, StoreError,
};

use crate::credentials::put;
use crate::fixtures::{add_instance, instance_id, publish_petshop, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    a_delivery_is_taken_once_with_its_event_and_its_use,
    two_processes_take_a_delivery_once,
    deliveries_are_forgotten_in_time,
    a_delivery_of_what_is_gone_leaves_nothing,
);

async fn take(store: &Store, instance: &str, key: DeliveryKey) -> Result<bool, StoreError> {
    let (tenant, id) = (tenant("acme"), instance_id(instance));
    let credential = store.credential(&id).await?.map(|stored| stored.id);
    let intended = IntendedUse {
        tenant: &tenant,
        principal: "webhook",
        instance: &id,
        credential,
        execution: None,
        correlation_id: "c-1",
        why: "webhook delivery",
        method: "",
    };
    let used = store.begin_use(intended)?;
    // Any event will do.
    let event = EventDraft::health_check("c-1", &id, true, "delivered", 0);
    store.take_delivery(Delivery { key, event, used: Some(used) }, intended).await
}

async fn events(store: &Store) -> usize {
    store.list_events(&EventFilter::default(), EventCursor::After(None), 200).await.expect("events").len()
}

async fn a_delivery_is_taken_once_with_its_event_and_its_use(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "one").await;
    add_instance(store, "two").await;
    put(store, "one", b"secret").await;
    assert!(take(store, "one", [1; 32]).await.expect("taken"));
    assert!(!take(store, "one", [1; 32]).await.expect("known"));
    assert!(take(store, "one", [2; 32]).await.expect("another"));
    assert!(take(store, "two", [1; 32]).await.expect("another instance's"));
    assert_eq!(events(store).await, 3);
    let filter = AuditFilter { actions: vec![AuditAction::CredentialUsed], ..AuditFilter::default() };
    let uses = store.list_audit(&filter, AuditOrder::NewestFirst, None, 10).await.expect("the audit").entries;
    assert_eq!(uses.len(), 4, "a duplicate was verified too");
    assert!(uses.iter().all(|entry| entry.outcome == AuditOutcome::Success && entry.reason == "webhook delivery"));
    let stored = store.credential(&instance_id("one")).await.expect("read").expect("a credential");
    assert_eq!(stored.use_count, 3);
    assert!(store.instance(&instance_id("one")).await.expect("read").expect("an instance").last_used_at.is_some());
}

async fn two_processes_take_a_delivery_once(harness: &Harness) {
    publish_petshop(&harness.store).await;
    add_instance(&harness.store, "one").await;
    let stores = [harness.second().await, harness.second().await];
    for round in 0..20 {
        let (first, second) = tokio::join!(take(&stores[0], "one", [round; 32]), take(&stores[1], "one", [round; 32]));
        assert_ne!(first.expect("the first"), second.expect("the second"), "round {round}");
    }
    assert_eq!(events(&harness.store).await, 20);
    for store in stores {
        store.close().await;
    }
}

async fn deliveries_are_forgotten_in_time(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    add_instance(store, "one").await;
    for key in 0..3 {
        assert!(take(store, "one", [key; 32]).await.expect("taken"));
    }
    harness.clock.advance(DAY * 7);
    assert_eq!(store.purge_deliveries(10).await.expect("purged"), 0);
    assert!(!take(store, "one", [0; 32]).await.expect("known"));
    harness.clock.advance(Duration::from_secs(1));
    assert_eq!(store.purge_deliveries(2).await.expect("purged"), 2, "within the bound");
    assert_eq!(store.purge_deliveries(2).await.expect("purged"), 1);
    assert!(take(store, "one", [0; 32]).await.expect("as if it were new"));
}

async fn a_delivery_of_what_is_gone_leaves_nothing(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let taken = take(store, "gone", [1; 32]).await;
    assert!(matches!(taken, Err(StoreError::NotFound)), "{taken:?}");
    assert_eq!(events(store).await, 0);
}
