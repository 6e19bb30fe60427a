//! The logs' tables: one for each UTC day of each log, made from a template, dropped whole
//! when their retention has passed. Ids are UUIDv7, so an id says in which table its row is.
//!
//! A change of a template is for new days: either the code gets on with the tables that exist, as that
//! of the index by instance does ([`crate::log_index`]), or a migration changes them too.
//! Must not know what the rows mean.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use integration_model::Timestamp;
use uuid::Uuid;

use crate::clock::millis_of;
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::sql::{Backend, Connection, Pool, Query, Row};

const MILLIS_PER_DAY: u64 = 86_400_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Holds off other processes that make or drop tables in the same PostgreSQL database.
const LOCK: i64 = 0x7061_7274_6974_696f;

/// A log that is kept in tables by day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Log {
    Executions,
    Events,
    Audit,
    /// The audit from before its rows were chained: read until retention drops it.
    UnchainedAudit,
}

impl Log {
    const ALL: [Self; 4] = [Self::Executions, Self::Events, Self::Audit, Self::UnchainedAudit];
    const WRITTEN: [Self; 3] = [Self::Executions, Self::Events, Self::Audit];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Executions => "executions",
            Self::Events => "events",
            Self::Audit => "audit_trail",
            Self::UnchainedAudit => "audit",
        }
    }

    /// Whether rows are of instances, and listed by them.
    pub(crate) const fn has_instances(self) -> bool {
        matches!(self, Self::Executions | Self::Events)
    }

    /// Whether the order of the rows' ids is that in which they came.
    pub(crate) const fn ids_ascend(self) -> bool {
        matches!(self, Self::Events)
    }

    /// What tells a row's place in the order in which they came, on SQLite.
    pub(crate) const fn place(self) -> &'static str {
        if self.ids_ascend() { "id" } else { "rowid" }
    }

    /// What makes a table; nothing where no more are made.
    const fn template(self, backend: Backend) -> &'static str {
        match (self, backend) {
            (Self::Executions, Backend::Sqlite) => include_str!("../partitions/sqlite/executions.sql"),
            (Self::Executions, Backend::Postgres) => include_str!("../partitions/postgres/executions.sql"),
            (Self::Events, Backend::Sqlite) => include_str!("../partitions/sqlite/events.sql"),
            (Self::Events, Backend::Postgres) => include_str!("../partitions/postgres/events.sql"),
            (Self::Audit, Backend::Sqlite) => include_str!("../partitions/sqlite/audit.sql"),
            (Self::Audit, Backend::Postgres) => include_str!("../partitions/postgres/audit.sql"),
            (Self::UnchainedAudit, _) => "",
        }
    }
}

/// A UTC day, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(i64);

impl Day {
    pub(crate) const MIN: Self = Self(0);
    pub(crate) const MAX: Self = Self(i64::MAX);

    /// The day in which the id was made.
    pub(crate) fn of_id(id: Uuid) -> Self {
        // 48 bits of milliseconds are fewer than four million days.
        Self((millis_of(id) / MILLIS_PER_DAY) as i64)
    }

    pub(crate) fn of(time: Timestamp) -> Self {
        Self(time.as_micros().div_euclid(MICROS_PER_DAY))
    }

    pub(crate) fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub(crate) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub(crate) const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Days since 1970-01-01.
    pub(crate) const fn number(self) -> i64 {
        self.0
    }

    fn start(self) -> Timestamp {
        Timestamp::from_micros(self.0.saturating_mul(MICROS_PER_DAY))
    }
}

/// One day of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Partition {
    pub(crate) log: Log,
    pub(crate) day: Day,
}

impl Partition {
    pub(crate) fn of_id(log: Log, id: Uuid) -> Self {
        Self { log, day: Day::of_id(id) }
    }

    /// The name of the table: letters and digits only.
    pub(crate) fn table(self) -> String {
        format!("{}_p{}", self.log.name(), self.day.start().day())
    }
}

/// The partitions that are known to exist: at least those that this process has used.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    known: RwLock<BTreeSet<Partition>>,
}

impl Partitions {
    pub(crate) fn contains(&self, partition: Partition) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains(&partition)
    }

    pub(crate) fn remember(&self, created: &[Partition]) {
        if !created.is_empty() {
            self.known.write().unwrap_or_else(PoisonError::into_inner).extend(created);
        }
    }

    /// The newest known partition of a log up to this day.
    pub(crate) fn newest(&self, log: Log, day: Day) -> Option<Partition> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.range(Partition { log, day: Day::MIN }..=Partition { log, day }).next_back().copied()
    }

    /// Reads which partitions exist: other processes make and drop them too.
    pub(crate) async fn reload(&self, pool: &Pool) -> Result<BTreeSet<Partition>, StoreError> {
        let mut found = BTreeSet::new();
        for row in Query::new("select log, day from partitions").fetch_all(pool).await? {
            let name = row.text(0)?;
            // A later version may keep logs that this one does not know.
            let Some(log) = Log::ALL.into_iter().find(|log| log.name() == name) else { continue };
            found.insert(Partition { log, day: Day(row.int(1)?) });
        }
        self.known.write().unwrap_or_else(PoisonError::into_inner).clone_from(&found);
        Ok(found)
    }
}

impl Tx {
    /// Makes the table of a partition within this transaction, unless it is known to exist.
    pub(crate) async fn ensure_partition(&mut self, partition: Partition) -> Result<(), StoreError> {
        if self.db.partitions.contains(partition) || self.created.contains(&partition) {
            return Ok(());
        }
        lock_catalog(&mut self.connection).await?;
        let backend = self.connection.backend();
        let script = partition.log.template(backend).replace("{table}", &partition.table());
        self.connection.run_script(script).await?;
        let added = Query::new("insert into partitions (log, day) values ($1, $2) on conflict (log, day) do nothing")
            .bind(partition.log.name())
            .bind(partition.day.0)
            .execute(&mut self.connection)
            .await?;
        // A table that was there already keeps its own index.
        if added > 0 {
            self.begin_chunks(partition).await?;
        }
        self.created.push(partition);
        Ok(())
    }
}

async fn lock_catalog(connection: &mut Connection) -> Result<(), StoreError> {
    if connection.backend() == Backend::Postgres {
        Query::new("select 1 from pg_advisory_xact_lock($1)").bind(LOCK).fetch_all(connection).await?;
    }
    Ok(())
}

/// How long rows of the logs are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) executions: Duration,
    pub(crate) events: Duration,
    pub(crate) audit: Duration,
}

impl Database {
    /// Makes the tables of today and tomorrow.
    pub(crate) async fn create_current_partitions(self: &std::sync::Arc<Self>) -> Result<(), StoreError> {
        self.partitions.reload(&self.pool).await?;
        let today = Day::of(self.clock.now());
        let missing: Vec<Partition> = Log::WRITTEN
            .into_iter()
            .flat_map(|log| [today, today.after()].map(|day| Partition { log, day }))
            .filter(|partition| !self.partitions.contains(*partition))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            Box::pin(async move {
                for partition in missing {
                    tx.ensure_partition(partition).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Drops the tables whose last moment lies before the retention; gives their names.
    pub(crate) async fn drop_expired_partitions(self: &std::sync::Arc<Self>) -> Result<Vec<String>, StoreError> {
        let now = self.clock.now();
        let retention = self.retention;
        let first_kept = move |log| {
            let kept = match log {
                Log::Executions => retention.executions,
                Log::Events => retention.events,
                Log::Audit | Log::UnchainedAudit => retention.audit,
            };
            Day::of(now.saturating_sub(kept))
        };
        let mut dropped = Vec::new();
        for partition in self.partitions.reload(&self.pool).await? {
            if partition.day >= first_kept(partition.log) {
                continue;
            }
            self.write(move |tx| Box::pin(drop_partition(tx, partition))).await?;
            dropped.push(partition.table());
        }
        self.partitions.reload(&self.pool).await?;
        Ok(dropped)
    }

    /// Whether the partition exists, asked of the database where this process has not met it.
    pub(crate) async fn partition_exists(&self, partition: Partition) -> Result<bool, StoreError> {
        Ok(self.partitions.contains(partition) || self.partitions.reload(&self.pool).await?.contains(&partition))
    }
}

/// A table that was dropped since the catalog was read has no rows.
pub(crate) fn rows_or_dropped(rows: Result<Vec<Row>, StoreError>) -> Result<Vec<Row>, StoreError> {
    match rows {
        Err(error) if error.is_missing_table() => Ok(Vec::new()),
        other => other,
    }
}

async fn drop_partition(tx: &mut Tx, partition: Partition) -> Result<(), StoreError> {
    lock_catalog(&mut tx.connection).await?;
    if partition.log == Log::Audit {
        tx.anchor_audit_after(partition).await?;
    }
    Query::new("delete from partitions where log = $1 and day = $2")
        .bind(partition.log.name())
        .bind(partition.day.0)
        .execute(&mut tx.connection)
        .await?;
    tx.connection.run_script(format!("drop table if exists {}", partition.table())).await?;
    tx.drop_chunks(partition).await?;
    if partition.log == Log::Executions {
        // What waited longer than the log is kept has no row to end in.
        let end_millis = u128::try_from(partition.day.after().start().as_millis()).unwrap_or(0);
        Query::new("delete from execution_queue where id < $1")
            .bind(Uuid::from_u128(end_millis << 80))
            .execute(&mut tx.connection)
            .await?;
    }
    Ok(())
}
