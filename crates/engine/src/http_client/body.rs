//! Reading an answer's body, up to a limit.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::HttpError;

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read_body(mut body: Incoming, limit: usize) -> Result<Bytes, HttpError> {
    let too_large = HttpError::TooLarge { limit };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large);
    }
    let Some(first) = next_data(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(too_large);
    }
    // Most bodies arrive in one piece, which need not be copied.
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next_data(&mut body).await? else { return Ok(first) };
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit);
    let mut whole = BytesMut::with_capacity(first.len() + second.len() + expected.min(1 << 20));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(data) = next {
        if whole.len() + data.len() > limit {
            return Err(too_large);
        }
        whole.extend_from_slice(&data);
        next = next_data(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of data; trailers are passed over.
pub(super) async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(HttpError::from_body)?.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
