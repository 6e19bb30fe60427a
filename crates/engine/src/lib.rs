//! Runs methods of external systems.
//!
//! Owns: the stages of an execution ([`execute`]), compiled definitions and instances
//! (`registry`), policies, transforms, credentials in use, adapters and the one outbound
//! HTTP client. Must not know: axum, the command line, SQL.

pub mod adapter;
pub mod adapter_health;
mod config_fields;
pub mod conformance;
pub mod credential;
pub mod credentials;
pub mod data;
pub mod definitions;
pub mod dependency;
pub mod error;
pub mod execute;
pub mod health;
pub mod http_client;
pub mod import;
pub mod instances;
pub mod limits;
mod long_work;
pub mod metrics;
pub mod network;
pub mod oauth;
pub mod params;
pub mod policy;
mod prefetch;
pub mod queue;
pub mod registry;
pub mod rotation;
pub mod schema;
pub mod stream;
pub mod transform;
pub mod webhooks;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use integration_model::execution::Execution;
use integration_store::Store;
use tokio::time::Instant;

use crate::adapter::{AdapterSettings, Adapters};
use crate::adapter_health::Incompatible;
use crate::health::HealthMemory;
use crate::http_client::HttpClient;
use crate::limits::{ActiveLimits, LimitRules};
use crate::long_work::LongWork;
use crate::oauth::refresh::{RefreshProbe, Refreshes};
use crate::oauth::{OAuth, ReturnUrls};
use crate::policy::cache::ResponseCache;
use crate::queue::RunningExecutions;
use crate::registry::{PolicyDefaults, Registry};
use crate::webhooks::Webhooks;

pub use error::EngineError;

/// What the engine is told by the configuration.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The deadline of methods that name none.
    pub default_timeout: Duration,
    /// The longest deadline, whatever a method names.
    pub max_timeout: Duration,
    /// The most pages that `paginate=all` reads.
    pub max_pages: u32,
    /// The most bytes that `paginate=all` collects.
    pub max_collected_bytes: usize,
    /// Whether params are kept with the log, so that an execution can be replayed.
    pub keep_params: bool,
    /// How many executions may be under way at once; more are refused with OVERLOADED.
    pub max_concurrent: usize,
    /// How many bytes the response cache may hold.
    pub cache_bytes: u64,
    /// How many asynchronous executions run at once.
    pub async_workers: usize,
    /// For methods that bring no policies of their own.
    pub policies: PolicyDefaults,
    /// After what age of a credential its rotation is due.
    pub rotation_reminder: Duration,
    /// How long a process may be silent before others take its work over.
    pub lease: Duration,
    /// Where people may be sent after a connection.
    pub return_urls: ReturnUrls,
    pub adapters: AdapterSettings,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(600),
            max_pages: 100,
            max_collected_bytes: 32 << 20,
            keep_params: true,
            max_concurrent: 10_000,
            cache_bytes: 64 << 20,
            async_workers: 16,
            policies: PolicyDefaults::default(),
            rotation_reminder: Duration::from_secs(90 * 86_400),
            lease: Duration::from_secs(15),
            return_urls: ReturnUrls::default(),
            adapters: AdapterSettings::default(),
        }
    }
}

/// Is told of every execution that ended, for the log.
pub trait ExecutionObserver: Send + Sync {
    fn finished(&self, execution: &Execution, traceparent: Option<&str>);
}

/// Tells nobody.
pub struct NoObserver;

impl ExecutionObserver for NoObserver {
    fn finished(&self, _: &Execution, _: Option<&str>) {}
}

/// The running whole: one in a process, shared by all that calls it.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) adapters: Adapters,
    pub(crate) http: HttpClient,
    pub(crate) registry: Registry,
    pub(crate) cache: ResponseCache,
    pub(crate) limits: ArcSwap<ActiveLimits>,
    pub(crate) health: HealthMemory,
    pub(crate) incompatible: Incompatible,
    pub(crate) running: RunningExecutions,
    pub(crate) long_work: LongWork,
    pub(crate) refreshes: Refreshes,
    pub(crate) oauth: OAuth,
    pub(crate) webhooks: Webhooks,
    pub(crate) settings: EngineSettings,
    pub(crate) observer: Arc<dyn ExecutionObserver>,
}

impl Engine {
    pub fn new(
        store: Store,
        http: HttpClient,
        settings: EngineSettings,
        rules: LimitRules,
        observer: Arc<dyn ExecutionObserver>,
    ) -> Self {
        Self {
            adapters: Adapters::with(&settings.adapters),
            registry: Registry::new(settings.policies.clone()),
            cache: ResponseCache::new(settings.cache_bytes),
            limits: ArcSwap::from_pointee(ActiveLimits::new(rules, Instant::now())),
            health: HealthMemory::default(),
            incompatible: Incompatible::default(),
            running: RunningExecutions::new(settings.max_concurrent),
            long_work: LongWork::new(),
            refreshes: Refreshes::new(None),
            oauth: OAuth::new(),
            webhooks: Webhooks::default(),
            store,
            http,
            settings,
            observer,
        }
    }

    /// Has a probe told of the steps of token refreshes.
    #[must_use]
    pub fn with_refresh_probe(mut self, probe: Arc<dyn RefreshProbe>) -> Self {
        self.refreshes = Refreshes::new(Some(probe));
        self
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Puts new limits in force. Counts of limits that stay are kept.
    pub fn replace_limits(&self, rules: LimitRules) {
        let current = self.limits.load();
        self.limits.store(Arc::new(current.with_rules(rules, Instant::now())));
        self.registry.refresh_all();
    }
}
