//! The execution log: how its rows are written and read. Must not know when they are
//! committed (that is the journal's and the queue's).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use integration_model::execution::{Execution, ExecutionMode, ExecutionStatus};
use integration_model::{DefinitionId, ExecutionId, InstanceId, TenantId, Timestamp};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::batch::{Cells, Column, Kind, Rows};
use crate::database::{Database, Tx};
use crate::error::StoreError;
use crate::events::days_between;
use crate::filter::Conditions;
use crate::log_walk::Walk;
use crate::partitions::{Day, Log, Partition, rows_or_dropped};
use crate::sql::{Query, Row, to_json};
use crate::store::Store;

/// The longest params that are kept for a replay, in bytes of JSON.
pub const MAX_KEPT_PARAMS: usize = 64 * 1024;

/// Which executions a list gives.
#[derive(Debug, Clone, Default)]
pub struct ExecutionFilter {
    pub tenant: Option<TenantId>,
    pub instance: Option<InstanceId>,
    pub method: Option<String>,
    pub status: Option<ExecutionStatus>,
    /// The earliest creation, inclusive.
    pub created_from: Option<Timestamp>,
    /// The latest creation, exclusive.
    pub created_until: Option<Timestamp>,
    pub correlation_id: Option<String>,
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int }
}

const fn bytes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytes }
}

/// In the order of [`write_cells`], and of PostgreSQL's type `execution_row`.
pub(crate) const COLUMNS: &[Column] = &[
    bytes("id"),
    text("tenant_id"),
    text("instance_id"),
    text("definition_id"),
    text("definition_version"),
    text("method"),
    text("status"),
    text("mode"),
    text("error"),
    int("attempts"),
    int("cached"),
    int("upstream_status"),
    int("data_size"),
    int("created_at"),
    int("finished_at"),
    int("duration_ms"),
    text("principal"),
    text("correlation_id"),
    text("task_id"),
    bytes("replay_of"),
    text("params"),
    text("data"),
];

/// The place of a column in [`COLUMNS`].
pub(crate) const fn place(name: &str) -> usize {
    let mut place = 0;
    while !is_same(COLUMNS[place].name, name) {
        place += 1;
    }
    place
}

/// `==` of texts is not to be had in constants.
const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut same = a.len() == b.len();
    let mut index = 0;
    while same && index < a.len() {
        same = a[index] == b[index];
        index += 1;
    }
    same
}

/// What [`read_execution`] reads; `data`, which may be large, only where one row is asked for.
pub(crate) const READ_COLUMNS: &str = "id, tenant_id, instance_id, definition_id, definition_version, method, status, \
     mode, error, attempts, cached, upstream_status, data_size, created_at, finished_at, duration_ms, principal, \
     correlation_id, task_id, replay_of";

pub(crate) fn write_cells(cells: &mut impl Cells, row: &Execution, params: Option<&Bytes>) -> Result<(), StoreError> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let error = row.error.as_ref().map(to_json).transpose()?;
    cells.bytes(row.id.0.as_bytes());
    cells.text(row.tenant_id.as_str());
    cells.text(row.integration_instance_id.as_str());
    cells.text(row.integration_definition_id.as_str());
    cells.text(&row.definition_version);
    cells.text(&row.method_name);
    cells.text(row.status.as_str());
    cells.text(row.mode.as_str());
    cells.opt_text(error.as_deref());
    cells.int(i64::from(row.attempts));
    cells.int(i64::from(row.cached));
    cells.opt_int(row.upstream_status.map(i64::from));
    cells.opt_int(row.data_size.map(count));
    cells.int(row.created_at.as_micros());
    cells.opt_int(row.finished_at.map(Timestamp::as_micros));
    cells.opt_int(row.duration_ms.map(count));
    cells.text(&row.principal);
    cells.text(&row.correlation_id);
    cells.opt_text(row.task_id.as_deref());
    cells.opt_bytes(row.replay_of.as_ref().map(|id| id.0.as_bytes().as_slice()));
    cells.opt_text(params.and_then(kept_params));
    cells.opt_text(row.data.as_deref().map(RawValue::get));
    Ok(())
}

/// The params as they are kept with an execution: not too long, and text as JSON is.
pub(crate) fn kept_params(params: &Bytes) -> Option<&str> {
    if params.len() > MAX_KEPT_PARAMS { None } else { std::str::from_utf8(params).ok() }
}

/// Inserts rows into the log. A row that exists is brought to its new state unless it has
/// ended: the first end is the one that counts.
fn insert_executions(rows: &Rows, table: &str) -> String {
    let on_conflict = format!(
        "on conflict (id) do update set status = excluded.status, error = excluded.error, \
         attempts = excluded.attempts, cached = excluded.cached, upstream_status = excluded.upstream_status, \
         data_size = excluded.data_size, finished_at = excluded.finished_at, \
         duration_ms = excluded.duration_ms, params = coalesce(excluded.params, {table}.params), \
         data = excluded.data where {table}.status in ('QUEUED', 'RUNNING')"
    );
    format!("{}{}", rows.with(), rows.insert(table, COLUMNS, &on_conflict))
}

impl Tx {
    /// Writes rows of the log.
    pub(crate) async fn write_executions<'a>(
        &mut self,
        executions: impl IntoIterator<Item = (&'a Execution, Option<&'a Bytes>)>,
    ) -> Result<(), StoreError> {
        let backend = self.connection.backend();
        let mut partitions: BTreeMap<Partition, Rows> = BTreeMap::new();
        for (execution, params) in executions {
            let mut written = Ok(());
            partitions
                .entry(Partition::of_id(Log::Executions, execution.id.0))
                .or_insert_with(|| Rows::of(backend, COLUMNS))
                .push(|cells| written = write_cells(cells, execution, params));
            written?;
        }
        for (partition, rows) in partitions {
            self.ensure_partition(partition).await?;
            let text = insert_executions(&rows, &partition.table());
            rows.query(text).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Moves executions that have not ended to `status`; gives their rows by id. Those whose
    /// partition is gone are missing in the answer.
    pub(crate) async fn set_execution_status(
        &mut self,
        ids: impl IntoIterator<Item = Uuid>,
        status: ExecutionStatus,
    ) -> Result<BTreeMap<Uuid, Execution>, StoreError> {
        let mut days: BTreeMap<Day, Vec<Uuid>> = BTreeMap::new();
        for id in ids {
            days.entry(Day::of_id(id)).or_default().push(id);
        }
        let mut found = BTreeMap::new();
        let backend = self.connection.backend();
        for (day, ids) in days {
            let partition = Partition { log: Log::Executions, day };
            self.ensure_partition(partition).await?;
            let rows = Rows::of_ids(backend, ids);
            let text = format!(
                "{}update {} set status = '{}' where id in {} and status in ('QUEUED', 'RUNNING') returning \
                 {READ_COLUMNS}",
                rows.with(),
                partition.table(),
                status.as_str(),
                rows.ids(),
            );
            for row in rows.query(text).fetch_all(&mut self.connection).await? {
                let execution = read_execution(&row)?;
                found.insert(execution.id.0, execution);
            }
        }
        Ok(found)
    }
}

impl Database {
    /// Which of these executions have a row.
    pub(crate) async fn known_executions(
        &self,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<BTreeSet<Uuid>, StoreError> {
        let mut days: BTreeMap<Day, Vec<Uuid>> = BTreeMap::new();
        for id in ids {
            days.entry(Day::of_id(id)).or_default().push(id);
        }
        let backend = self.pool.backend();
        let mut known = BTreeSet::new();
        for (day, ids) in days {
            let partition = Partition { log: Log::Executions, day };
            if !self.partition_exists(partition).await? {
                continue;
            }
            let table = partition.table();
            let rows = Rows::of_ids(backend, ids);
            let text = format!("{}select id from {table} where id in {}", rows.with(), rows.ids());
            for row in rows_or_dropped(rows.query(text).fetch_all(&self.pool).await)? {
                known.insert(row.uuid(0)?);
            }
        }
        Ok(known)
    }
}

impl Store {
    /// One row of the log, with the answer of an asynchronous execution.
    pub async fn execution(&self, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        let columns = format!("{READ_COLUMNS}, data");
        let Some(row) = self.execution_row(id, &columns).await? else { return Ok(None) };
        let mut execution = read_execution(&row)?;
        execution.data = row
            .opt_text(DATA)?
            .map(|text| RawValue::from_string(text).map_err(|error| StoreError::corrupt("answer", error)))
            .transpose()?;
        Ok(Some(execution))
    }

    /// The params with which an execution was called, where they were kept.
    pub async fn execution_params(&self, id: ExecutionId) -> Result<Option<Bytes>, StoreError> {
        let Some(row) = self.execution_row(id, "params").await? else { return Ok(None) };
        Ok(row.opt_text(0)?.map(Bytes::from))
    }

    async fn execution_row(&self, id: ExecutionId, columns: &str) -> Result<Option<Row>, StoreError> {
        self.db().log_settled().await?;
        let partition = Partition::of_id(Log::Executions, id.0);
        if !self.db().partition_exists(partition).await? {
            return Ok(None);
        }
        let text = format!("select {columns} from {} where id = $1", partition.table());
        let rows = Query::built(text, vec![id.0.into()]).fetch_all(self.pool()).await;
        Ok(rows_or_dropped(rows)?.into_iter().next())
    }

    /// Up to `limit` executions, newest first, older than `cursor`; without their answers.
    pub async fn list_executions(
        &self,
        filter: &ExecutionFilter,
        cursor: Option<ExecutionId>,
        limit: u32,
    ) -> Result<Vec<Execution>, StoreError> {
        self.db().log_settled().await?;
        let walk = walk(filter, cursor.map(|id| id.0));
        self.db().walk_log(&walk, READ_COLUMNS, limit as usize, read_execution).await
    }

    /// How many executions pass the filter, counted up to `max`.
    pub async fn count_executions(&self, filter: &ExecutionFilter, max: u64) -> Result<u64, StoreError> {
        self.db().log_settled().await?;
        self.db().count_log(&walk(filter, None), max).await
    }
}

fn walk(filter: &ExecutionFilter, cursor: Option<Uuid>) -> Walk<'_> {
    Walk {
        log: Log::Executions,
        days: days_between(filter.created_from, filter.created_until),
        newest_first: true,
        cursor,
        instance: filter.instance.as_ref(),
        conditions: conditions(filter),
    }
}

fn conditions(filter: &ExecutionFilter) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.add_if("tenant_id = ?", filter.tenant.as_ref().map(TenantId::as_str));
    conditions.add_if("method = ?", filter.method.as_deref());
    match filter.status {
        // Spelled out, so that the partial index serves it.
        Some(ExecutionStatus::Error) => conditions.add("status = 'ERROR'", []),
        other => conditions.add_if("status = ?", other.map(ExecutionStatus::as_str)),
    }
    conditions.add_if("created_at >= ?", filter.created_from);
    conditions.add_if("created_at < ?", filter.created_until);
    conditions.add_if("correlation_id = ?", filter.correlation_id.as_deref());
    conditions
}

/// The place of `data` after [`READ_COLUMNS`].
const DATA: usize = 20;

/// Reads [`READ_COLUMNS`].
pub(crate) fn read_execution(row: &Row) -> Result<Execution, StoreError> {
    let bounded =
        |what: &str, number: i64| u32::try_from(number).map_err(|error| StoreError::corrupt(what.to_owned(), error));
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    Ok(Execution {
        id: ExecutionId(row.uuid(0)?),
        tenant_id: row.parsed(1, |text| TenantId::parse(text).ok())?,
        integration_instance_id: row.parsed(2, |text| InstanceId::parse(text).ok())?,
        integration_definition_id: row.parsed(3, |text| DefinitionId::parse(text).ok())?,
        definition_version: row.text(4)?.into(),
        method_name: row.text(5)?,
        status: row.parsed(6, ExecutionStatus::parse)?,
        mode: row.parsed(7, |text| {
            [ExecutionMode::Sync, ExecutionMode::Async].into_iter().find(|mode| mode.as_str() == text)
        })?,
        error: row.opt_json(8)?,
        attempts: bounded("number of attempts", row.int(9)?)?,
        cached: row.flag(10)?,
        upstream_status: row.opt_int(11)?.and_then(|status| u16::try_from(status).ok()),
        data_size: count(row.opt_int(12)?),
        created_at: row.time(13)?,
        finished_at: row.opt_time(14)?,
        duration_ms: count(row.opt_int(15)?),
        principal: row.text(16)?,
        correlation_id: row.text(17)?,
        task_id: row.opt_text(18)?,
        replay_of: row.opt_uuid(19)?.map(ExecutionId),
        data: None,
    })
}
