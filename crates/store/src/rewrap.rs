//! The rotation of master keys in the database: data keys are wrapped anew, secrets stay as
//! they are. Online: each row changes only where it is still as it was read, so that it may
//! be stopped anywhere and run again.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::error::StoreError;
use crate::sql::Query;
use crate::store::Store;
use crate::vault::Sealed;

/// What a run of [`Store::rewrap`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewrapReport {
    /// Data keys that are now under the active master key.
    pub rewrapped: u64,
    /// Data keys that were under it before.
    pub already: u64,
}

/// The tables with sealed secrets; their columns for them have the same names.
const TABLES: [&str; 6] =
    ["credentials", "definitions", "oauth_clients", "oauth_requests", "vault_canary", "audit_chain"];

impl Store {
    /// Wraps every data key that is not under the active master key anew, `batch` rows to a
    /// transaction. `progress` is told how many are done, out of how many.
    ///
    /// A process that still has the old list of keys may seal new secrets under the old one
    /// meanwhile; [`Store::keys_in_use`] tells, and another run wraps them too.
    pub async fn rewrap(
        &self,
        batch: u32,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<RewrapReport, StoreError> {
        let active = self.vault().active_key_id().await?;
        let in_use = self.keys_in_use().await?;
        let count = |is_active: bool| {
            in_use.iter().filter(|(id, _)| (*id == active) == is_active).map(|(_, count)| count).sum::<u64>()
        };
        let total = count(false);
        let mut report = RewrapReport { rewrapped: 0, already: count(true) };
        let mut done = 0;
        for table in TABLES {
            let mut after = Uuid::nil();
            loop {
                let page = self.wrapped_keys(table, after, &active, batch.max(1)).await?;
                let Some(last) = page.last() else { break };
                after = last.secret_id;
                done += page.len() as u64;
                report.rewrapped += self.rewrap_page(table, page).await?;
                progress(done, total.max(done));
            }
        }
        Ok(report)
    }

    /// How many secrets are under which master key.
    pub async fn keys_in_use(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for table in TABLES {
            let text = format!("select key_id, count(*) from {table} where key_id is not null group by key_id");
            for row in Query::built(text, Vec::new()).fetch_all(self.pool()).await? {
                *counts.entry(row.text(0)?).or_default() += row.count(1)?;
            }
        }
        Ok(counts.into_iter().collect())
    }

    async fn wrapped_keys(
        &self,
        table: &str,
        after: Uuid,
        active: &str,
        limit: u32,
    ) -> Result<Vec<Sealed>, StoreError> {
        let text = format!(
            "select secret_id, key_id, wrapped_key from {table} where secret_id > $1 and key_id <> $2 \
             order by secret_id limit $3"
        );
        let rows = Query::built(text, vec![after.into(), active.into(), limit.into()]).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(Sealed::from_row(row.uuid(0)?, row.text(1)?, row.bytes(2)?, Vec::new()))).collect()
    }

    async fn rewrap_page(&self, table: &'static str, page: Vec<Sealed>) -> Result<u64, StoreError> {
        let rewrapped = self.vault().rewrap(&page).await?;
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let mut changed = 0;
                    for (old, new) in page.into_iter().zip(rewrapped) {
                        let text = format!(
                            "update {table} set key_id = $1, wrapped_key = $2 where secret_id = $3 and key_id = $4 \
                             and wrapped_key = $5"
                        );
                        let args = vec![
                            new.key_id.into(),
                            new.bytes.into(),
                            old.secret_id.into(),
                            old.key_id.into(),
                            old.wrapped_key.into(),
                        ];
                        changed += Query::built(text, args).execute(&mut tx.connection).await?;
                    }
                    Ok(changed)
                })
            })
            .await
    }
}
