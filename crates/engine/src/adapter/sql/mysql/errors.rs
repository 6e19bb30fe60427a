//! What the library's errors and the servers' numbers mean, as facts for the caller.

use integration_model::ErrorCode;
use mysql_async::{DriverError, Error, IoError, ServerError};

use super::super::error::{Progress, bounded, lost, malformed, refused_as};
use crate::adapter::{CallError, Effect};

pub(super) fn call_error(error: &Error, progress: Progress) -> CallError {
    match error {
        Error::Server(refusal) => from_refusal(refusal, progress),
        Error::Io(IoError::Tls(fault)) => no_tls(&fault.to_string()),
        Error::Io(IoError::Io(fault)) if is_of_tls(fault) => no_tls(&fault.to_string()),
        Error::Io(IoError::Io(fault)) => match fault.kind() {
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => malformed(progress, "no packet"),
            _ => lost(progress),
        },
        Error::Driver(DriverError::ConnectionClosed) => lost(progress),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => no_tls("the server speaks none"),
        Error::Driver(DriverError::UnknownAuthPlugin { .. } | DriverError::CleartextPluginDisabled) => {
            let message = "the database asks for a kind of password that is not given here";
            CallError::not_sent(ErrorCode::Auth, message)
        }
        Error::Driver(DriverError::PacketTooLarge) => malformed(progress, "it is larger than maxBytes allows"),
        // What the others show may be values.
        _ => malformed(progress, "it does not follow the protocol"),
    }
}

fn is_of_tls(fault: &std::io::Error) -> bool {
    fault.get_ref().is_some_and(|source| source.is::<rustls::Error>())
}

/// A certificate does not become valid by asking again.
fn no_tls(fault: &str) -> CallError {
    let message = format!("no TLS session with the database: {}", bounded(fault));
    CallError { upstream_failed: true, ..CallError::not_sent(ErrorCode::Upstream, message) }
}

fn from_refusal(refusal: &ServerError, progress: Progress) -> CallError {
    let mut error = refused_as(meaning(refusal), &refusal.state).with_detail("errorNumber", refusal.code);
    if progress == Progress::MayHaveChanged && error.effect == Effect::None && !is_rolled_back(refusal.code) {
        error.effect = Effect::Unknown;
    }
    // These speak of names in the statement, which is the definition's own.
    if refusal.state.starts_with("42") {
        error = error.with_detail("databaseMessage", bounded(&refusal.message));
    }
    error
}

/// The server takes a whole transaction back after these, or has done nothing of it.
fn is_rolled_back(number: u16) -> bool {
    matches!(number, 1040 | 1203 | 1213 | 1226)
}

/// The SQLSTATE that says in full what the number says: the server's own is often too wide.
fn meaning(refusal: &ServerError) -> &str {
    match refusal.code {
        1062 | 1586 => "23505",
        1216 | 1217 | 1451 | 1452 => "23503",
        1048 | 1364 | 3819 | 4025 => "23514",
        1264 | 1265 | 1292 | 1366 | 1406 => "22000",
        1044 | 1142 | 1143 | 1227 => "42501",
        1205 => "55P03",
        1317 | 1969 | 3024 => "57014",
        1040 | 1203 | 1226 => "53300",
        1053 | 1927 => "57P01",
        _ => &refusal.state,
    }
}
