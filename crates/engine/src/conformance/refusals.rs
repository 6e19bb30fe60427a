//! Calls that the system, the policy or the adapter refuses.

use integration_model::ErrorCode;
use tokio::net::TcpListener;

use super::counterpart::Behaviour;
use super::execution::works_again;
use super::report::{Findings, Skip};
use super::sample::FailingCall;
use super::subject::{Subject, Way, shortened, told};
use crate::adapter::{CallError, Effect};

pub(super) async fn tells_refused_credentials(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let refused = subject.sample.refused_credential.as_ref();
    let refused = refused.ok_or_else(|| Skip::new("the sample has no refusedCredential"))?;
    let Some(error) = fails(subject, refused, ErrorCode::Auth, findings).await? else { return Ok(()) };
    findings.unless(error.credential_refused && !error.retryable && error.effect != Effect::Unknown, || {
        format!(
            "a refused credential ends in {}, expected that it is known as refused, and that nothing happened",
            told(&error)
        )
    });
    Ok(())
}

pub(super) async fn tells_limits(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let limited = subject.sample.limited.as_ref().ok_or_else(|| Skip::new("the sample has no call that is limited"))?;
    let Some(error) = fails(subject, limited, ErrorCode::RateLimitExceeded, findings).await? else { return Ok(()) };
    findings.unless(error.effect != Effect::Unknown && !error.credential_refused, || {
        format!("a call that meets a limit ends in {}, expected that nothing happened", told(&error))
    });
    Ok(())
}

pub(super) async fn refuses_large_answers(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let large =
        subject.sample.too_large.as_ref().ok_or_else(|| Skip::new("the sample has no call that is tooLarge"))?;
    let Some(error) = fails(subject, large, ErrorCode::Upstream, findings).await? else { return Ok(()) };
    findings.unless(!error.retryable && !error.credential_refused, || {
        format!("an answer that is too large ends in {}, expected not retryable", told(&error))
    });
    Ok(())
}

/// The error of a call that has to fail with a code; what is wrong with it is noted. What
/// works goes on working for the same instance.
async fn fails(
    subject: &Subject,
    failing: &FailingCall,
    code: ErrorCode,
    findings: &mut Findings,
) -> Result<Option<CallError>, Skip> {
    let (call, config) = subject.failing(failing)?;
    let credential = failing.credential.as_ref().map(|credential| subject.credential_of(credential)).transpose();
    let credential = credential.map_err(Skip::new)?.unwrap_or_else(|| subject.credential.clone());
    let way = Way { config: config.into(), credential: &credential, ..subject.direct() };
    let code = failing.code.unwrap_or(code);
    let mut ended = subject.call(&way, &call).await;
    for _ in 1..failing.within_calls {
        if ended.is_err() {
            break;
        }
        ended = subject.call(&way, &call).await;
    }
    let error = match ended {
        Ok(data) => {
            findings.add(format!("{} succeeds with {}, expected {}", call.method, shortened(&data), code.as_str()));
            return Ok(None);
        }
        Err(error) => error,
    };
    findings
        .unless(error.code == code, || format!("{} ends in {}, expected {}", call.method, told(&error), code.as_str()));
    if let Some(retryable) = failing.retryable {
        findings.unless(error.retryable == retryable, || {
            format!("{} ends in {}, expected retryable: {retryable}", call.method, told(&error))
        });
    }
    if failing.within_calls == 1 {
        works_again(subject, &way, findings).await?;
    }
    Ok(Some(error))
}

pub(super) async fn keeps_to_the_egress_policy(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let watched = subject.counterpart(Behaviour::Closing).await?;
    let way = subject.fenced_from(watched.address)?;
    let tested = subject.test(&way).await.err();
    let called = match subject.first_call() {
        Ok(call) => vec![subject.call(&way, call).await.err(), tested],
        Err(_) => vec![tested],
    };
    for error in called {
        let is_denied = error.as_ref().is_some_and(|error| error.code == ErrorCode::EgressDenied);
        findings.unless(is_denied, || {
            let told = error.as_ref().map_or_else(|| "succeeds".to_owned(), |error| format!("ends in {}", told(error)));
            format!("a call to an address that is not allowed {told}, expected EGRESS_DENIED")
        });
    }
    let connections = watched.counts().accepted;
    findings
        .unless(connections == 0, || format!("{connections} connections were made to an address that is not allowed"));
    Ok(())
}

pub(super) async fn tells_that_nobody_is_there(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
    let address = gone.map_err(|error| Skip::new(format!("nothing can listen here: {error}")))?;
    let way = subject.led_to(address)?;
    let mut ended = vec![("the connection test", subject.test(&way).await.err())];
    if let Ok(call) = subject.first_call() {
        ended.push(("a call", subject.call(&way, call).await.err()));
    }
    for (what, error) in ended {
        let Some(error) = error else {
            findings.add(format!("{what} succeeds where nobody listens"));
            continue;
        };
        let is_told = error.code == ErrorCode::Upstream
            && error.retryable
            && error.upstream_failed
            && error.effect == Effect::None;
        findings.unless(is_told, || {
            format!(
                "{what} ends in {} where nobody listens, expected UPSTREAM_ERROR, retryable, effect: None",
                told(&error)
            )
        });
    }
    Ok(())
}
