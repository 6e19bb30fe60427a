//! Refreshes against a server that exchanges refresh tokens and ends a grant whose token
//! comes twice: no crash, no race and no fault loses a grant that could be kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use integration_engine::credentials::NewCredential;
use integration_engine::execute::{ExecuteRequest, Paginate};
use integration_engine::limits::LimitRules;
use integration_engine::oauth::refresh::{RefreshProbe, RefreshReply, RefreshRequest, RefreshStep};
use integration_engine::{Engine, EngineError, EngineSettings, NoObserver};
use integration_model::credential::{CredentialState, CredentialStatus, RefreshErrorKind};
use integration_model::definition::{AuthType, DefinitionSpec};
use integration_model::event::EventType;
use integration_model::execution::ExecutionMode;
use integration_model::instance::InstanceStatus;
use integration_model::principal::Principal;
use integration_model::{ErrorCode, InstanceId, Timestamp};
use integration_store::{Clock, EventCursor, EventFilter, MasterKeys, Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http_client::loopback_client;
use crate::token_server::{Fault, TokenServer};

const ID: &str = "crm-1";
const LEASE: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than anything here takes: only a hang is cut off.
const PATIENCE: Duration = Duration::from_secs(30);

/// What processes share: the database, the time, the external system.
struct World {
    server: TokenServer,
    clock: Clock,
    keys: MasterKeys,
    folder: TempDir,
}

/// One process: an engine with a store handle of its own.
struct Process {
    engine: Arc<Engine>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl World {
    /// An instance whose token holds for an hour more.
    async fn new(rotates: bool, oauth: Value) -> (Self, Process) {
        let world = Self {
            server: TokenServer::start(rotates).await,
            clock: Clock::manual(Timestamp::parse("2026-03-10T12:00:00Z").expect("a time")),
            keys: MasterKeys::parse(&MasterKeys::generate_line("k1").expect("a line")).expect("keys"),
            folder: tempfile::tempdir().expect("a folder"),
        };
        let process = world.process(None).await;
        world.prepare(&process.engine, oauth).await;
        (world, process)
    }

    async fn process(&self, probe: Option<Arc<Probe>>) -> Process {
        let store = Store::open(StoreOptions {
            database_url: format!("sqlite://{}", self.folder.path().join("test.db").display()),
            keys: self.keys.clone().into(),
            secrets: None,
            fallback: integration_store::Fallback::default(),
            clock: self.clock.clone(),
            execution_retention: HOUR * 24 * 7,
            event_retention: HOUR * 24 * 7,
            audit_retention: HOUR * 24 * 7,
            spool_folder: None,
            max_connections: 4,
            journal_sync: integration_store::JournalSync::Normal,
        });
        let settings = EngineSettings { lease: LEASE, ..EngineSettings::default() };
        let store = store.await.expect("the store opens");
        let mut engine = Engine::new(store, loopback_client(), settings, LimitRules::default(), Arc::new(NoObserver));
        if let Some(probe) = probe {
            engine = engine.with_refresh_probe(probe);
        }
        let engine = Arc::new(engine);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&engine).run_refresh(stop.clone()));
        tasks.spawn(Arc::clone(&engine).follow_changes(stop.clone()));
        Process { engine, stop, _tasks: tasks }
    }

    async fn prepare(&self, engine: &Engine, oauth: Value) {
        let url = format!("http://{}", self.server.address);
        let mut config = json!({"clientId": "client", "tokenUrl": format!("{url}/token")});
        for (name, value) in oauth.as_object().expect("an object") {
            config[name] = value.clone();
        }
        let spec = DefinitionSpec::from_json(json!({
            "id": "crm", "name": "CRM", "description": "", "version": "1.0.0", "type": "http", "authType": "oauth2",
            "oauth2Config": config,
            "methods": [
                {"name": "read", "operation": {"verb": "GET", "path": "/thing"}},
                {"name": "write", "operation": {"verb": "POST", "path": "/thing"}},
            ],
        }));
        let definition =
            engine.create_definition(spec.expect("a definition"), &Principal::system(), "c-1").await.expect("created");
        let (id, version) = (definition.spec.id, definition.spec.version);
        engine.publish_definition(&id, &version, &Principal::system(), "c-1").await.expect("published");
        let instance = json!({
            "id": ID, "integrationDefinitionId": "crm", "name": ID, "config": {"baseUrl": url},
        });
        let instance = serde_json::from_value(instance).expect("an instance");
        engine.create_instance(instance, &Principal::system(), "test").await.expect("created");
        let data = json!({"access_token": "access-0", "refresh_token": "refresh-0", "expires_in": 3_600});
        self.store_credential(engine, data).await;
    }

    async fn store_credential(&self, engine: &Engine, data: Value) {
        let new = NewCredential { auth_type: AuthType::OAuth2, data };
        engine.store_credential(ID, new, &Principal::system(), "test").await.expect("stored");
    }

    /// Lets the token expire, here and there.
    fn expire(&self) {
        self.clock.advance(HOUR);
        self.server.expire_access_token();
    }
}

/// How a call ended: its error's code, whether it may be made again, its message.
type Ended = Result<(), (ErrorCode, bool, String)>;

impl Process {
    async fn call(&self, method: &str) -> Ended {
        call(Arc::clone(&self.engine), method.to_owned()).await
    }

    async fn read(&self) -> Ended {
        self.call("read").await
    }

    async fn status(&self) -> InstanceStatus {
        self.engine.instance(ID, &Principal::system()).await.expect("the instance").status
    }

    async fn credential(&self) -> CredentialStatus {
        self.engine.credential_status(ID, &Principal::system()).await.expect("a status")
    }

    async fn refresh(&self, retry_interrupted: bool) -> Result<CredentialStatus, EngineError> {
        let request = RefreshRequest { retry_interrupted };
        match self.engine.refresh_credential(ID, request, &Principal::system(), "by-hand").await? {
            RefreshReply::Renewed(status) => Ok(status),
            RefreshReply::UnderWay(status) => panic!("still under way: {status:?}"),
        }
    }

    /// Waits until `holds`.
    async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let wait = async {
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            while !holds(self).await {
                looks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    async fn events(&self, kind: EventType) -> Vec<Value> {
        let filter = EventFilter { types: vec![kind], ..EventFilter::default() };
        let events = self.engine.store().list_events(&filter, EventCursor::After(None), 100).await.expect("read");
        events.into_iter().map(|event| event.data).collect()
    }

    /// Ends as a crash does: nothing is finished.
    fn kill(self) {
        drop(self);
    }
}

async fn call(engine: Arc<Engine>, method: String) -> Ended {
    let reply = engine
        .execute(ExecuteRequest {
            principal: Principal::system(),
            tenant: None,
            instance: ID.to_owned(),
            method,
            params: Bytes::from_static(b"{}"),
            mode: ExecutionMode::Sync,
            correlation_id: "test".to_owned(),
            traceparent: None,
            task_id: None,
            idempotency_key: None,
            paginate: Paginate::Off,
            dry_run: false,
            execution_id: None,
            replay_of: None,
        })
        .await;
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    match reply.code {
        None => Ok(()),
        Some(code) => {
            let error = &body["error"];
            Err((code, error["retryable"] == true, error["message"].as_str().unwrap_or_default().to_owned()))
        }
    }
}

/// Holds a process at one step until it is let go, if ever.
#[derive(Default)]
struct Probe {
    held: Mutex<HashMap<RefreshStep, watch::Receiver<bool>>>,
    arrived: Arc<Notify>,
}

impl Probe {
    /// Holds at this step; the sender lets go.
    fn hold(&self, step: RefreshStep) -> watch::Sender<bool> {
        let (let_go, held) = watch::channel(false);
        self.held.lock().expect("no panic while locked").insert(step, held);
        let_go
    }
}

impl RefreshProbe for Probe {
    fn reached(&self, step: RefreshStep, _: &InstanceId) -> BoxFuture<'static, ()> {
        let held = self.held.lock().expect("no panic while locked").get(&step).cloned();
        let arrived = Arc::clone(&self.arrived);
        Box::pin(async move {
            let Some(mut held) = held else { return };
            arrived.notify_one();
            if held.wait_for(|go| *go).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// A process that is held at a step of the refresh of an expired token, and what lets it go.
async fn held_at(world: &World, step: RefreshStep) -> (Process, watch::Sender<bool>) {
    let probe = Arc::new(Probe::default());
    let let_go = probe.hold(step);
    let process = world.process(Some(Arc::clone(&probe))).await;
    let engine = Arc::clone(&process.engine);
    tokio::spawn(async move { call(engine, "read".to_owned()).await });
    tokio::time::timeout(PATIENCE, probe.arrived.notified()).await.expect("the step is reached");
    (process, let_go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_in_two_processes_make_one_exchange() {
    let (world, first) = World::new(true, json!({})).await;
    let second = world.process(None).await;
    second.read().await.expect("the token is good");
    world.expire();
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let engine = if number % 2 == 0 { &first.engine } else { &second.engine };
        calls.spawn(call(Arc::clone(engine), "read".to_owned()));
    }
    for ended in calls.join_all().await {
        ended.expect("every call is answered");
    }
    assert_eq!((world.server.exchanges(), world.server.reuses()), (1, 0));
    assert_eq!(world.server.calls().1, 0, "no call went out with the old token");
}

#[tokio::test]
async fn a_token_near_its_expiry_serves_while_it_is_renewed() {
    let (world, _) = World::new(true, json!({})).await;
    let (process, let_go) = {
        world.clock.advance(HOUR - Duration::from_secs(60));
        held_at(&world, RefreshStep::Begin).await
    };
    process.read().await.expect("the old token serves");
    assert_eq!(world.server.exchanges(), 0);
    let_go.send_replace(true);
    process.until("renewed", async |_| world.server.exchanges() == 1).await;
    process.until("stored", async |process| process.read().await.is_ok()).await;
    assert_eq!(world.server.exchanges(), 1);
}

#[tokio::test]
async fn an_idle_instance_is_renewed_ahead_of_its_expiry() {
    let (world, process) = World::new(true, json!({})).await;
    let before = process.credential().await;
    let due = before.refresh.expect("it can be renewed").next_refresh_at.expect("it is due");
    let expires_at = before.expires_at.expect("an expiry");
    assert!(expires_at.since(due) >= Duration::from_secs(300), "{due} is before {expires_at}");
    world.clock.advance(HOUR - Duration::from_secs(300));
    process.until("renewed", async |_| world.server.exchanges() == 1).await;
    process.until("stored", async |process| process.credential().await.expires_at > Some(expires_at)).await;
    assert_eq!((world.server.calls().0, world.server.reuses()), (0, 0));
    assert!(process.events(EventType::AuthFailed).await.is_empty());
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_the_call_made_again() {
    let (world, process) = World::new(true, json!({})).await;
    for (method, exchanges) in [("read", 1), ("write", 2)] {
        world.server.expire_access_token();
        process.call(method).await.expect("answered");
        assert_eq!(world.server.exchanges(), exchanges);
    }
    assert_eq!(process.status().await, InstanceStatus::Connected);
    // What another process renewed is used, not renewed again.
    let second = world.process(None).await;
    second.read().await.expect("answered");
    world.server.expire_access_token();
    process.read().await.expect("answered");
    second.read().await.expect("answered");
    assert_eq!((world.server.exchanges(), world.server.reuses()), (3, 0));

    world.server.refuse_all_tokens();
    let (code, retryable, _) = process.read().await.expect_err("refused");
    assert_eq!((code, retryable), (ErrorCode::Auth, false));
    assert_eq!(process.status().await, InstanceStatus::AuthError);
    assert_eq!(world.server.exchanges(), 4);
}

#[tokio::test]
async fn a_lifetime_that_nobody_named_is_learnt_from_the_refusal() {
    let (world, process) = World::new(true, json!({})).await;
    world.server.name_no_expiry();
    process.refresh(false).await.expect("renewed");
    assert_eq!(process.credential().await.refresh.expect("it can be renewed").next_refresh_at, None);
    world.clock.advance(HOUR);
    world.server.expire_access_token();
    process.read().await.expect("answered");
    let due = process.credential().await.refresh.expect("it can be renewed").next_refresh_at.expect("learnt");
    let ahead = due.since(world.clock.now());
    assert!(ahead > HOUR / 2 && ahead < HOUR, "{ahead:?}");
}

#[tokio::test]
async fn transient_failures_keep_the_grant() {
    let faults = [Fault::Status(500), Fault::Status(429), Fault::Page, Fault::LostRequest];
    for fault in faults {
        let (world, process) = World::new(true, json!({})).await;
        world.expire();
        // More than are repeated while the call waits.
        world.server.then(&[fault; 5]);
        let (code, retryable, message) = process.read().await.expect_err("not renewed");
        assert_eq!((code, retryable), (ErrorCode::Auth, true), "{fault:?}: {message}");
        assert!(message.contains("could not be renewed yet"), "{message}");
        assert_eq!(process.status().await, InstanceStatus::Connected);
        let refresh = process.credential().await.refresh.expect("it can be renewed");
        assert!(refresh.failures > 0 && refresh.retry_at.is_some() && !refresh.interrupted, "{refresh:?}");
        world.clock.advance(Duration::from_secs(60));
        process.until("working again", async |process| process.read().await.is_ok()).await;
        assert_eq!(world.server.reuses(), 0, "{fault:?}");
        let refresh = process.credential().await.refresh.expect("it can be renewed");
        assert_eq!((refresh.failures, refresh.last_error), (0, None));
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_with_the_grant_says_so() {
    let (world, process) = World::new(true, json!({})).await;
    world.expire();
    world.server.then(&[Fault::LostAnswer]);
    let (code, retryable, message) = process.read().await.expect_err("refused");
    assert_eq!((code, retryable), (ErrorCode::Auth, false));
    assert!(message.contains("invalid_grant") && message.contains("got no usable answer"), "{message}");
    assert_eq!(process.status().await, InstanceStatus::AuthError);
    let status = process.credential().await;
    let error = status.refresh.expect("it could be renewed").last_error.expect("the evidence");
    assert_eq!((error.kind, error.error.as_deref()), (RefreshErrorKind::Refused, Some("invalid_grant")));
    assert!(error.unanswered_at.is_some());
    assert_eq!(status.status, CredentialState::Refused);
}

#[tokio::test]
async fn a_definite_refusal_ends_the_connection_with_its_evidence() {
    let (world, process) = World::new(true, json!({})).await;
    world.expire();
    world.server.revoke();
    let (code, retryable, _) = process.read().await.expect_err("refused");
    assert_eq!((code, retryable), (ErrorCode::Auth, false));
    assert_eq!(process.status().await, InstanceStatus::AuthError);
    let failed = process.events(EventType::AuthFailed).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["error"]["details"]["refresh"]["error"], "invalid_grant");
    let moved = process.events(EventType::InstanceStatus).await;
    assert_eq!(moved.last().expect("an event")["currentStatus"], "AUTH_ERROR");
    assert_eq!(process.read().await.expect_err("not ready").0, ErrorCode::InstanceNotReady);
    // A person may ask once more, and may connect again.
    assert_eq!(process.refresh(false).await.expect_err("refused").code(), ErrorCode::Auth);
    assert_eq!(world.server.exchanges(), 0);
}

#[tokio::test]
async fn each_crash_ends_in_a_working_grant_or_asks_for_a_person() {
    for rotates in [true, false] {
        for step in [RefreshStep::Begin, RefreshStep::Intended, RefreshStep::Answered, RefreshStep::Committed] {
            let (world, survivor) = World::new(rotates, json!({})).await;
            if !rotates {
                // That it does not rotate is learnt from an answer.
                survivor.refresh(false).await.expect("renewed");
            }
            let before = world.server.exchanges();
            world.expire();
            let (crashed, let_go) = held_at(&world, step).await;
            crashed.kill();
            drop(let_go);
            if matches!(step, RefreshStep::Intended | RefreshStep::Answered) {
                // While the lease holds, nobody else tries.
                let waiting = tokio::spawn(call(Arc::clone(&survivor.engine), "read".to_owned()));
                world.clock.advance(LEASE * 3 + Duration::from_secs(1));
                let _ = waiting.await.expect("it ends");
            }
            let place = format!("{step:?}, rotates: {rotates}");
            survivor
                .until(&place, async |process| {
                    process.read().await.is_ok() || process.status().await == InstanceStatus::AuthError
                })
                .await;
            assert_eq!(world.server.reuses(), 0, "{place}");
            let needs_person = rotates && matches!(step, RefreshStep::Intended | RefreshStep::Answered);
            let expected = if needs_person { InstanceStatus::AuthError } else { InstanceStatus::Connected };
            assert_eq!(survivor.status().await, expected, "{place}");
            if !needs_person {
                // One that was answered before the crash counts too.
                let answered_twice = !rotates && step == RefreshStep::Answered;
                assert_eq!(world.server.exchanges() - before, 1 + u32::from(answered_twice), "{place}");
                continue;
            }
            assert_interrupted(&survivor, &place).await;
            let again = survivor.refresh(true).await;
            if step == RefreshStep::Intended {
                // The server had never seen the token.
                again.expect("renewed");
                assert_eq!(survivor.status().await, InstanceStatus::Connected);
                survivor.read().await.expect("answered");
                assert_eq!(world.server.reuses(), 0);
            } else {
                assert_eq!(again.expect_err("the token was used up").code(), ErrorCode::Auth);
                let data = json!({"access_token": "x", "refresh_token": "y", "expires_in": 3_600});
                world.store_credential(&survivor.engine, data).await;
                assert_eq!(survivor.status().await, InstanceStatus::Connected);
            }
        }
    }
}

async fn assert_interrupted(process: &Process, place: &str) {
    let refresh = process.credential().await.refresh.expect("it could be renewed");
    assert!(refresh.interrupted, "{place}: {refresh:?}");
    let error = refresh.last_error.expect("the evidence");
    assert_eq!(error.kind, RefreshErrorKind::Interrupted, "{place}");
    assert!(error.message.starts_with("reconnect needed"), "{}", error.message);
    let instance = process.engine.instance(ID, &Principal::system()).await.expect("the instance");
    assert_eq!(instance.error.expect("it says why").message, error.message);
    assert_eq!(process.events(EventType::AuthFailed).await.len(), 1, "{place}");
    assert_eq!(process.refresh(false).await.expect_err("not without a word").code(), ErrorCode::Conflict);
}

#[tokio::test]
async fn a_process_that_was_paused_past_its_lease_still_brings_its_token_home() {
    for step in [RefreshStep::Intended, RefreshStep::Answered] {
        let (world, other) = World::new(true, json!({})).await;
        world.expire();
        let (paused, let_go) = held_at(&world, step).await;
        // The other waits while the lease holds, fails after it, and gives up in the end.
        world.clock.advance(LEASE + Duration::from_secs(1));
        let (code, retryable, message) = other.read().await.expect_err("interrupted");
        assert_eq!((code, retryable), (ErrorCode::Auth, true), "{message}");
        assert_eq!(other.status().await, InstanceStatus::Connected);
        world.clock.advance(LEASE * 2);
        other.until("given up", async |other| other.status().await == InstanceStatus::AuthError).await;
        assert_interrupted(&other, "paused").await;
        let_go.send_replace(true);
        other.until("healed", async |other| other.status().await == InstanceStatus::Connected).await;
        other.until("seen", async |other| other.read().await.is_ok()).await;
        paused.until("seen", async |paused| paused.read().await.is_ok()).await;
        assert_eq!((world.server.exchanges(), world.server.reuses()), (1, 0), "{step:?}");
    }
}

#[tokio::test]
async fn the_old_token_serves_while_an_interrupted_refresh_is_undecided() {
    let (world, survivor) = World::new(true, json!({})).await;
    world.clock.advance(HOUR - Duration::from_secs(200));
    let (crashed, _let_go) = held_at(&world, RefreshStep::Intended).await;
    crashed.kill();
    world.clock.advance(LEASE * 4);
    survivor.read().await.expect("the old token serves");
    survivor.until("noticed", async |process| process.credential().await.refresh.expect("known").interrupted).await;
    survivor.read().await.expect("the old token still serves");
    assert_eq!(survivor.status().await, InstanceStatus::Connected);
    assert_eq!(world.server.exchanges(), 0);
    world.expire();
    survivor.until("given up", async |process| process.status().await == InstanceStatus::AuthError).await;
    assert_eq!(world.server.reuses(), 0);
}

#[tokio::test]
async fn a_new_token_waits_for_a_store_that_fails() {
    let (world, _) = World::new(true, json!({})).await;
    world.expire();
    let (process, let_go) = held_at(&world, RefreshStep::Answered).await;
    let database = format!("sqlite://{}", world.folder.path().join("test.db").display());
    run(&database, "alter table credentials rename to credentials_away").await;
    let_go.send_replace(true);
    // Long enough for a commit that fails; nothing tells of it but the log.
    tokio::time::sleep(Duration::from_millis(300)).await;
    run(&database, "alter table credentials_away rename to credentials").await;
    process.until("stored", async |process| process.read().await.is_ok()).await;
    assert_eq!((world.server.exchanges(), world.server.reuses()), (1, 0));
}

async fn run(url: &str, statement: &'static str) {
    use sqlx::Connection as _;
    let mut connection = sqlx::SqliteConnection::connect(url).await.expect("connected");
    sqlx::raw_sql(statement).execute(&mut connection).await.expect(statement);
    connection.close().await.expect("closed");
}

#[tokio::test]
async fn a_credential_that_came_of_another_is_known_as_that_one() {
    let (world, process) = World::new(true, json!({})).await;
    let holds = async |data: Value| {
        let new = NewCredential { auth_type: AuthType::OAuth2, data };
        process.engine.holds_credential(ID, &new, &Principal::system()).await.expect("read")
    };
    let first = json!({"access_token": "access-0", "refresh_token": "refresh-0", "expires_in": 60});
    assert!(holds(first.clone()).await);
    for _ in 0..2 {
        process.refresh(false).await.expect("renewed");
        assert!(holds(first.clone()).await, "what a file names is not put in the place of what came of it");
    }
    assert!(!holds(json!({"access_token": "access-9", "refresh_token": "refresh-9"})).await);
    assert_eq!(world.server.reuses(), 0);
}

#[tokio::test]
async fn with_the_manual_strategy_only_a_person_renews() {
    let manual = json!({"refreshTokenConfig": {"strategy": "manual"}});
    let (world, process) = World::new(true, manual).await;
    world.expire();
    let (code, _, message) = process.read().await.expect_err("expired");
    assert_eq!(code, ErrorCode::Auth);
    assert!(message.contains("credentials/refresh"), "{message}");
    assert_eq!(world.server.exchanges(), 0);
    let status = process.refresh(false).await.expect("renewed");
    assert_eq!((status.status, world.server.exchanges()), (CredentialState::Valid, 1));
    process.read().await.expect("answered");
    let without = json!({"access_token": "access-1"});
    world.store_credential(&process.engine, without).await;
    assert_eq!(process.refresh(false).await.expect_err("no refresh token").code(), ErrorCode::Conflict);
}

#[tokio::test]
async fn what_one_process_changes_the_others_see() {
    let (world, first) = World::new(true, json!({})).await;
    let second = world.process(None).await;
    second.read().await.expect("answered");
    first.engine.disconnect_instance(ID, None, &Principal::system(), "test").await.expect("disconnected");
    let refused = async |process: &Process| matches!(process.read().await, Err((ErrorCode::InstanceNotReady, ..)));
    second.until("disconnected", refused).await;
    first.engine.connect_instance(ID, None, &Principal::system(), "test").await.expect("connected");
    second.until("connected", async |second| second.read().await.is_ok()).await;
    first.stop.cancel();
}
