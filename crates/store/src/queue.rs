//! The queue of asynchronous executions: safe across processes by leases. A worker that
//! claims an execution holds it until its lease ends; who holds it when it is recorded, or
//! records it first, ends it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use integration_model::ExecutionId;
use integration_model::audit::AuditDraft;
use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionStatus};
use uuid::Uuid;

use crate::audit::AuditTarget;
use crate::batch::{Cells, Kind, Rows};
use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::sql::{Arg, Backend, Query};
use crate::store::Store;

/// An execution taken from the queue.
#[derive(Debug, Clone)]
pub struct QueuedExecution {
    /// Its row, now RUNNING.
    pub execution: Execution,
    pub params: Bytes,
    /// The options of the call, as they were given to [`Store::enqueue`].
    pub request: Bytes,
}

impl Store {
    /// Puts an execution in the queue: its row in the log and its place, together.
    /// Fails with [`StoreError::NotFound`] where its instance is gone.
    pub async fn enqueue(&self, execution: &Execution, params: &Bytes, request: &[u8]) -> Result<(), StoreError> {
        let execution = execution.clone();
        let params = params.clone();
        let request = request.to_vec();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    Query::new("insert into execution_queue (id, instance_id, state, params, request) values ($1, $2, $3, $4, $5)")
                        .bind(execution.id.0)
                        .bind(execution.integration_instance_id.as_str())
                        .bind(ExecutionStatus::Queued.as_str())
                        .bind(params.as_ref())
                        .bind(request)
                        .execute(&mut tx.connection)
                        .await?;
                    tx.write_executions([(&execution, Some(&params))]).await
                })
            })
            .await
            .map_err(|error| error.or_missing().or_exists(|| "the execution".to_owned()))
    }

    /// How many executions wait or run.
    pub async fn queue_depth(&self) -> Result<u64, StoreError> {
        Query::new("select count(*) from execution_queue").fetch_one(self.pool()).await?.count(0)
    }

    /// Takes up to `limit` waiting executions, oldest first, and marks them RUNNING.
    pub async fn claim_queued(
        &self,
        worker: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<QueuedExecution>, StoreError> {
        self.take(Candidates::Waiting, worker, limit, lease).await
    }

    /// Takes over up to `limit` executions whose worker let its lease end, oldest first.
    /// Whether they had reached the external system is not known.
    pub async fn expired_leases(
        &self,
        worker: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<QueuedExecution>, StoreError> {
        self.take(Candidates::Expired, worker, limit, lease).await
    }

    async fn take(
        &self,
        candidates: Candidates,
        worker: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<QueuedExecution>, StoreError> {
        let worker = worker.to_owned();
        self.db().write(move |tx| Box::pin(async move { take(tx, candidates, worker, limit, lease).await })).await
    }

    /// Moves the end of the worker's leases to `lease` from now; gives those that it has
    /// lost: ended, requeued or taken over.
    pub async fn extend_leases(
        &self,
        worker: &str,
        ids: &[ExecutionId],
        lease: Duration,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let held: BTreeSet<Uuid> = ids.iter().map(|id| id.0).collect();
        let worker = worker.to_owned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let backend = tx.connection.backend();
                    let mut rows = Rows::new(backend, [Kind::Bytes, Kind::Text, Kind::Int]);
                    let until = tx.db.clock.now().saturating_add(lease);
                    for id in &held {
                        rows.push(|cells| {
                            cells.bytes(id.as_bytes());
                            cells.text(&worker);
                            cells.int(until.as_micros());
                        });
                    }
                    let text = format!(
                        "{}update execution_queue set lease_until = {} from r where execution_queue.id = {} and \
                         execution_queue.worker = {} returning execution_queue.id",
                        rows.with(),
                        rows.cell(2),
                        rows.cell(0),
                        rows.cell(1),
                    );
                    let mut lost = held;
                    for row in rows.query(text).fetch_all(&mut tx.connection).await? {
                        lost.remove(&row.uuid(0)?);
                    }
                    Ok(lost.into_iter().map(ExecutionId).collect())
                })
            })
            .await
    }

    /// Puts a claimed execution back, for a worker that stops before it began. Gives whether
    /// it was RUNNING and now waits again.
    pub async fn requeue(&self, id: ExecutionId) -> Result<bool, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let changed = Query::new(
                        "update execution_queue set state = 'QUEUED', worker = null, lease_until = null
                         where id = $1 and state = 'RUNNING'",
                    )
                    .bind(id.0)
                    .execute(&mut tx.connection)
                    .await?;
                    if changed == 0 {
                        return Ok(false);
                    }
                    tx.set_execution_status([id.0], ExecutionStatus::Queued).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Ends an execution that still waits. Gives whether it did: `ended` and the events are
    /// written only then.
    pub async fn cancel_queued(
        &self,
        id: ExecutionId,
        ended: Execution,
        events: Vec<EventDraft>,
        audit: AuditDraft,
    ) -> Result<bool, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let deleted = Query::new("delete from execution_queue where id = $1 and state = 'QUEUED'")
                        .bind(id.0)
                        .execute(&mut tx.connection)
                        .await?;
                    if deleted == 0 {
                        return Ok(false);
                    }
                    tx.write_executions([(&ended, None)]).await?;
                    let target = AuditTarget { tenant: Some(&ended.tenant_id), instance: None, credential: None };
                    tx.audit(audit, target);
                    tx.audit_execution(&ended);
                    let rows: Vec<EventRow<'_>> =
                        EventRow::of_instance(&ended.tenant_id, &ended.integration_instance_id, &events).collect();
                    tx.append_events(&rows).await?;
                    Ok(true)
                })
            })
            .await
    }
}

/// Which rows of the queue a worker may take.
#[derive(Debug, Clone, Copy)]
enum Candidates {
    Waiting,
    Expired,
}

async fn take(
    tx: &mut Tx,
    candidates: Candidates,
    worker: String,
    limit: u32,
    lease: Duration,
) -> Result<Vec<QueuedExecution>, StoreError> {
    let now = tx.db.clock.now();
    let mut args: Vec<Arg> = vec![worker.into(), now.saturating_add(lease).into(), limit.into()];
    let which = match candidates {
        Candidates::Waiting => "state = 'QUEUED'",
        Candidates::Expired => {
            args.push(now.into());
            "state = 'RUNNING' and lease_until < $4"
        }
    };
    // Two workers never wait for each other's rows.
    let skip_locked = match tx.connection.backend() {
        Backend::Sqlite => "",
        Backend::Postgres => " for update skip locked",
    };
    let text = format!(
        "with taken as materialized (select id from execution_queue where {which} order by id limit $3{skip_locked})
         update execution_queue set state = 'RUNNING', worker = $1, lease_until = $2
         where id in (select id from taken) returning id, params, request"
    );
    let mut places = Vec::new();
    for row in Query::built(text, args).fetch_all(&mut tx.connection).await? {
        places.push((row.uuid(0)?, row.bytes(1)?, row.bytes(2)?));
    }
    places.sort_by_key(|(id, _, _)| *id);
    let mut executions = tx.set_execution_status(places.iter().map(|(id, _, _)| *id), ExecutionStatus::Running).await?;
    let mut taken = Vec::with_capacity(places.len());
    let mut orphans = Vec::new();
    for (id, params, request) in places {
        match executions.remove(&id) {
            Some(execution) => {
                taken.push(QueuedExecution { execution, params: params.into(), request: request.into() });
            }
            None => orphans.push(id),
        }
    }
    if !orphans.is_empty() {
        // Their rows ended or went with their partition.
        let rows = Rows::of_ids(tx.connection.backend(), orphans);
        let text = format!("{}delete from execution_queue where id in {}", rows.with(), rows.ids());
        rows.query(text).execute(&mut tx.connection).await?;
    }
    Ok(taken)
}
