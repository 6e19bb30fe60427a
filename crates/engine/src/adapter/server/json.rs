//! Values of servers as JSON text, without loss.

/// The integers that JSON numbers carry safely.
pub(in crate::adapter) const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Appends a JSON string.
pub(in crate::adapter) fn write_text(out: &mut Vec<u8>, text: &str) {
    // A Vec takes everything, and a string is always JSON.
    let _ = serde_json::to_writer(out, text);
}

/// Appends an integer: a string where a JSON number would lose digits on its way.
pub(in crate::adapter) fn write_integer(out: &mut Vec<u8>, value: i64) {
    if value.unsigned_abs() <= MAX_SAFE_INTEGER {
        out.extend_from_slice(value.to_string().as_bytes());
    } else {
        write_text(out, &value.to_string());
    }
}

/// Appends a floating-point number; what JSON has no number for is a string.
pub(in crate::adapter) fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    }
}

/// Appends JSON that a server gave; false where it is none.
pub(in crate::adapter) fn write_json(out: &mut Vec<u8>, text: &str) -> bool {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(raw) => {
            out.extend_from_slice(raw.get().as_bytes());
            true
        }
        Err(_) => false,
    }
}
