//! What the spools of processes hold that ended before they committed it. Must not know how a
//! spool is kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use integration_model::audit::AuditEntry;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::database::Database;
use crate::encoded::{Decoded, Encoded};
use crate::error::StoreError;
use crate::journal::{LogBatch, MAX_FAILURES_IN_A_ROW, write_encoded};
use crate::spool::LeftOver;
use crate::store::Store;

/// How many lines of a spool one transaction takes.
const AT_ONCE: usize = 500;

impl Store {
    /// Commits what processes that are gone put down in their spools and did not commit, and
    /// what this one gave up; gives how many lines that were. To be called now and then.
    pub async fn recover_spool(&self) -> Result<usize, StoreError> {
        self.journal().tend_spool().await;
        // First, since a use may lie in a file and the execution that tells its outcome in a table.
        let of_tables = recover_sessions(self.db()).await?;
        let Some(spool) = self.spool() else { return Ok(of_tables) };
        let alive = self.db().spooling_workers().await?;
        let read = {
            let spool = Arc::clone(spool);
            let read = tokio::task::spawn_blocking(move || spool.take_left_over(&alive)).await;
            read.map_err(|_| StoreError::Closed)?
        };
        let left = read.map_err(StoreError::Spool)?;
        match self.recover(&left).await {
            Ok((recovered, 0)) => {
                left.into_iter().for_each(LeftOver::delete);
                Ok(of_tables + recovered)
            }
            Ok((recovered, failed)) => {
                tracing::error!(records = failed, "executions stay in the spool, since they cannot be committed");
                spool.put_back(left);
                Ok(of_tables + recovered)
            }
            Err(error) => {
                spool.put_back(left);
                Err(error)
            }
        }
    }

    /// Gives how many lines became rows, and how many records did not although others do.
    async fn recover(&self, left: &[LeftOver]) -> Result<(usize, usize), StoreError> {
        let (mut recovered, mut failed) = (0, 0);
        // First, since a use may lie in another segment than the execution that tells its outcome.
        let all: Vec<&[u8]> = left.iter().flat_map(|segment| segment.records.iter()).collect();
        for some in all.chunks(AT_ONCE) {
            let db = Arc::clone(self.db());
            let mut records = Encoded::default();
            some.iter().for_each(|record| records.push_bytes(record));
            // In a task of its own: a transaction must not be cancelled midway.
            let task = tokio::spawn(async move { recover_records(&db, records).await });
            let (committed, refused) = task.await.map_err(|_| StoreError::Closed)??;
            recovered += committed;
            failed += refused;
        }
        for uses in left.iter().flat_map(|segment| segment.uses.chunks(AT_ONCE)) {
            recovered += self.recover_uses(uses).await?;
        }
        Ok((recovered, failed))
    }

    /// Commits those of these uses that are not in the audit; gives how many that were. Nobody
    /// else commits them meanwhile.
    async fn recover_uses(&self, uses: &[AuditEntry]) -> Result<usize, StoreError> {
        let Some(oldest) = uses.iter().map(|entry| entry.timestamp).min() else { return Ok(0) };
        let ids: BTreeSet<Uuid> = uses.iter().map(|entry| entry.id).collect();
        let known = self.db().known_audit(&ids, oldest).await?;
        let fresh: Vec<AuditEntry> = uses.iter().filter(|entry| !known.contains(&entry.id)).cloned().collect();
        let count = fresh.len();
        if count > 0 {
            self.insert_uses(fresh).await?;
        }
        Ok(count)
    }
}

/// Commits what sessions hold that are gone, and removes them; gives how many records that were. One
/// that cannot be recovered, as what a later version wrote, keeps nobody from the others.
pub(crate) async fn recover_sessions(db: &Arc<Database>) -> Result<usize, StoreError> {
    let mut recovered = 0;
    for mut session in db.dead_sessions().await? {
        let db = Arc::clone(db);
        // In a task of its own: a transaction must not be cancelled midway.
        let task = tokio::spawn(async move {
            let (mut recovered, mut failed) = (0, 0);
            loop {
                let records = session.next().await?;
                if records.is_empty() {
                    break;
                }
                let (committed, refused) = recover_records(&db, records).await?;
                recovered += committed;
                failed += refused;
            }
            if failed == 0 {
                session.remove().await;
            } else {
                tracing::error!(records = failed, "executions stay in the spool, since they cannot be committed");
                session.put_back().await;
            }
            Ok::<usize, StoreError>(recovered)
        });
        match task.await.map_err(|_| StoreError::Closed)? {
            Ok(committed) => recovered += committed,
            Err(error) => tracing::error!(%error, "what a process left in its spool cannot be committed"),
        }
    }
    Ok(recovered)
}

/// Commits those of these records whose execution has no row; gives how many that were, and how
/// many of them the database does not take.
pub(crate) async fn recover_records(db: &Arc<Database>, records: Encoded) -> Result<(usize, usize), StoreError> {
    let decoded = records.iter().map(Decoded::read).collect::<Result<Vec<_>, _>>()?;
    let known = db.known_executions(decoded.iter().map(|record| record.id)).await?;
    let Some(oldest) = decoded.iter().map(|record| record.created_at).min() else { return Ok((0, 0)) };
    let (mut left, mut acts) = (Encoded::default(), BTreeSet::new());
    for (record, bytes) in decoded.iter().zip(records.iter()).filter(|(record, _)| !known.contains(&record.id)) {
        left.push_bytes(bytes);
        record.each(
            |_| Ok(()),
            |act| {
                acts.insert(act.id);
                Ok(())
            },
        )?;
    }
    if left.is_empty() {
        return Ok((0, 0));
    }
    let audited = db.known_audit(&acts, oldest).await?;
    let by = Mutex::default();
    let of_left = LogBatch { records: &left, answers: &[], known: &audited, settled: None };
    let Err(error) = write_encoded(db, of_left, &by).await else { return Ok((left.len(), 0)) };
    let (mut committed, mut failures) = (0, 0);
    for record in left.iter() {
        let mut alone = Encoded::default();
        alone.push_bytes(record);
        match write_encoded(db, LogBatch { records: &alone, ..of_left }, &by).await {
            Ok(()) => {
                committed += 1;
                failures = 0;
            }
            Err(error) => {
                tracing::error!(%error, "a spooled execution cannot be committed");
                failures += 1;
                if failures >= MAX_FAILURES_IN_A_ROW {
                    break;
                }
            }
        }
    }
    // Where it takes none, the fault is the database's.
    if committed == 0 { Err(error) } else { Ok((committed, left.len() - committed)) }
}
