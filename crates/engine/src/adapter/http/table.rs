//! CSV (RFC 4180) to JSON and back: an array of objects, the header row naming the members.
//! What is read is strings; what is written is scalars, structures as JSON text, null as
//! an empty field.

use bytes::Bytes;
use csv::{ReaderBuilder, StringRecord, Writer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::json_text::{self, Json};

/// The most fields that are read from one table.
const MAX_FIELDS: usize = 1_000_000;
const MAX_COLUMNS: usize = 10_000;

pub(super) fn decode(text: &str) -> Result<Value, String> {
    let mut reader = ReaderBuilder::new().from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let columns = reader.headers().map_err(|error| error.to_string())?.clone();
    if columns.len() > MAX_COLUMNS {
        return Err(format!("expected at most {MAX_COLUMNS} columns"));
    }
    let mut rows = Vec::new();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| error.to_string())? {
        if (rows.len() + 1) * columns.len() > MAX_FIELDS {
            return Err(format!("expected at most {MAX_FIELDS} fields"));
        }
        let row: Map<_, _> =
            columns.iter().zip(&record).map(|(column, field)| (column.to_owned(), Value::from(field))).collect();
        rows.push(Value::Object(row));
    }
    Ok(Value::Array(rows))
}

pub(super) fn encode(raw: &RawValue) -> Result<Bytes, String> {
    const EXPECTED: &str = "expected an array of objects, or a string of CSV";
    let rows = match Json::view(raw) {
        Json::Text(text) => return Ok(Bytes::from(text)),
        Json::List(items) => items,
        _ => return Err(EXPECTED.to_owned()),
    };
    let mut columns: Vec<String> = Vec::new();
    let mut table = Vec::with_capacity(rows.len());
    for row in rows {
        let Json::Map(members) = Json::view(row) else { return Err(EXPECTED.to_owned()) };
        for (name, _) in &members {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        if columns.len() > MAX_COLUMNS {
            return Err(format!("expected at most {MAX_COLUMNS} columns"));
        }
        table.push(members);
    }
    if columns.is_empty() {
        return Ok(Bytes::new());
    }
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(&columns).map_err(|error| error.to_string())?;
    for members in table {
        let field = |column: &String| {
            let value = members.iter().rev().find(|(name, _)| name == column);
            value.and_then(|(_, raw)| json_text::text_of(raw)).unwrap_or_default()
        };
        writer.write_record(columns.iter().map(field)).map_err(|error| error.to_string())?;
    }
    writer.into_inner().map(Bytes::from).map_err(|error| error.to_string())
}
