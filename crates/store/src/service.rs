//! Services that the vault may depend on beside the database: how they fail, and for how
//! long what they gave is used. Must not know what they are asked for, nor how they are
//! reached.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use integration_model::Timestamp;
use tokio::sync::{Mutex, OnceCell};

use crate::clock::Clock;
use crate::metrics::{CREDENTIAL_STORE_FALLBACKS, KEY_SERVICE_FALLBACKS};
use crate::vault::VaultError;

/// What a service's answer is waited for with.
pub type ServiceFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ServiceError>> + Send + 'a>>;

/// Why a service did not do what it was asked. The messages name the service and say what
/// it answered, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// No answer, a fault of its own, or nothing that can be read: another try may help.
    #[error("{0}")]
    Unavailable(String),
    /// A definite no: another try will not help.
    #[error("{0}")]
    Refused(String),
    /// It does not have what it was asked for.
    #[error("{0}")]
    Missing(String),
}

impl ServiceError {
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// For how long what a service gave is used, and how much of it is kept.
#[derive(Debug, Clone, Copy)]
pub struct Fallback {
    /// Without asking the service again.
    pub fresh: Duration,
    /// While the service does not answer.
    pub max_age: Duration,
    /// How many secrets' keys and contents are kept beside those of loaded instances.
    pub max_entries: usize,
}

impl Default for Fallback {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { fresh: 5 * minute, max_age: 4 * 60 * minute, max_entries: 10_000 }
    }
}

/// After a failure, what is kept is used for this long before the service is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long a call that could go on with what is kept waits for the service.
const PATIENCE: Duration = Duration::from_secs(1);

/// One service, and whether it was there when it was last asked.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// For the log: `the key service`.
    name: &'static str,
    /// The metric that counts uses of what is kept while the service is away.
    fallbacks: &'static str,
    /// What its failure is to the vault.
    failed: fn(ServiceError) -> VaultError,
    fallback: Fallback,
    clock: Clock,
    away: AtomicBool,
    /// While it is away: until when it is left alone by those who can go on without it, in
    /// microseconds.
    ask_at: AtomicI64,
}

impl Dependency {
    pub(crate) fn key_service(fallback: Fallback, clock: Clock) -> Self {
        Self::new("the key service", KEY_SERVICE_FALLBACKS, VaultError::KeyService, fallback, clock)
    }

    pub(crate) fn credential_store(fallback: Fallback, clock: Clock) -> Self {
        Self::new("the credential store", CREDENTIAL_STORE_FALLBACKS, VaultError::CredentialStore, fallback, clock)
    }

    fn new(
        name: &'static str,
        fallbacks: &'static str,
        failed: fn(ServiceError) -> VaultError,
        fallback: Fallback,
        clock: Clock,
    ) -> Self {
        Self { name, fallbacks, failed, fallback, clock, away: AtomicBool::new(false), ask_at: AtomicI64::new(0) }
    }

    /// Whether it did not answer when it was last asked.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// That it was waited for long enough.
    pub(crate) fn late(&self) -> VaultError {
        (self.failed)(ServiceError::Unavailable("it did not answer in time".to_owned()))
    }

    /// Whether one who can go on without it is to ask it: while it is away, one at a time and
    /// not often.
    pub(crate) fn is_due(&self) -> bool {
        if !self.is_away() {
            return true;
        }
        let now = self.clock.now();
        let ask_at = self.ask_at.load(Ordering::Relaxed);
        let next = now.saturating_add(ASK_AGAIN).as_micros();
        now.as_micros() >= ask_at
            && self.ask_at.compare_exchange(ask_at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes how the service answered; the log hears of changes alone.
    pub(crate) fn note<T>(&self, answer: Result<T, VaultError>) -> Result<T, VaultError> {
        match &answer {
            Err(error) if error.is_unavailable() => {
                let ask_at = self.clock.now().saturating_add(ASK_AGAIN);
                self.ask_at.store(ask_at.as_micros(), Ordering::Relaxed);
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = %error.chain(),
                        fallback.max_age_seconds = self.fallback.max_age.as_secs(),
                        "{} does not answer: what it gave before is used until it is too old", self.name
                    );
                }
            }
            _ => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("{} answers again", self.name);
                }
            }
        }
        answer
    }
}

/// A value that a service gives and that never changes. It is asked for again when it is no
/// longer fresh, to learn whether it may still be used; while the service is away it is used
/// until it is too old.
#[derive(Debug)]
pub(crate) struct Confirmed<T> {
    value: OnceCell<T>,
    /// When the service last gave it, in microseconds; never, where it was refused since.
    confirmed_at: AtomicI64,
    asking: Mutex<()>,
}

const NEVER: i64 = i64::MIN;

impl<T> Default for Confirmed<T> {
    fn default() -> Self {
        Self { value: OnceCell::new(), confirmed_at: AtomicI64::new(NEVER), asking: Mutex::default() }
    }
}

#[derive(PartialEq)]
enum Age {
    Fresh,
    Usable,
    TooOld,
}

impl<T> Confirmed<T> {
    pub(crate) fn is_there(&self) -> bool {
        self.value.initialized()
    }

    /// Keeps a value that the service got from here.
    pub(crate) fn put(&self, value: T, now: Timestamp) {
        // Where there is one already, it is the same.
        let _ = self.value.set(value);
        self.confirmed_at.store(now.as_micros(), Ordering::Relaxed);
    }

    /// The value where it depends on no service: made once by `make`.
    pub(crate) fn local<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let made = make()?;
        // Where another made it meanwhile, theirs is the same.
        let _ = self.value.set(made);
        Ok(self.value.get().expect("it was set a moment ago"))
    }

    /// The value as the service gives it, or as it is kept.
    pub(crate) async fn get<F>(&self, service: &Dependency, ask: impl FnOnce() -> F) -> Result<&T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        let Some(value) = self.value.get() else {
            return self
                .value
                .get_or_try_init(|| async {
                    let value = service.note(ask().await)?;
                    self.confirmed_at.store(service.clock.now().as_micros(), Ordering::Relaxed);
                    Ok(value)
                })
                .await;
        };
        match self.age(service) {
            Age::Fresh => Ok(value),
            Age::Usable if !service.is_due() => {
                metrics::counter!(service.fallbacks).increment(1);
                Ok(value)
            }
            Age::Usable => {
                // One asks; the others do not wait for the answer.
                let Ok(_asking) = self.asking.try_lock() else { return Ok(value) };
                let answer = match tokio::time::timeout(PATIENCE, ask()).await {
                    Ok(answer) => answer,
                    Err(_) => Err(service.late()),
                };
                match self.learn(service, answer) {
                    Err(error) if error.is_unavailable() => {
                        metrics::counter!(service.fallbacks).increment(1);
                        Ok(value)
                    }
                    learnt => learnt.map(|()| value),
                }
            }
            Age::TooOld => {
                let _asking = self.asking.lock().await;
                if self.age(service) != Age::Fresh {
                    self.learn(service, ask().await)?;
                }
                Ok(value)
            }
        }
    }

    /// Notes whether the value may still be used.
    fn learn(&self, service: &Dependency, answer: Result<T, VaultError>) -> Result<(), VaultError> {
        match service.note(answer) {
            Ok(_) => self.confirmed_at.store(service.clock.now().as_micros(), Ordering::Relaxed),
            Err(error) => {
                if !error.is_unavailable() {
                    self.confirmed_at.store(NEVER, Ordering::Relaxed);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn age(&self, service: &Dependency) -> Age {
        let confirmed_at = self.confirmed_at.load(Ordering::Relaxed);
        let age = service.clock.now().as_micros().saturating_sub(confirmed_at).max(0).unsigned_abs();
        if confirmed_at == NEVER {
            Age::TooOld
        } else if u128::from(age) < service.fallback.fresh.as_micros() {
            Age::Fresh
        } else if u128::from(age) < service.fallback.max_age.as_micros() {
            Age::Usable
        } else {
            Age::TooOld
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn dependency(clock: &Clock) -> Dependency {
        let fallback = Fallback { fresh: 10 * SECOND, max_age: 100 * SECOND, max_entries: 1 };
        Dependency::key_service(fallback, clock.clone())
    }

    fn away() -> VaultError {
        VaultError::KeyService(ServiceError::Unavailable("away".to_owned()))
    }

    fn refused() -> VaultError {
        VaultError::KeyService(ServiceError::Refused("no".to_owned()))
    }

    /// Answers with `answer`, and counts how often it was asked.
    struct Service<'a> {
        dependency: &'a Dependency,
        value: &'a Confirmed<u8>,
        asked: AtomicUsize,
    }

    impl Service<'_> {
        async fn get(&self, answer: Result<u8, VaultError>) -> Result<u8, ServiceError> {
            let ask = || async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                answer
            };
            self.value.get(self.dependency, ask).await.copied().map_err(|error| match error {
                VaultError::KeyService(error) => error,
                other => panic!("{other}"),
            })
        }

        fn asked(&self) -> usize {
            self.asked.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn what_is_fresh_is_not_asked_for_and_what_is_not_is_used_while_the_service_is_away() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000_000));
        let (dependency, value) = (dependency(&clock), Confirmed::default());
        let service = Service { dependency: &dependency, value: &value, asked: AtomicUsize::new(0) };
        assert!(service.get(Err(away())).await.is_err());
        assert!(dependency.is_away());
        assert_eq!((service.get(Ok(7)).await, service.asked()), (Ok(7), 2));
        assert!(!dependency.is_away());
        clock.advance(9 * SECOND);
        assert_eq!((service.get(Err(away())).await, service.asked()), (Ok(7), 0), "fresh");
        clock.advance(SECOND);
        assert_eq!((service.get(Err(away())).await, service.asked()), (Ok(7), 1), "asked in vain");
        assert_eq!((service.get(Err(away())).await, service.asked()), (Ok(7), 0), "left alone for a while");
        clock.advance(ASK_AGAIN);
        assert_eq!((service.get(Ok(7)).await, service.asked()), (Ok(7), 1), "asked again");
        assert_eq!((service.get(Err(away())).await, service.asked()), (Ok(7), 0), "fresh again");
    }

    #[tokio::test]
    async fn what_is_too_old_or_was_refused_is_not_used() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000_000));
        let (dependency, value) = (dependency(&clock), Confirmed::default());
        value.put(7, clock.now());
        let service = Service { dependency: &dependency, value: &value, asked: AtomicUsize::new(0) };
        clock.advance(99 * SECOND);
        assert_eq!(service.get(Err(away())).await, Ok(7));
        clock.advance(SECOND);
        assert!(service.get(Err(away())).await.is_err());
        assert_eq!(service.get(Ok(7)).await, Ok(7), "the service is back");
        clock.advance(20 * SECOND);
        assert_eq!(service.get(Err(refused())).await, Err(ServiceError::Refused("no".to_owned())));
        assert!(service.get(Err(away())).await.is_err(), "not used after a refusal");
        assert_eq!(service.get(Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn while_one_asks_the_others_go_on_with_what_is_usable() {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000_000));
        let (dependency, value) = (dependency(&clock), Confirmed::default());
        value.put(7, clock.now());
        clock.advance(20 * SECOND);
        let (asked, answer) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let slow = value.get(&dependency, || async {
            asked.notify_one();
            answer.notified().await;
            Ok(7)
        });
        let others = async {
            asked.notified().await;
            let unasked = || async { panic!("another asks already") };
            assert_eq!(value.get(&dependency, unasked).await.ok(), Some(&7));
            answer.notify_one();
        };
        assert_eq!(tokio::join!(slow, others).0.ok(), Some(&7));
    }
}
