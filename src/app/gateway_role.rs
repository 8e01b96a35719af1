//! The gateway's role: from its configuration to a bound gateway, and what comes out of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::tls::{Acceptor, AcceptorOptions, Clients, Policy, Versions};
use gateway::{
    Exchange, ForeignAnchors, Gateway, IdentityHeader, Limits, Record, Route, RoutePolicy,
    RouteTable, Sample, Snapshot, TcpRouteTable, Telemetry, Upstream,
};
use identity::chain::Anchors;
use identity::feed::Sighting;
use identity::{Kind, Name};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Common, StartFault, Trust, descriptors, subject_of};
use crate::access_log::{self, AccessLog};
use crate::alarm::Alarm;
use crate::config::{Collector, Config, GatewayConfig};
use crate::decisions::Decisions;
use crate::otlp::Spans;
use crate::service_manager::Inherited;
use crate::{foreign, http_server};

/// A gateway that is bound, and what comes out of it.
pub(super) struct BoundGateway {
    pub(super) gateway: gateway::Bound,
    pub(super) records: mpsc::Receiver<Arc<Record>>,
    pub(super) exchanges: mpsc::Receiver<Exchange>,
    pub(super) sightings: mpsc::Receiver<Sighting>,
    /// Serves the only route, if no other was configured.
    pub(super) builtin_upstream: Option<(TcpListener, Route)>,
    pub(super) acceptor: Arc<Acceptor>,
}

impl BoundGateway {
    /// Where the built-in upstream listens.
    pub(super) fn upstream_address(&self) -> Option<SocketAddr> {
        self.builtin_upstream
            .as_ref()
            .and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The route to the built-in upstream.
    pub(super) fn builtin_route(&self) -> Option<Route> {
        let builtin = self.builtin_upstream.as_ref();
        builtin.map(|(_, route)| route.clone())
    }
}

/// Binds the gateway; it serves nobody yet.
pub(super) async fn bind_gateway(
    config: &Config,
    gateway: &GatewayConfig,
    common: &Common,
    registry: &mut Registry,
    inherited: &mut Inherited,
) -> Result<BoundGateway, StartFault> {
    let builtin_upstream = if gateway.routes.is_empty() {
        let (listener, mut route) = builtin_upstream().await?;
        route.policy.rate = gateway.rate;
        Some((listener, route))
    } else {
        None
    };
    let builtin_route = builtin_upstream.as_ref().map(|(_, route)| route);
    let snapshot = snapshot(config, gateway, builtin_route).map_err(StartFault::Listen)?;
    let foreign = foreign::gateway_anchors(&gateway.anchors, &common.trust.domain)
        .map_err(StartFault::Foreign)?;
    let acceptor = Arc::new(Acceptor::new(AcceptorOptions {
        policy: policy(gateway, &snapshot, &foreign, &common.trust),
        kinds: &[Kind::Device],
        versions: Versions::Tls13,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        deadline: HANDSHAKE_WITHIN,
        max_handshakes: MAX_HANDSHAKES,
    })?);
    let opened = open_access_log(gateway)
        .await
        .map_err(StartFault::AccessLog)?;
    let workers = gateway
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (record_sender, records) = mpsc::channel(RECORDS_WAITING);
    let (exchange_sender, exchanges) = mpsc::channel(RECORDS_WAITING);
    let (sighting_sender, sightings) = mpsc::channel(SIGHTINGS_WAITING);
    let (inherited, listen) = inherited.claim("gateway", &gateway.listen);
    let options = gateway::Options {
        name: gateway_name(),
        listen,
        inherited,
        workers,
        acceptor: Arc::clone(&acceptor),
        serial_key: Arc::new(common.authority.serial_key()),
        assertions: Arc::clone(&common.assertions),
        snapshot,
        foreign,
        max_staleness: gateway.max_staleness,
        limits: limits(
            gateway,
            Limits {
                max_connections: descriptors::connections_per_worker(
                    descriptors::raise_limit(),
                    workers,
                ),
                ..Limits::default()
            },
        ),
        proxies: gateway.proxies.clone(),
        records: record_sender,
        telemetry: telemetry(config, gateway),
        exchanges: exchange_sender,
        sightings: sighting_sender,
    };
    let gateway = Gateway::bind(options, registry).map_err(|fault| match fault {
        gateway::StartFault::Bind { address, error } => {
            StartFault::Listen(http_server::cannot_listen("the gateway", address, &error))
        }
        gateway::StartFault::Inherited(_)
        | gateway::StartFault::Random
        | gateway::StartFault::Worker(_) => fault.into(),
    })?;
    common.access_log.publish(opened);
    common
        .spans
        .publish(collector(config).map(|(collector, _)| collector));
    Ok(BoundGateway {
        gateway,
        records,
        exchanges,
        sightings,
        builtin_upstream,
        acceptor,
    })
}

/// Opens the access log, if there is to be one. A file system that hangs is not waited for.
pub(super) async fn open_access_log(
    gateway: &GatewayConfig,
) -> Result<Option<access_log::Opened>, String> {
    let Some(settings) = gateway.access_log.clone() else {
        return Ok(None);
    };
    let told = settings.to_string();
    let opening = tokio::task::spawn_blocking(move || access_log::open(&settings));
    let opened = match tokio::time::timeout(OPEN_WITHIN, opening).await {
        Ok(opened) => opened.map_err(io::Error::other).flatten(),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    opened
        .map(Some)
        .map_err(|error| format!("the access log cannot be opened ({told}): {error}"))
}

/// What is told of requests.
pub(super) fn telemetry(config: &Config, gateway: &GatewayConfig) -> Telemetry {
    Telemetry {
        exchanges: gateway.access_log.is_some(),
        trace: config.telemetry.trace,
        sample: collector(config).map(|(_, sample)| sample),
    }
}

/// Where spans are sent, and how many.
pub(super) fn collector(config: &Config) -> Option<(Collector, Sample)> {
    config.telemetry.export.clone()
}

/// Whom the gateway believes, and what it shows.
pub(super) fn policy(
    gateway: &GatewayConfig,
    snapshot: &Snapshot,
    foreign: &ForeignAnchors,
    trust: &Trust,
) -> Policy {
    let files = gateway.certificates.iter();
    let others = files.map(|files| (files.read.names.as_slice(), &files.read.certified));
    Policy {
        certificate: Arc::new(trust.certificate.beside(others)),
        anchors: trust.anchors.clone(),
        // There are none where there is no certificate.
        foreign: Anchors::new(foreign.certificates()).ok(),
        hints: (trust.hints.iter().cloned())
            .chain(foreign.certificates().iter().flat_map(subject_of))
            .collect(),
        clients: Clients::Required,
        clients_by_name: snapshot.clients_by_name(),
        alpn_by_name: (gateway.tcp_routes.iter())
            .map(|route| {
                let alpn = route.alpn.iter().map(|name| name.as_bytes().to_vec());
                (route.host.clone(), alpn.collect())
            })
            .collect(),
    }
}

/// The bounds that the configuration sets, and the others as they are.
pub(super) fn limits(gateway: &GatewayConfig, others: Limits) -> Limits {
    Limits {
        max_connections_per_device: gateway.limits.connections_per_device,
        max_connections_per_address: gateway.limits.connections_per_address,
        max_requests_per_device: gateway.limits.requests_per_device,
        max_requests_per_address: gateway.limits.requests_per_address,
        ..others
    }
}

/// Routes and names for the gateway, with the route to the built-in upstream where there is no other.
pub(super) fn snapshot(
    config: &Config,
    gateway: &GatewayConfig,
    builtin: Option<&Route>,
) -> Result<Snapshot, String> {
    let mut routes = gateway.routes.clone();
    if routes.is_empty() {
        routes.extend(builtin.cloned());
    }
    let routes = RouteTable::new(routes).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        faults.join("; ")
    })?;
    let tcp_routes = TcpRouteTable::new(gateway.tcp_routes.clone()).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        faults.join("; ")
    })?;
    Ok(Snapshot {
        routes,
        tcp_routes,
        server_names: config.server_names(),
        without_sni: gateway.without_sni.clone(),
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
        upstream: Upstream::of(vec![
            format!("http://{address}")
                .parse()
                .expect("an address with a port is an upstream"),
        ]),
        identity: vec![IdentityHeader::DeviceId],
        policy: RoutePolicy::default(),
    };
    Ok((listener, route))
}

/// Remembers what the gateway decided, until the gateway has gone or `shutdown` and nothing is left.
pub(super) async fn keep_records(
    mut records: mpsc::Receiver<Arc<Record>>,
    decisions: Arc<Decisions>,
    mut alarm: Alarm,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::with_capacity(RECORDS_AT_ONCE);
    loop {
        tokio::select! {
            received = records.recv_many(&mut batch, RECORDS_AT_ONCE) => {
                if received == 0 {
                    return;
                }
            }
            () = shutdown.cancelled(), if !records.is_closed() => records.close(),
        }
        let is_calm = batch.len() < RECORDS_AT_ONCE && !records.is_closed();
        for record in batch.drain(..) {
            alarm.look_at(&record).await;
            decisions.gateway(record);
        }
        if is_calm {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Hands on what has ended, until the gateway has gone or `shutdown` and nothing is left.
pub(super) async fn pass_on(
    mut exchanges: mpsc::Receiver<Exchange>,
    access_log: Arc<AccessLog>,
    spans: Arc<Spans>,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::with_capacity(RECORDS_AT_ONCE);
    loop {
        tokio::select! {
            received = exchanges.recv_many(&mut batch, RECORDS_AT_ONCE) => {
                if received == 0 {
                    break;
                }
            }
            () = shutdown.cancelled(), if !exchanges.is_closed() => exchanges.close(),
        }
        let is_calm = batch.len() < RECORDS_AT_ONCE && !exchanges.is_closed();
        for exchange in batch.drain(..) {
            spans.put(&exchange);
            access_log.put(exchange);
        }
        if is_calm {
            tokio::time::sleep(PAUSE).await;
        }
    }
    // Whatever comes of it, the process ends.
    let _ = tokio::task::spawn_blocking(move || access_log.flush()).await;
}

/// The one gateway of this version.
pub(super) fn gateway_name() -> Name {
    Name::parse("gateway-1").expect("the name is legal")
}

const OPEN_WITHIN: Duration = Duration::from_secs(10);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Devices in a mobile network need half a second for one.
const MAX_HANDSHAKES: usize = 2048;
const RECORDS_WAITING: usize = 16_384;
const RECORDS_AT_ONCE: usize = 256;
/// Between two looks at what the workers left, so that not every request wakes another thread.
const PAUSE: Duration = Duration::from_millis(5);
const SIGHTINGS_WAITING: usize = 65_536;
