//! The spool of records on PostgreSQL: tables of a process's own. What is committed there, with one
//! short statement that waits for no other process, outlives the process and its machine; the rows
//! of the logs follow in a transaction with those of many others, which alone need the locks that
//! all processes share.
//!
//! A session has two tables. One takes records until it is full; the other is emptied as a whole
//! once the logs have what it held. A session lives as long as the connection that writes it, which
//! holds a lock under its name: what a session that is gone left behind, any process commits. Must
//! not know what a record says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use integration_model::Timestamp;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::Instant;
use uuid::Uuid;

use crate::array::Array;
use crate::batch::Kind;
use crate::database::{Database, connect_alone};
use crate::encoded::Encoded;
use crate::error::StoreError;
use crate::sql::{Arg, Pool, Query};

/// After how many bytes a table is full.
const TABLE_BYTES: u64 = 8 << 20;
/// How many bytes a session may hold; records wait for their commit beyond it.
const MAX_BYTES: u64 = 512 << 20;
/// After how long a session that is not used ends.
const IDLE: Duration = Duration::from_secs(60);
/// How long after something failed it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the removal of a session waits for who reads its tables; it comes later then.
const REMOVE_WAIT_MS: u32 = 100;
/// How many records of a session that is gone are read at once.
const READ_AT_ONCE: u32 = 500;
/// How long a reader of the logs waits for what other processes hold.
const OTHERS_WAIT: Duration = Duration::from_secs(2);
/// How many sessions are known to be overdue.
const MAX_OVERDUE: usize = 1_000;
/// After how long it looks whether one of them is gone.
const OTHERS_GONE: Duration = Duration::from_millis(100);

/// What a process put down, and may put down next.
#[derive(Debug)]
pub(crate) struct TableSpool {
    pool: PgPool,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    /// The last time that none could be begun.
    failed: Option<Timestamp>,
}

#[derive(Debug)]
struct Open {
    /// Holds the lock.
    connection: PgConnection,
    session: Arc<Session>,
    used: Timestamp,
}

#[derive(Debug)]
struct Session {
    id: Uuid,
    tables: Mutex<Tables>,
    /// Something was given up: the session ends, and what it holds is looked through.
    is_left: AtomicBool,
}

#[derive(Debug, Default)]
struct Tables {
    current: usize,
    /// Of the last record.
    number: i64,
    /// Of the last that the logs have.
    settled: i64,
    held: [Held; 2],
    /// The last time that one could not be emptied.
    failed: Option<Timestamp>,
}

/// What a table holds.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    bytes: u64,
    /// The number of its last record.
    last: i64,
}

/// Records that are put down; to be settled once the logs have them.
#[derive(Debug)]
pub(crate) struct TableEntry {
    session: Arc<Session>,
    last: i64,
    is_settled: AtomicBool,
}

/// Up to where a session is settled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    pub(crate) session: Uuid,
    pub(crate) last: i64,
}

impl TableEntry {
    /// What to note with the commit of these records, where all before them are committed.
    pub(crate) fn settled(&self) -> Option<Settled> {
        (!self.session.is_left()).then_some(Settled { session: self.session.id, last: self.last })
    }

    pub(crate) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
        let mut tables = self.session.tables();
        tables.settled = tables.settled.max(self.last);
    }

    /// Empties the table that is full, where nothing in it is needed after these records are
    /// committed.
    pub(crate) async fn empty_full(&self, db: &Database) {
        let Pool::Postgres(pool) = &db.pool else { return };
        let Some((place, before)) = self.session.full_until(self.last, db.clock.now()) else { return };
        match empty(pool, &self.session.table(place)).await {
            Ok(()) => self.session.tables().held[place] = Held { bytes: 0, ..before },
            Err(error) => {
                tracing::debug!(%error, "a table of the spool is emptied later");
                self.session.tables().failed = Some(db.clock.now());
            }
        }
    }
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        if !self.is_settled.load(Ordering::Acquire) {
            self.session.is_left.store(true, Ordering::Release);
        }
    }
}

/// Whoever reads the table, as a backup does, is not waited for: callers would wait behind.
async fn empty(pool: &PgPool, table: &str) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let text = format!("lock table {table} in access exclusive mode nowait; truncate {table}");
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await?;
    tx.commit().await
}

impl Session {
    fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    fn is_settled(&self) -> bool {
        let tables = self.tables();
        tables.settled == tables.number
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self, place: usize) -> String {
        table_of(self.id, place)
    }

    /// The table for these records, and the number before their first.
    fn place(&self, count: usize, bytes: u64) -> Result<(usize, i64), StoreError> {
        let mut tables = self.tables();
        if tables.held.iter().map(|held| held.bytes).sum::<u64>() + bytes > MAX_BYTES {
            let error = format!("more than {MAX_BYTES} bytes of it wait for the logs");
            return Err(StoreError::Spool(std::io::Error::other(error)));
        }
        let (current, other) = (tables.current, 1 - tables.current);
        if tables.held[current].bytes >= TABLE_BYTES && tables.held[other].bytes == 0 {
            tables.current = other;
        }
        let (current, before) = (tables.current, tables.number);
        tables.number += i64::try_from(count).unwrap_or(i64::MAX);
        let last = tables.number;
        let held = &mut tables.held[current];
        *held = Held { bytes: held.bytes + bytes, last };
        Ok((current, before))
    }

    /// The table that takes no more, where it holds nothing after this record.
    fn full_until(&self, last: i64, now: Timestamp) -> Option<(usize, Held)> {
        if self.is_left() {
            return None;
        }
        let tables = self.tables();
        let other = 1 - tables.current;
        let held = tables.held[other];
        (held.bytes > 0 && held.last <= last && !is_lately(tables.failed, now)).then_some((other, held))
    }
}

/// Whether something failed too lately to be tried again.
fn is_lately(failed: Option<Timestamp>, now: Timestamp) -> bool {
    // A clock that was set back is no reason to wait.
    failed.is_some_and(|failed| failed <= now && now < failed.saturating_add(RETRY_AFTER))
}

fn table_of(session: Uuid, place: usize) -> String {
    format!("spool_{}_{place}", session.simple())
}

/// What tells the session's lock from others'.
fn lock_of(session: Uuid) -> i64 {
    // The random half of the id.
    session.as_u64_pair().1.cast_signed()
}

/// All records of a session.
fn records_of(session: Uuid) -> String {
    let [first, second] = [0, 1].map(|place| table_of(session, place));
    format!("(select number, record from {first} union all select number, record from {second}) r")
}

impl TableSpool {
    /// Nothing is made before the first records.
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, state: tokio::sync::Mutex::default() }
    }

    /// Commits records, all or none. Where this fails they may be committed all the same.
    pub(crate) async fn write(&self, db: &Database, records: &Encoded) -> Result<TableEntry, StoreError> {
        let mut state = self.state.lock().await;
        drop(state.open.take_if(|open| open.session.is_left()));
        let mut open = match state.open.take() {
            Some(open) => open,
            None if is_lately(state.failed, db.clock.now()) => {
                return Err(StoreError::Spool(std::io::Error::other("the database took none lately")));
            }
            None => {
                state.failed = Some(db.clock.now());
                let open = Open::begin(db, &self.pool).await?;
                state.failed = None;
                open
            }
        };
        let bytes = records.iter().map(<[u8]>::len).sum::<usize>() as u64;
        let placed = open.session.place(records.len(), bytes);
        let (place, before) = match placed {
            Ok(placed) => placed,
            Err(error) => {
                state.open = Some(open);
                return Err(error);
            }
        };
        let mut array = Array::new(Kind::Bytes);
        records.iter().for_each(|record| array.push(Some(record)));
        let text = format!(
            "insert into {} (number, record) select $1 + n, r from unnest($2::bytea[]) with ordinality u(r, n)",
            open.session.table(place)
        );
        let query = Query::built(text, vec![before.into(), Arg::Array(array)]);
        // Where it fails the connection goes, and the session with it.
        query.for_postgres().execute(&mut open.connection).await?;
        let session = Arc::clone(&open.session);
        state.open = Some(Open { used: db.clock.now(), ..open });
        let last = before + i64::try_from(records.len()).unwrap_or(i64::MAX);
        Ok(TableEntry { session, last, is_settled: AtomicBool::new(false) })
    }

    /// Ends a session in which something was given up, so that it is found; and one that is not
    /// used, so that no record is kept there for longer than in the logs.
    pub(crate) async fn tend(&self, db: &Database) {
        let mut state = self.state.lock().await;
        let idle_since = db.clock.now().saturating_sub(IDLE);
        let is_over = |open: &mut Open| open.session.is_left() || open.used < idle_since && open.session.is_settled();
        if let Some(open) = state.open.take_if(is_over) {
            open.end(&self.pool).await;
        }
    }

    /// Ends the session; it leaves nothing where all of it is committed.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.state.lock().await.open.take() {
            open.end(&self.pool).await;
        }
    }
}

impl Open {
    /// By another connection: this one belongs to the runtime of the thread that made it, which may
    /// be gone at the end.
    async fn end(self, pool: &PgPool) {
        if self.session.is_left() {
            return;
        }
        let removed = match pool.acquire().await {
            Ok(mut connection) => remove(&mut connection, self.session.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "the tables of the spool are removed later");
        }
    }

    async fn begin(db: &Database, pool: &PgPool) -> Result<Self, StoreError> {
        let mut connection = connect_alone(pool).await?;
        let id = db.ids.next();
        if !try_lock(&mut connection, id).await? {
            return Err(StoreError::Closed);
        }
        let mut tx = connection.begin().await?;
        let tables = [0, 1].map(|place| {
            let table = table_of(id, place);
            // They are emptied as a whole, and no record is worth the time to make it shorter.
            format!(
                "create table {table} (number bigint not null, record bytea not null) with (autovacuum_enabled = off); \
                 alter table {table} alter column record set storage external;"
            )
        });
        sqlx::raw_sql(AssertSqlSafe(tables.concat())).execute(&mut *tx).await?;
        Query::new("insert into spools (id, worker, settled, begun_at) values ($1, $2, 0, $3)")
            .bind(id)
            .bind(db.worker.as_str())
            .bind(db.clock.now())
            .for_postgres()
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        let session = Session { id, tables: Mutex::default(), is_left: AtomicBool::new(false) };
        Ok(Self { connection, session: Arc::new(session), used: db.clock.now() })
    }
}

async fn try_lock(connection: &mut PgConnection, session: Uuid) -> Result<bool, StoreError> {
    let locked: (bool,) =
        sqlx::query_as("select pg_try_advisory_lock($1)").bind(lock_of(session)).fetch_one(connection).await?;
    Ok(locked.0)
}

async fn remove(connection: &mut PgConnection, session: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let [first, second] = [0, 1].map(|place| table_of(session, place));
    // Nobody waits behind it where a backup reads them.
    let text = format!("set local lock_timeout = '{REMOVE_WAIT_MS}ms'; drop table if exists {first}, {second}");
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await?;
    let delete = Query::new("delete from spools where id = $1").bind(session);
    delete.for_postgres().execute(&mut *tx).await?;
    tx.commit().await
}

/// A session that ended without settling all; kept from others while this lives.
#[derive(Debug)]
pub(crate) struct DeadSession {
    connection: PgConnection,
    id: Uuid,
    /// All before it is committed.
    after: i64,
}

impl DeadSession {
    /// The next records, in their order; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Encoded, StoreError> {
        let text = format!(
            "select number, record from {} where number > $1 order by number limit {READ_AT_ONCE}",
            records_of(self.id)
        );
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as(AssertSqlSafe(text)).bind(self.after).fetch_all(&mut self.connection).await?;
        let mut records = Encoded::default();
        for (number, record) in rows {
            records.push_bytes(&record);
            self.after = number;
        }
        Ok(records)
    }

    /// To be called after its records are committed.
    pub(crate) async fn remove(mut self) {
        if let Err(error) = remove(&mut self.connection, self.id).await {
            tracing::debug!(%error, "the tables of the spool are removed later");
        }
        self.put_back().await;
    }

    /// Leaves it to a later time.
    pub(crate) async fn put_back(self) {
        // The lock goes with the connection however that ends.
        let _ = self.connection.close().await;
    }
}

impl Database {
    /// The sessions whose connection is gone: of processes that ended, and those of this one that
    /// it gave up.
    pub(crate) async fn dead_sessions(&self) -> Result<Vec<DeadSession>, StoreError> {
        let Pool::Postgres(pool) = &self.pool else { return Ok(Vec::new()) };
        let mut dead = Vec::new();
        let mut idle: Option<PgConnection> = None;
        for row in Query::new("select id from spools order by begun_at").fetch_all(&self.pool).await? {
            let id = row.uuid(0)?;
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => connect_alone(pool).await?,
            };
            if !try_lock(&mut connection, id).await? {
                idle = Some(connection);
                continue;
            }
            let settled = sqlx::query_as("select settled from spools where id = $1").bind(id.as_bytes().as_slice());
            let left: Option<(i64,)> = settled.fetch_optional(&mut connection).await?;
            // Where there is none, another process was faster.
            if let Some((after,)) = left {
                dead.push(DeadSession { connection, id, after });
            }
        }
        if let Some(idle) = idle {
            idle.close().await?;
        }
        Ok(dead)
    }

    /// Notes up to where a session is settled.
    pub(crate) async fn note_settled(&self, settled: Settled) -> Result<(), StoreError> {
        let Pool::Postgres(pool) = &self.pool else { return Ok(()) };
        let query = Query::new("update spools set settled = $1 where id = $2 and settled < $1");
        query.bind(settled.last).bind(settled.session).for_postgres().execute(pool).await?;
        Ok(())
    }

    /// The processes that have a session, this one and those that are gone among them.
    pub(crate) async fn spooling_workers(&self) -> Result<Vec<String>, StoreError> {
        if !matches!(self.pool, Pool::Postgres(_)) {
            return Ok(Vec::new());
        }
        let rows = Query::new("select worker from spools").fetch_all(&self.pool).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Waits until the logs hold what other processes have put down so far. What one of them does
    /// not commit within seconds is not waited for, and not again.
    pub(crate) async fn others_settled(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut waited_for = self.unsettled_of_others().await?;
        waited_for.retain(|waited| self.overdue().get(&waited.session).is_none_or(|last| *last < waited.last));
        let begun = Instant::now();
        let mut pause = Duration::from_millis(2);
        let mut looked = false;
        while !waited_for.is_empty() && begun.elapsed() < OTHERS_WAIT {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_millis(50));
            if !looked && begun.elapsed() >= OTHERS_GONE {
                looked = true;
                crate::recovery::recover_sessions(self).await?;
            }
            let settled = self.sessions_of_others().await?;
            waited_for.retain(|waited| {
                settled.iter().any(|settled| settled.session == waited.session && settled.last < waited.last)
            });
        }
        if !waited_for.is_empty() {
            tracing::warn!(
                sessions = waited_for.len(),
                "what other processes recorded is not in the logs after seconds"
            );
            let mut overdue = self.overdue();
            if overdue.len() > MAX_OVERDUE {
                overdue.clear();
            }
            overdue.extend(waited_for.iter().map(|waited| (waited.session, waited.last)));
        }
        Ok(())
    }

    fn overdue(&self) -> MutexGuard<'_, HashMap<Uuid, i64>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where the sessions of other processes are settled.
    async fn sessions_of_others(&self) -> Result<Vec<Settled>, StoreError> {
        if !matches!(self.pool, Pool::Postgres(_)) {
            return Ok(Vec::new());
        }
        let rows = Query::new("select id, settled from spools where worker <> $1").bind(self.worker.as_str());
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(Settled { session: row.uuid(0)?, last: row.int(1)? })).collect()
    }

    /// The sessions of other processes with more than is settled, up to their last record.
    async fn unsettled_of_others(&self) -> Result<Vec<Settled>, StoreError> {
        let mut unsettled = Vec::new();
        for Settled { session, last: settled } in self.sessions_of_others().await? {
            let text = format!("select coalesce(max(number), 0) from {}", records_of(session));
            let last = match Query::built(text, Vec::new()).fetch_one(&self.pool).await {
                // It has ended meanwhile.
                Err(error) if error.is_missing_table() => continue,
                row => row?.int(0)?,
            };
            if last > settled {
                unsettled.push(Settled { session, last });
            }
        }
        Ok(unsettled)
    }
}
