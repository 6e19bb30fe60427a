//! Moving credentials between the database and the credential store. Online: each row
//! changes only where it is still as it was read, so that it may be stopped anywhere and run
//! again.

use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::credentials::{COLUMNS, StoredCredential, read_credential};
use crate::error::StoreError;
use crate::secrets::{SecretOwner, reference_prefix};
use crate::sql::Query;
use crate::store::Store;
use crate::vault::Sealed;

impl Store {
    /// Moves every credential that is not where new ones go: into the credential store, or
    /// back from it. `progress` is told how many are done. Gives how many were moved.
    pub async fn move_credentials(&self, batch: u32, mut progress: impl FnMut(u64) + Send) -> Result<u64, StoreError> {
        let (mut after, mut moved) = (Uuid::nil(), 0);
        loop {
            let page = self.misplaced(after, batch.max(1)).await?;
            let Some(last) = page.last() else { return Ok(moved) };
            after = last.id;
            for credential in &page {
                moved += u64::from(self.move_credential(credential).await?);
            }
            progress(moved);
        }
    }

    /// Moves what the credential store did not take when it was stored. To be called now and
    /// then; costs nothing where there is none.
    pub async fn move_deferred_credentials(&self) -> Result<u64, StoreError> {
        let deferred = self.vault().deferred();
        if !self.vault().keeps_elsewhere() || !deferred.swap(false, Ordering::Relaxed) {
            return Ok(0);
        }
        let moved = self.move_credentials(100, |_| ()).await;
        if moved.is_err() {
            deferred.store(true, Ordering::Relaxed);
        }
        moved
    }

    async fn misplaced(&self, after: Uuid, limit: u32) -> Result<Vec<StoredCredential>, StoreError> {
        let comparison = if self.vault().keeps_elsewhere() { "<>" } else { "=" };
        let text = format!(
            "select {COLUMNS} from credentials where secret_id > $1 and substr(sealed, 1, 1) {comparison} $2 \
             order by secret_id limit $3"
        );
        let args = vec![after.into(), reference_prefix().into(), limit.into()];
        let rows = Query::built(text, args).fetch_all(self.pool()).await?;
        rows.iter().map(read_credential).collect()
    }

    /// Whether it was moved, and not replaced meanwhile.
    async fn move_credential(&self, credential: &StoredCredential) -> Result<bool, StoreError> {
        let owner = SecretOwner {
            tenant_id: &credential.tenant_id,
            instance_id: &credential.instance_id,
            auth_type: credential.meta.auth_type,
        };
        let moved = if self.vault().keeps_elsewhere() {
            self.vault().moved_out(&credential.sealed, owner).await?
        } else {
            self.vault().moved_in(&credential.sealed).await?
        };
        let changed = self.place(credential.id, &credential.sealed, &moved);
        self.replace_secret(&credential.instance_id, Some(&moved), changed).await
    }

    async fn place(&self, id: Uuid, before: &Sealed, after: &Sealed) -> Result<bool, StoreError> {
        let (before, after) = (before.sealed.clone(), after.sealed.clone());
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let text = "update credentials set sealed = $1 where secret_id = $2 and sealed = $3";
                    let changed =
                        Query::new(text).bind(after).bind(id).bind(before).execute(&mut tx.connection).await?;
                    Ok(changed > 0)
                })
            })
            .await
    }
}
