//! Why an exchange failed: facts, from which the caller draws its conclusions.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::network::{NetworkError, chain};

/// How far an exchange had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a connection: name resolution, TCP and TLS.
    Connect,
    /// The request was handed to a connection; no answer had begun.
    Response,
    /// The answer had begun and was not complete.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Response => "waiting for the answer",
            Self::Body => "reading the answer's body",
        })
    }
}

/// Why a redirect was not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectRefusal {
    TooMany {
        limit: u8,
    },
    /// It leads to another origin, which the policy does not follow.
    OtherOrigin,
    /// It leads from https to http.
    Downgrade,
    /// Its `Location` is no http or https URL without user information.
    InvalidLocation,
}

impl fmt::Display for RedirectRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit } => write!(f, "more than {limit} redirects followed each other"),
            Self::OtherOrigin => f.write_str("it leads to another origin"),
            Self::Downgrade => f.write_str("it leads from https to http"),
            Self::InvalidLocation => f.write_str("its Location is no http or https URL without user information"),
        }
    }
}

/// Why an exchange failed. The messages name hosts and addresses, never paths, queries or
/// header values, which may hold secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Network(NetworkError),
    #[error("the deadline passed while {phase}")]
    TimedOut { sent: bool, phase: Phase },
    #[error("the connection was lost before the answer was complete")]
    ConnectionLost {
        sent: bool,
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
    #[error("the answer breaks HTTP: {reason}")]
    Malformed { reason: String },
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("a redirect to {host} was not followed: {refusal}")]
    Redirect { host: String, refusal: RedirectRefusal },
    /// An earlier request was answered by a redirect, whose target failed.
    #[error("the target of a redirect failed")]
    RedirectTarget {
        #[source]
        source: Box<HttpError>,
    },
    #[error("the URL cannot be requested: {reason}")]
    InvalidUrl { reason: String },
}

impl HttpError {
    /// Whether bytes of the request may have reached an upstream. Where in doubt, yes.
    pub fn request_was_sent(&self) -> bool {
        match self {
            Self::Network(_) | Self::InvalidUrl { .. } => false,
            Self::TimedOut { sent, .. } | Self::ConnectionLost { sent, .. } => *sent,
            Self::Malformed { .. } | Self::TooLarge { .. } | Self::Redirect { .. } | Self::RedirectTarget { .. } => {
                true
            }
        }
    }

    /// The message with those of its sources: `a: b: c`.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// Reads an error of the HTTP library. `sent` says whether a connection had taken the
    /// request.
    pub(super) fn from_client(error: hyper_util::client::legacy::Error, sent: bool) -> Self {
        if error.is_connect()
            && let Some(failure) = find::<Self>(&error)
        {
            return failure.clone();
        }
        match find::<hyper::Error>(&error).and_then(malformed) {
            Some(malformed) => malformed,
            None => Self::ConnectionLost { sent, source: Some(Arc::new(error)) },
        }
    }

    /// Reads an error that came while the answer's body was read.
    pub(super) fn from_body(error: hyper::Error) -> Self {
        malformed(&error).unwrap_or_else(|| Self::ConnectionLost { sent: true, source: Some(Arc::new(error)) })
    }
}

impl From<NetworkError> for HttpError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::TimedOut => Self::TimedOut { sent: false, phase: Phase::Connect },
            other => Self::Network(other),
        }
    }
}

/// The error if it says that the answer was wrong, not that it went missing.
fn malformed(error: &hyper::Error) -> Option<HttpError> {
    if error.is_parse_too_large() {
        return Some(HttpError::Malformed {
            reason: "its header section, or the length that it states, is too large".to_owned(),
        });
    }
    let wrong_framing = find::<io::Error>(error)
        .is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput));
    (error.is_parse() || wrong_framing).then(|| {
        let mut reason = error.to_string();
        if let Some(source) = error.source() {
            reason = format!("{reason}: {source}");
        }
        HttpError::Malformed { reason }
    })
}

/// The first error of type `E` in the chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
