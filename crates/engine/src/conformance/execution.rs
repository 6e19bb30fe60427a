//! What works with the real system.

use futures_util::future::join_all;
use serde_json::Value;

use super::counterpart::Fault;
use super::report::{Findings, Skip};
use super::subject::{Subject, Way, shows_secret, told};

/// How many calls are made at once.
const CONCURRENT: usize = 16;

pub(super) async fn tests_the_connection(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let before = witnessed(subject).await;
    for _ in 0..2 {
        let way = subject.direct();
        match subject.test(&way).await {
            Err(error) => findings.add(format!("the connection test ends in {}", told(&error))),
            Ok(message) => {
                findings.unless(!message.trim().is_empty(), || "the connection test says nothing".to_owned());
                findings.unless(!shows_secret(way.credential, &message), || {
                    "the connection test shows a secret of the credential".to_owned()
                });
            }
        }
    }
    findings.unless(before == witnessed(subject).await, || "the connection test changes something".to_owned());
    Ok(())
}

/// What tells whether something was changed, where the sample brings it.
async fn witnessed(subject: &Subject) -> Option<Value> {
    let witness = subject.sample.write.as_ref()?.witness.as_ref()?;
    subject.call(&subject.direct(), witness).await.ok()
}

pub(super) async fn executes(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let way = subject.direct();
    for call in subject.calls()? {
        for way in [&way, &way, &subject.direct()] {
            note(subject.answer(way, call).await, "", findings);
        }
    }
    Ok(())
}

pub(super) async fn executes_concurrently(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let calls = subject.calls()?;
    let way = subject.direct();
    let answers = calls.iter().cycle().take(CONCURRENT).map(|call| subject.answer(&way, call));
    for answer in join_all(answers).await {
        note(answer, "concurrently, ", findings);
    }
    Ok(())
}

pub(super) async fn replaces_closed_connections(subject: &Subject, findings: &mut Findings) -> Result<(), Skip> {
    let call = subject.first_call()?;
    subject.totals().await?;
    let relay = subject.relay(Fault::None).await?;
    let way = subject.led_to(relay.address)?;
    note(subject.answer(&way, call).await, "", findings);
    relay.close_all().await;
    note(subject.answer(&way, call).await, "after its connections were closed, ", findings);
    Ok(())
}

/// The right credential works, whatever came before.
pub(super) async fn works_again(subject: &Subject, way: &Way<'_>, findings: &mut Findings) -> Result<(), Skip> {
    let again = Way { instance: way.instance.clone(), ..subject.direct() };
    note(subject.answer(&again, subject.first_call()?).await, "afterwards, ", findings);
    Ok(())
}

pub(super) fn note(answer: Result<(), String>, when: &str, findings: &mut Findings) {
    if let Err(fault) = answer {
        findings.add(format!("{when}{fault}"));
    }
}
