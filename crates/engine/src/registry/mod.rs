//! What runs: instances with their compiled definitions, credentials and the state of
//! their policies, kept in memory so that a call reads no database.
//!
//! Every change of an instance, its credential or its definition marks the entries it
//! concerns as stale; the next call loads them anew and carries limiters and breakers over.
//! `follow` does the same for what other processes change.

mod compiled;
mod follow;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use integration_model::definition::DefinitionStatus;
use integration_model::instance::Instance;
use integration_model::{DefinitionId, InstanceId, Problem};
use integration_store::{Store, StoreError};
use quick_cache::sync::Cache;
use semver::Version;
use serde_json::{Map, Value};
use tokio::time::Instant;

pub(crate) use compiled::find_adapter;
pub use compiled::{CompiledDefinition, CompiledMethod, PolicyDefaults, check_definition, check_method};

use crate::adapter::{Adapters, Config};
use crate::credential::source::CredentialSource;
use crate::limits::LimitRules;
use crate::metrics::MethodMetrics;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::policy::rate_limit::{LearnedCost, RateLimiter};
use crate::policy::retry::RetryBudget;
use crate::prefetch;

/// How many instances are kept ready at once; others are loaded when called.
const INSTANCE_CAPACITY: usize = 131_072;
/// How many versions of definitions are kept compiled at once.
const DEFINITION_CAPACITY: usize = 4_096;

/// From how many instances on calls read ahead.
const LARGE: usize = 1_000;

/// The instances and definitions that are ready to run.
pub(crate) struct Registry {
    instances: Cache<InstanceId, Arc<ActiveInstance>>,
    definitions: Cache<(DefinitionId, String), Arc<CompiledDefinition>>,
    /// Loads happen one at a time, so that two first calls do not each make limiters of
    /// their own.
    loading: tokio::sync::Mutex<()>,
    /// Moves with every change, so that what was read before a change is not kept after it.
    generation: AtomicU64,
    is_large: AtomicBool,
    defaults: PolicyDefaults,
}

/// An instance, ready to run.
pub(crate) struct ActiveInstance {
    /// Without its own config and its labels.
    pub instance: Instance,
    pub definition: Arc<CompiledDefinition>,
    /// The instance's config over the definition's defaults.
    pub config: Config,
    pub credential: CredentialSource,
    /// The limit over all methods.
    pub limiter: Option<Arc<RateLimiter>>,
    pub retry_budget: Arc<RetryBudget>,
    methods: Vec<OnceLock<Arc<MethodState>>>,
    stale: AtomicBool,
}

/// The state of a method's policies for one instance.
pub(crate) struct MethodState {
    pub name: String,
    pub limiter: Option<RateLimiter>,
    pub learned_cost: LearnedCost,
    pub breaker: CircuitBreaker,
    pub metrics: Arc<MethodMetrics>,
}

impl MethodState {
    /// Reads ahead what every call reads of it.
    pub(crate) fn prefetch(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.prefetch();
        }
        self.breaker.prefetch();
        self.metrics.prefetch();
    }
}

/// Why an instance cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("definition {id} {version} is gone")]
    DefinitionGone { id: DefinitionId, version: String },
    #[error("definition {id} {version} does not compile: {}", problems.first().map_or_else(String::new, ToString::to_string))]
    Broken { id: DefinitionId, version: String, problems: Vec<Problem> },
}

impl Registry {
    pub(crate) fn new(defaults: PolicyDefaults) -> Self {
        Self {
            defaults,
            instances: Cache::new(INSTANCE_CAPACITY),
            definitions: Cache::new(DEFINITION_CAPACITY),
            loading: tokio::sync::Mutex::new(()),
            generation: AtomicU64::new(0),
            is_large: AtomicBool::new(false),
        }
    }

    /// The instance with this id, loaded if need be; none where there is no such.
    pub(crate) async fn instance(
        &self,
        id: &str,
        store: &Store,
        adapters: &Adapters,
        rules: &LimitRules,
    ) -> Result<Option<Arc<ActiveInstance>>, LoadError> {
        if let Some(active) = self.ready(id) {
            return Ok(Some(active));
        }
        let Ok(id) = InstanceId::parse(id) else { return Ok(None) };
        let _loading = self.loading.lock().await;
        if let Some(active) = self.ready(id.as_str()) {
            return Ok(Some(active));
        }
        let previous = self.instances.get(id.as_str());
        let generation = self.generation.load(Ordering::Acquire);
        let Some(instance) = store.instance(&id).await? else {
            self.instances.remove(&id);
            return Ok(None);
        };
        let definition =
            self.definition(&instance.integration_definition_id, &instance.definition_version, store, adapters).await?;
        let credential = CredentialSource::new(store.credential(&id).await?);
        let active = Arc::new(ActiveInstance::new(instance, definition, credential, previous.as_deref(), rules));
        if self.generation.load(Ordering::Acquire) != generation {
            // Something changed while this was read: good for this call, not for the next.
            active.stale.store(true, Ordering::Release);
        }
        // Its own id: where that is long, to compare it is to read what the call reads anyway.
        self.instances.insert(active.instance.id.clone(), Arc::clone(&active));
        self.is_large.store(self.instances.len() > LARGE, Ordering::Relaxed);
        Ok(Some(active))
    }

    fn ready(&self, id: &str) -> Option<Arc<ActiveInstance>> {
        self.instances.get(id).filter(|active| !active.is_stale())
    }

    /// A version of a definition, compiled.
    pub(crate) async fn definition(
        &self,
        id: &DefinitionId,
        version: &str,
        store: &Store,
        adapters: &Adapters,
    ) -> Result<Arc<CompiledDefinition>, LoadError> {
        let key = (id.clone(), version.to_owned());
        if let Some(compiled) = self.definitions.get(&key) {
            return Ok(compiled);
        }
        let gone = || LoadError::DefinitionGone { id: id.clone(), version: version.to_owned() };
        let generation = self.generation.load(Ordering::Acquire);
        let parsed = Version::parse(version).map_err(|_| gone())?;
        let definition = store.definition(id, &parsed).await?.ok_or_else(gone)?;
        let settled = definition.status != DefinitionStatus::Draft;
        let compiled = CompiledDefinition::new(definition, adapters, self.defaults.clone())
            .map_err(|problems| LoadError::Broken { id: id.clone(), version: version.to_owned(), problems })?;
        let compiled = Arc::new(compiled);
        if settled && self.generation.load(Ordering::Acquire) == generation {
            self.definitions.insert(key, Arc::clone(&compiled));
        }
        Ok(compiled)
    }

    /// Whether the instances in memory are too many for a processor's caches, so that it is worth
    /// while to read ahead. Where they are few, threads would only take words from each other.
    pub(crate) fn is_large(&self) -> bool {
        self.is_large.load(Ordering::Relaxed)
    }

    /// The instance as it is in memory, without loading it.
    pub(crate) fn loaded(&self, id: &InstanceId) -> Option<Arc<ActiveInstance>> {
        self.instances.peek(id)
    }

    /// All instances that are in memory.
    pub(crate) fn all_loaded(&self) -> impl Iterator<Item = Arc<ActiveInstance>> + '_ {
        self.instances.iter().map(|(_, active)| active)
    }

    /// Has the instance read anew at its next call; the state of its policies stays.
    pub(crate) fn refresh_instance(&self, id: &InstanceId) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(active) = self.instances.peek(id) {
            active.stale.store(true, Ordering::Release);
        }
    }

    /// Drops an instance with all its state.
    pub(crate) fn forget_instance(&self, id: &InstanceId) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.instances.remove(id);
    }

    /// Has a definition and its instances read anew.
    pub(crate) fn forget_definition(&self, id: &DefinitionId) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.definitions.retain(|(kept, _), _| kept != id);
        self.mark_stale(|active| &active.instance.integration_definition_id == id);
    }

    /// Has every instance built anew, with new limits.
    pub(crate) fn refresh_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.mark_stale(|_| true);
    }

    fn mark_stale(&self, concerns: impl Fn(&ActiveInstance) -> bool) {
        for (_, active) in self.instances.iter() {
            if concerns(&active) {
                active.stale.store(true, Ordering::Release);
            }
        }
    }
}

/// An instance's config over the definition's defaults.
pub(crate) fn merged_config(definition: &CompiledDefinition, config: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = definition.definition.spec.default_config.clone();
    merged.extend(config.clone());
    merged
}

impl ActiveInstance {
    fn new(
        mut instance: Instance,
        definition: Arc<CompiledDefinition>,
        mut credential: CredentialSource,
        previous: Option<&Self>,
        rules: &LimitRules,
    ) -> Self {
        let now = Instant::now();
        let config = Config::from(merged_config(&definition, &instance.config));
        // What no call reads is not kept, and the definition's id not once more where it is long: there
        // may be a hundred thousand of these.
        instance.config = Map::new();
        instance.labels.clear();
        instance.integration_definition_id.clone_from(&definition.definition.spec.id);
        // Another config, or another version, may log in elsewhere.
        let same = |previous: &&Self| {
            *previous.config == *config && previous.instance.definition_version == instance.definition_version
        };
        if let Some(previous) = previous.filter(same) {
            credential.carry_over(&previous.credential);
        }
        let limits = rules.instance_limits(&instance.id).or(definition.definition.spec.rate_limits);
        let limiter = limits.map(|limits| match previous.and_then(|active| active.limiter.clone()) {
            Some(limiter) => {
                limiter.reconfigure(now, &limits);
                limiter
            }
            None => Arc::new(RateLimiter::new(&limits, now)),
        });
        let retry_budget =
            previous.map_or_else(|| Arc::new(RetryBudget::usual(now)), |active| Arc::clone(&active.retry_budget));
        let methods: Vec<OnceLock<Arc<MethodState>>> =
            (0..definition.method_count()).map(|_| OnceLock::new()).collect();
        let active = Self {
            instance,
            definition,
            config,
            credential,
            limiter,
            retry_budget,
            methods,
            stale: AtomicBool::new(false),
        };
        active.carry_over(previous, rules);
        active
    }

    /// Takes over the methods' limiters and breakers of the entry that this one replaces.
    fn carry_over(&self, previous: Option<&Self>, rules: &LimitRules) {
        let now = Instant::now();
        let states = previous.into_iter().flat_map(|active| active.methods.iter()).filter_map(OnceLock::get);
        for state in states {
            let Some(index) = self.definition.method_index(&state.name) else { continue };
            let method = &self.definition.definition.spec.methods[index];
            let limits = rules.method_limits(&self.instance.id, &method.name).or(method.rate_limits);
            let fits = match (&state.limiter, limits) {
                (Some(limiter), Some(limits)) => {
                    limiter.reconfigure(now, &limits);
                    true
                }
                (None, None) => true,
                _ => false,
            };
            if fits {
                state.breaker.reconfigure(now, &self.definition.circuit_breaker(index));
                // The slot is empty: this entry was made a moment ago.
                let _ = self.methods[index].set(Arc::clone(state));
            }
        }
    }

    /// Reads ahead what every call reads of it.
    pub(crate) fn prefetch(&self) {
        let Instance { id, integration_definition_id, definition_version, tenant_id, status, .. } = &self.instance;
        prefetch::words((
            Arc::strong_count(&self.definition),
            self.definition.definition.status,
            *status,
            self.methods.is_empty(),
        ));
        for text in [id.as_str(), integration_definition_id.as_str(), definition_version.as_str(), tenant_id.as_str()] {
            prefetch::text(text);
        }
        self.config.prefetch();
        if let Some(limiter) = &self.limiter {
            limiter.prefetch();
        }
        self.retry_budget.prefetch();
        self.credential.prefetch();
    }

    /// Reads ahead what every call of the method at `index` reads.
    pub(crate) fn prefetch_method(&self, index: usize) {
        self.definition.prefetch(index);
        if let Some(state) = self.methods[index].get() {
            state.prefetch();
        }
    }

    /// The state of the method at `index` of the definition.
    pub(crate) fn method_state(&self, index: usize, rules: &LimitRules) -> &Arc<MethodState> {
        self.methods[index].get_or_init(|| {
            let now = Instant::now();
            let method = &self.definition.definition.spec.methods[index];
            let limits = rules.method_limits(&self.instance.id, &method.name).or(method.rate_limits);
            Arc::new(MethodState {
                name: method.name.clone(),
                limiter: limits.map(|limits| RateLimiter::new(&limits, now)),
                learned_cost: LearnedCost::default(),
                breaker: CircuitBreaker::new(&self.definition.circuit_breaker(index), now),
                metrics: MethodMetrics::of(self.instance.id.as_str(), &method.name),
            })
        })
    }

    /// Whether something changed since this was read.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// The methods that were called since the instance was loaded.
    pub(crate) fn called_methods(&self) -> impl Iterator<Item = &Arc<MethodState>> {
        self.methods.iter().filter_map(OnceLock::get)
    }
}
