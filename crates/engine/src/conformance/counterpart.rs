//! What stands at the other end of connections instead of the system, or before it, and does
//! what systems and networks do when they fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::network::{Network, NetworkStream};

/// The most bytes of an answer without end.
const MAX_ENDLESS: u64 = 256 << 20;
/// How long is waited for what has to happen by itself, such as the end of a connection.
const GUARD: Duration = Duration::from_secs(10);
/// What a garbled byte differs by.
const GARBLE: u8 = 0xa5;
const BUFFER: usize = 16 * 1024;

/// What a counterpart does with connections.
#[derive(Clone)]
pub(super) enum Behaviour {
    /// Takes them and says nothing.
    Silent,
    /// Closes them.
    Closing,
    /// Says this, whatever it hears, and closes.
    Saying(Arc<[u8]>),
    /// Says this byte for as long as somebody listens.
    Endless(u8),
    /// Passes on what both sides say, as far as the fault lets it.
    Relaying(Arc<System>),
}

/// The real system behind a relay.
pub(super) struct System {
    pub(super) network: Arc<Network>,
    pub(super) host: String,
    pub(super) port: u16,
}

/// What a relay does to what it passes on; bytes are counted over all its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Ends the connection instead of passing on more of the requests.
    CutRequest(u64),
    /// Ends the connection instead of passing on more of the answers.
    CutAnswer(u64),
    /// Keeps what comes after so much of the answers, until there is another fault or none.
    HoldAnswer(u64),
    /// Passes on other bytes than the answers'.
    GarbleAnswer,
}

/// What went through a counterpart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) open: u64,
    /// Connections to the system that it has not closed yet.
    pub(super) unsettled: u64,
    /// Bytes of requests that were passed on.
    pub(super) sent: u64,
    /// Bytes of answers that were passed on.
    pub(super) received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Orders {
    fault: Fault,
    /// Connections of an older round are closed.
    round: u64,
}

/// A listener on loopback. It ends with this value, and with it all of its connections.
pub(super) struct Counterpart {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    counts: watch::Sender<Counts>,
    orders: watch::Sender<Orders>,
}

/// Counts a connection for as long as it is open.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.open += 1;
        });
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

impl Counterpart {
    pub(super) async fn start(behaviour: Behaviour) -> std::io::Result<Self> {
        Self::start_with(behaviour, Fault::None).await
    }

    pub(super) async fn start_with(behaviour: Behaviour, fault: Fault) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            counts: watch::Sender::new(Counts::default()),
            orders: watch::Sender::new(Orders { fault, round: 0 }),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (behaviour, shared) = (behaviour.clone(), Arc::clone(&serving));
                connections.spawn(async move { serve(stream, &behaviour, &shared).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, shared, task: task.abort_handle() })
    }

    pub(super) fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Changes what happens to what is passed on from now on.
    pub(super) fn set_fault(&self, fault: Fault) {
        self.shared.orders.send_modify(|orders| orders.fault = fault);
    }

    /// Ends all connections; new ones are taken.
    pub(super) async fn close_all(&self) -> bool {
        self.shared.orders.send_modify(|orders| orders.round += 1);
        self.until(|counts| counts.open == 0).await
    }

    /// Waits for what has to come by itself; false where it does not.
    pub(super) async fn until(&self, reached: impl Fn(&Counts) -> bool) -> bool {
        let mut counts = self.shared.counts.subscribe();
        let waiting = counts.wait_for(|counts| reached(counts));
        matches!(timeout(GUARD, waiting).await, Ok(Ok(_)))
    }
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut caller: TcpStream, behaviour: &Behaviour, shared: &Shared) {
    let open = Open::new(shared);
    match behaviour {
        Behaviour::Silent => hear_out(&mut caller).await,
        Behaviour::Closing => {}
        Behaviour::Saying(text) => {
            // Some speak first, some wait for what they hear.
            let _ = caller.write_all(text).await;
            let _ = caller.shutdown().await;
            hear_out(&mut caller).await;
        }
        Behaviour::Endless(byte) => endless(&mut caller, *byte, shared).await,
        Behaviour::Relaying(system) => relay(caller, system, shared, open).await,
    }
}

/// Listens until the other side closes.
async fn hear_out(caller: &mut TcpStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(1..) = caller.read(&mut buffer).await {}
}

async fn endless(caller: &mut TcpStream, byte: u8, shared: &Shared) {
    let text = vec![byte; BUFFER];
    let mut heard = vec![0; BUFFER];
    let (mut from, mut to) = caller.split();
    loop {
        tokio::select! {
            read = from.read(&mut heard) => if !matches!(read, Ok(1..)) { return },
            written = to.write(&text) => {
                let Ok(count) = written else { return };
                shared.counts.send_modify(|counts| counts.received += count as u64);
                if shared.counts.borrow().received >= MAX_ENDLESS {
                    return;
                }
            }
        }
    }
}

async fn relay(caller: TcpStream, system: &System, shared: &Shared, open: Open<'_>) {
    let deadline = Instant::now() + GUARD;
    let Ok(mut server) = system.network.connect(&system.host, system.port, None, deadline).await else { return };
    shared.counts.send_modify(|counts| counts.unsettled += 1);
    pass_on(caller, &mut server, shared).await;
    drop(open);
    // What the system was sent it still works on: it has to end before anybody looks what it did.
    let _ = server.shutdown().await;
    let _ = timeout(GUARD, tokio::io::copy(&mut server, &mut tokio::io::sink())).await;
    shared.counts.send_modify(|counts| counts.unsettled -= 1);
}

/// Passes on until one side closes, or a fault does.
async fn pass_on(mut caller: TcpStream, server: &mut NetworkStream, shared: &Shared) {
    let mut orders = shared.orders.subscribe();
    let round = orders.borrow_and_update().round;
    let (mut request, mut answer) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut held = Vec::new();
    loop {
        let now = *orders.borrow_and_update();
        if now.round != round {
            return;
        }
        if !held.is_empty() && !matches!(now.fault, Fault::HoldAnswer(_)) {
            if pass_answer(&mut caller, &held, shared).await.is_none() {
                return;
            }
            held.clear();
        }
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            read = caller.read(&mut request) => {
                let Ok(count @ 1..) = read else { return };
                let room = match now.fault {
                    Fault::CutRequest(bytes) => room(bytes, shared.counts.borrow().sent, count),
                    _ => count,
                };
                if server.write_all(&request[..room]).await.is_err() {
                    return;
                }
                shared.counts.send_modify(|counts| counts.sent += room as u64);
                if room < count {
                    return;
                }
            }
            read = server.read(&mut answer), if held.is_empty() => {
                let Ok(count @ 1..) = read else { return };
                if now.fault == Fault::GarbleAnswer {
                    answer[..count].iter_mut().for_each(|byte| *byte ^= GARBLE);
                }
                let room = match now.fault {
                    Fault::CutAnswer(bytes) | Fault::HoldAnswer(bytes) => {
                        room(bytes, shared.counts.borrow().received, count)
                    }
                    _ => count,
                };
                if pass_answer(&mut caller, &answer[..room], shared).await.is_none() {
                    return;
                }
                if room < count {
                    let Fault::HoldAnswer(_) = now.fault else { return };
                    held.extend_from_slice(&answer[room..count]);
                }
            }
        }
    }
}

async fn pass_answer(caller: &mut TcpStream, bytes: &[u8], shared: &Shared) -> Option<()> {
    caller.write_all(bytes).await.ok()?;
    shared.counts.send_modify(|counts| counts.received += bytes.len() as u64);
    Some(())
}

/// How many of `count` bytes may pass where `limit` may in all.
fn room(limit: u64, passed: u64, count: usize) -> usize {
    usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX).min(count)
}
