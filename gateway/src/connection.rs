//! One connection, from its handshake to its end.
//! Long, because HTTP/1.1 and HTTP/2 end in the same ways, and are held beside each other.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use identity::Status;

use crate::Limits;
use crate::answer_body::{AnswerBody, InFlight};
use crate::code::Code;
use crate::connections::OpenConnection;
use crate::foreign::Foreign;
use crate::guarded_io::GuardedIo;
use crate::handle::{Flight, Handle};
use crate::hops::Hops;
use crate::lifetime::{Lifetime, Turn};
use crate::outbox::{Reader, TailClock, Tails};
use crate::pace::Pace;
use crate::peer::{Credential, Peer};
use crate::presented::Evidence;
use crate::proxied;
use crate::pure::authorize::View;
use crate::pure::tcp_route::TcpRoute;
use crate::record::{Outcome, Record};
use crate::request::{self, Connection};
use crate::shared::{Shared, now};
use crate::splice;
use crate::tls::{Accepted, Client, HandshakeFault, LINGER, TlsStream, discard};
use crate::tunnel::{self, Tunnel};
use crate::worker::Worker;

/// Serves a connection until it ends. What it does first and what it does then are boxed each by itself: a task takes as much
/// room as the largest thing that it ever does, and most of its life it waits.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, address: SocketAddr) {
    if let Some(serving) = establish(worker, tcp, address).boxed_local().await {
        serving.await;
    }
}

/// Finds out who is there; then serving it is what remains.
async fn establish(
    worker: Rc<Worker>,
    mut tcp: TcpStream,
    address: SocketAddr,
) -> Option<LocalBoxFuture<'static, ()>> {
    let started = Instant::now();
    let shared = Arc::clone(&worker.shared);
    let address = match proxied::source(&mut tcp, address, &shared.proxies).await {
        Ok(source) => source,
        Err(error) => {
            tracing::debug!(%address, %error, "a load balancer did not say whom it connects for");
            let fault = HandshakeFault::NotProxied;
            shared.metrics.handshake_refused(fault);
            shared.record(handshake_record(address, fault, started.elapsed()));
            return None;
        }
    };
    let Ok(local_address) = tcp.local_addr() else {
        // Only a connection that has ended has no address.
        return None;
    };
    // What costs little is done at once: then it is known who means it, should there be too many.
    let accepted = match shared.acceptor.greet(tcp).await {
        Ok(greeted) => worker.turnstile.pass(greeted.finish()).await,
        Err(fault) => Err(fault),
    };
    let Accepted {
        stream,
        client,
        untrusted,
        server_name,
        alpn,
    } = match accepted {
        Ok(accepted) => accepted,
        Err(fault) => {
            shared.metrics.handshake_refused(fault);
            shared.record(handshake_record(address, fault, started.elapsed()));
            return None;
        }
    };
    let Some(credential) = credential(&shared, client, untrusted) else {
        // The CA has been taken out of the configuration since the handshake began.
        let fault = HandshakeFault::UnknownIssuer;
        shared.metrics.handshake_refused(fault);
        shared.record(handshake_record(address, fault, started.elapsed()));
        return None;
    };
    shared.metrics.handshakes_finished.inc();
    shared.metrics.handshake_time.observe(started.elapsed());
    let tls_version = splice::tls_version(&stream);
    let peer = Peer {
        address,
        server_name,
        credential,
    };
    let issued = peer.issued();
    let not_after = peer.device().map(|device| device.validity().not_after);
    let handle = Arc::new(Handle::new());

    fail::fail_point!("gateway::accepted");
    // In the index first; the status is read after that, by each request.
    let entry = shared.connections.enter(
        peer.holder(),
        Arc::clone(&handle),
        OpenConnection {
            device: peer.name(),
            address,
            opened_at: now(),
        },
        peer.lineage(),
    );
    fail::fail_point!("gateway::entered");
    if worker.is_stopping() {
        handle.drain();
    }

    let retired_at_entry = issued.is_some_and(|issued| {
        shared.status.status(issued.index, issued.fingerprint) == Status::Retired
    });
    let limits = **shared.limits.load();
    let lifetime = Lifetime::new(Arc::clone(&handle), not_after, limits.drain);
    let connection = Rc::new(Connection {
        worker,
        peer,
        handle: Arc::clone(&handle),
        local_address,
        retired_at_entry,
        sighted: Cell::new(false),
        buckets: RefCell::default(),
        hops: Hops::default(),
        tunnel: RefCell::new(None),
        forwarded_for: OnceCell::new(),
        tls_version,
        was_asked_lately: Cell::new(false),
    });
    let protocol = serve_protocol(&connection, stream, alpn, lifetime);
    let serving = async move {
        protocol.await;
        if let Some(fault) = connection.handle.fault() {
            request::record_fault(&connection, fault);
        }
        // The socket is closed by now, so the entry says the truth when it goes.
        drop(entry);
    };
    Some(serving.boxed_local())
}

/// Serves what the handshake agreed on, until the connection's end.
fn serve_protocol(
    connection: &Rc<Connection>,
    stream: TlsStream,
    alpn: Option<Vec<u8>>,
    lifetime: Lifetime,
) -> LocalBoxFuture<'static, ()> {
    let connection = Rc::clone(connection);
    let shared = &connection.worker.shared;
    let handle = Arc::clone(&connection.handle);
    let Limits {
        patience,
        head_timeout,
        ..
    } = **shared.limits.load();
    let traffic = &shared.metrics.traffic;
    let view = shared.policy.view();
    if let Some(route) = tcp_route(&connection, &view) {
        let agreed = splice::Agreed::read(&stream, alpn);
        let io = GuardedIo::stream(stream, handle, patience, traffic);
        let serving = async move {
            splice::serve(&connection, io, lifetime, &route, view, agreed).await;
        };
        serving.boxed_local()
    } else if alpn.as_deref() == Some(b"h2") {
        let io = GuardedIo::http2(stream, handle, patience, traffic);
        serve_http2(connection, io, lifetime).boxed_local()
    } else {
        let io = GuardedIo::http1(stream, handle, head_timeout, patience, traffic);
        serve_http1(connection, io, lifetime).boxed_local()
    }
}

/// The TCP route that the server name of the handshake chooses.
fn tcp_route(connection: &Connection, view: &View) -> Option<Arc<TcpRoute>> {
    let name = connection.peer.server_name.as_deref()?;
    view.snapshot().tcp_routes.find(name).map(Arc::clone)
}

/// Reads what a client proved. `None`: by an anchor that is none any more.
fn credential(
    shared: &Shared,
    client: Option<Client>,
    untrusted: Option<HandshakeFault>,
) -> Option<Credential> {
    let client = match (client, untrusted) {
        (Some(client), _) => client,
        // Where the acceptor lets clients go without one.
        (None, Some(fault)) => return Some(Credential::Untrusted(fault)),
        (None, None) => return Some(Credential::Anonymous),
    };
    let evidence = Evidence {
        certificate: client.certificate,
        intermediates: client.intermediates,
        anchors: client.anchors,
        at: now(),
    };
    match client.foreign {
        None => Some(Credential::read(
            evidence,
            &shared.serial_key,
            shared.status.fingerprint_key(),
        )),
        Some(voucher) => {
            let view = shared.policy.view();
            let read = Foreign::read(evidence, voucher, view.foreign())?;
            Some(read.map_or_else(Credential::Unreadable, Credential::Foreign))
        }
    }
}

async fn serve_http1(connection: Rc<Connection>, mut io: GuardedIo, mut lifetime: Lifetime) {
    let handle = Arc::clone(&connection.handle);
    let (ended, read_ahead) = loop {
        let (until, read_ahead);
        (until, io, read_ahead) = converse(&connection, io, &mut lifetime).boxed_local().await;
        match until {
            Until::Cut => break (None, read_ahead),
            Until::Ended(ended) => break (Some(ended), read_ahead),
            Until::Quiet => {}
        }
        match wait(&mut io, &handle, &mut lifetime).boxed_local().await {
            Waited::More => {}
            Waited::Cut => break (None, read_ahead),
            Waited::Over => break (Some(Ok(())), read_ahead),
            // Nobody waits for an answer.
            Waited::Broken => return,
        }
    };
    let tunnel = connection.tunnel.borrow_mut().take();
    match (ended, tunnel) {
        (None, _) => end(&handle, io).boxed_local().await,
        (Some(Ok(())), Some(tunnel)) => {
            carry(&connection, *tunnel, io, read_ahead, lifetime)
                .boxed_local()
                .await;
        }
        (Some(Ok(())), None) => close(io).boxed_local().await,
        (Some(Err(error)), _) => {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Carries the bytes of a tunnel that a connection became; `read_ahead` came before them.
async fn carry(
    connection: &Connection,
    tunnel: Tunnel,
    mut io: GuardedIo,
    read_ahead: Bytes,
    mut lifetime: Lifetime,
) {
    let handle = &connection.handle;
    let _flight = Flight::enter(handle);
    let patience = connection.worker.shared.limits.load().patience;
    let Tunnel {
        upstream,
        lease: _lease,
        audit,
        ..
    } = tunnel;
    let before = io.carried();
    let ended = {
        let spliced = async {
            let mut upstream = tunnel::upstream(upstream, patience).await?;
            // The watcher lets nothing pass between the request and its answer; what came after the
            // answer belongs to the tunnel.
            upstream.write_all(&read_ahead).await?;
            tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, SPLICE, SPLICE).await
        };
        let mut spliced = pin!(spliced);
        poll_fn(|cx| match lifetime.turn(cx) {
            Turn::End => Poll::Ready(None),
            // A tunnel has no messages to finish; it has the time that a connection has.
            Turn::Finish | Turn::Go => spliced.as_mut().poll(cx).map(Some),
        })
        .await
    };
    if ended.is_none() {
        handle.end_with_reset();
    }
    if let Some(mut audit) = audit {
        let early = read_ahead.len() as u64;
        let ending = splice::ending(handle, ended.as_ref());
        audit.end_carried(before, io.carried(), early, ending);
    }
}

/// How long HTTP went on.
enum Until {
    Cut,
    /// Nothing is on its way.
    Quiet,
    Ended(Result<(), hyper::Error>),
}

/// What a quiet connection waited for.
enum Waited {
    More,
    Cut,
    Over,
    Broken,
}

/// Speaks HTTP/1.1 until the connection is cut or ends, or nothing has been on its way for a while. With what was read and
/// belongs to the tunnel that comes next.
async fn converse(
    connection: &Rc<Connection>,
    io: GuardedIo,
    lifetime: &mut Lifetime,
) -> (Until, GuardedIo, Bytes) {
    let handle = &connection.handle;
    let calm = io.calm();
    // Boxed, so that a quiet connection does not carry the room for it.
    let mut http = Box::new(
        http1::Builder::new()
            // The watcher has the deadline; this one would also end idle connections.
            .header_read_timeout(None)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(
                TokioIo::new(io),
                Requests {
                    connection: Rc::clone(connection),
                    streams: None,
                },
            ),
    );
    let mut first_request = None;
    let mut look = Box::pin(sleep(QUIET));
    let until = poll_fn(|cx| {
        match lifetime.turn(cx) {
            Turn::End => return Poll::Ready(Until::Cut),
            // The first request is on its way, for which the connection was made a moment ago.
            Turn::Finish if handle.is_draining() && !handle.was_asked() => {
                first_request = Some(Box::pin(sleep(FIRST_REQUEST)));
            }
            // A retired device's idle connection may just be used: its last answer will say that it was the
            // last one.
            Turn::Finish if handle.is_draining() || handle.is_in_flight() => {
                Pin::new(&mut *http).graceful_shutdown();
            }
            Turn::Finish | Turn::Go => {}
        }
        if let Some(waiting) = &mut first_request
            && waiting.as_mut().poll(cx).is_ready()
        {
            first_request = None;
            if !handle.was_asked() {
                Pin::new(&mut *http).graceful_shutdown();
            }
        }
        if let Poll::Ready(ended) = http.poll_without_shutdown(cx) {
            return Poll::Ready(Until::Ended(ended));
        }
        while look.as_mut().poll(cx).is_ready() {
            let was_asked = connection.was_asked_lately.take();
            if !was_asked && !handle.is_in_flight() && !handle.is_finishing() && calm.is_calm() {
                return Poll::Ready(Until::Quiet);
            }
            look.as_mut().reset(tokio::time::Instant::now() + QUIET);
        }
        Poll::Pending
    })
    .await;
    let parts = http.into_parts();
    let mut io = parts.io.into_inner();
    let mut read_ahead = parts.read_buf;
    if matches!(until, Until::Quiet) {
        io.take_back(std::mem::take(&mut read_ahead));
    }
    (until, io, read_ahead)
}

/// Keeps a connection on which nothing is on its way, and for it no buffer and nothing of HTTP.
async fn wait(io: &mut GuardedIo, handle: &Handle, lifetime: &mut Lifetime) -> Waited {
    let mut first_request = None;
    poll_fn(|cx| {
        match lifetime.turn(cx) {
            Turn::End => return Poll::Ready(Waited::Cut),
            Turn::Finish if handle.is_draining() => {
                let patience = if handle.was_asked() {
                    Duration::ZERO
                } else {
                    FIRST_REQUEST
                };
                first_request = Some(Box::pin(sleep(patience)));
            }
            Turn::Finish | Turn::Go => {}
        }
        match io.poll_wait(cx) {
            Poll::Ready(Ok(true)) => return Poll::Ready(Waited::More),
            Poll::Ready(Ok(false)) => return Poll::Ready(Waited::Over),
            Poll::Ready(Err(_)) if handle.is_cut() => return Poll::Ready(Waited::Cut),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                return Poll::Ready(Waited::Broken);
            }
            Poll::Pending => {}
        }
        if let Some(waiting) = &mut first_request
            && waiting.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Waited::Over);
        }
        Poll::Pending
    })
    .await
}

async fn serve_http2(connection: Rc<Connection>, io: GuardedIo, mut lifetime: Lifetime) {
    let handle = Arc::clone(&connection.handle);
    let mut tails = TailClock::new(connection.worker.shared.limits.load().patience);
    let streams = Streams {
        tasks: Rc::default(),
        next: Rc::default(),
        turn: Rc::default(),
        tails: Rc::clone(tails.tails()),
        connection: Rc::clone(&connection),
    };
    let requests = Requests {
        connection,
        streams: Some(streams.clone()),
    };
    let http = http2::Builder::new(streams.clone())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        // For WebSockets; `request` refuses whatever else is asked for in this way.
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(io), requests);
    let mut http = pin!(http);
    let ended = poll_fn(|cx| {
        match lifetime.turn(cx) {
            Turn::End => return Poll::Ready(None),
            Turn::Finish => http.as_mut().graceful_shutdown(),
            Turn::Go => {}
        }
        let polled = http.as_mut().poll(cx).map(Some);
        streams.forget_ended();
        for fault in handle.take_resets() {
            request::record_fault(&streams.connection, fault);
        }
        if polled.is_pending() && tails.is_overdue(cx) {
            handle.report_fault(Code::AnswerNotRead);
            handle.cut();
            return Poll::Ready(None);
        }
        polled
    })
    .await;
    match ended {
        None => {
            if handle.is_in_flight() {
                handle.end_with_reset();
            }
            // GOAWAY, and a reset of each stream; then the socket goes with `http`.
            streams.abort();
            http.as_mut().graceful_shutdown();
            let _ = timeout(FAREWELL, http).await;
        }
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::debug!(%error, "connection ended");
            if let Some(fault) = broken_rule(&error) {
                handle.report_fault(fault);
            }
        }
    }
    streams.abort();
}

/// What the HTTP/2 implementation ended a connection for, if the peer broke a rule: not if it went away.
fn broken_rule(error: &hyper::Error) -> Option<Code> {
    let fault = error.source()?.downcast_ref::<h2::Error>()?;
    let reason = fault.reason().filter(|_| fault.is_library())?;
    if reason == h2::Reason::ENHANCE_YOUR_CALM {
        return Some(Code::TooManyFrames);
    }
    (reason != h2::Reason::NO_ERROR).then_some(Code::MalformedRequest)
}

/// Ends a connection that was cut: abruptly if something is on its way, cleanly if it is idle.
async fn end(handle: &Handle, mut io: GuardedIo) {
    if handle.is_in_flight() {
        handle.end_with_reset();
    } else {
        // A peer that does not take the goodbye goes without.
        let _ = timeout(FAREWELL, io.shutdown()).await;
    }
}

/// Ends a connection after its last answer, which must arrive although the peer may still be sending.
async fn close(mut io: GuardedIo) {
    let closed = async {
        io.shutdown().await?;
        discard(io.tcp(), MAX_DISCARDED).await
    };
    // However it ends, the connection is closed now.
    let _ = timeout(LINGER, closed).await;
}

/// Hands requests to the request path.
struct Requests {
    connection: Rc<Connection>,
    /// Over HTTP/2.
    streams: Option<Streams>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Response<AnswerBody>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.connection.was_asked_lately.set(true);
        let flight = Flight::enter(&self.connection.handle);
        let reader = (self.streams.as_ref()).map(|streams| streams.begin(Rc::clone(&flight)));
        let flight = InFlight { flight, reader };
        let admitted = request::admit(&self.connection, &mut request);
        request::answer(Rc::clone(&self.connection), flight, request, admitted).boxed_local()
    }
}

type Turns = Rc<Cell<Option<Rc<Reader>>>>;

/// The tasks of an HTTP/2 connection's streams, which end with it.
#[derive(Clone)]
struct Streams {
    tasks: Rc<RefCell<JoinSet<()>>>,
    /// Of the request that has just begun; its stream is executed next.
    next: Turns,
    /// Of the stream whose turn it is; what is executed meanwhile sends to its device.
    turn: Turns,
    tails: Rc<Tails>,
    connection: Rc<Connection>,
}

impl Streams {
    fn begin(&self, flight: Rc<Flight>) -> Rc<Reader> {
        let reader = Reader::new(&self.tails, flight);
        self.next.set(Some(Rc::clone(&reader)));
        reader
    }

    /// Gives back what the tasks of streams that have ended still take.
    fn forget_ended(&self) {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
    }

    fn abort(&self) {
        self.tasks.borrow_mut().abort_all();
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let reader = self.next.take();
        if self.connection.handle.is_cut() {
            // Dropped, it is reset.
            return;
        }
        if reader.is_some() && request::is_beyond_refusal(&self.connection) {
            request::record_fault(&self.connection, Code::TooManyRequests);
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        if let Some(reader) = reader {
            let (turn, connection) = (Rc::clone(&self.turn), Rc::clone(&self.connection));
            tasks.spawn_local(drive(stream, reader, turn, connection));
        } else if let Some(reader) = self.turn.take() {
            let sending = Rc::clone(&reader);
            let sender = tasks.spawn_local(async move {
                stream.await;
                sending.line().sender_ended();
            });
            reader.line().sender_began(sender);
        } else {
            tasks.spawn_local(stream);
        }
    }
}

/// Runs a stream to its end, or until its device hardly takes any of the answer: then it is reset. A tunnel that it
/// becomes is part of it.
async fn drive(
    stream: impl Future<Output = ()>,
    reader: Rc<Reader>,
    turn: Turns,
    connection: Rc<Connection>,
) {
    let mut stream = pin!(stream);
    let mut pace = Pace::of_reader(connection.worker.shared.limits.load().patience);
    poll_fn(|cx| {
        turn.set(Some(Rc::clone(&reader)));
        let polled = stream.as_mut().poll(cx);
        turn.take();
        if polled.is_ready() {
            return polled;
        }
        if !reader.waits_for_device() {
            pace.pause();
            return Poll::Pending;
        }
        pace.moved(reader.take_moved());
        if pace.is_too_slow(cx) {
            request::record_fault(&connection, Code::AnswerNotRead);
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    if let Some(tunnel) = reader.line().take() {
        tunnel::carry(&connection, reader.line(), *tunnel).await;
    }
    reader.task_ended();
}

fn handshake_record(address: SocketAddr, fault: HandshakeFault, duration: Duration) -> Arc<Record> {
    Arc::new(Record {
        at: now(),
        request_id: None,
        address,
        device: None,
        serial: None,
        on_behalf_of: None,
        reported: None,
        unregistered: None,
        server_name: None,
        host: None,
        method: None,
        path: None,
        outcome: Outcome::HandshakeRefused(fault),
        status: None,
        duration,
    })
}

/// Of a body that nobody wants, so that its sender does not get a reset before it has read the answer.
const MAX_DISCARDED: usize = 8 * 1024 * 1024;
/// Room for a head of 16 KiB and what follows it.
const MAX_BUFFER: usize = 32 * 1024;
/// Per direction of a tunnel.
const SPLICE: usize = 16 * 1024;
/// How long a cut connection may take to say goodbye.
const FAREWELL: Duration = Duration::from_millis(100);
/// How long a new connection may take to its first request when the gateway stops.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// After so long without a request, and at most twice as long, a connection gives its buffers back.
const QUIET: Duration = Duration::from_millis(500);
const MAX_STREAMS: u32 = 100;
const MAX_HEADER_LIST: u32 = 16 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const MAX_SEND_BUFFER: usize = 64 * 1024;
const MAX_RESETS: usize = 20;
