//! The audit: rows with the changes that they tell of, uses that outlive a process.

use std::path::Path;

use integration_model::audit::{AuditAction, AuditEntry, AuditOutcome, TargetType};
use integration_model::execution::{Execution, ExecutionStatus};
use integration_store::{
    AuditCursor, AuditFilter, AuditOrder, AuditPage, CredentialMeta, CredentialUse, ExecutionRecord, IntendedUse,
    Store, StoreOptions,
};
use uuid::Uuid;

use crate::fixtures::{add_instance, audit, execution, instance_id, publish_petshop, record, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both! {
    changes_of_a_credential_are_in_the_audit_with_them,
    an_execution_s_use_is_in_the_audit_and_counted,
    uses_of_more_credentials_than_are_written_at_once_are_all_counted,
    a_use_that_was_never_recorded_is_found_by_the_next_process,
    a_recorded_use_is_not_recovered_again,
    filters_and_the_cursor_narrow_the_list,
    counts_begin_anew_with_a_rotation,
    old_entries_go_with_their_day,
    a_use_from_the_queue_is_in_the_audit,
}

pub(crate) async fn prepared(store: &Store) -> Uuid {
    publish_petshop(store).await;
    add_instance(store, "pets").await;
    put(store, "pets", AuditAction::CredentialStored).await
}

pub(crate) async fn put(store: &Store, id: &str, action: AuditAction) -> Uuid {
    let meta = CredentialMeta {
        auth_type: integration_model::definition::AuthType::ApiKey,
        expires_at: None,
        scope: None,
        refreshable: false,
        next_refresh_at: None,
        secrets_until: Vec::new(),
    };
    let (tenant, instance) = (tenant("acme"), instance_id(id));
    store
        .put_credential((&tenant, &instance), &meta, b"secret", None, Vec::new(), audit(action))
        .await
        .expect("stored")
        .id
}

pub(crate) fn begin(store: &Store, execution: &Execution, credential: Uuid) -> CredentialUse {
    store
        .begin_use(IntendedUse {
            tenant: &execution.tenant_id,
            principal: &execution.principal,
            instance: &execution.integration_instance_id,
            credential: Some(credential),
            execution: Some(execution.id),
            correlation_id: &execution.correlation_id,
            why: "execute",
            method: &execution.method_name,
        })
        .expect("put down")
}

pub(crate) fn with_use(execution: Execution, used: CredentialUse) -> ExecutionRecord {
    ExecutionRecord { credential_uses: vec![used], ..record(execution) }
}

async fn page(store: &Store, filter: &AuditFilter, cursor: Option<AuditCursor>, limit: u32) -> AuditPage {
    store.list_audit(filter, AuditOrder::NewestFirst, cursor, limit).await.expect("listed")
}

/// What was done to credentials.
async fn all(store: &Store) -> Vec<AuditEntry> {
    let of_credentials = AuditAction::ALL.iter().copied().filter(|action| action.as_str().starts_with("credential."));
    let filter = AuditFilter { actions: of_credentials.collect(), ..AuditFilter::default() };
    page(store, &filter, None, 200).await.entries
}

fn actions(entries: &[AuditEntry]) -> Vec<AuditAction> {
    entries.iter().map(|entry| entry.action).collect()
}

/// The options of a process with a spool in this folder.
fn with_spool(harness: &Harness, folder: &Path) -> StoreOptions {
    StoreOptions { spool_folder: Some(folder.join("audit")), ..harness.options() }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("audit")).map_or(0, Iterator::count)
}

async fn changes_of_a_credential_are_in_the_audit_with_them(harness: &Harness) {
    let store = &harness.store;
    let first = prepared(store).await;
    let id = instance_id("pets");
    let refused = Some(audit(AuditAction::CredentialRefused));
    store.mark_credential_refused(&id, first, Some(store.clock().now()), refused).await.expect("marked");
    store.delete_credential(&id, None, Vec::new(), audit(AuditAction::CredentialDeleted)).await.expect("deleted");
    let second = put(store, "pets", AuditAction::CredentialRotated).await;
    store.delete_instance(&id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await.expect("deleted");

    let entries = all(store).await;
    assert_eq!(
        actions(&entries),
        [
            AuditAction::CredentialDeleted,
            AuditAction::CredentialRotated,
            AuditAction::CredentialDeleted,
            AuditAction::CredentialRefused,
            AuditAction::CredentialStored,
        ]
    );
    let credentials: Vec<Uuid> = entries.iter().filter_map(|entry| entry.credential_id).collect();
    assert_eq!(credentials, [second, second, first, first, first]);
    assert!(
        entries.iter().all(|entry| entry.instance_id.as_ref() == Some(&id) && entry.tenant_id == Some(tenant("acme")))
    );

    // What did not happen leaves nothing; nor does the end of an instance without a credential.
    let missing = store.delete_credential(&id, None, Vec::new(), audit(AuditAction::CredentialDeleted)).await;
    assert!(missing.is_err());
    add_instance(store, "bare").await;
    store
        .delete_instance(&instance_id("bare"), None, Vec::new(), audit(AuditAction::InstanceDeleted))
        .await
        .expect("deleted");
    assert_eq!(all(store).await.len(), 5);
}

async fn an_execution_s_use_is_in_the_audit_and_counted(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    for number in 0..3 {
        let mut row = execution(store, "pets");
        row.attempts = 2;
        if number == 2 {
            row.status = ExecutionStatus::Error;
            row.error = Some(integration_model::execution::ExecutionError {
                code: integration_model::ErrorCode::Upstream,
                message: "no".to_owned(),
                details: serde_json::json!({}),
                retryable: false,
                retry_after: None,
            });
        }
        let used = begin(store, &row, credential);
        store.record(with_use(row, used)).await.expect("recorded");
    }
    let entries = all(store).await;
    assert_eq!(entries.len(), 4);
    let last = &entries[0];
    assert_eq!((last.action, last.outcome), (AuditAction::CredentialUsed, AuditOutcome::Failure));
    assert_eq!(last.details, Some(serde_json::json!({"attempts": 2, "code": "UPSTREAM_ERROR"})));
    assert_eq!(entries[1].outcome, AuditOutcome::Success);
    assert_eq!(entries[1].reason, "execute getPet");
    assert_eq!(entries[1].credential_id, Some(credential));
    assert!(entries[1].execution_id.is_some());
    store.write_uses().await.expect("written");
    let stored = store.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!((stored.use_count, stored.last_used_at), (3, Some(store.clock().now())));
}

async fn uses_of_more_credentials_than_are_written_at_once_are_all_counted(harness: &Harness) {
    const CREDENTIALS: usize = 251;
    let store = &harness.store;
    publish_petshop(store).await;
    let ids: Vec<String> = (0..CREDENTIALS).map(|number| format!("i{number}")).collect();
    for id in &ids {
        add_instance(store, id).await;
        let credential = put(store, id, AuditAction::CredentialStored).await;
        let row = execution(store, id);
        let used = begin(store, &row, credential);
        store.record(with_use(row, used)).await.expect("recorded");
    }
    store.write_uses().await.expect("written");
    for id in &ids {
        assert_eq!(store.credential(&instance_id(id)).await.expect("read").expect("stored").use_count, 1, "{id}");
    }
}

async fn a_use_that_was_never_recorded_is_found_by_the_next_process(harness: &Harness) {
    let credential = prepared(&harness.store).await;
    let folder = tempfile::tempdir().expect("a folder");
    let dying = Store::open(with_spool(harness, folder.path())).await.expect("opened");
    harness.clock.advance(std::time::Duration::from_millis(1));
    let row = execution(&dying, "pets");
    drop(begin(&dying, &row, credential));
    assert_eq!(files(folder.path()), 1);
    assert_eq!(all(&harness.store).await.len(), 1, "nothing is committed yet");
    dying.close().await;
    drop(dying);

    let next = Store::open(with_spool(harness, folder.path())).await.expect("opened");
    let entries = all(&next).await;
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].action, entries[0].outcome), (AuditAction::CredentialUsed, AuditOutcome::Unknown));
    assert_eq!(entries[0].execution_id, Some(row.id));
    assert_eq!(entries[0].principal, row.principal);
    assert_eq!(files(folder.path()), 0, "the spool is gone");
    let stored = next.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!(stored.use_count, 1);
    next.close().await;
}

async fn a_recorded_use_is_not_recovered_again(harness: &Harness) {
    let credential = prepared(&harness.store).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(with_spool(harness, folder.path())).await.expect("opened");
    // Ids of two processes within a millisecond have no order.
    harness.clock.advance(std::time::Duration::from_millis(1));
    let row = execution(&store, "pets");
    let used = begin(&store, &row, credential);
    // Another entry keeps the segment, as a call that still runs would.
    let other = begin(&store, &execution(&store, "pets"), credential);
    store.record(with_use(row, used)).await.expect("recorded");
    drop(other);
    store.close().await;
    assert_eq!(files(folder.path()), 1);
    assert_eq!(store.recover_spool().await.ok(), None, "the store is closed");
    drop(store);

    let next = Store::open(with_spool(harness, folder.path())).await.expect("opened");
    let outcomes: Vec<AuditOutcome> = all(&next).await.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [AuditOutcome::Unknown, AuditOutcome::Success, AuditOutcome::Success]);
    let stored = next.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!(stored.use_count, 2);
    next.close().await;
}

async fn filters_and_the_cursor_narrow_the_list(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    for _ in 0..5 {
        let row = execution(store, "pets");
        let used = begin(store, &row, credential);
        store.record(with_use(row, used)).await.expect("recorded");
    }
    let listed = async |filter: AuditFilter| page(store, &filter, None, 200).await.entries.len();
    let everything = AuditFilter::default;
    assert_eq!(listed(AuditFilter { actions: vec![AuditAction::CredentialStored], ..everything() }).await, 1);
    assert_eq!(listed(AuditFilter { principal: Some("nobody".to_owned()), ..everything() }).await, 0);
    assert_eq!(listed(AuditFilter { tenant: Some(tenant("other")), ..everything() }).await, 0);
    assert_eq!(
        listed(AuditFilter { target: Some((TargetType::Instance, "pets".to_owned())), ..everything() }).await,
        7
    );
    assert_eq!(listed(AuditFilter { until: Some(store.clock().now()), ..everything() }).await, 0);
    assert_eq!(listed(AuditFilter { from: Some(store.clock().now()), ..everything() }).await, 9);

    let first = page(store, &everything(), None, 5).await;
    let rest = page(store, &everything(), first.next, 5).await;
    assert_eq!((first.entries.len(), rest.entries.len(), rest.next), (5, 4, None));
    assert!(first.entries[4].sequence > rest.entries[0].sequence);
}

async fn counts_begin_anew_with_a_rotation(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    let born = store.clock().now();
    let row = execution(store, "pets");
    let used = begin(store, &row, credential);
    store.record(with_use(row, used)).await.expect("recorded");
    harness.clock.advance(DAY);

    store.write_uses().await.expect("written");
    let used = store.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!((used.use_count, used.rotated_at), (1, born));
    let ages = store.credential_ages(store.clock().now()).await.expect("read");
    assert_eq!((ages.older, ages.oldest), (1, Some(born)));

    put(store, "pets", AuditAction::CredentialRotated).await;
    let rotated = store.credential(&instance_id("pets")).await.expect("read").expect("stored");
    assert_eq!((rotated.use_count, rotated.last_used_at, rotated.rotated_at), (0, None, store.clock().now()));
    assert_eq!(store.credential_ages(store.clock().now()).await.expect("read").older, 0);
}

async fn old_entries_go_with_their_day(harness: &Harness) {
    let store = &harness.store;
    prepared(store).await;
    harness.clock.advance(29 * DAY);
    store.drop_expired_partitions().await.expect("dropped");
    assert_eq!(all(store).await.len(), 1);
    harness.clock.advance(3 * DAY);
    let dropped = store.drop_expired_partitions().await.expect("dropped");
    assert!(dropped.contains(&"audit_trail_p20260310".to_owned()), "{dropped:?}");
    assert!(all(store).await.is_empty());
}

async fn a_use_from_the_queue_is_in_the_audit(harness: &Harness) {
    let store = &harness.store;
    let credential = prepared(store).await;
    // Its place in the queue was lost to another process: the record is refused, the use stays.
    let row = execution(store, "pets");
    let used = begin(store, &row, credential);
    let refused = store.record(ExecutionRecord { from_queue: true, ..with_use(row, used) }).await;
    assert!(refused.is_err());
    let entries = all(store).await;
    assert_eq!(actions(&entries), [AuditAction::CredentialUsed, AuditAction::CredentialStored]);
}
