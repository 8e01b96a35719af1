//! The gateway as its owner sees it: bound, started, fed, stopped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use identity::feed::{Batch, Sighting};
use identity::status::FingerprintKey;
use identity::{Class, Fingerprint, Index, Name, SerialKey, Status};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::assertion::AssertionSigner;
use crate::connections::{Connections, OpenConnection};
use crate::exchange::{Exchange, Telemetry};
use crate::feed::{self, Applied};
use crate::foreign;
use crate::lately::Lately;
use crate::metrics::Metrics;
use crate::pure::authorize::Snapshot;
use crate::pure::foreign::ForeignAnchors;
use crate::pure::upstream::UpstreamTimeouts;
use crate::rate_limits::RateLimits;
use crate::record::Record;
use crate::shared::{Policy, Shared, now};
use crate::status_table::StatusTable;
use crate::tls::Acceptor;
use crate::upstream::Health;
use crate::worker::{self, Phase};

/// What a gateway is made of.
pub struct Options {
    /// The gateway's name, in acknowledgements.
    pub name: Name,
    /// Where it listens. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Listening sockets that were handed over to the process; every worker accepts from each of them.
    pub inherited: Vec<TcpListener>,
    /// How many threads serve.
    pub workers: usize,
    /// Finishes handshakes: clients required, and only devices.
    pub acceptor: Arc<Acceptor>,
    /// Turns serials into registry indexes.
    pub serial_key: Arc<SerialKey>,
    /// Signs what upstreams are told where a route asks for assertions.
    pub assertions: Arc<AssertionSigner>,
    /// The routes and names to begin with.
    pub snapshot: Snapshot,
    /// Other CAs whose devices may connect, too.
    pub foreign: Arc<ForeignAnchors>,
    /// How old the status table may be for anybody to pass.
    pub max_staleness: Duration,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// Networks of load balancers: a connection from there begins with a header of the PROXY protocol, version 2,
    /// that says for whom it is. From elsewhere none is taken.
    pub proxies: Vec<IpNet>,
    /// Takes audit records; what finds no room is dropped and counted.
    pub records: mpsc::Sender<Arc<Record>>,
    /// What is told of exchanges.
    pub telemetry: Telemetry,
    /// Takes exchanges that have ended; what finds no room is dropped and counted.
    pub exchanges: mpsc::Sender<Exchange>,
    /// Takes sightings; what finds no room is dropped and counted.
    pub sightings: mpsc::Sender<Sighting>,
}

/// Bounds and deadlines of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections per worker, and as many requests under way; further ones are closed or refused at once.
    pub max_connections: usize,
    /// Open connections with one certificate, over all workers; one more ends the oldest idle one.
    pub max_connections_per_device: usize,
    /// Open connections without a certificate from one address (IPv6: /64); one more ends the oldest idle one.
    pub max_connections_per_address: usize,
    /// How long a request's head may take, from its first byte.
    pub head_timeout: Duration,
    /// Requests under way with one certificate, over all connections; further ones are refused, and those beyond
    /// four times as many are reset.
    pub max_requests_per_device: usize,
    /// The same without a certificate from one address.
    pub max_requests_per_address: usize,
    /// How long a device may take to send 1 KiB of a request's body while it is waited for. Ten times as long is
    /// what it may take for 10 KiB of an answer, what an upstream may take for as much of a body, and what both
    /// directions of an exchange may be silent together once the answer has begun.
    pub patience: Duration,
    /// How long a connection may take to finish once its certificate was retired.
    pub drain: Duration,
    /// How long upstreams may take for which nothing else is said.
    pub upstream: UpstreamTimeouts,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            max_connections_per_device: 128,
            max_connections_per_address: 1024,
            head_timeout: Duration::from_secs(10),
            max_requests_per_device: 128,
            max_requests_per_address: 1024,
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(60),
            upstream: UpstreamTimeouts::default(),
        }
    }
}

/// Listening sockets, not yet served.
#[derive(Debug)]
pub struct Bound {
    /// One set per worker.
    sockets: Vec<Vec<TcpListener>>,
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    name: Name,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    name: Name,
    addresses: Vec<SocketAddr>,
    phase: watch::Sender<Phase>,
    /// Ends when every worker has.
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

/// Why a gateway could not be bound or started.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A socket that was handed over cannot be used.
    #[error("cannot use a socket that was handed over: {0}")]
    Inherited(io::Error),
    /// There is no random key for fingerprints.
    #[error("the random source failed")]
    Random,
    /// A thread or its runtime cannot be made.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

impl Gateway {
    /// Binds every address for every worker, so that a mistake shows before anything is served.
    pub fn bind(options: Options, registry: &mut Registry) -> Result<Bound, StartFault> {
        // From here on no time goes backwards.
        now();
        let workers = options.workers.max(1);
        let mut addresses = Vec::with_capacity(options.listen.len());
        let mut sockets: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for wanted in options.listen {
            let mut address = wanted;
            probe(address).map_err(|error| StartFault::Bind { address, error })?;
            for sockets in &mut sockets {
                let fault = |error| StartFault::Bind { address, error };
                let socket = listen(address).map_err(fault)?;
                // With port 0, the first socket has chosen the port for the others.
                address = socket.local_addr().map_err(fault)?;
                sockets.push(socket);
            }
            addresses.push(address);
        }
        for socket in options.inherited {
            let address = socket.local_addr().map_err(StartFault::Inherited)?;
            socket
                .set_nonblocking(true)
                .map_err(StartFault::Inherited)?;
            for sockets in &mut sockets {
                sockets.push(socket.try_clone().map_err(StartFault::Inherited)?);
            }
            addresses.push(address);
        }
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| StartFault::Random)?;
        let status = Arc::new(StatusTable::new(
            FingerprintKey::new(&key),
            options.max_staleness,
        ));
        let health = Arc::new(Health::default());
        health.learn(&options.snapshot);
        Ok(Bound {
            sockets,
            addresses,
            shared: Arc::new(Shared {
                acceptor: options.acceptor,
                serial_key: options.serial_key,
                assertions: options.assertions,
                policy: Policy::new(options.snapshot, options.foreign),
                rates: RateLimits::new(),
                metrics: Metrics::register(registry, Arc::clone(&status), Arc::clone(&health)),
                health,
                status,
                connections: Arc::new(Connections::new(
                    options.limits.max_connections_per_device,
                    options.limits.max_connections_per_address,
                )),
                limits: ArcSwap::from_pointee(options.limits),
                proxies: options.proxies,
                telemetry: ArcSwap::from_pointee(options.telemetry),
                seen_to: AtomicU64::new(now().0),
                records: options.records,
                exchanges: options.exchanges,
                sightings: options.sightings,
                lately: Lately::new(),
            }),
            name: options.name,
        })
    }

    /// Where it listens, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Replaces routes and names for every request from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.health.learn(&snapshot);
        self.shared.policy.publish(snapshot);
        self.shared.health.publish();
    }

    /// Replaces other CAs' anchors and lists for every request from now on, and ends the connections of devices that do
    /// not stand by them. Returns how many.
    pub fn publish_foreign(&self, anchors: Arc<ForeignAnchors>) -> usize {
        foreign::publish(&self.shared, anchors)
    }

    /// Ends the connections of other CAs' devices that do not stand any more because a list or a CA has ended since this
    /// was last asked for: to be asked every second or so. Returns how many.
    pub fn end_those_who_fell(&self) -> usize {
        foreign::end_with_time(&self.shared)
    }

    /// Replaces bounds and deadlines, for connections and requests that begin from now on. What each worker was made
    /// for stays: its room for connections to upstreams and their deadlines.
    pub fn adjust(&self, limits: Limits, max_staleness: Duration) {
        let shared = &self.shared;
        shared.connections.set_limits(
            limits.max_connections_per_device,
            limits.max_connections_per_address,
        );
        shared.status.set_max_staleness(max_staleness);
        shared.limits.store(Arc::new(limits));
    }

    /// Replaces what is told of exchanges that begin from now on.
    pub fn observe(&self, telemetry: Telemetry) {
        self.shared.telemetry.store(Arc::new(telemetry));
    }

    /// The bounds and deadlines in force.
    pub fn limits(&self) -> Limits {
        **self.shared.limits.load()
    }

    /// Puts a batch of the feed in force. When this returns, no further request of an ended certificate is
    /// permitted, and its connections are told to end with what they have under way; [`Applied::finish`] waits
    /// until they are gone, and makes the acknowledgement.
    pub fn apply(&self, batch: &Batch) -> Applied {
        feed::apply(&self.shared, &self.name, batch)
    }

    /// Notes that the registry was heard from at `at`, and that all it said until then is applied.
    pub fn heartbeat(&self, at: Instant) {
        self.shared.status.heartbeat(at);
    }

    /// How long ago the registry was heard from; `None` if it never was. Over [`DEGRADED_AFTER`] the gateway
    /// counts as degraded; past the maximum of the options nobody passes.
    pub fn staleness(&self) -> Option<Duration> {
        self.shared.status.age(Instant::now())
    }

    /// What this gateway knows of a certificate, and since it may have been altered, of exactly that one.
    pub fn status(&self, index: Index, certificate: &Fingerprint) -> (Status, Class) {
        let table = &self.shared.status;
        let fingerprint = table.fingerprint_key().of(certificate);
        (table.status(index, fingerprint), table.class(index))
    }

    /// The open connections of a certificate.
    pub fn connections(&self, index: Index) -> Vec<OpenConnection> {
        self.shared.connections.descriptions(index)
    }

    /// Stops: no new connections, requests under way may finish until `deadline`, then everything ends.
    pub async fn stop(&self, deadline: Duration) {
        self.phase.send_replace(Phase::Stopping);
        self.shared.connections.for_each(|handle| handle.drain());
        let mut ended = self.ended.lock().await;
        if tokio::time::timeout(deadline, ended.recv()).await.is_err() {
            self.shared.connections.for_each(|handle| {
                handle.cut();
            });
            // Handshakes and connections that do not end by themselves end with their worker's runtime.
            let _ = tokio::time::timeout(AFTER_DEADLINE, ended.recv()).await;
        }
    }
}

/// Over this, a gateway that hears nothing from the registry is degraded.
pub const DEGRADED_AFTER: Duration = Duration::from_secs(30);

const AFTER_DEADLINE: Duration = Duration::from_secs(1);

impl Bound {
    /// Where it will listen, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes a part of the registry's snapshot, before anybody is served.
    pub fn load(&self, batch: &Batch) {
        feed::set(&self.shared, batch);
    }

    /// Notes that the registry was heard from at `at`, and that all it said until then is loaded.
    pub fn heartbeat(&self, at: Instant) {
        self.shared.status.heartbeat(at);
    }

    /// Starts one thread per worker.
    pub fn start(self) -> Result<Gateway, StartFault> {
        let (phase, receiver) = watch::channel(Phase::Serving);
        let (running, ended) = mpsc::channel(1);
        for (number, sockets) in self.sockets.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let phase = receiver.clone();
            let running: mpsc::Sender<()> = running.clone();
            thread::Builder::new()
                .name(format!("gateway-{number}"))
                .spawn(move || {
                    if let Err(error) = work(shared, sockets, phase) {
                        tracing::error!(%error, "a worker of the gateway could not run");
                    }
                    drop(running);
                })
                .map_err(StartFault::Worker)?;
        }
        Ok(Gateway {
            shared: self.shared,
            name: self.name,
            addresses: self.addresses,
            phase,
            ended: tokio::sync::Mutex::new(ended),
        })
    }
}

/// A worker's thread.
fn work(
    shared: Arc<Shared>,
    sockets: Vec<TcpListener>,
    phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let outcome = runtime.block_on(worker::run(shared, sockets, phase));
    // A name that is still being resolved keeps nobody waiting.
    runtime.shutdown_background();
    outcome
}

/// Fails if somebody listens there already: sockets that share a port would not notice.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = socket(address)?;
    socket.bind(&address.into())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Before anybody is queued.
    worker::prepare(SockRef::from(&socket))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

const BACKLOG: i32 = 4096;
