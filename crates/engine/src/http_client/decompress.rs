//! Undoing an answer's `Content-Encoding`, with a limit on what comes out.

use std::io::Read;

use brotli_decompressor::Decompressor;
use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::error::HttpError;

/// The most codings that may be applied over each other.
const MAX_CODINGS: usize = 3;
/// From this size on, a body is decompressed beside the runtime's threads.
const LARGE: usize = 32 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
}

/// Takes the codings that the headers name off the body, and out of the headers. What comes
/// out of any of them is at most `limit` bytes.
pub(super) async fn decompress(headers: &mut HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, HttpError> {
    if !headers.contains_key(header::CONTENT_ENCODING) || body.is_empty() {
        return Ok(body);
    }
    let codings = codings(headers)?;
    if codings.is_empty() {
        return Ok(body);
    }
    let plain = if body.len() < LARGE {
        undo_all(&codings, body, limit)?
    } else {
        let work = tokio::task::spawn_blocking(move || undo_all(&codings, body, limit));
        work.await.map_err(|_| malformed("its decompression was interrupted"))??
    };
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    Ok(plain)
}

/// The codings in the order in which they were applied.
fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, HttpError> {
    let mut codings = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| malformed("its content encoding is not readable"))?;
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.to_ascii_lowercase().as_str() {
                "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" => codings.push(Coding::Deflate),
                "br" => codings.push(Coding::Brotli),
                _ => return Err(malformed("its content encoding is none of gzip, deflate and br")),
            }
            if codings.len() > MAX_CODINGS {
                return Err(malformed("it has too many content encodings"));
            }
        }
    }
    Ok(codings)
}

fn undo_all(codings: &[Coding], body: Bytes, limit: usize) -> Result<Bytes, HttpError> {
    codings.iter().rev().try_fold(body, |body, coding| undo(*coding, &body, limit))
}

fn undo(coding: Coding, body: &[u8], limit: usize) -> Result<Bytes, HttpError> {
    match coding {
        Coding::Gzip => read_limited(MultiGzDecoder::new(body), "gzip", limit),
        // The standard means the zlib format; some servers send the bare stream.
        Coding::Deflate if has_zlib_header(body) => read_limited(ZlibDecoder::new(body), "deflate", limit),
        Coding::Deflate => read_limited(DeflateDecoder::new(body), "deflate", limit),
        Coding::Brotli => read_limited(Decompressor::new(body, 4096), "brotli", limit),
    }
}

fn read_limited(reader: impl Read, name: &str, limit: usize) -> Result<Bytes, HttpError> {
    let mut plain = Vec::new();
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| malformed(&format!("its body is not valid {name}")))?;
    if plain.len() > limit {
        return Err(HttpError::TooLarge { limit });
    }
    Ok(Bytes::from(plain))
}

fn has_zlib_header(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)).is_multiple_of(31))
}

fn malformed(reason: &str) -> HttpError {
    HttpError::Malformed { reason: reason.to_owned() }
}
