//! The audit from before its rows were chained: rows by id, in tables of their own. They are
//! read until retention drops them, and nothing is added to them.

use std::collections::{BTreeMap, BTreeSet};

use integration_model::audit::{AuditAction, AuditEntry, AuditOutcome, Target, TargetType};
use integration_model::{ExecutionId, InstanceId, TenantId};
use uuid::Uuid;

use super::list::{AuditFilter, AuditOrder};
use crate::batch::Rows;
use crate::database::Database;
use crate::error::StoreError;
use crate::events::days_between;
use crate::filter::Conditions;
use crate::log_walk::Walk;
use crate::partitions::{Log, Partition, rows_or_dropped};
use crate::sql::Row;

const COLUMNS: &str = "id, created_at, tenant_id, principal, action, instance_id, credential_id, execution_id, \
     outcome, reason, correlation_id, details";

impl Database {
    /// Up to `limit` of the rows in their order, beyond `cursor`.
    pub(super) async fn unchained_audit(
        &self,
        filter: &AuditFilter,
        order: AuditOrder,
        cursor: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let walk = Walk {
            log: Log::UnchainedAudit,
            days: days_between(filter.from, filter.until),
            newest_first: order == AuditOrder::NewestFirst,
            cursor,
            instance: None,
            conditions: conditions(filter),
        };
        self.walk_log(&walk, COLUMNS, limit, read_entry).await
    }

    /// Which of these ids have a row.
    pub(super) async fn known_unchained_audit(&self, ids: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
        let mut days: BTreeMap<Partition, Vec<Uuid>> = BTreeMap::new();
        for id in ids {
            days.entry(Partition::of_id(Log::UnchainedAudit, *id)).or_default().push(*id);
        }
        let mut known = BTreeSet::new();
        let backend = self.pool.backend();
        for (partition, ids) in days {
            if !self.partitions.contains(partition) {
                continue;
            }
            let rows = Rows::of_ids(backend, ids);
            let text = format!("{}select id from {} where id in {}", rows.with(), partition.table(), rows.ids());
            for row in rows_or_dropped(rows.query(text).fetch_all(&self.pool).await)? {
                known.insert(row.uuid(0)?);
            }
        }
        Ok(known)
    }
}

fn conditions(filter: &AuditFilter) -> Conditions {
    let mut conditions = filter.common();
    match &filter.target {
        Some((TargetType::Instance, id)) => conditions.add("instance_id = ?", [id.as_str().into()]),
        // Nothing else was told of.
        Some(_) => conditions.add("1 = 0", []),
        None => {}
    }
    conditions
}

fn read_entry(row: &Row) -> Result<AuditEntry, StoreError> {
    let instance_id = row.opt_text(5)?.as_deref().and_then(|text| InstanceId::parse(text).ok());
    Ok(AuditEntry {
        id: row.uuid(0)?,
        sequence: None,
        timestamp: row.time(1)?,
        tenant_id: row.opt_text(2)?.as_deref().and_then(|text| TenantId::parse(text).ok()),
        principal: row.text(3)?,
        action: row.parsed(4, AuditAction::parse)?,
        target: instance_id.as_ref().map(|id| Target { kind: TargetType::Instance, id: id.to_string() }),
        instance_id,
        credential_id: row.opt_uuid(6)?,
        execution_id: row.opt_uuid(7)?.map(ExecutionId),
        outcome: row.parsed(8, AuditOutcome::parse)?,
        reason: row.text(9)?,
        correlation_id: row.text(10)?,
        details: row.opt_json(11)?,
        hash: None,
    })
}
