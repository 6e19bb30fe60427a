//! Upstreams that delay, refuse, cut, truncate, corrupt and flap: each call ends, with an
//! error that says what happened, and is repeated only where that does no harm.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::process::{Answer, Client, Process, folder};

/// Longer than every deadline here: only a hang is cut off.
const PATIENCE: Duration = Duration::from_secs(60);

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";

/// What the upstream does with a request.
enum Behaviour {
    /// Sends this, and reads the next request.
    Answer(String),
    /// Sends this, and closes the connection.
    Cut(Vec<u8>),
    /// Sends this, and nothing more.
    Hang(&'static str),
    /// Sends this, then one byte after another without end.
    Drip(&'static str),
    /// Answers after a while.
    Delay(Duration),
}

/// What each path does; `asked` is how often it was asked before.
fn behaviour(path: &str, asked: usize) -> Behaviour {
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{rest}\r\n\r\n");
    let refuse = |status: &str, after: u32| {
        Behaviour::Answer(format!("HTTP/1.1 {status}\r\nretry-after: {after}\r\ncontent-length: 4\r\n\r\nbusy"))
    };
    match path {
        "/delayed" => Behaviour::Delay(Duration::from_millis(50)),
        "/silent" => Behaviour::Hang(""),
        "/stalled" => Behaviour::Hang("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"),
        "/drip" => Behaviour::Drip("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"),
        "/unavailable" => refuse("503 Service Unavailable", 7),
        "/limited" if asked == 0 => refuse("429 Too Many Requests", 1),
        "/limitedForLong" => refuse("429 Too Many Requests", 3_600),
        "/cut" | "/cutRead" => Behaviour::Cut(Vec::new()),
        "/cutInHead" => Behaviour::Cut(b"HTTP/1.1 200 OK\r\ncontent-".to_vec()),
        "/truncated" => Behaviour::Cut(head("content-length: 1000").into_bytes()),
        "/truncatedChunks" => Behaviour::Cut((head("transfer-encoding: chunked") + "5\r\n{\"a\":\r\n").into_bytes()),
        "/corruptChunks" => Behaviour::Cut((head("transfer-encoding: chunked") + "zz\r\n{}\r\n0\r\n\r\n").into_bytes()),
        "/garbage" => Behaviour::Cut(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec()),
        "/corruptJson" => Behaviour::Answer(head("content-length: 6") + "{\"a\":]"),
        "/corruptGzip" => Behaviour::Answer(head("content-encoding: gzip\r\ncontent-length: 6") + "\u{1f}zip!?"),
        "/oversized" => Behaviour::Hang("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"),
        "/hugeHead" => Behaviour::Cut(head(&format!("x: {}", "y".repeat(2_000_000))).into_bytes()),
        "/flapping" if asked.is_multiple_of(3) => refuse("503 Service Unavailable", 0),
        "/flapping" if asked % 3 == 1 => Behaviour::Cut(Vec::new()),
        _ => Behaviour::Answer(FINE.to_owned()),
    }
}

/// When each path was asked.
#[derive(Clone, Default)]
struct Upstream(Arc<Mutex<HashMap<String, Vec<Instant>>>>);

impl Upstream {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // The service may go away first.
                tokio::spawn(upstream.clone().serve(stream));
            }
        });
        address
    }

    async fn serve(self, mut stream: TcpStream) -> std::io::Result<()> {
        while let Some(path) = read_request(&mut stream).await? {
            match self.note(&path) {
                Behaviour::Answer(text) => stream.write_all(text.as_bytes()).await?,
                Behaviour::Cut(bytes) => {
                    stream.write_all(&bytes).await?;
                    return stream.shutdown().await;
                }
                Behaviour::Hang(text) => {
                    stream.write_all(text.as_bytes()).await?;
                    return std::future::pending().await;
                }
                Behaviour::Drip(text) => {
                    stream.write_all(text.as_bytes()).await?;
                    loop {
                        stream.write_all(b" ").await?;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                Behaviour::Delay(delay) => {
                    tokio::time::sleep(delay).await;
                    stream.write_all(FINE.as_bytes()).await?;
                }
            }
        }
        Ok(())
    }

    fn note(&self, path: &str) -> Behaviour {
        let mut asked = self.0.lock().unwrap();
        let times = asked.entry(path.to_owned()).or_default();
        times.push(Instant::now());
        behaviour(path, times.len() - 1)
    }

    fn times(&self, method: &str) -> Vec<Instant> {
        self.0.lock().unwrap().get(&format!("/{method}")).cloned().unwrap_or_default()
    }
}

/// Reads a request with its body; gives its path, none at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(head.split(' ').nth(1).map(str::to_owned))
}

/// A call to a method that is not safe to repeat, and how it must end.
struct Case {
    method: &'static str,
    status: u16,
    code: &'static str,
    /// Part of the message.
    says: &'static str,
    /// `details.outcome`.
    outcome: Option<&'static str>,
}

const fn broken(method: &'static str, says: &'static str) -> Case {
    Case { method, status: 502, code: "UPSTREAM_ERROR", says, outcome: Some("unknown") }
}

const fn late(method: &'static str) -> Case {
    Case { method, status: 504, code: "TIMEOUT", says: "the deadline passed", outcome: Some("unknown") }
}

const fn answered(method: &'static str, says: &'static str) -> Case {
    Case { method, status: 502, code: "UPSTREAM_ERROR", says, outcome: None }
}

const CASES: &[Case] = &[
    late("silent"),
    late("stalled"),
    late("drip"),
    broken("cut", "the connection was lost"),
    broken("cutInHead", "the connection was lost"),
    broken("truncated", "the connection was lost"),
    broken("truncatedChunks", "the connection was lost"),
    broken("corruptChunks", "breaks HTTP"),
    broken("corruptGzip", "not valid gzip"),
    broken("garbage", "breaks HTTP"),
    broken("hugeHead", "too large"),
    broken("oversized", "larger than"),
    answered("corruptJson", "JSON"),
    answered("unavailable", "503 Service Unavailable"),
];

/// Methods that are safe to repeat.
const REPEATABLE: &[&str] = &["delayed", "cutRead", "flapping", "limited", "limitedForLong"];

/// The service in front of an upstream that misbehaves.
struct Chaos {
    upstream: Upstream,
    client: Client,
    _process: Process,
    _folder: TempDir,
}

impl Chaos {
    async fn start() -> Self {
        let upstream = Upstream::default();
        let base = format!("http://{}", upstream.start().await);
        // Nobody listens where somebody did just now.
        let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
        let retry = json!({"maxRetries": 3, "initialDelayMs": 1, "maxDelayMs": 10});
        let once = CASES.iter().map(|case| {
            json!({"name": case.method, "operation": {"verb": "POST", "path": format!("/{}", case.method), "body": "*"},
                "timeoutMs": if case.status == 504 { 1_000 } else { 30_000 }, "retryConfig": retry})
        });
        let often = REPEATABLE.iter().map(|name| {
            json!({"name": name, "operation": {"verb": "GET", "path": format!("/{name}")}, "idempotent": true,
                "timeoutMs": 30_000, "retryConfig": retry})
        });
        let instances = [("chaos", base), ("nobody", nobody)]
            .map(|(id, url)| json!({"id": id, "integrationDefinitionId": "chaos", "config": {"baseUrl": url}}));
        let integrations = json!({
            "definitions": [{"id": "chaos", "name": "Chaos", "version": "1.0.0", "type": "http", "authType": "none",
                "methods": once.chain(often).collect::<Vec<_>>()}],
            "instances": instances,
        });
        let folder = folder(&[
            ("integration_service.yaml", "http: {maxResponseBytes: 1000000}\n"),
            ("integrations.yaml", &integrations.to_string()),
        ]);
        let process = Process::start(folder.path());
        let client = Client::connect(process.address).await.unwrap();
        Self { upstream, client, _process: process, _folder: folder }
    }

    async fn call(&mut self, path: &str) -> Answer {
        let params = json!({});
        timeout(PATIENCE, self.client.execute(path, &params, &[])).await.expect("no call hangs").unwrap()
    }
}

#[tokio::test]
async fn a_broken_exchange_ends_in_an_error_that_says_what_happened() {
    let mut chaos = Chaos::start().await;
    for case in CASES {
        let answer = chaos.call(&format!("chaos/{}", case.method)).await;
        let error = &answer.body["error"];
        let told = (answer.status, error["code"].as_str(), error["details"]["outcome"].as_str());
        assert_eq!(told, (case.status, Some(case.code), case.outcome), "{}: {answer:?}", case.method);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(case.says), "{}: {message}", case.method);
        assert_eq!(chaos.upstream.times(case.method).len(), 1, "{} was repeated: {answer:?}", case.method);
        if case.outcome.is_some() {
            assert_eq!(error["retryable"], false, "{}: {answer:?}", case.method);
        }
        let execution = chaos.client.get(&format!("/api/v1/executions/{}", answer.execution_id())).await.unwrap();
        assert_eq!((&execution.body["status"], &execution.body["error"]), (&Value::from("ERROR"), error));
    }
    assert_eq!(chaos.call("chaos/delayed").await.status, 200, "the service goes on");
}

#[tokio::test]
async fn an_upstream_that_flaps_is_overcome_by_retries() {
    let mut chaos = Chaos::start().await;
    for _ in 0..4 {
        let answer = chaos.call("chaos/flapping").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(chaos.upstream.times("flapping").len(), 12, "two failures before each success");
    let answer = chaos.call("chaos/cutRead").await;
    let error = &answer.body["error"];
    assert_eq!((answer.status, &error["code"]), (502, &Value::from("UPSTREAM_ERROR")), "{answer:?}");
    assert_eq!((&error["retryable"], &error["details"]["retry"]), (&true.into(), &"retries_used_up".into()), "{error}");
    assert_eq!(chaos.upstream.times("cutRead").len(), 4);
}

#[tokio::test]
async fn the_upstreams_own_pace_is_kept() {
    let mut chaos = Chaos::start().await;
    let answer = chaos.call("chaos/limited").await;
    assert_eq!((answer.status, &answer.body["meta"]["attempts"]), (200, &2.into()), "{answer:?}");
    let times = chaos.upstream.times("limited");
    assert!(times[1] - times[0] >= Duration::from_secs(1), "the upstream asked for a second");
    for (method, after, upstream_status) in [("limitedForLong", "3600", 429), ("unavailable", "7", 503)] {
        let answer = chaos.call(&format!("chaos/{method}")).await;
        let error = &answer.body["error"];
        assert_eq!((answer.status, &error["details"]["upstreamStatus"]), (502, &upstream_status.into()), "{answer:?}");
        assert_eq!((&error["retryable"], error["retryAfter"].to_string()), (&true.into(), after.to_owned()), "{error}");
        assert_eq!(answer.headers["retry-after"], after);
        assert_eq!(chaos.upstream.times(method).len(), 1);
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_was_surely_not_reached() {
    let mut chaos = Chaos::start().await;
    let answer = chaos.call("nobody/cut").await;
    let error = &answer.body["error"];
    assert_eq!((answer.status, &error["code"]), (502, &Value::from("UPSTREAM_ERROR")), "{answer:?}");
    assert!(error["message"].as_str().unwrap().contains("no connection to 127.0.0.1"), "{error}");
    assert_eq!((&error["details"]["outcome"], &error["retryable"]), (&Value::Null, &true.into()), "{error}");
    assert_eq!(answer.body["meta"]["attempts"], 4, "what was not sent can be sent again");
}
