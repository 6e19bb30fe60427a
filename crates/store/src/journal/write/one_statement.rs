//! A usual batch on PostgreSQL: one statement, which is a transaction of its own, and one way to
//! the database and back.
//!
//! Where the logs end is not read: this process knows where it left them. The statement locks
//! both ends, and writes where they are there still; else it writes nothing, and the batch goes by
//! a transaction that reads them. While another process writes too, that is so again and again:
//! so it is tried only after a transaction that found the ends where this process had left them.
//!
//! Its parts run in no order but that in which they read each other, and so they do: locks are
//! taken in the order that all transactions keep to.

use std::collections::BTreeSet;

use integration_model::Timestamp;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgPool, PgSeverity};
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::{answers_of, events_of};
use crate::array::RowType;
use crate::audit::{AuditHead, Chain, push_execution, rows_of};
use crate::batch::{Column, Rows, names};
use crate::database::{Database, Moved, UNCHECKED};
use crate::error::StoreError;
use crate::idempotency::{ANSWER, write_answer};
use crate::journal::ExecutionRecord;
use crate::partitions::{Day, Log, Partition};
use crate::sql::{Arg, Backend, Query};
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

    /// Commits a batch. False, with nothing written, where the logs end elsewhere, or the batch
    /// needs more than one statement. Where this fails, the batch may be committed all the same.
    pub(super) async fn write(
        &mut self,
        db: &Database,
        pool: &PgPool,
        records: &[ExecutionRecord],
    ) -> Result<bool, StoreError> {
        let Some(ends) = db.known_ends().expected() else { return Ok(false) };
        let mut open = match self.open(pool).await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(%error, "the journal has no connection of its own");
                return Ok(false);
            }
        };
        let Some((statement, left)) = statement(db, records, ends, open.types)? else {
            self.open = Some(open);
            return Ok(false);
        };
        // All answers are read: the last one tells of the commit.
        let written = match statement.for_postgres().fetch_all(&mut open.connection).await {
            Ok(rows) => {
                self.open = Some(Open { used: Instant::now(), ..open });
                rows.first().map_or(Ok(0_i64), |row| row.try_get(0))? > 0
            }
            Err(error) => {
                db.known_ends().is_alone = false;
                if !is_refusal(&error) {
                    return Err(error.into());
                }
                tracing::debug!(%error, "a batch is written statement by statement");
                false
            }
        };
        if written {
            db.known_ends().left(left);
        } else {
            db.known_ends().is_alone = false;
        }
        Ok(written)
    }

    async fn open(&mut self, pool: &PgPool) -> Result<Open, sqlx::Error> {
        if let Some(mut open) = self.open.take()
            && (open.used.elapsed() < UNCHECKED || open.connection.ping().await.is_ok())
        {
            return Ok(open);
        }
        // One plan serves batches of any length.
        let options = (*pool.connect_options()).clone().options([("plan_cache_mode", "force_generic_plan")]);
        let mut connection = PgConnection::connect_with(&options).await?;
        let types = RowTypes {
            execution: row_type(&mut connection, "execution_row").await?,
            event: row_type(&mut connection, "event_row").await?,
            audit: row_type(&mut connection, "audit_row").await?,
        };
        Ok(Open { connection, types, used: Instant::now() })
    }
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

/// The statement that writes a batch after these ends, and where it leaves them. None where the
/// rows go to several partitions of a log, or to one that is not known to exist.
fn statement(
    db: &Database,
    records: &[ExecutionRecord],
    ends: Ends,
    types: RowTypes,
) -> Result<Option<(Query, Ends)>, StoreError> {
    let now = db.clock.now();
    let Some((executions, of_executions)) = execution_rows(records, types.execution)? else { return Ok(None) };
    let Some((events, of_events, newest)) = event_rows(db, records, types.event, ends.event, now) else {
        return Ok(None);
    };
    let today = Day::of(now);
    let of_audit = Partition { log: Log::Audit, day: today };
    if ![of_executions, of_events, of_audit].into_iter().all(|partition| db.partitions.contains(partition)) {
        return Ok(None);
    }
    let mut chain = Chain::new(db.audit_chain.key()?, ends.audit);
    let mut trail = Rows::of_type(types.audit, audit::row::COLUMNS);
    for (used, execution) in rows_of(records, &BTreeSet::new()) {
        push_execution(&mut chain, &mut trail, used, execution, now);
    }
    let left = Ends { event: newest, audit: chain.head };

    let mut parts = Parts::default();
    // What comes next waits for these locks, of which there may be none.
    let mut locked = "";
    let mut answers = Rows::new(Backend::Postgres, ANSWER);
    answers_of(records).for_each(|(claim, answer)| answers.push(|cells| write_answer(cells, claim, answer)));
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
    let day = parts.bind(today.number());
    parts.add(&format!(
        "unmoved as (update audit_chain set head_sequence = {sequence}, head_hash = {hash}, head_day = {day} \
         where name = 'audit' and head_sequence = {found_sequence} and head_hash = {found_hash} and head_day <= {day} \
         and exists (select from newest_event) returning 1)"
    ));
    parts.insert("executions", executions, of_executions, executions::COLUMNS);
    parts.insert("events", events, of_events, events::COLUMNS);
    parts.insert("trail", trail, of_audit, audit::row::COLUMNS);
    let newest = parts.bind(newest);
    parts.add(&format!("moved as (update event_head set last_id = {newest} where name = 'events' and {UNMOVED})"));
    if has_answers {
        parts.add(&format!(
            "answered as (update idempotency_keys k set answer = a.c5 from answers a where {OF_CLAIM} and {UNMOVED})"
        ));
    }
    let text = format!("with {} select count(*) from unmoved", parts.text);
    Ok(Some((Query::built(text, parts.args), left)))
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

    fn insert(&mut self, name: &str, rows: Rows, partition: Partition, columns: &[Column]) {
        self.rows(&format!("{name}_rows"), rows);
        self.add(&format!(
            "{name} as (insert into {} ({}) select * from {name}_rows where {UNMOVED})",
            partition.table(),
            names(columns)
        ));
    }
}

fn execution_rows(records: &[ExecutionRecord], of: RowType) -> Result<Option<(Rows, Partition)>, StoreError> {
    let mut rows = Rows::of_type(of, executions::COLUMNS);
    let mut partition = None;
    for record in records {
        let of_row = Partition::of_id(Log::Executions, record.execution.id.0);
        if record.from_queue || *partition.get_or_insert(of_row) != of_row {
            return Ok(None);
        }
        let mut written = Ok(());
        rows.push(|cells| written = executions::write_cells(cells, &record.execution, record.params.as_ref()));
        written?;
    }
    Ok(partition.map(|partition| (rows, partition)))
}

/// Gives the id of the last event too.
fn event_rows(
    db: &Database,
    records: &[ExecutionRecord],
    of: RowType,
    mut last: Uuid,
    now: Timestamp,
) -> Option<(Rows, Partition, Uuid)> {
    let mut rows = Rows::of_type(of, events::COLUMNS);
    let mut partition = None;
    for event in events_of(records) {
        last = db.ids.next_after(last);
        let of_row = Partition::of_id(Log::Events, last);
        if *partition.get_or_insert(of_row) != of_row {
            return None;
        }
        rows.push(|cells| event.cells().write(cells, last, now));
    }
    partition.map(|partition| (rows, partition, last))
}
