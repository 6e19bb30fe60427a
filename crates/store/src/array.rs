//! Many values on their way to PostgreSQL, in the binary format of its arrays: columns of values,
//! or whole rows, which the database takes apart at less cost. Each value is written where it is
//! sent from. Must not know any table.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::batch::Kind;

impl Kind {
    /// PostgreSQL's own number of the type.
    const fn oid(self) -> u32 {
        match self {
            Self::Bytes => 17,
            Self::Int => 20,
            Self::Text => 25,
        }
    }
}

/// Adds a value with its length before it.
fn push_sized(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    const NULL: i32 = -1;
    // The database takes no value of more than 1 GB, and refuses what this makes of one.
    let length = value.map_or(NULL, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// The bytes of an array but for its elements.
fn head(has_null: bool, element: u32, count: i32) -> impl Iterator<Item = u8> {
    const DIMENSIONS: i32 = 1;
    const FIRST_INDEX: i32 = 1;
    [
        DIMENSIONS.to_be_bytes(),
        i32::from(has_null).to_be_bytes(),
        element.to_be_bytes(),
        count.to_be_bytes(),
        FIRST_INDEX.to_be_bytes(),
    ]
    .into_iter()
    .flatten()
}

/// How long the head of an array is.
const HEAD_BYTES: usize = 20;

/// A column of values.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    kind: Kind,
    count: i32,
    has_null: bool,
    /// The length of each value, then the value.
    values: Vec<u8>,
}

impl Array {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, count: 0, has_null: false, values: Vec::new() }
    }

    /// Adds a text in UTF-8, the eight bytes of a number, or bytes.
    pub(crate) fn push(&mut self, value: Option<&[u8]>) {
        self.count += 1;
        self.has_null |= value.is_none();
        push_sized(&mut self.values, value);
    }
}

impl Type<Postgres> for Array {
    /// That of texts; each array tells its own.
    fn type_info() -> PgTypeInfo {
        <[String] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Array {
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self.kind {
            Kind::Text => <[String] as Type<Postgres>>::type_info(),
            Kind::Int => <[i64] as Type<Postgres>>::type_info(),
            Kind::Bytes => <[Vec<u8>] as Type<Postgres>>::type_info(),
        })
    }

    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(head(self.has_null, self.kind.oid(), self.count));
        buffer.extend_from_slice(&self.values);
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        HEAD_BYTES + self.values.len()
    }
}

/// A type of rows in a database: its number differs from one to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowType {
    pub(crate) name: &'static str,
    pub(crate) row: Oid,
    pub(crate) array: Oid,
}

/// An array of rows of one type.
#[derive(Debug, Clone)]
pub(crate) struct RowArray {
    pub(crate) of: RowType,
    columns: usize,
    count: i32,
    /// The length of each row, the number of its columns, then type, length and value of each.
    rows: Vec<u8>,
    /// Where the last row begins.
    begin: usize,
}

impl RowArray {
    pub(crate) fn new(of: RowType, columns: usize) -> Self {
        Self { of, columns, count: 0, rows: Vec::new(), begin: 0 }
    }

    pub(crate) fn begin_row(&mut self) {
        self.count += 1;
        self.rows.extend_from_slice(&[0; 4]);
        self.begin = self.rows.len();
        self.rows.extend_from_slice(&i32::try_from(self.columns).unwrap_or(i32::MAX).to_be_bytes());
    }

    /// Adds the next value of the row, as [`Array::push`] does.
    pub(crate) fn push(&mut self, kind: Kind, value: Option<&[u8]>) {
        self.rows.extend_from_slice(&kind.oid().to_be_bytes());
        push_sized(&mut self.rows, value);
    }

    pub(crate) fn end_row(&mut self) {
        let length = i32::try_from(self.rows.len() - self.begin).unwrap_or(i32::MAX);
        self.rows[self.begin - 4..self.begin].copy_from_slice(&length.to_be_bytes());
    }
}

impl Type<Postgres> for RowArray {
    /// That of texts; each array tells its own.
    fn type_info() -> PgTypeInfo {
        <[String] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for RowArray {
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.of.array))
    }

    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(head(false, self.of.row.0, self.count));
        buffer.extend_from_slice(&self.rows);
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        HEAD_BYTES + self.rows.len()
    }
}
