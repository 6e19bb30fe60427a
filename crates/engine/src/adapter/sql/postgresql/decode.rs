//! PostgreSQL's binary values as JSON, without loss.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::ToSpan as _;
use jiff::civil;
use tokio_postgres::types::{FromSql, Kind, Type};

use super::super::output::{write_float, write_integer, write_json, write_text};

/// Seconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800;
/// The deepest structure of arrays and records that is read.
const MAX_DEPTH: usize = 8;

/// Why a value has no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// The type is not one of those that are read.
    Type(String),
    /// The bytes are not what the type says.
    Bytes,
    /// Beyond what the answer's form can say.
    Range(&'static str),
}

/// A value as it came.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Decoded = Result<(), Undecodable>;

/// Appends a value's JSON.
pub(super) fn write_value(out: &mut Vec<u8>, kind: &Type, raw: &[u8]) -> Decoded {
    value(out, kind, raw, 0)
}

fn value(out: &mut Vec<u8>, kind: &Type, raw: &[u8], depth: usize) -> Decoded {
    if depth > MAX_DEPTH {
        return Err(Undecodable::Range("a structure this deep"));
    }
    match kind.kind() {
        Kind::Array(item) => return array(out, item, raw, depth),
        Kind::Domain(base) => return value(out, base, raw, depth + 1),
        Kind::Composite(fields) => return composite(out, fields, raw, depth),
        Kind::Enum(_) => return text(out, raw),
        _ => {}
    }
    let mut bytes = Bytes(raw);
    match *kind {
        Type::BOOL => out.extend_from_slice(if bytes.take::<1>()? == [0] { b"false" } else { b"true" }),
        Type::INT2 => write_integer(out, i16::from_be_bytes(bytes.take()?).into()),
        Type::INT4 => write_integer(out, i32::from_be_bytes(bytes.take()?).into()),
        Type::INT8 => write_integer(out, i64::from_be_bytes(bytes.take()?)),
        Type::OID => write_integer(out, u32::from_be_bytes(bytes.take()?).into()),
        Type::FLOAT4 => float4(out, f32::from_be_bytes(bytes.take()?)),
        Type::FLOAT8 => write_float(out, f64::from_be_bytes(bytes.take()?)),
        Type::NUMERIC => write_text(out, &numeric(&mut bytes)?),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN | Type::XML => {
            return text(out, raw);
        }
        Type::BYTEA => {
            write_text(out, &STANDARD.encode(raw));
            return Ok(());
        }
        Type::UUID => write_text(out, &uuid::Uuid::from_bytes(bytes.take()?).hyphenated().to_string()),
        Type::JSON => return json(out, raw),
        Type::JSONB => match raw.split_first() {
            Some((1, raw)) => return json(out, raw),
            _ => return Err(Undecodable::Bytes),
        },
        Type::TIMESTAMP => write_text(out, &timestamp(i64::from_be_bytes(bytes.take()?), false)?),
        Type::TIMESTAMPTZ => write_text(out, &timestamp(i64::from_be_bytes(bytes.take()?), true)?),
        Type::DATE => write_text(out, &date(i32::from_be_bytes(bytes.take()?))?),
        Type::TIME => write_text(out, &time(i64::from_be_bytes(bytes.take()?))?),
        Type::INTERVAL => write_text(out, &interval(&mut bytes)?),
        Type::INET | Type::CIDR => write_text(out, &inet(&mut bytes, *kind == Type::CIDR)?),
        Type::VOID => out.extend_from_slice(b"null"),
        _ if kind.name() == "citext" => return text(out, raw),
        _ => return Err(Undecodable::Type(kind.name().to_owned())),
    }
    bytes.end()
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Undecodable::Bytes)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], Undecodable> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Undecodable::Bytes)?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> Result<i32, Undecodable> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    /// A value with its length before it; none for NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Undecodable> {
        match self.int()? {
            -1 => Ok(None),
            length => self.slice(usize::try_from(length).map_err(|_| Undecodable::Bytes)?).map(Some),
        }
    }

    fn end(&self) -> Decoded {
        if self.0.is_empty() { Ok(()) } else { Err(Undecodable::Bytes) }
    }
}

fn text(out: &mut Vec<u8>, raw: &[u8]) -> Decoded {
    write_text(out, std::str::from_utf8(raw).map_err(|_| Undecodable::Bytes)?);
    Ok(())
}

fn json(out: &mut Vec<u8>, raw: &[u8]) -> Decoded {
    let text = std::str::from_utf8(raw).map_err(|_| Undecodable::Bytes)?;
    if write_json(out, text) { Ok(()) } else { Err(Undecodable::Bytes) }
}

/// The shortest digits that are the same number, not those of a wider one.
fn float4(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else {
        write_float(out, value.into());
    }
}

/// Groups of four decimal digits, how many stand before the point, and how many digits are
/// shown behind it.
fn numeric(bytes: &mut Bytes<'_>) -> Result<String, Undecodable> {
    let count = u16::from_be_bytes(bytes.take()?);
    let weight = i16::from_be_bytes(bytes.take()?);
    let sign = u16::from_be_bytes(bytes.take()?);
    let scale = usize::from(u16::from_be_bytes(bytes.take()?));
    let groups: Vec<u16> = (0..count).map(|_| bytes.take().map(u16::from_be_bytes)).collect::<Result<_, _>>()?;
    let mut text = match sign {
        0x0000 => String::new(),
        0x4000 => "-".to_owned(),
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        _ => return Err(Undecodable::Bytes),
    };
    if groups.iter().any(|group| *group > 9999) {
        return Err(Undecodable::Bytes);
    }
    let group = |place: i32| usize::try_from(place).ok().and_then(|place| groups.get(place)).copied().unwrap_or(0);
    let weight = i32::from(weight);
    // A String takes everything.
    if weight < 0 {
        text.push('0');
    }
    for place in 0..=weight {
        let _ = if place == 0 { write!(text, "{}", group(0)) } else { write!(text, "{:04}", group(place)) };
    }
    if scale > 0 {
        text.push('.');
        let mut fraction = String::with_capacity(scale + 4);
        let mut place = weight + 1;
        // Groups that are left out before the first one are zeros.
        for _ in weight + 1..0 {
            fraction.push_str("0000");
        }
        place = place.max(0);
        while fraction.len() < scale {
            let _ = write!(fraction, "{:04}", group(place));
            place += 1;
        }
        fraction.truncate(scale);
        text.push_str(&fraction);
    }
    Ok(text)
}

fn timestamp(micros: i64, has_zone: bool) -> Result<String, Undecodable> {
    match micros {
        i64::MAX => return Ok("infinity".to_owned()),
        i64::MIN => return Ok("-infinity".to_owned()),
        _ => {}
    }
    let out_of_range = Undecodable::Range("a time of this age");
    let Some(since_1970) = micros.checked_add(EPOCH * 1_000_000) else { return Err(out_of_range) };
    let Ok(at) = jiff::Timestamp::from_microsecond(since_1970) else { return Err(out_of_range) };
    Ok(if has_zone { at.to_string() } else { at.to_string().trim_end_matches('Z').to_owned() })
}

fn date(days: i32) -> Result<String, Undecodable> {
    match days {
        i32::MAX => Ok("infinity".to_owned()),
        i32::MIN => Ok("-infinity".to_owned()),
        _ => civil::date(2000, 1, 1)
            .checked_add(jiff::Span::new().try_days(days).map_err(|_| Undecodable::Range("a date of this age"))?)
            .map(|date| date.to_string())
            .map_err(|_| Undecodable::Range("a date of this age")),
    }
}

fn time(micros: i64) -> Result<String, Undecodable> {
    const DAY: i64 = 86_400_000_000;
    if micros == DAY {
        return Ok("24:00:00".to_owned());
    }
    if !(0..DAY).contains(&micros) {
        return Err(Undecodable::Bytes);
    }
    civil::Time::midnight()
        .checked_add(micros.microseconds())
        .map(|time| time.to_string())
        .map_err(|_| Undecodable::Bytes)
}

/// As in ISO 8601: months, days and time are kept apart, as PostgreSQL keeps them.
fn interval(bytes: &mut Bytes<'_>) -> Result<String, Undecodable> {
    let micros = i64::from_be_bytes(bytes.take()?);
    let days = bytes.int()?;
    let months = bytes.int()?;
    let mut text = String::from("P");
    let (years, months) = (months / 12, months % 12);
    for (count, unit) in [(years, 'Y'), (months, 'M'), (days, 'D')] {
        if count != 0 {
            let _ = write!(text, "{count}{unit}");
        }
    }
    if micros != 0 {
        let sign = if micros < 0 { "-" } else { "" };
        let all = micros.unsigned_abs();
        let (hours, minutes, seconds) = (all / 3_600_000_000, all / 60_000_000 % 60, all / 1_000_000 % 60);
        let fraction = all % 1_000_000;
        text.push('T');
        for (count, unit) in [(hours, 'H'), (minutes, 'M')] {
            if count != 0 {
                let _ = write!(text, "{sign}{count}{unit}");
            }
        }
        if fraction != 0 {
            let digits = format!("{fraction:06}");
            let _ = write!(text, "{sign}{seconds}.{}S", digits.trim_end_matches('0'));
        } else if seconds != 0 {
            let _ = write!(text, "{sign}{seconds}S");
        }
    }
    if text == "P" {
        text.push_str("T0S");
    }
    Ok(text)
}

fn inet(bytes: &mut Bytes<'_>, shows_prefix: bool) -> Result<String, Undecodable> {
    let [family, prefix, _, length] = bytes.take()?;
    let (address, full): (std::net::IpAddr, u8) = match (family, length) {
        (2, 4) => (bytes.take::<4>()?.into(), 32),
        (3, 16) => (bytes.take::<16>()?.into(), 128),
        _ => return Err(Undecodable::Bytes),
    };
    Ok(if shows_prefix || prefix != full { format!("{address}/{prefix}") } else { address.to_string() })
}

fn array(out: &mut Vec<u8>, item: &Type, raw: &[u8], depth: usize) -> Decoded {
    let mut bytes = Bytes(raw);
    let dimensions = usize::try_from(bytes.int()?).map_err(|_| Undecodable::Bytes)?;
    let (_has_nulls, _item_type) = (bytes.int()?, bytes.int()?);
    if dimensions > MAX_DEPTH {
        return Err(Undecodable::Bytes);
    }
    let mut lengths = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        lengths.push(usize::try_from(bytes.int()?).map_err(|_| Undecodable::Bytes)?);
        let _lower_bound = bytes.int()?;
    }
    if lengths.is_empty() {
        out.extend_from_slice(b"[]");
    } else {
        dimension(out, item, &lengths, &mut bytes, depth)?;
    }
    bytes.end()
}

fn dimension(out: &mut Vec<u8>, item: &Type, lengths: &[usize], bytes: &mut Bytes<'_>, depth: usize) -> Decoded {
    let Some((length, inner)) = lengths.split_first() else { return Err(Undecodable::Bytes) };
    out.push(b'[');
    for index in 0..*length {
        if index > 0 {
            out.push(b',');
        }
        if inner.is_empty() {
            nullable(out, item, bytes.value()?, depth)?;
        } else {
            dimension(out, item, inner, bytes, depth)?;
        }
    }
    out.push(b']');
    Ok(())
}

fn nullable(out: &mut Vec<u8>, kind: &Type, raw: Option<&[u8]>, depth: usize) -> Decoded {
    match raw {
        Some(raw) => value(out, kind, raw, depth + 1),
        None => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

fn composite(out: &mut Vec<u8>, fields: &[tokio_postgres::types::Field], raw: &[u8], depth: usize) -> Decoded {
    let mut bytes = Bytes(raw);
    if usize::try_from(bytes.int()?) != Ok(fields.len()) {
        return Err(Undecodable::Bytes);
    }
    out.push(b'{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, field.name());
        out.push(b':');
        let _type = bytes.int()?;
        nullable(out, field.type_(), bytes.value()?, depth)?;
    }
    out.push(b'}');
    bytes.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: &Type, raw: &[u8]) -> Result<String, Undecodable> {
        let mut out = Vec::new();
        write_value(&mut out, kind, raw).map(|()| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn bytes_that_are_not_what_their_type_says_are_refused() {
        for (kind, raw) in [
            (Type::INT4, &[0, 0, 1][..]),
            (Type::INT4, &[0, 0, 0, 1, 0]),
            (Type::BOOL, &[]),
            (Type::UUID, &[1; 15]),
            (Type::TEXT, &[0xff]),
            (Type::JSONB, &[2, b'1']),
            (Type::JSON, b"{"),
            (Type::NUMERIC, &[0, 9, 0, 0, 0, 0, 0, 0]),
            (Type::NUMERIC, &[0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            (Type::INET, &[9, 0, 0, 4, 1, 2, 3, 4]),
            (Type::TIME, &[0xff; 8]),
            // An array of 2^31 - 1 items that are not there, one of a negative length, one of
            // too many dimensions.
            (Type::INT4_ARRAY, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]),
            (Type::INT4_ARRAY, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1]),
            (Type::INT4_ARRAY, &[0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 23]),
        ] {
            assert_eq!(decode(&kind, raw), Err(Undecodable::Bytes), "{kind} {raw:?}");
        }
    }

    #[test]
    fn times_at_the_edges_are_told_or_refused() {
        assert_eq!(decode(&Type::TIMESTAMPTZ, &i64::MAX.to_be_bytes()), Ok("\"infinity\"".into()));
        assert_eq!(decode(&Type::DATE, &i32::MIN.to_be_bytes()), Ok("\"-infinity\"".into()));
        assert!(matches!(decode(&Type::TIMESTAMPTZ, &(i64::MAX - 1).to_be_bytes()), Err(Undecodable::Range(_))));
        assert!(matches!(decode(&Type::DATE, &(i32::MAX - 1).to_be_bytes()), Err(Undecodable::Range(_))));
        assert_eq!(decode(&Type::TIME, &86_400_000_000_i64.to_be_bytes()), Ok("\"24:00:00\"".into()));
    }
}
