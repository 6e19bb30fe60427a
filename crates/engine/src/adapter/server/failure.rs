//! How talking to a server fails, whatever it speaks, as facts for the caller.

use integration_model::ErrorCode;

use crate::adapter::{CallError, Effect};

/// The longest text of a server that is passed on.
const MAX_TEXT: usize = 300;

/// How far a call had come, for what a failure says of its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapter) enum Progress {
    /// Nothing was sent that could change anything, or all of it will be taken back.
    Harmless,
    /// What was sent may have been done.
    MayHaveChanged,
}

impl Progress {
    pub(in crate::adapter) const fn effect(self) -> Effect {
        match self {
            Self::Harmless => Effect::None,
            Self::MayHaveChanged => Effect::Unknown,
        }
    }
}

/// The connection went away before the answer was complete.
pub(in crate::adapter) fn lost(progress: Progress) -> CallError {
    let message = "the connection was lost before the answer was complete";
    failed(ErrorCode::Upstream, true, progress, message)
}

pub(in crate::adapter) fn timed_out(progress: Progress, phase: &'static str) -> CallError {
    let message = format!("the deadline passed while {phase}");
    failed(ErrorCode::Timeout, true, progress, message).with_detail("phase", phase)
}

/// The server said what is not its protocol.
pub(in crate::adapter) fn malformed(progress: Progress, what: &str) -> CallError {
    failed(ErrorCode::Upstream, false, progress, format!("the server's answer cannot be read: {}", bounded(what)))
}

fn failed(code: ErrorCode, retryable: bool, progress: Progress, message: impl Into<String>) -> CallError {
    CallError { retryable, effect: progress.effect(), upstream_failed: true, ..CallError::not_sent(code, message) }
}

/// The beginning of a text that an outsider wrote.
pub(in crate::adapter) fn bounded(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

/// An error of an answer that came and cannot be used.
pub(in crate::adapter) fn answered(message: impl Into<String>) -> CallError {
    CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
}
