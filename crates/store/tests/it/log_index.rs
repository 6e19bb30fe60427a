//! Lists by instance while the logs are indexed: always the rows that a list of all has.

use std::collections::BTreeSet;
use std::time::Duration;

use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionStatus};
use integration_model::{ExecutionId, InstanceId, TenantId, Timestamp};
use integration_store::{EventCursor, EventFilter, ExecutionFilter, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection, Row};
use uuid::Uuid;

use crate::fixtures::{execution, instance_id, record, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    lists_by_instance_are_those_of_all_rows,
    lists_lose_nothing_while_two_processes_index,
    an_execution_that_took_long_is_in_its_place,
    chunks_of_executions_that_took_long_do_not_hide_the_others,
);

/// So many rows make a chunk here.
const CHUNK: u32 = 8;
const INSTANCES: [&str; 4] = ["i0", "i1", "i2", "rare"];
const METHODS: [&str; 2] = ["getPet", "addPet"];

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len())].clone()) }
    }

    fn instance(&mut self) -> &'static str {
        if self.one_in(40) { "rare" } else { INSTANCES[self.below(3)] }
    }
}

/// The only number of an answer, read behind the store's back.
async fn number(harness: &Harness, query: &str) -> i64 {
    let mut connection = sqlx::SqliteConnection::connect(&harness.url).await.expect("connected");
    let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut connection).await.expect(query);
    connection.close().await.expect("closed");
    row.get(0)
}

fn some_execution(store: &Store, dice: &mut Dice) -> Execution {
    let mut row = execution(store, dice.instance());
    row.tenant_id = tenant(if dice.one_in(3) { "other" } else { "acme" });
    METHODS[dice.below(2)].clone_into(&mut row.method_name);
    if dice.one_in(5) {
        row.status = ExecutionStatus::Error;
    }
    row.correlation_id = format!("{}/{}", row.integration_instance_id, row.tenant_id);
    row
}

/// An event whose correlation id says of which instance and tenant it is, as executions' do.
fn event(instance: Option<&str>, tenant_id: &str) -> (TenantId, Option<InstanceId>, EventDraft) {
    let named = instance_id(instance.unwrap_or("none"));
    let draft = EventDraft::health_check(&format!("{named}/{tenant_id}"), &named, true, "fine", 1);
    (tenant(tenant_id), instance.map(instance_id), draft)
}

fn some_event(dice: &mut Dice) -> (TenantId, Option<InstanceId>, EventDraft) {
    let instance = (!dice.one_in(9)).then(|| dice.instance());
    event(instance, if dice.one_in(3) { "other" } else { "acme" })
}

async fn append_events(store: &Store, instance: Option<&str>, count: usize) {
    store.append_events(vec![event(instance, "acme"); count]).await.expect("appended");
}

async fn lists_by_instance_are_those_of_all_rows(harness: &Harness) {
    let store = &harness.store;
    let second = harness.second().await;
    let mut dice = Dice(7);
    let mut running: Vec<Execution> = Vec::new();
    for phase in 0..6 {
        for _ in 0..60 {
            running.push(some_execution(store, &mut dice));
            harness.clock.advance(Duration::from_millis(3));
            // Most end at once, some long after others that began later.
            while running.len() > 6 || dice.one_in(2) && !running.is_empty() {
                let place = if dice.one_in(4) { 0 } else { running.len() - 1 };
                store.record(record(running.remove(place))).await.expect("recorded");
            }
            if dice.one_in(5) {
                let events = (0..5).map(|_| some_event(&mut dice)).collect();
                store.append_events(events).await.expect("appended");
            }
        }
        compare(store, &mut dice).await;
        match phase {
            // The first are left for a while.
            0 | 1 => {}
            2 => second.index_logs(CHUNK).await.expect("indexed"),
            _ => store.index_logs(CHUNK).await.expect("indexed"),
        }
        compare(store, &mut dice).await;
        compare(&second, &mut dice).await;
        if phase % 2 == 1 {
            harness.clock.advance(DAY * 3 / 4);
        }
    }
    for _ in 0..10 {
        store.index_logs(CHUNK).await.expect("indexed");
    }
    compare(&second, &mut dice).await;
    if !harness.is_postgres() {
        for log in ["executions", "events"] {
            let days = format!("select count(distinct day) from log_chunks where log = '{log}' and chunk > 1");
            assert!(number(harness, &days).await > 1, "chunks of {log}");
        }
    }
    second.close().await;
}

/// Holds lists and counts by instance to what is said of all rows.
async fn compare(store: &Store, dice: &mut Dice) {
    let all = store.list_executions(&ExecutionFilter::default(), None, 10_000).await.expect("listed");
    assert!(all.is_sorted_by(|a, b| a.id > b.id));
    for _ in 0..12 {
        let time = |dice: &mut Dice| dice.of(&all).filter(|_| dice.one_in(4)).map(|row| row.created_at);
        let filter = ExecutionFilter {
            tenant: dice.one_in(3).then(|| tenant("acme")),
            instance: Some(instance_id(dice.of(&INSTANCES).expect("some"))),
            method: dice.one_in(3).then(|| METHODS[0].to_owned()),
            status: dice.one_in(3).then_some(ExecutionStatus::Error),
            created_from: time(dice),
            created_until: time(dice),
            correlation_id: dice.of(&all).filter(|_| dice.one_in(4)).map(|row| row.correlation_id),
        };
        let cursor = dice.of(&all).filter(|_| !dice.one_in(3)).map(|row| row.id);
        let limit = [1, 3, 20, 1_000][dice.below(4)];
        let passing: Vec<ExecutionId> = all.iter().filter(|row| passes(&filter, row)).map(|row| row.id).collect();
        let expected: Vec<ExecutionId> =
            passing.iter().copied().filter(|id| cursor.is_none_or(|cursor| *id < cursor)).take(limit).collect();
        let limit = u32::try_from(limit).expect("small");
        let listed = store.list_executions(&filter, cursor, limit).await.expect("listed");
        let listed: Vec<ExecutionId> = listed.into_iter().map(|row| row.id).collect();
        assert_eq!(listed, expected, "{filter:?} before {cursor:?}, up to {limit}");
        for max in [1, 10, 100_000] {
            let count = store.count_executions(&filter, max).await.expect("counted");
            assert_eq!(count, max.min(passing.len() as u64), "{filter:?}, up to {max}");
        }
    }
    compare_events(store, dice).await;
}

fn passes(filter: &ExecutionFilter, row: &Execution) -> bool {
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant_id)
        && filter.instance.as_ref().is_none_or(|instance| *instance == row.integration_instance_id)
        && filter.method.as_ref().is_none_or(|method| *method == row.method_name)
        && filter.status.is_none_or(|status| status == row.status)
        && filter.created_from.is_none_or(|from| row.created_at >= from)
        && filter.created_until.is_none_or(|until| row.created_at < until)
        && filter.correlation_id.as_ref().is_none_or(|id| *id == row.correlation_id)
}

async fn compare_events(store: &Store, dice: &mut Dice) {
    let all = store.list_events(&EventFilter::default(), EventCursor::After(None), 10_000).await.expect("listed");
    let all: Vec<(Uuid, Timestamp, String)> =
        all.into_iter().map(|event| (event.id, event.timestamp, event.metadata.correlation_id)).collect();
    for _ in 0..12 {
        let instance = dice.of(&INSTANCES).expect("some");
        let time = |dice: &mut Dice| dice.of(&all).filter(|_| dice.one_in(4)).map(|event| event.1);
        let filter = EventFilter {
            types: Vec::new(),
            tenant: dice.one_in(3).then(|| tenant("acme")),
            instance: Some(instance_id(instance)),
            from: time(dice),
            until: time(dice),
        };
        let from = dice.of(&all).filter(|_| !dice.one_in(3)).map(|event| event.0);
        let limit = [1, 3, 20, 1_000][dice.below(4)];
        let mut expected: Vec<Uuid> = all
            .iter()
            .filter(|(_, at, marks)| {
                let (named, of_tenant) = marks.split_once('/').expect("marks");
                named == instance
                    && filter.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == of_tenant)
                    && filter.from.is_none_or(|from| *at >= from)
                    && filter.until.is_none_or(|until| *at < until)
            })
            .map(|event| event.0)
            .collect();
        let cursor = if dice.one_in(2) {
            expected.retain(|id| from.is_none_or(|from| *id > from));
            EventCursor::After(from)
        } else {
            expected.retain(|id| from.is_none_or(|from| *id < from));
            expected.reverse();
            EventCursor::Before(from)
        };
        expected.truncate(limit);
        let limit = u32::try_from(limit).expect("small");
        let listed = store.list_events(&filter, cursor, limit).await.expect("listed");
        assert_eq!(listed.iter().map(|event| event.id).collect::<Vec<_>>(), expected, "{filter:?} {cursor:?} {limit}");
        let stretch = store.read_events(&filter, cursor, limit).await.expect("read");
        assert_eq!(stretch.events.iter().map(|event| event.id).collect::<Vec<_>>(), expected);
    }
}

async fn lists_lose_nothing_while_two_processes_index(harness: &Harness) {
    let store = &harness.store;
    let second = harness.second().await;
    let indexers: Vec<_> = [store.clone(), second.clone()]
        .into_iter()
        .map(|store| {
            tokio::spawn(async move {
                for _ in 0..150 {
                    // A process that waits too long for the other's lock comes back.
                    drop(store.index_logs(CHUNK).await);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let of_instance = ExecutionFilter { instance: Some(instance_id("i1")), ..ExecutionFilter::default() };
    let events_of_instance = EventFilter { instance: Some(instance_id("i1")), ..EventFilter::default() };
    let (mut recorded, mut seen, mut last) = (BTreeSet::new(), Vec::new(), None);
    for round in 0..60 {
        for number in 0..4 {
            let writer = if number % 2 == 0 { store } else { &second };
            let row = execution(writer, if number == 3 { "i2" } else { "i1" });
            if number != 3 {
                recorded.insert(row.id);
            }
            writer.record(record(row)).await.expect("recorded");
        }
        let reader = if round % 2 == 0 { &second } else { store };
        let listed = reader.list_executions(&of_instance, None, 10_000).await.expect("listed");
        assert!(listed.is_sorted_by(|a, b| a.id > b.id), "each once, in order");
        assert_eq!(listed.iter().map(|row| row.id).collect::<BTreeSet<_>>(), recorded);
        assert_eq!(reader.count_executions(&of_instance, 10_000).await.expect("counted"), recorded.len() as u64);
        let events = reader.list_events(&events_of_instance, EventCursor::After(last), 100).await.expect("listed");
        last = events.last().map(|event| event.id).or(last);
        seen.extend(events.into_iter().map(|event| event.id));
        assert_eq!(seen.len(), recorded.len());
    }
    for indexer in indexers {
        indexer.await.expect("no panic");
    }
    if !harness.is_postgres() {
        store.index_logs(CHUNK).await.expect("indexed");
        second.index_logs(CHUNK).await.expect("indexed");
        for table in ["executions", "events"] {
            let entries = format!("select count(*) from {table}_p20260310_by_instance");
            let places = format!("select count(distinct place) from {table}_p20260310_by_instance");
            let entries = number(harness, &entries).await;
            assert!(entries > 200 && entries % i64::from(CHUNK) == 0, "{entries}");
            assert_eq!(entries, number(harness, &places).await, "each row once");
        }
    }
    second.close().await;
}

async fn an_execution_that_took_long_is_in_its_place(harness: &Harness) {
    let store = &harness.store;
    let mut expected = Vec::new();
    let mut late = Vec::new();
    for number in 0..100 {
        harness.clock.advance(Duration::from_millis(1));
        let row = execution(store, if number % 10 == 0 { "i1" } else { "i2" });
        if number % 10 == 0 {
            expected.push(row.id);
        }
        if number % 20 == 0 { late.push(row) } else { store.record(record(row)).await.expect("recorded") }
    }
    store.index_logs(CHUNK).await.expect("indexed");
    for row in late {
        store.record(record(row)).await.expect("recorded");
        for _ in 0..7 {
            store.record(record(execution(store, "i2"))).await.expect("recorded");
        }
    }
    store.index_logs(CHUNK).await.expect("indexed");
    expected.reverse();
    assert_pages(store, &expected).await;
}

async fn chunks_of_executions_that_took_long_do_not_hide_the_others(harness: &Harness) {
    let store = &harness.store;
    let rows: Vec<Execution> = (0..32).map(|_| execution(store, "i1")).collect();
    let expected: Vec<ExecutionId> = rows.iter().rev().map(|row| row.id).collect();
    // The newest two chunks hold older executions than the ones before them.
    for row in rows[16..].iter().chain(&rows[..16]) {
        store.record(record(row.clone())).await.expect("recorded");
    }
    store.index_logs(CHUNK).await.expect("indexed");
    assert_pages(store, &expected).await;
}

/// Reads all executions of `i1`, page by page.
async fn assert_pages(store: &Store, expected: &[ExecutionId]) {
    let filter = ExecutionFilter { instance: Some(instance_id("i1")), ..ExecutionFilter::default() };
    for limit in [1, 2, 3] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.list_executions(&filter, cursor, limit).await.expect("listed");
            let Some(row) = page.last() else { break };
            cursor = Some(row.id);
            found.extend(page.into_iter().map(|row| row.id));
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
}

#[tokio::test]
async fn a_backlog_is_indexed_in_portions_and_a_day_that_is_over_wholly() {
    let harness = Harness::sqlite().await;
    let store = &harness.store;
    append_events(store, Some("i1"), 20).await;
    append_events(store, None, 1).await;
    let indexed = "select count(*) from events_p20260310_by_instance";
    store.index_logs(30).await.expect("indexed");
    assert_eq!(number(&harness, indexed).await, 0, "too few for a chunk");
    store.index_logs(1).await.expect("indexed");
    assert_eq!(number(&harness, indexed).await, 16);
    store.index_logs(1).await.expect("indexed");
    assert_eq!(number(&harness, indexed).await, 20, "an event of no instance has no entry");
    append_events(store, Some("i1"), 3).await;
    harness.clock.advance(DAY);
    store.index_logs(30).await.expect("indexed");
    assert_eq!(number(&harness, indexed).await, 20, "rows may still come");
    harness.clock.advance(DAY);
    store.index_logs(30).await.expect("indexed");
    assert_eq!(number(&harness, indexed).await, 23);
    harness.finish().await;
}

#[tokio::test]
async fn a_day_is_dropped_with_its_index() {
    let harness = Harness::sqlite().await;
    let store = &harness.store;
    for _ in 0..20 {
        store.record(record(execution(store, "i1"))).await.expect("recorded");
    }
    store.index_logs(CHUNK).await.expect("indexed");
    let tables = "select count(*) from sqlite_schema where type = 'table' and name like '%_p20260310%by_instance'";
    let chunks = "select count(*) from log_chunks where day = 20522 and chunk > 0";
    assert_eq!((number(&harness, tables).await, number(&harness, chunks).await), (2, 4));
    harness.clock.advance(9 * DAY);
    store.drop_expired_partitions().await.expect("dropped");
    store.index_logs(CHUNK).await.expect("nothing to index");
    let left = "select count(*) from log_chunks where day = 20522";
    assert_eq!((number(&harness, tables).await, number(&harness, left).await), (0, 0));
    let filter = ExecutionFilter { instance: Some(instance_id("i1")), ..ExecutionFilter::default() };
    assert!(store.list_executions(&filter, None, 10).await.expect("listed").is_empty());
    harness.finish().await;
}

/// What a version without chunks left behind.
const BEFORE_CHUNKS: &str = "
    drop table log_chunks;
    delete from schema_migrations where version = 10;
    drop table executions_p20260310;
    drop table executions_p20260310_by_instance;
    drop table events_p20260310_by_instance;
    create table executions_p20260310 (
        id blob not null primary key, tenant_id text not null, instance_id text not null, definition_id text not null,
        definition_version text not null, method text not null, status text not null, mode text not null, error text,
        attempts bigint not null, cached bigint not null, upstream_status bigint, data_size bigint,
        created_at bigint not null, finished_at bigint, duration_ms bigint, principal text not null,
        correlation_id text not null, task_id text, replay_of blob, params text, data text
    );
    create index executions_p20260310_instance on executions_p20260310 (instance_id, id);
    create index executions_p20260310_error on executions_p20260310 (id) where status = 'ERROR';
    create index events_p20260310_instance on events_p20260310 (instance_id, id);";

async fn fill(store: &Store, dice: &mut Dice) {
    for _ in 0..40 {
        store.record(record(some_execution(store, dice))).await.expect("recorded");
    }
    store.append_events((0..40).map(|_| some_event(dice)).collect()).await.expect("appended");
}

#[tokio::test]
async fn a_database_in_memory_is_indexed_too() {
    let harness = Harness::sqlite().await;
    let options = StoreOptions { database_url: "sqlite::memory:".to_owned(), ..harness.options() };
    let store = Store::open(options).await.expect("opened");
    let mut dice = Dice(5);
    fill(&store, &mut dice).await;
    store.index_logs(CHUNK).await.expect("indexed");
    compare(&store, &mut dice).await;
    store.close().await;
    harness.finish().await;
}

#[tokio::test]
async fn tables_from_before_there_were_chunks_keep_their_index() {
    let mut harness = Harness::sqlite().await;
    harness.store.close().await;
    harness.tamper(BEFORE_CHUNKS).await;
    harness.store = harness.second().await;
    let store = &harness.store;
    let mut dice = Dice(3);
    fill(store, &mut dice).await;
    store.index_logs(CHUNK).await.expect("indexed");
    compare(store, &mut dice).await;
    harness.clock.advance(2 * DAY);
    store.drop_expired_partitions().await.expect("made");
    fill(store, &mut dice).await;
    store.index_logs(CHUNK).await.expect("indexed");
    compare(store, &mut dice).await;
    assert_eq!(number(&harness, "select count(*) from log_chunks where day = 20522").await, 0);
    assert!(number(&harness, "select count(*) from log_chunks where day = 20524 and chunk > 0").await > 2);
    harness.clock.advance(8 * DAY);
    let dropped = store.drop_expired_partitions().await.expect("dropped");
    assert!(dropped.contains(&"executions_p20260310".to_owned()), "{dropped:?}");
    compare(store, &mut dice).await;
    harness.finish().await;
}
