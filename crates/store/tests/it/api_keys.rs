use std::collections::BTreeMap;
use std::time::Duration;

use integration_model::TenantId;
use integration_model::api_key::ApiKey;
use integration_model::audit::{AuditAction, AuditDraft, AuditOutcome};
use integration_model::page::PageRequest;
use integration_model::principal::{Grant, Role};
use integration_store::{AuditFilter, AuditOrder, StoreError};

use crate::fixtures::tenant;
use crate::harness::{DAY, Harness, on_both};

on_both!(
    a_key_is_valid_until_it_is_revoked_or_expires,
    keys_are_listed_by_tenant_and_page,
    uses_of_keys_only_move_forward,
    settings_keep_the_last_text,
);

fn draft(action: AuditAction) -> AuditDraft {
    AuditDraft::done(action, "api-key:admin", "by a caller", "c-1")
}

fn key(harness: &Harness, id: &str) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        name: format!("key {id}"),
        prefix: format!("isk_{id}"),
        roles: vec![Role::Operator, Role::Monitor],
        grants: vec![Grant { instance: "crm".to_owned(), methods: vec!["getPet".to_owned()] }],
        tenant_id: None,
        created_at: harness.clock.now(),
        created_by: "api-key:admin".to_owned(),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

async fn insert(harness: &Harness, key: &ApiKey, byte: u8) -> Result<(), StoreError> {
    harness.store.insert_api_key(key, [byte; 32], draft(AuditAction::ApiKeyCreated)).await
}

async fn valid(harness: &Harness) -> Vec<String> {
    let keys = harness.store.valid_api_keys().await.expect("read");
    keys.into_iter().map(|(key, _)| key.id).collect()
}

async fn a_key_is_valid_until_it_is_revoked_or_expires(harness: &Harness) {
    let store = &harness.store;
    let start = store.last_change().await.expect("a number");
    let first = ApiKey { tenant_id: Some(tenant("acme")), ..key(harness, "a") };
    let second = ApiKey { expires_at: Some(harness.clock.now().saturating_add(DAY)), ..key(harness, "b") };
    insert(harness, &first, 1).await.expect("inserted");
    insert(harness, &second, 2).await.expect("inserted");
    let same_digest = insert(harness, &key(harness, "c"), 2).await;
    assert!(matches!(same_digest, Err(StoreError::AlreadyExists { .. })));
    let same_prefix = insert(harness, &ApiKey { prefix: "isk_a".to_owned(), ..key(harness, "c") }, 3).await;
    assert!(matches!(same_prefix, Err(StoreError::AlreadyExists { .. })), "a prefix names one caller");
    assert_eq!(store.valid_api_keys().await.expect("read"), [(first.clone(), [1; 32]), (second, [2; 32])]);
    let (changed, now) = store.api_keys_changed_after(start).await.expect("read");
    assert!(changed);
    assert_eq!(store.api_keys_changed_after(now).await.expect("read"), (false, now));

    let revoke = || store.revoke_api_key("a", draft(AuditAction::ApiKeyRevoked));
    let revoked_at = harness.clock.now();
    revoke().await.expect("revoked");
    assert!(store.api_keys_changed_after(now).await.expect("read").0);
    assert_eq!(valid(harness).await, ["b"]);
    harness.clock.advance(DAY);
    revoke().await.expect("revoked already");
    assert_eq!(store.api_key("a").await.expect("read").expect("there").revoked_at, Some(revoked_at));
    assert!(valid(harness).await.is_empty(), "the other has expired");
    let unknown = store.revoke_api_key("x", draft(AuditAction::ApiKeyRevoked)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)));

    let page = store.list_audit(&AuditFilter::default(), AuditOrder::NewestFirst, None, 10).await.expect("listed");
    let entries = page.entries.iter();
    let entries: Vec<_> =
        entries.map(|entry| (entry.action, entry.outcome, entry.tenant_id.as_ref().map(TenantId::as_str))).collect();
    let done = AuditOutcome::Success;
    assert_eq!(
        entries,
        [
            (AuditAction::ApiKeyRevoked, done, Some("acme")),
            (AuditAction::ApiKeyCreated, done, None),
            (AuditAction::ApiKeyCreated, done, Some("acme")),
        ]
    );
}

async fn keys_are_listed_by_tenant_and_page(harness: &Harness) {
    for (index, owner) in [Some("acme"), None, Some("other"), Some("acme")].into_iter().enumerate() {
        let key = ApiKey { tenant_id: owner.map(tenant), ..key(harness, &format!("k{index}")) };
        insert(harness, &key, u8::try_from(index).expect("small")).await.expect("inserted");
        harness.clock.advance(Duration::from_secs(1));
    }
    let list = async |owner: Option<&str>, page| {
        let (keys, total) = harness
            .store
            .list_api_keys(owner.map(tenant).as_ref(), PageRequest { page, limit: 2 })
            .await
            .expect("listed");
        (keys.into_iter().map(|key| key.id).collect::<Vec<_>>().join(" "), total)
    };
    assert_eq!(list(None, 1).await, ("k3 k2".to_owned(), 4));
    assert_eq!(list(None, 2).await, ("k1 k0".to_owned(), 4));
    assert_eq!(list(Some("acme"), 1).await, ("k3 k0".to_owned(), 2));
    assert_eq!(list(Some("nobody"), 1).await, (String::new(), 0));
}

async fn uses_of_keys_only_move_forward(harness: &Harness) {
    insert(harness, &key(harness, "a"), 1).await.expect("inserted");
    let (early, late) = (harness.clock.now(), harness.clock.now().saturating_add(DAY));
    for at in [late, early] {
        let uses = BTreeMap::from([("a".to_owned(), at), ("gone".to_owned(), at)]);
        harness.store.note_api_key_uses(uses).await.expect("noted");
    }
    let key = harness.store.api_key("a").await.expect("read").expect("there");
    assert_eq!(key.last_used_at, Some(late));
}

async fn settings_keep_the_last_text(harness: &Harness) {
    let store = &harness.store;
    assert_eq!(store.setting("started").await.expect("read"), None);
    store.put_setting("started", "1").await.expect("put");
    store.put_setting("started", "2").await.expect("put");
    assert_eq!(store.setting("started").await.expect("read").as_deref(), Some("2"));
}
