//! One worker: a thread with its own runtime, sockets, connections and upstream pool.

use std::cell::Cell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use crate::connection;
use crate::shared::Shared;
use crate::turnstile::Turnstile;
use crate::upstream::{Pool, run_checks};

/// What a worker's connections share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) turnstile: Rc<Turnstile>,
    open: Cell<usize>,
    turns: Cell<usize>,
    closed: Notify,
    phase: watch::Receiver<Phase>,
}

/// What workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Accept and serve.
    Serving,
    /// Accept no more; end when every connection has ended.
    Stopping,
}

/// Serves until told to stop, and then until the last connection has ended.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let worker = Rc::new(Worker {
        pool: Pool::new(&shared.limits.load(), Arc::clone(&shared.health)),
        turnstile: Turnstile::new(),
        shared,
        open: Cell::new(0),
        turns: Cell::new(0),
        closed: Notify::new(),
        phase: phase.clone(),
    });
    spawn_local(run_checks(Arc::clone(&worker.shared)));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        prepare(SockRef::from(&listener))?;
        let listener = TcpListener::from_std(listener)?;
        accepting.spawn_local(accept(Rc::clone(&worker), listener));
    }
    // The sender lives as long as the gateway; if it is gone, so is everybody who could say "go on".
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    accepting.shutdown().await;
    while worker.open.get() > 0 {
        worker.closed.notified().await;
    }
    Ok(())
}

impl Worker {
    /// Whether the gateway stops. It says so before it looks at the connection index, so a connection that
    /// asks after it was entered there misses nothing.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() == Phase::Stopping
    }

    /// A number for whoever takes turns.
    pub(crate) fn next_turn(&self) -> usize {
        let turn = self.turns.get();
        self.turns.set(turn.wrapping_add(1));
        turn
    }
}

/// Accepts connections for ever.
async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let mut pause = MIN_PAUSE;
    loop {
        worker.turnstile.has_room().await;
        worker.shared.acceptor.has_room().await;
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                worker.shared.metrics.accept_errors.inc();
                if !concerns_one_connection(&error) {
                    // Out of descriptors or memory: connections that end give some back.
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                continue;
            }
        };
        pause = MIN_PAUSE;
        if worker.open.get() >= worker.shared.limits.load().max_connections {
            worker.shared.metrics.connections_refused.inc();
            continue;
        }
        if let Err(error) = inherits(SockRef::from(&tcp)) {
            tracing::debug!(%error, "connection ended before it began");
            continue;
        }
        let open = Open::enter(Rc::clone(&worker));
        let serving = connection::serve(Rc::clone(&worker), tcp, address);
        let metrics = Arc::clone(&worker.shared);
        spawn_local(async move {
            if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
                metrics.metrics.panics.inc();
                tracing::error!(%address, "a connection was ended by a bug");
            }
            drop(open);
        });
        // It takes its place before the next one is accepted.
        tokio::task::yield_now().await;
    }
}

/// A connection that counts as open until this is dropped.
struct Open(Rc<Worker>);

impl Open {
    fn enter(worker: Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        worker.shared.metrics.connections_open.inc();
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.shared.metrics.connections_open.dec();
        self.0.closed.notify_one();
    }
}

/// No delays, and an end for peers that vanished. On Linux, connections have the options that their listener had when they were
/// established (tcp(7)), which saves six system calls for each.
pub(crate) fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    // What a peer does not read waits here, where it is bounded, and not in the kernel.
    socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
    // No TCP_USER_TIMEOUT: a peer that reads slowly keeps its window shut most of the time, and Linux counts that time
    // as one although bytes are taken meanwhile.
    socket.set_tcp_keepalive(&keepalive)
}

/// Sees to it that an accepted connection has its listener's options: it has not if it was established while somebody else, or
/// nobody, held the listener. Nobody else sets the one that is looked at.
fn inherits(socket: SockRef<'_>) -> io::Result<()> {
    if socket.tcp_notsent_lowat()? == MAX_UNSENT {
        return Ok(());
    }
    prepare(socket)
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

const MAX_UNSENT: u32 = 64 * 1024;
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use std::net::{SocketAddr, TcpStream};

    use super::*;

    fn are_set(socket: &Socket) -> bool {
        let lowat = socket.tcp_notsent_lowat().expect("asked");
        let keepalive = socket.keepalive().expect("asked");
        lowat == MAX_UNSENT && keepalive && socket.tcp_nodelay().expect("asked")
    }

    #[test]
    fn connections_have_the_options_of_their_listener_or_get_them() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().expect("an address");
            let listener =
                Socket::new(Domain::for_address(address), Type::STREAM, None).expect("made");
            listener.bind(&address.into()).expect("bound");
            listener.listen(8).expect("listening");
            let at = listener.local_addr().expect("bound").as_socket();
            let connect = || TcpStream::connect(at.expect("an address")).expect("connected");
            let _early = connect();
            prepare(SockRef::from(&listener)).expect("prepared");
            let _late = connect();
            let [early, late] = [(); 2].map(|()| listener.accept().expect("accepted").0);
            assert!(are_set(&late), "{address}");
            assert!(!are_set(&early), "{address}");
            for connection in [early, late] {
                inherits(SockRef::from(&connection)).expect("set");
                assert!(are_set(&connection), "{address}");
            }
        }
    }
}
