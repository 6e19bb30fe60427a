//! What happens when a method is executed: [`Engine::execute`], stage by stage.

mod attempts;
mod idempotency;
mod outcome;
mod params;
mod record;
mod request;

use std::sync::Arc;

use integration_model::audit::AuditOutcome;
use integration_model::definition::ResultValidation;
use integration_model::execution::Stage;
use integration_model::instance::{Instance, InstanceStatus};
use integration_model::principal::Principal;
use integration_model::{ErrorCode, ExecutionId, InstanceId};
use integration_store::{CredentialUse, IntendedUse, StoreError};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use outcome::millis;
pub use outcome::{Failure, LimitFacts, Meta, Outcome, Reply, Success};
pub use request::{ExecuteRequest, Paginate};

use crate::Engine;
use crate::adapter::{Call, CallError, Connection};
use crate::credential::Credential;
use crate::credential::source::Unusable;
use crate::data::{Data, InvalidData};
use crate::params::Params;
use crate::policy::cache::{CacheKey, CacheScope, CachedAnswer, Flight, Lookup, NewAnswer};
use crate::registry::{ActiveInstance, CompiledMethod, LoadError, MethodState};
use crate::stream::ContentStream;
use crate::transform::is_heavy;

pub(crate) use idempotency::Claim;
use params::CheckedParams;
pub(crate) use params::KnownText;

/// A call whose instance and method are known.
pub(crate) struct Run {
    pub(crate) request: ExecuteRequest,
    pub(crate) active: Arc<ActiveInstance>,
    pub(crate) method: Arc<CompiledMethod>,
    pub(crate) state: Arc<MethodState>,
    pub(crate) params: Params,
    /// What the cache knows of the text of the params.
    pub(crate) text: KnownText,
    pub(crate) execution_id: ExecutionId,
    /// What the upstream may tell repeated attempts by: the caller's key, else the
    /// execution's id.
    pub(crate) idempotency_key: String,
    pub(crate) started: Instant,
    pub(crate) created_at: integration_model::Timestamp,
    pub(crate) deadline: Instant,
    pub(crate) meta: Meta,
    /// The method's limit after this call, for the answer's headers.
    pub(crate) limit: Option<LimitFacts>,
    /// Whether a refused token was replaced: it is done once.
    pub(crate) token_replaced: bool,
    /// The uses of credentials that were put down for this call.
    pub(crate) credential_uses: Vec<CredentialUse>,
    /// Events beside the execution's own: a breaker that opened, a limit that was met.
    pub(crate) events: Vec<integration_model::event::EventDraft>,
}

impl Engine {
    /// Executes a method of an instance: the stages, in their order. The reply is given
    /// only after the execution's row and event are where they outlive the process.
    pub async fn execute(&self, request: ExecuteRequest) -> Reply {
        let Some(_place) = self.running.enter() else {
            return Reply::from(Outcome::refused(Failure::overloaded()));
        };
        let mut run = match self.begin(request).await {
            Ok(run) => run,
            Err(refused) => return refused,
        };
        if run.request.dry_run {
            return self.preview(run).await;
        }
        let claim = match self.claim_idempotency(&run).await {
            Ok(Claim::Answered(reply)) => return reply,
            Ok(Claim::Free(claim)) => claim,
            Err(failure) => return self.record(run, None, Err(failure)).await,
        };
        let result = self.run_stages(&mut run).await;
        self.record(run, claim, result).await
    }

    /// Resolve, authorize, validate: what decides whether there is an execution at all.
    pub(crate) async fn begin(&self, request: ExecuteRequest) -> Result<Run, Reply> {
        let started = Instant::now();
        let (active, method, state) =
            self.resolve(&request).await.map_err(|failure| Reply::from(Outcome::refused(failure)))?;
        let created_at = self.store.clock().now();
        let execution_id = request.execution_id.unwrap_or_else(|| ExecutionId(self.store.ids().next()));
        let timeout = method.timeout.unwrap_or(self.settings.default_timeout).min(self.settings.max_timeout);
        let scope = cache_scope(&active.instance, &method);
        let checked = params::check(request.params.clone(), &method, &scope, &self.cache);
        let mut run = Run {
            params: Params::empty(),
            text: KnownText::Not,
            active,
            method,
            state,
            execution_id,
            idempotency_key: request.idempotency_key.clone().unwrap_or_else(|| execution_id.to_string()),
            started,
            created_at,
            deadline: started + timeout,
            meta: Meta::new(Some(execution_id)),
            limit: None,
            token_replaced: false,
            credential_uses: Vec::new(),
            events: Vec::new(),
            request,
        };
        match checked.and_then(|checked| takes_stream(&run).map(|()| checked)) {
            Ok(CheckedParams { params, text }) => {
                (run.params, run.text) = (params, text);
                Ok(run)
            }
            Err(failure) if run.request.dry_run => {
                let meta = Meta::new(None);
                Err(Reply::from(Outcome { result: Err(failure), meta, limit: None }))
            }
            Err(failure) => Err(self.record(run, None, Err(failure)).await),
        }
    }

    /// Finds the instance, its definition and the method, and that the caller may use them.
    async fn resolve(
        &self,
        request: &ExecuteRequest,
    ) -> Result<(Arc<ActiveInstance>, Arc<CompiledMethod>, Arc<MethodState>), Failure> {
        let limits = self.limits.load();
        let missing = || {
            Failure::new(
                Stage::Resolve,
                ErrorCode::InstanceNotFound,
                format!("there is no instance {:?}", request.instance),
            )
        };
        let active = self
            .registry
            .instance(&request.instance, &self.store, &self.adapters, &limits.rules)
            .await
            .map_err(load_failure)?
            .ok_or_else(missing)?;
        // Another tenant's instance does not exist for this caller.
        if !request.may_see(&active.instance.tenant_id) {
            return Err(missing());
        }
        let is_large = self.registry.is_large();
        if is_large {
            active.prefetch();
        }
        let index = active.definition.method_index(&request.method).ok_or_else(|| {
            Failure::new(
                Stage::Resolve,
                ErrorCode::MethodNotFound,
                format!(
                    "definition {} {} has no method {:?}",
                    active.instance.integration_definition_id, active.instance.definition_version, request.method
                ),
            )
        })?;
        if is_large {
            active.prefetch_method(index);
        }
        let method = active.definition.method(index).map_err(|problems| {
            Failure::new(Stage::Resolve, ErrorCode::Internal, "the method does not compile")
                .with_detail("errors", json!(problems))
        })?;
        let state = Arc::clone(active.method_state(index, &limits.rules));
        Ok((active, method, state))
    }

    /// The stages from the cache on, of a call that has come so far.
    async fn run_stages(&self, run: &mut Run) -> Result<Success, Failure> {
        ready_to_execute(&run.active)?;
        let cache = match &run.method.cache {
            // A page leads to the next one by its cursor, which the cache does not keep.
            Some(cache) if run.request.paginate == Paginate::Off && run.request.stream.is_none() => cache.clone(),
            _ => return Box::pin(self.ask_upstream(run)).await,
        };
        let (key, new_text) = match std::mem::replace(&mut run.text, KnownText::Not) {
            KnownText::Asks(key) => (key, None),
            KnownText::New(text) => (cache_key(run, &cache.vary), Some(text)),
            KnownText::Not => (cache_key(run, &cache.vary), None),
        };
        let now = Instant::now();
        let stale = match self.cache.lookup(&key, now) {
            Lookup::Fresh { answer, .. } => {
                // Not before it is asked for again: most params are not.
                if let Some(text) = new_text {
                    self.cache.remember(text, &key);
                }
                return Ok(run.answer_from_cache(&answer, false));
            }
            Lookup::Stale { answer, .. } => Some(answer),
            Lookup::Miss => None,
        };
        let leader = match tokio::time::timeout_at(run.deadline, self.cache.lead_or_wait(&key, now)).await {
            Ok(Flight::Filled(answer)) => return Ok(run.answer_from_cache(&answer, false)),
            Ok(Flight::Lead(leader)) => leader,
            Err(_) => return Err(run.timed_out(Stage::CacheLookup)),
        };
        run.state.metrics.cache_miss();
        match Box::pin(self.ask_upstream(run)).await {
            // What is missing may be there the next time.
            Ok(success) if success.is_partial => Ok(success),
            Ok(success) => {
                // A copy: the answer's text may be a slice of a larger buffer.
                let body = bytes::Bytes::copy_from_slice(success.data.text());
                leader.fill(NewAnswer::new(body, success.upstream_status, &cache), Instant::now());
                Ok(success)
            }
            Err(failure) => match stale {
                Some(answer) if failure.may_fall_back() => {
                    self.cache.record_stale_hit(&answer);
                    Ok(run.answer_from_cache(&answer, true))
                }
                _ => Err(failure),
            },
        }
    }

    /// Rate limits, circuit breaker, transforms and the call itself. Callers box it: an
    /// answer from the cache should not carry its weight.
    async fn ask_upstream(&self, run: &mut Run) -> Result<Success, Failure> {
        self.acquire_limits(run)?;
        let state = Arc::clone(&run.state);
        // Dropped without a verdict, as where the transform fails, the ticket counts nothing.
        let ticket = attempts::enter_circuit_breaker(&state)?;
        let bound = transform_request(run)?;
        let result = self.call_with_retries(run, &bound).await;
        attempts::settle_circuit_breaker(run, ticket, &result);
        let answer = result?;
        run.meta.next_page = answer.next_page.map(|cursor| cursor.0);
        let status = answer.upstream_status;
        if run.request.is_downloading() {
            return Ok(Success { data: answer.data, upstream_status: status, is_partial: false });
        }
        // Whatever is wrong from here on, the external system has acted.
        let data = transform_response(run, answer.data).await.map_err(|failure| failure.answered(status))?;
        let mismatches = validate_result(run, &data).map_err(|failure| failure.answered(status))?;
        let is_partial = !answer.warnings.is_empty();
        run.meta.warnings = answer.warnings;
        run.meta.warnings.extend(mismatches);
        Ok(Success { data, upstream_status: status, is_partial })
    }

    /// What the call would send, secrets redacted; nothing is sent, recorded or counted.
    async fn preview(&self, run: Run) -> Reply {
        let preview = self.request_to_send(&run).await;
        let mut meta = run.meta;
        meta.duration_ms = outcome::millis(Instant::now() - run.started);
        let result =
            preview.map(|value| Success { data: Data::from_value(value), upstream_status: None, is_partial: false });
        Reply::from(Outcome { result, meta, limit: None })
    }

    async fn request_to_send(&self, run: &Run) -> Result<serde_json::Value, Failure> {
        ready_to_execute(&run.active)?;
        let bound = transform_request(run)?;
        let intended = run.intended_use(DRY_RUN);
        let used = self.begin_use(&run.active, intended)?;
        let opened = self.credential_to_show(&run.active, run.deadline).await;
        let preview = opened.and_then(|credential| {
            let call = run.call(self, &bound, &credential, None);
            run.method.operation.preview(call).map_err(|error| Failure::from_call(error, Stage::Call))
        });
        self.finish_use(used, intended, preview.is_ok()).await;
        preview
    }

    /// Puts down that the instance's credential is about to be used; nothing where it has
    /// none. The credential may be opened only after this.
    pub(crate) fn begin_use(
        &self,
        active: &ActiveInstance,
        intended: IntendedUse<'_>,
    ) -> Result<Option<CredentialUse>, Failure> {
        let Some(credential) = active.credential.id() else { return Ok(None) };
        let intended = IntendedUse { credential: Some(credential), ..intended };
        self.store.begin_use(intended).map(Some).map_err(|error| not_audited(&active.instance.id, &error))
    }

    /// Commits the row of a use that is no execution's. Where that fails, the use stays in the
    /// spool and gets its row later.
    pub(crate) async fn finish_use(&self, used: Option<CredentialUse>, intended: IntendedUse<'_>, succeeded: bool) {
        let Some(used) = used else { return };
        let outcome = if succeeded { AuditOutcome::Success } else { AuditOutcome::Failure };
        if let Err(error) = self.store.finish_use(used, intended, outcome).await {
            tracing::error!(instance.id = %intended.instance, %error, "the use of a credential has no row in the audit yet");
        }
    }

    /// The credential in the clear, for the time of one attempt.
    pub(crate) async fn open_credential(
        &self,
        active: &ActiveInstance,
        deadline: Instant,
    ) -> Result<Arc<Credential>, Failure> {
        let failure = |code, message: String| Failure::new(Stage::Credential, code, message);
        match tokio::time::timeout_at(deadline, active.credential.open(&self.store)).await {
            Ok(Ok(credential)) => Ok(credential),
            Ok(Err(ref error @ Unusable::Unavailable { retryable, .. })) => {
                Err(failure(ErrorCode::CredentialUnavailable, error.to_string()).retryable(retryable))
            }
            Ok(Err(error)) => Err(failure(ErrorCode::Auth, error.to_string())),
            Err(_) => {
                Err(failure(ErrorCode::Timeout, "the deadline passed while the credential was waited for".to_owned()))
            }
        }
    }
}

/// A secret is used only where that leaves a trace.
fn not_audited(instance: &InstanceId, error: &StoreError) -> Failure {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(instance.id = %instance, %error, cause, "the use of a credential could not be put down");
    let message = "the use of the credential could not be written to the audit: it was not used, and nothing was sent";
    Failure::new(Stage::Credential, ErrorCode::Internal, message).retryable(true)
}

/// Why credentials are opened.
const EXECUTE: &str = "execute";
const DRY_RUN: &str = "dry run";

impl Run {
    /// Reads ahead what is read after an answer.
    fn prefetch(&self) {
        self.active.prefetch();
        self.method.prefetch();
        self.state.prefetch();
    }

    /// The use of the credential that this call makes.
    fn intended_use(&self, why: &'static str) -> IntendedUse<'_> {
        IntendedUse {
            tenant: &self.active.instance.tenant_id,
            principal: &self.request.principal.name,
            instance: &self.active.instance.id,
            credential: None,
            execution: (why == EXECUTE).then_some(self.execution_id),
            correlation_id: &self.request.correlation_id,
            why,
            method: &self.method.name,
        }
    }

    pub(crate) fn call<'a>(
        &'a self,
        engine: &'a Engine,
        params: &'a Params,
        credential: &'a Credential,
        page: Option<&'a crate::adapter::PageCursor>,
    ) -> Call<'a> {
        Call {
            connection: Connection {
                instance: &self.active.instance.id,
                config: &self.active.config,
                credential,
                custom_auth: self.active.definition.definition.spec.custom_auth.as_ref(),
                http: &engine.http,
                deadline: self.deadline,
                now: engine.store.clock().now(),
            },
            params,
            idempotency_key: &self.idempotency_key,
            traceparent: self.request.traceparent.as_deref(),
            page,
        }
    }

    fn answer_from_cache(&mut self, answer: &CachedAnswer, stale: bool) -> Success {
        if stale {
            self.state.metrics.stale_answer();
        } else {
            self.state.metrics.cache_hit();
        }
        self.meta.cached = true;
        self.meta.stale = stale;
        self.meta.cache_age_ms = Some(outcome::millis(answer.age(Instant::now())));
        Success {
            data: Data::from_text(answer.body.clone()),
            upstream_status: answer.upstream_status,
            is_partial: false,
        }
    }

    pub(crate) fn timed_out(&self, stage: Stage) -> Failure {
        let timeout = outcome::millis(self.deadline - self.started);
        Failure::new(stage, ErrorCode::Timeout, format!("the deadline of {timeout} ms passed"))
            .with_detail("timeoutMs", timeout)
            .retryable(true)
    }
}

/// Which cached answer a call may share: never one of another tenant or instance.
fn cache_key(run: &Run, vary: &[String]) -> CacheKey {
    CacheKey::new(&cache_scope(&run.active.instance, &run.method), run.params.as_object(), vary)
}

fn cache_scope<'a>(instance: &'a Instance, method: &'a CompiledMethod) -> CacheScope<'a> {
    CacheScope {
        tenant: &instance.tenant_id,
        instance: &instance.id,
        definition_version: &instance.definition_version,
        method: &method.name,
    }
}

/// Content comes only for methods that take it.
fn takes_stream(run: &Run) -> Result<(), Failure> {
    match &run.request.stream {
        Some(ContentStream::Upload(_)) if !run.method.operation.takes_content() => Err(Failure::new(
            Stage::Validate,
            ErrorCode::UnsupportedMediaType,
            "this method takes no content beside its params: expected Content-Type: application/json",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn ready_to_execute(active: &ActiveInstance) -> Result<(), Failure> {
    let definition = &active.definition.definition;
    if !definition.status.executes() {
        return Err(Failure::new(
            Stage::Resolve,
            ErrorCode::InstanceNotReady,
            format!(
                "definition {} {} is {}: upgrade the instance to a PUBLISHED version (POST …/upgrade)",
                definition.spec.id,
                definition.spec.version,
                definition.status.as_str()
            ),
        )
        .with_detail("definitionStatus", definition.status.as_str()));
    }
    let status = active.instance.status;
    if status == InstanceStatus::Connected {
        return Ok(());
    }
    let error = active.instance.error.as_ref().map_or("", |error| error.message.as_str());
    Err(Failure::new(
        Stage::Resolve,
        ErrorCode::InstanceNotReady,
        format!("the instance is {} ({error}): {}", status.as_str(), status.remedy()),
    )
    .with_detail("status", status.as_str()))
}

fn transform_request(run: &Run) -> Result<Params, Failure> {
    let Some(transform) = &run.method.request_transform else { return Ok(run.params.clone()) };
    let failed = |message: String| Failure::new(Stage::RequestTransform, ErrorCode::Transform, message);
    match transform.apply(run.params.as_value()) {
        Ok(serde_json::Value::Object(object)) => Ok(Params::from_object(object)),
        Ok(_) => Err(failed("the request transform must make an object of params".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn transform_response(run: &Run, data: Data) -> Result<Data, Failure> {
    if run.method.response_transform.is_none() {
        // Once: as a value where the schema wants to see it.
        let read = if run.method.looks_at_result() { data.value().map(drop) } else { data.check() };
        read.map_err(|error| unreadable(&error))?;
        return Ok(data);
    }
    if !is_heavy(data.text().len()) {
        return apply_response_transform(&run.method, &data);
    }
    let method = Arc::clone(&run.method);
    let work = tokio::task::spawn_blocking(move || apply_response_transform(&method, &data));
    work.await
        .map_err(|_| Failure::new(Stage::ResponseTransform, ErrorCode::Transform, "the transform was interrupted"))?
}

fn apply_response_transform(method: &CompiledMethod, data: &Data) -> Result<Data, Failure> {
    let input = data.value().map_err(|error| unreadable(&error))?;
    let Some(transform) = &method.response_transform else { return Ok(data.clone()) };
    let output = transform
        .apply(input)
        .map_err(|error| Failure::new(Stage::ResponseTransform, ErrorCode::Transform, error.to_string()))?;
    Ok(Data::from_value(output))
}

fn unreadable(error: &InvalidData) -> Failure {
    Failure::new(Stage::Call, ErrorCode::Upstream, error.to_string())
}

/// Holds the answer against the result schema; gives the warnings that go with it.
fn validate_result(run: &Run, data: &Data) -> Result<Vec<integration_model::Problem>, Failure> {
    if !run.method.looks_at_result() {
        return Ok(Vec::new());
    }
    let value = data
        .value()
        .map_err(|error| Failure::new(Stage::ResultValidation, ErrorCode::ResultInvalid, error.to_string()))?;
    let Err(problems) = run.method.result_schema.validate(value) else { return Ok(Vec::new()) };
    let problems: Vec<_> = problems
        .into_iter()
        .map(|problem| integration_model::Problem::new(format!("/data{}", problem.pointer), problem.message))
        .collect();
    run.state.metrics.result_mismatched();
    match run.method.result_validation {
        ResultValidation::Enforce => Err(Failure::new(
            Stage::ResultValidation,
            ErrorCode::ResultInvalid,
            "the answer does not fit the method's resultSchema",
        )
        .with_detail("errors", json!(problems))),
        _ => Ok(problems),
    }
}

fn load_failure(error: LoadError) -> Failure {
    match error {
        LoadError::Store(error) => {
            tracing::error!(error = %error, "the store failed while an instance was loaded");
            Failure::new(Stage::Resolve, ErrorCode::Internal, "the store failed").retryable(true)
        }
        other => Failure::new(Stage::Resolve, ErrorCode::Internal, other.to_string()),
    }
}

/// What a connection test found, and with which credential.
pub(crate) struct Tested {
    pub(crate) result: Result<String, CallError>,
    pub(crate) credential: Option<Uuid>,
}

/// Asks the adapter, or the definition's test method, whether the connection works. A refused
/// token is replaced once, as in a call.
pub(crate) async fn test_connection(
    engine: &Engine,
    instance: &Instance,
    deadline: Instant,
    principal: &Principal,
    correlation_id: &str,
) -> Tested {
    let intended = IntendedUse {
        tenant: &instance.tenant_id,
        principal: &principal.name,
        instance: &instance.id,
        credential: None,
        execution: None,
        correlation_id,
        why: "connection test",
        method: "",
    };
    let mut credential = None;
    let result = test(engine, instance, deadline, intended, &mut credential).await;
    Tested { result, credential }
}

async fn test(
    engine: &Engine,
    instance: &Instance,
    deadline: Instant,
    intended: IntendedUse<'_>,
    used: &mut Option<Uuid>,
) -> Result<String, CallError> {
    let active = active_for_test(engine, instance).await?;
    *used = active.credential.id();
    let active = engine.with_fresh_token(&active, deadline).await.map_err(not_sent)?;
    *used = active.credential.id();
    match test_stored(engine, &active, deadline, intended).await {
        Err(error) if error.credential_refused => {
            let Some(active) = engine.with_another_token(&active, deadline).await.map_err(not_sent)? else {
                return Err(error);
            };
            *used = active.credential.id();
            test_stored(engine, &active, deadline, intended).await
        }
        result => result,
    }
}

/// Asks with the instance's own credential.
async fn test_stored(
    engine: &Engine,
    active: &ActiveInstance,
    deadline: Instant,
    intended: IntendedUse<'_>,
) -> Result<String, CallError> {
    let used = engine.begin_use(active, intended).map_err(not_sent)?;
    let result = match engine.credential_for(active, intended.correlation_id, deadline).await {
        Ok(credential) => test_with(engine, active, &credential, deadline).await,
        Err(failure) => Err(not_sent(failure)),
    };
    engine.finish_use(used, intended, result.is_ok()).await;
    result
}

fn not_sent(failure: Failure) -> CallError {
    CallError::not_sent(failure.code, failure.message.as_str())
}

/// Asks the same with a credential that the instance does not have yet.
pub(crate) async fn test_candidate(
    engine: &Engine,
    instance: &Instance,
    candidate: &Credential,
    deadline: Instant,
    principal: &Principal,
    correlation_id: &str,
) -> Result<String, CallError> {
    let active = active_for_test(engine, instance).await?;
    let intended = IntendedUse {
        tenant: &instance.tenant_id,
        principal: &principal.name,
        instance: &instance.id,
        credential: None,
        execution: None,
        correlation_id,
        why: "test before rotation",
        method: "",
    };
    let used = engine.store.begin_use(intended).map_err(|error| not_sent(not_audited(&instance.id, &error)))?;
    let result = match engine.candidate_to_send(&active, candidate, deadline).await {
        Ok(credential) => test_with(engine, &active, &credential, deadline).await,
        Err(error) => Err(error),
    };
    engine.finish_use(Some(used), intended, result.is_ok()).await;
    result
}

/// The instance as its calls see it, where its config lets it be asked at all.
async fn active_for_test(engine: &Engine, instance: &Instance) -> Result<Arc<ActiveInstance>, CallError> {
    let limits = engine.limits.load_full();
    let active = engine
        .registry
        .instance(instance.id.as_str(), &engine.store, &engine.adapters, &limits.rules)
        .await
        .map_err(|error| CallError::not_sent(ErrorCode::Internal, error.to_string()))?
        .ok_or_else(|| CallError::not_sent(ErrorCode::InstanceNotFound, "the instance is gone"))?;
    if matches!(instance.status, InstanceStatus::PendingConfiguration | InstanceStatus::ConfigError) {
        return Err(CallError::not_sent(ErrorCode::InstanceNotReady, instance.status.remedy()));
    }
    Ok(active)
}

async fn test_with(
    engine: &Engine,
    active: &ActiveInstance,
    credential: &Credential,
    deadline: Instant,
) -> Result<String, CallError> {
    let connection = Connection {
        instance: &active.instance.id,
        config: &active.config,
        credential,
        custom_auth: active.definition.definition.spec.custom_auth.as_ref(),
        http: &engine.http,
        deadline,
        now: engine.store.clock().now(),
    };
    let Some(index) =
        active.definition.definition.spec.test_method.as_deref().and_then(|name| active.definition.method_index(name))
    else {
        return active.definition.adapter.test(connection).await;
    };
    let method = active
        .definition
        .method(index)
        .map_err(|_| CallError::not_sent(ErrorCode::Internal, "the test method does not compile"))?;
    let params = Params::empty();
    let idempotency_key = engine.store.ids().next().to_string();
    let call = Call { connection, params: &params, idempotency_key: &idempotency_key, traceparent: None, page: None };
    let answer = method.operation.call(call).await?;
    Ok(format!(
        "{} answered {}",
        method.name,
        answer.upstream_status.map_or_else(|| "".to_owned(), |status| status.to_string())
    ))
}
