//! The composition root: builds every part from the configuration, joins them, and takes them down in order.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ca::Authority;
use gateway::tls::{Acceptor, AcceptorOptions, Clients, ServerCertificate, Versions};
use gateway::{Gateway, IdentityHeader, Limits, Record, Route, RouteTable, Snapshot};
use identity::chain::Anchors;
use identity::{Kind, Name};
use prometheus_client::registry::Registry;
use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::admin::client::SOCKET;
use crate::admin::server::{self as admin, Admin, AdminListener};
use crate::config::{Config, GatewayConfig};
use crate::decisions::Decisions;
use crate::enrollment::{self, Enrollment};
use crate::feed::{self, Applied, Feed};
use crate::health::{self, Health};
use crate::metrics::Metrics;
use crate::receipts::Receipts;
use crate::server_certificate::{self, Renewal};
use crate::{alarm, files, http_server, upstream};

/// Everything, running.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    /// Where the built-in upstream is, if it runs.
    pub(crate) builtin_upstream: Option<SocketAddr>,
    data: PathBuf,
    gateway: Option<Arc<Gateway>>,
    health: Arc<Health>,
    tasks: JoinSet<&'static str>,
    /// Ends what brings new work in.
    enrollment_ends: CancellationToken,
    /// Ends the rest, once nothing new comes in.
    rest_ends: CancellationToken,
}

/// Where everything listens: the content of `addresses.json`, as somebody on this machine reaches it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    pub(crate) gateway: Option<SocketAddr>,
    pub(crate) enrollment: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) admin: PathBuf,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFault {
    #[error("{0}")]
    Open(#[from] ca::OpenError),
    #[error("{} is writable by others (mode {mode:o}), who could replace the CA's keys; run chmod go-w on it, or choose another directory with --data", .directory.display())]
    OpenToOthers { directory: PathBuf, mode: u32 },
    #[error("{} cannot be used: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Listen(String),
    #[error("the admin socket {} cannot be made: {error}; its path may have at most 107 bytes, in a directory that the server may write to", .path.display())]
    AdminSocket { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Certificate(#[from] server_certificate::Fault),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the CA's certificate cannot be an anchor: {0}")]
    Anchor(#[from] identity::chain::AnchorError),
    #[error("the gateway {0}")]
    Gateway(#[from] gateway::StartFault),
    #[error("{0}")]
    Unavailable(#[from] ca::Unavailable),
    #[error("a part of the server failed while it started; its log says more")]
    Panicked,
}

/// What the parts share.
struct Common {
    authority: Arc<Authority>,
    decisions: Arc<Decisions>,
    metrics: Metrics,
    certificate: Arc<ServerCertificate>,
    anchors: Anchors,
    hints: Vec<DistinguishedName>,
}

impl Server {
    /// Opens, binds and starts everything that the configuration names. What fails leaves nothing listening.
    pub(crate) async fn start(
        config: Config,
        passphrase: Option<Zeroizing<String>>,
    ) -> Result<Self, StartFault> {
        private_directory(&config.data)?;
        let authority = Arc::new(open(&config, passphrase).await?);
        // The lock is ours: an older file was left by a process that was killed.
        remove_if_present(&config.data.join(ADDRESSES)).map_err(|error| StartFault::File {
            path: config.data.join(ADDRESSES),
            error,
        })?;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let renewal = Renewal::new(
            Arc::clone(&authority),
            gateway_name(),
            config.names.clone(),
            &config.data,
            metrics.clone(),
        );
        let (certificate, due) = renewal.start().await?;
        let device_ca = authority.device_ca().der();
        let common = Common {
            decisions: Arc::new(Decisions::new()),
            metrics: metrics.clone(),
            certificate: Arc::clone(&certificate),
            anchors: Anchors::new(std::slice::from_ref(device_ca))?,
            hints: subject_of(device_ca),
            authority: Arc::clone(&authority),
        };

        // Everything is bound before anything is served.
        let bound = match config.gateway {
            Some(gateway) => {
                Some(bind_gateway(gateway, &config.names, &common, &mut registry).await?)
            }
            None => None,
        };
        let bind = async |addresses: Option<Vec<SocketAddr>>, role| match addresses {
            Some(addresses) => http_server::bind(&addresses, role)
                .await
                .map_err(StartFault::Listen),
            None => Ok(Vec::new()),
        };
        let enrollment_listeners = bind(config.enrollment, "enrollment").await?;
        let health_listeners = bind(config.health, "health").await?;
        let socket = config.data.join(SOCKET);
        let admin_listener =
            AdminListener::bind(&socket).map_err(|error| StartFault::AdminSocket {
                path: socket.clone(),
                error,
            })?;
        let addresses = Addresses {
            gateway: bound.as_ref().and_then(|bound| {
                let address = bound.gateway.addresses().first();
                address.map(|address| http_server::reachable(*address))
            }),
            enrollment: first_address(&enrollment_listeners),
            health: first_address(&health_listeners),
            admin: socket,
        };

        let mut server = Self {
            builtin_upstream: bound.as_ref().and_then(|bound| bound.upstream_address()),
            data: config.data,
            gateway: None,
            health: Arc::new(Health::new(bound.is_some())),
            tasks: JoinSet::new(),
            enrollment_ends: CancellationToken::new(),
            rest_ends: CancellationToken::new(),
            addresses,
        };
        let (receipts, applied) = match bound {
            Some(bound) => server.start_gateway(bound, &common).await?,
            None => (Receipts::new([], 0), Applied::new(u64::MAX)),
        };
        server.start_control_plane(ControlPlane {
            receipts,
            applied,
            enrollment_listeners,
            health_listeners,
            admin_listener,
            enrollment_server: server
                .addresses
                .enrollment
                .map(|address| host_and_port(&config.names[0], address.port())),
            registry: Arc::new(registry),
            common,
        })?;
        let ends = server.rest_ends.clone();
        server.spawn("certificate renewal", async move {
            renewal.run(&certificate, due, ends).await;
        });
        server.announce()?;
        Ok(server)
    }

    /// Runs until `signals` says so, then drains. A second signal ends the draining.
    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<(), Ended> {
        let outcome = tokio::select! {
            () = signals.next() => {
                tracing::info!("ending; connections may finish, a second signal ends at once");
                Ok(())
            }
            ended = self.tasks.join_next() => Err(Ended::of(ended)),
        };
        tokio::select! {
            () = self.drain() => tracing::info!("ended"),
            () = signals.next() => tracing::warn!("ended at once; connections were cut"),
        }
        self.leave();
        outcome
    }

    /// First what brings new work in, then the gateway, and last what must outlive its last connection.
    async fn drain(&mut self) {
        self.health.draining();
        self.enrollment_ends.cancel();
        if let Some(gateway) = self.gateway.take() {
            gateway.stop(DRAIN_WITHIN).await;
        }
        self.rest_ends.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH_WITHIN, all).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
    }

    fn leave(&self) {
        for path in [self.data.join(ADDRESSES), self.addresses.admin.clone()] {
            if let Err(error) = remove_if_present(&path) {
                tracing::warn!(%error, path = %path.display(), "a file cannot be removed");
            }
        }
    }

    async fn start_gateway(
        &mut self,
        bound: BoundGateway,
        common: &Common,
    ) -> Result<(Receipts, Arc<Applied>), StartFault> {
        let gateway = Arc::new(bound.gateway.start()?);
        // Until its table is filled the gateway refuses everybody.
        let seq = feed::load(&common.authority, &gateway).await?;
        self.health.loaded(Arc::clone(&gateway));
        self.gateway = Some(gateway);
        if let Some(listener) = bound.builtin_upstream {
            let ends = self.rest_ends.clone();
            self.spawn("built-in upstream", upstream::run(listener, ends));
        }
        let (authority, ends) = (Arc::clone(&common.authority), self.rest_ends.clone());
        self.spawn(
            "sightings",
            feed::report_sightings(authority, bound.sightings, ends),
        );
        let (decisions, ends) = (Arc::clone(&common.decisions), self.rest_ends.clone());
        let alarm = alarm::Alarm::new(Arc::clone(&common.authority), common.metrics.clone());
        self.spawn(
            "records",
            keep_records(bound.records, decisions, alarm, ends),
        );
        Ok((Receipts::new([gateway_name()], seq), Applied::new(seq)))
    }

    fn start_control_plane(&mut self, parts: ControlPlane) -> Result<(), StartFault> {
        let ControlPlane {
            receipts,
            applied,
            enrollment_listeners,
            health_listeners,
            admin_listener,
            enrollment_server,
            registry,
            common,
        } = parts;
        let receipts = Arc::new(receipts);
        if let Some(gateway) = &self.gateway {
            let feed = Feed::new(
                Arc::clone(&common.authority),
                Arc::clone(gateway),
                Arc::clone(&receipts),
                Arc::clone(&applied),
                common.metrics.clone(),
            );
            let ends = self.rest_ends.clone();
            self.spawn("feed", async move { feed.run(ends).await });
        }
        let (authority, ends) = (Arc::clone(&common.authority), self.rest_ends.clone());
        self.spawn(
            "CRL",
            async move { authority.publish(ends.cancelled()).await },
        );
        let (health, authority) = (Arc::clone(&self.health), Arc::clone(&common.authority));
        let ends = self.rest_ends.clone();
        self.spawn("probe", async move { health.probe(&authority, ends).await });
        for listener in health_listeners {
            let (health, registry) = (Arc::clone(&self.health), Arc::clone(&registry));
            let ends = self.rest_ends.clone();
            self.spawn("health", health::run(listener, health, registry, ends));
        }
        let enrollment = Arc::new(Enrollment {
            acceptor: enrollment::acceptor(common.certificate, common.anchors, common.hints)?,
            authority: Arc::clone(&common.authority),
            decisions: Arc::clone(&common.decisions),
            applied: Arc::clone(&applied),
            metrics: common.metrics.clone(),
        });
        for listener in enrollment_listeners {
            let (enrollment, ends) = (Arc::clone(&enrollment), self.enrollment_ends.clone());
            self.spawn("enrollment", enrollment::run(listener, enrollment, ends));
        }
        let admin = Arc::new(Admin {
            authority: common.authority,
            receipts,
            applied,
            decisions: common.decisions,
            metrics: common.metrics,
            enrollment_server,
        });
        let ends = self.rest_ends.clone();
        self.spawn("admin socket", admin::run(admin_listener, admin, ends));
        Ok(())
    }

    /// Runs a part that is to end only when everything does.
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            name
        });
    }

    fn announce(&self) -> Result<(), StartFault> {
        let path = self.data.join(ADDRESSES);
        let text = serde_json::to_vec_pretty(&self.addresses)
            .expect("addresses and a path of text have a JSON form");
        files::write_atomically(&path, &text, 0o600)
            .map_err(|error| StartFault::File { path, error })
    }
}

/// A part ended that should not have.
#[derive(Debug, thiserror::Error)]
#[error("the part {part:?} of the server ended by itself; its log says more")]
pub(crate) struct Ended {
    part: &'static str,
}

impl Ended {
    fn of(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> Self {
        let part = match ended {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                tracing::error!(%error, "a part of the server failed");
                "unknown"
            }
            None => "all",
        };
        Self { part }
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on neither of the two ends the process by itself.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A gateway that is bound, and what comes out of it.
struct BoundGateway {
    gateway: gateway::Bound,
    records: mpsc::Receiver<Record>,
    sightings: mpsc::Receiver<identity::feed::Sighting>,
    builtin_upstream: Option<TcpListener>,
}

impl BoundGateway {
    fn upstream_address(&self) -> Option<SocketAddr> {
        self.builtin_upstream
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }
}

/// What the control plane is started with.
struct ControlPlane {
    receipts: Receipts,
    applied: Arc<Applied>,
    enrollment_listeners: Vec<TcpListener>,
    health_listeners: Vec<TcpListener>,
    admin_listener: AdminListener,
    enrollment_server: Option<String>,
    registry: Arc<Registry>,
    common: Common,
}

async fn bind_gateway(
    config: GatewayConfig,
    names: &[String],
    common: &Common,
    registry: &mut Registry,
) -> Result<BoundGateway, StartFault> {
    let mut routes = config.routes;
    let builtin_upstream = if routes.is_empty() {
        let (listener, route) = builtin_upstream().await?;
        routes.push(route);
        Some(listener)
    } else {
        None
    };
    let routes = RouteTable::new(routes).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        StartFault::Listen(faults.join("; "))
    })?;
    let acceptor = Acceptor::new(AcceptorOptions {
        certificate: Arc::clone(&common.certificate),
        anchors: common.anchors.clone(),
        hints: common.hints.clone(),
        clients: Clients::Required,
        kinds: &[Kind::Device],
        versions: Versions::Tls13,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        deadline: HANDSHAKE_WITHIN,
        max_handshakes: MAX_HANDSHAKES,
    })?;
    let workers = config
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (record_sender, records) = mpsc::channel(RECORDS_WAITING);
    let (sighting_sender, sightings) = mpsc::channel(SIGHTINGS_WAITING);
    let options = gateway::Options {
        name: gateway_name(),
        listen: config.listen,
        workers,
        acceptor: Arc::new(acceptor),
        serial_key: Arc::new(common.authority.serial_key()),
        snapshot: Snapshot {
            routes,
            server_names: names.to_vec(),
            without_sni: config.without_sni,
        },
        max_staleness: config.max_staleness,
        limits: Limits::default(),
        records: record_sender,
        sightings: sighting_sender,
    };
    let gateway = Gateway::bind(options, registry).map_err(|fault| match fault {
        gateway::StartFault::Bind { address, error } => {
            StartFault::Listen(http_server::cannot_listen("the gateway", address, &error))
        }
        gateway::StartFault::Random | gateway::StartFault::Worker(_) => fault.into(),
    })?;
    Ok(BoundGateway {
        gateway,
        records,
        sightings,
        builtin_upstream,
    })
}

async fn builtin_upstream() -> Result<(TcpListener, Route), StartFault> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let cannot = |error: io::Error| {
        StartFault::Listen(http_server::cannot_listen(
            "the built-in upstream",
            address,
            &error,
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let route = Route {
        host: None,
        path: "/".into(),
        upstreams: vec![
            format!("http://{address}")
                .parse()
                .expect("an address with a port is an upstream"),
        ],
        identity: vec![IdentityHeader::DeviceId, IdentityHeader::ClientCert],
    };
    Ok((listener, route))
}

async fn open(
    config: &Config,
    passphrase: Option<Zeroizing<String>>,
) -> Result<Authority, StartFault> {
    let options = ca::Options {
        directory: config.data.join("ca"),
        trust_domain: config.trust_domain.clone(),
        passphrase,
        device_certificate_life: config.device_certificate_life,
    };
    // It reads the whole journal.
    let opened = tokio::task::spawn_blocking(move || Authority::open(options)).await;
    Ok(opened.map_err(|_| StartFault::Panicked)??)
}

/// Remembers what the gateway decided, until the gateway has gone or `shutdown` and nothing is left.
async fn keep_records(
    mut records: mpsc::Receiver<Record>,
    decisions: Arc<Decisions>,
    mut alarm: alarm::Alarm,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::with_capacity(RECORDS_AT_ONCE);
    loop {
        tokio::select! {
            0 = records.recv_many(&mut batch, RECORDS_AT_ONCE) => return,
            () = shutdown.cancelled(), if !records.is_closed() => records.close(),
            else => {}
        }
        for record in batch.drain(..) {
            alarm.look_at(&record).await;
            decisions.gateway(record);
        }
    }
}

/// Makes the data directory for its owner alone; one that is there must not be writable by others.
fn private_directory(directory: &Path) -> Result<(), StartFault> {
    let fault = |error| StartFault::File {
        path: directory.to_owned(),
        error,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(fault)?;
    let mode = fs::metadata(directory).map_err(fault)?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StartFault::OpenToOthers {
            directory: directory.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn first_address(listeners: &[TcpListener]) -> Option<SocketAddr> {
    let address = listeners.first()?.local_addr().ok()?;
    Some(http_server::reachable(address))
}

/// What devices are told to choose their certificate by: the issuer's name.
fn subject_of(ca: &CertificateDer<'_>) -> Vec<DistinguishedName> {
    match x509_parser::parse_x509_certificate(ca) {
        Ok((_, x509)) => vec![DistinguishedName::from(x509.subject().as_raw().to_vec())],
        Err(_) => Vec::new(),
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The one gateway of this version.
fn gateway_name() -> Name {
    Name::parse("gateway-1").expect("the name is legal")
}

/// The file in the data directory that says where everything listens.
const ADDRESSES: &str = "addresses.json";

const DRAIN_WITHIN: Duration = Duration::from_secs(30);
const FLUSH_WITHIN: Duration = Duration::from_secs(6);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const MAX_HANDSHAKES: usize = 512;
const RECORDS_WAITING: usize = 16_384;
const RECORDS_AT_ONCE: usize = 256;
const SIGHTINGS_WAITING: usize = 65_536;
