//! Limits, the circuit breaker, and the attempts at an external system between them.

use std::sync::Arc;
use std::time::Duration;

use integration_model::ErrorCode;
use integration_model::event::EventDraft;
use integration_model::execution::Stage;
use tokio::time::Instant;
use uuid::Uuid;

use super::outcome::{millis, seconds_up};
use super::{EXECUTE, Failure, LimitFacts, Paginate, Run};
use crate::Engine;
use crate::adapter::{Answer, CallError, Cost, Effect, PageCursor, UpstreamLimits};
use crate::params::Params;
use crate::policy::circuit_breaker::{State as BreakerPhase, Ticket, Transition};
use crate::policy::jitter;
use crate::policy::rate_limit::{RateLimitSnapshot, RateLimiter, Refused};
use crate::policy::retry::{Decision, FailedAttempt, Repeatability};
use crate::registry::{ActiveInstance, MethodState};

/// The most warnings of joined pages that are told.
const MAX_WARNINGS: usize = 100;

impl Engine {
    /// Takes one call from each limit that concerns it, of the instance's and the method's as
    /// much as it costs; gives back what it took where a later one refuses.
    pub(super) fn acquire_limits(&self, run: &mut Run) -> Result<(), Failure> {
        let now = Instant::now();
        let limits = self.limits.load();
        let active = Arc::clone(&run.active);
        let state = Arc::clone(&run.state);
        let (tenant, user) = (&active.instance.tenant_id, &run.request.principal.name);
        let of_user = match limits.acquire_user(user, now) {
            Ok(permit) => permit,
            Err(refused) => return Err(limited(run, "user", refused, None)),
        };
        let of_tenant = match limits.acquire_tenant(tenant, now) {
            Ok(permit) => permit,
            Err(refused) => {
                limits.refund_user(user, now, of_user);
                return Err(limited(run, "tenant", refused, None));
            }
        };
        let mut of_instance = None;
        let local = [("instance", active.limiter.as_deref()), ("method", state.limiter.as_ref())];
        for (scope, limiter) in local {
            let Some(limiter) = limiter else { continue };
            match limiter.try_acquire(now, cost_under(limiter, run.method.operation.cost(), &state, now)) {
                Ok(permit) if scope == "instance" => of_instance = Some((limiter, permit)),
                Ok(_) => {}
                Err(refused) => {
                    limits.refund_user(&run.request.principal.name, now, of_user);
                    limits.refund_tenant(tenant, now, of_tenant);
                    if let Some((limiter, permit)) = of_instance {
                        limiter.refund(now, permit);
                    }
                    return Err(limited(run, scope, refused, Some(limiter.snapshot(now))));
                }
            }
            run.limit = Some(LimitFacts { scope, snapshot: limiter.snapshot(now) });
        }
        Ok(())
    }

    /// The answer of one page, or of all of them joined.
    pub(super) async fn call_with_retries(&self, run: &mut Run, params: &Params) -> Result<Answer, Failure> {
        let first = match &run.request.paginate {
            Paginate::Page(Some(cursor)) => Some(PageCursor(cursor.clone())),
            _ => None,
        };
        if run.request.paginate != Paginate::Off && !run.method.operation.is_paginated() {
            return Err(Failure::new(
                Stage::Validate,
                ErrorCode::Validation,
                "this method declares no pagination: call it without paginate",
            ));
        }
        let mut answer = self.attempt_until_answered(run, params, first.as_ref()).await?;
        if run.request.paginate != Paginate::All {
            if run.request.paginate == Paginate::Off {
                answer.next_page = None;
            }
            return Ok(answer);
        }
        self.read_all_pages(run, params, answer).await
    }

    /// Follows the pages up to the bound; each takes its share of the limits.
    async fn read_all_pages(&self, run: &mut Run, params: &Params, first: Answer) -> Result<Answer, Failure> {
        let mut size = first.data.text().len();
        let mut next = first.next_page.clone();
        let mut pages = vec![first.data];
        let mut warnings = first.warnings;
        let mut last = Answer { data: crate::data::Data::null(), next_page: None, warnings: Vec::new(), ..first };
        while let Some(cursor) = next {
            let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
            if count >= self.settings.max_pages || size >= self.settings.max_collected_bytes {
                // Not an error: the caller goes on from `meta.nextPage`.
                last.next_page = Some(cursor);
                break;
            }
            self.wait_for_limits(run).await?;
            let answer = self.attempt_until_answered(run, params, Some(&cursor)).await?;
            if answer.next_page.as_ref() == Some(&cursor) {
                return Err(Failure::new(
                    Stage::Call,
                    ErrorCode::Upstream,
                    "the upstream's pages go round in a circle: the next page is the page itself",
                ));
            }
            size += answer.data.text().len();
            next = answer.next_page;
            warnings.extend(answer.warnings);
            pages.push(answer.data);
        }
        warnings.truncate(MAX_WARNINGS);
        last.warnings = warnings;
        run.meta.pages = u32::try_from(pages.len()).ok();
        last.data = run.method.operation.join_pages(pages).map_err(|error| Failure::from_call(error, Stage::Call))?;
        Ok(last)
    }

    /// Later pages wait for their turn instead of failing what is half read.
    async fn wait_for_limits(&self, run: &mut Run) -> Result<(), Failure> {
        loop {
            let Err(failure) = self.acquire_limits(run) else { return Ok(()) };
            run.events.pop();
            let wait = failure.retry_after.unwrap_or(Duration::from_secs(1));
            if Instant::now() + wait >= run.deadline {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Attempts until one succeeds, or until trying again makes no sense.
    async fn attempt_until_answered(
        &self,
        run: &mut Run,
        params: &Params,
        page: Option<&PageCursor>,
    ) -> Result<Answer, Failure> {
        run.active.retry_budget.record_call();
        let mut attempt = 0;
        loop {
            if Instant::now() >= run.deadline {
                return Err(run.timed_out(Stage::Call));
            }
            attempt += 1;
            let error = match self.attempt(run, params, page).await {
                Ok(answer) => return Ok(answer),
                Err(AttemptError::Before(failure)) => return Err(failure),
                Err(AttemptError::Call(error)) => error,
            };
            if !run.request.can_be_sent_again() {
                return Err(give_up(run, *error).with_detail("retry", "content_gone"));
            }
            let now = Instant::now();
            let failed = FailedAttempt {
                attempt,
                error: &error,
                repeatability: Repeatability {
                    idempotent: run.method.idempotent,
                    idempotency_key_sent: run.method.operation.sends_idempotency_key(),
                },
                remaining: run.deadline.saturating_duration_since(now),
                now,
                jitter: jitter(),
            };
            match run.method.retry.decide(&failed, &run.active.retry_budget) {
                Decision::RetryAfter(delay) => {
                    run.state.metrics.retried();
                    tokio::time::sleep(delay).await;
                }
                Decision::Stop(reason) => return Err(give_up(run, *error).with_detail("retry", reason.as_str())),
            }
        }
    }

    /// One attempt, and where the external system refuses a token, another one with the next:
    /// a refused call did nothing, so that it harms none to make it again.
    async fn attempt(&self, run: &mut Run, params: &Params, page: Option<&PageCursor>) -> Result<Answer, AttemptError> {
        let holder = self.with_fresh_token(&run.active, run.deadline).await.map_err(AttemptError::Before)?;
        let error = match self.send(run, params, page, &holder).await {
            Err(AttemptError::Call(error)) if error.credential_refused => error,
            result => return result,
        };
        if run.token_replaced {
            return Err(self.refused(run, &holder, error).await);
        }
        match self.with_another_token(&holder, run.deadline).await {
            Ok(Some(next)) => {
                run.token_replaced = true;
                if !run.request.can_be_sent_again() {
                    return Err(AttemptError::Call(Box::new(CallError { retryable: true, ..*error })));
                }
                match self.send(run, params, page, &next).await {
                    Err(AttemptError::Call(error)) if error.credential_refused => {
                        Err(self.refused(run, &next, error).await)
                    }
                    result => result,
                }
            }
            Ok(None) => Err(self.refused(run, &holder, error).await),
            Err(failure) => Err(AttemptError::Before(failure.answered(error.upstream_status))),
        }
    }

    /// Opens the credential, sends, learns from what came back.
    async fn send(
        &self,
        run: &mut Run,
        params: &Params,
        page: Option<&PageCursor>,
        holder: &ActiveInstance,
    ) -> Result<Answer, AttemptError> {
        self.put_down_use(run, holder).map_err(AttemptError::Before)?;
        let correlation_id = run.request.correlation_id.as_str();
        let opened = self.credential_for(holder, correlation_id, run.deadline).await;
        let credential = opened.map_err(AttemptError::Before)?;
        let sent = Instant::now();
        run.meta.attempts += 1;
        let (operation, call) = (&run.method.operation, run.call(self, params, &credential, page));
        let result = match &run.request.stream {
            Some(stream) => operation.call_with_stream(call, stream).await,
            None => operation.call(call).await,
        };
        drop(credential);
        if self.registry.is_large() {
            // Other calls came meanwhile.
            run.prefetch();
        }
        let now = Instant::now();
        run.state.metrics.attempted(now - sent, result.as_ref().is_err_and(|error| error.upstream_failed));
        match result {
            Ok(answer) => {
                observe_limits(run, now, &answer.limits, false);
                Ok(answer)
            }
            Err(error) => {
                let refused = matches!(error.upstream_status, Some(429 | 503))
                    || (error.code == ErrorCode::RateLimitExceeded && error.upstream_status.is_some());
                observe_limits(run, now, &error.limits, refused);
                if error.credential_refused {
                    run.state.metrics.auth_failed();
                }
                Err(AttemptError::Call(Box::new(error)))
            }
        }
    }

    /// The external system refused a credential, and there is no other: the instance says so.
    /// A token that expired on its way says nothing of the grant.
    async fn refused(&self, run: &Run, holder: &ActiveInstance, mut error: Box<CallError>) -> AttemptError {
        if holder.credential.has_expired(self.store.clock().now()) {
            error.retryable = true;
        } else {
            self.note_refused_credential(run, holder.credential.id(), &error).await;
        }
        AttemptError::Call(error)
    }

    /// One record for each credential that an execution uses, however many attempts it makes.
    fn put_down_use(&self, run: &mut Run, holder: &ActiveInstance) -> Result<(), Failure> {
        let credential = holder.credential.id();
        if credential.is_none() || run.credential_uses.iter().any(|used| used.credential() == credential) {
            return Ok(());
        }
        let used = self.begin_use(holder, run.intended_use(EXECUTE))?;
        run.credential_uses.extend(used);
        Ok(())
    }

    async fn note_refused_credential(&self, run: &Run, used: Option<Uuid>, error: &CallError) {
        let noted = self
            .credential_refused(
                &run.active.instance.id,
                used,
                &error.message,
                &run.request.principal,
                &run.request.correlation_id,
            )
            .await;
        if let Err(error) = noted {
            tracing::error!(instance.id = %run.active.instance.id, error = %error, "the refused credential could not be noted");
        }
    }
}

/// The last error, as the whole call's.
fn give_up(run: &Run, error: CallError) -> Failure {
    let mut failure = Failure::from_call(error, Stage::Call);
    // What is idempotent may be repeated by the caller; an unknown outcome may not.
    if failure.effect == Effect::Unknown && (run.method.idempotent || run.method.operation.sends_idempotency_key()) {
        failure.effect = Effect::None;
    } else if failure.effect == Effect::Unknown {
        failure.retryable = false;
    }
    failure.details.insert("attempts".to_owned(), run.meta.attempts.into());
    failure
}

/// Asks the breaker for leave to call.
pub(super) fn enter_circuit_breaker(state: &MethodState) -> Result<Ticket<'_>, Failure> {
    match state.breaker.acquire(Instant::now()) {
        Ok(ticket) => {
            if ticket.transition() == Some(Transition::HalfOpened) {
                state.metrics.breaker_moved(BreakerPhase::HalfOpen);
            }
            Ok(ticket)
        }
        Err(open) => Err(Failure::new(
            Stage::CircuitBreaker,
            ErrorCode::CircuitOpen,
            format!(
                "the circuit breaker keeps calls from the failing upstream; try again in {} s",
                seconds_up(open.retry_after)
            ),
        )
        .retry_after(open.retry_after)),
    }
}

/// Tells the breaker how the call went: only the upstream's own faults count.
pub(super) fn settle_circuit_breaker(run: &mut Run, ticket: Ticket<'_>, result: &Result<Answer, Failure>) {
    let now = Instant::now();
    let transition = match result {
        Ok(_) => ticket.success(now),
        Err(failure) if failure.upstream_failed => ticket.failure(now),
        // The upstream answered, if only to refuse: it lives.
        Err(failure) if failure.effect == Effect::Answered => ticket.success(now),
        Err(_) => {
            ticket.ignored();
            None
        }
    };
    let (opened, failures) = match transition {
        Some(Transition::Opened { failures }) => (true, failures),
        Some(Transition::Closed) => (false, 0),
        _ => return,
    };
    run.state.metrics.breaker_moved(if opened { BreakerPhase::Open } else { BreakerPhase::Closed });
    run.events.push(EventDraft::circuit_breaker(
        &run.request.correlation_id,
        &run.active.instance.id,
        &run.method.name,
        opened,
        failures,
        run.method.circuit_breaker.open_ms,
    ));
}

fn limited(run: &mut Run, scope: &'static str, refused: Refused, snapshot: Option<RateLimitSnapshot>) -> Failure {
    run.state.metrics.rate_limited(scope);
    let retry_after = refused.retry_after;
    run.events.push(EventDraft::rate_limit_exceeded(
        &run.request.correlation_id,
        &run.active.instance.id,
        &run.method.name,
        scope,
        millis(retry_after),
    ));
    let mut failure = Failure::new(
        Stage::RateLimit,
        ErrorCode::RateLimitExceeded,
        format!("the limit of the {scope} is used up; try again in {} s", seconds_up(retry_after)),
    )
    .with_detail("limit", scope)
    .retry_after(retry_after);
    failure.limit = snapshot.map(|snapshot| LimitFacts { scope, snapshot });
    failure
}

enum AttemptError {
    /// Nothing was sent.
    Before(Failure),
    Call(Box<CallError>),
}

/// What a call takes of a limit. An upstream cannot bar its callers by what it says: a learnt
/// cost is at most a minute's worth.
fn cost_under(limiter: &RateLimiter, cost: Cost, state: &MethodState, now: Instant) -> u32 {
    match cost {
        Cost::Fixed(cost) => cost,
        Cost::Learned => {
            let learned = state.learned_cost.get();
            limiter.snapshot(now).limit.map_or(learned, |limit| learned.min(limit))
        }
    }
}

fn observe_limits(run: &Run, now: Instant, limits: &UpstreamLimits, refused: bool) {
    if let Some(cost) = limits.cost {
        run.state.learned_cost.observe(cost);
        run.state.metrics.cost_taken(cost);
    }
    if let Some(limiter) = &run.state.limiter {
        limiter.observe(now, limits, refused);
    }
    if let Some(limiter) = &run.active.limiter {
        limiter.observe(now, limits, refused);
    }
}
