//! The end of an execution: its row and event are put down for good, then it is told.

use std::sync::Arc;

use bytes::Bytes;
use integration_model::ErrorCode;
use integration_model::event::EventDraft;
use integration_model::execution::{Execution, ExecutionStatus, Stage};
use integration_store::{ExecutionRecord, IdempotencyClaim};

use super::outcome::millis;
use super::{Failure, Outcome, Reply, Run, Success};
use crate::Engine;
use crate::adapter::Effect;
use tokio::time::Instant;

impl Engine {
    /// Puts the log row, the events and the stored answer down for good, then gives the reply. Where
    /// the store fails, the caller is told so instead: an answer without its row would be
    /// a call that nobody can account for.
    pub(crate) async fn record(
        &self,
        mut run: Run,
        claim: Option<IdempotencyClaim>,
        result: Result<Success, Failure>,
    ) -> Reply {
        let elapsed = Instant::now() - run.started;
        run.meta.duration_ms = millis(elapsed);
        let code = result.as_ref().err().map(|failure| failure.code);
        run.state.metrics.finished(code.map(ErrorCode::as_str), elapsed, run.meta.attempts);

        let release = claim.is_some() && may_be_called_again(&result);
        let (execution, event) = self.describe(&run, &result);
        let execution = Arc::new(execution);
        let limit = result.as_ref().err().and_then(|failure| failure.limit.clone()).or_else(|| run.limit.clone());
        let reply = Reply::from(Outcome { result, meta: run.meta.clone(), limit });

        let mut events = std::mem::take(&mut run.events);
        events.insert(0, event);
        let (kept, released) = if release { (None, claim) } else { (claim, None) };
        let record = ExecutionRecord {
            params: self.params_to_keep(&run),
            events,
            credential_uses: std::mem::take(&mut run.credential_uses),
            answer: kept.is_some().then(|| reply.body.clone()),
            idempotency: kept,
            from_queue: run.was_queued(),
            execution: Arc::clone(&execution),
        };
        if let Err(error) = self.store.record(record).await {
            return self.unrecorded(&run, &error);
        }
        if let Some(claim) = released
            && let Err(error) = self.store.release_idempotency(&claim).await
        {
            tracing::warn!(error = %error, "an idempotency key could not be released; it expires by itself");
        }
        self.observer.finished(&execution, run.request.traceparent.as_deref());
        reply
    }

    fn describe(&self, run: &Run, result: &Result<Success, Failure>) -> (Execution, EventDraft) {
        let request = &run.request;
        let instance = &run.active.instance;
        let data_size = result.as_ref().ok().map(|success| success.data.text().len() as u64);
        let (upstream_status, error) = match result {
            Ok(success) => (success.upstream_status, None),
            Err(failure) => (failure.upstream_status, Some(failure.to_error())),
        };
        let event = match &error {
            None => EventDraft::method_executed(
                &request.correlation_id,
                &instance.id,
                &run.method.name,
                run.meta.duration_ms,
                upstream_status,
                data_size.unwrap_or_default(),
            ),
            Some(error) => EventDraft::method_failed(
                &request.correlation_id,
                &instance.id,
                &run.method.name,
                error,
                run.meta.duration_ms,
            ),
        };
        let execution = Execution {
            status: if error.is_none() { ExecutionStatus::Success } else { ExecutionStatus::Error },
            error,
            attempts: run.meta.attempts,
            cached: run.meta.cached,
            upstream_status,
            data_size,
            finished_at: Some(self.store.clock().now()),
            duration_ms: Some(run.meta.duration_ms),
            data: self.data_to_keep(run, result),
            ..run.as_queued()
        };
        (execution, event.with_task(request.task_id.as_deref()))
    }

    /// An asynchronous caller fetches the answer from the log; a synchronous one has it.
    fn data_to_keep(&self, run: &Run, result: &Result<Success, Failure>) -> Option<Box<serde_json::value::RawValue>> {
        let success = result.as_ref().ok().filter(|_| run.was_queued())?;
        let text = String::from_utf8(success.data.text().to_vec()).ok()?;
        serde_json::value::RawValue::from_string(text).ok()
    }

    fn params_to_keep(&self, run: &Run) -> Option<Bytes> {
        self.settings.keep_params.then(|| run.request.params.clone())
    }

    pub(crate) fn unrecorded(&self, run: &Run, error: &integration_store::StoreError) -> Reply {
        tracing::error!(
            execution.id = %run.execution_id,
            instance.id = %run.active.instance.id,
            method = %run.method.name,
            attempts = run.meta.attempts,
            error = %error,
            "an execution could not be recorded"
        );
        let mut failure = Failure::new(
            Stage::Record,
            ErrorCode::Internal,
            "the call could not be recorded, so its result is withheld",
        );
        failure.effect = if run.meta.attempts > 0 { Effect::Unknown } else { Effect::None };
        Reply::from(Outcome { result: Err(failure), meta: run.meta.clone(), limit: None })
    }
}

impl Run {
    /// Whether the execution has its row already.
    pub(super) fn was_queued(&self) -> bool {
        self.request.execution_id.is_some()
    }

    /// The execution as it waits for its turn.
    pub(crate) fn as_queued(&self) -> Execution {
        let instance = &self.active.instance;
        Execution {
            id: self.execution_id,
            tenant_id: instance.tenant_id.clone(),
            integration_instance_id: instance.id.clone(),
            integration_definition_id: instance.integration_definition_id.clone(),
            definition_version: instance.definition_version.clone(),
            method_name: self.method.name.clone(),
            status: ExecutionStatus::Queued,
            mode: self.request.mode,
            error: None,
            attempts: 0,
            cached: false,
            upstream_status: None,
            data_size: None,
            created_at: self.created_at,
            finished_at: None,
            duration_ms: None,
            principal: self.request.principal.name.to_string(),
            correlation_id: self.request.correlation_id.clone(),
            task_id: self.request.task_id.clone(),
            replay_of: self.request.replay_of,
            data: None,
        }
    }
}

/// Whether the same key may be used again: nothing was done under it.
fn may_be_called_again(result: &Result<Success, Failure>) -> bool {
    result.as_ref().is_err_and(|failure| failure.effect == Effect::None && failure.code != ErrorCode::Internal)
}
