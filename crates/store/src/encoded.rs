//! The rows that an execution leaves in the log, as bytes: made once, by the thread that served
//! it; the spool keeps them, and whoever commits them on SQLite reads them. Must not know where
//! they are kept, and how they are committed.
//!
//! A record is its execution's cells, then its events and its acts for the audit without what
//! only the commit knows: an event's id, an act's place in the chain, the time of both.

use std::borrow::Cow;
use std::collections::BTreeSet;

use integration_model::Timestamp;
use uuid::Uuid;

use crate::audit::row::ExecutionAct;
use crate::audit::rows_of;
use crate::batch::Cells;
use crate::error::StoreError;
use crate::events::{EventCells, EventRow};
use crate::executions::{self, write_cells};
use crate::journal::ExecutionRecord;
use crate::spool::MAX_ENTRY;
use crate::sql::without_nul;

const NULL: u8 = 0;
const INT: u8 = 1;
const TEXT: u8 = 2;
const BYTES: u8 = 3;

const ID: usize = executions::place("id");
const TENANT: usize = executions::place("tenant_id");
const INSTANCE: usize = executions::place("instance_id");
const CREATED_AT: usize = executions::place("created_at");
const PRINCIPAL: usize = executions::place("principal");
const CORRELATION: usize = executions::place("correlation_id");

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell<'b> {
    Null,
    Int(i64),
    Text(&'b str),
    Bytes(&'b [u8]),
}

/// Records, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Encoded {
    pub(crate) fn of(records: &[ExecutionRecord]) -> Result<Self, StoreError> {
        let mut encoded = Self::default();
        records.iter().try_for_each(|record| encoded.push(record))?;
        Ok(encoded)
    }

    pub(crate) fn push(&mut self, record: &ExecutionRecord) -> Result<(), StoreError> {
        self.push_up_to(record, usize::MAX).map(drop)
    }

    /// Adds a record, unless it is longer than the spool takes.
    pub(crate) fn push_for_spool(&mut self, record: &ExecutionRecord) -> bool {
        self.push_up_to(record, MAX_ENTRY).unwrap_or(false)
    }

    /// Gives whether the record is not longer than this; else it is not added.
    fn push_up_to(&mut self, record: &ExecutionRecord, longest: usize) -> Result<bool, StoreError> {
        let begin = self.bytes.len();
        let fits = encode(record, &mut self.bytes).map(|()| self.bytes.len() - begin <= longest);
        if matches!(fits, Ok(true)) {
            self.ends.push(self.bytes.len());
        } else {
            self.bytes.truncate(begin);
        }
        fits
    }

    /// Adds a record of another.
    pub(crate) fn push_bytes(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn append(&mut self, other: &Self) {
        other.iter().for_each(|record| self.push_bytes(record));
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of each record.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }
}

/// Writes cells as bytes.
struct Encoder<'a>(&'a mut Vec<u8>);

impl Encoder<'_> {
    fn sized(&mut self, kind: u8, bytes: &[u8]) {
        self.0.push(kind);
        // Nothing that a record holds comes near to 4 GiB.
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn count(&mut self, count: usize) {
        self.int(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Cells for Encoder<'_> {
    fn text(&mut self, text: &str) {
        self.sized(TEXT, without_nul(text).as_bytes());
    }

    fn opt_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.0.push(NULL),
        }
    }

    fn opt_int(&mut self, number: Option<i64>) {
        match number {
            Some(number) => {
                self.0.push(INT);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
            None => self.0.push(NULL),
        }
    }

    fn opt_bytes(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.sized(BYTES, bytes),
            None => self.0.push(NULL),
        }
    }
}

fn encode(record: &ExecutionRecord, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
    let mut encoder = Encoder(bytes);
    let execution = &record.execution;
    write_cells(&mut encoder, execution, record.params.as_ref())?;
    encoder.count(record.events.len());
    for event in EventRow::of_instance(&execution.tenant_id, &execution.integration_instance_id, &record.events) {
        let cells = event.cells();
        encoder.text(cells.event_type);
        encoder.text(cells.correlation_id);
        encoder.opt_text(cells.task_id);
        encoder.text(cells.data);
    }
    let acts = || rows_of(std::slice::from_ref(record), &NONE_LOST);
    encoder.count(acts().count());
    for (used, execution) in acts() {
        let act = ExecutionAct::of(used, execution);
        encoder.bytes(act.id.as_bytes());
        encoder.text(act.action);
        encoder.opt_bytes(act.credential.as_ref().map(|id| id.as_bytes().as_slice()));
        encoder.int(act.at.as_micros());
        encoder.text(act.outcome);
        encoder.text(&act.reason);
        encoder.text(&act.details);
    }
    Ok(())
}

static NONE_LOST: BTreeSet<Uuid> = BTreeSet::new();

/// A record that is read.
#[derive(Debug)]
pub(crate) struct Decoded<'b> {
    /// In the order of [`executions::COLUMNS`].
    pub(crate) execution: [Cell<'b>; executions::COLUMNS.len()],
    pub(crate) id: Uuid,
    pub(crate) created_at: Timestamp,
    tenant: &'b str,
    instance: &'b str,
    principal: &'b str,
    correlation: &'b str,
    events: Reader<'b>,
}

impl<'b> Decoded<'b> {
    /// Reads what [`Encoded`] holds.
    pub(crate) fn read(record: &'b [u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(record);
        let mut execution = [Cell::Null; executions::COLUMNS.len()];
        for cell in &mut execution {
            *cell = reader.cell()?;
        }
        let text = |place: usize| text_of(execution[place]);
        let id = id_of(execution[ID])?;
        Ok(Self {
            id,
            created_at: Timestamp::from_micros(int_of(execution[CREATED_AT])?),
            tenant: text(TENANT)?,
            instance: text(INSTANCE)?,
            principal: text(PRINCIPAL)?,
            correlation: text(CORRELATION)?,
            execution,
            events: reader,
        })
    }

    /// Whether a record is whole.
    pub(crate) fn check(record: &'b [u8]) -> Result<(), StoreError> {
        Self::read(record)?.each(|_| Ok(()), |_| Ok(()))
    }

    /// Gives each event, then each act.
    pub(crate) fn each(
        &self,
        mut event: impl FnMut(EventCells<'b>) -> Result<(), StoreError>,
        mut act: impl FnMut(ExecutionAct<'b>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut reader = Reader(self.events.0);
        for _ in 0..reader.count()? {
            event(EventCells {
                tenant: self.tenant,
                instance: Some(self.instance),
                event_type: reader.text()?,
                correlation_id: reader.text()?,
                task_id: reader.opt_text()?,
                data: reader.text()?,
            })?;
        }
        for _ in 0..reader.count()? {
            act(ExecutionAct {
                tenant: self.tenant,
                principal: self.principal,
                instance: self.instance,
                execution: self.id,
                correlation: self.correlation,
                id: reader.id()?,
                action: reader.text()?,
                credential: reader.opt_id()?,
                at: Timestamp::from_micros(reader.int()?),
                outcome: reader.text()?,
                reason: Cow::Borrowed(reader.text()?),
                details: Cow::Borrowed(reader.text()?),
            })?;
        }
        Ok(())
    }

    /// Writes the execution's cells.
    pub(crate) fn write_execution(&self, cells: &mut impl Cells) {
        for cell in self.execution {
            match cell {
                Cell::Null => cells.opt_int(None),
                Cell::Int(number) => cells.int(number),
                Cell::Text(text) => cells.text(text),
                Cell::Bytes(bytes) => cells.bytes(bytes),
            }
        }
    }
}

/// What is left to read of a record.
#[derive(Debug)]
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn sized(&mut self) -> Result<&'b [u8], StoreError> {
        let length = self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| malformed())?;
        self.take(length as usize)
    }

    fn cell(&mut self) -> Result<Cell<'b>, StoreError> {
        Ok(match self.take(1)? {
            [NULL] => Cell::Null,
            [INT] => Cell::Int(self.take(8)?.try_into().map(i64::from_le_bytes).map_err(|_| malformed())?),
            [TEXT] => Cell::Text(std::str::from_utf8(self.sized()?).map_err(|_| malformed())?),
            [BYTES] => Cell::Bytes(self.sized()?),
            _ => return Err(malformed()),
        })
    }

    fn text(&mut self) -> Result<&'b str, StoreError> {
        text_of(self.cell()?)
    }

    fn opt_text(&mut self) -> Result<Option<&'b str>, StoreError> {
        match self.cell()? {
            Cell::Null => Ok(None),
            cell => text_of(cell).map(Some),
        }
    }

    fn id(&mut self) -> Result<Uuid, StoreError> {
        id_of(self.cell()?)
    }

    fn opt_id(&mut self) -> Result<Option<Uuid>, StoreError> {
        match self.cell()? {
            Cell::Null => Ok(None),
            cell => id_of(cell).map(Some),
        }
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        int_of(self.cell()?)
    }

    /// How many follow. Each takes some bytes, so that a wrong number ends with the record.
    fn count(&mut self) -> Result<usize, StoreError> {
        usize::try_from(self.int()?).map_err(|_| malformed())
    }
}

fn text_of(cell: Cell<'_>) -> Result<&str, StoreError> {
    if let Cell::Text(text) = cell { Ok(text) } else { Err(malformed()) }
}

fn int_of(cell: Cell<'_>) -> Result<i64, StoreError> {
    if let Cell::Int(number) = cell { Ok(number) } else { Err(malformed()) }
}

fn id_of(cell: Cell<'_>) -> Result<Uuid, StoreError> {
    let Cell::Bytes(bytes) = cell else { return Err(malformed()) };
    Uuid::from_slice(bytes).map_err(|_| malformed())
}

fn malformed() -> StoreError {
    StoreError::corrupt("a record of the spool", "it is not as it was written")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use integration_model::event::EventDraft;
    use integration_model::execution::{Execution, ExecutionMode, ExecutionStatus};
    use integration_model::{DefinitionId, ExecutionId, InstanceId, TenantId};

    use super::*;
    use crate::audit::CredentialUse;

    pub(crate) fn record() -> ExecutionRecord {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let instance = InstanceId::parse("pets").unwrap();
        let execution = Execution {
            id: ExecutionId(Uuid::from_u128(7)),
            tenant_id: TenantId::parse("acme").unwrap(),
            integration_instance_id: instance.clone(),
            integration_definition_id: DefinitionId::parse("petshop").unwrap(),
            definition_version: "1.0.0".into(),
            method_name: "getPet".to_owned(),
            status: ExecutionStatus::Error,
            mode: ExecutionMode::Sync,
            error: None,
            attempts: 2,
            cached: false,
            upstream_status: Some(500),
            data_size: None,
            created_at: at,
            finished_at: Some(at),
            duration_ms: Some(12),
            principal: "nul \0 and ü".to_owned(),
            correlation_id: "c-1".to_owned(),
            task_id: None,
            replay_of: None,
            data: None,
        };
        let executed = EventDraft::method_executed("c-1", &instance, "getPet", 12, Some(500), 0);
        ExecutionRecord {
            execution: Arc::new(execution),
            params: Some("{\"id\": 1}".into()),
            events: vec![executed.clone(), executed.with_task(Some("t"))],
            idempotency: None,
            answer: None,
            credential_uses: vec![
                CredentialUse::recovered(Uuid::from_u128(8), at, Some(Uuid::from_u128(9)), "execute".to_owned()),
                CredentialUse::recovered(Uuid::from_u128(10), at, None, "login".to_owned()),
            ],
            from_queue: false,
        }
    }

    type Told = (Vec<(String, Option<String>)>, Vec<(Uuid, Option<Uuid>, String)>);

    fn told(record: &[u8]) -> Result<Told, StoreError> {
        let (mut events, mut acts) = (Vec::new(), Vec::new());
        Decoded::read(record)?.each(
            |event| {
                events.push((event.data.to_owned(), event.task_id.map(str::to_owned)));
                Ok(())
            },
            |act| {
                acts.push((act.id, act.credential, act.reason.into_owned()));
                Ok(())
            },
        )?;
        Ok((events, acts))
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record();
        let encoded = Encoded::of(&[record.clone(), record.clone()]).unwrap();
        assert_eq!(encoded.len(), 2);
        for bytes in encoded.iter() {
            let decoded = Decoded::read(bytes).unwrap();
            assert_eq!((decoded.id, decoded.created_at), (record.execution.id.0, record.execution.created_at));
            assert_eq!(decoded.execution[PRINCIPAL], Cell::Text("nul \u{FFFD} and ü"));
            assert_eq!(decoded.execution[executions::place("attempts")], Cell::Int(2));
            assert_eq!(decoded.execution[executions::place("params")], Cell::Text("{\"id\": 1}"));
            assert_eq!(decoded.execution[executions::place("task_id")], Cell::Null);
            let (events, acts) = told(bytes).unwrap();
            let data = record.events[0].data.get().to_owned();
            assert_eq!(events, [(data.clone(), None), (data, Some("t".to_owned()))]);
            let (use_of, login) = (Uuid::from_u128(8), Uuid::from_u128(10));
            assert_eq!(
                acts,
                [
                    (use_of, Some(Uuid::from_u128(9)), "execute getPet".to_owned()),
                    (login, None, "login getPet".to_owned())
                ]
            );
        }
    }

    #[test]
    fn a_record_that_is_cut_or_damaged_is_refused_and_never_more_than_read() {
        let encoded = Encoded::of(&[record()]).unwrap();
        let bytes = encoded.iter().next().unwrap();
        for length in 0..bytes.len() {
            assert!(Decoded::check(&bytes[..length]).is_err(), "{length} bytes");
        }
        for place in 0..bytes.len() {
            for value in [0, 1, 2, 3, 4, 0x7F, 0xFF] {
                let mut damaged = bytes.to_vec();
                damaged[place] = value;
                // Whatever it says, it ends.
                let _ = Decoded::check(&damaged);
            }
        }
    }

    #[test]
    fn what_is_too_long_for_the_spool_leaves_nothing_behind() {
        let mut long = record();
        long.params = Some("x".repeat(MAX_ENTRY).into());
        let mut encoded = Encoded::default();
        assert!(encoded.push_for_spool(&record()));
        let before = encoded.iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert!(!encoded.push_for_spool(&long));
        assert_eq!(encoded.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), before);
    }
}
