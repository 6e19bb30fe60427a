use integration_store::StoreError;

use crate::fixtures::tenant;
use crate::harness::{DAY, Harness, on_both};

on_both!(a_key_is_found_by_its_digest_until_revoked, settings_keep_the_last_text,);

async fn a_key_is_found_by_its_digest_until_revoked(harness: &Harness) {
    let store = &harness.store;
    let now = harness.clock.now();
    let acme = tenant("acme");
    store.insert_api_key("a", "first", "isk_a", [1; 32], Some(&acme), now).await.expect("inserted");
    store.insert_api_key("b", "second", "isk_b", [2; 32], None, now).await.expect("inserted");
    let twice = store.insert_api_key("c", "third", "isk_c", [2; 32], None, now).await;
    assert!(matches!(twice, Err(StoreError::AlreadyExists { .. })));
    let found = store.api_key_by_hash(&[1; 32]).await.expect("read").expect("there");
    assert_eq!((found.id.as_str(), found.tenant, found.created_at), ("a", Some(acme), now));
    assert!(store.api_key_by_hash(&[3; 32]).await.expect("read").is_none());

    store.revoke_api_key("a").await.expect("revoked");
    harness.clock.advance(DAY);
    store.revoke_api_key("a").await.expect("revoked already");
    assert!(matches!(store.revoke_api_key("x").await, Err(StoreError::NotFound)));
    assert!(store.api_key_by_hash(&[1; 32]).await.expect("read").is_none());
    let keys = store.list_api_keys().await.expect("listed");
    let keys: Vec<_> = keys.iter().map(|key| (key.id.as_str(), key.revoked_at)).collect();
    assert_eq!(keys, [("a", Some(now)), ("b", None)]);
}

async fn settings_keep_the_last_text(harness: &Harness) {
    let store = &harness.store;
    assert_eq!(store.setting("started").await.expect("read"), None);
    store.put_setting("started", "1").await.expect("put");
    store.put_setting("started", "2").await.expect("put");
    assert_eq!(store.setting("started").await.expect("read").as_deref(), Some("2"));
}
