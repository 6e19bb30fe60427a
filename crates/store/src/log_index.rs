//! The logs' index by instance on SQLite, made in bulk: an index that each commit kept up would
//! cost it a page for every instance, and callers use many. A chunk is a stretch of a table's
//! rows, in the order in which they came; its entries are sorted, and neither ever changes.
//!
//! PostgreSQL, and tables from before there were chunks, have an index of the database's own.
//! Must not know how the index is used (that is [`crate::log_walk`]'s).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::metrics::UNINDEXED_EXECUTIONS;
use crate::partitions::{Day, Log, Partition, rows_or_dropped};
use crate::sql::{Backend, Pool, Query};
use crate::store::Store;

/// How many rows make a chunk: few enough to keep callers waiting but for moments, and so many
/// that its entries of one instance lie on few pages.
pub const LOG_CHUNK_ROWS: u32 = 4096;

/// How many chunks of a table are made at once, where many rows wait.
const MOST_CHUNKS: usize = 16;

/// Tables of days that are over and wholly indexed.
#[derive(Debug, Default)]
pub(crate) struct IndexedDays(Mutex<BTreeSet<Partition>>);

impl IndexedDays {
    fn contains(&self, partition: Partition) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&partition)
    }

    fn remember(&self, partition: Partition) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition);
    }

    fn retain(&self, partitions: &BTreeSet<Partition>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|partition| partitions.contains(partition));
    }
}

/// Makes the next chunk of a table: its row in the list of chunks, unless there are too few rows
/// for it, and its entries.
#[derive(Debug)]
pub(crate) struct NextChunk {
    pub(crate) close: String,
    pub(crate) fill: String,
}

impl NextChunk {
    /// Of at least `least` and at most `most` rows.
    fn of(partition: Partition, least: u32, most: u32) -> Self {
        let (table, place) = (partition.table(), partition.log.place());
        let chunks = chunks_of(partition);
        let (log, day) = (partition.log.name(), partition.day.number());
        let close = format!(
            "with newest as (select chunk, last_place, greatest_id from {chunks} order by chunk desc limit 1), \
             added as (select {place} as place, id from {table} where {place} > (select last_place from newest) \
             order by {place} limit {most}) \
             insert into log_chunks (log, day, chunk, last_place, least_id, greatest_id) \
             select '{log}', {day}, (select chunk from newest) + 1, max(place), min(id), \
             max(max(id), (select greatest_id from newest)) from added having count(*) >= {least}"
        );
        let fill = format!(
            "insert into {table}_by_instance (chunk, instance, place) \
             select (select max(chunk) from {chunks}), instance_id, {place} from {table} \
             where {place} > (select last_place from {chunks} order by chunk desc limit 1 offset 1) \
             and {place} <= (select last_place from {chunks} order by chunk desc limit 1) \
             and instance_id is not null order by instance_id, {place}"
        );
        Self { close, fill }
    }
}

fn chunks_of(partition: Partition) -> String {
    format!("log_chunks where log = '{}' and day = {}", partition.log.name(), partition.day.number())
}

impl Tx {
    /// Has a new table indexed in chunks.
    pub(crate) async fn begin_chunks(&mut self, partition: Partition) -> Result<(), StoreError> {
        if self.connection.backend() == Backend::Postgres || !partition.log.has_instances() {
            return Ok(());
        }
        let nothing = if partition.log.ids_ascend() { "x''" } else { "0" };
        let text = format!(
            "insert into log_chunks (log, day, chunk, last_place, least_id, greatest_id) \
             values ($1, $2, 0, {nothing}, x'ff', x'') on conflict (log, day, chunk) do nothing"
        );
        let args = vec![partition.log.name().into(), partition.day.number().into()];
        Query::built(text, args).execute(&mut self.connection).await.map(drop)
    }

    /// Drops the index of a table.
    pub(crate) async fn drop_chunks(&mut self, partition: Partition) -> Result<(), StoreError> {
        if self.connection.backend() == Backend::Postgres || !partition.log.has_instances() {
            return Ok(());
        }
        self.connection.run_script(format!("drop table if exists {}_by_instance", partition.table())).await?;
        Query::built(format!("delete from {}", chunks_of(partition)), Vec::new())
            .execute(&mut self.connection)
            .await
            .map(drop)
    }
}

impl Store {
    /// Indexes what came into the logs since, in chunks of so many rows ([`LOG_CHUNK_ROWS`]), up
    /// to a bound. To be called about once a second: lists by instance look through the rest.
    pub async fn index_logs(&self, chunk_rows: u32) -> Result<(), StoreError> {
        let db = self.db();
        if db.pool.backend() == Backend::Postgres {
            return Ok(());
        }
        let partitions = db.partitions.reload(&db.pool).await?;
        db.indexed_days.retain(&partitions);
        let today = Day::of(db.clock.now());
        let mut unindexed = 0;
        for partition in partitions.into_iter().filter(|partition| partition.log.has_instances()) {
            if db.indexed_days.contains(partition) {
                continue;
            }
            // To a day that has been over for another hardly any rows are added.
            let over = partition.day.after() < today;
            let least = if over { 1 } else { chunk_rows };
            let mut made = 0;
            while made < MOST_CHUNKS && db.make_chunk(partition, least, chunk_rows).await? {
                made += 1;
            }
            if over && made < MOST_CHUNKS {
                db.indexed_days.remember(partition);
            }
            if partition.log == Log::Executions && !over {
                unindexed += db.unindexed_rows(partition).await?;
            }
        }
        metrics::gauge!(UNINDEXED_EXECUTIONS).set(unindexed as f64);
        Ok(())
    }
}

impl Database {
    /// Makes a chunk in a transaction of its own; false where there are too few rows for it.
    async fn make_chunk(self: &Arc<Self>, partition: Partition, least: u32, most: u32) -> Result<bool, StoreError> {
        if !self.has_rows_for_chunk(partition, least).await? {
            return Ok(false);
        }
        let next = NextChunk::of(partition, least, most);
        if let Pool::Sqlite { turn, .. } = &self.pool {
            let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
            // Callers that commit wait for no disk: what a loss of power takes is indexed again.
            if let Some(writer) = self.log_writer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                return writer.make_chunk(&next);
            }
        }
        self.write(move |tx| {
            Box::pin(async move {
                if Query::built(next.close, Vec::new()).execute(&mut tx.connection).await? == 0 {
                    return Ok(false);
                }
                Query::built(next.fill, Vec::new()).execute(&mut tx.connection).await?;
                Ok(true)
            })
        })
        .await
    }

    /// How many rows there are beyond the last indexed one, where rows have numbers.
    async fn unindexed_rows(&self, partition: Partition) -> Result<u64, StoreError> {
        let (table, chunks) = (partition.table(), chunks_of(partition));
        let text = format!(
            "select coalesce(max(rowid), 0) - (select last_place from {chunks} order by chunk desc limit 1) from {table}"
        );
        let rows = rows_or_dropped(Query::built(text, Vec::new()).fetch_all(&self.pool).await)?;
        // Nothing where the table has an index of its own.
        let count = rows.first().map(|row| row.opt_int(0)).transpose()?.flatten();
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// Looks without keeping writers waiting.
    async fn has_rows_for_chunk(&self, partition: Partition, least: u32) -> Result<bool, StoreError> {
        if !partition.log.ids_ascend() {
            return Ok(self.unindexed_rows(partition).await? >= u64::from(least));
        }
        let (table, place, chunks) = (partition.table(), partition.log.place(), chunks_of(partition));
        let text = format!(
            "select count(*) from (select 1 from {table} \
             where {place} > (select last_place from {chunks} order by chunk desc limit 1) limit {least})"
        );
        let rows = rows_or_dropped(Query::built(text, Vec::new()).fetch_all(&self.pool).await)?;
        Ok(rows.first().map(|row| row.count(0)).transpose()?.is_some_and(|count| count >= u64::from(least)))
    }
}
