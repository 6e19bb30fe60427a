//! Definitions made ready to run: schemas, transforms and operations compiled once.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use integration_model::Problem;
use integration_model::definition::{
    CacheConfig, CircuitBreakerConfig, Definition, DefinitionSpec, ResultValidation, RetryConfig,
};

use semver::VersionReq;
use tokio::time::Instant;

use crate::adapter::{Adapter, Adapters, Operation};
use crate::policy::retry::RetryPolicy;
use crate::prefetch;
use crate::schema::Schema;
use crate::transform::Transform;

/// The policies of methods that bring none of their own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyDefaults {
    /// None repeats nothing.
    pub retry: Option<RetryConfig>,
    pub circuit_breaker: CircuitBreakerConfig,
}

/// One version of a definition, ready to run. Methods are compiled when first called, so
/// that a definition of a thousand methods costs nothing at start.
pub struct CompiledDefinition {
    pub definition: Definition,
    pub adapter: Arc<dyn Adapter>,
    pub config_schema: Schema,
    defaults: PolicyDefaults,
    methods: Vec<OnceLock<Arc<CompiledMethod>>>,
    /// A hash of each method's name: a few bytes to look through, which lie together.
    name_hashes: Vec<u32>,
    hasher: RandomState,
}

/// One method, ready to run.
pub struct CompiledMethod {
    pub name: String,
    /// Tells it from every other compilation of this process.
    pub compilation: u64,
    pub param_schema: Schema,
    pub result_schema: Schema,
    pub result_validation: ResultValidation,
    pub operation: Arc<dyn Operation>,
    pub request_transform: Option<Transform>,
    pub response_transform: Option<Transform>,
    pub timeout: Option<Duration>,
    pub retry: RetryPolicy,
    pub circuit_breaker: CircuitBreakerConfig,
    pub cache: Option<CacheConfig>,
    pub idempotent: bool,
}

impl CompiledMethod {
    /// Reads ahead what every call reads of it, but for its operation.
    pub(crate) fn prefetch(&self) {
        prefetch::words((
            self.compilation,
            self.timeout,
            self.idempotent,
            self.cache.is_some(),
            self.circuit_breaker.open_ms,
        ));
        prefetch::text(&self.name);
        prefetch::words(Arc::strong_count(&self.operation));
    }

    /// Whether answers are held against the result schema.
    pub fn looks_at_result(&self) -> bool {
        self.result_validation != ResultValidation::Off && !self.result_schema.is_trivial()
    }
}

impl CompiledDefinition {
    /// Prepares a stored version. Its methods are compiled when first asked for.
    pub fn new(definition: Definition, adapters: &Adapters, defaults: PolicyDefaults) -> Result<Self, Vec<Problem>> {
        let adapter = adapter_of(&definition.spec, adapters).map_err(|problem| vec![problem])?;
        let config_schema =
            Schema::compile(&definition.spec.config_schema).map_err(|problems| prefix("/configSchema", problems))?;
        let hasher = RandomState::new();
        let name_hashes = definition.spec.methods.iter().map(|method| short_hash(&hasher, &method.name)).collect();
        let methods = definition.spec.methods.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { definition, adapter, config_schema, defaults, methods, name_hashes, hasher })
    }

    pub fn method_index(&self, name: &str) -> Option<usize> {
        let hash = short_hash(&self.hasher, name);
        let mut alike = self.name_hashes.iter().enumerate().filter(|(_, other)| **other == hash);
        alike.find(|(index, _)| self.name_of(*index) == name).map(|(index, _)| index)
    }

    /// The compiled method's own, which a call reads anyway.
    fn name_of(&self, index: usize) -> &str {
        self.methods[index].get().map_or(&self.definition.spec.methods[index].name, |method| &method.name)
    }

    /// Reads ahead what every call of a method reads.
    pub(crate) fn prefetch(&self, index: usize) {
        let spec = &self.definition.spec;
        prefetch::words((spec.custom_auth.is_some(), spec.oauth2_config.is_some(), spec.auth_type));
        if let Some(method) = self.methods[index].get() {
            method.prefetch();
            method.operation.prefetch();
        }
    }

    pub fn method_count(&self) -> usize {
        self.methods.len()
    }

    /// The circuit breaker of the method at `index`: its own, or the usual one.
    pub fn circuit_breaker(&self, index: usize) -> CircuitBreakerConfig {
        self.definition.spec.methods[index].circuit_breaker.unwrap_or(self.defaults.circuit_breaker)
    }

    /// The compiled method at `index`; compiles it on first use.
    pub fn method(&self, index: usize) -> Result<Arc<CompiledMethod>, Vec<Problem>> {
        if let Some(method) = self.methods[index].get() {
            return Ok(Arc::clone(method));
        }
        let compiled = compile_method(&self.definition.spec, index, self.adapter.as_ref(), &self.defaults)?;
        Ok(Arc::clone(self.methods[index].get_or_init(|| Arc::new(compiled))))
    }
}

fn short_hash(hasher: &RandomState, name: &str) -> u32 {
    // The lower half of it.
    hasher.hash_one(name) as u32
}

static COMPILATIONS: AtomicU64 = AtomicU64::new(0);

/// The most problems of one definition that are told.
const MAX_PROBLEMS: usize = 1_000;
/// The longest that checking one definition may take.
const MAX_CHECK_TIME: Duration = Duration::from_secs(20);

/// Everything that is wrong with a definition: what publishing asks for. Takes long where
/// the definition is large.
pub fn check_definition(spec: &DefinitionSpec, adapters: &Adapters) -> Vec<Problem> {
    let deadline = Instant::now() + MAX_CHECK_TIME;
    let mut problems = spec.check();
    problems.extend(crate::oauth::check_endpoints(spec));
    if let Err(faults) = Schema::compile(&spec.config_schema) {
        problems.extend(prefix("/configSchema", faults));
    }
    match adapter_of(spec, adapters) {
        Err(problem) => problems.push(problem),
        Ok(adapter) => {
            if !adapter.describe().auth_types.contains(&spec.auth_type) {
                problems.push(Problem::new(
                    "/authType",
                    format!("the {} adapter does not do {}", spec.adapter_type, spec.auth_type.as_str()),
                ));
            }
            // A missing template is found twice: without an adapter, and by it.
            let known: HashSet<String> = problems.iter().map(|problem| problem.pointer.clone()).collect();
            for index in 0..spec.methods.len() {
                if let Some(reason) = reason_to_stop(&problems, deadline) {
                    problems.push(Problem::new(
                        "/methods",
                        format!("the methods from number {index} on were not checked: {reason}"),
                    ));
                    break;
                }
                if let Err(faults) = compile_method(spec, index, adapter.as_ref(), &PolicyDefaults::default()) {
                    problems.extend(faults.into_iter().filter(|fault| !known.contains(&fault.pointer)));
                }
            }
        }
    }
    problems
}

/// What is wrong with one method, apart from what concerns the whole definition.
pub fn check_method(spec: &DefinitionSpec, index: usize, adapters: &Adapters) -> Vec<Problem> {
    match adapter_of(spec, adapters) {
        Err(problem) => vec![problem],
        Ok(adapter) => {
            compile_method(spec, index, adapter.as_ref(), &PolicyDefaults::default()).err().unwrap_or_default()
        }
    }
}

fn reason_to_stop(problems: &[Problem], deadline: Instant) -> Option<&'static str> {
    if problems.len() >= MAX_PROBLEMS {
        return Some("there are too many problems before them");
    }
    (Instant::now() >= deadline).then_some("it takes too long; expected fewer methods, or simpler schemas")
}

/// The adapter that a definition runs on: one of its type, in a version that it takes.
pub(crate) fn find_adapter(
    adapter_type: &str,
    range: Option<&VersionReq>,
    adapters: &Adapters,
) -> Result<Arc<dyn Adapter>, Problem> {
    let Some(adapter) = adapters.get(adapter_type) else {
        let known: Vec<_> = adapters.types().collect();
        let message = format!("there is no adapter {adapter_type:?}; known: {}", known.join(", "));
        return Err(Problem::new("/type", message));
    };
    let description = adapter.describe();
    match range {
        Some(range) if !description.satisfies(range) => Err(Problem::new(
            "/adapterVersion",
            format!(
                "the {} adapter is {}, the definition takes {range}",
                description.adapter_type, description.version
            ),
        )),
        _ => Ok(Arc::clone(adapter)),
    }
}

fn adapter_of(spec: &DefinitionSpec, adapters: &Adapters) -> Result<Arc<dyn Adapter>, Problem> {
    find_adapter(&spec.adapter_type, spec.adapter_version.as_ref(), adapters)
}

fn compile_method(
    spec: &DefinitionSpec,
    index: usize,
    adapter: &dyn Adapter,
    defaults: &PolicyDefaults,
) -> Result<CompiledMethod, Vec<Problem>> {
    let method = &spec.methods[index];
    let pointer = format!("/methods/{index}");
    let mut problems = Vec::new();
    let mut keep = |field: &str, faults: Vec<Problem>| problems.extend(prefix(&format!("{pointer}/{field}"), faults));

    let param_schema = Schema::compile(&method.param_schema).map_err(|faults| keep("paramSchema", faults)).ok();
    let result_schema = Schema::compile(&method.result_schema).map_err(|faults| keep("resultSchema", faults)).ok();
    let request_transform = compile_transform(spec, method.request_transform.as_deref())
        .map_err(|fault| keep("requestTransform", vec![fault]))
        .ok();
    let response_transform = compile_transform(spec, method.response_transform.as_deref())
        .map_err(|fault| keep("responseTransform", vec![fault]))
        .ok();
    let operation = adapter.compile(spec, method).map_err(|faults| keep("operation", faults)).ok();

    match (param_schema, result_schema, request_transform, response_transform, operation) {
        (
            Some(param_schema),
            Some(result_schema),
            Some(request_transform),
            Some(response_transform),
            Some(operation),
        ) => Ok(CompiledMethod {
            name: method.name.clone(),
            compilation: COMPILATIONS.fetch_add(1, Ordering::Relaxed),
            param_schema,
            result_schema,
            result_validation: method.result_validation,
            operation,
            request_transform,
            response_transform,
            timeout: method.timeout_ms.map(Duration::from_millis),
            retry: RetryPolicy::new(method.retry_config.as_ref().or(defaults.retry.as_ref())),
            circuit_breaker: method.circuit_breaker.unwrap_or(defaults.circuit_breaker),
            cache: method.cache.clone(),
            idempotent: method.idempotent,
        }),
        _ => Err(problems),
    }
}

fn compile_transform(spec: &DefinitionSpec, transform: Option<&str>) -> Result<Option<Transform>, Problem> {
    let Some(text) = transform else { return Ok(None) };
    let expression = spec
        .resolve_transform(text)
        .ok_or_else(|| Problem::new("", format!("{text:?} names no template of this definition")))?;
    Transform::compile(expression).map(Some).map_err(|error| Problem::new("", error.to_string()))
}

/// Moves problems that point into a part to the place of the part.
fn prefix(pointer: &str, problems: Vec<Problem>) -> Vec<Problem> {
    problems.into_iter().map(|problem| Problem::new(format!("{pointer}{}", problem.pointer), problem.message)).collect()
}
