//! Instances and what goes with them. Changes are optimistic: they name the version that
//! they were made from.

use std::collections::BTreeMap;

use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionError, ExecutionStatus, Stage};
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::page::PageRequest;
use integration_model::{DefinitionId, ErrorCode, InstanceId, TenantId, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::audit::AuditTarget;
use crate::changes::Changed;
use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::filter::{Conditions, InstanceSort, search_text};
use crate::sql::{Backend, Query, Row, to_json, to_readable_json};
use crate::store::Store;
use crate::uses::with_use;

/// How many waiting executions of a deleted instance are ended with one statement.
const ENDED_AT_ONCE: u32 = 500;

/// Which instances a list gives.
#[derive(Debug, Clone, Default)]
pub struct InstanceFilter {
    pub tenant: Option<TenantId>,
    pub definition: Option<DefinitionId>,
    pub status: Option<InstanceStatus>,
    /// Labels that have to be there, with these values.
    pub labels: Vec<(String, String)>,
    /// Contained in the name or the id, in any case.
    pub q: Option<String>,
}

const COLUMNS: &str = "id, tenant_id, definition_id, definition_version, name, status, error, version, labels, \
     created_at, updated_at, last_used_at, last_connected_at, config";

impl Store {
    /// Stores a new instance. Fails with [`StoreError::NotFound`] where its definition's
    /// version is not there.
    pub async fn insert_instance(
        &self,
        instance: &Instance,
        events: Vec<EventDraft>,
        audit: AuditDraft,
    ) -> Result<(), StoreError> {
        let new = instance.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    insert(tx, &new).await?;
                    tx.audit(audit, AuditTarget::of_instance(&new.tenant_id, &new.id));
                    let rows: Vec<EventRow<'_>> = EventRow::of_instance(&new.tenant_id, &new.id, &events).collect();
                    tx.append_events(&rows).await
                })
            })
            .await
            .map_err(|error| error.or_exists(|| format!("instance {:?}", instance.id)).or_missing())
    }

    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let text = format!("select {COLUMNS} from instances where id = $1");
        // Before the row is read: what does not wait any more is in it.
        let used = self.db().uses.of_instance(id);
        let row = Query::built(text, vec![id.as_str().into()]).fetch_optional(self.pool()).await?;
        row.map(|row| Ok(with_use(read_instance(&row)?, used))).transpose()
    }

    /// Writes an instance where its stored version is still `instance.version`; gives it as
    /// stored, with the next version. What it belongs to and its times of creation and last
    /// use are not written. Without `audit`, the audit has what the events say of its status.
    pub async fn update_instance(
        &self,
        instance: &Instance,
        events: Vec<EventDraft>,
        audit: Option<AuditDraft>,
    ) -> Result<Instance, StoreError> {
        let instance = instance.clone();
        let used = self.db().uses.of_instance(&instance.id);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let stored = tx.update_instance(&instance).await?;
                    if let Some(audit) = audit {
                        tx.audit(audit, AuditTarget::of_instance(&stored.tenant_id, &stored.id));
                    }
                    let rows: Vec<EventRow<'_>> =
                        EventRow::of_instance(&stored.tenant_id, &stored.id, &events).collect();
                    tx.append_events(&rows).await?;
                    Ok(with_use(stored, used))
                })
            })
            .await
            .map_err(StoreError::or_missing)
    }

    /// Deletes an instance with its credential, its idempotency keys and its place in the
    /// queue; its executions that have not ended are ended. The log stays. `audit` tells of
    /// the instance's end, and of the credential's where there is one.
    pub async fn delete_instance(
        &self,
        id: &InstanceId,
        expected: Option<i64>,
        events: Vec<EventDraft>,
        audit: AuditDraft,
    ) -> Result<(), StoreError> {
        let deleted = id.clone();
        let write =
            self.db().write(move |tx| Box::pin(async move { delete(tx, &deleted, expected, &events, audit).await }));
        self.replace_secret(id, None, write).await
    }

    /// How many instances there are of each adapter's type, by status: of one tenant, or of all.
    pub async fn count_instances_by_type(
        &self,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<(String, InstanceStatus, u64)>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add_if("i.tenant_id = ?", tenant.map(TenantId::as_str));
        let text = format!(
            "select d.adapter_type, i.status, count(*) from instances i
             join definitions d on d.id = i.definition_id and d.version = i.definition_version{}
             group by d.adapter_type, i.status",
            conditions.where_clause()
        );
        let rows = conditions.into_query(text).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.parsed(1, InstanceStatus::parse)?, row.count(2)?))).collect()
    }

    /// A page of the instances that pass the filter, and how many pass.
    pub async fn list_instances(
        &self,
        filter: &InstanceFilter,
        page: PageRequest,
        sort: InstanceSort,
    ) -> Result<(Vec<Instance>, u64), StoreError> {
        let mut conditions = conditions(filter);
        let clause = conditions.where_clause();
        let count_text = format!("select count(*) from instances{clause}");
        let total = conditions.clone().into_query(count_text).fetch_one(self.pool()).await?.count(0)?;
        let limit = conditions.placeholder(page.limit);
        let offset = conditions.placeholder(page.offset());
        let text = format!(
            "select {COLUMNS} from instances{clause} order by {} limit {limit} offset {offset}",
            sort.order_by()
        );
        let uses = &self.db().uses;
        let _held = uses.hold().await;
        let rows = conditions.into_query(text).fetch_all(self.pool()).await?;
        let read = |row| {
            let instance = read_instance(row)?;
            let used = uses.of_instance(&instance.id);
            Ok(with_use(instance, used))
        };
        Ok((rows.iter().map(read).collect::<Result<_, StoreError>>()?, total))
    }
}

impl Tx {
    /// Writes an instance's next version; see [`Store::update_instance`].
    pub(crate) async fn update_instance(&mut self, instance: &Instance) -> Result<Instance, StoreError> {
        let now = self.db.clock.now();
        // The time of creation tells an instance from a later one under the same id.
        let row = Query::new(
            "update instances set definition_version = $1, name = $2, status = $3, error = $4, version = version + 1,
             labels = $5, search = $6, updated_at = $7, last_connected_at = $8, config = $9
             where id = $10 and version = $11 and created_at = $12 returning version, last_used_at",
        )
        .bind(instance.definition_version.as_str())
        .bind(instance.name.as_str())
        .bind(instance.status.as_str())
        .bind(instance.error.as_ref().map(to_json).transpose()?)
        .bind(to_json(&instance.labels)?)
        .bind(search_text(&[instance.id.as_str(), &instance.name]))
        .bind(now)
        .bind(instance.last_connected_at)
        .bind(to_readable_json(&instance.config)?)
        .bind(instance.id.as_str())
        .bind(instance.version)
        .bind(instance.created_at)
        .fetch_optional(&mut self.connection)
        .await?;
        let Some(row) = row else { return Err(changed_meanwhile(self, &instance.id).await) };
        Query::new("delete from instance_labels where instance_id = $1")
            .bind(instance.id.as_str())
            .execute(&mut self.connection)
            .await?;
        insert_labels(self, &instance.id, &instance.labels).await?;
        self.note(Changed::Instance(instance.id.clone()));
        Ok(Instance { version: row.int(0)?, updated_at: now, last_used_at: row.opt_time(1)?, ..instance.clone() })
    }
}

fn conditions(filter: &InstanceFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.add_if("tenant_id = ?", filter.tenant.as_ref().map(TenantId::as_str));
    conditions.add_if("definition_id = ?", filter.definition.as_ref().map(DefinitionId::as_str));
    conditions.add_if("status = ?", filter.status.map(InstanceStatus::as_str));
    for (name, value) in &filter.labels {
        conditions.add(
            "instances.id in (select l.instance_id from instance_labels l where l.name = ? and l.value = ?)",
            [name.as_str().into(), value.as_str().into()],
        );
    }
    conditions.add_search("search", filter.q.as_deref());
    conditions
}

async fn insert(tx: &mut Tx, instance: &Instance) -> Result<(), StoreError> {
    Query::new(
        "insert into instances (
             id, tenant_id, definition_id, definition_version, name, status, error, version, labels, search,
             created_at, updated_at, last_used_at, last_connected_at, config
         ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(instance.id.as_str())
    .bind(instance.tenant_id.as_str())
    .bind(instance.integration_definition_id.as_str())
    .bind(instance.definition_version.as_str())
    .bind(instance.name.as_str())
    .bind(instance.status.as_str())
    .bind(instance.error.as_ref().map(to_json).transpose()?)
    .bind(instance.version)
    .bind(to_json(&instance.labels)?)
    .bind(search_text(&[instance.id.as_str(), &instance.name]))
    .bind(instance.created_at)
    .bind(instance.updated_at)
    .bind(instance.last_used_at)
    .bind(instance.last_connected_at)
    .bind(to_readable_json(&instance.config)?)
    .execute(&mut tx.connection)
    .await?;
    tx.note(Changed::Instance(instance.id.clone()));
    insert_labels(tx, &instance.id, &instance.labels).await
}

async fn insert_labels(tx: &mut Tx, id: &InstanceId, labels: &BTreeMap<String, String>) -> Result<(), StoreError> {
    for (name, value) in labels {
        Query::new("insert into instance_labels (instance_id, name, value) values ($1, $2, $3)")
            .bind(id.as_str())
            .bind(name.as_str())
            .bind(value.as_str())
            .execute(&mut tx.connection)
            .await?;
    }
    Ok(())
}

/// Why no row changed: there is none, or it has another version.
async fn changed_meanwhile(tx: &mut Tx, id: &InstanceId) -> StoreError {
    let row = Query::new("select version from instances where id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut tx.connection)
        .await;
    match row.and_then(|row| row.map(|row| row.int(0)).transpose()) {
        Ok(None) => StoreError::NotFound,
        Ok(Some(current)) => StoreError::VersionConflict { current },
        Err(error) => error,
    }
}

async fn delete(
    tx: &mut Tx,
    id: &InstanceId,
    expected: Option<i64>,
    events: &[EventDraft],
    audit: AuditDraft,
) -> Result<(), StoreError> {
    let credential = credential_of(tx, id).await?;
    // The row goes first: its lock keeps new places in the queue away until the commit,
    // which then refuses them. The credential and the keys go with it.
    let mut conditions = Conditions::default();
    conditions.add("id = ?", [id.as_str().into()]);
    conditions.add_if("version = ?", expected);
    let text = format!("delete from instances{} returning tenant_id", conditions.where_clause());
    let Some(row) = conditions.into_query(text).fetch_optional(&mut tx.connection).await? else {
        return Err(changed_meanwhile(tx, id).await);
    };
    let tenant = row.parsed(0, |text| TenantId::parse(text).ok())?;
    let ended = end_queued(tx, id).await?;
    tx.note(Changed::Instance(id.clone()));
    if credential.is_some() {
        let audit = AuditDraft { action: AuditAction::CredentialDeleted, ..audit.clone() };
        tx.audit(audit, AuditTarget { credential, ..AuditTarget::of_instance(&tenant, id) });
    }
    tx.audit(audit, AuditTarget::of_instance(&tenant, id));
    ended.iter().for_each(|(execution, _)| tx.audit_execution(execution));
    let own = EventRow::of_instance(&tenant, id, events);
    let failures = ended.iter().map(|(execution, event)| EventRow {
        tenant: &execution.tenant_id,
        instance: Some(&execution.integration_instance_id),
        draft: event,
    });
    let rows: Vec<EventRow<'_>> = failures.chain(own).collect();
    tx.append_events(&rows).await
}

/// The credential that the instance has, and keeps until the end of the transaction.
async fn credential_of(tx: &mut Tx, id: &InstanceId) -> Result<Option<Uuid>, StoreError> {
    if tx.connection.backend() == Backend::Postgres {
        // SQLite has one writer anyway.
        let lock = Query::new("select id from instances where id = $1 for update").bind(id.as_str());
        lock.fetch_optional(&mut tx.connection).await?;
    }
    let row = Query::new("select secret_id from credentials where instance_id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut tx.connection)
        .await?;
    row.map(|row| row.uuid(0)).transpose()
}

/// Ends every execution of the instance that waits or runs, so that a later instance under
/// the same id does not meet it.
async fn end_queued(tx: &mut Tx, id: &InstanceId) -> Result<Vec<(Execution, EventDraft)>, StoreError> {
    let mut ended = Vec::new();
    loop {
        let rows = Query::new(
            "delete from execution_queue where id in (
                 select id from execution_queue where instance_id = $1 order by id limit $2
             ) returning id, state",
        )
        .bind(id.as_str())
        .bind(ENDED_AT_ONCE)
        .fetch_all(&mut tx.connection)
        .await?;
        if rows.is_empty() {
            return Ok(ended);
        }
        let states: BTreeMap<Uuid, ExecutionStatus> = rows
            .iter()
            .map(|row| Ok((row.uuid(0)?, row.parsed(1, ExecutionStatus::parse)?)))
            .collect::<Result<_, StoreError>>()?;
        let found = tx.set_execution_status(states.keys().copied(), ExecutionStatus::Running).await?;
        let now = tx.db.clock.now();
        let batch: Vec<(Execution, EventDraft)> = found
            .into_iter()
            .map(|(id, execution)| end_without_instance(execution, states.get(&id).copied(), now))
            .collect();
        tx.write_executions(batch.iter().map(|(execution, _)| (execution, None))).await?;
        ended.extend(batch);
    }
}

fn end_without_instance(
    execution: Execution,
    state: Option<ExecutionStatus>,
    now: Timestamp,
) -> (Execution, EventDraft) {
    let error = if state == Some(ExecutionStatus::Queued) {
        ExecutionError {
            code: ErrorCode::Cancelled,
            message: "the instance was deleted before the call began".to_owned(),
            details: json!({"stage": Stage::Resolve}),
            retryable: false,
            retry_after: None,
        }
    } else {
        ExecutionError {
            code: ErrorCode::Interrupted,
            message: "the instance was deleted while the call was under way".to_owned(),
            details: json!({"stage": Stage::Call, "outcome": "unknown"}),
            retryable: false,
            retry_after: None,
        }
    };
    let duration = now.since(execution.created_at);
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let event = EventDraft::method_failed(
        &execution.correlation_id,
        &execution.integration_instance_id,
        &execution.method_name,
        &error,
        duration_ms,
    )
    .with_task(execution.task_id.as_deref());
    let ended = Execution {
        status: ExecutionStatus::Error,
        error: Some(error),
        finished_at: Some(now),
        duration_ms: Some(duration_ms),
        ..execution
    };
    (ended, event)
}

fn read_instance(row: &Row) -> Result<Instance, StoreError> {
    Ok(Instance {
        id: row.parsed(0, |text| InstanceId::parse(text).ok())?,
        tenant_id: row.parsed(1, |text| TenantId::parse(text).ok())?,
        integration_definition_id: row.parsed(2, |text| DefinitionId::parse(text).ok())?,
        definition_version: row.text(3)?.into(),
        name: row.text(4)?,
        status: row.parsed(5, InstanceStatus::parse)?,
        error: row.opt_json(6)?,
        version: row.int(7)?,
        labels: row.json(8)?,
        created_at: row.time(9)?,
        updated_at: row.time(10)?,
        last_used_at: row.opt_time(11)?,
        last_connected_at: row.opt_time(12)?,
        config: row.json(13)?,
    })
}
