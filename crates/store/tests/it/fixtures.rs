//! Rows to test with.

use std::collections::BTreeMap;

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::definition::{DefinitionSpec, DefinitionStatus};
use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionMode, ExecutionStatus};
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::{ExecutionId, InstanceId, TenantId};
use integration_store::{ExecutionRecord, Store};
use serde_json::{Map, json};

pub(crate) fn spec(id: &str, version: &str) -> DefinitionSpec {
    DefinitionSpec::from_json(json!({
        "id": id, "name": format!("Name of {id}"), "description": "Pets and orders", "version": version,
        "type": "http", "authType": "api_key",
        "methods": [{"name": "getPet", "operation": {"verb": "GET", "path": "/pets/{petId}"}}],
    }))
    .expect("a definition")
}

pub(crate) fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).expect("a tenant")
}

pub(crate) fn instance_id(id: &str) -> InstanceId {
    InstanceId::parse(id).expect("an instance id")
}

pub(crate) fn instance(store: &Store, id: &str) -> Instance {
    let now = store.clock().now();
    Instance {
        id: instance_id(id),
        integration_definition_id: "petshop".parse().expect("an id"),
        definition_version: "1.0.0".into(),
        tenant_id: tenant("acme"),
        name: format!("Name of {id}"),
        config: Map::from_iter([("baseUrl".to_owned(), json!("http://pets.test"))]),
        labels: BTreeMap::from([("env".to_owned(), "test".to_owned())]),
        status: InstanceStatus::PendingAuthentication,
        error: None,
        version: 1,
        created_at: now,
        updated_at: now,
        last_used_at: None,
        last_connected_at: None,
    }
}

/// The definition `petshop` 1.0.0, published.
pub(crate) async fn publish_petshop(store: &Store) {
    let spec = spec("petshop", "1.0.0");
    let draft = store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    store
        .set_definition_status(&draft, DefinitionStatus::Published, audit(AuditAction::DefinitionPublished))
        .await
        .expect("published");
}

/// An instance of `petshop`, which must be published.
pub(crate) async fn add_instance(store: &Store, id: &str) -> Instance {
    let instance = instance(store, id);
    store.insert_instance(&instance, Vec::new(), audit(AuditAction::InstanceCreated)).await.expect("inserted");
    instance
}

pub(crate) fn execution(store: &Store, instance: &str) -> Execution {
    let now = store.clock().now();
    Execution {
        id: ExecutionId(store.ids().next()),
        tenant_id: tenant("acme"),
        integration_instance_id: instance_id(instance),
        integration_definition_id: "petshop".parse().expect("an id"),
        definition_version: "1.0.0".into(),
        method_name: "getPet".to_owned(),
        status: ExecutionStatus::Success,
        mode: ExecutionMode::Sync,
        error: None,
        attempts: 1,
        cached: false,
        upstream_status: Some(200),
        data_size: Some(17),
        created_at: now,
        finished_at: Some(now),
        duration_ms: Some(5),
        principal: "api-key:isk_test".to_owned(),
        correlation_id: "c-1".to_owned(),
        task_id: None,
        replay_of: None,
        data: None,
    }
}

pub(crate) fn queued(store: &Store, instance: &str) -> Execution {
    Execution {
        status: ExecutionStatus::Queued,
        mode: ExecutionMode::Async,
        attempts: 0,
        upstream_status: None,
        data_size: None,
        finished_at: None,
        duration_ms: None,
        ..execution(store, instance)
    }
}

pub(crate) fn executed(execution: &Execution) -> EventDraft {
    EventDraft::method_executed(
        &execution.correlation_id,
        &execution.integration_instance_id,
        &execution.method_name,
        5,
        Some(200),
        17,
    )
}

pub(crate) fn record(execution: Execution) -> ExecutionRecord {
    let events = vec![executed(&execution)];
    ExecutionRecord {
        execution: std::sync::Arc::new(execution),
        params: None,
        events,
        idempotency: None,
        answer: None,
        credential_uses: Vec::new(),
        from_queue: false,
    }
}

/// Something done to a credential by a caller.
pub(crate) fn audit(action: AuditAction) -> AuditDraft {
    AuditDraft::done(action, "api-key:isk_test", "by a test", "c-1")
}
