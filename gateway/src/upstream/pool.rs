//! Kept connections to upstreams. Each worker has its own; nothing here is shared between threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::watched_io::{Watch, WatchedIo};
use super::{RequestBody, UpstreamFault};
use crate::Limits;
use crate::metrics::Metrics;
use crate::pure::route::{Route, UpstreamAddress};
use crate::refusal::Refusal;

/// How long upstreams may take.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// To begin an answer, since the request's body last moved.
    pub first_byte: Duration,
}

/// The kept connections of one worker.
pub(crate) struct Pool {
    idle: RefCell<HashMap<UpstreamAddress, Vec<Idle>>>,
    /// Whose turn it is, by route.
    turns: RefCell<HashMap<RouteKey, usize>>,
    /// Upstreams that lately did not accept a connection, and when.
    failed: RefCell<HashMap<UpstreamAddress, Instant>>,
    timeouts: UpstreamTimeouts,
    patience: Duration,
    leases: Cell<usize>,
    max_leases: usize,
}

/// A route is known by where it is in memory. After a reload it begins anew, which does no harm.
type RouteKey = *const Route;

struct Idle {
    sender: Sender,
    since: Instant,
}

/// The requesting end of a connection.
struct Sender {
    http: SendRequest<RequestBody>,
    watch: Arc<Watch>,
}

/// A connection that one request has for itself.
///
/// Dropped, it closes the connection, and with it an exchange under way; [`Lease::give_back`] keeps it.
pub(crate) struct Lease {
    sender: Sender,
    address: UpstreamAddress,
    place: Place,
    kept: bool,
}

/// Counts as a request under way until it is dropped.
struct Place(Weak<Pool>);

impl Place {
    fn take(pool: &Rc<Pool>) -> Option<Self> {
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

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Rc<Self> {
        let pool = Rc::new(Self {
            idle: RefCell::default(),
            turns: RefCell::default(),
            failed: RefCell::default(),
            timeouts: limits.upstream,
            patience: limits.patience,
            leases: Cell::new(0),
            max_leases: limits.max_connections,
        });
        spawn_local(close_old(Rc::downgrade(&pool)));
        pool
    }

    pub(crate) fn timeouts(&self) -> UpstreamTimeouts {
        self.timeouts
    }

    /// How long a request's body may hardly move; see [`Pace`](crate::pace::Pace).
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A connection to the upstream whose turn it is, or to the next one that accepts.
    ///
    /// Upstreams that lately did not accept come last. If `again`, the request is sent once more: over a new
    /// connection, and in the same turn.
    pub(super) async fn lease(
        self: &Rc<Self>,
        metrics: &Metrics,
        route: &Route,
        again: bool,
    ) -> Result<Lease, Refusal> {
        let place = Place::take(self).ok_or(Refusal::Overloaded)?;
        let mut fault = UpstreamFault::Connect;
        for address in self.in_turn(route, again) {
            if !again && let Some(sender) = self.take(address) {
                return Ok(Lease::new(sender, address, place, true));
            }
            match self.connect(address).await {
                Ok(sender) => {
                    metrics.upstream_connections.inc();
                    self.failed.borrow_mut().remove(address);
                    return Ok(Lease::new(sender, address, place, false));
                }
                Err(error) => {
                    tracing::debug!(%address, ?error, "upstream does not accept a connection");
                    self.failed
                        .borrow_mut()
                        .insert(address.clone(), Instant::now());
                    fault = error;
                }
            }
        }
        Err(Refusal::Upstream(fault))
    }

    /// The route's upstreams in the order in which to try them.
    fn in_turn<'r>(
        &self,
        route: &'r Route,
        again: bool,
    ) -> impl Iterator<Item = &'r UpstreamAddress> + use<'r> {
        let upstreams = &route.upstreams;
        let mut turns = self.turns.borrow_mut();
        if turns.len() > MAX_TURNS {
            turns.clear();
        }
        let turn = turns.entry(route).or_default();
        let first = turn.wrapping_sub(usize::from(again)) % upstreams.len();
        if !again {
            *turn = turn.wrapping_add(1);
        }
        let failed = self.failed.borrow();
        let lately = |address: &UpstreamAddress| {
            failed
                .get(address)
                .is_some_and(|since| since.elapsed() < AVOID_FOR)
        };
        let (healthy, doubtful): (Vec<_>, Vec<_>) = (upstreams[first..].iter())
            .chain(&upstreams[..first])
            .partition(|address| !lately(address));
        healthy.into_iter().chain(doubtful)
    }

    /// The connection that was used last: it is the least likely to have been closed by the upstream.
    ///
    /// One whose upstream has closed it, or said more than it was asked for, is dropped. HTTP would see that, too,
    /// but on a busy worker not before the next request is sent, whose answer it would take the bytes for.
    fn take(&self, address: &UpstreamAddress) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(address)?;
        while let Some(candidate) = kept.pop() {
            let sender = &candidate.sender;
            if sender.http.is_ready()
                && candidate.since.elapsed() < MAX_IDLE
                && sender.watch.is_quiet()
            {
                return Some(candidate.sender);
            }
        }
        None
    }

    fn keep(&self, address: UpstreamAddress, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(address).or_default();
        if kept.len() < MAX_KEPT {
            kept.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }

    async fn connect(&self, address: &UpstreamAddress) -> Result<Sender, UpstreamFault> {
        let connecting = async {
            let addresses = tokio::net::lookup_host((address.host(), address.port()))
                .await
                .map_err(|_| UpstreamFault::Name)?;
            let mut last = UpstreamFault::Name;
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(tcp) => return Ok(tcp),
                    Err(_) => last = UpstreamFault::Connect,
                }
            }
            Err(last)
        };
        let tcp = timeout(self.timeouts.connect, connecting)
            .await
            .map_err(|_| UpstreamFault::ConnectTimeout)??;
        handshake(tcp, self.patience).await.map_err(|error| {
            tracing::debug!(%error, "upstream connection failed at once");
            UpstreamFault::Connect
        })
    }
}

impl Lease {
    fn new(sender: Sender, address: &UpstreamAddress, place: Place, kept: bool) -> Self {
        Self {
            sender,
            address: address.clone(),
            place,
            kept,
        }
    }

    pub(super) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender.http
    }

    /// What is known of the connection's bytes.
    pub(super) fn watch(&self) -> &Watch {
        &self.sender.watch
    }

    /// Whether the connection served a request before.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Keeps the connection, once it is ready for another request.
    pub(crate) fn give_back(self) {
        let Self {
            mut sender,
            address,
            place,
            ..
        } = self;
        let pool = place.0.clone();
        if sender.http.is_ready() {
            if let Some(pool) = pool.upgrade() {
                pool.keep(address, sender);
            }
            return;
        }
        if sender.http.is_closed() {
            return;
        }
        // The answer is complete; the request's body, or the last bytes of the answer, may not be.
        spawn_local(async move {
            if let Ok(Ok(())) = timeout(MAX_UNREADY, sender.http.ready()).await
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(address, sender);
            }
        });
    }
}

async fn handshake(tcp: TcpStream, patience: Duration) -> io::Result<Sender> {
    tcp.set_nodelay(true)?;
    let (io, watch) = WatchedIo::new(tcp, patience);
    let (http, connection) = http1::Builder::new()
        .max_headers(MAX_RESPONSE_HEADERS)
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(io))
        .await
        .map_err(io::Error::other)?;
    spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Sender { http, watch })
}

/// Closes connections that nobody has used for long, as long as the pool lives.
async fn close_old(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(MAX_IDLE / 2).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        pool.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| !idle.sender.http.is_closed() && idle.since.elapsed() < MAX_IDLE);
            !kept.is_empty()
        });
    }
}

/// How long an upstream that does not accept connections is tried last.
const AVOID_FOR: Duration = Duration::from_secs(10);
/// Routes whose turns are remembered; reloads leave old ones behind.
const MAX_TURNS: usize = 4096;
const MAX_IDLE: Duration = Duration::from_secs(30);
const MAX_UNREADY: Duration = Duration::from_secs(1);
/// Kept per upstream and worker.
const MAX_KEPT: usize = 256;
const MAX_RESPONSE_HEADERS: usize = 128;
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// A connection that is kept, and its other end.
    async fn kept(pool: &Pool) -> (UpstreamAddress, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let address = format!("http://127.0.0.1:{port}");
        let address: UpstreamAddress = address.parse().expect("an upstream");
        let mut sender = pool.connect(&address).await.expect("connected");
        sender.http.ready().await.expect("ready");
        let (upstream, _) = listener.accept().expect("accepted");
        pool.keep(address.clone(), sender);
        (address, upstream)
    }

    #[tokio::test]
    async fn what_was_said_too_early_is_nobodys_answer() {
        let local = tokio::task::LocalSet::new();
        let test = local.run_until(async {
            let pool = Pool::new(&Limits::default());
            let (address, _upstream) = kept(&pool).await;
            assert!(pool.take(&address).is_some());

            // Without an await from here on: the connection's task does not get its turn.
            let (address, mut upstream) = kept(&pool).await;
            let early = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
            upstream.write_all(early).expect("written");
            assert!(pool.take(&address).is_none());

            let (address, upstream) = kept(&pool).await;
            drop(upstream);
            assert!(pool.take(&address).is_none());
        });
        test.await;
    }
}
