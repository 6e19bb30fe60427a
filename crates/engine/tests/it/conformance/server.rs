//! A server of notes. It speaks lines: `AUTH password`, `ECHO text`, `ADD`, `COUNT`, `LARGE`,
//! `WAIT`, and answers `OK text`, `DENIED`, `LATER` or `WHAT`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(super) struct NotesServer {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl NotesServer {
    pub(super) async fn start(password: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, password, Arc::clone(&notes)));
            }
        });
        Self { address, task }
    }
}

impl Drop for NotesServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, password: &str, notes: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    let mut is_known = false;
    let mut line = String::new();
    while matches!(stream.read_line(&mut line).await, Ok(1..)) && line.ends_with('\n') {
        let (command, text) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let answer = match command {
            "AUTH" => {
                is_known = text == password;
                if is_known { "OK \n".to_owned() } else { format!("DENIED {text}\n") }
            }
            _ if !is_known => "DENIED\n".to_owned(),
            "ECHO" => format!("OK {text}\n"),
            "ADD" => format!("OK {}\n", notes.fetch_add(1, Ordering::SeqCst)),
            "COUNT" => format!("OK {}\n", notes.load(Ordering::SeqCst)),
            "LARGE" => format!("OK {}\n", "x".repeat(5000)),
            "WAIT" => "LATER\n".to_owned(),
            _ => "WHAT\n".to_owned(),
        };
        line.clear();
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
