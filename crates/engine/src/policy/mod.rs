//! Policies around a call: how often it may be made, whether the upstream is spared, whether
//! a failed attempt is repeated, whether an answer is given again.
//!
//! Owns: the state and the decisions. Must not know: adapters' protocols, storage, HTTP.
//! Nothing here does I/O or reads a clock: callers pass the time in. State is kept behind
//! locks held for a few instructions, never across an await.

pub mod cache;
pub mod circuit_breaker;
pub mod rate_limit;
pub mod retry;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic elsewhere leaves counters behind that are still good enough to go on with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spreads what would otherwise happen all at once: a number in [0, 1).
pub(crate) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all wait equally long: less well spread, not wrong.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
