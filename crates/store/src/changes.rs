//! What changed, for the processes that keep instances and definitions in memory. Each
//! change gets a number in the order of the commits, over all processes. Only the newest
//! change of each is kept: whoever reads on from a number misses none.

use std::time::Duration;

use integration_model::{DefinitionId, InstanceId};

use crate::database::Tx;
use crate::error::StoreError;
use crate::sql::Query;
use crate::store::Store;

// Each process asks twice a second. There may be a change of each of a hundred thousand instances, and
// for a condition on the subject itself SQLite would read all that have it.
const AFTER: &str = "select number, subject, id from changes
    where number > $1 and case subject when $2 then true when $3 then true else false end
    order by number limit $4";
const API_KEYS_AFTER: &str = "select last,
    (select count(*) from changes where number > $1 and case subject when $2 then true else false end)
    from change_head where name = 'changes'";

/// What was made, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// An instance, or its credential.
    Instance(InstanceId),
    /// A version of a definition.
    Definition(DefinitionId),
    /// An API key, by its id.
    ApiKey(String),
}

impl Changed {
    const INSTANCE: &'static str = "instance";
    const DEFINITION: &'static str = "definition";
    const API_KEY: &'static str = "api_key";

    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Instance(id) => (Self::INSTANCE, id.as_str()),
            Self::Definition(id) => (Self::DEFINITION, id.as_str()),
            Self::ApiKey(id) => (Self::API_KEY, id),
        }
    }

    fn parse(subject: &str, id: &str) -> Option<Self> {
        match subject {
            Self::INSTANCE => InstanceId::parse(id).ok().map(Self::Instance),
            Self::DEFINITION => DefinitionId::parse(id).ok().map(Self::Definition),
            _ => None,
        }
    }
}

impl Tx {
    /// Notes a change, for the other processes; it gets its number when the transaction ends.
    pub(crate) fn note(&mut self, changed: Changed) {
        if !self.changed.contains(&changed) {
            self.changed.push(changed);
        }
    }

    /// Numbers what was noted. From here to its commit the transaction holds the lock that
    /// puts changes in order, and locks no row that another transaction may hold.
    pub(crate) async fn number_changes(&mut self) -> Result<(), StoreError> {
        let mut changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return Ok(());
        }
        changed.sort();
        let now = self.db.clock.now();
        let count = i64::try_from(changed.len()).unwrap_or(i64::MAX);
        let last = Query::new("update change_head set last = last + $1 where name = 'changes' returning last")
            .bind(count)
            .fetch_one(&mut self.connection)
            .await?
            .int(0)?;
        for (number, changed) in (last - count + 1..).zip(&changed) {
            let (subject, id) = changed.columns();
            Query::new(
                "insert into changes (subject, id, number, changed_at) values ($1, $2, $3, $4)
                 on conflict (subject, id) do update set number = excluded.number, changed_at = excluded.changed_at",
            )
            .bind(subject)
            .bind(id)
            .bind(number)
            .bind(now)
            .execute(&mut self.connection)
            .await?;
        }
        Ok(())
    }
}

impl Store {
    /// The number of the newest change.
    pub async fn last_change(&self) -> Result<i64, StoreError> {
        Query::new("select last from change_head where name = 'changes'").fetch_one(self.pool()).await?.int(0)
    }

    /// Whether an API key was made or revoked after the change of this number, and the number
    /// to ask with the next time.
    pub async fn api_keys_changed_after(&self, number: i64) -> Result<(bool, i64), StoreError> {
        let row = Query::new(API_KEYS_AFTER).bind(number).bind(Changed::API_KEY).fetch_one(self.pool()).await?;
        Ok((row.int(1)? > 0, row.int(0)?))
    }

    /// Up to `limit` instances and definitions that changed after the change of this number, in the order of
    /// their newest changes; with the number of each.
    pub async fn changes_after(&self, number: i64, limit: u32) -> Result<Vec<(i64, Changed)>, StoreError> {
        let rows = Query::new(AFTER)
            .bind(number)
            .bind(Changed::INSTANCE)
            .bind(Changed::DEFINITION)
            .bind(limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let (subject, id) = (row.text(1)?, row.text(2)?);
                let changed = Changed::parse(&subject, &id)
                    .ok_or_else(|| StoreError::corrupt("change", format!("unknown {subject} {id:?}")))?;
                Ok((row.int(0)?, changed))
            })
            .collect()
    }

    /// Forgets changes of deleted instances that every process has long seen; gives their
    /// number. To be called now and then.
    pub async fn purge_changes(&self) -> Result<u64, StoreError> {
        const LONG_SEEN: Duration = Duration::from_secs(86_400);
        let purge = Query::new(
            "delete from changes where subject = $1 and changed_at < $2
             and not exists (select 1 from instances i where i.id = changes.id)",
        )
        .bind(Changed::INSTANCE)
        .bind(self.clock().now().saturating_sub(LONG_SEEN));
        self.db().write(move |tx| Box::pin(async move { purge.execute(&mut tx.connection).await })).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_by_their_numbers() {
        let sqlite = rusqlite::Connection::open_in_memory().expect("a database");
        for migration in
            [include_str!("../migrations/sqlite/0001_core.sql"), include_str!("../migrations/sqlite/0002_refresh.sql")]
        {
            sqlite.execute_batch(migration).expect("a schema");
        }
        for text in [AFTER, API_KEYS_AFTER] {
            let mut plan = sqlite.prepare(&format!("explain query plan {text}")).expect("a plan");
            let mut steps = plan.raw_query();
            let mut found = Vec::new();
            while let Some(step) = steps.next().expect("a step") {
                found.push(step.get::<_, String>("detail").expect("a text"));
            }
            assert!(found.iter().any(|step| step.contains("changes_number (number>?)")), "{found:?}");
            assert!(!found.iter().any(|step| step.contains("subject")), "{found:?}");
        }
    }
}
