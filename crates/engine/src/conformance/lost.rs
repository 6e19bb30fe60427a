//! Connections that end, and answers that are no answers.

use std::sync::Arc;

use integration_model::ErrorCode;
use serde_json::Value;

use super::counterpart::{Behaviour, Fault};
use super::execution::note;
use super::report::{Findings, Skip};
use super::sample::SampleWrite;
use super::subject::{Subject, told};
use crate::adapter::{CallError, Effect};

/// In how many places of what goes one way the connection is cut.
const CUTS: u64 = 12;
/// The most bytes that may be taken of an answer without end.
const MAX_TAKEN: u64 = 64 << 20;

/// What other protocols say first, and what none says.
fn sayings() -> Vec<Arc<[u8]>> {
    // The same each time, so that what is found can be found again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut sayings: Vec<Arc<[u8]>> =
        [1, 8, 128, 1024].map(|count| (0..count).flat_map(|_| noise()).collect()).to_vec();
    let spoken: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nno\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nContent-Type: application/json\r\n\r\n{\"a\": ",
        b"220 mail.example ESMTP\r\n500 what\r\n",
        b"-ERR unknown command\r\n",
        b"",
    ];
    sayings.extend(spoken.map(Arc::from));
    sayings
}

pub(super) async fn tells_closed_connections(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let closing = subject.counterpart(Behaviour::Closing).await?;
    let way = subject.led_to(closing.address)?;
    broken("the connection test", &subject.test(&way).await.map(Value::from), findings);
    if let Ok(call) = subject.first_call() {
        broken("a call", &subject.call(&way, call).await, findings);
    }
    Ok(())
}

pub(super) async fn bears_malformed_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let expected = [ErrorCode::Upstream, ErrorCode::Timeout];
    for (index, saying) in sayings().into_iter().enumerate() {
        let saying = subject.counterpart(Behaviour::Saying(saying)).await?;
        let way = subject.impatiently_led_to(saying.address)?;
        if let Ok(call) = subject.first_call() {
            failed(
                &format!("a call to malformed answer {index}"),
                &subject.call(&way, call).await,
                &expected,
                findings,
            );
        }
        // Its answer may be one to a test: that somebody is there.
        let _ = subject.test(&way).await;
    }
    if let Ok(call) = subject.first_call() {
        subject.totals().await?;
        let garbling = subject.relay(Fault::GarbleAnswer).await?;
        let way = subject.impatiently_led_to(garbling.address)?;
        failed("a call whose answer is garbled", &subject.call(&way, call).await, &expected, findings);
    }
    Ok(())
}

pub(super) async fn leaves_endless_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    for byte in [0, b'2', b'\n', 0xff] {
        let endless = subject.counterpart(Behaviour::Endless(byte)).await?;
        let way = subject.impatiently_led_to(endless.address)?;
        let what = format!("a call to an endless answer of {byte:#04x}");
        failed(&what, &subject.call(&way, call).await, &[ErrorCode::Upstream, ErrorCode::Timeout], findings);
        let is_left = endless.until(|counts| counts.open == 0).await;
        let taken = endless.counts().received;
        findings.unless(is_left && taken <= MAX_TAKEN, || format!("{what} takes {taken} bytes"));
    }
    Ok(())
}

/// Notes what is wrong with the end of a call that has to fail.
fn failed(what: &str, ended: &Result<Value, CallError>, expected: &[ErrorCode], findings: &mut Findings) {
    let codes = || expected.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(" or ");
    match ended {
        Ok(_) => findings.add(format!("{what} succeeds, expected {}", codes())),
        Err(error) => findings
            .unless(expected.contains(&error.code), || format!("{what} ends in {}, expected {}", told(error), codes())),
    }
}

/// The same where nobody but the system is at fault.
fn broken(what: &str, ended: &Result<Value, CallError>, findings: &mut Findings) {
    failed(what, ended, &[ErrorCode::Upstream], findings);
    if let Err(error) = ended {
        findings.unless(error.upstream_failed && (error.retryable || error.effect == Effect::Unknown), || {
            format!("{what} ends in {}, expected that it is the system's fault, and may be repeated", told(error))
        });
    }
}

/// Where a text of so many bytes is cut: spread over it, and before its last byte.
fn cuts(bytes: u64) -> impl Iterator<Item = u64> {
    let spread = (0..CUTS.min(bytes)).map(move |index| bytes * index / CUTS.min(bytes).max(1));
    spread.chain([bytes.saturating_sub(1)])
}

pub(super) async fn tells_lost_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let received = subject.totals().await?.received;
    for bytes in cuts(received) {
        cut_off(subject, Fault::CutAnswer(bytes), findings).await?;
    }
    Ok(())
}

pub(super) async fn tells_lost_requests(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let sent = subject.totals().await?.sent;
    for bytes in cuts(sent) {
        cut_off(subject, Fault::CutRequest(bytes), findings).await?;
    }
    Ok(())
}

async fn cut_off(subject: &Subject, fault: Fault, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    let relay = subject.relay(fault).await?;
    let ended = subject.call(&subject.led_to(relay.address)?, call).await;
    let must_fail = matches!(fault, Fault::CutAnswer(0) | Fault::CutRequest(0));
    if ended.is_ok() && !must_fail {
        // The last bytes may say nothing that matters.
        note(subject.answered(call, ended), &format!("with {fault:?}, "), findings);
        return Ok(());
    }
    broken(&format!("a call with {fault:?}"), &ended, findings);
    Ok(())
}

pub(super) async fn tells_what_may_have_happened(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    subject.first_call()?;
    let write = subject.sample.write.as_ref().ok_or_else(|| Skip::new("the sample has no write"))?;
    subject.totals().await?;
    let whole = subject.relay(Fault::None).await?;
    let way = subject.led_to(whole.address)?;
    let before = witnessed(subject, write, findings).await;
    note(subject.answer(&way, &write.numbered(subject.number())).await, "", findings);
    let after = witnessed(subject, write, findings).await;
    findings.unless(write.witness.is_none() || before != after, || "the witness does not tell of writes".to_owned());
    let counts = whole.counts();
    let last = counts.received.saturating_sub(1);
    let held = [0, counts.received / 2, last].map(Fault::HoldAnswer);
    let cut = cuts(counts.sent).map(Fault::CutRequest).chain(cuts(counts.received).map(Fault::CutAnswer));
    for fault in cut.chain(held) {
        let relay = subject.relay(fault).await?;
        let (way, code) = match fault {
            Fault::HoldAnswer(_) => (subject.impatiently_led_to(relay.address)?, ErrorCode::Timeout),
            _ => (subject.led_to(relay.address)?, ErrorCode::Upstream),
        };
        let before = witnessed(subject, write, findings).await;
        let ended = subject.call(&way, &write.numbered(subject.number())).await;
        // The system has to be done with what it got, or it is seen too early.
        relay.until(|counts| counts.open == 0 && counts.unsettled == 0).await;
        let after = witnessed(subject, write, findings).await;
        let has_happened = before != after;
        match ended {
            Ok(_) => findings.unless(write.witness.is_none() || has_happened, || {
                format!("a write with {fault:?} succeeds, and nothing was changed")
            }),
            Err(error) => {
                failed(&format!("a write with {fault:?}"), &Err(error.clone()), &[code], findings);
                let is_done =
                    has_happened || matches!(fault, Fault::CutAnswer(at) | Fault::HoldAnswer(at) if at == last);
                findings.unless(!is_done || error.effect != Effect::None, || {
                    format!("a write with {fault:?} was done, and ends in {}", told(&error))
                });
            }
        }
    }
    Ok(())
}

async fn witnessed(subject: &Subject, write: &SampleWrite, findings: &mut Findings) -> Option<Value> {
    let witness = write.witness.as_ref()?;
    match subject.call(&subject.direct(), witness).await {
        Ok(data) => Some(data),
        Err(error) => {
            findings.add(format!("the witness ends in {}", told(&error)));
            None
        }
    }
}
