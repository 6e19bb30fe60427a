//! A usual batch on PostgreSQL: one statement, which is a transaction of its own, and one way to
//! the database and back.
//!
//! Where the logs end is not read: this process knows where it left them. The statement locks
//! both ends, and writes where they are there still; else it writes nothing, and goes again in a
//! transaction that has read them. While another process writes too, that is so again and again:
//! so it is tried alone only after a transaction that found the ends where this process had left them.
//!
//! Its parts run in no order but that in which they read each other, and so they do: locks are
//! taken in the order that all transactions keep to.

use sqlx::postgres::{PgConnection, PgDatabaseError, PgPool, PgRow, PgSeverity};
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::{LogBatch, Written};
use crate::array::RowType;
use crate::audit::{AuditHead, Chain};
use crate::batch::{Column, Rows, names};
use crate::database::{Database, Moved, UNCHECKED, connect_alone};
use crate::encoded::Decoded;
use crate::error::StoreError;
use crate::idempotency::{ANSWER, write_answer};
use crate::partitions::{Day, Log, Partition};
use crate::spool_table::Settled;
use crate::sql::{Arg, Backend, Query, Row};
use crate::{audit, events, executions};

/// Where the logs end, as far as this process knows: where it left them.
#[derive(Debug, Default)]
pub(crate) struct KnownEnds {
    event: Option<Uuid>,
    audit: Option<AuditHead>,
    /// They were found there lately.
    is_alone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    event: Uuid,
    audit: AuditHead,
}

impl KnownEnds {
    /// Notes what a committed transaction found and left.
    pub(crate) fn learn(&mut self, event: Option<Moved<Uuid>>, audit: Option<Moved<AuditHead>>) {
        let found = event.is_none_or(|event| self.event == Some(event.found))
            && audit.is_none_or(|audit| self.audit == Some(audit.found));
        self.is_alone = found && (self.is_alone || event.is_some() && audit.is_some());
        self.event = event.map(|event| event.left).or(self.event);
        self.audit = audit.map(|audit| audit.left).or(self.audit);
    }

    /// None where another process seems to write too.
    fn expected(&self) -> Option<Ends> {
        if self.is_alone { Some(Ends { event: self.event?, audit: self.audit? }) } else { None }
    }

    fn left(&mut self, ends: Ends) {
        *self = Self { event: Some(ends.event), audit: Some(ends.audit), is_alone: true };
    }
}

/// The journal's own connection, which is made, and whose answers come, in the journal's thread.
#[derive(Debug, Default)]
pub(crate) struct OneStatement {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: PgConnection,
    types: RowTypes,
    used: Instant,
}

/// The types of the logs' rows in this database.
#[derive(Debug, Clone, Copy)]
struct RowTypes {
    execution: RowType,
    event: RowType,
    audit: RowType,
}

impl OneStatement {
    pub(crate) fn disconnect(&mut self) {
        self.open = None;
    }

    /// Commits a batch. None, with nothing written, where a partition is missing, or answers belong
    /// to it and the logs end elsewhere. Where this fails, the batch may be committed all the same.
    pub(super) async fn write(
        &mut self,
        db: &Database,
        pool: &PgPool,
        batch: LogBatch<'_>,
    ) -> Result<Option<Written>, StoreError> {
        let mut open = match self.open(pool).await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(%error, "the journal has no connection of its own");
                return Ok(None);
            }
        };
        let expected = db.known_ends().expected();
        if let Some(ends) = expected {
            let today = Day::of(db.clock.now());
            let Some(statement) = statement(db, batch, ends, today, open.types)? else {
                self.open = Some(open);
                return Ok(None);
            };
            // Unless it is written: another process seems to write too, or the statement is refused.
            db.known_ends().is_alone = false;
            // All answers are read: the last one tells of the commit.
            match statement.query.for_postgres().fetch_all(&mut open.connection).await {
                Ok(rows) => {
                    open.used = Instant::now();
                    if is_written(&rows)? {
                        self.open = Some(open);
                        db.known_ends().left(statement.left);
                        return Ok(Some(statement.written));
                    }
                }
                Err(error) if !is_refusal(&error) => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the ends of the logs are read"),
            }
        }
        // The locks of claims come before those of the ends.
        let written = if batch.answers.is_empty() { write_locked(db, &mut open, batch).await? } else { None };
        open.used = Instant::now();
        self.open = Some(open);
        Ok(written)
    }

    async fn open(&mut self, pool: &PgPool) -> Result<Open, sqlx::Error> {
        if let Some(mut open) = self.open.take()
            && (open.used.elapsed() < UNCHECKED || open.connection.ping().await.is_ok())
        {
            return Ok(open);
        }
        let mut connection = connect_alone(pool).await?;
        let types = RowTypes {
            execution: row_type(&mut connection, "execution_row").await?,
            event: row_type(&mut connection, "event_row").await?,
            audit: row_type(&mut connection, "audit_row").await?,
        };
        Ok(Open { connection, types, used: Instant::now() })
    }
}

/// Commits a batch after the ends that are found, and kept from others until it is.
async fn write_locked(db: &Database, open: &mut Open, batch: LogBatch<'_>) -> Result<Option<Written>, StoreError> {
    let mut tx = open.connection.begin().await?;
    let event = sqlx::query("select last_id from event_head where name = 'events' for no key update");
    let event = Row::Postgres(event.fetch_one(&mut *tx).await?).uuid(0)?;
    let audit = "select head_sequence, head_hash, head_day from audit_chain where name = 'audit' for no key update";
    let audit = Row::Postgres(sqlx::query(audit).fetch_one(&mut *tx).await?);
    let ends = Ends { event, audit: AuditHead::from_row(&audit, 0)? };
    // The clock of another process may be ahead.
    let day = Day::of(db.clock.now()).max(Day::from_number(audit.int(2)?));
    let Some(statement) = statement(db, batch, ends, day, open.types)? else {
        tx.rollback().await?;
        return Ok(None);
    };
    if !is_written(&statement.query.for_postgres().fetch_all(&mut *tx).await?)? {
        return Err(StoreError::corrupt("end of a log", "it is not what was read"));
    }
    tx.commit().await?;
    db.known_ends().learn(
        Some(Moved { found: ends.event, left: statement.left.event }),
        Some(Moved { found: ends.audit, left: statement.left.audit }),
    );
    Ok(Some(statement.written))
}

/// Whether the ends were where the statement expected them.
fn is_written(rows: &[PgRow]) -> Result<bool, StoreError> {
    Ok(rows.first().map_or(Ok(0_i64), |row| row.try_get(0))? > 0)
}

async fn row_type(connection: &mut PgConnection, name: &'static str) -> Result<RowType, sqlx::Error> {
    let row = sqlx::query("select oid, typarray from pg_type where oid = $1::regtype")
        .bind(name)
        .fetch_one(connection)
        .await?;
    Ok(RowType { name, row: row.try_get(0)?, array: row.try_get(1)? })
}

/// Whether the database took nothing of a statement. After a worse error it may have.
fn is_refusal(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.severity() == PgSeverity::Error)
}

/// Writes a batch after the logs' ends.
struct Statement {
    query: Query,
    /// Where it leaves them.
    left: Ends,
    written: Written,
}

/// None where a partition is not known to exist.
fn statement(
    db: &Database,
    batch: LogBatch<'_>,
    ends: Ends,
    day_of_audit: Day,
    types: RowTypes,
) -> Result<Option<Statement>, StoreError> {
    let now = db.clock.now();
    let mut executions = OfDays::new(Log::Executions, types.execution, executions::COLUMNS);
    let mut events = OfDays::new(Log::Events, types.event, events::COLUMNS);
    let mut trail = OfDays::new(Log::Audit, types.audit, audit::row::COLUMNS);
    let mut chain = Chain::new(db.audit_chain.key()?, ends.audit);
    let mut newest = ends.event;
    let mut written = Written::default();
    for record in batch.records.iter() {
        let record = Decoded::read(record)?;
        executions.rows_of(Day::of_id(record.id)).push(|cells| record.write_execution(cells));
        record.each(
            |event| {
                newest = db.ids.next_after(newest);
                events.rows_of(Day::of_id(newest)).push(|cells| event.write(cells, newest, now));
                Ok(())
            },
            |act| {
                if !batch.known.contains(&act.id) {
                    written.note(&act);
                    trail.rows_of(day_of_audit).push(|cells| chain.append(cells, |cells| act.write(cells, now)));
                }
                Ok(())
            },
        )?;
    }
    let logs = [executions, events, trail];
    if !logs.iter().flat_map(OfDays::partitions).all(|partition| db.partitions.contains(partition)) {
        return Ok(None);
    }
    let left = Ends { event: newest, audit: chain.head };

    let mut parts = Parts::default();
    // What comes next waits for these locks, of which there may be none.
    let mut locked = "";
    let mut answers = Rows::new(Backend::Postgres, ANSWER);
    batch.answers.iter().for_each(|(claim, answer)| answers.push(|cells| write_answer(cells, claim, answer)));
    let has_answers = !answers.is_empty();
    const OF_CLAIM: &str = "k.tenant_id = a.c0 and k.instance_id = a.c1 and k.method = a.c2 and k.key = a.c3 and \
                            k.execution_id = a.c4 and k.answer is null";
    if has_answers {
        parts.rows("answers", answers);
        parts.add(&format!(
            "claims as materialized (select 1 from idempotency_keys k, answers a where {OF_CLAIM} \
             for no key update of k)"
        ));
        locked = " and (select count(*) from claims) >= 0";
    }
    let found = parts.bind(ends.event);
    parts.add(&format!(
        "newest_event as materialized (select 1 from event_head where name = 'events' and last_id = {found}{locked} \
         for no key update)"
    ));
    let [sequence, hash] = [parts.bind(left.audit.sequence), parts.bind(left.audit.hash.to_vec())];
    let [found_sequence, found_hash] = [parts.bind(ends.audit.sequence), parts.bind(ends.audit.hash.to_vec())];
    let day = parts.bind(day_of_audit.number());
    parts.add(&format!(
        "unmoved as (update audit_chain set head_sequence = {sequence}, head_hash = {hash}, head_day = {day} \
         where name = 'audit' and head_sequence = {found_sequence} and head_hash = {found_hash} and head_day <= {day} \
         and exists (select from newest_event) returning 1)"
    ));
    logs.into_iter().for_each(|log| parts.insert(log));
    let newest = parts.bind(newest);
    parts.add(&format!("moved as (update event_head set last_id = {newest} where name = 'events' and {UNMOVED})"));
    if has_answers {
        parts.add(&format!(
            "answered as (update idempotency_keys k set answer = a.c5 from answers a where {OF_CLAIM} and {UNMOVED})"
        ));
    }
    if let Some(Settled { session, last }) = batch.settled {
        let [session, last] = [parts.bind(session), parts.bind(last)];
        parts.add(&format!(
            "settled as (update spools set settled = {last} where id = {session} and settled < {last} and {UNMOVED})"
        ));
    }
    let text = format!("with {} select count(*) from unmoved", parts.text);
    Ok(Some(Statement { query: Query::built(text, parts.args), left, written }))
}

/// The ends were where they were expected, and are locked.
const UNMOVED: &str = "exists (select from unmoved)";

/// The parts of a statement before its last, and its arguments.
#[derive(Default)]
struct Parts {
    text: String,
    args: Vec<Arg>,
}

impl Parts {
    fn add(&mut self, part: &str) {
        if !self.text.is_empty() {
            self.text.push_str(", ");
        }
        self.text.push_str(part);
    }

    /// Gives the argument's placeholder.
    fn bind(&mut self, arg: impl Into<Arg>) -> String {
        self.args.push(arg.into());
        format!("${}", self.args.len())
    }

    fn rows(&mut self, name: &str, rows: Rows) {
        self.add(&rows.named(name, self.args.len() + 1));
        self.args.extend(rows.into_args());
    }

    fn insert(&mut self, log: OfDays) {
        for (day, rows) in log.days {
            let partition = Partition { log: log.log, day };
            let name = partition.table();
            self.rows(&format!("{name}_rows"), rows);
            self.add(&format!(
                "{name}_written as (insert into {name} ({}) select * from {name}_rows where {UNMOVED})",
                names(log.columns)
            ));
        }
    }
}

/// The rows of a log, by the day in whose table they belong; of most batches that is one.
struct OfDays {
    log: Log,
    of: RowType,
    columns: &'static [Column],
    days: Vec<(Day, Rows)>,
}

impl OfDays {
    fn new(log: Log, of: RowType, columns: &'static [Column]) -> Self {
        Self { log, of, columns, days: Vec::with_capacity(1) }
    }

    fn rows_of(&mut self, day: Day) -> &mut Rows {
        let place = self.days.iter().position(|(of, _)| *of == day).unwrap_or_else(|| {
            self.days.push((day, Rows::of_type(self.of, self.columns)));
            self.days.len() - 1
        });
        &mut self.days[place].1
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.days.iter().map(|(day, _)| Partition { log: self.log, day: *day })
    }
}
