//! Keeps the keys in memory as the store has them, and the store told of their uses.

use std::time::Duration;

use integration_store::{Store, StoreError};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Authenticator;

/// How long a key that another process made or revoked may stay unseen.
const LOOK: Duration = Duration::from_millis(500);
/// How long a use may stay untold.
const TELL_USES: Duration = Duration::from_secs(60);

impl Authenticator {
    /// Reads the valid keys anew. One at a time, so that what was read before a key was revoked
    /// never takes the place of what was read after.
    pub(crate) async fn read_keys(&self, store: &Store) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        self.keys.replace(&store.valid_api_keys().await?);
        Ok(())
    }

    /// Follows the changes of other processes until told to stop. `seen` is the newest change
    /// from before the keys were first read.
    pub(crate) async fn follow_keys(self, store: Store, mut seen: i64, stop: CancellationToken) {
        let (mut looks, mut tells) = (interval(LOOK), interval(TELL_USES));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => match self.look(&store, seen).await {
                    Ok(last) => seen = last,
                    Err(error) => tracing::error!(error = %error.chain(), "the changes of API keys could not be read"),
                },
                _ = tells.tick() => self.tell_uses(&store).await,
            }
        }
        self.tell_uses(&store).await;
    }

    async fn look(&self, store: &Store, seen: i64) -> Result<i64, StoreError> {
        let (changed, last) = store.api_keys_changed_after(seen).await?;
        if changed {
            self.read_keys(store).await?;
        }
        Ok(last)
    }

    async fn tell_uses(&self, store: &Store) {
        let uses = self.keys.unstored_uses();
        if uses.is_empty() {
            return;
        }
        match store.note_api_key_uses(uses.clone()).await {
            Ok(()) => self.keys.uses_are_stored(&uses),
            Err(error) => tracing::warn!(error = %error.chain(), "the last uses of API keys could not be stored"),
        }
    }
}

fn interval(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
