//! Idempotency keys: the first call under a key claims it, its answer is kept with the
//! claim, and later calls get that answer.
//!
//! A claim names the process that made it. Processes renew a lease in `workers` by
//! [`Store::heartbeat`]; a claim without an answer whose process has no lease any more was
//! abandoned: [`Store::abandoned_claims`] finds it, and whoever ends the execution gives it
//! an answer with [`Store::finish_abandoned`].

use std::time::Duration;

use bytes::Bytes;
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};

use crate::batch::{Cells, Kind, Rows};
use crate::database::Tx;
use crate::error::StoreError;
use crate::sql::{Query, Row};
use crate::store::Store;

/// A call's claim of a key. Keys of different instances and methods are different keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyClaim {
    pub tenant: TenantId,
    pub instance: InstanceId,
    pub method: String,
    pub key: String,
    /// A digest of the request: the same key with another request is a mistake.
    pub fingerprint: [u8; 32],
    pub execution_id: ExecutionId,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyState {
    /// The key is the caller's: execute, then record the answer, or release it.
    Claimed,
    /// The call was made before, with this answer.
    Answered { execution_id: ExecutionId, answer: Bytes },
    /// The call is under way.
    InProgress { execution_id: ExecutionId, claimed_at: Timestamp },
    /// The key was used with another request.
    Mismatch,
}

impl Store {
    /// Claims a key for `ttl`. A claim whose time has passed is replaced.
    /// Fails with [`StoreError::NotFound`] where the instance is gone.
    pub async fn claim_idempotency(
        &self,
        claim: &IdempotencyClaim,
        ttl: Duration,
    ) -> Result<IdempotencyState, StoreError> {
        let claim = claim.clone();
        self.db()
            .write(move |tx| Box::pin(async move { try_claim(tx, &claim, ttl).await }))
            .await
            .map_err(StoreError::or_missing)
    }

    /// Gives a claim up: the call was refused before anything was sent.
    pub async fn release_idempotency(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        let claim = claim.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    Query::new(
                        "delete from idempotency_keys where tenant_id = $1 and instance_id = $2 and method = $3
                         and key = $4 and execution_id = $5 and answer is null",
                    )
                    .bind(claim.tenant.as_str())
                    .bind(claim.instance.as_str())
                    .bind(claim.method)
                    .bind(claim.key)
                    .bind(claim.execution_id.0)
                    .execute(&mut tx.connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Up to `limit` claims made before `older_than` that have no answer and whose process
    /// is not alive. Those of executions that wait in the queue are not abandoned.
    pub async fn abandoned_claims(
        &self,
        older_than: Timestamp,
        limit: u32,
    ) -> Result<Vec<IdempotencyClaim>, StoreError> {
        let rows = Query::new(
            "select tenant_id, instance_id, method, key, fingerprint, execution_id from idempotency_keys
             where answer is null and claimed_at < $1
             and not exists (select 1 from workers w where w.name = idempotency_keys.worker and w.lease_until >= $2)
             and not exists (select 1 from execution_queue q where q.id = idempotency_keys.execution_id)
             order by claimed_at limit $3",
        )
        .bind(older_than)
        .bind(self.clock().now())
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read_claim).collect()
    }

    /// Gives an abandoned claim its answer. Gives whether it was still without one.
    pub async fn finish_abandoned(&self, claim: &IdempotencyClaim, answer: &[u8]) -> Result<bool, StoreError> {
        let claim = claim.clone();
        let answer = Bytes::copy_from_slice(answer);
        self.db().write(move |tx| Box::pin(async move { Ok(tx.store_answers([(&claim, &answer)]).await? > 0) })).await
    }

    /// Says for `lease` from now that this process is alive.
    pub async fn heartbeat(&self, lease: Duration) -> Result<(), StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    Query::new(
                        "insert into workers (name, lease_until) values ($1, $2)
                         on conflict (name) do update set lease_until = excluded.lease_until",
                    )
                    .bind(tx.db.worker.as_str())
                    .bind(tx.db.clock.now().saturating_add(lease))
                    .execute(&mut tx.connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// The name of this process among those that share the database: a new one at each opening.
    pub fn worker(&self) -> &str {
        &self.db().worker
    }

    /// Deletes up to `limit` claims whose time has passed, and processes that are long gone;
    /// gives the number of claims. To be called now and then.
    pub async fn purge_expired_claims(&self, limit: u32) -> Result<u64, StoreError> {
        const LONG_GONE: Duration = Duration::from_secs(86_400);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    Query::new("delete from workers where lease_until < $1")
                        .bind(now.saturating_sub(LONG_GONE))
                        .execute(&mut tx.connection)
                        .await?;
                    Query::new(
                        "delete from idempotency_keys where (tenant_id, instance_id, method, key) in (
                             select tenant_id, instance_id, method, key from idempotency_keys
                             where expires_at <= $1 limit $2
                         ) and expires_at <= $1",
                    )
                    .bind(now)
                    .bind(limit)
                    .execute(&mut tx.connection)
                    .await
                })
            })
            .await
    }
}

async fn try_claim(tx: &mut Tx, claim: &IdempotencyClaim, ttl: Duration) -> Result<IdempotencyState, StoreError> {
    let now = tx.db.clock.now();
    let claimed = Query::new(
        "insert into idempotency_keys (
             tenant_id, instance_id, method, key, fingerprint, execution_id, worker, claimed_at, expires_at
         ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (tenant_id, instance_id, method, key) do update set
             fingerprint = excluded.fingerprint, execution_id = excluded.execution_id, worker = excluded.worker,
             claimed_at = excluded.claimed_at, expires_at = excluded.expires_at, answer = null
         where idempotency_keys.expires_at <= $8",
    )
    .bind(claim.tenant.as_str())
    .bind(claim.instance.as_str())
    .bind(claim.method.as_str())
    .bind(claim.key.as_str())
    .bind(claim.fingerprint.as_slice())
    .bind(claim.execution_id.0)
    .bind(tx.db.worker.as_str())
    .bind(now)
    .bind(now.saturating_add(ttl))
    .execute(&mut tx.connection)
    .await?;
    if claimed > 0 {
        return Ok(IdempotencyState::Claimed);
    }
    let row = Query::new(
        "select fingerprint, execution_id, claimed_at, answer from idempotency_keys
         where tenant_id = $1 and instance_id = $2 and method = $3 and key = $4",
    )
    .bind(claim.tenant.as_str())
    .bind(claim.instance.as_str())
    .bind(claim.method.as_str())
    .bind(claim.key.as_str())
    .fetch_one(&mut tx.connection)
    .await?;
    if row.bytes(0)? != claim.fingerprint {
        return Ok(IdempotencyState::Mismatch);
    }
    let execution_id = ExecutionId(row.uuid(1)?);
    Ok(match row.opt_bytes(3)? {
        Some(answer) => IdempotencyState::Answered { execution_id, answer: answer.into() },
        None => IdempotencyState::InProgress { execution_id, claimed_at: row.time(2)? },
    })
}

impl Tx {
    /// Stores the answers of claims that have none; gives how many had none.
    pub(crate) async fn store_answers<'a>(
        &mut self,
        answers: impl IntoIterator<Item = (&'a IdempotencyClaim, &'a Bytes)>,
    ) -> Result<u64, StoreError> {
        let mut rows = Rows::new(self.connection.backend(), ANSWER);
        for (claim, answer) in answers {
            rows.push(|cells| write_answer(cells, claim, answer));
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let text = format!(
            "{}update idempotency_keys set answer = {} from r where tenant_id = {} and instance_id = {} and \
             method = {} and key = {} and execution_id = {} and answer is null",
            rows.with(),
            rows.cell(5),
            rows.cell(0),
            rows.cell(1),
            rows.cell(2),
            rows.cell(3),
            rows.cell(4),
        );
        rows.query(text).execute(&mut self.connection).await
    }
}

/// Stores the answer of one claim that has none; bound by [`write_answer`].
pub(crate) const STORE_ANSWER: &str = "update idempotency_keys set answer = ?6 where tenant_id = ?1 and \
     instance_id = ?2 and method = ?3 and key = ?4 and execution_id = ?5 and answer is null";

/// What [`write_answer`] writes.
pub(crate) const ANSWER: [Kind; 6] = [Kind::Text, Kind::Text, Kind::Text, Kind::Text, Kind::Bytes, Kind::Bytes];

pub(crate) fn write_answer(cells: &mut impl Cells, claim: &IdempotencyClaim, answer: &Bytes) {
    cells.text(claim.tenant.as_str());
    cells.text(claim.instance.as_str());
    cells.text(&claim.method);
    cells.text(&claim.key);
    cells.bytes(claim.execution_id.0.as_bytes());
    cells.bytes(answer);
}

fn read_claim(row: &Row) -> Result<IdempotencyClaim, StoreError> {
    let fingerprint = row.bytes(4)?;
    Ok(IdempotencyClaim {
        tenant: row.parsed(0, |text| TenantId::parse(text).ok())?,
        instance: row.parsed(1, |text| InstanceId::parse(text).ok())?,
        method: row.text(2)?,
        key: row.text(3)?,
        fingerprint: fingerprint.try_into().map_err(|_| StoreError::corrupt("fingerprint", "it is not 32 bytes"))?,
        execution_id: ExecutionId(row.uuid(5)?),
    })
}
