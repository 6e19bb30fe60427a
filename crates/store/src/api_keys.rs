//! API keys: what is kept of them is a digest and a prefix to show. Must not know the keys.

use integration_model::{TenantId, Timestamp};

use crate::error::StoreError;
use crate::sql::{Query, Row};
use crate::store::Store;

/// What is known of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: String,
    pub name: String,
    /// The key's first characters, to tell it by.
    pub prefix: String,
    /// The tenant to which it is bound; none may act for all.
    pub tenant: Option<TenantId>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

impl Store {
    /// Stores a key by its digest.
    pub async fn insert_api_key(
        &self,
        id: &str,
        name: &str,
        prefix: &str,
        hash: [u8; 32],
        tenant: Option<&TenantId>,
        created_at: Timestamp,
    ) -> Result<(), StoreError> {
        let insert = Query::new(
            "insert into api_keys (id, name, prefix, hash, tenant_id, created_at) values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(name)
        .bind(prefix)
        .bind(hash.as_slice())
        .bind(tenant.map(TenantId::as_str))
        .bind(created_at);
        self.db()
            .write(move |tx| Box::pin(async move { insert.execute(&mut tx.connection).await.map(drop) }))
            .await
            .map_err(|error| error.or_exists(|| format!("API key {id:?}")))
    }

    /// The key with this digest, unless it was revoked.
    pub async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let row = Query::new(
            "select id, name, prefix, tenant_id, created_at, revoked_at from api_keys
             where hash = $1 and revoked_at is null",
        )
        .bind(hash.as_slice())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(read_api_key).transpose()
    }

    /// All keys, the revoked too, oldest first.
    pub async fn list_api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let rows = Query::new(
            "select id, name, prefix, tenant_id, created_at, revoked_at from api_keys order by created_at, id",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read_api_key).collect()
    }

    /// Revokes a key; the first revocation's time stays. Fails with [`StoreError::NotFound`]
    /// where there is no such key.
    pub async fn revoke_api_key(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let changed = Query::new("update api_keys set revoked_at = coalesce(revoked_at, $1) where id = $2")
                        .bind(tx.db.clock.now())
                        .bind(id)
                        .execute(&mut tx.connection)
                        .await?;
                    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
                })
            })
            .await
    }
}

fn read_api_key(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.text(0)?,
        name: row.text(1)?,
        prefix: row.text(2)?,
        tenant: match row.opt_text(3)? {
            Some(_) => Some(row.parsed(3, |text| TenantId::parse(text).ok())?),
            None => None,
        },
        created_at: row.time(4)?,
        revoked_at: row.opt_time(5)?,
    })
}
