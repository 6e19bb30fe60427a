//! The service as a process of its own: started, asked, killed, started again on its data.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

pub(crate) const KEY: &str = "a-key-for-tests-of-whole-processes";

/// A folder with the service's configuration, where its data goes too.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("config").join(name), text).unwrap();
    }
    folder
}

/// Another program that a test runs against. It is killed when it is dropped.
pub(crate) struct Program(Child);

impl Program {
    /// Starts a program; what `ready` finds in a line of its output is given beside it.
    pub(crate) fn start<T>(command: &mut Command, ready: impl FnMut(String) -> Option<T>) -> (Self, T) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let program = Self(child);
        let found = lines.by_ref().map(Result::unwrap).find_map(ready).expect("the program says that it is ready");
        // Output that nobody reads would hold the program up.
        std::thread::spawn(move || lines.for_each(drop));
        (program, found)
    }
}

impl Program {
    /// Stops the program where it is.
    pub(crate) fn pause(&self) {
        signal(&self.0, "STOP");
    }

    /// Lets a paused program go on.
    pub(crate) fn resume(&self) {
        signal(&self.0, "CONT");
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "{name} reaches the process");
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running service. It is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts the service in a folder, on a free port; it serves when this returns.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    /// The same with further environment variables.
    pub(crate) fn start_with(folder: &Path, environment: &[(String, String)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_integration-service"))
            .env_clear()
            .env("INTEGRATION_SERVICE_ADMIN_KEY", KEY)
            .env("INTEGRATION_SERVICE_EGRESS_ALLOW", "127.0.0.1")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .args(["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find_map(|line| {
                let serving = line["message"].as_str().is_some_and(|message| message.starts_with("serving"));
                serving.then(|| line["address"].as_str().and_then(|address| address.parse().ok())).flatten()
            })
            .expect("the service says where it serves");
        // A log that nobody reads would hold the service up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Stops the process where it is, as a machine does that is out of memory or time.
    pub(crate) fn pause(&self) {
        signal(&self.child, "STOP");
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&self) {
        signal(&self.child, "CONT");
    }

    /// The most memory that the process has had at once, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Ends the process as a crash does: no handler runs, nothing is flushed.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer of the service.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn execution_id(&self) -> String {
        self.body["meta"]["executionId"].as_str().unwrap_or_else(|| panic!("no execution: {self:?}")).to_owned()
    }
}

/// The connection, or the service behind it, is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl<E: std::error::Error> From<E> for Gone {
    fn from(_: E) -> Self {
        Self
    }
}

/// A connection to the service that is kept open.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Gone> {
        let stream = TcpStream::connect(address).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Gone> {
        self.send(Request::get(path), "").await
    }

    /// Executes a method with params; `headers` go along.
    pub(crate) async fn execute(
        &mut self,
        path: &str,
        params: &Value,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Gone> {
        let mut request = Request::post(format!("/execute/{path}")).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, &serde_json::json!({"params": params}).to_string()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Answer, Gone> {
        self.send(Request::post(path).header("content-type", "application/json"), &body.to_string()).await
    }

    pub(crate) async fn patch(&mut self, path: &str, body: &Value) -> Result<Answer, Gone> {
        self.send(Request::patch(path).header("content-type", "application/json"), &body.to_string()).await
    }

    async fn send(&mut self, request: http::request::Builder, body: &str) -> Result<Answer, Gone> {
        let request = request.header("host", "test").header("authorization", format!("Bearer {KEY}"));
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&body).expect("the service answers JSON");
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}
