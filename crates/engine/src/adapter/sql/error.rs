//! What a database's refusals mean, as facts for the caller.
//!
//! Messages name states and objects of the database. They hold no values: those that servers
//! put into theirs do not come through, nor do whole statements.

use integration_model::ErrorCode;

use crate::adapter::{CallError, Effect};

/// The longest text of a server that is passed on.
const MAX_TEXT: usize = 300;

/// How far a call had come, for what a failure says of its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing was sent that could change anything, or all of it will be taken back.
    Harmless,
    /// What was sent may have been done.
    MayHaveChanged,
}

impl Progress {
    pub(super) const fn effect(self) -> Effect {
        match self {
            Self::Harmless => Effect::None,
            Self::MayHaveChanged => Effect::Unknown,
        }
    }
}

/// A server's refusal, with its SQLSTATE.
pub(super) fn refused(sql_state: &str) -> CallError {
    refused_as(sql_state, sql_state)
}

/// A refusal that means what another SQLSTATE says.
pub(super) fn refused_as(meaning: &str, sql_state: &str) -> CallError {
    let class = meaning.get(..2).unwrap_or_default();
    let refusal = |code, effect, retryable, upstream_failed, what: &str| {
        let message = format!("the database refused: {what} (SQLSTATE {sql_state})");
        CallError { effect, retryable, upstream_failed, ..CallError::not_sent(code, message) }
            .with_detail("sqlState", sql_state)
    };
    let answered = |code, what: &str| refusal(code, Effect::Answered, false, false, what);
    // What was begun is taken back, so that it is as if it never was.
    let taken_back = |failed, what: &str| refusal(ErrorCode::Upstream, Effect::None, true, failed, what);
    match (class, meaning) {
        ("28", _) => CallError {
            credential_refused: true,
            ..refusal(ErrorCode::Auth, Effect::None, false, false, "the user or the password is not accepted")
        },
        (_, "23505") => answered(ErrorCode::Conflict, "there is a row of this key already"),
        (_, "23503") => answered(ErrorCode::Conflict, "a row that it refers to, or that refers to it, is in the way"),
        ("23", "23001" | "23P01" | "23000") => answered(ErrorCode::Conflict, "a constraint does not hold"),
        ("23", _) => answered(ErrorCode::Validation, "a value does not fit its constraint"),
        ("22", _) => answered(ErrorCode::Validation, "a value does not fit"),
        (_, "25006") => {
            answered(ErrorCode::Upstream, "the operation is read-only, and its statement changes something")
        }
        ("40", _) => taken_back(false, "it got into another transaction's way"),
        (_, "55P03") => taken_back(false, "a lock is not free"),
        (_, "57014") => {
            CallError { code: ErrorCode::Timeout, ..taken_back(true, "the statement took too long and was cancelled") }
        }
        ("08" | "57", _) => taken_back(true, "it does not take connections or closes them"),
        ("53", _) => taken_back(true, "it has no resources left, such as connections"),
        (_, "3D000") => answered(ErrorCode::Upstream, "there is no such database"),
        (_, "42501") => answered(ErrorCode::Upstream, "the user lacks the privilege"),
        ("42", _) => answered(ErrorCode::Upstream, "the statement does not fit the database"),
        ("XX" | "58" | "F0", _) => refusal(ErrorCode::Upstream, Effect::Answered, false, true, "it failed inside"),
        _ => answered(ErrorCode::Upstream, "the statement failed"),
    }
}

/// The connection went away before the answer was complete.
pub(super) fn lost(progress: Progress) -> CallError {
    let message = "the connection to the database was lost before the answer was complete";
    failed(ErrorCode::Upstream, true, progress, message)
}

pub(super) fn timed_out(progress: Progress, phase: &'static str) -> CallError {
    let message = format!("the deadline passed while {phase}");
    failed(ErrorCode::Timeout, true, progress, message).with_detail("phase", phase)
}

/// The server said what is not its protocol.
pub(super) fn malformed(progress: Progress, what: &str) -> CallError {
    failed(ErrorCode::Upstream, false, progress, format!("the database's answer cannot be read: {}", bounded(what)))
}

fn failed(code: ErrorCode, retryable: bool, progress: Progress, message: impl Into<String>) -> CallError {
    CallError { retryable, effect: progress.effect(), upstream_failed: true, ..CallError::not_sent(code, message) }
}

/// The beginning of a text that an outsider wrote.
pub(super) fn bounded(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
