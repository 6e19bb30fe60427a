//! The chain over the audit's rows. Each row has the next sequence number and the keyed hash
//! of the row before it and of what it says itself, so that a row that is changed, removed,
//! added or moved shows. The key is sealed under the master key: who can write the database
//! and has no master key cannot make a hash.
//!
//! Rows lie in the partition of the day in which they are committed, and never in an older one
//! than the row before, so that retention takes the chain's beginning and nothing else. The
//! last row that it took is the anchor.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use super::row::COLUMNS;
use crate::batch::{Cells, Rows};
use crate::database::{Database, Moved, Tx};
use crate::error::StoreError;
use crate::partitions::{Day, Log, Partition, rows_or_dropped};
use crate::sql::{Backend, Query, Row};
use crate::vault::{Sealed, Vault};

pub(crate) type Hash = [u8; 32];

const KEY_OWNER: &[&[u8]] = &[b"audit chain"];
/// Goes before what a hash is made of: a hash proves one kind of thing only.
const OF_ROW: u8 = 1;
const OF_ANCHOR: u8 = 2;

/// A row's place in the chain: its sequence number and its hash. The text of the newest row's
/// is what to keep elsewhere: `1042:9f86d08…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// 0 before the first row.
    pub sequence: i64,
    pub hash: Hash,
}

impl AuditHead {
    const NONE: Self = Self { sequence: 0, hash: [0; 32] };

    pub(crate) fn from_row(row: &Row, column: usize) -> Result<Self, StoreError> {
        let hash = row.bytes(column + 1)?;
        let hash = hash.try_into().map_err(|_| StoreError::corrupt("hash of the audit", "it has another length"))?;
        Ok(Self { sequence: row.int(column)?, hash })
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, hexadecimal(&self.hash))
    }
}

/// The text is no head such as `1042:9f86d08…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a sequence number and 64 hexadecimal digits, such as 1042:9f86…")]
pub struct InvalidHead;

impl FromStr for AuditHead {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (sequence, digits) = text.trim().split_once(':').ok_or(InvalidHead)?;
        let sequence = sequence.parse().ok().filter(|sequence| *sequence >= 0).ok_or(InvalidHead)?;
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(InvalidHead);
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            let pair = digits.get(2 * index..2 * index + 2).ok_or(InvalidHead)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidHead)?;
        }
        Ok(Self { sequence, hash })
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of all hashes.
#[derive(Debug)]
pub(crate) struct ChainKey(hmac::Key);

impl ChainKey {
    fn hash(&self, bytes: &[u8]) -> Hash {
        hmac::sign(&self.0, bytes).as_ref().try_into().unwrap_or_default()
    }

    /// Proves that the rows up to here were dropped by retention.
    pub(super) fn anchor_code(&self, anchor: AuditHead) -> Hash {
        let mut bytes = vec![OF_ANCHOR];
        bytes.extend_from_slice(&anchor.sequence.to_be_bytes());
        bytes.extend_from_slice(&anchor.hash);
        self.hash(&bytes)
    }

    /// The hash of a stored row in a place after `previous`.
    pub(super) fn hash_stored(&self, previous: Hash, sequence: i64, row: &Row) -> Result<Hash, StoreError> {
        let mut bytes = Vec::new();
        begin(&mut bytes, previous, sequence);
        super::row::write_stored(&mut Hashed { cells: &mut Nowhere, bytes: &mut bytes }, row)?;
        Ok(self.hash(&bytes))
    }
}

fn begin(bytes: &mut Vec<u8>, previous: Hash, sequence: i64) {
    bytes.clear();
    bytes.push(OF_ROW);
    bytes.extend_from_slice(&previous);
    bytes.extend_from_slice(&sequence.to_be_bytes());
}

/// The end of the chain while rows are added to it.
pub(crate) struct Chain<'k> {
    key: &'k ChainKey,
    pub(crate) head: AuditHead,
    bytes: Vec<u8>,
}

impl<'k> Chain<'k> {
    pub(crate) fn new(key: &'k ChainKey, head: AuditHead) -> Self {
        Self { key, head, bytes: Vec::with_capacity(512) }
    }

    /// Writes the next row: what `write` says of it, its sequence number and its hash.
    pub(crate) fn append<C: Cells>(&mut self, cells: &mut C, write: impl FnOnce(&mut Hashed<'_, C>)) {
        let sequence = self.head.sequence + 1;
        begin(&mut self.bytes, self.head.hash, sequence);
        write(&mut Hashed { cells, bytes: &mut self.bytes });
        self.head = AuditHead { sequence, hash: self.key.hash(&self.bytes) };
        cells.int(sequence);
        cells.bytes(&self.head.hash);
    }
}

/// Writes cells, and beside them what the hash is made of: each with its kind and length, so
/// that no two rows have the same bytes.
pub(crate) struct Hashed<'a, C> {
    cells: &'a mut C,
    bytes: &'a mut Vec<u8>,
}

impl<C> Hashed<'_, C> {
    fn add(&mut self, kind: u8, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else { return self.bytes.push(0) };
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }
}

impl<C: Cells> Cells for Hashed<'_, C> {
    fn text(&mut self, text: &str) {
        self.add(1, Some(crate::sql::without_nul(text).as_bytes()));
        self.cells.text(text);
    }

    fn opt_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => {
                self.add(1, None);
                self.cells.opt_text(None);
            }
        }
    }

    fn opt_int(&mut self, number: Option<i64>) {
        self.add(2, number.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        self.cells.opt_int(number);
    }

    fn opt_bytes(&mut self, bytes: Option<&[u8]>) {
        self.add(3, bytes);
        self.cells.opt_bytes(bytes);
    }
}

struct Nowhere;

impl Cells for Nowhere {
    fn text(&mut self, _: &str) {}
    fn opt_text(&mut self, _: Option<&str>) {}
    fn opt_int(&mut self, _: Option<i64>) {}
    fn opt_bytes(&mut self, _: Option<&[u8]>) {}
}

/// What a process knows of the chain.
#[derive(Debug, Default)]
pub(crate) struct AuditChain {
    key: OnceLock<ChainKey>,
    /// On SQLite: the newest day that is known to have rows.
    newest_day: AtomicI64,
}

impl AuditChain {
    pub(crate) fn key(&self) -> Result<&ChainKey, StoreError> {
        self.key.get().ok_or(StoreError::Closed)
    }

    /// The day whose partition takes the next row: today's, or a later one that has rows.
    pub(crate) fn day_of_next(&self, today: Day) -> Day {
        let newest = self.newest_day.fetch_max(today.number(), Ordering::Relaxed);
        today.max(Day::from_number(newest))
    }
}

impl Database {
    /// Opens the key of the chain; makes it in a new database.
    pub(crate) async fn open_audit_chain(self: &Arc<Self>, vault: &Vault) -> Result<(), StoreError> {
        let sealed = match self.sealed_audit_key().await? {
            Some(sealed) => sealed,
            None => {
                self.make_audit_key(vault).await?;
                // Another process may have been faster.
                self.sealed_audit_key().await?.ok_or(StoreError::NotFound)?
            }
        };
        let key = vault.open(&sealed, KEY_OWNER).await?;
        let key = ChainKey(hmac::Key::new(hmac::HMAC_SHA256, &key));
        self.audit_chain.key.get_or_init(|| key);
        let mut day = Day::MAX;
        while let Some(partition) = self.partitions.newest(Log::Audit, day) {
            if !rows_or_dropped(newest_row(partition).fetch_all(&self.pool).await)?.is_empty() {
                self.audit_chain.newest_day.store(partition.day.number(), Ordering::Relaxed);
                break;
            }
            day = partition.day.before();
        }
        Ok(())
    }

    async fn sealed_audit_key(&self) -> Result<Option<Sealed>, StoreError> {
        let row = Query::new(
            "select secret_id, key_id, wrapped_key, sealed from audit_chain where name = 'audit' and sealed is not null",
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(Sealed::from_row(row.uuid(0)?, row.text(1)?, row.bytes(2)?, row.bytes(3)?))).transpose()
    }

    async fn make_audit_key(self: &Arc<Self>, vault: &Vault) -> Result<(), StoreError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        rand::fill(key.as_mut_slice()).map_err(|_| StoreError::Config("no random bytes are to be had".to_owned()))?;
        let sealed = vault.seal(self.ids.next(), KEY_OWNER, key.as_slice()).await?;
        let code = ChainKey(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())).anchor_code(AuditHead::NONE);
        self.write(move |tx| {
            Box::pin(async move {
                Query::new(
                    "update audit_chain set secret_id = $1, key_id = $2, wrapped_key = $3, sealed = $4, anchor_code = $5
                     where name = 'audit' and sealed is null",
                )
                .bind(sealed.secret_id)
                .bind(sealed.key_id)
                .bind(sealed.wrapped_key)
                .bind(sealed.sealed)
                .bind(code.to_vec())
                .execute(&mut tx.connection)
                .await
                .map(drop)
            })
        })
        .await
    }
}

/// The newest row's place in the chain.
pub(crate) const NEWEST_ROW: &str = "order by sequence desc limit 1";
/// The place of the row before the first that is kept.
pub(crate) const ANCHOR: &str = "select anchor_sequence, anchor_hash from audit_chain where name = 'audit'";

pub(super) fn newest_row(partition: Partition) -> Query {
    Query::built(format!("select sequence, hash from {} {NEWEST_ROW}", partition.table()), Vec::new())
}

impl Tx {
    /// Appends rows to the chain, as the last that a transaction does: it takes the lock of the
    /// chain, and from then on must wait for nothing.
    pub(crate) async fn append_to_chain(
        &mut self,
        fill: impl FnOnce(&mut Chain<'_>, &mut Rows) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let db = Arc::clone(&self.db);
        let (head, partition) = self.lock_chain().await?;
        let mut chain = Chain::new(db.audit_chain.key()?, head);
        let backend = self.connection.backend();
        let mut rows = Rows::of(backend, COLUMNS);
        fill(&mut chain, &mut rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        self.audited_rows += u64::try_from(chain.head.sequence - head.sequence).unwrap_or(0);
        let insert = rows.insert(&partition.table(), COLUMNS, "");
        self.audit_end = Some(Moved::after(self.audit_end, head, chain.head));
        let query = match backend {
            Backend::Sqlite => {
                let text = rows.with() + &insert;
                rows.query(text)
            }
            Backend::Postgres => {
                let first = rows.args() + 1;
                let text = format!(
                    "with {}, written as ({insert}) update audit_chain set head_sequence = ${first}, \
                     head_hash = ${}, head_day = ${} where name = 'audit'",
                    rows.named("r", 1),
                    first + 1,
                    first + 2
                );
                let head = chain.head;
                rows.query(text).bind(head.sequence).bind(head.hash.to_vec()).bind(partition.day.number())
            }
        };
        query.execute(&mut self.connection).await.map(drop)
    }

    /// Where the chain ends, and the partition of the next row.
    async fn lock_chain(&mut self) -> Result<(AuditHead, Partition), StoreError> {
        let today = Day::of(self.db.clock.now());
        if self.connection.backend() == Backend::Postgres {
            // Before the lock, since making a table may have to wait for another process.
            self.ensure_partition(Partition { log: Log::Audit, day: today }).await?;
            let text = "select head_sequence, head_hash, head_day from audit_chain where name = 'audit' for update";
            let row = Query::new(text).fetch_one(&mut self.connection).await?;
            let newest = Day::from_number(row.int(2)?);
            return Ok((AuditHead::from_row(&row, 0)?, Partition { log: Log::Audit, day: today.max(newest) }));
        }
        let partition = Partition { log: Log::Audit, day: self.db.audit_chain.day_of_next(today) };
        self.ensure_partition(partition).await?;
        // A partition that this transaction made is empty, and not among the known.
        Ok((self.newest_audit_row(partition.day).await?, partition))
    }

    /// The newest row of this day or an older one.
    pub(super) async fn newest_audit_row(&mut self, mut day: Day) -> Result<AuditHead, StoreError> {
        while let Some(partition) = self.db.partitions.newest(Log::Audit, day) {
            let rows = newest_row(partition).fetch_all(&mut self.connection).await;
            if let Some(row) = rows_or_dropped(rows)?.first() {
                return AuditHead::from_row(row, 0);
            }
            day = partition.day.before();
        }
        AuditHead::from_row(&Query::new(ANCHOR).fetch_one(&mut self.connection).await?, 0)
    }

    /// Whether the chain goes through this place.
    pub(super) async fn has_audit_row(&mut self, place: AuditHead) -> Result<bool, StoreError> {
        let anchor = AuditHead::from_row(&Query::new(ANCHOR).fetch_one(&mut self.connection).await?, 0)?;
        if place.sequence <= anchor.sequence {
            return Ok(true);
        }
        let mut day = Day::MAX;
        while let Some(partition) = self.db.partitions.newest(Log::Audit, day) {
            let text = format!("select sequence, hash from {} where sequence = $1", partition.table());
            let rows = Query::built(text, vec![place.sequence.into()]).fetch_all(&mut self.connection).await;
            if let Some(row) = rows_or_dropped(rows)?.first() {
                return Ok(AuditHead::from_row(row, 0)? == place);
            }
            day = partition.day.before();
        }
        Ok(false)
    }

    /// Moves the anchor to the last row of a partition that is about to go.
    pub(crate) async fn anchor_audit_after(&mut self, partition: Partition) -> Result<(), StoreError> {
        let Some(row) = newest_row(partition).fetch_optional(&mut self.connection).await? else { return Ok(()) };
        let anchor = AuditHead::from_row(&row, 0)?;
        let code = self.db.audit_chain.key()?.anchor_code(anchor);
        Query::new(
            "update audit_chain set anchor_sequence = $1, anchor_hash = $2, anchor_code = $3
             where name = 'audit' and anchor_sequence < $1",
        )
        .bind(anchor.sequence)
        .bind(anchor.hash.to_vec())
        .bind(code.to_vec())
        .execute(&mut self.connection)
        .await
        .map(drop)
    }
}
