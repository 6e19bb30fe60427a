//! Many rows in one statement: rows go in as one JSON array of arrays, and both databases
//! read their cells from it. Must not know any table.

use std::fmt::Write as _;

use serde::Serialize;
use uuid::Uuid;

use crate::sql::{Arg, Backend, Query, without_nul};

/// What a cell holds in the database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Int,
    /// Hexadecimal on the way.
    Bytes,
}

/// A column that a batch fills; its cells stand in the rows in the order of the columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// Builds the JSON text of a batch.
#[derive(Debug)]
pub(crate) struct Rows {
    json: Vec<u8>,
    count: usize,
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
pub(crate) struct JsonCells<'a> {
    json: &'a mut Vec<u8>,
    first: bool,
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self { json: vec![b'['], count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn push(&mut self, fill: impl FnOnce(&mut JsonCells<'_>)) {
        if self.count > 0 {
            self.json.push(b',');
        }
        self.count += 1;
        self.json.push(b'[');
        fill(&mut JsonCells { json: &mut self.json, first: true });
        self.json.push(b']');
    }

    /// Rows of one cell each, with these ids.
    pub(crate) fn of_ids(ids: impl IntoIterator<Item = Uuid>) -> Self {
        let mut rows = Self::new();
        for id in ids {
            rows.push(|cells| cells.bytes(id.as_bytes()));
        }
        rows
    }

    /// The statement over these rows.
    pub(crate) fn query(mut self, text: String) -> Query {
        self.json.push(b']');
        let json = String::from_utf8(self.json).expect("JSON is UTF-8");
        Query::built(text, vec![Arg::Text(Some(json))])
    }
}

impl Cells for JsonCells<'_> {
    fn text(&mut self, text: &str) {
        self.value(&*without_nul(text));
    }

    fn opt_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.value(&()),
        }
    }

    fn opt_int(&mut self, number: Option<i64>) {
        self.value(&number);
    }

    fn opt_bytes(&mut self, bytes: Option<&[u8]>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let Some(bytes) = bytes else { return self.value(&()) };
        self.separate();
        self.json.push(b'"');
        for byte in bytes {
            self.json.push(DIGITS[usize::from(byte >> 4)]);
            self.json.push(DIGITS[usize::from(byte & 0xF)]);
        }
        self.json.push(b'"');
    }
}

impl JsonCells<'_> {
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        self.separate();
        serde_json::to_writer(&mut *self.json, value).expect("texts and numbers are writable as JSON");
    }

    fn separate(&mut self) {
        if !self.first {
            self.json.push(b',');
        }
        self.first = false;
    }
}

/// The beginning of a statement over the rows of a batch, which it names `r`.
pub(crate) fn with_rows(backend: Backend) -> &'static str {
    match backend {
        // Materialised, or SQLite writes each row's text anew for every cell.
        Backend::Sqlite => "with r(v) as materialized (select value from jsonb_each($1)) ",
        Backend::Postgres => "with r(v) as materialized (select value from jsonb_array_elements($1::jsonb)) ",
    }
}

/// The expression of a row's cell.
pub(crate) fn cell(backend: Backend, index: usize, kind: Kind) -> String {
    match (backend, kind) {
        (_, Kind::Text) | (Backend::Sqlite, Kind::Int) => format!("(r.v->>{index})"),
        (Backend::Postgres, Kind::Int) => format!("(r.v->>{index})::bigint"),
        (Backend::Sqlite, Kind::Bytes) => format!("unhex(r.v->>{index})"),
        (Backend::Postgres, Kind::Bytes) => format!("decode(r.v->>{index}, 'hex')"),
    }
}

/// Inserts one row, its cells bound in the order of the columns.
pub(crate) fn insert_row(table: &str, columns: &[Column], on_conflict: &str) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    format!("insert into {table} ({}) values ({marks}) {on_conflict}", names.join(", "))
}

/// Inserts all rows; `on_conflict` may be empty.
pub(crate) fn insert_rows(backend: Backend, table: &str, columns: &[Column], on_conflict: &str) -> String {
    let mut text = format!("{}insert into {table} (", with_rows(backend));
    for (index, column) in columns.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{}", column.name);
    }
    text.push_str(") select ");
    for (index, column) in columns.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}{}", cell(backend, index, column.kind));
    }
    // SQLite needs a where clause to tell "on conflict" from a join.
    let _ = write!(text, " from r where true {on_conflict}");
    text
}

/// The ids of a batch made by [`Rows::of_ids`], as a subquery.
pub(crate) fn select_ids(backend: Backend) -> String {
    format!("(select {} from r)", cell(backend, 0, Kind::Bytes))
}
