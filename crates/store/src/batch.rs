//! Many rows in one statement. To SQLite they go as one JSON array of arrays, to PostgreSQL as an
//! array for each column, which it need not parse, or as one array of rows, where it knows a type
//! of them. The text of a statement is the same for any
//! number of rows. Must not know any table.

use std::fmt::Write as _;

use serde::Serialize;
use uuid::Uuid;

use crate::array::{Array, RowArray, RowType};
use crate::sql::{Arg, Backend, Query, without_nul};

/// What a cell holds in the database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Int,
    /// Hexadecimal on the way to SQLite.
    Bytes,
}

/// A column that a batch fills; its cells stand in the rows in the order of the columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// The rows of a batch, and the texts of statements over them.
#[derive(Debug)]
pub(crate) struct Rows {
    kinds: Vec<Kind>,
    values: Values,
    count: usize,
}

#[derive(Debug)]
enum Values {
    Json(Vec<u8>),
    /// One for each column.
    Arrays(Vec<Array>),
    Rows(RowArray),
}

/// Takes the cells of one row, in the order of its columns.
pub(crate) trait Cells {
    fn text(&mut self, text: &str);
    fn opt_text(&mut self, text: Option<&str>);
    fn opt_int(&mut self, number: Option<i64>);
    fn opt_bytes(&mut self, bytes: Option<&[u8]>);

    fn int(&mut self, number: i64) {
        self.opt_int(Some(number));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.opt_bytes(Some(bytes));
    }
}

/// Builds one row of a batch.
pub(crate) struct RowCells<'a> {
    values: &'a mut Values,
    kinds: &'a [Kind],
    /// Of the next cell.
    column: usize,
}

impl Rows {
    pub(crate) fn new(backend: Backend, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let kinds: Vec<Kind> = kinds.into_iter().collect();
        let values = match backend {
            Backend::Sqlite => Values::Json(vec![b'[']),
            Backend::Postgres => Values::Arrays(kinds.iter().map(|kind| Array::new(*kind)).collect()),
        };
        Self { kinds, values, count: 0 }
    }

    /// Rows that fill these columns.
    pub(crate) fn of(backend: Backend, columns: &[Column]) -> Self {
        Self::new(backend, columns.iter().map(|column| column.kind))
    }

    /// Rows of a type that PostgreSQL has, with these columns.
    pub(crate) fn of_type(row_type: RowType, columns: &[Column]) -> Self {
        let kinds = columns.iter().map(|column| column.kind).collect();
        Self { kinds, values: Values::Rows(RowArray::new(row_type, columns.len())), count: 0 }
    }

    /// Rows of one cell each, with these ids.
    pub(crate) fn of_ids(backend: Backend, ids: impl IntoIterator<Item = Uuid>) -> Self {
        let mut rows = Self::new(backend, [Kind::Bytes]);
        for id in ids {
            rows.push(|cells| cells.bytes(id.as_bytes()));
        }
        rows
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn push(&mut self, fill: impl FnOnce(&mut RowCells<'_>)) {
        match &mut self.values {
            Values::Json(json) => json.extend_from_slice(if self.count > 0 { b",[" } else { b"[" }),
            Values::Rows(rows) => rows.begin_row(),
            Values::Arrays(_) => {}
        }
        fill(&mut RowCells { values: &mut self.values, kinds: &self.kinds, column: 0 });
        match &mut self.values {
            Values::Json(json) => json.push(b']'),
            Values::Rows(rows) => rows.end_row(),
            Values::Arrays(_) => {}
        }
        self.count += 1;
    }

    /// The beginning of a statement over the rows, which it names `r`.
    pub(crate) fn with(&self) -> String {
        format!("with {} ", self.named("r", 1))
    }

    /// The rows under a name, as a part of `with`; `first` is the number of their first argument.
    pub(crate) fn named(&self, name: &str, first: usize) -> String {
        let columns = || self.list(|index, _| format!("c{index}"));
        match &self.values {
            // Materialised, or SQLite writes each row's text anew for every cell.
            Values::Json(_) => format!("{name}(v) as materialized (select value from jsonb_each(${first}))"),
            Values::Arrays(_) => {
                let arrays = self.list(|index, kind| format!("${}::{}[]", first + index, postgres_type(kind)));
                format!("{name}({}) as (select * from unnest({arrays}))", columns())
            }
            Values::Rows(rows) => {
                format!("{name}({}) as (select * from unnest(${first}::{}[]))", columns(), rows.of.name)
            }
        }
    }

    fn list(&self, item: impl Fn(usize, Kind) -> String) -> String {
        let items: Vec<String> = self.kinds.iter().enumerate().map(|(index, kind)| item(index, *kind)).collect();
        items.join(", ")
    }

    /// The expression of a row's cell.
    pub(crate) fn cell(&self, index: usize) -> String {
        match (&self.values, self.kinds.get(index)) {
            (Values::Arrays(_) | Values::Rows(_), _) => format!("r.c{index}"),
            (Values::Json(_), Some(Kind::Bytes)) => format!("unhex(r.v->>{index})"),
            (Values::Json(_), _) => format!("(r.v->>{index})"),
        }
    }

    /// The first cells of all rows, as a subquery.
    pub(crate) fn ids(&self) -> String {
        format!("(select {} from r)", self.cell(0))
    }

    /// Inserts all rows; `on_conflict` may be empty.
    pub(crate) fn insert(&self, table: &str, columns: &[Column], on_conflict: &str) -> String {
        let mut text = format!("insert into {table} ({}) select ", names(columns));
        for index in 0..columns.len() {
            let separator = if index == 0 { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(text, "{separator}{}", self.cell(index));
        }
        // SQLite needs a where clause to tell "on conflict" from a join.
        let _ = write!(text, " from r where true {on_conflict}");
        text
    }

    /// How many arguments the rows are; those of the statement's own come after them.
    pub(crate) fn args(&self) -> usize {
        match &self.values {
            Values::Json(_) | Values::Rows(_) => 1,
            Values::Arrays(arrays) => arrays.len(),
        }
    }

    /// The statement over these rows.
    pub(crate) fn query(self, text: String) -> Query {
        Query::built(text, self.into_args())
    }

    pub(crate) fn into_args(self) -> Vec<Arg> {
        match self.values {
            Values::Json(mut json) => {
                json.push(b']');
                vec![Arg::Text(Some(String::from_utf8(json).expect("JSON is UTF-8")))]
            }
            Values::Arrays(arrays) => arrays.into_iter().map(Arg::Array).collect(),
            Values::Rows(rows) => vec![Arg::Rows(rows)],
        }
    }
}

const fn postgres_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Int => "bigint",
        Kind::Bytes => "bytea",
    }
}

impl Cells for RowCells<'_> {
    fn text(&mut self, text: &str) {
        self.opt_text(Some(text));
    }

    fn opt_text(&mut self, text: Option<&str>) {
        let text = text.map(without_nul);
        match self.place() {
            Place::Json(json) => to_json(json, &text),
            Place::Binary(place) => place.push(text.as_deref().map(str::as_bytes)),
        }
    }

    fn opt_int(&mut self, number: Option<i64>) {
        match self.place() {
            Place::Json(json) => to_json(json, &number),
            Place::Binary(place) => place.push(number.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice)),
        }
    }

    fn opt_bytes(&mut self, bytes: Option<&[u8]>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let json = match self.place() {
            Place::Json(json) => json,
            Place::Binary(place) => return place.push(bytes),
        };
        let Some(bytes) = bytes else { return to_json(json, &()) };
        json.push(b'"');
        for byte in bytes {
            json.push(DIGITS[usize::from(byte >> 4)]);
            json.push(DIGITS[usize::from(byte & 0xF)]);
        }
        json.push(b'"');
    }
}

/// Where a cell goes.
enum Place<'a> {
    Json(&'a mut Vec<u8>),
    Binary(BinaryPlace<'a>),
}

enum BinaryPlace<'a> {
    Column(&'a mut Array),
    Row(&'a mut RowArray, Kind),
}

impl BinaryPlace<'_> {
    fn push(self, value: Option<&[u8]>) {
        match self {
            Self::Column(array) => array.push(value),
            Self::Row(rows, kind) => rows.push(kind, value),
        }
    }
}

impl RowCells<'_> {
    /// That of the next cell.
    fn place(&mut self) -> Place<'_> {
        let column = self.column;
        self.column += 1;
        match self.values {
            Values::Json(json) => {
                if column > 0 {
                    json.push(b',');
                }
                Place::Json(json)
            }
            Values::Arrays(arrays) => Place::Binary(BinaryPlace::Column(&mut arrays[column])),
            Values::Rows(rows) => Place::Binary(BinaryPlace::Row(rows, self.kinds[column])),
        }
    }
}

fn to_json<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("texts and numbers are writable as JSON");
}

/// The names of columns, as a list.
pub(crate) fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// Inserts one row, its cells bound in the order of the columns.
pub(crate) fn insert_row(table: &str, columns: &[Column], on_conflict: &str) -> String {
    let marks = vec!["?"; columns.len()].join(", ");
    format!("insert into {table} ({}) values ({marks}) {on_conflict}", names(columns))
}
