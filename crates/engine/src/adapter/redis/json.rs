//! Replies as JSON, without loss.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::resp::Reply;
use super::spec::ResultEncoding;

use crate::adapter::server::json::{write_float, write_integer, write_json, write_text};

/// Why a reply has no JSON in this encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("a string of the reply is no UTF-8 text: resultEncoding base64 gives its bytes")]
    Text,
    #[error("a string of the reply is not JSON, which resultEncoding says")]
    Json,
}

/// Appends a reply as JSON. Errors are for who asked: they are null here.
pub(super) fn write(out: &mut Vec<u8>, reply: &Reply, encoding: ResultEncoding) -> Result<(), Unfit> {
    match reply {
        Reply::Nil | Reply::Error(_) => out.extend_from_slice(b"null"),
        Reply::Integer(value) => write_integer(out, *value),
        Reply::Double(value) => write_float(out, *value),
        Reply::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Reply::BigNumber(digits) => write_text(out, std::str::from_utf8(digits).map_err(|_| Unfit::Text)?),
        Reply::Simple(text) => write_text(out, &String::from_utf8_lossy(text)),
        Reply::Bulk(bytes) => write_string(out, bytes, encoding)?,
        Reply::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, item, encoding)?;
            }
            out.push(b']');
        }
        Reply::Map(items) => write_map(out, items, encoding)?,
    }
    Ok(())
}

/// A map as an object; as a list of pairs where a key is no text, or is there twice.
fn write_map(out: &mut Vec<u8>, items: &[Reply], encoding: ResultEncoding) -> Result<(), Unfit> {
    let pairs = || items.chunks_exact(2);
    let names: Option<HashSet<&str>> = pairs()
        .map(|pair| match &pair[0] {
            Reply::Bulk(bytes) | Reply::Simple(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
        .collect();
    // The bytes of a name may be no text in the next reply: base64 is for all of them.
    let is_object = encoding != ResultEncoding::Base64 && names.is_some_and(|names| names.len() * 2 == items.len());
    out.push(if is_object { b'{' } else { b'[' });
    for (index, pair) in pairs().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let [key, value] = pair else { continue };
        if is_object {
            write(out, key, ResultEncoding::Text)?;
            out.push(b':');
            write(out, value, encoding)?;
        } else {
            out.push(b'[');
            // A key is text, also where values are JSON.
            let of_key = if encoding == ResultEncoding::Json { ResultEncoding::Text } else { encoding };
            write(out, key, of_key)?;
            out.push(b',');
            write(out, value, encoding)?;
            out.push(b']');
        }
    }
    out.push(if is_object { b'}' } else { b']' });
    Ok(())
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8], encoding: ResultEncoding) -> Result<(), Unfit> {
    match encoding {
        ResultEncoding::Base64 => write_text(out, &STANDARD.encode(bytes)),
        ResultEncoding::Text => write_text(out, std::str::from_utf8(bytes).map_err(|_| Unfit::Text)?),
        ResultEncoding::Json => {
            let text = std::str::from_utf8(bytes).map_err(|_| Unfit::Json)?;
            if !write_json(out, text) {
                return Err(Unfit::Json);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(reply: &Reply, encoding: ResultEncoding) -> Result<String, Unfit> {
        let mut out = Vec::new();
        write(&mut out, reply, encoding)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    fn bulk(bytes: &'static [u8]) -> Reply {
        Reply::Bulk(Bytes::from_static(bytes))
    }

    #[test]
    fn nothing_is_lost() {
        for (reply, expected) in [
            (Reply::Nil, "null"),
            (Reply::Integer(9_007_199_254_740_992), "9007199254740992"),
            (Reply::Integer(-9_007_199_254_740_993), "\"-9007199254740993\""),
            (Reply::BigNumber(Bytes::from_static(b"12345678901234567890")), "\"12345678901234567890\""),
            (Reply::Double(0.1), "0.1"),
            (Reply::Double(f64::NEG_INFINITY), "\"-Infinity\""),
            (Reply::Boolean(true), "true"),
            (bulk(b"a\"\n\x00"), r#""a\"\n\u0000""#),
            (Reply::Array(vec![Reply::Nil, Reply::Array(vec![])]), "[null,[]]"),
            (Reply::Map(vec![bulk(b"a"), Reply::Integer(1), bulk(b"b"), Reply::Nil]), r#"{"a":1,"b":null}"#),
            (Reply::Map(vec![bulk(b"a"), bulk(b"x"), bulk(b"a"), bulk(b"y")]), r#"[["a","x"],["a","y"]]"#),
            (Reply::Map(vec![Reply::Integer(1), bulk(b"x")]), r#"[[1,"x"]]"#),
            (Reply::Map(vec![]), "{}"),
        ] {
            assert_eq!(json(&reply, ResultEncoding::Text).as_deref(), Ok(expected), "{reply:?}");
        }
    }

    #[test]
    fn strings_are_text_bytes_or_json() {
        let binary = bulk(b"\xff\x00");
        assert_eq!(json(&binary, ResultEncoding::Text), Err(Unfit::Text));
        assert_eq!(json(&binary, ResultEncoding::Base64).as_deref(), Ok("\"/wA=\""));
        let document = Reply::Map(vec![bulk(b"a"), bulk(b"{\"n\": 1.10}")]);
        assert_eq!(json(&document, ResultEncoding::Json).as_deref(), Ok(r#"{"a":{"n": 1.10}}"#));
        assert_eq!(json(&document, ResultEncoding::Base64).as_deref(), Ok(r#"[["YQ==","eyJuIjogMS4xMH0="]]"#));
        assert_eq!(json(&bulk(b"nope"), ResultEncoding::Json), Err(Unfit::Json));
    }
}
