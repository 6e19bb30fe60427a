//! What a server's errors and broken connections mean, as facts for the caller.

use integration_model::ErrorCode;

use super::resp::{Refusal, Unreadable};
use crate::adapter::server::failure::{Progress, bounded, malformed};
use crate::adapter::{CallError, Effect};

/// A server's error. It did nothing of the command that it refuses.
pub(super) fn refused(refusal: &Refusal) -> CallError {
    let Refusal { code, message } = refusal;
    let error = |error_code, effect, retryable, upstream_failed, meaning: &str| {
        let text = format!("the server refused: {meaning} ({code})");
        CallError { effect, retryable, upstream_failed, ..CallError::not_sent(error_code, text) }
            .with_detail("redisCode", code.as_str())
            // Servers repeat arguments behind this.
            .with_detail("redisMessage", bounded(message.split(", with args").next().unwrap_or_default()))
    };
    let answered = |meaning: &str| error(ErrorCode::Upstream, Effect::Answered, false, false, meaning);
    let for_now = |meaning: &str| error(ErrorCode::Upstream, Effect::None, true, true, meaning);
    match code.as_str() {
        "NOAUTH" | "WRONGPASS" => CallError {
            credential_refused: true,
            ..error(ErrorCode::Auth, Effect::None, false, false, "the user or the password is not accepted")
        },
        "NOPERM" => answered("the user may not use this command, key or channel"),
        "WRONGTYPE" => answered("the key holds a value of another type"),
        "OOM" => for_now("it has no memory left"),
        "BUSY" => for_now("it runs a script"),
        "LOADING" => for_now("it loads its data"),
        "MISCONF" => for_now("it cannot write its data to the disk"),
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => for_now("its master or its cluster is not there"),
        // After a failover the same host may lead to the new master.
        "READONLY" => for_now("it is a replica, and takes no changes"),
        "MOVED" | "ASK" | "CROSSSLOT" => {
            answered("the key is on another node of its cluster: this adapter speaks to one server")
        }
        _ => answered("the command failed"),
    }
}

/// Whether a connection is of no use after this error.
pub(super) fn ends_connection(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "READONLY" | "NOAUTH" | "MASTERDOWN")
}

pub(super) fn unreadable(fault: Unreadable, progress: Progress) -> CallError {
    let mut error = malformed(progress, &fault.to_string());
    // It answered; what it said is too long.
    if fault == Unreadable::TooLarge {
        error.upstream_failed = false;
        if error.effect == Effect::Unknown {
            error.effect = Effect::Answered;
        }
    }
    error
}
