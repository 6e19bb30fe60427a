//! Content of calls that comes from files or goes into them, piece by piece.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::client::{Answer, Client};

const PIECE: usize = 256 * 1024;

/// Sends a file, or standard input, as the content of a call.
pub(super) fn send(client: &Client, path: &str, params: &Value, file: &Path) -> anyhow::Result<Answer> {
    let params = HeaderValue::try_from(params.to_string()).context("a header cannot carry these params")?;
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-params"), params)]);
    if file.as_os_str() == "-" {
        return client.send_content(&headers, path, body(io::stdin()), None);
    }
    let name = file.display();
    let file = File::open(file).with_context(|| format!("{name} cannot be opened"))?;
    let metadata = file.metadata().with_context(|| format!("{name} cannot be read"))?;
    let length = metadata.is_file().then_some(metadata.len());
    client.send_content(&headers, path, body(file), length)
}

/// Writes the content that a call gives to a file, which appears when it is whole, or to
/// standard output.
pub(super) fn take(client: &Client, path: &str, body: &Value, file: &Path) -> anyhow::Result<Answer> {
    if file.as_os_str() == "-" {
        return client.take_content(path, body, &mut io::stdout().lock());
    }
    let name = file.display();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut unfinished =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("{name} cannot be written"))?;
    let answer = client.take_content(path, body, unfinished.as_file_mut())?;
    if !answer.is_content() {
        return Ok(answer);
    }
    unfinished.persist(file).with_context(|| format!("{name} cannot be written"))?;
    Ok(answer.with_facts())
}

fn body(source: impl Read + Send + 'static) -> Body {
    Body::from_stream(stream::unfold(Some(source), |source| async move {
        let mut source = source?;
        // Reading may wait, and must not hold the connection up.
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let read = source.read(&mut piece);
            piece.truncate(*read.as_ref().unwrap_or(&0));
            (read.map(|_| Bytes::from(piece)), source)
        });
        match read.await {
            Ok((Ok(piece), _)) if piece.is_empty() => None,
            Ok((Ok(piece), source)) => Some((Ok(piece), Some(source))),
            Ok((Err(error), _)) => Some((Err(error), None)),
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    }))
}
