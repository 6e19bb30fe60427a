//! Answers that do not come, or not in time.

use integration_model::ErrorCode;
use serde_json::Value;
use tokio::time::Instant;

use super::counterpart::{Behaviour, Counterpart, Fault};
use super::execution::note;
use super::report::{Findings, Skip};
use super::subject::{Subject, told};
use crate::adapter::{CallError, Effect};

pub(super) async fn does_nothing_after_the_deadline(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    let write = subject.sample.write.as_ref().map(|write| write.numbered(subject.number()));
    let kept = subject.direct();
    note(subject.answer(&kept, call).await, "", findings);
    for call in write.iter().chain([call]) {
        // Once on a connection that is there, where any is kept.
        for way in [&kept, &subject.direct()] {
            match subject.call_before(way, call, Instant::now()).await {
                Ok(_) => findings.add(format!("{} succeeds after its deadline", call.method)),
                Err(error) => findings.unless(error.code == ErrorCode::Timeout && error.effect == Effect::None, || {
                    format!(
                        "{} ends in {} after its deadline, expected TIMEOUT, effect: None",
                        call.method,
                        told(&error)
                    )
                }),
            }
        }
    }
    Ok(())
}

pub(super) async fn leaves_silence(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let silent = subject.counterpart(Behaviour::Silent).await?;
    let way = subject.impatiently_led_to(silent.address)?;
    timed_out("the connection test", subject.test(&way).await.map(Value::from), findings);
    if let Ok(call) = subject.first_call() {
        timed_out("a call", subject.call(&way, call).await, findings);
    }
    is_left(&silent, "a system that says nothing", findings).await;
    Ok(())
}

pub(super) async fn leaves_stalled_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    let totals = subject.totals().await?;
    for bytes in [0, totals.received / 2, totals.received.saturating_sub(1)] {
        let relay = subject.relay(Fault::HoldAnswer(bytes)).await?;
        let way = subject.impatiently_led_to(relay.address)?;
        let ended = subject.call(&way, call).await;
        // The end of an answer may say nothing that matters.
        if bytes == 0 || ended.is_err() {
            timed_out(&format!("a call of whose answer {bytes} bytes came"), ended, findings);
            is_left(&relay, "a system that stopped midway", findings).await;
        } else {
            note(subject.answered(call, ended), &format!("with {bytes} bytes of an answer, "), findings);
        }
    }
    Ok(())
}

fn timed_out(what: &str, ended: Result<Value, CallError>, findings: &mut Findings) {
    match ended {
        Ok(_) => findings.add(format!("{what} succeeds, expected TIMEOUT")),
        Err(error) => {
            let may_be_repeated = error.retryable || error.effect == Effect::Unknown;
            findings.unless(error.code == ErrorCode::Timeout && error.upstream_failed && may_be_repeated, || {
                format!("{what} ends in {}, expected TIMEOUT, the system's fault, which may be repeated", told(&error))
            });
        }
    }
}

async fn is_left(counterpart: &Counterpart, what: &str, findings: &mut Findings) {
    let is_left = counterpart.until(|counts| counts.open == 0).await;
    findings.unless(is_left, || format!("{what} keeps {} open connections", counterpart.counts().open));
}

pub(super) async fn drops_late_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let calls = subject.calls()?;
    let (first, other) = (&calls[0], calls.last().unwrap_or(&calls[0]));
    subject.totals().await?;
    let relay = subject.relay(Fault::None).await?;
    let mut way = subject.led_to(relay.address)?;
    // The connection is one that was used before, where any is kept.
    note(subject.answer(&way, first).await, "", findings);
    let patience = std::mem::replace(&mut way.patience, subject.patience());
    relay.set_fault(Fault::HoldAnswer(relay.counts().received));
    timed_out("a call whose answer is late", subject.call(&way, other).await, findings);
    relay.set_fault(Fault::None);
    way.patience = patience;
    note(subject.answer(&way, first).await, "after an answer that was late, ", findings);
    Ok(())
}

pub(super) async fn cleans_up_after_abandoned_calls(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    let half = subject.totals().await?.received / 2;
    let relay = subject.relay(Fault::HoldAnswer(half)).await?;
    let way = subject.led_to(relay.address)?;
    let is_under_way = tokio::select! {
        ended = subject.call(&way, call) => {
            findings.add(format!("a call whose answer is held ends: {}", ended.map_or_else(|error| told(&error), |_| "it succeeds".to_owned())));
            false
        }
        is_under_way = relay.until(|counts| counts.received >= half && counts.accepted > 0) => is_under_way,
    };
    if is_under_way {
        is_left(&relay, "a call that was abandoned", findings).await;
    }
    relay.set_fault(Fault::None);
    note(subject.answer(&way, call).await, "after a call that was abandoned, ", findings);
    Ok(())
}
