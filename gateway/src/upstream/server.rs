//! One server of an upstream: its open connections, and how many there may be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connect::{Connected, Http1, Http2, connect};
use super::lease::{Connection, Slot, Slots, Stream};
use super::tls::UpstreamTls;
use super::{RequestBody, UpstreamFault};
use crate::metrics::Metrics;
use crate::pure::upstream_address::UpstreamAddress;

/// A server, as one worker knows it.
pub(super) struct Server {
    pub(super) address: UpstreamAddress,
    /// Requests that it has not answered to the end.
    pub(super) outstanding: Cell<usize>,
    /// HTTP/1.1 connections that nobody uses.
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Rc<Http2Connection>>>,
    pub(super) slots: Arc<Slots>,
    tls: Option<UpstreamTls>,
    /// How slowly it may take bytes; see [`WatchedIo`](super::watched_io::WatchedIo).
    patience: Duration,
    /// Somebody makes a connection that others may share.
    connecting: Cell<bool>,
    /// How the last such attempt ended, and which one it was.
    attempt: Cell<(u64, Option<UpstreamFault>)>,
    /// Whether HTTP/2 may be what it speaks, as far as is known.
    may_be_http2: Cell<bool>,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    /// It asks for a WebSocket: over HTTP/1.1 where that is spoken, because every server opens them over it that opens
    /// any, else over HTTP/2 if the server takes them.
    pub(super) websocket: bool,
    /// It is sent once more: over HTTP/1.1, a kept connection would be one more that may have closed.
    pub(super) again: bool,
}

/// Why there is no connection.
pub(super) enum NoConnection {
    /// The server does not take any.
    Refused(UpstreamFault),
    /// Nothing was tried, or somebody else tried it.
    Missing(UpstreamFault),
    /// All that there may be are in use, and none became free in time.
    Full,
}

struct Idle {
    sender: Http1<RequestBody>,
    since: Instant,
}

/// An HTTP/2 connection, which many requests share.
pub(super) struct Http2Connection {
    sender: Http2<RequestBody>,
    pub(super) streams: Cell<usize>,
    used: Cell<Instant>,
    pub(super) retired: Cell<bool>,
}

impl Server {
    pub(super) fn new(
        address: &UpstreamAddress,
        tls: Option<&UpstreamTls>,
        patience: Duration,
    ) -> Rc<Self> {
        let may_be_http2 =
            address.is_h2c() || address.is_tls() && tls.is_some_and(UpstreamTls::may_be_http2);
        Rc::new(Self {
            address: address.clone(),
            outstanding: Cell::new(0),
            idle: RefCell::default(),
            http2: RefCell::default(),
            slots: Arc::default(),
            tls: tls.cloned(),
            patience,
            connecting: Cell::new(false),
            attempt: Cell::new((0, None)),
            may_be_http2: Cell::new(may_be_http2),
        })
    }

    /// A place on a connection, an open one if there is one.
    pub(super) async fn connection(
        self: &Rc<Self>,
        metrics: &Metrics,
        max_connections: usize,
        need: Need,
        deadline: Instant,
    ) -> Result<Connection, NoConnection> {
        let connection = self.any_connection(metrics, max_connections, need, deadline);
        let connection = connection.await?;
        match &connection {
            Connection::Http2(stream) if need.websocket && !stream.takes_websockets() => {
                Err(NoConnection::Missing(UpstreamFault::NoUpgrade))
            }
            Connection::Http1 { .. } | Connection::Http2(_) => Ok(connection),
        }
    }

    async fn any_connection(
        self: &Rc<Self>,
        metrics: &Metrics,
        max_connections: usize,
        need: Need,
        deadline: Instant,
    ) -> Result<Connection, NoConnection> {
        let http1 = self.wants_http1(need);
        loop {
            if !http1 && let Some(stream) = self.stream() {
                return Ok(Connection::Http2(stream));
            }
            if !need.again
                && let Some(sender) = self.take_idle()
            {
                return Ok(Connection::http1(sender, true));
            }
            // What may turn out to be a connection for all is made once.
            let shared = !http1 && self.may_be_http2.get();
            if self.slots.open() < max_connections && !(shared && self.connecting.get()) {
                let began = Instant::now();
                let connected = if shared {
                    let attempt = Attempt::begin(self);
                    let connected = self.connect(need, deadline).await;
                    attempt.end(connected.as_ref().err().copied());
                    connected
                } else {
                    self.connect(need, deadline).await
                };
                if connected.is_ok() {
                    metrics.upstream_connections.inc();
                    metrics.upstream_connect_time.observe(began.elapsed());
                }
                return connected.map_err(NoConnection::Refused);
            }
            // A connection that would not do makes room, as soon as its socket is closed.
            if self.slots.open() >= max_connections {
                self.idle.borrow_mut().pop();
            }
            let (number, _) = self.attempt.get();
            if timeout_at(deadline, self.slots.freed.notified())
                .await
                .is_err()
            {
                return Err(if shared && self.connecting.get() {
                    NoConnection::Missing(UpstreamFault::ConnectTimeout)
                } else {
                    NoConnection::Full
                });
            }
            if let (latest, Some(fault)) = self.attempt.get()
                && shared
                && latest != number
            {
                return Err(NoConnection::Missing(fault));
            }
        }
    }

    async fn connect(
        self: &Rc<Self>,
        need: Need,
        deadline: Instant,
    ) -> Result<Connection, UpstreamFault> {
        let slot = Slot::take(&self.slots);
        let http1 = self.wants_http1(need);
        match connect(&self.address, self.tls.as_ref(), http1, deadline).await? {
            Connected::Http1(transport) => {
                if !http1 {
                    self.may_be_http2.set(false);
                }
                let sender = Http1::start(transport, Some(slot), self.patience).await?;
                Ok(Connection::http1(sender, false))
            }
            Connected::Http2(transport) => {
                self.may_be_http2.set(true);
                let sender = Http2::start(transport, Some(slot), deadline).await?;
                let connection = Rc::new(Http2Connection {
                    sender,
                    streams: Cell::new(0),
                    used: Cell::new(Instant::now()),
                    retired: Cell::new(false),
                });
                self.http2.borrow_mut().push(Rc::clone(&connection));
                Ok(Connection::Http2(Stream::open(self, connection, false)))
            }
        }
    }

    /// Whether a request needs HTTP/1.1, and can have it.
    fn wants_http1(&self, need: Need) -> bool {
        let only_http2 = self.address.is_h2c()
            || self.address.is_tls() && self.tls.as_ref().is_some_and(UpstreamTls::must_be_http2);
        need.websocket && !only_http2
    }

    /// A place on an HTTP/2 connection, on the first that has one.
    fn stream(self: &Rc<Self>) -> Option<Stream> {
        let mut connections = self.http2.borrow_mut();
        if connections.is_empty() {
            return None;
        }
        connections.retain(|connection| connection.is_usable());
        let connection = connections
            .iter()
            .find(|connection| connection.streams.get() < connection.sender.max_streams())?;
        Some(Stream::open(self, Rc::clone(connection), true))
    }

    /// The connection that was used last: it is the least likely to have been closed by the server.
    ///
    /// One that the server has closed, or on which it said more than it was asked for, is dropped. HTTP would see
    /// that, too, but on a busy worker not before the next request is sent, whose answer it would take the bytes for.
    fn take_idle(&self) -> Option<Http1<RequestBody>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            let sender = &candidate.sender;
            if sender.http.is_ready()
                && candidate.since.elapsed() < Self::MAX_IDLE
                && sender.watch.is_quiet()
            {
                return Some(candidate.sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, sender: Http1<RequestBody>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_KEPT {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
            drop(idle);
            self.slots.freed.notify_waiters();
        }
    }

    /// Closes what nobody has used for long.
    pub(super) fn close_old(&self) {
        self.idle
            .borrow_mut()
            .retain(|idle| !idle.sender.http.is_closed() && idle.since.elapsed() < Self::MAX_IDLE);
        self.http2.borrow_mut().retain(|connection| {
            connection.is_usable()
                && (connection.streams.get() > 0
                    || connection.used.get().elapsed() < Self::MAX_IDLE)
        });
    }

    /// How long a connection is kept for the next request.
    pub(super) const MAX_IDLE: Duration = Duration::from_secs(30);
}

impl Http2Connection {
    pub(super) fn sender(&self) -> Http2<RequestBody> {
        self.used.set(Instant::now());
        self.sender.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.sender.signals.is_broken()
    }

    pub(super) fn takes_websockets(&self) -> bool {
        self.sender.signals.takes_websockets.get()
    }

    fn is_usable(&self) -> bool {
        !self.retired.get() && !self.sender.http.is_closed() && !self.is_broken()
    }
}

/// An attempt to connect for which others wait, until it ends or is given up.
struct Attempt<'s>(&'s Server);

impl<'s> Attempt<'s> {
    fn begin(server: &'s Server) -> Self {
        server.connecting.set(true);
        Self(server)
    }

    fn end(self, fault: Option<UpstreamFault>) {
        let (number, _) = self.0.attempt.get();
        self.0.attempt.set((number.wrapping_add(1), fault));
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.slots.freed.notify_waiters();
    }
}

/// Kept per server and worker.
const MAX_KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// A server of which a connection is kept, and the connection's other end.
    async fn kept() -> (Rc<Server>, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let address = format!("http://127.0.0.1:{port}");
        let address: UpstreamAddress = address.parse().expect("an upstream");
        let server = Server::new(&address, None, Duration::from_secs(30));
        let deadline = Instant::now() + Duration::from_secs(5);
        let connection = server.connect(Need::default(), deadline).await;
        let Ok(Connection::Http1 { mut sender, .. }) = connection else {
            panic!("no connection that speaks HTTP/1.1");
        };
        sender.http.ready().await.expect("ready");
        let (upstream, _) = listener.accept().expect("accepted");
        server.keep(sender);
        (server, upstream)
    }

    #[tokio::test]
    async fn what_was_said_too_early_is_nobodys_answer() {
        let local = tokio::task::LocalSet::new();
        let test = local.run_until(async {
            let (server, _upstream) = kept().await;
            assert!(server.take_idle().is_some());

            // Without an await from here on: the connection's task does not get its turn.
            let (server, mut upstream) = kept().await;
            let early = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
            upstream.write_all(early).expect("written");
            assert!(server.take_idle().is_none());

            let (server, upstream) = kept().await;
            drop(upstream);
            assert!(server.take_idle().is_none());
        });
        test.await;
    }
}
