//! Three processes on one store, fifty callers, and tokens that last for two seconds, given
//! by a provider that ends a grant whose refresh token comes twice. Processes are killed and
//! paused past their leases at random moments: no grant is lost but where a kill fell between
//! the provider's answer and its commit, and there the instance says so.
//!
//! The provider is the tests' own, or the certified `oidc-provider` with a witness before it.
//!
//! `INTEGRATION_GRANT_SECONDS` asks for a longer run, `INTEGRATION_SEED` for an earlier one's
//! dice.

mod provider;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_model::Timestamp;
use integration_store::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::crash::{Dice, number};
use crate::databases::OwnSchema;
use crate::oidc;
use crate::process::{Answer, Client, Process, folder};

use provider::Provider;

const PROCESSES: usize = 3;
const CALLERS: u64 = 50;
const GRANTS: usize = 12;
const TOKEN_LIFE: Duration = Duration::from_secs(2);
/// Short, and yet longer than a busy machine keeps a process waiting.
const LEASE: Duration = Duration::from_secs(2);
/// Longer than anything here takes: only a hang is cut off.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after a fault the processes that are left may feel it.
const AFTERMATH: Duration = Duration::from_secs(1);
/// The longest that an exchange takes on a busy machine, from its intent to its commit.
const EXCHANGE: Duration = Duration::from_secs(2);

fn now() -> Timestamp {
    Clock::system().now()
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.saturating_add(by)
}

/// What was done to a process.
#[derive(Debug, Clone, Copy)]
struct Fault {
    process: usize,
    is_kill: bool,
    from: Timestamp,
    /// When it served again; none while it does not.
    until: Option<Timestamp>,
}

/// The processes, and what was done to them.
struct Fleet {
    folder: TempDir,
    environment: Vec<(String, String)>,
    processes: Vec<Mutex<Option<Process>>>,
    addresses: Mutex<Vec<SocketAddr>>,
    faults: Mutex<Vec<Fault>>,
}

impl Fleet {
    fn start(folder: TempDir, environment: Vec<(String, String)>) -> Self {
        let mut addresses = Vec::new();
        let mut processes = Vec::new();
        for _ in 0..PROCESSES {
            let process = Process::start_with(folder.path(), &environment);
            addresses.push(process.address);
            processes.push(Mutex::new(Some(process)));
        }
        Self { folder, environment, processes, addresses: Mutex::new(addresses), faults: Mutex::default() }
    }

    fn address(&self, process: usize) -> SocketAddr {
        self.addresses.lock().unwrap()[process]
    }

    fn faults(&self) -> Vec<Fault> {
        self.faults.lock().unwrap().clone()
    }

    fn begin_fault(&self, process: usize, is_kill: bool) -> usize {
        let mut faults = self.faults.lock().unwrap();
        faults.push(Fault { process, is_kill, from: now(), until: None });
        faults.len() - 1
    }

    fn end_fault(&self, number: usize) {
        self.faults.lock().unwrap()[number].until = Some(now());
    }

    /// Kills a process, and after a while starts it again.
    async fn kill(&self, process: usize, down: Duration) {
        let number = self.begin_fault(process, true);
        self.processes[process].lock().unwrap().take().unwrap().kill();
        sleep(down).await;
        let (folder, environment) = (self.folder.path().to_owned(), self.environment.clone());
        let started = tokio::task::spawn_blocking(move || Process::start_with(&folder, &environment)).await.unwrap();
        self.addresses.lock().unwrap()[process] = started.address;
        *self.processes[process].lock().unwrap() = Some(started);
        self.end_fault(number);
    }

    /// Pauses a process for longer than its leases hold.
    async fn pause(&self, process: usize, pause: Duration) {
        let number = self.begin_fault(process, false);
        self.processes[process].lock().unwrap().as_ref().unwrap().pause();
        sleep(pause).await;
        self.processes[process].lock().unwrap().as_ref().unwrap().resume();
        self.end_fault(number);
    }

    /// Faults at random moments, a kill and a pause sometimes at once, never of one process.
    async fn trouble(&self, provider: &Provider, dice: &mut Dice, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_millis(200 + dice.below(800))).await;
            if dice.below(4) > 0 {
                // One of the processes waits for an answer, or has just got it.
                timeout(PATIENCE, provider.exchanged.notified()).await.expect("tokens are renewed");
                sleep(Duration::from_millis(dice.below(60))).await;
            }
            let victim = usize::try_from(dice.below(PROCESSES as u64)).unwrap();
            let other = (victim + 1 + usize::try_from(dice.below(2)).unwrap()) % PROCESSES;
            let down = Duration::from_millis(100 + dice.below(700));
            let pause = LEASE + Duration::from_millis(100 + dice.below(3_000));
            match dice.below(5) {
                0 | 1 => self.kill(victim, down).await,
                2 | 3 => self.pause(victim, pause).await,
                _ => {
                    tokio::join!(self.kill(victim, down), self.pause(other, pause));
                }
            }
        }
    }

    /// The fault that cut off an exchange which began then.
    fn cut_off(&self, begun: Timestamp) -> Option<Fault> {
        let cuts = |fault: &Fault| later(fault.from, AFTERMATH / 20) >= begun && fault.from <= later(begun, EXCHANGE);
        self.faults().into_iter().find(cuts)
    }

    /// Whether nothing was wrong for a while.
    fn is_quiet(&self) -> bool {
        let recent = now().saturating_sub(AFTERMATH * 2);
        self.faults().iter().all(|fault| fault.until.is_some_and(|until| until < recent))
    }
}

/// A call that failed, as its caller saw it.
#[derive(Debug)]
struct Failed {
    process: usize,
    from: Timestamp,
    until: Timestamp,
    /// None where the connection broke.
    answer: Option<Answer>,
}

impl Failed {
    /// Says what is not explained by a fault.
    fn explain(&self, fleet: &Fleet) -> Result<&'static str, String> {
        let faults = fleet.faults();
        let overlaps = |fault: &Fault, slack: Duration| {
            fault.from <= later(self.until, slack) && fault.until.is_none_or(|until| later(until, slack) >= self.from)
        };
        let Some(answer) = &self.answer else {
            let killed = faults.iter().any(|fault| {
                fault.is_kill && fault.process == self.process && overlaps(fault, Duration::from_millis(200))
            });
            return if killed { Ok("killed") } else { Err(format!("a connection broke: {self:?} {faults:?}")) };
        };
        let error = &answer.body["error"];
        let message = error["message"].as_str().unwrap_or_default();
        let interrupted_at = error["details"]["refresh"]["unansweredAt"]
            .as_str()
            .filter(|_| error["details"]["refresh"]["kind"] == "interrupted")
            .or_else(|| message.split("the token refresh of ").nth(1)?.split(' ').next());
        if let Some(begun) = interrupted_at {
            let begun = Timestamp::parse(begun).unwrap();
            // A paused process may hold locks of the database, for which an exchange of another waits.
            let held_up = |fault: &Fault| {
                !fault.is_kill && fault.from <= self.until && fault.until.is_none_or(|until| until >= begun)
            };
            return match fleet.cut_off(begun) {
                Some(_) => Ok("interrupted"),
                None if faults.iter().any(held_up) => Ok("held up"),
                None => Err(format!("nothing cut off the exchange of {begun}: {self:?} {faults:?}")),
            };
        }
        // A paused process finds its time gone; on SQLite it may have held the file's lock.
        let paused = faults.iter().any(|fault| !fault.is_kill && overlaps(fault, AFTERMATH));
        if paused { Ok("paused") } else { Err(format!("no fault explains it: {self:?}")) }
    }
}

/// What all callers together saw.
#[derive(Default)]
struct Seen {
    succeeded: AtomicU64,
    failed: Mutex<Vec<Failed>>,
    stop: AtomicBool,
}

async fn call_on(fleet: Arc<Fleet>, seen: Arc<Seen>, mut dice: Dice) {
    let mut clients: BTreeMap<usize, (SocketAddr, Client)> = BTreeMap::new();
    while !seen.stop.load(Ordering::Relaxed) {
        let process = usize::try_from(dice.below(PROCESSES as u64)).unwrap();
        let instance = dice.below(GRANTS as u64);
        let from = now();
        let call = call(&fleet, &mut clients, process, instance);
        let answer = timeout(PATIENCE, call).await.expect("every call ends");
        match answer {
            Some(answer) if answer.status == 200 => drop(seen.succeeded.fetch_add(1, Ordering::Relaxed)),
            answer => {
                seen.failed.lock().unwrap().push(Failed { process, from, until: now(), answer });
                sleep(Duration::from_millis(50)).await;
            }
        }
        sleep(Duration::from_millis(dice.below(100))).await;
    }
}

async fn call(
    fleet: &Fleet,
    clients: &mut BTreeMap<usize, (SocketAddr, Client)>,
    process: usize,
    instance: u64,
) -> Option<Answer> {
    let (address, path) = (fleet.address(process), format!("grant-{instance}/read"));
    if let Some((known, mut client)) = clients.remove(&process)
        && known == address
        && let Ok(answer) = client.execute(&path, &json!({}), &[]).await
    {
        clients.insert(process, (address, client));
        return Some(answer);
    }
    // A connection that was kept may belong to a process that is gone; a new one does not.
    let mut client = Client::connect(address).await.ok()?;
    let answer = client.execute(&path, &json!({}), &[]).await.ok()?;
    clients.insert(process, (address, client));
    Some(answer)
}

/// What a person had to do.
#[derive(Debug, Default)]
struct Tended {
    /// Grants that a kill took with it.
    lost: u32,
    /// Exchanges that had never reached the provider, and were made at a person's word.
    repeated: u32,
}

/// Connects again what says that it needs it, where that is true. Gives whether all is well.
async fn tend(fleet: &Fleet, provider: &Provider, process: usize, tended: &mut Tended) -> Option<bool> {
    let mut client = Client::connect(fleet.address(process)).await.ok()?;
    let mut well = true;
    for number in 0..GRANTS {
        let path = format!("/api/v1/integration-instances/grant-{number}");
        let instance = client.get(&path).await.ok()?.body;
        if instance["status"] == "CONNECTED" {
            continue;
        }
        well = false;
        if !fleet.is_quiet() {
            continue;
        }
        let status = client.get(&format!("{path}/credentials/status")).await.ok()?.body;
        // A process that was paused may just have come home.
        if client.get(&path).await.ok()?.body["status"] == "CONNECTED" || !fleet.is_quiet() {
            continue;
        }
        assert_eq!(instance["status"], "AUTH_ERROR", "{instance}");
        assert_eq!(status["refresh"]["interrupted"], true, "{instance} {status}");
        let begun = status["refresh"]["lastError"]["unansweredAt"].as_str().unwrap();
        let begun = Timestamp::parse(begun).unwrap();
        let fault = fleet.cut_off(begun).unwrap_or_else(|| panic!("nothing cut off the exchange of {begun}: {status}"));
        assert!(fault.is_kill, "a pause loses nothing: {fault:?} {status}");
        let last_exchange = provider.last_exchange(number);
        let was_answered = last_exchange.is_some_and(|at| later(at, AFTERMATH / 20) >= begun);
        let (path, body) = if was_answered {
            tended.lost += 1;
            (format!("{path}/credentials"), json!({"type": "oauth2", "data": provider.grant(number).await}))
        } else {
            tended.repeated += 1;
            (format!("{path}/credentials/refresh"), json!({"retryInterrupted": true}))
        };
        let answer = client.post(&path, &body).await.ok()?;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }
    Some(well)
}

async fn tend_until_well(fleet: &Fleet, provider: &Provider, tended: &mut Tended, seen: &Seen) {
    let mut looks = interval(Duration::from_millis(250));
    for process in (0..PROCESSES).cycle() {
        looks.tick().await;
        // A paused process answers when it goes on.
        let look = timeout(PATIENCE, tend(fleet, provider, process, tended)).await.expect("it answers");
        if look == Some(true) && seen.stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn configuration(provider: SocketAddr) -> String {
    let instances: Vec<Value> = (0..GRANTS)
        .map(|number| {
            json!({"id": format!("grant-{number}"), "integrationDefinitionId": "rotating",
                "config": {"baseUrl": format!("http://{provider}")}})
        })
        .collect();
    json!({
        "definitions": [{
            "id": "rotating", "name": "Rotating", "version": "1.0.0", "type": "http", "authType": "oauth2",
            "oauth2Config": {
                "clientId": "basic", "clientSecret": oidc::SECRET, "tokenUrl": format!("http://{provider}/token"),
                "tokenEndpointAuthMethod": "client_secret_basic",
            },
            "methods": [{"name": "read", "operation": {"verb": "GET", "path": "/thing"}}],
        }],
        "instances": instances,
    })
    .to_string()
}

#[expect(clippy::print_stdout, reason = "the runner shows it where the test fails")]
async fn endure(provider: Provider, environment: Vec<(String, String)>) {
    let length = Duration::from_secs(number("INTEGRATION_GRANT_SECONDS", 20));
    let seed = number("INTEGRATION_SEED", u64::from(std::process::id()));
    println!("INTEGRATION_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = folder(&[
        ("integration_service.yaml", &format!("execution: {{leaseMs: {}}}\n", LEASE.as_millis())),
        ("integrations.yaml", &configuration(provider.start().await)),
    ]);
    let fleet = Arc::new(Fleet::start(folder, environment));
    let mut client = Client::connect(fleet.address(0)).await.unwrap();
    for number in 0..GRANTS {
        let path = format!("/api/v1/integration-instances/grant-{number}/credentials");
        let credential = json!({"type": "oauth2", "data": provider.grant(number).await});
        let stored = client.post(&path, &credential).await.unwrap();
        assert_eq!(stored.status, 201, "{stored:?}");
    }
    // All have seen it.
    sleep(AFTERMATH).await;

    let seen = Arc::new(Seen::default());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_on(Arc::clone(&fleet), Arc::clone(&seen), Dice(dice.below(u64::MAX))));
    }
    let mut tended = Tended::default();
    let trouble = async {
        fleet.trouble(&provider, &mut dice, Instant::now() + length).await;
        // What was cut off last is noticed, and comes home or is connected again.
        sleep(TOKEN_LIFE + LEASE * 4 + AFTERMATH * 2).await;
        seen.stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(trouble, tend_until_well(&fleet, &provider, &mut tended, &seen));
    callers.join_all().await;

    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for failed in seen.failed.lock().unwrap().iter() {
        *reasons.entry(failed.explain(&fleet).unwrap_or_else(|fault| panic!("{fault}"))).or_default() += 1;
    }
    let exchanges = provider.exchanges();
    let succeeded = seen.succeeded.load(Ordering::Relaxed);
    println!("{succeeded} calls succeeded, failed: {reasons:?}; {exchanges} exchanges; {tended:?}");
    println!("{} faults", fleet.faults().len());
    assert!(succeeded > 10 * length.as_secs(), "the service works most of the time");
    assert!(exchanges as u64 > length.as_secs(), "tokens are renewed");
    assert_eq!(provider.reuses(), Vec::<String>::new(), "no refresh token comes twice");
    for process in 0..PROCESSES {
        let mut client = Client::connect(fleet.address(process)).await.unwrap();
        for number in 0..GRANTS {
            let answer = client.execute(&format!("grant-{number}/read"), &json!({}), &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_is_lost_to_kills_and_pauses() {
    endure(Provider::default(), Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_of_a_certified_provider_is_lost_to_kills_and_pauses() {
    let Some(provider) = Provider::certified() else { return };
    endure(provider, Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_is_lost_to_kills_and_pauses_on_postgresql() {
    let Some(database) = OwnSchema::create().await else { return };
    endure(Provider::default(), database.environment()).await;
    database.drop().await;
}
