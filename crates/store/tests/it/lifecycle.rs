use integration_store::{Store, StoreError, StoreOptions};

use crate::harness::{Harness, on_both};

on_both!(
    a_database_is_migrated_once,
    a_database_of_a_newer_program_is_refused,
    a_changed_migration_is_refused,
    a_write_goes_on_when_its_caller_goes_away,
);

async fn a_database_is_migrated_once(harness: &Harness) {
    harness.store.ping().await.expect("it answers");
    assert!(Store::migrate(&harness.url).await.expect("migrated").is_empty());
}

async fn a_database_of_a_newer_program_is_refused(harness: &Harness) {
    harness.tamper("insert into schema_migrations values (9999, '9999_future', 'x', 0)").await;
    let refused = Store::open(harness.options()).await.expect_err("refused");
    assert!(matches!(refused, StoreError::Config(_)));
    assert!(refused.to_string().contains("9999_future"), "{refused}");
}

async fn a_changed_migration_is_refused(harness: &Harness) {
    harness.tamper("update schema_migrations set checksum = 'x' where version = 1").await;
    let refused = Store::migrate(&harness.url).await.expect_err("refused");
    assert!(refused.to_string().contains("0001_core"), "{refused}");
}

async fn a_write_goes_on_when_its_caller_goes_away(harness: &Harness) {
    let store = &harness.store;
    for number in 0..20 {
        let mut caller = Box::pin(store.put_setting("name", "value"));
        // Dropped at its first wait, which is in the middle of the transaction's life.
        let _ = std::future::poll_fn(|context| std::task::Poll::Ready(caller.as_mut().poll(context))).await;
        drop(caller);
        store.put_setting("other", &number.to_string()).await.expect("the connection is sound");
    }
    // Writes wait for each other only on SQLite, so ask until the last dropped one is there.
    while store.setting("name").await.expect("read").is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_in_memory_database_serves_tests() {
    let harness = Harness::sqlite().await;
    let options = StoreOptions { database_url: "sqlite::memory:".to_owned(), ..harness.options() };
    let store = Store::open(options.clone()).await.expect("opened");
    store.put_setting("a", "b").await.expect("put");
    assert_eq!(store.setting("a").await.expect("read").as_deref(), Some("b"));
    let other = Store::open(options).await.expect("opened");
    assert_eq!(other.setting("a").await.expect("read"), None, "each is its own");
}

#[tokio::test]
async fn an_unknown_database_url_is_refused_without_its_text() {
    let harness = Harness::sqlite().await;
    for url in ["mysql://user:hunter2@host/db", "hunter2", "postgres://user:hunter2@[bad"] {
        let options = StoreOptions { database_url: url.to_owned(), ..harness.options() };
        let refused = Store::open(options).await.expect_err(url);
        assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused:?}");
        assert!(matches!(refused, StoreError::Config(_)), "{refused:?}");
    }
}
