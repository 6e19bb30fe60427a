//! The service as a process that writes all it can, and whose words are kept.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::ADMIN_KEY;
use crate::client::{Answer, send};

/// The service at its most talkative; all that it writes is kept.
pub(super) struct Talkative {
    child: Child,
    pub(super) address: SocketAddr,
    written: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Talkative {
    pub(super) fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_integration-service"))
            .env_clear()
            .env("INTEGRATION_SERVICE_ADMIN_KEY", ADMIN_KEY)
            .env("INTEGRATION_SERVICE_EGRESS_ALLOW", "127.0.0.1")
            .env("LOG_LEVEL", "trace")
            .env("RUST_BACKTRACE", "full")
            .current_dir(folder)
            .args(["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            keep(child.stdout.take().unwrap(), Arc::clone(&written)),
            keep(child.stderr.take().unwrap(), Arc::clone(&written)),
        ];
        let mut service = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), written, readers };
        service.address = service.wait_for_address();
        service
    }

    fn wait_for_address(&mut self) -> SocketAddr {
        loop {
            let text = String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let serving = lines.filter(|line| line["message"] == "serving");
            if let Some(address) = serving.filter_map(|line| line["address"].as_str()?.parse().ok()).next() {
                return address;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {text}");
            std::thread::yield_now();
        }
    }

    pub(super) async fn send(&self, request: http::request::Builder, body: &str) -> Answer {
        send(self.address, request.header("x-api-key", ADMIN_KEY), body).await
    }

    /// Ends it by this signal, and gives all that it wrote.
    pub(super) fn end(mut self, signal: &str) -> Vec<u8> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

impl Drop for Talkative {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep(mut from: impl std::io::Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read) = from.read(&mut buffer) {
            if read == 0 {
                return;
            }
            into.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    })
}
