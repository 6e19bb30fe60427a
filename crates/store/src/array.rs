//! A column of values on their way to PostgreSQL, in the binary format of its arrays: each value
//! is written where it is sent from. Must not know any table.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::batch::Kind;

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
        const NULL: i32 = -1;
        self.count += 1;
        self.has_null |= value.is_none();
        // The database takes no value of more than 1 GB, and refuses what this makes of one.
        let length = value.map_or(NULL, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.values.extend_from_slice(&length.to_be_bytes());
        self.values.extend_from_slice(value.unwrap_or_default());
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
        const DIMENSIONS: i32 = 1;
        const FIRST_INDEX: i32 = 1;
        // PostgreSQL's own numbers of its types bytea, bigint and text.
        let element: i32 = match self.kind {
            Kind::Bytes => 17,
            Kind::Int => 20,
            Kind::Text => 25,
        };
        for number in [DIMENSIONS, i32::from(self.has_null), element, self.count, FIRST_INDEX] {
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        buffer.extend_from_slice(&self.values);
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        self.values.len() + 20
    }
}
