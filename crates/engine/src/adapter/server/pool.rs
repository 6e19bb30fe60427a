//! Connections kept between calls: a pool for each instance, bounded, closed when idle, and
//! given up where the config, the credential or the egress policy is another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use integration_model::{ErrorCode, InstanceId};
use metrics::{Gauge, counter, gauge};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::config::PoolConfig;
use super::failure::{Progress, timed_out};
use crate::adapter::{CallError, UpstreamLimits};
use crate::network::EgressPolicy;

/// How many instances of one adapter keep connections.
const MAX_POOLS: usize = 1_024;

/// A connection that can be kept.
pub(in crate::adapter) trait Keep: Send + 'static {
    /// Whether another call can use it.
    fn is_usable(&self) -> bool;
}

/// The pools of one adapter.
pub(in crate::adapter) struct Pools<C: Keep> {
    adapter: &'static str,
    by_instance: Cache<InstanceId, Arc<Pool<C>>>,
}

/// The connections of one instance.
pub(in crate::adapter) struct Pool<C: Keep> {
    adapter: &'static str,
    fingerprint: [u8; 32],
    config: PoolConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle<C>>,
}

struct Idle<C: Keep> {
    kept: Vec<Kept<C>>,
    /// Another pool took this one's place.
    is_closed: bool,
    is_watched: bool,
}

struct Kept<C: Keep> {
    open: Open<C>,
    since: Instant,
}

/// A connection, counted as long as it is open.
struct Open<C: Keep> {
    connection: C,
    policy: Arc<EgressPolicy>,
    _counted: Counted,
}

struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The right to one connection, and that connection.
pub(in crate::adapter) struct Lease<C: Keep> {
    pool: Arc<Pool<C>>,
    open: Option<Open<C>>,
    policy: Arc<EgressPolicy>,
    _permit: OwnedSemaphorePermit,
}

impl<C: Keep> Pools<C> {
    pub(in crate::adapter) fn new(adapter: &'static str) -> Self {
        Self { adapter, by_instance: Cache::new(MAX_POOLS) }
    }

    /// The pool of an instance. One of another config or credential is closed.
    pub(in crate::adapter) fn of(
        &self,
        instance: &InstanceId,
        fingerprint: [u8; 32],
        config: PoolConfig,
    ) -> Arc<Pool<C>> {
        if let Some(pool) = self.by_instance.get(instance) {
            if pool.fingerprint == fingerprint {
                return pool;
            }
            pool.close();
        }
        let pool = Arc::new(Pool {
            adapter: self.adapter,
            fingerprint,
            config,
            permits: Arc::new(Semaphore::new(config.max_connections)),
            idle: Mutex::new(Idle { kept: Vec::new(), is_closed: false, is_watched: false }),
        });
        self.by_instance.insert(instance.clone(), Arc::clone(&pool));
        pool
    }
}

impl<C: Keep> Pool<C> {
    /// A kept connection, or the right to make one.
    pub(in crate::adapter) async fn acquire(
        self: &Arc<Self>,
        policy: Arc<EgressPolicy>,
        deadline: Instant,
    ) -> Result<Lease<C>, CallError> {
        // A timer lets through what is ready before it looks at the time.
        if Instant::now() >= deadline {
            return Err(timed_out(Progress::Harmless, "waiting for a connection"));
        }
        let until = deadline.min(Instant::now() + self.config.acquire_timeout());
        let permit = timeout_at(until, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            counter!("integration_database_pool_exhausted_total", "adapter" => self.adapter).increment(1);
            let message = format!(
                "all {} connections of the instance are in use: try again, or raise pool.maxConnections",
                self.config.max_connections
            );
            return Err(CallError {
                retryable: true,
                limits: UpstreamLimits { retry_after: Some(Duration::from_secs(1)), ..UpstreamLimits::default() },
                ..CallError::not_sent(ErrorCode::Overloaded, message)
            });
        };
        Ok(Lease { open: self.take(&policy), pool: Arc::clone(self), policy, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Idle<C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last.
    fn take(&self, policy: &Arc<EgressPolicy>) -> Option<Open<C>> {
        let mut idle = self.idle();
        while let Some(kept) = idle.kept.pop() {
            if kept.open.connection.is_usable() && Arc::ptr_eq(&kept.open.policy, policy) {
                return Some(kept.open);
            }
        }
        None
    }

    fn put_back(self: &Arc<Self>, open: Open<C>) {
        let mut idle = self.idle();
        if idle.is_closed || self.config.idle_timeout().is_zero() || !open.connection.is_usable() {
            return;
        }
        idle.kept.push(Kept { open, since: Instant::now() });
        if !idle.is_watched {
            idle.is_watched = true;
            tokio::spawn(close_idle(Arc::downgrade(self), self.config.idle_timeout()));
        }
    }

    fn close(&self) {
        let mut idle = self.idle();
        idle.is_closed = true;
        idle.kept.clear();
    }

    /// Closes what has been unused for too long; when the next one will have been.
    fn close_idle(&self, timeout: Duration) -> Option<Instant> {
        let mut idle = self.idle();
        let now = Instant::now();
        idle.kept.retain(|kept| kept.since + timeout > now && kept.open.connection.is_usable());
        let next = idle.kept.iter().map(|kept| kept.since + timeout).min();
        idle.is_watched = next.is_some();
        next
    }
}

/// Ends with the last unused connection, or with the pool.
async fn close_idle<C: Keep>(pool: Weak<Pool<C>>, timeout: Duration) {
    let mut next = Instant::now() + timeout;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        match pool.close_idle(timeout) {
            Some(later) => next = later,
            None => return,
        }
    }
}

impl<C: Keep> Lease<C> {
    /// The connection, where there is one yet.
    pub(in crate::adapter) fn connection(&mut self) -> Option<&mut C> {
        self.open.as_mut().map(|open| &mut open.connection)
    }

    /// Takes a new connection in, in place of one that is dropped.
    pub(in crate::adapter) fn opened(&mut self, connection: C) -> &mut C {
        let open = gauge!("integration_database_connections", "adapter" => self.pool.adapter);
        open.increment(1.0);
        let policy = Arc::clone(&self.policy);
        &mut self.open.insert(Open { connection, policy, _counted: Counted(open) }).connection
    }

    /// Closes the connection; another one can be taken in.
    pub(in crate::adapter) fn discard(&mut self) {
        self.open = None;
    }

    /// Keeps the connection for another call. A lease that is dropped closes it.
    pub(in crate::adapter) fn keep(mut self) {
        if let Some(open) = self.open.take() {
            self.pool.put_back(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct World {
        open: Arc<AtomicUsize>,
        broken: Arc<AtomicBool>,
    }

    struct Line(World);

    impl Line {
        fn new(world: &World) -> Self {
            world.open.fetch_add(1, Ordering::SeqCst);
            Self(world.clone())
        }
    }

    impl Drop for Line {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Keep for Line {
        fn is_usable(&self) -> bool {
            !self.0.broken.load(Ordering::SeqCst)
        }
    }

    fn id() -> InstanceId {
        "db".parse().expect("an id")
    }

    fn policy() -> Arc<EgressPolicy> {
        Arc::new(EgressPolicy::public_only())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn config(max_connections: usize) -> PoolConfig {
        serde_json::from_value(serde_json::json!({"maxConnections": max_connections})).expect("a config")
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_connection_is_used_again_and_closed_when_idle() {
        let (world, policy) = (World::default(), policy());
        let pools: Pools<Line> = Pools::new("test");
        let pool = pools.of(&id(), [0; 32], config(2));
        let mut lease = pool.acquire(Arc::clone(&policy), soon()).await.expect("a lease");
        assert!(lease.connection().is_none());
        lease.opened(Line::new(&world));
        lease.keep();
        let mut lease = pool.acquire(Arc::clone(&policy), soon()).await.expect("a lease");
        assert!(lease.connection().is_some());
        lease.keep();
        assert_eq!(world.open.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(world.open.load(Ordering::SeqCst), 0);
        // A dropped lease keeps nothing.
        let mut lease = pool.acquire(policy, soon()).await.expect("a lease");
        lease.opened(Line::new(&world));
        drop(lease);
        assert_eq!(world.open.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn another_credential_or_policy_and_a_broken_connection_mean_a_new_one() {
        let (world, first_policy) = (World::default(), policy());
        let pools: Pools<Line> = Pools::new("test");
        let pool = pools.of(&id(), [0; 32], config(2));
        let mut lease = pool.acquire(Arc::clone(&first_policy), soon()).await.expect("a lease");
        lease.opened(Line::new(&world));
        lease.keep();
        let mut lease = pool.acquire(policy(), soon()).await.expect("a lease");
        assert!(lease.connection().is_none(), "it may lead where the new policy does not");
        lease.opened(Line::new(&world));
        let other = pools.of(&id(), [1; 32], config(2));
        lease.keep();
        assert_eq!(world.open.load(Ordering::SeqCst), 0, "the pool of the old credential keeps nothing");
        let mut lease = other.acquire(Arc::clone(&first_policy), soon()).await.expect("a lease");
        lease.opened(Line::new(&world));
        lease.keep();
        world.broken.store(true, Ordering::SeqCst);
        let mut lease = other.acquire(first_policy, soon()).await.expect("a lease");
        assert!(lease.connection().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_finds_all_connections_in_use_waits_for_a_bounded_time() {
        let pools: Pools<Line> = Pools::new("test");
        let pool = pools.of(&id(), [0; 32], config(1));
        let lease = pool.acquire(policy(), soon()).await.expect("a lease");
        let error = pool.acquire(policy(), soon()).await.err().expect("an error");
        assert_eq!((error.code, error.retryable), (ErrorCode::Overloaded, true));
        let (next, ()) = tokio::join!(pool.acquire(policy(), soon()), async { drop(lease) });
        assert!(next.is_ok());
    }
}
