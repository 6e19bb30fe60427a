//! The outbox and history of events. An event is written in the transaction of the state
//! that it reports, and ids ascend in the order of commits, over all processes.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_model::event::{Event, EventDraft, EventMetadata, EventType, SOURCE};
use integration_model::{InstanceId, TenantId, Timestamp};
use tokio::sync::watch;
use uuid::Uuid;

use crate::batch::{Cells, Column, Kind, Rows};
use crate::database::{Database, Moved, Tx};
use crate::error::StoreError;
use crate::filter::Conditions;
use crate::log_walk::Walk;
use crate::partitions::{Day, Log, Partition};
use crate::sql::{Backend, Query, Row};
use crate::store::Store;

/// Which events a list gives.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// All types where empty.
    pub types: Vec<EventType>,
    pub tenant: Option<TenantId>,
    pub instance: Option<InstanceId>,
    /// The earliest time, inclusive.
    pub from: Option<Timestamp>,
    /// The latest time, exclusive.
    pub until: Option<Timestamp>,
}

/// A stretch of the history.
#[derive(Debug, Clone)]
pub struct EventStretch {
    pub events: Vec<Event>,
    /// Whether more may follow: the stretch ended for its length.
    pub more: bool,
}

/// About how many bytes of events one stretch holds: some of them carry what others delivered.
const MAX_STRETCH_BYTES: u64 = 8 << 20;
/// How many events are read before it is known how large they are.
const FIRST_CHUNK: u32 = 4;
/// Events up to this long are read many at once.
const USUAL_BYTES: u64 = 16 << 10;

/// Where a list of events begins and which way it goes; ids are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventCursor {
    /// Ascending, after an id or from the oldest.
    After(Option<Uuid>),
    /// Descending, before an id or from the newest.
    Before(Option<Uuid>),
}

/// An event and whom it concerns.
pub(crate) struct EventRow<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) instance: Option<&'a InstanceId>,
    pub(crate) draft: &'a EventDraft,
}

impl<'a> EventRow<'a> {
    /// The events of one instance.
    pub(crate) fn of_instance(
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        drafts: &'a [EventDraft],
    ) -> impl Iterator<Item = Self> {
        drafts.iter().map(move |draft| Self { tenant, instance: Some(instance), draft })
    }

    pub(crate) fn cells(&self) -> EventCells<'a> {
        EventCells {
            tenant: self.tenant.as_str(),
            instance: self.instance.map(InstanceId::as_str),
            event_type: self.draft.event_type.as_str(),
            correlation_id: &self.draft.correlation_id,
            task_id: self.draft.task_id.as_deref(),
            data: self.draft.data.get(),
        }
    }
}

/// What is known of an event's row before its commit.
#[derive(Debug)]
pub(crate) struct EventCells<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) instance: Option<&'a str>,
    pub(crate) event_type: &'a str,
    pub(crate) correlation_id: &'a str,
    pub(crate) task_id: Option<&'a str>,
    pub(crate) data: &'a str,
}

impl EventCells<'_> {
    /// In the order of [`COLUMNS`].
    pub(crate) fn write(&self, cells: &mut impl Cells, id: Uuid, now: Timestamp) {
        cells.bytes(id.as_bytes());
        cells.text(self.event_type);
        cells.text(self.tenant);
        cells.opt_text(self.instance);
        cells.int(now.as_micros());
        cells.text(self.correlation_id);
        cells.opt_text(self.task_id);
        cells.text(self.data);
    }
}

/// In the order of PostgreSQL's type `event_row`.
pub(crate) const COLUMNS: &[Column] = &[
    Column { name: "id", kind: Kind::Bytes },
    Column { name: "event_type", kind: Kind::Text },
    Column { name: "tenant_id", kind: Kind::Text },
    Column { name: "instance_id", kind: Kind::Text },
    Column { name: "created_at", kind: Kind::Int },
    Column { name: "correlation_id", kind: Kind::Text },
    Column { name: "task_id", kind: Kind::Text },
    Column { name: "data", kind: Kind::Text },
];

/// How many tables may hold the newest event: tomorrow's, today's and the one before.
const NEWEST: usize = 3;

impl Database {
    /// A query for the id of the newest event on SQLite, where one writes at a time: it is
    /// read where it lies, so that the log's writer has no page of `event_head` to write too.
    pub(crate) fn newest_event(&self) -> String {
        let mut text = "select max(last_id) from (select last_id from event_head".to_owned();
        let mut day = Day::MAX;
        for _ in 0..NEWEST {
            let Some(partition) = self.partitions.newest(Log::Events, day) else { break };
            text.push_str(" union all select max(id) from ");
            text.push_str(&partition.table());
            day = partition.day.before();
        }
        text + ")"
    }
}

impl Tx {
    /// Appends events; the last thing that a transaction does but for the audit. From here to
    /// its commit it holds the lock that puts commits with events in order, and must wait for
    /// nothing but the audit's.
    pub(crate) async fn append_events(&mut self, events: &[EventRow<'_>]) -> Result<(), StoreError> {
        // Always in this order, so that no two transactions wait for each other's lock.
        self.number_changes().await?;
        events.iter().for_each(|event| self.audit_status(event));
        if events.is_empty() {
            return Ok(());
        }
        let now = self.db.clock.now();
        // Before the lock, since making a table may have to wait for another process.
        self.ensure_partition(Partition { log: Log::Events, day: Day::of(now) }).await?;
        self.ensure_partition(Partition { log: Log::Audit, day: Day::of(now) }).await?;
        let backend = self.connection.backend();
        let head = match backend {
            // One writes at a time.
            Backend::Sqlite => Query::built(self.db.newest_event(), Vec::new()),
            Backend::Postgres => Query::new("select last_id from event_head where name = 'events' for no key update"),
        };
        let found = head.fetch_one(&mut self.connection).await?.uuid(0)?;
        let mut last = found;
        let mut partitions: BTreeMap<Partition, Rows> = BTreeMap::new();
        for event in events {
            last = self.db.ids.next_after(last);
            let rows =
                partitions.entry(Partition::of_id(Log::Events, last)).or_insert_with(|| Rows::of(backend, COLUMNS));
            rows.push(|cells| event.cells().write(cells, last, now));
        }
        for (partition, rows) in partitions {
            self.ensure_partition(partition).await?;
            let insert = rows.insert(&partition.table(), COLUMNS, "");
            let query = match backend {
                Backend::Sqlite => {
                    let text = rows.with() + &insert;
                    rows.query(text)
                }
                Backend::Postgres => {
                    let text = format!(
                        "with {}, written as ({insert}) update event_head set last_id = ${} where name = 'events'",
                        rows.named("r", 1),
                        rows.args() + 1
                    );
                    rows.query(text).bind(last)
                }
            };
            query.execute(&mut self.connection).await?;
        }
        if backend == Backend::Sqlite {
            let text = "update event_head set last_id = $1 where name = 'events'";
            Query::new(text).bind(last).execute(&mut self.connection).await?;
        }
        self.newest_event = Some(Moved::after(self.newest_event, found, last));
        self.has_events = true;
        Ok(())
    }
}

impl Store {
    /// Appends events that report no other row's state.
    pub async fn append_events(
        &self,
        events: Vec<(TenantId, Option<InstanceId>, EventDraft)>,
    ) -> Result<(), StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let rows: Vec<EventRow<'_>> = events
                        .iter()
                        .map(|(tenant, instance, draft)| EventRow { tenant, instance: instance.as_ref(), draft })
                        .collect();
                    tx.append_events(&rows).await
                })
            })
            .await
    }

    /// Up to `limit` events in the cursor's order, and fewer where they are large.
    pub async fn read_events(
        &self,
        filter: &EventFilter,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<EventStretch, StoreError> {
        // Who goes on forward hears of commits and comes back.
        if matches!(cursor, EventCursor::Before(_)) {
            self.db().log_settled().await?;
        }
        let mut stretch = EventStretch { events: Vec::new(), more: false };
        let (mut cursor, mut left, mut chunk, mut bytes) = (cursor, limit, FIRST_CHUNK, 0);
        loop {
            let wanted = chunk.min(left);
            let read = self.sized_events(filter, cursor, wanted).await?;
            let count = u32::try_from(read.len()).unwrap_or(u32::MAX);
            let of_chunk = read.iter().map(|(_, size)| size).sum::<u64>();
            bytes += of_chunk;
            stretch.events.extend(read.into_iter().map(|(event, _)| event));
            left = left.saturating_sub(count);
            let Some(last) = stretch.events.last().map(|event| event.id).filter(|_| count == wanted) else {
                return Ok(stretch);
            };
            if left == 0 || bytes >= MAX_STRETCH_BYTES {
                stretch.more = true;
                return Ok(stretch);
            }
            cursor = match cursor {
                EventCursor::After(_) => EventCursor::After(Some(last)),
                EventCursor::Before(_) => EventCursor::Before(Some(last)),
            };
            if of_chunk / u64::from(wanted) < USUAL_BYTES {
                chunk *= 4;
            }
        }
    }

    /// Up to `limit` events in the cursor's order, however large they are.
    pub async fn list_events(
        &self,
        filter: &EventFilter,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        self.db().log_settled().await?;
        let read = self.sized_events(filter, cursor, limit).await?;
        Ok(read.into_iter().map(|(event, _)| event).collect())
    }

    /// Events with the lengths of their data.
    async fn sized_events(
        &self,
        filter: &EventFilter,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<Vec<(Event, u64)>, StoreError> {
        let (newest_first, cursor) = match cursor {
            EventCursor::After(id) => (false, id),
            EventCursor::Before(id) => (true, id),
        };
        let walk = Walk {
            log: Log::Events,
            days: days_between(filter.from, filter.until),
            newest_first,
            cursor,
            instance: filter.instance.as_ref(),
            conditions: conditions(filter),
        };
        self.db().walk_log(&walk, READ_COLUMNS, limit as usize, read_event).await
    }

    /// A counter that moves after each commit of this process with events.
    pub fn event_signal(&self) -> watch::Receiver<u64> {
        self.db().events_committed.subscribe()
    }
}

fn conditions(filter: &EventFilter) -> Conditions {
    let mut conditions = Conditions::default();
    if !filter.types.is_empty() {
        let marks = vec!["?"; filter.types.len()].join(", ");
        conditions.add(&format!("event_type in ({marks})"), filter.types.iter().map(|kind| kind.as_str().into()));
    }
    conditions.add_if("tenant_id = ?", filter.tenant.as_ref().map(TenantId::as_str));
    conditions.add_if("created_at >= ?", filter.from);
    conditions.add_if("created_at < ?", filter.until);
    conditions
}

/// The partitions in which rows of a span of time can lie: by their ids, whose time may
/// differ a little from the rows' own.
pub(crate) fn days_between(from: Option<Timestamp>, until: Option<Timestamp>) -> std::ops::RangeInclusive<Day> {
    const SLACK: Duration = Duration::from_secs(86_400);
    let first = from.map_or(Day::MIN, |time| Day::of(time.saturating_sub(SLACK)));
    let last = until.map_or(Day::MAX, |time| Day::of(time.saturating_add(SLACK)));
    first..=last
}

/// What [`read_event`] reads.
const READ_COLUMNS: &str = "id, event_type, created_at, data, correlation_id, task_id, cast(length(data) as bigint)";

fn read_event(row: &Row) -> Result<(Event, u64), StoreError> {
    let event = Event {
        id: row.uuid(0)?,
        event_type: row.parsed(1, EventType::parse)?,
        timestamp: row.time(2)?,
        data: row.json(3)?,
        metadata: EventMetadata { correlation_id: row.text(4)?, task_id: row.opt_text(5)?, source: SOURCE.to_owned() },
    };
    Ok((event, row.count(6)?))
}
