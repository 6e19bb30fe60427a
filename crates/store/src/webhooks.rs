//! Deliveries of webhooks: each is taken once, and its event is committed with the note that
//! it was. Must not know how a delivery is verified.

use std::time::Duration;

use integration_model::audit::AuditOutcome;
use integration_model::event::EventDraft;
use integration_model::{InstanceId, Timestamp};

use crate::audit::{CredentialUse, IntendedUse};
use crate::database::Tx;
use crate::error::StoreError;
use crate::events::EventRow;
use crate::sql::Query;
use crate::store::Store;

/// For how long a delivery that comes again is known.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);

/// Tells one delivery of an instance from another: a digest of what the sender calls it.
pub type DeliveryKey = [u8; 32];

/// A verified delivery on its way into the history.
#[derive(Debug)]
pub struct Delivery {
    pub key: DeliveryKey,
    pub event: EventDraft,
    /// The use of the credential that verified it; its row goes into the same transaction.
    pub used: Option<CredentialUse>,
}

impl Store {
    /// Commits a delivery's event, once: false, without an event, where the delivery was
    /// taken before. Fails with [`StoreError::NotFound`] where the instance is gone.
    pub async fn take_delivery(&self, delivery: Delivery, intended: IntendedUse<'_>) -> Result<bool, StoreError> {
        let Delivery { key, event, used } = delivery;
        let (tenant, instance) = (intended.tenant.clone(), intended.instance.clone());
        let uses: Vec<_> = used.iter().map(|used| used.entry(intended, AuditOutcome::Success)).collect();
        let taken = self
            .db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    let fresh = tx.claim_delivery(&instance, &key, now).await?;
                    tx.insert_uses(uses).await?;
                    if fresh {
                        let row = EventRow { tenant: &tenant, instance: Some(&instance), draft: &event };
                        tx.append_events(&[row]).await?;
                    }
                    Ok(fresh)
                })
            })
            .await
            .map_err(StoreError::or_missing)?;
        if let Some(used) = used {
            used.settle();
        }
        self.db().uses.note_instance(intended.instance, self.clock().now());
        Ok(taken)
    }

    /// Forgets up to `limit` deliveries that are older than any that may come again; gives how
    /// many. To be called now and then.
    pub async fn purge_deliveries(&self, limit: u32) -> Result<u64, StoreError> {
        let before = self.clock().now().saturating_sub(REMEMBERED);
        let purge = Query::new(
            "delete from webhook_deliveries where (instance_id, digest) in (
                 select instance_id, digest from webhook_deliveries where received_at < $1 limit $2
             )",
        )
        .bind(before)
        .bind(limit);
        self.db().write(move |tx| Box::pin(async move { purge.execute(&mut tx.connection).await })).await
    }
}

impl Tx {
    /// Waits for another transaction that claims the same delivery.
    async fn claim_delivery(
        &mut self,
        instance: &InstanceId,
        key: &DeliveryKey,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let inserted = Query::new(
            "insert into webhook_deliveries (instance_id, digest, received_at) values ($1, $2, $3) \
             on conflict (instance_id, digest) do nothing",
        )
        .bind(instance.as_str())
        .bind(key.as_slice())
        .bind(now)
        .execute(&mut self.connection)
        .await?;
        Ok(inserted == 1)
    }
}
