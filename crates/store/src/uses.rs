//! How often credentials were used, and when they and instances were last: noted in memory when
//! the uses are put down, and written a bounded number at a time, since a row that each call
//! writes again costs more than what it tells. A process that is killed loses what it had not
//! written; the log and the audit have all of it. Must not know why something was used.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use integration_model::execution::Execution;
use integration_model::instance::Instance;
use integration_model::{InstanceId, Timestamp};
use tokio::sync::RwLock;
use uuid::Uuid;

use crate::audit::uses_of;
use crate::batch::{Cells as _, Kind, Rows};
use crate::credentials::StoredCredential;
use crate::database::Tx;
use crate::error::StoreError;
use crate::journal::ExecutionRecord;
use crate::sql::{Backend, Pool};
use crate::store::Store;

/// How many rows of each kind one transaction writes. Callers have their turn between two.
const WRITTEN_AT_ONCE: usize = 125;
/// How many such transactions [`Store::write_uses`] makes. Where a hundred thousand instances are
/// used by turns, each has a row that is some minutes old at most.
const TRANSACTIONS: usize = 4;
/// How many uses come to their entries together: few enough to keep no caller waiting.
const NOTED_AT_ONCE: usize = 256;
/// How many rows of each kind one transaction writes where no callers are left.
const LAST_WRITTEN_AT_ONCE: usize = 5_000;

/// Of SQLite, for one row.
pub(crate) const COUNT_USES: &str = "update credentials set use_count = use_count + ?2, \
     last_used_at = max(coalesce(last_used_at, 0), ?3) where secret_id = ?1";
/// Of SQLite, for one row. What was used before it was made was another under the same id.
pub(crate) const TOUCH_INSTANCE: &str = "update instances set last_used_at = ?2 \
     where id = ?1 and created_at <= ?2 and (last_used_at is null or last_used_at < ?2)";

/// How often something was used, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) count: i64,
    pub(crate) latest: Timestamp,
}

impl Use {
    pub(crate) fn once(at: Timestamp) -> Self {
        Self { count: 1, latest: at }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.latest = self.latest.max(other.latest);
    }
}

/// The uses of credentials.
pub(crate) type Counts = BTreeMap<Uuid, Use>;

/// What one transaction writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct UseBatch {
    pub(crate) credentials: Counts,
    pub(crate) instances: BTreeMap<InstanceId, Use>,
}

impl UseBatch {
    fn is_empty(&self) -> bool {
        self.credentials.is_empty() && self.instances.is_empty()
    }
}

/// Uses that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    credentials: Mutex<Waiting<Uuid>>,
    instances: Mutex<Waiting<InstanceId>>,
    /// Who writes holds it alone; who adds what waits to rows it reads holds it with others.
    turn: RwLock<()>,
}

/// The uses of things of one kind: an entry each, no more than there are.
#[derive(Debug)]
struct Waiting<K> {
    /// What is not added to its entry yet, fewer than [`NOTED_AT_ONCE`]. The entries of many things
    /// lie all over memory; they are fetched together where one is looked for after the other.
    noted: Vec<(K, Use)>,
    uses: HashMap<K, Use>,
    /// Whose turn it is, from the end on: in the order of their keys, since rows that lie together
    /// share pages. Made anew when it is empty, of all that wait then.
    turns: Vec<K>,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self { noted: Vec::new(), uses: HashMap::new(), turns: Vec::new() }
    }
}

impl<K: Clone + Ord + Hash> Waiting<K> {
    fn add(&mut self, key: &K, more: Use) {
        self.noted.push((key.clone(), more));
        if self.noted.len() >= NOTED_AT_ONCE {
            self.enter_noted();
        }
    }

    fn enter_noted(&mut self) {
        for (key, more) in self.noted.drain(..) {
            match self.uses.get_mut(&key) {
                Some(uses) => uses.add(more),
                None => drop(self.uses.insert(key, more)),
            }
        }
    }

    fn get(&mut self, key: &K) -> Option<Use> {
        self.enter_noted();
        self.uses.get(key).copied()
    }

    fn is_empty(&self) -> bool {
        self.noted.is_empty() && self.uses.is_empty()
    }

    /// Up to `count` of those whose turn it is.
    fn next(&mut self, count: usize) -> BTreeMap<K, Use> {
        self.enter_noted();
        if self.turns.is_empty() {
            self.turns = self.uses.keys().cloned().collect();
            self.turns.sort_unstable_by(|a, b| b.cmp(a));
        }
        let turns = self.turns.split_off(self.turns.len().saturating_sub(count));
        turns.into_iter().filter_map(|key| self.uses.get(&key).copied().map(|uses| (key, uses))).collect()
    }

    /// These are written. What came meanwhile waits anew.
    fn take_off(&mut self, written: &BTreeMap<K, Use>) {
        for (key, written) in written {
            let Some(uses) = self.uses.get_mut(key) else { continue };
            uses.count -= written.count;
            if uses.count <= 0 {
                self.uses.remove(key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uses {
    /// Notes the uses of credentials in records that are committed.
    pub(crate) fn note_credentials(&self, records: &[ExecutionRecord]) {
        let mut uses = uses_of(records).filter_map(|(used, _)| Some((used.credential()?, used.at()))).peekable();
        if uses.peek().is_some() {
            let mut waiting = lock(&self.credentials);
            uses.for_each(|(credential, at)| waiting.add(&credential, Use::once(at)));
        }
    }

    pub(crate) fn add_credentials(&self, uses: &Counts) {
        let mut waiting = lock(&self.credentials);
        uses.iter().for_each(|(credential, used)| waiting.add(credential, *used));
    }

    /// Notes that an execution used its instance, where it came so far.
    pub(crate) fn note_execution(&self, execution: &Execution) {
        if execution.attempts > 0 || execution.cached {
            let at = execution.finished_at.unwrap_or(execution.created_at);
            self.note_instance(&execution.integration_instance_id, at);
        }
    }

    pub(crate) fn note_instance(&self, instance: &InstanceId, at: Timestamp) {
        lock(&self.instances).add(instance, Use::once(at));
    }

    pub(crate) fn of_instance(&self, instance: &InstanceId) -> Option<Use> {
        lock(&self.instances).get(instance)
    }

    /// Rows that are read while this is held, with what waits added to them, tell each use once.
    pub(crate) async fn hold(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.turn.read().await
    }

    fn next(&self, count: usize) -> UseBatch {
        UseBatch { credentials: lock(&self.credentials).next(count), instances: lock(&self.instances).next(count) }
    }

    fn is_empty(&self) -> bool {
        lock(&self.credentials).is_empty() && lock(&self.instances).is_empty()
    }

    fn take_off(&self, written: &UseBatch) {
        lock(&self.credentials).take_off(&written.credentials);
        lock(&self.instances).take_off(&written.instances);
    }
}

/// An instance with what waits. It may be written as well: the later time counts.
pub(crate) fn with_use(instance: Instance, used: Option<Use>) -> Instance {
    let used = used.map(|used| used.latest).filter(|at| *at >= instance.created_at);
    Instance { last_used_at: instance.last_used_at.max(used), ..instance }
}

impl Store {
    /// Writes uses of credentials and instances that wait, up to a bound, each in its turn. To be
    /// called about once a second.
    pub async fn write_uses(&self) -> Result<(), StoreError> {
        self.db().own_log_settled().await;
        for _ in 0..TRANSACTIONS {
            if !self.write_next_uses(WRITTEN_AT_ONCE).await? {
                break;
            }
        }
        Ok(())
    }

    /// Writes all that wait; nobody notes any more.
    pub(crate) async fn write_last_uses(&self) -> Result<(), StoreError> {
        while self.write_next_uses(LAST_WRITTEN_AT_ONCE).await? {}
        Ok(())
    }

    /// Writes the uses of one credential.
    pub(crate) async fn write_uses_of(&self, credential: Uuid) -> Result<(), StoreError> {
        self.db().own_log_settled().await;
        let uses = &self.db().uses;
        let _turn = uses.turn.write().await;
        let waiting = lock(&uses.credentials).get(&credential);
        let credentials = waiting.map(|waiting| (credential, waiting)).into_iter().collect();
        self.commit_uses(UseBatch { credentials, ..UseBatch::default() }).await
    }

    /// An instance's credential, with the uses that this process has not written yet.
    pub async fn credential_with_uses(&self, instance: &InstanceId) -> Result<Option<StoredCredential>, StoreError> {
        self.db().own_log_settled().await;
        let uses = &self.db().uses;
        let _held = uses.hold().await;
        let mut credential = self.credential(instance).await?;
        if let Some(credential) = &mut credential
            && let Some(waiting) = lock(&uses.credentials).get(&credential.id)
        {
            credential.use_count = credential.use_count.saturating_add_signed(waiting.count);
            credential.last_used_at = credential.last_used_at.max(Some(waiting.latest));
        }
        Ok(credential)
    }

    /// Gives whether others may wait still.
    async fn write_next_uses(&self, count: usize) -> Result<bool, StoreError> {
        let uses = &self.db().uses;
        let _turn = uses.turn.write().await;
        let batch = uses.next(count);
        self.commit_uses(batch).await?;
        Ok(!uses.is_empty())
    }

    /// The caller has the turn. What is not committed waits on.
    async fn commit_uses(&self, batch: UseBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let db = self.db();
        if !self.write_uses_at_once(&batch).await? {
            let batch = batch.clone();
            db.write(move |tx| Box::pin(async move { tx.write_uses(batch).await })).await?;
        }
        db.uses.take_off(&batch);
        Ok(())
    }

    /// As surely as the log: callers that commit wait for no disk. False where the log has no
    /// writer of its own.
    async fn write_uses_at_once(&self, batch: &UseBatch) -> Result<bool, StoreError> {
        let db = self.db();
        let Pool::Sqlite { turn, .. } = &db.pool else { return Ok(false) };
        let _turn = turn.acquire().await.map_err(|_| StoreError::Closed)?;
        match lock(&db.log_writer).as_mut() {
            Some(writer) => writer.write_uses(batch).map(|()| true),
            None => Ok(false),
        }
    }
}

impl Tx {
    async fn write_uses(&mut self, batch: UseBatch) -> Result<(), StoreError> {
        self.touch_instances(batch.instances).await?;
        self.count_uses(batch.credentials).await
    }

    /// Moves the times when instances were last used.
    async fn touch_instances(&mut self, used: BTreeMap<InstanceId, Use>) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::new(self.connection.backend(), [Kind::Text, Kind::Int]);
        for (instance, used) in used {
            rows.push(|cells| {
                cells.text(instance.as_str());
                cells.int(used.latest.as_micros());
            });
        }
        let text = touch_instances_text(self.connection.backend(), &rows);
        rows.query(text).execute(&mut self.connection).await.map(drop)
    }

    /// Moves the counts of credentials that were used.
    pub(crate) async fn count_uses(&mut self, counts: Counts) -> Result<(), StoreError> {
        if counts.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::new(self.connection.backend(), [Kind::Bytes, Kind::Int, Kind::Int]);
        for (credential, used) in counts {
            rows.push(|cells| {
                cells.bytes(credential.as_bytes());
                cells.int(used.count);
                cells.int(used.latest.as_micros());
            });
        }
        let text = count_uses_text(self.connection.backend(), &rows);
        rows.query(text).execute(&mut self.connection).await.map(drop)
    }
}

fn touch_instances_text(backend: Backend, rows: &Rows) -> String {
    let [id, at] = [rows.cell(0), rows.cell(1)];
    // Rows are locked in one order, so that two processes never deadlock.
    let (lock, from) = match backend {
        Backend::Sqlite => (String::new(), " where "),
        Backend::Postgres => (
            format!(
                ", locked as materialized (select id from instances where id in {} order by id for no key update) ",
                rows.ids()
            ),
            ", locked where locked.id = instances.id and ",
        ),
    };
    format!(
        "{}{lock}update instances set last_used_at = {at} from r{from}instances.id = {id} and created_at <= {at} and \
         (last_used_at is null or last_used_at < {at})",
        rows.with(),
    )
}

fn count_uses_text(backend: Backend, rows: &Rows) -> String {
    let [id, uses, at] = [0, 1, 2].map(|index| rows.cell(index));
    // Rows are locked in one order, so that two processes never deadlock.
    let (lock, from) = match backend {
        Backend::Sqlite => (String::new(), " where "),
        Backend::Postgres => (
            format!(
                ", locked as materialized (select secret_id from credentials where secret_id in {} \
                 order by instance_id for no key update) ",
                rows.ids()
            ),
            ", locked where locked.secret_id = credentials.secret_id and ",
        ),
    };
    format!(
        "{}{lock}update credentials set use_count = use_count + {uses}, \
         last_used_at = case when last_used_at is null or last_used_at < {at} then {at} else last_used_at end \
         from r{from}credentials.secret_id = {id}",
        rows.with(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_it_is_written_waits_on() {
        let at = Timestamp::from_micros;
        let mut waiting = Waiting::default();
        for (key, time) in [("c", 3), ("a", 1), ("b", 2)] {
            waiting.add(&key, Use::once(at(time)));
        }
        let batch = waiting.next(2);
        assert_eq!(batch.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        waiting.add(&"a", Use::once(at(4)));
        assert_eq!(waiting.get(&"a"), Some(Use { count: 2, latest: at(4) }));
        waiting.take_off(&batch);
        assert_eq!(waiting.get(&"b"), None);
        assert_eq!(waiting.get(&"a"), Some(Use { count: 1, latest: at(4) }));
        // The others of the first round, then those of the next.
        for expected in ["c", "a"] {
            let rest = waiting.next(9);
            assert_eq!(rest.keys().copied().collect::<Vec<_>>(), [expected]);
            waiting.take_off(&rest);
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn each_use_counts_before_it_has_an_entry_and_after() {
        let at = Timestamp::from_micros;
        let mut waiting = Waiting::default();
        for time in 1..=600 {
            waiting.add(&(time % 2), Use::once(at(time)));
            assert!(waiting.noted.len() < NOTED_AT_ONCE && !waiting.is_empty());
        }
        assert_eq!(waiting.get(&0), Some(Use { count: 300, latest: at(600) }));
        waiting.add(&1, Use::once(at(7)));
        assert_eq!(waiting.get(&1), Some(Use { count: 301, latest: at(599) }));
    }

    #[test]
    fn each_has_its_turn() {
        let mut waiting = Waiting::default();
        (0..10).for_each(|key| waiting.add(&key, Use::once(Timestamp::from_micros(1))));
        // Nothing is taken off, as where the database takes none.
        let turns: Vec<Vec<i32>> = (0..4).map(|_| waiting.next(4).into_keys().collect()).collect();
        assert_eq!(turns, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9], vec![0, 1, 2, 3]]);
    }
}
