//! The secrets of instances: stored sealed, one for each instance, opened only on demand.

use std::fmt;

use integration_model::definition::AuthType;
use integration_model::event::EventDraft;
use integration_model::instance::Instance;
use integration_model::{InstanceId, TenantId, Timestamp};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::sql::{Query, Row};
use crate::store::Store;
use crate::vault::Sealed;

/// What is known of a credential without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialMeta {
    pub auth_type: AuthType,
    pub expires_at: Option<Timestamp>,
    pub scope: Option<String>,
    /// Whether it can be renewed without a person.
    pub refreshable: bool,
}

/// A credential as it is stored; [`Store::open_credential`] opens it.
#[derive(Clone)]
pub struct StoredCredential {
    pub id: Uuid,
    pub tenant_id: TenantId,
    pub instance_id: InstanceId,
    pub meta: CredentialMeta,
    /// When the external system refused it.
    pub refused_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Which master key wraps its data key.
    pub key_id: String,
    pub sealed: Sealed,
}

impl fmt::Debug for StoredCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCredential")
            .field("id", &self.id)
            .field("instance_id", &self.instance_id)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Seals and stores an instance's credential in the place of an earlier one. A change of
    /// the instance goes into the same transaction, as in [`Store::update_instance`].
    pub async fn put_credential(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        meta: &CredentialMeta,
        plaintext: &[u8],
        instance_update: Option<&Instance>,
        events: Vec<EventDraft>,
    ) -> Result<StoredCredential, StoreError> {
        let id = self.ids().next();
        let now = self.clock().now();
        let sealed = self.vault().seal(id, &owner(tenant, instance, &id), plaintext)?;
        let new = StoredCredential {
            id,
            tenant_id: tenant.clone(),
            instance_id: instance.clone(),
            meta: meta.clone(),
            refused_at: None,
            created_at: now,
            updated_at: now,
            key_id: sealed.key_id.clone(),
            sealed,
        };
        let update = instance_update.cloned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    update_of(tx, &new.instance_id, update.as_ref()).await?;
                    let created_at = upsert(tx, &new).await?;
                    let rows: Vec<EventRow<'_>> =
                        EventRow::of_instance(&new.tenant_id, &new.instance_id, &events).collect();
                    tx.append_events(&rows).await?;
                    Ok(StoredCredential { created_at, ..new })
                })
            })
            .await
            .map_err(StoreError::or_missing)
    }

    pub async fn credential(&self, instance: &InstanceId) -> Result<Option<StoredCredential>, StoreError> {
        let row = Query::new(
            "select secret_id, tenant_id, instance_id, auth_type, expires_at, scope, refreshable, refused_at,
             created_at, updated_at, key_id, wrapped_key, sealed from credentials where instance_id = $1",
        )
        .bind(instance.as_str())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(read_credential).transpose()
    }

    /// Opens a credential. The data key is unwrapped at the first opening of a
    /// `StoredCredential` (or of a clone) and kept with it.
    pub fn open_credential(&self, credential: &StoredCredential) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let owner = owner(&credential.tenant_id, &credential.instance_id, &credential.id);
        Ok(self.vault().open(&credential.sealed, &owner)?)
    }

    /// Deletes an instance's credential; a change of the instance goes into the same
    /// transaction. Fails with [`StoreError::NotFound`] where there is none.
    pub async fn delete_credential(
        &self,
        instance: &InstanceId,
        instance_update: Option<&Instance>,
        events: Vec<EventDraft>,
    ) -> Result<(), StoreError> {
        let id = instance.clone();
        let update = instance_update.cloned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    update_of(tx, &id, update.as_ref()).await?;
                    let row = Query::new("delete from credentials where instance_id = $1 returning tenant_id")
                        .bind(id.as_str())
                        .fetch_optional(&mut tx.connection)
                        .await?
                        .ok_or(StoreError::NotFound)?;
                    let tenant = row.parsed(0, |text| TenantId::parse(text).ok())?;
                    let rows: Vec<EventRow<'_>> = EventRow::of_instance(&tenant, &id, &events).collect();
                    tx.append_events(&rows).await
                })
            })
            .await
    }

    /// Notes that the external system refused a credential, or with `None` that it took it
    /// again. Fails with [`StoreError::NotFound`] where the instance has none, or another.
    pub async fn mark_credential_refused(
        &self,
        instance: &InstanceId,
        credential: Uuid,
        at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let id = instance.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = "update credentials set refused_at = $1 where instance_id = $2 and secret_id = $3";
                    let changed = Query::new(text)
                        .bind(at)
                        .bind(id.as_str())
                        .bind(credential)
                        .execute(&mut tx.connection)
                        .await?;
                    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
                })
            })
            .await
    }
}

/// What the sealed secret is bound to.
fn owner<'a>(tenant: &'a TenantId, instance: &'a InstanceId, id: &'a Uuid) -> [&'a [u8]; 4] {
    [b"credential", tenant.as_str().as_bytes(), instance.as_str().as_bytes(), id.as_bytes()]
}

async fn update_of(tx: &mut Tx, id: &InstanceId, update: Option<&Instance>) -> Result<(), StoreError> {
    let Some(update) = update else { return Ok(()) };
    if &update.id != id {
        return Err(StoreError::Conflict(format!("the change is of instance {}, not of {id}", update.id)));
    }
    tx.update_instance(update).await.map(drop)
}

/// Gives the time when the instance first had a credential.
async fn upsert(tx: &mut Tx, new: &StoredCredential) -> Result<Timestamp, StoreError> {
    let row = Query::new(
        "insert into credentials (
             instance_id, secret_id, tenant_id, auth_type, expires_at, scope, refreshable, created_at, updated_at,
             key_id, wrapped_key, sealed
         )
         select id, $1, tenant_id, $2, $3, $4, $5, $6, $7, $8, $9, $10 from instances where id = $11 and tenant_id = $12
         on conflict (instance_id) do update set
             secret_id = excluded.secret_id, auth_type = excluded.auth_type, expires_at = excluded.expires_at,
             scope = excluded.scope, refreshable = excluded.refreshable, refused_at = null,
             updated_at = excluded.updated_at, key_id = excluded.key_id, wrapped_key = excluded.wrapped_key,
             sealed = excluded.sealed
         returning created_at",
    )
    .bind(new.id)
    .bind(new.meta.auth_type.as_str())
    .bind(new.meta.expires_at)
    .bind(new.meta.scope.as_deref())
    .bind(new.meta.refreshable)
    .bind(new.created_at)
    .bind(new.updated_at)
    .bind(new.key_id.as_str())
    .bind(new.sealed.wrapped_key.as_slice())
    .bind(new.sealed.sealed.as_slice())
    .bind(new.instance_id.as_str())
    .bind(new.tenant_id.as_str())
    .fetch_optional(&mut tx.connection)
    .await?;
    row.ok_or(StoreError::NotFound)?.time(0)
}

fn read_credential(row: &Row) -> Result<StoredCredential, StoreError> {
    let id = row.uuid(0)?;
    let key_id = row.text(10)?;
    Ok(StoredCredential {
        id,
        tenant_id: row.parsed(1, |text| TenantId::parse(text).ok())?,
        instance_id: row.parsed(2, |text| InstanceId::parse(text).ok())?,
        meta: CredentialMeta {
            auth_type: row.parsed(3, AuthType::parse)?,
            expires_at: row.opt_time(4)?,
            scope: row.opt_text(5)?,
            refreshable: row.flag(6)?,
        },
        refused_at: row.opt_time(7)?,
        created_at: row.time(8)?,
        updated_at: row.time(9)?,
        key_id: key_id.clone(),
        sealed: Sealed::from_row(id, key_id, row.bytes(11)?, row.bytes(12)?),
    })
}
