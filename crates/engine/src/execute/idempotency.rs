//! The same key and the same call give the same answer.

use std::time::Duration;

use integration_model::ErrorCode;
use integration_model::execution::Stage;
use integration_store::{IdempotencyClaim, IdempotencyState};

use super::{Failure, Reply, Run};
use crate::Engine;

/// How long an answer is kept for its key.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What a key says of a call.
pub(crate) enum Claim {
    /// It was answered before.
    Answered(Reply),
    /// It is this call's to make; none where the caller gave no key.
    Free(Option<IdempotencyClaim>),
}

impl Engine {
    pub(crate) async fn claim_idempotency(&self, run: &Run) -> Result<Claim, Failure> {
        let key = match &run.request.idempotency_key {
            // A call from the queue made its claim when it was queued.
            Some(key) if !run.was_queued() => key,
            _ => return Ok(Claim::Free(None)),
        };
        let claim = IdempotencyClaim {
            tenant: run.active.instance.tenant_id.clone(),
            instance: run.active.instance.id.clone(),
            method: run.method.name.clone(),
            key: key.clone(),
            fingerprint: fingerprint(run),
            execution_id: run.execution_id,
        };
        let in_use = |message: &str| {
            Failure::new(Stage::Idempotency, ErrorCode::IdempotencyKeyInUse, message)
                .retry_after(Duration::from_secs(1))
        };
        let state = self.store.claim_idempotency(&claim, KEPT_FOR).await.map_err(|error| {
            tracing::error!(error = %error, "an idempotency key could not be claimed");
            Failure::new(Stage::Idempotency, ErrorCode::Internal, "the store failed").retryable(true)
        })?;
        match state {
            IdempotencyState::Claimed => Ok(Claim::Free(Some(claim))),
            IdempotencyState::Answered { execution_id, answer } => {
                Ok(Claim::Answered(Reply::stored(answer, execution_id)))
            }
            IdempotencyState::InProgress { execution_id, .. } => {
                Err(in_use("a call with this idempotency key is still running")
                    .with_detail("executionId", execution_id.to_string()))
            }
            IdempotencyState::Mismatch => Err(Failure::new(
                Stage::Idempotency,
                ErrorCode::IdempotencyKeyReused,
                "this idempotency key was used with another request: send a new key",
            )),
        }
    }
}

/// What makes two calls the same: the params as they were sent, the pages asked for, and
/// whether the answer was waited for.
fn fingerprint(run: &Run) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(run.request.mode.as_str().as_bytes());
    context.update(&[0]);
    context.update(run.request.paginate.as_text().as_bytes());
    context.update(&[0]);
    context.update(&run.request.params);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
