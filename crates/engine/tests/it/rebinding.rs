//! DNS rebinding: a name whose answer changes between two looks, before the resolver of the
//! operating system. The test runs itself again in a network of its own, where it is the name
//! server, the public internet and the machine that is to be kept out of reach.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use integration_engine::http_client::{
    HttpClient, HttpClientSettings, HttpError, InboundResponse, OutboundRequest, RedirectMode, RedirectPolicy,
};
use integration_engine::network::{EgressPolicy, NetworkError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

const NAME: &str = "rebinding::a_name_that_changes_its_address_leads_nowhere_private";
/// Says that the test runs in the network of its own.
const INSIDE: &str = "INTEGRATION_TEST_INSIDE_NETWORK";
const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const PRIVATE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Makes the network: the loopback device, a public address on it, and the name server.
const NETWORK: &str = "ip link set lo up && ip address add 8.8.8.8/32 dev lo && \
                       mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

#[test]
#[expect(clippy::disallowed_methods, reason = "the test tells itself by the environment where it runs")]
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn a_name_that_changes_its_address_leads_nowhere_private() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if std::env::var(INSIDE).is_ok() {
        return runtime.block_on(inside());
    }
    let mut resolver = tempfile::NamedTempFile::new().expect("a file");
    writeln!(resolver, "nameserver {PRIVATE}\noptions timeout:5 attempts:2").expect("written");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-Urmn", "sh", "-c", NETWORK]).arg(resolver.path()).args(arguments).env(INSIDE, "1");
        command.output()
    };
    if !run(&["true"]).is_ok_and(|output| output.status.success()) {
        eprintln!("passed over: this machine makes no network namespaces (unshare, ip)");
        return;
    }
    let own = std::env::current_exe().expect("this program");
    let output = run(&[own.to_str().expect("a path"), "--exact", NAME, "--nocapture"]).expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Answers for the addresses of any name with what stands in `next`, and counts how often it
/// was asked.
#[derive(Clone, Default)]
struct NameServer {
    next: Arc<Mutex<Vec<Vec<Ipv4Addr>>>>,
    asked: Arc<Mutex<usize>>,
}

impl NameServer {
    async fn serve(self, socket: UdpSocket) {
        let mut query = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut query).await.expect("a query");
            let answer = self.answer(&query[..length]);
            socket.send_to(&answer, peer).await.expect("answered");
        }
    }

    /// The question again, and A records without a time to live; no records of other types.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let name_ends = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name");
        let question = &query[12..name_ends + 5];
        let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
        let addresses = if is_a {
            *self.asked.lock().expect("no panic while locked") += 1;
            let mut next = self.next.lock().expect("no panic while locked");
            if next.len() > 1 { next.remove(0) } else { next[0].clone() }
        } else {
            Vec::new()
        };
        let count = u8::try_from(addresses.len()).expect("few");
        let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
        answer.extend_from_slice(question);
        for address in addresses {
            answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        answer
    }

    fn will_say(&self, answers: &[&[Ipv4Addr]]) {
        *self.next.lock().expect("no panic while locked") = answers.iter().map(|answer| answer.to_vec()).collect();
        *self.asked.lock().expect("no panic while locked") = 0;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("no panic while locked")
    }
}

/// Counts the connections to it, and answers each request with a redirect to itself where the
/// path asks for it.
async fn serve(listener: TcpListener, connections: Arc<Mutex<usize>>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        *connections.lock().expect("no panic while locked") += 1;
        let mut head = [0; 4096];
        let length = stream.read(&mut head).await.expect("a request");
        let to_itself = head[..length].starts_with(b"GET /redirect");
        let answer: &[u8] = if to_itself {
            b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        };
        stream.write_all(answer).await.expect("answered");
    }
}

async fn inside() {
    let names = NameServer::default();
    let mut tasks = JoinSet::new();
    let public = TcpListener::bind((PUBLIC, 0)).await.expect("a public port");
    let port = public.local_addr().expect("an address").port();
    let private = TcpListener::bind((PRIVATE, port)).await.expect("the same port");
    let (at_public, at_private) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    // Bound before anybody asks: a port where nobody listens is an answer too.
    let socket = UdpSocket::bind((PRIVATE, 53)).await.expect("port 53");
    tasks.spawn(names.clone().serve(socket));
    tasks.spawn(serve(public, Arc::clone(&at_public)));
    tasks.spawn(serve(private, Arc::clone(&at_private)));
    let connections = || (*at_public.lock().expect("unlocked"), *at_private.lock().expect("unlocked"));
    let url = |path: &str| format!("http://rebind.example:{port}{path}");
    let client = HttpClient::new(HttpClientSettings::default(), EgressPolicy::public_only()).expect("a client");

    // One look for one connection: what was checked is what is connected to.
    names.will_say(&[&[PUBLIC], &[PRIVATE]]);
    assert_eq!(send(&client, &url("/")).await.expect("the public address").status, 200);
    assert_eq!((names.asked(), connections()), (1, (1, 0)));
    // The next connection looks again, and is refused.
    assert_denied(&send(&client, &url("/")).await.expect_err("the private address"));
    assert_eq!(connections(), (1, 0));

    // Of both, the public one is taken, and never the other, also where nobody listens there.
    names.will_say(&[&[PRIVATE, PUBLIC]]);
    assert_eq!(send(&client, &url("/")).await.expect("the public address").status, 200);
    let elsewhere = TcpListener::bind((PRIVATE, 0)).await.expect("a port");
    let unheard = format!("http://rebind.example:{}/", elsewhere.local_addr().expect("an address").port());
    let error = send(&client, &unheard).await.expect_err("nobody there");
    assert!(
        matches!(error, HttpError::Network(NetworkError::Connect { address: SocketAddr::V4(at), .. }) if *at.ip() == PUBLIC),
        "{error:?}"
    );

    // The name changes between a request and its redirect.
    names.will_say(&[&[PUBLIC], &[PRIVATE]]);
    let error = send(&client, &url("/redirect")).await.expect_err("a redirect to the private address");
    let HttpError::RedirectTarget { source } = error else { panic!("{error:?}") };
    assert_denied(&source);
    assert_eq!(connections(), (3, 0));

    // What is allowed is reached.
    let policy = EgressPolicy::parse(["rebind.example"]).expect("a policy");
    let client = HttpClient::new(HttpClientSettings::default(), policy).expect("a client");
    names.will_say(&[&[PRIVATE]]);
    assert_eq!(send(&client, &url("/")).await.expect("the private address").status, 200);
    assert_eq!(connections(), (3, 1));
}

#[track_caller]
fn assert_denied(error: &HttpError) {
    assert!(
        matches!(error, HttpError::Network(NetworkError::EgressDenied { address, .. }) if *address == PRIVATE),
        "{error:?}"
    );
}

async fn send(client: &HttpClient, url: &str) -> Result<InboundResponse, HttpError> {
    let request = OutboundRequest {
        method: Method::GET,
        url: url.parse().expect("a URI"),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        profile: None,
        redirects: RedirectPolicy { mode: RedirectMode::Follow, max_hops: 3 },
        max_response_bytes: 1024,
        repeatable: false,
        fresh_connection: true,
    };
    client.send(request, Instant::now() + Duration::from_secs(30)).await
}
