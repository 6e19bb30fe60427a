//! Reading the audit: by filters, in stretches of bounded work. Rows are found by their place in
//! the chain; a time is found by halving, for the chain is in the order of its times but for
//! the differences of clocks.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use integration_model::audit::{AuditAction, AuditEntry, TargetType};
use integration_model::{TenantId, Timestamp};
use uuid::Uuid;

use super::row::{column_names, read_entry};
use crate::batch::Rows;
use crate::database::Database;
use crate::error::StoreError;
use crate::filter::Conditions;
use crate::partitions::{Day, Log, Partition, rows_or_dropped};
use crate::sql::Query;
use crate::store::Store;

/// How many rows one stretch looks at.
const SCANNED_AT_ONCE: i64 = 50_000;
/// How far the clocks of processes may be apart where a time is looked for.
const SLACK: Duration = Duration::from_secs(30);

/// Which entries a list gives.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant: Option<TenantId>,
    pub principal: Option<String>,
    /// All actions where empty.
    pub actions: Vec<AuditAction>,
    /// What something was done to, by its kind and id.
    pub target: Option<(TargetType, String)>,
    /// The earliest time, inclusive.
    pub from: Option<Timestamp>,
    /// The latest time, exclusive.
    pub until: Option<Timestamp>,
}

impl AuditFilter {
    /// The conditions that rows of all times know.
    pub(super) fn common(&self) -> Conditions {
        let mut conditions = Conditions::default();
        if !self.actions.is_empty() {
            let marks = vec!["?"; self.actions.len()].join(", ");
            conditions.add(&format!("action in ({marks})"), self.actions.iter().map(|action| action.as_str().into()));
        }
        conditions.add_if("tenant_id = ?", self.tenant.as_ref().map(TenantId::as_str));
        conditions.add_if("principal = ?", self.principal.as_deref());
        conditions.add_if("created_at >= ?", self.from);
        conditions.add_if("created_at < ?", self.until);
        conditions
    }

    fn conditions(&self) -> Conditions {
        let mut conditions = self.common();
        if let Some((kind, id)) = &self.target {
            conditions.add("target_type = ? and target_id = ?", [kind.as_str().into(), id.as_str().into()]);
        }
        conditions
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOrder {
    NewestFirst,
    OldestFirst,
}

/// Where a stretch ended; the next begins beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditCursor {
    Sequence(i64),
    /// Among the rows from before there was a chain.
    Id(Uuid),
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(sequence) => write!(f, "{sequence}"),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for AuditCursor {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        match text.parse() {
            Ok(sequence) if sequence >= 0 => Ok(Self::Sequence(sequence)),
            _ => text.parse().map(Self::Id),
        }
    }
}

/// A stretch of the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditPage {
    /// May be few, or none, where many rows did not pass the filter.
    pub entries: Vec<AuditEntry>,
    /// None at the end.
    pub next: Option<AuditCursor>,
}

impl Store {
    /// Up to `limit` entries beyond `cursor`, out of a bounded number of rows.
    pub async fn list_audit(
        &self,
        filter: &AuditFilter,
        order: AuditOrder,
        cursor: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StoreError> {
        self.db().log_settled().await?;
        let limit = limit as usize;
        match (order, cursor) {
            (AuditOrder::NewestFirst, Some(AuditCursor::Id(id))) => {
                self.unchained(filter, order, Some(id), limit).await
            }
            (AuditOrder::NewestFirst, _) => {
                let mut page = self.chained(filter, order, cursor, limit).await?;
                if page.next.is_none() {
                    let older = self.unchained(filter, order, None, limit - page.entries.len()).await?;
                    page.entries.extend(older.entries);
                    page.next = older.next;
                }
                Ok(page)
            }
            (AuditOrder::OldestFirst, Some(AuditCursor::Sequence(_))) => {
                self.chained(filter, order, cursor, limit).await
            }
            (AuditOrder::OldestFirst, _) => {
                let after = cursor.and_then(|cursor| if let AuditCursor::Id(id) = cursor { Some(id) } else { None });
                let mut page = self.unchained(filter, order, after, limit).await?;
                if page.next.is_none() {
                    let newer = self.chained(filter, order, None, limit - page.entries.len()).await?;
                    page.entries.extend(newer.entries);
                    page.next = newer.next;
                }
                Ok(page)
            }
        }
    }

    async fn unchained(
        &self,
        filter: &AuditFilter,
        order: AuditOrder,
        cursor: Option<Uuid>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        let entries = self.db().unchained_audit(filter, order, cursor, limit).await?;
        let full = entries.len() >= limit;
        let next = entries.last().filter(|_| full).map(|entry| AuditCursor::Id(entry.id));
        Ok(AuditPage { entries, next })
    }

    async fn chained(
        &self,
        filter: &AuditFilter,
        order: AuditOrder,
        cursor: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        let cursor = cursor.and_then(|cursor| match cursor {
            AuditCursor::Sequence(sequence) => Some(sequence),
            AuditCursor::Id(_) => None,
        });
        let newest_first = order == AuditOrder::NewestFirst;
        let mut partitions = self.db().audit_partitions(filter).await?;
        if newest_first {
            partitions.reverse();
        }
        let mut entries = Vec::new();
        let mut budget = SCANNED_AT_ONCE;
        for partition in partitions {
            let Some(mut span) = self.db().audit_span(partition, filter).await? else { continue };
            match cursor {
                Some(cursor) if newest_first => span.end = span.end.min(cursor),
                Some(cursor) => span.start = span.start.max(cursor.saturating_add(1)),
                None => {}
            }
            if span.is_empty() {
                continue;
            }
            // No place of the chain is empty, so that a span of it is as many rows.
            let looked_at = if newest_first {
                span.end.saturating_sub(budget).max(span.start)..span.end
            } else {
                span.start..span.start.saturating_add(budget).min(span.end)
            };
            let rest = if newest_first { looked_at.start > span.start } else { looked_at.end < span.end };
            let wanted = limit - entries.len();
            let found = self.db().audit_rows(partition, filter, looked_at.clone(), order, wanted).await?;
            let full = found.len() >= wanted;
            entries.extend(found);
            if full {
                let next = entries.last().and_then(|entry: &AuditEntry| entry.sequence).map(AuditCursor::Sequence);
                return Ok(AuditPage { entries, next });
            }
            budget -= looked_at.end - looked_at.start;
            if rest || budget <= 0 {
                let next = if newest_first { looked_at.start } else { looked_at.end - 1 };
                return Ok(AuditPage { entries, next: Some(AuditCursor::Sequence(next)) });
            }
        }
        Ok(AuditPage { entries, next: None })
    }
}

impl Database {
    /// The partitions in which rows of the filter's time can lie, the oldest first.
    async fn audit_partitions(&self, filter: &AuditFilter) -> Result<Vec<Partition>, StoreError> {
        // Rows lie in the partition of their day or, where a clock went back, in a later one.
        let first = filter.from.map_or(Day::MIN, |from| Day::of(from.saturating_sub(SLACK)));
        let partitions = self.partitions.reload(&self.pool).await?;
        let of_days = |partition: &Partition| partition.log == Log::Audit && partition.day >= first;
        Ok(partitions.into_iter().filter(of_days).collect())
    }

    /// The places of a partition's rows, as far as the filter's time reaches.
    async fn audit_span(
        &self,
        partition: Partition,
        filter: &AuditFilter,
    ) -> Result<Option<std::ops::Range<i64>>, StoreError> {
        let table = partition.table();
        let text = format!("select (select min(sequence) from {table}), (select max(sequence) from {table})");
        let rows = rows_or_dropped(Query::built(text, Vec::new()).fetch_all(&self.pool).await)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (Some(first), Some(last)) = (row.opt_int(0)?, row.opt_int(1)?) else { return Ok(None) };
        let mut span = first..last + 1;
        if let Some(from) = filter.from {
            span.start = self.first_not_before(&table, span.clone(), from.saturating_sub(SLACK)).await?;
        }
        if let Some(until) = filter.until {
            span.end = self.first_not_before(&table, span.clone(), until.saturating_add(SLACK)).await?;
        }
        Ok(Some(span))
    }

    /// The first place whose row is not older than `time`; the end where all are.
    async fn first_not_before(
        &self,
        table: &str,
        span: std::ops::Range<i64>,
        time: Timestamp,
    ) -> Result<i64, StoreError> {
        let (mut low, mut high) = (span.start, span.end);
        // Most tables lie on one side of the time: the first row is asked first.
        let mut middle = low;
        while low < high {
            let text = format!("select created_at from {table} where sequence >= $1 order by sequence limit 1");
            let rows = Query::built(text, vec![middle.into()]).fetch_all(&self.pool).await;
            match rows_or_dropped(rows)?.first() {
                Some(row) if row.time(0)? < time => low = middle + 1,
                _ => high = middle,
            }
            middle = low + (high - low) / 2;
        }
        Ok(low)
    }

    async fn audit_rows(
        &self,
        partition: Partition,
        filter: &AuditFilter,
        places: std::ops::Range<i64>,
        order: AuditOrder,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let mut conditions = filter.conditions();
        conditions.add("sequence >= ? and sequence < ?", [places.start.into(), places.end.into()]);
        let limit = conditions.placeholder(i64::try_from(limit).unwrap_or(i64::MAX));
        let direction = if order == AuditOrder::NewestFirst { " desc" } else { "" };
        let text = format!(
            "select {} from {}{} order by sequence{direction} limit {limit}",
            column_names(),
            partition.table(),
            conditions.where_clause()
        );
        let rows = rows_or_dropped(conditions.into_query(text).fetch_all(&self.pool).await)?;
        rows.iter().map(read_entry).collect()
    }

    /// Which of these ids have a row; none of them was committed before `since`.
    pub(crate) async fn known_audit(
        &self,
        ids: &BTreeSet<Uuid>,
        since: Timestamp,
    ) -> Result<BTreeSet<Uuid>, StoreError> {
        let filter = AuditFilter { from: Some(since), ..AuditFilter::default() };
        let backend = self.pool.backend();
        let partitions = self.audit_partitions(&filter).await?;
        let mut known = self.known_unchained_audit(ids).await?;
        for partition in partitions {
            let Some(span) = self.audit_span(partition, &filter).await? else { continue };
            let rows = Rows::of_ids(backend, ids.iter().copied());
            let text = format!(
                "{}select id from {} where sequence >= $2 and id in {}",
                rows.with(),
                partition.table(),
                rows.ids()
            );
            let query = rows.query(text).bind(span.start);
            for row in rows_or_dropped(query.fetch_all(&self.pool).await)? {
                known.insert(row.uuid(0)?);
            }
        }
        Ok(known)
    }
}
