//! A server that stands before a database, or in its place, and does what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Identity};

/// Cuts a connection as soon as the caller sends this.
pub(super) async fn cut_at(upstream: SocketAddr, trigger: &'static [u8]) -> SocketAddr {
    listen(move |mut caller| async move {
        let mut server = TcpStream::connect(upstream).await.unwrap();
        let mut sent = Vec::new();
        let (mut out, mut back) = (vec![0; 8192], vec![0; 8192]);
        loop {
            tokio::select! {
                read = caller.read(&mut out) => {
                    let Ok(count @ 1..) = read else { return };
                    sent.extend_from_slice(&out[..count]);
                    if sent.windows(trigger.len()).any(|window| window == trigger) {
                        return;
                    }
                    if server.write_all(&out[..count]).await.is_err() { return }
                }
                read = server.read(&mut back) => {
                    let Ok(count @ 1..) = read else { return };
                    if caller.write_all(&back[..count]).await.is_err() { return }
                }
            }
        }
    })
    .await
}

/// Answers whatever is sent with these bytes.
pub(super) async fn babble(answer: Vec<u8>) -> SocketAddr {
    let answer = Arc::new(answer);
    listen(move |mut caller| {
        let answer = Arc::clone(&answer);
        async move {
            let mut buffer = [0; 4096];
            while let Ok(1..) = caller.read(&mut buffer).await {
                if caller.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Greets with these bytes, as MySQL does, and says nothing more.
pub(super) async fn greet(greeting: Vec<u8>) -> SocketAddr {
    let greeting = Arc::new(greeting);
    listen(move |mut caller| {
        let greeting = Arc::clone(&greeting);
        async move {
            let _ = caller.write_all(&greeting).await;
            let _ = caller.read(&mut [0; 4096]).await;
        }
    })
    .await
}

/// Speaks PostgreSQL's start of TLS with this certificate, and goes on to the real server
/// without. Counts the sessions that TLS let through. Callers show a certificate of the
/// authority where one is given.
pub(super) async fn tls(
    upstream: SocketAddr,
    identity: &Identity,
    clients: Option<&Authority>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, clients)));
    let sessions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sessions);
    let address = listen(move |mut caller| {
        let (acceptor, sessions) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let mut request = [0; 8];
            caller.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "an SSLRequest");
            caller.write_all(b"S").await.unwrap();
            let Ok(mut caller) = acceptor.accept(caller).await else { return };
            sessions.fetch_add(1, Ordering::SeqCst);
            relay(&mut caller, upstream).await;
        }
    })
    .await;
    (address, sessions)
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(caller: &mut S, upstream: SocketAddr) {
    let mut server = TcpStream::connect(upstream).await.unwrap();
    let _ = copy_bidirectional(caller, &mut server).await;
}

fn server_config(identity: &Identity, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.unwrap();
    match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    }
    .with_single_cert(chain, key)
    .unwrap()
}

async fn listen<F, H>(handle: H) -> SocketAddr
where
    H: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}
