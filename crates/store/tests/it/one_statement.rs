//! Batches on PostgreSQL that are one statement: they keep the order of events and the chain of
//! the audit, whoever else writes.

use bytes::Bytes;
use integration_model::audit::{AuditAction, AuditDraft};
use integration_model::event::EventDraft;
use integration_store::{
    EventCursor, EventFilter, ExecutionFilter, IdempotencyClaim, IdempotencyState, Store, StoreError,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::task::JoinHandle;

use crate::events::read_on_while;
use crate::fixtures::{add_instance, execution, instance_id, publish_petshop, record, tenant};
use crate::harness::{DAY, Harness};

/// Notes of each execution whether the statement that inserts it is all of its transaction: one
/// before it would have locked where the audit ends.
const NOTE_STATEMENTS: &str = "
    create table statements (id bigserial primary key, is_whole boolean);
    create function note() returns trigger language plpgsql as $$ begin
        insert into statements (is_whole) values (current_query() like '%audit_chain%' and not exists (
            select from pg_locks
            where pid = pg_backend_pid() and relation = 'audit_chain'::regclass and mode = 'RowShareLock'));
        return new;
    end $$;
    create trigger note after insert on executions_p20260310 for each row execute function note();";

/// A connection behind the stores' backs.
pub(crate) struct Other {
    pub(crate) connection: PgConnection,
    pub(crate) pid: i32,
}

impl Other {
    pub(crate) async fn connect(harness: &Harness) -> Self {
        let mut connection = PgConnection::connect(&harness.url).await.expect("connected");
        let pid = sqlx::query("select pg_backend_pid()").fetch_one(&mut connection).await.expect("a row").get(0);
        Self { connection, pid }
    }

    pub(crate) async fn run(&mut self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.connection).await.expect(statement);
    }

    /// Waits until somebody waits for a process; gives who.
    pub(crate) async fn waits_for(&mut self, pid: i32) -> i32 {
        loop {
            // Within a transaction, who is there is looked up once.
            self.run("select pg_stat_clear_snapshot()").await;
            let waiting = sqlx::query("select pid from pg_stat_activity where $1 = any(pg_blocking_pids(pid))")
                .bind(pid)
                .fetch_optional(&mut self.connection)
                .await
                .expect("answered");
            if let Some(row) = waiting {
                return row.get(0);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Which of the executions since the last look were written in one statement.
    async fn noted(&mut self) -> Vec<bool> {
        let rows = sqlx::query("with d as (delete from statements returning *) select is_whole from d order by id")
            .fetch_all(&mut self.connection)
            .await
            .expect("answered");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

pub(crate) async fn put(store: &Store, times: usize) {
    for _ in 0..times {
        store.record(record(execution(store, "i1"))).await.expect("recorded");
    }
}

fn put_later(store: &Store) -> JoinHandle<Result<(), StoreError>> {
    let store = store.clone();
    tokio::spawn(async move { store.record(record(execution(&store, "i1"))).await })
}

async fn append_audit(store: &Store) {
    let draft = AuditDraft::done(AuditAction::CacheCleared, "somebody", "by a test", "c-1");
    store.append_audit(draft, Some(&tenant("acme")), None, None).await.expect("appended");
}

async fn append_event(store: &Store) {
    let event = EventDraft::health_check("c-1", &instance_id("i1"), true, "fine", 1);
    store.append_events(vec![(tenant("acme"), Some(instance_id("i1")), event)]).await.expect("appended");
}

/// The logs hold this many rows, in their order and whole.
pub(crate) async fn assert_logs(store: &Store, executions: u64, events: usize, audited: u64) {
    assert_eq!(store.count_executions(&ExecutionFilter::default(), 10_000).await.expect("counted"), executions);
    let listed = store.list_events(&EventFilter::default(), EventCursor::After(None), 10_000).await.expect("listed");
    assert_eq!(listed.len(), events);
    let report = store.verify_audit(None, |_| ()).await.expect("read");
    assert_eq!((report.fault, report.rows), (None, audited));
}

#[tokio::test]
async fn a_process_that_writes_alone_needs_one_statement() {
    let Some(harness) = Harness::postgres().await else { return };
    let store = &harness.store;
    harness.tamper(NOTE_STATEMENTS).await;
    let mut other = Other::connect(&harness).await;
    let mut signal = store.event_signal();
    put(store, 5).await;
    assert_eq!(other.noted().await, [false, false, true, true, true]);
    signal.mark_unchanged();
    put(store, 1).await;
    assert!(signal.has_changed().expect("open"));
    other.noted().await;
    append_event(store).await;
    put(store, 1).await;
    append_audit(store).await;
    put(store, 1).await;
    assert_eq!(other.noted().await, [true, true], "it knows its own transactions");
    let second = harness.second().await;
    put(&second, 3).await;
    put(store, 3).await;
    append_event(&second).await;
    put(store, 3).await;
    append_audit(&second).await;
    put(store, 3).await;
    assert_eq!(other.noted().await, [false, false, true].repeat(4), "it reads the ends after another's, twice");
    second.close().await;
    assert_logs(store, 20, 22, 22).await;
    harness.finish().await;
}

#[tokio::test]
async fn what_a_record_changes_besides_is_in_the_statement() {
    let Some(harness) = Harness::postgres().await else { return };
    let store = &harness.store;
    publish_petshop(store).await;
    let instance = add_instance(store, "i1").await.id;
    harness.tamper(NOTE_STATEMENTS).await;
    let mut other = Other::connect(&harness).await;
    put(store, 2).await;
    harness.clock.advance(DAY / 24);
    let row = execution(store, "i1");
    let used = row.finished_at;
    let claim = IdempotencyClaim {
        tenant: row.tenant_id.clone(),
        instance: row.integration_instance_id.clone(),
        method: row.method_name.clone(),
        key: "key".to_owned(),
        fingerprint: [7; 32],
        execution_id: row.id,
    };
    let open = IdempotencyClaim { key: "open".to_owned(), ..claim.clone() };
    for claim in [&claim, &open] {
        assert_eq!(store.claim_idempotency(claim, DAY).await.expect("claimed"), IdempotencyState::Claimed);
    }
    let mut record = record(row.clone());
    record.idempotency = Some(claim.clone());
    record.answer = Some(Bytes::from_static(b"\x00\xFFanswer"));
    record.params = Some(Bytes::from_static(b"{\"a\": \"\\u0000\"}"));
    store.record(record).await.expect("recorded");
    assert_eq!(other.noted().await, [false, false, true]);
    let answered = store.claim_idempotency(&claim, DAY).await.expect("claimed");
    let answer = Bytes::from_static(b"\x00\xFFanswer");
    assert_eq!(answered, IdempotencyState::Answered { execution_id: row.id, answer });
    let waiting = store.claim_idempotency(&open, DAY).await.expect("claimed");
    assert!(matches!(waiting, IdempotencyState::InProgress { .. }), "{waiting:?}");
    assert_eq!(store.instance(&instance).await.expect("read").expect("there").last_used_at, used);
    let params = store.execution_params(row.id).await.expect("read").expect("kept");
    assert_eq!(params.as_ref(), b"{\"a\": \"\\u0000\"}");
    harness.finish().await;
}

#[tokio::test]
async fn an_event_that_came_meanwhile_is_followed() {
    let Some(harness) = Harness::postgres().await else { return };
    let store = &harness.store;
    put(store, 3).await;
    let mut other = Other::connect(&harness).await;
    other.run("begin; update event_head set last_id = decode('019f' || repeat('ff', 14), 'hex')").await;
    let waiting = put_later(store);
    other.waits_for(other.pid).await;
    other.run("commit").await;
    waiting.await.expect("no panic").expect("recorded");
    let events = store.list_events(&EventFilter::default(), EventCursor::After(None), 10).await.expect("listed");
    let last = events.last().expect("an event").id;
    assert!(last.as_bytes().as_slice() > &[0x01, 0x9f, 0xff, 0xff][..], "{last} comes after what was committed before");
    assert_logs(store, 4, 4, 4).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_row_of_the_audit_that_came_meanwhile_is_followed() {
    let Some(harness) = Harness::postgres().await else { return };
    let second = harness.second().await;
    put(&harness.store, 3).await;
    let mut other = Other::connect(&harness).await;
    other.run("begin; select from audit_chain for update").await;
    let appending = tokio::spawn({
        let second = second.clone();
        async move { append_audit(&second).await }
    });
    let appender = other.waits_for(other.pid).await;
    let recording = put_later(&harness.store);
    other.waits_for(appender).await;
    other.run("rollback").await;
    appending.await.expect("no panic");
    recording.await.expect("no panic").expect("recorded");
    second.close().await;
    assert_logs(&harness.store, 4, 4, 5).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_record_that_the_database_refuses_takes_no_other_with_it() {
    let Some(harness) = Harness::postgres().await else { return };
    let store = &harness.store;
    harness.tamper("alter table events_p20260310 add check (correlation_id <> 'bad')").await;
    put(store, 3).await;
    let mut other = Other::connect(&harness).await;
    other.run("begin; select from event_head for update").await;
    let mut recording = vec![put_later(store)];
    other.waits_for(other.pid).await;
    // The others come together while the first waits.
    let mut bad = execution(store, "i1");
    "bad".clone_into(&mut bad.correlation_id);
    let mut refused = Box::pin(store.record(record(bad)));
    assert!(std::future::poll_fn(|context| std::task::Poll::Ready(refused.as_mut().poll(context))).await.is_pending());
    recording.extend((0..5).map(|_| put_later(store)));
    other.run("rollback").await;
    for recorded in recording {
        recorded.await.expect("no panic").expect("recorded");
    }
    let refused = refused.await;
    assert!(matches!(refused, Err(StoreError::Database(_))), "{refused:?}");
    assert_logs(store, 9, 9, 9).await;
    put(store, 3).await;
    assert_logs(store, 12, 12, 12).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_connection_that_breaks_loses_no_record() {
    let Some(harness) = Harness::postgres().await else { return };
    let store = &harness.store;
    put(store, 3).await;
    let mut other = Other::connect(&harness).await;
    other.run("begin; select from event_head for update").await;
    let recording = put_later(store);
    let writer = other.waits_for(other.pid).await;
    sqlx::query("select pg_terminate_backend($1)").bind(writer).execute(&mut other.connection).await.expect("ended");
    other.run("rollback").await;
    recording.await.expect("no panic").expect("recorded");
    put(store, 3).await;
    assert_logs(store, 7, 7, 7).await;
    harness.finish().await;
}

#[tokio::test]
async fn processes_that_write_by_turns_and_at_once_keep_one_order() {
    let Some(harness) = Harness::postgres().await else { return };
    publish_petshop(&harness.store).await;
    add_instance(&harness.store, "i1").await;
    let second = harness.second().await;
    let mut writers = Vec::new();
    for store in [&harness.store, &second] {
        for number in 0..5 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                for _ in 0..6 {
                    if number == 0 {
                        append_event(&store).await;
                        append_audit(&store).await;
                    } else {
                        put(&store, 1).await;
                    }
                }
            }));
        }
    }
    read_on_while(&harness.store, writers).await;
    for _ in 0..4 {
        put(&harness.store, 4).await;
        put(&second, 4).await;
    }
    second.close().await;
    // Three rows tell of the definition and its instance.
    assert_logs(&harness.store, 80, 92, 95).await;
    harness.finish().await;
}
