//! Several changes of one instance at the same moment: each is made from the version that it
//! read, and holds only where that is still the stored one.

use crate::error::EngineError;

/// How often a change is made again. Each time somebody else's was written, so this many
/// came between before a caller is told.
const ATTEMPTS: u32 = 50;

/// Makes a change again where another one came between its read and its write. A caller
/// that named the version it `expected` wants to hear of the other change instead.
pub(crate) async fn until_it_holds<T, F>(expected: Option<i64>, attempt: impl Fn() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Err(EngineError::PreconditionFailed { .. }) if expected.is_none() => {}
            result => return result,
        }
    }
    Err(EngineError::conflict("the instance is being changed by many at once: try again"))
}
