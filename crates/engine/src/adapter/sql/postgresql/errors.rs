//! What the library's errors mean, as facts for the caller.

use std::error::Error as _;

use integration_model::ErrorCode;
use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use super::super::error::{Progress, bounded, lost, malformed, refused};
use super::decode::Undecodable;
use crate::adapter::{CallError, Effect};

/// `too_much` says that the server sent more than it was allowed to.
pub(super) fn call_error(error: &Error, progress: Progress, too_much: bool) -> CallError {
    if let Some(refusal) = error.as_db_error() {
        return from_refusal(refusal, progress);
    }
    if too_much {
        return malformed(progress, "it is larger than maxBytes allows");
    }
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let said = error.to_string();
    if let Some(io) = io {
        // What cannot be parsed comes as an I/O error too.
        return match io.kind() {
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => malformed(progress, &said),
            _ => lost(progress),
        };
    }
    if error.is_closed() {
        return lost(progress);
    }
    if said.starts_with("invalid configuration") {
        let message = "the database asks for a password, and the credential has none";
        return CallError { credential_refused: true, ..CallError::not_sent(ErrorCode::Auth, message) };
    }
    malformed(progress, &said)
}

fn from_refusal(refusal: &DbError, progress: Progress) -> CallError {
    let state = refusal.code().code();
    let mut error = refused(state);
    // The server went away in the middle of a commit.
    if progress == Progress::MayHaveChanged && (state.starts_with("57") || state.starts_with("08")) {
        error.effect = Effect::Unknown;
    }
    // A kept statement is of an older shape of its tables; it is prepared anew.
    if state == "0A000" && refusal.message().starts_with("cached plan") {
        error.effect = Effect::None;
        error.retryable = true;
    }
    // These speak of names in the statement, which is the definition's own.
    if state.starts_with("42") {
        error = error.with_detail("databaseMessage", bounded(refusal.message()));
    }
    let names = [
        ("table", refusal.table()),
        ("column", refusal.column()),
        ("constraint", refusal.constraint()),
        ("dataType", refusal.datatype()),
    ];
    names
        .into_iter()
        .filter_map(|(what, name)| Some((what, name?)))
        .fold(error, |error, (what, name)| error.with_detail(what, bounded(name)))
}

/// Why a column of a row cannot be told.
pub(super) fn undecodable(column: &str, fault: &Undecodable, progress: Progress) -> CallError {
    let advice = |what: &str| {
        let message = format!("column {column:?}: {what} cannot be told; cast it to text in the statement");
        CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
    };
    match fault {
        Undecodable::Type(name) => advice(&format!("the type {}", bounded(name))),
        Undecodable::Range(what) => advice(what),
        Undecodable::Bytes => malformed(progress, &format!("column {column:?} is not of its type")),
    }
}
