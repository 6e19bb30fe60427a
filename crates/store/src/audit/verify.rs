//! Checking the chain: row by row from the anchor to the head, in pages. Says which is the first
//! row that does not fit, and what became of it as far as that can be told.

use std::collections::VecDeque;

use integration_model::Timestamp;

use super::chain::{AuditHead, ChainKey, Hash};
use super::row::{HASHED, column_names};
use crate::error::StoreError;
use crate::partitions::{Log, Partition, rows_or_dropped};
use crate::sql::{Query, Row};
use crate::store::Store;

/// How many rows are read at once.
const PAGE: i64 = 1_000;
/// How many rows around one that does not fit are looked at to say why.
const AROUND: usize = 128;

/// What a check of the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// How many rows fit.
    pub rows: u64,
    /// Where the kept rows begin: the last row that retention dropped.
    pub anchor: AuditHead,
    /// The newest row that fits; what to keep elsewhere.
    pub head: AuditHead,
    /// The time of that row.
    pub newest: Option<Timestamp>,
    /// The first thing that does not fit.
    pub fault: Option<AuditFault>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFault {
    pub kind: FaultKind,
    /// The place in the chain.
    pub sequence: i64,
    /// When the row there was written, as it says itself.
    pub time: Option<Timestamp>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The row is not as it was written.
    Changed,
    /// Rows were removed.
    Missing,
    /// The row was not written by this service.
    Inserted,
    /// The row was written in another place.
    Reordered,
    /// What was put down of the chain's beginning or end is not true.
    Rewritten,
}

impl FaultKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Rewritten => "rewritten",
        }
    }
}

fn fault(kind: FaultKind, sequence: i64, time: Option<Timestamp>, message: String) -> AuditFault {
    AuditFault { kind, sequence, time, message }
}

/// What the database says of the chain's two ends.
struct Ends {
    anchor: AuditHead,
    anchor_code: Option<Vec<u8>>,
    head: AuditHead,
}

impl Store {
    /// Checks every row that is kept. With `expected`, a head that was kept elsewhere, also that
    /// the chain goes through it. `progress` is told how many rows fit.
    pub async fn verify_audit(
        &self,
        expected: Option<AuditHead>,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<AuditReport, StoreError> {
        self.db().log_settled().await?;
        // Read before the rows, so that rows that come meanwhile lie beyond it.
        let mut ends = self.audit_ends().await?;
        let mut walk = Walk::from(ends.anchor);
        let key = self.db().audit_chain.key()?;
        if !proven(key, &ends) {
            let message = "the beginning of the chain was not put there by this service: the oldest rows may have been \
                           removed otherwise than by retention";
            let found = fault(FaultKind::Rewritten, ends.anchor.sequence, None, message.to_owned());
            return Ok(walk.report(Some(found)));
        }
        let milestones = Milestones::new(&ends, expected);
        let partitions = self.db().partitions.reload(self.pool()).await?;
        for partition in partitions.into_iter().filter(|partition| partition.log == Log::Audit) {
            let mut after = i64::MIN;
            loop {
                let rows = self.audit_rows_after(partition, after).await?;
                let Some(last) = rows.last() else { break };
                after = last.int(HASHED)?;
                for row in &rows {
                    let mut found = walk.step(key, row);
                    if found.as_ref().is_some_and(|fault| fault.kind == FaultKind::Missing) {
                        // Retention may have passed by since.
                        ends = self.audit_ends().await?;
                        if ends.anchor.sequence > walk.head.sequence && proven(key, &ends) {
                            walk.head = ends.anchor;
                            found = walk.step(key, row);
                        }
                    }
                    if let Some(found) = found {
                        let found = match found.kind {
                            FaultKind::Missing => found,
                            _ => self.explain(key, walk.head, partition, row, found).await?,
                        };
                        return Ok(walk.report(Some(found)));
                    }
                    if let Some(found) = milestones.pass(walk.head, walk.newest) {
                        return Ok(walk.report(Some(found)));
                    }
                }
                progress(walk.rows);
            }
        }
        let found = milestones.missed(walk.head, walk.newest);
        Ok(walk.report(found))
    }

    async fn audit_ends(&self) -> Result<Ends, StoreError> {
        let text = "select anchor_sequence, anchor_hash, head_sequence, head_hash, anchor_code from audit_chain \
                    where name = 'audit'";
        let row = Query::new(text).fetch_one(self.pool()).await?;
        Ok(Ends {
            anchor: AuditHead::from_row(&row, 0)?,
            head: AuditHead::from_row(&row, 2)?,
            anchor_code: row.opt_bytes(4)?,
        })
    }

    async fn audit_rows_after(&self, partition: Partition, after: i64) -> Result<Vec<Row>, StoreError> {
        let text = format!(
            "select {} from {} where sequence > $1 order by sequence limit $2",
            column_names(),
            partition.table()
        );
        rows_or_dropped(Query::built(text, vec![after.into(), PAGE.into()]).fetch_all(self.pool()).await)
    }

    /// Says more of a row that does not fit, by the rows around it.
    async fn explain(
        &self,
        key: &ChainKey,
        before: AuditHead,
        partition: Partition,
        row: &Row,
        found: AuditFault,
    ) -> Result<AuditFault, StoreError> {
        let sequence = found.sequence;
        if sequence <= before.sequence {
            return Ok(found);
        }
        let around = self.audit_rows_after(partition, sequence - AROUND as i64).await?;
        let places: VecDeque<AuditHead> =
            around.iter().take(2 * AROUND).filter_map(|row| AuditHead::from_row(row, HASHED).ok()).collect();
        let Ok(own) = AuditHead::from_row(row, HASHED) else { return Ok(found) };
        let next = around.iter().find(|row| row.int(HASHED).is_ok_and(|other| other == sequence + 1));
        let fits = |previous: Hash, place: i64, row: &Row, hash: Hash| {
            key.hash_stored(previous, place, row).is_ok_and(|expected| expected == hash)
        };
        let told = |kind, message: &str| fault(kind, sequence, found.time, message.to_owned());
        if let Some(next) = next
            && let Ok(after) = AuditHead::from_row(next, HASHED)
        {
            let computed = key.hash_stored(before.hash, sequence, row).unwrap_or_default();
            if [own.hash, computed].into_iter().any(|hash| fits(hash, sequence + 1, next, after.hash)) {
                return Ok(told(FaultKind::Changed, "the row is not as it was written"));
            }
            if fits(before.hash, sequence, next, after.hash) {
                return Ok(told(
                    FaultKind::Inserted,
                    "the row was not written by this service; the next one belongs here",
                ));
            }
        }
        for place in &places {
            let previous = places.iter().map(|other| other.hash).chain([before.hash]);
            if place.sequence != sequence
                && previous.into_iter().any(|previous| fits(previous, place.sequence, row, own.hash))
            {
                let message = format!("the row was written as number {}", place.sequence);
                return Ok(told(FaultKind::Reordered, &message));
            }
        }
        if next.is_none() && self.audit_ends().await?.head.sequence < sequence {
            return Ok(told(FaultKind::Inserted, "the row was not written by this service"));
        }
        Ok(found)
    }
}

fn proven(key: &ChainKey, ends: &Ends) -> bool {
    let code = key.anchor_code(ends.anchor);
    ends.anchor_code.as_deref().is_some_and(|stored| stored == code)
}

/// How far the check has come.
struct Walk {
    anchor: AuditHead,
    head: AuditHead,
    newest: Option<Timestamp>,
    rows: u64,
}

impl Walk {
    fn from(anchor: AuditHead) -> Self {
        Self { anchor, head: anchor, newest: None, rows: 0 }
    }

    fn report(self, fault: Option<AuditFault>) -> AuditReport {
        AuditReport { rows: self.rows, anchor: self.anchor, head: self.head, newest: self.newest, fault }
    }

    /// Goes on to a row; tells what does not fit.
    fn step(&mut self, key: &ChainKey, row: &Row) -> Option<AuditFault> {
        let time = row.time(1).ok();
        let expected = self.head.sequence + 1;
        let Ok(sequence) = row.int(HASHED) else {
            return Some(fault(FaultKind::Changed, expected, time, "the row has no number".to_owned()));
        };
        if sequence > expected {
            let message = format!("rows {expected} to {} are not there", sequence - 1);
            return Some(fault(FaultKind::Missing, expected, time, message));
        }
        if sequence < expected {
            let message = format!("the row lies in a later day than row {}", expected - 1);
            return Some(fault(FaultKind::Reordered, sequence, time, message));
        }
        let computed = key.hash_stored(self.head.hash, sequence, row).ok();
        let stored = AuditHead::from_row(row, HASHED).ok().map(|place| place.hash);
        match (computed, stored) {
            (Some(computed), Some(stored)) if computed == stored => {
                self.head = AuditHead { sequence, hash: stored };
                self.newest = time;
                self.rows += 1;
                None
            }
            _ => Some(fault(
                FaultKind::Changed,
                sequence,
                time,
                "the row is not as it was written, or does not follow the row before it".to_owned(),
            )),
        }
    }
}

/// Places that the chain has to go through.
struct Milestones(Vec<(AuditHead, &'static str)>);

impl Milestones {
    fn new(ends: &Ends, expected: Option<AuditHead>) -> Self {
        let mut places = vec![(ends.head, "what was last put down of its end")];
        places.extend(expected.map(|head| (head, "the expected head")));
        // What retention dropped can be told no more.
        places.retain(|(head, _)| head.sequence > ends.anchor.sequence);
        Self(places)
    }

    fn pass(&self, head: AuditHead, time: Option<Timestamp>) -> Option<AuditFault> {
        let (_, name) = self.0.iter().find(|(place, _)| place.sequence == head.sequence && place.hash != head.hash)?;
        let message = format!("the row is another than the one in {name}: rows were removed here, and others added");
        Some(fault(FaultKind::Rewritten, head.sequence, time, message))
    }

    /// Those that lie beyond the end.
    fn missed(&self, head: AuditHead, time: Option<Timestamp>) -> Option<AuditFault> {
        let (place, name) =
            self.0.iter().filter(|(place, _)| place.sequence > head.sequence).max_by_key(|(p, _)| p.sequence)?;
        let first = head.sequence + 1;
        let message =
            format!("the newest rows, {first} to {}, are not there: {name} is row {}", place.sequence, place.sequence);
        Some(fault(FaultKind::Missing, first, time, message))
    }
}
