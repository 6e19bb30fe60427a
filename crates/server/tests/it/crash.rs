//! The service killed at random moments under load: what it answered for is there when it
//! comes back, and no call that is not safe to repeat is made twice.
//!
//! `INTEGRATION_KILLS` asks for more kills, `INTEGRATION_SEED` for those of an earlier run.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::databases::OwnSchema;
use crate::keys::{command, run};
use crate::process::{Answer, Client, Gone, Process, folder};

const CALLERS: u64 = 8;
/// Longer than anything here takes: only a hang is cut off.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something that comes by itself is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// Numbers that look random and come again with their seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Counts the charges that reach it, by their id, and takes a while to answer.
#[derive(Clone, Default)]
struct Upstream(Arc<Mutex<HashMap<String, u32>>>);

impl Upstream {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let upstream = upstream.clone();
                let service = service_fn(move |request| upstream.clone().charge(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }

    async fn charge(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let body = request.into_body().collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let id = body["id"].as_str().unwrap().to_owned();
        *self.0.lock().unwrap().entry(id.clone()).or_default() += 1;
        // So that kills fall between the request and its answer too.
        tokio::time::sleep(Duration::from_millis(id.bytes().map(u64::from).sum::<u64>() % 12)).await;
        let answer = Response::builder().header("content-type", "application/json");
        Ok(answer.body(Full::from(json!({"charged": id}).to_string())).unwrap())
    }

    fn count(&self, id: &str) -> u32 {
        self.0.lock().unwrap().get(id).copied().unwrap_or_default()
    }
}

/// A call as its caller knows it.
struct Call {
    id: String,
    asynchronous: bool,
    keyed: bool,
    /// None where the connection broke before the answer.
    answer: Option<Answer>,
}

impl Call {
    fn random(id: String, dice: &mut Dice) -> Self {
        Self { id, asynchronous: dice.below(2) == 0, keyed: dice.below(2) == 0, answer: None }
    }

    async fn make(&self, client: &mut Client) -> Result<Answer, Gone> {
        let mut headers = vec![("x-correlation-id", self.id.as_str())];
        if self.asynchronous {
            headers.push(("prefer", "respond-async"));
        }
        if self.keyed {
            headers.push(("idempotency-key", self.id.as_str()));
        }
        client.execute("ledger/charge", &json!({"id": self.id}), &headers).await
    }
}

fn configuration(upstream: SocketAddr) -> String {
    json!({
        "definitions": [{
            "id": "ledger", "name": "Ledger", "version": "1.0.0", "type": "http", "authType": "none",
            "methods": [{
                "name": "charge",
                "operation": {"verb": "POST", "path": "/charges", "body": "*"},
                "retryConfig": {"maxRetries": 3, "initialDelayMs": 5, "maxDelayMs": 20},
            }],
        }],
        "instances": [
            {"id": "ledger", "integrationDefinitionId": "ledger", "config": {"baseUrl": format!("http://{upstream}")}},
        ],
    })
    .to_string()
}

#[expect(clippy::disallowed_methods, reason = "the settings of a test are read where it is")]
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kills_and_nothing_is_done_twice() {
    endure(&[], Survivors::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kills_on_postgresql() {
    let Some(database) = OwnSchema::create().await else { return };
    endure(&database.environment(), Survivors::None).await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_by_a_killed_process_is_found_by_others() {
    let Some(database) = OwnSchema::create().await else { return };
    endure(&database.environment(), Survivors::One).await;
    database.drop().await;
}

/// Who is left when the service is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Survivors {
    None,
    /// Another process on the same database, which is asked before the killed one is back.
    One,
}

#[expect(clippy::print_stdout, reason = "the runner shows it where the test fails")]
async fn endure(environment: &[(String, String)], survivors: Survivors) {
    let kills = number("INTEGRATION_KILLS", 8);
    let seed = number("INTEGRATION_SEED", u64::from(std::process::id()));
    println!("INTEGRATION_SEED={seed}");
    let mut dice = Dice(seed);
    let upstream = Upstream::default();
    let configuration = configuration(upstream.start().await);
    let folder_of = || {
        folder(&[
            ("integration_service.yaml", "execution: {leaseMs: 1000}\n"),
            ("integrations.yaml", configuration.as_str()),
        ])
    };
    let (folder, other_folder) = (folder_of(), folder_of());
    let start = || Process::start_with(folder.path(), environment);
    let survivor = (survivors == Survivors::One).then(|| Process::start_with(other_folder.path(), environment));
    let mut process = start();
    let mut calls = Vec::new();
    for round in 0..kills {
        let fresh = hammer_and_kill(process, round, &mut dice).await;
        if let Some(survivor) = &survivor {
            timeout(PATIENCE, verify(survivor.address, &upstream, &fresh)).await.expect("nothing is left undecided");
        }
        process = start();
        timeout(PATIENCE, verify(process.address, &upstream, &fresh)).await.expect("nothing is left undecided");
        calls.extend(fresh);
    }
    for call in &calls {
        assert!(upstream.count(&call.id) <= 1, "{} reached the upstream twice", call.id);
    }
    // What the kills left of the audit is one chain, and has each call that was answered.
    let ask = |arguments: &[&str]| run(command(folder.path(), arguments).envs(environment.iter().cloned()));
    let said = ask(&["audit", "verify"]);
    assert!(said.contains("\nhead "), "{said}");
    let exported = ask(&["audit", "export", "--action", "method.executed"]);
    let executed: HashSet<String> = exported.lines().map(|line| correlation_id(line).unwrap()).collect();
    for call in calls.iter().filter(|call| call.answer.is_some()) {
        assert!(executed.contains(&call.id), "{} is not in the audit", call.id);
    }
}

fn correlation_id(line: &str) -> Option<String> {
    let entry: Value = serde_json::from_str(line).ok()?;
    entry["correlationId"].as_str().map(str::to_owned)
}

/// Lets callers loose, kills the service at a random moment, and gives what they made.
async fn hammer_and_kill(process: Process, round: u64, dice: &mut Dice) -> Vec<Call> {
    let (told, mut answered) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let dice = Dice(dice.below(u64::MAX));
        callers.spawn(call_until_gone(process.address, format!("{round}-{caller}"), dice, told.clone()));
    }
    for _ in 0..20 + dice.below(100) {
        timeout(PATIENCE, answered.recv()).await.expect("calls are answered").expect("a caller is left");
    }
    // Not always right after an answer.
    tokio::time::sleep(Duration::from_micros(dice.below(8_000))).await;
    process.kill();
    callers.join_all().await.into_iter().flatten().collect()
}

async fn call_until_gone(
    address: SocketAddr,
    name: String,
    mut dice: Dice,
    answered: mpsc::UnboundedSender<()>,
) -> Vec<Call> {
    let mut calls = Vec::new();
    let Ok(mut client) = Client::connect(address).await else { return calls };
    loop {
        let mut call = Call::random(format!("{name}-{}", calls.len()), &mut dice);
        call.answer = call.make(&mut client).await.ok();
        let gone = call.answer.is_none();
        if let Some(answer) = &call.answer {
            assert_eq!(answer.status, if call.asynchronous { 202 } else { 200 }, "{answer:?}");
            // Whoever listens has heard enough.
            let _ = answered.send(());
        }
        calls.push(call);
        if gone {
            return calls;
        }
    }
}

async fn verify(address: SocketAddr, upstream: &Upstream, calls: &[Call]) {
    let mut client = Client::connect(address).await.expect("the service is back");
    queue_is_empty(&mut client).await;
    let events = events(&mut client).await;
    for call in calls {
        let count = upstream.count(&call.id);
        assert!(count <= 1, "{} reached the upstream twice", call.id);
        let Some(answer) = &call.answer else { continue };
        let execution = client.get(&format!("/api/v1/executions/{}", answer.execution_id())).await.unwrap();
        assert_eq!(execution.status, 200, "the execution of {} is lost: {execution:?}", call.id);
        let status = execution.body["status"].as_str().unwrap();
        let kind = match status {
            "SUCCESS" => {
                assert_eq!(count, 1, "{} succeeded", call.id);
                "integration.method.executed"
            }
            "ERROR" if call.asynchronous => {
                assert_eq!(execution.body["error"]["details"]["outcome"], "unknown", "{execution:?}");
                "integration.method.failed"
            }
            _ => panic!("{} was acknowledged and is {status}", call.id),
        };
        assert_eq!(events.get(&call.id).map(Vec::as_slice), Some(&[kind.to_owned()][..]), "the events of {}", call.id);
    }
    for call in calls.iter().filter(|call| call.keyed) {
        repeat(&mut client, upstream, call).await;
    }
    queue_is_empty(&mut client).await;
}

/// The same key again: the same answer, the first one, or that nobody knows.
async fn repeat(client: &mut Client, upstream: &Upstream, call: &Call) {
    let mut glances = interval(GLANCE);
    let again = loop {
        let again = call.make(client).await.unwrap();
        // Until the lease of the process that was killed has ended.
        if again.status != 409 {
            break again;
        }
        assert_eq!(again.body["error"]["code"], "IDEMPOTENCY_KEY_IN_USE", "{again:?}");
        glances.tick().await;
    };
    if let Some(answer) = &call.answer {
        assert_eq!((again.status, &again.body), (answer.status, &answer.body), "{}", call.id);
        assert_eq!(again.headers["idempotency-replayed"], "true");
    }
    match again.status {
        200 => assert_eq!(upstream.count(&call.id), 1, "{}", call.id),
        202 => assert!(call.asynchronous),
        _ => assert_eq!(again.body["error"]["details"]["outcome"], "unknown", "{again:?}"),
    }
}

/// Waits until every asynchronous execution has ended.
async fn queue_is_empty(client: &mut Client) {
    let mut glances = interval(GLANCE);
    loop {
        let mut open = 0;
        for status in ["QUEUED", "RUNNING"] {
            let list = client.get(&format!("/api/v1/executions?status={status}&limit=200")).await.unwrap();
            open += list.body["items"].as_array().unwrap().len();
        }
        if open == 0 {
            return;
        }
        glances.tick().await;
    }
}

/// The types of the events of each call.
async fn events(client: &mut Client) -> HashMap<String, Vec<String>> {
    let mut events: HashMap<String, Vec<String>> = HashMap::new();
    let mut path = "/api/v1/events?limit=200".to_owned();
    loop {
        let page = client.get(&path).await.unwrap();
        for event in page.body["items"].as_array().unwrap() {
            let call = event["metadata"]["correlationId"].as_str().unwrap();
            events.entry(call.to_owned()).or_default().push(event["type"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page.body["nextCursor"].as_str() else { return events };
        path = format!("/api/v1/events?limit=200&cursor={cursor}");
    }
}
