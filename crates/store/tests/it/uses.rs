//! How often credentials were used, and when instances were last: noted, written later, told at once.

use std::time::Duration;

use integration_model::Timestamp;
use integration_model::audit::AuditAction;
use integration_model::execution::Execution;
use integration_model::instance::Instance;
use integration_model::page::PageRequest;
use integration_store::{InstanceFilter, InstanceSort, Store};

use crate::audit::{begin, prepared, put, with_use};
use crate::fixtures::{add_instance, audit, execution, instance, instance_id, publish_petshop, record};
use crate::harness::{Harness, on_both};

on_both! {
    uses_are_told_before_they_are_written,
    a_use_is_counted_once_however_it_is_written,
    what_was_only_refused_was_not_used,
    an_instance_of_the_same_id_has_none_of_the_uses_before_it,
    a_bounded_number_is_written_at_a_time_and_all_in_the_end,
    what_waits_is_written_when_the_process_ends,
}

const SECOND: Duration = Duration::from_secs(1);

async fn read(store: &Store, id: &str) -> Instance {
    store.instance(&instance_id(id)).await.expect("read").expect("there")
}

/// When each instance was last used, in the order of their ids.
async fn listed(store: &Store) -> Vec<Option<Timestamp>> {
    let sort = InstanceSort { field: integration_store::SortField::Id, descending: false };
    let page = PageRequest { page: 1, limit: 1_000 };
    let (instances, _) = store.list_instances(&InstanceFilter::default(), page, sort).await.expect("listed");
    instances.iter().map(|instance| instance.last_used_at).collect()
}

async fn counted(store: &Store) -> (u64, Option<Timestamp>) {
    let credential = store.credential_with_uses(&instance_id("pets")).await.expect("read").expect("stored");
    (credential.use_count, credential.last_used_at)
}

async fn uses_are_told_before_they_are_written(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    let other = harness.second().await;
    harness.clock.advance(SECOND);
    let row = execution(store, "pets");
    let used = begin(store, &row, credential);
    let at = row.finished_at;
    store.record(with_use(row, used)).await.expect("recorded");
    assert_eq!(counted(store).await, (1, at));
    assert_eq!(read(store, "pets").await.last_used_at, at);
    assert_eq!(listed(store).await, [at]);
    let changed = Instance { name: "Another".to_owned(), ..read(store, "pets").await };
    let stored = store.update_instance(&changed, Vec::new(), None).await.expect("updated");
    assert_eq!((stored.last_used_at, stored.version), (at, 2));
    assert_eq!((counted(&other).await, listed(&other).await), ((0, None), vec![None]), "another process cannot know");

    store.write_uses().await.expect("written");
    for store in [store, &other] {
        assert_eq!(counted(store).await, (1, at));
        assert_eq!(read(store, "pets").await.last_used_at, at);
        assert_eq!(listed(store).await, [at]);
    }
    other.close().await;
}

async fn a_use_is_counted_once_however_it_is_written(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    for count in 1..=6 {
        harness.clock.advance(SECOND);
        let row = execution(store, "pets");
        let used = begin(store, &row, credential);
        store.record(with_use(row, used)).await.expect("recorded");
        if count % 2 == 0 {
            store.write_uses().await.expect("written");
        }
        assert_eq!(counted(store).await, (count, Some(store.clock().now())));
        assert_eq!(counted(store).await.0, count, "to tell them writes nothing twice");
    }
}

async fn what_was_only_refused_was_not_used(harness: &Harness) {
    let store = &harness.store;
    prepared(store).await;
    let refused = Execution { attempts: 0, ..execution(store, "pets") };
    store.record(record(refused)).await.expect("recorded");
    assert_eq!(read(store, "pets").await.last_used_at, None);
    let cached = Execution { attempts: 0, cached: true, ..execution(store, "pets") };
    store.record(record(cached)).await.expect("recorded");
    assert_eq!(read(store, "pets").await.last_used_at, Some(store.clock().now()));
}

async fn an_instance_of_the_same_id_has_none_of_the_uses_before_it(harness: &Harness) {
    let store = &harness.store;
    prepared(store).await;
    let row = execution(store, "pets");
    store.record(record(row)).await.expect("recorded");
    store
        .delete_instance(&instance_id("pets"), None, Vec::new(), audit(AuditAction::InstanceDeleted))
        .await
        .expect("deleted");
    harness.clock.advance(SECOND);
    add_instance(store, "pets").await;
    assert_eq!((read(store, "pets").await.last_used_at, listed(store).await), (None, vec![None]));
    store.write_uses().await.expect("written");
    assert_eq!(read(store, "pets").await.last_used_at, None);
}

/// More than are written at a time, each used once, in the order of their ids.
async fn used_by_turns(store: &Store) -> usize {
    const INSTANCES: usize = 510;
    publish_petshop(store).await;
    for number in 0..INSTANCES {
        let instance = instance(store, &format!("i{number:04}"));
        store.insert_instance(&instance, Vec::new(), audit(AuditAction::InstanceCreated)).await.expect("inserted");
        store.record(record(execution(store, instance.id.as_str()))).await.expect("recorded");
    }
    INSTANCES
}

async fn a_bounded_number_is_written_at_a_time_and_all_in_the_end(harness: &Harness) {
    let store = &harness.store;
    let instances = used_by_turns(store).await;
    let other = harness.second().await;
    store.write_uses().await.expect("written");
    assert!(listed(store).await.iter().all(Option::is_some), "this process knows them all");
    let written = listed(&other).await;
    let first_missing = written.iter().position(Option::is_none).expect("not all are written");
    assert_eq!(first_missing, 500);
    assert!(written[first_missing..].iter().all(Option::is_none), "those that wait longest come first");
    // Others do not get in before those that wait.
    store.record(record(execution(store, "i0000"))).await.expect("recorded");
    store.write_uses().await.expect("written");
    let written = listed(&other).await;
    assert_eq!((written.len(), written.iter().flatten().count()), (instances, instances));
    other.close().await;
}

async fn what_waits_is_written_when_the_process_ends(harness: &Harness) {
    let ending = harness.second().await;
    let instances = used_by_turns(&ending).await;
    let credential = put(&ending, "i0000", AuditAction::CredentialStored).await;
    let row = execution(&ending, "i0000");
    let used = begin(&ending, &row, credential);
    ending.record(with_use(row, used)).await.expect("recorded");
    ending.close().await;
    assert_eq!(listed(&harness.store).await.iter().flatten().count(), instances);
    let stored = harness.store.credential(&instance_id("i0000")).await.expect("read").expect("stored");
    assert_eq!(stored.use_count, 1);
}
