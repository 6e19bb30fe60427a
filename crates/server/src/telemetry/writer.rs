//! The writer of log lines: a thread behind a bounded queue, so that logging never holds up
//! the work that it describes. What does not fit is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::metrics::LOG_LINES_DROPPED;

/// Lines that may wait, and their bytes.
const MAX_QUEUED_LINES: usize = 16_384;
const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// How long the thread rests after it wrote: lines that come meanwhile wake nobody and are
/// written together. Waking it for each line cost more than making the line.
const REST: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Asks for everything before it to be written out; the answer is the channel's.
    Flush(SyncSender<()>),
    Stop,
}

/// Takes log lines without ever waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogWriter {
    queue: SyncSender<Message>,
    queued_bytes: Arc<AtomicUsize>,
}

/// Owns the writing thread: what waits is written when the guard is dropped.
#[derive(Debug)]
pub struct LogGuard {
    queue: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let (queue, messages) = sync_channel(MAX_QUEUED_LINES);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Self { queue: queue.clone(), queued_bytes: queued_bytes.clone() };
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || write_lines(&messages, &queued_bytes, output))?;
        Ok((writer, LogGuard { queue, thread: Some(thread) }))
    }

    /// Queues one line, its newline included; drops and counts it where there is no room.
    pub fn write_line(&self, line: Vec<u8>) {
        let length = line.len();
        if self.queued_bytes.fetch_add(length, Ordering::Relaxed) + length > MAX_QUEUED_BYTES {
            self.drop_line(length);
            return;
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Line(line)) {
            self.drop_line(length);
        }
    }

    fn drop_line(&self, length: usize) {
        self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
        ::metrics::counter!(LOG_LINES_DROPPED).increment(1);
    }
}

impl LogGuard {
    /// Waits until everything queued so far is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // A slow terminal must not hold up the end of the process.
            let _ = written.recv_timeout(limit);
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let stopped = self.queue.send(Message::Stop);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            // The thread panics only where the output's own code does; there is nobody left
            // to tell.
            let _ = thread.join();
        }
    }
}

fn write_lines(messages: &Receiver<Message>, queued_bytes: &AtomicUsize, output: impl Write) {
    let mut output = io::BufWriter::with_capacity(64 * 1024, output);
    // Nothing can be said about an output that fails, as this is where it would be said: the
    // lines are lost, and the service goes on.
    while let Ok(first) = messages.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    let _ = output.write_all(&line);
                }
                Message::Flush(done) => {
                    let _ = output.flush();
                    let _ = done.try_send(());
                }
                Message::Stop => {
                    let _ = output.flush();
                    return;
                }
            }
            next = messages.try_recv().ok();
        }
        let _ = output.flush();
        rest();
    }
}

#[expect(clippy::disallowed_methods, reason = "the writer's own thread, which runs no tasks")]
fn rest() {
    std::thread::sleep(REST);
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { writer: self, line: Vec::new() }
    }
}

/// Gathers the pieces of one line and queues it when it is dropped.
#[derive(Debug)]
pub struct LineWriter<'a> {
    writer: &'a LogWriter,
    line: Vec<u8>,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.writer.write_line(std::mem::take(&mut self.line));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// An output that a test can read.
    #[derive(Clone, Default)]
    pub(in crate::telemetry) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        pub(in crate::telemetry) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that takes nothing until it is let go.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_out_in_order_and_all_of_them_at_the_end() {
        let buffer = Buffer::default();
        let (writer, guard) = LogWriter::start(buffer.clone()).expect("a thread");
        for number in 0..1_000 {
            writer.write_line(format!("{number}\n").into_bytes());
        }
        drop(guard);
        let expected: String = (0..1_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(buffer.text(), expected);
    }

    #[test]
    fn a_stuck_output_drops_lines_and_holds_nobody_up() {
        let (let_go, stuck) = sync_channel(0);
        let (writer, guard) = LogWriter::start(Stuck(stuck)).expect("a thread");
        for _ in 0..200 {
            writer.write_line(vec![b'x'; 128 * 1024]);
        }
        assert!(writer.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
        drop(let_go);
        drop(guard);
    }
}
