//! The conformance suite: what every adapter promises, whatever it speaks, held against a real
//! system and against all that goes wrong on the way to one.
//!
//! Owns: the checks, the counterparts that break connections, the report. Must not know: any
//! one adapter, the store, retries and other policies.
//!
//! Whoever writes an adapter describes a system that it speaks to as a [`Sample`] and runs the
//! suite from a test:
//!
//! ```no_run
//! # async fn conforms(adapter: std::sync::Arc<dyn integration_engine::adapter::Adapter>) {
//! use integration_engine::conformance::{Sample, check};
//! use integration_engine::network::EgressPolicy;
//!
//! let sample = Sample::from_json(serde_json::json!({
//!     "definition": {
//!         "id": "echo", "name": "Echo", "version": "1.0.0", "type": "echo", "authType": "none",
//!         "methods": [{"name": "echo", "operation": {"text": "{word}"}}],
//!     },
//!     "config": {"host": "127.0.0.1", "port": 7007},
//!     "calls": [{"method": "echo", "params": {"word": "hello"}, "data": "hello"}],
//! }))
//! .expect("a sample");
//! let egress = EgressPolicy::parse(["127.0.0.1"]).expect("a policy");
//! let report = check(adapter, sample, egress).await.expect("a sample that can be used");
//! assert!(report.is_passed(), "{report}");
//! # }
//! ```

mod counterpart;
mod description;
mod execution;
mod lost;
mod refusals;
mod report;
mod sample;
mod subject;
mod unanswered;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use report::{Checked, Report, Verdict};
pub use sample::{Endpoint, FailingCall, InvalidParams, Sample, SampleCall, SampleCredential, SampleWrite};

use crate::adapter::Adapter;
use crate::network::EgressPolicy;
use report::{Findings, Skip};
use subject::Subject;

/// One check: its name, what it holds an adapter to, and how.
struct Check {
    name: &'static str,
    claim: &'static str,
    run: for<'a> fn(&'a Subject, &'a mut Findings) -> BoxFuture<'a, Result<(), Skip>>,
}

macro_rules! checks {
    ($($name:literal, $claim:literal, $check:path;)+) => {
        const CHECKS: &[Check] = &[$(Check {
            name: $name,
            claim: $claim,
            run: |subject, findings| Box::pin($check(subject, findings)),
        }),+];
    };
}

checks! {
    "description", "It describes itself: type, semantic version, auth types, schemas, and defaults that fit them.", description::describes_itself;
    "definition", "The sample's definition can be published.", description::compiles;
    "operation", "An operation with an unknown member or a wrong type is refused, with the place.", description::refuses_operations;
    "config", "A config with a wrong type, or without what is required, is refused, with the place.", description::refuses_configs;
    "credential", "A credential that it can use is taken, another is refused without showing it.", description::judges_credentials;
    "params", "Params that do not fit are refused with their places, before anything is sent.", description::refuses_params;
    "hostile params", "No param, whatever its type and content, makes it panic.", description::bears_hostile_params;
    "dry run", "A dry run connects to nothing and shows no secret.", description::shows_dry_runs;
    "connection test", "The connection test finds the system, and changes nothing there.", execution::tests_the_connection;
    "execution", "Calls give the expected data, on new connections and on kept ones.", execution::executes;
    "concurrency", "Concurrent calls of one instance each get their own answer.", execution::executes_concurrently;
    "closed connection", "A kept connection that the system closed meanwhile is replaced.", execution::replaces_closed_connections;
    "refused credential", "A credential that the system refuses is told as such, and another one works at once.", refusals::tells_refused_credentials;
    "limit", "A call that the system refuses for its limits is told as such.", refusals::tells_limits;
    "too large", "An answer that is larger than allowed is refused.", refusals::refuses_large_answers;
    "egress", "No address is connected to that the egress policy does not allow.", refusals::keeps_to_the_egress_policy;
    "nobody there", "Where nobody listens, nothing happened and the call may be repeated.", refusals::tells_that_nobody_is_there;
    "deadline passed", "After its deadline, a call ends with TIMEOUT and does nothing.", unanswered::does_nothing_after_the_deadline;
    "no answer", "A system that takes connections and says nothing means TIMEOUT, and the connection is closed.", unanswered::leaves_silence;
    "half an answer", "An answer that stops midway means TIMEOUT, and the connection is closed.", unanswered::leaves_stalled_answers;
    "late answer", "An answer that comes after its call's deadline is not taken for the next call's.", unanswered::drops_late_answers;
    "abandoned call", "A call that its caller abandons leaves no open connection behind.", unanswered::cleans_up_after_abandoned_calls;
    "closed at once", "A system that closes connections at once is told as failed.", lost::tells_closed_connections;
    "malformed answer", "What is not the protocol is an error and no more.", lost::bears_malformed_answers;
    "endless answer", "An answer without end is left after a bounded number of bytes.", lost::leaves_endless_answers;
    "lost answer", "Wherever an answer is cut off, the call fails or has all of its data.", lost::tells_lost_answers;
    "lost request", "Wherever a request is cut off, the call fails as the system's fault.", lost::tells_lost_requests;
    "lost write", "Wherever a write is cut off, its error says truly whether it may have happened.", lost::tells_what_may_have_happened;
}

/// Runs all checks on an adapter, with a system that the sample describes. `egress` says which
/// private addresses that system may have.
///
/// An error says that the sample itself cannot be used.
pub async fn check(adapter: Arc<dyn Adapter>, sample: Sample, egress: EgressPolicy) -> Result<Report, UnusableSample> {
    let subject = Subject::new(adapter, sample, egress)?;
    let mut checks = Vec::with_capacity(CHECKS.len());
    let mut is_executable = true;
    for Check { name, claim, run } in CHECKS {
        let mut findings = Findings::default();
        let ran = if is_executable {
            run(&subject, &mut findings).await
        } else {
            Err(Skip::new("the definition cannot be published"))
        };
        subject.complaints().for_each(|complaint| findings.add(complaint));
        let verdict = findings.verdict(ran);
        is_executable &= !(*name == "definition" && matches!(verdict, Verdict::Failed(_)));
        checks.push(Checked { name, claim, verdict });
    }
    Ok(Report { adapter_type: subject.adapter_type(), checks })
}

/// What every check is called and holds an adapter to, in their order.
pub fn claims() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().map(|check| (check.name, check.claim))
}

/// The sample cannot be used, so that nothing was checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sample cannot be used: {0}")]
pub struct UnusableSample(String);
