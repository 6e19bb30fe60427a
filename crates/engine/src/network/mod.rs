//! The way out for every protocol: connections to external systems.
//!
//! Owns: name resolution, the egress policy, TCP connections to checked addresses, TLS and
//! what it trusts. Must not know: protocols, definitions, credentials.

mod egress;
mod error;
mod resolve;
mod stream;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use egress::{EgressPolicy, InvalidEgressEntry};
pub use error::NetworkError;
pub(crate) use error::chain;
pub use resolve::{Resolve, SystemResolver};
pub use stream::NetworkStream;
pub use tls::{ClientIdentity, InvalidAuthority, InvalidIdentity, TlsProfile};

use tls::TlsSetup;

/// The most addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

/// Outbound TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("outbound TLS cannot be set up")]
pub struct TlsUnavailable(#[from] rustls::Error);

/// Makes connections to external systems, within the egress policy in force.
pub struct Network {
    resolver: Arc<dyn Resolve>,
    policy: ArcSwap<EgressPolicy>,
    tls: TlsSetup,
    /// The longest time for name resolution, TCP and TLS together.
    connect_timeout: Duration,
}

impl Network {
    pub fn new(policy: EgressPolicy, resolver: Arc<dyn Resolve>, connect_timeout: Duration) -> Self {
        Self { resolver, policy: ArcSwap::from_pointee(policy), tls: TlsSetup::load(), connect_timeout }
    }

    /// The policy in force. Whoever keeps connections keeps the policy with them, and gives
    /// them up where another one is in force.
    pub fn egress_policy(&self) -> Arc<EgressPolicy> {
        self.policy.load_full()
    }

    pub(crate) fn set_egress_policy(&self, policy: Arc<EgressPolicy>) {
        self.policy.store(policy);
    }

    /// Connects before `deadline`, and by TLS where a configuration is given.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
        deadline: Instant,
    ) -> Result<NetworkStream, NetworkError> {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        let policy = self.policy.load_full();
        self.connect_within(&policy, host, port, tls, deadline).await
    }

    /// Connects within a policy that need not be the one in force any longer.
    pub(crate) async fn connect_within(
        &self,
        policy: &EgressPolicy,
        host: &str,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
        deadline: Instant,
    ) -> Result<NetworkStream, NetworkError> {
        let connecting = async {
            let addresses = self.allowed_addresses(policy, host).await?;
            let tcp = connect_any(host, port, &addresses).await?;
            // A request is one write; waiting to fill packets only adds latency.
            let _ = tcp.set_nodelay(true);
            match tls {
                None => Ok(NetworkStream::Plain(tcp)),
                Some(config) => Ok(NetworkStream::Tls(Box::new(handshake(host, tcp, config).await?))),
            }
        };
        timeout_at(deadline, connecting).await.unwrap_or(Err(NetworkError::TimedOut))
    }

    /// The longest time for making one connection.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The addresses of a host that may be connected to, for what makes its connections itself.
    pub async fn resolve(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, NetworkError> {
        let policy = self.policy.load_full();
        timeout_at(deadline, self.allowed_addresses(&policy, host)).await.unwrap_or(Err(NetworkError::TimedOut))
    }

    /// The roots of the machine, for what makes its TLS itself; none where the built-in ones
    /// take their place.
    pub fn root_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.certificates()
    }

    /// Speaks TLS on a connection that began without, as STARTTLS does.
    pub async fn start_tls<S>(
        &self,
        host: &str,
        stream: S,
        config: Arc<ClientConfig>,
        deadline: Instant,
    ) -> Result<TlsStream<S>, NetworkError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        timeout_at(deadline, handshake(host, stream, config)).await.unwrap_or(Err(NetworkError::TimedOut))
    }

    /// TLS with the usual roots, and what a profile adds. `protocols` are offered by ALPN.
    pub fn tls_config(
        &self,
        profile: Option<&TlsProfile>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TlsUnavailable> {
        Ok(self.tls.config(profile, protocols)?)
    }

    /// The addresses of a host that a policy lets through; an error where it lets none.
    async fn allowed_addresses(&self, policy: &EgressPolicy, host: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let unresolved = |source| NetworkError::Resolve { host: host.to_owned(), source: Arc::new(source) };
        let mut addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(host).await.map_err(unresolved)?,
        };
        addresses.truncate(MAX_ADDRESSES);
        let Some(first) = addresses.first().copied() else {
            return Err(unresolved(std::io::Error::new(std::io::ErrorKind::NotFound, "it has no addresses")));
        };
        addresses.retain(|address| policy.allows(host, *address));
        if addresses.is_empty() {
            return Err(NetworkError::EgressDenied { host: host.to_owned(), address: first });
        }
        Ok(addresses)
    }
}

async fn handshake<S>(host: &str, stream: S, config: Arc<ClientConfig>) -> Result<TlsStream<S>, NetworkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |source| NetworkError::Tls { host: host.to_owned(), source: Arc::new(source) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(failed)
}

async fn connect_any(host: &str, port: u16, addresses: &[IpAddr]) -> Result<TcpStream, NetworkError> {
    let mut failure = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failure = Some(NetworkError::Connect { host: host.to_owned(), address, source: Arc::new(source) });
            }
        }
    }
    // There is at least one address.
    Err(failure.unwrap_or(NetworkError::TimedOut))
}
