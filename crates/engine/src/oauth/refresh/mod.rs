//! Renewing tokens so that no grant is lost: one exchange at a time for each credential, over
//! all processes; its intent committed before it is sent, the new token before it is used.
//!
//! Owns: who may renew a token, when, and what becomes of an exchange that failed or was cut
//! off. Must not know: how token endpoints are spoken to, nor what calls do with a token.

mod callers;
mod exchange;
mod outcome;
mod policy;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use integration_model::credential::RefreshError;
use integration_model::{InstanceId, Timestamp};
use metrics::{counter, gauge};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Engine;

pub use callers::{RefreshReply, RefreshRequest};
pub(crate) use policy::RefreshPolicy;

/// How often credentials whose renewal is due are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// Renewals that no call waits for, at once.
const IN_BACKGROUND: usize = 16;
/// The most due credentials that are read at once.
const MOST_DUE: u32 = 1_000;
/// How often leases that ended are counted, in looks.
const COUNT_EVERY: u32 = 20;
/// How long exchanges under way may take to end when the service stops.
const STOP_WAIT: Duration = Duration::from_secs(8);

/// A step of a refresh; a crash before it and a crash after it leave different things behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefreshStep {
    /// Nothing is written yet.
    Begin,
    /// The intent is committed; nothing is sent.
    Intended,
    /// The token endpoint has answered; nothing is written of it.
    Answered,
    /// The outcome is committed; nobody in this process knows.
    Committed,
}

/// Is told of the steps of refreshes, each before it goes on: tests hold or end a process there.
pub trait RefreshProbe: Send + Sync {
    fn reached(&self, step: RefreshStep, instance: &InstanceId) -> BoxFuture<'static, ()>;
}

/// How a refresh ended.
#[derive(Debug, Clone)]
pub(crate) enum RefreshOutcome {
    /// Another credential is stored than the one that was to be renewed.
    Renewed,
    /// There is nothing that could be renewed; says why.
    NotRenewable(&'static str),
    /// It failed for now; the grant is as it was.
    Later { error: RefreshError, retry_at: Timestamp },
    /// The external system refused for good.
    Refused(RefreshError),
    /// An exchange was cut off, and its outcome is not known. `until` is how long its process
    /// is waited for; none where it was given up.
    Interrupted { error: RefreshError, until: Option<Timestamp> },
    /// The service itself failed; says at what.
    Failed(&'static str),
}

/// What is asked for: another credential than the one of this id.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) instance: InstanceId,
    pub(crate) secret: Uuid,
    /// Why it is asked for.
    pub(crate) cause: Cause,
    pub(crate) correlation_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its time has come.
    Time,
    /// The external system refused the token.
    TokenRefused,
    /// A person asked; with `retry_interrupted`, also where the outcome of an earlier exchange
    /// is not known.
    Person { retry_interrupted: bool },
}

impl Cause {
    const fn is_person(self) -> bool {
        matches!(self, Self::Person { .. })
    }
}

/// Tells those who wait for a refresh how it ended.
type Done = watch::Sender<Option<RefreshOutcome>>;

/// A refresh under way.
#[derive(Clone)]
struct Flight {
    done: watch::Receiver<Option<RefreshOutcome>>,
    /// Whether no call began it.
    in_background: bool,
}

/// The refreshes under way in this process: one for each instance, shared by all who want it.
pub(crate) struct Refreshes {
    flights: Mutex<HashMap<InstanceId, Flight>>,
    wishes: mpsc::UnboundedSender<(Wish, Done)>,
    /// Taken by the loop that makes the refreshes.
    taken: Mutex<Option<mpsc::UnboundedReceiver<(Wish, Done)>>>,
    probe: Option<Arc<dyn RefreshProbe>>,
}

impl Refreshes {
    pub(crate) fn new(probe: Option<Arc<dyn RefreshProbe>>) -> Self {
        let (wishes, taken) = mpsc::unbounded_channel();
        Self { flights: Mutex::default(), wishes, taken: Mutex::new(Some(taken)), probe }
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a refresh made, or joins the one under way. None where the service is stopping.
    fn join(&self, wish: Wish, in_background: bool) -> Option<Flight> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&wish.instance) {
            return Some(flight.clone());
        }
        let (sender, done) = watch::channel(None);
        let flight = Flight { done, in_background };
        let instance = wish.instance.clone();
        self.wishes.send((wish, sender)).ok()?;
        flights.insert(instance, flight.clone());
        Some(flight)
    }

    /// Whether no refresh of the instance is under way in this process.
    fn is_idle(&self, instance: &InstanceId) -> bool {
        !self.flights().contains_key(instance)
    }

    async fn reached(&self, step: RefreshStep, instance: &InstanceId) {
        if let Some(probe) = &self.probe {
            probe.reached(step, instance).await;
        }
    }
}

/// Counts an exchange by how it ended.
fn count(outcome: &'static str) {
    counter!("integration_token_refreshes_total", "outcome" => outcome).increment(1);
}

/// Takes a flight off the list when it ends, however it ends.
struct Landing<'a> {
    engine: &'a Engine,
    instance: InstanceId,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.engine.refreshes.flights().remove(&self.instance);
        gauge!("integration_token_refreshes_in_flight").decrement(1.0);
    }
}

impl Engine {
    /// Makes the refreshes of this process, those that calls ask for and those whose time has
    /// come, until told to stop; then waits a while for those under way.
    pub async fn run_refresh(self: Arc<Self>, stop: CancellationToken) {
        let wishes = self.refreshes.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut wishes) = wishes else { return };
        let tasks = TaskTracker::new();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some((wish, done)) = wishes.recv() => self.start_refresh(wish, done, &tasks),
                _ = looks.tick() => {
                    self.ask_for_due().await;
                    if number.is_multiple_of(COUNT_EVERY) {
                        self.count_interrupted().await;
                    }
                    number = number.wrapping_add(1);
                }
            }
        }
        wishes.close();
        tasks.close();
        if tokio::time::timeout(STOP_WAIT, tasks.wait()).await.is_err() {
            tracing::warn!(refreshes = tasks.len(), "token refreshes were still under way at the end of the shutdown");
        }
    }

    fn start_refresh(self: &Arc<Self>, wish: Wish, done: Done, tasks: &TaskTracker) {
        let engine = Arc::clone(self);
        gauge!("integration_token_refreshes_in_flight").increment(1.0);
        tasks.spawn(async move {
            let landing = Landing { engine: &engine, instance: wish.instance.clone() };
            let outcome = engine.refresh(&wish).await;
            // Who asks from here on finds the store changed, and no flight to join.
            drop(landing);
            done.send_replace(Some(outcome));
        });
    }

    /// Asks for the refresh of credentials whose time has come, as many as there is room for.
    async fn ask_for_due(&self) {
        let (under_way, in_background) = {
            let flights = self.refreshes.flights();
            (flights.len(), flights.values().filter(|flight| flight.in_background).count())
        };
        let room = IN_BACKGROUND.saturating_sub(in_background);
        // Of those that are due, some may be under way here.
        let limit = u32::try_from(room + under_way).unwrap_or(u32::MAX).min(MOST_DUE);
        let due = match self.store.due_refreshes(limit).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(error = %error, "due token refreshes could not be looked for");
                return;
            }
        };
        let now = self.store.clock().now();
        let overdue = due.first().map_or(Duration::ZERO, |oldest| now.since(oldest.due_at));
        gauge!("integration_token_refresh_overdue_seconds").set(overdue.as_secs_f64());
        for due in due.into_iter().filter(|due| self.refreshes.is_idle(&due.instance)).take(room) {
            let wish = Wish { instance: due.instance, secret: due.secret, cause: Cause::Time, correlation_id: None };
            self.refreshes.join(wish, true);
        }
    }

    async fn count_interrupted(&self) {
        match self.store.interrupted_refreshes().await {
            Ok(count) => gauge!("integration_token_refreshes_interrupted").set(count as f64),
            Err(error) => tracing::error!(error = %error, "interrupted token refreshes could not be counted"),
        }
    }
}
