//! Upstreams on loopback: one that speaks HTTP and tells what it was asked, one that sends
//! whatever bytes a test wants.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// One request as the upstream saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) version: Version,
    pub(crate) peer: SocketAddr,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

pub(crate) type Reply = Response<Full<Bytes>>;

/// An upstream that answers as a function says; ends with its value.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _serving: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub(crate) async fn start_tls(
        config: rustls::ServerConfig,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let mut serving = JoinSet::new();
        let log = Arc::clone(&seen);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, peer) = listener.accept().await.expect("a connection");
                let (tls, log, answer) = (tls.clone(), Arc::clone(&log), Arc::clone(&answer));
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, peer, log, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, peer, log, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, _serving: serving }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic while locked").clone()
    }

    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "one request: {seen:?}");
        seen.remove(0)
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<impl Fn(&Seen) -> Reply + Send + Sync + 'static>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let target = head.uri.path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default();
            let seen = Seen { method: head.method, target, headers: head.headers, body, version: head.version, peer };
            log.lock().expect("no panic while locked").push(seen.clone());
            Ok::<_, Infallible>(answer(&seen))
        }
    });
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body.into())).expect("a response")
}

pub(crate) fn json_reply(body: impl Into<Bytes>) -> Reply {
    reply(200, &[("content-type", "application/json")], body)
}

/// What a raw upstream does with one connection, once a request's head has come.
#[derive(Clone)]
pub(crate) enum Script {
    /// Sends these bytes and closes.
    Send(Vec<u8>),
    /// Sends these bytes and holds the connection open.
    SendAndHold(Vec<u8>),
    /// Sends the first bytes, then the second again and again.
    Repeat(Vec<u8>, Vec<u8>),
    /// Closes so that the peer sees a reset.
    Reset,
    /// Answers the first request well, closes at the second without a word.
    AnswerOnce(Vec<u8>),
}

/// An upstream that speaks whatever bytes it is told to.
pub(crate) struct RawUpstream {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl RawUpstream {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (log, script) = (Arc::clone(&log), script.clone());
                connections.spawn(async move {
                    // A client that goes away is what most scripts are about.
                    let _ = play(stream, script, log).await;
                });
            }
        });
        Self { address, heads, _serving: serving }
    }

    pub(crate) fn requests(&self) -> usize {
        self.heads.lock().expect("no panic while locked").len()
    }
}

async fn play(mut stream: TcpStream, script: Script, log: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    read_head(&mut stream, &log).await?;
    match script {
        Script::Send(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        Script::SendAndHold(bytes) => {
            stream.write_all(&bytes).await?;
            std::future::pending().await
        }
        Script::Repeat(first, then) => {
            stream.write_all(&first).await?;
            loop {
                stream.write_all(&then).await?;
            }
        }
        Script::Reset => stream.set_zero_linger(),
        Script::AnswerOnce(bytes) => {
            stream.write_all(&bytes).await?;
            read_head(&mut stream, &log).await
        }
    }
}

async fn read_head(stream: &mut TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    log.lock().expect("no panic while locked").push(String::from_utf8_lossy(&head).into_owned());
    Ok(())
}
