//! Credentials in a store of their own: what is there, and what happens while it is away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use integration_model::audit::AuditAction;
use integration_store::{
    ExternalSecrets, Fallback, SealedSecret, SecretStore, ServiceError, ServiceFuture, Store, StoreError, StoreOptions,
    VaultError,
};

use crate::credentials::{meta, open, put};
use crate::external::MemoryStore;
use crate::fixtures::{add_instance, audit, instance_id, publish_petshop, tenant};
use crate::harness::{Harness, on_both_with_external};

on_both_with_external!(
    a_secret_goes_with_its_row,
    a_write_that_fails_leaves_nothing_behind,
    a_secret_that_is_not_taken_stays_in_its_row_and_moves_later,
    secrets_move_back_and_open_wherever_they_are,
    what_was_read_is_used_for_a_bounded_time,
    a_secret_in_another_s_place_does_not_open,
    a_store_that_never_answers_keeps_nobody,
);

fn external(harness: &Harness) -> &Arc<MemoryStore> {
    harness.external.as_ref().expect("a store of secrets")
}

async fn two_instances(harness: &Harness) {
    publish_petshop(&harness.store).await;
    for id in ["i1", "i2"] {
        add_instance(&harness.store, id).await;
    }
}

async fn a_secret_goes_with_its_row(harness: &Harness) {
    two_instances(harness).await;
    let store = &harness.store;
    put(store, "i1", b"one").await;
    put(store, "i2", b"two").await;
    assert_eq!(external(harness).ids().len(), 2);
    // Another process has the row that is replaced; it opens what took its place.
    let other = harness.second().await;
    let before = other.credential(&instance_id("i1")).await.expect("read").expect("there");
    put(store, "i1", b"three").await;
    assert_eq!(external(harness).ids().len(), 2);
    assert_eq!(other.open_credential(&before).await.expect("opened").as_slice(), b"three");
    store
        .delete_credential(&instance_id("i1"), None, Vec::new(), audit(AuditAction::CredentialDeleted))
        .await
        .expect("deleted");
    assert_eq!(external(harness).ids().len(), 1);
    store
        .delete_instance(&instance_id("i2"), None, Vec::new(), audit(AuditAction::InstanceDeleted))
        .await
        .expect("deleted");
    assert_eq!(external(harness).ids().len(), 0);
    let gone = other.open_credential(&before).await;
    assert!(
        matches!(gone, Err(StoreError::Vault(VaultError::CredentialStore(ServiceError::Missing(_))))),
        "{:?}",
        gone.map(drop)
    );
    other.close().await;
}

async fn a_write_that_fails_leaves_nothing_behind(harness: &Harness) {
    two_instances(harness).await;
    put(&harness.store, "i1", b"one").await;
    let stale = harness.store.instance(&instance_id("i1")).await.expect("read").expect("there");
    harness.store.update_instance(&stale, Vec::new(), None).await.expect("updated");
    let refused = harness
        .store
        .put_credential(
            (&tenant("acme"), &instance_id("i1")),
            &meta(),
            b"two",
            Some(&stale),
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await;
    assert!(matches!(refused, Err(StoreError::VersionConflict { .. })), "{:?}", refused.map(drop));
    assert_eq!(external(harness).ids().len(), 1);
    assert_eq!(open(&harness.store, "i1").await.expect("opened"), b"one");
}

async fn a_secret_that_is_not_taken_stays_in_its_row_and_moves_later(harness: &Harness) {
    two_instances(harness).await;
    let store = &harness.store;
    assert_eq!(store.move_deferred_credentials().await.expect("nothing to move"), 0);
    external(harness).set_away(true);
    put(store, "i1", b"one").await;
    assert_eq!(store.vault().credential_store_answers(), Some(false));
    assert_eq!(open(store, "i1").await.expect("opened"), b"one");
    assert!(store.move_deferred_credentials().await.expect_err("still away").is_unavailable());
    external(harness).set_away(false);
    assert_eq!(store.move_deferred_credentials().await.expect("moved"), 1);
    assert_eq!(store.move_deferred_credentials().await.expect("moved"), 0);
    assert_eq!(external(harness).ids().len(), 1);
    let other = harness.second().await;
    assert_eq!(open(&other, "i1").await.expect("opened"), b"one");
    assert!(external(harness).reads.load(Ordering::SeqCst) > 0);
    other.close().await;
}

async fn secrets_move_back_and_open_wherever_they_are(harness: &Harness) {
    two_instances(harness).await;
    put(&harness.store, "i1", b"one").await;
    put(&harness.store, "i2", b"two").await;
    let running = harness.second().await;
    let before = running.credential(&instance_id("i1")).await.expect("read").expect("there");
    let secrets = ExternalSecrets { store: external(harness).clone(), keeps_new: false };
    let inward = Store::open(StoreOptions { secrets: Some(secrets), ..harness.options() }).await.expect("opened");
    assert_eq!(open(&inward, "i1").await.expect("opened"), b"one");
    let mut told = Vec::new();
    assert_eq!(inward.move_credentials(1, |moved| told.push(moved)).await.expect("moved"), 2);
    assert_eq!((told.as_slice(), external(harness).ids().len()), ([1, 2].as_slice(), 0));
    assert_eq!(inward.move_credentials(1, |_| ()).await.expect("moved"), 0);
    assert_eq!(running.open_credential(&before).await.expect("opened").as_slice(), b"one");
    inward.close().await;
    running.close().await;
    let embedded = Store::open(StoreOptions { secrets: None, ..harness.options() }).await.expect("opened");
    assert_eq!(open(&embedded, "i2").await.expect("opened"), b"two");
    embedded.close().await;
    let outward = harness.second().await;
    assert_eq!(outward.move_credentials(100, |_| ()).await.expect("moved"), 2);
    let embedded = Store::open(StoreOptions { secrets: None, ..harness.options() }).await.expect("opened");
    assert!(matches!(open(&embedded, "i2").await, Err(StoreError::Vault(VaultError::NoCredentialStore))));
    embedded.close().await;
    outward.close().await;
}

async fn what_was_read_is_used_for_a_bounded_time(harness: &Harness) {
    two_instances(harness).await;
    put(&harness.store, "i1", b"one").await;
    let minute = Duration::from_secs(60);
    let fallback = Fallback { fresh: minute, max_age: 10 * minute, max_entries: 10 };
    let store = Store::open(StoreOptions { fallback, ..harness.options() }).await.expect("opened");
    let reads = || external(harness).reads.swap(0, Ordering::SeqCst);
    let opened = async || open(&store, "i1").await;
    assert_eq!(opened().await.expect("opened"), b"one");
    reads();
    // Read from the database anew each time, and asked for once.
    assert_eq!((opened().await.expect("fresh"), reads()), (b"one".to_vec(), 0));
    harness.clock.advance(minute);
    assert_eq!((opened().await.expect("asked for again"), reads()), (b"one".to_vec(), 1));
    external(harness).set_away(true);
    harness.clock.advance(9 * minute);
    assert_eq!(opened().await.expect("used while the store is away"), b"one");
    assert_eq!(store.vault().credential_store_answers(), Some(false));
    harness.clock.advance(minute);
    assert!(opened().await.expect_err("too old").is_unavailable());
    external(harness).set_away(false);
    assert_eq!(opened().await.expect("back"), b"one");
    assert_eq!(store.vault().credential_store_answers(), Some(true));
    store.close().await;
}

async fn a_secret_in_another_s_place_does_not_open(harness: &Harness) {
    two_instances(harness).await;
    put(&harness.store, "i1", b"one").await;
    let first = external(harness).ids().remove(0);
    put(&harness.store, "i2", b"two").await;
    let second = external(harness).ids().into_iter().find(|id| *id != first).expect("another");
    external(harness).swap(&first, &second);
    let store = harness.second().await;
    let error = open(&store, "i2").await.expect_err("another's");
    assert!(error.to_string().contains("credential store"), "{error}");
    // A row that refers to another's secret does not open it either.
    let statement = "update credentials set sealed = (select o.sealed from credentials o where o.instance_id = 'i1') \
                     where instance_id = 'i2'";
    harness.tamper(statement).await;
    let error = open(&store, "i2").await.expect_err("another's");
    assert!(matches!(error, StoreError::Vault(VaultError::DoesNotOpen { .. })), "{error}");
    store.close().await;
}

/// Never answers.
#[derive(Debug)]
struct Silent;

impl SecretStore for Silent {
    fn put<'a>(&'a self, _: SealedSecret<'a>) -> ServiceFuture<'a, String> {
        Box::pin(std::future::pending())
    }

    fn get<'a>(&'a self, _: &'a str) -> ServiceFuture<'a, Vec<u8>> {
        Box::pin(std::future::pending())
    }

    fn delete<'a>(&'a self, _: &'a str) -> ServiceFuture<'a, ()> {
        Box::pin(std::future::pending())
    }
}

async fn a_store_that_never_answers_keeps_nobody(harness: &Harness) {
    two_instances(harness).await;
    let secrets = ExternalSecrets { store: Arc::new(Silent), keeps_new: true };
    let store = Store::open(StoreOptions { secrets: Some(secrets), ..harness.options() }).await.expect("opened");
    put(&store, "i1", b"one").await;
    assert_eq!(open(&store, "i1").await.expect("opened"), b"one");
    assert_eq!(store.vault().credential_store_answers(), Some(false));
    store.close().await;
}
