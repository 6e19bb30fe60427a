//! Work on whole definitions: compiling all of one, comparing two. Long where they are
//! large, so it runs beside the threads that serve calls, a few pieces at a time. Must not
//! know what the work is.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Pieces of work at once; others wait for their turn.
const AT_ONCE: usize = 2;

/// The places for long work.
#[derive(Debug, Clone)]
pub(crate) struct LongWork {
    places: Arc<Semaphore>,
}

impl LongWork {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs `work` to its end, even where the caller no longer waits for it: the place is
    /// taken for as long as the thread is.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let place = self.places.clone().acquire_owned().await.expect("the places are never closed");
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        });
        match task.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime is going away, and whoever waits with it.
            Err(Err(_)) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_the_work_ends_though_its_caller_left() {
        let long_work = LongWork::new();
        let (go_on, waiting) = mpsc::channel::<()>();
        let abandoned = long_work.run(move || waiting.recv());
        assert!(futures_util::FutureExt::now_or_never(abandoned).is_none());
        assert_eq!(long_work.places.available_permits(), AT_ONCE - 1);
        go_on.send(()).expect("the work still waits");
        let all = long_work.places.acquire_many(AT_ONCE as u32).await;
        assert!(all.is_ok());
    }

    #[tokio::test]
    #[should_panic(expected = "the work's own")]
    async fn a_panic_of_the_work_is_the_caller_s() {
        LongWork::new().run(|| panic!("the work's own")).await
    }
}
