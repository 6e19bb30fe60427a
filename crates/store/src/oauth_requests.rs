//! Connections that a person has begun: kept until the person comes back, each good for one
//! use. Must not know what is sealed in them.

use std::fmt;
use std::time::Duration;

use integration_model::audit::AuditDraft;
use integration_model::definition::GrantType;
use integration_model::{InstanceId, TenantId, Timestamp};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::AuditTarget;
use crate::database::Tx;
use crate::error::StoreError;
use crate::sql::{Query, Row};
use crate::store::Store;
use crate::vault::Sealed;

/// How many connections of one instance may be under way; the oldest make room.
const MAX_OF_INSTANCE: u32 = 20;

/// A connection on its way into the store.
#[derive(Clone)]
pub struct NewOAuthRequest {
    /// The SHA-256 digest of what ends it: a `state`, or a device code.
    pub digest: [u8; 32],
    pub grant_type: GrantType,
    pub tenant_id: TenantId,
    pub instance_id: InstanceId,
    /// Who began it.
    pub principal: String,
    pub principal_tenant: Option<TenantId>,
    pub expires_at: Timestamp,
    /// How often the token endpoint is asked, for a device.
    pub poll_interval: Option<Duration>,
}

/// A connection as it is stored; [`Store::open_oauth_request`] opens what is sealed in it.
#[derive(Clone)]
pub struct OAuthRequest {
    pub digest: [u8; 32],
    pub grant_type: GrantType,
    pub tenant_id: TenantId,
    pub instance_id: InstanceId,
    pub principal: String,
    pub principal_tenant: Option<TenantId>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub poll_interval: Option<Duration>,
    secret_id: Uuid,
    sealed: Sealed,
}

impl fmt::Debug for OAuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthRequest").field("instance_id", &self.instance_id).finish_non_exhaustive()
    }
}

const COLUMNS: &str = "digest, grant_type, tenant_id, instance_id, principal, principal_tenant, created_at, \
     expires_at, secret_id, key_id, wrapped_key, sealed, poll_interval_ms";

impl Store {
    /// Keeps a connection until it ends. Fails with [`StoreError::NotFound`] where the
    /// instance is gone.
    pub async fn put_oauth_request(
        &self,
        new: NewOAuthRequest,
        plaintext: &[u8],
        audit: AuditDraft,
    ) -> Result<(), StoreError> {
        let id = self.ids().next();
        let sealed = self.vault().seal(id, &owner(&new.tenant_id, &new.instance_id, &id), plaintext).await?;
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    make_room(tx, &new.instance_id).await?;
                    tx.audit(audit, AuditTarget::of_instance(&new.tenant_id, &new.instance_id));
                    insert(tx, new, id, sealed).await
                })
            })
            .await
            .map_err(StoreError::or_missing)
    }

    /// Takes the connection with this digest: it is gone after this, whoever else asks. Where
    /// there is none, nothing is written: strangers may ask.
    pub async fn claim_oauth_request(&self, digest: [u8; 32]) -> Result<Option<OAuthRequest>, StoreError> {
        let query = Query::new("select 1 from oauth_requests where digest = $1").bind(digest.to_vec());
        if query.fetch_optional(self.pool()).await?.is_none() {
            return Ok(None);
        }
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = format!("delete from oauth_requests where digest = $1 returning {COLUMNS}");
                    let query = Query::built(text, vec![digest.to_vec().into()]);
                    query.fetch_optional(&mut tx.connection).await?.as_ref().map(read).transpose()
                })
            })
            .await
    }

    /// Takes up to `limit` devices whose token endpoint is to be asked now; each is left to
    /// its taker until `until`.
    pub async fn claim_device_polls(&self, until: Timestamp, limit: u32) -> Result<Vec<OAuthRequest>, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = format!(
                        "update oauth_requests set next_poll_at = $1 where digest in (
                             select digest from oauth_requests where next_poll_at <= $2 order by next_poll_at limit $3
                         ) and next_poll_at <= $2 returning {COLUMNS}"
                    );
                    let args = vec![until.into(), tx.db.clock.now().into(), limit.into()];
                    let rows = Query::built(text, args).fetch_all(&mut tx.connection).await?;
                    rows.iter().map(read).collect()
                })
            })
            .await
    }

    /// When the next device is to be asked for.
    pub async fn next_device_poll(&self) -> Result<Option<Timestamp>, StoreError> {
        let row = Query::new("select min(next_poll_at) from oauth_requests").fetch_one(self.pool()).await?;
        row.opt_time(0)
    }

    /// Asks for a device again after `interval`, and as often from then on. Gives whether it is
    /// still waited for.
    pub async fn postpone_device_poll(&self, digest: [u8; 32], interval: Duration) -> Result<bool, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = "update oauth_requests set next_poll_at = $1, poll_interval_ms = $2 where digest = $3";
                    let changed = Query::new(text)
                        .bind(tx.db.clock.now().saturating_add(interval))
                        .bind(millis(interval))
                        .bind(digest.to_vec())
                        .execute(&mut tx.connection)
                        .await?;
                    Ok(changed > 0)
                })
            })
            .await
    }

    /// Opens what is sealed in a connection.
    pub async fn open_oauth_request(&self, request: &OAuthRequest) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let owner = owner(&request.tenant_id, &request.instance_id, &request.secret_id);
        Ok(self.vault().open(&request.sealed, &owner).await?)
    }

    /// Deletes connections that expired before `before`; gives how many. To be called now and
    /// then: later than they expire, so that who comes late hears so.
    pub async fn purge_oauth_requests(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let query = Query::new("delete from oauth_requests where expires_at < $1");
                    query.bind(before).execute(&mut tx.connection).await
                })
            })
            .await
    }
}

/// What the sealed part is bound to.
fn owner<'a>(tenant: &'a TenantId, instance: &'a InstanceId, id: &'a Uuid) -> [&'a [u8]; 4] {
    [b"oauth-request", tenant.as_str().as_bytes(), instance.as_str().as_bytes(), id.as_bytes()]
}

async fn make_room(tx: &mut Tx, instance: &InstanceId) -> Result<(), StoreError> {
    Query::new(
        "delete from oauth_requests where instance_id = $1 and digest not in (
             select digest from oauth_requests where instance_id = $1 order by created_at desc, digest limit $2
         )",
    )
    .bind(instance.as_str())
    .bind(MAX_OF_INSTANCE - 1)
    .execute(&mut tx.connection)
    .await?;
    Ok(())
}

async fn insert(tx: &mut Tx, new: NewOAuthRequest, id: Uuid, sealed: Sealed) -> Result<(), StoreError> {
    let now = tx.db.clock.now();
    let inserted = Query::new(
        "insert into oauth_requests (
             digest, grant_type, instance_id, tenant_id, principal, principal_tenant, created_at, expires_at,
             next_poll_at, poll_interval_ms, secret_id, key_id, wrapped_key, sealed
         ) select $1, $2, id, tenant_id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 from instances
         where id = $13 and tenant_id = $14",
    )
    .bind(new.digest.to_vec())
    .bind(new.grant_type.as_str())
    .bind(new.principal.as_str())
    .bind(new.principal_tenant.as_ref().map(TenantId::as_str))
    .bind(now)
    .bind(new.expires_at)
    .bind(new.poll_interval.map(|interval| now.saturating_add(interval)))
    .bind(new.poll_interval.map(millis))
    .bind(id)
    .bind(sealed.key_id)
    .bind(sealed.wrapped_key)
    .bind(sealed.sealed)
    .bind(new.instance_id.as_str())
    .bind(new.tenant_id.as_str())
    .execute(&mut tx.connection)
    .await?;
    if inserted == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn read(row: &Row) -> Result<OAuthRequest, StoreError> {
    let secret_id = row.uuid(8)?;
    let digest = row.bytes(0)?;
    Ok(OAuthRequest {
        digest: digest.try_into().map_err(|_| StoreError::corrupt("oauth request", "its digest is no SHA-256"))?,
        grant_type: row.parsed(1, GrantType::parse)?,
        tenant_id: row.parsed(2, |text| TenantId::parse(text).ok())?,
        instance_id: row.parsed(3, |text| InstanceId::parse(text).ok())?,
        principal: row.text(4)?,
        principal_tenant: match row.opt_text(5)? {
            Some(_) => Some(row.parsed(5, |text| TenantId::parse(text).ok())?),
            None => None,
        },
        created_at: row.time(6)?,
        expires_at: row.time(7)?,
        poll_interval: row.opt_int(12)?.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
        secret_id,
        sealed: Sealed::from_row(secret_id, row.text(9)?, row.bytes(10)?, row.bytes(11)?),
    })
}
