//! Events of other services that were taken: none is taken twice.

use std::time::Duration;

use integration_model::audit::AuditDraft;
use uuid::Uuid;

use crate::audit::AuditTarget;
use crate::error::StoreError;
use crate::sql::Query;
use crate::store::Store;

/// For how long an event that comes again is known.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);

impl Store {
    /// Whether the event was taken before.
    pub async fn event_was_consumed(&self, id: Uuid) -> Result<bool, StoreError> {
        let query = Query::new("select id from consumed_events where id = $1").bind(id);
        Ok(query.fetch_optional(self.pool()).await?.is_some())
    }

    /// Notes that an event was taken; false where it was already.
    pub async fn mark_event_consumed(&self, id: Uuid, audit: AuditDraft) -> Result<bool, StoreError> {
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    Query::new("delete from consumed_events where consumed_at < $1")
                        .bind(now.saturating_sub(REMEMBERED))
                        .execute(&mut tx.connection)
                        .await?;
                    let text =
                        "insert into consumed_events (id, consumed_at) values ($1, $2) on conflict (id) do nothing";
                    let inserted = Query::new(text).bind(id).bind(now).execute(&mut tx.connection).await?;
                    if inserted == 1 {
                        tx.audit(audit, AuditTarget { tenant: None, instance: None, credential: None });
                    }
                    Ok(inserted == 1)
                })
            })
            .await
    }
}
