//! Why there is no connection: facts, from which the caller draws its conclusions.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Why a connection could not be made; nothing was sent. The messages name hosts and
/// addresses, nothing that could be secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    #[error("{address}, an address of {host}, is not allowed by the egress policy")]
    EgressDenied { host: String, address: IpAddr },
    #[error("the host name {host} could not be resolved")]
    Resolve {
        host: String,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("no connection to {host} at {address}")]
    Connect {
        host: String,
        address: SocketAddr,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("no TLS session with {host}")]
    Tls {
        host: String,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the deadline passed while connecting")]
    TimedOut,
}

/// The message of an error with those of its sources: `a: b: c`.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text
}
