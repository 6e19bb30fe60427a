//! The spool on PostgreSQL: tables of each process, beside the logs that all share.

use bytes::Bytes;
use integration_model::execution::Execution;
use integration_store::{AuditFilter, AuditOrder, ExecutionFilter, ExecutionRecord, JournalSync, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Row};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::audit::prepared;
use crate::events::read_on_while;
use crate::fixtures::{execution, record};
use crate::harness::{DAY, Harness};
use crate::one_statement::{Other, assert_logs, put};
use crate::spool::{open, record_of, rows};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

impl Other {
    async fn texts(&mut self, query: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut self.connection).await.expect(query);
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The tables of all spools.
    async fn tables(&mut self) -> Vec<String> {
        self.texts(
            "select tablename::text from pg_tables where schemaname = current_schema() and tablename like 'spool\\__%' \
             and tablename <> 'spools' order by 1",
        )
        .await
    }

    async fn sessions(&mut self) -> usize {
        self.texts("select worker from spools").await.len()
    }
}

/// Has nobody write the logs until it is told to end.
async fn hold_logs(harness: &Harness) -> Other {
    let mut other = Other::connect(harness).await;
    other.run("begin; select from event_head for update").await;
    other
}

fn read_later(store: &Store, row: &Execution) -> JoinHandle<bool> {
    let (store, id) = (store.clone(), row.id);
    tokio::spawn(async move { store.execution(id).await.expect("read").is_some() })
}

#[tokio::test]
async fn a_caller_waits_for_no_other_process_and_readers_find_its_record() {
    let Some(harness) = Harness::postgres().await else { return };
    let (folder, other_folder) = (folder(), folder());
    let store = open(&harness, folder.path()).await;
    let second = open(&harness, other_folder.path()).await;
    let mut other = hold_logs(&harness).await;
    let rows: Vec<Execution> = (0..3).map(|_| execution(&store, "i1")).collect();
    for row in &rows {
        store.record(record(row.clone())).await.expect("recorded while the logs are held");
    }
    put(&second, 2).await;
    assert_eq!(other.sessions().await, 2);
    let readers: Vec<_> = [&store, &second, &harness.store].map(|reader| read_later(reader, &rows[2])).into();
    other.waits_for(other.pid).await;
    assert!(readers.iter().all(|reader| !reader.is_finished()), "they wait for what was recorded");
    other.run("rollback").await;
    for reader in readers {
        assert!(reader.await.expect("no panic"), "it is found");
    }
    assert_logs(&second, 5, 5, 5).await;
    store.close().await;
    second.close().await;
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0), "nothing is left");
    harness.finish().await;
}

#[tokio::test]
async fn what_one_process_answers_the_other_finds_at_once() {
    let Some(harness) = Harness::postgres().await else { return };
    let (folder, other_folder) = (folder(), folder());
    let stores = [open(&harness, folder.path()).await, open(&harness, other_folder.path()).await];
    for number in 1..=40 {
        let (one, another) = (&stores[number % 2], &stores[1 - number % 2]);
        let row = execution(one, "i1");
        one.record(record(row.clone())).await.expect("recorded");
        assert!(another.execution(row.id).await.expect("read").is_some(), "execution {number}");
        assert_eq!(rows(another).await, (number, number, number));
    }
    for store in &stores {
        store.close().await;
    }
    harness.finish().await;
}

#[tokio::test]
async fn processes_with_spools_keep_one_order() {
    let Some(harness) = Harness::postgres().await else { return };
    let (folder, other_folder) = (folder(), folder());
    let stores = [open(&harness, folder.path()).await, open(&harness, other_folder.path()).await];
    let writers = stores.iter().flat_map(|store| {
        (0..3).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                put(&store, 10).await;
                // Who reads on sees what is committed.
                store.count_executions(&ExecutionFilter::default(), 1).await.expect("settled");
            })
        })
    });
    read_on_while(&harness.store, writers.collect()).await;
    for store in stores.iter().cycle().take(6) {
        put(store, 4).await;
    }
    assert_logs(&harness.store, 84, 84, 84).await;
    for store in &stores {
        store.close().await;
    }
    harness.finish().await;
}

/// The name of the schema that a store is in.
fn schema(harness: &Harness) -> &str {
    harness.url.rsplit('=').next().expect("the search path")
}

#[tokio::test]
async fn what_a_killed_process_did_not_commit_is_committed_once() {
    let (Some(of_dead), Some(harness)) = (Harness::postgres().await, Harness::postgres().await) else { return };
    let (folder, next_folder) = (folder(), folder());
    let credential = prepared(&of_dead.store).await;
    prepared(&harness.store).await;
    let dead = open(&of_dead, folder.path()).await;
    let mut other = hold_logs(&of_dead).await;
    let (row, of_row) = record_of(&dead, credential);
    dead.record(of_row).await.expect("recorded");
    for _ in 0..2 {
        dead.record(record(execution(&dead, "pets"))).await.expect("recorded");
    }
    // To a database that has none of it, as if the process had died before its commit.
    let to = schema(&harness);
    let tables = other.tables().await;
    assert_eq!(tables.len(), 2);
    for table in &tables {
        other.run(&format!("create table {to}.{table} as table {table}")).await;
    }
    other.run(&format!("insert into {to}.spools select id, worker, 0, begun_at from spools")).await;
    other.run("commit").await;
    let mut other = Other::connect(&harness).await;
    other.run("create table kept_spools as table spools").await;
    for (number, table) in tables.iter().enumerate() {
        other.run(&format!("create table kept_{number} as table {table}")).await;
    }

    let next = open(&harness, next_folder.path()).await;
    assert_eq!(next.recover_spool().await.expect("looked"), 0, "the session lives");
    assert_eq!(other.sessions().await, 1);
    dead.close().await;
    assert_eq!(next.recover_spool().await.expect("recovered"), 3);
    assert_eq!(rows(&next).await, (3, 3, 3));
    let read = next.execution(row.id).await.expect("read").expect("recovered");
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&row).unwrap());
    let params = next.execution_params(row.id).await.expect("read").expect("kept");
    assert_eq!(params, "{\"name\": \"Ti\\\"ll\"}");
    assert_eq!(next.verify_audit(None, |_| ()).await.expect("read").fault, None);
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0));

    // To the one that has it: as if it had died between its commit and the note of it.
    for (number, table) in tables.iter().enumerate() {
        other.run(&format!("create table {table} as table kept_{number}")).await;
    }
    other.run("insert into spools select * from kept_spools").await;
    assert_eq!(next.recover_spool().await.expect("looked"), 0);
    assert_eq!(rows(&next).await, (3, 3, 3));
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0));
    next.close().await;
    of_dead.finish().await;
    harness.finish().await;
}

#[tokio::test]
async fn a_table_is_emptied_when_the_logs_have_it_whoever_reads_it() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let store = open(&harness, folder.path()).await;
    put(&store, 1).await;
    let mut other = Other::connect(&harness).await;
    let tables = other.tables().await;
    let params = Bytes::from(format!("{:?}", "x".repeat(32_000)));
    let held = format!("select ((select count(*) from {}) + (select count(*) from {}))::text", tables[0], tables[1]);
    // A table holds 8 MiB.
    let mut counts = Vec::new();
    for number in 0..12 {
        if number == 4 {
            other.run(&format!("begin; lock table {}, {} in access share mode", tables[0], tables[1])).await;
        }
        if number == 8 {
            other.run("commit").await;
            // Another try comes after a second.
            harness.clock.advance(std::time::Duration::from_secs(2));
        }
        let records =
            (0..100).map(|_| ExecutionRecord { params: Some(params.clone()), ..record(execution(&store, "i1")) });
        let recorded: Vec<_> = records
            .map(|record| {
                let store = store.clone();
                tokio::spawn(async move { store.record(record).await })
            })
            .collect();
        for task in recorded {
            task.await.expect("it runs").expect("recorded");
        }
        store.list_audit(&AuditFilter::default(), AuditOrder::NewestFirst, None, 1).await.expect("settled");
        counts.push(other.texts(&held).await[0].parse::<usize>().expect("a number"));
    }
    assert!(counts[..4].iter().all(|count| *count < 400), "{counts:?}");
    assert!(counts[8..].iter().any(|count| *count < 400), "{counts:?}");
    assert_logs(&store, 1_201, 1_201, 1_201).await;
    store.close().await;
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0));
    harness.finish().await;
}

#[tokio::test]
async fn a_session_that_breaks_is_followed_by_another() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let store = open(&harness, folder.path()).await;
    put(&store, 3).await;
    let mut other = Other::connect(&harness).await;
    let tables = other.tables().await;
    other
        .run(
            "select pg_terminate_backend(l.pid) from pg_locks l, spools s where l.locktype = 'advisory' and l.granted \
             and l.objid::bigint = ('x' || encode(substring(s.id from 13 for 4), 'hex'))::bit(32)::bigint",
        )
        .await;
    put(&store, 1).await;
    put(&store, 3).await;
    assert_eq!(other.sessions().await, 2);
    assert_eq!(store.recover_spool().await.expect("recovered"), 0, "the logs have all of it");
    assert_eq!(other.sessions().await, 1);
    assert!(other.tables().await.iter().all(|table| !tables.contains(table)));
    assert_logs(&store, 7, 7, 7).await;
    store.close().await;
    assert_eq!(other.sessions().await, 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_session_that_is_not_used_ends() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let store = open(&harness, folder.path()).await;
    let mut other = Other::connect(&harness).await;
    put(&store, 2).await;
    assert_eq!(store.recover_spool().await.expect("looked"), 0);
    assert_eq!(other.sessions().await, 1, "it was used lately");
    assert_logs(&store, 2, 2, 2).await;
    harness.clock.advance(DAY / 24);
    assert_eq!(store.recover_spool().await.expect("looked"), 0);
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0));
    put(&store, 1).await;
    assert_logs(&store, 3, 3, 3).await;
    store.close().await;
    harness.finish().await;
}

#[tokio::test]
async fn a_session_ends_with_its_process_whose_thread_ended_before() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let store = open(&harness, folder.path()).await;
    let of_thread = store.clone();
    let served = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(put(&of_thread, 3));
    });
    served.join().expect("no panic");
    let mut other = Other::connect(&harness).await;
    assert_eq!(other.sessions().await, 1);
    store.close().await;
    assert_eq!((other.sessions().await, other.tables().await.len()), (0, 0));
    assert_logs(&harness.store, 3, 3, 3).await;
    harness.finish().await;
}

#[tokio::test]
async fn what_cannot_be_recovered_keeps_nobody_from_the_logs() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let mut other = Other::connect(&harness).await;
    let id = integration_store::Ids::new(harness.clock.clone()).next().simple();
    for place in 0..2 {
        other.run(&format!("create table spool_{id}_{place} (number bigint not null, record bytea not null)")).await;
    }
    other.run(&format!("insert into spool_{id}_0 values (1, 'of a later version')")).await;
    other.run(&format!("insert into spools values (decode('{id}', 'hex'), 'gone', 0, 0)")).await;
    let store = open(&harness, folder.path()).await;
    put(&store, 2).await;
    assert_logs(&store, 2, 2, 2).await;
    assert_eq!(store.recover_spool().await.expect("looked"), 0);
    assert_eq!(other.sessions().await, 2, "it is kept");
    store.close().await;
    harness.finish().await;
}

#[tokio::test]
async fn who_wants_it_waits_for_the_logs() {
    let Some(harness) = Harness::postgres().await else { return };
    let folder = folder();
    let options = StoreOptions { spool_folder: Some(folder.path().to_owned()), ..harness.options() };
    let store = Store::open(StoreOptions { journal_sync: JournalSync::Full, ..options }).await.expect("opened");
    put(&store, 1).await;
    let mut other = hold_logs(&harness).await;
    let recording = tokio::spawn({
        let store = store.clone();
        async move { put(&store, 1).await }
    });
    other.waits_for(other.pid).await;
    assert!(!recording.is_finished());
    other.run("rollback").await;
    recording.await.expect("no panic");
    assert_eq!(other.sessions().await, 0);
    store.close().await;
    harness.finish().await;
}
