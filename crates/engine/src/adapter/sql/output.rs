//! Rows on their way to an answer: JSON text, within its limits.

use super::spec::{Limits, Shape};
use crate::adapter::{CallError, Effect};
use integration_model::ErrorCode;

/// What one statement gave.
#[derive(Debug)]
pub(super) struct RowSet {
    shape: Shape,
    text: Vec<u8>,
    rows: usize,
    truncated: bool,
    /// How many rows the statement changed, as the database says.
    pub(super) affected: u64,
}

/// What is left for the answer of one call.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    bytes: usize,
}

/// The names of a result's columns, as they stand in each row.
pub(super) struct Columns(Vec<String>);

/// Whether more rows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Wanted,
    Full,
}

impl Columns {
    /// The error is a name that stands for two columns.
    pub(super) fn new(names: impl Iterator<Item = impl Into<String>>) -> Result<Self, CallError> {
        let mut keys: Vec<String> = Vec::new();
        for name in names {
            let name = serde_json::Value::String(name.into());
            let key = format!("{name}:");
            if keys.contains(&key) {
                let message = format!("two columns of the result are named {name}: give one another name with AS");
                return Err(answered(message));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, bytes: limits.bytes }
    }
}

impl RowSet {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, text: Vec::new(), rows: 0, truncated: false, affected: 0 }
    }

    /// The most rows that are asked for: one more than are taken, so that it shows whether
    /// there are more.
    pub(super) fn rows_asked_for(&self, room: &Room) -> usize {
        match self.shape {
            Shape::Rows => room.limits.rows.saturating_add(1),
            Shape::First | Shape::Scalar | Shape::None => 1,
        }
    }

    /// Takes a row, whose values are written one by one. Says where there is no room for it.
    pub(super) fn push(
        &mut self,
        room: &mut Room,
        columns: &Columns,
        mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), CallError>,
    ) -> Result<More, CallError> {
        match self.shape {
            Shape::None => return Ok(More::Full),
            Shape::First | Shape::Scalar if self.rows == 1 => return Ok(More::Full),
            Shape::Rows if self.rows >= room.limits.rows => return self.full(room, "maxRows", room.limits.rows),
            _ => {}
        }
        let start = self.text.len();
        if self.rows > 0 {
            self.text.push(b',');
        }
        if self.shape == Shape::Scalar {
            if !columns.0.is_empty() {
                write(0, &mut self.text)?;
            }
        } else {
            self.text.push(b'{');
            for (index, key) in columns.0.iter().enumerate() {
                if index > 0 {
                    self.text.push(b',');
                }
                self.text.extend_from_slice(key.as_bytes());
                write(index, &mut self.text)?;
                if self.text.len() - start > room.bytes {
                    break;
                }
            }
            self.text.push(b'}');
        }
        let length = self.text.len() - start;
        if length > room.bytes {
            self.text.truncate(start);
            // Half of a single value would be no answer.
            if self.shape != Shape::Rows {
                return Err(too_large("maxBytes", room.limits.bytes));
            }
            return self.full(room, "maxBytes", room.limits.bytes);
        }
        room.bytes -= length;
        self.rows += 1;
        Ok(if self.shape == Shape::Rows { More::Wanted } else { More::Full })
    }

    /// How many rows more will fit, as large as those so far.
    pub(super) fn rows_that_fit(&self, room: &Room) -> usize {
        let average = self.text.len() / self.rows.max(1);
        let left = self.rows_asked_for(room).saturating_sub(self.rows);
        (room.bytes / average.max(1) + 1).min(left)
    }

    fn full(&mut self, room: &Room, limit: &str, value: usize) -> Result<More, CallError> {
        if room.limits.fail {
            return Err(too_large(limit, value));
        }
        self.truncated = true;
        Ok(More::Full)
    }

    /// The statement's part of the answer.
    pub(super) fn write(self, tells_affected: bool, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Rows => {
                out.extend_from_slice(b"{\"rows\":[");
                out.extend_from_slice(&self.text);
                let counts = format!("],\"rowCount\":{},\"truncated\":{}", self.rows, self.truncated);
                out.extend_from_slice(counts.as_bytes());
                if tells_affected {
                    out.extend_from_slice(format!(",\"affectedRows\":{}", self.affected).as_bytes());
                }
                out.push(b'}');
            }
            Shape::First | Shape::Scalar if self.text.is_empty() => out.extend_from_slice(b"null"),
            Shape::First | Shape::Scalar => out.extend_from_slice(&self.text),
            Shape::None => out.extend_from_slice(format!("{{\"affectedRows\":{}}}", self.affected).as_bytes()),
        }
    }
}

fn too_large(limit: &str, value: usize) -> CallError {
    answered(format!("the answer is larger than {limit}, {value}: nothing of it was kept"))
}

/// An error of an answer that came and cannot be used.
pub(super) fn answered(message: impl Into<String>) -> CallError {
    CallError { effect: Effect::Answered, ..CallError::not_sent(ErrorCode::Upstream, message) }
}

/// Appends a JSON string.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    // A Vec takes everything, and a string is always JSON.
    let _ = serde_json::to_writer(out, text);
}

/// Appends an integer: a string where a JSON number would lose digits on its way.
pub(super) fn write_integer(out: &mut Vec<u8>, value: i64) {
    if value.unsigned_abs() <= super::value::MAX_SAFE_INTEGER {
        out.extend_from_slice(value.to_string().as_bytes());
    } else {
        write_text(out, &value.to_string());
    }
}

/// Appends a floating-point number; what JSON has no number for is a string.
pub(super) fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    }
}

/// Appends JSON that a database gave; false where it is none.
pub(super) fn write_json(out: &mut Vec<u8>, text: &str) -> bool {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(raw) => {
            out.extend_from_slice(raw.get().as_bytes());
            true
        }
        Err(_) => false,
    }
}
