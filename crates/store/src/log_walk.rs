//! Lists and counts of the logs' rows: from table to table, in the order of their ids. With an
//! instance, on SQLite, through the chunks that [`crate::log_index`] made and the rows that came
//! after them. Must not know what the rows mean.

use std::ops::RangeInclusive;

use integration_model::InstanceId;
use uuid::Uuid;

use crate::database::Database;
use crate::error::StoreError;
use crate::filter::Conditions;
use crate::partitions::{Day, Log, Partition, rows_or_dropped};
use crate::sql::{Arg, Backend, Query, Row};

/// By how much each group of chunks is larger than the one before: an instance with few rows
/// costs few queries, and one with many is not read far beyond what is wanted.
const GROWTH: i64 = 4;

/// Which rows are wanted, and in which order.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    pub(crate) log: Log,
    pub(crate) days: RangeInclusive<Day>,
    pub(crate) newest_first: bool,
    /// The id beyond which to begin.
    pub(crate) cursor: Option<Uuid>,
    pub(crate) instance: Option<&'a InstanceId>,
    /// All else that has to hold.
    pub(crate) conditions: Conditions,
}

impl Walk<'_> {
    fn days(&self) -> RangeInclusive<Day> {
        let (first, last) = (*self.days.start(), *self.days.end());
        match self.cursor.map(Day::of_id) {
            None => first..=last,
            Some(day) if self.newest_first => first..=last.min(day),
            Some(day) => first.max(day)..=last,
        }
    }

    fn direction(&self) -> &'static str {
        if self.newest_first { " desc" } else { "" }
    }

    fn goes_past(&self, id: Uuid, other: Uuid) -> bool {
        if self.newest_first { other < id } else { other > id }
    }

    fn all_conditions(&self) -> Conditions {
        let mut conditions = self.conditions.clone();
        conditions.add_if("instance_id = ?", self.instance.map(InstanceId::as_str));
        conditions
    }

    fn add_cursor(&self, conditions: &mut Conditions) {
        conditions.add_if(if self.newest_first { "id < ?" } else { "id > ?" }, self.cursor);
    }
}

impl Database {
    /// Collects up to `limit` rows. The first of the columns is the row's id.
    pub(crate) async fn walk_log<T>(
        &self,
        walk: &Walk<'_>,
        columns: &str,
        limit: usize,
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        for partition in self.partitions_of(walk).await? {
            let wanted = limit.saturating_sub(found.len());
            if wanted == 0 {
                break;
            }
            let mut page: Vec<(Uuid, T)> = Vec::new();
            let mut parts = self.parts(walk, partition).await?;
            while let Some(part) = parts.next() {
                let asked = if walk.log.ids_ascend() { wanted - page.len() } else { wanted };
                for row in rows_or_dropped(part.select(columns, asked).fetch_all(&self.pool).await)? {
                    page.push((row.uuid(0)?, read(&row)?));
                }
                page.sort_by(|(a, _), (b, _)| if walk.newest_first { b.cmp(a) } else { a.cmp(b) });
                page.truncate(wanted);
                if page.len() == wanted
                    && let Some((last, _)) = page.last()
                    && !self.may_precede(&parts, *last).await?
                {
                    break;
                }
            }
            found.extend(page.into_iter().map(|(_, row)| row));
        }
        Ok(found)
    }

    /// How many rows there are, counted up to `max`.
    pub(crate) async fn count_log(&self, walk: &Walk<'_>, max: u64) -> Result<u64, StoreError> {
        let mut found = 0;
        for partition in self.partitions_of(walk).await? {
            let mut parts = self.parts(walk, partition).await?;
            while let Some(part) = parts.next() {
                if found >= max {
                    return Ok(max);
                }
                for row in rows_or_dropped(part.count(max - found).fetch_all(&self.pool).await)? {
                    found += row.count(0)?;
                }
            }
        }
        Ok(found.min(max))
    }

    async fn partitions_of(&self, walk: &Walk<'_>) -> Result<Vec<Partition>, StoreError> {
        let days = walk.days();
        let mut partitions: Vec<Partition> = self
            .partitions
            .reload(&self.pool)
            .await?
            .into_iter()
            .filter(|partition| partition.log == walk.log && days.contains(&partition.day))
            .collect();
        if walk.newest_first {
            partitions.reverse();
        }
        Ok(partitions)
    }

    async fn parts<'a>(&self, walk: &'a Walk<'a>, partition: Partition) -> Result<Parts<'a>, StoreError> {
        let indexed = match walk.instance {
            Some(instance) if self.pool.backend() == Backend::Sqlite => self.indexed(walk, partition, instance).await?,
            _ => None,
        };
        let next = indexed.as_ref().and_then(|indexed| indexed.first);
        Ok(Parts { walk, partition, indexed, rest: true, next, group: 1 })
    }

    /// How far the table is indexed, and where to begin, at one moment: chunks never change, so
    /// that what is added later stays part of the rest.
    async fn indexed<'a>(
        &self,
        walk: &Walk<'_>,
        partition: Partition,
        instance: &'a InstanceId,
    ) -> Result<Option<Indexed<'a>>, StoreError> {
        let first = match (walk.newest_first, walk.cursor) {
            (true, None) => "n.chunk",
            (true, Some(_)) => {
                "(select chunk from log_chunks where log = $1 and day = $2 and least_id < $3 \
                 order by chunk desc limit 1)"
            }
            (false, None) => "1",
            // From the newest on: who reads on is near the end.
            (false, Some(_)) => {
                "(select chunk + 1 from log_chunks where log = $1 and day = $2 and greatest_id <= $3 \
                 order by chunk desc limit 1)"
            }
        };
        let text = format!(
            "select n.chunk, n.last_place, {first} from log_chunks n where n.log = $1 and n.day = $2 \
             order by n.chunk desc limit 1"
        );
        let mut query = Query::built(text, vec![partition.log.name().into(), partition.day.number().into()]);
        if let Some(cursor) = walk.cursor {
            query = query.bind(cursor);
        }
        let Some(row) = query.fetch_optional(&self.pool).await? else { return Ok(None) };
        let newest = row.int(0)?;
        Ok(Some(Indexed {
            instance,
            newest,
            last: if walk.log.ids_ascend() { row.bytes(1)?.into() } else { row.int(1)?.into() },
            // The chunk without rows is none to look into.
            first: row.opt_int(2)?.filter(|first| (1..=newest).contains(first)),
        }))
    }

    /// Whether a row that is not read yet may come before this one.
    async fn may_precede(&self, parts: &Parts<'_>, last: Uuid) -> Result<bool, StoreError> {
        let Some(chunk) = parts.next.filter(|_| !parts.walk.log.ids_ascend()) else { return Ok(false) };
        let query = Query::new("select greatest_id from log_chunks where log = $1 and day = $2 and chunk = $3")
            .bind(parts.partition.log.name())
            .bind(parts.partition.day.number())
            .bind(chunk);
        let Some(row) = query.fetch_optional(&self.pool).await? else { return Ok(false) };
        Ok(parts.walk.goes_past(row.uuid(0)?, last))
    }
}

/// How far a table is indexed.
struct Indexed<'a> {
    instance: &'a InstanceId,
    newest: i64,
    /// The place of the last row that is.
    last: Arg,
    /// The first chunk with rows beyond the cursor.
    first: Option<i64>,
}

/// The parts of one table, in the order of the list.
struct Parts<'a> {
    walk: &'a Walk<'a>,
    partition: Partition,
    /// None where the table is one part.
    indexed: Option<Indexed<'a>>,
    /// Whether what is not indexed is still to come.
    rest: bool,
    /// The next chunk.
    next: Option<i64>,
    /// How many chunks are next.
    group: i64,
}

impl Parts<'_> {
    fn next(&mut self) -> Option<Part> {
        if self.rest && (self.walk.newest_first || self.next.is_none()) {
            self.rest = false;
            return Some(self.rest());
        }
        let from = self.next?;
        let newest = self.indexed.as_ref()?.newest;
        let chunks = if self.walk.newest_first {
            (from - self.group + 1).max(1)..=from
        } else {
            from..=(from + self.group - 1).min(newest)
        };
        self.group *= GROWTH;
        self.next = if self.walk.newest_first {
            Some(chunks.start() - 1).filter(|chunk| *chunk > 0)
        } else {
            Some(chunks.end() + 1).filter(|chunk| *chunk <= newest)
        };
        self.chunks(&chunks)
    }

    /// What is not indexed, or all.
    fn rest(&self) -> Part {
        let mut conditions = self.walk.all_conditions();
        let mut from = self.partition.table();
        let ids_ascend = self.walk.log.ids_ascend();
        match (&self.indexed, self.walk.cursor) {
            // Only the later one of the two: SQLite would begin at either.
            (Some(Indexed { last: Arg::Bytes(Some(last)), .. }), Some(cursor)) if !self.walk.newest_first => {
                conditions.add("id > ?", [last.as_slice().max(cursor.as_bytes()).into()]);
            }
            (Some(indexed), _) => {
                conditions.add(&format!("{} > ?", self.walk.log.place()), [indexed.last.clone()]);
                self.walk.add_cursor(&mut conditions);
                if !ids_ascend {
                    // Or SQLite looks through all ids for the few rows.
                    from.push_str(" not indexed");
                }
            }
            (None, _) => self.walk.add_cursor(&mut conditions),
        }
        Part { from, conditions, order: format!("id{}", self.walk.direction()) }
    }

    fn chunks(&self, chunks: &RangeInclusive<i64>) -> Option<Part> {
        let (log, table, place) = (self.walk.log, self.partition.table(), self.walk.log.place());
        let mut conditions = self.walk.all_conditions();
        self.walk.add_cursor(&mut conditions);
        conditions.add(
            "c.log = ? and c.day = ? and c.chunk between ? and ? and i.instance = ?",
            [
                log.name().into(),
                self.partition.day.number().into(),
                (*chunks.start()).into(),
                (*chunks.end()).into(),
                self.indexed.as_ref()?.instance.as_str().into(),
            ],
        );
        // In this order: one look into each chunk, then the rows that it names.
        let from = format!(
            "log_chunks c cross join {table}_by_instance i on i.chunk = c.chunk cross join {table} r on r.{place} = i.place"
        );
        let direction = self.walk.direction();
        let order = if log.ids_ascend() {
            // So that reading ends with the last row that is wanted.
            format!("c.chunk{direction}, i.place{direction}")
        } else {
            format!("id{direction}")
        };
        Some(Part { from, conditions, order })
    }
}

/// Some of a table's rows.
struct Part {
    from: String,
    conditions: Conditions,
    order: String,
}

impl Part {
    fn select(mut self, columns: &str, limit: usize) -> Query {
        let limit = self.conditions.placeholder(i64::try_from(limit).unwrap_or(i64::MAX));
        let (from, clause, order) = (&self.from, self.conditions.where_clause(), &self.order);
        let text = format!("select {columns} from {from}{clause} order by {order} limit {limit}");
        self.conditions.into_query(text)
    }

    fn count(mut self, max: u64) -> Query {
        let limit = self.conditions.placeholder(i64::try_from(max).unwrap_or(i64::MAX));
        let (from, clause) = (&self.from, self.conditions.where_clause());
        let text = format!("select count(*) from (select 1 from {from}{clause} limit {limit}) as counted");
        self.conditions.into_query(text)
    }
}
