use std::time::Duration;

use integration_model::audit::AuditAction;
use integration_model::credential::{RefreshError, RefreshErrorKind};
use integration_model::definition::AuthType;
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceStatus};
use integration_store::{
    BegunRefresh, Changed, CredentialMeta, EventCursor, EventFilter, RefreshFailure, RenewedCredential, Sealed,
    SecretOwner, Store, StoreError, StoredCredential,
};
use uuid::Uuid;

use crate::audit::{begin as begin_use, with_use};
use crate::fixtures::{add_instance, audit, executed, execution, instance_id, publish_petshop, tenant};
use crate::harness::{Harness, on_both, on_both_with_external};

on_both!(
    one_exchange_begins_and_the_others_hear_of_it,
    a_commit_takes_the_place_of_what_was_exchanged_and_can_be_repeated,
    an_exchange_that_was_taken_over_commits_nothing,
    a_failure_leaves_the_grant_and_a_refusal_says_so,
    a_silent_exchange_is_given_up_and_may_still_come_home,
    due_refreshes_come_longest_due_first,
    changes_are_numbered_in_the_order_of_their_commits,
    changes_of_what_is_gone_are_forgotten_in_time,
);

on_both_with_external!(
    one_exchange_begins_and_the_others_hear_of_it,
    a_commit_takes_the_place_of_what_was_exchanged_and_can_be_repeated,
    an_exchange_that_was_taken_over_commits_nothing,
    a_failure_leaves_the_grant_and_a_refusal_says_so,
    a_silent_exchange_is_given_up_and_may_still_come_home,
    due_refreshes_come_longest_due_first,
    changes_are_numbered_in_the_order_of_their_commits,
    changes_of_what_is_gone_are_forgotten_in_time,
);

const LEASE: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn meta(store: &Store) -> CredentialMeta {
    let now = store.clock().now();
    CredentialMeta {
        auth_type: AuthType::OAuth2,
        expires_at: Some(now.saturating_add(LEASE * 100)),
        scope: None,
        refreshable: true,
        next_refresh_at: Some(now.saturating_add(LEASE * 50)),
        secrets_until: Vec::new(),
    }
}

async fn connected(store: &Store, id: &str) -> (Instance, StoredCredential) {
    let mut instance = add_instance(store, id).await;
    instance.status = InstanceStatus::Connected;
    let stored = store
        .put_credential(
            (&tenant("acme"), &instance.id),
            &meta(store),
            b"old",
            Some(&instance),
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
    (store.instance(&instance.id).await.expect("read").expect("there"), stored)
}

async fn stored(store: &Store, id: &str) -> StoredCredential {
    store.credential(&instance_id(id)).await.expect("read").expect("there")
}

async fn begin(store: &Store, credential: &StoredCredential, take_over: bool) -> (Uuid, BegunRefresh) {
    let exchange = store.ids().next();
    let begun = store.begin_refresh(&credential.instance_id, credential.id, exchange, LEASE, GRACE, take_over).await;
    (exchange, begun.expect("asked"))
}

/// A secret that takes the place of another's.
async fn sealed(store: &Store, old: &StoredCredential) -> Sealed {
    let owner = SecretOwner { tenant_id: &old.tenant_id, instance_id: &old.instance_id, auth_type: old.meta.auth_type };
    let data_key = store.new_data_key().await.expect("a data key");
    store.seal_credential(data_key, owner, b"new").await.expect("sealed")
}

fn renewed<'a>(store: &Store, old: &'a StoredCredential, exchange: Uuid, sealed: &'a Sealed) -> RenewedCredential<'a> {
    RenewedCredential { old, exchange, meta: meta(store), sealed, rotates: Some(true), lifetime: None }
}

fn error(store: &Store, kind: RefreshErrorKind) -> RefreshError {
    let message = "it failed".to_owned();
    RefreshError { kind, message, error: None, status: Some(500), at: store.clock().now(), unanswered_at: None }
}

async fn one_exchange_begins_and_the_others_hear_of_it(harness: &Harness) {
    let (store, second) = (&harness.store, harness.second().await);
    publish_petshop(store).await;
    let (_, credential) = connected(store, "i1").await;
    let (exchange, begun) = begin(store, &credential, false).await;
    let BegunRefresh::Begun(read) = begun else { panic!("{begun:?}") };
    assert_eq!(read.refresh.exchange, Some(exchange));
    // Where the answer to it was lost, the same intent is committed again.
    let again = store.begin_refresh(&credential.instance_id, credential.id, exchange, LEASE, GRACE, false).await;
    assert!(matches!(again, Ok(BegunRefresh::Begun(_))));
    for take_over in [false, true] {
        assert!(matches!(begin(&second, &credential, take_over).await.1, BegunRefresh::UnderWay(_)));
    }
    assert!(second.extend_refresh(&credential.instance_id, exchange, LEASE, GRACE).await.expect("extended"));
    harness.clock.advance(LEASE + SECOND);
    assert_eq!(second.interrupted_refreshes().await.expect("counted"), 1);
    assert!(matches!(begin(&second, &credential, false).await.1, BegunRefresh::Interrupted(_)));
    assert!(matches!(begin(&second, &credential, true).await.1, BegunRefresh::Begun(_)));
    assert!(!store.extend_refresh(&credential.instance_id, exchange, LEASE, GRACE).await.expect("asked"));
    let (_, another) = connected(store, "i2").await;
    store
        .delete_credential(&another.instance_id, None, Vec::new(), audit(AuditAction::CredentialDeleted))
        .await
        .expect("deleted");
    assert!(matches!(begin(store, &another, false).await.1, BegunRefresh::Superseded));
    second.close().await;
}

async fn a_commit_takes_the_place_of_what_was_exchanged_and_can_be_repeated(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let (instance, credential) = connected(store, "i1").await;
    let used = execution(store, "i1");
    let use_of_it = begin_use(store, &used, credential.id);
    store.record(with_use(used, use_of_it)).await.expect("recorded");
    harness.clock.advance(SECOND);
    let (exchange, _) = begin(store, &credential, false).await;
    let secret = sealed(store, &credential).await;
    let (new, id) = (renewed(store, &credential, exchange, &secret), secret.secret_id());
    assert!(store.commit_refresh(new, &instance, None, Vec::new()).await.expect("committed"));
    let read = stored(store, "i1").await;
    assert_eq!((read.id, read.refresh.exchange, read.refresh.rotates), (id, None, Some(true)));
    assert_eq!((read.use_count, read.rotated_at), (1, credential.rotated_at), "a renewal is no new credential");
    assert_eq!(store.open_credential(&read).await.expect("opened").as_slice(), b"new");
    assert_eq!(store.instance(&instance.id).await.expect("read").expect("there").version, instance.version);
    let again = renewed(store, &credential, exchange, &secret);
    assert!(store.commit_refresh(again, &instance, None, Vec::new()).await.expect("known"));
    let other = sealed(store, &credential).await;
    let late = renewed(store, &credential, exchange, &other);
    assert!(!store.commit_refresh(late, &instance, None, Vec::new()).await.expect("asked"));

    // The instance moves with it, unless it has moved meanwhile.
    let (exchange, _) = begin(store, &read, false).await;
    let mut moved = instance.clone();
    moved.status = InstanceStatus::AuthError;
    let moved = store.update_instance(&moved, Vec::new(), None).await.expect("moved");
    let outdated = store
        .commit_refresh(renewed(store, &read, exchange, &sealed(store, &read).await), &instance, None, Vec::new())
        .await;
    assert!(matches!(outdated, Err(StoreError::VersionConflict { .. })));
    let healed = Instance { status: InstanceStatus::Connected, ..moved.clone() };
    let events = vec![executed(&execution(store, "i1"))];
    let committed = store
        .commit_refresh(renewed(store, &read, exchange, &sealed(store, &read).await), &moved, Some(&healed), events)
        .await;
    assert!(committed.expect("committed"));
    let status = store.instance(&instance.id).await.expect("read").expect("there").status;
    assert_eq!((status, events_of(store).await), (InstanceStatus::Connected, 2), "with that of the use");
}

async fn events_of(store: &Store) -> usize {
    store.list_events(&EventFilter::default(), EventCursor::After(None), 100).await.expect("read").len()
}

async fn an_exchange_that_was_taken_over_commits_nothing(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let (instance, credential) = connected(store, "i1").await;
    let (first, _) = begin(store, &credential, false).await;
    harness.clock.advance(LEASE + SECOND);
    let (second, _) = begin(store, &credential, true).await;
    let failure = RefreshFailure {
        exchange: first,
        error: error(store, RefreshErrorKind::Unavailable),
        retry_at: store.clock().now(),
        next_refresh_at: None,
    };
    assert!(!store.fail_refresh(&instance.id, failure).await.expect("asked"));
    let refused = error(store, RefreshErrorKind::Refused);
    let secret = sealed(store, &credential).await;
    let late = renewed(store, &credential, first, &secret);
    assert!(!store.commit_refresh(late, &instance, None, Vec::new()).await.expect("asked"));
    assert!(!store.refuse_refresh(first, &refused, &instance, None, Vec::new()).await.expect("asked"));
    assert_eq!(stored(store, "i1").await.refresh.exchange, Some(second));
    // A credential that a person stores ends every exchange of the one before.
    let update = None;
    store
        .put_credential(
            (&tenant("acme"), &instance.id),
            &meta(store),
            b"person",
            update,
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
    let secret = sealed(store, &credential).await;
    let late = renewed(store, &credential, second, &secret);
    assert!(!store.commit_refresh(late, &instance, None, Vec::new()).await.expect("asked"));
    assert_eq!(store.open_credential(&stored(store, "i1").await).await.expect("opened").as_slice(), b"person");
}

async fn a_failure_leaves_the_grant_and_a_refusal_says_so(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let (instance, credential) = connected(store, "i1").await;
    let (exchange, _) = begin(store, &credential, false).await;
    let retry_at = store.clock().now().saturating_add(SECOND);
    let failed = error(store, RefreshErrorKind::Unavailable);
    let failure = RefreshFailure { exchange, error: failed.clone(), retry_at, next_refresh_at: Some(retry_at) };
    assert!(store.fail_refresh(&instance.id, failure).await.expect("noted"));
    let read = stored(store, "i1").await;
    assert_eq!((read.id, read.refresh.failures, read.refresh.exchange), (credential.id, 1, None));
    assert_eq!((read.refresh.retry_at, read.refresh.error), (Some(retry_at), Some(failed)));

    let (exchange, _) = begin(store, &credential, false).await;
    let refused = error(store, RefreshErrorKind::Refused);
    let moved = Instance { status: InstanceStatus::AuthError, ..instance.clone() };
    let events: Vec<EventDraft> = vec![executed(&execution(store, "i1"))];
    assert!(store.refuse_refresh(exchange, &refused, &instance, Some(&moved), events).await.expect("noted"));
    let read = stored(store, "i1").await;
    assert_eq!((read.refused_at, read.meta.next_refresh_at), (Some(store.clock().now()), None));
    assert_eq!(store.open_credential(&read).await.expect("opened").as_slice(), b"old", "the grant is kept");
    let status = store.instance(&instance.id).await.expect("read").expect("there").status;
    assert_eq!((status, events_of(store).await), (InstanceStatus::AuthError, 1));
}

async fn a_silent_exchange_is_given_up_and_may_still_come_home(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let (instance, credential) = connected(store, "i1").await;
    let (exchange, _) = begin(store, &credential, false).await;
    let interrupted = error(store, RefreshErrorKind::Interrupted);
    let give_up = async |silent_since| {
        let moved = Instance { status: InstanceStatus::AuthError, ..instance.clone() };
        store.give_up_refresh(exchange, silent_since, &interrupted, &instance, Some(&moved), Vec::new()).await
    };
    let begun = store.clock().now();
    assert!(!give_up(begun).await.expect("asked"), "its lease holds");
    harness.clock.advance(LEASE + GRACE);
    assert!(give_up(begun.saturating_add(LEASE)).await.expect("given up"));
    let read = stored(store, "i1").await;
    assert_eq!((read.refresh.exchange, read.refused_at), (Some(exchange), None));
    let moved = store.instance(&instance.id).await.expect("read").expect("there");
    assert_eq!(moved.status, InstanceStatus::AuthError);
    let healed = Instance { status: InstanceStatus::Connected, ..moved.clone() };
    let home = store
        .commit_refresh(
            renewed(store, &credential, exchange, &sealed(store, &credential).await),
            &moved,
            Some(&healed),
            Vec::new(),
        )
        .await;
    assert!(home.expect("committed"));
    assert_eq!(stored(store, "i1").await.refresh.error, None);
}

async fn due_refreshes_come_longest_due_first(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let now = store.clock().now();
    for (id, due) in [("i1", Some(2)), ("i2", Some(1)), ("i3", None), ("i4", Some(9))] {
        let (_, credential) = connected(store, id).await;
        let at = due.map(|seconds| now.saturating_add(SECOND * seconds));
        store.schedule_refresh(&credential.instance_id, credential.id, at).await.expect("scheduled");
    }
    harness.clock.advance(SECOND * 2);
    let due = store.due_refreshes(10).await.expect("read");
    let ids: Vec<&str> = due.iter().map(|due| due.instance.as_str()).collect();
    assert_eq!(ids, ["i2", "i1"]);
    assert_eq!(store.due_refreshes(1).await.expect("read").len(), 1);
}

async fn changes_are_numbered_in_the_order_of_their_commits(harness: &Harness) {
    let (store, second) = (&harness.store, harness.second().await);
    publish_petshop(store).await;
    let start = second.last_change().await.expect("read");
    let (instance, credential) = connected(store, "i1").await;
    connected(store, "i2").await;
    let seen = async |after| second.changes_after(after, 10).await.expect("read");
    let changes = seen(start).await;
    let names: Vec<&Changed> = changes.iter().map(|(_, changed)| changed).collect();
    let of = |id| Changed::Instance(instance_id(id));
    assert_eq!(names, [&of("i1"), &of("i2")], "each once, at its newest change");
    let last = changes[1].0;
    assert_eq!(last, second.last_change().await.expect("read"));

    // Changes without an event count too; an intent is nobody's business.
    let (exchange, _) = begin(store, &credential, false).await;
    assert_eq!(seen(last).await, []);
    store
        .commit_refresh(
            renewed(store, &credential, exchange, &sealed(store, &credential).await),
            &instance,
            None,
            Vec::new(),
        )
        .await
        .expect("committed");
    let changes = seen(last).await;
    assert_eq!(changes, [(last + 1, of("i1"))]);
    store.delete_instance(&instance.id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await.expect("deleted");
    assert_eq!(seen(last + 1).await, [(last + 2, of("i1"))]);
    // What is rolled back changed nothing.
    assert!(store.delete_instance(&instance.id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await.is_err());
    assert_eq!(seen(last + 2).await, []);

    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let writer = if number % 2 == 0 { store.clone() } else { second.clone() };
        writers.spawn(async move { connected(&writer, &format!("many-{number}")).await });
    }
    writers.join_all().await;
    let changes = seen(last + 2).await;
    assert_eq!(changes.len(), 10, "a page");
    assert!(changes.is_sorted());
    second.close().await;
}

async fn changes_of_what_is_gone_are_forgotten_in_time(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let (instance, _) = connected(store, "i1").await;
    connected(store, "i2").await;
    store.delete_instance(&instance.id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await.expect("deleted");
    assert_eq!(store.purge_changes().await.expect("purged"), 0);
    harness.clock.advance(crate::harness::DAY + SECOND);
    assert_eq!(store.purge_changes().await.expect("purged"), 1);
}
