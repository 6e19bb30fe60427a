//! The circuit breaker: keeps calls from an upstream that fails.
//!
//! Owns: the states closed, open and half-open, and who may probe. Must not know: what a
//! failure is; the caller decides that.

use std::sync::Mutex;
use std::time::Duration;

use integration_model::definition::CircuitBreakerConfig;
use tokio::time::Instant;

use super::lock;
use crate::prefetch;

/// The window slides in this many steps: a failure counts for the window's length, or up to
/// one step longer. Memory stays the same whatever the threshold.
const STEPS: u32 = 64;
/// What a refused call is told to wait for while others probe.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// The longest time that a definition may ask for.
const LONGEST_OPEN: Duration = Duration::from_secs(86_400);

/// One breaker, shared by all calls of one kind.
///
/// Closed: all calls pass; `failureThreshold` failures within `windowMs` open it. Open: no
/// call passes for `openMs`. Half-open: up to `halfOpenMaxCalls` at once pass as probes; the
/// first that succeeds closes the breaker, the first that fails opens it again.
#[derive(Debug)]
pub struct CircuitBreaker {
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A change of state, told once: to the call that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// With how many failures counted.
    Opened {
        failures: u32,
    },
    HalfOpened,
    Closed,
}

/// The breaker lets no call pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Until probes are let through.
    pub retry_after: Duration,
}

/// A breaker at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakerSnapshot {
    /// Half-open as soon as a probe would be let through.
    pub state: State,
    /// Failures within the window; while open, those that opened it.
    pub failures: u32,
    pub opened_at: Option<Instant>,
    /// Until probes are let through; only while open.
    pub retry_after: Option<Duration>,
    pub half_open_in_flight: u32,
}

#[derive(Debug)]
struct Inner {
    config: CircuitBreakerConfig,
    phase: Phase,
    failures: FailureWindow,
    /// Counts the changes of phase, so that the verdict on a call from before does not touch
    /// the phase after.
    epoch: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { since: Instant, failures: u32 },
    HalfOpen { since: Instant, failures: u32, in_flight: u32 },
}

/// Leave to make one call. Dropped without a verdict, as when the call is cancelled, it gives
/// back its place among the probes and counts as nothing.
#[derive(Debug)]
#[must_use = "a call without a verdict counts as nothing"]
pub struct Ticket<'a> {
    breaker: &'a CircuitBreaker,
    epoch: u64,
    is_probe: bool,
    transition: Option<Transition>,
    settled: bool,
}

impl CircuitBreaker {
    pub fn new(config: &CircuitBreakerConfig, now: Instant) -> Self {
        let inner = Inner {
            config: *config,
            phase: Phase::Closed,
            failures: FailureWindow::new(Duration::from_millis(config.window_ms), now),
            epoch: 0,
        };
        Self { inner: Mutex::new(inner) }
    }

    pub(crate) fn prefetch(&self) {
        prefetch::words(self.inner.is_poisoned());
    }

    /// Asks for leave to make a call.
    pub fn acquire(&self, now: Instant) -> Result<Ticket<'_>, Open> {
        let mut inner = lock(&self.inner);
        let mut transition = None;
        if let Phase::Open { since, failures } = inner.phase {
            let retry_after = inner.open_left(since, now);
            if !retry_after.is_zero() {
                return Err(Open { retry_after });
            }
            inner.enter(Phase::HalfOpen { since, failures, in_flight: 0 });
            transition = Some(Transition::HalfOpened);
        }
        let max_probes = inner.config.half_open_max_calls.max(1);
        let mut is_probe = false;
        if let Phase::HalfOpen { in_flight, .. } = &mut inner.phase {
            if *in_flight >= max_probes {
                let retry_after = PROBE_WAIT.min(Duration::from_millis(inner.config.open_ms.max(1)));
                return Err(Open { retry_after });
            }
            *in_flight += 1;
            is_probe = true;
        }
        Ok(Ticket { breaker: self, epoch: inner.epoch, is_probe, transition, settled: false })
    }

    pub fn snapshot(&self, now: Instant) -> CircuitBreakerSnapshot {
        let mut inner = lock(&self.inner);
        let (state, failures, opened_at, retry_after, half_open_in_flight) = match inner.phase {
            Phase::Closed => (State::Closed, inner.failures.count(now), None, None, 0),
            Phase::Open { since, failures } => match inner.open_left(since, now) {
                Duration::ZERO => (State::HalfOpen, failures, Some(since), None, 0),
                left => (State::Open, failures, Some(since), Some(left), 0),
            },
            Phase::HalfOpen { since, failures, in_flight } => (State::HalfOpen, failures, Some(since), None, in_flight),
        };
        CircuitBreakerSnapshot { state, failures, opened_at, retry_after, half_open_in_flight }
    }

    /// Closes the breaker and forgets all failures, as an operator may ask.
    pub fn reset(&self, now: Instant) -> Option<Transition> {
        let mut inner = lock(&self.inner);
        let was_closed = matches!(inner.phase, Phase::Closed);
        inner.close(now);
        (!was_closed).then_some(Transition::Closed)
    }

    /// Changes the settings. The state stays; failures counted in a window of another length
    /// are forgotten.
    pub fn reconfigure(&self, now: Instant, config: &CircuitBreakerConfig) {
        let mut inner = lock(&self.inner);
        if inner.config.window_ms != config.window_ms {
            inner.failures = FailureWindow::new(Duration::from_millis(config.window_ms), now);
        }
        inner.config = *config;
    }
}

impl Inner {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }

    fn close(&mut self, now: Instant) {
        self.failures.clear(now);
        self.enter(Phase::Closed);
    }

    fn open(&mut self, now: Instant, failures: u32) -> Transition {
        self.enter(Phase::Open { since: now, failures });
        Transition::Opened { failures }
    }

    fn open_left(&self, since: Instant, now: Instant) -> Duration {
        let open_for = Duration::from_millis(self.config.open_ms).min(LONGEST_OPEN);
        (since + open_for).saturating_duration_since(now)
    }

    fn fail(&mut self, now: Instant) -> Option<Transition> {
        match self.phase {
            Phase::Closed => {
                let failures = self.failures.add(now);
                (failures >= self.config.failure_threshold.max(1)).then(|| self.open(now, failures))
            }
            Phase::HalfOpen { failures, .. } => Some(self.open(now, failures.saturating_add(1))),
            Phase::Open { .. } => None,
        }
    }
}

impl Ticket<'_> {
    /// The change of state that letting this call through was, if it was one.
    pub fn transition(&self) -> Option<Transition> {
        self.transition
    }

    /// Whether the outcome of this call decides over the breaker.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The upstream answered as a sound one does.
    pub fn success(mut self, now: Instant) -> Option<Transition> {
        self.settled = true;
        if !self.is_probe {
            return None;
        }
        let mut inner = lock(&self.breaker.inner);
        if inner.epoch != self.epoch {
            return None;
        }
        inner.close(now);
        Some(Transition::Closed)
    }

    /// The upstream failed.
    pub fn failure(mut self, now: Instant) -> Option<Transition> {
        self.settled = true;
        let mut inner = lock(&self.breaker.inner);
        if inner.epoch != self.epoch { None } else { inner.fail(now) }
    }

    /// The call says nothing of the upstream's health.
    pub fn ignored(self) {}
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.settled || !self.is_probe {
            return;
        }
        let mut inner = lock(&self.breaker.inner);
        if inner.epoch == self.epoch
            && let Phase::HalfOpen { in_flight, .. } = &mut inner.phase
        {
            *in_flight = in_flight.saturating_sub(1);
        }
    }
}

/// Failures counted over a sliding window, in a ring of steps.
#[derive(Debug)]
struct FailureWindow {
    step: Duration,
    /// The current step is `counts[current % STEPS]`; it began at `step_began`.
    counts: [u32; STEPS as usize],
    current: usize,
    step_began: Instant,
    total: u32,
}

impl FailureWindow {
    fn new(length: Duration, now: Instant) -> Self {
        let step = (length / (STEPS - 1)).max(Duration::from_micros(1));
        Self { step, counts: [0; STEPS as usize], current: 0, step_began: now, total: 0 }
    }

    fn clear(&mut self, now: Instant) {
        self.counts = [0; STEPS as usize];
        self.total = 0;
        self.step_began = now;
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.step_began);
        if elapsed < self.step {
            return;
        }
        let steps = elapsed.as_nanos() / self.step.as_nanos();
        if steps >= u128::from(STEPS) {
            self.clear(now);
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % self.counts.len();
            self.total -= std::mem::take(&mut self.counts[self.current]);
            self.step_began += self.step;
        }
    }

    fn count(&mut self, now: Instant) -> u32 {
        self.advance(now);
        self.total
    }

    fn add(&mut self, now: Instant) -> u32 {
        self.advance(now);
        if self.total < u32::MAX {
            self.counts[self.current] += 1;
            self.total += 1;
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> CircuitBreakerConfig {
        CircuitBreakerConfig { failure_threshold: 3, window_ms: 20_000, open_ms: 10_000, half_open_max_calls: 2 }
    }

    fn pass(breaker: &CircuitBreaker, now: Instant) -> Ticket<'_> {
        breaker.acquire(now).expect("the breaker lets calls through")
    }

    fn fail(breaker: &CircuitBreaker, now: Instant, times: u32) -> Option<Transition> {
        (0..times).fold(None, |_, _| pass(breaker, now).failure(now))
    }

    fn opened(now: Instant) -> CircuitBreaker {
        let breaker = CircuitBreaker::new(&config(), now);
        assert_eq!(fail(&breaker, now, 3), Some(Transition::Opened { failures: 3 }));
        breaker
    }

    #[test]
    fn failures_within_the_window_open_it() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(&config(), start);
        assert_eq!(fail(&breaker, start, 2), None);
        assert_eq!(breaker.snapshot(start).failures, 2);
        assert_eq!(fail(&breaker, start + 19 * SECOND, 1), Some(Transition::Opened { failures: 3 }));
        let open = breaker.acquire(start + 20 * SECOND).expect_err("open");
        assert_eq!(open.retry_after, 9 * SECOND);
    }

    #[test]
    fn failures_that_slid_out_of_the_window_do_not_count() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(&config(), start);
        assert_eq!(fail(&breaker, start, 2), None);
        assert_eq!(fail(&breaker, start + 21 * SECOND, 2), None);
        assert_eq!(breaker.snapshot(start + 21 * SECOND).failures, 2);
        assert_eq!(fail(&breaker, start + 500 * SECOND, 2), None);
    }

    #[test]
    fn successes_and_ignored_calls_do_not_open_it() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(&config(), start);
        for _ in 0..100 {
            assert_eq!(pass(&breaker, start).success(start), None);
            pass(&breaker, start).ignored();
            drop(pass(&breaker, start));
        }
        assert_eq!(breaker.snapshot(start).failures, 0);
    }

    #[test]
    fn one_good_probe_closes_it() {
        let start = Instant::now();
        let breaker = opened(start);
        let later = start + 10 * SECOND;
        assert_eq!(breaker.snapshot(later).state, State::HalfOpen);
        let probe = pass(&breaker, later);
        assert_eq!(probe.transition(), Some(Transition::HalfOpened));
        assert_eq!(probe.success(later), Some(Transition::Closed));
        let snapshot = breaker.snapshot(later);
        assert_eq!((snapshot.state, snapshot.failures), (State::Closed, 0));
    }

    #[test]
    fn one_bad_probe_opens_it_again_for_as_long() {
        let start = Instant::now();
        let breaker = opened(start);
        let later = start + 12 * SECOND;
        assert_eq!(pass(&breaker, later).failure(later), Some(Transition::Opened { failures: 4 }));
        assert_eq!(breaker.acquire(later).expect_err("open").retry_after, 10 * SECOND);
    }

    #[test]
    fn probes_are_few_and_a_cancelled_one_makes_room() {
        let start = Instant::now();
        let breaker = opened(start);
        let later = start + 10 * SECOND;
        let first = pass(&breaker, later);
        let second = pass(&breaker, later);
        assert_eq!(second.transition(), None, "the change is told once");
        assert_eq!(breaker.snapshot(later).half_open_in_flight, 2);
        assert_eq!(breaker.acquire(later).expect_err("all probes are out").retry_after, SECOND);
        drop(second);
        let third = pass(&breaker, later);
        first.ignored();
        assert_eq!(breaker.snapshot(later).half_open_in_flight, 1);
        assert_eq!(third.success(later), Some(Transition::Closed));
    }

    #[test]
    fn a_verdict_from_before_does_not_decide_over_the_state_after() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(&config(), start);
        let (slow, slower) = (pass(&breaker, start), pass(&breaker, start));
        fail(&breaker, start, 3);
        let later = start + 10 * SECOND;
        let probe = pass(&breaker, later);
        assert_eq!(slow.failure(later), None);
        assert_eq!(slower.success(later), None);
        assert_eq!(breaker.snapshot(later).state, State::HalfOpen);
        let late_probe = pass(&breaker, later);
        assert_eq!(probe.success(later), Some(Transition::Closed));
        assert_eq!(late_probe.failure(later), None);
        assert_eq!(breaker.snapshot(later).state, State::Closed);
    }

    #[test]
    fn an_operator_can_close_it() {
        let start = Instant::now();
        let breaker = opened(start);
        assert_eq!(breaker.reset(start), Some(Transition::Closed));
        assert_eq!(breaker.reset(start), None);
        assert!(breaker.acquire(start).is_ok());
    }

    #[test]
    fn settings_change_while_it_runs() {
        let start = Instant::now();
        let breaker = opened(start);
        breaker.reconfigure(start, &CircuitBreakerConfig { open_ms: 1_000, ..config() });
        assert!(breaker.acquire(start + SECOND).is_ok());
        let breaker = CircuitBreaker::new(&config(), start);
        fail(&breaker, start, 2);
        breaker.reconfigure(start, &CircuitBreakerConfig { failure_threshold: 5, ..config() });
        assert_eq!(fail(&breaker, start, 2), None);
        assert_eq!(fail(&breaker, start, 1), Some(Transition::Opened { failures: 5 }));
    }
}
