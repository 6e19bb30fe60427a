use std::time::Duration;

use integration_model::audit::AuditAction;
use integration_model::definition::GrantType;
use integration_model::{InstanceId, TenantId};
use integration_store::{NewOAuthRequest, Store, StoreError};

use crate::fixtures::{add_instance, audit, instance_id, publish_petshop, spec, tenant};
use crate::harness::{Harness, on_both};

on_both!(
    a_request_is_taken_once,
    a_request_belongs_to_its_instance,
    an_instance_keeps_the_newest_requests,
    requests_are_forgotten_after_they_expire,
    a_device_is_asked_for_by_one_at_a_time,
    a_registered_client_stays_until_its_secret_expires,
    what_is_sealed_counts_among_the_keys_in_use,
);

const MINUTE: Duration = Duration::from_secs(60);

fn request(store: &Store, number: u8, poll_interval: Option<Duration>) -> NewOAuthRequest {
    NewOAuthRequest {
        digest: [number; 32],
        grant_type: if poll_interval.is_some() { GrantType::DeviceCode } else { GrantType::AuthorizationCode },
        tenant_id: tenant("acme"),
        instance_id: instance_id("i1"),
        principal: "api-key:isk_AbCd".to_owned(),
        principal_tenant: Some(tenant("acme")),
        expires_at: store.clock().now().saturating_add(10 * MINUTE),
        poll_interval,
    }
}

async fn prepared(harness: &Harness) -> &Store {
    publish_petshop(&harness.store).await;
    add_instance(&harness.store, "i1").await;
    &harness.store
}

async fn put(store: &Store, number: u8) {
    store
        .put_oauth_request(request(store, number, None), b"verifier", audit(AuditAction::ConnectionBegun))
        .await
        .expect("kept");
}

async fn a_request_is_taken_once(harness: &Harness) {
    let store = prepared(harness).await;
    let new = request(store, 1, None);
    store.put_oauth_request(new.clone(), b"verifier", audit(AuditAction::ConnectionBegun)).await.expect("kept");
    let second = harness.second().await;
    let (one, other) = tokio::join!(store.claim_oauth_request([1; 32]), second.claim_oauth_request([1; 32]));
    let taken: Vec<_> = [one, other].into_iter().filter_map(|taken| taken.expect("asked")).collect();
    assert_eq!(taken.len(), 1, "by one of two processes");
    let taken = &taken[0];
    assert_eq!((&taken.digest, taken.grant_type), (&new.digest, new.grant_type));
    assert_eq!((&taken.tenant_id, &taken.instance_id), (&new.tenant_id, &new.instance_id));
    assert_eq!((&taken.principal, &taken.principal_tenant), (&new.principal, &new.principal_tenant));
    assert_eq!((taken.created_at, taken.expires_at), (store.clock().now(), new.expires_at));
    assert_eq!(store.open_oauth_request(taken).await.expect("opened").as_slice(), b"verifier");
    assert!(!format!("{taken:?}").contains("AbCd"));
    assert!(store.claim_oauth_request([2; 32]).await.expect("asked").is_none());
}

async fn a_request_belongs_to_its_instance(harness: &Harness) {
    let store = prepared(harness).await;
    add_instance(store, "i2").await;
    for (tenant_id, instance) in [(TenantId::parse("other").expect("an id"), "i1"), (tenant("acme"), "none")] {
        let instance_id = InstanceId::parse(instance).expect("an id");
        let elsewhere = NewOAuthRequest { tenant_id, instance_id, ..request(store, 1, None) };
        let refused = store.put_oauth_request(elsewhere, b"x", audit(AuditAction::ConnectionBegun)).await;
        assert!(matches!(refused, Err(StoreError::NotFound)), "{instance}");
    }
    put(store, 1).await;
    harness.tamper("update oauth_requests set instance_id = 'i2'").await;
    let moved = store.claim_oauth_request([1; 32]).await.expect("asked").expect("there");
    assert!(matches!(store.open_oauth_request(&moved).await, Err(StoreError::Vault(_))));
    put(store, 2).await;
    store
        .delete_instance(&instance_id("i1"), None, Vec::new(), audit(AuditAction::InstanceDeleted))
        .await
        .expect("deleted");
    assert!(store.claim_oauth_request([2; 32]).await.expect("asked").is_none());
}

async fn an_instance_keeps_the_newest_requests(harness: &Harness) {
    let store = prepared(harness).await;
    for number in 0..25 {
        put(store, number).await;
        harness.clock.advance(Duration::from_secs(1));
    }
    assert!(store.claim_oauth_request([4; 32]).await.expect("asked").is_none());
    for number in 5..25 {
        assert!(store.claim_oauth_request([number; 32]).await.expect("asked").is_some(), "{number}");
    }
}

async fn requests_are_forgotten_after_they_expire(harness: &Harness) {
    let store = prepared(harness).await;
    put(store, 1).await;
    harness.clock.advance(5 * MINUTE);
    put(store, 2).await;
    harness.clock.advance(6 * MINUTE);
    assert_eq!(store.purge_oauth_requests(store.clock().now()).await.expect("purged"), 1);
    assert!(store.claim_oauth_request([2; 32]).await.expect("asked").is_some());
}

async fn a_device_is_asked_for_by_one_at_a_time(harness: &Harness) {
    let store = prepared(harness).await;
    let interval = Duration::from_secs(5);
    put(store, 1).await;
    assert_eq!(store.next_device_poll().await.expect("asked"), None, "a browser is not asked for");
    store
        .put_oauth_request(request(store, 2, Some(interval)), b"device code", audit(AuditAction::ConnectionBegun))
        .await
        .expect("kept");
    let first = store.clock().now().saturating_add(interval);
    assert_eq!(store.next_device_poll().await.expect("asked"), Some(first));
    let lease = |store: &Store| store.clock().now().saturating_add(MINUTE);
    assert!(store.claim_device_polls(lease(store), 10).await.expect("asked").is_empty(), "too early");
    harness.clock.advance(interval);
    let second = harness.second().await;
    let (one, other) =
        tokio::join!(store.claim_device_polls(lease(store), 10), second.claim_device_polls(lease(store), 10));
    let taken: Vec<_> = one.expect("asked").into_iter().chain(other.expect("asked")).collect();
    assert_eq!((taken.len(), taken[0].poll_interval), (1, Some(interval)));
    assert_eq!(store.open_oauth_request(&taken[0]).await.expect("opened").as_slice(), b"device code");
    assert!(store.postpone_device_poll([2; 32], 2 * interval).await.expect("postponed"));
    harness.clock.advance(2 * interval);
    let again = store.claim_device_polls(lease(store), 10).await.expect("asked");
    assert_eq!(again[0].poll_interval, Some(2 * interval));
    store.claim_oauth_request([2; 32]).await.expect("asked").expect("there");
    assert!(!store.postpone_device_poll([2; 32], interval).await.expect("asked"), "it has ended");
}

async fn a_registered_client_stays_until_its_secret_expires(harness: &Harness) {
    let store = &harness.store;
    let id = spec("petshop", "1.0.0").id;
    let (url, back) = ("https://id.example/register", "https://me.example/callback");
    let client = async |back: &str| {
        let found = store.oauth_client(&id, url, back).await.expect("asked");
        found.map(|(bytes, _)| String::from_utf8(bytes.to_vec()).expect("text"))
    };
    let put = async |expires_at, secret: &[u8]| {
        store.put_oauth_client(&id, url, back, expires_at, secret).await.expect("kept");
    };
    let soon = store.clock().now().saturating_add(MINUTE);
    put(Some(soon), b"first").await;
    put(None, b"second").await;
    assert_eq!(client(back).await.as_deref(), Some("first"), "who comes second takes the first one's");
    assert_eq!(client("https://elsewhere.example/").await, None);
    harness.clock.advance(MINUTE);
    put(None, b"third").await;
    assert_eq!(client(back).await.as_deref(), Some("third"));
    put(None, b"fourth").await;
    assert_eq!(client(back).await.as_deref(), Some("third"));
}

async fn what_is_sealed_counts_among_the_keys_in_use(harness: &Harness) {
    let store = prepared(harness).await;
    put(store, 1).await;
    let id = spec("petshop", "1.0.0").id;
    store.put_oauth_client(&id, "https://x", "https://y", None, b"client").await.expect("kept");
    let in_use = store.keys_in_use().await.expect("counted");
    assert_eq!(in_use, [("k1".to_owned(), 4)], "with the canary and the key of the audit");
}
