use integration_model::audit::AuditAction;
use integration_model::event::EventDraft;
use integration_model::execution::ExecutionStatus;
use integration_model::instance::{InstanceError, InstanceStatus};
use integration_model::page::PageRequest;
use integration_model::{DefinitionId, ErrorCode};
use integration_store::{
    CredentialMeta, EventCursor, EventFilter, IdempotencyClaim, IdempotencyState, InstanceFilter, InstanceSort,
    SortField, StoreError,
};

use crate::fixtures::{add_instance, audit, instance, instance_id, publish_petshop, queued, record, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    an_instance_reads_back_as_it_was_written,
    a_lost_update_is_refused,
    a_config_that_could_not_be_read_back_is_refused,
    lists_filter_sort_and_page,
    deletion_takes_everything_but_the_log,
    a_later_instance_under_the_same_id_is_another,
);

fn status_event(id: &str) -> EventDraft {
    let definition = DefinitionId::parse("petshop").expect("an id");
    EventDraft::instance_status("c", &instance_id(id), &definition, None, InstanceStatus::Connected, "test")
}

async fn an_instance_reads_back_as_it_was_written(harness: &Harness) {
    let store = &harness.store;
    let mut written = instance(store, "i1");
    written.error = Some(InstanceError { message: "no \0 credential".to_owned(), code: "X".to_owned(), details: None });
    written.last_connected_at = Some(harness.clock.now());
    assert!(matches!(
        store.insert_instance(&written, Vec::new(), audit(AuditAction::InstanceCreated)).await,
        Err(StoreError::NotFound)
    ));
    publish_petshop(store).await;
    store
        .insert_instance(&written, vec![status_event("i1")], audit(AuditAction::InstanceCreated))
        .await
        .expect("inserted");
    assert_eq!(store.instance(&written.id).await.expect("read"), Some(written.clone()));
    assert!(matches!(
        store.insert_instance(&written, Vec::new(), audit(AuditAction::InstanceCreated)).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert_eq!(store.instance(&instance_id("I1")).await.expect("read"), None, "ids have case");
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 1);
}

async fn a_lost_update_is_refused(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let mut read = add_instance(store, "i1").await;
    harness.clock.advance(DAY);
    read.status = InstanceStatus::Connected;
    read.labels.insert("new".to_owned(), "label".to_owned());
    let stored = store.update_instance(&read, vec![status_event("i1")], None).await.expect("updated");
    assert_eq!((stored.version, stored.updated_at), (2, harness.clock.now()));
    assert_eq!(store.instance(&read.id).await.expect("read"), Some(stored));
    let refused = store.update_instance(&read, vec![status_event("i1")], None).await;
    assert!(matches!(refused, Err(StoreError::VersionConflict { current: 2 })));
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 1, "no event of a refused change");
    assert!(matches!(store.update_instance(&instance(store, "i2"), Vec::new(), None).await, Err(StoreError::NotFound)));
}

async fn a_config_that_could_not_be_read_back_is_refused(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let mut deep = instance(store, "i1");
    let nested = (0..500).fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner]));
    deep.config.insert("deep".to_owned(), nested);
    assert!(matches!(
        store.insert_instance(&deep, Vec::new(), audit(AuditAction::InstanceCreated)).await,
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(store.instance(&deep.id).await.expect("read"), None);
}

async fn lists_filter_sort_and_page(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    for id in ["b", "a", "c"] {
        let mut instance = instance(store, id);
        if id == "c" {
            instance.tenant_id = tenant("other");
            instance.status = InstanceStatus::Connected;
        }
        store.insert_instance(&instance, Vec::new(), audit(AuditAction::InstanceCreated)).await.expect("inserted");
        harness.clock.advance(DAY);
    }
    let list = async |filter: InstanceFilter, page: u32, field: SortField, descending: bool| {
        let page = PageRequest { page, limit: 2 };
        let (items, total) =
            store.list_instances(&filter, page, InstanceSort { field, descending }).await.expect("listed");
        (items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>().join(""), total)
    };
    let all = InstanceFilter::default;
    assert_eq!(list(all(), 1, SortField::Name, false).await, ("ab".to_owned(), 3));
    assert_eq!(list(all(), 2, SortField::Id, false).await, ("c".to_owned(), 3));
    assert_eq!(list(all(), 1, SortField::CreatedAt, true).await, ("ca".to_owned(), 3));
    assert_eq!(list(all(), 1, SortField::UpdatedAt, false).await, ("ba".to_owned(), 3));
    let filter = InstanceFilter {
        tenant: Some(tenant("acme")),
        definition: Some(DefinitionId::parse("petshop").expect("an id")),
        status: Some(InstanceStatus::PendingAuthentication),
        labels: vec![("env".to_owned(), "test".to_owned())],
        q: Some("OF A".to_owned()),
    };
    assert_eq!(list(filter, 1, SortField::Name, false).await, ("a".to_owned(), 1));
    let filter = InstanceFilter { labels: vec![("env".to_owned(), "prod".to_owned())], ..all() };
    assert_eq!(list(filter, 1, SortField::Name, false).await, (String::new(), 0));
}

async fn deletion_takes_everything_but_the_log(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let instance = add_instance(store, "i1").await;
    let meta = CredentialMeta {
        auth_type: integration_model::definition::AuthType::ApiKey,
        expires_at: None,
        scope: None,
        refreshable: false,
        next_refresh_at: None,
        secrets_until: Vec::new(),
    };
    store
        .put_credential(
            (&instance.tenant_id, &instance.id),
            &meta,
            b"secret",
            None,
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
    let running = queued(store, "i1");
    let waiting = queued(store, "i1");
    for execution in [&running, &waiting] {
        store.enqueue(execution, &b"{}"[..].into(), b"{}").await.expect("enqueued");
    }
    assert_eq!(store.claim_queued("w", 1, DAY).await.expect("claimed")[0].execution.id, running.id);
    let claim = IdempotencyClaim {
        tenant: instance.tenant_id.clone(),
        instance: instance.id.clone(),
        method: "getPet".to_owned(),
        key: "k".to_owned(),
        fingerprint: [1; 32],
        execution_id: waiting.id,
    };
    assert_eq!(store.claim_idempotency(&claim, DAY).await.expect("claimed"), IdempotencyState::Claimed);

    assert!(matches!(
        store.delete_instance(&instance.id, Some(7), Vec::new(), audit(AuditAction::InstanceDeleted)).await,
        Err(StoreError::VersionConflict { current: 1 })
    ));
    store
        .delete_instance(&instance.id, Some(1), vec![status_event("i1")], audit(AuditAction::InstanceDeleted))
        .await
        .expect("deleted");
    assert!(matches!(
        store.delete_instance(&instance.id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await,
        Err(StoreError::NotFound)
    ));
    assert_eq!(store.instance(&instance.id).await.expect("read"), None);
    assert!(store.credential(&instance.id).await.expect("read").is_none());
    assert!(matches!(store.claim_idempotency(&claim, DAY).await, Err(StoreError::NotFound)));
    assert!(matches!(store.enqueue(&queued(store, "i1"), &b"{}"[..].into(), b"{}").await, Err(StoreError::NotFound)));
    for (id, code) in [(running.id, ErrorCode::Interrupted), (waiting.id, ErrorCode::Cancelled)] {
        let ended = store.execution(id).await.expect("read").expect("the log stays");
        assert_eq!((ended.status, ended.error.map(|error| error.code)), (ExecutionStatus::Error, Some(code)));
    }
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    assert_eq!(events.len(), 3);

    // The worker that still runs the call comes too late.
    let mut late = record(running.clone());
    std::sync::Arc::make_mut(&mut late.execution).status = ExecutionStatus::Success;
    late.from_queue = true;
    assert!(matches!(store.record(late).await, Err(StoreError::Conflict(_))));
    let kept = store.execution(running.id).await.expect("read").expect("there");
    assert_eq!(kept.status, ExecutionStatus::Error);
}

async fn a_later_instance_under_the_same_id_is_another(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let first = add_instance(store, "i1").await;
    let meta = CredentialMeta {
        auth_type: integration_model::definition::AuthType::ApiKey,
        expires_at: None,
        scope: None,
        refreshable: false,
        next_refresh_at: None,
        secrets_until: Vec::new(),
    };
    store
        .put_credential(
            (&first.tenant_id, &first.id),
            &meta,
            b"secret",
            None,
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
    store.delete_instance(&first.id, None, Vec::new(), audit(AuditAction::InstanceDeleted)).await.expect("deleted");
    harness.clock.advance(DAY);
    let second = add_instance(store, "i1").await;
    assert_eq!(first.version, second.version);
    assert!(store.credential(&second.id).await.expect("read").is_none());
    assert!(matches!(store.update_instance(&first, Vec::new(), None).await, Err(StoreError::VersionConflict { .. })));
    assert!(store.claim_queued("w", 10, DAY).await.expect("claimed").is_empty());
}
