//! What other processes change is read from the store, so that no process goes on with what
//! is outdated.

use std::sync::Arc;
use std::time::Duration;

use integration_store::{Changed, StoreError};
use tokio_util::sync::CancellationToken;

use crate::Engine;

/// How long a change of another process may stay unseen.
const LOOK: Duration = Duration::from_millis(500);
/// The most changes that are read at once.
const PAGE: u32 = 1_000;

impl Engine {
    /// Has what other processes change read anew, until told to stop. What this process
    /// changed itself comes by too: it may have been changed by a request that went away.
    pub async fn follow_changes(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            if let Err(error) = self.see_changes(&mut seen).await {
                tracing::error!(error = %error, "the changes of other processes could not be read");
            }
        }
    }

    async fn see_changes(&self, seen: &mut Option<i64>) -> Result<(), StoreError> {
        let Some(mut last) = *seen else {
            *seen = Some(self.store.last_change().await?);
            // What was read before this may have changed before it too.
            self.registry.refresh_all();
            return Ok(());
        };
        loop {
            let changes = self.store.changes_after(last, PAGE).await?;
            for (number, changed) in &changes {
                match changed {
                    Changed::Instance(id) => self.registry.refresh_instance(id),
                    Changed::Definition(id) => self.registry.forget_definition(id),
                    // Not among those asked for.
                    Changed::ApiKey(_) => {}
                }
                last = *number;
            }
            *seen = Some(last);
            if changes.len() < PAGE as usize {
                return Ok(());
            }
        }
    }
}
