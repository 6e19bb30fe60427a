use std::sync::atomic::{AtomicU32, Ordering};

use integration_model::TenantId;
use serde_json::json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key_of(tenant: &str, instance: &str, params: serde_json::Value) -> CacheKey {
    let scope = CacheScope {
        tenant: &TenantId::parse(tenant).expect("an id"),
        instance: &instance_id(instance),
        definition_version: "1.0.0",
        method: "getPet",
    };
    CacheKey::new(&scope, params.as_object().expect("an object"), &[])
}

fn key(n: u32) -> CacheKey {
    key_of("t", "i", json!({ "n": n }))
}

fn instance_id(id: &str) -> InstanceId {
    InstanceId::parse(id).expect("an id")
}

fn answer(body: &'static str) -> NewAnswer {
    NewAnswer {
        body: Bytes::from_static(body.as_bytes()),
        upstream_status: Some(200),
        ttl: SECOND,
        stale_ttl: 10 * SECOND,
    }
}

async fn fill(cache: &ResponseCache, key: &CacheKey, new: NewAnswer, now: Instant) {
    match cache.lead_or_wait(key, now).await {
        Flight::Lead(guard) => drop(guard.fill(new, now)),
        Flight::Filled(_) => panic!("nobody else fills"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_then_stale_then_gone() {
    let cache = ResponseCache::new(1 << 20);
    let now = Instant::now();
    assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
    fill(&cache, &key(1), answer("1"), now).await;
    let Lookup::Fresh { answer, age } = cache.lookup(&key(1), now + SECOND / 2) else { panic!("fresh") };
    assert_eq!((&answer.body[..], answer.upstream_status, age), (&b"1"[..], Some(200), SECOND / 2));
    drop(answer);
    let Lookup::Stale { answer, age } = cache.lookup(&key(1), now + SECOND) else { panic!("stale") };
    assert_eq!(age, SECOND);
    cache.record_stale_hit(&answer);
    assert!(matches!(cache.lookup(&key(1), now + 11 * SECOND), Lookup::Miss));
    drop(answer);
    let expected = CacheStatistics { entries: 0, bytes: 0, hits: 1, misses: 3, stale_hits: 1 };
    assert_eq!(cache.statistics(&instance_id("i")), expected);
}

#[tokio::test(start_paused = true)]
async fn keys_differ_by_all_that_an_answer_depends_on() {
    let base = key_of("t", "i", json!({"a": 1, "b": {"x": 1, "y": 2}}));
    assert!(base == key_of("t", "i", json!({"b": {"y": 2, "x": 1}, "a": 1})), "the order of members means nothing");
    for other in [
        key_of("u", "i", json!({"a": 1, "b": {"x": 1, "y": 2}})),
        key_of("t", "j", json!({"a": 1, "b": {"x": 1, "y": 2}})),
        key_of("t", "i", json!({"a": "1", "b": {"x": 1, "y": 2}})),
        key_of("t", "i", json!({"a": 1, "b": {"x": 1}, "y": 2})),
        key_of("t", "i", json!({"a": 1})),
    ] {
        assert!(base != other);
    }
    assert!(key_of("ab", "c", json!({})) != key_of("a", "bc", json!({})));
    assert!(key_of("t", "i", json!({"a": ["b", "c"]})) != key_of("t", "i", json!({"a": ["bc"]})));
}

#[test]
fn only_varying_params_tell_answers_apart() {
    let (tenant, instance) = (TenantId::default_tenant(), instance_id("i"));
    let scope = CacheScope { tenant: &tenant, instance: &instance, definition_version: "1.0.0", method: "m" };
    let key = |params: serde_json::Value, vary: &[&str]| {
        let vary: Vec<String> = vary.iter().map(ToString::to_string).collect();
        CacheKey::new(&scope, params.as_object().expect("an object"), &vary)
    };
    assert!(key(json!({"a": 1, "trace": "x"}), &["a"]) == key(json!({"a": 1, "trace": "y"}), &["a"]));
    assert!(key(json!({"a": 1}), &["a"]) != key(json!({"a": 2}), &["a"]));
}

#[test]
fn known_texts_stay_within_their_bound_and_those_asked_for_again_stay() {
    let cache = ResponseCache::new(0);
    let (tenant, instance) = (TenantId::default_tenant(), instance_id("i"));
    let scope = CacheScope { tenant: &tenant, instance: &instance, definition_version: "1.0.0", method: "m" };
    let text = |n: usize| TextKey::new(&scope, 1, n.to_string().as_bytes());
    let key = key(1);
    let (asked_again, asked_once) = (2 * KNOWN_TEXTS, 2 * KNOWN_TEXTS + 1);
    for n in 0..4 * KNOWN_TEXTS {
        cache.remember(text(n), &key);
        if n == asked_again {
            assert!(cache.known(&text(n)).is_some());
        }
    }
    assert!(cache.known.len() <= KNOWN_TEXTS);
    assert!(cache.known(&text(asked_again)) == Some(key), "those that come once pass by");
    assert!(cache.known(&text(asked_once)).is_none());
}

#[test]
fn texts_differ_by_all_that_their_meaning_depends_on() {
    let tenants = ["a", "b"].map(|id| TenantId::parse(id).expect("an id"));
    let instances = ["a", "b"].map(instance_id);
    let name = |tenant: usize, instance: usize, version, method, compilation, text: &str| {
        let (tenant, instance) = (&tenants[tenant], &instances[instance]);
        let scope = CacheScope { tenant, instance, definition_version: version, method };
        TextKey::new(&scope, compilation, text.as_bytes())
    };
    let base = name(0, 0, "1.0.0", "m", 1, "{}");
    assert!(base == name(0, 0, "1.0.0", "m", 1, "{}"));
    for other in [
        name(1, 0, "1.0.0", "m", 1, "{}"),
        name(0, 1, "1.0.0", "m", 1, "{}"),
        name(0, 0, "1.0.1", "m", 1, "{}"),
        name(0, 0, "1.0.0", "n", 1, "{}"),
        name(0, 0, "1.0.0", "m", 2, "{}"),
        name(0, 0, "1.0.0", "m", 1, "{ }"),
    ] {
        assert!(base != other);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_stays_within_its_bound() {
    let cache = ResponseCache::new(100_000);
    let now = Instant::now();
    let body = Bytes::from(vec![b'1'; 5_000]);
    for n in 0..200 {
        fill(&cache, &key(n), NewAnswer { body: body.clone(), ..answer("") }, now).await;
        assert!(cache.bytes() <= 100_000);
    }
    let statistics = cache.statistics(&instance_id("i"));
    assert_eq!(statistics.bytes, cache.bytes());
    assert!((10..=20).contains(&statistics.entries), "{statistics:?}");
    let nothing = ResponseCache::new(0);
    fill(&nothing, &key(1), answer("1"), now).await;
    assert!(matches!(nothing.lookup(&key(1), now), Lookup::Miss));
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_keep_still_reaches_who_waits() {
    let cache = Arc::new(ResponseCache::new(10_000));
    let now = Instant::now();
    let Flight::Lead(guard) = cache.lead_or_wait(&key(1), now).await else { panic!("leads") };
    let follower = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { matches!(cache.lead_or_wait(&key(1), now).await, Flight::Filled(_)) }
    });
    tokio::task::yield_now().await;
    guard.fill(NewAnswer { body: Bytes::from(vec![b'1'; 50_000]), ..answer("") }, now);
    assert!(follower.await.expect("no panic"));
    assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
}

#[tokio::test(start_paused = true)]
async fn of_many_misses_one_asks_the_upstream() {
    let cache = Arc::new(ResponseCache::new(1 << 20));
    let asked = Arc::new(AtomicU32::new(0));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (cache, asked) = (Arc::clone(&cache), Arc::clone(&asked));
            tokio::spawn(async move {
                match cache.lead_or_wait(&key(1), Instant::now()).await {
                    Flight::Lead(guard) => {
                        asked.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(SECOND).await;
                        guard.fill(answer("42"), Instant::now()).body.clone()
                    }
                    Flight::Filled(answer) => answer.body.clone(),
                }
            })
        })
        .collect();
    for call in calls {
        assert_eq!(&call.await.expect("no panic")[..], b"42");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_fails_or_is_cancelled_passes_the_lead_on() {
    let cache = Arc::new(ResponseCache::new(1 << 20));
    let leader = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move {
            let flight = cache.lead_or_wait(&key(1), Instant::now()).await;
            assert!(matches!(flight, Flight::Lead(_)));
            std::future::pending::<()>().await;
            drop(flight);
        }
    });
    tokio::task::yield_now().await;
    let followers: Vec<_> = (0..5)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let flight = cache.lead_or_wait(&key(1), Instant::now()).await;
                let leads = matches!(flight, Flight::Lead(_));
                drop(flight);
                leads
            })
        })
        .collect();
    tokio::task::yield_now().await;
    leader.abort();
    for follower in followers {
        assert!(follower.await.expect("no panic"), "each fails in its turn, and the next one leads");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_gives_up_at_its_own_deadline() {
    let cache = ResponseCache::new(1 << 20);
    let now = Instant::now();
    let Flight::Lead(_guard) = cache.lead_or_wait(&key(1), now).await else { panic!("leads") };
    assert!(tokio::time::timeout(SECOND, cache.lead_or_wait(&key(1), now)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_missed_before_the_key_was_filled_does_not_ask_again() {
    let cache = ResponseCache::new(1 << 20);
    let now = Instant::now();
    fill(&cache, &key(1), answer("1"), now).await;
    assert!(matches!(cache.lead_or_wait(&key(1), now).await, Flight::Filled(_)));
    assert!(matches!(cache.lead_or_wait(&key(1), now + 2 * SECOND).await, Flight::Lead(_)), "stale: asks");
}

#[tokio::test(start_paused = true)]
async fn clearing_an_instance_drops_its_answers_and_no_others() {
    let cache = ResponseCache::new(1 << 20);
    let now = Instant::now();
    let other = key_of("t", "j", json!({}));
    fill(&cache, &key(1), answer("1"), now).await;
    fill(&cache, &other, answer("2"), now).await;
    cache.clear(&instance_id("i"));
    assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
    assert!(matches!(cache.lookup(&other, now), Lookup::Fresh { .. }));
    assert_eq!(cache.statistics(&instance_id("i")).entries, 0);
    fill(&cache, &key(1), answer("3"), now).await;
    assert!(matches!(cache.lookup(&key(1), now), Lookup::Fresh { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_answer_fetched_before_a_clearing_is_not_kept_after() {
    let cache = ResponseCache::new(1 << 20);
    let now = Instant::now();
    let Flight::Lead(old) = cache.lead_or_wait(&key(1), now).await else { panic!("leads") };
    cache.clear(&instance_id("i"));
    let Flight::Lead(new) = cache.lead_or_wait(&key(1), now).await else { panic!("leads anew") };
    old.fill(answer("old"), now);
    assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
    new.fill(answer("new"), now);
    let Lookup::Fresh { answer, .. } = cache.lookup(&key(1), now) else { panic!("fresh") };
    assert_eq!(&answer.body[..], b"new");
}

#[test]
fn forgetting_an_instance_ends_its_answers() {
    let instances = instances::Instances::new();
    let first = instances.get_or_insert(&instance_id("first")).join();
    for n in 0..instances::MAX_INSTANCES {
        let _ = instances.get_or_insert(&instance_id(&format!("i{n}")));
    }
    assert!(!first.is_current());
}
