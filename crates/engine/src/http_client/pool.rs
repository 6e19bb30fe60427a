//! Connections kept for further requests: one pool per runtime thread, so that a connection
//! is woken on the thread that uses it, and pools of their own for special TLS profiles.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use quick_cache::sync::Cache;

use super::connector::Connector;
use super::exchange::OutboundBody;
use super::{HttpClientSettings, HttpError};
use crate::network::{EgressPolicy, Network, TlsProfile, TlsUnavailable};

/// The largest header section of an answer, in bytes.
const MAX_HEADER_BYTES: usize = 128 * 1024;
/// How many special TLS profiles keep their connections, over all threads.
const MAX_PROFILES: usize = 512;
/// What TLS offers by ALPN.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type HyperClient = Client<Connector, OutboundBody>;

/// The connections of one thread and one TLS profile.
pub(super) struct Lane {
    /// Keeps connections for the next request.
    pub(super) pooled: HyperClient,
    /// Makes a connection for each request.
    pub(super) fresh: HyperClient,
}

/// All connections under one egress policy. Another policy means other pools: a kept
/// connection might lead where the new policy does not.
pub(super) struct Pools {
    policy: Arc<EgressPolicy>,
    lanes: Box<[Arc<Lane>]>,
    special: Cache<(usize, [u8; 32]), Arc<Lane>>,
}

impl Pools {
    pub(super) fn new(
        settings: &HttpClientSettings,
        network: &Arc<Network>,
        policy: Arc<EgressPolicy>,
    ) -> Result<Self, TlsUnavailable> {
        let tls = network.tls_config(None, PROTOCOLS)?;
        let connector = Connector::new(Arc::clone(network), Arc::clone(&policy), tls);
        let lanes = (0..settings.shards.max(1)).map(|_| Arc::new(Lane::new(settings, &connector))).collect();
        Ok(Self { policy, lanes, special: Cache::new(MAX_PROFILES) })
    }

    /// This thread's lane for requests without a TLS profile.
    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lanes[thread_index() % self.lanes.len()]
    }

    /// This thread's lane for a TLS profile, made where there is none yet.
    pub(super) fn special_lane(
        &self,
        profile: &TlsProfile,
        settings: &HttpClientSettings,
        network: &Arc<Network>,
    ) -> Result<Arc<Lane>, HttpError> {
        let key = (thread_index() % self.lanes.len(), profile.fingerprint());
        self.special.get_or_insert_with(&key, || {
            let tls = network.tls_config(Some(profile), PROTOCOLS).map_err(|error| HttpError::InvalidUrl {
                reason: format!("its TLS profile cannot be used: {error}"),
            })?;
            let policy = Arc::clone(&self.policy);
            let connector = Connector::new(Arc::clone(network), policy, tls);
            Ok(Arc::new(Lane::new(settings, &connector)))
        })
    }
}

impl Lane {
    fn new(settings: &HttpClientSettings, connector: &Connector) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(settings.idle_timeout)
            .http1_max_buf_size(MAX_HEADER_BYTES)
            .http2_max_header_list_size(MAX_HEADER_BYTES as u32)
            .http2_keep_alive_interval(H2_PING_INTERVAL)
            .http2_keep_alive_timeout(H2_PING_TIMEOUT);
        let pooled = builder.pool_max_idle_per_host(settings.max_idle_per_host).build(connector.clone());
        let fresh = builder.pool_max_idle_per_host(0).build(connector.clone());
        Self { pooled, fresh }
    }
}

/// A small number of the current thread.
fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
    }
    INDEX.with(|index| {
        index.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            index.set(Some(number));
            number
        })
    })
}
