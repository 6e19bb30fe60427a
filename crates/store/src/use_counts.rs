//! How often credentials were used: counted in memory when the uses are committed, and written
//! once a second, since a row that each call writes again costs more than what it tells.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use integration_model::Timestamp;
use uuid::Uuid;

use crate::error::StoreError;
use crate::sql::Pool;
use crate::store::Store;

/// How often each credential was used, and when last.
pub(crate) type Counts = BTreeMap<Uuid, (i64, Timestamp)>;

/// How many are written in one transaction. Callers have their turn between two: where a hundred
/// thousand credentials are used by turns, all at once would keep them waiting.
const WRITTEN_AT_ONCE: usize = 250;

/// What is not written yet. An entry a credential, no more than there are.
#[derive(Debug, Default)]
pub(crate) struct UseCounts {
    pending: Mutex<Counts>,
    /// Whoever holds it writes.
    turn: tokio::sync::Mutex<()>,
}

impl UseCounts {
    fn pending(&self) -> MutexGuard<'_, Counts> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, counts: Counts) {
        if counts.is_empty() {
            return;
        }
        let mut pending = self.pending();
        for (credential, (uses, at)) in counts {
            let (count, latest) = pending.entry(credential).or_insert((0, at));
            *count += uses;
            *latest = at.max(*latest);
        }
    }
}

impl Store {
    /// Writes how often credentials were used. What is read of a credential after this holds
    /// the uses that this process has recorded. To be called about once a second.
    pub async fn write_use_counts(&self) -> Result<(), StoreError> {
        self.db().log_settled().await;
        let counts = &self.db().use_counts;
        // A reader waits for a write under way, which has taken what is pending.
        let _turn = counts.turn.lock().await;
        let mut taken = std::mem::take(&mut *counts.pending());
        while !taken.is_empty() {
            let after = taken.keys().nth(WRITTEN_AT_ONCE).copied();
            let rest = after.map(|after| taken.split_off(&after)).unwrap_or_default();
            if let Err(error) = self.count_uses(&taken).await {
                counts.add(taken);
                counts.add(rest);
                return Err(error);
            }
            taken = rest;
        }
        Ok(())
    }

    async fn count_uses(&self, counts: &Counts) -> Result<(), StoreError> {
        let db = self.db();
        if let Pool::Sqlite { turn, .. } = &db.pool {
            let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
            // As surely as the uses themselves: callers that commit wait for no disk.
            if let Some(writer) = db.log_writer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                return writer.count_uses(counts);
            }
        }
        let counts = counts.clone();
        db.write(move |tx| Box::pin(async move { tx.count_uses(counts).await })).await
    }
}
