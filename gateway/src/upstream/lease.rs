//! What one request has of an upstream while it lasts. Everything is given back by dropping it.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::RequestBody;
use super::connect::{Http1, Http2};
use super::health::ServerHealth;
use super::pool::Pool;
use super::server::{Http2Connection, Server};

/// A place on a connection to an upstream's server.
///
/// Dropped, it ends an exchange that is under way: an HTTP/1.1 connection closes, an HTTP/2 stream is reset by whoever
/// drops the answer. [`Lease::give_back`] keeps the connection.
pub(crate) struct Lease {
    pub(super) connection: Connection,
    pub(super) outstanding: Outstanding,
    pub(super) health: Arc<ServerHealth>,
    pub(super) place: Place,
    /// How long the answer's body may pause.
    pub(super) idle: Duration,
}

pub(super) enum Connection {
    Http1 {
        sender: Http1<RequestBody>,
        kept: bool,
    },
    Http2(Stream),
}

impl Connection {
    pub(super) fn http1(sender: Http1<RequestBody>, kept: bool) -> Self {
        Self::Http1 { sender, kept }
    }

    /// Whether the connection served a request before.
    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Http1 { kept, .. } => *kept,
            Self::Http2(stream) => stream.kept,
        }
    }

    /// Whether a byte of an answer came that cannot belong to an earlier one.
    pub(super) fn has_received(&self) -> bool {
        match self {
            Self::Http1 { sender, .. } => sender.watch.has_received(),
            // Every answer has its stream, and a stream without a head has no answer.
            Self::Http2(_) => false,
        }
    }
}

impl Lease {
    /// Keeps the connection, once it is ready for another request.
    pub(crate) fn give_back(self) {
        let Self {
            connection,
            outstanding,
            place,
            ..
        } = self;
        let server = Rc::clone(&outstanding.0);
        drop(outstanding);
        let mut sender = match connection {
            Connection::Http1 { sender, .. } => sender,
            // It never belonged to one request.
            Connection::Http2(_) => return,
        };
        if sender.http.is_ready() {
            server.keep(sender);
            return;
        }
        if sender.http.is_closed() {
            return;
        }
        // The answer is complete; the request's body, or the last bytes of the answer, may not be.
        spawn_local(async move {
            if let Ok(Ok(())) = timeout(MAX_UNREADY, sender.http.ready()).await {
                server.keep(sender);
            }
            drop(place);
        });
    }
}

/// Counts as a request under way on the worker.
pub(super) struct Place(Weak<Pool>);

impl Place {
    pub(super) fn take(pool: &Rc<Pool>) -> Option<Self> {
        if pool.leases.get() >= pool.max_leases {
            return None;
        }
        pool.leases.set(pool.leases.get() + 1);
        Some(Self(Rc::downgrade(pool)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.leases.set(pool.leases.get() - 1);
        }
    }
}

/// Counts as a request that the server has not answered to the end.
pub(super) struct Outstanding(Rc<Server>);

impl Outstanding {
    pub(super) fn enter(server: &Rc<Server>) -> Self {
        server.outstanding.set(server.outstanding.get() + 1);
        Self(Rc::clone(server))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.set(self.0.outstanding.get() - 1);
    }
}

/// The open connections of a server. Counted in atomics because a connection that may become a tunnel must be `Send`;
/// all of it is on one thread.
#[derive(Debug, Default)]
pub(super) struct Slots {
    open: AtomicUsize,
    /// Something became free, or an attempt to connect ended.
    pub(super) freed: Notify,
}

impl Slots {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Counts as an open connection as long as it lives: with the connection's socket.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Slot {
    pub(super) fn take(slots: &Arc<Slots>) -> Self {
        slots.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(slots))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }
}

/// Counts as a request on an HTTP/2 connection.
pub(super) struct Stream {
    server: Rc<Server>,
    connection: Rc<Http2Connection>,
    kept: bool,
}

impl Stream {
    pub(super) fn open(server: &Rc<Server>, connection: Rc<Http2Connection>, kept: bool) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self {
            server: Rc::clone(server),
            connection,
            kept,
        }
    }

    pub(super) fn sender(&self) -> Http2<RequestBody> {
        self.connection.sender()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.server.address.is_tls()
    }

    /// Whether the server said that it opens WebSockets over its HTTP/2 connections.
    pub(super) fn takes_websockets(&self) -> bool {
        self.connection.takes_websockets()
    }

    /// Whether the server broke a rule that HTTP does not know.
    pub(super) fn is_broken(&self) -> bool {
        self.connection.is_broken()
    }

    /// Lets no other request onto the connection.
    pub(super) fn retire(&self) {
        self.connection.retired.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection
            .streams
            .set(self.connection.streams.get() - 1);
        self.server.slots.freed.notify_waiters();
    }
}

const MAX_UNREADY: Duration = Duration::from_secs(1);
