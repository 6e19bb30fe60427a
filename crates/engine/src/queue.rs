//! Asynchronous executions: taken into the store's queue, run by this process' workers,
//! found again after a kill.
//!
//! A worker holds a lease on what it runs and renews it. Where a process dies, its leases
//! run out, and another worker takes the execution over: it runs again only where running
//! twice does no harm, else it ends with an unknown outcome. Nothing is lost in silence.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integration_model::audit::{AuditAction, AuditDraft, TargetType};
use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionError, ExecutionMode, ExecutionStatus, Stage};
use integration_model::principal::Principal;
use integration_model::{ErrorCode, ExecutionId, TenantId};
use integration_store::{ExecutionRecord, IdempotencyClaim, QueuedExecution};
use metrics::gauge;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::execute::{Claim, ExecuteRequest, Failure, Outcome, Paginate, Reply, ready_to_execute};
use crate::{Engine, EngineError};

/// How often a lease is renewed in its time: two renewals may fail before it ends.
const RENEWALS: u32 = 3;
/// The most executions that the queue holds; more are refused with OVERLOADED. The count is
/// taken anew with each heartbeat, so that it may be passed by what comes in between.
const MAX_QUEUED: u64 = 100_000;
/// How often the queue is looked at without being told of new work.
const POLL: Duration = Duration::from_secs(2);

/// What runs in this process: its number, and how to stop each asynchronous one.
pub(crate) struct RunningExecutions {
    count: AtomicUsize,
    max: usize,
    cancels: Mutex<HashMap<ExecutionId, CancellationToken>>,
    /// How many executions the queue holds: counted on from what the store last said.
    depth: AtomicU64,
    pub(crate) queued: Notify,
    idle: Notify,
}

/// Counts one execution for as long as it lives.
pub(crate) struct RunningGuard<'a>(&'a RunningExecutions);

impl RunningExecutions {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            max,
            cancels: Mutex::default(),
            depth: AtomicU64::new(0),
            queued: Notify::new(),
            idle: Notify::new(),
        }
    }

    /// A place among the running executions; none where all are taken.
    pub(crate) fn enter(&self) -> Option<RunningGuard<'_>> {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        let guard = RunningGuard(self);
        (count <= self.max).then_some(guard)
    }

    fn cancels(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, CancellationToken>> {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// What the queue keeps of a call beside its params.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueuedCall {
    principal: String,
    principal_tenant: Option<TenantId>,
    tenant: Option<TenantId>,
    traceparent: Option<String>,
    idempotency_key: Option<String>,
    paginate: Paginate,
}

impl Engine {
    /// Takes a call into the queue; it is committed when this returns. `Err` is the reply
    /// to a call that was not worth queueing.
    pub async fn enqueue(&self, request: ExecuteRequest) -> Result<Reply, Reply> {
        if self.running.depth.fetch_add(1, Ordering::AcqRel) >= MAX_QUEUED {
            self.running.depth.fetch_sub(1, Ordering::AcqRel);
            return Err(Reply::from(Outcome::refused(Failure::overloaded())));
        }
        let run = self.begin(request).await?;
        if let Err(failure) = ready_to_execute(&run.active) {
            return Err(self.record(run, None, Err(failure)).await);
        }
        let claim = match self.claim_idempotency(&run).await {
            Ok(Claim::Answered(reply)) => return Ok(reply),
            Ok(Claim::Free(claim)) => claim,
            Err(failure) => return Err(self.record(run, None, Err(failure)).await),
        };
        let call = QueuedCall {
            principal: run.request.principal.name.to_string(),
            principal_tenant: run.request.principal.tenant.clone(),
            tenant: run.request.tenant.clone(),
            traceparent: run.request.traceparent.clone(),
            idempotency_key: run.request.idempotency_key.clone(),
            paginate: run.request.paginate.clone(),
        };
        // Plain data serialises.
        let call = serde_json::to_vec(&call).expect("the call serialises");
        if let Err(error) = self.store.enqueue(&run.as_queued(), &run.request.params, &call).await {
            self.release(claim).await;
            return Err(self.unrecorded(&run, &error));
        }
        let reply = Reply::accepted(run.execution_id);
        if let Some(claim) = claim
            && let Err(error) = self.store.finish_abandoned(&claim, &reply.body).await
        {
            tracing::warn!(error = %error, "the answer to an idempotency key could not be kept");
        }
        self.running.queued.notify_one();
        Ok(reply)
    }

    async fn release(&self, claim: Option<IdempotencyClaim>) {
        if let Some(claim) = claim
            && let Err(error) = self.store.release_idempotency(&claim).await
        {
            tracing::warn!(error = %error, "an idempotency key could not be released; it expires by itself");
        }
    }

    /// Runs queued executions until told to stop, then waits for those under way.
    pub async fn run_queue(self: Arc<Self>, stop: CancellationToken) {
        let worker = self.store.worker().to_owned();
        let tasks = TaskTracker::new();
        let held = Arc::new(Mutex::new(Vec::<ExecutionId>::new()));
        let mut heartbeat = tokio::time::interval((self.settings.lease / RENEWALS).max(Duration::from_millis(1)));
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = heartbeat.tick() => self.tend_leases(&worker, &held, &tasks).await,
                _ = poll.tick() => self.start_queued(&worker, &held, &tasks).await,
                () = self.running.queued.notified() => self.start_queued(&worker, &held, &tasks).await,
            }
        }
        tasks.close();
        // Leases go on being renewed until the last execution ended.
        loop {
            tokio::select! {
                () = tasks.wait() => return,
                _ = heartbeat.tick() => self.renew_leases(&worker, &held).await,
            }
        }
    }

    async fn start_queued(self: &Arc<Self>, worker: &str, held: &Arc<Mutex<Vec<ExecutionId>>>, tasks: &TaskTracker) {
        let free = self.settings.async_workers.saturating_sub(lock(held).len());
        if free == 0 {
            return;
        }
        match self.store.claim_queued(worker, u32::try_from(free).unwrap_or(u32::MAX), self.settings.lease).await {
            Ok(claimed) => {
                for queued in claimed {
                    self.start(queued, held, tasks);
                }
            }
            Err(error) => tracing::error!(error = %error, "the queue could not be read"),
        }
    }

    fn start(self: &Arc<Self>, queued: QueuedExecution, held: &Arc<Mutex<Vec<ExecutionId>>>, tasks: &TaskTracker) {
        let engine = Arc::clone(self);
        let held = Arc::clone(held);
        lock(&held).push(queued.execution.id);
        tasks.spawn(async move {
            let id = queued.execution.id;
            engine.run_queued(queued).await;
            lock(&held).retain(|other| *other != id);
            engine.running.queued.notify_one();
        });
    }

    async fn tend_leases(self: &Arc<Self>, worker: &str, held: &Arc<Mutex<Vec<ExecutionId>>>, tasks: &TaskTracker) {
        self.renew_leases(worker, held).await;
        match self.store.expired_leases(worker, 64, self.settings.lease).await {
            Ok(abandoned) => {
                for queued in abandoned {
                    if self.may_run_again(&queued).await {
                        self.start(queued, held, tasks);
                    } else {
                        self.end_as_unknown(&queued.execution, ErrorCode::Interrupted, "the service stopped while the call was under way; whether the external system acted on it is not known").await;
                    }
                }
            }
            Err(error) => tracing::error!(error = %error, "abandoned executions could not be looked for"),
        }
        if let Err(error) = self.settle_abandoned_claims().await {
            tracing::error!(error = %error, "abandoned idempotency keys could not be settled");
        }
        match self.store.queue_depth().await {
            Ok(depth) => {
                self.running.depth.store(depth, Ordering::Release);
                gauge!("integration_queue_depth").set(depth as f64);
            }
            Err(error) => tracing::error!(error = %error, "the queue could not be counted"),
        }
        gauge!("integration_executions_in_flight").set(self.running.count.load(Ordering::Relaxed) as f64);
    }

    async fn renew_leases(&self, worker: &str, held: &Arc<Mutex<Vec<ExecutionId>>>) {
        let mine = lock(held).clone();
        if mine.is_empty() {
            return;
        }
        match self.store.extend_leases(worker, &mine, self.settings.lease).await {
            Ok(lost) => {
                // Somebody else took them over: go on, and two would act.
                for id in lost {
                    if let Some(cancel) = self.running.cancels().get(&id) {
                        cancel.cancel();
                    }
                }
            }
            Err(error) => tracing::error!(error = %error, "leases could not be renewed"),
        }
    }

    async fn may_run_again(&self, queued: &QueuedExecution) -> bool {
        let limits = self.limits.load_full();
        let id = queued.execution.integration_instance_id.as_str();
        let loaded = self.registry.instance(id, &self.store, &self.adapters, &limits.rules).await;
        let Ok(Some(active)) = loaded else { return false };
        let Some(index) = active.definition.method_index(&queued.execution.method_name) else { return false };
        active
            .definition
            .method(index)
            .is_ok_and(|method| method.idempotent || method.operation.sends_idempotency_key())
    }

    async fn run_queued(&self, queued: QueuedExecution) {
        let execution = queued.execution;
        let Ok(call) = serde_json::from_slice::<QueuedCall>(&queued.request) else {
            self.end_as_unknown(&execution, ErrorCode::Internal, "the queued call is not readable").await;
            return;
        };
        let cancel = CancellationToken::new();
        self.running.cancels().insert(execution.id, cancel.clone());
        let request = ExecuteRequest {
            principal: Principal::recorded(&call.principal, call.principal_tenant),
            tenant: call.tenant,
            instance: execution.integration_instance_id.to_string(),
            method: execution.method_name.clone(),
            params: queued.params,
            mode: ExecutionMode::Async,
            correlation_id: execution.correlation_id.clone(),
            traceparent: call.traceparent,
            task_id: execution.task_id.clone(),
            idempotency_key: call.idempotency_key,
            paginate: call.paginate,
            dry_run: false,
            execution_id: Some(execution.id),
            replay_of: execution.replay_of,
            stream: None,
        };
        let reply = tokio::select! {
            reply = self.execute(request) => Some(reply),
            () = cancel.cancelled() => None,
        };
        self.running.cancels().remove(&execution.id);
        match reply {
            None => {
                self.end_as_unknown(
                    &execution,
                    ErrorCode::Cancelled,
                    "cancelled while under way; whether the external system acted on it is not known",
                )
                .await
            }
            // It was refused before it could be recorded: the instance or method is gone.
            Some(reply) if reply.execution_id.is_none() => {
                let code = reply.code.unwrap_or(ErrorCode::Internal);
                self.end(
                    &execution,
                    code,
                    "the instance or method was gone when the call's turn came",
                    json!({"stage": Stage::Resolve}),
                )
                .await;
            }
            Some(_) => {}
        }
    }

    async fn end_as_unknown(&self, execution: &Execution, code: ErrorCode, message: &str) {
        self.end(execution, code, message, json!({"stage": Stage::Call, "outcome": "unknown"})).await;
    }

    async fn end(&self, execution: &Execution, code: ErrorCode, message: &str, details: serde_json::Value) {
        let (execution, event) = self.ended(execution, code, message, details);
        let execution = Arc::new(execution);
        let record = ExecutionRecord {
            execution: Arc::clone(&execution),
            params: None,
            events: vec![event],
            idempotency: None,
            answer: None,
            credential_uses: Vec::new(),
            from_queue: true,
        };
        match self.store.record(record).await {
            Ok(()) => self.observer.finished(&execution, None),
            Err(error) => {
                tracing::error!(execution.id = %execution.id, error = %error, "an execution's end could not be recorded")
            }
        }
    }

    fn ended(
        &self,
        execution: &Execution,
        code: ErrorCode,
        message: &str,
        details: serde_json::Value,
    ) -> (Execution, EventDraft) {
        let now = self.store.clock().now();
        let duration_ms = u64::try_from(now.since(execution.created_at).as_millis()).unwrap_or(u64::MAX);
        let error = ExecutionError { code, message: message.to_owned(), details, retryable: false, retry_after: None };
        let event = EventDraft::method_failed(
            &execution.correlation_id,
            &execution.integration_instance_id,
            &execution.method_name,
            &error,
            duration_ms,
        )
        .with_task(execution.task_id.as_deref());
        let ended = Execution {
            status: ExecutionStatus::Error,
            error: Some(error),
            finished_at: Some(now),
            duration_ms: Some(duration_ms),
            ..execution.clone()
        };
        (ended, event)
    }

    /// Keys whose caller's process died: the answer is that nobody knows.
    async fn settle_abandoned_claims(&self) -> Result<(), integration_store::StoreError> {
        self.store.heartbeat(self.settings.lease).await?;
        let made_before = self.store.clock().now().saturating_sub(self.settings.lease);
        for claim in self.store.abandoned_claims(made_before, 64).await? {
            // A queued call is accounted for by its row, whatever became of its caller.
            let row = self.store.execution(claim.execution_id).await?;
            if row.is_some_and(|row| row.mode == ExecutionMode::Async) {
                self.store.finish_abandoned(&claim, &Reply::accepted(claim.execution_id).body).await?;
                continue;
            }
            let message = "the service stopped while the call was under way; whether the external system acted on it is not known";
            let error = ExecutionError {
                code: ErrorCode::Interrupted,
                message: message.to_owned(),
                details: json!({"stage": Stage::Call, "outcome": "unknown"}),
                retryable: false,
                retry_after: None,
            };
            let body = json!({"status": "ERROR", "error": error, "meta": {"executionId": claim.execution_id, "durationMs": 0, "attempts": 0, "cached": false}});
            self.store.finish_abandoned(&claim, body.to_string().as_bytes()).await?;
            tracing::warn!(execution.id = %claim.execution_id, instance.id = %claim.instance, method = %claim.method, "a call with an idempotency key was interrupted; its outcome is unknown");
        }
        Ok(())
    }

    /// Stops an asynchronous execution: before its turn without effect, under way with an
    /// unknown one.
    pub async fn cancel_execution(
        &self,
        id: ExecutionId,
        principal: &Principal,
        correlation_id: &str,
    ) -> Result<Execution, EngineError> {
        let execution = self.execution(id, principal).await?;
        if execution.status.is_final() {
            return Err(EngineError::conflict(format!("the execution has ended with {}", execution.status.as_str())));
        }
        let (ended, event) = self.ended(
            &execution,
            ErrorCode::Cancelled,
            "cancelled before its turn: nothing was sent",
            json!({"stage": Stage::Resolve}),
        );
        let audit =
            AuditDraft::done(AuditAction::ExecutionCancelled, &principal.name, "stopped by a caller", correlation_id)
                .to(TargetType::Execution, id.to_string());
        if self.store.cancel_queued(id, ended, vec![event], audit.clone()).await? {
            return self.execution(id, principal).await;
        }
        let cancel = self.running.cancels().get(&id).cloned();
        match cancel {
            Some(cancel) => {
                self.store.append_audit(audit, Some(&execution.tenant_id), None, None).await?;
                cancel.cancel();
            }
            None => {
                return Err(EngineError::conflict("the execution is under way in another process, or has just ended"));
            }
        }
        self.execution(id, principal).await
    }

    /// The execution, if this caller may know of it.
    pub async fn execution(&self, id: ExecutionId, principal: &Principal) -> Result<Execution, EngineError> {
        self.store
            .execution(id)
            .await?
            .filter(|execution| principal.may_see(&execution.tenant_id))
            .ok_or_else(|| EngineError::ExecutionNotFound(id.to_string()))
    }

    /// The call that an execution was, to be made again.
    pub async fn replay_request(
        &self,
        id: ExecutionId,
        principal: &Principal,
        correlation_id: String,
    ) -> Result<ExecuteRequest, EngineError> {
        let execution = self.execution(id, principal).await?;
        let params = self.store.execution_params(id).await?.ok_or_else(|| {
            EngineError::conflict(
                "the params of this execution were not kept (execution.keepParams, or larger than 64 KiB)",
            )
        })?;
        Ok(ExecuteRequest {
            principal: principal.clone(),
            tenant: Some(execution.tenant_id),
            instance: execution.integration_instance_id.to_string(),
            method: execution.method_name,
            params,
            mode: ExecutionMode::Sync,
            correlation_id,
            traceparent: None,
            task_id: execution.task_id,
            idempotency_key: None,
            paginate: Paginate::Off,
            dry_run: false,
            execution_id: None,
            replay_of: Some(id),
            stream: None,
        })
    }

    /// Waits until nothing runs, or until the deadline.
    pub async fn drain(&self, deadline: tokio::time::Instant) {
        loop {
            let idle = self.running.idle.notified();
            if self.running.count.load(Ordering::Acquire) == 0 {
                return;
            }
            if tokio::time::timeout_at(deadline, idle).await.is_err() {
                tracing::warn!(
                    running = self.running.count.load(Ordering::Acquire),
                    "executions were still under way at the end of the shutdown"
                );
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
