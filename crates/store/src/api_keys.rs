//! API keys: what is kept of them is a digest and a prefix to show. Must not know the keys.

use std::collections::BTreeMap;

use integration_model::api_key::ApiKey;
use integration_model::audit::AuditDraft;
use integration_model::page::PageRequest;
use integration_model::principal::Role;
use integration_model::{TenantId, Timestamp};

use crate::audit::AuditTarget;
use crate::changes::Changed;
use crate::error::StoreError;
use crate::filter::Conditions;
use crate::sql::{Query, Row, to_json};
use crate::store::Store;

/// All keys that are valid at one time are held in memory.
const MAX_VALID: u64 = 10_000;

const COLUMNS: &str =
    "id, name, prefix, roles, grants, tenant_id, created_at, created_by, expires_at, revoked_at, last_used_at";

impl Store {
    /// Stores a key by its digest, with its audit. Fails with [`StoreError::Conflict`] where too
    /// many are valid.
    pub async fn insert_api_key(&self, key: &ApiKey, hash: [u8; 32], audit: AuditDraft) -> Result<(), StoreError> {
        let key = key.clone();
        let name = key.name.clone();
        let roles: Vec<_> = key.roles.iter().map(|role| role.as_str()).collect();
        let insert = Query::new(
            "insert into api_keys (
                 id, name, prefix, hash, roles, grants, tenant_id, created_at, created_by, expires_at
             ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(key.id.as_str())
        .bind(key.name.as_str())
        .bind(key.prefix.as_str())
        .bind(hash.as_slice())
        .bind(roles.join(" "))
        .bind(to_json(&key.grants)?)
        .bind(key.tenant_id.as_ref().map(TenantId::as_str))
        .bind(key.created_at)
        .bind(key.created_by.as_str())
        .bind(key.expires_at);
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let valid = Query::new(
                        "select count(*) from api_keys
                         where revoked_at is null and (expires_at is null or expires_at > $1)",
                    )
                    .bind(key.created_at)
                    .fetch_one(&mut tx.connection)
                    .await?
                    .count(0)?;
                    if valid >= MAX_VALID {
                        return Err(StoreError::Conflict(format!(
                            "{MAX_VALID} API keys are valid: revoke those that are not needed"
                        )));
                    }
                    insert.execute(&mut tx.connection).await?;
                    tx.note(Changed::ApiKey(key.id.clone()));
                    tx.audit(audit, target(key.tenant_id.as_ref()));
                    Ok(())
                })
            })
            .await
            .map_err(|error| error.or_exists(|| format!("API key {name:?}")))
    }

    /// The keys that are neither revoked nor expired, with their digests.
    pub async fn valid_api_keys(&self) -> Result<Vec<(ApiKey, [u8; 32])>, StoreError> {
        let text = format!(
            "select {COLUMNS}, hash from api_keys
             where revoked_at is null and (expires_at is null or expires_at > $1) order by created_at, id"
        );
        let rows = Query::built(text, vec![self.clock().now().into()]).fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| {
                let hash = row.bytes(11)?.try_into();
                let hash = hash.map_err(|_| StoreError::corrupt("API key", "its digest is not of 32 bytes"))?;
                Ok((read(row)?, hash))
            })
            .collect()
    }

    /// A page of the keys, the revoked and expired too, the newest first; with their count.
    /// `tenant`: only those bound to it.
    pub async fn list_api_keys(
        &self,
        tenant: Option<&TenantId>,
        page: PageRequest,
    ) -> Result<(Vec<ApiKey>, u64), StoreError> {
        let mut conditions = Conditions::default();
        conditions.add_if("tenant_id = ?", tenant.map(TenantId::as_str));
        let clause = conditions.where_clause();
        let count_text = format!("select count(*) from api_keys{clause}");
        let total = conditions.clone().into_query(count_text).fetch_one(self.pool()).await?.count(0)?;
        let limit = conditions.placeholder(page.limit);
        let offset = conditions.placeholder(page.offset());
        let text = format!(
            "select {COLUMNS} from api_keys{clause} order by created_at desc, id desc limit {limit} offset {offset}"
        );
        let rows = conditions.into_query(text).fetch_all(self.pool()).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
    }

    /// A key by its id.
    pub async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let text = format!("select {COLUMNS} from api_keys where id = $1");
        let row = Query::built(text, vec![id.into()]).fetch_optional(self.pool()).await?;
        row.as_ref().map(read).transpose()
    }

    /// Revokes a key, with its audit; of one that is revoked already, the first revocation
    /// stays the only one. Fails with [`StoreError::NotFound`] where there is no such key.
    pub async fn revoke_api_key(&self, id: &str, audit: AuditDraft) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let tenant = Query::new("select tenant_id from api_keys where id = $1")
                        .bind(id.as_str())
                        .fetch_optional(&mut tx.connection)
                        .await?
                        .ok_or(StoreError::NotFound)
                        .and_then(|row| read_tenant(&row, 0))?;
                    let changed =
                        Query::new("update api_keys set revoked_at = $1 where id = $2 and revoked_at is null")
                            .bind(tx.db.clock.now())
                            .bind(id.as_str())
                            .execute(&mut tx.connection)
                            .await?;
                    if changed == 0 {
                        return Ok(());
                    }
                    tx.note(Changed::ApiKey(id));
                    tx.audit(audit, target(tenant.as_ref()));
                    Ok(())
                })
            })
            .await
    }

    /// Moves the times of keys' last uses forward, by their ids.
    pub async fn note_api_key_uses(&self, uses: BTreeMap<String, Timestamp>) -> Result<(), StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    // In the order of ids, so that two processes never wait for each other.
                    for (id, at) in uses {
                        Query::new(
                            "update api_keys set last_used_at = $1
                             where id = $2 and (last_used_at is null or last_used_at < $1)",
                        )
                        .bind(at)
                        .bind(id)
                        .execute(&mut tx.connection)
                        .await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// The audit of a key that is bound to no tenant is kept with the default one's.
/// A key of no tenant concerns all.
fn target(tenant: Option<&TenantId>) -> AuditTarget<'_> {
    AuditTarget { tenant, instance: None, credential: None }
}

fn read(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.text(0)?,
        name: row.text(1)?,
        prefix: row.text(2)?,
        // A role that only a newer version knows gives nothing here.
        roles: row.text(3)?.split(' ').filter_map(Role::parse).collect(),
        grants: row.json(4)?,
        tenant_id: read_tenant(row, 5)?,
        created_at: row.time(6)?,
        created_by: row.text(7)?,
        expires_at: row.opt_time(8)?,
        revoked_at: row.opt_time(9)?,
        last_used_at: row.opt_time(10)?,
    })
}

fn read_tenant(row: &Row, column: usize) -> Result<Option<TenantId>, StoreError> {
    match row.opt_text(column)? {
        Some(_) => row.parsed(column, |text| TenantId::parse(text).ok()).map(Some),
        None => Ok(None),
    }
}
