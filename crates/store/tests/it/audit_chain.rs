//! The chain of the audit's rows: whatever is done to them behind the service's back shows.

use integration_model::audit::{AuditAction, AuditDraft, AuditEntry};
use integration_store::{
    AuditCursor, AuditFilter, AuditHead, AuditOrder, AuditReport, ExecutionRecord, FaultKind, Store,
};

use crate::fixtures::{execution, instance_id, record, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both! {
    what_was_not_touched_fits,
    each_changed_column_shows,
    a_removed_row_shows,
    an_added_row_shows,
    rows_that_changed_places_show,
    removed_newest_rows_show,
    newest_rows_that_were_replaced_show,
    a_head_that_was_kept_elsewhere_is_compared,
    retention_is_no_tampering_and_tampering_is_no_retention,
    two_processes_write_one_chain,
    executions_without_a_credential_have_a_row,
    rows_from_before_the_chain_are_listed_after_it,
    a_page_looks_at_a_bounded_number_of_rows,
    oldest_first_and_newest_first_tell_the_same,
}

/// The table of the day on which tests begin.
const TABLE: &str = "audit_trail_p20260310";
const ROWS: i64 = 12;

async fn append(store: &Store, principal: &str) {
    let draft = AuditDraft::done(AuditAction::CacheCleared, principal, "by a test", "c-1")
        .with_details(serde_json::json!({"note": "x"}));
    let instance = instance_id("pets");
    store.append_audit(draft, Some(&tenant("acme")), Some(&instance), None).await.expect("appended");
}

/// A chain of both kinds of rows: those of transactions and those of the journal.
async fn chain(harness: &Harness) {
    for number in 0..ROWS {
        if number % 2 == 0 {
            append(&harness.store, "somebody").await;
        } else {
            harness.store.record(record(execution(&harness.store, "pets"))).await.expect("recorded");
        }
    }
    harness.store.keep_audit_head().await.expect("kept");
}

async fn verified(store: &Store) -> AuditReport {
    store.verify_audit(None, |_| ()).await.expect("read")
}

async fn fault(store: &Store) -> (FaultKind, i64) {
    let report = verified(store).await;
    let fault = report.fault.unwrap_or_else(|| panic!("nothing was found: {} rows fit", report.rows));
    assert!(!fault.message.is_empty());
    (fault.kind, fault.sequence)
}

async fn what_was_not_touched_fits(harness: &Harness) {
    let empty = verified(&harness.store).await;
    assert_eq!((empty.rows, empty.head.sequence, empty.fault), (0, 0, None));
    chain(harness).await;
    let report = verified(&harness.store).await;
    assert_eq!((report.rows, report.head.sequence, &report.fault), (ROWS as u64, ROWS, &None));
    assert_eq!(report.newest, Some(harness.store.clock().now()));
    let entries = list(&harness.store, AuditOrder::OldestFirst).await;
    let sequences: Vec<_> = entries.iter().filter_map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=ROWS).collect::<Vec<_>>());
    assert_eq!(
        format!("{ROWS}:{}", entries.last().and_then(|e| e.hash.clone()).expect("a hash")),
        report.head.to_string()
    );
    assert_eq!(report.head.to_string().parse(), Ok(report.head));
}

async fn each_changed_column_shows(harness: &Harness) {
    chain(harness).await;
    let texts = [
        "tenant_id",
        "principal",
        "action",
        "target_type",
        "target_id",
        "outcome",
        "reason",
        "correlation_id",
        "details",
    ];
    let blobs = ["id", "credential_id", "execution_id", "hash"];
    let blob = |byte: &str| {
        let digits = byte.repeat(16);
        if harness.is_postgres() { format!("decode('{digits}', 'hex')") } else { format!("x'{digits}'") }
    };
    let changes = texts
        .iter()
        .map(|column| (*column, "'changed'".to_owned()))
        .chain(blobs.iter().map(|column| (*column, blob("ab"))))
        .chain([
            ("created_at", "created_at + 1".to_owned()),
            ("tenant_id", "null".to_owned()),
            ("details", "''".to_owned()),
        ]);
    // The first row, one amid the others, the last.
    for (column, value) in changes {
        for sequence in [1, 5, ROWS] {
            harness.tamper(&format!("create table kept as select * from {TABLE}")).await;
            harness.tamper(&format!("update {TABLE} set {column} = {value} where sequence = {sequence}")).await;
            let (kind, place) = fault(&harness.store).await;
            assert_eq!((kind, place), (FaultKind::Changed, sequence), "{column}");
            harness
                .tamper(&format!("delete from {TABLE}; insert into {TABLE} select * from kept; drop table kept"))
                .await;
            assert_eq!(verified(&harness.store).await.fault, None);
        }
    }
}

async fn a_removed_row_shows(harness: &Harness) {
    chain(harness).await;
    harness.tamper(&format!("delete from {TABLE} where sequence = 5")).await;
    assert_eq!(fault(&harness.store).await, (FaultKind::Missing, 5));
    // Later rows that move up do not hide it.
    harness.tamper(&format!("update {TABLE} set sequence = -sequence where sequence > 5")).await;
    harness.tamper(&format!("update {TABLE} set sequence = -sequence - 1 where sequence < 0")).await;
    let (_, place) = fault(&harness.store).await;
    assert_eq!(place, 5);
    // Nor does it help to begin later.
    harness.tamper(&format!("delete from {TABLE} where sequence < 9")).await;
    assert_eq!(fault(&harness.store).await.0, FaultKind::Missing);
}

async fn an_added_row_shows(harness: &Harness) {
    chain(harness).await;
    let columns = "created_at, tenant_id, principal, action, target_type, target_id, credential_id, execution_id, \
                   outcome, reason, correlation_id, details, hash";
    let id =
        if harness.is_postgres() { "decode(repeat('cd', 16), 'hex')" } else { "x'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd'" };
    let copy = |to: i64| {
        format!(
            "insert into {TABLE} (sequence, id, {columns}) select {to}, {id}, {columns} from {TABLE} where sequence = 3"
        )
    };
    // At the end.
    harness.tamper(&copy(ROWS + 1)).await;
    assert_eq!(fault(&harness.store).await, (FaultKind::Inserted, ROWS + 1));
    harness.tamper(&format!("delete from {TABLE} where sequence > {ROWS}")).await;
    // Amid the others, which make room.
    harness.tamper(&format!("update {TABLE} set sequence = -sequence where sequence >= 6")).await;
    harness.tamper(&format!("update {TABLE} set sequence = 1 - sequence where sequence < 0")).await;
    harness.tamper(&copy(6)).await;
    assert_eq!(fault(&harness.store).await, (FaultKind::Inserted, 6));
}

async fn rows_that_changed_places_show(harness: &Harness) {
    chain(harness).await;
    harness.tamper(&format!("update {TABLE} set sequence = -4 where sequence = 4")).await;
    harness.tamper(&format!("update {TABLE} set sequence = 4 where sequence = 9")).await;
    harness.tamper(&format!("update {TABLE} set sequence = 9 where sequence = -4")).await;
    assert_eq!(fault(&harness.store).await, (FaultKind::Reordered, 4));
}

async fn removed_newest_rows_show(harness: &Harness) {
    chain(harness).await;
    harness.tamper(&format!("delete from {TABLE} where sequence > 10")).await;
    let report = verified(&harness.store).await;
    assert_eq!((report.rows, report.head.sequence), (10, 10));
    assert_eq!(fault(&harness.store).await, (FaultKind::Missing, 11));
    harness.tamper(&format!("delete from {TABLE}")).await;
    assert_eq!(fault(&harness.store).await, (FaultKind::Missing, 1));
}

async fn newest_rows_that_were_replaced_show(harness: &Harness) {
    chain(harness).await;
    harness.tamper(&format!("delete from {TABLE} where sequence > 8")).await;
    // The service goes on; what it writes does not cover what is gone.
    for _ in 0..10 {
        append(&harness.store, "somebody").await;
    }
    harness.store.keep_audit_head().await.expect("kept");
    let (kind, place) = fault(&harness.store).await;
    if harness.is_postgres() {
        assert_eq!((kind, place), (FaultKind::Missing, 9));
    } else {
        assert_eq!((kind, place), (FaultKind::Rewritten, ROWS));
    }
}

async fn a_head_that_was_kept_elsewhere_is_compared(harness: &Harness) {
    let store = &harness.store;
    chain(harness).await;
    let kept = verified(store).await.head;
    append(store, "somebody").await;
    let expecting = async |head: AuditHead| store.verify_audit(Some(head), |_| ()).await.expect("read").fault;
    assert_eq!(expecting(kept).await, None);
    let other = AuditHead { hash: [7; 32], ..kept };
    assert_eq!(expecting(other).await.expect("a fault").kind, FaultKind::Rewritten);
    // Who also rewrites what the database says of the end is found out by the kept head.
    harness.tamper(&format!("delete from {TABLE} where sequence > 6")).await;
    harness
        .tamper(&format!(
            "update audit_chain set head_sequence = 6, head_hash = (select hash from {TABLE} where sequence = 6)"
        ))
        .await;
    assert_eq!(verified(store).await.fault, None);
    let found = expecting(kept).await.expect("a fault");
    assert_eq!((found.kind, found.sequence), (FaultKind::Missing, 7));
    for text in ["", "7", "x:00", "-1:00", "7:zz"] {
        assert!(text.parse::<AuditHead>().is_err(), "{text}");
    }
}

async fn retention_is_no_tampering_and_tampering_is_no_retention(harness: &Harness) {
    let store = &harness.store;
    chain(harness).await;
    harness.clock.advance(DAY);
    append(store, "of the second day").await;
    harness.clock.advance(30 * DAY);
    store.drop_expired_partitions().await.expect("dropped");
    let report = verified(store).await;
    assert_eq!((report.anchor.sequence, report.rows, report.fault), (ROWS, 1, None));
    // After a rest in which everything went, the chain goes on.
    harness.clock.advance(60 * DAY);
    store.drop_expired_partitions().await.expect("dropped");
    assert!(list(store, AuditOrder::NewestFirst).await.is_empty());
    append(store, "later").await;
    append(store, "later").await;
    let report = verified(store).await;
    assert_eq!((report.anchor.sequence, report.rows, report.fault), (ROWS + 1, 2, None));
    // Who removes the oldest rows by hand cannot make it look so.
    let table = list_tables(store).await;
    harness
        .tamper(&format!(
            "update audit_chain set anchor_sequence = sequence, anchor_hash = hash from {table} where sequence = {}",
            ROWS + 2
        ))
        .await;
    harness.tamper(&format!("delete from {table} where sequence = {}", ROWS + 2)).await;
    assert_eq!(fault(store).await.0, FaultKind::Rewritten);
}

/// The table of today.
async fn list_tables(store: &Store) -> String {
    format!("audit_trail_p{}", store.clock().now().day())
}

async fn two_processes_write_one_chain(harness: &Harness) {
    let second = harness.second().await;
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let store = if number % 2 == 0 { harness.store.clone() } else { second.clone() };
            tokio::spawn(async move {
                for turn in 0..10 {
                    if turn % 3 == 0 {
                        append(&store, "somebody").await;
                    } else {
                        store.record(record(execution(&store, "pets"))).await.expect("recorded");
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let report = verified(&harness.store).await;
    assert_eq!((report.rows, report.fault), (40, None));
    second.close().await;
}

async fn executions_without_a_credential_have_a_row(harness: &Harness) {
    let store = &harness.store;
    let row = execution(store, "pets");
    let mut cached = execution(store, "pets");
    (cached.cached, cached.attempts) = (true, 0);
    store.record(record(row.clone())).await.expect("recorded");
    store.record(record(cached)).await.expect("recorded");
    // Recorded by nobody else and lost by this one: it has not ended here.
    let lost = store.record(ExecutionRecord { from_queue: true, ..record(execution(store, "pets")) }).await;
    assert!(lost.is_err());
    let entries = list(store, AuditOrder::OldestFirst).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].action, AuditAction::MethodExecuted);
    assert_eq!((entries[0].execution_id, entries[0].id), (Some(row.id), row.id.0));
    assert_eq!((entries[0].reason.as_str(), entries[0].principal.as_str()), ("execute getPet", row.principal.as_str()));
    assert_eq!(entries[0].instance_id, Some(instance_id("pets")));
    assert_eq!(entries[1].details, Some(serde_json::json!({"attempts": 0, "cached": true})));
}

async fn rows_from_before_the_chain_are_listed_after_it(harness: &Harness) {
    let store = &harness.store;
    let (bytes, id) = if harness.is_postgres() {
        ("bytea", "decode('019cd7d3c40070008000000000000001', 'hex')")
    } else {
        ("blob", "x'019cd7d3c40070008000000000000001'")
    };
    harness
        .tamper(&format!(
            "create table audit_p20260310 (id {bytes} not null primary key, created_at bigint not null, tenant_id text not \
             null, principal text not null, action text not null, instance_id text, credential_id {bytes}, execution_id \
             {bytes}, outcome text not null, reason text not null, correlation_id text not null, details text);
             insert into audit_p20260310 values ({id}, 1773144000000000, 'acme', 'old', 'credential.stored', 'pets', null, \
             null, 'success', 'stored', 'c-0', null);
             insert into partitions (log, day) values ('audit', 20522)"
        ))
        .await;
    chain(harness).await;
    for (order, place) in [(AuditOrder::NewestFirst, ROWS as usize), (AuditOrder::OldestFirst, 0)] {
        let entries = list(store, order).await;
        assert_eq!(entries.len(), ROWS as usize + 1);
        assert_eq!((entries[place].principal.as_str(), entries[place].sequence), ("old", None));
    }
    assert_eq!(verified(store).await.fault, None);
    // Retention takes them too.
    harness.clock.advance(40 * DAY);
    let dropped = store.drop_expired_partitions().await.expect("dropped");
    assert!(dropped.contains(&"audit_p20260310".to_owned()), "{dropped:?}");
}

async fn a_page_looks_at_a_bounded_number_of_rows(harness: &Harness) {
    let store = &harness.store;
    append(store, "rare").await;
    // Rows that no check would pass, but a list reads.
    let id = if harness.is_postgres() { "decode(lpad(to_hex(n), 32, '0'), 'hex')" } else { "randomblob(16)" };
    let hash = if harness.is_postgres() { "'\\x00'" } else { "x'00'" };
    harness
        .tamper(&format!(
            "insert into {TABLE} (sequence, id, created_at, principal, action, outcome, reason, correlation_id, hash)
             with recursive c(n) as (select 2 union all select n + 1 from c where n < 120000)
             select n, {id}, 1773144000000000 + n, 'often', 'cache.cleared', 'success', 'x', 'c', {hash} from c"
        ))
        .await;
    let filter = AuditFilter { principal: Some("rare".to_owned()), ..AuditFilter::default() };
    let mut cursor = None;
    for expected in [Some(70_001), Some(20_001), None] {
        let page = store.list_audit(&filter, AuditOrder::NewestFirst, cursor, 10).await.expect("listed");
        assert_eq!(page.next, expected.map(AuditCursor::Sequence));
        assert_eq!(page.entries.len(), usize::from(expected.is_none()));
        cursor = page.next;
    }
    // A time is found without a walk to it.
    let until = integration_model::Timestamp::from_micros(1_773_144_000_000_000 + 120_001);
    let filter = AuditFilter { until: Some(until), from: Some(until), ..filter };
    let page = store.list_audit(&filter, AuditOrder::NewestFirst, None, 10).await.expect("listed");
    assert!(page.entries.is_empty());
}

async fn oldest_first_and_newest_first_tell_the_same(harness: &Harness) {
    let store = &harness.store;
    for _ in 0..3 {
        chain(harness).await;
        harness.clock.advance(DAY / 2);
    }
    let mut newest_first = list(store, AuditOrder::NewestFirst).await;
    newest_first.reverse();
    assert_eq!(newest_first, list(store, AuditOrder::OldestFirst).await);
    assert_eq!(newest_first.len(), 3 * ROWS as usize);
    let from = newest_first[ROWS as usize].timestamp;
    let filter = AuditFilter { from: Some(from), until: Some(from.saturating_add(DAY / 4)), ..AuditFilter::default() };
    for order in [AuditOrder::NewestFirst, AuditOrder::OldestFirst] {
        let found = store.list_audit(&filter, order, None, 200).await.expect("listed");
        assert_eq!(found.entries.len(), ROWS as usize);
    }
}

/// All entries, five at a time.
async fn list(store: &Store, order: AuditOrder) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.list_audit(&AuditFilter::default(), order, cursor, 5).await.expect("listed");
        entries.extend(page.entries);
        cursor = page.next;
        if cursor.is_none() {
            return entries;
        }
    }
}
