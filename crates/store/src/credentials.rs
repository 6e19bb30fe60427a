//! The secrets of instances: stored sealed, one for each instance, opened only on demand.
//!
//! A secret is in its row or in the credential store: every write of one goes through
//! [`Store::seal_credential`] and [`Store::replace_secret`], every reading through
//! [`Store::open_credential`].

use std::fmt;
use std::future::Future;
use std::time::Duration;

use integration_model::audit::AuditDraft;
use integration_model::definition::AuthType;
use integration_model::event::EventDraft;
use integration_model::instance::Instance;
use integration_model::{InstanceId, TenantId, Timestamp};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::AuditTarget;
use crate::changes::Changed;
use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::refresh::RefreshState;
use crate::secrets::SecretOwner;
use crate::service::ServiceError;
use crate::sql::{Query, Row, to_json};
use crate::store::Store;
use crate::vault::{NewDataKey, Sealed, VaultError};

/// What is known of a credential without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialMeta {
    pub auth_type: AuthType,
    pub expires_at: Option<Timestamp>,
    pub scope: Option<String>,
    /// Whether it can be renewed without a person.
    pub refreshable: bool,
    /// When it is to be renewed without a call; none where only a call, or a person, renews it.
    pub next_refresh_at: Option<Timestamp>,
    /// Of several secrets that are in force together, until when each is; empty where there
    /// is one.
    pub secrets_until: Vec<Option<Timestamp>>,
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
    /// When this secret was stored.
    pub updated_at: Timestamp,
    pub refresh: RefreshState,
    /// When a person or another service last exchanged it; renewed tokens do not count.
    pub rotated_at: Timestamp,
    /// How often it was used, and when last, as far as it is written:
    /// [`Store::credential_with_uses`] gives the rest. Does not begin anew where tokens are renewed.
    pub use_count: u64,
    pub last_used_at: Option<Timestamp>,
    /// Which master key wraps its data key.
    pub key_id: String,
    pub sealed: Sealed,
}

impl StoredCredential {
    /// Reads a word of each part that opening it reads, so that they are fetched together.
    pub fn prefetch(&self) {
        std::hint::black_box((self.id, self.meta.expires_at));
        self.sealed.prefetch();
    }
}

/// What [`read_credential`] reads.
pub(crate) const COLUMNS: &str = "secret_id, tenant_id, instance_id, auth_type, expires_at, scope, refreshable, \
     refused_at, created_at, updated_at, key_id, wrapped_key, sealed, next_refresh_at, refresh_exchange, \
     refresh_begun_at, refresh_lease_until, refresh_attempts, refresh_retry_at, refresh_error, refresh_rotates, \
     refresh_lifetime, coalesce(rotated_at, updated_at), use_count, last_used_at, secrets_until";

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
    /// the instance goes into the same transaction, as in [`Store::update_instance`], and so
    /// does the audit. Its age and its count of uses begin.
    pub async fn put_credential(
        &self,
        (tenant, instance): (&TenantId, &InstanceId),
        meta: &CredentialMeta,
        plaintext: &[u8],
        instance_update: Option<&Instance>,
        events: Vec<EventDraft>,
        audit: AuditDraft,
    ) -> Result<StoredCredential, StoreError> {
        let now = self.clock().now();
        let data_key = self.new_data_key().await?;
        let id = data_key.secret_id;
        let secret_owner = SecretOwner { tenant_id: tenant, instance_id: instance, auth_type: meta.auth_type };
        let sealed = self.seal_credential(data_key, secret_owner, plaintext).await?;
        let new = StoredCredential {
            id,
            tenant_id: tenant.clone(),
            instance_id: instance.clone(),
            meta: meta.clone(),
            refused_at: None,
            created_at: now,
            updated_at: now,
            refresh: RefreshState::default(),
            rotated_at: now,
            use_count: 0,
            last_used_at: None,
            key_id: sealed.key_id.clone(),
            sealed: sealed.clone(),
        };
        let update = instance_update.cloned();
        let write = self.db().write(move |tx| {
            Box::pin(async move {
                update_of(tx, &new.instance_id, update.as_ref()).await?;
                let new = upsert(tx, new).await?;
                tx.note(Changed::Instance(new.instance_id.clone()));
                let target = AuditTarget {
                    tenant: Some(&new.tenant_id),
                    instance: Some(&new.instance_id),
                    credential: Some(new.id),
                };
                tx.audit(audit, target);
                let rows: Vec<EventRow<'_>> =
                    EventRow::of_instance(&new.tenant_id, &new.instance_id, &events).collect();
                tx.append_events(&rows).await?;
                Ok(new)
            })
        });
        self.replace_secret(instance, Some(&sealed), write).await.map_err(StoreError::or_missing)
    }

    /// A data key for a credential that is yet to come, and with it the credential's id. To be
    /// made before something is asked for that is given once only, such as another refresh
    /// token: a key service that goes away meanwhile must not cost it.
    pub async fn new_data_key(&self) -> Result<NewDataKey, StoreError> {
        Ok(self.vault().new_data_key(self.ids().next()).await?)
    }

    /// Seals a credential and puts it where credentials are kept: into the credential store
    /// where there is one, else it is for the row. Waits for that store for a few seconds at
    /// most, and fails by the fault of no service. To be called before the transaction that
    /// writes the row, which runs in [`Store::replace_secret`].
    pub async fn seal_credential(
        &self,
        data_key: NewDataKey,
        secret_owner: SecretOwner<'_>,
        plaintext: &[u8],
    ) -> Result<Sealed, StoreError> {
        let id = data_key.secret_id;
        let bound_to = owner(secret_owner.tenant_id, secret_owner.instance_id, &id);
        let sealed = self.vault().seal_with(data_key, &bound_to, plaintext)?;
        Ok(self.vault().put_elsewhere(sealed, secret_owner).await)
    }

    /// Runs a write that puts another secret into an instance's row, or none, and then has
    /// the credential store forget the one that the row does not refer to any longer:
    /// the one before, or the new one where it was not written.
    pub(crate) async fn replace_secret<T>(
        &self,
        instance: &InstanceId,
        new: Option<&Sealed>,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.vault().has_credential_store() {
            return write.await;
        }
        let before = self.external_id(instance).await?;
        let result = write.await;
        // A commit whose answer was lost may have happened.
        let settled = !matches!(result, Err(StoreError::Database(_) | StoreError::Closed));
        let candidates = [before, new.and_then(Sealed::external_id).map(str::to_owned)];
        if settled && let Ok(current) = self.external_id(instance).await {
            for unused in candidates.into_iter().flatten().filter(|id| current.as_ref() != Some(id)) {
                self.vault().forget(&unused).await;
            }
        }
        result
    }

    /// Where the credential store has an instance's credential.
    async fn external_id(&self, instance: &InstanceId) -> Result<Option<String>, StoreError> {
        let credential = self.credential(instance).await?;
        Ok(credential.and_then(|credential| credential.sealed.external_id().map(str::to_owned)))
    }

    pub async fn credential(&self, instance: &InstanceId) -> Result<Option<StoredCredential>, StoreError> {
        let text = format!("select {COLUMNS} from credentials where instance_id = $1");
        let row = Query::built(text, vec![instance.as_str().into()]).fetch_optional(self.pool()).await?;
        row.as_ref().map(read_credential).transpose()
    }

    /// Opens a credential. What a key service or a credential store has to give is asked for
    /// at the first opening of a `StoredCredential` (or of a clone) and kept with it.
    pub async fn open_credential(&self, credential: &StoredCredential) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let missing = match self.open_sealed(credential).await {
            Err(VaultError::CredentialStore(ServiceError::Missing(message))) => ServiceError::Missing(message),
            opened => return Ok(opened?),
        };
        // Another took its place meanwhile, or it was moved.
        match self.credential(&credential.instance_id).await? {
            Some(current) if current.sealed.sealed != credential.sealed.sealed => {
                Ok(self.open_sealed(&current).await?)
            }
            _ => Err(VaultError::CredentialStore(missing).into()),
        }
    }

    async fn open_sealed(&self, credential: &StoredCredential) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let owner = owner(&credential.tenant_id, &credential.instance_id, &credential.id);
        self.vault().open(&credential.sealed, &owner).await
    }

    /// Whether a credential that was opened before may still be used. At once where no
    /// service has a part in it; else the service is asked again in its time.
    pub async fn confirm_credential(&self, credential: &StoredCredential) -> Result<(), StoreError> {
        match self.vault().confirm(&credential.sealed).await {
            Err(VaultError::CredentialStore(ServiceError::Missing(_))) => {
                self.open_credential(credential).await.map(drop)
            }
            confirmed => Ok(confirmed?),
        }
    }

    /// Deletes an instance's credential; a change of the instance goes into the same
    /// transaction. Fails with [`StoreError::NotFound`] where there is none.
    pub async fn delete_credential(
        &self,
        instance: &InstanceId,
        instance_update: Option<&Instance>,
        events: Vec<EventDraft>,
        audit: AuditDraft,
    ) -> Result<(), StoreError> {
        let id = instance.clone();
        let update = instance_update.cloned();
        let write = self.db().write(move |tx| {
            Box::pin(async move {
                update_of(tx, &id, update.as_ref()).await?;
                let row = Query::new("delete from credentials where instance_id = $1 returning tenant_id, secret_id")
                    .bind(id.as_str())
                    .fetch_optional(&mut tx.connection)
                    .await?
                    .ok_or(StoreError::NotFound)?;
                tx.note(Changed::Instance(id.clone()));
                let tenant = row.parsed(0, |text| TenantId::parse(text).ok())?;
                let target = AuditTarget { tenant: Some(&tenant), instance: Some(&id), credential: Some(row.uuid(1)?) };
                tx.audit(audit, target);
                let rows: Vec<EventRow<'_>> = EventRow::of_instance(&tenant, &id, &events).collect();
                tx.append_events(&rows).await
            })
        });
        self.replace_secret(instance, None, write).await
    }

    /// Notes that the external system refused a credential, or with `None` that it took it
    /// again. Fails with [`StoreError::NotFound`] where the instance has none, or another.
    pub async fn mark_credential_refused(
        &self,
        instance: &InstanceId,
        credential: Uuid,
        at: Option<Timestamp>,
        audit: Option<AuditDraft>,
    ) -> Result<(), StoreError> {
        let id = instance.clone();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = "update credentials set refused_at = $1 where instance_id = $2 and secret_id = $3 \
                                returning tenant_id";
                    let row = Query::new(text)
                        .bind(at)
                        .bind(id.as_str())
                        .bind(credential)
                        .fetch_optional(&mut tx.connection)
                        .await?
                        .ok_or(StoreError::NotFound)?;
                    tx.note(Changed::Instance(id.clone()));
                    let Some(audit) = audit else { return Ok(()) };
                    let tenant = row.parsed(0, |text| TenantId::parse(text).ok())?;
                    let target =
                        AuditTarget { tenant: Some(&tenant), instance: Some(&id), credential: Some(credential) };
                    tx.audit(audit, target);
                    Ok(())
                })
            })
            .await
    }
}

/// How old the credentials are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialAges {
    /// How many were last rotated before a time.
    pub older: u64,
    /// When the oldest was last rotated; none where there are no credentials.
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// How many credentials were last rotated before `before`, and when the oldest was. Reads
    /// an index, not the credentials.
    pub async fn credential_ages(&self, before: Timestamp) -> Result<CredentialAges, StoreError> {
        let older = Query::new("select count(*) from credentials where coalesce(rotated_at, updated_at) < $1")
            .bind(before)
            .fetch_one(self.pool())
            .await?
            .count(0)?;
        let oldest = Query::new(
            "select coalesce(rotated_at, updated_at) from credentials order by coalesce(rotated_at, updated_at) limit 1",
        )
        .fetch_optional(self.pool())
        .await?
        .map(|row| row.time(0))
        .transpose()?;
        Ok(CredentialAges { older, oldest })
    }
}

/// What the sealed secret is bound to.
pub(crate) fn owner<'a>(tenant: &'a TenantId, instance: &'a InstanceId, id: &'a Uuid) -> [&'a [u8]; 4] {
    [b"credential", tenant.as_str().as_bytes(), instance.as_str().as_bytes(), id.as_bytes()]
}

async fn update_of(tx: &mut Tx, id: &InstanceId, update: Option<&Instance>) -> Result<(), StoreError> {
    let Some(update) = update else { return Ok(()) };
    if &update.id != id {
        return Err(StoreError::Conflict(format!("the change is of instance {}, not of {id}", update.id)));
    }
    tx.update_instance(update).await.map(drop)
}

/// Gives the credential with what goes on from the one before.
async fn upsert(tx: &mut Tx, new: StoredCredential) -> Result<StoredCredential, StoreError> {
    let row = Query::new(
        "insert into credentials (
             instance_id, secret_id, tenant_id, auth_type, expires_at, scope, refreshable, created_at, updated_at,
             key_id, wrapped_key, sealed, next_refresh_at, rotated_at, secrets_until
         )
         select id, $1, tenant_id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $13, $7, $14 from instances
         where id = $11 and tenant_id = $12
         on conflict (instance_id) do update set
             secret_id = excluded.secret_id, auth_type = excluded.auth_type, expires_at = excluded.expires_at,
             scope = excluded.scope, refreshable = excluded.refreshable, refused_at = null,
             updated_at = excluded.updated_at, key_id = excluded.key_id, wrapped_key = excluded.wrapped_key,
             sealed = excluded.sealed, next_refresh_at = excluded.next_refresh_at, refresh_exchange = null,
             refresh_worker = null, refresh_begun_at = null, refresh_lease_until = null, refresh_attempts = 0,
             refresh_retry_at = null, refresh_error = null, refresh_rotates = null, refresh_lifetime = null,
             rotated_at = excluded.rotated_at, use_count = 0, last_used_at = null,
             secrets_until = excluded.secrets_until
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
    .bind(new.meta.next_refresh_at)
    .bind((!new.meta.secrets_until.is_empty()).then(|| to_json(&new.meta.secrets_until)).transpose()?)
    .fetch_optional(&mut tx.connection)
    .await?
    .ok_or(StoreError::NotFound)?;
    Ok(StoredCredential { created_at: row.time(0)?, ..new })
}

pub(crate) fn read_credential(row: &Row) -> Result<StoredCredential, StoreError> {
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
            next_refresh_at: row.opt_time(13)?,
            secrets_until: row.opt_json(25)?.unwrap_or_default(),
        },
        refused_at: row.opt_time(7)?,
        created_at: row.time(8)?,
        updated_at: row.time(9)?,
        refresh: RefreshState {
            exchange: row.opt_uuid(14)?,
            begun_at: row.opt_time(15)?,
            lease_until: row.opt_time(16)?,
            failures: u32::try_from(row.count(17)?).unwrap_or(u32::MAX),
            retry_at: row.opt_time(18)?,
            error: row.opt_json(19)?,
            rotates: row.opt_int(20)?.map(|flag| flag != 0),
            lifetime: row.opt_int(21)?.and_then(|micros| u64::try_from(micros).ok()).map(Duration::from_micros),
        },
        rotated_at: row.time(22)?,
        use_count: row.count(23)?,
        last_used_at: row.opt_time(24)?,
        key_id: key_id.clone(),
        sealed: Sealed::from_row(id, key_id, row.bytes(11)?, row.bytes(12)?),
    })
}
