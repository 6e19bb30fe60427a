//! The renewal of credentials, as far as it has to outlive the process that makes it. An
//! exchange at a token endpoint begins with a row that says so, committed before anything is
//! sent, and ends with one that says how; between the two a lease tells that its process is
//! alive. Each step holds only where the row still names the same secret and the same
//! exchange, so that a process that was paused undoes nothing.

use std::time::Duration;

use integration_model::audit::{AuditAction, AuditDraft, AuditOutcome};
use integration_model::credential::RefreshError;
use integration_model::event::EventDraft;
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::principal::Principal;
use integration_model::{InstanceId, TenantId, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::audit::AuditTarget;
use crate::changes::Changed;
use crate::credentials::{COLUMNS, CredentialMeta, StoredCredential, read_credential};
use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::sql::{Query, to_json};
use crate::store::Store;
use crate::vault::Sealed;

/// How far the renewal of a credential has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RefreshState {
    /// The exchange that began and is not known to have ended.
    pub exchange: Option<Uuid>,
    pub begun_at: Option<Timestamp>,
    /// Until when the process that makes the exchange counts as alive.
    pub lease_until: Option<Timestamp>,
    /// Failures since the secret was stored.
    pub failures: u32,
    /// Before when it is not tried again.
    pub retry_at: Option<Timestamp>,
    pub error: Option<RefreshError>,
    /// Whether the last answer brought another refresh token; none where that is not known.
    pub rotates: Option<bool>,
    /// How long a token without an expiry was seen to live.
    pub lifetime: Option<Duration>,
}

/// What became of the wish to begin an exchange.
#[derive(Debug)]
pub enum BegunRefresh {
    /// The intent is committed: the exchange may be sent.
    Begun(StoredCredential),
    /// The credential is another one by now, or gone.
    Superseded,
    /// Another exchange is under way, and its process alive.
    UnderWay(StoredCredential),
    /// Another exchange began, and its process let the lease end.
    Interrupted(StoredCredential),
}

/// A credential whose renewal is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRefresh {
    pub instance: InstanceId,
    /// Tells the credential from a later one.
    pub secret: Uuid,
    pub due_at: Timestamp,
}

/// A secret that takes the place of the one that it was exchanged for.
pub struct RenewedCredential<'a> {
    pub old: &'a StoredCredential,
    pub exchange: Uuid,
    pub meta: CredentialMeta,
    /// By [`Store::seal_credential`], once: a commit whose own outcome is not known can be
    /// made again.
    pub sealed: &'a Sealed,
    pub rotates: Option<bool>,
    pub lifetime: Option<Duration>,
}

/// How an exchange failed that left the grant as it was.
#[derive(Debug, Clone)]
pub struct RefreshFailure {
    pub exchange: Uuid,
    pub error: RefreshError,
    pub retry_at: Timestamp,
    /// When it is looked at again without a call.
    pub next_refresh_at: Option<Timestamp>,
}

impl Store {
    /// Notes that an exchange is about to be sent, where no other is open. With `take_over`,
    /// one whose process let its lease end does not count. `grace` is how long after the end
    /// of the lease somebody looks at it again without a call.
    ///
    /// May be called again with the same exchange where its own outcome is not known.
    pub async fn begin_refresh(
        &self,
        instance: &InstanceId,
        secret: Uuid,
        exchange: Uuid,
        lease: Duration,
        grace: Duration,
        take_over: bool,
    ) -> Result<BegunRefresh, StoreError> {
        let id = instance.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    let until = now.saturating_add(lease);
                    let changed = Query::new(
                        "update credentials set refresh_exchange = $1, refresh_worker = $2, refresh_begun_at = $3,
                         refresh_lease_until = $4, next_refresh_at = $5
                         where instance_id = $6 and secret_id = $7 and (
                             refresh_exchange is null or refresh_exchange = $1
                             or ($8 = 1 and refresh_lease_until < $3)
                         )",
                    )
                    .bind(exchange)
                    .bind(tx.db.worker.as_str())
                    .bind(now)
                    .bind(until)
                    .bind(until.saturating_add(grace))
                    .bind(id.as_str())
                    .bind(secret)
                    .bind(take_over)
                    .execute(&mut tx.connection)
                    .await?;
                    let text = format!("select {COLUMNS} from credentials where instance_id = $1");
                    let row = Query::built(text, vec![id.as_str().into()]).fetch_optional(&mut tx.connection).await?;
                    let Some(row) = row else { return Ok(BegunRefresh::Superseded) };
                    let stored = read_credential(&row)?;
                    if changed > 0 {
                        // Before the secret is used; what came of it has an entry of its own.
                        let audit = AuditDraft {
                            outcome: AuditOutcome::Unknown,
                            ..by_system(AuditAction::CredentialUsed, exchange)
                        };
                        tx.audit(audit, target(&stored.tenant_id, &id, secret));
                    }
                    Ok(if stored.id != secret {
                        BegunRefresh::Superseded
                    } else if stored.refresh.exchange == Some(exchange) {
                        BegunRefresh::Begun(stored)
                    } else if stored.refresh.is_interrupted(now) {
                        BegunRefresh::Interrupted(stored)
                    } else {
                        BegunRefresh::UnderWay(stored)
                    })
                })
            })
            .await
    }

    /// Says for `lease` from now that the process of this exchange is alive. Gives whether
    /// the exchange is still the one that counts.
    pub async fn extend_refresh(
        &self,
        instance: &InstanceId,
        exchange: Uuid,
        lease: Duration,
        grace: Duration,
    ) -> Result<bool, StoreError> {
        let until = self.clock().now().saturating_add(lease);
        let extend = Query::new(
            "update credentials set refresh_lease_until = $1, next_refresh_at = $2
             where instance_id = $3 and refresh_exchange = $4",
        )
        .bind(until)
        .bind(until.saturating_add(grace))
        .bind(instance.as_str())
        .bind(exchange);
        self.db().write(move |tx| Box::pin(async move { Ok(extend.execute(&mut tx.connection).await? > 0) })).await
    }

    /// Stores what an exchange brought in the place of what it was made with. `read` is the
    /// instance as it was when its `update` was planned: where its status is another by now,
    /// this fails with [`StoreError::VersionConflict`] and nothing changes. Gives whether it
    /// was stored: not where another exchange, or another credential, came in between.
    pub async fn commit_refresh(
        &self,
        renewed: RenewedCredential<'_>,
        read: &Instance,
        update: Option<&Instance>,
        events: Vec<EventDraft>,
    ) -> Result<bool, StoreError> {
        let RenewedCredential { old, exchange, meta, sealed: new, rotates, lifetime } = renewed;
        // Counts are of the secret that was used, which is another one from here on. A token is
        // worth more than they are.
        if let Err(error) = self.write_uses_of(old.id).await {
            tracing::debug!(%error, "the last uses of a credential are not in its count");
        }
        let (old_id, instance, update, sealed) = (old.id, read.clone(), update.cloned(), new.clone());
        let write = self.db().write(move |tx| {
            Box::pin(async move {
                if !hold_instance(tx, &instance, update.as_ref()).await? {
                    return Ok(false);
                }
                let Sealed { secret_id: id, key_id, wrapped_key, sealed, .. } = sealed;
                let changed = Query::new(
                    "update credentials set secret_id = $1, expires_at = $2, scope = $3, refreshable = $4,
                         next_refresh_at = $5, updated_at = $6, key_id = $7, wrapped_key = $8, sealed = $9,
                         refused_at = null, refresh_exchange = null, refresh_worker = null, refresh_begun_at = null,
                         refresh_lease_until = null, refresh_attempts = 0, refresh_retry_at = null,
                         refresh_error = null, refresh_rotates = $10, refresh_lifetime = $11
                         where instance_id = $12 and secret_id = $13 and refresh_exchange = $14",
                )
                .bind(id)
                .bind(meta.expires_at)
                .bind(meta.scope)
                .bind(meta.refreshable)
                .bind(meta.next_refresh_at)
                .bind(tx.db.clock.now())
                .bind(key_id)
                .bind(wrapped_key)
                .bind(sealed)
                .bind(rotates.map(i64::from))
                .bind(lifetime.map(|lifetime| i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX)))
                .bind(instance.id.as_str())
                .bind(old_id)
                .bind(exchange)
                .execute(&mut tx.connection)
                .await?;
                if changed == 0 {
                    // This very commit may have been made before.
                    return holds(tx, &instance.id, id).await;
                }
                let audit = AuditDraft {
                    details: Some(json!({"replaced": old_id})),
                    ..by_system(AuditAction::CredentialRefreshed, exchange)
                };
                tx.audit(audit, target(&instance.tenant_id, &instance.id, id));
                finish(tx, &instance, update.as_ref(), &events).await?;
                Ok(true)
            })
        });
        self.replace_secret(&read.id, Some(new), write).await
    }

    /// Notes how an exchange failed and ends it; the grant stays. Gives whether it was still
    /// the one that counts.
    pub async fn fail_refresh(&self, instance: &InstanceId, failure: RefreshFailure) -> Result<bool, StoreError> {
        let id = instance.clone();
        let error = to_json(&failure.error)?;
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let changed = Query::new(
                        "update credentials set refresh_exchange = null, refresh_worker = null,
                         refresh_begun_at = null, refresh_lease_until = null, refresh_attempts = refresh_attempts + 1,
                         refresh_retry_at = $1, refresh_error = $2, next_refresh_at = $3
                         where instance_id = $4 and refresh_exchange = $5",
                    )
                    .bind(failure.retry_at)
                    .bind(error)
                    .bind(failure.next_refresh_at)
                    .bind(id.as_str())
                    .bind(failure.exchange)
                    .execute(&mut tx.connection)
                    .await?;
                    if changed > 0 {
                        tx.note(Changed::Instance(id));
                    }
                    Ok(changed > 0)
                })
            })
            .await
    }

    /// Notes that the external system refused an exchange for good, with a change of the
    /// instance and the events; `read` as in [`Store::commit_refresh`]. Gives whether the
    /// exchange was still the one that counts: where not, nothing changes.
    pub async fn refuse_refresh(
        &self,
        exchange: Uuid,
        error: &RefreshError,
        read: &Instance,
        update: Option<&Instance>,
        events: Vec<EventDraft>,
    ) -> Result<bool, StoreError> {
        let (instance, update) = (read.clone(), update.cloned());
        let (kind, error) = (error.kind.as_str(), to_json(error)?);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    if !hold_instance(tx, &instance, update.as_ref()).await? {
                        return Ok(false);
                    }
                    let row = Query::new(
                        "update credentials set refresh_exchange = null, refresh_worker = null,
                         refresh_begun_at = null, refresh_lease_until = null, refresh_attempts = refresh_attempts + 1,
                         refresh_retry_at = null, refresh_error = $1, next_refresh_at = null, refused_at = $2
                         where instance_id = $3 and refresh_exchange = $4 returning secret_id",
                    )
                    .bind(error)
                    .bind(tx.db.clock.now())
                    .bind(instance.id.as_str())
                    .bind(exchange)
                    .fetch_optional(&mut tx.connection)
                    .await?;
                    let Some(secret) = row.map(|row| row.uuid(0)).transpose()? else { return Ok(false) };
                    let audit = AuditDraft {
                        outcome: AuditOutcome::Failure,
                        details: Some(json!({"kind": kind})),
                        ..by_system(AuditAction::CredentialRefused, exchange)
                    };
                    tx.audit(audit, target(&instance.tenant_id, &instance.id, secret));
                    finish(tx, &instance, update.as_ref(), &events).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Notes that nobody has heard of an exchange's process since `silent_since`, with
    /// a change of the instance and the events; `read` as in [`Store::commit_refresh`]. The
    /// exchange stays open: should its process come back, what it brings is stored. Gives
    /// whether it holds.
    pub async fn give_up_refresh(
        &self,
        exchange: Uuid,
        silent_since: Timestamp,
        error: &RefreshError,
        read: &Instance,
        update: Option<&Instance>,
        events: Vec<EventDraft>,
    ) -> Result<bool, StoreError> {
        let (instance, update) = (read.clone(), update.cloned());
        let error = to_json(error)?;
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    if !hold_instance(tx, &instance, update.as_ref()).await? {
                        return Ok(false);
                    }
                    let changed = Query::new(
                        "update credentials set refresh_error = $1, next_refresh_at = null
                         where instance_id = $2 and refresh_exchange = $3 and refresh_lease_until <= $4",
                    )
                    .bind(error)
                    .bind(instance.id.as_str())
                    .bind(exchange)
                    .bind(silent_since)
                    .execute(&mut tx.connection)
                    .await?;
                    if changed == 0 {
                        return Ok(false);
                    }
                    finish(tx, &instance, update.as_ref(), &events).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Moves the time when a credential's renewal is looked at without a call.
    pub async fn schedule_refresh(
        &self,
        instance: &InstanceId,
        secret: Uuid,
        at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let schedule =
            Query::new("update credentials set next_refresh_at = $1 where instance_id = $2 and secret_id = $3")
                .bind(at)
                .bind(instance.as_str())
                .bind(secret);
        self.db().write(move |tx| Box::pin(async move { schedule.execute(&mut tx.connection).await.map(drop) })).await
    }

    /// Up to `limit` credentials whose renewal is due, the longest due first.
    pub async fn due_refreshes(&self, limit: u32) -> Result<Vec<DueRefresh>, StoreError> {
        let rows = Query::new(
            "select instance_id, secret_id, next_refresh_at from credentials where next_refresh_at <= $1
             order by next_refresh_at limit $2",
        )
        .bind(self.clock().now())
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DueRefresh {
                    instance: row.parsed(0, |text| InstanceId::parse(text).ok())?,
                    secret: row.uuid(1)?,
                    due_at: row.time(2)?,
                })
            })
            .collect()
    }

    /// How many exchanges began whose processes let their leases end.
    pub async fn interrupted_refreshes(&self) -> Result<u64, StoreError> {
        Query::new("select count(*) from credentials where refresh_lease_until < $1")
            .bind(self.clock().now())
            .fetch_one(self.pool())
            .await?
            .count(0)
    }
}

impl RefreshState {
    /// Whether an exchange began whose process has let its lease end.
    pub fn is_interrupted(&self, now: Timestamp) -> bool {
        self.exchange.is_some() && self.lease_until.is_none_or(|until| until < now)
    }

    /// Whether an exchange is under way, and its process alive.
    pub fn is_under_way(&self, now: Timestamp) -> bool {
        self.exchange.is_some() && !self.is_interrupted(now)
    }
}

/// Locks the instance's row, which is always locked before its credential's, and makes sure
/// that what was planned from it still holds. False where the instance is gone.
async fn hold_instance(tx: &mut Tx, read: &Instance, update: Option<&Instance>) -> Result<bool, StoreError> {
    let row = Query::new(
        "update instances set version = version where id = $1 and created_at = $2 returning version, status",
    )
    .bind(read.id.as_str())
    .bind(read.created_at)
    .fetch_optional(&mut tx.connection)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let (version, status) = (row.int(0)?, row.parsed(1, InstanceStatus::parse)?);
    let holds = if update.is_some() { version == read.version } else { status == read.status };
    if holds { Ok(true) } else { Err(StoreError::VersionConflict { current: version }) }
}

/// What the service does by itself; the exchange ties its entries together.
fn by_system(action: AuditAction, exchange: Uuid) -> AuditDraft {
    AuditDraft::done(action, &Principal::system().name, "token refresh", &exchange.to_string())
}

fn target<'a>(tenant: &'a TenantId, instance: &'a InstanceId, secret: Uuid) -> AuditTarget<'a> {
    AuditTarget { tenant: Some(tenant), instance: Some(instance), credential: Some(secret) }
}

async fn finish(
    tx: &mut Tx,
    read: &Instance,
    update: Option<&Instance>,
    events: &[EventDraft],
) -> Result<(), StoreError> {
    if let Some(update) = update {
        tx.update_instance(update).await?;
    }
    tx.note(Changed::Instance(read.id.clone()));
    let rows: Vec<EventRow<'_>> = EventRow::of_instance(&read.tenant_id, &read.id, events).collect();
    tx.append_events(&rows).await
}

async fn holds(tx: &mut Tx, instance: &InstanceId, secret: Uuid) -> Result<bool, StoreError> {
    let row = Query::new("select 1 from credentials where instance_id = $1 and secret_id = $2")
        .bind(instance.as_str())
        .bind(secret)
        .fetch_optional(&mut tx.connection)
        .await?;
    Ok(row.is_some())
}
